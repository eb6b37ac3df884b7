//! Objects in a bucket, through Apache OpenDAL: one each with its seal at the end, in parts when it is longer than a part.
//!
//! Each thread of the tier waits here for the future of one object; the requests themselves are tasks of the tier's own tokio
//! runtime, which hold private bytes only and are given up with the future. OpenDAL wants slices, so bytes go through private
//! copies of one part each, summed where they are copied; a part is fetched from the payload once. At most [`WINDOW`] parts of
//! an object are on their way at a time, so the private memory of a tier is bounded by threads x window x part.

use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;

use crc_fast::{CrcAlgorithm, Digest};
use opendal::services::S3;
use opendal::{Buffer, ErrorKind, Operator};
use tokio::task::{JoinHandle, JoinSet};

use hostkv_shm_protocol::sum::Sum;

use super::waiting::{Background, Ending};
use super::{Objects, PROBE, first_line, pieces, seal_of, unusable};
use crate::tiers::backend::{Fault, Got, Put};
use crate::tiers::key::TierKey;
use crate::tiers::seal::{SEAL_BYTES, Seal};
use crate::tiers::spec::S3Spec;
use crate::tiers::{PayloadRange, StoreObject};
use crate::workers::PayloadBytes;

/// A part of an object, which must have 5 MiB at least.
const PART_BYTES: u64 = 8 << 20;
/// Parts of one object that are on their way at a time.
const WINDOW: usize = 4;
/// Keys of one lookup that are asked for at a time.
const LOOKUP_WINDOW: usize = 16;
/// Threads of one tier's runtime.
const RUNTIME_THREADS: usize = 2;

/// An opened bucket.
pub(super) struct Bucket {
    runtime: Background,
    operator: Operator,
    prefix: String,
    payload: PayloadBytes,
    timeout: Duration,
    ending: Ending,
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

/// What an error says, in one line.
fn sentence_of(error: &opendal::Error) -> String {
    error.to_string().replace('\n', " ")
}

fn fault_of(error: &opendal::Error) -> Fault {
    let sentence = sentence_of(error);
    // MinIO and Ceph beyond their disks or quotas: OpenDAL has no kind for it.
    let is_full = ["StorageFull", "QuotaExceeded"]
        .iter()
        .any(|word| sentence.contains(word));
    if is_full {
        return Fault::full(sentence);
    }
    Fault::error(sentence)
}

/// Nothing there is an answer, no error.
fn if_there<T>(result: opendal::Result<T>) -> Result<Option<T>, Fault> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fault_of(&error)),
    }
}

impl Bucket {
    /// Finds the bucket, writes and reads.
    pub(super) fn open(
        spec: &S3Spec,
        timeout: Duration,
        payload: PayloadBytes,
    ) -> Result<Bucket, Fault> {
        let mut builder = S3::default().bucket(&spec.bucket);
        if let Some(endpoint) = &spec.endpoint {
            builder = builder.endpoint(endpoint);
        }
        let has_region = ["AWS_REGION", "AWS_DEFAULT_REGION"]
            .iter()
            .any(|name| std::env::var_os(name).is_some());
        match &spec.region {
            Some(region) => builder = builder.region(region),
            None if !has_region => builder = builder.region("us-east-1"),
            None => {}
        }
        if let (Some(id), Some(file)) = (&spec.access_key_id, &spec.secret_access_key_file) {
            builder = builder
                .access_key_id(id)
                .secret_access_key(&first_line(file)?)
                .disable_config_load();
        }
        let place = format!(
            "bucket {:?} at {}",
            spec.bucket,
            spec.endpoint.as_deref().unwrap_or("Amazon S3")
        );
        let remedy = "check endpoint, region, credentials and that the bucket exists";
        let operator = Operator::new(builder)
            .map_err(|error| unusable(&place, &sentence_of(&error), remedy))?;
        Bucket::over(operator, &spec.prefix, timeout, payload)
            .map_err(|fault| unusable(&place, &fault.sentence, remedy))
    }

    fn over(
        operator: Operator,
        prefix: &str,
        timeout: Duration,
        payload: PayloadBytes,
    ) -> Result<Bucket, Fault> {
        opendal::install_default();
        let bucket = Bucket {
            runtime: Background::start(Some(RUNTIME_THREADS))?,
            operator,
            prefix: prefix.to_owned(),
            payload,
            timeout,
            ending: Ending::new(),
        };
        let path = format!("{prefix}{PROBE}");
        bucket.in_time(async {
            let written = bucket.operator.write(&path, PROBE.as_bytes()).await;
            written.map_err(|error| fault_of(&error))?;
            let read = bucket.operator.read(&path).await;
            read.map_err(|error| fault_of(&error)).map(drop)
        })?;
        Ok(bucket)
    }

