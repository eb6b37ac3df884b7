//! The tiers `resp` and `s3`: stores on other hosts, through Apache OpenDAL.
//!
//! The threads of the tier call it as every other tier; each waits here for what it asked, while the requests themselves run
//! on the tier's own tokio runtime. OpenDAL wants slices, so bytes go through private copies of one piece each, summed where
//! they are copied; a piece is fetched from the payload once. At most [`WINDOW`] pieces of an object are on their way at a
//! time, so the private memory of a tier is bounded by threads x window x piece.
//!
//! ```text
//!   resp   PREFIX HEX        the seal, written last          s3   PREFIX HEX   the object, then the seal
//!          PREFIX HEX.N      piece N of the object
//! ```
//!
//! Redis gets pieces since a value of it is sent whole and answered whole: the client gives an answer half a second. S3 gets
//! one object, in parts when it is longer than a part.
//!
//! The capacity is this daemon's own: it removes what it stored and used last itself, and knows nothing of what others
//! store there, or of what it stored before a restart. A store that is shared bounds itself (`maxmemory` with
//! `allkeys-lru`, lifecycle rules); what it removed is a miss.
//!
//! **The lock** guards the ledger of what was stored. Nothing waits while it is held.

mod shapes;

use std::fs;
use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use opendal::services::{Redis, S3};
use opendal::{ErrorKind, Operator};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use super::backend::{Backend, Fault, Got, Put, Usage};
use super::key::TierKey;
use super::lru::Lru;
use super::seal::SEAL_BYTES;
use super::spec::{Password, RespPlace, RespSpec, S3Spec};
use super::{PayloadRange, StoreObject};
use crate::workers::PayloadBytes;

use shapes::Shape;

/// Pieces of one object that are on their way at a time.
const WINDOW: usize = 4;
/// Keys of one lookup that are asked for at a time.
const LOOKUP_WINDOW: usize = 16;
/// Threads of one tier's runtime.
const RUNTIME_THREADS: usize = 2;
/// What a tier writes and reads to see that it may.
const PROBE: &str = "hostkv-probe";

/// An opened tier.
pub(super) struct Remote {
    /// None only while it is dropped.
    runtime: Option<Runtime>,
    operator: Operator,
    shape: Shape,
    prefix: String,
    payload: PayloadBytes,
    timeout: Duration,
    capacity_bytes: Option<u64>,
    ledger: Mutex<Ledger>,
    began: Instant,
    ending: watch::Sender<bool>,
}

#[derive(Default)]
struct Ledger {
    lru: Lru,
    evicted_keys_count: u64,
    evicted_bytes: u64,
}

/// Connects to a RESP server, logs in, writes and reads.
pub(super) fn open_resp(
    spec: &RespSpec,
    timeout: Duration,
    payload: PayloadBytes,
) -> Result<Remote, Fault> {
    let place = match &spec.place {
        RespPlace::Tcp { host, port } if spec.is_tls => format!("rediss://{host}:{port}"),
        RespPlace::Tcp { host, port } => format!("tcp://{host}:{port}"),
        // The client takes the path alone, but wants a host before it.
        RespPlace::Unix(path) => format!("unix://localhost{}", path.display()),
    };
    let mut builder = Redis::default()
        .endpoint(&place)
        .connection_pool_max_size(8 * WINDOW);
    if let Some(username) = &spec.username {
        builder = builder.username(username);
    }
    match &spec.password {
        Some(Password::Text(text)) => builder = builder.password(text),
        Some(Password::File(path)) => builder = builder.password(&first_line(path)?),
        None => {}
    }
    let remedy = "check host, port, username and password";
    let operator =
        Operator::new(builder).map_err(|error| unusable(&place, &sentence_of(&error), remedy))?;
    Remote::open(
        operator,
        Shape::Pieces,
        &spec.prefix,
        spec.capacity_bytes,
        timeout,
        payload,
    )
    .map_err(|fault| unusable(&place, &fault.sentence, remedy))
}

