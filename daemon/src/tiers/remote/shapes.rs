//! How an object lies in a store: in pieces under names of their own, or whole.
//!
//! Everything here is a future of one object, driven by the thread that asked; requests that go out side by side are tasks of
//! the runtime, which hold private bytes only and are given up with the future.

use std::collections::VecDeque;
use std::future::Future;

use opendal::{Buffer, ErrorKind, Metadata, Operator};
use tokio::task::{JoinHandle, JoinSet};

use crc_fast::{CrcAlgorithm, Digest};
use hostkv_shm_protocol::sum::Sum;

use super::{LOOKUP_WINDOW, WINDOW, fault_of};
use crate::tiers::backend::{Fault, Got};
use crate::tiers::key::TierKey;
use crate::tiers::seal::{SEAL_BYTES, Seal};
use crate::tiers::{PayloadRange, StoreObject};
use crate::workers::PayloadBytes;

/// A value of Redis: at 4 MB/s it still comes within the client's half a second.
const PIECE_BYTES: u64 = 2 << 20;
/// A part of an S3 object, which must have 5 MiB at least.
const PART_BYTES: u64 = 8 << 20;

/// How objects lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Pieces, and the seal under the object's own name.
    Pieces,
    /// One object with the seal at its end.
    Whole,
}

/// Tasks in the order of their start; dropped, they are given up.
struct Window<T> {
    tasks: VecDeque<JoinHandle<T>>,
}

impl<T: Send + 'static> Window<T> {
    fn new() -> Window<T> {
        Window {
            tasks: VecDeque::with_capacity(WINDOW),
        }
    }

    fn is_full(&self) -> bool {
        self.tasks.len() >= WINDOW
    }

    fn start(&mut self, task: impl Future<Output = T> + Send + 'static) {
        self.tasks.push_back(tokio::spawn(task));
    }

    /// What the oldest came to.
    async fn next(&mut self) -> Option<Result<T, Fault>> {
        // Stays in the queue while it is waited for, so that it is given up with the others.
        let task = self.tasks.front_mut()?;
        let result = task.await.map_err(|_| Fault::error("a task panicked"));
        self.tasks.pop_front();
        Some(result)
    }
}

impl<T> Drop for Window<T> {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Nothing there is an answer, no error.
fn if_there<T>(result: opendal::Result<T>) -> Result<Option<T>, Fault> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fault_of(&error)),
    }
}

/// Offsets and lengths of the pieces of `len_bytes`.
fn pieces(len_bytes: u64, piece_bytes: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..len_bytes.div_ceil(piece_bytes)).map(move |number| {
        let begin = number * piece_bytes;
        (begin, piece_bytes.min(len_bytes - begin))
    })
}

impl Shape {
    /// The length of each object that is there.
    pub(super) async fn find(
        self,
        operator: &Operator,
        keys: &[TierKey],
        paths: &[String],
    ) -> Result<Vec<Option<u64>>, Fault> {
        let mut found = vec![None; keys.len()];
        let mut tasks = JoinSet::new();
        for (place, (key, path)) in keys.iter().zip(paths).enumerate() {
            if tasks.len() >= LOOKUP_WINDOW {
                take_found(&mut tasks, &mut found).await?;
            }
            let (operator, key, path) = (operator.clone(), *key, path.clone());
            tasks.spawn(async move { (place, self.find_one(&operator, &key, &path).await) });
        }
        while !tasks.is_empty() {
            take_found(&mut tasks, &mut found).await?;
        }
        Ok(found)
    }

    async fn find_one(
        self,
        operator: &Operator,
        key: &TierKey,
        path: &str,
    ) -> Result<Option<u64>, Fault> {
        match self {
            Shape::Pieces => {
                let bytes = if_there(operator.read(path).await)?;
                let seal = bytes.and_then(|bytes| Seal::from_bytes(&bytes.to_bytes()));
                Ok(seal.filter(|seal| seal.key == *key).map(|s| s.len_bytes))
            }
            Shape::Whole => {
                let metadata = if_there(operator.stat(path).await)?;
                Ok(metadata.and_then(|m| m.content_length().checked_sub(SEAL_BYTES as u64)))
            }
        }
    }

