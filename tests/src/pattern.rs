//! Bytes that prove which write they came from.
//!
//! An object is a row of 64-bit words; each is a function of key, write and offset that can be undone, so that any
//! single word of it says all three. The steps from word to word are equal, which makes an object as quick to prove
//! as to read.
//!
//! ```text
//!   packed:  key (20 bits) | write (32 bits) | offset in words (12 bits)
//!   word  =  packed * MULTIPLIER (mod 2^64)        undone by the inverse of MULTIPLIER
//! ```

use hostkv::ChunkKey;

/// Any odd number has an inverse; this one spreads the low bits (2^64 divided by the golden ratio).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

const KEY_BITS: u32 = 20;
const OFFSET_BITS: u32 = 12;
const _: () = assert!(KEY_BITS + u32::BITS + OFFSET_BITS == u64::BITS);

/// The longest object, in bytes.
pub const MAX_BYTES: u64 = 8 << OFFSET_BITS;

/// One write of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write {
    /// Number of the key, below 2^20.
    pub key: u32,
    /// Number of the write, from 1; each is used once in a pool's life.
    pub number: u32,
}

/// Key number `number` of this pattern.
pub fn key(number: u32) -> ChunkKey {
    crate::key("pattern", number as usize)
}

/// Newton's step doubles the right bits of an inverse; five bits to begin with.
const fn inverse(odd: u64) -> u64 {
    let mut inverse = odd.wrapping_mul(3) ^ 2;
    let mut step = 0;
    while step < 4 {
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
}

impl Write {
    /// Takes the next number; every eighth is kept for writes that are aborted, so that a reader knows them.
    pub fn number(next: &mut u32, is_aborted: bool) -> u32 {
        while next.is_multiple_of(8) != is_aborted || *next == 0 {
            *next = next.wrapping_add(1);
        }
        let number = *next;
        *next = next.wrapping_add(1);
        number
    }

    /// Whether nobody may ever read this write.
    pub fn is_to_be_aborted(self) -> bool {
        self.number.is_multiple_of(8)
    }

    fn first_word(self) -> u64 {
        let packed = u64::from(self.key) << (u32::BITS + OFFSET_BITS)
            | u64::from(self.number) << OFFSET_BITS;
        packed.wrapping_mul(MULTIPLIER)
    }

    /// The write that a word comes from, and its offset in bytes.
    pub fn of_word(word: u64) -> (Write, u64) {
        const INVERSE: u64 = inverse(MULTIPLIER);
        let packed = word.wrapping_mul(INVERSE);
        let write = Write {
            key: (packed >> (u32::BITS + OFFSET_BITS)) as u32,
            number: (packed >> OFFSET_BITS) as u32,
        };
        (write, packed % (1 << OFFSET_BITS) * 8)
    }

    /// Writes the object.
    ///
    /// # Safety
    ///
    /// `data` is aligned to 8 and points to `len_bytes` bytes that nobody else writes meanwhile.
    pub unsafe fn fill(self, data: *mut u8, len_bytes: u64) {
        assert!(len_bytes.is_multiple_of(8) && len_bytes <= MAX_BYTES);
        let mut word = self.first_word();
        for at in 0..(len_bytes / 8) as usize {
            // SAFETY: `at` is below the length that the caller promises.
            unsafe { data.cast::<u64>().add(at).write(word) };
            word = word.wrapping_add(MULTIPLIER);
        }
    }
}

/// Proves that every word of an object comes from one write of this key; gives the write, or says what is there.
///
/// # Safety
///
/// `data` is aligned to 8 and points to `len_bytes` bytes that nobody writes meanwhile.
pub unsafe fn prove(key: u32, data: *const u8, len_bytes: u64) -> Result<Write, String> {
    let count = (len_bytes / 8) as usize;
    // SAFETY: an object has at least one word.
    let first = unsafe { data.cast::<u64>().read() };
    let (write, offset) = Write::of_word(first);
    let mut expected = write.first_word();
    let mut difference = 0;
    for at in 0..count {
        // SAFETY: `at` is below the length that the caller promises.
        difference |= unsafe { data.cast::<u64>().add(at).read() } ^ expected;
        expected = expected.wrapping_add(MULTIPLIER);
    }
    if difference == 0 && write.key == key && offset == 0 && write.number != 0 {
        return Ok(write);
    }
    let word_at = |at: usize| {
        // SAFETY: `at` is below the count of words.
        unsafe { data.cast::<u64>().add(at).read() }
    };
    let own = Write { key, ..write };
    let is_foreign = |at: &usize| Write::of_word(word_at(*at)) != (own, *at as u64 * 8);
    let at = (0..count).find(is_foreign).unwrap_or(0);
    let word = word_at(at);
    let (found, found_offset) = Write::of_word(word);
    Err(format!(
        "the object of key {key} begins with {write:?} and has at offset {} the word {word:#018x}, which is {found:?} at offset \
         {found_offset}",
        at * 8
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_says_its_key_its_write_and_its_offset() {
        let write = Write {
            key: 0xf_edcb,
            number: 0x8765_4321,
        };
        let mut words = vec![0_u64; 4096];
        // SAFETY: the vector is this test's own and has as many bytes.
        unsafe { write.fill(words.as_mut_ptr().cast(), MAX_BYTES) };
        for (at, word) in words.iter().enumerate() {
            assert_eq!(Write::of_word(*word), (write, at as u64 * 8));
        }
        // SAFETY: as above.
        let proven = unsafe { prove(write.key, words.as_ptr().cast(), MAX_BYTES) };
        assert_eq!(proven, Ok(write));
    }

    #[test]
    fn one_foreign_word_anywhere_is_found_and_named() {
        let (write, other) = (Write { key: 5, number: 9 }, Write { key: 5, number: 10 });
        for at in [0_usize, 1, 300, 511] {
            let mut words = vec![0_u64; 512];
            let mut strange = vec![0_u64; 512];
            // SAFETY: the vectors are this test's own and have as many bytes.
            unsafe {
                write.fill(words.as_mut_ptr().cast(), 4096);
                other.fill(strange.as_mut_ptr().cast(), 4096);
            }
            words[at] = strange[at];
            // SAFETY: as above.
            let lie = unsafe { prove(5, words.as_ptr().cast(), 4096) }.unwrap_err();
            let named = if at == 0 { 8 } else { at * 8 };
            assert!(
                lie.contains(&format!("at offset {named} the word")),
                "{at}: {lie}"
            );
        }
    }

    #[test]
    fn another_key_and_untouched_memory_are_lies() {
        let mut words = vec![0_u64; 512];
        // SAFETY: the vector is this test's own and has as many bytes.
        unsafe {
            assert!(prove(0, words.as_ptr().cast(), 4096).is_err());
            Write { key: 5, number: 9 }.fill(words.as_mut_ptr().cast(), 4096);
            assert!(prove(6, words.as_ptr().cast(), 4096).is_err());
        }
    }

    #[test]
    fn numbers_of_aborted_writes_are_never_those_of_committed_ones() {
        let mut next = 0;
        for round in 0..100 {
            let is_aborted = round % 3 == 0;
            let number = Write::number(&mut next, is_aborted);
            let write = Write { key: 0, number };
            assert_eq!(write.is_to_be_aborted(), is_aborted);
            assert_ne!(number, 0);
        }
    }
}
