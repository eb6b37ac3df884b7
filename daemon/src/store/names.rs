//! Keyspaces: (model name, cache salt) -> a number that keys carry.
//!
//! Called by the store on the loop's thread. Names and salts stay in this private memory: the control segment,
//! which every session maps, holds only numbers. A number comes from a counter and is never reused within an
//! instance, so a stale one can never name another tenant's objects.
//!
//! A record lives while an entry or a session refers to it. When nobody has a keyspace open and a writer opens it
//! with another layout, the name gets a *new* number; the old record is detached, its objects can no longer be
//! found, and the store removes them in slices.

use super::Refusal;
use super::numbers::NumberMap;
use crate::tiers::TierSpace;
use hostkv_shm_protocol::id::KeyspaceId;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::wire::request::{Resolve, resolve_flags};
use std::collections::HashMap;

/// Most keyspaces that one session may have open.
pub const MAX_KEYSPACES_PER_SESSION: u32 = 16_384;

/// One keyspace.
#[derive(Debug)]
struct Keyspace {
    /// `None` when another layout took the name over.
    name: Option<(String, String)>,
    tokens_per_key: u32,
    layout_fingerprint: u64,
    /// Entries that bear the number, readable or not.
    entry_count: u64,
    /// Bytes of their extents, rounded up to the alignment.
    used_bytes: u64,
    /// Sessions that have it open.
    session_count: u32,
    /// What the names of its objects in the tiers have in common, once it was asked for.
    tier_space: Option<TierSpace>,
}

/// What a resolve gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolved {
    /// The keyspace's number.
    pub keyspace: KeyspaceId,
    /// Tokens that one of its keys stands for.
    pub tokens_per_key: u32,
    /// Its layout fingerprint.
    pub layout_fingerprint: u64,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// Whether the session may write, i.e. take a keyspace over.
    pub can_write: bool,
    /// Keyspaces that the session has open already.
    pub open_count: u32,
}

/// All keyspaces.
#[derive(Debug, Default)]
pub struct Names {
    by_name: HashMap<(String, String), KeyspaceId>,
    by_id: NumberMap<KeyspaceId, Keyspace>,
    last_id: u32,
}

/// Result of [`Names::open`].
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// The keyspace.
    pub resolved: Resolved,
    /// A keyspace whose objects must now be removed, because another layout took its name.
    pub replaced: Option<KeyspaceId>,
}

impl Names {
    /// Opens a keyspace for a session that `has_open` told not to have it open; `has_open` is asked with its number.
    pub fn open(
        &mut self,
        request: &Resolve,
        chunk_size: u32,
        max_keyspaces: u32,
        asker: Asker,
        has_open: impl Fn(KeyspaceId) -> bool,
    ) -> Result<Opened, Refusal> {
        let name = (request.model_name.clone(), request.cache_salt.clone());
        let tokens_per_key = match request.tokens_per_key {
            0 => chunk_size,
            n => n,
        };
        let as_it_stands = request.flags & resolve_flags::AS_IT_STANDS != 0;
        let mut replaced = None;
        if let Some(id) = self.by_name.get(&name).copied()
            && let Some(known) = self.by_id.get_mut(&id)
        {
            let agrees = as_it_stands
                || (known.tokens_per_key == tokens_per_key
                    && known.layout_fingerprint == request.layout_fingerprint);
            if agrees {
                if !has_open(id) {
                    session_quota(asker)?;
                    known.session_count += 1;
                }
                return Ok(Opened {
                    resolved: Resolved {
                        keyspace: id,
                        tokens_per_key: known.tokens_per_key,
                        layout_fingerprint: known.layout_fingerprint,
                    },
                    replaced: None,
                });
            }
            if known.session_count > 0 || !asker.can_write {
                return Err(Refusal {
                    status: Status::LayoutMismatch,
                    text: layout_mismatch(&name.0, known, tokens_per_key, request),
                });
            }
            session_quota(asker)?;
            known.name = None;
            replaced = Some(id);
        }
        if replaced.is_none() {
            session_quota(asker)?;
            if self.by_name.len() >= max_keyspaces as usize {
                return Err(Refusal {
                    status: Status::Quota,
                    text: format!(
                        "the daemon has {} keyspaces, as many as --max-keyspaces allows; \
                         use fewer cache salts or raise it",
                        self.by_name.len()
                    ),
                });
            }
        }
        let Some(next) = self.last_id.checked_add(1) else {
            return Err(Refusal {
                status: Status::Quota,
                text: "all keyspace numbers of this daemon are used up; restart it".to_owned(),
            });
        };
        self.last_id = next;
        let id = KeyspaceId(next);
        let layout_fingerprint = match as_it_stands {
            true => 0,
            false => request.layout_fingerprint,
        };
        self.by_name.insert(name.clone(), id);
        self.by_id.insert(
            id,
            Keyspace {
                name: Some(name),
                tokens_per_key,
                layout_fingerprint,
                entry_count: 0,
                used_bytes: 0,
                session_count: 1,
                tier_space: None,
            },
        );
        if let Some(old) = replaced {
            self.drop_if_unused(old);
        }
        Ok(Opened {
            resolved: Resolved {
                keyspace: id,
                tokens_per_key,
                layout_fingerprint,
            },
            replaced: replaced.filter(|old| self.by_id.contains_key(old)),
        })
    }

