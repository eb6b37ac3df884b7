//! Who holds a descriptor of a segment and wants more than it gives.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl, open};
use nix::sys::mman::{ProtFlags, mprotect};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{ftruncate, write};

use super::super::{HugePages, Segment, create_control, create_lease, create_payload};
use super::{Heard, MIB, child, is_child, map_page, options, read_byte, write_byte};

const READ_WRITE: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

fn reopen(fd: impl AsFd, flags: OFlag) -> nix::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    open(path.as_str(), flags | OFlag::O_CLOEXEC, Mode::empty())
}

fn punch(fd: impl AsFd) -> nix::Result<()> {
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(fd, hole, 0, 4096)
}

/// Everything that would change the segment through `fd`, opened for reading.
fn assert_read_only(fd: &OwnedFd) {
    assert_eq!(map_page(fd, READ_WRITE), Err(Errno::EACCES), "map writable");
    let page = map_page(fd, ProtFlags::PROT_READ).unwrap();
    // SAFETY: the page was mapped just above.
    let upgrade = unsafe { mprotect(page.cast(), 4096, READ_WRITE) };
    assert_eq!(upgrade, Err(Errno::EACCES), "make a read-only map writable");
    assert_eq!(write(fd, b"x"), Err(Errno::EBADF), "write");
    assert_eq!(punch(fd), Err(Errno::EBADF), "punch a hole");
    assert_eq!(ftruncate(fd, 0), Err(Errno::EINVAL), "truncate");
}

/// Everything that would change the size of the segment or its seals through `fd`, opened for writing.
fn assert_size_is_fixed(fd: BorrowedFd<'_>, len_bytes: u64) {
    let len = i64::try_from(len_bytes).unwrap();
    for other in [0, len - 1, len + 4096] {
        assert_eq!(
            ftruncate(fd, other),
            Err(Errno::EPERM),
            "truncate to {other}"
        );
    }
    assert_eq!(
        fallocate(fd, FallocateFlags::empty(), len, 4096),
        Err(Errno::EPERM),
        "grow by fallocate"
    );
    assert_eq!(
        fcntl(fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)),
        Err(Errno::EPERM),
        "add a seal"
    );
    assert_eq!(fstat(fd).unwrap().st_size, len);
}

/// Everything that would change content through `fd`, opened for writing on a write-sealed segment.
fn assert_content_is_sealed(fd: BorrowedFd<'_>) {
    assert_eq!(map_page(fd, READ_WRITE), Err(Errno::EPERM), "map writable");
    let page = map_page(fd, ProtFlags::PROT_READ).unwrap();
    // SAFETY: the page was mapped just above.
    let upgrade = unsafe { mprotect(page.cast(), 4096, READ_WRITE) };
    assert_eq!(upgrade, Err(Errno::EACCES), "make a read-only map writable");
    assert_eq!(write(fd, b"x"), Err(Errno::EPERM), "write");
    assert_eq!(punch(fd), Err(Errno::EPERM), "punch a hole");
}

fn assert_daemon_still_writes(segment: &Segment) {
    let reader = segment.read_only_fd().unwrap();
    let seen = map_page(&reader, ProtFlags::PROT_READ).unwrap();
    write_byte(segment.base(), 0x5a);
    assert_eq!(read_byte(seen), 0x5a);
}

#[test]
fn a_client_with_the_control_descriptor_can_only_read_it() {
    let control = create_control(MIB, HugePages::Auto).unwrap();
    let fd = control.read_only_fd().unwrap();
    assert_read_only(&fd);

    // The same uid may open it again through /proc, before and after a change of mode, and gains nothing.
    for _ in 0..2 {
        let again = reopen(&fd, OFlag::O_RDWR).unwrap();
        assert_content_is_sealed(again.as_fd());
        assert_size_is_fixed(again.as_fd(), MIB);
        fchmod(&fd, Mode::from_bits_truncate(0o666)).unwrap();
    }
    assert_daemon_still_writes(&control);
}

#[test]
fn segments_have_mode_0600_and_close_on_exec() {
    let control = create_control(MIB, HugePages::Auto).unwrap();
    let lease = create_lease(MIB).unwrap();
    let payload = create_payload(&options(2 * MIB), &mut Heard::default()).unwrap();
    let copies = [
        control.read_only_fd().unwrap(),
        lease.read_only_fd().unwrap(),
        payload.read_only_fd().unwrap(),
    ];
    for fd in [
        control.fd(),
        lease.fd(),
        payload.writable_fd().unwrap().as_fd(),
    ]
    .into_iter()
    .chain(copies.iter().map(AsFd::as_fd))
    {
        assert_eq!(fstat(fd).unwrap().st_mode & 0o7777, 0o600);
        assert_eq!(fcntl(fd, FcntlArg::F_GETFD), Ok(libc::FD_CLOEXEC));
    }
}

