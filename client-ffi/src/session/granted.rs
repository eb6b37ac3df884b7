//! Reserve and flush of a session opened with ASYNC_COMMIT.
//!
//! ```text
//!   reserve --which keys are there?--> EXISTS
//!              \--the others: an extent each out of the grants--> granted reservation
//!                    | too few: one GRANT, or the socket's RESERVE for the whole call
//!                    \ and it must not wait: that RESERVE, and behind it a GRANT for the next calls
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
use hostkv_shm_protocol::wire::request::{Grant, Request as WireRequest, Reserve};

/// A reserve that the grants do not answer.
pub(crate) struct ForSocket {
    /// It, for the socket.
    pub(crate) reserve: Reserve,
    /// What is to be asked for behind it, so that the next ones are answered: [`Inner::ask_ahead`].
    pub(crate) lacks: Option<Grant>,
}

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
        self.inner.follow_recall(grants)?;
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
    /// Answers a reserve from the session's grants; gives it back when the socket must answer it. Where it may wait it asks for
    /// more of them first.
    pub(crate) fn reserve_from_grants(
        &self,
        keyspace: KeyspaceId,
        reserve: Reserve,
        may_wait: bool,
    ) -> Result<core::result::Result<Granted, ForSocket>> {
        let Some(grants) = &self.grants else {
            let lacks = None;
            return Ok(Err(ForSocket { reserve, lacks }));
        };
        self.refuse_without_daemon()?;
        self.follow_recall(grants)?;
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
        if let Err(lacks) = self.take_grants(grants, &mut items, may_wait)? {
            return Ok(Err(ForSocket { reserve, lacks }));
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

    /// Fills in the extents of the items that are not there, with at most one GRANT; when the socket must, what to ask for
    /// behind it.
    fn take_grants(
        &self,
        grants: &Grants,
        items: &mut [Item],
        may_wait: bool,
    ) -> Result<core::result::Result<(), Option<Grant>>> {
        let tick = self.read.heartbeat_tick();
        let (mut has_looked, mut has_asked) = (false, false);
        loop {
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
                    return Ok(Ok(()));
                }
                Err(Lack::Extents(_)) if !has_looked => {
                    has_looked = true;
                    self.take_in_ahead(grants)?;
                }
                Err(Lack::Extents(grant)) if !may_wait => return Ok(Err(Some(grant))),
                Err(Lack::Extents(grant)) if !has_asked => {
                    has_asked = true;
                    self.give_others_back(grants, &grant);
                    match self.call(&WireRequest::Grant(grant))? {
                        Reply::Granted(extents) => grants.take_in(&grant, &extents),
                        _ => return Err(self.strange_reply("GRANT")),
                    }
                }
                Err(_) => {
                    if has_asked {
                        grants.pause(tick);
                    }
                    return Ok(Err(None));
                }
            }
        }
    }

    /// Asks for what a reserve lacked that must not wait, unless that is under way: for the next ones.
    pub(crate) fn ask_ahead(&self, lacks: Option<Grant>) {
        let (Some(grants), Some(grant)) = (&self.grants, lacks) else {
            return;
        };
        if grants.begin_ahead() {
            self.give_others_back(grants, &grant);
            let request_id = self.begin_ahead(&WireRequest::Grant(grant));
            grants.ahead_sent(request_id.map(|request_id| (request_id, grant)));
        }
    }

    /// Takes in what a GRANT gave that nobody waited for, if its answer is there.
    fn take_in_ahead(&self, grants: &Grants) -> Result<()> {
        let Some((request_id, asked)) = grants.take_ahead() else {
            return Ok(());
        };
        let answer = self.wait_for(request_id, 0);
        let is_there = !matches!(answer, Ok(None));
        let outcome = match answer {
            Ok(None) => Ok(()),
            Ok(Some(Reply::Granted(extents))) => {
                if extents.is_empty() {
                    grants.pause(self.read.heartbeat_tick());
                }
                grants.take_in(&asked, &extents);
                Ok(())
            }
            Ok(Some(_)) => Err(self.strange_reply("GRANT")),
            Err(error) => Err(error),
        };
        grants.ahead_sent((!is_there).then_some((request_id, asked)));
        outcome
    }

    /// Gives grants of other sizes back, where these leave no room for what is asked for.
    fn give_others_back(&self, grants: &Grants, asked: &Grant) {
        for request in grants.surplus(Some(asked)) {
            self.give_back_later(request);
        }
    }

    /// Follows a recall of grants, if there is one, also of those that are only on their way.
    fn follow_recall(&self, grants: &Grants) -> Result<()> {
        if grants.is_recalled() {
            self.take_in_ahead(grants)?;
            for request in grants.surplus(None) {
                self.give_back_later(request);
            }
        }
        Ok(())
    }
}
