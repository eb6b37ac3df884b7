//! Pages that are there, zero, of the right size, and in no child and no core file.

use std::ptr::NonNull;

use super::super::{
    HUGE_PAGE_BYTES, HugePages, PayloadOptions, SegmentError, create_control, create_lease,
    create_payload,
};
use super::{Heard, MIB, options, present_pages, read_byte, smaps_of, vm_flags};
use crate::config::Numa;

fn assert_all_zero(base: NonNull<u8>, len_bytes: u64) {
    for offset in (0..len_bytes).step_by(509) {
        // SAFETY: offset is below the length of the live mapping.
        let at = unsafe { base.add(offset as usize) };
        assert_eq!(read_byte(at), 0, "byte {offset}");
    }
}

/// How much of the mapping at `base` this process has as 2 MiB pages.
fn pmd_mapped_bytes(base: NonNull<u8>) -> u64 {
    let smaps = smaps_of(base.as_ptr() as usize);
    let line = smaps
        .lines()
        .find_map(|line| line.strip_prefix("ShmemPmdMapped:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: u64 = kib.expect("smaps tells").trim().parse().unwrap();
    kib * 1024
}

/// Whether a forked child has something mapped at `address`.
fn child_maps(address: NonNull<u8>) -> bool {
    // SAFETY: the child makes two system calls and ends, which is allowed after a fork of a threaded process.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: msync reads nothing; it says ENOMEM where nothing is mapped. _exit ends the child.
            unsafe {
                let result = libc::msync(address.as_ptr().cast(), 4096, libc::MS_ASYNC);
                libc::_exit(if result == 0 { 1 } else { 0 })
            }
        }
        pid => {
            assert!(pid > 0);
            let mut status = 0;
            // SAFETY: pid is the child just made, and status outlives the call.
            assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
            assert!(libc::WIFEXITED(status));
            libc::WEXITSTATUS(status) == 1
        }
    }
}

#[test]
fn no_mapping_reaches_a_forked_child_or_a_core_file() {
    let control = create_control(MIB, HugePages::Auto).unwrap();
    let lease = create_lease(MIB).unwrap();
    let payload = create_payload(&options(2 * MIB), &mut Heard::default()).unwrap();
    let ordinary = Box::new([0u8; 8192]);
    let page = ((ordinary.as_ptr() as usize).next_multiple_of(4096)) as *mut u8;
    assert!(
        child_maps(NonNull::new(page).unwrap()),
        "the probe sees ordinary memory"
    );
    for base in [control.base(), lease.base(), payload.base()] {
        let flags = vm_flags(base);
        assert!(
            flags.iter().any(|flag| flag == "dc"),
            "not copied on fork: {flags:?}"
        );
        assert!(
            flags.iter().any(|flag| flag == "dd"),
            "not dumped: {flags:?}"
        );
        assert!(!child_maps(base));
    }
}

#[test]
fn a_mapping_is_gone_with_its_segment() {
    let lease = create_lease(MIB).unwrap();
    let base = lease.base();
    assert!(vm_flags(base).iter().any(|flag| flag == "sh"));
    let address = base.as_ptr() as usize;
    let inode_line = smaps_of(address).lines().next().unwrap().to_string();
    drop(lease);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains(&inode_line));
}

#[test]
fn control_and_lease_segments_are_all_there_and_zero() {
    for segment in [
        create_control(3 * MIB + 4096, HugePages::Auto).unwrap(),
        create_lease(516 * 1024).unwrap(),
    ] {
        assert_eq!(
            present_pages(segment.base(), segment.len_bytes()) as u64,
            segment.len_bytes() / 4096
        );
        assert_all_zero(segment.base(), segment.len_bytes());
    }
}

#[test]
fn a_prefaulted_payload_has_all_its_pages_zero_and_huge_where_the_kernel_can() {
    let mut heard = Heard::default();
    let payload = create_payload(&options(64 * MIB - 1), &mut heard).unwrap();
    assert_eq!(payload.len_bytes(), 64 * MIB);
    assert_eq!(payload.base().as_ptr() as u64 % HUGE_PAGE_BYTES, 0);
    assert_eq!(
        (heard.last, heard.is_finished),
        ((64 * MIB, 64 * MIB), true)
    );
    assert!(heard.waits.is_empty());
    assert_eq!(present_pages(payload.base(), payload.len_bytes()), 64 * 256);
    if payload.huge_page_bytes() == 0 {
        eprintln!("SKIPPED: this kernel gives no 2 MiB pages; checked the fallback only");
        assert!(payload.kind().contains("4 KiB"));
    } else {
        assert_eq!(
            pmd_mapped_bytes(payload.base()),
            payload.huge_page_bytes(),
            "what is claimed is what the kernel says"
        );
        assert!(
            payload.kind().starts_with("memfd, ") && payload.kind().contains("2 MiB"),
            "{}",
            payload.kind()
        );
    }
    assert_all_zero(payload.base(), payload.len_bytes());
}

