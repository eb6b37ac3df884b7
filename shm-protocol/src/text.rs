//! Texts without control characters, and what most of them are: printable ASCII, told eight bytes at a time.
//!
//! The caller's request id and device are looked at in every call and in every request, each log line once; whether they are
//! UTF-8 without control characters is a question for few instructions.

/// Whether a text has no control characters.
#[inline]
pub fn is_plain(text: &str) -> bool {
    is_printable_ascii(text.as_bytes()) || !text.contains(char::is_control)
}

/// Whether every byte is printable ASCII, hence UTF-8 without control characters.
#[inline]
pub fn is_printable_ascii(bytes: &[u8]) -> bool {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const TOP: u64 = EACH * 0x80;
    // The top bit of a byte is set by 0x80 and above, by what is below a space, and by 0x7f. A borrow or carry into the
    // next byte comes only from a byte that is itself found.
    let odd = |word: u64| {
        (word | word.wrapping_sub(EACH * u64::from(b' ')) | word.wrapping_add(EACH)) & TOP
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let last = match bytes.last_chunk() {
        // Some bytes are looked at twice.
        Some(last) => u64::from_le_bytes(*last),
        None => rest.iter().fold(EACH * u64::from(b' '), |word, byte| {
            word << 8 | u64::from(*byte)
        }),
    };
    words.iter().fold(odd(last), |found, word| {
        found | odd(u64::from_le_bytes(*word))
    }) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_that_is_not_printable_ascii_is_found_wherever_it_stands() {
        for len in 0..40 {
            for plain in [b' ', b'a', b'~'] {
                let text = vec![plain; len];
                assert!(is_printable_ascii(&text));
                for at in 0..len {
                    for byte in 0..=u8::MAX {
                        let mut text = text.clone();
                        text[at] = byte;
                        let expected = (b' '..=b'~').contains(&byte);
                        assert_eq!(
                            is_printable_ascii(&text),
                            expected,
                            "{byte} at {at} of {len}"
                        );
                    }
                }
            }
        }
    }
}
