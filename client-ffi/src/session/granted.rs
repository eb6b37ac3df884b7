//! Reserve and flush of a session opened with ASYNC_COMMIT.
//!
//! ```text
//!   reserve --which keys are there?--> EXISTS
//!              \--the others: an extent each out of the grants--> granted reservation
//!                    | too few: one GRANT, or the socket's RESERVE for the whole call
//! ```

use super::Session;
use super::inner::Inner;
use super::reserving::Granted;
use crate::error::{Error, Result};
use crate::grants::{Grants, Lack};
use crate::reservation::{Item, granted_outside};
use hostkv_shm_protocol::id::{EntryNumber, KeyspaceId};
use hostkv_shm_protocol::status::{Reason, Status};
use hostkv_shm_protocol::sync::{Ordering, fence};
use hostkv_shm_protocol::wire::reply::{Reply, ReservedItem};
use hostkv_shm_protocol::wire::request::{Request as WireRequest, Reserve};

impl Session {
    /// Waits until every commit of this session made before the call is readable. At once in a session without
    /// [`ASYNC_COMMIT`](super::ASYNC_COMMIT), where commit itself has waited.
    ///
    /// NO_SPACE: an object committed since the last flush found no place in the index, and is not stored.
    pub fn flush(&self) -> Result<()> {
        let _hold = self.inner.enter()?;
        let Some(grants) = &self.inner.grants else {
            return Ok(());
        };
        self.inner.refuse_without_daemon()?;
        self.inner.give_back_surplus(grants);
        let position = grants.position();
        match self.inner.call(&WireRequest::Flush { position })? {
            Reply::Flushed => {}
            _ => return Err(self.inner.strange_reply("FLUSH")),
        }
        match grants.take_lost() {
            None => Ok(()),
            Some(Status::NoSpace) => Err(Error::new(
                Status::NoSpace,
                "an object committed since the last flush got no index entry (bucket_full) and is not stored; start hostkvd \
                 with a larger --max-objects",
            )),
            Some(status) => Err(Error::internal(format!(
                "the daemon answered {status} to a commit since the last flush; report this defect of hostkvd"
            ))),
        }
    }
}

impl Inner {
    /// Answers a reserve from the session's grants; gives it back when the socket must answer it. Only where it may wait does it
    /// ask for more of them.
    pub(crate) fn reserve_from_grants(
        &self,
        keyspace: KeyspaceId,
        reserve: Reserve,
        may_wait: bool,
    ) -> Result<core::result::Result<Granted, Reserve>> {
        let Some(grants) = &self.grants else {
            return Ok(Err(reserve));
        };
        self.refuse_without_daemon()?;
        self.give_back_surplus(grants);
        let mut existing = 0;
        let mut items: Vec<Item> = reserve
            .items
            .iter()
            .map(|wanted| {
                let is_there = self.read.is_readable(&wanted.key);
                existing += u32::from(is_there);
                Item {
                    key: wanted.key,
                    len_bytes: wanted.len_bytes,
                    outcome: ReservedItem {
                        status: match is_there {
                            true => Status::Exists,
                            false => Status::Ok,
                        },
                        reason: Reason::None,
                        entry: EntryNumber(0),
                        offset_units: 0,
                        staging_units: 0,
                        generation: 0,
                    },
                }
            })
            .collect();
        if !self.take_grants(grants, &mut items, may_wait)? {
            return Ok(Err(reserve));
        }
        // Release: what earlier readers of these extents did (it came with the grants) comes before this writer's stores.
        fence(Ordering::Release);
        if items.iter().any(|item| item.is_outside(self)) {
            return Err(granted_outside());
        }
        grants.count_reserve(items.len() as u32 - existing, existing);
        let events = &self.read.events;
        let told = events.begin_store(keyspace, &reserve.request_id, &reserve.device);
        Ok(Ok(Granted {
            items,
            request_id: reserve.request_id,
            device: reserve.device,
            is_of_grants: true,
            told,
        }))
    }

    /// Fills in the extents of the items that are not there, with at most one GRANT; false when the socket must.
    fn take_grants(&self, grants: &Grants, items: &mut [Item], may_wait: bool) -> Result<bool> {
        let tick = self.read.heartbeat_tick();
        for is_last in [false, true] {
            let mut extents = Vec::new();
            let lengths = items
                .iter()
                .filter(|item| item.outcome.status == Status::Ok)
                .map(|item| item.len_bytes);
            match grants.take(lengths, tick, |extent| extents.push(extent)) {
                Ok(()) => {
                    let new = items
                        .iter_mut()
                        .filter(|item| item.outcome.status == Status::Ok);
                    for (item, extent) in new.zip(extents) {
                        item.outcome.entry = extent.entry;
                        item.outcome.offset_units = extent.offset_units;
                        item.outcome.generation = extent.generation;
                    }
                    return Ok(true);
                }
                Err(Lack::Extents(grant)) if may_wait && !is_last => {
                    for request in grants.surplus(Some(&grant)) {
                        self.give_back_later(request);
                    }
                    match self.call(&WireRequest::Grant(grant))? {
                        Reply::Granted(extents) => grants.take_in(&grant, &extents),
                        _ => return Err(self.strange_reply("GRANT")),
                    }
                }
                Err(_) => {
                    if is_last {
                        grants.pause(tick);
                    }
                    return Ok(false);
                }
            }
        }
        Ok(false)
    }

    /// Follows a recall of grants.
    fn give_back_surplus(&self, grants: &Grants) {
        for request in grants.surplus(None) {
            self.give_back_later(request);
        }
    }
}
