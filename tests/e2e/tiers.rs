//! Tiers behind L1, end to end: what was stored comes back by a prefetch, after an eviction, a restart and on another host,
//! and a tier that is slow, hangs or fails moves nobody and loses nothing of L1.

use std::net::TcpListener;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use hostkv::session::{KeyspaceConfig, Request, Session};
use hostkv::{ChunkKey, KeyspaceId, Status};
use hostkv_shm_protocol::wire::reply::Prefetched;
use hostkv_tests::{
    Daemon, DaemonSpec, S3Server, Worker, assert_reads, end_with_parent, keys, keyspace,
    keyspace_config, outcome, overfill, request, skip, store, wait_until,
};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

const OBJECT_BYTES: u64 = 256 << 10;

/// Longer than any test: nothing is late, however busy the machine is.
const NEVER_MS: u64 = 600_000;
/// A slow operation takes half of it, and has as much again before it is late.
const SLOW_MS: u64 = 4000;
/// Soon, where a test waits for what is late.
const SOON_MS: u64 = 500;

/// An fs tier in this folder, under the name `disk`.
fn fs_within(timeout_ms: u64, folder: &Path) -> String {
    format!(
        r#"{{"type": "fs", "name": "disk", "base_path": {folder:?}, "timeout_ms": {timeout_ms}}}"#
    )
}

fn fs(folder: &Path) -> String {
    fs_within(NEVER_MS, folder)
}

/// The same, with every operation failing in this way.
fn faulty(kind: &str, timeout_ms: u64, folder: &Path) -> String {
    format!(
        r#"{{"type": "fault_inject", "kind": "{kind}", "inner": {}}}"#,
        fs_within(timeout_ms, folder)
    )
}

fn with_tier(spec: &str) -> DaemonSpec {
    DaemonSpec::new(&[]).flag("--l2-adapter", spec)
}

/// A figure of the tier `disk`.
fn figure(daemon: &Daemon, name: &str) -> u64 {
    let sample = format!("hostkv_l2_{name}{{l2_name=\"disk\"}}");
    daemon.scrape().sample(&sample) as u64
}

fn wait_for_stores(daemon: &Daemon, count: u64) {
    wait_until("the tier holds what was committed", || {
        figure(daemon, "stored_keys_total") >= count
    });
}

/// Keys that an earlier daemon stored in a tier in this folder.
fn stored_before(folder: &Path) -> Vec<ChunkKey> {
    let mut daemon = with_tier(&fs(folder)).start();
    let session = daemon.session();
    let stored = keys("stored", 2);
    store(&session, keyspace(&session), &stored, OBJECT_BYTES);
    wait_for_stores(&daemon, 2);
    drop(session);
    daemon.stop();
    stored
}

/// What a prefetch of these keys comes to; it is ended.
fn prefetch(session: &Session, id: KeyspaceId, keys: &[ChunkKey]) -> Prefetched {
    let prefetch = session.prefetch(id, keys, &request(0)).unwrap();
    let outcome = prefetch.wait(30_000).unwrap();
    prefetch.end().unwrap();
    outcome
}

/// Panics unless all keys are readable, each with its own bytes.
fn assert_all_read(session: &Session, id: KeyspaceId, keys: &[ChunkKey]) {
    let lease = session.acquire(id, keys, &request(0)).unwrap();
    assert_eq!(lease.prefix_count(), keys.len());
    for (index, key) in keys.iter().enumerate() {
        assert_reads(&lease, index, key);
    }
    lease.release().unwrap();
}

