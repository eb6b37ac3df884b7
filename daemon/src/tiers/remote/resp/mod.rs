//! Objects in Redis, Valkey or what else speaks RESP: in pieces under names of their own, and the seal under the object's.
//!
//! A value of Redis is sent and answered whole, and nothing else of it is served meanwhile: hence pieces. The thread of the
//! tier that has an object talks over one connection, which it takes from those that are idle or makes. Commands go out
//! without waiting for the answers to those before them, as far as nothing depends on those; at most [`WINDOW`] pieces of an
//! object are on their way, so that the server keeps not much of it in its buffers.
//!
//! ```text
//!   store   GET seal ──> not there ──> SET piece 0, SET piece 1, ... SET seal ──> PERSIST and EXISTS of all
//!   load    GET seal, GET piece 0, GET piece 1, ...
//!   find    GET seal, GET seal, ...
//! ```
//!
//! Redis carries out the commands of one connection in their order, so a seal is never there before its pieces. A connection
//! that the server closed while it was idle is replaced, and what was asked over it is asked again, once.
//!
//! Pieces and seal expire until all of them are there, so that nothing stays of a store that was cut off, as by a daemon's
//! death. Where an object is stored twice at a time, by two hosts or by one that came too late the first time, what is cut
//! off takes the other with it; that is a miss, and whoever finds a seal without pieces removes it.
//!
//! **The lock** guards the idle connections. Nothing waits while it is held.

mod connection;
mod server;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crc_fast::{CrcAlgorithm, Digest};

use hostkv_shm_protocol::sum::Sum;

use super::waiting::Ending;
use super::{Objects, PROBE, first_line, pieces, seal_of, unusable};
use crate::tiers::backend::{Fault, Got, Put};
use crate::tiers::key::TierKey;
use crate::tiers::seal::Seal;
use crate::tiers::spec::{Password, RespPlace, RespSpec};
use crate::tiers::{PayloadRange, StoreObject};
use crate::workers::PayloadBytes;

use connection::{Connection, Trouble};
use server::Server;

/// A value of Redis.
const PIECE_BYTES: u64 = 2 << 20;
/// How long what is not whole stays beyond the longest store.
const OUTLIVES: Duration = Duration::from_secs(60);
/// Pieces of one object that are on their way at a time.
const WINDOW: usize = 2;
/// Keys of one lookup that are asked for at a time.
const LOOKUP_WINDOW: usize = 64;

/// A server that was reached.
pub(super) struct Resp {
    server: Server,
    prefix: String,
    payload: PayloadBytes,
    timeout: Duration,
    idle: Mutex<Vec<Connection>>,
    ending: Ending,
}

