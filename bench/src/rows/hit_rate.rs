//! The hit rate under a Zipf law at growing read rates, beside that of exact LRU on the same reads.
//!
//! One thread reads keys at a given rate, a second one stores those that were missing. The daemon knows of reads only what
//! the recency ring and its overflow bitmap tell; exact LRU knows every read in order and stores at once. The gap is shown
//! with its causes, and not gated.

use super::Plan;
use crate::keys::{SEED, key, mix};
use crate::pool::{Pool, items, keyspace, said};
use crate::report::Report;
use crate::table::{Goal, Row, Unit};
use hostkv::session::{ACQUIRE_ALL, Request};
use hostkv::{ChunkKey, Status};
use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const KEYS: u64 = 400_000;
const LEN_BYTES: u64 = 4096;
const BATCH: usize = 32;
const READS: usize = 8_000_000;

/// A row for each rate.
pub fn rows(_plan: &Plan, report: &mut Report) -> Result<(), String> {
    for millions in [1.0, 4.0, 16.0] {
        let trace = zipf_trace(READS / BATCH * BATCH);
        let outcome = live(&trace, millions * 1e6)?;
        let exact = exact_lru(&trace, outcome.capacity);
        report.row(
            Row::new(
                format!("hit rate under Zipf, {millions} M reads/s asked"),
                Unit::Share,
                outcome.hit_rate,
                Goal::Shown,
            )
            .limit("exact LRU on the same reads", exact)
            .note(format!(
                "{:.1} M/s reached; causes of the gap: {:.1} % of the misses were asked for again before they were stored, and \
                 of the reads within a tick of 0.1 s the daemon knows which keys, not in which order",
                outcome.rate / 1e6,
                outcome.asked_again * 100.0,
            )),
        );
    }
    Ok(())
}

/// Key numbers by a Zipf law with exponent 1, by inverting the integral of 1/x.
fn zipf_trace(reads: usize) -> Vec<u32> {
    let mut state = SEED;
    let range = (KEYS as f64).ln();
    (0..reads)
        .map(|_| {
            let uniform = mix(&mut state) as f64 / u64::MAX as f64;
            ((uniform * range).exp() - 1.0).min(KEYS as f64 - 1.0) as u32
        })
        .collect()
}

struct Outcome {
    hit_rate: f64,
    rate: f64,
    asked_again: f64,
    capacity: usize,
}

/// Reads the trace from a real pool.
fn live(trace: &[u32], rate: f64) -> Result<Outcome, String> {
    let pool = Pool::start(&["--l1-size-gb", "0.5", "--max-objects", "200000"])?;
    let session = pool.session()?;
    let keyspace = keyspace(&session)?;
    let keys: Vec<ChunkKey> = (0..KEYS).map(key).collect();
    let request = Request {
        flags: ACQUIRE_ALL,
        ..Request::default()
    };
    let (sender, missing) = channel::<u32>();
    let (hits, again, elapsed) = std::thread::scope(|scope| {
        let storer = scope.spawn(|| store_missing(&pool, missing));
        let begin = Instant::now();
        let interval = Duration::from_secs_f64(BATCH as f64 / rate);
        let (mut hits, mut again) = (0_u64, 0_u64);
        let mut pending: HashMap<u32, Instant> = HashMap::new();
        let mut wanted = Vec::with_capacity(BATCH);
        for (turn, numbers) in trace.chunks(BATCH).enumerate() {
            while begin.elapsed() < interval.mul_f64(turn as f64) {
                std::hint::spin_loop();
            }
            wanted.clear();
            wanted.extend(numbers.iter().map(|number| keys[*number as usize]));
            let lease = session.acquire(keyspace, &wanted, &request).map_err(said)?;
            if lease.prefix_count() == BATCH {
                hits += BATCH as u64;
            } else {
                for (at, number) in numbers.iter().enumerate() {
                    if lease.span(at).is_ok() {
                        hits += 1;
                    } else if pending
                        .insert(*number, Instant::now())
                        .is_some_and(|last| last.elapsed() < Duration::from_millis(200))
                    {
                        again += 1;
                    } else {
                        sender.send(*number).map_err(|error| error.to_string())?;
                    }
                }
            }
            lease.release().map_err(said)?;
        }
        let elapsed = begin.elapsed();
        drop(sender);
        storer
            .join()
            .map_err(|_| "the storing thread failed".to_owned())??;
        Ok::<_, String>((hits, again, elapsed))
    })?;
    let after = session.figures().map_err(said)?;
    let misses = (trace.len() as u64 - hits).max(1);
    Ok(Outcome {
        hit_rate: hits as f64 / trace.len() as f64,
        rate: trace.len() as f64 / elapsed.as_secs_f64(),
        asked_again: again as f64 / misses as f64,
        capacity: after.object_count as usize,
    })
}