#[test]
fn what_was_stored_comes_back_after_a_restart_of_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = with_tier(&fs(folder.path())).start();
    let session = daemon.session();
    let id = keyspace(&session);
    let stored = keys("stored", 16);
    store(&session, id, &stored, OBJECT_BYTES);
    drop(session);
    // The end of the daemon stores what still waits.
    daemon.stop();
    let daemon = daemon.spec().clone().start();
    let session = daemon.session();
    let id = keyspace(&session);
    assert_eq!(session.lookup(id, &stored, None).unwrap(), 0);
    assert_eq!(prefetch(&session, id, &stored), outcome(16, 16, Status::Ok));
    assert_all_read(&session, id, &stored);
    let scrape = daemon.scrape();
    assert_eq!(scrape.counter("l1_write_keys_total"), 16);
    assert_eq!(scrape.counter("sm_write_requests_total"), 0);
    assert_eq!(scrape.counter("sm_read_requests_total"), 1, "the acquire");
    // What came out of the tier is not stored there again.
    assert_eq!(figure(&daemon, "store_keys_total"), 0);
    assert_eq!(figure(&daemon, "loaded_keys_total"), 16);
    assert_eq!(
        scrape.sample("lmcache_mp:l2_prefetch_hit_keys_total{l2_name=\"disk\"}"),
        16.0
    );
    daemon.finish();
}

#[test]
fn what_was_evicted_comes_back_and_is_kept_for_the_read_that_follows() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = with_tier(&fs(folder.path())).start();
    let session = daemon.session();
    let id = keyspace(&session);
    let stored = keys("stored", 8);
    store(&session, id, &stored, OBJECT_BYTES);
    wait_for_stores(&daemon, 8);
    overfill(&session, id, "more", OBJECT_BYTES);
    assert_eq!(session.lookup(id, &stored, None).unwrap(), 0);
    let named = Request {
        request_id: Some("request-1"),
        ..Request::default()
    };
    let kept = session.prefetch(id, &stored, &named).unwrap();
    assert_eq!(kept.wait(30_000).unwrap(), outcome(8, 8, Status::Ok));
    overfill(&session, id, "other", OBJECT_BYTES);
    let lease = session.acquire(id, &stored, &named).unwrap();
    assert_eq!(lease.prefix_count(), 8);
    (0..8).for_each(|index| assert_reads(&lease, index, &stored[index]));
    lease.release().unwrap();
    kept.end().unwrap();
    daemon.wait_for_line("Prefetch request completed (L1+L2): 8/8 prefix hits (0 L1, 8 L2) in ");
    daemon.finish();
}

#[test]
fn the_log_says_what_the_tiers_were_asked() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = with_tier(&fs(folder.path()))
        .variable("LMCACHE_LOG_LEVEL", "DEBUG")
        .start();
    let session = daemon.session();
    let id = keyspace(&session);
    store(&session, id, &keys("stored", 2), OBJECT_BYTES);
    daemon.wait_for_line("Submitted store task 1 to adapter 0 with 2 keys.");
    daemon.wait_for_line("L2 store task 1 completed: adapter 0, 2 keys.");
    assert_eq!(
        prefetch(&session, id, &keys("stored", 3)),
        outcome(2, 0, Status::NotFound)
    );
    daemon.wait_for_line(
        "Prefetch request submitted: 3 total keys, 2 L1 prefix hits, 1 remaining for L2",
    );
    daemon.finish();
}

#[test]
fn an_object_of_another_layout_or_tenant_is_a_miss() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = with_tier(&fs(folder.path())).start();
    let session = daemon.session();
    let id = keyspace(&session);
    let stored = keys("stored", 4);
    store(&session, id, &stored, OBJECT_BYTES);
    wait_for_stores(&daemon, 4);
    session.clear(0).unwrap();
    session.close().unwrap();
    for other in [
        KeyspaceConfig {
            layout_fingerprint: 8,
            ..keyspace_config("test-model")
        },
        KeyspaceConfig {
            cache_salt: "another tenant".to_owned(),
            ..keyspace_config("test-model")
        },
        keyspace_config("another-model"),
    ] {
        let session = daemon.session();
        let id = session.open_keyspace(&other).unwrap();
        assert_eq!(
            prefetch(&session, id, &stored),
            outcome(0, 0, Status::NotFound)
        );
        session.close().unwrap();
    }
    let session = daemon.session();
    let id = keyspace(&session);
    assert_eq!(prefetch(&session, id, &stored), outcome(4, 4, Status::Ok));
    daemon.finish();
}

