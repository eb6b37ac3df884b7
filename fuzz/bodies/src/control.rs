//! A control segment as a client reads it. Only the daemon can write it; a client checks it all the same.
//!
//! ```text
//! data: how the header is made (1 byte) | bytes laid over the segment, from word 0 on or from the tables on
//! ```

use hostkv_shm_protocol::control::Geometry;
use hostkv_shm_protocol::control::header::{HeaderInit, HeaderView};
use hostkv_shm_protocol::control::reader::IndexReader;
use hostkv_shm_protocol::id::{EntryNumber, InstanceId, KeyspaceId};
use hostkv_shm_protocol::key::HashSecret;

use crate::memory::Memory;
use crate::pool::{ALIGN, UNITS, key};

/// Entries of the segment whose header is whole.
const ENTRIES: u32 = 16;

/// Reads a segment that holds the bytes.
pub fn run(data: &[u8]) {
    let Some((how, bytes)) = data.split_first() else {
        return;
    };
    let geometry = Geometry::for_entries(ENTRIES);
    let has_header = how & 1 == 1;
    let len = if has_header {
        geometry.segment_len()
    } else {
        bytes.len() as u64
    };
    let memory = Memory::new(len);
    let view = memory.view();
    let payload_len = u64::from(UNITS) * u64::from(ALIGN);
    if has_header {
        HeaderView::new(view).unwrap().initialise(&HeaderInit {
            instance_id: InstanceId([7; 16]),
            boot_id: [0; 2],
            created_mono_ns: 0,
            flags: 0,
            check_every: 0,
            geometry,
            align_bytes: ALIGN,
            hash_secret: HashSecret { k0: 1, k1: 2 },
            payload_len,
            max_sessions: 4,
        });
        let tables_at = geometry.buckets_offset() as usize / 8;
        // Now and then the header is overwritten too, which then is nearly right.
        let first = if how & 2 == 2 {
            usize::from(how >> 2)
        } else {
            tables_at
        };
        memory.fill(first, bytes);
    } else {
        memory.fill(0, bytes);
    }
    let Ok(reader) = IndexReader::new(view) else {
        return;
    };
    for number in 0..4 {
        let key = key(KeyspaceId(1), number);
        let hash = reader.hash(&key);
        reader.prefetch(hash);
        let candidate = reader.locate(hash);
        let found = match candidate {
            Some(candidate) => reader.verify(&key, hash, candidate),
            None => reader.find(&key, hash),
        };
        if let Some(found) = found {
            assert!(found.entry.0 < reader.entry_count());
            reader.is_current(&found);
            if let Some((offset, len)) = found.extent.byte_range(u64::from(ALIGN), payload_len) {
                assert!(
                    offset + len <= payload_len,
                    "{found:?} is not in the payload"
                );
            }
        }
    }
    reader.seq(EntryNumber(u32::MAX));
}
