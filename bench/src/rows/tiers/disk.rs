//! The fs tier beside the bare disk: files of the same length with O_DIRECT, from and into memory that is there already,
//! with [`LIMIT_THREADS`] threads and one call a file.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use super::{Bench, OBJECTS, Times, show};
use crate::measure::runs;
use crate::report::Report;
use crate::table::Row;

const LIMIT_THREADS: usize = 4;
const LENS_BYTES: [u64; 2] = [1 << 20, 4 << 20];

/// Stores and loads of objects of 1 and 4 MiB; absent where the disk has no direct I/O.
pub fn rows(report: &mut Report) -> Result<(), String> {
    // Beside the program: a temporary folder may be in memory, which has no direct I/O.
    let program = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
    let beside = program.parent().unwrap_or(Path::new("/"));
    for len_bytes in LENS_BYTES {
        let folder = tempfile::tempdir_in(beside).map_err(|error| format!("a folder: {error}"))?;
        let base = folder.path().join("tier");
        let text = format!(r#"{{"type": "fs", "base_path": {base:?}, "use_odirect": true}}"#);
        let mut bench = match Bench::open(text, len_bytes) {
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
                store_limit: limit(&bench, folder.path(), true)?,
                load: bench.load(number)?,
                load_limit: limit(&bench, folder.path(), false)?,
            };
            bench.remove(number)?;
            Ok(times)
        })?;
        let limits = ["direct write", "direct read"];
        show(report, "fs", len_bytes, limits, &measured);
    }
    Ok(())
}

/// Nanoseconds a file, written anew or read as it was written.
fn limit(bench: &Bench, folder: &Path, is_write: bool) -> Result<f64, String> {
    let (base, len_bytes) = (bench.payload.bytes() as usize, bench.len_bytes as usize);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..LIMIT_THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    (thread..OBJECTS)
                        .step_by(LIMIT_THREADS)
                        .try_for_each(|file| {
                            let at = base + file * len_bytes;
                            let path = folder.join(file.to_string());
                            one_file(&path, at as *mut u8, len_bytes, is_write)
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
            std::fs::remove_file(folder.join(file.to_string()))
                .map_err(|error| format!("removing a file: {error}"))?;
        }
    }
    Ok(ns)
}

fn one_file(path: &Path, memory: *mut u8, len_bytes: usize, is_write: bool) -> Result<(), String> {
    let file: File = OpenOptions::new()
        .read(true)
        .write(is_write)
        .create(is_write)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .map_err(|error| format!("opening a file: {error}"))?;
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