#[test]
fn a_client_with_its_lease_descriptor_cannot_change_the_size_under_the_daemon() {
    let lease = create_lease(MIB).unwrap();
    assert_size_is_fixed(lease.fd(), MIB);
    let page = map_page(lease.fd(), READ_WRITE).unwrap();
    write_byte(page, 7);
    assert_eq!(read_byte(lease.base()), 7);
}

#[test]
fn a_payload_with_writers_has_a_fixed_size_and_a_descriptor_that_is_read_only() {
    let payload = create_payload(&options(2 * MIB), &mut Heard::default()).unwrap();
    assert_size_is_fixed(payload.writable_fd().unwrap().as_fd(), 2 * MIB);
    assert_read_only(&payload.read_only_fd().unwrap());
    let writer = map_page(payload.writable_fd().unwrap().as_fd(), READ_WRITE).unwrap();
    write_byte(writer, 9);
    let reader = map_page(payload.read_only_fd().unwrap(), ProtFlags::PROT_READ).unwrap();
    assert_eq!((read_byte(reader), read_byte(payload.base())), (9, 9));
}

#[test]
fn a_payload_without_writers_cannot_be_written_even_through_its_writable_descriptor() {
    let mut no_writers = options(2 * MIB);
    no_writers.writers_allowed = false;
    let payload = create_payload(&no_writers, &mut Heard::default()).unwrap();
    assert_size_is_fixed(payload.writable_fd().unwrap().as_fd(), 2 * MIB);
    assert_content_is_sealed(payload.writable_fd().unwrap().as_fd());
    write_byte(payload.base(), 3);
    let reader = map_page(payload.read_only_fd().unwrap(), ProtFlags::PROT_READ).unwrap();
    assert_eq!(read_byte(reader), 3);
}

#[test]
#[ignore = "runs as a child, as another uid, with the descriptor as its standard input"]
fn child_reopens_its_standard_input() {
    if !is_child() {
        return;
    }
    let input = std::io::stdin();
    assert_eq!(
        reopen(&input, OFlag::O_RDWR).unwrap_err(),
        Errno::EACCES,
        "reopen writable"
    );
    assert_eq!(
        fchmod(&input, Mode::from_bits_truncate(0o666)),
        Err(Errno::EPERM),
        "change the mode"
    );
    assert_read_only(&input.as_fd().try_clone_to_owned().unwrap());
}

#[test]
fn another_uid_with_a_read_only_payload_descriptor_cannot_reopen_it_writable() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can run a process as another uid");
        return;
    }
    let payload = create_payload(&options(2 * MIB), &mut Heard::default()).unwrap();
    // Run from a descriptor, since the other uid need not be able to walk to the test binary.
    let exe = File::open(std::env::current_exe().unwrap()).unwrap();
    fcntl(&exe, FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let words = super::child_command(module_path!(), "child_reopens_its_standard_input");
    let mut command = std::process::Command::new(format!("/proc/self/fd/{}", exe.as_raw_fd()));
    command
        .args(&words[1..])
        .env(super::CHILD, "1")
        .uid(65534)
        .gid(65534);
    let output = match command
        .stdin(Stdio::from(payload.read_only_fd().unwrap()))
        .output()
    {
        Ok(output) => output,
        Err(error) => {
            eprintln!("SKIPPED: the test binary cannot be run as uid 65534: {error}");
            return;
        }
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

#[test]
#[ignore = "runs as a child, with a payload as its standard input, until its standard output is closed"]
fn child_maps_its_standard_input() {
    if !is_child() {
        return;
    }
    map_page(std::io::stdin(), ProtFlags::PROT_READ).unwrap();
    println!("mapped");
    std::thread::sleep(std::time::Duration::from_secs(30));
}

#[test]
fn a_process_that_maps_a_payload_is_found_until_it_ends() {
    use std::io::BufRead;

    let payload = create_payload(&options(2 * MIB), &mut Heard::default()).unwrap();
    let mut process = child(module_path!(), "child_maps_its_standard_input")
        .stdin(Stdio::from(payload.read_only_fd().unwrap()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(process.stdout.take().unwrap()).lines();
    assert!(
        lines
            .map_while(Result::ok)
            .any(|line| line.contains("mapped"))
    );
    let found = super::super::holders_of_old_pool(None);
    let holder = found
        .iter()
        .find(|holder| holder.pid == process.id())
        .expect("the child is a holder");
    assert!(!holder.comm.is_empty());
    assert!(
        found.iter().all(|holder| holder.pid != std::process::id()),
        "the own process is none"
    );
    process.kill().unwrap();
    process.wait().unwrap();
    let found = super::super::holders_of_old_pool(None);
    assert!(found.iter().all(|holder| holder.pid != process.id()));
}
