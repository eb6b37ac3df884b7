//! The write path without a round trip: extents that the session holds ahead of need, and the commit ring.
//!
//! [`crate::session`] and [`crate::reservation`] call this on any thread, in a session opened with ASYNC_COMMIT.
//!
//! ```text
//!   GRANT (socket, now and then) --> free, by size --take--> a reservation --push--> in the ring --outcome--> used up
//!                                      ^                        |                        |
//!                                      +------- abort ----------+                        |
//!                                      +------- the key was there already ---------------+
//! ```
//!
//! A reserve that may wait waits for its GRANT. Any other that lacks extents goes by the socket, and its GRANT is sent behind it:
//! a later reserve finds the answer there and takes it in. At most one such GRANT is under way.
//!
//! **The lock** guards which grants are free and which are in the ring, and that the ring's places are claimed in the order
//! in which they are noted. Nothing waits and no system call is made while it is held. Every reserve and commit of the
//! session takes it; the read path never does.

use crate::error::Result;
use hostkv_shm_protocol::control::header::HeaderView;
use hostkv_shm_protocol::key::Key;
use hostkv_shm_protocol::lease::LeaseGeometry;
use hostkv_shm_protocol::lease::commits::{Commits, Doorbell, GRANT_SHARE};
use hostkv_shm_protocol::lease::counters::Counters;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::sync::Ordering;
use hostkv_shm_protocol::view::View;
use hostkv_shm_protocol::wire::MAX_BATCH_KEYS;
use hostkv_shm_protocol::wire::hello::HelloReply;
use hostkv_shm_protocol::wire::reply::GrantedExtent;
use hostkv_shm_protocol::wire::request::{Grant, HeldItem, Request};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Extents of the first grant; each later one asks for twice as many as the one before.
const FIRST_BATCH: u32 = 16;

/// Sizes that are remembered while nothing of them is free.
const SIZES_KEPT: usize = 8;

/// A granted extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeldGrant {
    pub(crate) extent: GrantedExtent,
    /// Its size in units of the alignment.
    pub(crate) units: u32,
}

impl HeldGrant {
    fn held(&self) -> HeldItem {
        HeldItem {
            entry: self.extent.entry,
            generation: self.extent.generation,
        }
    }
}

/// The free grants of one size.
struct Stack {
    units: u32,
    free: Vec<HeldGrant>,
    /// Of the call under way: how many it wants.
    wanted: usize,
}

struct State {
    stacks: Vec<Stack>,
    /// What is in the ring, the oldest first.
    in_ring: VecDeque<HeldGrant>,
    /// The position up to which outcomes have been read: that of the oldest in `in_ring`.
    read_back: u64,
    /// Extents that the next grant asks for.
    next_batch: u32,
    /// The recall that was followed last.
    recall: u32,
    /// Tick of the heartbeat up to which nothing is asked for, because the last grant gave too little.
    pause_until: u64,
    /// Why an object that was committed through the ring since the last flush is not readable.
    lost: Option<Status>,
    ahead: Ahead,
}

/// A GRANT that nobody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ahead {
    /// There is none.
    None,
    /// A thread sends it, or looks for its answer.
    InHand,
    /// Under way, with the number of its request.
    Sent(u64, Grant),
}

/// What a call lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    /// Extents that a grant may bring.
    Extents(Grant),
    /// Room that grants are not for, or not now: the socket's RESERVE is.
    Room,
}

/// A session's grants and its commit ring.
pub(crate) struct Grants {
    header: HeaderView,
    commits: Commits,
    doorbell: Doorbell,
    counters: Counters,
    align_bytes: u64,
    /// What the session's grants may hold, in units of the alignment.
    share_units: u64,
    state: Mutex<State>,
}

/// How often the daemon has asked for what is not used.
fn recall_of(header: &HeaderView) -> u32 {
    // Relaxed: a wish, raised by the daemon in the same way; what is given back goes by the socket.
    header.grant_recall().load(Ordering::Relaxed)
}

