//! The first 4096 bytes of the control segment.
//!
//! The daemon fills the header before it hands the segment to anyone; afterwards it changes only the words
//! that live in cache lines of their own: state, liveness and gate (read by every batch), the heartbeat
//! (changes each tick), and the sleep word of the write path.

use super::{ControlError, Geometry, MAX_PROBE};
use crate::extent::max_object_bytes;
use crate::id::InstanceId;
use crate::key::HashSecret;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::version::{ABI_HASH, LAYOUT_VERSION};
use crate::view::View;
use core::mem::offset_of;

/// `HKVCTL01`, read as a little-endian number.
pub const MAGIC: u64 = u64::from_le_bytes(*b"HKVCTL01");

crate::layout! {
    /// The control header. All fields are atomics to those who read them; what is not named is zero.
    pub struct ControlHeader [4096] {
        /// [`MAGIC`].
        0: magic: u64,
        /// [`ABI_HASH`] of the daemon's build.
        8: abi_hash: u64,
        /// [`LAYOUT_VERSION`].
        16: layout_version: u32,
        /// Length of this header in bytes.
        20: header_len: u32,
        /// Random for each start of the daemon.
        24: instance_id: [u64; 2],
        /// The kernel's boot id.
        40: boot_id: [u64; 2],
        /// CLOCK_MONOTONIC at creation, in nanoseconds.
        56: created_mono_ns: u64,
        /// [`State`] of the daemon.
        64: state: u32,
        /// Bits of [`flags`].
        68: flags: u32,
        /// Thread id of the daemon's loop; the kernel sets bit 30 when it dies; 0 after a clean stop.
        72: daemon_alive: u32,
        /// 1 while new pins are refused because too much of the payload is pinned.
        76: pin_gate: u32,
        /// Keeps the next word on a line of its own.
        80: reserved_80: [u64; 6],
        /// Ticks of 100 ms since the start.
        128: heartbeat_tick: u64,
        /// Raised each tick while lines of reads are wanted.
        136: log_refill: u32,
        /// Raised when unused grants should come back.
        140: grant_recall: u32,
        /// Keeps the next word on a line of its own.
        144: reserved_144: [u64; 6],
        /// 1 while the loop sleeps and wants a doorbell.
        192: daemon_sleeping: u32,
        /// Zero.
        196: reserved_196: u32,
        /// Keeps the next words on lines of their own.
        200: reserved_200: [u64; 7],
        /// Entries in the table.
        256: entry_count: u32,
        /// Buckets are two to this power.
        260: buckets_log2: u32,
        /// Size of an entry in bytes.
        264: entry_size: u32,
        /// Keys a bucket can hold.
        268: bucket_slots: u32,
        /// Offset of the first bucket in bytes.
        272: buckets_offset: u64,
        /// Offset of the first entry in bytes.
        280: entries_offset: u64,
        /// Offset of the checksums in bytes; 0 = none.
        288: sums_offset: u64,
        /// Buckets that a key may lie away from its home, home included.
        296: max_probe: u32,
        /// Unit of extents in bytes.
        300: align_bytes: u32,
        /// First half of the hash's secret.
        304: hash_k0: u64,
        /// Second half of the hash's secret.
        312: hash_k1: u64,
        /// Length of the payload segment in bytes.
        320: payload_len: u64,
        /// Length of a piece of the payload that an engine may register by itself, in bytes.
        328: region_len: u64,
        /// Largest object in bytes.
        336: max_object_bytes: u32,
        /// Most sessions at a time.
        340: max_sessions: u32,
        /// A reader compares one acquired object in this many with its sum; 1 = every one, 0 = none.
        344: check_every: u32,
        /// Zero.
        348: reserved_348: u32,
        /// Zero.
        352: reserved_352: [u64; 468],
    }
}

/// Bits of [`ControlHeader::flags`].
pub mod flags {
    /// Telemetry is on: reads write their events.
    pub const TELEMETRY: u32 = 1;
    /// Some of the payload is on 2 MiB pages.
    pub const HUGE_PAGES: u32 = 1 << 1;
    /// The kernel refused a robust list, so `daemon_alive` is not cleared at a crash; use the heartbeat.
    pub const NO_ROBUST_LIST: u32 = 1 << 3;
}

/// What the daemon is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// Before the first client.
    Init = 0,
    /// Serving.
    Serving = 1,
    /// Told to stop; existing sessions may finish.
    Draining = 2,
    /// Stopped cleanly.
    Closed = 3,
}

