//! Containers: the borders that docs/containers.md names, made by unshare, and only the socket's folder across them.
//!
//! ```text
//!   host:      hostkvd ── folder/hostkv.sock ──┐ bind mount, read-only
//!   container: /worker, /usr, /lib, /run/hostkv, /dev/shm of 64 KiB; mount, IPC, PID and network namespaces of its own
//! ```
//!
//! No engine for containers is needed; what it would do is done by the same system calls.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use hostkv_tests::cgroup::Cgroup;
use hostkv_tests::{
    Daemon, DaemonSpec, Scrape, Worker, assert_reads, keys, keyspace, request, skip, store,
    wait_until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Namespaces that an engine for containers makes.
const NAMESPACES: [&str; 4] = ["mnt", "ipc", "pid", "net"];
const UNSHARE: [&str; 7] = [
    "unshare",
    "--mount",
    "--ipc",
    "--pid",
    "--net",
    "--fork",
    "--kill-child",
];

/// Builds a root with nothing of the host but programs, libraries and the folder of the socket, and runs the worker there.
/// $0 is an empty folder, $1 the socket's folder, $2 the worker, $3 its argument.
const CONTAINER: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs -o size=1m tmpfs "$0"
for folder in bin lib lib64; do
  if [ -L "/$folder" ]; then cp -P "/$folder" "$0/$folder"
  elif [ -d "/$folder" ]; then mkdir "$0/$folder"; mount --bind -o ro "/$folder" "$0/$folder"
  fi
done
mkdir -p "$0/usr" "$0/proc" "$0/dev/shm" "$0/run/hostkv"
mount --bind /usr "$0/usr"
mount -t proc proc "$0/proc"
mount -t tmpfs -o size=64k tmpfs "$0/dev/shm"
mount --bind "$1" "$0/run/hostkv"
mount -o remount,bind,ro "$0/run/hostkv"
touch "$0/worker"
mount --bind "$2" "$0/worker"
exec chroot "$0" /worker "$3"
"#;

/// Whether this machine lets a test make what it needs; says so if not.
fn may_unshare(what: &str) -> bool {
    let tried = Command::new(UNSHARE[0])
        .args(&UNSHARE[1..])
        .args([
            "sh",
            "-c",
            "mount --make-rprivate / && mount -t tmpfs tmpfs /mnt",
        ])
        .output();
    match tried {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            skip(&format!("{what}: unshare: {said}"));
            false
        }
        Err(error) => {
            skip(&format!("{what}: unshare: {error}"));
            false
        }
    }
}

/// A worker in a container of its own.
struct Contained {
    worker: Worker,
    _root: TempDir,
}

impl Contained {
    /// One that sees this folder as /run/hostkv; run by `wrapper`.
    fn start(folder: &Path, wrapper: &[&str]) -> Contained {
        let root = tempfile::tempdir().unwrap();
        let program = Worker::program();
        let mut words = wrapper.to_vec();
        words.extend(UNSHARE);
        words.extend(["sh", "-c", CONTAINER]);
        let paths = [root.path(), folder];
        words.extend(paths.map(|path| path.to_str().unwrap()));
        // The harness adds the program and the socket as the container has it.
        assert!(program.is_absolute());
        let worker = Worker::start_at(Path::new("/run/hostkv/hostkv.sock"), &words);
        Contained {
            worker,
            _root: root,
        }
    }

    /// Its process as the host numbers it.
    fn host_pid(&self) -> i32 {
        only_child(self.worker.pid() as i32)
    }

    /// Opens a session and a keyspace; panics when a namespace is the test's own.
    fn open(&mut self) -> &mut Worker {
        self.worker.must("open");
        self.worker.must("keyspace test-model");
        for name in NAMESPACES {
            let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
            assert_ne!(of(&self.host_pid().to_string()), of("self"), "{name}");
        }
        &mut self.worker
    }
}

