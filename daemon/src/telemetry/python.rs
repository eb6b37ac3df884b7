//! Text as Python prints it, for what parsers of such lines expect.
//!
//! Used by the `logging` processor and by the messages about specs. Nothing is built before it is printed.
//!
//! | value | printed |
//! |---|---|
//! | text | in single quotes, or in double quotes when it holds single ones and no double ones; escapes `\\ \' \n \r \t`, `\xhh`, `\uhhhh`, `\Uhhhhhhhh` for what cannot be printed |
//! | float | shortest digits that read back the same; with an exponent below 1e-4 and from 1e16 on; `inf`, `nan` |
//! | boolean | `True`, `False` |

use std::fmt::{self, Display, Formatter, Write as _};

use super::Value;

/// Prints metadata as `{'found_count': 3}`.
pub(super) struct PythonDict<'a>(pub(super) &'a [(&'static str, Value)]);

impl Display for PythonDict<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_char('{')?;
        for (index, (key, value)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(out, "{separator}{}: ", PythonStr(key))?;
            match value {
                Value::Str(text) => write!(out, "{}", PythonStr(text))?,
                Value::Int(number) => write!(out, "{number}")?,
                Value::Float(number) => write!(out, "{}", PythonFloat(*number))?,
                Value::Bool(true) => out.write_str("True")?,
                Value::Bool(false) => out.write_str("False")?,
            }
        }
        out.write_char('}')
    }
}

/// Prints a text as `'text'`.
pub(super) struct PythonStr<'a>(pub(super) &'a str);

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

/// Prints a float as `0.5`, `1e-05` or `1e+16`.
struct PythonFloat(f64);

impl Display for PythonFloat {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let number = self.0;
        if number.is_nan() {
            return out.write_str("nan");
        }
        if number.is_infinite() {
            return out.write_str(if number > 0.0 { "inf" } else { "-inf" });
        }
        let shortest = format!("{number:e}");
        let (digits, exponent) = shortest
            .split_once('e')
            .expect("this format always has an exponent");
        let exponent: i32 = exponent.parse().expect("an exponent is a small number");
        let digit_count = digits.bytes().filter(u8::is_ascii_digit).count();
        // Of two shortest texts that are equally near, the standard library takes the greater and Python the even one;
        // with a precision both take the even one.
        if (-4..16).contains(&exponent) {
            let decimals = (digit_count as i32 - 1 - exponent).max(1);
            return write!(out, "{number:.*}", decimals as usize);
        }
        let rounded = format!("{number:.*e}", digit_count - 1);
        let digits = match rounded.split_once('e') {
            // At a power of two the nearest text of that length may read back as its neighbour.
            Some((digits, _)) if rounded.parse() == Ok(number) => digits,
            _ => digits,
        };
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(out, "{digits}e{sign}{:02}", exponent.unsigned_abs())
    }
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

    #[test]
    fn floats_are_printed_as_python_prints_them() {
        // Each expectation is what CPython 3 prints for repr() of the float.
        for (number, printed) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (3.0, "3.0"),
            (0.1 + 0.2, "0.30000000000000004"),
            (-12.5, "-12.5"),
            (0.0001, "0.0001"),
            (0.000_099_999, "9.9999e-05"),
            (0.00001, "1e-05"),
            (9_999_999_999_999_998.0, "9999999999999998.0"),
            // Equally near to .2 and .3.
            (15_682_892_828_789_754.0 / 8.0, "1960361603598719.2"),
            (1e16, "1e+16"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (1.5e300, "1.5e+300"),
            (5e-324, "5e-324"),
            (2f64.powi(-1017), "7.120236347223045e-307"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(PythonFloat(number).to_string(), printed);
        }
    }

    #[test]
    fn a_dict_keeps_its_order_and_may_be_empty() {
        assert_eq!(PythonDict(&[]).to_string(), "{}");
        let metadata = [
            ("stored_count", Value::Int(-3)),
            ("device", Value::Str("cuda:0".into())),
            ("a", Value::Bool(true)),
            ("b", Value::Bool(false)),
            ("ratio", Value::Float(1.0)),
        ];
        assert_eq!(
            PythonDict(&metadata).to_string(),
            "{'stored_count': -3, 'device': 'cuda:0', 'a': True, 'b': False, 'ratio': 1.0}"
        );
    }
}
