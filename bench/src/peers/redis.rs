//! Redis by its own protocol (RESP 2), EXISTS of many keys in one command, SETs sent without waiting in between.

use super::Peer;
use super::server::Server;
use crate::limits::copy;
use hostkv::ChunkKey;
use std::path::PathBuf;

/// Most commands that are sent before the answers are read, so that neither side waits for room in a socket.
const PIPELINE: usize = 256;

/// The server, and what is sent next.
pub struct Redis {
    server: Server,
    message: Vec<u8>,
    object: Vec<u64>,
}

impl Redis {
    /// Starts it without persistence.
    pub fn start() -> Result<Redis, String> {
        let server = Server::start("redis-server", |socket, folder| {
            [
                "--port",
                "0",
                "--unixsocket",
                &socket.display().to_string(),
                "--dir",
                &folder.display().to_string(),
                "--save",
                "",
                "--appendonly",
                "no",
                "--daemonize",
                "no",
            ]
            .map(str::to_owned)
            .to_vec()
        })?;
        Ok(Redis {
            server,
            message: Vec::new(),
            object: Vec::new(),
        })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.server.socket()
    }

    /// Begins a command of this many words.
    fn command(&mut self, words: usize) {
        self.message
            .extend_from_slice(format!("*{words}\r\n").as_bytes());
    }

    fn word(&mut self, word: &[u8]) {
        self.message
            .extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        self.message.extend_from_slice(word);
        self.message.extend_from_slice(b"\r\n");
    }

    fn answer(&mut self, wanted: &str) -> Result<(), String> {
        let line = self.server.line()?;
        if line == wanted.as_bytes() {
            Ok(())
        } else {
            Err(format!(
                "Redis answered {:?}",
                String::from_utf8_lossy(line)
            ))
        }
    }
}

impl Peer for Redis {
    fn name(&self) -> &'static str {
        "Redis"
    }

    fn clear(&mut self) -> Result<(), String> {
        self.server.send(b"*1\r\n$8\r\nFLUSHALL\r\n")?;
        self.answer("+OK")
    }

    fn store(&mut self, keys: &[ChunkKey], bytes: &[u8]) -> Result<(), String> {
        let at_once = (PIPELINE * 1024 / bytes.len().max(1)).clamp(1, PIPELINE);
        for keys in keys.chunks(at_once) {
            self.message.clear();
            for key in keys {
                self.command(3);
                self.word(b"SET");
                self.word(&key.chunk_hash);
                self.word(bytes);
            }
            self.server.send(&self.message)?;
            for _ in keys {
                self.answer("+OK")?;
            }
        }
        Ok(())
    }

    fn find(&mut self, keys: &[ChunkKey]) -> Result<usize, String> {
        self.message.clear();
        self.command(keys.len() + 1);
        self.word(b"EXISTS");
        for key in keys {
            self.word(&key.chunk_hash);
        }
        self.server.send(&self.message)?;
        let line = self.server.line()?;
        std::str::from_utf8(line)
            .ok()
            .and_then(|text| text.strip_prefix(':'))
            .and_then(|count| count.parse().ok())
            .ok_or_else(|| format!("Redis answered {:?}", String::from_utf8_lossy(line)))
    }

    fn sum(&mut self, key: &ChunkKey, len: usize) -> Result<u64, String> {
        self.message.clear();
        self.command(2);
        self.word(b"GET");
        self.word(&key.chunk_hash);
        self.server.send(&self.message)?;
        self.answer(&format!("${len}"))?;
        self.object.resize(len / 8, 0);
        // SAFETY: the words are ours, and any bytes are words.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(self.object.as_mut_ptr().cast::<u8>(), len / 8 * 8)
        };
        self.server.exactly(bytes)?;
        self.answer("")?;
        // SAFETY: the vector has this many words.
        Ok(unsafe { copy::sum(self.object.as_ptr().cast(), len / 8) })
    }
}
