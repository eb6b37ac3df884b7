//! Values as Python prints them, for what parsers of such lines expect.
//!
//! Used by the `logging` processor. Nothing is built before it is printed.
//!
//! | value | printed |
//! |---|---|
//! | text | as [`PythonStr`] |
//! | float | shortest digits that read back the same; with an exponent below 1e-4 and from 1e16 on; `inf`, `nan` |
//! | boolean | `True`, `False` |

use std::fmt::{self, Display, Formatter, Write as _};

use super::Value;
use crate::specs::PythonStr;

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
