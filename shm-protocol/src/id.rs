//! Numbers that name things, each a type of its own so that they cannot be mixed up.

use core::fmt;

/// One start of the daemon: 16 random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InstanceId(pub [u8; 16]);

impl InstanceId {
    /// As two little-endian words, the form that stands in the segments.
    pub fn words(self) -> [u64; 2] {
        let (low, high) = self.0.split_at(8);
        let word = |bytes: &[u8]| {
            bytes
                .iter()
                .rev()
                .fold(0_u64, |word, byte| word << 8 | u64::from(*byte))
        };
        [word(low), word(high)]
    }

    /// From its two words.
    pub fn from_words(words: [u64; 2]) -> InstanceId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&words[0].to_le_bytes());
        bytes[8..].copy_from_slice(&words[1].to_le_bytes());
        InstanceId(bytes)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// One client's life in the daemon; counts up from 1 within an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// A keyspace, i.e. (model name, cache salt). Never reused within an instance; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyspaceId(pub u32);

/// Position of an entry in the control segment's entry table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryNumber(pub u32);

impl EntryNumber {
    /// As an index into a table.
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The caller's number for one reservation, unique within its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_id_survives_its_words() {
        let id = InstanceId(core::array::from_fn(|i| i as u8 * 7 + 1));
        assert_eq!(InstanceId::from_words(id.words()), id);
        assert_eq!(id.to_string(), "01080f161d242b323940474e555c636a");
    }
}
