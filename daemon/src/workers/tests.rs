//! What workers do to bytes, and that nothing a writer does to its segment hurts them.

use super::*;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};

const LEN: usize = 1 << 20;

/// Leaked bytes of 0xff that stand in for the payload.
pub(crate) fn payload() -> (&'static mut [u8], PayloadBytes) {
    let bytes: &'static mut [u8] = Box::leak(vec![0xff; LEN].into());
    let base = NonNull::new(bytes.as_mut_ptr()).unwrap();
    // SAFETY: the bytes are leaked.
    let payload = unsafe { PayloadBytes::new(base, LEN as u64) };
    (bytes, payload)
}

fn staging(content: &[u8]) -> Arc<OwnedFd> {
    let fd = memfd_create("hostkv-test", MFdFlags::MFD_CLOEXEC).unwrap();
    nix::unistd::ftruncate(&fd, content.len() as i64).unwrap();
    nix::sys::uio::pwrite(&fd, content, 0).unwrap();
    Arc::new(fd)
}

#[test]
fn a_task_changes_its_range_and_no_other_byte() {
    let (bytes, payload) = payload();
    let go_on = AtomicBool::new(false);
    let zero = Task::Zero {
        offset_bytes: 4096,
        len_bytes: 100,
    };
    payload.carry_out(&zero, &go_on).unwrap();
    let content: Vec<u8> = (0..200).collect();
    let copy = Task::Copy {
        from: staging(&content),
        from_bytes: 50,
        offset_bytes: 8192,
        len_bytes: 100,
        is_summed: false,
    };
    payload.carry_out(&copy, &go_on).unwrap();
    let mut expected = vec![0xff; LEN];
    expected[4096..4196].fill(0);
    expected[8192..8292].copy_from_slice(&content[50..150]);
    assert!(bytes == expected);
}

#[test]
fn a_range_beyond_the_payload_or_the_segment_is_an_error() {
    let (bytes, payload) = payload();
    let go_on = AtomicBool::new(false);
    for (offset_bytes, len_bytes) in [(LEN as u64, 1), (0, LEN as u64 + 1), (u64::MAX, 2)] {
        let zero = Task::Zero {
            offset_bytes,
            len_bytes,
        };
        assert_eq!(payload.carry_out(&zero, &go_on), Err(Errno::ERANGE));
    }
    assert!(bytes.iter().all(|byte| *byte == 0xff));
    let short = Task::Copy {
        from: staging(&[1; 100]),
        from_bytes: 0,
        offset_bytes: 0,
        len_bytes: 101,
        is_summed: false,
    };
    assert_eq!(payload.carry_out(&short, &go_on), Err(Errno::ENODATA));
}

#[test]
fn a_hole_that_a_writer_punched_reads_as_zeros_and_takes_no_memory() {
    let (bytes, payload) = payload();
    let from = staging(&[7; 64 << 10]);
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&*from, hole, 0, 32 << 10).unwrap();
    let blocks = || nix::sys::stat::fstat(&*from).unwrap().st_blocks;
    let before = blocks();
    let copy = Task::Copy {
        from: Arc::clone(&from),
        from_bytes: 0,
        offset_bytes: 0,
        len_bytes: 64 << 10,
        is_summed: false,
    };
    payload.carry_out(&copy, &AtomicBool::new(false)).unwrap();
    assert!(bytes[..32 << 10].iter().all(|byte| *byte == 0));
    assert!(bytes[32 << 10..64 << 10].iter().all(|byte| *byte == 7));
    assert_eq!(blocks(), before);
}

#[test]
fn every_job_ends_once_and_the_bell_rings() {
    let (bytes, payload) = payload();
    let workers = Workers::start(payload, thread_count()).unwrap();
    for number in 0..256 {
        workers.submit(Job {
            id: JobId(number),
            task: Task::Zero {
                offset_bytes: number * 4096,
                len_bytes: 4096,
            },
        });
    }
    let mut seen = Vec::new();
    while seen.len() < 256 {
        let mut bell = [PollFd::new(workers.as_fd(), PollFlags::POLLIN)];
        assert_eq!(
            poll(&mut bell, 60_000_u16).unwrap(),
            1,
            "the bell is silent"
        );
        for end in workers.ends(10) {
            assert_eq!(end.outcome, Ok(Vec::new()));
            seen.push(end.id.0);
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..256).collect::<Vec<_>>());
    drop(workers);
    assert!(bytes.iter().all(|byte| *byte == 0));
}

#[test]
fn the_end_of_the_daemon_does_not_wait_for_what_is_queued() {
    let (bytes, payload) = payload();
    let cancelled = payload.carry_out(
        &Task::Zero {
            offset_bytes: 0,
            len_bytes: 100,
        },
        &AtomicBool::new(true),
    );
    assert_eq!(cancelled, Err(Errno::ECANCELED));
    assert!(bytes.iter().all(|byte| *byte == 0xff));
}

#[test]
fn each_run_has_the_sum_of_exactly_its_bytes() {
    let (bytes, payload) = payload();
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = (i * 31 + i / 251) as u8;
    }
    let extents = vec![(64, 5000), (8192, LEN as u64 - 8192), (4096, 1)];
    let go_on = AtomicBool::new(false);
    let sums = payload
        .carry_out(
            &Task::Sum {
                extents: extents.clone(),
            },
            &go_on,
        )
        .unwrap();
    for ((offset, len), sum) in extents.iter().zip(&sums) {
        let run = &mut bytes[*offset as usize..][..*len as usize];
        let mut aligned = vec![0_u64; run.len().div_ceil(8)];
        // SAFETY: the words are this test's own and hold the run.
        let view = unsafe {
            aligned
                .as_mut_ptr()
                .cast::<u8>()
                .copy_from_nonoverlapping(run.as_ptr(), run.len());
            View::new(aligned.as_ptr().cast(), (aligned.len() * 8) as u64)
        };
        assert_eq!(hostkv_shm_protocol::sum::sum_of(&view, 0, *len), Ok(*sum));
    }
    let beyond = Task::Sum {
        extents: vec![(LEN as u64, 8)],
    };
    assert_eq!(payload.carry_out(&beyond, &go_on), Err(Errno::ERANGE));
    let is_ending = AtomicBool::new(true);
    let task = Task::Sum { extents };
    assert_eq!(payload.carry_out(&task, &is_ending), Err(Errno::ECANCELED));
}
