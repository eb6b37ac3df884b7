//! Copying into the payload.
//!
//! A writer's copy is large and nobody on this core reads it back, so above [`STREAMING_BYTES`] it uses
//! streaming stores, which spare the destination's cache lines a read and the caches their eviction. The head
//! up to the vector's alignment and the tail behind the last whole step are copied the plain way:
//!
//! ```text
//!   destination:  | head | step | step | ... | step | tail |
//!                        ^ aligned to the vector
//! ```
//!
//! Streaming stores are weakly ordered, so the copy ends with the fence that orders them before whatever makes
//! the bytes visible. Which form copies is chosen at run time, by the CPU and the length:
//!
//! | CPU | from [`STREAMING_BYTES`] on |
//! |---|---|
//! | x86-64 with AVX-512F | streaming stores of 64 bytes |
//! | x86-64 with AVX2 | streaming stores of 32 bytes |
//! | aarch64 | non-temporal pairs of 16 bytes |
//! | others | the plain copy |

#[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]
use hostkv_shm_protocol::sync::payload_store_fence;

/// From this length on a copy streams; below it the plain copy, which leaves the bytes in the cache, is faster.
pub const STREAMING_BYTES: usize = 64 * 1024;

/// Copies `len` bytes as fast as this CPU can, for a destination that this core does not read soon.
///
/// # Safety
///
/// `source` may be read and `destination` written for `len` bytes, they do not overlap, and nobody else writes
/// to either meanwhile. With `len` 0 neither is touched.
pub unsafe fn copy(destination: *mut u8, source: *const u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if len >= STREAMING_BYTES {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512F, and our caller promises the rest.
            return unsafe { x86::copy_avx512(destination, source, len) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2, and our caller promises the rest.
            return unsafe { x86::copy_avx2(destination, source, len) };
        }
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    if len >= STREAMING_BYTES {
        // SAFETY: every aarch64 CPU that Linux runs on has the vector registers, and our caller promises the rest.
        return unsafe { arm::copy_pairs(destination, source, len) };
    }
    // SAFETY: the caller promises both ranges and that they do not overlap.
    unsafe { core::ptr::copy_nonoverlapping(source, destination, len) };
}

/// Bytes of one step: four vectors of 64, eight of 32 or sixteen of 16.
#[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]
const STEP_BYTES: usize = 256;

/// Copies head and tail the plain way, calls `step(destination, source)` for each whole step between them, and fences.
///
/// # Safety
///
/// As [`copy`]; `step` copies exactly [`STEP_BYTES`] to a multiple of `ALIGN`.
#[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]
#[inline(always)]
unsafe fn in_steps<const ALIGN: usize>(
    destination: *mut u8,
    source: *const u8,
    len: usize,
    step: impl Fn(*mut u8, *const u8),
) {
    let head = destination.align_offset(ALIGN).min(len);
    let body_end = head + (len - head) / STEP_BYTES * STEP_BYTES;
    // SAFETY: head, body and tail are parts of the caller's two ranges.
    unsafe {
        core::ptr::copy_nonoverlapping(source, destination, head);
        let mut at = head;
        while at < body_end {
            step(destination.add(at), source.add(at));
            at += STEP_BYTES;
        }
        core::ptr::copy_nonoverlapping(
            source.add(body_end),
            destination.add(body_end),
            len - body_end,
        );
    }
    payload_store_fence();
}

#[cfg(all(target_arch = "aarch64", not(miri)))]
mod arm {
    use super::{STEP_BYTES, in_steps};

    /// # Safety
    ///
    /// As [`super::copy`].
    pub(super) unsafe fn copy_pairs(destination: *mut u8, source: *const u8, len: usize) {
        const BLOCK_BYTES: usize = 64;
        let step = |to: *mut u8, from: *const u8| {
            for at in (0..STEP_BYTES).step_by(BLOCK_BYTES) {
                // SAFETY: `in_steps` gives a whole step of both ranges; the block lies in it. The stack is not touched.
                unsafe {
                    core::arch::asm!(
                        "ldp {a:q}, {b:q}, [{from}]",
                        "ldp {c:q}, {d:q}, [{from}, #32]",
                        "stnp {a:q}, {b:q}, [{to}]",
                        "stnp {c:q}, {d:q}, [{to}, #32]",
                        from = in(reg) from.add(at),
                        to = in(reg) to.add(at),
                        a = out(vreg) _,
                        b = out(vreg) _,
                        c = out(vreg) _,
                        d = out(vreg) _,
                        options(nostack, preserves_flags),
                    );
                }
            }
        };
        // SAFETY: the caller promises the ranges; `step` copies 256 bytes.
        unsafe { in_steps::<16>(destination, source, len, step) };
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86 {
    use super::{STEP_BYTES, in_steps};
    use core::arch::x86_64::{
        __m256i, __m512i, _mm_prefetch, _mm256_loadu_si256, _mm256_stream_si256,
        _mm512_loadu_si512, _mm512_stream_si512,
    };

    /// How far ahead of the loads the source is asked for, in bytes.
    const PREFETCH_BYTES: usize = 1024;

    /// # Safety
    ///
    /// As [`super::copy`], on a CPU with AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn copy_avx512(destination: *mut u8, source: *const u8, len: usize) {
        let step = |to: *mut u8, from: *const u8| {
            // SAFETY: `in_steps` gives a whole step of both ranges, `to` aligned to 64; the prefetch may
            // point behind the source, where it does nothing.
            unsafe {
                for line in (0..STEP_BYTES).step_by(64) {
                    _mm_prefetch::<{ core::arch::x86_64::_MM_HINT_NTA }>(
                        from.wrapping_add(PREFETCH_BYTES + line).cast(),
                    );
                }
                let v: [__m512i; 4] =
                    core::array::from_fn(|i| _mm512_loadu_si512(from.add(i * 64).cast()));
                for (i, v) in v.into_iter().enumerate() {
                    _mm512_stream_si512(to.add(i * 64).cast(), v);
                }
            }
        };
        // SAFETY: the caller promises the ranges; `step` copies 256 bytes.
        unsafe { in_steps::<64>(destination, source, len, step) };
    }

    /// # Safety
    ///
    /// As [`super::copy`], on a CPU with AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn copy_avx2(destination: *mut u8, source: *const u8, len: usize) {
        let step = |to: *mut u8, from: *const u8| {
            // SAFETY: `in_steps` gives a whole step of both ranges, `to` aligned to 32; the prefetch may
            // point behind the source, where it does nothing.
            unsafe {
                for line in (0..STEP_BYTES).step_by(64) {
                    _mm_prefetch::<{ core::arch::x86_64::_MM_HINT_NTA }>(
                        from.wrapping_add(PREFETCH_BYTES + line).cast(),
                    );
                }
                let v: [__m256i; 8] =
                    core::array::from_fn(|i| _mm256_loadu_si256(from.add(i * 32).cast()));
                for (i, v) in v.into_iter().enumerate() {
                    _mm256_stream_si256(to.add(i * 32).cast(), v);
                }
            }
        };
        // SAFETY: the caller promises the ranges; `step` copies 256 bytes.
        unsafe { in_steps::<32>(destination, source, len, step) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Copy = unsafe fn(*mut u8, *const u8, usize);

    /// Every form that this CPU has.
    fn forms() -> Vec<(&'static str, Copy)> {
        let mut forms: Vec<(&'static str, Copy)> = vec![("as chosen", copy)];
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            if is_x86_feature_detected!("avx2") {
                forms.push(("AVX2", x86::copy_avx2));
            }
            if is_x86_feature_detected!("avx512f") {
                forms.push(("AVX-512", x86::copy_avx512));
            }
        }
        #[cfg(all(target_arch = "aarch64", not(miri)))]
        forms.push(("pairs", arm::copy_pairs));
        forms
    }

    const GUARD: usize = 128;
    const UNTOUCHED: u8 = 0xee;

    /// Two buffers that are used again and again.
    struct Buffers {
        source: Vec<u8>,
        destination: Vec<u8>,
    }

    impl Buffers {
        /// For copies of at most `most` bytes, offsets included.
        fn new(most: usize) -> Buffers {
            Buffers {
                source: (0..most).map(|i| (i * 31 + i / 251) as u8 | 1).collect(),
                // From a page's start on, so that an offset is an alignment.
                destination: vec![UNTOUCHED; most + 4096 + 2 * GUARD],
            }
        }

        fn copies_exactly(&mut self, form: (&str, Copy), len: usize, to: usize, from: usize) {
            let page = self.destination[GUARD..].as_ptr().align_offset(4096);
            let start = GUARD + page + to;
            // SAFETY: both vectors hold the ranges, and they are different allocations.
            unsafe {
                form.1(
                    self.destination.as_mut_ptr().add(start),
                    self.source.as_ptr().add(from),
                    len,
                );
            }
            let what = || format!("{}: {len} bytes, offsets {to} and {from}", form.0);
            let copied = &mut self.destination[start - GUARD..start + len + GUARD];
            assert!(
                copied[GUARD..GUARD + len] == self.source[from..from + len],
                "{}",
                what()
            );
            copied[GUARD..GUARD + len].fill(UNTOUCHED);
            assert!(copied.iter().all(|byte| *byte == UNTOUCHED), "{}", what());
        }
    }

    #[test]
    fn every_byte_and_no_other_is_copied_at_every_size_and_alignment_up_to_a_page() {
        let mut buffers = Buffers::new(4096 + 4096 + 64);
        for form in forms() {
            for len in 0..=4096 {
                // Every pair of alignments is met by many sizes, and every alignment within a line by each.
                for to in 0..64 {
                    buffers.copies_exactly(form, len, to, (to * 7 + len) % 64);
                }
            }
            for len in [1, 63, 64, 255, 256, 257, 1000, 4096] {
                for to in 0..4096 {
                    buffers.copies_exactly(form, len, to, (to * 5) % 64);
                }
            }
        }
    }

    #[test]
    fn every_byte_and_no_other_is_copied_where_the_form_changes() {
        let s = STREAMING_BYTES;
        let mut buffers = Buffers::new(3 * s + 4096);
        for form in forms() {
            for len in [s - 1, s, s + 1, s + 255, s + 256, 3 * s + 77] {
                for to in [0, 1, 15, 16, 31, 32, 33, 63, 64, 4095] {
                    for from in [0, 1, 17, 63] {
                        buffers.copies_exactly(form, len, to, from);
                    }
                }
            }
        }
    }
}
