//! From a text to a value: one small function for each form a value may have.
//!
//! Called by the resolver for a text from whatever source. Each function either gives the value or
//! the sentence that names the setting, the text and what is allowed.

use std::time::Duration;

use super::Numa;
use super::error::ConfigError;
use super::source::Given;

/// A finite number within a range, both ends included.
pub(super) fn number(given: &Given, least: f64, most: f64) -> Result<f64, ConfigError> {
    match given.text().parse::<f64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(given.bad()),
    }
}

/// A whole number within a range, both ends included.
pub(super) fn whole(given: &Given, least: u64, most: u64) -> Result<u64, ConfigError> {
    match given.text().parse::<u64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(given.bad()),
    }
}

/// A whole number of 32 bits within a range, both ends included.
pub(super) fn whole_u32(given: &Given, least: u32, most: u32) -> Result<u32, ConfigError> {
    let number = whole(given, least.into(), most.into())?;
    u32::try_from(number).map_err(|_| given.bad())
}

/// Seconds within a range.
pub(super) fn seconds(given: &Given, least: f64, most: f64) -> Result<Duration, ConfigError> {
    let number = number(given, least, most)?;
    Duration::try_from_secs_f64(number).map_err(|_| given.bad())
}

/// Seconds of a time to live, where 0 means none; what is above 0 is at least a millisecond.
pub(super) fn time_to_live(given: &Given) -> Result<Option<Duration>, ConfigError> {
    let life = seconds(given, 0.0, f64::from(u32::MAX))?;
    match life {
        Duration::ZERO => Ok(None),
        life if life < Duration::from_millis(1) => Err(given.bad()),
        life => Ok(Some(life)),
    }
}

/// One of the words, in any case; gives its place.
pub(super) fn word(given: &Given, words: &[&str]) -> Result<usize, ConfigError> {
    let text = given.text();
    words
        .iter()
        .position(|word| word.eq_ignore_ascii_case(&text))
        .ok_or_else(|| given.bad())
}

/// Yes or no, in the spellings that environment files use.
pub(super) fn yes_no(given: &Given) -> Result<bool, ConfigError> {
    let place = word(given, &["yes", "no", "true", "false", "1", "0"])?;
    Ok(place % 2 == 0)
}

/// User or group ids, each once. The largest number means "no id" to the kernel.
pub(super) fn ids(given: &Given) -> Result<Vec<u32>, ConfigError> {
    let mut ids = Vec::with_capacity(given.texts.len());
    for text in &given.texts {
        let id = match text.parse::<u32>() {
            Ok(id) if id != u32::MAX => id,
            _ => {
                let one = Given {
                    texts: vec![text.clone()],
                    ..given.clone()
                };
                return Err(one.bad());
            }
        };
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// An octal file mode.
pub(super) fn file_mode(given: &Given) -> Result<u32, ConfigError> {
    let text = given.text();
    let digits = text.strip_prefix("0o").unwrap_or(&text);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o777 && !digits.starts_with('+') => Ok(mode),
        _ => Err(given.bad()),
    }
}

/// A placement on NUMA nodes.
pub(super) fn numa(given: &Given) -> Result<Numa, ConfigError> {
    let text = given.text().to_ascii_lowercase();
    if text == "interleave" {
        return Ok(Numa::Interleave);
    }
    let number = text.strip_prefix("bind:").filter(|n| !n.starts_with('+'));
    let node = number.and_then(|number| number.parse().ok());
    node.filter(|node| *node <= Numa::MAX_NODE)
        .map(Numa::Bind)
        .ok_or_else(|| given.bad())
}

/// The name of a POSIX segment, with its leading slash. The kernel makes a file of what follows
/// the slash, so it can be no name that a folder already has.
pub(super) fn shm_name(given: &Given) -> Result<String, ConfigError> {
    let text = given.text();
    let name = text.strip_prefix('/').unwrap_or(&text);
    let is_good = !name.is_empty()
        && name.len() <= 254
        && name != "."
        && name != ".."
        && !name.contains(['/', '\0']);
    if is_good {
        Ok(format!("/{name}"))
    } else {
        Err(given.bad())
    }
}
