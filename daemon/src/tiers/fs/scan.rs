//! The scan of a folder at its opening: fills the index, removes what daemons that died left behind, keeps the capacity.
//!
//! Runs once, on a thread of its own, and looks only at names, lengths and times. What is used or stored meanwhile is in
//! the index already and stays as it is there.

use std::fs::{self, File};

use hostkv_shm_protocol::sync::Ordering;

use super::direct::BLOCK_BYTES;
use super::{Shared, ns_of, used_bytes_of};
use crate::tiers::key::{TIER_KEY_BYTES, TierKey};

/// Objects between two takings of the lock.
const BATCH: usize = 256;

/// The whole scan.
pub(super) fn run(shared: &Shared, capacity_bytes: Option<u64>) {
    remove_leftovers(shared);
    let Ok(folders) = fs::read_dir(&shared.objects) else {
        return;
    };
    for folder in folders.flatten() {
        let Ok(files) = fs::read_dir(folder.path()) else {
            continue;
        };
        let mut batch = Vec::with_capacity(BATCH);
        for file in files.flatten() {
            // Relaxed: a sign to stop, nothing stands behind it.
            if shared.is_ending.load(Ordering::Relaxed) {
                return;
            }
            let Some(key) = file.file_name().to_str().and_then(key_of) else {
                continue;
            };
            let Ok(metadata) = file.metadata() else {
                continue;
            };
            if let Some(len_bytes) = metadata.len().checked_sub(BLOCK_BYTES) {
                batch.push((key, len_bytes, metadata.modified().map_or(0, ns_of)));
            }
            if batch.len() == BATCH {
                take_in(shared, &mut batch);
            }
        }
        take_in(shared, &mut batch);
    }
    if let Some(capacity_bytes) = capacity_bytes {
        shared.make_room(capacity_bytes, 0);
    }
    let (count, used_bytes) = {
        let state = shared.state();
        (state.lru.count(), state.lru.used_bytes())
    };
    log::info!(
        "L2 folder {:?} holds {count} objects in {used_bytes} bytes.",
        shared.objects
    );
}

fn take_in(shared: &Shared, batch: &mut Vec<(TierKey, u64, u64)>) {
    let mut state = shared.state();
    for (key, len_bytes, at_ns) in batch.drain(..) {
        if state.lru.get(&key).is_none() {
            state
                .lru
                .insert(key, len_bytes, used_bytes_of(len_bytes), at_ns);
        }
    }
}

/// The key that a file name says.
fn key_of(name: &str) -> Option<TierKey> {
    if name.len() != TIER_KEY_BYTES * 2 || !name.is_ascii() {
        return None;
    }
    let mut bytes = [0; TIER_KEY_BYTES];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&name[i * 2..i * 2 + 2], 16).ok()?;
    }
    let key = TierKey::from_bytes(bytes);
    (key.to_string() == name).then_some(key)
}

/// Removes folders of temporary files that nobody has locked.
fn remove_leftovers(shared: &Shared) {
    let Ok(folders) = fs::read_dir(&shared.temporary) else {
        return;
    };
    for folder in folders.flatten() {
        let path = folder.path();
        if path == shared.own {
            continue;
        }
        let Ok(lock) = File::open(&path) else {
            continue;
        };
        if lock.try_lock().is_ok() {
            // What can't be removed now is tried again at the next start.
            let _ = fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_a_store_gives_are_keys() {
        let key = TierKey::from_bytes([0xa7; 32]);
        assert_eq!(key_of(&key.to_string()), Some(key));
        let upper = key.to_string().to_uppercase();
        let plus = format!("+1{}", &key.to_string()[2..]);
        for other in ["", "a7", upper.as_str(), plus.as_str(), &"é".repeat(32)] {
            assert_eq!(key_of(other), None, "{other}");
        }
    }
}
