//! The promises of the allocator.
//!
//! Random tests print their seed and take one by `HOSTKV_TEST_SEED`.

mod audits;
mod evictions;

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

use super::bins::{
    BIN_COUNT, FIND_SCAN_COUNT, LARGEST_SCAN_COUNT, bin_of, bin_that_fits, largest_in, smallest_in,
};
use super::*;

/// The seed of a random test: from the environment, else from the clock.
fn seed() -> u64 {
    let seed = match std::env::var("HOSTKV_TEST_SEED") {
        Ok(text) => text.parse().expect("HOSTKV_TEST_SEED is a u64"),
        Err(_) => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("the clock is past 1970")
            .as_nanos() as u64,
    };
    println!("HOSTKV_TEST_SEED={seed}");
    seed
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: u32) -> u32 {
        (self.draw() % u64::from(bound)) as u32
    }

    /// A size of at least 2^`low` and at most 2^`high`, every power equally likely.
    fn log_uniform(&mut self, low: f64, high: f64) -> u32 {
        let share = (self.draw() >> 11) as f64 / (1u64 << 53) as f64;
        (low + (high - low) * share).exp2() as u32
    }
}

/// The naive reference: who holds what, sorted by offset; holes are what is left over.
struct Reference {
    capacity_units: u32,
    extents: BTreeMap<u32, (u32, u32)>,
}

impl Reference {
    fn holes(&self) -> Vec<u32> {
        let mut holes = vec![];
        let mut end = 0;
        for (&offset, &(units, _)) in &self.extents {
            assert!(
                offset >= end,
                "extent at {offset} overlaps one that ends at {end}"
            );
            if offset > end {
                holes.push(offset - end);
            }
            end = offset.checked_add(units).expect("extent ends below 2^32");
        }
        assert!(
            end <= self.capacity_units,
            "extent ends at {end}, beyond the capacity"
        );
        if end < self.capacity_units {
            holes.push(self.capacity_units - end);
        }
        holes
    }
}

/// One step of a random sequence. `Toggle` frees what the entry holds or gives it an extent.
#[derive(Clone, Debug)]
enum Step {
    Toggle { entry: u32, units: u32 },
    FreeAll,
}

const ENTRIES: u32 = 48;

fn steps() -> impl Strategy<Value = (u32, Vec<Step>)> {
    let units = prop_oneof![
        1..16u32,
        1..200u32,
        (0..11u32).prop_map(|power| 1 << power),
        500..3000u32
    ];
    let step = prop_oneof![
        200 => (0..ENTRIES, units).prop_map(|(entry, units)| Step::Toggle { entry, units }),
        1 => Just(Step::FreeAll),
    ];
    (1..6000u32, prop::collection::vec(step, 1..300))
}

/// Runs a sequence on the allocator and on the reference and compares all they say after each step.
fn follow_reference(capacity_units: u32, steps: &[Step]) {
    let mut allocator = Allocator::new(capacity_units, ENTRIES);
    let mut reference = Reference {
        capacity_units,
        extents: BTreeMap::new(),
    };
    for step in steps {
        match *step {
            Step::Toggle { entry, units } => {
                if let Some((offset, held)) = allocator.extent(entry) {
                    allocator.free(entry);
                    assert_eq!(reference.extents.remove(&offset), Some((held, entry)));
                } else {
                    let holes = reference.holes();
                    match allocator.allocate(entry, units) {
                        Some(offset) => {
                            let other = reference.extents.insert(offset, (units, entry));
                            assert_eq!(other, None, "two extents begin at {offset}");
                        }
                        None => {
                            let fits = holes.iter().filter(|&&hole| hole >= units).count();
                            let bin = bin_of(units);
                            let in_bin = holes.iter().filter(|&&hole| bin_of(hole) == bin).count();
                            let surely = holes
                                .iter()
                                .any(|&hole| bin_of(hole) >= bin_that_fits(units));
                            assert!(!surely, "{units} units were refused with holes {holes:?}");
                            assert!(
                                fits == 0 || in_bin > FIND_SCAN_COUNT as usize,
                                "{units} units were refused with a hole that fits: {holes:?}"
                            );
                        }
                    }
                }
            }
            Step::FreeAll => {
                for &(_, entry) in reference.extents.values() {
                    allocator.free(entry);
                }
                reference.extents.clear();
            }
        }
        let holes = reference.holes();
        let audit = allocator.audit().expect("a sound allocator");
        assert_eq!(
            audit,
            Audit {
                used_units: capacity_units - holes.iter().sum::<u32>(),
                free_units: holes.iter().sum(),
                largest_free_units: holes.iter().copied().max().unwrap_or(0),
                extents: reference.extents.len() as u32,
                holes: holes.len() as u32,
            }
        );
        assert_eq!(allocator.free_units(), audit.free_units);
        assert_eq!(allocator.used_units(), audit.used_units);
        assert_eq!(allocator.largest_free_units(), audit.largest_free_units);
        for entry in 0..ENTRIES {
            if let Some((offset, units)) = allocator.extent(entry) {
                assert_eq!(reference.extents.get(&offset), Some(&(units, entry)));
            }
        }
    }
}