impl Resp {
    /// Connects, logs in, writes and reads.
    pub(super) fn open(
        spec: &RespSpec,
        timeout: Duration,
        payload: PayloadBytes,
    ) -> Result<Resp, Fault> {
        let name = match &spec.place {
            RespPlace::Tcp { host, port } if spec.is_tls => format!("rediss://{host}:{port}"),
            RespPlace::Tcp { host, port } => format!("tcp://{host}:{port}"),
            RespPlace::Unix(path) => format!("unix://{}", path.display()),
        };
        let password = match &spec.password {
            Some(Password::Text(text)) => Some(text.clone()),
            Some(Password::File(path)) => Some(first_line(path)?),
            None => None,
        };
        let unusable =
            |sentence: &str| unusable(&name, sentence, "check host, port, username and password");
        let server = Server::of(spec, password).map_err(|error| unusable(&error.to_string()))?;
        let resp = Resp {
            server,
            prefix: spec.prefix.clone(),
            payload,
            timeout,
            idle: Mutex::default(),
            ending: Ending::new(),
        };
        let path = format!("{}{PROBE}", resp.prefix);
        resp.exchange(|connection| {
            connection.command(&[b"SET", path.as_bytes(), PROBE.as_bytes()]);
            connection.command(&[b"GET", path.as_bytes()]);
            connection.settle(0)
        })
        .map_err(|fault| unusable(&fault.sentence))?;
        Ok(resp)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path_of(&self, key: &TierKey) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Does `work` over a connection, within the deadline. Over one that was idle it may begin once more from the start.
    fn exchange<T>(
        &self,
        mut work: impl FnMut(&mut Connection) -> Result<T, Trouble>,
    ) -> Result<T, Fault> {
        let limit = self.ending.or_within(self.timeout);
        let mut may_be_idle = true;
        loop {
            let idle = may_be_idle.then(|| self.idle().pop()).flatten();
            let was_idle = idle.is_some();
            let connection = match idle {
                Some(mut connection) => {
                    connection.set_limit(limit.clone());
                    Ok(connection)
                }
                None => Connection::open(&self.server, limit.clone()),
            };
            let result = connection.and_then(|mut connection| {
                let result = work(&mut connection);
                if connection.is_quiet() {
                    self.idle().push(connection);
                }
                result
            });
            match result {
                // The others were made before the server closed this one.
                Err(Trouble::Closed(_)) if was_idle => {
                    self.idle().clear();
                    may_be_idle = false;
                }
                other => return other.map_err(|trouble| self.fault_of(trouble)),
            }
        }
    }

    fn fault_of(&self, trouble: Trouble) -> Fault {
        match trouble {
            // Redis beyond `maxmemory`.
            Trouble::Refused(sentence) if sentence.starts_with("OOM") => Fault::full(sentence),
            Trouble::Evicted => {
                Fault::full("the server evicted a part of an object before all of it was there")
            }
            Trouble::Refused(sentence) | Trouble::Closed(sentence) | Trouble::Lost(sentence) => {
                Fault::error(sentence)
            }
            Trouble::Cut(cut) => cut.fault(self.timeout),
        }
    }

    /// Sends an object that is not there.
    fn send(
        &self,
        connection: &mut Connection,
        path: &str,
        object: &StoreObject,
    ) -> Result<(), Trouble> {
        let source = object.source;
        let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
        for (number, (begin, len_bytes)) in (0..).zip(pieces(source.len_bytes, PIECE_BYTES)) {
            connection.settle(WINDOW - 1)?;
            let piece = PayloadRange {
                offset_bytes: source.offset_bytes + begin,
                len_bytes,
            };
            let is_summed = object.sum.is_none();
            connection.set(
                &piece_path(path, number),
                &self.payload,
                piece,
                self.expiry(),
                is_summed.then_some(&mut digest),
            )?;
        }
        let expiry_s = self.expiry().as_secs().to_string();
        let seal = seal_of(object, digest);
        connection.command(&[b"SET", path.as_bytes(), &seal, b"EX", expiry_s.as_bytes()]);
        connection.settle(0)?;
        keep(connection, path, source.len_bytes)
    }

    /// How long what is stored stays if nothing makes it.
    fn expiry(&self) -> Duration {
        self.timeout + OUTLIVES
    }

    /// Takes an object; answers may be left over.
    fn receive(
        &self,
        connection: &mut Connection,
        path: &str,
        key: &TierKey,
        destination: PayloadRange,
    ) -> Result<Got, Trouble> {
        let len_bytes = destination.len_bytes;
        let mut names = (0..len_bytes.div_ceil(PIECE_BYTES)).map(|number| piece_path(path, number));
        connection.command(&[b"GET", path.as_bytes()]);
        for name in names.by_ref().take(WINDOW) {
            connection.command(&[b"GET", name.as_bytes()]);
        }
        let Some(bytes) = connection.value()? else {
            return Ok(Got::Absent);
        };
        let Some(seal) = Seal::of(&bytes, key, len_bytes) else {
            return Ok(Got::Damaged);
        };
        let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
        for (begin, len_bytes) in pieces(len_bytes, PIECE_BYTES) {
            let piece = PayloadRange {
                offset_bytes: destination.offset_bytes + begin,
                len_bytes,
            };
            match connection.take(&self.payload, piece, &mut digest)? {
                None => return Ok(Got::Absent),
                Some(there_bytes) if there_bytes != len_bytes => return Ok(Got::Damaged),
                Some(_) => {}
            }
            if let Some(name) = names.next() {
                connection.command(&[b"GET", name.as_bytes()]);
            }
        }
        let sum = Sum::of_checksum(digest.finalize());
        Ok(match seal.sum == sum {
            true => Got::Loaded(sum),
            false => Got::Damaged,
        })
    }
}

impl Objects for Resp {
    fn find(&self, keys: &[TierKey]) -> Result<Vec<Option<u64>>, Fault> {
        self.exchange(|connection| {
            let mut found = Vec::with_capacity(keys.len());
            for keys in keys.chunks(LOOKUP_WINDOW) {
                for key in keys {
                    connection.command(&[b"GET", self.path_of(key).as_bytes()]);
                }
                for key in keys {
                    found.push(len_of(connection, key)?);
                }
            }
            Ok(found)
        })
    }

