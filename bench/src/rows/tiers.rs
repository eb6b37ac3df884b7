//! The rows of the fs tier: what storing and loading objects costs, against the bare disk in the same run.
//!
//! The tier is used as the daemon's loop uses it. The limit writes and reads files of the same length with O_DIRECT, from
//! and into memory that is there already, with [`LIMIT_THREADS`] threads and one call a file.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use hostkv_daemon::tiers::{
    Completion, LoadObject, LoadOutcome, LoadTask, PayloadRange, StoreObject, StoreTask, TaskId,
    TierKey, Tiers, spec,
};
use hostkv_daemon::workers::PayloadBytes;
use memmap2::{MmapMut, MmapRaw};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Plan;
use crate::measure::runs;
use crate::report::Report;
use crate::table::{Goal, Row, Unit};

const OBJECTS: usize = 64;
const LIMIT_THREADS: usize = 4;
/// 80 % of what the disk does.
const TARGET: f64 = 1.25;
const LENS_BYTES: [u64; 2] = [1 << 20, 4 << 20];

/// What a run took, in nanoseconds an object.
struct Times {
    store: f64,
    write: f64,
    load: f64,
    read: f64,
}

/// Stores and loads of objects of 1 and 4 MiB; absent where the disk has no direct I/O.
pub fn rows(_plan: &Plan, report: &mut Report) -> Result<(), String> {
    // Beside the program: a temporary folder may be in memory, which has no direct I/O.
    let program = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
    let beside = program.parent().unwrap_or(Path::new("/"));
    for len_bytes in LENS_BYTES {
        let folder = tempfile::tempdir_in(beside).map_err(|error| format!("a folder: {error}"))?;
        let mut bench = match Bench::open(folder.path(), len_bytes) {
            Err(sentence) if sentence.contains("O_DIRECT") => {
                report.row(Row::absent("fs tier", sentence));
                return Ok(());
            }
            other => other?,
        };
        let mut number = 0;
        let measured = runs(&[], || {
            number += 1;
            // Side by side, so that a disk that is slow for a while is slow for both.
            let times = Times {
                store: bench.store(number)?,
                write: bench.limit(true)?,
                load: bench.load(number)?,
                read: bench.limit(false)?,
            };
            bench.remove(number)?;
            Ok(times)
        })?;
        type Part = fn(&Times) -> f64;
        let kinds: [(&str, Part, &str, Part); 2] = [
            ("store", |t| t.store, "direct write", |t| t.write),
            ("load", |t| t.load, "direct read", |t| t.read),
        ];
        for (what, ours, limit, of) in kinds {
            report.row(
                Row::new(
                    format!("fs tier: {what} {} MiB, an object", len_bytes >> 20),
                    Unit::Nanoseconds,
                    measured.median(ours),
                    Goal::RatioAtMost(TARGET),
                )
                .limit(limit, measured.median(of))
                .noise(measured.noise),
            );
        }
    }
    Ok(())
}

struct Bench<'a> {
    folder: &'a Path,
    len_bytes: u64,
    tiers: Tiers,
    payload: MmapRaw,
}

fn key(run: usize, object: usize) -> TierKey {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(object as u64).to_le_bytes());
    bytes[8..16].copy_from_slice(&(run as u64).to_le_bytes());
    // The folder is chosen by the first byte.
    TierKey::from_bytes(bytes)
}

