//! Scrapes while sessions come, are killed and go: in every single one the sums hold, and nothing that counts ever falls.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::EndOnDrop;
use hostkv_shm_protocol::sync::{AtomicBool, Ordering};
use hostkv_tests::{Daemon, Random, Scrape, Worker, keys, keyspace, seed, store, wait_until};

/// Sessions of a short run; `HOSTKV_TEST_FULL=1` asks for 1000.
const SESSIONS: usize = 300;
/// Sessions at the same time: some are killed, the last ones end by themselves.
const WAVE: usize = 6;
const ORDERLY: usize = 2;

/// Sessions that do nothing but read the same keys until they are killed.
const READERS: usize = 24;

/// Every sample that may only grow: counters, and the buckets, sums and counts of histograms.
fn growing(scrape: &Scrape) -> BTreeMap<&str, f64> {
    let histograms: Vec<&str> = scrape
        .body
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.strip_suffix(" histogram"))
        .collect();
    assert!(histograms.len() >= 5, "{histograms:?}");
    let may_only_grow = |name: &str| {
        let base = name.split('{').next().unwrap_or("");
        let of_histogram = |end: &str| {
            base.strip_suffix(end)
                .is_some_and(|family| histograms.contains(&family))
        };
        base.ends_with("_total") || ["_bucket", "_sum", "_count"].into_iter().any(of_histogram)
    };
    scrape
        .body
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(name, _)| may_only_grow(name))
        .map(|(name, value)| (name, value.parse().unwrap()))
        .collect()
}

/// Panics unless the buckets of each histogram grow with their bound and end with its count.
fn assert_buckets_add_up(scrape: &Scrape) {
    let mut last = 0.0;
    let mut checked = 0;
    for line in scrape.body.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let Some((family, labels)) = name.split_once("_bucket{") else {
            continue;
        };
        let value: f64 = value.parse().unwrap();
        assert!(value >= last, "{name} is {value} behind {last}");
        last = value;
        if let Some(others) = labels.strip_suffix("le=\"+Inf\"}") {
            let others = others.trim_end_matches(',');
            let count = match others {
                "" => format!("{family}_count"),
                _ => format!("{family}_count{{{others}}}"),
            };
            assert_eq!(scrape.sample(&count), value, "{count}");
            last = 0.0;
            checked += 1;
        }
    }
    assert!(checked >= 5, "{checked} histograms");
}

/// Scrapes until told to end; panics at the first that does not hold. Gives their number.
fn watch(address: SocketAddr, has_ended: &AtomicBool) -> usize {
    let mut last: Option<Scrape> = None;
    let mut count = 0;
    // Relaxed: only the end of a loop.
    while !has_ended.load(Ordering::Relaxed) {
        let scrape = Scrape::get(address, "/metrics").unwrap();
        assert!(scrape.head.starts_with("HTTP/1.1 200"), "{}", scrape.head);
        scrape.assert_adds_up();
        assert_buckets_add_up(&scrape);
        let failures: f64 = scrape
            .counters()
            .filter(|(name, _)| name.starts_with("hostkv_write_failures_total"))
            .filter(|(name, _)| !name.contains("invalid"))
            .map(|(_, value)| value)
            .sum();
        assert_eq!(
            failures as u64,
            scrape.counter("sm_write_failed_keys_total")
        );
        if let Some(last) = &last {
            let now = growing(&scrape);
            for (name, before) in growing(last) {
                let now = now.get(name).copied().unwrap_or(-1.0);
                assert!(
                    now >= before,
                    "{name} fell from {before} to {now} in scrape {count}"
                );
            }
        }
        last = Some(scrape);
        count += 1;
    }
    count
}

