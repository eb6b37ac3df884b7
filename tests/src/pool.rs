//! Keys, their bytes, and the few calls that most tests begin with.
//!
//! A key is a name and a number; its bytes follow from both, so that any process can say whether what it reads is
//! what was written.

use std::time::{Duration, Instant};

use hostkv::lease::Lease;
use hostkv::reservation::Reservation;
use hostkv::session::{KeyspaceConfig, Request, ReserveItem, Session};
use hostkv::{ChunkKey, KeyspaceId, Status};
use hostkv_shm_protocol::wire::reply::Prefetched;

/// Key number `number` of a family.
pub fn key(family: &str, number: usize) -> ChunkKey {
    let text = format!("{family}/{number}");
    let mut chunk_hash = [0; 32];
    assert!(
        text.len() <= chunk_hash.len(),
        "the key {text:?} is too long"
    );
    chunk_hash[..text.len()].copy_from_slice(text.as_bytes());
    ChunkKey {
        chunk_hash,
        chunk_hash_len: 32,
        kv_rank: 0,
        object_group_id: 0,
    }
}

/// The first `count` keys of a family.
pub fn keys(family: &str, count: usize) -> Vec<ChunkKey> {
    (0..count).map(|number| key(family, number)).collect()
}

/// Items that ask for `len_bytes` each.
pub fn reserve_items(keys: &[ChunkKey], len_bytes: u64) -> Vec<ReserveItem> {
    keys.iter()
        .map(|key| ReserveItem {
            key: *key,
            len_bytes,
        })
        .collect()
}

/// A keyspace of this model without a salt.
pub fn keyspace_config(model: &str) -> KeyspaceConfig {
    KeyspaceConfig {
        model_name: model.to_owned(),
        cache_salt: String::new(),
        layout_fingerprint: 7,
        tokens_per_key: 0,
        as_it_stands: false,
    }
}

/// Opens the keyspace that most tests use.
pub fn keyspace(session: &Session) -> KeyspaceId {
    session
        .open_keyspace(&keyspace_config("test-model"))
        .unwrap()
}

/// A request with these flags and no names.
pub fn request(flags: u32) -> Request<'static> {
    Request {
        flags,
        ..Request::default()
    }
}

/// First word of the pattern of a key.
fn pattern_start(key: &ChunkKey) -> u64 {
    // FNV-1a, 64 bits: any function of all bytes of the key will do.
    key.chunk_hash
        .iter()
        .chain(&key.kv_rank.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
}

fn pattern_byte(start: u64, at: u64) -> u8 {
    (start.wrapping_add(at.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 56) as u8
}

/// Writes the bytes of a key.
///
/// # Safety
///
/// `data` points to `len_bytes` bytes that nobody else writes meanwhile.
pub unsafe fn fill(key: &ChunkKey, data: *mut u8, len_bytes: u64) {
    let start = pattern_start(key);
    for at in 0..len_bytes {
        // SAFETY: `at` is below the length that the caller promises.
        unsafe { data.add(at as usize).write(pattern_byte(start, at)) };
    }
}

/// Whether these are the bytes of the key.
///
/// # Safety
///
/// `data` points to `len_bytes` bytes that nobody writes meanwhile.
pub unsafe fn is_filled(key: &ChunkKey, data: *const u8, len_bytes: u64) -> bool {
    let start = pattern_start(key);
    // SAFETY: `at` is below the length that the caller promises.
    (0..len_bytes).all(|at| unsafe { data.add(at as usize).read() } == pattern_byte(start, at))
}

/// Statuses of the spans of a reservation, in order.
pub fn statuses_of(reservation: &Reservation) -> Vec<Status> {
    (0..reservation.count())
        .map(|index| match reservation.span(index) {
            Ok(_) => Status::Ok,
            Err(error) => error.status,
        })
        .collect()
}

/// Reserves, writes and commits these keys, `len_bytes` each and as many at once as the quota allows; panics unless
/// all were granted.
pub fn store(session: &Session, keyspace: KeyspaceId, keys: &[ChunkKey], len_bytes: u64) {
    let quota = session.info().unwrap().reserve_quota_bytes;
    let batch_keys = (quota / len_bytes.next_multiple_of(4096)).clamp(1, 256);
    for batch in keys.chunks(batch_keys as usize) {
        let reservation = store_sized(session, keyspace, &reserve_items(batch, len_bytes));
        reservation.commit().unwrap();
    }
}

/// Stores new objects of a family, four times what the pool holds: whatever may be evicted is.
pub fn overfill(session: &Session, keyspace: KeyspaceId, family: &str, len_bytes: u64) {
    let count = 4 * session.figures().unwrap().capacity_bytes / len_bytes;
    store(session, keyspace, &keys(family, count as usize), len_bytes);
}

/// What a prefetch comes to.
pub fn outcome(prefix_count: u32, loaded_count: u32, status: Status) -> Prefetched {
    Prefetched {
        prefix_count,
        loaded_count,
        status,
    }
}

/// Reserves and writes these items, and panics unless all were granted.
pub fn store_sized(session: &Session, keyspace: KeyspaceId, items: &[ReserveItem]) -> Reservation {
    let reservation = session
        .reserve(keyspace, items, &Request::default())
        .unwrap();
    for (index, item) in items.iter().enumerate() {
        let span = reservation.span(index).unwrap();
        assert_eq!(span.len_bytes, item.len_bytes);
        // SAFETY: the span is this test's alone until the commit.
        unsafe { fill(&item.key, span.data, span.len_bytes) };
    }
    reservation
}

/// Panics unless span `index` of the lease has the bytes of the key.
pub fn assert_reads(lease: &Lease, index: usize, key: &ChunkKey) {
    let span = lease.span(index).unwrap();
    // SAFETY: the lease keeps the bytes, and committed bytes do not change.
    let is_right = unsafe { is_filled(key, span.data, span.len_bytes) };
    assert!(is_right, "span {index} has other bytes than were written");
}

/// Waits until the claim is true; panics with `what` when it takes longer than patience allows.
pub fn wait_until(what: &str, mut claim: impl FnMut() -> bool) {
    let deadline = Instant::now() + crate::PATIENCE;
    while !claim() {
        assert!(Instant::now() < deadline, "it does not happen: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The seed of a random test: `HOSTKV_TEST_SEED`, else drawn; printed, so that a failure can be repeated.
pub fn seed(test: &str) -> u64 {
    let seed = match std::env::var("HOSTKV_TEST_SEED") {
        Ok(text) => text.parse().expect("HOSTKV_TEST_SEED is a whole number"),
        Err(_) => std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |now| now.as_nanos() as u64),
    };
    eprintln!("{test}: HOSTKV_TEST_SEED={seed}");
    seed
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, seedable, and the same in every process.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next_word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next_word() % end
    }
}
