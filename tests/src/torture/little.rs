//! F11: a daemon starts where there is too little memory, at every size.
//!
//! ```text
//!   /dev/shm of N MiB, a named pool  ──┐         one sentence and code 1, or
//!   a memory cgroup of N MiB         ──┴─ start  it serves, and a client fills the whole pool: no SIGBUS, no OOM killer
//! ```

use hostkv::session::Session;

use super::{Fault, Run, Skipped};
use crate::cgroup::Cgroup;
use crate::{DaemonSpec, keys, keyspace, request, reserve_items};

/// In every size of /dev/shm.
pub static SHM: Fault = Fault {
    id: "F11",
    name: "a named pool in a /dev/shm of 0 to 64 MiB, empty or partly full",
    required: "one sentence at the start or service to the last byte; 0 SIGBUS",
    full_cycles: 400,
    weight: 2,
    run: in_shm,
};

/// In every memory cgroup.
pub static CGROUP: Fault = Fault {
    id: "F11",
    name: "a pool in a memory cgroup of 16 to 96 MiB",
    required: "one sentence at the start or service to the last byte; 0 kills by the kernel",
    full_cycles: 400,
    weight: 2,
    run: in_cgroup,
};

const MIB: u64 = 1 << 20;

fn in_shm(run: &mut Run) -> Result<(), Skipped> {
    let can_mount = std::process::Command::new("unshare")
        .args(["-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !can_mount {
        return Err(Skipped(
            "this process may not mount in a namespace of its own".to_owned(),
        ));
    }
    let mut served = 0;
    while run.goes_on() {
        // A size of 0 would be none: the kernel counts in pages.
        let size_kib = 4 + 4 * run.random.below(16 * 1024);
        let filled_kib = match run.random.below(2) {
            0 => 0,
            _ => run.random.below(size_kib),
        };
        let pool_mib = 2 * (1 + run.random.below(16));
        let shell = format!(
            "mount -t tmpfs -o size={size_kib}k tmpfs /dev/shm && \
             {{ [ {filled_kib} = 0 ] || head -c {filled_kib}k /dev/zero > /dev/shm/other; }} && exec \"$@\""
        );
        let gib = (pool_mib as f64 / 1024.0).to_string();
        let name = format!("hostkv-torture-{}", std::process::id());
        let spec = DaemonSpec::new(&[
            "--l1-size-gb",
            &gib,
            "--shm-name",
            &name,
            "--start-wait",
            "0",
        ])
        .wrapped(&["unshare", "-m", "sh", "-c", &shell, "sh"]);
        let what = format!("{pool_mib} MiB in {size_kib} KiB, {filled_kib} KiB of it taken");
        let does_fit = (pool_mib * 1024) <= size_kib - filled_kib;
        let serves = start_and_fill(spec, &what);
        assert!(
            serves || !does_fit,
            "{what}: it is refused although there is room"
        );
        served += u64::from(serves);
        run.count(1);
    }
    run.note(format!("{served} starts served, the others were refused"));
    Ok(())
}

fn in_cgroup(run: &mut Run) -> Result<(), Skipped> {
    let mut served = 0;
    while run.goes_on() {
        let limit = 16 * MIB + 4096 * run.random.below(80 * MIB / 4096);
        let group = Cgroup::with_memory(limit).map_err(Skipped)?;
        let procs = group.procs();
        let pool_mib = 2 * (1 + run.random.below(48));
        let gib = (pool_mib as f64 / 1024.0).to_string();
        let spec = DaemonSpec::new(&["--l1-size-gb", &gib, "--start-wait", "0"]).wrapped(&[
            "sh",
            "-c",
            "echo $$ > \"$0\" && exec \"$@\"",
            procs.to_str().expect("the path is text"),
        ]);
        let what = format!("{pool_mib} MiB in a cgroup of {} KiB", limit / 1024);
        served += u64::from(start_and_fill(spec, &what));
        run.count(1);
    }
    run.note(format!("{served} starts served, the others were refused"));
    Ok(())
}

/// Whether it serves; then every byte of its pool can be written. Otherwise it has said why.
fn start_and_fill(spec: DaemonSpec, what: &str) -> bool {
    let mut daemon = match spec.start_or_refuse() {
        Ok(daemon) => daemon,
        Err(failed) => {
            // Too large for ever, or too large now.
            assert!(
                failed.status.code() == Some(1),
                "{what}: {} {}",
                failed.status,
                failed.stderr
            );
            failed.assert_says(1, &[]);
            return false;
        }
    };
    let session = daemon.session();
    fill_whole(&session);
    session.close().unwrap();
    assert!(daemon.is_running(), "{what}: {}", daemon.log_text());
    daemon.finish();
    true
}

/// Writes every extent of the pool at least once: the second half evicts the first where there is too little room.
fn fill_whole(session: &Session) {
    let space = keyspace(session);
    let info = session.info().unwrap();
    let len = info.max_object_bytes.min(256 << 10);
    let count = info.capacity_bytes / len;
    for key in keys("fill", 2 * count as usize) {
        let items = reserve_items(&[key], len);
        let reservation = session.reserve(space, &items, &request(0)).unwrap();
        if let Ok(span) = reservation.span(0) {
            // SAFETY: a granted span is this thread's alone until the commit.
            unsafe { span.data.write_bytes(7, span.len_bytes as usize) };
        }
        reservation.commit().unwrap();
    }
}