    /// A session that had the keyspace open has ended.
    pub fn close(&mut self, id: KeyspaceId) {
        if let Some(keyspace) = self.by_id.get_mut(&id) {
            keyspace.session_count -= 1;
            self.drop_if_unused(id);
        }
    }

    /// An entry with an extent of this size bears the number now.
    pub fn entry_added(&mut self, id: KeyspaceId, extent_bytes: u64) {
        self.entries_added(id, 1, extent_bytes);
    }

    /// So many entries, whose extents have this size together, bear the number now.
    pub fn entries_added(&mut self, id: KeyspaceId, count: u64, extent_bytes: u64) {
        if let Some(keyspace) = self.by_id.get_mut(&id) {
            keyspace.entry_count += count;
            keyspace.used_bytes += extent_bytes;
        }
    }

    /// An entry that bears the number has given its extent back.
    pub fn extent_freed(&mut self, id: KeyspaceId, extent_bytes: u64) {
        if let Some(keyspace) = self.by_id.get_mut(&id) {
            keyspace.used_bytes -= extent_bytes;
        }
    }

    /// Bytes of all extents of the keyspace: of objects, reservations, zombies and quarantine.
    pub fn used_bytes(&self, id: KeyspaceId) -> u64 {
        self.by_id.get(&id).map_or(0, |k| k.used_bytes)
    }

    /// Every keyspace and what it uses, for the audit.
    pub fn usage(&self) -> impl Iterator<Item = (KeyspaceId, u64)> {
        self.by_id.iter().map(|(id, k)| (*id, k.used_bytes))
    }

    /// An entry that bore the number is free, and this much of its extent with it.
    pub fn entry_gone(&mut self, id: KeyspaceId, extent_bytes: u64) {
        if let Some(keyspace) = self.by_id.get_mut(&id) {
            keyspace.entry_count -= 1;
            keyspace.used_bytes -= extent_bytes;
            if keyspace.entry_count == 0 {
                self.drop_if_unused(id);
            }
        }
    }

    /// Tokens that one key of the keyspace stands for.
    pub fn tokens_per_key(&self, id: KeyspaceId) -> u32 {
        self.by_id.get(&id).map_or(0, |k| k.tokens_per_key)
    }

    /// Model name and cache salt of the keyspace; none when another layout took its name.
    pub fn name(&self, id: KeyspaceId) -> Option<(&str, &str)> {
        let (model_name, cache_salt) = self.by_id.get(&id)?.name.as_ref()?;
        Some((model_name, cache_salt))
    }

    /// What the names of the keyspace's objects in the tiers have in common; none when another layout took its name.
    pub fn tier_space(&mut self, id: KeyspaceId) -> Option<TierSpace> {
        let keyspace = self.by_id.get_mut(&id)?;
        let (model_name, cache_salt) = keyspace.name.as_ref()?;
        let space = keyspace.tier_space.get_or_insert_with(|| {
            TierSpace::new(
                model_name,
                cache_salt,
                keyspace.layout_fingerprint,
                keyspace.tokens_per_key,
            )
        });
        Some(*space)
    }

