//! `hostkv put`: a file, or standard input, becomes an object.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use hostkv::session::{ReserveItem, Session};
use hostkv::{KeyspaceId, Status};
use serde::Serialize;

use crate::args::{Common, PutArguments};
use crate::connect;
use crate::failure::Failure;
use crate::output::{Output, shown};

/// Bytes read at a time.
const PIECE_BYTES: usize = 1 << 20;

/// What was stored.
#[derive(Serialize)]
struct Stored {
    key: String,
    len_bytes: u64,
}

/// Stores.
pub fn run(common: &Common, arguments: &PutArguments, output: &mut Output) -> Result<(), Failure> {
    let session = connect::writer(common, "put")?;
    let most = session.info()?.max_object_bytes;
    let source = Source::open(&arguments.file, most)?;
    let keyspace = connect::keyspace(common, &session, &arguments.key.model_name)?;
    let len_bytes = source.len_bytes;
    store(&session, keyspace, arguments, source)?;
    if common.json {
        output.json(&Stored {
            key: arguments.key.to_string(),
            len_bytes,
        })?;
    }
    Ok(())
}

/// Where the bytes come from, and how many they are: room is reserved before the first is written.
struct Source {
    name: String,
    reader: Box<dyn Read>,
    len_bytes: u64,
}

impl Source {
    fn open(path: &Path, most: u64) -> Result<Source, Failure> {
        let is_stdin = path == Path::new("-");
        let name = match is_stdin {
            true => "standard input".to_owned(),
            false => path.display().to_string(),
        };
        let fault = |error: io::Error| Failure::file("reading", &name, &error);
        if !is_stdin {
            let file = File::open(path).map_err(fault)?;
            let found = file.metadata().map_err(fault)?;
            if found.is_dir() {
                return Err(Failure::usage(format!("{name} is a folder; name a file")));
            }
            if found.is_file() {
                check_len(&name, found.len(), most)?;
                return Ok(Source {
                    name,
                    reader: Box::new(file),
                    len_bytes: found.len(),
                });
            }
            return Source::whole(name, file, most);
        }
        Source::whole(name, io::stdin().lock(), most)
    }

    /// Of a pipe the length is only known at its end.
    fn whole(name: String, stream: impl Read, most: u64) -> Result<Source, Failure> {
        let mut bytes = Vec::new();
        stream
            .take(most + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Failure::file("reading", &name, &error))?;
        let len_bytes = bytes.len() as u64;
        check_len(&name, len_bytes, most)?;
        Ok(Source {
            name,
            reader: Box::new(io::Cursor::new(bytes)),
            len_bytes,
        })
    }
}

fn check_len(name: &str, len: u64, most: u64) -> Result<(), Failure> {
    match len {
        0 => Err(Failure::failed(format!(
            "{name} is empty; an object has at least 1 byte"
        ))),
        len if len > most => Err(Failure::failed(format!(
            "{name} has more than {most} bytes, the largest object of this pool; split it, or give hostkvd a larger \
             --l1-size-gb"
        ))),
        _ => Ok(()),
    }
}

fn store(
    session: &Session,
    keyspace: KeyspaceId,
    arguments: &PutArguments,
    mut source: Source,
) -> Result<(), Failure> {
    let item = ReserveItem {
        key: arguments.key.key,
        len_bytes: source.len_bytes,
    };
    let reservation = session.reserve(keyspace, &[item], &Default::default())?;
    let key = shown(&arguments.key.to_string());
    let span = reservation.span(0).map_err(|error| match error.status {
        Status::Exists => Failure::failed(format!(
            "{key} is there already, and objects do not change; remove it first with `hostkv rm`"
        )),
        Status::Reserved => Failure::failed(format!(
            "another process is writing {key} just now; try again when it has committed or ended"
        )),
        _ => error.into(),
    })?;
    let fault = |error: io::Error| Failure::file("reading", &source.name, &error);
    let mut piece = vec![0_u8; (source.len_bytes as usize).min(PIECE_BYTES)];
    let mut written = 0_u64;
    loop {
        let count = source.reader.read(&mut piece).map_err(fault)?;
        if count == 0 {
            break;
        }
        if written + count as u64 > span.len_bytes {
            return Err(changed(&source));
        }
        // SAFETY: the range is inside the span, which is this reservation's alone until it ends.
        unsafe { hostkv::copy::copy(span.data.add(written as usize), piece.as_ptr(), count) };
        written += count as u64;
    }
    if written != span.len_bytes {
        return Err(changed(&source));
    }
    Ok(reservation.commit()?)
}

fn changed(source: &Source) -> Failure {
    Failure::failed(format!(
        "{} had {} bytes and its length has changed while it was read; nothing is stored",
        source.name, source.len_bytes
    ))
}
