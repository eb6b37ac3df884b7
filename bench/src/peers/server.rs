//! A peer's server as a child process, and the connection to it.

use crate::pool::attach;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START: Duration = Duration::from_secs(10);
const CALL: Duration = Duration::from_secs(60);
const SOCKET: &str = "peer.sock";

/// A running server and one connection, with a buffer for what it says.
pub struct Server {
    child: Child,
    stream: UnixStream,
    buffer: Vec<u8>,
    begin: usize,
    end: usize,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts `program` with the arguments that `arguments` makes of its socket and its folder.
    pub fn start(
        program: &str,
        arguments: impl FnOnce(&Path, &Path) -> Vec<String>,
    ) -> Result<Server, String> {
        let folder = tempfile::tempdir().map_err(|error| format!("temporary folder: {error}"))?;
        let socket = folder.path().join(SOCKET);
        let mut command = Command::new(program);
        command
            .args(arguments(&socket, folder.path()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        attach(&mut command);
        let mut child = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => format!(
                "there is no {program} on this machine; scripts/install.sh bench installs it"
            ),
            _ => format!("{program} does not start: {error}"),
        })?;
        let begin = Instant::now();
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break Ok(stream),
                Err(error) if begin.elapsed() > START => {
                    break Err(format!("{program} does not listen: {error}"));
                }
                Err(_) => {}
            }
            if let Ok(Some(status)) = child.try_wait() {
                break Err(format!("{program} ended at its start: {status}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let stream = stream.and_then(|stream| {
            stream
                .set_read_timeout(Some(CALL))
                .map(|()| stream)
                .map_err(|error| error.to_string())
        });
        match stream {
            Ok(stream) => Ok(Server {
                child,
                stream,
                buffer: vec![0; 64 << 10],
                begin: 0,
                end: 0,
                folder,
            }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join(SOCKET)
    }

    /// Sends all of it.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream
            .write_all(bytes)
            .map_err(|error| format!("sending to a peer: {error}"))
    }

    /// The next line without its CR LF.
    pub fn line(&mut self) -> Result<&[u8], String> {
        let mut looked = 0;
        loop {
            let found = self.buffer[self.begin + looked..self.end]
                .windows(2)
                .position(|pair| pair == b"\r\n");
            if let Some(at) = found {
                let from = self.begin;
                self.begin += looked + at + 2;
                return Ok(&self.buffer[from..from + looked + at]);
            }
            looked = (self.end - self.begin).saturating_sub(1);
            self.receive()?;
        }
    }

    /// Reads exactly as many bytes as `into` has.
    pub fn exactly(&mut self, into: &mut [u8]) -> Result<(), String> {
        let here = (self.end - self.begin).min(into.len());
        into[..here].copy_from_slice(&self.buffer[self.begin..self.begin + here]);
        self.begin += here;
        self.stream
            .read_exact(&mut into[here..])
            .map_err(|error| format!("a peer's answer: {error}"))
    }

    fn receive(&mut self) -> Result<(), String> {
        if self.begin > 0 {
            self.buffer.copy_within(self.begin..self.end, 0);
            self.end -= self.begin;
            self.begin = 0;
        }
        if self.end == self.buffer.len() {
            return Err("a peer's line is longer than its buffer".to_owned());
        }
        match self.stream.read(&mut self.buffer[self.end..]) {
            Ok(0) => Err("a peer closed its connection".to_owned()),
            Ok(count) => {
                self.end += count;
                Ok(())
            }
            Err(error) => Err(format!("a peer's answer: {error}")),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
