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
//! the bytes visible. CPUs without AVX2 use the plain copy.

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
    // SAFETY: the caller promises both ranges and that they do not overlap.
    unsafe { core::ptr::copy_nonoverlapping(source, destination, len) };
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86 {
    use core::arch::x86_64::{
        __m256i, __m512i, _mm_prefetch, _mm_sfence, _mm256_loadu_si256, _mm256_stream_si256,
        _mm512_loadu_si512, _mm512_stream_si512,
    };

    /// Bytes of one step: four vectors of 64, or eight of 32.
    const STEP_BYTES: usize = 256;
    /// How far ahead of the loads the source is asked for, in bytes.
    const PREFETCH_BYTES: usize = 1024;

    /// Copies head and tail and calls `step(destination, source)` for each whole step between them.
    ///
    /// # Safety
    ///
    /// As [`super::copy`]; `len` is at least two steps, and `step` copies exactly [`STEP_BYTES`].
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
            _mm_sfence();
        }
    }

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

    fn copies_exactly(copy: Copy, len: usize, to_offset: usize, from_offset: usize) {
        const GUARD: usize = 256;
        let source: Vec<u8> = (0..len + from_offset + GUARD)
            .map(|i| (i * 31 + i / 251) as u8)
            .collect();
        let mut destination = vec![0xee_u8; len + to_offset + 2 * GUARD];
        let start = GUARD + to_offset;
        // SAFETY: both vectors hold the ranges, and they are different allocations.
        unsafe {
            copy(
                destination.as_mut_ptr().add(start),
                source.as_ptr().add(from_offset),
                len,
            );
        }
        assert!(
            destination[start..start + len] == source[from_offset..from_offset + len],
            "{len} bytes, offsets {to_offset} and {from_offset}"
        );
        assert!(destination[..start].iter().all(|b| *b == 0xee));
        assert!(destination[start + len..].iter().all(|b| *b == 0xee));
    }

    #[test]
    fn every_byte_and_no_other_is_copied_at_every_size_and_alignment() {
        let s = STREAMING_BYTES;
        for len in [
            0,
            1,
            63,
            64,
            4095,
            s - 1,
            s,
            s + 1,
            s + 255,
            s + 256,
            3 * s + 77,
        ] {
            for to_offset in [0, 1, 31, 32, 33, 63] {
                for from_offset in [0, 1, 17, 63] {
                    copies_exactly(copy, len, to_offset, from_offset);
                }
            }
        }
    }

    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[test]
    fn both_streaming_forms_are_exact_where_the_cpu_has_them() {
        let lens = [512, 513, 1000, 4096, 70_001];
        for len in lens {
            for offset in [0, 1, 32, 63] {
                if is_x86_feature_detected!("avx2") {
                    copies_exactly(x86::copy_avx2, len, offset, 5);
                }
                if is_x86_feature_detected!("avx512f") {
                    copies_exactly(x86::copy_avx512, len, offset, 5);
                }
            }
        }
    }
}