/// Finds the bucket, writes and reads.
pub(super) fn open_s3(
    spec: &S3Spec,
    timeout: Duration,
    payload: PayloadBytes,
) -> Result<Remote, Fault> {
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
    let operator =
        Operator::new(builder).map_err(|error| unusable(&place, &sentence_of(&error), remedy))?;
    Remote::open(
        operator,
        Shape::Whole,
        &spec.prefix,
        spec.capacity_bytes,
        timeout,
        payload,
    )
    .map_err(|fault| unusable(&place, &fault.sentence, remedy))
}

fn unusable(place: &str, sentence: &str, remedy: &str) -> Fault {
    Fault::error(format!(
        "{place} can't be used: {sentence}; {remedy}, or let hostkvd start without it by \"required\": false"
    ))
}

fn first_line(path: &Path) -> Result<String, Fault> {
    let text = fs::read_to_string(path).map_err(|error| {
        Fault::error(format!(
            "reading the secret in {path:?} failed: {error}; give a file that hostkvd may read"
        ))
    })?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(Fault::error(format!(
            "the secret in {path:?} is empty; write it into the first line"
        ))),
    }
}

/// What an error says, in one line.
fn sentence_of(error: &opendal::Error) -> String {
    error.to_string().replace('\n', " ")
}

fn fault_of(error: &opendal::Error) -> Fault {
    let sentence = sentence_of(error);
    // Redis beyond `maxmemory`, MinIO and Ceph beyond their disks or quotas: OpenDAL has no kind for it.
    let is_full = ["OOM", "StorageFull", "QuotaExceeded"]
        .iter()
        .any(|word| sentence.contains(word));
    if is_full {
        return Fault::full(sentence);
    }
    Fault::error(sentence)
}

impl Remote {
    fn open(
        operator: Operator,
        shape: Shape,
        prefix: &str,
        capacity_bytes: Option<u64>,
        timeout: Duration,
        payload: PayloadBytes,
    ) -> Result<Remote, Fault> {
        opendal::install_default();
        let runtime = Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name(super::NET_THREAD)
            .enable_all()
            .build()
            .map_err(|error| Fault::error(format!("starting threads failed: {error}")))?;
        let remote = Remote {
            runtime: Some(runtime),
            operator,
            shape,
            prefix: prefix.to_owned(),
            payload,
            timeout,
            capacity_bytes,
            ledger: Mutex::default(),
            began: Instant::now(),
            ending: watch::Sender::new(false),
        };
        let path = format!("{prefix}{PROBE}");
        remote.in_time(async {
            let written = remote.operator.write(&path, PROBE.as_bytes()).await;
            written.map_err(|error| fault_of(&error))?;
            let read = remote.operator.read(&path).await;
            read.map_err(|error| fault_of(&error)).map(drop)
        })?;
        Ok(remote)
    }

    /// Waits for work until the deadline or the daemon's end.
    fn in_time<T>(&self, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let Some(runtime) = &self.runtime else {
            return Err(Fault::error("the tier is closed"));
        };
        let mut ending = self.ending.subscribe();
        runtime.block_on(async {
            let mut work = pin!(tokio::time::timeout(self.timeout, work));
            let mut ending = pin!(ending.wait_for(|is_ending| *is_ending));
            poll_fn(|context| {
                if let Poll::Ready(result) = work.as_mut().poll(context) {
                    return Poll::Ready(result.unwrap_or_else(|_| {
                        Err(Fault::timeout(format!(
                            "no answer within {} ms",
                            self.timeout.as_millis()
                        )))
                    }));
                }
                match ending.as_mut().poll(context) {
                    Poll::Ready(_) => Poll::Ready(Err(Fault::error("the daemon ends"))),
                    Poll::Pending => Poll::Pending,
                }
            })
            .await
        })
    }

