//! F23: the system gives the daemon no memory.
//!
//! ```text
//!   prlimit RLIMIT_AS to what the daemon has ──> opens, keyspaces, reserves, prefetches refused by SYSTEM; reads, commits, removes go on
//!   prlimit back ────────────────────────────> all is served again, and an audit finds nothing
//! ```
//!
//! That each single allocation may fail is shown in `fuzz/bodies/tests/allocation.rs`.

use hostkv::Status;
use hostkv::session::Session;

use super::{Fault, Run, Skipped};
use crate::{Daemon, RawClient, assert_reads, keys, keyspace, request, reserve_items, store};

/// No more than it has.
pub static OF_MEMORY: Fault = Fault {
    id: "F23",
    name: "the system refuses the daemon memory (RLIMIT_AS lowered to what it has) under calls",
    required: "refusals by SYSTEM, reads go on, 0 aborts; all served again afterwards, 0 leaked bytes",
    full_cycles: 300,
    weight: 2,
    run: of_memory,
};

/// Calls of a cycle.
const ROUNDS: usize = 60;

/// Sets how much address space a process may have.
fn limit(pid: u32, bytes: u64) {
    let limits = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: `limits` is read only, and no old limits are asked for.
    let done = unsafe {
        libc::prlimit(
            pid as libc::pid_t,
            libc::RLIMIT_AS,
            &limits,
            std::ptr::null_mut(),
        )
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Bytes of address space that it has.
fn address_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .expect("the daemon lives and is a child of this process");
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmSize:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse().ok())
        .map_or(0, |kib: u64| kib * 1024)
}

fn of_memory(run: &mut Run) -> Result<(), Skipped> {
    let mut daemon = Daemon::start(&["--enable-telemetry"]);
    let session = daemon.session();
    let space = keyspace(&session);
    let stored = keys("stored", 8);
    let (mut refused, mut tried) = (0, 0);
    while run.goes_on() {
        let missing = session.lookup(space, &stored, None).unwrap();
        store(&session, space, &stored[missing..], 5000);
        limit(
            daemon.pid(),
            address_bytes(daemon.pid()) + run.random.below(1 << 20),
        );
        // Frames of many keys, sessions with their segments, names: all of it wants memory.
        let mut opened = Vec::new();
        for round in 0..ROUNDS {
            tried += 1;
            match Session::open(&daemon.config(0)) {
                Ok(session) => opened.push(session),
                Err(error) => refused += u32::from(is_refusal(&daemon, &error)),
            }
            let many = keys(&format!("many{round}"), 200);
            match session.reserve(space, &reserve_items(&many, 64), &request(0)) {
                Ok(reservation) => reservation.commit().unwrap(),
                Err(error) => refused += u32::from(is_refusal(&daemon, &error)),
            }
            match session.prefetch(space, &stored[..4], &request(0)) {
                Ok(prefetch) => prefetch.end().unwrap(),
                Err(error) => refused += u32::from(is_refusal(&daemon, &error)),
            }
            let lease = session.acquire(space, &stored[..4], &request(0)).unwrap();
            for (index, key) in stored[..4].iter().enumerate().take(lease.prefix_count()) {
                assert_reads(&lease, index, key);
            }
            lease.release().unwrap();
            session.remove(space, &many, None).unwrap();
            session.ping().unwrap();
        }
        assert!(
            daemon.is_running(),
            "it died for want of memory:\n{}",
            daemon.log_text()
        );
        limit(daemon.pid(), libc::RLIM_INFINITY);
        drop(opened);
        crate::wait_until("sessions are let in again", || {
            RawClient::connect(daemon.socket()).is_ok_and(|mut client| client.open().is_ok())
        });
        let audit = daemon.audit_until("nothing is held any more", |audit| {
            audit.reserved_bytes == 0 && audit.zombie_bytes == 0
        });
        assert_eq!(audit.object_bytes + audit.free_bytes, audit.capacity_bytes);
        run.count(1);
    }
    run.note(format!(
        "{refused} refusals of {tried} opens and as many reserves and prefetches"
    ));
    session.close().unwrap();
    daemon.finish();
    Ok(())
}

/// Panics unless the daemon refused for want of memory or of what takes memory.
fn is_refusal(daemon: &Daemon, error: &hostkv::Error) -> bool {
    let is_known = [
        Status::System,
        Status::Disconnected,
        Status::NoSpace,
        Status::Quota,
    ];
    assert!(
        is_known.contains(&error.status),
        "{}\n{}",
        error.message,
        daemon.log_text()
    );
    error.status == Status::System
}