#[test]
fn without_huge_pages_all_small_pages_are_there_and_the_daemon_has_no_page_tables_for_them() {
    let mut small = options(16 * MIB);
    small.huge_pages = HugePages::Off;
    let payload = create_payload(&small, &mut Heard::default()).unwrap();
    assert_eq!(
        (payload.huge_page_bytes(), payload.kind().as_str()),
        (0, "memfd, 4 KiB pages")
    );
    assert_eq!(present_pages(payload.base(), payload.len_bytes()), 16 * 256);
    let smaps = smaps_of(payload.base().as_ptr() as usize);
    assert!(
        smaps
            .lines()
            .any(|line| line.starts_with("Rss:") && line.ends_with(" 0 kB")),
        "{smaps}"
    );
    assert_all_zero(payload.base(), payload.len_bytes());
}

#[test]
fn a_payload_without_prefault_takes_no_memory() {
    let mut sparse = options(16 * MIB);
    sparse.prefault = false;
    let mut heard = Heard::default();
    let payload = create_payload(&sparse, &mut heard).unwrap();
    assert_eq!(present_pages(payload.base(), payload.len_bytes()), 0);
    assert_eq!(
        (payload.kind().as_str(), heard.last),
        ("memfd, sparse", (0, 0))
    );
}

#[test]
fn hugetlb_without_reserved_pages_is_an_error_that_says_how_many_to_reserve() {
    let free: u64 =
        std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0);
    let mut hugetlb = options(8 * MIB);
    hugetlb.huge_pages = HugePages::Hugetlb;
    if free >= 4 {
        let payload = create_payload(&hugetlb, &mut Heard::default()).unwrap();
        assert_eq!(
            (payload.huge_page_bytes(), payload.kind().as_str()),
            (8 * MIB, "hugetlb memfd, 2 MiB pages")
        );
        assert_all_zero(payload.base(), payload.len_bytes());
        hugetlb.size_bytes = (free + 1) * HUGE_PAGE_BYTES;
    }
    let error = create_payload(&hugetlb, &mut Heard::default()).expect_err("no pages");
    assert!(
        matches!(
            error,
            SegmentError::LargerThanLimit(_) | SegmentError::DoesNotFit(_)
        ),
        "{error}"
    );
    assert!(error.to_string().contains("vm.nr_hugepages="), "{error}");
}

#[test]
fn a_payload_takes_its_memory_from_the_nodes_that_are_named() {
    for (numa, word) in [
        (Numa::Interleave, " interleave:"),
        (Numa::Bind(0), " bind:0 "),
    ] {
        let placed = PayloadOptions {
            numa: Some(numa),
            ..options(8 * MIB)
        };
        let payload = match create_payload(&placed, &mut Heard::default()) {
            Ok(payload) => payload,
            Err(SegmentError::NumaRefused { errno, .. }) => {
                eprintln!("SKIPPED: this process may not use mbind ({errno})");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        assert_eq!(present_pages(payload.base(), payload.len_bytes()), 8 * 256);
        let start = format!("{:08x} ", payload.base().as_ptr() as usize);
        let Ok(maps) = std::fs::read_to_string("/proc/self/numa_maps") else {
            eprintln!("SKIPPED: this kernel does not tell of NUMA policies");
            continue;
        };
        let line = maps.lines().find(|line| line.starts_with(&start));
        let line = line.expect("the payload has a line");
        assert!(line.contains(word), "{line}");
        assert!(line.contains(" N0="), "{line}");
    }
}

#[test]
fn a_node_that_is_not_there_is_refused_with_those_that_are() {
    let placed = PayloadOptions {
        numa: Some(Numa::Bind(1023)),
        ..options(2 * MIB)
    };
    let error = create_payload(&placed, &mut Heard::default()).expect_err("no such node");
    let text = error.to_string();
    assert!(
        text.starts_with(
            "--numa bind:1023: this machine has no NUMA node 1023 with memory; allowed is one of 0"
        ),
        "{text}"
    );
}

#[test]
fn the_index_is_on_huge_pages_where_the_kernel_can_and_on_small_ones_when_told() {
    let huge_bytes = |pages| {
        let control = create_control(5 * MIB + 4096, pages).unwrap();
        assert_eq!(
            present_pages(control.base(), control.len_bytes()) as u64,
            control.len_bytes() / 4096
        );
        assert_all_zero(control.base(), control.len_bytes());
        pmd_mapped_bytes(control.base())
    };
    assert_eq!(huge_bytes(HugePages::Off), 0);
    match huge_bytes(HugePages::Auto) {
        0 => eprintln!("SKIPPED: this kernel gives no 2 MiB pages; checked the fallback only"),
        bytes => assert_eq!(bytes, 4 * MIB, "the two whole blocks"),
    }
}
