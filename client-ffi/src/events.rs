//! What reads tell the daemon: START and END for telemetry, and records for its log lines.
//!
//! Stores into granted extents tell theirs the same way, from reserve to commit or abort.
//!
//! [`crate::session`], [`crate::lease`] and [`crate::reservation`] call this on any thread. Nothing here makes a system
//! call (the clock is read in user space), waits or allocates. What is told is decided at acquire, for the whole life of
//! the lease:
//!
//! ```text
//!   telemetry on ------------> Events: lookup START, END at acquire; retrieve START at the first span, END at release
//!   off, allowance left -----> Line:   one record at acquire, one at release
//!   off, no allowance -------> Off:    nothing but a counter; no clock
//! ```
//!
//! A START is written only while the ring keeps a place for every END that is owed, so an END always finds one; a START
//! that finds no place drops its END with it, and both are counted.

use crate::read_path::Pins;
use crate::session::Request;
use hostkv_shm_protocol::control::header::{HeaderView, flags};
use hostkv_shm_protocol::control::reader::Found;
use hostkv_shm_protocol::id::{KeyspaceId, OpId};
use hostkv_shm_protocol::lease::LeaseGeometry;
use hostkv_shm_protocol::lease::counters::{Counter, Counters};
use hostkv_shm_protocol::lease::events::{Event, EventOp, EventPhase, Events};
use hostkv_shm_protocol::sync::{AtomicU32, AtomicU64, Ordering};
use hostkv_shm_protocol::view::{OutOfBounds, View};
use hostkv_shm_protocol::wire::{MAX_DEVICE_BYTES, MAX_REQUEST_ID_BYTES};
use nix::time::{ClockId, clock_gettime};

/// Reads whose lines one refill allows; the daemon refills ten times a second.
const ALLOWANCE: u32 = 10;

/// A text kept without allocation.
#[derive(Debug, Clone, Copy)]
struct Kept<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Kept<N> {
    const EMPTY: Kept<N> = Kept {
        bytes: [0; N],
        len: 0,
    };

    /// Keeps a text whose length has been checked against `N`.
    fn keep(&mut self, text: &str) {
        self.len = text.len().min(N);
        self.bytes[..self.len].copy_from_slice(&text.as_bytes()[..self.len]);
    }

    fn text(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

/// Who asked, as long as a lease lives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    request_id: Kept<MAX_REQUEST_ID_BYTES>,
    device: Kept<MAX_DEVICE_BYTES>,
}

impl Default for Caller {
    fn default() -> Caller {
        Caller {
            request_id: Kept::EMPTY,
            device: Kept::EMPTY,
        }
    }
}

/// How much is told of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Off,
    Line,
    Events,
}

/// Whether a span of the lease was taken, and whether its START found a place.
mod span_state {
    pub const NONE: u32 = 0;
    pub const TAKEN: u32 = 1;
    pub const STARTED: u32 = 2;
}

/// What is told of one lease.
#[derive(Debug)]
pub(crate) struct Trace {
    mode: Mode,
    op_id: OpId,
    keyspace: KeyspaceId,
    start_ns: u64,
    /// Whether the START of the read request, or of the store, found a place.
    has_lookup: bool,
    span: AtomicU32,
}

impl Trace {
    /// Nothing is told.
    pub(crate) fn off() -> Trace {
        Trace {
            mode: Mode::Off,
            op_id: OpId(0),
            keyspace: KeyspaceId(0),
            start_ns: 0,
            has_lookup: false,
            span: AtomicU32::new(span_state::NONE),
        }
    }
}

/// What is told of one reservation from grants.
#[derive(Debug)]
pub(crate) struct StoreTrace {
    trace: Trace,
    caller: Caller,
}

/// The session's ring, its allowance of lines and its debts.
pub(crate) struct ReadEvents {
    header: HeaderView,
    ring: Events,
    counters: Counters,
    next_op_id: AtomicU64,
    /// ENDs that are owed.
    owed: AtomicU64,
    /// Reads whose lines may still be written before the next refill.
    allowance: AtomicU32,
    /// The refill that gave it.
    last_refill: AtomicU32,
}

fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
    })
}

impl ReadEvents {
    /// The events of a session.
    pub(crate) fn new(
        header: HeaderView,
        lease: View,
        geometry: &LeaseGeometry,
    ) -> Result<ReadEvents, OutOfBounds> {
        Ok(ReadEvents {
            header,
            ring: Events::new(lease, geometry)?,
            counters: Counters::new(lease)?,
            next_op_id: AtomicU64::new(1),
            owed: AtomicU64::new(0),
            allowance: AtomicU32::new(0),
            last_refill: AtomicU32::new(0),
        })
    }

