//! The seal: what stands beside the bytes of an object in every tier, and by which a load tells that they are the same.
//!
//! The fs tier writes it into the first block of a file, the others behind the bytes or under a name of their own.
//!
//! | offset | bytes | content, little-endian |
//! |---|---|---|
//! | 0 | 8 | magic `hostkvL2` |
//! | 8 | 4 | format version |
//! | 12 | 4 | 0 |
//! | 16 | 32 | the key, which is the digest of the whole name |
//! | 48 | 8 | length of the object |
//! | 56 | 8 | sum of the object: CRC-64/NVME, 0 replaced by 1 |
//! | 64 | 56 | 0 |
//! | 120 | 8 | CRC-64/NVME of the 120 bytes before |

use crc_fast::{CrcAlgorithm, checksum};
use hostkv_shm_protocol::sum::Sum;

use super::key::{FORMAT_VERSION, TIER_KEY_BYTES, TierKey};

/// Bytes of a seal.
pub(super) const SEAL_BYTES: usize = 128;
const MAGIC: [u8; 8] = *b"hostkvL2";
const SUM_AT: usize = SEAL_BYTES - 8;

/// The seal of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seal {
    /// Whose it is.
    pub(super) key: TierKey,
    /// How long the object is.
    pub(super) len_bytes: u64,
    /// Its sum.
    pub(super) sum: Sum,
}

impl Seal {
    /// As it is stored.
    pub(super) fn to_bytes(self) -> [u8; SEAL_BYTES] {
        let mut bytes = [0; SEAL_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..48].copy_from_slice(self.key.as_bytes());
        bytes[48..56].copy_from_slice(&self.len_bytes.to_le_bytes());
        bytes[56..64].copy_from_slice(&Sum::to_word(Some(self.sum)).to_le_bytes());
        let sum = checksum(CrcAlgorithm::Crc64Nvme, &bytes[..SUM_AT]);
        bytes[SUM_AT..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// What was stored, if it is whole and of this version.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Seal> {
        let bytes: &[u8; SEAL_BYTES] = bytes.get(..SEAL_BYTES)?.try_into().ok()?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let is_whole = bytes[..8] == MAGIC
            && word(8) == u64::from(FORMAT_VERSION)
            && word(SUM_AT) == checksum(CrcAlgorithm::Crc64Nvme, &bytes[..SUM_AT]);
        if !is_whole {
            return None;
        }
        let mut key = [0; TIER_KEY_BYTES];
        key.copy_from_slice(&bytes[16..48]);
        Some(Seal {
            key: TierKey::from_bytes(key),
            len_bytes: word(48),
            sum: Sum::from_word(word(56))?,
        })
    }

    /// What was stored, if it is the seal of this object with this length.
    pub(super) fn of(bytes: &[u8], key: &TierKey, len_bytes: u64) -> Option<Seal> {
        Seal::from_bytes(bytes).filter(|seal| seal.key == *key && seal.len_bytes == len_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal() -> Seal {
        Seal {
            key: TierKey::from_bytes([7; 32]),
            len_bytes: 4 << 20,
            sum: Sum::of_checksum(0x1234),
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_seal_is_seen() {
        let bytes = seal().to_bytes();
        assert_eq!(Seal::from_bytes(&bytes), Some(seal()));
        for bit in 0..SEAL_BYTES * 8 {
            let mut other = bytes;
            other[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Seal::from_bytes(&other), None, "bit {bit}");
        }
        for len in 0..SEAL_BYTES {
            assert_eq!(Seal::from_bytes(&bytes[..len]), None);
        }
    }

    #[test]
    fn a_seal_of_another_version_key_or_length_is_none() {
        let mut bytes = seal().to_bytes();
        bytes[8] += 1;
        let sum = checksum(CrcAlgorithm::Crc64Nvme, &bytes[..SUM_AT]);
        bytes[SUM_AT..].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Seal::from_bytes(&bytes), None);
        let bytes = seal().to_bytes();
        assert_eq!(
            Seal::of(&bytes, &seal().key, seal().len_bytes),
            Some(seal())
        );
        assert_eq!(Seal::of(&bytes, &seal().key, seal().len_bytes + 1), None);
        assert_eq!(
            Seal::of(&bytes, &TierKey::from_bytes([8; 32]), seal().len_bytes),
            None
        );
    }
}
