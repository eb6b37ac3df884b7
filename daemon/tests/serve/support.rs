//! A daemon in a temporary folder, and a client that sends exactly what it is told.

use hostkv_shm_protocol::control::header::HeaderView;
use hostkv_shm_protocol::id::{KeyspaceId, OpId};
use hostkv_shm_protocol::key::Key;
use hostkv_shm_protocol::version::{ABI_HASH, PACKAGE_VERSION, PROTOCOL_VERSION};
use hostkv_shm_protocol::view::View;
use hostkv_shm_protocol::wire::header::{FrameHeader, MessageType};
use hostkv_shm_protocol::wire::hello::{Challenge, Hello, HelloPrefix, HelloReply};
use hostkv_shm_protocol::wire::reply::{Figures, Reply, ReservedItem};
use hostkv_shm_protocol::wire::request::{Held, HeldItem, Request, Reserve, ReserveItem, Resolve};
use memmap2::{Mmap, MmapMut, MmapOptions};
use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, connect, recvmsg,
    send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Longest wait for anything; far more than it takes.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running hostkvd; killed on drop.
pub struct Daemon {
    process: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    socket: PathBuf,
}

/// How a daemon is started.
pub struct Start<'a> {
    pub socket: &'a Path,
    pub arguments: Vec<String>,
    pub descriptor_limit: Option<u64>,
}

impl<'a> Start<'a> {
    pub fn at(socket: &'a Path) -> Start<'a> {
        Start {
            socket,
            arguments: ["--l1-size-gb", "0.03125", "--disable-prometheus"]
                .map(str::to_owned)
                .to_vec(),
            descriptor_limit: None,
        }
    }

    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|a| (*a).to_owned()));
        self
    }

    /// With metrics on a free port.
    pub fn with_metrics(mut self) -> Self {
        self.arguments.retain(|a| a != "--disable-prometheus");
        self.with(&["--prometheus-port", "0"])
    }

    /// Starts it without waiting for anything.
    pub fn spawn(self) -> Daemon {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hostkvd"));
        command
            .arg("--socket")
            .arg(self.socket)
            .args(&self.arguments)
            .env_remove("LMCACHE_LOG_LEVEL")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if let Some(limit) = self.descriptor_limit {
            let set = move || Ok(setrlimit(Resource::RLIMIT_NOFILE, limit, limit)?);
            // SAFETY: setrlimit is a bare system call, allowed between fork and exec.
            unsafe { command.pre_exec(set) };
        }
        let mut process = command.spawn().unwrap();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Daemon {
            process,
            lines,
            seen: Vec::new(),
            socket: self.socket.to_owned(),
        }
    }

    /// Starts it and waits until it serves.
    pub fn serving(self) -> Daemon {
        let mut daemon = self.spawn();
        daemon.line_with(", pid ");
        daemon
    }
}

impl Daemon {
    pub fn pid(&self) -> i32 {
        self.process.id() as i32
    }

    /// Waits for a line of its log that holds `part`; lines before it are used up.
    pub fn line_with(&mut self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(part) {
                        return line;
                    }
                }
                Err(error) => panic!("no line with {part:?} ({error}) in {:#?}", self.seen),
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits for its end; all lines of its log.
    pub fn end(&mut self) -> (ExitStatus, Vec<String>) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "it does not end: {:#?}",
                self.seen
            );
            std::thread::sleep(Duration::from_millis(2));
        };
        self.seen.extend(self.lines.iter());
        (status, self.seen.clone())
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.socket)
    }

    pub fn session(&self) -> Session {
        Session::open(self.client(), |_| {})
    }

    /// The figures once they are as wanted.
    pub fn figures_when(&self, session: &Session, is_wanted: impl Fn(&Figures) -> bool) -> Figures {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let figures = session.figures();
            if is_wanted(&figures) {
                return figures;
            }
            assert!(Instant::now() < deadline, "{figures:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A connected socket.
pub struct Client {
    socket: OwnedFd,
}

/// What a receive gave.
#[derive(Debug)]
pub enum Heard {
    Frame(Vec<u8>, Vec<OwnedFd>),
    End,
    Reset,
}

impl Client {
    pub fn connect(path: &Path) -> Client {
        Client::try_connect(path).unwrap()
    }

    pub fn try_connect(path: &Path) -> nix::Result<Client> {
        let socket = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        let patience = TimeVal::seconds(PATIENCE.as_secs() as i64);
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Client { socket })
    }

    pub fn say(&self, frame: &[u8]) {
        send(self.socket.as_raw_fd(), frame, MsgFlags::MSG_NOSIGNAL).unwrap();
    }

    pub fn hear(&self) -> Heard {
        let mut bytes = vec![0; 128 << 10];
        let mut control = nix::cmsg_space!([RawFd; 8]);
        let mut iov = [IoSliceMut::new(&mut bytes)];
        let got = recvmsg::<()>(
            self.socket.as_raw_fd(),
            &mut iov,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        );
        let got = match got {
            Ok(got) => got,
            Err(Errno::ECONNRESET) => return Heard::Reset,
            Err(errno) => panic!("{errno}"),
        };
        let mut descriptors = Vec::new();
        for message in got.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(raw) = message {
                // SAFETY: they were received just now and belong to nobody else.
                descriptors.extend(
                    raw.into_iter()
                        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                );
            }
        }
        let len = got.bytes;
        if len == 0 {
            return Heard::End;
        }
        bytes.truncate(len);
        Heard::Frame(bytes, descriptors)
    }

    pub fn frame(&self) -> (Vec<u8>, Vec<OwnedFd>) {
        match self.hear() {
            Heard::Frame(bytes, descriptors) => (bytes, descriptors),
            other => panic!("{other:?}"),
        }
    }

    pub fn reply(&self) -> (u64, Reply) {
        let (frame, _) = self.frame();
        let (header, body) = FrameHeader::decode(&frame).unwrap();
        (header.request_id, Reply::decode(&header, body).unwrap())
    }

    pub fn nonce(&self) -> [u8; 16] {
        self.challenge().expect("refused instead of challenged")
    }

    /// The challenge's nonce, or the refusal that came instead.
    pub fn challenge(&self) -> Result<[u8; 16], Box<Reply>> {
        let (frame, _) = self.frame();
        let (header, body) = FrameHeader::decode(&frame).unwrap();
        match header.message {
            MessageType::Challenge => Ok(Challenge::decode(body).unwrap().nonce),
            _ => Err(Box::new(Reply::decode(&header, body).unwrap())),
        }
    }
}