    fn path_of(&self, key: &TierKey) -> String {
        format!("{}{key}", self.prefix)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX >> 1)
    }

    /// Notes what is there now, and takes what is too much out of the ledger.
    fn note(&self, key: &TierKey, len_bytes: u64) -> Vec<(TierKey, u64)> {
        let now_ns = self.now_ns();
        let mut ledger = self.ledger();
        ledger
            .lru
            .insert(*key, len_bytes, len_bytes + SEAL_BYTES as u64, now_ns);
        let mut victims = Vec::new();
        while let Some(capacity_bytes) = self.capacity_bytes
            && ledger.lru.used_bytes() > capacity_bytes
            && let Some((key, slot)) = ledger.lru.take_coldest()
        {
            ledger.evicted_keys_count += 1;
            ledger.evicted_bytes += slot.used_bytes;
            victims.push((key, slot.len_bytes));
        }
        victims
    }
}

impl Backend for Remote {
    fn find(&self, keys: &[TierKey]) -> Result<Vec<Option<u64>>, Fault> {
        let paths: Vec<String> = keys.iter().map(|key| self.path_of(key)).collect();
        self.in_time(self.shape.find(&self.operator, keys, &paths))
    }

    fn put(&self, object: &StoreObject) -> Result<Put, Fault> {
        let key = &object.key;
        let path = self.path_of(key);
        let len_bytes = object.source.len_bytes;
        let put = self.in_time(async {
            let known = self
                .shape
                .find(&self.operator, &[*key], std::slice::from_ref(&path))
                .await?;
            if known == [Some(len_bytes)] {
                return Ok(Put::Known);
            }
            let put = self.shape.put(&self.operator, &path, object, &self.payload);
            if let Err(fault) = put.await {
                // Pieces without a seal are found by nobody and would stay.
                let _ = self.shape.remove(&self.operator, &path, len_bytes).await;
                return Err(fault);
            }
            Ok(Put::Stored)
        })?;
        if put == Put::Known {
            let now_ns = self.now_ns();
            self.ledger().lru.touch(key, now_ns);
            return Ok(put);
        }
        for (victim, len_bytes) in self.note(key, len_bytes) {
            let path = self.path_of(&victim);
            // What can't be removed now stays until the store removes it.
            let _ = self.in_time(self.shape.remove(&self.operator, &path, len_bytes));
        }
        Ok(put)
    }

    fn get(&self, key: &TierKey, destination: PayloadRange) -> Result<Got, Fault> {
        let path = self.path_of(key);
        let got = self.in_time(async {
            let got = self
                .shape
                .get(&self.operator, &path, key, destination, &self.payload)
                .await?;
            if !matches!(got, Got::Loaded(_)) {
                // What is left of it would keep the next store from putting it there again.
                self.shape
                    .remove(&self.operator, &path, destination.len_bytes)
                    .await?;
            }
            Ok(got)
        })?;
        let now_ns = self.now_ns();
        let mut ledger = self.ledger();
        match got {
            Got::Loaded(_) => ledger.lru.touch(key, now_ns),
            Got::Absent | Got::Damaged => drop(ledger.lru.remove(key)),
        }
        Ok(got)
    }

    fn remove(&self, key: &TierKey) -> Result<(), Fault> {
        let path = self.path_of(key);
        let known = self.ledger().lru.remove(key);
        self.in_time(async {
            let len_bytes = match known {
                Some(slot) => Some(slot.len_bytes),
                None => {
                    let paths = std::slice::from_ref(&path);
                    let found = self.shape.find(&self.operator, &[*key], paths).await?;
                    found[0]
                }
            };
            match len_bytes {
                Some(len_bytes) => self.shape.remove(&self.operator, &path, len_bytes).await,
                None => Ok(()),
            }
        })
    }

    fn probe(&self) -> Result<(), Fault> {
        let path = format!("{}{PROBE}", self.prefix);
        self.in_time(async {
            match self.operator.read(&path).await {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(fault_of(&error)),
                _ => Ok(()),
            }
        })
    }

    fn usage(&self) -> Usage {
        let ledger = self.ledger();
        Usage {
            used_bytes: ledger.lru.used_bytes(),
            objects: ledger.lru.count() as u64,
            capacity_bytes: self.capacity_bytes,
            evicted_keys_count: ledger.evicted_keys_count,
            evicted_bytes: ledger.evicted_bytes,
        }
    }

    fn end(&self) {
        self.ending.send_replace(true);
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A name look-up that hangs holds nobody up.
            runtime.shutdown_background();
        }
    }
}