/// The process that unshare waits for.
fn only_child(pid: i32) -> i32 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.trim().parse().unwrap()
}

/// Two containers and the host share the pool of this daemon, and the one that is killed leaves nothing behind.
fn store_read_kill_reclaim(daemon: &Daemon) {
    let folder = daemon.socket().parent().unwrap().to_owned();
    let mut writer = Contained::start(&folder, &[]);
    let orders = writer.open();
    // Each object is larger than the container's whole /dev/shm.
    orders.must("reserve stored 4 1048576");
    orders.must("fill");
    orders.must("commit");

    // What one stored, another one reads, and so does the host.
    let mut reader = Contained::start(&folder, &[]);
    let orders = reader.open();
    assert_eq!(orders.must("acquire stored 4"), "4");
    assert_eq!(orders.must("verify"), "4");
    let session = daemon.session();
    let space = keyspace(&session);
    let stored = keys("stored", 4);
    let lease = session.acquire(space, &stored, &request(0)).unwrap();
    assert_eq!(lease.prefix_count(), 4);
    assert_reads(&lease, 3, &stored[3]);
    lease.release().unwrap();

    // The writer dies with a reservation, the reader with a lease.
    writer.worker.must("reserve lost 2 1048576");
    session.remove(space, &stored, None).unwrap();
    daemon.audit_until("one is pinned and one is reserved", |audit| {
        audit.zombie_count == 4 && audit.reserved_count == 2
    });
    for contained in [&writer, &reader] {
        kill(Pid::from_raw(contained.host_pid()), Signal::SIGKILL).unwrap();
    }
    daemon.audit_until("nothing is left of them", |audit| {
        audit.zombie_count == 0 && audit.reserved_count == 0
    });
    let log = daemon.log_text();
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn a_client_in_namespaces_of_its_own_needs_only_the_folder_of_the_socket() {
    if !may_unshare("a client in namespaces of its own") {
        return;
    }
    let daemon = Daemon::start(&[]);
    store_read_kill_reclaim(&daemon);
    daemon.finish();
}

#[test]
fn a_daemon_in_namespaces_of_its_own_serves_all_and_ends_as_process_1() {
    if !may_unshare("a daemon in namespaces of its own") {
        return;
    }
    let mut words = UNSHARE.to_vec();
    // Metrics need a network; what is tested is that nothing else does.
    words.retain(|word| *word != "--net");
    words.push("--mount-proc");
    let mut daemon = DaemonSpec::default().wrapped(&words).start();
    store_read_kill_reclaim(&daemon);
    let inside = only_child(daemon.pid() as i32);
    let status = std::fs::read_to_string(format!("/proc/{inside}/status")).unwrap();
    let numbers = status.lines().find(|line| line.starts_with("NSpid:"));
    assert_eq!(numbers.unwrap().split_whitespace().last(), Some("1"));
    // As `docker stop` does it. unshare itself hears no SIGTERM, and ends as its child does.
    kill(Pid::from_raw(inside), Signal::SIGTERM).unwrap();
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.log_text());
}

#[test]
fn a_restarted_daemon_is_found_through_the_same_mount() {
    if !may_unshare("a restart beside a container") {
        return;
    }
    let daemon = Daemon::start(&[]);
    let folder = daemon.socket().parent().unwrap().to_owned();
    let mut contained = Contained::start(&folder, &[]);
    contained.open();
    let daemon = daemon.kill().start();
    let orders = &mut contained.worker;
    let said = orders.ask("lookup stored 1");
    assert!(said.starts_with("DISCONNECTED"), "{said}");
    // The folder is mounted, not the socket, which is another one now.
    orders.must("open");
    orders.must("keyspace test-model");
    assert_eq!(orders.must("lookup stored 1"), "0");
    drop(contained);
    daemon.finish();
}