#[test]
fn random_sequences_agree_with_a_naive_reference() {
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 256,
        rng_seed: RngSeed::Fixed(seed()),
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(&steps(), |(capacity_units, steps)| {
        follow_reference(capacity_units, &steps);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

#[test]
fn extents_never_overlap() {
    const CAPACITY: u32 = 50_000;
    const ENTRIES: u32 = 3_000;
    let mut random = Random(seed());
    let mut allocator = Allocator::new(CAPACITY, ENTRIES);
    let mut owner = vec![None; CAPACITY as usize];
    for step in 0..60_000 {
        let entry = random.below(ENTRIES);
        if let Some((offset, units)) = allocator.extent(entry) {
            let held = &mut owner[offset as usize..(offset + units) as usize];
            assert!(held.iter().all(|&unit| unit == Some(entry)));
            held.fill(None);
            allocator.free(entry);
        } else {
            let units = random.log_uniform(0.0, 9.0);
            if let Some(offset) = allocator.allocate(entry, units) {
                assert_eq!(allocator.extent(entry), Some((offset, units)));
                let taken = &mut owner[offset as usize..(offset + units) as usize];
                assert!(taken.iter().all(Option::is_none));
                taken.fill(Some(entry));
            }
        }
        if step % 1_000 == 0 {
            let used = owner.iter().filter(|unit| unit.is_some()).count();
            assert_eq!(allocator.used_units() as usize, used);
            allocator.audit().expect("a sound allocator");
        }
    }
}

#[test]
fn everything_freed_leaves_one_hole() {
    const CAPACITY: u32 = 1 << 20;
    const ENTRIES: u32 = 4_096;
    let mut random = Random(seed());
    let mut allocator = Allocator::new(CAPACITY, ENTRIES);
    let empty = Audit {
        used_units: 0,
        free_units: CAPACITY,
        largest_free_units: CAPACITY,
        extents: 0,
        holes: 1,
    };
    assert_eq!(allocator.audit(), Ok(empty));
    for _ in 0..4 {
        let mut held = vec![];
        for entry in 0..ENTRIES {
            if allocator
                .allocate(entry, random.log_uniform(0.0, 11.0))
                .is_some()
            {
                held.push(entry);
            }
        }
        assert!(held.len() > 1_000);
        for last in (0..held.len()).rev() {
            held.swap(last, random.below(last as u32 + 1) as usize);
        }
        for entry in held {
            allocator.free(entry);
        }
        assert_eq!(allocator.audit(), Ok(empty));
        assert_eq!(allocator.largest_free_units(), CAPACITY);
    }
}

#[test]
fn a_freed_extent_joins_the_holes_on_either_side() {
    for (is_left_free, is_right_free) in
        [(false, false), (true, false), (false, true), (true, true)]
    {
        let mut allocator = Allocator::new(30, 3);
        for entry in 0..3 {
            assert_eq!(allocator.allocate(entry, 10), Some(entry * 10));
        }
        let mut expected = 10;
        for (is_free, entry) in [(is_left_free, 0), (is_right_free, 2)] {
            if is_free {
                allocator.free(entry);
                expected += 10;
            }
        }
        allocator.free(1);
        let audit = allocator.audit().expect("a sound allocator");
        assert_eq!((audit.holes, audit.largest_free_units), (1, expected));
    }
}

#[test]
fn the_payload_can_be_used_to_the_last_unit() {
    const CAPACITY: u32 = 10_007;
    let mut allocator = Allocator::new(CAPACITY, CAPACITY);
    for entry in 0..CAPACITY {
        assert_eq!(allocator.allocate(entry, 1), Some(entry));
    }
    assert_eq!(allocator.free_units(), 0);
    assert_eq!(allocator.largest_free_units(), 0);
    assert_eq!(allocator.audit().expect("a sound allocator").holes, 0);

    // Every second extent free is the most holes there can be, and each is found again.
    for entry in (0..CAPACITY).step_by(2) {
        allocator.free(entry);
    }
    let audit = allocator.audit().expect("a sound allocator");
    assert_eq!(audit.holes, CAPACITY.div_ceil(2));
    assert_eq!(audit.largest_free_units, 1);
    assert_eq!(allocator.allocate(0, 2), None);
    for entry in (0..CAPACITY).step_by(2) {
        assert!(allocator.allocate(entry, 1).is_some());
    }
    assert_eq!(allocator.used_units(), CAPACITY);
    allocator.audit().expect("a sound allocator");
}

#[test]
fn the_last_hole_is_found_at_98_percent_when_it_fits_exactly() {
    // 2051 is in a bin with sizes 2048 to 2111, so a search that only rounds up never looks there.
    const UNITS: u32 = 2_051;
    let mut allocator = Allocator::new(50 * UNITS, 50);
    for entry in 0..50 {
        assert_eq!(allocator.allocate(entry, UNITS), Some(entry * UNITS));
    }
    for entry in 0..50 {
        allocator.free(entry);
        assert_eq!(allocator.used_units(), 49 * UNITS);
        assert_eq!(allocator.allocate(entry, UNITS + 1), None);
        assert_eq!(allocator.allocate(entry, UNITS), Some(entry * UNITS));
    }
}

#[test]
fn the_hole_made_last_is_found_behind_any_number_of_shorter_ones() {
    // Extents of 2048 and 2051 units, kept apart by extents of one: all freed holes share a bin.
    let shorter = 4 * FIND_SCAN_COUNT;
    let mut allocator = Allocator::new((shorter + 1) * 2_049 + 3, 2 * (shorter + 1));
    for pair in 0..=shorter {
        let units = if pair == 0 { 2_051 } else { 2_048 };
        assert!(allocator.allocate(2 * pair, units).is_some());
        assert!(allocator.allocate(2 * pair + 1, 1).is_some());
    }
    assert_eq!(allocator.free_units(), 0);
    for pair in (0..=shorter).rev() {
        allocator.free(2 * pair);
    }
    assert_eq!(allocator.allocate(0, 2_051), Some(0));
}

#[test]
fn a_payload_of_2_pow_32_minus_1_units_works_to_its_end() {
    let mut allocator = Allocator::new(u32::MAX, 4);
    assert_eq!(allocator.largest_free_units(), u32::MAX);
    assert_eq!(allocator.allocate(0, u32::MAX), Some(0));
    assert_eq!(allocator.allocate(1, 1), None);
    assert_eq!(allocator.used_units(), u32::MAX);
    allocator.audit().expect("a sound allocator");
    allocator.free(0);

    assert_eq!(allocator.allocate(0, u32::MAX - 1), Some(0));
    assert_eq!(allocator.allocate(1, 1), Some(u32::MAX - 1));
    assert_eq!(allocator.allocate(2, 1), None);
    allocator.audit().expect("a sound allocator");
    allocator.free(0);
    assert_eq!(allocator.allocate(2, 1 << 31), Some(0));
    assert_eq!(allocator.allocate(3, (1 << 31) - 2), Some(1 << 31));
    assert_eq!(allocator.free_units(), 0);
    allocator.audit().expect("a sound allocator");
    for entry in 1..4 {
        allocator.free(entry);
    }
    assert_eq!(allocator.largest_free_units(), u32::MAX);
    assert_eq!(allocator.audit().expect("a sound allocator").holes, 1);
}

#[test]
fn an_allocator_of_nothing_answers() {
    let mut allocator = Allocator::new(0, 1);
    assert_eq!(allocator.allocate(0, 1), None);
    assert_eq!(allocator.largest_free_units(), 0);
    assert_eq!(allocator.audit().expect("a sound allocator").holes, 0);
    let allocator = Allocator::new(7, 0);
    assert_eq!(allocator.extent(0), None);
    assert_eq!(
        allocator
            .audit()
            .expect("a sound allocator")
            .largest_free_units,
        7
    );
}

#[test]
fn an_extent_costs_no_page_that_the_start_has_not_paid_for() {
    const ENTRIES: u32 = 100_000;
    let mut allocator = Allocator::new(ENTRIES, ENTRIES);
    let before = faults_of_this_thread();
    for entry in 0..ENTRIES {
        assert!(allocator.allocate(entry, 1).is_some());
    }
    let faults = faults_of_this_thread() - before;
    assert!(faults < 10, "{faults} page faults in {ENTRIES} allocations");
}

fn faults_of_this_thread() -> i64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD)
        .expect("Linux has it");
    usage.minor_page_faults() + usage.major_page_faults()
}

#[test]
fn bins_are_contiguous_and_at_most_a_32nd_wide() {
    let mut next = 0u64;
    for bin in 0..BIN_COUNT {
        let (smallest, largest) = (smallest_in(bin), largest_in(bin));
        assert_eq!(u64::from(smallest), next);
        assert_eq!(bin_of(smallest), bin);
        assert_eq!(bin_of(largest), bin);
        assert!(largest - smallest <= smallest / 32);
        assert_eq!(bin_that_fits(smallest), bin);
        if largest > smallest {
            assert_eq!(bin_that_fits(smallest + 1), bin + 1);
            assert_eq!(bin_that_fits(largest), bin + 1);
        }
        next = u64::from(largest) + 1;
    }
    assert_eq!(next, 1 << 32);
}

#[test]
fn the_largest_hole_is_at_most_a_32nd_short_when_too_many_are_alike() {
    // The hole of 2111 units is the oldest of its bin, behind more holes than are looked at.
    let alike = LARGEST_SCAN_COUNT + 8;
    let mut allocator = Allocator::new(2_112 + alike * 2_051, 2 * (alike + 1));
    for pair in 0..=alike {
        let units = if pair == 0 { 2_111 } else { 2_050 };
        assert!(allocator.allocate(2 * pair, units).is_some());
        assert!(allocator.allocate(2 * pair + 1, 1).is_some());
    }
    for pair in 0..=alike {
        allocator.free(2 * pair);
        let exact = allocator
            .audit()
            .expect("a sound allocator")
            .largest_free_units;
        assert_eq!(exact, 2_111);
        let quick = allocator.largest_free_units();
        if pair < LARGEST_SCAN_COUNT {
            assert_eq!(quick, exact);
        } else {
            assert_eq!(quick, 2_050);
        }
    }
}

/// Same extents in both, then the same ones freed, so that both have the same holes; then both are asked. The crate
/// rounds sizes up to 1/8, so its yes binds; its no binds only beyond that slack.
#[test]
fn answers_agree_with_offset_allocator_within_its_slack() {
    const CAPACITY: u32 = 40_000;
    const ENTRIES: u32 = 4_000;
    let mut random = Random(seed());
    let (mut both, mut neither, mut only_ours) = (0, 0, 0);
    for _ in 0..60 {
        let mut ours = Allocator::new(CAPACITY, ENTRIES);
        let mut theirs: offset_allocator::Allocator =
            offset_allocator::Allocator::with_max_allocs(CAPACITY, 2 * ENTRIES + 2);
        let mut held = vec![];
        let high = 7.0 + f64::from(random.below(5));
        for entry in 0..ENTRIES {
            let units = random.log_uniform(0.0, high);
            let Some(handle) = theirs.allocate(units) else {
                break;
            };
            assert_eq!(ours.allocate(entry, units), Some(handle.offset));
            held.push((entry, handle));
        }
        let keep = 2 + random.below(6);
        for &(entry, handle) in &held {
            if random.below(keep) == 0 {
                ours.free(entry);
                theirs.free(handle);
            }
        }
        let probe = (0..ENTRIES)
            .find(|&entry| ours.extent(entry).is_none())
            .expect("some were freed");
        let largest = ours.audit().expect("a sound allocator").largest_free_units;
        assert_eq!(ours.free_units(), theirs.storage_report().total_free_space);
        for attempt in 0..300 {
            let units = match attempt % 2 {
                0 => random.log_uniform(0.0, high + 1.0),
                _ => largest * 3 / 4 + random.below(largest / 2 + 1) + 1,
            };
            let yes = ours.allocate(probe, units).is_some();
            if yes {
                ours.free(probe);
            }
            match theirs.allocate(units) {
                Some(handle) => {
                    theirs.free(handle);
                    assert!(yes, "the crate finds {units} units, the allocator does not");
                    both += 1;
                }
                None if yes => {
                    assert!(units <= largest);
                    assert!(
                        units + units / 8 + 1 > largest,
                        "the crate misses {units} units in a hole of {largest}"
                    );
                    only_ours += 1;
                }
                None => {
                    assert!(units > largest || units + units / 32 + 1 > largest);
                    neither += 1;
                }
            }
        }
    }
    assert!(
        both > 1_000 && neither > 1_000 && only_ours > 10,
        "{both} {neither} {only_ours}"
    );
}

#[test]
#[should_panic(expected = "entry 3 asks for an extent while it holds one")]
fn a_second_extent_for_an_entry_is_refused_loudly() {
    let mut allocator = Allocator::new(10, 4);
    allocator.allocate(3, 1);
    allocator.allocate(3, 1);
}

#[test]
#[should_panic(expected = "entry 2 gives back an extent but holds none")]
fn a_second_free_is_refused_loudly() {
    let mut allocator = Allocator::new(10, 4);
    allocator.allocate(2, 1);
    allocator.free(2);
    allocator.free(2);
}

#[test]
#[should_panic(expected = "entry 4 gives back an extent but holds none")]
fn a_hole_cannot_be_freed() {
    Allocator::new(10, 4).free(4);
}
