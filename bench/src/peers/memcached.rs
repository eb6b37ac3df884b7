//! memcached by its meta protocol (doc/protocol.txt of memcached 1.6), several commands in one message.

use super::server::Server;
use super::{Peer, hex};
use crate::limits::copy;
use hostkv::ChunkKey;

/// Most commands that are sent before the answers are read, so that neither side waits for room in a socket.
const PIPELINE: usize = 256;

/// The server, and what is sent next.
pub struct Memcached {
    server: Server,
    message: Vec<u8>,
    object: Vec<u64>,
}

impl Memcached {
    /// Starts it with 4 GiB and two threads.
    pub fn start() -> Result<Memcached, String> {
        let server = Server::start("memcached", |socket, _| {
            let user = nix::unistd::User::from_uid(nix::unistd::geteuid())
                .ok()
                .flatten()
                .map_or("root".to_owned(), |user| user.name);
            [
                "-s",
                &socket.display().to_string(),
                "-m",
                "4096",
                "-I",
                "64m",
                "-t",
                "2",
                "-u",
                &user,
            ]
            .map(str::to_owned)
            .to_vec()
        })?;
        Ok(Memcached {
            server,
            message: Vec::new(),
            object: Vec::new(),
        })
    }
}

impl Peer for Memcached {
    fn name(&self) -> &'static str {
        "memcached"
    }

    fn clear(&mut self) -> Result<(), String> {
        self.server.send(b"flush_all\r\n")?;
        expect(self.server.line()?, b"OK")?;
        // Items of the same second as the flush are flushed too.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        Ok(())
    }

    fn store(&mut self, keys: &[ChunkKey], bytes: &[u8]) -> Result<(), String> {
        // Of large objects only as many as fit into a few buffers of the socket.
        let at_once = (PIPELINE * 1024 / bytes.len().max(1)).clamp(1, PIPELINE);
        for keys in keys.chunks(at_once) {
            self.message.clear();
            for key in keys {
                self.message.extend_from_slice(b"ms ");
                self.message.extend_from_slice(&hex(key));
                self.message
                    .extend_from_slice(format!(" {}\r\n", bytes.len()).as_bytes());
                self.message.extend_from_slice(bytes);
                self.message.extend_from_slice(b"\r\n");
            }
            self.server.send(&self.message)?;
            for _ in keys {
                expect(self.server.line()?, b"HD")?;
            }
        }
        Ok(())
    }

    fn find(&mut self, keys: &[ChunkKey]) -> Result<usize, String> {
        self.message.clear();
        for key in keys {
            self.message.extend_from_slice(b"mg ");
            self.message.extend_from_slice(&hex(key));
            self.message.extend_from_slice(b"\r\n");
        }
        self.server.send(&self.message)?;
        let mut found = 0;
        for _ in keys {
            found += usize::from(self.server.line()?.starts_with(b"HD"));
        }
        Ok(found)
    }

    fn sum(&mut self, key: &ChunkKey, len: usize) -> Result<u64, String> {
        self.message.clear();
        self.message.extend_from_slice(b"mg ");
        self.message.extend_from_slice(&hex(key));
        self.message.extend_from_slice(b" v\r\n");
        self.server.send(&self.message)?;
        expect(self.server.line()?, format!("VA {len}").as_bytes())?;
        self.object.resize(len / 8, 0);
        // SAFETY: the words are ours, and any bytes are words.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(self.object.as_mut_ptr().cast::<u8>(), len / 8 * 8)
        };
        self.server.exactly(bytes)?;
        expect(self.server.line()?, b"")?;
        // SAFETY: the vector has this many words.
        Ok(unsafe { copy::sum(self.object.as_ptr().cast(), len / 8) })
    }
}

fn expect(line: &[u8], wanted: &[u8]) -> Result<(), String> {
    if line == wanted || (!wanted.is_empty() && line.starts_with(wanted)) {
        Ok(())
    } else {
        Err(format!(
            "memcached answered {:?}",
            String::from_utf8_lossy(line)
        ))
    }
}
