//! The `jsonl` processor: one JSON object a line, into files that are rotated, a pipe or standard output.
//!
//! Built and started on the main thread, then called by the dispatcher's thread, which alone waits for a slow target.
//!
//! ```text
//!   {"name":"lookup","event_type":"END","session_id":"req-001","timestamp":12345.680123,"metadata":{"found_count":3}}
//!
//!   a line that would make PATH larger than max_bytes:  PATH.2 -> PATH.3 (lost if that is one too many)
//!                                                       PATH.1 -> PATH.2,  PATH -> PATH.1,  PATH anew
//! ```
//!
//! `max_files` counts PATH and those behind it. A file of ours is locked, so nobody rotates it under us. It holds whole
//! lines only: what a failed write left behind is cut off. What is no file of ours (a pipe, a device, standard output) is
//! never rotated nor cut; a line that could only be written in part is ended before the next one.
//!
//! A named pipe is opened for reading as well: opening then never waits for a reader, and readers may come and go.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::super::{Event, Value};
use super::{Kind, Processor, ProcessorError};
use crate::specs::{FieldError, Fields};

/// This type, for the registry.
pub(super) static KIND: Kind = Kind {
    name: "jsonl",
    fields: &["path", "max_bytes", "max_files"],
    build,
};

/// The least that `max_bytes` may be: more than any line has, so that each file can hold one.
const MIN_MAX_BYTES: u64 = 4096;
const MAX_MAX_BYTES: u64 = 1 << 40;
const DEFAULT_MAX_BYTES: u64 = 64 << 20;
const MAX_MAX_FILES: u64 = 1000;
const DEFAULT_MAX_FILES: u64 = 5;
/// The path that means standard output.
const STDOUT: &str = "-";

/// What goes wrong with a target.
#[derive(Debug, thiserror::Error)]
enum JsonlError {
    #[error(
        "opening {path:?} for writing failed: {source}; give a path in a folder where hostkvd may write"
    )]
    Open { path: PathBuf, source: io::Error },
    #[error(
        "{path:?} is in use by another hostkvd or another --telemetry-processor; give each a path of its own"
    )]
    InUse { path: PathBuf },
    #[error(
        "copying the descriptor of standard output failed: {0}; give hostkvd a standard output or give a path"
    )]
    NoStdout(io::Error),
    #[error("writing to {target} failed: {source}; make room there, or see who reads it")]
    Write { target: String, source: io::Error },
    #[error("rotating {path:?} failed: {source}; let hostkvd rename files in that folder")]
    Rotate { path: PathBuf, source: io::Error },
    #[error("making a line of an event failed: {0}; leave this processor out")]
    Format(serde_json::Error),
}

#[derive(Debug)]
struct JsonlProcessor {
    /// None = standard output.
    path: Option<PathBuf>,
    max_bytes: u64,
    max_files: u64,
    /// None before the start, after the end, and while a new file cannot be opened.
    output: Option<Output>,
    /// Kept to spare an allocation for each event.
    line: Vec<u8>,
}

fn build(fields: &Fields) -> Result<Box<dyn Processor>, FieldError> {
    const ALLOWED: &str = "the path of a file or a named pipe, or \"-\" for standard output";
    let path = fields
        .text("path", ALLOWED)?
        .filter(|path| !path.is_empty() && !path.contains('\0'))
        .ok_or_else(|| fields.refuse("path", ALLOWED))?;
    let max_bytes = fields.whole("max_bytes", MIN_MAX_BYTES..=MAX_MAX_BYTES)?;
    let max_files = fields.whole("max_files", 1..=MAX_MAX_FILES)?;
    for field in ["max_bytes", "max_files"] {
        if path == STDOUT && fields.has(field) {
            let remedy = format!(
                "standard output is not rotated; leave '{field}' out or give the path of a file"
            );
            return Err(fields.not_together(field, "path", remedy));
        }
    }
    Ok(Box::new(JsonlProcessor {
        path: (path != STDOUT).then(|| PathBuf::from(path)),
        max_bytes: max_bytes.unwrap_or(DEFAULT_MAX_BYTES),
        max_files: max_files.unwrap_or(DEFAULT_MAX_FILES),
        output: None,
        line: Vec::new(),
    }))
}

impl Processor for JsonlProcessor {
    fn type_name(&self) -> &'static str {
        KIND.name
    }

    fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    fn start(&mut self) -> Result<(), ProcessorError> {
        self.output = Some(self.open()?);
        Ok(())
    }

    fn process(&mut self, event: &Event) -> Result<(), ProcessorError> {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        let result = write_json(&mut line, event)
            .map_err(JsonlError::Format)
            .and_then(|()| self.write(&line));
        self.line = line;
        Ok(result?)
    }

    fn stop(&mut self) -> Result<(), ProcessorError> {
        self.output = None;
        Ok(())
    }
}

impl JsonlProcessor {
    fn open(&self) -> Result<Output, JsonlError> {
        match &self.path {
            Some(path) => Output::at(path),
            None => Output::stdout(),
        }
    }

