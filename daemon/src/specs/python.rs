//! Text as Python prints it, for what parsers of such lines expect.
//!
//! Used by the messages about specs and by telemetry. Nothing is built before it is printed. A text stands in single quotes, or in
//! double quotes when it holds single ones and no double ones; escapes `\\ \' \n \r \t`, `\xhh`, `\uhhhh`, `\Uhhhhhhhh` stand
//! for what cannot be printed.

use std::fmt::{self, Display, Formatter, Write as _};

/// Prints a text as `'text'`.
pub struct PythonStr<'a>(pub &'a str);

impl Display for PythonStr<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('\'') && !self.0.contains('"') {
            '"'
        } else {
            '\''
        };
        out.write_char(quote)?;
        for character in self.0.chars() {
            match character {
                '\\' => out.write_str("\\\\")?,
                '\n' => out.write_str("\\n")?,
                '\r' => out.write_str("\\r")?,
                '\t' => out.write_str("\\t")?,
                _ if character == quote => write!(out, "\\{quote}")?,
                _ if is_printable(character) => out.write_char(character)?,
                _ => match u32::from(character) {
                    code @ ..0x100 => write!(out, "\\x{code:02x}")?,
                    code @ 0x100..0x1_0000 => write!(out, "\\u{code:04x}")?,
                    code => write!(out, "\\U{code:08x}")?,
                },
            }
        }
        out.write_char(quote)
    }
}

/// Whether a character stands for itself: not of the categories other and separator, save the space.
///
/// The standard library asks the same when it escapes for debugging, but also escapes what extends the character before
/// it, unless it is not the first.
fn is_printable(character: char) -> bool {
    if character.is_ascii() {
        return matches!(character, ' '..='~');
    }
    let mut bytes = [b'a'; 1 + 4];
    let len = 1 + character.encode_utf8(&mut bytes[1..]).len();
    std::str::from_utf8(&bytes[..len]).is_ok_and(|text| text.escape_debug().nth(1) != Some('\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_printed_as_python_prints_it() {
        // Each expectation is what CPython 3 prints for repr() of the text.
        for (text, printed) in [
            ("", "''"),
            ("cuda:0", "'cuda:0'"),
            ("it's", "\"it's\""),
            ("\"", "'\"'"),
            ("'\"", "'\\'\"'"),
            ("a\\b", "'a\\\\b'"),
            ("\n\r\t\0\x1b\x7f", "'\\n\\r\\t\\x00\\x1b\\x7f'"),
            ("\u{80}\u{85}\u{a0}\u{ad}", "'\\x80\\x85\\xa0\\xad'"),
            ("Ü é 日本 😀", "'Ü é 日本 😀'"),
            ("e\u{301}\u{301}", "'e\u{301}\u{301}'"),
            ("\u{301}", "'\u{301}'"),
            (
                "\u{200b}\u{2028}\u{3000}\u{feff}",
                "'\\u200b\\u2028\\u3000\\ufeff'",
            ),
            ("\u{e000}\u{ffff}", "'\\ue000\\uffff'"),
            ("\u{e0001}\u{10ffff}", "'\\U000e0001\\U0010ffff'"),
        ] {
            assert_eq!(PythonStr(text).to_string(), printed, "{text:?}");
        }
    }
}
