//! Promises of telemetry.
//!
//! Random tests take their seed from `HOSTKV_TEST_SEED` and print it.

mod jsonl;
mod lines;
mod pairs;

use std::hash::{BuildHasher, RandomState};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use super::*;

/// The longest that anything may take; only broken code needs it.
const PATIENCE: Duration = Duration::from_secs(30);

fn event(name: &'static str, event_type: EventType, session_id: impl Into<String>) -> Event {
    Event {
        name,
        event_type,
        session_id: session_id.into(),
        timestamp_s: 12345.680123,
        metadata: Vec::new(),
    }
}

/// Both ends of a pair, under a session of the pair's number.
fn start_of(pair: u64) -> Event {
    event("retrieve", EventType::Start, pair.to_string())
}

fn end_of(pair: u64) -> Event {
    event("retrieve", EventType::End, pair.to_string())
}

fn push_pair(telemetry: &mut Telemetry, pair: u64) {
    telemetry.push(PairId(pair), start_of(pair));
    telemetry.push(PairId(pair), end_of(pair));
}

fn processors_of(specs: &[&str]) -> Vec<Box<dyn Processor>> {
    let specs: Vec<String> = specs.iter().map(|spec| (*spec).to_owned()).collect();
    PROCESSORS.parse(&specs).unwrap()
}

/// What the processor of a number got; `None` is the word that nothing follows.
type Got = (u32, Option<Event>);

/// What processors got, in order.
#[derive(Clone, Debug, Default)]
struct Record(Arc<Mutex<Vec<Got>>>);

impl Record {
    fn add(&self, number: u32, what: Option<Event>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((number, what));
    }

    fn all(&self) -> Vec<Got> {
        self.0.lock().unwrap().clone()
    }

    /// The events that processor `number` got.
    fn events(&self, number: u32) -> Vec<Event> {
        let all = self.all().into_iter();
        all.filter(|(whose, _)| *whose == number)
            .filter_map(|(_, what)| what)
            .collect()
    }

    /// How often processor `number` was told that nothing follows.
    fn stops(&self, number: u32) -> usize {
        let all = self.all();
        all.iter()
            .filter(|(whose, what)| *whose == number && what.is_none())
            .count()
    }

    /// A processor that writes into this record and then does `then`.
    fn processor(
        &self,
        number: u32,
        then: impl FnMut(&Event) -> Result<(), ProcessorError> + Send + 'static,
    ) -> Box<dyn Processor> {
        Box::new(Recorder {
            number,
            record: self.clone(),
            then: Then(Box::new(then)),
        })
    }

    fn plain(&self, number: u32) -> Box<dyn Processor> {
        self.processor(number, |_| Ok(()))
    }
}

type Act = Box<dyn FnMut(&Event) -> Result<(), ProcessorError> + Send>;

struct Then(Act);

impl std::fmt::Debug for Then {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Then")
    }
}

#[derive(Debug)]
struct Recorder {
    number: u32,
    record: Record,
    then: Then,
}

impl Processor for Recorder {
    fn type_name(&self) -> &'static str {
        "recorder"
    }

    fn start(&mut self) -> Result<(), ProcessorError> {
        Ok(())
    }

    fn process(&mut self, event: &Event) -> Result<(), ProcessorError> {
        self.record.add(self.number, Some(event.clone()));
        (self.then.0)(event)
    }

    fn stop(&mut self) -> Result<(), ProcessorError> {
        self.record.add(self.number, None);
        Ok(())
    }
}

/// A processor that is stuck at each event until it is let go, or for good until the sender is dropped.
fn stuck(record: &Record, number: u32) -> (Box<dyn Processor>, Sender<()>) {
    let (sender, receiver): (Sender<()>, Receiver<()>) = channel();
    let processor = record.processor(number, move |_| {
        let _let_go_or_released = receiver.recv();
        Ok(())
    });
    (processor, sender)
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What `work` gives, which must not wait for anything.
fn at_once<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, done) = channel();
    std::thread::spawn(move || {
        // Nobody listens any more when it took too long.
        let _unheard = sender.send(Box::new(work()));
    });
    *done.recv_timeout(PATIENCE).expect("it waits")
}

/// Small and repeatable.
struct Random(u64);

