//! A worker's pages are as huge as the pool's, and are there at once when it asks for that.

use hostkv::session::{Mapping, POPULATE, Session};
use hostkv_tests::{Daemon, skip};
use nix::sys::resource::{UsageWho, getrusage};

const HUGE_PAGE_BYTES: u64 = 2 << 20;
const POOL: [&str; 2] = ["--l1-size-gb", "0.0625"];

/// A daemon whose whole payload is on 2 MiB pages; none where the kernel has not enough of them.
fn huge_daemon() -> Option<Daemon> {
    let daemon = Daemon::start(&POOL);
    let info = daemon.session().info().unwrap();
    assert_eq!(
        daemon.scrape().sample("hostkv_huge_page_bytes") as u64,
        info.huge_page_bytes
    );
    if info.huge_page_bytes < info.capacity_bytes {
        skip("a worker's huge pages: this kernel gives none, or not enough");
        return None;
    }
    Some(daemon)
}

/// How many bytes of the mapping at `base` this process has as 2 MiB pages.
fn pmd_mapped_bytes(base: *const u8) -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let start = format!("{:x}-", base as usize);
    let of_mapping = smaps.lines().skip_while(|line| !line.starts_with(&start));
    let line = of_mapping
        .skip(1)
        .find_map(|line| line.strip_prefix("ShmemPmdMapped:"))
        .expect("smaps tells of the mapping");
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse().unwrap();
    kib * 1024
}

fn mappings(session: &Session) -> [(*mut u8, u64); 2] {
    [Mapping::Read, Mapping::Write].map(|which| session.mapping(which).unwrap())
}

#[test]
fn a_populated_session_has_every_huge_page_of_both_mappings_when_it_opens() {
    let Some(daemon) = huge_daemon() else {
        return;
    };
    let session = Session::open(&daemon.config(POPULATE)).unwrap();
    for (base, len_bytes) in mappings(&session) {
        assert_eq!(base as u64 % HUGE_PAGE_BYTES, 0);
        assert_eq!(pmd_mapped_bytes(base), len_bytes);
    }
    drop(session);
    daemon.finish();
}

#[test]
fn the_first_touch_of_a_whole_pool_faults_once_for_two_mebibytes() {
    let Some(daemon) = huge_daemon() else {
        return;
    };
    let session = daemon.session();
    let faults = || {
        getrusage(UsageWho::RUSAGE_THREAD)
            .unwrap()
            .minor_page_faults() as u64
    };
    for (base, len_bytes) in mappings(&session) {
        let before = faults();
        for offset in (0..len_bytes).step_by(4096) {
            // SAFETY: the offset is below the mapping's length; a load changes nothing.
            unsafe { base.add(offset as usize).cast_const().read_volatile() };
        }
        let taken = faults() - before;
        assert!(
            taken <= len_bytes / HUGE_PAGE_BYTES,
            "{taken} faults for {} huge pages",
            len_bytes / HUGE_PAGE_BYTES
        );
        assert_eq!(pmd_mapped_bytes(base), len_bytes);
    }
    drop(session);
    daemon.finish();
}