/// What the daemon writes into a fresh header.
#[derive(Debug, Clone, Copy)]
pub struct HeaderInit {
    /// Random for this start.
    pub instance_id: InstanceId,
    /// The kernel's boot id as two words.
    pub boot_id: [u64; 2],
    /// CLOCK_MONOTONIC now, in nanoseconds.
    pub created_mono_ns: u64,
    /// Bits of [`flags`].
    pub flags: u32,
    /// Size of the tables.
    pub geometry: Geometry,
    /// Unit of extents in bytes.
    pub align_bytes: u32,
    /// Secret of the hash.
    pub hash_secret: HashSecret,
    /// Length of the payload in bytes.
    pub payload_len: u64,
    /// Most sessions at a time.
    pub max_sessions: u32,
    /// A reader compares one acquired object in this many with its sum; 0 = none. Not 0 only with sums.
    pub check_every: u32,
}

/// Piece of the payload that an engine may register by itself.
pub const REGION_BYTES: u64 = 1 << 30;

/// The header of a mapped control segment, whose length has been checked.
#[derive(Clone, Copy)]
pub struct HeaderView {
    view: View,
}

/// Panics only if `HeaderView::new` did not check the length.
macro_rules! word {
    ($self:ident, $bits:ident, $field:ident) => {
        $self
            .view
            .$bits(offset_of!(ControlHeader, $field) as u64)
            .expect("HeaderView::new checked that the whole header is mapped")
    };
}

impl HeaderView {
    /// A header at the start of `view`; only the length is checked.
    pub fn new(view: View) -> Result<HeaderView, ControlError> {
        view.words(0, size_of::<ControlHeader>() as u64 / 8)?;
        Ok(HeaderView { view })
    }

    /// Fills the header of a zeroed segment; the magic comes last.
    pub fn initialise(&self, init: &HeaderInit) {
        let set64 = |offset: usize, value: u64| {
            if let Ok(word) = self.view.u64(offset as u64) {
                // Relaxed: no client has the segment before HELLO, whose socket hop orders these stores.
                word.store(value, Ordering::Relaxed);
            }
        };
        let set32 = |offset: usize, value: u32| {
            if let Ok(word) = self.view.u32(offset as u64) {
                word.store(value, Ordering::Relaxed);
            }
        };
        let g = init.geometry;
        set64(offset_of!(ControlHeader, abi_hash), ABI_HASH);
        set32(offset_of!(ControlHeader, layout_version), LAYOUT_VERSION);
        set32(
            offset_of!(ControlHeader, header_len),
            size_of::<ControlHeader>() as u32,
        );
        for (i, word) in init.instance_id.words().into_iter().enumerate() {
            set64(offset_of!(ControlHeader, instance_id) + i * 8, word);
        }
        for (i, word) in init.boot_id.into_iter().enumerate() {
            set64(offset_of!(ControlHeader, boot_id) + i * 8, word);
        }
        set64(
            offset_of!(ControlHeader, created_mono_ns),
            init.created_mono_ns,
        );
        set32(offset_of!(ControlHeader, flags), init.flags);
        set32(offset_of!(ControlHeader, entry_count), g.entry_count);
        set32(offset_of!(ControlHeader, buckets_log2), g.buckets_log2);
        set32(
            offset_of!(ControlHeader, entry_size),
            size_of::<super::entry::Entry>() as u32,
        );
        set32(
            offset_of!(ControlHeader, bucket_slots),
            super::bucket::SLOTS as u32,
        );
        set64(
            offset_of!(ControlHeader, buckets_offset),
            g.buckets_offset(),
        );
        set64(
            offset_of!(ControlHeader, entries_offset),
            g.entries_offset(),
        );
        set64(
            offset_of!(ControlHeader, sums_offset),
            g.sums_offset().unwrap_or(0),
        );
        set32(offset_of!(ControlHeader, check_every), init.check_every);
        set32(offset_of!(ControlHeader, max_probe), MAX_PROBE);
        set32(offset_of!(ControlHeader, align_bytes), init.align_bytes);
        set64(offset_of!(ControlHeader, hash_k0), init.hash_secret.k0);
        set64(offset_of!(ControlHeader, hash_k1), init.hash_secret.k1);
        set64(offset_of!(ControlHeader, payload_len), init.payload_len);
        set64(offset_of!(ControlHeader, region_len), REGION_BYTES);
        set32(
            offset_of!(ControlHeader, max_object_bytes),
            max_object_bytes(init.payload_len, u64::from(init.align_bytes)) as u32,
        );
        set32(offset_of!(ControlHeader, max_sessions), init.max_sessions);
        // Release: whoever sees the magic sees the rest.
        word!(self, u64, magic).store(MAGIC, Ordering::Release);
    }