    fn write(&mut self, line: &[u8]) -> Result<(), JsonlError> {
        let mut output = match self.output.take() {
            Some(output) => output,
            None => self.open()?,
        };
        if let Some(path) = &self.path
            && output.is_own_file
            && output.len_bytes > 0
            && output.len_bytes + line.len() as u64 > self.max_bytes
        {
            let result = self.shift(path).map_err(|source| JsonlError::Rotate {
                path: path.clone(),
                source,
            });
            if let Err(error) = result {
                // The file keeps its bound and the event is lost: a disk that fills up is worse.
                self.output = Some(output);
                return Err(error);
            }
            output = Output::at(path)?;
        }
        let result = output.write(line);
        self.output = Some(output);
        result.map_err(|source| JsonlError::Write {
            target: match &self.path {
                Some(path) => format!("{path:?}"),
                None => "standard output".to_owned(),
            },
            source,
        })
    }

    /// Makes room at PATH: each file takes the next number, up to the first number that is free.
    fn shift(&self, path: &Path) -> io::Result<()> {
        let numbered = |number: u64| match number {
            0 => path.to_owned(),
            _ => {
                let mut name = path.as_os_str().to_owned();
                name.push(format!(".{number}"));
                PathBuf::from(name)
            }
        };
        let last = self.max_files - 1;
        if last == 0 {
            return match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        // Only up to a gap: if the last rename of this fails again and again, the files behind the gap stay.
        let mut free = 1;
        while free < last && fs::symlink_metadata(numbered(free)).is_ok() {
            free += 1;
        }
        for number in (0..free).rev() {
            match fs::rename(numbered(number), numbered(number + 1)) {
                Ok(()) => {}
                // Somebody else moved or removed it, so its name is free as well.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// An open target.
#[derive(Debug)]
struct Output {
    file: File,
    /// A regular file that nobody else writes to.
    is_own_file: bool,
    /// Its length; 0 when it is no file of ours.
    len_bytes: u64,
    /// It ends inside a line.
    is_torn: bool,
}

impl Output {
    fn stdout() -> Result<Self, JsonlError> {
        // Not through `Stdout`, whose lock would be held while a reader does not read.
        let descriptor = io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .map_err(JsonlError::NoStdout)?;
        Ok(Self {
            file: File::from(descriptor),
            is_own_file: false,
            len_bytes: 0,
            is_torn: false,
        })
    }

    fn at(path: &Path) -> Result<Self, JsonlError> {
        let fault = |source| JsonlError::Open {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            // Of a pipe, so that opening does not wait; of a file, to look at its end.
            .read(true)
            .append(true)
            .create(true)
            // Who asked for which keys when is nobody else's to read.
            .mode(0o600)
            .custom_flags(libc::O_NOCTTY)
            .open(path)
            .map_err(fault)?;
        let facts = file.metadata().map_err(fault)?;
        let mut output = Self {
            file,
            is_own_file: facts.is_file(),
            len_bytes: 0,
            is_torn: false,
        };
        if output.is_own_file {
            match output.file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(JsonlError::InUse {
                        path: path.to_owned(),
                    });
                }
                Err(TryLockError::Error(source)) => return Err(fault(source)),
            }
            output.len_bytes = facts.len();
            output.is_torn = ends_inside_a_line(&output.file, facts.len()).map_err(fault)?;
        }
        Ok(output)
    }

    /// Writes a whole line, waiting as long as it takes, or nothing that a later line could not mend.
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_torn {
            let (written, result) = write_all(&self.file, b"\n");
            self.add(written);
            result?;
            self.is_torn = false;
        }
        let (written, result) = write_all(&self.file, line);
        if result.is_err() && written > 0 {
            self.is_torn = !self.is_own_file || self.file.set_len(self.len_bytes).is_err();
        }
        if result.is_ok() || self.is_torn {
            self.add(written);
        }
        result
    }

    fn add(&mut self, written: usize) {
        if self.is_own_file {
            self.len_bytes += written as u64;
        }
    }
}

/// A predecessor was stopped, or the machine was, in the middle of a line.
fn ends_inside_a_line(file: &File, len_bytes: u64) -> io::Result<bool> {
    let Some(last) = len_bytes.checked_sub(1) else {
        return Ok(false);
    };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte != *b"\n")
}

/// Writes all bytes; tells how many were written also when that fails.
fn write_all(mut file: &File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Whoever shares the descriptor may have made it non-blocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut polled = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
                match poll(&mut polled, PollTimeout::NONE) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(errno) => return (written, Err(errno.into())),
                }
            }
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// An event under the names that a line has.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    event_type: &'a str,
    session_id: &'a str,
    timestamp: f64,
    metadata: Metadata<'a>,
}

/// Metadata as an object that keeps its order. A float that is no number becomes null: JSON has none such.
struct Metadata<'a>(&'a [(&'static str, Value)]);

impl Serialize for Metadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in self.0 {
            object.serialize_entry(key, value)?;
        }
        object.end()
    }
}

fn write_json(line: &mut Vec<u8>, event: &Event) -> Result<(), serde_json::Error> {
    serde_json::to_writer(
        &mut *line,
        &Line {
            name: event.name,
            event_type: event.event_type.name(),
            session_id: &event.session_id,
            timestamp: event.timestamp_s,
            metadata: Metadata(&event.metadata),
        },
    )?;
    line.push(b'\n');
    Ok(())
}
