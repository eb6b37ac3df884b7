//! Events: every START has one END, whatever ends first.

use super::*;
use crate::store::events::{Note, NoteOp};
use hostkv_shm_protocol::lease::events::{Event, EventOp, EventPhase};

fn read_event(op: EventOp, phase: EventPhase, op_id: u64, value0: u32) -> Event<'static> {
    Event {
        op,
        phase,
        mono_ns: 100 + op_id,
        start_ns: 50,
        op_id: OpId(op_id),
        keyspace: KeyspaceId(1),
        value0,
        value1: 9,
        request_id: if op_id == 1 { "req-001" } else { "" },
        device: "cuda:0",
    }
}

fn push(client: Client, event: &Event<'_>) {
    let position = client.events.claim(0).unwrap();
    client.events.write(position, event);
}

fn events(pool: &mut Pool) -> Vec<Note> {
    pool.now += SECOND / 10;
    pool.store.tick(pool.now);
    pool.settle();
    pool.store.take_events()
}

/// Each pair is one START and one END with the same names; gives (operation, count, session id) of each END.
fn paired(notes: &[Note]) -> Vec<(NoteOp, u32, String)> {
    let mut open = std::collections::BTreeMap::new();
    let mut ends = Vec::new();
    for note in notes {
        match note.count {
            None => assert!(open.insert(note.pair, note.clone()).is_none()),
            Some(count) => {
                let start = open.remove(&note.pair).expect("an END follows its START");
                assert_eq!(
                    (start.op, &start.session_id, &start.device),
                    (note.op, &note.session_id, &note.device)
                );
                ends.push((note.op, count, note.session_id.clone()));
            }
        }
    }
    assert!(open.is_empty(), "{open:?}");
    ends
}

#[test]
fn reads_come_out_in_pairs_with_their_counts_and_a_name_when_the_caller_gave_none() {
    let mut pool = Pool::new(Options::default());
    pool.store.collect_events();
    let client = pool.client();
    use EventOp::{Lookup, Retrieve};
    use EventPhase::{End, Line, Start};
    push(client, &read_event(Lookup, Start, 1, 0));
    push(client, &read_event(Lookup, End, 1, 3));
    push(client, &read_event(Retrieve, Start, 2, 0));
    push(client, &read_event(Retrieve, Line, 3, 5));
    push(client, &read_event(Retrieve, End, 2, 4));
    push(client, &read_event(Retrieve, End, 7, 4));
    let notes = events(&mut pool);
    assert_eq!(
        paired(&notes),
        [
            (NoteOp::Lookup, 3, "req-001".to_owned()),
            (NoteOp::Retrieve, 4, "session-1".to_owned())
        ]
    );
    assert!(notes.is_sorted_by_key(|note| note.mono_ns));
}

#[test]
fn a_store_ends_with_its_commit_abort_or_refusal() {
    let mut pool = Pool::new(Options::default());
    pool.store.collect_events();
    let client = pool.client();
    let ks = pool.keyspace(client);
    let (op, answers) = pool.reserve(client, &[(key(ks, 1), 100), (key(ks, 2), 100)]);
    assert_eq!(pool.store.take_events().len(), 1);
    let mut part = answers.clone();
    part.truncate(1);
    pool.commit(client, op, &part);
    assert_eq!(pool.store.take_events(), []);
    pool.commit(client, op, &answers[1..]);
    let end = pool.store.take_events();
    assert_eq!((end[0].op, end[0].count), (NoteOp::Store, Some(2)));
    pool.reserve(client, &[(key(ks, 1), 100)]);
    assert_eq!(
        paired(&events(&mut pool)),
        [(NoteOp::Store, 0, "session-1".to_owned())]
    );
    let (op, answers) = pool.reserve(client, &[(key(ks, 3), 100)]);
    pool.store
        .abort(client.id, &held(op, &answers), pool.now)
        .unwrap();
    assert_eq!(
        paired(&events(&mut pool)),
        [(NoteOp::Store, 0, "session-1".to_owned())]
    );
}

#[test]
fn a_session_that_dies_in_the_middle_leaves_no_start_without_its_end() {
    let mut pool = Pool::new(Options::default());
    pool.store.collect_events();
    let client = pool.client();
    let ks = pool.keyspace(client);
    pool.reserve(client, &[(key(ks, 1), 100)]);
    push(
        client,
        &read_event(EventOp::Lookup, EventPhase::Start, 1, 0),
    );
    // A thread was killed between its claim and the end of its write; what others finished behind it counts.
    client.events.claim(0).unwrap();
    push(
        client,
        &read_event(EventOp::Retrieve, EventPhase::Start, 2, 0),
    );
    client.events.add_dropped(2);
    pool.store
        .close_session(client.id, SessionEnd::Death, pool.now);
    let ends = paired(&pool.store.take_events());
    assert_eq!(ends.len(), 3, "{ends:?}");
    assert!(ends.iter().all(|(_, count, _)| *count == 0));
    assert_eq!(pool.store.stats().events_dropped, 2);
}

#[test]
fn without_telemetry_nothing_is_collected() {
    let mut pool = Pool::new(Options::default());
    let client = pool.client();
    let ks = pool.keyspace(client);
    push(client, &read_event(EventOp::Lookup, EventPhase::End, 1, 0));
    pool.reserve(client, &[(key(ks, 1), 100)]);
    pool.store
        .close_session(client.id, SessionEnd::Death, pool.now);
    assert_eq!(events(&mut pool), []);
}

#[test]
fn a_tick_has_work_only_for_sessions_that_left_something() {
    let mut pool = Pool::new(Options::default());
    pool.store.collect_events();
    let clients: Vec<_> = (0..5).map(|_| pool.client()).collect();
    let tick = |pool: &mut Pool| {
        // In the same second: a new one has work of its own.
        pool.now += SECOND / 100;
        pool.store.tick(pool.now);
        pool.store.has_work()
    };
    pool.next_second();
    pool.settle();
    assert!(!tick(&mut pool), "nobody has read");
    let (reader, toucher) = (clients[3], clients[1]);
    push(
        reader,
        &read_event(EventOp::Lookup, EventPhase::Start, 1, 0),
    );
    assert!(toucher.recency.touch(EntryNumber(0)));
    let slot_of = |pool: &Pool, client: Client| pool.store.session_slots[&client.id];
    let has_touched = slot_of(&pool, toucher);
    assert!(pool.store.has_touches(has_touched));
    assert!(tick(&mut pool), "an event waits");
    assert!(!pool.store.has_touches(has_touched), "the tick took it");
    pool.settle();
    assert_eq!(pool.store.take_events().len(), 1);
    assert!(!tick(&mut pool), "all is taken");
    // A place that was claimed and never written is looked at in vain, and what follows another's goes on.
    assert!(reader.events.claim(0).is_some());
    push(
        toucher,
        &read_event(EventOp::Lookup, EventPhase::Start, 2, 0),
    );
    assert!(tick(&mut pool));
    pool.settle();
    assert_eq!(pool.store.take_events().len(), 1);
    // The slot of a session that has ended says nothing, and speaks for the next one in it.
    let slot = slot_of(&pool, reader);
    pool.store
        .close_session(reader.id, SessionEnd::Bye, pool.now);
    pool.settle();
    assert!(!pool.store.has_events(slot) && !tick(&mut pool));
    let next = pool.client();
    assert_eq!(slot_of(&pool, next), slot);
    push(next, &read_event(EventOp::Lookup, EventPhase::Start, 1, 0));
    assert!(pool.store.has_events(slot) && tick(&mut pool));
}