/// Stores what is asked for, in batches of what has come meanwhile.
fn store_missing(pool: &Pool, missing: Receiver<u32>) -> Result<(), String> {
    let session = pool.session()?;
    let keyspace = keyspace(&session)?;
    while let Ok(first) = missing.recv() {
        let mut numbers = HashSet::from([u64::from(first)]);
        while numbers.len() < 256
            && let Ok(number) = missing.try_recv()
        {
            numbers.insert(u64::from(number));
        }
        let items = items(numbers, LEN_BYTES);
        let reservation = session
            .reserve(keyspace, &items, &Default::default())
            .map_err(said)?;
        for at in 0..items.len() {
            if let Err(error) = reservation.span(at)
                && error.status != Status::Exists
            {
                return Err(error.message);
            }
        }
        reservation.commit().map_err(said)?;
    }
    Ok(())
}

/// The hit rate of exact LRU with room for this many keys.
fn exact_lru(trace: &[u32], capacity: usize) -> f64 {
    let mut order = Order::new(KEYS as usize);
    let mut hits = 0_u64;
    for number in trace {
        if order.contains(*number) {
            hits += 1;
            order.unlink(*number);
        } else if order.len == capacity.max(1) {
            order.unlink(order.coldest());
        }
        order.push(*number);
    }
    hits as f64 / trace.len() as f64
}

/// Keys in the order of their last use, as a ring through a head that is no key.
struct Order {
    /// The next colder and the next warmer one of each key and of the head; a key that is not there names itself.
    colder: Vec<u32>,
    warmer: Vec<u32>,
    len: usize,
}

impl Order {
    fn new(keys: usize) -> Order {
        let all: Vec<u32> = (0..=keys as u32).collect();
        Order {
            colder: all.clone(),
            warmer: all,
            len: 0,
        }
    }

    fn head(&self) -> u32 {
        self.colder.len() as u32 - 1
    }

    fn coldest(&self) -> u32 {
        self.warmer[self.head() as usize]
    }

    fn contains(&self, key: u32) -> bool {
        self.colder[key as usize] != key
    }

    fn unlink(&mut self, key: u32) {
        let (colder, warmer) = (self.colder[key as usize], self.warmer[key as usize]);
        self.warmer[colder as usize] = warmer;
        self.colder[warmer as usize] = colder;
        self.colder[key as usize] = key;
        self.len -= 1;
    }

    fn push(&mut self, key: u32) {
        let head = self.head();
        let warmest = self.colder[head as usize];
        self.colder[key as usize] = warmest;
        self.warmer[key as usize] = head;
        self.warmer[warmest as usize] = key;
        self.colder[head as usize] = key;
        self.len += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_lru_keeps_what_was_used_last() {
        assert_eq!(exact_lru(&[1, 2, 1, 3, 2, 1], 2), 1.0 / 6.0);
        assert_eq!(exact_lru(&[1, 2, 1, 3, 2, 1], 3), 0.5);
    }

    #[test]
    fn few_keys_get_most_reads() {
        let trace = zipf_trace(100_000);
        let warm = trace.iter().filter(|number| **number < 1000).count();
        assert!((45_000..65_000).contains(&warm), "{warm}");
        assert!(trace.iter().all(|number| u64::from(*number) < KEYS));
    }
}
