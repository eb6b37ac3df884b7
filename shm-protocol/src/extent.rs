//! A run of payload bytes, packed into one word, with checked arithmetic.

/// Word 1 of an entry: where its object stands.
///
/// ```text
/// bit 63            32 31             0
///     length in bytes | offset in units of the alignment
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Offset from the start of the payload, in units of the alignment.
    pub offset_units: u32,
    /// Length in bytes; the bytes up to the next multiple of the alignment belong to the extent too.
    pub len_bytes: u32,
}

const LEN_SHIFT: u32 = 32;
const _: () = assert!(LEN_SHIFT + u32::BITS == u64::BITS);

impl Extent {
    /// The packed word.
    #[inline]
    pub fn pack(self) -> u64 {
        u64::from(self.len_bytes) << LEN_SHIFT | u64::from(self.offset_units)
    }

    /// From the packed word.
    #[inline]
    pub fn unpack(word: u64) -> Extent {
        Extent {
            offset_units: word as u32,
            len_bytes: (word >> LEN_SHIFT) as u32,
        }
    }

    /// Offset and length in bytes if the extent lies wholly inside a payload of `payload_len` bytes.
    #[inline]
    pub fn byte_range(self, align_bytes: u64, payload_len: u64) -> Option<(u64, u64)> {
        let offset = u64::from(self.offset_units).checked_mul(align_bytes)?;
        let len = u64::from(self.len_bytes);
        (offset.checked_add(len)? <= payload_len).then_some((offset, len))
    }
}

/// `len_bytes` in units of the alignment, rounded up; `None` when that passes 32 bits.
#[inline]
pub fn units_for(len_bytes: u64, align_bytes: u64) -> Option<u32> {
    u32::try_from(len_bytes.div_ceil(align_bytes)).ok()
}

/// Largest object of a pool: 4 GiB less one alignment unit, or an eighth of the payload.
pub fn max_object_bytes(payload_len: u64, align_bytes: u64) -> u64 {
    ((1 << 32) - align_bytes).min(payload_len / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extent_survives_packing_and_never_leaves_the_payload() {
        let e = Extent {
            offset_units: 0xfedc_ba98,
            len_bytes: 0x7654_3210,
        };
        assert_eq!(Extent::unpack(e.pack()), e);
        assert_eq!(e.pack(), 0x7654_3210_fedc_ba98);
        let small = Extent {
            offset_units: 3,
            len_bytes: 4096,
        };
        assert_eq!(small.byte_range(4096, 16384), Some((12288, 4096)));
        assert_eq!(small.byte_range(4096, 16383), None);
        assert_eq!(
            Extent {
                offset_units: u32::MAX,
                len_bytes: u32::MAX
            }
            .byte_range(1 << 21, u64::MAX),
            Some((u64::from(u32::MAX) << 21, u64::from(u32::MAX)))
        );
    }

    #[test]
    fn units_round_up_and_do_not_wrap() {
        assert_eq!(units_for(1, 4096), Some(1));
        assert_eq!(units_for(4097, 4096), Some(2));
        assert_eq!(units_for(u64::MAX, 64), None);
        assert_eq!(max_object_bytes(1 << 30, 4096), 1 << 27);
        assert_eq!(max_object_bytes(1 << 40, 4096), (1 << 32) - 4096);
    }
}
