//! One connection of the `redis` crate, over which commands go out without waiting for the answers to those before them.
//!
//! The crate connects, logs in, speaks TLS and RESP and moves the bytes, driven by the thread that waits here for an answer.
//! What is added: a value is copied out of the payload where the crate packs it, and summed on the way; answers are taken in
//! the order of their commands; and every wait has the [`Limit`] of its exchange.
//!
//! A connection on which anything failed but an answer that says no is not used again.

use std::collections::VecDeque;
use std::io::{self, Write as _};

use crc_fast::Digest;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, RedisError, RedisResult, RedisWrite as _, Value};
use tokio::task::JoinHandle;

use super::LOOKUP_WINDOW;
use crate::tiers::PayloadRange;
use crate::tiers::remote::waiting::{Background, Cut, Limit};
use crate::workers::PayloadBytes;

/// Why something did not work.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The server says no; the connection goes on.
    Refused(String),
    /// The server closed the connection.
    Closed(String),
    /// The connection is of no use for another reason, or there is none.
    Lost(String),
    /// It was given up.
    Cut(Cut),
}

impl From<RedisError> for Trouble {
    fn from(error: RedisError) -> Trouble {
        // In one line: an error of the crate's parser has several.
        let sentence = error.to_string().replace('\n', " ");
        if error.is_connection_dropped() && !error.is_connection_refusal() {
            Trouble::Closed(format!("the server closed the connection: {sentence}"))
        } else {
            Trouble::Lost(sentence)
        }
    }
}

/// A command that is on its way: its answer, and its memory if it has a value.
type OnItsWay = JoinHandle<(RedisResult<Value>, Option<Cmd>)>;

/// A connection.
pub(super) struct Connection {
    redis: MultiplexedConnection,
    limit: Limit,
    /// Commands whose answers are not taken, the oldest first.
    owed: VecDeque<OnItsWay>,
    /// Memory of values that were sent, to be used again.
    values: Vec<Cmd>,
    is_lost: bool,
    runtime: Background,
}

impl Connection {
    /// Connects and logs in.
    pub(super) fn open(client: &Client, limit: Limit) -> Result<Connection, Trouble> {
        let runtime = Background::start(None).map_err(|fault| Trouble::Lost(fault.sentence))?;
        // The limit is that of the exchange; the channel to the crate's own task takes what is asked for at a time.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(LOOKUP_WINDOW);
        let redis = runtime
            .wait(
                &limit,
                client.get_multiplexed_async_connection_with_config(&config),
            )
            .map_err(Trouble::Cut)??;
        Ok(Connection {
            redis,
            limit,
            owed: VecDeque::new(),
            values: Vec::new(),
            is_lost: false,
            runtime,
        })
    }

    /// Until when the next exchange may take.
    pub(super) fn set_limit(&mut self, limit: Limit) {
        self.limit = limit;
    }

    /// Whether nothing is under way, so that another exchange may begin.
    pub(super) fn is_quiet(&self) -> bool {
        !self.is_lost && self.owed.is_empty()
    }

    /// Adds a command, which goes out when an answer is waited for.
    pub(super) fn command(&mut self, words: &[&[u8]]) {
        let mut command = Cmd::new();
        for word in words {
            command.arg(*word);
        }
        self.start(command, false);
    }

    /// Asks for `len_bytes` of what is stored under `path`, from `begin` on; answered with what is there of them.
    pub(super) fn ask(&mut self, path: &str, begin: u64, len_bytes: u64) {
        let (first, last) = (begin.to_string(), (begin + len_bytes - 1).to_string());
        self.command(&[
            b"GETRANGE",
            path.as_bytes(),
            first.as_bytes(),
            last.as_bytes(),
        ]);
    }

    /// Stores bytes of the payload under `path`, summed on the way if `digest` is there.
    pub(super) fn set(
        &mut self,
        path: &str,
        payload: &PayloadBytes,
        source: PayloadRange,
        mut digest: Option<&mut Digest>,
    ) -> Result<(), Trouble> {
        let mut command = self.values.pop().unwrap_or_default();
        command.clear();
        command.arg("SET").arg(path);
        command.reserve_space_for_args([source.len_bytes as usize]);
        let mut value = command.writer_for_next_arg();
        let mut written = Ok(());
        let copied = payload.copy_out(source.offset_bytes, source.len_bytes, |bytes| {
            if let Some(digest) = &mut digest {
                digest.update(bytes);
            }
            if written.is_ok() {
                written = value.write_all(bytes);
            }
        });
        drop(value);
        copied
            .map_err(io::Error::from)
            .and(written)
            .map_err(|error| Trouble::Lost(format!("copying an object failed: {error}")))?;
        self.start(command, true);
        Ok(())
    }

    fn start(&mut self, command: Cmd, is_value: bool) {
        let mut redis = self.redis.clone();
        // Each task gives its command to the crate's own one when it begins: their order is that on the wire.
        self.owed.push_back(self.runtime.spawn(async move {
            let answer = redis.send_packed_command(&command).await;
            (answer, is_value.then_some(command))
        }));
    }

    /// The next answer.
    fn answer(&mut self) -> Result<Value, Trouble> {
        let Some(oldest) = self.owed.pop_front() else {
            return Err(Trouble::Lost("nothing was asked".to_owned()));
        };
        let answer = match self.runtime.wait(&self.limit, oldest) {
            Ok(Ok((answer, value))) => {
                self.values.extend(value);
                answer.map_err(Trouble::from)
            }
            Ok(Err(_)) => Err(Trouble::Lost("a task panicked".to_owned())),
            Err(cut) => Err(Trouble::Cut(cut)),
        };
        self.is_lost |= answer.is_err();
        match answer? {
            Value::ServerError(error) => Err(Trouble::Refused(format!(
                "{} {}",
                error.code(),
                error.details().unwrap_or_default()
            ))),
            value => Ok(value),
        }
    }

    /// Takes answers until `left` are owed; the first that says no is the result.
    pub(super) fn settle(&mut self, left: usize) -> Result<(), Trouble> {
        let mut settled = Ok(());
        while self.owed.len() > left {
            match self.answer() {
                Ok(_) => {}
                Err(Trouble::Refused(sentence)) => {
                    settled = settled.and(Err(Trouble::Refused(sentence)));
                }
                Err(trouble) => return Err(trouble),
            }
        }
        settled
    }

    /// The bytes that were asked for; None if there is nothing of that name.
    pub(super) fn value(&mut self) -> Result<Option<Vec<u8>>, Trouble> {
        match self.answer()? {
            Value::Nil => Ok(None),
            Value::BulkString(bytes) => Ok(Some(bytes)),
            _ => {
                self.is_lost = true;
                Err(Trouble::Lost(
                    "the server answered a question for bytes with something else".to_owned(),
                ))
            }
        }
    }
}