impl Grants {
    /// Those of a session whose lease segment has a commit ring; none when it has none.
    pub(crate) fn new(control: View, lease: View, hello: &HelloReply) -> Result<Option<Grants>> {
        let header = HeaderView::new(control)?;
        let geometry = LeaseGeometry::read(&lease)?;
        let Some(commits) = Commits::new(lease, &geometry)? else {
            return Ok(None);
        };
        let recall = recall_of(&header);
        Ok(Some(Grants {
            header,
            commits,
            doorbell: Doorbell::new(header),
            counters: Counters::new(lease)?,
            align_bytes: hello.align_bytes,
            share_units: (hello.capacity_bytes / GRANT_SHARE).min(hello.reserve_quota_bytes)
                / hello.align_bytes,
            state: Mutex::new(State {
                stacks: Vec::new(),
                in_ring: VecDeque::with_capacity(commits.capacity() as usize),
                read_back: 0,
                next_batch: FIRST_BATCH,
                recall,
                pause_until: 0,
                lost: None,
                ahead: Ahead::None,
            }),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock leaves the state whole: each change is one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn units(&self, len_bytes: u32) -> u32 {
        u64::from(len_bytes).div_ceil(self.align_bytes) as u32
    }

    /// Takes an extent for each length, all or none; `give` gets them in order. `tick` is the daemon's heartbeat.
    pub(crate) fn take(
        &self,
        lengths: impl Iterator<Item = u32> + Clone,
        tick: u64,
        mut give: impl FnMut(GrantedExtent),
    ) -> core::result::Result<(), Lack> {
        let mut state = self.lock();
        self.read_outcomes(&mut state);
        let state = &mut *state;
        if state.stacks.len() > SIZES_KEPT {
            state.stacks.retain(|stack| !stack.free.is_empty());
        }
        for stack in &mut state.stacks {
            stack.wanted = 0;
        }
        for len_bytes in lengths.clone() {
            state.stack(self.units(len_bytes)).wanted += 1;
        }
        let mut lacking = state
            .stacks
            .iter()
            .filter(|stack| stack.wanted > stack.free.len());
        if let Some(first) = lacking.next() {
            let is_other_size = lacking.next().is_some();
            let missing = first.wanted - first.free.len();
            if is_other_size
                || first.wanted as u64 * u64::from(first.units) > self.share_units
                || tick < state.pause_until
            {
                return Err(Lack::Room);
            }
            let most = (self.share_units / u64::from(first.units)).min(MAX_BATCH_KEYS as u64);
            return Err(Lack::Extents(Grant {
                len_bytes: (u64::from(first.units) * self.align_bytes) as u32,
                count: (missing as u32).max(state.next_batch.min(most as u32)),
            }));
        }
        for len_bytes in lengths {
            if let Some(granted) = state.stack(self.units(len_bytes)).free.pop() {
                give(granted.extent);
            }
        }
        Ok(())
    }

    /// Takes in what a grant gave.
    pub(crate) fn take_in(&self, asked: &Grant, extents: &[GrantedExtent]) {
        let units = self.units(asked.len_bytes);
        let mut state = self.lock();
        state.next_batch = (state.next_batch * 2).min(MAX_BATCH_KEYS as u32);
        if (extents.len() as u32) < asked.count {
            state.next_batch = FIRST_BATCH;
        }
        let granted = extents.iter().map(|extent| HeldGrant {
            extent: *extent,
            units,
        });
        state.stack(units).free.extend(granted);
    }

    /// Whether the calling thread may send a GRANT that nobody waits for; then [`Grants::ahead_sent`] follows.
    pub(crate) fn begin_ahead(&self) -> bool {
        let mut state = self.lock();
        let may_send = state.ahead == Ahead::None;
        if may_send {
            state.ahead = Ahead::InHand;
        }
        may_send
    }

    /// Such a GRANT is under way under this number; none when it could not be sent, or when it is over.
    pub(crate) fn ahead_sent(&self, sent: Option<(u64, Grant)>) {
        self.lock().ahead = match sent {
            Some((request_id, asked)) => Ahead::Sent(request_id, asked),
            None => Ahead::None,
        };
    }

    /// The GRANT under way, for whose answer the calling thread alone looks; then [`Grants::ahead_sent`] follows.
    pub(crate) fn take_ahead(&self) -> Option<(u64, Grant)> {
        let mut state = self.lock();
        let Ahead::Sent(request_id, asked) = state.ahead else {
            return None;
        };
        state.ahead = Ahead::InHand;
        Some((request_id, asked))
    }

    /// A grant was too little: nothing is asked for before the next tick of the heartbeat.
    pub(crate) fn pause(&self, tick: u64) {
        self.lock().pause_until = tick + 1;
    }

    /// Takes extents back that were taken and are not used.
    pub(crate) fn put_back(&self, extents: impl Iterator<Item = (GrantedExtent, u32)>) {
        let mut state = self.lock();
        for (extent, len_bytes) in extents {
            let units = self.units(len_bytes);
            state.stack(units).free.push(HeldGrant { extent, units });
        }
    }

    /// Whether the daemon has asked since the last recall was followed for what is not used.
    pub(crate) fn is_recalled(&self) -> bool {
        recall_of(&self.header) != self.lock().recall
    }

    /// What is to be given back to the daemon: everything free when it has asked for that since the last call, and what is
    /// free in other sizes when `needed` does not fit into the session's share beside it.
    pub(crate) fn surplus(&self, needed: Option<&Grant>) -> Vec<Request> {
        let recall = recall_of(&self.header);
        let mut state = self.lock();
        let is_recalled = state.recall != recall;
        // What is on its way, or in another thread's hand, is given back by a later call.
        if state.ahead == Ahead::None {
            state.recall = recall;
        }
        let mut keep_units = None;
        if is_recalled {
            state.next_batch = FIRST_BATCH;
        } else {
            let Some(needed) = needed else {
                return Vec::new();
            };
            let units = self.units(needed.len_bytes);
            let others = state.stacks.iter().filter(|stack| stack.units != units);
            let held: u64 = others
                .map(|stack| stack.free.len() as u64 * u64::from(stack.units))
                .sum();
            if held == 0 || held + u64::from(needed.count) * u64::from(units) <= self.share_units {
                return Vec::new();
            }
            keep_units = Some(units);
        }
        let mut held = Vec::new();
        for stack in &mut state.stacks {
            if Some(stack.units) != keep_units {
                held.extend(stack.free.drain(..).map(|granted| granted.held()));
            }
        }
        // A size that is not used any more leaves nothing behind.
        state.stacks.retain(|stack| Some(stack.units) == keep_units);
        held.chunks(MAX_BATCH_KEYS)
            .map(|items| Request::Return(items.to_vec()))
            .collect()
    }

    /// Puts records into the ring, the last object first; false, and nothing is done, when it has no room for all. The payload
    /// stores have been fenced.
    pub(crate) fn push<'a>(
        &self,
        items: impl DoubleEndedIterator<Item = (GrantedExtent, u32, &'a Key)> + Clone,
    ) -> bool {
        let count = items.clone().count();
        let first = {
            let mut state = self.lock();
            self.read_outcomes(&mut state);
            let Some(first) = self.commits.claim(count as u64, state.read_back) else {
                return false;
            };
            for (extent, len_bytes, _) in items.clone().rev() {
                let units = self.units(len_bytes);
                state.in_ring.push_back(HeldGrant { extent, units });
            }
            first
        };
        for (position, (extent, len_bytes, key)) in (first..).zip(items.rev()) {
            self.commits.write(position, extent.entry, len_bytes, key);
        }
        true
    }

    /// Whether the daemon sleeps and must be rung for what was pushed.
    #[inline]
    pub(crate) fn must_ring(&self) -> bool {
        self.doorbell.is_wanted()
    }

    /// The position behind the last record that was claimed.
    pub(crate) fn position(&self) -> u64 {
        let state = self.lock();
        state.read_back + state.in_ring.len() as u64
    }

    /// Why an object committed through the ring since the last call is not readable, if one is not.
    pub(crate) fn take_lost(&self) -> Option<Status> {
        let mut state = self.lock();
        self.read_outcomes(&mut state);
        state.lost.take()
    }

    /// Counts a reserve that was answered from grants.
    #[inline]
    pub(crate) fn count_reserve(&self, granted: u32, existing: u32) {
        self.counters.add_write_request(granted, existing);
    }

    /// Reads the outcomes that are there; an extent whose key was there already is free again.
    fn read_outcomes(&self, state: &mut State) {
        let claimed = state.read_back + state.in_ring.len() as u64;
        let tail = self.commits.tail().min(claimed);
        while state.read_back < tail {
            let outcome = self.commits.outcome(state.read_back);
            state.read_back += 1;
            let Some(granted) = state.in_ring.pop_front() else {
                return;
            };
            match outcome {
                Status::Ok => continue,
                Status::Exists => {}
                Status::NoSpace => state.lost = Some(Status::NoSpace),
                // Its extent stays what the daemon takes it for.
                status => {
                    state.lost = Some(status);
                    continue;
                }
            }
            state.stack(granted.units).free.push(granted);
        }
    }
}

impl State {
    fn stack(&mut self, units: u32) -> &mut Stack {
        let at = match self.stacks.iter().position(|stack| stack.units == units) {
            Some(at) => at,
            None => {
                self.stacks.push(Stack {
                    units,
                    free: Vec::new(),
                    wanted: 0,
                });
                self.stacks.len() - 1
            }
        };
        &mut self.stacks[at]
    }
}