#[test]
fn in_every_scrape_the_sums_hold_and_nothing_falls_while_sessions_come_are_killed_and_go() {
    let is_full = std::env::var("HOSTKV_TEST_FULL").is_ok_and(|value| value == "1");
    let sessions = if is_full { 1000 } else { SESSIONS };
    let daemon = Daemon::start(&["--prometheus-log-interval", "0.05"]);
    let address = daemon.metrics_address();
    let mut random = Random(seed("in_every_scrape"));
    let has_ended = AtomicBool::new(false);
    let scrapes = std::thread::scope(|scope| {
        // Also when a check here fails, or the scope would wait for ever.
        let end = EndOnDrop(&has_ended);
        let watchers = [(); 2].map(|()| scope.spawn(|| watch(address, &has_ended)));
        let mut opened = 0;
        while opened < sessions && !watchers.iter().any(|watcher| watcher.is_finished()) {
            let mut workers = [(); WAVE].map(|()| Worker::start(&daemon));
            for (number, worker) in workers.iter_mut().enumerate() {
                worker.must("open");
                if number >= ORDERLY {
                    worker.must(&format!("load-until-death {}", random.below(1 << 40)));
                }
            }
            opened += WAVE;
            std::thread::sleep(Duration::from_micros(random.below(10_000)));
            let (orderly, killed) = workers.split_at_mut(ORDERLY);
            for worker in orderly.iter_mut() {
                worker.must("acquire load0 8");
                worker.must("release");
                worker.must("close");
            }
            killed.iter_mut().for_each(Worker::kill);
            for worker in orderly {
                assert!(worker.end().success());
            }
        }
        drop(end);
        watchers.map(|watcher| watcher.join().unwrap())
    });
    daemon.wait_for_sessions(0);
    let scrape = daemon.scrape();
    assert!(scrape.counter("sm_read_requests_total") as usize >= sessions / WAVE * ORDERLY);
    assert!(scrape.counter("sm_write_requests_total") > 0);
    wait_until("all that was held is back", || {
        let audit = daemon.audit();
        (audit.reserved_bytes, audit.pin_count, audit.zombie_bytes) == (0, 0, 0)
    });
    eprintln!(
        "in_every_scrape: {sessions} sessions, {scrapes:?} scrapes, {:?}",
        scrape.nine()
    );
    daemon.finish();
}

#[test]
fn in_every_scrape_a_read_is_whole_or_not_there_also_of_sessions_that_are_killed() {
    let daemon = Daemon::start(&["--prometheus-log-interval", "0.05"]);
    let session = daemon.session();
    store(&session, keyspace(&session), &keys("trace", 16), 100);
    let mut random = Random(seed("a_read_is_whole"));
    let mut killed = 0;
    let mut scrapes = 0;
    // Each read asks for 16 keys that are there and for 4 that are not.
    let mut check = |killed: usize| {
        let scrape = daemon.scrape();
        let [requests, found, failed] = [
            "sm_read_requests_total",
            "sm_read_succeed_keys_total",
            "sm_read_failed_keys_total",
        ]
        .map(|name| scrape.counter(name));
        assert_eq!((found % 16, failed % 4, found / 16), (0, 0, failed / 4));
        // The request of a call that is under way, or was cut off, may be there without its keys, or these without it.
        let unfinished = (killed + 2) as u64;
        assert!(
            requests.abs_diff(found / 16) <= unfinished,
            "{requests} {found}"
        );
        let released = scrape.counter("l1_read_keys_total");
        assert_eq!(released % 16, 0);
        assert!(
            released <= found && found - released <= 16 * unfinished,
            "{released} {found}"
        );
        scrapes += 1;
    };
    while killed < READERS {
        let mut workers = [Worker::start(&daemon), Worker::start(&daemon)];
        for worker in &mut workers {
            worker.must("open");
            worker.order("reads 1000000000");
        }
        std::thread::sleep(Duration::from_micros(random.below(10_000)));
        for mut worker in workers {
            (0..5).for_each(|_| check(killed));
            worker.kill();
            killed += 1;
            check(killed);
        }
    }
    daemon.wait_for_sessions(1);
    check(killed);
    eprintln!("a_read_is_whole: {killed} sessions, {scrapes} scrapes");
    drop(session);
    daemon.finish();
}
