//! Every way in which a frame can be wrong, by its name.

use hostkv_shm_protocol::wire::WireError;

use super::frames::{bytes, decode};

#[test]
fn what_must_not_be_said_is_refused_by_name() {
    let cases = [
        // Length beyond the packet, short of it, and a header cut off.
        (
            "11000000 0b00 0000 0100000000000000",
            WireError::Length { said: 17, got: 16 },
        ),
        (
            "0f000000 0b00 0000 0100000000000000",
            WireError::Length { said: 15, got: 16 },
        ),
        (
            "08000000 0b00 0000",
            WireError::Short {
                field: "the header",
                len: 8,
            },
        ),
        (
            "10000000 0000 0000 0100000000000000",
            WireError::UnknownType(0),
        ),
        (
            "10000000 1800 0000 0100000000000000",
            WireError::UnknownType(24),
        ),
        (
            "10000000 0b00 0400 0100000000000000",
            WireError::UnknownBits {
                field: "the frame's flags",
                bits: 4,
            },
        ),
        // ERROR is no request, CHALLENGE no reply; a reply has no other flag.
        (
            "10000000 0d00 0000 0100000000000000",
            WireError::UnknownType(13),
        ),
        (
            "10000000 0b00 0300 0100000000000000",
            WireError::UnknownBits {
                field: "a reply's flags",
                bits: 3,
            },
        ),
        (
            "14000000 0800 0000 0100000000000000 02000000",
            WireError::UnknownBits {
                field: "CLEAR's flags",
                bits: 2,
            },
        ),
        // A page of no objects, of too many, a filter that does not exist, and a page that is cut off.
        (
            "24000000 0e00 0000 0100000000000000 00000000 00000000 0000000000000000 0000 0000",
            WireError::Range {
                field: "LIST's limit",
                value: 0,
                least: 1,
                most: 1024,
            },
        ),
        (
            "24000000 0e00 0000 0100000000000000 00000000 ffffffff 0000000000000000 0000 0000",
            WireError::Range {
                field: "LIST's limit",
                value: u64::from(u32::MAX),
                least: 1,
                most: 1024,
            },
        ),
        (
            "24000000 0e00 0000 0100000000000000 04000000 01000000 0000000000000000 0000 0000",
            WireError::UnknownBits {
                field: "LIST's flags",
                bits: 4,
            },
        ),
        (
            "14000000 0e00 0100 0100000000000000 05000000",
            WireError::Short {
                field: "the page",
                len: 20,
            },
        ),
        // No keys, too many keys, more keys than bytes.
        (
            "14000000 0700 0000 0100000000000000 00000000",
            WireError::Range {
                field: "the key count",
                value: 0,
                least: 1,
                most: 1024,
            },
        ),
        (
            "14000000 0700 0000 0100000000000000 01040000",
            WireError::Range {
                field: "the key count",
                value: 1025,
                least: 1,
                most: 1024,
            },
        ),
        (
            "14000000 0700 0000 0100000000000000 ffffffff",
            WireError::Range {
                field: "the key count",
                value: u64::from(u32::MAX),
                least: 1,
                most: 1024,
            },
        ),
        (
            "14000000 0700 0000 0100000000000000 00040000",
            WireError::Short {
                field: "the key count",
                len: 20,
            },
        ),
        // A model name of no byte, with a NUL, and not UTF-8.
        (
            "24000000 0300 0000 0100000000000000 00000000 00000000 0000000000000000 0000 0000",
            WireError::Range {
                field: "model_name",
                value: 0,
                least: 1,
                most: 144,
            },
        ),
        (
            "25000000 0300 0000 0100000000000000 00000000 00000000 0000000000000000 0100 00 0000",
            WireError::Text("model_name"),
        ),
        (
            "25000000 0300 0000 0100000000000000 00000000 00000000 0000000000000000 0100 ff 0000",
            WireError::Text("model_name"),
        ),
        // A prefetch of nothing, and one that loaded more than it has.
        (
            "20000000 1100 0000 0100000000000000 0100000000000000 0000 0000 00000000",
            WireError::Range {
                field: "the key count",
                value: 0,
                least: 1,
                most: 1024,
            },
        ),
        (
            "1c000000 1100 0100 0100000000000000 01000000 02000000 00000000",
            WireError::Range {
                field: "the loaded count",
                value: 2,
                least: 0,
                most: 1,
            },
        ),
        // A grant of nothing.
        (
            "18000000 1400 0000 0100000000000000 00100000 00000000",
            WireError::Range {
                field: "the extent count",
                value: 0,
                least: 1,
                most: 1024,
            },
        ),
        // A status that has no meaning.
        (
            "16000000 0d00 0100 0100000000000000 faffffff 0000",
            WireError::Range {
                field: "a status",
                value: 6,
                least: 0,
                most: 17,
            },
        ),
    ];
    for (hex, error) in cases {
        assert_eq!(decode(&bytes(hex)), Err(error), "{hex}");
    }
}