    /// Stores an object.
    pub(super) async fn put(
        self,
        operator: &Operator,
        path: &str,
        object: &StoreObject,
        payload: &PayloadBytes,
    ) -> Result<(), Fault> {
        let source = object.source;
        let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
        let mut copy = |begin: u64, len_bytes: u64| {
            let bytes = payload
                .private_copy(source.offset_bytes + begin, len_bytes)
                .map_err(|errno| Fault::error(format!("copying an object failed: {errno}")))?;
            digest.update(&bytes);
            Ok(Buffer::from(bytes))
        };
        match self {
            Shape::Pieces => {
                let mut writes = Window::<opendal::Result<Metadata>>::new();
                for (number, (begin, len_bytes)) in (0..).zip(pieces(source.len_bytes, PIECE_BYTES))
                {
                    if writes.is_full()
                        && let Some(written) = writes.next().await
                    {
                        written?.map_err(|error| fault_of(&error))?;
                    }
                    let (operator, path) = (operator.clone(), piece_path(path, number));
                    let bytes = copy(begin, len_bytes)?;
                    writes.start(async move { operator.write(&path, bytes).await });
                }
                while let Some(written) = writes.next().await {
                    written?.map_err(|error| fault_of(&error))?;
                }
                let seal = seal_of(object, digest);
                let written = operator.write(path, seal.to_vec()).await;
                written.map_err(|error| fault_of(&error))?;
            }
            Shape::Whole => {
                let opened = operator
                    .writer_with(path)
                    .chunk(PART_BYTES as usize)
                    .concurrent(WINDOW)
                    .await;
                let mut writer = opened.map_err(|error| fault_of(&error))?;
                let mut written = Ok(());
                for (begin, len_bytes) in pieces(source.len_bytes, PART_BYTES) {
                    written = match copy(begin, len_bytes) {
                        Ok(bytes) => writer.write(bytes).await.map_err(|error| fault_of(&error)),
                        Err(fault) => Err(fault),
                    };
                    if written.is_err() {
                        break;
                    }
                }
                if written.is_ok() {
                    let seal = seal_of(object, digest).to_vec();
                    written = writer.write(seal).await.map_err(|error| fault_of(&error));
                }
                match written {
                    Ok(()) => drop(writer.close().await.map_err(|error| fault_of(&error))?),
                    Err(fault) => {
                        // Parts that nobody ends cost until the bucket's rules remove them.
                        let _ = writer.abort().await;
                        return Err(fault);
                    }
                }
            }
        }
        Ok(())
    }