#[test]
fn a_damaged_object_is_a_miss_and_never_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = with_tier(&faulty("corrupt", NEVER_MS, folder.path())).start();
    let session = daemon.session();
    let id = keyspace(&session);
    let stored = keys("stored", 4);
    store(&session, id, &stored, OBJECT_BYTES);
    wait_for_stores(&daemon, 4);
    session.clear(0).unwrap();
    assert_eq!(
        prefetch(&session, id, &stored),
        outcome(0, 0, Status::NotFound)
    );
    assert_eq!(session.lookup(id, &stored, None).unwrap(), 0);
    let damaged = "hostkv_l2_load_failures_total{l2_name=\"disk\",reason=\"damaged\"}";
    assert!(daemon.scrape().sample(damaged) >= 1.0);
    daemon.audit_until("nothing is reserved", |audit| audit.reserved_count == 0);
    daemon.finish();
}

#[test]
fn two_sessions_that_want_the_same_keys_cost_one_load() {
    let folder = tempfile::tempdir().unwrap();
    // Slow, so that the second asks while the first waits.
    let daemon = with_tier(&faulty("slow", SLOW_MS, folder.path())).start();
    let (first, second) = (daemon.session(), daemon.session());
    let id = keyspace(&first);
    let other_id = keyspace(&second);
    let stored = keys("stored", 4);
    store(&first, id, &stored, OBJECT_BYTES);
    wait_for_stores(&daemon, 4);
    first.clear(0).unwrap();
    let a = first.prefetch(id, &stored, &request(0)).unwrap();
    let b = second.prefetch(other_id, &stored, &request(0)).unwrap();
    assert_eq!(a.wait(30_000).unwrap(), outcome(4, 4, Status::Ok));
    assert_eq!(b.wait(30_000).unwrap(), outcome(4, 4, Status::Ok));
    assert_eq!(figure(&daemon, "loaded_keys_total"), 4);
    assert_all_read(&second, other_id, &stored);
    drop((a, b));
    daemon.finish();
}

#[test]
fn a_worker_that_is_killed_while_its_keys_are_loaded_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = with_tier(&faulty("slow", SLOW_MS, folder.path())).start();
    let session = daemon.session();
    let id = keyspace(&session);
    store(&session, id, &keys("stored", 4), OBJECT_BYTES);
    wait_for_stores(&daemon, 4);
    session.clear(0).unwrap();
    for _ in 0..3 {
        let mut worker = Worker::start(&daemon);
        worker.must("open");
        worker.must("keyspace test-model");
        worker.must("prefetch stored 4");
        worker.kill();
    }
    wait_until("nothing is loaded or kept any more", || {
        let scrape = daemon.scrape();
        scrape.sample("hostkv_l2_loading_bytes") == 0.0
            && scrape.sample("hostkv_l2_open_prefetches") == 0.0
            && scrape.sample("hostkv_l2_kept_bytes") == 0.0
    });
    let audit = daemon.audit();
    assert_eq!((audit.reserved_count, audit.zombie_count), (0, 0));
    daemon.finish();
}

/// Every reserve, commit and acquire goes on as without the tier, and what L1 holds stays.
#[test]
fn a_tier_that_is_slow_hangs_or_fails_moves_nobody_and_loses_nothing_of_l1() {
    for kind in ["error", "slow", "hang", "lose", "full"] {
        let folder = tempfile::tempdir().unwrap();
        let daemon = with_tier(&faulty(kind, SOON_MS, folder.path())).start();
        let session = daemon.session();
        let id = keyspace(&session);
        // Eight times the pool: every reserve is granted whatever the tier holds on to.
        for round in 0..8 {
            let new = keys(&format!("{kind}{round}"), 128);
            store(&session, id, &new, OBJECT_BYTES);
            assert_all_read(&session, id, &new[120..]);
        }
        let scrape = daemon.scrape();
        for reason in ["no_space", "quota"] {
            assert_eq!(scrape.write_failures(reason), 0, "{kind}: {reason}");
        }
        // What the tier took on stays within its bounds.
        assert!(scrape.sample("hostkv_l2_storing_objects") <= 64.0);
        assert!(
            scrape.sample("hostkv_l2_storing_bytes")
                <= scrape.sample("hostkv_l1_capacity_bytes") / 10.0
        );
        let kept = keys(&format!("{kind}7"), 128);
        let prefetch = session.prefetch(id, &kept[120..], &request(0)).unwrap();
        assert_eq!(prefetch.wait(30_000).unwrap(), outcome(8, 0, Status::Ok));
        prefetch.end().unwrap();
        daemon.finish();
    }
}

