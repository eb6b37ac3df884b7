//! Too little memory: an error at start, never a signal later.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::super::mapping::Mapping;
use super::super::prefault::{Pages, prefault};
use super::super::{
    Budget, HUGE_PAGE_BYTES, PayloadOptions, Resource, SegmentError, create_payload,
};
use super::{CHILD, Heard, MIB, child, child_command, is_child, options};

const SHM_MIB: u64 = 16;

/// Tests beside this one map payloads, so they may or may not be named as holders.
fn is_short_of(error: &SegmentError, is_wanted: fn(&Resource) -> bool) -> bool {
    match error {
        SegmentError::DoesNotFit(budget) | SegmentError::HeldByOldPool { budget, .. } => {
            is_wanted(&budget.resource)
        }
        _ => false,
    }
}

#[test]
fn a_prefault_ends_as_soon_as_it_hears_that_the_rest_no_longer_fits() {
    let payload = create_payload(
        &PayloadOptions {
            prefault: false,
            ..options(64 * MIB)
        },
        &mut Heard::default(),
    )
    .unwrap();
    let mapping = Mapping::new(
        payload.writable_fd().unwrap().as_fd(),
        64 << 20,
        HUGE_PAGE_BYTES as usize,
        "payload",
    )
    .unwrap();
    let mut heard = Heard::default();
    let mut looks = 0;
    let error = prefault(
        payload.writable_fd().unwrap().as_fd(),
        &mapping,
        Pages::Collapse { node_count: 1 },
        2,
        &mut heard,
        &mut || {
            looks += 1;
            Ok(vec![budget(64 * MIB, 0)])
        },
    )
    .expect_err("told so");
    assert!(matches!(error, SegmentError::MemoryTaken(_)), "{error}");
    assert_eq!((looks, heard.is_finished), (1, true));
}

/// A machine without slack, with so much needed beside the pool and so much left.
fn budget(need_bytes: u64, available_bytes: u64) -> Budget {
    Budget {
        resource: Resource::Machine,
        need_bytes,
        total_bytes: 1,
        available_bytes,
    }
}

#[test]
fn what_a_prefault_has_taken_itself_was_taken_by_nobody_else() {
    let len_bytes = 64 * MIB;
    let payload = create_payload(
        &PayloadOptions {
            prefault: false,
            ..options(len_bytes)
        },
        &mut Heard::default(),
    )
    .unwrap();
    let mapping = Mapping::new(
        payload.writable_fd().unwrap().as_fd(),
        len_bytes as usize,
        HUGE_PAGE_BYTES as usize,
        "payload",
    )
    .unwrap();
    let file = fs::File::from(payload.writable_fd().unwrap());
    // A slow look: the threads fill everything before its answer is there, and it counts all that as taken.
    let mut look = || {
        std::thread::sleep(Duration::from_millis(300));
        let taken_bytes = file.metadata().unwrap().blocks() * 512;
        Ok(vec![budget(0, len_bytes - taken_bytes)])
    };
    let filled = prefault(
        file.as_fd(),
        &mapping,
        Pages::Small,
        2,
        &mut Heard::default(),
        &mut look,
    );
    assert!(filled.is_ok(), "{filled:?}");
}

#[test]
#[ignore = "runs as a child, in a mount namespace with a small /dev/shm"]
fn child_fills_a_small_dev_shm() {
    if !is_child() {
        return;
    }
    let named = |size_bytes| PayloadOptions {
        shm_name: Some("hostkv-test-small"),
        ..options(size_bytes)
    };

    let error =
        create_payload(&named(2 * SHM_MIB * MIB), &mut Heard::default()).expect_err("larger");
    assert!(
        matches!(&error, SegmentError::LargerThanLimit(b) if b.resource == Resource::ShmFileSystem),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("16.0 MiB")
            && text.contains("remount,size=32m")
            && text.contains("--shm-name"),
        "{text}"
    );

    fs::write("/dev/shm/other", vec![1u8; 10 << 20]).unwrap();
    let error = create_payload(&named(8 * MIB), &mut Heard::default()).expect_err("full");
    assert!(
        is_short_of(&error, |resource| *resource == Resource::ShmFileSystem),
        "{error}"
    );
    assert!(error.to_string().contains("remount,size=18m"), "{error}");
    fs::remove_file("/dev/shm/other").unwrap();

    // Without the question beforehand: every kind of prefault ends with an error, at any fill, and by no signal.
    for pages in [Pages::Collapse { node_count: 1 }, Pages::Small] {
        for filled_mib in [0, 5, 13, 16] {
            fs::write("/dev/shm/other", vec![1u8; filled_mib << 20]).unwrap();
            let file = fs::File::create_new("/dev/shm/pool").unwrap();
            let len = 18 << 20;
            file.set_len(len).unwrap();
            let writable = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/shm/pool")
                .unwrap();
            let mapping = Mapping::new(
                writable.as_fd(),
                len as usize,
                HUGE_PAGE_BYTES as usize,
                "payload",
            )
            .unwrap();
            let mut heard = Heard::default();
            let error = prefault(
                writable.as_fd(),
                &mapping,
                pages,
                2,
                &mut heard,
                &mut || Ok(Vec::new()),
            )
            .expect_err("full");
            assert!(
                matches!(error, SegmentError::NoSpace { .. }),
                "{pages:?} {filled_mib}: {error}"
            );
            assert!(heard.is_finished);
            fs::remove_file("/dev/shm/pool").unwrap();
        }
    }
    fs::remove_file("/dev/shm/other").unwrap();

    for size_mib in (2..=SHM_MIB).step_by(2) {
        let payload = create_payload(&named(size_mib * MIB), &mut Heard::default()).unwrap();
        assert_eq!(payload.len_bytes(), size_mib * MIB);
    }
    assert_eq!(
        fs::read_dir("/dev/shm").unwrap().count(),
        0,
        "no name is left"
    );
}

