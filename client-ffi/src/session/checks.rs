//! What the arguments of a session's calls may be. Each refusal names the value, the limit and the remedy.

use super::{
    ACQUIRE_ALL, ASYNC_COMMIT, KeyspaceConfig, POPULATE, READ_ONLY, RESERVE_NO_WAIT, Request,
    SINGLE_MAPPING, SessionConfig,
};
use crate::chunk_keys::ChunkKey;
use crate::error::{Error, Result};
use hostkv_shm_protocol::text::is_plain;
use hostkv_shm_protocol::wire::{
    MAX_BATCH_KEYS, MAX_CACHE_SALT_BYTES, MAX_CLIENT_NAME_BYTES, MAX_DEVICE_BYTES,
    MAX_MODEL_NAME_BYTES, MAX_REQUEST_ID_BYTES,
};

pub(super) fn config(config: &SessionConfig) -> Result<()> {
    known_bits(
        "config.flags",
        config.flags,
        READ_ONLY | POPULATE | SINGLE_MAPPING | ASYNC_COMMIT,
    )?;
    if config.flags & READ_ONLY != 0 && config.flags & SINGLE_MAPPING != 0 {
        return Err(Error::invalid(
            "config.flags has SINGLE_MAPPING with READ_ONLY, and the single mapping is the writable one; leave one \
             of them out",
        ));
    }
    if config.flags & READ_ONLY != 0 && config.flags & ASYNC_COMMIT != 0 {
        return Err(Error::invalid(
            "config.flags has ASYNC_COMMIT with READ_ONLY, and a session that does not write commits nothing; leave one of \
             them out",
        ));
    }
    plain_text(
        "config.client_name",
        &config.client_name,
        0,
        MAX_CLIENT_NAME_BYTES,
    )
}

pub(super) fn keyspace(config: &KeyspaceConfig) -> Result<()> {
    let texts = [
        (
            "config.model_name",
            &config.model_name,
            1,
            MAX_MODEL_NAME_BYTES,
        ),
        (
            "config.cache_salt",
            &config.cache_salt,
            0,
            MAX_CACHE_SALT_BYTES,
        ),
    ];
    for (name, text, least, most) in texts {
        length(name, text.len(), least, most)?;
        if text.contains('\0') {
            return Err(Error::invalid(format!(
                "{name} has a NUL byte; give UTF-8 text without NUL"
            )));
        }
    }
    Ok(())
}

/// A request's flags and texts; `known_flags` are those that the call understands.
pub(super) fn request(request: &Request<'_>, known_flags: u32) -> Result<()> {
    debug_assert!(known_flags & !(ACQUIRE_ALL | RESERVE_NO_WAIT) == 0);
    known_bits("request.flags", request.flags, known_flags)?;
    if let Some(id) = request.request_id {
        plain_text("request.request_id", id, 1, MAX_REQUEST_ID_BYTES)?;
    }
    if let Some(device) = request.device {
        plain_text("request.device", device, 0, MAX_DEVICE_BYTES)?;
    }
    Ok(())
}

pub(super) fn known_bits(name: &str, bits: u32, known: u32) -> Result<()> {
    let unknown = bits & !known;
    if unknown != 0 {
        return Err(Error::invalid(format!(
            "{name} has unknown bits {unknown:#x}; allowed here are {known:#x}"
        )));
    }
    Ok(())
}

/// The number of keys or items of one call.
#[inline]
pub(super) fn count(what: &str, count: usize, max_batch_keys: u32) -> Result<()> {
    let most = (max_batch_keys as usize).min(MAX_BATCH_KEYS);
    if count == 0 || count > most {
        return Err(Error::invalid(format!(
            "{count} {what} in one call; allowed are 1 to {most} (max_batch_keys), so split the call"
        )));
    }
    Ok(())
}

/// The lengths of all keys' hashes, also of those that a call may never come to.
#[inline]
pub(super) fn key_lengths<'a>(keys: impl Iterator<Item = &'a ChunkKey> + Clone) -> Result<()> {
    // Without a way out, so that it takes few instructions a key.
    let has_wrong = keys
        .clone()
        .fold(false, |wrong, key| wrong | !key.has_valid_len());
    if has_wrong {
        return Err(wrong_length(keys));
    }
    Ok(())
}

#[cold]
fn wrong_length<'a>(mut keys: impl Iterator<Item = &'a ChunkKey>) -> Error {
    let index = keys.position(|key| !key.has_valid_len()).unwrap_or(0);
    Error::invalid(format!(
        "key {index} has a chunk_hash_len that is not allowed; set it to the length of its hash, 1 to 32 bytes"
    ))
}