#[test]
fn a_hanging_tier_lets_a_prefetch_wait_and_be_ended_whatever_becomes_of_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let stored = stored_before(folder.path());
    let daemon = with_tier(&faulty("hang", NEVER_MS, folder.path())).start();
    let session = daemon.session();
    let id = keyspace(&session);
    let waiting = session.prefetch(id, &stored, &request(0)).unwrap();
    crate::assert_refused(waiting.wait(50), Status::Timeout);
    // Everything else goes on.
    store(&session, id, &keys("other", 8), OBJECT_BYTES);
    waiting.end().unwrap();
    let waiting = session.prefetch(id, &stored, &request(0)).unwrap();
    crate::assert_refused(waiting.wait(50), Status::Timeout);
    daemon.kill();
    crate::assert_refused(waiting.wait(30_000), Status::Disconnected);
    waiting.end().unwrap();
}

#[test]
fn a_prefetch_of_a_hanging_tier_is_a_miss_at_its_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let stored = stored_before(folder.path());
    let daemon = with_tier(&faulty("hang", SOON_MS, folder.path())).start();
    let session = daemon.session();
    let id = keyspace(&session);
    assert_eq!(
        prefetch(&session, id, &stored),
        outcome(0, 0, Status::NotFound)
    );
    // One that is late does not open the breaker: it was the deadline that answered.
    let scrape = daemon.scrape();
    let late = "hostkv_l2_lookup_failures_total{l2_name=\"disk\",reason=\"timeout\"}";
    assert_eq!(scrape.sample(late), 1.0);
    assert_eq!(figure(&daemon, "breaker_openings_total"), 0);
    daemon.finish();
}

/// A thread that is gone would leave tasks unanswered and their bytes pinned for good.
#[test]
fn a_panic_of_a_tiers_thread_ends_the_daemon_and_is_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = with_tier(&faulty("panic", NEVER_MS, folder.path())).start();
    let session = daemon.session();
    let id = keyspace(&session);
    store(&session, id, &keys("stored", 1), OBJECT_BYTES);
    daemon.wait_for_line("a tier (thread l2-0-");
    assert_eq!(daemon.wait().signal(), Some(libc::SIGABRT));
}

#[test]
fn with_skip_l1_the_pool_is_a_buffer_before_the_tier() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = with_tier(&fs(folder.path()))
        .flag("--l2-store-policy", "skip_l1")
        .flag("--eviction-policy", "noop")
        .start();
    let session = daemon.session();
    let id = keyspace(&session);
    let stored = keys("stored", 8);
    store(&session, id, &stored, OBJECT_BYTES);
    wait_until("L1 is empty again", || {
        session.figures().unwrap().used_bytes == 0
    });
    assert_eq!(prefetch(&session, id, &stored), outcome(8, 8, Status::Ok));
    wait_until("L1 is empty once more", || {
        session.figures().unwrap().used_bytes == 0
    });
    assert_eq!(daemon.scrape().counter("l1_evicted_keys_total"), 0);
    daemon.finish();
}

#[test]
fn a_removed_key_does_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = with_tier(&fs(folder.path())).start();
    let session = daemon.session();
    let id = keyspace(&session);
    let stored = keys("stored", 2);
    store(&session, id, &stored, OBJECT_BYTES);
    wait_for_stores(&daemon, 2);
    // A prefetch that comes between the two may bring it back once.
    wait_until("the tier does not have it any more", || {
        session.remove(id, &stored[..1], None).unwrap();
        prefetch(&session, id, &stored[..1]).prefix_count == 0
    });
    assert_eq!(prefetch(&session, id, &stored[1..]).prefix_count, 1);
    daemon.finish();
}

