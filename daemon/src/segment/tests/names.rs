//! `--shm-name`: one owner, no leftovers.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::mman::ProtFlags;
use shared_memory::ShmemConf;

use super::super::named::segment_path;
use super::super::{HugePages, Payload, PayloadOptions, SegmentError, create_payload};
use super::{Heard, MIB, map_page, options, present_pages, read_byte, vm_flags, write_byte};

fn name(test: &str) -> String {
    format!("hostkv-test-{test}-{}", std::process::id())
}

fn create(name: &str) -> Result<Payload, SegmentError> {
    let named = PayloadOptions {
        shm_name: Some(name),
        ..options(4 * MIB)
    };
    create_payload(&named, &mut Heard::default())
}

#[test]
fn a_named_payload_is_there_under_its_name_and_gone_with_the_daemon() {
    let name = name("end");
    let payload = create(&format!("/{name}")).unwrap();
    let path = segment_path(&name);
    let data = fs::metadata(&path).unwrap();
    assert_eq!((data.len(), data.mode() & 0o7777), (4 * MIB, 0o600));
    assert!(
        payload.is_named() && payload.kind().starts_with("named segment, "),
        "{}",
        payload.kind()
    );
    assert_eq!(present_pages(payload.base(), payload.len_bytes()), 4 * 256);
    assert!(vm_flags(payload.base()).iter().any(|flag| flag == "dc"));

    // Who opens by name and who has the descriptor see the same bytes.
    let writer = map_page(
        payload.writable_fd().unwrap().as_fd(),
        ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
    )
    .unwrap();
    write_byte(writer, 0x42);
    assert_eq!(fs::read(&path).unwrap()[0], 0x42);
    let reader = payload.read_only_fd().unwrap();
    assert!(map_page(&reader, ProtFlags::PROT_WRITE).is_err());
    drop(payload);
    assert!(!path.exists());
    // What a client has mapped stays valid.
    assert_eq!(read_byte(writer), 0x42);
}

#[test]
fn the_name_of_a_live_daemon_is_refused_and_its_segment_untouched() {
    let name = name("live");
    let payload = create(&name).unwrap();
    let inode = fs::metadata(segment_path(&name)).unwrap().ino();
    let error = create(&name).expect_err("taken");
    assert!(matches!(error, SegmentError::NameTaken { .. }), "{error}");
    assert!(
        error.to_string().contains(&name) && error.to_string().contains("--shm-name"),
        "{error}"
    );
    assert_eq!(fs::metadata(segment_path(&name)).unwrap().ino(), inode);
    drop(payload);
}

#[test]
fn no_descriptor_of_a_client_holds_the_name_beyond_its_daemon() {
    let name = name("client");
    let payload = create(&name).unwrap();
    for handed_out in [
        payload.writable_fd().unwrap(),
        payload.read_only_fd().unwrap(),
    ] {
        // The lock goes with the last descriptor and map of an open file description: who shares the daemon's could
        // take it again, and keeps it when the daemon is killed.
        let (_, errno) = Flock::lock(handed_out, FlockArg::LockExclusiveNonblock).unwrap_err();
        assert_eq!(errno, Errno::EWOULDBLOCK);
    }
    let writable = payload.writable_fd().unwrap();
    map_page(&writable, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE).unwrap();
}

#[test]
fn the_name_that_a_killed_daemon_left_is_taken_over() {
    let name = name("stale");
    let mut left = ShmemConf::new().os_id(&name).size(8192).create().unwrap();
    left.set_owner(false);
    drop(left);
    let path = segment_path(&name);
    let old_inode = fs::metadata(&path).unwrap().ino();
    let payload = create(&name).unwrap();
    let data = fs::metadata(&path).unwrap();
    assert!(data.ino() != old_inode && data.len() == payload.len_bytes());
    drop(payload);
    assert!(!path.exists());
}

#[test]
fn a_file_that_no_hostkvd_has_made_is_refused_and_left_alone() {
    let name = name("foreign");
    let path = segment_path(&name);
    fs::write(&path, b"somebody's data").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let error = create(&name);
    let content = fs::read(&path);
    fs::remove_file(&path).unwrap();
    let error = error.expect_err("foreign");
    assert!(matches!(error, SegmentError::NameForeign { .. }), "{error}");
    assert!(error.to_string().contains("100644"), "{error}");
    assert_eq!(content.unwrap(), b"somebody's data");
}

#[test]
fn a_name_and_hugetlb_pages_exclude_each_other() {
    let name = name("hugetlb");
    let both = PayloadOptions {
        shm_name: Some(&name),
        huge_pages: HugePages::Hugetlb,
        ..options(4 * MIB)
    };
    let error = create_payload(&both, &mut Heard::default()).expect_err("bad combination");
    assert!(
        matches!(error, SegmentError::HugetlbNamed { .. }),
        "{error}"
    );
    assert!(!segment_path(&name).exists());
}
