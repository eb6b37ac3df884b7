//! How well holes are kept together: a cache at its watermark, with four mixes of sizes.
//!
//! A pool of 64 GiB in units of 4 KiB evicts the least recently used object until there is room below the watermark. When
//! no hole fits then, one more object has to go: an extra eviction, and the promise is that at 90 % there is none.

use super::{Random, seed};
use crate::store::allocator::Allocator;

/// Entries from the least to the most recently used, in a ring through the node numbered `entry_count`.
struct Recency {
    prev: Vec<u32>,
    next: Vec<u32>,
}

impl Recency {
    fn new(entry_count: u32) -> Recency {
        Recency {
            prev: vec![entry_count; entry_count as usize + 1],
            next: vec![entry_count; entry_count as usize + 1],
        }
    }

    fn oldest(&self) -> u32 {
        self.next[self.next.len() - 1]
    }

    fn add(&mut self, entry: u32) {
        let root = self.next.len() - 1;
        let newest = self.prev[root];
        self.prev[entry as usize] = newest;
        self.next[entry as usize] = root as u32;
        self.next[newest as usize] = entry;
        self.prev[root] = entry;
    }

    fn take(&mut self, entry: u32) {
        let (prev, next) = (self.prev[entry as usize], self.next[entry as usize]);
        self.next[prev as usize] = next;
        self.prev[next as usize] = prev;
    }
}

/// Fills a payload of 64 GiB in units of 4 KiB up to `percent`, evicting the least recently used, while two uses of
/// one third of the objects go with each allocation. Returns how many objects had to go because no hole was found.
fn extra_evictions(
    percent: u64,
    allocations: u32,
    mut size: impl FnMut(u32, &mut Random) -> u32,
) -> u32 {
    const CAPACITY: u32 = 16 << 20;
    const ENTRIES: u32 = 1 << 19;
    let mut random = Random(seed());
    let mut allocator = Allocator::new(CAPACITY, ENTRIES);
    let mut recency = Recency::new(ENTRIES);
    let mut unused: Vec<u32> = (0..ENTRIES).rev().collect();
    let mut live: Vec<u32> = vec![];
    let mut place = vec![0; ENTRIES as usize];
    let limit = (u64::from(CAPACITY) * percent / 100) as u32;
    let mut extra = 0;
    let mut evicted = 0;
    for step in 0..allocations {
        for _ in 0..2 {
            if !live.is_empty() {
                let entry = live[random.below(live.len().div_ceil(3) as u32) as usize];
                recency.take(entry);
                recency.add(entry);
            }
        }
        let units = size(step, &mut random);
        let entry = unused.pop().expect("more entries than objects fit");
        loop {
            if allocator.used_units() + units <= limit {
                if allocator.allocate(entry, units).is_some() {
                    break;
                }
                extra += 1;
            }
            let victim = recency.oldest();
            assert!(victim < ENTRIES, "nothing is left to evict");
            recency.take(victim);
            allocator.free(victim);
            let at: usize = place[victim as usize];
            live.swap_remove(at);
            if let Some(&moved) = live.get(at) {
                place[moved as usize] = at;
            }
            unused.push(victim);
            evicted += 1;
        }
        recency.add(entry);
        place[entry as usize] = live.len();
        live.push(entry);
    }
    assert!(
        evicted > allocations / 2,
        "only {evicted} evictions: the payload was hardly full"
    );
    allocator.audit().expect("a sound allocator");
    println!("{percent} %: {extra} of {evicted} evictions were for want of a hole");
    extra
}

/// Chunks of 2 MiB, one in twenty shorter.
fn one_model(_: u32, random: &mut Random) -> u32 {
    match random.below(20) {
        0 => 16 * (1 + random.below(31)),
        _ => 512,
    }
}

/// Chunks of 160 KiB, 1.25 MiB and 5 MiB.
fn three_models(_: u32, random: &mut Random) -> u32 {
    [40, 40, 320, 320, 1280][random.below(5) as usize]
}

/// Anything from 16 KiB to 16 MiB.
fn any_size(_: u32, random: &mut Random) -> u32 {
    random.log_uniform(2.0, 12.0)
}

/// Only 160 KiB for a while, then only 5 MiB, and again.
fn phase_shift(step: u32, _: &mut Random) -> u32 {
    if (step / 100_000).is_multiple_of(2) {
        40
    } else {
        1280
    }
}

#[test]
fn one_model_at_90_percent_evicts_nothing_for_want_of_a_hole() {
    assert_eq!(extra_evictions(90, 200_000, one_model), 0);
}

#[test]
fn three_models_at_90_percent_evict_nothing_for_want_of_a_hole() {
    assert_eq!(extra_evictions(90, 200_000, three_models), 0);
}

#[test]
fn any_size_at_90_percent_evicts_nothing_for_want_of_a_hole() {
    assert_eq!(extra_evictions(90, 200_000, any_size), 0);
}

#[test]
fn a_phase_shift_at_90_percent_evicts_nothing_for_want_of_a_hole() {
    assert_eq!(extra_evictions(90, 400_000, phase_shift), 0);
}