#[test]
fn a_container_without_the_group_is_refused_with_what_to_change() {
    if !may_unshare("a container without the group") {
        return;
    }
    let group = nix::unistd::Group::from_gid(12.into()).ok().flatten();
    let Some(group) = group else {
        skip("a container without the group: this machine has no group 12");
        return;
    };
    let spec = DaemonSpec::new(&["--socket-group", &group.name]);
    std::fs::set_permissions(spec.folder(), PermissionsExt::from_mode(0o711)).unwrap();
    let socket = spec.folder().join("run/hostkv.sock");
    let daemon = spec.at(&socket).start();
    let folder = socket.parent().unwrap();
    let mut stranger = Contained::start(folder, &[]);
    stranger.worker.must("uid 65534");
    let said = stranger.worker.ask("open");
    assert!(said.contains("may not open the socket"), "{said}");
    let mut member = Contained::start(folder, &[]);
    member.worker.must("member 65534 12");
    member.open();
    drop((stranger, member));
    daemon.finish();
}

/// What the group's processes are charged for now.
fn charged_bytes(group: &Cgroup) -> u64 {
    let read = |file: &str| std::fs::read_to_string(group.folder().join(file));
    let text = read("memory.current").or_else(|_| read("memory.usage_in_bytes"));
    text.unwrap().trim().parse().unwrap()
}

#[test]
fn the_pool_is_charged_to_the_daemon_and_fits_the_limit_that_the_page_gives() {
    const MIB: u64 = 1 << 20;
    const POOL: u64 = 64 * MIB;
    let what = "who is charged for the pool";
    if !may_unshare(what) {
        return;
    }
    // As docs/containers.md has it; and an engine that could not hold the pool.
    let groups = Cgroup::with_memory(POOL + POOL / 64 + 128 * MIB)
        .and_then(|first| Ok((first, Cgroup::with_memory(32 * MIB)?)));
    let (of_daemon, of_engine) = match groups {
        Ok(groups) => groups,
        Err(why) => {
            skip(&format!("{what}: {why}"));
            return;
        }
    };
    let into = |group: &Cgroup| group.procs().to_str().unwrap().to_owned();
    let script = "echo $$ > \"$0\" && exec \"$@\"";
    let procs = into(&of_daemon);
    let daemon = DaemonSpec::new(&["--l1-size-gb", "0.0625"])
        .wrapped(&["sh", "-c", script, &procs])
        .start();
    assert!(charged_bytes(&of_daemon) >= POOL);
    let session = daemon.session();
    let space = keyspace(&session);
    store(&session, space, &keys("stored", 40), MIB);

    let folder = daemon.socket().parent().unwrap().to_owned();
    let procs = into(&of_engine);
    let mut engine = Contained::start(&folder, &["sh", "-c", script, &procs]);
    let orders = engine.open();
    // It reads and writes more than its own limit.
    for _ in 0..2 {
        assert_eq!(orders.must("acquire stored 32"), "32");
        assert_eq!(orders.must("verify"), "32");
        orders.must("release");
        orders.must("remove stored 40");
        for part in 0..5 {
            orders.must(&format!("reserve part{part} 8 1048576"));
            orders.must("fill");
            orders.must("commit");
        }
        orders.must("clear 0");
        store(&session, space, &keys("stored", 40), MIB);
    }
    let charged = charged_bytes(&of_engine);
    assert!(charged < 32 * MIB, "{charged}");
    drop(engine);
    drop(session);
    daemon.finish();
}

#[test]
fn probes_from_outside_are_answered_at_every_address() {
    let daemon = Daemon::start(&["--prometheus-host", "0.0.0.0"]);
    let mut address = daemon.metrics_address();
    address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    // A kubelet names the pod's address, and asks until the daemon serves.
    wait_until("a probe is answered", || {
        let scrape = Scrape::get(address, "/healthz").unwrap();
        scrape.head.starts_with("HTTP/1.1 200")
    });
    daemon.finish();
}
