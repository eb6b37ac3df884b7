//! What the pool of slots promises, alone and under threads.

use super::*;
use hostkv_shm_protocol::sync::AtomicU32;

fn take(pool: &SlotPool, count: usize) -> Vec<u32> {
    let mut slots = Vec::new();
    let taken = pool.take_from(0, count, |slot, _| slots.push(slot));
    assert_eq!(taken.count, slots.len());
    let slots_end = slots.iter().max().map_or(0, |slot| slot + 1);
    assert_eq!(taken.slots_end, slots_end);
    slots
}

fn forget(pool: &SlotPool, slots: impl Iterator<Item = u32>) {
    let mut forgotten = pool.forgotten();
    slots.for_each(|slot| forgotten.add(slot));
    forgotten.finish();
}

/// Notes and adds the wanted pins, as the read path does, and says how many the quota allows.
fn admit(pool: &SlotPool, wanted: &[Wanted], scratch: &mut QuotaScratch) -> usize {
    for want in wanted {
        NotePlace(&pool.notes[want.slot as usize]).note(want.entry, want.units);
    }
    if pool.add(wanted.iter().map(|want| u64::from(want.units)).sum()) {
        return wanted.len();
    }
    scratch.wanted = wanted.to_vec();
    pool.count_distinct(scratch)
}

fn want(slot: u32, entry: u32, units: u32) -> Wanted {
    Wanted {
        slot,
        entry: EntryNumber(entry),
        units,
    }
}

#[test]
fn the_lowest_free_slots_come_first_and_no_more_than_there_are() {
    let pool = SlotPool::new(130, 1000);
    assert_eq!(take(&pool, 3), [0, 1, 2]);
    assert_eq!(take(&pool, 70), (3..73).collect::<Vec<_>>());
    pool.give_back([5, 1, 64].into_iter());
    assert_eq!(take(&pool, 4), [1, 5, 64, 73]);
    assert_eq!(take(&pool, 100), (74..130).collect::<Vec<_>>());
    assert!(take(&pool, 1).is_empty());
    pool.give_back(0..130);
    assert_eq!(pool.free_count(), 130);
}

#[test]
fn a_thread_begins_at_a_word_of_its_own_and_goes_round_to_all_others() {
    let pool = SlotPool::new(150, 1000);
    let take_from = |first: usize, count: usize| {
        let mut slots = Vec::new();
        pool.take_from(first, count, |slot, _| slots.push(slot));
        slots
    };
    assert_eq!(take_from(1, 3), [64, 65, 66]);
    assert_eq!(take_from(0, 2), [0, 1]);
    let rest: Vec<u32> = (128..150).chain(2..64).collect();
    assert_eq!(take_from(2, 84), rest);
    assert_eq!(take_from(1, 100), (67..128).collect::<Vec<_>>());
    pool.give_back(0..150);
    assert_eq!(pool.free_count(), 150);
}

#[test]
fn the_quota_counts_an_entry_once_however_often_it_is_pinned() {
    let pool = SlotPool::new(256, 10);
    let mut scratch = QuotaScratch::default();
    let slots = take(&pool, 8);
    let wanted: Vec<Wanted> = slots.iter().map(|slot| want(*slot, 7, 6)).collect();
    assert_eq!(admit(&pool, &wanted, &mut scratch), 8);
    assert_eq!(pool.pinned_units(), 48);
    let more = take(&pool, 3);
    let others = [
        want(more[0], 8, 3),
        want(more[1], 7, 6),
        want(more[2], 9, 2),
    ];
    assert_eq!(admit(&pool, &others, &mut scratch), 2, "6 + 3 + 2 > 10");
    forget(&pool, more[2..].iter().copied());
    forget(&pool, more[..2].iter().copied());
    forget(&pool, slots.iter().copied());
    assert_eq!((pool.pinned_units(), pool.free_count()), (0, 256));
}

#[test]
fn an_entry_larger_than_the_quota_is_never_admitted() {
    let pool = SlotPool::new(64, 10);
    let slot = take(&pool, 1)[0];
    let mut scratch = QuotaScratch::default();
    assert_eq!(admit(&pool, &[want(slot, 1, 11)], &mut scratch), 0);
    forget(&pool, [slot].into_iter());
    assert_eq!((pool.pinned_units(), pool.free_count()), (0, 64));
}

/// A small generator, so that a failing run can be repeated from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (self.0 >> 33) % limit
    }
}

#[test]
fn threads_never_share_a_slot_and_never_pass_the_quota() {
    const SLOTS: usize = 200;
    const QUOTA: u64 = 24;
    const ENTRIES: usize = 16;
    let seed = std::env::var("HOSTKV_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(20_260_101);
    println!("seed {seed} (set HOSTKV_TEST_SEED to repeat another)");
    let pool = SlotPool::new(SLOTS, QUOTA);
    let owners: Vec<AtomicU32> = (0..SLOTS).map(|_| AtomicU32::new(0)).collect();
    // Pins of each entry by those who were admitted: entered after `admit`, left before `forget`, so what
    // stands here at any moment is a part of what is pinned at that moment.
    let pins = std::sync::Mutex::new([0_u32; ENTRIES]);
    let units_of = |entry: usize| entry as u32 % 5 + 1;
    std::thread::scope(|scope| {
        for thread in 1..=4_u32 {
            let (pool, owners, pins) = (&pool, &owners, &pins);
            scope.spawn(move || {
                let mut random = Random(seed + u64::from(thread));
                let mut scratch = QuotaScratch::default();
                for _ in 0..5_000 {
                    let slots = take(pool, random.below(70) as usize);
                    for slot in &slots {
                        let before = owners[*slot as usize].swap(thread, Ordering::Relaxed);
                        assert_eq!(before, 0, "slot {slot} had an owner");
                    }
                    let wanted: Vec<Wanted> = slots
                        .iter()
                        .map(|slot| {
                            let entry = random.below(ENTRIES as u64) as usize;
                            want(*slot, entry as u32, units_of(entry))
                        })
                        .collect();
                    let admitted = &wanted[..admit(pool, &wanted, &mut scratch)];
                    {
                        let mut pins = pins.lock().unwrap();
                        admitted.iter().for_each(|w| pins[w.entry.index()] += 1);
                        let held = (0..ENTRIES).filter(|entry| pins[*entry] > 0);
                        let distinct: u32 = held.map(units_of).sum();
                        assert!(u64::from(distinct) <= QUOTA, "{distinct} units pinned");
                    }
                    std::thread::yield_now();
                    {
                        let mut pins = pins.lock().unwrap();
                        admitted.iter().for_each(|w| pins[w.entry.index()] -= 1);
                    }
                    for slot in &slots {
                        owners[*slot as usize].store(0, Ordering::Relaxed);
                    }
                    forget(pool, slots.iter().copied());
                }
            });
        }
    });
    assert_eq!((pool.pinned_units(), pool.free_count()), (0, SLOTS));
}
