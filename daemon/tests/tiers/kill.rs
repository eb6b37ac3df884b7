//! A daemon that is killed at any write leaves whole objects and nothing else.
//!
//! The daemon is this test program again, which stores objects until it is killed.

use super::*;
use hostkv_daemon::tiers::figures::FailureReason;
use std::fs;
use std::process::{Child, Command, Stdio};

const ROLE: &str = "HOSTKV_TEST_TIERS_STORE_INTO";

fn len_of(number: u64) -> u64 {
    let mut state = number;
    1 + next_random(&mut state) % (2 << 20)
}

/// What the child does: stores, until it is killed.
#[test]
fn role_of_a_child() {
    let Some(folder) = std::env::var_os(ROLE) else {
        return;
    };
    let mut pool = Pool::open(&[fs_spec(Path::new(&folder), r#", "max_capacity_gb": 0.05"#)]);
    for number in 0.. {
        pool.store(number % 40, range(0, len_of(number % 40)));
        if number % 3 == 0 {
            pool.tiers().submit_remove(vec![key(number / 2 % 40)]);
        }
    }
}

fn child(folder: &Path, before: &[&str]) -> Child {
    let program = std::env::current_exe().unwrap();
    let mut words: Vec<&str> = before.to_vec();
    let program = program.to_str().unwrap();
    words.extend([
        program,
        "--exact",
        "kill::role_of_a_child",
        "--test-threads=1",
    ]);
    Command::new(words[0])
        .args(&words[1..])
        .env(ROLE, folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Opens the folder and loads what is there; how many objects that were.
fn all_is_whole(folder: &Path) -> usize {
    let mut pool = Pool::open(&[fs_spec(folder, "")]);
    let numbers: Vec<u64> = (0..40).collect();
    let mut count = 0;
    for (number, found) in numbers.iter().zip(pool.look_up(&numbers)) {
        if let Some(found) = found {
            assert_eq!(found.len_bytes, len_of(*number));
            assert_eq!(pool.load(*number, 0, range(0, found.len_bytes)), Some(0));
            count += 1;
        }
    }
    assert_eq!(
        pool.figures(0).loads.failures.get(FailureReason::Damaged),
        0
    );
    assert_eq!(files_of(folder).len(), count);
    // The one that the opened tier has; those of the dead are gone when the scan is through.
    let begin = Instant::now();
    while fs::read_dir(folder.join("tmp")).unwrap().count() != 1 {
        assert!(begin.elapsed() < PATIENCE, "leftovers stay");
        std::thread::sleep(Duration::from_millis(5));
    }
    count
}

#[test]
fn a_kill_at_any_moment_leaves_whole_objects() {
    let mut random = seed();
    let folder = tempfile::tempdir().unwrap();
    let mut most = 0;
    for _ in 0..30 {
        let mut child = child(folder.path(), &[]);
        let begin = Instant::now();
        while !folder.path().join("v1/ff").exists() && begin.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(
            20_000 + next_random(&mut random) % 60_000,
        ));
        child.kill().unwrap();
        child.wait().unwrap();
        most = most.max(all_is_whole(folder.path()));
    }
    assert!(most > 0, "nothing was ever stored");
}

#[test]
fn a_kill_at_any_call_that_writes_leaves_whole_objects() {
    if Command::new("strace").arg("-V").output().is_err() {
        hostkv_tests::skip("a kill at each call that writes: there is no strace");
        return;
    }
    for call in ["pwrite64", "ftruncate", "rename", "unlink"] {
        for time in 1..8 {
            let folder = tempfile::tempdir().unwrap();
            let inject = format!("inject={call}:signal=KILL:when={time}");
            let before = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject];
            let status = child(folder.path(), &before).wait().unwrap();
            assert!(!status.success(), "{call} {time}: the child was not killed");
            all_is_whole(folder.path());
        }
    }
}