    fn put(&self, object: &StoreObject) -> Result<Put, Fault> {
        let path = self.path_of(&object.key);
        let len_bytes = object.source.len_bytes;
        self.exchange(|connection| {
            connection.command(&[b"GET", path.as_bytes()]);
            if len_of(connection, &object.key)? == Some(len_bytes) {
                return Ok(Put::Known);
            }
            let sent = self.send(connection, &path, object);
            if matches!(sent, Err(Trouble::Refused(_) | Trouble::Evicted)) {
                // What is told is why it was not stored, whatever comes of this; what it leaves expires.
                let _ = connection.settle(0);
                if connection.is_quiet() {
                    let _ = remove(connection, &path, len_bytes);
                }
            }
            sent.map(|()| Put::Stored)
        })
    }

    fn get(&self, key: &TierKey, destination: PayloadRange) -> Result<Got, Fault> {
        let path = self.path_of(key);
        self.exchange(|connection| {
            let got = self.receive(connection, &path, key, destination)?;
            if !matches!(got, Got::Loaded(_)) {
                connection.settle(0)?;
                remove(connection, &path, destination.len_bytes)?;
            }
            Ok(got)
        })
    }

    fn remove(&self, key: &TierKey, len_bytes: Option<u64>) -> Result<(), Fault> {
        let path = self.path_of(key);
        self.exchange(|connection| {
            let len_bytes = match len_bytes {
                Some(len_bytes) => Some(len_bytes),
                None => {
                    connection.command(&[b"GET", path.as_bytes()]);
                    len_of(connection, key)?
                }
            };
            len_bytes.map_or(Ok(()), |len_bytes| remove(connection, &path, len_bytes))
        })
    }

    fn probe(&self) -> Result<(), Fault> {
        let path = format!("{}{PROBE}", self.prefix);
        self.exchange(|connection| {
            connection.command(&[b"GET", path.as_bytes()]);
            connection.settle(0)
        })
    }

    fn end(&self) {
        self.ending.tell();
    }
}

fn piece_path(path: &str, number: u64) -> String {
    format!("{path}.{number}")
}

/// The length of an object by its seal, which was asked for, if it is there.
fn len_of(connection: &mut Connection, key: &TierKey) -> Result<Option<u64>, Trouble> {
    let bytes = connection.value()?;
    let seal = bytes.and_then(|bytes| Seal::from_bytes(&bytes));
    Ok(seal
        .filter(|seal| seal.key == *key)
        .map(|seal| seal.len_bytes))
}

/// Lets an object stay that was stored to expire; whether all of it is there still.
fn keep(connection: &mut Connection, path: &str, len_bytes: u64) -> Result<(), Trouble> {
    let pieces = (0..len_bytes.div_ceil(PIECE_BYTES)).map(|number| piece_path(path, number));
    let names: Vec<String> = pieces.chain([path.to_owned()]).collect();
    for name in &names {
        connection.command(&[b"PERSIST", name.as_bytes()]);
    }
    let mut words: Vec<&[u8]> = vec![b"EXISTS"];
    words.extend(names.iter().map(|name| name.as_bytes()));
    connection.command(&words);
    connection.settle(1)?;
    // A server that evicts what expires evicts this first.
    match connection.count()? == names.len() as u64 {
        true => Ok(()),
        false => Err(Trouble::Evicted),
    }
}

/// Removes an object of this length.
fn remove(connection: &mut Connection, path: &str, len_bytes: u64) -> Result<(), Trouble> {
    // The seal first: without it nothing is found.
    connection.command(&[b"DEL", path.as_bytes()]);
    for number in 0..len_bytes.div_ceil(PIECE_BYTES) {
        connection.settle(LOOKUP_WINDOW - 1)?;
        connection.command(&[b"DEL", piece_path(path, number).as_bytes()]);
    }
    connection.settle(0)
}

#[cfg(test)]
mod tests;
