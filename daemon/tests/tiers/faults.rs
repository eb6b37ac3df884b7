//! A tier that fails in any way costs what only it holds, and is found again when it works.

use super::*;
use hostkv_daemon::tiers::figures::FailureReason;
use std::fs;

const LEN: u64 = 100_000;
/// Long enough that a busy machine is no fault.
const DEADLINE_MS: u64 = 3000;
/// A tier with a fault before one without; what the second holds is served whatever the first does.
fn beside_a_sound_one(kind: &str, rate: f64) -> (Pool, [tempfile::TempDir; 2]) {
    beside_a_sound_one_within(DEADLINE_MS, kind, rate)
}

fn beside_a_sound_one_within(
    timeout_ms: u64,
    kind: &str,
    rate: f64,
) -> (Pool, [tempfile::TempDir; 2]) {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let deadline = format!(r#", "timeout_ms": {timeout_ms}"#);
    let bad = fault_spec(&fs_spec(folders[0].path(), &deadline), kind, rate);
    let pool = Pool::open(&[bad, fs_spec(folders[1].path(), "")]);
    (pool, folders)
}

#[test]
fn a_tier_that_answers_errors_is_left_alone_and_the_next_one_serves() {
    let (mut pool, _folders) = beside_a_sound_one("error", 1.0);
    for number in 0..10 {
        let stored = pool.store(number, range(0, LEN));
        assert!(!stored.has(0) && stored.has(1));
    }
    let figures = pool.figures(0);
    assert_ne!(figures.breaker, BreakerState::Closed);
    assert_eq!(figures.breaker_openings_count, 1);
    let failures = figures.stores.failures;
    assert_eq!(failures.get(FailureReason::Error), 4);
    assert_eq!(failures.get(FailureReason::Unavailable), 6);
    for number in 0..10 {
        assert_eq!(pool.load(number, 0, range(0, LEN)), Some(1));
    }
    assert_eq!(
        pool.look_up(&[3]),
        [Some(Found {
            tier: 1,
            len_bytes: LEN
        })]
    );
    assert_eq!(
        pool.figures(0)
            .lookup_failures
            .get(FailureReason::Unavailable),
        1
    );
}

#[test]
fn a_tier_that_hangs_delays_a_lookup_by_its_deadline_and_the_end_not_at_all() {
    let (mut pool, _folders) = beside_a_sound_one_within(200, "hang", 1.0);
    let hung = pool.submit_store(1, range(0, LEN));
    let begin = Instant::now();
    assert_eq!(pool.look_up(&[1, 2]).len(), 2);
    assert!(begin.elapsed() >= Duration::from_millis(200));
    pool.until(0, "open", |figures| figures.breaker != BreakerState::Closed);
    // Nobody waits any more.
    assert!(pool.store(2, range(LEN + 64 - LEN % 64, LEN)).has(1));
    let begin = Instant::now();
    let found = pool.look_up(&[2]);
    assert_eq!(
        found,
        [Some(Found {
            tier: 1,
            len_bytes: LEN
        })]
    );
    assert_eq!(pool.load(2, 0, range(1 << 20, LEN)), Some(1));
    assert!(begin.elapsed() < Duration::from_secs(5));
    // The source of the store that hangs is still read, so its completion has not come.
    let more = pool.tiers().completions(10);
    pool.waiting.extend(more);
    let is_hung = |c: &Completion| matches!(c, Completion::Stored { task, .. } if *task == hung);
    assert!(!pool.waiting.iter().any(is_hung));
    let figures = pool.figures(0);
    assert!(figures.lookup_failures.get(FailureReason::Timeout) >= 1);
    assert_eq!(figures.stores.failures.get(FailureReason::Timeout), 1);
    let begin = Instant::now();
    let tiers = pool.tiers.take().unwrap();
    assert!(tiers.shutdown(Duration::from_millis(300)));
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn probes_that_hang_are_given_up_at_their_deadline_and_leave_the_tier_alone() {
    let (mut pool, _folders) = beside_a_sound_one_within(200, "hang", 1.0);
    for number in 0..2 {
        pool.submit_store(number, range(number * 4096, 4096));
    }
    // Beside the two stores a probe, and a second one since the first was given up; what hangs stays at work.
    for running in [3, 4] {
        pool.until(0, "probing", |figures| figures.running == running);
        // What is asked meanwhile is the other tier's.
        assert!(pool.store(10, range(1 << 20, LEN)).has(1));
    }
    pool.until_breaker(0, BreakerState::Open);
    let tiers = pool.tiers.take().unwrap();
    assert!(tiers.shutdown(Duration::from_millis(300)));
}

#[test]
fn a_tier_that_is_slow_within_its_deadline_is_used_and_not_left_alone() {
    let (mut pool, _folders) = beside_a_sound_one("slow", 1.0);
    let stored = pool.store(1, range(0, LEN));
    assert!(stored.has(0) && stored.has(1));
    assert_eq!(pool.load(1, 0, range(0, LEN)), Some(0));
    let figures = pool.figures(0);
    assert_eq!(figures.breaker, BreakerState::Closed);
    assert!(figures.stores.durations.sum() >= u128::from(DEADLINE_MS) * 500_000);
}

#[test]
fn what_a_tier_loses_is_a_miss_or_comes_from_another() {
    let (mut pool, _folders) = beside_a_sound_one("lose", 1.0);
    assert!(pool.store(1, range(0, LEN)).has(0), "it says so");
    assert_eq!(
        pool.look_up(&[1]),
        [Some(Found {
            tier: 1,
            len_bytes: LEN
        })]
    );
    assert_eq!(pool.load(1, 0, range(0, LEN)), Some(1));
    assert_eq!(pool.figures(0).loads.failures.get(FailureReason::Lost), 1);
}

#[test]
fn what_a_tier_damages_is_never_loaded_from_it() {
    let (mut pool, _folders) = beside_a_sound_one("corrupt", 0.5);
    let mut from = [0_u64; 2];
    for number in 0..60 {
        assert!(pool.store(number, range(0, LEN)).has(0));
        // `load` compares the bytes.
        let tier = pool.load(number, 0, range(0, LEN)).unwrap();
        from[tier] += 1;
    }
    assert!(from[0] > 10 && from[1] > 10, "{from:?}");
    assert_eq!(
        pool.figures(0).loads.failures.get(FailureReason::Damaged),
        from[1]
    );
}

#[test]
fn a_tier_without_room_is_not_asked_to_store_for_a_while_and_still_loads() {
    let (mut pool, _folders) = beside_a_sound_one("full", 0.3);
    let seen: Vec<bool> = (0..40)
        .map(|number| pool.store(number, range(0, LEN)).has(0))
        .collect();
    let figures = pool.figures(0);
    assert!(
        figures.stores.failures.get(FailureReason::Full) > 10,
        "{seen:?}"
    );
    assert_eq!(figures.breaker, BreakerState::Closed);
    for (number, is_there) in (0..).zip(seen) {
        assert_eq!(
            pool.load(number, 0, range(0, LEN)),
            Some(usize::from(!is_there))
        );
    }
}

#[test]
fn random_errors_lose_nothing_that_a_sound_tier_holds() {
    let mut random = seed();
    let (mut pool, _folders) = beside_a_sound_one("error", 0.2);
    for number in 0..200 {
        let len_bytes = 1 + next_random(&mut random) % LEN;
        assert!(pool.store(number, range(0, len_bytes)).has(1));
        let found = pool.look_up(&[number])[0].unwrap();
        assert_eq!(found.len_bytes, len_bytes);
        assert!(pool.load(number, found.tier, range(0, len_bytes)).is_some());
    }
}

#[test]
fn a_full_queue_drops_and_counts_and_every_store_still_ends() {
    let folder = tempfile::tempdir().unwrap();
    let spec = fault_spec(
        &fs_spec(folder.path(), r#", "timeout_ms": 60000"#),
        "hang",
        1.0,
    );
    let mut pool = Pool::open(&[spec]);
    let object = StoreObject {
        key: key(1),
        source: range(0, 64),
        sum: None,
    };
    let id = pool.task();
    pool.tiers().submit_store(StoreTask {
        id,
        objects: vec![object; 3000],
    });
    let figures = pool.figures(0);
    let dropped = figures.stores.failures.get(FailureReason::Dropped);
    assert!((1900..3000).contains(&dropped), "{dropped}");
    assert_eq!(figures.queued_keys + dropped, 3000);
    let mut ended = 0;
    while ended < dropped {
        ended += pool.tiers().completions(500).len() as u64;
    }
    assert_eq!(ended, dropped);
}

#[test]
fn the_oldest_stores_that_no_tier_has_begun_give_way() {
    let folder = tempfile::tempdir().unwrap();
    let spec = fault_spec(
        &fs_spec(folder.path(), r#", "timeout_ms": 60000"#),
        "hang",
        1.0,
    );
    let mut pool = Pool::open(&[spec]);
    let tasks: Vec<TaskId> = (0..10)
        .map(|number| pool.submit_store(number, range(number * 4096, 4096)))
        .collect();
    // Half of the four threads store.
    pool.until(0, "at work", |figures| figures.running == 2);
    let given: Vec<Completion> = pool.tiers().cancel_stores(3 * 4096);
    let expected: Vec<Completion> = tasks[2..5]
        .iter()
        .map(|task| Completion::Stored {
            task: *task,
            object: 0,
            tiers: TierSet::default(),
        })
        .collect();
    assert_eq!(given, expected);
    assert_eq!(
        pool.figures(0).stores.failures.get(FailureReason::Dropped),
        3
    );
    assert_eq!(pool.tiers().cancel_stores(u64::MAX).len(), 5);
    assert!(pool.tiers().cancel_stores(u64::MAX).is_empty());
    assert!(
        pool.tiers().completions(10).is_empty(),
        "they come no other way"
    );
}

#[test]
fn a_tier_that_is_not_required_comes_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("later");
    // A file where the folder should be.
    fs::write(&base, "").unwrap();
    let spec = [fs_spec(&base, r#", "required": false"#)];
    let mut pool = Pool::open(&spec);
    assert_eq!(pool.figures(0).breaker, BreakerState::Open);
    assert!(pool.store(1, range(0, LEN)).is_empty());
    assert_eq!(pool.look_up(&[1]), [None]);
    fs::remove_file(&base).unwrap();
    pool.until_breaker(0, BreakerState::Closed);
    assert!(pool.store(1, range(0, LEN)).has(0));
    assert_eq!(pool.load(1, 0, range(0, LEN)), Some(0));
}

#[test]
fn a_tier_that_is_required_and_not_there_ends_the_start_with_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("file");
    fs::write(&base, "").unwrap();
    let sound = fs_spec(folder.path(), "");
    let sentence = Pool::try_open(&[sound, fs_spec(&base, "")]).err().unwrap();
    assert!(
        sentence.starts_with("--l2-adapter #2 (fs): making the folders of"),
        "{sentence}"
    );
    assert!(
        sentence.contains("give a base_path") && !sentence.contains('\n'),
        "{sentence}"
    );
}
