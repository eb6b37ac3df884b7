//! One connection on which RESP 2 is spoken: commands out, without waiting for the answers to those before them, and answers
//! in, in the order of their commands.
//!
//! Commands are kept until an answer is waited for or a value goes out. A value passes through a buffer that stays in the
//! cache: it is copied out of the payload, summed and sent a chunk at a time, and comes in the same way. A thread never works
//! for long between two sends, so that the tier's others have the processor before their sockets run dry. Every wait has the
//! [`Limit`] of its exchange.
//!
//! | first byte | answer |
//! |---|---|
//! | `+` | a word: it is done |
//! | `:` | a number: it is done, so often |
//! | `-` | a sentence: it is not |
//! | `$` | a length, then as many bytes and CR LF; -1: there is nothing |
//!
//! A connection on which anything failed but an answer that says no is not used again.
//!
//! Source: Redis serialization protocol specification, version 2.

use std::io;
use std::time::Duration;

use crc_fast::Digest;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use super::server::{Server, Stream};
use crate::tiers::PayloadRange;
use crate::tiers::remote::pieces;
use crate::tiers::remote::waiting::{Background, Cut, Limit};
use crate::tiers::seal::SEAL_BYTES;
use crate::workers::PayloadBytes;

/// Bytes of a value that are summed and sent, or received and summed, at a time.
const CHUNK_BYTES: u64 = 128 << 10;
/// The longest first line of an answer; sentences of errors are a few hundred bytes.
const MOST_LINE_BYTES: u64 = 64 << 10;
/// What is kept of a value that does not go to the payload.
const MOST_KEPT_BYTES: usize = SEAL_BYTES;
/// What is shown of an answer that is none.
const MOST_SHOWN_BYTES: usize = 60;
/// What is told of a server's sentence.
const MOST_TOLD_CHARS: usize = 300;

/// Why something did not work.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The server says no; the connection goes on.
    Refused(String),
    /// The server evicted a part of what is being stored; the connection goes on.
    Evicted,
    /// The server closed the connection.
    Closed(String),
    /// The connection is of no use for another reason, or there is none.
    Lost(String),
    /// It was given up.
    Cut(Cut),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => {
                Trouble::Closed(format!("the server closed the connection: {error}"))
            }
            _ => Trouble::Lost(error.to_string()),
        }
    }
}

/// A server's sentence as it is told: some give a command's words back, however long.
fn told(sentence: &[u8]) -> String {
    let sentence = String::from_utf8_lossy(sentence);
    let plain = |char: char| if char.is_control() { ' ' } else { char };
    sentence.chars().take(MOST_TOLD_CHARS).map(plain).collect()
}

/// A server that knows no such login gives its words back, the password among them: only its first word is told.
fn without_the_password(trouble: Trouble) -> Trouble {
    match trouble {
        Trouble::Refused(sentence) => Trouble::Refused(format!(
            "the server refuses the login ({})",
            sentence.split(' ').next().unwrap_or_default()
        )),
        other => other,
    }
}

/// What a server says to a command that it carried out.
enum Answer {
    /// Done.
    Done,
    /// Done, so often.
    Count(u64),
    /// This many bytes are next.
    Value(u64),
    /// There is no such value.
    Nothing,
}

/// A connection.
pub(super) struct Connection {
    stream: BufReader<Box<dyn Stream>>,
    /// What did not go out yet.
    outgoing: Vec<u8>,
    /// Commands whose answers are not taken.
    owed: usize,
    limit: Limit,
    is_lost: bool,
    runtime: Background,
}

impl Connection {
    /// Connects and logs in.
    pub(super) fn open(server: &Server, limit: Limit) -> Result<Connection, Trouble> {
        let runtime = Background::start(None).map_err(|fault| Trouble::Lost(fault.sentence))?;
        let stream = runtime
            .wait(&limit, server.connect())
            .map_err(Trouble::Cut)?
            .map_err(|error| Trouble::Lost(error.to_string()))?;
        let mut connection = Connection {
            stream: BufReader::with_capacity(CHUNK_BYTES as usize, stream),
            outgoing: Vec::new(),
            owed: 0,
            limit,
            is_lost: false,
            runtime,
        };
        if let Some(words) = server.login() {
            connection.command(&words);
            connection.settle(0).map_err(without_the_password)?;
        }
        Ok(connection)
    }

    /// Until when the next exchange may take.
    pub(super) fn set_limit(&mut self, limit: Limit) {
        self.limit = limit;
    }

    /// Whether nothing is under way, so that another exchange may begin.
    pub(super) fn is_quiet(&self) -> bool {
        !self.is_lost && self.owed == 0 && self.stream.buffer().is_empty()
    }

