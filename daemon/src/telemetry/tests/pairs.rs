//! The queue against a naive model: pairs are never broken, and drops are counted exactly.

use std::collections::HashMap;
use std::sync::mpsc::TryRecvError;

use super::*;

/// Each START has exactly one END behind it, and no END is alone.
fn assert_pairs_are_whole<'a>(events: impl IntoIterator<Item = &'a Event>) {
    let mut ends_owed: HashMap<&str, bool> = HashMap::new();
    for event in events {
        let session = event.session_id.as_str();
        match event.event_type {
            EventType::Start => {
                let before = ends_owed.insert(session, true);
                assert_eq!(before, None, "{session} starts twice");
            }
            EventType::End => {
                let before = ends_owed.insert(session, false);
                assert_eq!(before, Some(true), "{session} ends without a START");
            }
        }
    }
    let owed: Vec<_> = ends_owed.iter().filter(|(_, is_owed)| **is_owed).collect();
    assert!(owed.is_empty(), "without an END: {owed:?}");
}

#[test]
fn a_queue_of_random_use_keeps_its_bound_breaks_no_pair_and_counts_exactly() {
    let mut random = Random::fresh();
    for _ in 0..2000 {
        let max_size = 2 + random.below(12);
        let shared = Arc::new(Shared::default());
        let (mut queue, events) = Queue::new(max_size as u32, Arc::clone(&shared));
        // The model: what is in the queue, and for each pair that is under way whether its START got in.
        let mut waiting = 0;
        let mut under_way: Vec<(u64, bool)> = Vec::new();
        let mut dropped = 0;
        let mut pushed = Vec::new();
        let mut taken = Vec::new();
        let mut next_pair = 0;
        for step in 0..80 {
            let places = under_way.iter().filter(|(_, got_in)| *got_in).count() as u64;
            match random.below(3) {
                0 if step < 60 => {
                    let got_in = waiting + places + 2 <= max_size;
                    assert_eq!(queue.offer(PairId(next_pair), start_of(next_pair)), got_in);
                    under_way.push((next_pair, got_in));
                    waiting += u64::from(got_in);
                    dropped += u64::from(!got_in);
                    if got_in {
                        pushed.push(start_of(next_pair));
                    }
                    next_pair += 1;
                }
                1 if !under_way.is_empty() => {
                    let index = random.below(under_way.len() as u64) as usize;
                    let (pair, got_in) = under_way.swap_remove(index);
                    assert_eq!(queue.offer(PairId(pair), end_of(pair)), got_in);
                    waiting += u64::from(got_in);
                    dropped += u64::from(!got_in);
                    if got_in {
                        pushed.push(end_of(pair));
                    }
                }
                _ => match events.try_recv() {
                    Ok(event) => {
                        taken.push(event);
                        shared.remove_waiting();
                        waiting -= 1;
                    }
                    Err(error) => assert_eq!((error, waiting), (TryRecvError::Empty, 0)),
                },
            }
            assert_eq!(shared.waiting(), waiting);
            assert_eq!(queue.dropped(), dropped);
            assert!(waiting <= max_size);
        }
        for (pair, got_in) in under_way {
            assert_eq!(queue.offer(PairId(pair), end_of(pair)), got_in);
            dropped += u64::from(!got_in);
            if got_in {
                pushed.push(end_of(pair));
            }
        }
        queue.close();
        taken.extend(events);
        assert_pairs_are_whole(&taken);
        assert!(taken == pushed, "in the order of the pushes");
        assert_eq!(queue.dropped(), dropped);
        assert_eq!(taken.len() as u64 + dropped, 2 * next_pair);
    }
}

#[test]
fn every_start_that_a_slow_processor_gets_has_exactly_one_end() {
    let mut random = Random::fresh();
    for _ in 0..20 {
        let record = Record::default();
        let mut pace = Random(random.below(u64::MAX));
        let slow = record.processor(1, move |_| {
            if pace.below(4) == 0 {
                std::thread::sleep(Duration::from_micros(pace.below(200)));
            }
            Ok(())
        });
        let max_queue_size = 2 + random.below(30) as u32;
        let mut telemetry = Telemetry::start(vec![slow], max_queue_size).unwrap();
        let mut open = Vec::new();
        let pair_count = 1000;
        for pair in 0..pair_count {
            telemetry.push(PairId(pair), start_of(pair));
            open.push(pair);
            while random.below(5) < open.len() as u64 {
                let pair = open.swap_remove(random.below(open.len() as u64) as usize);
                telemetry.push(PairId(pair), end_of(pair));
            }
            if random.below(50) == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        for pair in open {
            telemetry.push(PairId(pair), end_of(pair));
        }
        assert!(telemetry.shutdown(PATIENCE));
        let events = record.events(1);
        assert_pairs_are_whole(&events);
        assert!(!events.is_empty());
        assert_eq!(
            events.len() as u64 + telemetry.dropped_events(),
            2 * pair_count
        );
    }
}

#[test]
fn room_for_ends_that_are_owed_is_not_given_to_others() {
    let record = Record::default();
    let (processor, let_go) = stuck(&record, 1);
    let mut telemetry = Telemetry::start(vec![processor], 5).unwrap();
    for pair in [1, 2, 3] {
        telemetry.push(PairId(pair), start_of(pair));
    }
    assert_eq!(telemetry.dropped_events(), 1, "the fifth place is no pair");
    for pair in [3, 2, 1] {
        telemetry.push(PairId(pair), end_of(pair));
    }
    assert_eq!(telemetry.dropped_events(), 2);
    drop(let_go);
    assert!(telemetry.shutdown(PATIENCE));
    let expected = [start_of(1), start_of(2), end_of(2), end_of(1)];
    assert_eq!(record.events(1), expected);
}

#[test]
fn an_end_without_a_start_and_a_second_start_or_end_are_dropped_and_counted() {
    let record = Record::default();
    let mut telemetry = Telemetry::start(vec![record.plain(1)], 100).unwrap();
    telemetry.push(PairId(1), end_of(1));
    telemetry.push(PairId(2), start_of(2));
    telemetry.push(PairId(2), start_of(2));
    telemetry.push(PairId(2), end_of(2));
    telemetry.push(PairId(2), end_of(2));
    assert_eq!(telemetry.dropped_events(), 3);
    assert!(telemetry.shutdown(PATIENCE));
    assert_eq!(record.events(1), [start_of(2), end_of(2)]);
}