    /// Begins the trace of a read request.
    #[inline]
    pub(crate) fn begin_lookup(
        &self,
        keyspace: KeyspaceId,
        request: &Request<'_>,
        caller: &mut Caller,
    ) -> Trace {
        let mut trace = self.begin(keyspace, request.request_id, request.device, caller);
        if trace.mode == Mode::Events {
            trace.has_lookup = self.start(EventOp::Lookup, &trace, caller, trace.start_ns);
        }
        trace
    }

    /// The result of a read request: the event tells all keys pinned, the log line the leading ones.
    #[inline]
    pub(crate) fn end_lookup(&self, trace: &Trace, pins: &Pins) {
        let (caller, asked) = (&pins.caller, pins.items.len());
        match trace.mode {
            Mode::Off => {}
            Mode::Line => {
                self.line(EventOp::Lookup, trace, caller, pins.prefix_count(), asked);
            }
            Mode::Events if trace.has_lookup => {
                self.end(EventOp::Lookup, trace, caller, pins.pinned_count(), asked);
            }
            Mode::Events => {}
        }
    }

    /// Tells the daemon of an object that is not what its sum says. Without a place it is not told: each reader misses for
    /// itself, and the scrubber comes by.
    #[cold]
    pub(crate) fn report_changed(&self, found: &Found) {
        if let Some(position) = self.ring.claim_with(|| self.owed()) {
            self.ring.write_changed(position, found.entry, found.seq);
        }
    }

    /// A span of the lease was taken; the first one begins its retrieve.
    #[inline]
    pub(crate) fn span_taken(&self, trace: &Trace, caller: &Caller) {
        if trace.mode == Mode::Off || trace.span.load(Ordering::Relaxed) != span_state::NONE {
            return;
        }
        let is_first = trace
            .span
            .compare_exchange(
                span_state::NONE,
                span_state::TAKEN,
                Ordering::Relaxed,
                Ordering::Relaxed,
            )
            .is_ok();
        if is_first
            && trace.mode == Mode::Events
            && self.start(EventOp::Retrieve, trace, caller, now_ns())
        {
            // Relaxed: whoever ends the lease has it to itself.
            trace.span.store(span_state::STARTED, Ordering::Relaxed);
        }
    }

    /// The lease ends: `read` of `asked` keys were pinned by it.
    #[inline]
    pub(crate) fn end_lease(&self, trace: &Trace, caller: &Caller, read: usize, asked: usize) {
        match (trace.mode, trace.span.load(Ordering::Relaxed)) {
            (Mode::Events, span_state::STARTED) => {
                self.end(EventOp::Retrieve, trace, caller, read, asked);
            }
            (Mode::Line, span_state::TAKEN) if read > 0 => {
                self.line(EventOp::Retrieve, trace, caller, read, asked);
            }
            _ => {}
        }
    }

    /// Begins the trace of a reservation from grants; none when nothing is told of it.
    pub(crate) fn begin_store(
        &self,
        keyspace: KeyspaceId,
        request_id: &str,
        device: &str,
    ) -> Option<Box<StoreTrace>> {
        let mode = self.mode(false);
        if mode == Mode::Off {
            return None;
        }
        let mut caller = Caller::default();
        let mut trace = self.begin_in(mode, keyspace, Some(request_id), Some(device), &mut caller);
        if mode == Mode::Events {
            trace.has_lookup = self.start(EventOp::Store, &trace, &caller, trace.start_ns);
        }
        Some(Box::new(StoreTrace { trace, caller }))
    }

    /// The reservation ends: `stored` of `asked` keys were committed by it.
    pub(crate) fn end_store(&self, told: &StoreTrace, stored: usize, asked: usize) {
        let StoreTrace { trace, caller } = told;
        match trace.mode {
            Mode::Line if stored > 0 => self.line(EventOp::Store, trace, caller, stored, asked),
            Mode::Events if trace.has_lookup => {
                self.end(EventOp::Store, trace, caller, stored, asked);
            }
            Mode::Off | Mode::Line | Mode::Events => {}
        }
    }