    /// Adds a command, which goes out when an answer is waited for.
    pub(super) fn command(&mut self, words: &[&[u8]]) {
        self.begin(words.len(), words);
    }

    /// Begins a command of so many words with these.
    fn begin(&mut self, count: usize, words: &[&[u8]]) {
        self.owed += 1;
        self.number(b'*', count as u64);
        for word in words {
            self.word(word);
        }
    }

    fn word(&mut self, word: &[u8]) {
        self.number(b'$', word.len() as u64);
        self.outgoing.extend_from_slice(word);
        self.outgoing.extend_from_slice(b"\r\n");
    }

    fn number(&mut self, kind: u8, number: u64) {
        self.outgoing.push(kind);
        self.outgoing
            .extend_from_slice(number.to_string().as_bytes());
        self.outgoing.extend_from_slice(b"\r\n");
    }

    /// Sends bytes of the payload to be stored under `path`, for so long if nothing makes them stay; summed on the way if
    /// `digest` is there.
    pub(super) fn set(
        &mut self,
        path: &str,
        payload: &PayloadBytes,
        source: PayloadRange,
        expiry: Duration,
        mut digest: Option<&mut Digest>,
    ) -> Result<(), Trouble> {
        self.begin(5, &[b"SET", path.as_bytes()]);
        self.number(b'$', source.len_bytes);
        for (begin, len_bytes) in pieces(source.len_bytes, CHUNK_BYTES) {
            let outgoing = &mut self.outgoing;
            let copied = payload.copy_out(source.offset_bytes + begin, len_bytes, |bytes| {
                if let Some(digest) = &mut digest {
                    digest.update(bytes);
                }
                outgoing.extend_from_slice(bytes);
            });
            if let Err(errno) = copied {
                return Err(self.lose(Trouble::Lost(format!("copying an object failed: {errno}"))));
            }
            self.send()?;
        }
        self.outgoing.extend_from_slice(b"\r\n");
        self.word(b"EX");
        self.word(expiry.as_secs().to_string().as_bytes());
        Ok(())
    }