    /// Checks magic and layouts, and gives the geometry.
    pub fn verify(&self) -> Result<Geometry, ControlError> {
        // Acquire is not guaranteed on a read-only mapping; the socket hop before ordered these stores.
        let magic = word!(self, u64, magic).load(Ordering::Relaxed);
        if magic != MAGIC {
            return Err(ControlError::Magic {
                found: magic,
                expected: MAGIC,
            });
        }
        let abi_hash = word!(self, u64, abi_hash).load(Ordering::Relaxed);
        if abi_hash != ABI_HASH {
            return Err(ControlError::AbiHash {
                found: abi_hash,
                expected: ABI_HASH,
            });
        }
        let sums_offset = word!(self, u64, sums_offset).load(Ordering::Relaxed);
        let geometry = Geometry {
            entry_count: word!(self, u32, entry_count).load(Ordering::Relaxed),
            buckets_log2: word!(self, u32, buckets_log2).load(Ordering::Relaxed),
            has_sums: sums_offset != 0,
        };
        let checks = [
            (
                "entry_count",
                u64::from(geometry.entry_count),
                geometry.entry_count > 0 && geometry.entry_count < u32::MAX,
            ),
            (
                "buckets_log2",
                u64::from(geometry.buckets_log2),
                geometry.buckets_log2 < 32,
            ),
            (
                "max_probe",
                u64::from(self.max_probe()),
                (1..=MAX_PROBE).contains(&self.max_probe()),
            ),
            (
                "align_bytes",
                u64::from(self.align_bytes()),
                self.align_bytes().is_power_of_two(),
            ),
            (
                "check_every",
                u64::from(self.check_every()),
                geometry.has_sums || self.check_every() == 0,
            ),
        ];
        for (field, value, is_allowed) in checks {
            if !is_allowed {
                return Err(ControlError::Field { field, value });
            }
        }
        // After the other fields, from which the place is computed.
        if sums_offset != geometry.sums_offset().unwrap_or(0) {
            return Err(ControlError::Field {
                field: "sums_offset",
                value: sums_offset,
            });
        }
        Ok(geometry)
    }

    /// The instance that this segment belongs to.
    #[inline]
    pub fn instance_words(&self) -> [u64; 2] {
        let word = |i: usize| {
            self.view
                .u64((offset_of!(ControlHeader, instance_id) + i * 8) as u64)
                .map_or(0, |w| w.load(Ordering::Relaxed))
        };
        [word(0), word(1)]
    }

    /// [`State`] as a number.
    #[inline]
    pub fn state(&self) -> &AtomicU32 {
        word!(self, u32, state)
    }

    /// The liveness word: a robust futex of the loop's thread.
    #[inline]
    pub fn daemon_alive(&self) -> &AtomicU32 {
        word!(self, u32, daemon_alive)
    }

    /// The gate for new pins.
    #[inline]
    pub fn pin_gate(&self) -> &AtomicU32 {
        word!(self, u32, pin_gate)
    }

    /// Bits of [`flags`].
    #[inline]
    pub fn flags(&self) -> &AtomicU32 {
        word!(self, u32, flags)
    }

    /// Ticks of 100 ms since the start.
    pub fn heartbeat_tick(&self) -> &AtomicU64 {
        word!(self, u64, heartbeat_tick)
    }

    /// Raised by the daemon each tick while log lines of reads are wanted; a client that sees it change has its
    /// allowance of lines again.
    pub fn log_refill(&self) -> &AtomicU32 {
        word!(self, u32, log_refill)
    }

    /// Raised by the daemon when space is short; a client that sees it change gives back the granted extents that it
    /// does not use.
    pub fn grant_recall(&self) -> &AtomicU32 {
        word!(self, u32, grant_recall)
    }

    /// 1 while the daemon's loop sleeps; see [`crate::lease::commits::Doorbell`].
    #[inline]
    pub fn daemon_sleeping(&self) -> &AtomicU32 {
        word!(self, u32, daemon_sleeping)
    }

    /// Secret of the hash.
    pub fn hash_secret(&self) -> HashSecret {
        HashSecret {
            k0: word!(self, u64, hash_k0).load(Ordering::Relaxed),
            k1: word!(self, u64, hash_k1).load(Ordering::Relaxed),
        }
    }

    /// Buckets that a key may lie away from its home, home included.
    pub fn max_probe(&self) -> u32 {
        word!(self, u32, max_probe).load(Ordering::Relaxed)
    }

    /// Unit of extents in bytes.
    pub fn align_bytes(&self) -> u32 {
        word!(self, u32, align_bytes).load(Ordering::Relaxed)
    }

    /// Length of the payload in bytes.
    pub fn payload_len(&self) -> u64 {
        word!(self, u64, payload_len).load(Ordering::Relaxed)
    }

    /// A reader compares one acquired object in this many with its sum; 0 = none.
    pub fn check_every(&self) -> u32 {
        word!(self, u32, check_every).load(Ordering::Relaxed)
    }

    /// The view that the header stands in.
    pub fn view(&self) -> View {
        self.view
    }
}
