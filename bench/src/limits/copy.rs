//! Copying and reading bytes: the plain copy, streaming stores, and a sum.

use std::hint::black_box;

/// How bytes are copied.
pub type Copy = unsafe fn(*mut u8, *const u8, usize);

/// The copies that this processor can do, by name. Each takes whole multiples of 256 bytes and a destination aligned to
/// 64; both ranges are the caller's and do not overlap.
pub fn copies() -> Vec<(&'static str, Copy)> {
    let mut known: Vec<(&'static str, Copy)> = vec![("memcpy", plain)];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") {
            known.push(("AVX2 streaming", streaming_avx2::<0>));
            known.push(("AVX2 streaming, prefetching", streaming_avx2::<512>));
        }
        if is_x86_feature_detected!("avx512f") {
            known.push(("AVX-512 streaming", streaming_avx512::<0>));
            known.push(("AVX-512 streaming, prefetching", streaming_avx512::<512>));
        }
    }
    known
}

/// # Safety
///
/// As [`copies`] says.
unsafe fn plain(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
    black_box(to);
}

/// # Safety
///
/// As [`copies`] says, on a processor with AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn streaming_avx2<const AHEAD: usize>(to: *mut u8, from: *const u8, len: usize) {
    use std::arch::x86_64::{
        _MM_HINT_NTA, _mm_prefetch, _mm_sfence, _mm256_loadu_si256, _mm256_stream_si256,
    };
    for at in (0..len).step_by(256) {
        // SAFETY: the caller's promise; a prefetch may point anywhere.
        unsafe {
            if AHEAD > 0 {
                for line in (0..256).step_by(64) {
                    _mm_prefetch::<_MM_HINT_NTA>(from.wrapping_add(at + AHEAD + line).cast());
                }
            }
            for part in (at..at + 256).step_by(32) {
                _mm256_stream_si256(
                    to.add(part).cast(),
                    _mm256_loadu_si256(from.add(part).cast()),
                );
            }
        }
    }
    _mm_sfence();
}

/// # Safety
///
/// As [`copies`] says, on a processor with AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn streaming_avx512<const AHEAD: usize>(to: *mut u8, from: *const u8, len: usize) {
    use std::arch::x86_64::{
        _MM_HINT_NTA, _mm_prefetch, _mm_sfence, _mm512_loadu_si512, _mm512_stream_si512,
    };
    for at in (0..len).step_by(256) {
        // SAFETY: the caller's promise; a prefetch may point anywhere.
        unsafe {
            if AHEAD > 0 {
                for line in (0..256).step_by(64) {
                    _mm_prefetch::<_MM_HINT_NTA>(from.wrapping_add(at + AHEAD + line).cast());
                }
            }
            for part in (at..at + 256).step_by(64) {
                _mm512_stream_si512(
                    to.add(part).cast(),
                    _mm512_loadu_si512(from.add(part).cast()),
                );
            }
        }
    }
    _mm_sfence();
}

/// The sum that stands for "all bytes were read", of `words` 64-bit words.
///
/// # Safety
///
/// The words may be read, are aligned, and nobody writes them meanwhile.
pub unsafe fn sum(data: *const u8, words: usize) -> u64 {
    // SAFETY: the caller's promise.
    let data = unsafe { std::slice::from_raw_parts(data.cast::<u64>(), words) };
    data.iter().fold(0_u64, |acc, word| acc.wrapping_add(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_copy_copies_all_bytes_and_no_other() {
        let source: Vec<u64> = (0..8192_u64)
            .map(|word| word.wrapping_mul(0x0101_0101_0101_0107))
            .collect();
        for (name, copy) in copies() {
            let mut to = vec![0_u64; 8192 + 16];
            let shift = to.as_ptr().align_offset(64);
            let from = source.as_ptr().cast::<u8>();
            // SAFETY: both vectors are long enough, and the destination is aligned.
            let summed = unsafe {
                copy(to.as_mut_ptr().add(shift).cast(), from, 65_536);
                sum(to.as_ptr().add(shift).cast(), 8192)
            };
            assert!(to[shift..shift + 8192] == source[..], "{name}");
            assert!(to[shift + 8192..].iter().all(|word| *word == 0), "{name}");
            let wanted = source
                .iter()
                .fold(0_u64, |acc, word| acc.wrapping_add(*word));
            assert_eq!(summed, wanted, "{name}");
        }
    }
}