    /// Sends what did not go out yet.
    fn send(&mut self) -> Result<(), Trouble> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        let (stream, outgoing) = (&mut self.stream, &self.outgoing);
        let sent = self.runtime.wait(&self.limit, async {
            stream.write_all(outgoing).await?;
            stream.flush().await
        });
        self.outgoing.clear();
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                let trouble = self.last_words().unwrap_or_else(|| error.into());
                Err(self.lose(trouble))
            }
            Err(cut) => Err(self.lose(Trouble::Cut(cut))),
        }
    }

    /// What a server said before it closed the connection.
    fn last_words(&mut self) -> Option<Trouble> {
        loop {
            match self.answer() {
                Ok(Answer::Done | Answer::Count(_) | Answer::Nothing) => {}
                Ok(Answer::Value(len_bytes)) => self.body(len_bytes, |_| Ok(())).ok()?,
                Err(Trouble::Refused(sentence)) => return Some(Trouble::Lost(sentence)),
                Err(_) => return None,
            }
        }
    }

    fn lose(&mut self, trouble: Trouble) -> Trouble {
        self.is_lost = true;
        trouble
    }

    fn strange(&mut self, line: &[u8]) -> Trouble {
        let shown = &line[..line.len().min(MOST_SHOWN_BYTES)];
        self.lose(Trouble::Lost(format!(
            "the server's answer begins with \"{}\", which is none to what it was asked",
            shown.escape_ascii()
        )))
    }

    /// The first line of the next answer, without its end.
    fn line(&mut self) -> Result<Vec<u8>, Trouble> {
        let mut line = Vec::new();
        let mut most = (&mut self.stream).take(MOST_LINE_BYTES);
        let read = self
            .runtime
            .wait(&self.limit, most.read_until(b'\n', &mut line));
        match read {
            Err(cut) => Err(self.lose(Trouble::Cut(cut))),
            Ok(Err(error)) => Err(self.lose(error.into())),
            Ok(Ok(_)) if line.ends_with(b"\r\n") => {
                line.truncate(line.len() - 2);
                Ok(line)
            }
            Ok(Ok(0)) => Err(self.lose(io::Error::from(io::ErrorKind::UnexpectedEof).into())),
            Ok(Ok(_)) => Err(self.strange(&line)),
        }
    }

    /// The next answer; the bytes of a value are to be taken by [`Self::body`].
    fn answer(&mut self) -> Result<Answer, Trouble> {
        if self.owed == 0 {
            return Err(Trouble::Lost("nothing was asked".to_owned()));
        }
        self.send()?;
        let line = self.line()?;
        self.owed -= 1;
        let rest = line.get(1..).unwrap_or_default();
        let number = || str::from_utf8(rest).ok().and_then(|text| text.parse().ok());
        match (line.first(), number()) {
            (Some(b'+'), _) => Ok(Answer::Done),
            (Some(b':'), Some(count)) => Ok(Answer::Count(count)),
            (Some(b'-'), _) => Err(Trouble::Refused(told(rest))),
            (Some(b'$'), Some(len_bytes)) => Ok(Answer::Value(len_bytes)),
            (Some(b'$'), None) if rest == b"-1" => Ok(Answer::Nothing),
            _ => Err(self.strange(&line)),
        }
    }

    /// Gives the bytes of a value to `take` as they come.
    fn body(
        &mut self,
        len_bytes: u64,
        mut take: impl FnMut(&[u8]) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        let mut left = len_bytes;
        while left > 0 {
            let bytes = match self.runtime.wait(&self.limit, self.stream.fill_buf()) {
                Err(cut) => return Err(self.lose(Trouble::Cut(cut))),
                Ok(Err(error)) => return Err(self.lose(error.into())),
                Ok(Ok([])) => {
                    return Err(self.lose(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
                }
                Ok(Ok(bytes)) => bytes,
            };
            let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let taken = take(&bytes[..count]);
            self.stream.consume(count);
            left -= count as u64;
            taken.map_err(|trouble| self.lose(trouble))?;
        }
        match self.line()? {
            end if end.is_empty() => Ok(()),
            more => Err(self.strange(&more)),
        }
    }

    /// Takes answers until `left` are owed; the first that says no is the result.
    pub(super) fn settle(&mut self, left: usize) -> Result<(), Trouble> {
        let mut settled = Ok(());
        while self.owed > left {
            match self.answer() {
                Ok(Answer::Done | Answer::Count(_) | Answer::Nothing) => {}
                Ok(Answer::Value(len_bytes)) => self.body(len_bytes, |_| Ok(()))?,
                Err(Trouble::Refused(sentence)) => {
                    settled = settled.and(Err(Trouble::Refused(sentence)));
                }
                Err(trouble) => return Err(trouble),
            }
        }
        settled
    }

    /// The length of the value that was asked for, whose bytes are next; None if there is nothing of that name.
    fn len(&mut self) -> Result<Option<u64>, Trouble> {
        match self.answer()? {
            Answer::Value(len_bytes) => Ok(Some(len_bytes)),
            Answer::Nothing => Ok(None),
            Answer::Done | Answer::Count(_) => Err(self.another("bytes")),
        }
    }

    /// The number that was asked for.
    pub(super) fn count(&mut self) -> Result<u64, Trouble> {
        match self.answer()? {
            Answer::Count(count) => Ok(count),
            Answer::Done | Answer::Nothing | Answer::Value(_) => Err(self.another("a number")),
        }
    }

    fn another(&mut self, what: &str) -> Trouble {
        self.lose(Trouble::Lost(format!(
            "the server answered a question for {what} with something else"
        )))
    }

    /// The value that was asked for, as far as it may be a seal; None if there is nothing of that name.
    pub(super) fn value(&mut self) -> Result<Option<Vec<u8>>, Trouble> {
        let Some(len_bytes) = self.len()? else {
            return Ok(None);
        };
        let mut kept = Vec::new();
        self.body(len_bytes, |bytes| {
            let room = MOST_KEPT_BYTES - kept.len();
            kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
            Ok(())
        })?;
        Ok(Some(kept))
    }

    /// Takes the value that was asked for to the payload, as much of it as there is room for, summed on the way; how long it
    /// is, None if there is nothing of that name.
    pub(super) fn take(
        &mut self,
        payload: &PayloadBytes,
        destination: PayloadRange,
        digest: &mut Digest,
    ) -> Result<Option<u64>, Trouble> {
        let Some(len_bytes) = self.len()? else {
            return Ok(None);
        };
        let (mut to, mut room) = (destination.offset_bytes, destination.len_bytes);
        self.body(len_bytes, |bytes| {
            let bytes = &bytes[..bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
            digest.update(bytes);
            payload
                .copy_in(to, bytes)
                .map_err(|errno| Trouble::Lost(format!("copying an object failed: {errno}")))?;
            to += bytes.len() as u64;
            room -= bytes.len() as u64;
            Ok(())
        })?;
        Ok(Some(len_bytes))
    }
}

#[cfg(test)]
mod tests;
