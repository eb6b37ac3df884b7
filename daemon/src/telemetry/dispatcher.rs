//! The one thread that runs the processors.
//!
//! [`Telemetry`](super::Telemetry) starts it and, at the shutdown, waits for its end within a time limit. It takes one
//! event at a time and gives it to every processor in their order; nothing of the loop is ever held while it does.
//!
//! ```text
//!   take ──> event ──> #1, #2, ... ──> waiting -= 1 ──┐
//!    ^ └── queue closed and empty, or time is up ──>  │  each told once ──> ended
//!    └────────────────────────────────────────────────┘
//! ```
//!
//! An error or a panic of a processor is logged, at most once a second for each processor with the total so far, and the
//! processor gets the next event all the same.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use hostkv_shm_protocol::sync::{AtomicU32, AtomicU64, Ordering};

use super::processors::{Processor, ProcessorError};
use super::{Event, OncePerSecond};

/// Name of the thread. It logs the panics of processors itself, so a panic hook may leave them out.
pub const DISPATCHER_THREAD: &str = "hostkvd-events";

/// What the loop and the dispatcher share. No lock: figures, and a limit that is set once.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Events that are in the channel or in the dispatcher's hands. The loop adds, the dispatcher takes away.
    waiting: AtomicU64,
    /// Calls of processors that failed.
    failures: AtomicU64,
    /// Number of the processor that is being called, from 1; 0 = none.
    busy: AtomicU32,
    /// When the drain ends, done or not.
    drain_until: OnceLock<Instant>,
}

impl Shared {
    /// Events that are in the channel or in the dispatcher's hands.
    pub(super) fn waiting(&self) -> u64 {
        // Relaxed: a count by itself; what it counts travels through the channel, which orders it.
        self.waiting.load(Ordering::Relaxed)
    }

    /// Counts an event that is about to be sent.
    pub(super) fn add_waiting(&self) {
        // Relaxed: as in `waiting`.
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an event that is done with.
    pub(super) fn remove_waiting(&self) {
        // Relaxed: as in `waiting`.
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Calls of processors that failed.
    pub(super) fn failures(&self) -> u64 {
        // Relaxed: a count by itself.
        self.failures.load(Ordering::Relaxed)
    }

    /// Number of the processor that is being called, from 1.
    pub(super) fn busy(&self) -> Option<u32> {
        // Relaxed: only told to people.
        Some(self.busy.load(Ordering::Relaxed)).filter(|number| *number > 0)
    }

    fn set_busy(&self, number: u32) {
        // Relaxed: as in `busy`.
        self.busy.store(number, Ordering::Relaxed);
    }

    fn add_failure(&self) {
        // Relaxed: as in `failures`.
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    fn is_time_up(&self) -> bool {
        self.drain_until
            .get()
            .is_some_and(|until| Instant::now() >= *until)
    }
}

/// A handle on the thread.
#[derive(Debug)]
pub(super) struct Dispatcher {
    ended: Receiver<()>,
    has_ended: bool,
    shared: Arc<Shared>,
}

impl Dispatcher {
    /// Starts the thread.
    pub(super) fn start(
        processors: Vec<Box<dyn Processor>>,
        events: Receiver<Event>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let (ending, ended) = sync_channel(1);
        let theirs = Arc::clone(&shared);
        thread::Builder::new()
            .name(DISPATCHER_THREAD.into())
            .spawn(move || run(processors, &events, &theirs, &ending))?;
        Ok(Self {
            ended,
            has_ended: false,
            shared,
        })
    }

    /// Waits for the end of the thread, whose queue is closed; tells whether it has ended.
    pub(super) fn finish(&mut self, timeout: Duration) -> bool {
        self.shared
            .drain_until
            .get_or_init(|| Instant::now() + (timeout - timeout / 4));
        self.has_ended = self.ended.recv_timeout(timeout).is_ok();
        self.has_ended
    }

    /// Whether the thread had ended within the time of [`finish`](Self::finish).
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }
}

/// The thread.
fn run(
    processors: Vec<Box<dyn Processor>>,
    events: &Receiver<Event>,
    shared: &Shared,
    ending: &SyncSender<()>,
) {
    let mut seats: Vec<Seat> = (1..)
        .zip(processors)
        .map(|(number, processor)| Seat::new(number, processor))
        .collect();
    for event in events {
        if shared.is_time_up() {
            // It stays among the waiting ones, as do those behind it: the handle counts them as lost.
            break;
        }
        for seat in &mut seats {
            seat.give(&event, shared);
        }
        shared.remove_waiting();
    }
    for seat in seats {
        seat.end(shared);
    }
    // The room of one is free, or nobody waits any more.
    let _unheard = ending.try_send(());
}

/// A processor at its place.
struct Seat {
    number: u32,
    type_name: &'static str,
    processor: Box<dyn Processor>,
    failures: u64,
    lines: OncePerSecond,
}

impl Seat {
    fn new(number: u32, processor: Box<dyn Processor>) -> Self {
        Self {
            number,
            type_name: processor.type_name(),
            processor,
            failures: 0,
            lines: OncePerSecond::default(),
        }
    }

    fn give(&mut self, event: &Event, shared: &Shared) {
        shared.set_busy(self.number);
        let result = guarded(|| self.processor.process(event));
        shared.set_busy(0);
        let Err(failure) = result else {
            return;
        };
        self.failures += 1;
        shared.add_failure();
        if self.lines.is_due(Instant::now()) {
            log::error!(
                "Telemetry processor #{} ({}) failed on an event: {failure}; {} event(s) missed so far",
                self.number,
                self.type_name,
                self.failures
            );
        }
    }

    /// Tells the processor that no event follows, and lets it go.
    fn end(self, shared: &Shared) {
        shared.set_busy(self.number);
        let Self {
            number,
            type_name,
            mut processor,
            failures,
            ..
        } = self;
        let result = guarded(move || {
            let result = processor.stop();
            drop(processor);
            result
        });
        shared.set_busy(0);
        if let Err(failure) = result {
            shared.add_failure();
            log::error!("Telemetry processor #{number} ({type_name}) failed to stop: {failure}");
        }
        if failures > 0 {
            log::warn!(
                "Telemetry processor #{number} ({type_name}) missed {failures} event(s) in all"
            );
        }
    }
}

/// Makes a panic of a processor a failure like others.
///
/// Nothing is left half changed that anybody else sees: a processor shares no state, and one that panicked keeps its own at
/// its own risk.
fn guarded(call: impl FnOnce() -> Result<(), ProcessorError>) -> Result<(), String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => Err(format!("panicked: {}", message_of(&*panic))),
    }
}

fn message_of(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "without a message"
    }
}
