//! What users would otherwise pick, on exactly the same work: the same keys, the same bytes, by native clients of our own.
//!
//! Servers are child processes on Unix sockets in temporary folders that end with the benchmark. A peer that this machine
//! lacks is SKIPPED.

mod lmdb;
mod memcached;
mod plasma;
pub mod redis;
mod server;

use crate::report::Report;
use hostkv::ChunkKey;

pub use lmdb::{Lmdb, Reader as LmdbReader};

/// Stores that hold objects by key.
pub trait Peer {
    /// For the table.
    fn name(&self) -> &'static str;

    /// Whether a call takes no round trip.
    fn is_in_process(&self) -> bool {
        false
    }

    /// Whether finding a key gives a view of its object in place.
    fn gives_views(&self) -> bool {
        false
    }

    /// Whether several objects go in one transaction or without waiting in between.
    fn batches_stores(&self) -> bool {
        true
    }

    /// Most keys that it can be filled with in a bearable time.
    fn most_keys(&self) -> u64 {
        u64::MAX
    }

    /// What must be done, and is not measured, before these keys can be stored again.
    fn make_room(&mut self, _keys: &[ChunkKey]) -> Result<(), String> {
        Ok(())
    }

    /// Forgets everything.
    fn clear(&mut self) -> Result<(), String>;

    /// Stores these bytes under each key, all in one batch.
    fn store(&mut self, keys: &[ChunkKey], bytes: &[u8]) -> Result<(), String>;

    /// How many of the keys are there, in one batch.
    fn find(&mut self, keys: &[ChunkKey]) -> Result<usize, String>;

    /// The same, with a view of each object that ends with the call.
    fn view(&mut self, keys: &[ChunkKey]) -> Result<usize, String> {
        self.find(keys)
    }

    /// Finds an object of this length and sums its words.
    fn sum(&mut self, key: &ChunkKey, len: usize) -> Result<u64, String>;

    /// Forgets everything and stores keys `0..count` of `len` bytes.
    fn fill(&mut self, count: u64, len: usize) -> Result<(), String> {
        self.clear()?;
        let bytes = vec![0x5a; len];
        let numbers: Vec<u64> = (0..count).collect();
        for numbers in numbers.chunks(1024) {
            let keys: Vec<ChunkKey> = numbers.iter().copied().map(crate::keys::key).collect();
            self.store(&keys, &bytes)?;
        }
        Ok(())
    }
}

/// All peers that this machine has; what it lacks is said once a run.
pub fn start(report: &mut Report) -> Vec<Box<dyn Peer>> {
    let mut peers: Vec<Box<dyn Peer>> = Vec::new();
    let mut keep = |name: &str, started: Result<Box<dyn Peer>, String>| match started {
        Ok(peer) => peers.push(peer),
        Err(why) => {
            let line = format!("{name}: {why}");
            if !report.skips.contains(&line) {
                report.skip(line);
            }
        }
    };
    keep(
        "LMDB",
        Lmdb::start().map(|peer| Box::new(peer) as Box<dyn Peer>),
    );
    keep(
        "memcached",
        memcached::Memcached::start().map(|peer| Box::new(peer) as Box<dyn Peer>),
    );
    keep(
        "Redis",
        redis::Redis::start().map(|peer| Box::new(peer) as Box<dyn Peer>),
    );
    keep(
        "Plasma",
        plasma::Plasma::start().map(|peer| Box::new(peer) as Box<dyn Peer>),
    );
    peers
}

/// The key's bytes as text, for protocols of lines.
fn hex(key: &ChunkKey) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 64];
    for (pair, byte) in text.chunks_exact_mut(2).zip(key.chunk_hash) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::key;

    #[test]
    fn every_peer_that_is_here_finds_what_was_stored_and_nothing_else() {
        let mut report = Report::default();
        for mut peer in start(&mut report) {
            let name = peer.name();
            peer.fill(3000, 64).expect(name);
            let keys: Vec<ChunkKey> = (2990..3010).map(key).collect();
            assert_eq!(peer.find(&keys).expect(name), 10, "{name}");
            assert_eq!(peer.view(&keys).expect(name), 10, "{name}");
            peer.make_room(&keys[..3]).expect(name);
            let bytes: Vec<u8> = (0..1_u32 << 20).map(|at| (at % 251) as u8).collect();
            peer.store(&keys[..3], &bytes).expect(name);
            let wanted = bytes
                .chunks_exact(8)
                .map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")))
                .fold(0_u64, u64::wrapping_add);
            assert_eq!(
                peer.sum(&keys[1], bytes.len()).expect(name),
                wanted,
                "{name}"
            );
            peer.clear().expect(name);
            assert_eq!(peer.find(&keys).expect(name), 0, "{name}");
        }
    }
}