    /// Loads an object.
    pub(super) async fn get(
        self,
        operator: &Operator,
        path: &str,
        key: &TierKey,
        destination: PayloadRange,
        payload: &PayloadBytes,
    ) -> Result<Got, Fault> {
        let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
        let mut take = |begin: u64, bytes: &[u8]| {
            digest.update(bytes);
            payload
                .copy_in(destination.offset_bytes + begin, bytes)
                .map_err(|errno| Fault::error(format!("copying an object failed: {errno}")))
        };
        let len_bytes = destination.len_bytes;
        let seal;
        match self {
            Shape::Pieces => {
                let Some(bytes) = if_there(operator.read(path).await)? else {
                    return Ok(Got::Absent);
                };
                seal = Seal::of(&bytes.to_bytes(), key, len_bytes);
                if seal.is_none() {
                    return Ok(Got::Damaged);
                }
                let mut reads = Window::<opendal::Result<Buffer>>::new();
                let mut started = (0..).zip(pieces(len_bytes, PIECE_BYTES));
                for (begin, len_bytes) in pieces(len_bytes, PIECE_BYTES) {
                    while !reads.is_full()
                        && let Some((number, _)) = started.next()
                    {
                        let (operator, path) = (operator.clone(), piece_path(path, number));
                        reads.start(async move { operator.read(&path).await });
                    }
                    let Some(read) = reads.next().await else {
                        return Ok(Got::Damaged);
                    };
                    let Some(bytes) = if_there(read?)? else {
                        return Ok(Got::Absent);
                    };
                    if bytes.len() as u64 != len_bytes {
                        return Ok(Got::Damaged);
                    }
                    take(begin, &bytes.to_bytes())?;
                }
            }
            Shape::Whole => {
                let metadata = if_there(operator.stat(path).await)?;
                let whole_bytes = len_bytes + SEAL_BYTES as u64;
                match metadata {
                    None => return Ok(Got::Absent),
                    Some(metadata) if metadata.content_length() != whole_bytes => {
                        return Ok(Got::Damaged);
                    }
                    Some(_) => {}
                }
                let mut tail = Vec::with_capacity(SEAL_BYTES);
                let mut reads = Window::<opendal::Result<Buffer>>::new();
                let mut started = pieces(whole_bytes, PART_BYTES);
                for (begin, part_bytes) in pieces(whole_bytes, PART_BYTES) {
                    while !reads.is_full()
                        && let Some((begin, part_bytes)) = started.next()
                    {
                        let (operator, path) = (operator.clone(), path.to_owned());
                        let range = begin..begin + part_bytes;
                        reads.start(async move { operator.read_with(&path).range(range).await });
                    }
                    let Some(read) = reads.next().await else {
                        return Ok(Got::Damaged);
                    };
                    let Some(bytes) = if_there(read?)? else {
                        return Ok(Got::Absent);
                    };
                    if bytes.len() as u64 != part_bytes {
                        return Ok(Got::Damaged);
                    }
                    let bytes = bytes.to_bytes();
                    let own_bytes = len_bytes.saturating_sub(begin).min(part_bytes) as usize;
                    take(begin, &bytes[..own_bytes])?;
                    tail.extend_from_slice(&bytes[own_bytes..]);
                }
                seal = Seal::of(&tail, key, len_bytes);
            }
        }
        let sum = Sum::of_checksum(digest.finalize());
        match seal {
            Some(seal) if seal.sum == sum => Ok(Got::Loaded(sum)),
            _ => Ok(Got::Damaged),
        }
    }

    /// Removes an object of this length.
    pub(super) async fn remove(
        self,
        operator: &Operator,
        path: &str,
        len_bytes: u64,
    ) -> Result<(), Fault> {
        // The seal first: without it nothing is found.
        if_there(operator.delete(path).await)?;
        if self == Shape::Pieces {
            for number in 0..len_bytes.div_ceil(PIECE_BYTES) {
                if_there(operator.delete(&piece_path(path, number)).await)?;
            }
        }
        Ok(())
    }
}

type FoundOne = (usize, Result<Option<u64>, Fault>);

async fn take_found(tasks: &mut JoinSet<FoundOne>, found: &mut [Option<u64>]) -> Result<(), Fault> {
    let Some(ended) = tasks.join_next().await else {
        return Ok(());
    };
    let (place, result) = ended.map_err(|_| Fault::error("a task panicked"))?;
    found[place] = result?;
    Ok(())
}

fn piece_path(path: &str, number: u64) -> String {
    format!("{path}.{number}")
}

/// The seal of what was copied out. A sum from the index stands for what was committed: when the bytes are others by now,
/// a load shall find out.
fn seal_of(object: &StoreObject, digest: Digest) -> [u8; SEAL_BYTES] {
    Seal {
        key: object.key,
        len_bytes: object.source.len_bytes,
        sum: object
            .sum
            .unwrap_or_else(|| Sum::of_checksum(digest.finalize())),
    }
    .to_bytes()
}
