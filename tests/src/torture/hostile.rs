//! F7: a client that breaks every rule it can, for as long as it lives.
//!
//! ```text
//!   hostile process ──┬─ 2 threads: every word of its lease segment, flipped, random or nearly right, all the time
//!                     └─ frames: valid ones, with bytes changed, cut off or added; connects again when sent away
//!   honest worker   ──── load of its own, verified          bystander, audits, sums of the metrics: as ever
//! ```

use std::path::Path;
use std::time::Duration;

use hostkv_shm_protocol::id::{EntryNumber, KeyspaceId, OpId};
use hostkv_shm_protocol::key::Key;
use hostkv_shm_protocol::sync::{AtomicBool, Ordering};
use hostkv_shm_protocol::view::View;
use hostkv_shm_protocol::wire::request::{Held, HeldItem, List, Request, Resolve};

use super::{Fault, Run, Skipped, Stage};
use crate::{Random, RawClient, Worker, keys};

/// Flips and sends.
pub static FLIPS_AND_LIES: Fault = Fault {
    id: "F7",
    name: "a client flips every word of its lease from 2 threads and sends mutated frames",
    required: "0 crashes; the others verified throughout; sums of the metrics hold",
    full_cycles: 3600,
    weight: 8,
    run: flips_and_lies,
};

/// How long a hostile process lives: one a cycle.
const LIFE: Duration = Duration::from_millis(250);

fn flips_and_lies(run: &mut Run) -> Result<(), Skipped> {
    let stage = Stage::new(&["--enable-telemetry"]);
    let mut rejected = 0.0;
    while run.goes_on() {
        let mut hostile = Worker::start(&stage.daemon);
        hostile.must(&format!("rage {}", run.random.below(1 << 40)));
        let mut honest = Worker::start(&stage.daemon);
        honest.must("open");
        honest.must(&format!("load-until-death {}", run.random.below(1 << 40)));
        std::thread::sleep(LIFE);
        // Both are alive until now: a wrong byte, or a refusal that the protocol does not know, had ended them.
        hostile.kill();
        honest.kill();
        stage.assert_nothing_leaked();
        // Its sums are checked with every scrape.
        rejected = stage.daemon.scrape().sample("hostkv_rejected_frames_total");
        run.count(1);
    }
    assert!(
        rejected > 0.0,
        "no frame was refused: the client was not hostile"
    );
    run.note(format!("{rejected} frames refused"));
    stage.finish(run);
    Ok(())
}

/// Does its worst until the process is killed. For a process of its own.
pub fn rage(socket: &Path, seed: u64) -> ! {
    let mut random = Random(seed);
    loop {
        // The daemon may be at its limit of half-open connections; it must never refuse for another reason.
        let Ok(mut client) = RawClient::connect(socket) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        if client.open().is_err() {
            continue;
        }
        let keyspace = client.keyspace();
        let lease = client.lease();
        let has_ended = AtomicBool::new(false);
        let seeds = [random.next_word(), random.next_word()];
        std::thread::scope(|scope| {
            for seed in seeds {
                let has_ended = &has_ended;
                scope.spawn(move || flip(lease, Random(seed), has_ended));
            }
            lie(&mut client, keyspace, &mut random);
            // Relaxed: only the end of a loop.
            has_ended.store(true, Ordering::Relaxed);
        });
        // Half of the time it ends with its maps in place, and the daemon has to see that they go.
        client.close_socket();
        if random.below(2) == 0 {
            std::thread::sleep(Duration::from_millis(random.below(5)));
        }
    }
}

/// Writes words of the lease segment until it is told to end.
fn flip(lease: View, mut random: Random, has_ended: &AtomicBool) {
    let count = lease.len() / 8;
    // Relaxed, here and below: no order is what is wanted.
    while !has_ended.load(Ordering::Relaxed) {
        for _ in 0..256 {
            // The header and the first slots are what the daemon looks at most.
            let at = match random.below(2) {
                0 => random.below(64),
                _ => random.below(count),
            };
            let word = lease.u64(at * 8).expect("the word is inside the segment");
            match random.below(5) {
                0 => word.store(random.next_word(), Ordering::Relaxed),
                1 => word.store(u64::MAX, Ordering::Relaxed),
                // A pin on an entry that exists, or nearly.
                2 => word.store(random.below(20_000), Ordering::Relaxed),
                3 => word.store(
                    word.load(Ordering::Relaxed).wrapping_add(random.below(3)),
                    Ordering::Relaxed,
                ),
                _ => {
                    let bit = 1 << random.below(64);
                    word.store(word.load(Ordering::Relaxed) ^ bit, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Sends frames until the daemon ends the connection, or a hundred.
fn lie(client: &mut RawClient, keyspace: KeyspaceId, random: &mut Random) {
    for _ in 0..100 {
        let mut frame =
            request(keyspace, random).encode(random.below(1 << 20), random.below(8) != 0);
        for _ in 0..random.below(4) {
            match random.below(8) {
                0 => frame.truncate(random.below(frame.len() as u64 + 1) as usize),
                1 => frame.push(random.next_word() as u8),
                _ => {
                    if let Some(at) = random.next_word().checked_rem(frame.len() as u64) {
                        frame[at as usize] = random.next_word() as u8;
                    }
                }
            }
        }
        if !client.send_without_waiting(&frame) || !client.drain() {
            return;
        }
    }
}

/// A request that is well formed, and now and then even right.
fn request(keyspace: KeyspaceId, random: &mut Random) -> Request {
    let own = &keys("hostile", 8)[..1 + random.below(8) as usize];
    let held = Held {
        op_id: OpId(random.below(4)),
        items: (0..1 + random.below(4))
            .map(|_| HeldItem {
                entry: EntryNumber(random.below(9000) as u32),
                generation: 2 * random.below(4),
            })
            .collect(),
    };
    match random.below(10) {
        0 => Request::Resolve(Resolve {
            flags: 0,
            tokens_per_key: 0,
            layout_fingerprint: random.below(3),
            model_name: "hostile".to_owned(),
            cache_salt: random.below(5).to_string(),
        }),
        1..=3 => {
            let len_bytes = match random.below(4) {
                0 => random.next_word() as u32,
                _ => 1 + random.below(20_000) as u32,
            };
            RawClient::reserve(random.below(4), keyspace, own, len_bytes)
        }
        4 if random.below(2) == 0 => {
            let len_bytes = 1 + random.below(20_000) as u32;
            match RawClient::reserve(random.below(4), keyspace, own, len_bytes) {
                Request::Reserve(next) => Request::CommitReserve(held, next),
                other => other,
            }
        }
        4 => Request::Commit(held),
        5 => Request::Abort(held),
        6 => Request::Remove(
            own.iter()
                .map(|key| {
                    Key::new(
                        &key.chunk_hash,
                        key.chunk_hash_len,
                        key.kv_rank,
                        key.object_group_id,
                        keyspace,
                    )
                    .expect("the key is well formed")
                })
                .collect(),
        ),
        7 => Request::Stats,
        8 => Request::List(List {
            flags: random.below(4) as u32,
            limit: random.next_word() as u32,
            cursor: random.next_word(),
            model_name: String::new(),
            cache_salt: String::new(),
        }),
        _ => Request::State {
            cursor: random.below(8),
        },
    }
}