/// The room for one answer a key.
pub(super) fn answers(name: &str, room: Option<usize>, key_count: usize) -> Result<()> {
    match room {
        Some(room) if room != key_count => Err(Error::invalid(format!(
            "{name} has room for {room} answers and there are {key_count} keys; give one byte a key"
        ))),
        _ => Ok(()),
    }
}

fn plain_text(name: &str, text: &str, least: usize, most: usize) -> Result<()> {
    length(name, text.len(), least, most)?;
    if !is_plain(text) {
        return Err(Error::invalid(format!(
            "{name} has a control character; give UTF-8 text without any"
        )));
    }
    Ok(())
}

fn length(name: &str, len: usize, least: usize, most: usize) -> Result<()> {
    if !(least..=most).contains(&len) {
        return Err(Error::invalid(format!(
            "{name} has {len} bytes; allowed are {least} to {most}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hostkv_shm_protocol::status::Status;

    fn refused<T>(result: Result<T>, words: &[&str]) {
        let error = result.err().unwrap();
        assert_eq!(error.status, Status::InvalidArgument);
        for word in words {
            assert!(error.message.contains(word), "{}", error.message);
        }
    }

    #[test]
    fn counts_name_both_numbers() {
        assert!(count("keys", 1, 1024).is_ok() && count("keys", 1024, 1024).is_ok());
        refused(count("keys", 0, 1024), &["0 keys", "1 to 1024"]);
        refused(count("items", 1025, 5000), &["1025 items", "1 to 1024"]);
        refused(count("keys", 17, 16), &["17 keys", "1 to 16"]);
    }

    #[test]
    fn request_texts_and_flags_have_limits() {
        let long = "x".repeat(129);
        let id = |request_id| Request {
            request_id: Some(request_id),
            ..Request::default()
        };
        assert!(request(&id(&long[1..]), 0).is_ok());
        refused(request(&id(&long), 0), &["request_id", "129", "128"]);
        refused(request(&id(""), 0), &["0 bytes", "1 to 128"]);
        refused(request(&id("a\nb"), 0), &["control character"]);
        let device = |device| Request {
            device: Some(device),
            ..Request::default()
        };
        assert!(request(&device(""), 0).is_ok());
        refused(request(&device(&long[..33]), 0), &["device", "33", "32"]);
        let all = Request {
            flags: ACQUIRE_ALL,
            ..Request::default()
        };
        assert!(request(&all, ACQUIRE_ALL).is_ok());
        refused(request(&all, 0), &["unknown bits 0x1"]);
    }

    #[test]
    fn names_of_keyspaces_and_clients_have_limits() {
        let with = |model: &str, salt: &str| KeyspaceConfig {
            model_name: model.to_owned(),
            cache_salt: salt.to_owned(),
            ..KeyspaceConfig::default()
        };
        assert!(keyspace(&with(&"m".repeat(144), &"s".repeat(128))).is_ok());
        refused(
            keyspace(&with("", "")),
            &["model_name", "0 bytes", "1 to 144"],
        );
        refused(keyspace(&with(&"m".repeat(145), "")), &["145"]);
        refused(
            keyspace(&with("m", &"s".repeat(129))),
            &["cache_salt", "129"],
        );
        refused(keyspace(&with("a\0b", "")), &["NUL"]);
        let named = |client_name: &str, flags| SessionConfig {
            client_name: client_name.to_owned(),
            flags,
            ..SessionConfig::default()
        };
        assert!(config(&named("engine", POPULATE)).is_ok());
        refused(config(&named("a\tb", 0)), &["client_name"]);
        refused(config(&named("", 1 << 9)), &["0x200"]);
        refused(
            config(&named("", READ_ONLY | SINGLE_MAPPING)),
            &["SINGLE_MAPPING"],
        );
        assert!(config(&named("engine", ASYNC_COMMIT)).is_ok());
        refused(
            config(&named("", READ_ONLY | ASYNC_COMMIT)),
            &["ASYNC_COMMIT"],
        );
    }

    #[test]
    fn a_key_of_no_length_is_refused_wherever_it_stands() {
        let good = ChunkKey {
            chunk_hash_len: 32,
            ..ChunkKey::default()
        };
        assert!(key_lengths([good, good].iter()).is_ok());
        refused(key_lengths([good, ChunkKey::default()].iter()), &["key 1"]);
        refused(answers("present", Some(3), 4), &["3", "4"]);
        assert!(answers("present", None, 4).is_ok());
    }
}