pub fn monotonic_ns() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

pub fn greeting(nonce: [u8; 16]) -> Hello {
    Hello {
        prefix: HelloPrefix {
            nonce,
            protocol_version: PROTOCOL_VERSION,
            abi_hash: ABI_HASH,
        },
        flags: 0,
        pin_slot_count: 0,
        mono_ns: monotonic_ns(),
        client_version: PACKAGE_VERSION.to_owned(),
        client_name: "raw".to_owned(),
    }
}

/// An open session with its segments mapped.
pub struct Session {
    pub client: Client,
    pub reply: HelloReply,
    pub control: Mmap,
    pub lease: MmapMut,
    pub payload: OwnedFd,
    pub daemon: OwnedFd,
}

impl Session {
    pub fn open(client: Client, change: impl FnOnce(&mut Hello)) -> Session {
        let nonce = client.nonce();
        Session::answer(client, nonce, change)
    }

    /// Opens one on a connection whose challenge has been read.
    pub fn answer(client: Client, nonce: [u8; 16], change: impl FnOnce(&mut Hello)) -> Session {
        let mut wishes = greeting(nonce);
        change(&mut wishes);
        client.say(&wishes.encode(1));
        let (frame, descriptors) = client.frame();
        let (header, body) = FrameHeader::decode(&frame).unwrap();
        assert_eq!(header.message, MessageType::Hello, "{frame:?}");
        let reply = HelloReply::decode(body).unwrap();
        let [control, lease, payload, daemon] = descriptors.try_into().unwrap();
        // SAFETY: all three are sealed against shrinking, and only words of them are looked at.
        let (control, lease) = unsafe {
            (
                MmapOptions::new().map(&control).unwrap(),
                MmapOptions::new().map_mut(&lease).unwrap(),
            )
        };
        Session {
            client,
            reply,
            control,
            lease,
            payload,
            daemon,
        }
    }

    pub fn control_view(&self) -> View {
        // SAFETY: the map is page-aligned and lives as long as the session, as each use in these tests does.
        unsafe { View::new(self.control.as_ptr(), self.control.len() as u64) }
    }

    pub fn header(&self) -> HeaderView {
        HeaderView::new(self.control_view()).unwrap()
    }

    pub fn ask(&self, request: &Request) -> Reply {
        self.client.say(&request.encode(7, true));
        let (request_id, reply) = self.client.reply();
        assert_eq!(request_id, 7);
        reply
    }

    pub fn figures(&self) -> Figures {
        match self.ask(&Request::Stats) {
            Reply::Stats(figures) => figures,
            other => panic!("{other:?}"),
        }
    }

    pub fn resolve(&self) -> KeyspaceId {
        let request = Request::Resolve(Resolve {
            flags: 0,
            tokens_per_key: 0,
            layout_fingerprint: 1,
            model_name: "model".to_owned(),
            cache_salt: String::new(),
        });
        match self.ask(&request) {
            Reply::Resolved { keyspace, .. } => keyspace,
            other => panic!("{other:?}"),
        }
    }

    pub fn reserve(&self, op_id: u64, keys: &[Key], len_bytes: u32) -> Vec<ReservedItem> {
        let item = |key: &Key| ReserveItem {
            key: *key,
            len_bytes,
        };
        let request = Request::Reserve(Reserve {
            op_id: OpId(op_id),
            request_id: String::new(),
            device: String::new(),
            items: keys.iter().map(item).collect(),
        });
        match self.ask(&request) {
            Reply::Reserved(items) => items,
            other => panic!("{other:?}"),
        }
    }
}

pub fn key(keyspace: KeyspaceId, number: u64) -> Key {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&number.to_le_bytes());
    Key::new(&hash, 32, 0, 0, keyspace).unwrap()
}

pub fn held(op_id: u64, items: &[ReservedItem]) -> Held {
    Held {
        op_id: OpId(op_id),
        items: items
            .iter()
            .map(|item| HeldItem {
                entry: item.entry,
                generation: item.generation,
            })
            .collect(),
    }
}
