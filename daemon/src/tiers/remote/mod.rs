//! The tiers `resp` and `s3`: stores on other hosts.
//!
//! The threads of the tier call it as every other tier; each waits here for what it asked. How objects lie in a store and
//! come and go is that of [`Objects`]; what they have in common is here: the key before it, and the capacity.
//!
//! ```text
//!   resp   PREFIX HEX        the seal, written last          s3   PREFIX HEX   the object, then the seal
//!          PREFIX HEX.N      piece N of the object
//! ```
//!
//! The capacity is this daemon's own: it removes what it stored and used last itself, and knows nothing of what others
//! store there, or of what it stored before a restart. A store that is shared bounds itself (`maxmemory` with
//! `allkeys-lru`, lifecycle rules); what it removed is a miss.
//!
//! **The lock** guards the ledger of what was stored. Nothing waits while it is held.

mod resp;
mod s3;
mod waiting;

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crc_fast::Digest;
use hostkv_shm_protocol::sum::Sum;

use super::backend::{Backend, Fault, Got, Put, Usage};
use super::key::TierKey;
use super::lru::Lru;
use super::seal::{SEAL_BYTES, Seal};
use super::spec::{RespSpec, S3Spec};
use super::{PayloadRange, StoreObject};
use crate::workers::PayloadBytes;

/// What a tier writes and reads to see that it may.
const PROBE: &str = "hostkv-probe";

/// The objects in a store, under the names that a prefix gives them.
trait Objects: Send + Sync {
    /// As [`Backend::find`].
    fn find(&self, keys: &[TierKey]) -> Result<Vec<Option<u64>>, Fault>;

    /// As [`Backend::put`]; what is left of a store that the server refuses is removed.
    fn put(&self, object: &StoreObject) -> Result<Put, Fault>;

    /// As [`Backend::get`]; what is not whole is removed, since it would keep the next store from putting it there again.
    fn get(&self, key: &TierKey, destination: PayloadRange) -> Result<Got, Fault>;

    /// Removes an object, of this length if that is known.
    fn remove(&self, key: &TierKey, len_bytes: Option<u64>) -> Result<(), Fault>;

    /// As [`Backend::probe`].
    fn probe(&self) -> Result<(), Fault>;

    /// As [`Backend::end`].
    fn end(&self);
}

/// An opened tier.
pub(super) struct Remote {
    objects: Box<dyn Objects>,
    capacity_bytes: Option<u64>,
    ledger: Mutex<Ledger>,
    began: Instant,
}

#[derive(Default)]
struct Ledger {
    lru: Lru,
    evicted_keys_count: u64,
    evicted_bytes: u64,
}

/// Connects to a RESP server, logs in, writes and reads.
pub(super) fn open_resp(
    spec: &RespSpec,
    timeout: Duration,
    payload: PayloadBytes,
) -> Result<Remote, Fault> {
    let objects = resp::Resp::open(spec, timeout, payload)?;
    Ok(Remote::new(objects, spec.capacity_bytes))
}

/// Finds the bucket, writes and reads.
pub(super) fn open_s3(
    spec: &S3Spec,
    timeout: Duration,
    payload: PayloadBytes,
) -> Result<Remote, Fault> {
    let objects = s3::Bucket::open(spec, timeout, payload)?;
    Ok(Remote::new(objects, spec.capacity_bytes))
}

fn unusable(place: &str, sentence: &str, remedy: &str) -> Fault {
    Fault::error(format!(
        "{place} can't be used: {sentence}; {remedy}, or let hostkvd start without it by \"required\": false"
    ))
}

fn first_line(path: &Path) -> Result<String, Fault> {
    let text = fs::read_to_string(path).map_err(|error| {
        Fault::error(format!(
            "reading the secret in {path:?} failed: {error}; give a file that hostkvd may read"
        ))
    })?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(Fault::error(format!(
            "the secret in {path:?} is empty; write it into the first line"
        ))),
    }
}

/// Offsets and lengths of the pieces of `len_bytes`.
fn pieces(len_bytes: u64, piece_bytes: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..len_bytes.div_ceil(piece_bytes)).map(move |number| {
        let begin = number * piece_bytes;
        (begin, piece_bytes.min(len_bytes - begin))
    })
}

/// The seal of what was copied out. A sum from the index stands for what was committed: when the bytes are others by now,
/// a load shall find out.
fn seal_of(object: &StoreObject, digest: Digest) -> [u8; SEAL_BYTES] {
    Seal {
        key: object.key,
        len_bytes: object.source.len_bytes,
        sum: object
            .sum
            .unwrap_or_else(|| Sum::of_checksum(digest.finalize())),
    }
    .to_bytes()
}

impl Remote {
    fn new(objects: impl Objects + 'static, capacity_bytes: Option<u64>) -> Remote {
        Remote {
            objects: Box::new(objects),
            capacity_bytes,
            ledger: Mutex::default(),
            began: Instant::now(),
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX >> 1)
    }

    /// Notes what is there now, and takes what is too much out of the ledger.
    fn note(&self, key: &TierKey, len_bytes: u64) -> Vec<(TierKey, u64)> {
        let now_ns = self.now_ns();
        let mut ledger = self.ledger();
        ledger
            .lru
            .insert(*key, len_bytes, len_bytes + SEAL_BYTES as u64, now_ns);
        let mut victims = Vec::new();
        while let Some(capacity_bytes) = self.capacity_bytes
            && ledger.lru.used_bytes() > capacity_bytes
            && let Some((key, slot)) = ledger.lru.take_coldest()
        {
            ledger.evicted_keys_count += 1;
            ledger.evicted_bytes += slot.used_bytes;
            victims.push((key, slot.len_bytes));
        }
        victims
    }
}

impl Backend for Remote {
    fn find(&self, keys: &[TierKey]) -> Result<Vec<Option<u64>>, Fault> {
        self.objects.find(keys)
    }

    fn put(&self, object: &StoreObject) -> Result<Put, Fault> {
        let put = self.objects.put(object)?;
        if put == Put::Known {
            let now_ns = self.now_ns();
            self.ledger().lru.touch(&object.key, now_ns);
            return Ok(put);
        }
        for (victim, len_bytes) in self.note(&object.key, object.source.len_bytes) {
            // What can't be removed now stays until the store removes it.
            let _ = self.objects.remove(&victim, Some(len_bytes));
        }
        Ok(put)
    }

    fn get(&self, key: &TierKey, destination: PayloadRange) -> Result<Got, Fault> {
        let got = self.objects.get(key, destination)?;
        let now_ns = self.now_ns();
        let mut ledger = self.ledger();
        match got {
            Got::Loaded(_) => ledger.lru.touch(key, now_ns),
            Got::Absent | Got::Damaged => drop(ledger.lru.remove(key)),
        }
        Ok(got)
    }

    fn remove(&self, key: &TierKey) -> Result<(), Fault> {
        let known = self.ledger().lru.remove(key);
        self.objects.remove(key, known.map(|slot| slot.len_bytes))
    }

    fn probe(&self) -> Result<(), Fault> {
        self.objects.probe()
    }

    fn usage(&self) -> Usage {
        let ledger = self.ledger();
        Usage {
            used_bytes: ledger.lru.used_bytes(),
            objects: ledger.lru.count() as u64,
            capacity_bytes: self.capacity_bytes,
            evicted_keys_count: ledger.evicted_keys_count,
            evicted_bytes: ledger.evicted_bytes,
        }
    }

    fn end(&self) {
        self.objects.end();
    }
}
