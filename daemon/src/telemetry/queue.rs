//! The bounded queue between the loop and the dispatcher, and the rule that no pair is broken.
//!
//! The loop thread owns the [`Queue`] and offers events; the dispatcher takes them from the channel. The channel itself has
//! no bound and its sender never waits: the bound is the count that both sides keep, so memory is taken only for events
//! that are there.
//!
//! ```text
//!   max_size  >=  waiting (in the channel or in the dispatcher's hands)  +  open (places kept for owed ENDs)
//!
//!   START: waiting + open + 2 <= max_size ?  yes: waiting += 1, open += pair     no: dropped += 1
//!   END:   is the pair open ?                yes: open -= pair, waiting += 1     no: dropped += 1
//! ```
//!
//! An END therefore finds its place always, or its START was dropped.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::dispatcher::Shared;
use super::{Event, EventType, PairId};

/// The loop's end of the queue.
#[derive(Debug)]
pub(super) struct Queue {
    /// None once it is closed.
    sender: Option<Sender<Event>>,
    shared: Arc<Shared>,
    /// Pairs whose START got in and whose END has not come.
    open: HashSet<PairId>,
    max_size: u32,
    dropped: u64,
}

impl Queue {
    /// A queue of `max_size` events, and the dispatcher's end of it.
    pub(super) fn new(max_size: u32, shared: Arc<Shared>) -> (Self, Receiver<Event>) {
        let (sender, events) = channel();
        let queue = Self {
            sender: Some(sender),
            shared,
            open: HashSet::new(),
            max_size,
            dropped: 0,
        };
        (queue, events)
    }

    /// Takes an event in, or drops it and counts it; tells whether it got in.
    pub(super) fn offer(&mut self, pair: PairId, event: Event) -> bool {
        let is_accepted = match event.event_type {
            // The waiting ones may get fewer meanwhile, never more: this thread alone adds to them.
            EventType::Start => {
                self.shared.waiting() + self.open.len() as u64 + 2 <= u64::from(self.max_size)
                    && self.open.insert(pair)
            }
            EventType::End => self.open.remove(&pair),
        };
        let has_entered = is_accepted && self.send(event);
        if !has_entered {
            self.dropped += 1;
        }
        has_entered
    }

    fn send(&self, event: Event) -> bool {
        let Some(sender) = &self.sender else {
            return false;
        };
        // Before the event is there to be taken, so that the count never goes below zero.
        self.shared.add_waiting();
        let has_entered = sender.send(event).is_ok();
        if !has_entered {
            self.shared.remove_waiting();
        }
        has_entered
    }

    /// Most events that it holds.
    pub(super) fn max_size(&self) -> u32 {
        self.max_size
    }

    /// Events dropped since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Lets the dispatcher end once it has taken what is there. What is offered later is dropped.
    pub(super) fn close(&mut self) {
        self.sender = None;
    }

    /// Whether it was closed.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_none()
    }
}