/// A redis-server on a socket in this folder; killed when it is dropped. None, and said so, where there is no such program.
struct Redis(Child);

impl Redis {
    fn start(folder: &Path, more: &[String]) -> Option<Redis> {
        let socket = folder.join("redis.sock");
        let mut command = Command::new("redis-server");
        command
            .args([
                "--port",
                "0",
                "--save",
                "",
                "--appendonly",
                "no",
                "--unixsocket",
            ])
            .arg(&socket)
            .args(more)
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: prctl is async-signal-safe and touches nothing of this process.
        unsafe { command.pre_exec(end_with_parent) };
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                skip(&format!("two daemons that share a Redis: {error}"));
                return None;
            }
        };
        let redis = Redis(child);
        wait_until("redis-server listens", || socket.exists());
        Some(redis)
    }

    fn signal(&self, signal: Signal) {
        signal::kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended by itself; then both are refused, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two daemons with the same tier, of which the second has restored what the first stored.
struct Sharing {
    first: Daemon,
    second: Daemon,
    writer: Session,
    reader: Session,
    id: KeyspaceId,
    other_id: KeyspaceId,
}

impl Sharing {
    fn begin(tier: &str) -> Sharing {
        Sharing::of(|| with_tier(tier))
    }

    fn of(spec: impl Fn() -> DaemonSpec) -> Sharing {
        let (first, second) = (spec().start(), spec().start());
        let (writer, reader) = (first.session(), second.session());
        let (id, other_id) = (keyspace(&writer), keyspace(&reader));
        let stored = keys("shared", 8);
        store(&writer, id, &stored, OBJECT_BYTES);
        wait_for_stores(&first, 8);
        assert_eq!(
            prefetch(&reader, other_id, &stored),
            outcome(8, 8, Status::Ok)
        );
        assert_all_read(&reader, other_id, &stored);
        Sharing {
            first,
            second,
            writer,
            reader,
            id,
            other_id,
        }
    }
}

#[test]
fn what_one_daemon_stored_in_a_redis_another_restores_and_a_dead_redis_is_a_miss() {
    let folder = tempfile::tempdir().unwrap();
    let Some(redis) = Redis::start(folder.path(), &[]) else {
        return;
    };
    let shared = format!(
        r#"{{"type": "resp", "name": "disk", "unix_socket": "{}", "prefix": "test:", "timeout_ms": 30000}}"#,
        folder.path().join("redis.sock").display()
    );
    let Sharing {
        first,
        second,
        writer,
        reader,
        id,
        other_id,
    } = Sharing::begin(&shared);
    // Nobody else's keys are there.
    assert_eq!(
        prefetch(&reader, other_id, &keys("other", 2)),
        outcome(0, 0, Status::NotFound)
    );
    drop(redis);
    // Both go on from their own memory.
    assert_all_read(&writer, id, &keys("shared", 8));
    assert_eq!(
        prefetch(&writer, id, &keys("gone", 2)),
        outcome(0, 0, Status::NotFound)
    );
    store(&writer, id, &keys("more", 8), OBJECT_BYTES);
    first.finish();
    second.finish();
}

#[test]
fn a_redis_that_stops_answering_delays_no_end() {
    let folder = tempfile::tempdir().unwrap();
    let Some(redis) = Redis::start(folder.path(), &[]) else {
        return;
    };
    let tier = format!(
        r#"{{"type": "resp", "name": "disk", "unix_socket": "{}", "timeout_ms": {NEVER_MS}}}"#,
        folder.path().join("redis.sock").display()
    );
    let daemon = with_tier(&tier).start();
    let session = daemon.session();
    let id = keyspace(&session);
    let stored = keys("stored", 8);
    redis.signal(Signal::SIGSTOP);
    store(&session, id, &stored, OBJECT_BYTES);
    wait_until("the tier is at work", || {
        daemon.scrape().sample("hostkv_l2_storing_objects") == 8.0
    });
    assert_all_read(&session, id, &stored);
    drop(session);
    daemon.finish();
}

/// A certificate for this host in `server.pem` with its key in `server.key`, signed by that in `ca.pem`; false, and said so,
/// where nothing can make one.
fn make_certificates(folder: &Path) -> bool {
    const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    let commands = [
        format!("req -x509 {KEY} -keyout ca.key -out ca.pem -subj /CN=hostkv-test -days 2"),
        format!(
            "req {KEY} -keyout server.key -out server.csr -subj /CN=server -addext subjectAltName=IP:127.0.0.1"
        ),
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -copy_extensions copy -days 2 -out server.pem"
            .to_owned(),
    ];
    for words in commands {
        let output = Command::new("openssl")
            .args(words.split(' '))
            .current_dir(folder)
            .output();
        match output {
            Err(error) => {
                skip(&format!("a Redis over TLS: openssl: {error}"));
                return false;
            }
            Ok(output) => assert!(output.status.success(), "{words}: {output:?}"),
        }
    }
    true
}

#[test]
fn a_redis_over_tls_is_used_if_this_host_trusts_it_and_ends_the_start_if_not() {
    let folder = tempfile::tempdir().unwrap();
    if !make_certificates(folder.path()) {
        return;
    }
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let words = format!(
        "--tls-port {port} --tls-cert-file server.pem --tls-key-file server.key --tls-ca-cert-file ca.pem --tls-auth-clients no"
    );
    let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    let Some(_redis) = Redis::start(folder.path(), &words) else {
        return;
    };
    let tier = format!(
        r#"{{"type": "resp", "name": "disk", "host": "127.0.0.1", "port": {port}, "tls": true, "timeout_ms": 30000}}"#
    );
    let trusting = folder.path().join("ca.pem");
    let spec = || with_tier(&tier).variable("SSL_CERT_FILE", trusting.to_str().unwrap());
    let sharing = Sharing::of(spec);
    sharing.first.finish();
    sharing.second.finish();
    with_tier(&tier)
        .start_must_fail()
        .assert_says(1, &["--l2-adapter #1 (resp)", "certificate"]);
    let missing = folder.path().join("missing.pem");
    with_tier(&tier)
        .variable("SSL_CERT_FILE", missing.to_str().unwrap())
        .start_must_fail()
        .assert_says(
            1,
            &[
                "--l2-adapter #1 (resp)",
                "can't be read",
                "missing.pem",
                "hostkvd may read",
            ],
        );
}

#[test]
fn what_one_daemon_stored_in_a_bucket_another_restores_bit_for_bit() {
    let Some(s3) = S3Server::start("two daemons that share a bucket") else {
        return;
    };
    let shared = s3.spec("kv-cache", r#", "name": "disk", "prefix": "test/""#);
    let Sharing {
        first,
        second,
        writer,
        reader,
        id,
        other_id,
    } = Sharing::begin(&shared);
    assert_eq!(figure(&second, "loaded_keys_total"), 8);
    assert_eq!(figure(&second, "store_keys_total"), 0);
    // And the other way, of what the first has never seen.
    let back = keys("back", 4);
    store(&reader, other_id, &back, OBJECT_BYTES);
    wait_for_stores(&second, 4);
    assert_eq!(prefetch(&writer, id, &back), outcome(4, 4, Status::Ok));
    assert_all_read(&writer, id, &back);
    drop((writer, reader));
    first.finish();
    second.finish();
}

#[test]
fn a_spec_that_can_not_be_ends_the_start_with_one_sentence() {
    with_tier(r#"{"type": "tape"}"#)
        .start_must_fail()
        .assert_says(2, &["--l2-adapter #1", "tape"]);
    with_tier("{")
        .start_must_fail()
        .assert_says(2, &["Invalid JSON for --l2-adapter #1"]);
    DaemonSpec::new(&[])
        .flag("--l2-store-policy", "skip_l1")
        .start_must_fail()
        .assert_says(2, &["--l2-store-policy", "--l2-adapter"]);
    DaemonSpec::new(&[])
        .flag("--l2-store-policy", "sometimes")
        .start_must_fail()
        .assert_says(2, &["--l2-store-policy", "default or skip_l1"]);
}
