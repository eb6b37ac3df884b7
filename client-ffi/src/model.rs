//! The read path alone, for a model that runs it beside the daemon's own store; only in a build with `--cfg shuttle`.

use hostkv_shm_protocol::id::KeyspaceId;
use hostkv_shm_protocol::view::View;
use hostkv_shm_protocol::wire::hello::HelloReply;

use crate::chunk_keys::ChunkKey;
use crate::error::Result;
use crate::read_path::{Pins, ReadPath};

/// A client that reads, without a socket and a process of its own.
pub struct Reader(ReadPath);

impl Reader {
    /// A reader of segments that agree with what HELLO said.
    pub fn new(control: View, lease: View, payload: View, hello: &HelloReply) -> Result<Reader> {
        ReadPath::new(control, lease, payload, hello).map(Reader)
    }

    /// Acquires every present key, hands each pinned one to `look` with its place among the keys and the offset and length
    /// of its object in bytes, then checks and releases. Gives how many were pinned, and whether the check held.
    pub fn read(
        &self,
        keyspace: KeyspaceId,
        keys: &[ChunkKey],
        mut look: impl FnMut(usize, u64, u64),
    ) -> (usize, bool) {
        let mut pins = Pins::default();
        self.0.acquire(keyspace, keys, true, None, &mut pins);
        for (at, item) in pins.items.iter().enumerate() {
            if matches!(item.place, crate::read_path::Place::Pinned(_))
                && let Some((offset, len)) = self.0.byte_range(item.found.extent)
            {
                look(at, offset, len);
            }
        }
        let count = pins.pinned_count();
        (count, self.0.release(&mut pins))
    }
}
