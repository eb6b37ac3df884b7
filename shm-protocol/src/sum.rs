//! Sums of objects: how both sides tell that payload bytes are no longer those that were committed.
//!
//! The daemon's workers sum an object when it is committed and when the scrubber comes by, the client library when it
//! acquires one. A [`Sum`] stands in the control segment, one word an entry; a word of 0 means that there is none.
//!
//! The function is CRC-64/NVME. It finds every change of one bit, and every change within 64 bits that follow each
//! other, with certainty, and any other with a probability of 1 - 2^-64; it finds accidents and is no defence against a
//! forger. Over cold objects of 2 MiB it runs as fast as XXH3-64 (both at the speed of memory), over objects in the
//! cache it is faster, and XXH3 gives no certainty for any pattern of flips.
//!
//! Other processes may write to the payload at any time, so no slice of it is ever made: the bytes are copied word by
//! word into a small private buffer, each word is loaded once, and the sum is taken over the copy.
//!
//! ```text
//!   payload words --load, relaxed--> 8 KiB on the stack --crc--> Sum
//! ```

use crate::view::{OutOfBounds, View, Words};
use core::num::NonZeroU64;
use crc_fast::{CrcAlgorithm, Digest};

/// Words of the private buffer: 8 KiB, which the first cache level holds beside the source.
const BUFFER_WORDS: usize = 1024;
/// The same for a small object, for which emptying a large buffer would cost more than its sum.
const SMALL_BUFFER_WORDS: usize = 64;
const WORD_BYTES: u64 = 8;

/// The sum of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sum(NonZeroU64);

impl Sum {
    /// The sum with this checksum; 0, which means "none" in a segment, becomes 1.
    #[inline]
    pub fn of_checksum(checksum: u64) -> Sum {
        Sum(NonZeroU64::new(checksum).unwrap_or(NonZeroU64::MIN))
    }

    /// What a segment's word says.
    #[inline]
    pub fn from_word(word: u64) -> Option<Sum> {
        NonZeroU64::new(word).map(Sum)
    }

    /// What a segment's word is to say.
    #[inline]
    pub fn to_word(sum: Option<Sum>) -> u64 {
        sum.map_or(0, |sum| sum.0.get())
    }
}

/// A sum that is made piece by piece, so that whoever makes it can stop in between.
pub struct Summing {
    digest: Digest,
}

impl Summing {
    /// Of no bytes yet.
    pub fn new() -> Summing {
        Summing {
            digest: Digest::new(CrcAlgorithm::Crc64Nvme),
        }
    }

    /// Goes on with `len_bytes` bytes at `offset_bytes` of a payload. The offset is a multiple of 8, and so is the length
    /// of the payload, as every alignment of extents is at least 64.
    pub fn add(
        &mut self,
        payload: &View,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> Result<(), OutOfBounds> {
        let words = payload.words(offset_bytes, len_bytes.div_ceil(WORD_BYTES))?;
        if words.count() <= SMALL_BUFFER_WORDS {
            self.add_through::<SMALL_BUFFER_WORDS>(&words, len_bytes);
        } else {
            self.add_through::<BUFFER_WORDS>(&words, len_bytes);
        }
        Ok(())
    }

    fn add_through<const BUFFER: usize>(&mut self, words: &Words, len_bytes: u64) {
        let mut buffer = [0_u64; BUFFER];
        let mut bytes_left = len_bytes as usize;
        let mut next = 0;
        while bytes_left > 0 {
            let count = words.copy_out(next, &mut buffer);
            next += count;
            let bytes = bytes_of(&buffer[..count]);
            let bytes = &bytes[..bytes.len().min(bytes_left)];
            self.digest.update(bytes);
            bytes_left -= bytes.len();
        }
    }

    /// The sum of all of it.
    pub fn finish(self) -> Sum {
        Sum::of_checksum(self.digest.finalize())
    }
}

impl Default for Summing {
    fn default() -> Summing {
        Summing::new()
    }
}

/// The sum of `len_bytes` bytes at `offset_bytes` of a payload.
pub fn sum_of(payload: &View, offset_bytes: u64, len_bytes: u64) -> Result<Sum, OutOfBounds> {
    let mut summing = Summing::new();
    summing.add(payload, offset_bytes, len_bytes)?;
    Ok(summing.finish())
}

fn bytes_of(words: &[u64]) -> &[u8] {
    // SAFETY: the words are private memory of this function's caller, u64 has no padding, u8 needs no alignment, and the
    // length in bytes is exactly theirs.
    unsafe { core::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn payload(bytes: &mut [u64]) -> View {
        // SAFETY: the words outlive the view in every test, and nobody else uses them meanwhile.
        unsafe { View::new(bytes.as_mut_ptr().cast(), size_of_val(bytes) as u64) }
    }

    fn filled(words: usize) -> Vec<u64> {
        (0..words as u64)
            .map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            .collect()
    }

    #[test]
    fn the_sum_is_crc_64_nvme_of_exactly_the_bytes() {
        let mut words = [0_u64; 8];
        words[1] = u64::from_le_bytes(*b"12345678");
        words[2] = u64::from_le_bytes(*b"9abcdefg");
        let view = payload(&mut words);
        // The check value of the CRC catalogue for CRC-64/NVME.
        assert_eq!(
            sum_of(&view, 8, 9).unwrap(),
            Sum::of_checksum(0xae8b_1486_0a79_9888)
        );
        assert_ne!(sum_of(&view, 8, 9).unwrap(), sum_of(&view, 8, 10).unwrap());
    }

    #[test]
    fn pieces_make_the_same_sum_as_the_whole() {
        let mut words = filled(5 * BUFFER_WORDS);
        let expected = |len: usize| {
            let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
            digest.update(&bytes_of(&filled(5 * BUFFER_WORDS))[64..64 + len]);
            Sum::of_checksum(digest.finalize())
        };
        let view = payload(&mut words);
        for len in [0, 1, 511, 512, 513, 8191, 8192, 8193, 30_000] {
            assert_eq!(sum_of(&view, 64, len as u64).unwrap(), expected(len));
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let mut words = filled(64);
        let clean = sum_of(&payload(&mut words), 0, 509).unwrap();
        for bit in 0..509 * 8 {
            words[bit / 64] ^= 1 << (bit % 64);
            assert_ne!(sum_of(&payload(&mut words), 0, 509), Ok(clean), "bit {bit}");
            words[bit / 64] ^= 1 << (bit % 64);
        }
        assert_eq!(sum_of(&payload(&mut words), 0, 509), Ok(clean));
    }

    #[test]
    fn a_checksum_of_zero_is_still_a_sum() {
        assert_eq!(Sum::to_word(Some(Sum::of_checksum(0))), 1);
        assert_eq!(Sum::from_word(0), None);
        assert_eq!(Sum::to_word(None), 0);
    }

    #[test]
    fn bytes_outside_of_the_payload_have_no_sum() {
        let mut words = filled(16);
        let view = payload(&mut words);
        assert!(sum_of(&view, 64, 64).is_ok());
        assert!(sum_of(&view, 64, 65).is_err());
        assert!(sum_of(&view, u64::MAX - 7, 8).is_err());
        assert!(sum_of(&view, 4, 8).is_err());
    }
}
