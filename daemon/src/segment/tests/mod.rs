//! What the segments promise, tried with the means of those who would break it.
//!
//! `attacker`: descriptors in hostile hands. `pages`: prefault and mappings. `limits`: too little memory, in a mount
//! namespace and a memory cgroup of the test's own. `names`: `--shm-name`.
//!
//! What needs another process runs this test binary again with `--ignored` and one child's name. A child does
//! nothing unless the environment says that a parent started it.

mod attacker;
mod limits;
mod names;
mod pages;

use std::fs;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::process::Command;
use std::ptr::NonNull;
use std::time::Duration;

use nix::sys::mman::{MapFlags, ProtFlags, mmap};

use super::memfd;
use super::payload::{HugePages, PayloadOptions};
use super::progress::ProgressSink;

const MIB: u64 = 1 << 20;
const CHILD: &str = "HOSTKV_TEST_SEGMENT_CHILD";

/// A payload of `size_bytes` that any client may write, prefaulted, without a name.
fn options(size_bytes: u64) -> PayloadOptions<'static> {
    PayloadOptions {
        size_bytes,
        extra_bytes: 0,
        shm_name: None,
        huge_pages: HugePages::Auto,
        numa: None,
        prefault: true,
        writers_allowed: true,
        start_wait: Duration::ZERO,
    }
}

/// Keeps what it hears.
#[derive(Default)]
struct Heard {
    waits: Vec<String>,
    last: (u64, u64),
    is_finished: bool,
}

impl ProgressSink for Heard {
    fn waiting(&mut self, text: &str) {
        self.waits.push(text.to_string());
    }

    fn update(&mut self, done_bytes: u64, total_bytes: u64) {
        assert!(done_bytes >= self.last.0, "progress never goes back");
        self.last = (done_bytes, total_bytes);
    }

    fn finish(&mut self) {
        self.is_finished = true;
    }
}

/// This test binary, to run the test `child` of the module `module` alone.
fn child_command(module: &str, child: &str) -> Vec<String> {
    let path = module.split_once("::").expect("a path inside the crate").1;
    let exe = std::env::current_exe().unwrap().display().to_string();
    [
        "--exact",
        &format!("{path}::{child}"),
        "--ignored",
        "--nocapture",
    ]
    .iter()
    .fold(vec![exe], |mut words, word| {
        words.push((*word).to_string());
        words
    })
}

fn child(module: &str, child: &str) -> Command {
    let words = child_command(module, child);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env(CHILD, "1");
    command
}

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Maps the first page of `fd`; the map stays until the test process ends.
fn map_page(fd: impl AsFd, prot: ProtFlags) -> nix::Result<NonNull<u8>> {
    let page = NonZeroUsize::new(4096).unwrap();
    // SAFETY: a new mapping at an address of the kernel's choice.
    unsafe { mmap(None, page, prot, MapFlags::MAP_SHARED, fd, 0) }.map(NonNull::cast)
}

fn read_byte(at: NonNull<u8>) -> u8 {
    // SAFETY: the tests pass pointers into live mappings of segments that are fully allocated.
    unsafe { at.read_volatile() }
}

fn write_byte(at: NonNull<u8>, byte: u8) {
    // SAFETY: as for read_byte, and the mapping is writable.
    unsafe { at.write_volatile(byte) }
}

/// The lines of `/proc/self/smaps` of the mapping that holds `address`.
fn smaps_of(address: usize) -> String {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut is_wanted = false;
    let mut found = String::new();
    for line in smaps.lines() {
        let range = line.split(' ').next().and_then(|range| {
            let (start, end) = range.split_once('-')?;
            Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
        });
        if let Some(range) = range {
            is_wanted = range.contains(&address);
        }
        if is_wanted {
            found.push_str(line);
            found.push('\n');
        }
    }
    assert!(!found.is_empty(), "nothing is mapped at {address:#x}");
    found
}

fn vm_flags(base: NonNull<u8>) -> Vec<String> {
    let smaps = smaps_of(base.as_ptr() as usize);
    let flags = smaps
        .lines()
        .find_map(|line| line.strip_prefix("VmFlags:"))
        .expect("flags");
    flags.split_whitespace().map(str::to_string).collect()
}

/// How many small pages of the mapping have memory.
fn present_pages(base: NonNull<u8>, len_bytes: u64) -> usize {
    let len = len_bytes as usize;
    let mut present = vec![0u8; len.div_ceil(4096)];
    // SAFETY: the range is a live mapping and the vector has a byte for each of its pages.
    let result = unsafe { libc::mincore(base.as_ptr().cast(), len, present.as_mut_ptr()) };
    assert_eq!(result, 0);
    present.iter().filter(|&&byte| byte & 1 == 1).count()
}

#[test]
fn a_segment_of_no_or_of_absurd_size_is_refused() {
    for size_bytes in [0, u64::MAX, 1 << 63] {
        assert!(super::create_lease(size_bytes).is_err(), "{size_bytes}");
        assert!(
            super::create_payload(&options(size_bytes), &mut Heard::default()).is_err(),
            "{size_bytes}"
        );
    }
    let odd = super::create_lease(1).unwrap();
    assert_eq!((odd.len_bytes(), read_byte(odd.base())), (1, 0));
    assert!(memfd::set_len(odd.fd(), 2, "lease").is_err());
}
