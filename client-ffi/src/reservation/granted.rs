//! The end of a reservation whose extents were granted ahead of need.
//!
//! ```text
//!   commit ------------> records in the commit ring, the last first --full--> COMMIT_GRANTED on the socket
//!   commit_and_acquire --> COMMIT_GRANTED
//!   abort, drop --------> the extents are free for the next reserve of this session
//! ```

use super::answers::Failure;
use super::{Item, Reservation};
use crate::error::{Error, Result};
use crate::grants::Grants;
use crate::session::inner::Inner;
use crate::session::reserving::Granted;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::sync::payload_store_fence;
use hostkv_shm_protocol::wire::reply::{CommittedItem, GrantedExtent, Reply};
use hostkv_shm_protocol::wire::request::{GrantedItem, Request};

impl Item {
    fn granted(&self) -> (GrantedExtent, u32) {
        let outcome = &self.outcome;
        let extent = GrantedExtent {
            entry: outcome.entry,
            offset_units: outcome.offset_units,
            generation: outcome.generation,
        };
        (extent, self.len_bytes)
    }
}

/// Gives the session's grants back what they gave for a reservation that there is not to be.
pub(super) fn put_back_unused(session: &Inner, granted: Granted) {
    if let Some(grants) = &session.grants {
        let items = granted.items.iter().filter(|item| item.is_granted());
        grants.put_back(items.map(Item::granted));
    }
    if let Some(told) = &granted.told {
        let events = &session.read.events;
        events.end_store(told, 0, granted.items.len());
    }
}

impl Reservation {
    fn granted_items(&self) -> impl DoubleEndedIterator<Item = &Item> + Clone {
        self.items.iter().filter(|item| item.is_granted())
    }

    /// Hands what was granted over to the daemon without waiting for it; by the socket when the ring is full.
    ///
    /// A function of its own in the machine code too, where a test looks for the fence before the records.
    #[inline(never)]
    pub(super) fn push_commit(&self, grants: &Grants) -> core::result::Result<(), Failure> {
        // The caller may have streamed into the spans with copies of its own.
        payload_store_fence();
        if self.granted_items().next().is_none() {
            return Ok(());
        }
        let records = self.granted_items().map(|item| {
            let (extent, len_bytes) = item.granted();
            (extent, len_bytes, &item.key)
        });
        if !grants.push(records) {
            return self.send_granted(grants).map(drop);
        }
        if grants.must_ring() {
            self.session.ring_doorbell().map_err(Failure::Told)?;
        }
        Ok(())
    }

    /// Commits what was granted by the socket and looks at every answer; an extent whose key is not stored under it is free
    /// again. An object without a place in the index is a failure, though the others are stored.
    #[inline(never)]
    pub(super) fn send_granted(
        &self,
        grants: &Grants,
    ) -> core::result::Result<Vec<CommittedItem>, Failure> {
        payload_store_fence();
        let items: Vec<GrantedItem> = self
            .granted_items()
            .map(|item| GrantedItem {
                key: item.key,
                entry: item.outcome.entry,
                len_bytes: item.len_bytes,
            })
            .collect();
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let tick = self.session.read.heartbeat_tick();
        let count = items.len();
        let answers = match self.session.try_call(&Request::CommitGranted(items)) {
            Ok(Reply::GrantedCommitted(answers)) if answers.len() == count => answers,
            Ok(_) => return Err(Failure::Told(self.session.strange_reply("COMMIT_GRANTED"))),
            Err(error) => {
                let is_still_held = error.is_refusal() || error.was_never_sent();
                if is_still_held {
                    grants.put_back(self.granted_items().map(Item::granted));
                } else if !error.is_final() {
                    // It may yet be carried out; what is not used by it comes back.
                    self.session
                        .give_back_later(Request::Return(self.held().items));
                }
                return Err(Failure::Told(self.session.explain(error, Some(tick))));
            }
        };
        let unused = self
            .granted_items()
            .zip(&answers)
            .filter(|(_, answer)| matches!(answer.status, Status::Exists | Status::NoSpace));
        grants.put_back(unused.map(|(item, _)| item.granted()));
        match answers
            .iter()
            .find(|answer| !matches!(answer.status, Status::Ok | Status::Exists))
        {
            None => Ok(answers),
            Some(answer) if answer.status == Status::NoSpace => Err(Failure::Told(self.no_place())),
            Some(answer) => Err(Failure::Told(Error::internal(format!(
                "the daemon answered {} to a granted entry of this commit; report this defect of hostkvd",
                answer.status
            )))),
        }
    }

    /// Gives the extents back to the session's grants.
    pub(super) fn put_back(&self, grants: &Grants) -> Result<()> {
        grants.put_back(self.granted_items().map(Item::granted));
        Ok(())
    }

    #[cold]
    fn no_place(&self) -> Error {
        Error::new(
            Status::NoSpace,
            "an object of this commit got no index entry (bucket_full) and is not stored, the others are; start hostkvd with a \
             larger --max-objects",
        )
    }
}
