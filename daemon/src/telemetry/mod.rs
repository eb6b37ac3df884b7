//! Telemetry: START and END events of lookup, store and retrieve, handed to processors.
//!
//! The start checks what the operator asked for with [`PROCESSORS`], also when telemetry is off. When it is on,
//! [`Telemetry::start`] opens the targets and starts one thread. The loop thread owns the [`Telemetry`] and pushes events;
//! it never waits for a processor, whatever a processor does.
//!
//! ```text
//!   loop thread                                      thread "hostkvd-events"
//!   push ──> queue: room? ──> [ max_queue_size ] ──> dispatcher ──> processor #1 (logging)
//!              │ no                                            └──> processor #2 (jsonl) ...
//!              └──> counted, WARNING at most once a second
//! ```
//!
//! A pair is never broken: a START gets in only while its END has a place too, and the END of a START that was dropped is
//! dropped. Both count. Each processor sees the events in the order of the pushes, processors in the order of their specs.
//! One that fails or panics is logged and gets the next event like the others; one that does not return fills the queue
//! and nothing else. At the end the queue is drained and each processor is told once, within a time limit.
//!
//! Modules, each using only those above it: `python` (how values are printed), `processors`, `dispatcher`,
//! `queue`, and the handle here.

mod dispatcher;
mod processors;
mod python;
mod queue;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use dispatcher::{Dispatcher, Shared};
use queue::Queue;

pub use dispatcher::DISPATCHER_THREAD;
pub use processors::{PROCESSORS, Processor, ProcessorError};

/// One end of an operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The operation: `lookup`, `store` or `retrieve`.
    pub name: &'static str,
    /// Which end.
    pub event_type: EventType,
    /// The caller's request id.
    pub session_id: String,
    /// Seconds of CLOCK_MONOTONIC.
    pub timestamp_s: f64,
    /// What else is known, in the order in which it is shown.
    pub metadata: Vec<(&'static str, Value)>,
}

/// Which end of an operation an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// It begins.
    Start,
    /// It is over.
    End,
}

impl EventType {
    /// The name, as it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "START",
            Self::End => "END",
        }
    }
}

/// A value of an event's metadata.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub enum Value {
    /// Text.
    Str(String),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Yes or no.
    Bool(bool),
}

/// Ties an END to its START.
///
/// Given out by the daemon, never taken from a client as it is: among the pairs whose END is still owed it is the only one
/// with its number, whatever session they belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PairId(pub u64);

/// Why telemetry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// A processor cannot reach its target.
    #[error("--telemetry-processor #{number} ({type_name}): {source}")]
    Processor {
        /// Its place among the specs, from 1.
        number: usize,
        /// Its type.
        type_name: &'static str,
        /// What it says.
        source: ProcessorError,
    },
    /// The dispatcher's thread cannot be had.
    #[error(
        "starting the telemetry thread failed: {0}; raise the limit on threads of this process or leave --enable-telemetry out"
    )]
    Thread(io::Error),
}

/// The running telemetry, owned by the loop thread.
///
/// Dropped without [`shutdown`](Self::shutdown), it leaves the drain to its thread and to nobody's patience.
#[derive(Debug)]
pub struct Telemetry {
    queue: Queue,
    dispatcher: Dispatcher,
    shared: Arc<Shared>,
    warnings: OncePerSecond,
}

impl Telemetry {
    /// Starts the processors in their order, on this thread, and then the dispatcher.
    ///
    /// The processors come from [`PROCESSORS`]. The queue holds `max_queue_size` events at most, that in the dispatcher's
    /// hands and the places kept for owed ENDs included.
    pub fn start(
        mut processors: Vec<Box<dyn Processor>>,
        max_queue_size: u32,
    ) -> Result<Self, TelemetryError> {
        for (index, processor) in processors.iter_mut().enumerate() {
            if let Err(source) = processor.start() {
                return Err(TelemetryError::Processor {
                    number: index + 1,
                    type_name: processor.type_name(),
                    source,
                });
            }
        }
        let processor_count = processors.len();
        let shared = Arc::new(Shared::default());
        let (queue, events) = Queue::new(max_queue_size, Arc::clone(&shared));
        let dispatcher = Dispatcher::start(processors, events, Arc::clone(&shared))
            .map_err(TelemetryError::Thread)?;
        log::info!(
            "Telemetry is on: {processor_count} processor(s), at most {max_queue_size} event(s) waiting; the Unix time of \
             an event is its ts + {:.6}",
            unix_minus_monotonic_s()
        );
        Ok(Self {
            queue,
            dispatcher,
            shared,
            warnings: OncePerSecond::default(),
        })
    }

    /// Takes an event over, or drops it and counts it. Never waits.
    ///
    /// Every START that is pushed is to be followed by one END under the same pair.
    pub fn push(&mut self, pair: PairId, event: Event) {
        if self.queue.offer(pair, event) || !self.warnings.is_due(Instant::now()) {
            return;
        }
        log::warn!(
            "Telemetry queue full (max_queue_size={}), {} event(s) discarded so far",
            self.queue.max_size(),
            self.queue.dropped()
        );
    }

    /// Events that no processor got, since the start: dropped by a full queue, or left in it at the shutdown.
    pub fn dropped_events(&self) -> u64 {
        let left = if self.queue.is_closed() {
            self.shared.waiting()
        } else {
            0
        };
        self.queue.dropped() + left
    }

    /// Calls of a processor that failed or panicked, since the start.
    pub fn processor_failures(&self) -> u64 {
        self.shared.failures()
    }

    /// Takes no more events, drains the queue and tells each processor once; false when not all of that is done within
    /// `timeout`.
    ///
    /// Three quarters of the time are the drain's at most, so that slow processors are told all the same. One that does not
    /// return keeps its thread, which ends with the process. ENDs that are owed are pushed before. A second call gives the
    /// answer again.
    pub fn shutdown(&mut self, timeout: Duration) -> bool {
        if self.queue.is_closed() {
            return self.dispatcher.has_ended() && self.shared.waiting() == 0;
        }
        self.queue.close();
        let has_ended = self.dispatcher.finish(timeout);
        let left = self.shared.waiting();
        if has_ended && left == 0 {
            return true;
        }
        let reason = match self.shared.busy() {
            Some(number) if !has_ended => format!("processor #{number} does not return"),
            _ => "the processors are too slow".to_owned(),
        };
        log::warn!(
            "Telemetry did not end within {:.1} s: {reason}; {left} event(s) are lost",
            timeout.as_secs_f64()
        );
        false
    }
}

/// What turns CLOCK_MONOTONIC into the time of day, now.
fn unix_minus_monotonic_s() -> f64 {
    let unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let monotonic =
        clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has CLOCK_MONOTONIC");
    unix.as_secs_f64() - Duration::from(monotonic).as_secs_f64()
}

/// Lets through what may happen once a second.
#[derive(Debug, Default)]
struct OncePerSecond {
    last: Option<Instant>,
}

impl OncePerSecond {
    /// Whether it may happen now; if so, it counts as having happened.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self
            .last
            .is_none_or(|last| now.duration_since(last) >= Duration::from_secs(1));
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}
