//! Reads to be counted instruction by instruction: `scripts/count-instructions.sh` runs this under valgrind.
//!
//! ```text
//!   hostkv-test-counted SOCKET ROUNDS     ROUNDS times acquire + release of 16 keys that are there
//! ```
//!
//! All that is counted happens inside [`hostkv_counted_reads`], whose name the counter knows. It reads in batches that
//! fit into the session's ring of events and sleeps in between, outside of what is counted, until the daemon has emptied it.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests fails by panicking, with the place and the error"
)]

use std::time::Duration;

use hostkv::session::{Request, Session, SessionConfig};
use hostkv::{ChunkKey, KeyspaceId};
use hostkv_tests::{keys, keyspace, store};

/// Keys of a read.
const KEYS: usize = 16;
/// Reads of a batch: two events each, and the ring has 1024 places.
const BATCH: usize = 250;

/// Acquire and release, `rounds` times; gives the keys found.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn hostkv_counted_reads(reads: &Reads<'_>, rounds: usize) -> usize {
    let mut found = 0;
    for _ in 0..rounds {
        let lease = reads
            .session
            .acquire(reads.keyspace, reads.keys, &reads.request)
            .unwrap();
        found += lease.prefix_count();
        lease.release().unwrap();
    }
    found
}

/// What is read, by whom.
pub struct Reads<'a> {
    session: &'a Session,
    keyspace: KeyspaceId,
    keys: &'a [ChunkKey],
    request: Request<'a>,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let socket = arguments.next().unwrap();
    let rounds: usize = arguments.next().unwrap().parse().unwrap();
    let session = Session::open(&SessionConfig {
        socket_path: Some(socket.into()),
        client_name: "counted".to_owned(),
        ..SessionConfig::default()
    })
    .unwrap();
    let keyspace = keyspace(&session);
    let wanted = keys("counted", KEYS);
    if session.lookup(keyspace, &wanted, None).unwrap() < KEYS {
        store(&session, keyspace, &wanted, 64);
    }
    let reads = Reads {
        session: &session,
        keyspace,
        keys: &wanted,
        request: Request {
            request_id: Some("counted-request"),
            device: Some("gpu0"),
            ..Request::default()
        },
    };
    let mut left = rounds;
    while left > 0 {
        let batch = left.min(BATCH);
        assert_eq!(hostkv_counted_reads(&reads, batch), batch * KEYS);
        left -= batch;
        std::thread::sleep(Duration::from_millis(400));
    }
}