impl Random {
    fn fresh() -> Self {
        let seed = std::env::var("HOSTKV_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(|| RandomState::new().hash_one(0));
        eprintln!("HOSTKV_TEST_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % bound
    }
}

#[test]
fn each_event_goes_to_every_processor_in_the_order_of_the_specs() {
    let record = Record::default();
    let processors = (1..=3).map(|number| record.plain(number)).collect();
    let mut telemetry = Telemetry::start(processors, 10_000).unwrap();
    for pair in 0..1000 {
        push_pair(&mut telemetry, pair);
    }
    assert!(telemetry.shutdown(PATIENCE));
    let mut expected = Vec::new();
    for pair in 0..1000 {
        for end in [start_of(pair), end_of(pair)] {
            expected.extend((1..=3).map(|number| (number, Some(end.clone()))));
        }
    }
    expected.extend((1..=3).map(|number| (number, None)));
    assert!(record.all() == expected);
    assert_eq!(telemetry.dropped_events(), 0);
    assert_eq!(telemetry.processor_failures(), 0);
}

#[test]
fn without_a_processor_events_are_drained_and_gone() {
    let mut telemetry = Telemetry::start(Vec::new(), 2).unwrap();
    for pair in 0..100 {
        wait_until("there is room", || telemetry.shared.waiting() == 0);
        push_pair(&mut telemetry, pair);
    }
    assert!(telemetry.shutdown(PATIENCE));
    assert_eq!(telemetry.dropped_events(), 0);
}

#[test]
fn a_processor_that_panics_stops_neither_the_others_nor_itself() {
    let record = Record::default();
    let processors = vec![
        record.processor(1, |event| {
            if event.event_type == EventType::Start {
                panic!("session {}", event.session_id);
            }
            Ok(())
        }),
        record.plain(2),
    ];
    let mut telemetry = Telemetry::start(processors, 1000).unwrap();
    for pair in 0..20 {
        push_pair(&mut telemetry, pair);
    }
    assert!(telemetry.shutdown(PATIENCE));
    for number in [1, 2] {
        assert_eq!(record.events(number).len(), 40);
        assert_eq!(record.stops(number), 1);
    }
    assert_eq!(telemetry.processor_failures(), 20);
    assert_eq!(telemetry.dropped_events(), 0);
}

#[test]
fn a_processor_that_fails_is_counted_and_stops_neither_the_others_nor_itself() {
    let record = Record::default();
    let processors = vec![
        record.processor(1, |_| Err("no room".into())),
        record.plain(2),
    ];
    let mut telemetry = Telemetry::start(processors, 1000).unwrap();
    for pair in 0..20 {
        push_pair(&mut telemetry, pair);
    }
    assert!(telemetry.shutdown(PATIENCE));
    for number in [1, 2] {
        assert_eq!(record.events(number).len(), 40);
        assert_eq!(record.stops(number), 1);
    }
    assert_eq!(telemetry.processor_failures(), 40);
}

#[test]
fn a_panic_while_stopping_leaves_the_others_their_word() {
    #[derive(Debug)]
    struct Sore;
    impl Processor for Sore {
        fn type_name(&self) -> &'static str {
            "sore"
        }
        fn start(&mut self) -> Result<(), ProcessorError> {
            Ok(())
        }
        fn process(&mut self, _: &Event) -> Result<(), ProcessorError> {
            Ok(())
        }
        fn stop(&mut self) -> Result<(), ProcessorError> {
            panic!("at the end")
        }
    }
    let record = Record::default();
    let mut telemetry = Telemetry::start(vec![Box::new(Sore), record.plain(2)], 10).unwrap();
    assert!(telemetry.shutdown(PATIENCE));
    assert_eq!(record.stops(2), 1);
    assert_eq!(telemetry.processor_failures(), 1);
}

#[test]
fn a_stuck_processor_fills_the_queue_and_nothing_else() {
    let record = Record::default();
    let (processor, let_go) = stuck(&record, 1);
    let mut telemetry = Telemetry::start(vec![processor], 100).unwrap();
    let mut telemetry = at_once(move || {
        for pair in 0..100_000 {
            push_pair(&mut telemetry, pair);
        }
        telemetry
    });
    assert_eq!(telemetry.dropped_events(), 200_000 - 100, "exactly");

    drop(let_go);
    wait_until("the queue is empty", || telemetry.shared.waiting() == 0);
    push_pair(&mut telemetry, 100_000);
    assert!(telemetry.shutdown(PATIENCE));
    let mut expected = Vec::new();
    for pair in (0..50).chain([100_000]) {
        expected.extend([start_of(pair), end_of(pair)]);
    }
    assert!(
        record.events(1) == expected,
        "the newest were dropped, in whole pairs"
    );
    assert_eq!(telemetry.dropped_events(), 200_000 - 100);
}

#[test]
fn at_the_shutdown_the_queue_is_drained_and_each_processor_is_told_once() {
    let record = Record::default();
    let slow = record.processor(1, |_| {
        std::thread::sleep(Duration::from_millis(1));
        Ok(())
    });
    let mut telemetry = Telemetry::start(vec![slow, record.plain(2)], 1000).unwrap();
    for pair in 0..50 {
        push_pair(&mut telemetry, pair);
    }
    assert!(telemetry.shutdown(PATIENCE));
    assert!(telemetry.shutdown(PATIENCE), "the same answer again");
    for number in [1, 2] {
        assert_eq!(record.events(number).len(), 100);
        assert_eq!(record.stops(number), 1);
    }
    assert!(record.all()[200..].iter().all(|(_, what)| what.is_none()));
}

#[test]
fn the_shutdown_ends_in_time_with_slow_processors_told_and_the_rest_counted() {
    let record = Record::default();
    let slow = record.processor(1, |_| {
        std::thread::sleep(Duration::from_millis(20));
        Ok(())
    });
    let mut telemetry = Telemetry::start(vec![slow, record.plain(2)], 10_000).unwrap();
    for pair in 0..5000 {
        push_pair(&mut telemetry, pair);
    }
    let start = Instant::now();
    assert!(!telemetry.shutdown(Duration::from_secs(2)));
    assert!(start.elapsed() < PATIENCE);
    let given = record.events(2).len() as u64;
    assert_eq!((record.stops(1), record.stops(2)), (1, 1));
    assert_eq!(given + telemetry.dropped_events(), 10_000, "{given} given");
}

#[test]
fn the_shutdown_does_not_wait_for_a_stuck_processor_beyond_its_time() {
    let record = Record::default();
    let (processor, let_go) = stuck(&record, 1);
    let mut telemetry = Telemetry::start(vec![processor], 100).unwrap();
    for pair in 0..10 {
        push_pair(&mut telemetry, pair);
    }
    let start = Instant::now();
    assert!(!telemetry.shutdown(Duration::from_millis(200)));
    assert!(start.elapsed() < PATIENCE);
    assert_eq!(
        telemetry.dropped_events(),
        20,
        "that in its hands is lost too"
    );
    assert!(!telemetry.shutdown(PATIENCE), "the same answer again");
    drop(let_go);
    wait_until("it is told", || record.stops(1) == 1);
    assert_eq!(record.events(1).len(), 1, "time is up for the others");
}

#[test]
fn what_is_pushed_after_the_shutdown_is_counted() {
    let record = Record::default();
    let mut telemetry = Telemetry::start(vec![record.plain(1)], 100).unwrap();
    assert!(telemetry.shutdown(PATIENCE));
    push_pair(&mut telemetry, 1);
    assert_eq!(telemetry.dropped_events(), 2);
    assert!(record.events(1).is_empty());
}

#[test]
fn a_processor_that_cannot_start_ends_the_start_by_number_and_type() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none/events");
    let spec = format!(r#"{{"type": "jsonl", "path": {path:?}}}"#);
    let processors = processors_of(&[r#"{"type": "logging"}"#, &spec]);
    let error = Telemetry::start(processors, 100).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "--telemetry-processor #2 (jsonl): opening {path:?} for writing failed: No such file or directory (os error 2); \
             give a path in a folder where hostkvd may write"
        )
    );
}

#[test]
fn what_may_happen_once_a_second_happens_no_more_often() {
    let mut lines = OncePerSecond::default();
    let start = Instant::now();
    let due: Vec<u64> = (0..3500)
        .step_by(100)
        .filter(|ms| lines.is_due(start + Duration::from_millis(*ms)))
        .collect();
    assert_eq!(due, [0, 1000, 2000, 3000]);
}
