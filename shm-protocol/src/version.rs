//! Versions, and the fingerprint of every shared layout.

use crate::control::{bucket::Bucket, entry::Entry, header::ControlHeader};
use crate::key::KNOWN_HASH;
use crate::layout::Layout;
use crate::lease::commits::CommitRecord;
use crate::lease::events::EventRecord;
use crate::lease::header::LeaseHeader;

/// Version of the socket protocol; HELLO refuses any other.
pub const PROTOCOL_VERSION: u32 = 1;

/// Version of the segment layouts.
pub const LAYOUT_VERSION: u32 = 1;

/// Version of this build, as `major.minor.patch`.
pub const PACKAGE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Every layout that both sides map.
pub const LAYOUTS: [Layout; 6] = [
    ControlHeader::LAYOUT,
    Bucket::LAYOUT,
    Entry::LAYOUT,
    LeaseHeader::LAYOUT,
    EventRecord::LAYOUT,
    CommitRecord::LAYOUT,
];

/// FNV-1a (Fowler, Noll, Vo), 64 bits, over name and size of every layout and name, offset and size of every
/// field, and the hash of one key. Both sides compute it at compile time; HELLO compares.
pub const ABI_HASH: u64 = abi_hash(&LAYOUTS);

const fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}

const fn abi_hash(layouts: &[Layout]) -> u64 {
    let mut hash = fnv(0xcbf2_9ce4_8422_2325, &LAYOUT_VERSION.to_le_bytes());
    let mut i = 0;
    while i < layouts.len() {
        let layout = &layouts[i];
        hash = fnv(hash, layout.name.as_bytes());
        hash = fnv(hash, &(layout.size as u64).to_le_bytes());
        let mut j = 0;
        while j < layout.fields.len() {
            let field = &layout.fields[j];
            hash = fnv(hash, field.name.as_bytes());
            hash = fnv(hash, &(field.offset as u64).to_le_bytes());
            hash = fnv(hash, &(field.size as u64).to_le_bytes());
            j += 1;
        }
        i += 1;
    }
    hash = fnv(hash, &KNOWN_HASH.h0.to_le_bytes());
    fnv(hash, &KNOWN_HASH.h1.to_le_bytes())
}
