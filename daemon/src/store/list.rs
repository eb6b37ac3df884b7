//! Lists objects for operators, page by page.
//!
//! A walk goes through the entries by number. An object keeps its entry for as long as it is there, so one that is
//! there during the whole walk is met exactly once, whatever comes and goes beside it. `request/list.rs` calls this on
//! the loop's thread; a page ends when a slice's effort is spent.

use super::entries::EntryState;
use super::slice::Effort;
use super::{Nanos, SECOND, Store};
use hostkv_shm_protocol::id::EntryNumber;
use hostkv_shm_protocol::wire::report::ListedObject;

/// Which objects are meant; a field that is `None` does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListFilter<'a> {
    /// Name of the model.
    pub model_name: Option<&'a str>,
    /// Salt of the tenant.
    pub cache_salt: Option<&'a str>,
}

impl ListFilter<'_> {
    fn matches(&self, model_name: &str, cache_salt: &str) -> bool {
        self.model_name.is_none_or(|wanted| wanted == model_name)
            && self.cache_salt.is_none_or(|wanted| wanted == cache_salt)
    }
}

impl Store {
    /// At most `limit` readable objects from entry `cursor` on, and the entry at which the next page begins; none when
    /// there is no further entry. A keyspace whose name another layout took is left out: its objects can't be found.
    pub fn list(
        &self,
        filter: &ListFilter<'_>,
        cursor: u64,
        limit: usize,
        now: Nanos,
    ) -> (Vec<ListedObject>, Option<u64>) {
        let end = self.entries.entry_count();
        let mut next = u32::try_from(cursor).map_or(end, |first| first.min(end));
        let mut effort = Effort::new(self.config.slice_ns);
        let mut objects = Vec::new();
        while next < end && objects.len() < limit && !effort.is_spent() {
            let entry = EntryNumber(next);
            next += 1;
            effort.spend(Effort::ENTRY);
            if self.entries.state(entry) != EntryState::Committed {
                continue;
            }
            effort.spend(Effort::KEY);
            if let Some(object) = self.listed(entry, filter, now) {
                effort.spend(Effort::LISTED);
                objects.push(object);
            }
        }
        (objects, (next < end).then_some(u64::from(next)))
    }

    fn listed(
        &self,
        entry: EntryNumber,
        filter: &ListFilter<'_>,
        now: Nanos,
    ) -> Option<ListedObject> {
        let key = self.key_of(entry)?;
        let (model_name, cache_salt) = self.names.name(key.keyspace())?;
        if !filter.matches(model_name, cache_salt) {
            return None;
        }
        let (chunk_hash, len) = key.chunk_hash();
        let chunk_hash = chunk_hash.iter().take(len as usize);
        Some(ListedObject {
            model_name: model_name.to_owned(),
            kv_rank: key.kv_rank(),
            object_group_id: key.object_group_id(),
            chunk_hash: chunk_hash.map(|byte| format!("{byte:02x}")).collect(),
            keyspace: key.keyspace().0,
            is_salted: !cache_salt.is_empty(),
            len_bytes: u64::from(self.index.extent(entry).len_bytes),
            age_seconds: (now / SECOND).saturating_sub(u64::from(self.entries.committed_s(entry))),
            is_pinned: self.marks.contains(entry),
        })
    }
}