#[test]
fn a_small_or_full_dev_shm_is_an_error_with_the_remedy_and_never_a_signal() {
    let mount = format!("mount -t tmpfs -o size={SHM_MIB}m tmpfs /dev/shm");
    let can_mount = Command::new("unshare")
        .args(["-m", "sh", "-c", &mount])
        .output();
    if !can_mount.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: this process cannot mount a tmpfs in a mount namespace of its own");
        return;
    }
    let words = child_command(module_path!(), "child_fills_a_small_dev_shm");
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", &format!("{mount} && exec \"$@\""), "sh"])
        .args(&words)
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{output:?}"
    );
}

#[test]
#[ignore = "runs as a child, with the files of a memory cgroup to enter"]
fn child_enters_a_small_memory_cgroup() {
    if !is_child() {
        return;
    }
    let folder = PathBuf::from(std::env::var_os("HOSTKV_TEST_CGROUP").unwrap());
    fs::write(folder.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    let error = create_payload(&options(128 * MIB), &mut Heard::default()).expect_err("larger");
    assert!(
        matches!(&error, SegmentError::LargerThanLimit(b) if matches!(b.resource, Resource::Cgroup { .. })),
        "{error}"
    );
    assert!(error.to_string().contains("64.0 MiB"), "{error}");
    let payload = create_payload(&options(32 * MIB), &mut Heard::default()).unwrap();
    let error = create_payload(&options(48 * MIB), &mut Heard::default())
        .expect_err("the rest is too small");
    assert!(
        is_short_of(&error, |resource| matches!(
            resource,
            Resource::Cgroup { .. }
        )),
        "{error}"
    );
    drop(payload);
    assert!(create_payload(&options(48 * MIB), &mut Heard::default()).is_ok());
}

/// A memory cgroup of 64 MiB below the one of this process, if one can be made.
fn small_cgroup() -> Option<PathBuf> {
    let memberships = fs::read_to_string("/proc/self/cgroup").ok()?;
    let unique = format!("hostkv-test-{}", std::process::id());
    let v1 = memberships
        .lines()
        .find_map(|line| line.split_once(":memory:"))
        .map(|(_, path)| path);
    let v2 = memberships
        .lines()
        .find_map(|line| line.strip_prefix("0::"));
    let (base, path, limit) = match (v1, v2) {
        (Some(path), _) => ("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes"),
        (None, Some(path)) => ("/sys/fs/cgroup", path, "memory.max"),
        (None, None) => return None,
    };
    let folder = Path::new(base)
        .join(path.trim_start_matches('/'))
        .join(unique);
    fs::create_dir(&folder).ok()?;
    if fs::write(folder.join(limit), (64 * MIB).to_string()).is_err() {
        fs::remove_dir(&folder).ok()?;
        return None;
    }
    Some(folder)
}

#[test]
fn a_pool_larger_than_the_memory_cgroup_is_an_error_and_not_the_oom_killer() {
    let Some(folder) = small_cgroup() else {
        eprintln!("SKIPPED: this process cannot make a memory cgroup");
        return;
    };
    let output = child(module_path!(), "child_enters_a_small_memory_cgroup")
        .env("HOSTKV_TEST_CGROUP", &folder)
        .output()
        .unwrap();
    // The cgroup of a process that has just ended is busy for a moment.
    for _ in 0..50 {
        if fs::remove_dir(&folder).is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{output:?}"
    );
}
