//! The KEY of the command line: `model/rank/group/hex`.
//!
//! It is read from the right, because the name of a model may have slashes: `hex` is the chunk hash, two digits a byte;
//! `group` and `rank` are decimal; the rest is the model's name.

use std::fmt;

use hostkv::ChunkKey;

/// Longest name of a model in bytes.
const MAX_MODEL_BYTES: usize = 144;
/// Longest chunk hash in bytes.
const MAX_HASH_BYTES: usize = 32;

/// One object of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectKey {
    /// Name of the model.
    pub model_name: String,
    /// The key in the model's keyspace.
    pub key: ChunkKey,
}

impl ObjectKey {
    /// Reads a KEY; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<ObjectKey, String> {
        let mut parts = text.rsplitn(4, '/');
        let (Some(hex), Some(group), Some(rank), Some(model_name)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(format!(
                "{text:?} has not the four parts of a key, model/rank/group/hex, as `hostkv ls` shows them"
            ));
        };
        if model_name.is_empty() || model_name.len() > MAX_MODEL_BYTES {
            return Err(format!(
                "the model's name has {} bytes; allowed are 1 to {MAX_MODEL_BYTES}",
                model_name.len()
            ));
        }
        let (chunk_hash, chunk_hash_len) = parse_hash(hex)?;
        Ok(ObjectKey {
            model_name: model_name.to_owned(),
            key: ChunkKey {
                chunk_hash,
                chunk_hash_len,
                kv_rank: parse_number("rank", rank)?,
                object_group_id: parse_number("group", group)?,
            },
        })
    }
}

fn parse_number(what: &str, text: &str) -> Result<u32, String> {
    let is_decimal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_decimal).ok_or_else(|| {
        format!(
            "the {what} is {text:?}; allowed are 0 to {} in decimal",
            u32::MAX
        )
    })
}

fn parse_hash(hex: &str) -> Result<([u8; MAX_HASH_BYTES], u32), String> {
    let wrong = || {
        format!(
            "the chunk hash is {hex:?}; allowed are 1 to {MAX_HASH_BYTES} bytes of two hexadecimal digits each"
        )
    };
    let is_hex = hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    let len = hex.len() / 2;
    if !is_hex || !hex.len().is_multiple_of(2) || !(1..=MAX_HASH_BYTES).contains(&len) {
        return Err(wrong());
    }
    let mut hash = [0; MAX_HASH_BYTES];
    for (byte, at) in hash.iter_mut().zip((0..hex.len()).step_by(2)) {
        *byte = u8::from_str_radix(&hex[at..at + 2], 16).map_err(|_| wrong())?;
    }
    Ok((hash, len as u32))
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        write!(
            f,
            "{}/{}/{}/",
            self.model_name, key.kv_rank, key.object_group_id
        )?;
        key.chunk_hash
            .iter()
            .take(key.chunk_hash_len as usize)
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_from_the_right_and_written_as_it_was() {
        let key = ObjectKey::parse("meta/llama-3/8b/3/1/00ff10").unwrap();
        assert_eq!(key.model_name, "meta/llama-3/8b");
        assert_eq!((key.key.kv_rank, key.key.object_group_id), (3, 1));
        assert_eq!(key.key.chunk_hash_len, 3);
        assert_eq!(key.key.chunk_hash[..4], [0, 0xff, 0x10, 0]);
        assert_eq!(key.to_string(), "meta/llama-3/8b/3/1/00ff10");
        let upper = ObjectKey::parse("m/0/0/AB").unwrap();
        assert_eq!(upper.to_string(), "m/0/0/ab");
        let full = format!("m/4294967295/0/{}", "5a".repeat(32));
        assert_eq!(ObjectKey::parse(&full).unwrap().to_string(), full);
    }

    #[test]
    fn what_is_no_key_is_refused_with_the_part_that_is_wrong() {
        let long_model = format!("{}/0/0/00", "m".repeat(145));
        let long_hash = format!("m/0/0/{}", "00".repeat(33));
        for (text, part) in [
            ("", "four parts"),
            ("m/0/00", "four parts"),
            ("/0/0/00", "0 bytes"),
            (long_model.as_str(), "145 bytes"),
            ("m/x/0/00", "rank is \"x\""),
            ("m/+1/0/00", "rank is \"+1\""),
            ("m/0/-1/00", "group is \"-1\""),
            ("m/0/4294967296/00", "4294967295"),
            ("m//0/00", "rank is \"\""),
            ("m/0/0/", "chunk hash is \"\""),
            ("m/0/0/0", "chunk hash"),
            ("m/0/0/0g", "chunk hash"),
            ("m/0/0/éé", "chunk hash"),
            (long_hash.as_str(), "1 to 32 bytes"),
        ] {
            let error = ObjectKey::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