    /// Waits for work until the deadline or the daemon's end.
    fn in_time<T>(&self, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let limit = self.ending.or_within(self.timeout);
        self.runtime
            .wait(&limit, work)
            .unwrap_or_else(|cut| Err(cut.fault(self.timeout)))
    }

    fn path_of(&self, key: &TierKey) -> String {
        format!("{}{key}", self.prefix)
    }

    async fn write(&self, path: &str, object: &StoreObject) -> Result<(), Fault> {
        let source = object.source;
        let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
        let mut copy = |begin: u64, len_bytes: u64| {
            let bytes = self
                .payload
                .private_copy(source.offset_bytes + begin, len_bytes)
                .map_err(|errno| Fault::error(format!("copying an object failed: {errno}")))?;
            digest.update(&bytes);
            Ok(Buffer::from(bytes))
        };
        let opened = self
            .operator
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
        Ok(())
    }

    async fn read(
        &self,
        path: &str,
        key: &TierKey,
        destination: PayloadRange,
    ) -> Result<Got, Fault> {
        let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
        let mut take = |begin: u64, bytes: &[u8]| {
            digest.update(bytes);
            self.payload
                .copy_in(destination.offset_bytes + begin, bytes)
                .map_err(|errno| Fault::error(format!("copying an object failed: {errno}")))
        };
        let len_bytes = destination.len_bytes;
        let metadata = if_there(self.operator.stat(path).await)?;
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
                let (operator, path) = (self.operator.clone(), path.to_owned());
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
        let sum = Sum::of_checksum(digest.finalize());
        match Seal::of(&tail, key, len_bytes) {
            Some(seal) if seal.sum == sum => Ok(Got::Loaded(sum)),
            _ => Ok(Got::Damaged),
        }
    }
}

impl Objects for Bucket {
    fn find(&self, keys: &[TierKey]) -> Result<Vec<Option<u64>>, Fault> {
        self.in_time(async {
            let mut found = vec![None; keys.len()];
            let mut tasks = JoinSet::new();
            for (place, key) in keys.iter().enumerate() {
                if tasks.len() >= LOOKUP_WINDOW {
                    take_found(&mut tasks, &mut found).await?;
                }
                let (operator, path) = (self.operator.clone(), self.path_of(key));
                tasks.spawn(async move { (place, find_one(&operator, &path).await) });
            }
            while !tasks.is_empty() {
                take_found(&mut tasks, &mut found).await?;
            }
            Ok(found)
        })
    }

    fn put(&self, object: &StoreObject) -> Result<Put, Fault> {
        let path = self.path_of(&object.key);
        self.in_time(async {
            if find_one(&self.operator, &path).await? == Some(object.source.len_bytes) {
                return Ok(Put::Known);
            }
            if let Err(fault) = self.write(&path, object).await {
                let _ = self.operator.delete(&path).await;
                return Err(fault);
            }
            Ok(Put::Stored)
        })
    }

    fn get(&self, key: &TierKey, destination: PayloadRange) -> Result<Got, Fault> {
        let path = self.path_of(key);
        self.in_time(async {
            let got = self.read(&path, key, destination).await?;
            if !matches!(got, Got::Loaded(_)) {
                if_there(self.operator.delete(&path).await)?;
            }
            Ok(got)
        })
    }

    fn remove(&self, key: &TierKey, _len_bytes: Option<u64>) -> Result<(), Fault> {
        let path = self.path_of(key);
        self.in_time(async { if_there(self.operator.delete(&path).await).map(drop) })
    }

    fn probe(&self) -> Result<(), Fault> {
        let path = format!("{}{PROBE}", self.prefix);
        self.in_time(async { if_there(self.operator.read(&path).await).map(drop) })
    }

    fn end(&self) {
        self.ending.tell();
    }
}

async fn find_one(operator: &Operator, path: &str) -> Result<Option<u64>, Fault> {
    let metadata = if_there(operator.stat(path).await)?;
    Ok(metadata.and_then(|m| m.content_length().checked_sub(SEAL_BYTES as u64)))
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
