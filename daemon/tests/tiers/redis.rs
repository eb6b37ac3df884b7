//! A real Redis, also killed, restarted, full and locked.

use super::server::{Server, free_port};
use super::*;
use hostkv_daemon::tiers::figures::FailureReason;
use nix::sys::signal::Signal;

const LEN: u64 = 3 << 20;

struct Redis {
    folder: tempfile::TempDir,
    port: u16,
    server: Server,
}

impl Redis {
    fn start(more: &[&str]) -> Option<Redis> {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let Some(server) = server::redis(folder.path(), port, more) else {
            hostkv_tests::skip("a tier in Redis: there is no redis-server");
            return None;
        };
        Some(Redis {
            folder,
            port,
            server,
        })
    }

    fn spec(&self, more: &str) -> String {
        let port = self.port;
        format!(r#"{{"type": "resp", "host": "127.0.0.1", "port": {port}{more}}}"#)
    }

    /// Runs a command of Redis.
    fn cli(&self, words: &[&str]) -> String {
        let output = std::process::Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(words)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn what_was_stored_in_redis_is_loaded_bit_for_bit_after_a_restart() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    round::round_trip(&redis.spec(""));
    let names = redis.cli(&["KEYS", "*"]);
    assert!(names.lines().count() > 1, "{names}");
    for name in names.lines() {
        assert!(name.starts_with("hostkv/"), "{name}");
        assert_eq!(redis.cli(&["TTL", name]).trim(), "-1", "{name} expires");
    }
}

#[test]
fn a_unix_socket_a_password_in_a_file_and_a_prefix_are_used() {
    let Some(redis) = Redis::start(&["--requirepass", "hunter2"]) else {
        return;
    };
    let password_file = redis.folder.path().join("password");
    std::fs::write(&password_file, "hunter2\n").unwrap();
    let socket = redis.folder.path().join("redis.sock");
    let spec = format!(
        r#"{{"type": "resp", "unix_socket": {socket:?}, "password_file": {password_file:?}, "prefix": "team-a:"}}"#
    );
    let mut pool = Pool::open(&[spec]);
    assert!(pool.store(1, range(0, LEN)).has(0));
    assert_eq!(pool.load(1, 0, range(0, LEN)), Some(0));
    let keys = redis.cli(&["-a", "hunter2", "--no-auth-warning", "KEYS", "*"]);
    assert!(keys.contains(&format!("team-a:{}", key(1))), "{keys}");
    assert!(keys.lines().all(|key| key.starts_with("team-a:")), "{keys}");
}

#[test]
fn wrong_credentials_and_a_server_that_is_not_there_end_the_start_with_one_sentence() {
    let Some(redis) = Redis::start(&["--requirepass", "hunter2"]) else {
        return;
    };
    let nobody = format!(
        r#"{{"type": "resp", "host": "127.0.0.1", "port": {}, "timeout_ms": 2000}}"#,
        free_port()
    );
    for spec in [
        redis.spec(r#", "password": "hunter3", "timeout_ms": 3000"#),
        redis.spec(r#", "timeout_ms": 3000"#),
        nobody,
    ] {
        let sentence = Pool::try_open(&[spec]).err().unwrap();
        assert!(
            sentence.starts_with("--l2-adapter #1 (resp): "),
            "{sentence}"
        );
        assert!(sentence.contains("\"required\": false"), "{sentence}");
        assert!(
            !sentence.contains('\n') && !sentence.contains("hunter"),
            "{sentence}"
        );
    }
}

#[test]
fn a_user_who_needs_no_password_logs_in() {
    let users = "--user default off --user alice on nopass ~* +@all";
    let users: Vec<&str> = users.split(' ').collect();
    let Some(redis) = Redis::start(&users) else {
        return;
    };
    let mut pool = Pool::open(&[redis.spec(r#", "username": "alice""#)]);
    assert!(pool.store(1, range(0, LEN)).has(0));
    assert!(Pool::try_open(&[redis.spec("")]).is_err());
}

#[test]
fn a_user_with_the_rights_that_the_guide_names_stores_loads_and_removes() {
    let users = "--user default off --user alice on >hunter2 ~hostkv/* -@all +get +set +persist +exists +del --user root on nopass ~* +@all";
    let users: Vec<&str> = users.split(' ').collect();
    let Some(redis) = Redis::start(&users) else {
        return;
    };
    let mut pool = Pool::open(&[redis.spec(r#", "username": "alice", "password": "hunter2""#)]);
    assert!(pool.store(1, range(0, LEN)).has(0));
    assert_eq!(pool.load(1, 0, range(0, LEN)), Some(0));
    // An object that is not whole is removed by who finds it.
    let root = |words: &[&str]| redis.cli(&[&["--user", "root", "--pass", "x"], words].concat());
    let piece = format!("hostkv/{}.1", key(1));
    assert_eq!(root(&["DEL", &piece]).trim(), "1");
    assert_eq!(pool.load(1, 0, range(0, LEN)), None);
    assert_eq!(root(&["KEYS", &format!("*{}*", key(1))]).trim(), "");
}

/// The server closes the connection in the middle of a value.
#[test]
fn a_redis_that_takes_no_value_so_long_is_a_failed_store_and_goes_on_with_shorter_ones() {
    let Some(redis) = Redis::start(&["--proto-max-bulk-len", "1mb"]) else {
        return;
    };
    let mut pool = Pool::open(&[redis.spec("")]);
    assert!(!pool.store(1, range(0, LEN)).has(0));
    assert!(pool.store(2, range(0, 1 << 19)).has(0));
    assert_eq!(pool.load(2, 0, range(0, 1 << 19)), Some(0));
}

#[test]
fn a_redis_that_is_killed_is_left_alone_and_found_again() {
    let Some(mut redis) = Redis::start(&[]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let specs = [
        redis.spec(r#", "timeout_ms": 1000"#),
        fs_spec(folder.path(), ""),
    ];
    let mut pool = Pool::open(&specs);
    for number in 0..5 {
        let stored = pool.store(number, range(0, LEN));
        assert!(stored.has(0) && stored.has(1));
    }
    redis.server.kill();
    // Every request ends, and what the other tier holds is served.
    for number in 0..10 {
        assert!(pool.store(number + 100, range(0, LEN)).has(1));
        assert_eq!(pool.load(number % 5, 0, range(0, LEN)), Some(1));
    }
    pool.until(0, "open", |figures| figures.breaker != BreakerState::Closed);
    redis.server = server::redis(redis.folder.path(), redis.port, &[]).unwrap();
    pool.until_breaker(0, BreakerState::Closed);
    assert!(pool.store(1000, range(0, LEN)).has(0));
    assert_eq!(pool.load(1000, 0, range(0, LEN)), Some(0));
    // Redis kept nothing: a miss there.
    assert_eq!(
        pool.look_up(&[1]),
        [Some(Found {
            tier: 1,
            len_bytes: LEN
        })]
    );
}

#[test]
fn a_redis_that_was_restarted_while_nobody_asked_costs_no_request() {
    let Some(mut redis) = Redis::start(&[]) else {
        return;
    };
    let mut pool = Pool::open(&[redis.spec("")]);
    assert!(pool.store(1, range(0, LEN)).has(0));
    redis.server.kill();
    redis.server = server::redis(redis.folder.path(), redis.port, &[]).unwrap();
    assert!(pool.store(2, range(0, LEN)).has(0));
    // And one that closes what is idle.
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    assert_eq!(pool.load(2, 0, range(0, LEN)), Some(0));
    let figures = pool.figures(0);
    let failed = [FailureReason::Error, FailureReason::Timeout]
        .map(|reason| figures.stores.failures.get(reason) + figures.loads.failures.get(reason));
    assert_eq!(failed, [0, 0]);
}

#[test]
fn a_redis_that_stops_answering_is_late_is_found_again_and_delays_no_end() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let mut pool = Pool::open(&[redis.spec(r#", "timeout_ms": 500"#)]);
    assert!(pool.store(1, range(0, LEN)).has(0));
    redis.server.signal(Signal::SIGSTOP);
    for _ in 0..2 {
        assert_eq!(pool.load(1, 0, range(0, LEN)), None);
    }
    let figures = pool.figures(0);
    assert_eq!(figures.loads.failures.get(FailureReason::Timeout), 2);
    assert_ne!(figures.breaker, BreakerState::Closed);
    redis.server.signal(Signal::SIGCONT);
    pool.until_breaker(0, BreakerState::Closed);
    assert_eq!(pool.load(1, 0, range(0, LEN)), Some(0));

    // The queue of the stopped server's port takes a connection that nobody accepts.
    let patient = redis.spec(r#", "timeout_ms": 600000"#);
    let mut pool = Pool::open(&[patient]);
    redis.server.signal(Signal::SIGSTOP);
    pool.submit_store(2, range(0, LEN));
    pool.until(0, "at work", |figures| figures.running == 1);
    let tiers = pool.tiers.take().unwrap();
    assert!(tiers.shutdown(Duration::ZERO), "a thread still waits");
    redis.server.signal(Signal::SIGCONT);
}

#[test]
fn a_redis_that_is_not_required_and_comes_later_is_used() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let later = free_port();
    let spec = format!(
        r#"{{"type": "resp", "host": "127.0.0.1", "port": {later}, "required": false, "timeout_ms": 1000}}"#
    );
    let mut pool = Pool::open(&[spec]);
    assert!(pool.store(1, range(0, LEN)).is_empty());
    let _server = server::redis(redis.folder.path(), later, &[]).unwrap();
    pool.until_breaker(0, BreakerState::Closed);
    assert!(pool.store(1, range(0, LEN)).has(0));
}

#[test]
fn pieces_that_redis_evicted_or_somebody_changed_are_a_miss_and_are_replaced() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let mut pool = Pool::open(&[redis.spec("")]);
    let name = format!("hostkv/{}", key(1));
    let damages: [(&[&str], FailureReason); 5] = [
        (&["DEL", ".1"], FailureReason::Lost),
        (&["SETRANGE", ".0", "77777", "x"], FailureReason::Damaged),
        (&["SET", ".1", "short"], FailureReason::Damaged),
        (&["SETRANGE", "", "60", "x"], FailureReason::Damaged),
        (&["SET", "", "no seal"], FailureReason::Damaged),
    ];
    for (words, reason) in damages {
        assert!(pool.store(1, range(0, LEN)).has(0));
        assert_eq!(pool.load(1, 0, range(0, LEN)), Some(0));
        let before = pool.figures(0).loads.failures.get(reason);
        let target = format!("{name}{}", words[1]);
        let mut words = words.to_vec();
        words[1] = &target;
        redis.cli(&words);
        assert_eq!(pool.load(1, 0, range(0, LEN)), None, "{words:?}");
        assert_eq!(
            pool.figures(0).loads.failures.get(reason),
            before + 1,
            "{words:?}"
        );
        assert_eq!(pool.look_up(&[1]), [None], "{words:?}");
    }
}

#[test]
fn a_redis_beyond_its_memory_is_full_and_still_serves() {
    let Some(redis) = Redis::start(&["--maxmemory", "12mb", "--maxmemory-policy", "noeviction"])
    else {
        return;
    };
    let mut pool = Pool::open(&[redis.spec("")]);
    let stored: Vec<u64> = (0..8)
        .filter(|number| pool.store(*number, range(0, LEN)).has(0))
        .collect();
    assert!((1..4).contains(&stored.len()), "{stored:?}");
    let figures = pool.figures(0);
    assert!(
        figures.stores.failures.get(FailureReason::Full) >= 4,
        "{figures:?}"
    );
    assert_eq!(figures.breaker, BreakerState::Closed);
    for number in stored {
        assert_eq!(pool.load(number, 0, range(0, LEN)), Some(0));
    }
}

#[test]
fn this_daemons_share_of_redis_is_kept_to_its_capacity() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    // Room for three.
    let mut pool = Pool::open(&[redis.spec(r#", "max_capacity_gb": 0.009"#)]);
    for number in 0..6 {
        assert!(pool.store(number, range(0, LEN)).has(0));
        assert_eq!(pool.load(0, 0, range(0, LEN)), Some(0), "the hot one stays");
    }
    let found: Vec<bool> = pool
        .look_up(&[0, 1, 2, 3, 4, 5])
        .iter()
        .map(Option::is_some)
        .collect();
    assert_eq!(found, [true, false, false, false, true, true]);
    assert_eq!(pool.figures(0).evicted_keys_count, 3);
    // Three seals, two pieces each, and what the opening wrote.
    assert_eq!(redis.cli(&["DBSIZE"]).trim(), "10");
}