    /// Begins the trace of a lease that is no read request.
    pub(crate) fn begin(
        &self,
        keyspace: KeyspaceId,
        request_id: Option<&str>,
        device: Option<&str>,
        caller: &mut Caller,
    ) -> Trace {
        self.begin_in(self.mode(true), keyspace, request_id, device, caller)
    }

    /// How much is told now; `is_read` says whether a line that is left out counts as one of a read.
    #[inline]
    fn mode(&self, is_read: bool) -> Mode {
        // Relaxed: a switch that guards no data.
        if self.header.flags().load(Ordering::Relaxed) & flags::TELEMETRY != 0 {
            Mode::Events
        } else {
            self.take_line(is_read)
        }
    }

    fn begin_in(
        &self,
        mode: Mode,
        keyspace: KeyspaceId,
        request_id: Option<&str>,
        device: Option<&str>,
        caller: &mut Caller,
    ) -> Trace {
        let mut trace = Trace {
            mode,
            keyspace,
            ..Trace::off()
        };
        if mode != Mode::Off {
            caller.request_id.keep(request_id.unwrap_or_default());
            caller.device.keep(device.unwrap_or_default());
            trace.op_id = OpId(self.next_op_id.fetch_add(1, Ordering::Relaxed));
            trace.start_ns = now_ns();
        }
        trace
    }

    /// The lines of one read or store out of the allowance.
    #[inline]
    fn take_line(&self, is_read: bool) -> Mode {
        let refill = self.header.log_refill().load(Ordering::Relaxed);
        if refill != self.last_refill.load(Ordering::Relaxed)
            // Two threads may see the change; one refills.
            && self.last_refill.swap(refill, Ordering::Relaxed) != refill
        {
            self.allowance.store(ALLOWANCE, Ordering::Relaxed);
        }
        let left = self.allowance.load(Ordering::Relaxed);
        if left > 0
            && self
                .allowance
                .compare_exchange(left, left - 1, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            return Mode::Line;
        }
        // A refill that was never raised means that the level hides the lines.
        if refill != 0 && is_read {
            self.counters.add(Counter::LinesLeftOut, 1);
        }
        Mode::Off
    }

    /// Writes a START if the ring then still has a place for every END that is owed, this one's included.
    fn start(&self, op: EventOp, trace: &Trace, caller: &Caller, mono_ns: u64) -> bool {
        // Relaxed: the claim hands the debt to every later one, so none counts too few.
        self.owed.fetch_add(1, Ordering::Relaxed);
        let Some(position) = self.ring.claim_with(|| self.owed()) else {
            self.owed.fetch_sub(1, Ordering::Release);
            self.ring.add_dropped(2);
            return false;
        };
        self.ring.write(
            position,
            &event(op, EventPhase::Start, trace, caller, mono_ns, 0, 0),
        );
        true
    }

    fn end(&self, op: EventOp, trace: &Trace, caller: &Caller, value0: usize, value1: usize) {
        if let Some(position) = self.ring.claim(0) {
            let event = event(
                op,
                EventPhase::End,
                trace,
                caller,
                now_ns(),
                value0 as u32,
                value1 as u32,
            );
            self.ring.write(position, &event);
        }
        // Release: pairs with `owed`; whoever sees the debt paid claims behind this END.
        self.owed.fetch_sub(1, Ordering::Release);
    }

    /// Places that must stay free.
    fn owed(&self) -> u64 {
        // Acquire: pairs with the Release of whoever paid.
        self.owed.load(Ordering::Acquire)
    }

    fn line(&self, op: EventOp, trace: &Trace, caller: &Caller, value0: usize, value1: usize) {
        // A line is worth less than an event: it leaves the places alone that are owed.
        let Some(position) = self.ring.claim_with(|| self.owed()) else {
            self.counters.add(Counter::LinesLeftOut, 1);
            return;
        };
        let event = event(
            op,
            EventPhase::Line,
            trace,
            caller,
            now_ns(),
            value0 as u32,
            value1 as u32,
        );
        self.ring.write(position, &event);
    }
}

fn event<'a>(
    op: EventOp,
    phase: EventPhase,
    trace: &Trace,
    caller: &'a Caller,
    mono_ns: u64,
    value0: u32,
    value1: u32,
) -> Event<'a> {
    Event {
        op,
        phase,
        mono_ns,
        start_ns: trace.start_ns,
        op_id: trace.op_id,
        keyspace: trace.keyspace,
        value0,
        value1,
        request_id: caller.request_id.text(),
        device: caller.device.text(),
    }
}
