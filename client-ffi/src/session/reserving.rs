//! The two ends of every reserve, whichever request carries it: what it asks, checked, and what it was granted, checked.
//!
//! [`Session::reserve`](super::Session::reserve) and
//! [`Reservation::commit_and_reserve`](crate::reservation::Reservation::commit_and_reserve) come here. What fails here
//! leaves nothing behind: before the request nothing was asked, and behind it the grants are given back.

use super::inner::Inner;
use super::places::Place;
use super::{RESERVE_NO_WAIT, Request, ReserveItem, checks};
use crate::error::{Error, Result};
use crate::events::StoreTrace;
use crate::reservation::{Item, granted_outside};
use hostkv_shm_protocol::id::KeyspaceId;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::sync::{Ordering, fence};
use hostkv_shm_protocol::wire::reply::ReservedItem;
use hostkv_shm_protocol::wire::request::{
    Held, HeldItem, Request as WireRequest, Reserve, ReserveItem as WireReserveItem,
};

/// What a reserve was granted.
pub(crate) struct Granted {
    /// Every item of it, granted or not.
    pub(crate) items: Vec<Item>,
    /// The caller's request id; empty = none.
    pub(crate) request_id: String,
    /// The caller's device name; may be empty.
    pub(crate) device: String,
    /// Whether the extents come from the session's grants, so that the daemon knows nothing of it.
    pub(crate) is_of_grants: bool,
    /// What is told of it then.
    pub(crate) told: Option<Box<StoreTrace>>,
}

impl Inner {
    /// A reserve that the daemon will not refuse for its form. The caller holds the session and may write.
    pub(crate) fn checked_reserve(
        &self,
        keyspace: KeyspaceId,
        items: &[ReserveItem],
        request: &Request<'_>,
    ) -> Result<Reserve> {
        checks::count("items", items.len(), self.hello.max_batch_keys)?;
        self.refuse_unopened(keyspace)?;
        checks::request(request, RESERVE_NO_WAIT)?;
        checks::key_lengths(items.iter().map(|item| &item.key))?;
        let items = items
            .iter()
            .enumerate()
            .map(|(index, item)| self.wanted(keyspace, index, item))
            .collect::<Result<Vec<WireReserveItem>>>()?;
        Ok(Reserve {
            op_id: self.next_op_id(),
            request_id: request.request_id.unwrap_or_default().to_owned(),
            device: request.device.unwrap_or_default().to_owned(),
            items,
        })
    }

    /// A place among the reservations that nobody has waited for yet, if the request is for one of those.
    pub(crate) fn place_for(&self, request: &Request<'_>) -> Result<Option<Place<'_>>> {
        match request.flags & RESERVE_NO_WAIT {
            0 => Ok(None),
            _ => self.unwaited.enter().map(Some),
        }
    }

    fn wanted(
        &self,
        keyspace: KeyspaceId,
        index: usize,
        item: &ReserveItem,
    ) -> Result<WireReserveItem> {
        let most = self.hello.max_object_bytes;
        let len_bytes = u32::try_from(item.len_bytes)
            .ok()
            .filter(|len| *len != 0 && u64::from(*len) <= most)
            .ok_or_else(|| {
                Error::invalid(format!(
                    "item {index} asks for {} bytes; allowed are 1 to {most} (max_object_bytes), so split the object",
                    item.len_bytes
                ))
            })?;
        Ok(WireReserveItem {
            key: item.key.in_keyspace(keyspace, index)?,
            len_bytes,
        })
    }

    /// What the daemon granted, one outcome an item, ready to be written into.
    pub(crate) fn granted(&self, reserve: Reserve, outcomes: Vec<ReservedItem>) -> Result<Granted> {
        // Release: what earlier readers of these extents did (it came with the reply) comes before this writer's
        // stores.
        fence(Ordering::Release);
        let Reserve {
            op_id,
            request_id,
            device,
            items: wanted,
        } = reserve;
        let items: Vec<Item> = wanted
            .into_iter()
            .zip(outcomes)
            .map(|(wanted, outcome)| Item {
                key: wanted.key,
                len_bytes: wanted.len_bytes,
                outcome,
            })
            .collect();
        let is_outside = items.iter().any(|item| item.is_outside(self));
        let granted = items
            .iter()
            .filter(|item| item.outcome.status == Status::Ok);
        let populated = match is_outside {
            true => Ok(()),
            false => granted
                .clone()
                .filter_map(|item| item.place(self))
                .try_for_each(|(offset, len)| self.populate_staging(offset, len)),
        };
        if is_outside || populated.is_err() {
            self.give_back_later(WireRequest::Abort(Held {
                op_id,
                items: granted
                    .map(|item| HeldItem {
                        entry: item.outcome.entry,
                        generation: item.outcome.generation,
                    })
                    .collect(),
            }));
            populated?;
            return Err(granted_outside());
        }
        Ok(Granted {
            items,
            request_id,
            device,
            is_of_grants: false,
            told: None,
        })
    }
}
