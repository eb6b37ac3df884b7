//! What was stored comes back bit for bit, also after a restart and whatever its length and place are.

use super::*;

const MIB: u64 = 1 << 20;

/// Stores, restarts, finds and loads objects of many lengths.
pub(super) fn round_trip(spec: &str) {
    let lens = [1, 63, 4095, 4096, 4097, 3 * MIB, 9 * MIB + 777];
    // The second place begins at no block of a disk.
    let places = [0, 64 * 1001];
    let mut pool = Pool::open(&[spec.to_owned()]);
    let mut number = 0;
    for len_bytes in lens {
        for place in places {
            number += 1;
            assert!(pool.store(number, range(place, len_bytes)).has(0));
        }
    }
    let figures = pool.figures(0);
    assert_eq!(figures.stores.done_keys_count, number);
    assert_eq!(figures.stores.bytes, 2 * lens.iter().sum::<u64>());
    assert_eq!(figures.stores.durations.count(), number);
    assert_eq!(figures.stores.rates.count(), number);
    assert!(figures.stores.rates.sum() > 0);
    assert!(pool.shutdown());

    let mut pool = Pool::open(&[spec.to_owned()]);
    let numbers: Vec<u64> = (1..=number + 1).collect();
    let found = pool.look_up(&numbers);
    assert_eq!(found[number as usize], None, "what was never stored");
    for (index, len_bytes) in lens.iter().flat_map(|len| [len, len]).enumerate() {
        let tier = 0;
        let len_bytes = *len_bytes;
        assert_eq!(found[index], Some(Found { tier, len_bytes }));
        // Into the other place than it came from.
        let destination = range(places[(index + 1) % 2], len_bytes);
        assert_eq!(pool.load(index as u64 + 1, 0, destination), Some(0));
        // Nothing beside the destination was written.
        let behind = range(destination.offset_bytes + len_bytes, 64);
        let mut canary = pool.read(behind);
        pool.write(behind.offset_bytes, &[0x5a; 64]);
        assert_eq!(pool.load(index as u64 + 1, 0, destination), Some(0));
        canary.fill(0x5a);
        assert_eq!(pool.read(behind), canary);
    }
    assert_eq!(pool.load(number + 1, 0, range(0, 4096)), None);
    let figures = pool.figures(0);
    assert_eq!(figures.hit_keys_count, number);
    assert_eq!(figures.lookup_keys_count, number + 1);
    assert_eq!(figures.loads.done_keys_count, 2 * number);
    // What is there is not stored again.
    assert!(pool.store(1, range(0, lens[0])).has(0));
    assert_eq!(pool.figures(0).known_keys_count, 1);
    // What was removed is gone.
    pool.tiers().submit_remove(vec![key(2)]);
    let begin = Instant::now();
    while pool.look_up(&[2]) != [None] {
        assert!(begin.elapsed() < PATIENCE);
    }
    assert_eq!(pool.load(2, 0, range(0, lens[0])), None);
}

#[test]
fn what_was_stored_in_a_folder_is_loaded_bit_for_bit_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    round_trip(&fs_spec(folder.path(), ""));
}

#[test]
fn what_was_stored_around_the_page_cache_is_loaded_bit_for_bit_after_a_restart() {
    // Beside the program, since a temporary folder may be in memory, which has no direct I/O.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let spec = fs_spec(folder.path(), r#", "use_odirect": true"#);
    match Pool::try_open(std::slice::from_ref(&spec)) {
        Err(sentence) if sentence.contains("O_DIRECT") => {
            hostkv_tests::skip(&format!("direct I/O: {sentence}"));
        }
        Err(sentence) => panic!("{sentence}"),
        Ok(_) => round_trip(&spec),
    }
}

#[test]
fn an_object_goes_to_every_tier_and_comes_from_the_first_that_has_it() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let specs = [0, 1].map(|n: usize| fs_spec(folders[n].path(), ""));
    let mut pool = Pool::open(&specs);
    let stored = pool.store(1, range(0, 5000));
    assert!(stored.has(0) && stored.has(1));
    let found = |tier| {
        vec![Some(Found {
            tier,
            len_bytes: 5000,
        })]
    };
    assert_eq!(pool.look_up(&[1]), found(0));
    // Gone in the first since the lookup: the load goes on to the second.
    std::fs::remove_file(file_of(folders[0].path(), 1)).unwrap();
    assert_eq!(pool.load(1, 0, range(8192, 5000)), Some(1));
    assert_eq!(pool.look_up(&[1]), found(1));
    let figures = pool.figures(0);
    assert_eq!(
        figures
            .loads
            .failures
            .get(hostkv_daemon::tiers::figures::FailureReason::Lost),
        1
    );
    // One task in both directions, completed.
    assert_eq!(
        (
            figures.stores.tasks_count,
            figures.stores.completed_tasks_count
        ),
        (1, 1)
    );
    assert_eq!(
        (
            figures.loads.tasks_count,
            figures.loads.completed_tasks_count
        ),
        (1, 1)
    );
}

#[test]
fn two_daemons_with_one_folder_find_what_the_other_stored() {
    let folder = tempfile::tempdir().unwrap();
    let spec = [fs_spec(folder.path(), "")];
    let mut first = Pool::open(&spec);
    let mut second = Pool::open(&spec);
    for number in 1..20 {
        first.store(number, range(0, 10_000));
        assert_eq!(second.load(number, 0, range(64, 10_000)), Some(0));
        assert!(second.store(number + 100, range(0, 3000)).has(0));
        assert!(first.look_up(&[number + 100])[0].is_some());
    }
}