    /// Number of keyspaces that have a name.
    pub fn count(&self) -> usize {
        self.by_name.len()
    }

    fn drop_if_unused(&mut self, id: KeyspaceId) {
        let Some(keyspace) = self.by_id.get(&id) else {
            return;
        };
        if keyspace.entry_count == 0 && keyspace.session_count == 0 {
            if let Some(name) = &keyspace.name {
                self.by_name.remove(name);
            }
            self.by_id.remove(&id);
        }
    }
}

fn session_quota(asker: Asker) -> Result<(), Refusal> {
    if asker.open_count < MAX_KEYSPACES_PER_SESSION {
        return Ok(());
    }
    Err(Refusal {
        status: Status::Quota,
        text: format!(
            "this session has {} keyspaces open, and at most {MAX_KEYSPACES_PER_SESSION} are allowed; \
             close it and open another",
            asker.open_count
        ),
    })
}

fn layout_mismatch(model: &str, known: &Keyspace, tokens_per_key: u32, asked: &Resolve) -> String {
    let why = match known.session_count {
        0 => "a read-only session can't replace it; let a writer open it first",
        _ => "other sessions have it open; close them first or use another model name",
    };
    format!(
        "keyspace {model:?} has layout fingerprint {:#x} and {} tokens per key, and {:#x} and {tokens_per_key} \
         were asked; {why}",
        known.layout_fingerprint, known.tokens_per_key, asked.layout_fingerprint
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(model: &str, fingerprint: u64) -> Resolve {
        Resolve {
            flags: 0,
            tokens_per_key: 0,
            layout_fingerprint: fingerprint,
            model_name: model.to_owned(),
            cache_salt: String::new(),
        }
    }

    const WRITER: Asker = Asker {
        can_write: true,
        open_count: 0,
    };

    fn open(names: &mut Names, request: &Resolve, asker: Asker) -> Result<Opened, Refusal> {
        names.open(request, 256, 2, asker, |_| false)
    }

    #[test]
    fn another_layout_is_refused_while_the_keyspace_is_open_and_takes_over_afterwards() {
        let mut names = Names::default();
        let first = open(&mut names, &ask("m", 1), WRITER).unwrap().resolved;
        names.entry_added(first.keyspace, 4096);
        let refused = open(&mut names, &ask("m", 2), WRITER).unwrap_err();
        assert_eq!(refused.status, Status::LayoutMismatch);
        assert!(refused.text.contains("0x1") && refused.text.contains("0x2"));
        names.close(first.keyspace);
        let reader = Asker {
            can_write: false,
            ..WRITER
        };
        let refused = open(&mut names, &ask("m", 2), reader).unwrap_err();
        assert_eq!(refused.status, Status::LayoutMismatch);
        let second = open(&mut names, &ask("m", 2), WRITER).unwrap();
        assert_eq!(second.replaced, Some(first.keyspace));
        assert_ne!(second.resolved.keyspace, first.keyspace);
        names.extent_freed(first.keyspace, 4096);
        names.entry_gone(first.keyspace, 0);
        assert_eq!(names.by_id.len(), 1);
    }

    #[test]
    fn a_keyspace_without_entries_and_sessions_is_forgotten_and_its_number_not_reused() {
        let mut names = Names::default();
        let a = open(&mut names, &ask("a", 1), WRITER).unwrap().resolved;
        names.close(a.keyspace);
        assert_eq!(names.count(), 0);
        let again = open(&mut names, &ask("a", 1), WRITER).unwrap().resolved;
        assert_ne!(a.keyspace, again.keyspace);
    }

    #[test]
    fn both_keyspace_limits_are_told_apart() {
        let mut names = Names::default();
        open(&mut names, &ask("a", 1), WRITER).unwrap();
        open(&mut names, &ask("b", 1), WRITER).unwrap();
        let full = open(&mut names, &ask("c", 1), WRITER).unwrap_err();
        assert!(full.text.contains("--max-keyspaces"), "{}", full.text);
        let greedy = Asker {
            open_count: MAX_KEYSPACES_PER_SESSION,
            ..WRITER
        };
        let full = open(&mut names, &ask("a", 1), greedy).unwrap_err();
        assert!(full.text.contains("16384"), "{}", full.text);
    }
}