impl Bench<'_> {
    fn open(folder: &Path, len_bytes: u64) -> Result<Bench<'_>, String> {
        let base = folder.join("tier");
        let text = format!(r#"{{"type": "fs", "base_path": {base:?}, "use_odirect": true}}"#);
        let specs = spec::parse(&[text]).map_err(|error| error.to_string())?;
        let whole_bytes = OBJECTS * len_bytes as usize;
        let mut memory =
            MmapMut::map_anon(whole_bytes).map_err(|error| format!("memory: {error}"))?;
        for (word, chunk) in (0_u64..).zip(memory.chunks_exact_mut(8)) {
            chunk.copy_from_slice(&word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        }
        let payload = MmapRaw::from(memory);
        let base = NonNull::new(payload.as_mut_ptr()).ok_or("memory at address 0")?;
        // SAFETY: `tiers` is declared before `payload` in `Bench`, so it is dropped before it.
        let bytes = unsafe { PayloadBytes::new(base, whole_bytes as u64) };
        let tiers = Tiers::open(&specs, bytes).map_err(|error| error.to_string())?;
        Ok(Bench {
            folder,
            len_bytes,
            tiers,
            payload,
        })
    }

    fn range(&self, object: usize) -> PayloadRange {
        PayloadRange {
            offset_bytes: object as u64 * self.len_bytes,
            len_bytes: self.len_bytes,
        }
    }

    /// Waits until every object has its completion, each of which went well.
    fn wait(&mut self, is_good: impl Fn(&Completion) -> bool) -> Result<(), String> {
        let mut ended = 0;
        while ended < OBJECTS {
            let mut bell = [PollFd::new(self.tiers.as_fd(), PollFlags::POLLIN)];
            poll(&mut bell, PollTimeout::from(10_000_u16)).map_err(|e| format!("poll: {e}"))?;
            let completions = self.tiers.completions(OBJECTS);
            if completions.is_empty() || !completions.iter().all(&is_good) {
                return Err(format!("a tier did not do its work: {completions:?}"));
            }
            ended += completions.len();
        }
        Ok(())
    }

    /// Nanoseconds an object.
    fn store(&mut self, run: usize) -> Result<f64, String> {
        let object = |object| StoreObject {
            key: key(run, object),
            source: self.range(object),
            sum: None,
        };
        let objects = (0..OBJECTS).map(object).collect();
        let start = Instant::now();
        self.tiers.submit_store(StoreTask {
            id: TaskId(run as u64),
            objects,
        });
        self.wait(|c| matches!(c, Completion::Stored { tiers, .. } if tiers.has(0)))?;
        Ok(start.elapsed().as_nanos() as f64 / OBJECTS as f64)
    }

    /// Nanoseconds an object.
    fn load(&mut self, run: usize) -> Result<f64, String> {
        let object = |object| LoadObject {
            key: key(run, object),
            tier: 0,
            destination: self.range(object),
        };
        let objects = (0..OBJECTS).map(object).collect();
        let start = Instant::now();
        self.tiers.submit_load(LoadTask {
            id: TaskId(run as u64),
            objects,
        });
        let is_loaded = |outcome: &LoadOutcome| matches!(outcome, LoadOutcome::Loaded { .. });
        self.wait(|c| matches!(c, Completion::Loaded { outcome, .. } if is_loaded(outcome)))?;
        Ok(start.elapsed().as_nanos() as f64 / OBJECTS as f64)
    }

    /// Removes what a run stored, so that the disk holds no more than one.
    fn remove(&mut self, run: usize) -> Result<(), String> {
        self.tiers
            .submit_remove((0..OBJECTS).map(|object| key(run, object)).collect());
        let start = Instant::now();
        while self.tiers.figures()[0].objects > 0 {
            if start.elapsed() > Duration::from_secs(60) {
                return Err("objects that were removed are still there".to_owned());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Nanoseconds a file, written anew or read as it was written.
    fn limit(&self, is_write: bool) -> Result<f64, String> {
        let base = self.payload.as_mut_ptr() as usize;
        let start = Instant::now();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..LIMIT_THREADS)
                .map(|thread| {
                    scope.spawn(move || {
                        (thread..OBJECTS)
                            .step_by(LIMIT_THREADS)
                            .try_for_each(|file| {
                                let at = base + file * self.len_bytes as usize;
                                self.one_file(file, at as *mut u8, is_write)
                            })
                    })
                })
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| "a thread failed".to_owned())?)
        })?;
        let ns = start.elapsed().as_nanos() as f64 / OBJECTS as f64;
        if !is_write {
            for file in 0..OBJECTS {
                std::fs::remove_file(self.folder.join(file.to_string()))
                    .map_err(|error| format!("removing a file: {error}"))?;
            }
        }
        Ok(ns)
    }

    fn one_file(&self, file: usize, memory: *mut u8, is_write: bool) -> Result<(), String> {
        let file: File = OpenOptions::new()
            .read(true)
            .write(is_write)
            .create(is_write)
            .custom_flags(libc::O_DIRECT)
            .open(self.folder.join(file.to_string()))
            .map_err(|error| format!("opening a file: {error}"))?;
        let len_bytes = self.len_bytes as usize;
        // SAFETY: the file's part of the payload, as long as `len_bytes`; no other thread uses it meanwhile.
        let done = unsafe {
            match is_write {
                true => libc::pwrite(file.as_raw_fd(), memory.cast(), len_bytes, 0),
                false => libc::pread(file.as_raw_fd(), memory.cast(), len_bytes, 0),
            }
        };
        match done == len_bytes as isize {
            true => Ok(()),
            false => Err(format!("{done} bytes of {len_bytes} went through")),
        }
    }
}
