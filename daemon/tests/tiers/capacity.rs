//! A folder keeps to its capacity, the coldest objects go first, and a scan of many objects is in nobody's way.

use super::*;
use hostkv_daemon::tiers::figures::FailureReason;
use std::fs;
use std::process::Command;

const LEN: u64 = 60 * 1024;
/// With the seal's block.
const FILE: u64 = LEN + 4096;

fn used_by_files(base: &Path) -> u64 {
    let len = |path: &std::path::PathBuf| fs::metadata(path).map_or(0, |m| m.len());
    files_of(base).iter().map(len).sum()
}

#[test]
fn a_folder_keeps_to_its_capacity_and_gives_up_what_was_used_longest_ago() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path();
    // Room for 16.
    let spec = [fs_spec(base, r#", "max_capacity_gb": 0.001"#)];
    let capacity_bytes = (0.001 * (1_u64 << 30) as f64) as u64;
    let room = capacity_bytes / FILE;
    let mut pool = Pool::open(&spec);
    for number in 0..room {
        pool.store(number, range(0, LEN));
    }
    // The oldest is used, so the second oldest goes.
    assert_eq!(pool.load(0, 0, range(0, LEN)), Some(0));
    for number in room..2 * room - 2 {
        pool.store(number, range(0, LEN));
        assert!(used_by_files(base) <= capacity_bytes);
    }
    let numbers: Vec<u64> = (0..2 * room - 2).collect();
    let found = pool.look_up(&numbers);
    let is_kept = |number: &u64| *number == 0 || *number > room - 2;
    for (number, found) in numbers.iter().zip(&found) {
        assert_eq!(found.is_some(), is_kept(number), "{number}");
    }
    let figures = pool.figures(0);
    assert_eq!(figures.evicted_keys_count, room - 2);
    assert_eq!(figures.capacity_bytes, Some(capacity_bytes));
    assert_eq!(figures.objects, room);
    assert_eq!(figures.used_bytes, room * FILE);
    assert!(pool.shutdown());
    // A restart with less room keeps what was stored last.
    let mut pool = Pool::open(&[fs_spec(base, r#", "max_capacity_gb": 0.0005"#)]);
    pool.until(0, "scanned", |figures| {
        figures.evicted_keys_count == room / 2
    });
    let newest = 2 * room - 3;
    let found = pool.look_up(&[room - 1, newest]);
    assert_eq!([found[0].is_some(), found[1].is_some()], [false, true]);
    assert!(used_by_files(base) <= capacity_bytes / 2);
}

#[test]
fn an_object_larger_than_the_capacity_is_refused_and_costs_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut pool = Pool::open(&[fs_spec(folder.path(), r#", "max_capacity_gb": 0.001"#)]);
    assert!(pool.store(1, range(0, LEN)).has(0));
    assert!(pool.store(2, range(0, 2 << 20)).is_empty());
    let figures = pool.figures(0);
    assert_eq!(figures.stores.failures.get(FailureReason::Full), 1);
    assert_eq!(pool.load(1, 0, range(0, LEN)), Some(0));
}

#[test]
fn a_scan_of_100_000_objects_is_not_in_the_way_of_serving() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path();
    let spec = [fs_spec(base, "")];
    let mut pool = Pool::open(&spec);
    assert!(pool.store(1_000_000, range(0, LEN)).has(0));
    assert!(pool.shutdown());
    // Empty objects: a scan looks at names, lengths and times only.
    for number in 0..100_000 {
        let file = fs::File::create(file_of(base, number)).unwrap();
        file.set_len(4096).unwrap();
    }
    let mut pool = Pool::open(&spec);
    assert_eq!(pool.look_up(&[1_000_000]).iter().flatten().count(), 1);
    assert_eq!(pool.load(1_000_000, 0, range(0, LEN)), Some(0));
    assert!(pool.store(1_000_001, range(0, LEN)).has(0));
    let during = pool.figures(0).objects;
    pool.until(0, "scanned", |figures| figures.objects == 100_002);
    eprintln!("{during} objects were scanned when the first was served");
}

/// A small file system in memory, unmounted on drop.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Option<SmallDisk> {
        let folder = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
            .arg(folder.path())
            .output();
        mount
            .is_ok_and(|output| output.status.success())
            .then(|| SmallDisk(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_costs_stores_and_nothing_else_and_works_again_when_there_is_room() {
    let Some(disk) = SmallDisk::new() else {
        hostkv_tests::skip("a full disk: mounting a tmpfs needs root");
        return;
    };
    let base = disk.0.path();
    let mut pool = Pool::open(&[fs_spec(base, "")]);
    assert!(pool.store(1, range(0, 700_000)).has(0));
    let mut stored = vec![1];
    for number in 2..20 {
        if pool.store(number, range(0, 700_000)).has(0) {
            stored.push(number);
        }
    }
    assert!(stored.len() < 4, "{stored:?}");
    let figures = pool.figures(0);
    assert!(
        figures.stores.failures.get(FailureReason::Full) >= 16,
        "{figures:?}"
    );
    assert_eq!(figures.breaker, BreakerState::Closed, "loads go on");
    for number in &stored {
        assert_eq!(pool.load(*number, 0, range(0, 700_000)), Some(0));
    }
    // Nothing of what failed is left.
    assert_eq!(files_of(base).len(), stored.len());
    fs::remove_file(file_of(base, 1)).unwrap();
    let begin = Instant::now();
    while !pool.store(100, range(0, 600_000)).has(0) {
        assert!(begin.elapsed() < PATIENCE, "{:?}", pool.figures(0));
        std::thread::sleep(Duration::from_millis(50));
    }
}
