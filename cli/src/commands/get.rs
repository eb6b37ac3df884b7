//! `hostkv get`: an object's bytes into a file or standard output.
//!
//! A file appears whole or not at all: the bytes go into a temporary file beside it, which takes its name when the lease
//! has said that all of them were the object's.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use hostkv::lease::{Lease, Span};
use serde::Serialize;

use crate::args::{Common, GetArguments};
use crate::connect;
use crate::failure::Failure;
use crate::output::{Output, shown};

/// Bytes copied out of the pool at a time.
const PIECE_BYTES: usize = 1 << 20;

/// What was written.
#[derive(Serialize)]
struct Got<'a> {
    key: String,
    len_bytes: u64,
    file: &'a Path,
}

/// Reads an object and writes it.
pub fn run(common: &Common, arguments: &GetArguments, output: &mut Output) -> Result<(), Failure> {
    let is_stdout = arguments.output == Path::new("-");
    if is_stdout && output.is_terminal() {
        return Err(Failure::usage(
            "standard output is a terminal, and an object is not text; redirect it, or name a file with -o",
        ));
    }
    if is_stdout && common.json {
        return Err(Failure::usage(
            "the object itself goes to standard output, so --json has no place there; name a file with -o",
        ));
    }
    let session = connect::reader(common, "get")?;
    let keyspace = connect::keyspace(common, &session, &arguments.key.model_name)?;
    let lease = session.acquire(keyspace, &[arguments.key.key], &Default::default())?;
    let span = lease.span(0).map_err(|error| match error.status {
        hostkv::Status::NotFound => Failure::not_found(format!(
            "there is no object {}; `hostkv ls --keyspace {}` lists what there is{}",
            shown(&arguments.key.to_string()),
            shown(&arguments.key.model_name),
            if common.salt_file.is_none() && std::env::var_os("HOSTKV_SALT").is_none() {
                ", and HOSTKV_SALT chooses a tenant"
            } else {
                ""
            }
        )),
        _ => error.into(),
    })?;
    if is_stdout {
        copy_out(&span, |piece| output.bytes(piece))?;
        output.flush()?;
        return Ok(lease.release()?);
    }
    let target = &arguments.output;
    let fault = |error: io::Error| Failure::file("writing", target.display(), &error);
    match std::fs::metadata(target) {
        // A pipe or a device takes bytes as they come.
        Ok(found) if !found.is_file() => {
            let mut file = File::options().write(true).open(target).map_err(fault)?;
            copy_out(&span, |piece| file.write_all(piece).map_err(fault))?;
            lease.release()?;
        }
        _ => write_whole(target, &span, lease, &fault)?,
    }
    if common.json {
        output.json(&Got {
            key: arguments.key.to_string(),
            len_bytes: span.len_bytes,
            file: target,
        })?;
    }
    Ok(())
}

fn write_whole(
    target: &Path,
    span: &Span,
    lease: Lease,
    fault: &dyn Fn(io::Error) -> Failure,
) -> Result<(), Failure> {
    let folder = match target.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(".hostkv-get-")
        .tempfile_in(folder)
        .map_err(fault)?;
    copy_out(span, |piece| file.write_all(piece).map_err(fault))?;
    lease.release()?;
    file.persist(target).map_err(|error| fault(error.error))?;
    Ok(())
}

/// Gives the object to `write`, piece by piece.
fn copy_out(
    span: &Span,
    mut write: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let len = span.len_bytes as usize;
    let mut piece = vec![0_u8; len.min(PIECE_BYTES)];
    for at in (0..len).step_by(PIECE_BYTES) {
        let part = &mut piece[..PIECE_BYTES.min(len - at)];
        // SAFETY: the lease keeps the span mapped, and the range is inside it; `part` is ours alone. What another
        // process might store there meanwhile is copied, never referred to.
        unsafe { std::ptr::copy_nonoverlapping(span.data.add(at), part.as_mut_ptr(), part.len()) };
        write(part)?;
    }
    Ok(())
}
