//! A client that speaks the protocol by hand, to be stopped, killed, or wrong at any step.
//!
//! ```text
//!   connect ── challenge ──> send_hello ── opened ──> send / receive, in any order, or not at all
//! ```
//!
//! It maps its lease segment and its payload as a real client does: by the lease the daemon sees that the process still
//! uses what it holds.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use hostkv::{ChunkKey, KeyspaceId, Status};
use hostkv_shm_protocol::control::header::{ControlHeader, HeaderView};
use hostkv_shm_protocol::id::{EntryNumber, OpId};
use hostkv_shm_protocol::key::Key;
use hostkv_shm_protocol::lease::LeaseGeometry;
use hostkv_shm_protocol::lease::pins::PinSlots;
use hostkv_shm_protocol::sync::Ordering;
use hostkv_shm_protocol::version::{ABI_HASH, PACKAGE_VERSION, PROTOCOL_VERSION};
use hostkv_shm_protocol::view::View;
use hostkv_shm_protocol::wire::MAX_FRAME_BYTES;
use hostkv_shm_protocol::wire::header::{FrameHeader, MessageType};
use hostkv_shm_protocol::wire::hello::{
    Challenge, Hello, HelloPrefix, HelloReply, NONCE_BYTES, STAGED_HELLO_DESCRIPTORS,
};
use hostkv_shm_protocol::wire::reply::{Reply, ReservedItem};
use hostkv_shm_protocol::wire::request::{Held, HeldItem, Request, Reserve, ReserveItem, Resolve};
use memmap2::{MmapOptions, MmapRaw};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv,
    recvmsg, send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

/// A refusal as the daemon words it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its status.
    pub status: Status,
    /// Its sentence.
    pub text: String,
}

/// What HELLO gave.
struct Opened {
    reply: HelloReply,
    payload: MmapRaw,
    payload_fd: OwnedFd,
    control_fd: OwnedFd,
    /// Of an untrusted writer.
    staging: Option<MmapRaw>,
    staging_fd: Option<OwnedFd>,
    lease: MmapRaw,
    lease_fd: OwnedFd,
    daemon_fd: OwnedFd,
}

/// The client.
pub struct RawClient {
    socket: Option<OwnedFd>,
    last_request: u64,
    opened: Option<Opened>,
}

impl RawClient {
    /// Connects and does nothing else.
    pub fn connect(path: impl AsRef<Path>) -> io::Result<RawClient> {
        let client = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        setsockopt(
            &client,
            sockopt::ReceiveTimeout,
            &TimeVal::new(crate::PATIENCE.as_secs() as i64, 0),
        )?;
        connect(client.as_raw_fd(), &UnixAddr::new(path.as_ref())?)?;
        Ok(RawClient {
            socket: Some(client),
            last_request: 0,
            opened: None,
        })
    }

    fn socket(&self) -> &OwnedFd {
        self.socket.as_ref().expect("the socket is not closed yet")
    }

    /// The next frame, or why there is none; an empty one is the end of the connection.
    fn frame(&self) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let mut bytes = vec![0; MAX_FRAME_BYTES];
        let mut control = nix::cmsg_space!([RawFd; STAGED_HELLO_DESCRIPTORS]);
        let mut parts = [io::IoSliceMut::new(&mut bytes)];
        let got = recvmsg::<()>(
            self.socket().as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        let mut descriptors = Vec::new();
        for message in got.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = message {
                // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows them.
                descriptors.extend(
                    fds.into_iter()
                        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                );
            }
        }
        let len = got.bytes;
        bytes.truncate(len);
        Ok((bytes, descriptors))
    }

    /// Reads the challenge.
    pub fn challenge(&mut self) -> Result<[u8; NONCE_BYTES], Refused> {
        let (frame, _) = self.frame().unwrap();
        let (header, body) = FrameHeader::decode(&frame).unwrap();
        match header.message {
            MessageType::Challenge => Ok(Challenge::decode(body).unwrap().nonce),
            _ => Err(refusal(&header, body)),
        }
    }

    /// A HELLO of this build.
    pub fn hello(nonce: [u8; NONCE_BYTES]) -> Hello {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
        Hello {
            prefix: HelloPrefix {
                nonce,
                protocol_version: PROTOCOL_VERSION,
                abi_hash: ABI_HASH,
            },
            flags: 0,
            pin_slot_count: 0,
            mono_ns: now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64,
            client_version: PACKAGE_VERSION.to_owned(),
            client_name: "raw".to_owned(),
        }
    }

    /// Sends a HELLO and does not wait.
    pub fn send_hello(&mut self, hello: &Hello) {
        self.last_request += 1;
        let frame = hello.encode(self.last_request);
        self.send_bytes(&frame).unwrap();
    }

    /// Reads the answer to HELLO and maps what came with it.
    pub fn opened(&mut self) -> Result<HelloReply, Refused> {
        let (frame, descriptors) = self.frame().unwrap();
        let (header, body) = FrameHeader::decode(&frame).unwrap();
        if header.message != MessageType::Hello {
            return Err(refusal(&header, body));
        }
        let reply = HelloReply::decode(body).unwrap();
        let mut descriptors = descriptors;
        let staging_fd = (reply.staging_bytes > 0).then(|| descriptors.remove(3));
        let [control_fd, lease_fd, payload_fd, daemon_fd] = descriptors
            .try_into()
            .expect("four descriptors come with HELLO, and a staging segment for some");
        let staging = staging_fd.as_ref().map(|fd| {
            MmapOptions::new()
                .len(reply.staging_bytes as usize)
                .map_raw(fd)
                .unwrap()
        });
        let lease_len = nix::sys::stat::fstat(&lease_fd).unwrap().st_size as usize;
        let mut whole = MmapOptions::new();
        whole.len(reply.capacity_bytes as usize);
        let payload = whole
            .map_raw(&payload_fd)
            .or_else(|_| whole.map_raw_read_only(&payload_fd))
            .unwrap();
        self.opened = Some(Opened {
            payload,
            payload_fd,
            control_fd,
            staging,
            staging_fd,
            lease: MmapOptions::new()
                .len(lease_len)
                .map_raw(&lease_fd)
                .unwrap(),
            lease_fd,
            daemon_fd,
            reply: reply.clone(),
        });
        Ok(reply)
    }

    /// Challenge, HELLO and its answer.
    pub fn open(&mut self) -> Result<HelloReply, Refused> {
        self.open_with(0)
    }

    /// As [`RawClient::open`], with flags of HELLO.
    pub fn open_with(&mut self, flags: u32) -> Result<HelloReply, Refused> {
        let nonce = self.challenge()?;
        self.send_hello(&Hello {
            flags,
            ..RawClient::hello(nonce)
        });
        self.opened()
    }

    /// The payload's descriptor.
    pub fn payload_fd(&self) -> impl AsFd + '_ {
        &self.open_session().payload_fd
    }

    /// The control segment's descriptor.
    pub fn control_fd(&self) -> impl AsFd + '_ {
        &self.open_session().control_fd
    }

    /// Ticks of 100 ms since the daemon's start.
    pub fn heartbeat_tick(&self) -> u64 {
        let len = size_of::<ControlHeader>();
        let control = MmapOptions::new()
            .len(len)
            .map_raw_read_only(&self.open_session().control_fd)
            .unwrap();
        // SAFETY: the mapping begins at a page and outlives the view; it is only loaded from.
        let view = unsafe { View::new(control.as_mut_ptr(), len as u64) };
        let header = HeaderView::new(view).unwrap();
        // Relaxed: a clock.
        header.heartbeat_tick().load(Ordering::Relaxed)
    }

    /// The descriptor of its lease segment.
    pub fn lease_fd(&self) -> impl AsFd + '_ {
        &self.open_session().lease_fd
    }

    /// The daemon's pidfd.
    pub fn daemon_fd(&self) -> impl AsFd + '_ {
        &self.open_session().daemon_fd
    }

    /// The staging segment's descriptor and mapping, if the session has one.
    pub fn staging(&self) -> Option<(&OwnedFd, &MmapRaw)> {
        let opened = self.open_session();
        opened.staging_fd.as_ref().zip(opened.staging.as_ref())
    }

    fn open_session(&self) -> &Opened {
        self.opened.as_ref().expect("HELLO was accepted")
    }

    /// Sends bytes as one packet.
    pub fn send_bytes(&self, frame: &[u8]) -> nix::Result<()> {
        send(self.socket().as_raw_fd(), frame, MsgFlags::MSG_NOSIGNAL).map(|_| ())
    }

    /// Sends a request and does not wait.
    pub fn send(&mut self, request: &Request) {
        self.last_request += 1;
        self.send_bytes(&request.encode(self.last_request, true))
            .unwrap();
    }

    /// Waits for the next reply.
    pub fn receive(&mut self) -> Reply {
        let (frame, _) = self.frame().unwrap();
        let (header, body) = FrameHeader::decode(&frame).unwrap();
        Reply::decode(&header, body).unwrap()
    }

    /// Whether the daemon has ended the connection, after whatever it still had to say.
    pub fn is_disconnected(&mut self) -> bool {
        loop {
            match self.frame() {
                Ok((frame, _)) if frame.is_empty() => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }

    /// Sends a request and waits for its reply.
    pub fn ask(&mut self, request: &Request) -> Reply {
        self.send(request);
        self.receive()
    }

    /// Opens the keyspace that [`crate::keyspace`] opens.
    pub fn keyspace(&mut self) -> KeyspaceId {
        let config = crate::keyspace_config("test-model");
        let reply = self.ask(&Request::Resolve(Resolve {
            flags: 0,
            tokens_per_key: config.tokens_per_key,
            layout_fingerprint: config.layout_fingerprint,
            model_name: config.model_name,
            cache_salt: config.cache_salt,
        }));
        match reply {
            Reply::Resolved { keyspace, .. } => keyspace,
            other => panic!("{other:?}"),
        }
    }

    /// A reserve of `len_bytes` for each key.
    pub fn reserve(op: u64, keyspace: KeyspaceId, keys: &[ChunkKey], len_bytes: u32) -> Request {
        let items = keys
            .iter()
            .map(|key| ReserveItem {
                key: Key::new(
                    &key.chunk_hash,
                    key.chunk_hash_len,
                    key.kv_rank,
                    key.object_group_id,
                    keyspace,
                )
                .unwrap(),
                len_bytes,
            })
            .collect();
        Request::Reserve(Reserve {
            op_id: OpId(op),
            request_id: String::new(),
            device: String::new(),
            items,
        })
    }

    /// The granted items of a reserve's reply, as a commit or an abort names them.
    pub fn held(op: u64, reply: &Reply) -> (Held, Vec<ReservedItem>) {
        let Reply::Reserved(items) = reply else {
            panic!("{reply:?}");
        };
        let granted: Vec<ReservedItem> = items
            .iter()
            .filter(|item| item.status == Status::Ok)
            .copied()
            .collect();
        let items = granted
            .iter()
            .map(|item| HeldItem {
                entry: item.entry,
                generation: item.generation,
            })
            .collect();
        (
            Held {
                op_id: OpId(op),
                items,
            },
            granted,
        )
    }

    /// Writes the bytes of a key into its extent.
    pub fn fill(&self, key: &ChunkKey, item: &ReservedItem, len_bytes: u64) {
        let opened = self.open_session();
        let (map, units, most) = match &opened.staging {
            Some(staging) => (staging, item.staging_units, opened.reply.staging_bytes),
            None => (
                &opened.payload,
                item.offset_units,
                opened.reply.capacity_bytes,
            ),
        };
        let offset = u64::from(units) * opened.reply.align_bytes;
        assert!(offset + len_bytes <= most);
        // SAFETY: the range is inside the mapping, and the daemon has granted it to this client alone.
        unsafe { crate::fill(key, map.as_mut_ptr().add(offset as usize), len_bytes) };
    }

    /// Its lease segment; good for as long as this client lives.
    pub fn lease(&self) -> View {
        let lease = &self.open_session().lease;
        // SAFETY: the mapping is aligned to a page and lives as long as this client, which its users keep in mind.
        unsafe { View::new(lease.as_mut_ptr(), lease.len() as u64) }
    }

    /// Names every entry of the index in a slot of its own, as a library that knows no quota might.
    pub fn pin_every_entry(&self) {
        let view = self.lease();
        let geometry = LeaseGeometry::read(&view).unwrap();
        let slots = PinSlots::new(view, &geometry).unwrap();
        let count = slots.count().min(geometry.bitmap_words as usize * 64);
        slots.raise_high_water(count as u32);
        for slot in 0..count {
            slots.publish(slot, EntryNumber(slot as u32));
        }
    }

    /// Writes into granted extents for ever, socket or none.
    pub fn scribble(&self, items: &[ReservedItem], len_bytes: usize) -> ! {
        let opened = self.open_session();
        let mut byte = 0_u8;
        loop {
            for item in items {
                let offset = u64::from(item.offset_units) * opened.reply.align_bytes;
                assert!(offset + len_bytes as u64 <= opened.reply.capacity_bytes);
                // SAFETY: the range is inside the mapping and was granted to this client, which keeps it until it dies.
                unsafe {
                    opened
                        .payload
                        .as_mut_ptr()
                        .add(offset as usize)
                        .write_bytes(byte, len_bytes)
                };
            }
            byte = byte.wrapping_add(1);
        }
    }

    /// Sends bytes as one packet if there is room; false when the connection is over.
    pub fn send_without_waiting(&self, frame: &[u8]) -> bool {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        matches!(
            send(self.socket().as_raw_fd(), frame, flags),
            Ok(_) | Err(nix::Error::EAGAIN)
        )
    }

    /// Throws away whatever has come; false when the connection is over.
    pub fn drain(&self) -> bool {
        let mut bytes = vec![0; MAX_FRAME_BYTES];
        loop {
            match recv(
                self.socket().as_raw_fd(),
                &mut bytes,
                MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return error == nix::Error::EAGAIN,
            }
        }
    }

    /// Closes the socket and keeps all else.
    pub fn close_socket(&mut self) {
        self.socket = None;
    }
}

fn refusal(header: &FrameHeader, body: hostkv_shm_protocol::wire::codec::Cursor<'_>) -> Refused {
    match Reply::decode(header, body).unwrap() {
        Reply::Error { status, text } => Refused { status, text },
        other => panic!("{other:?}"),
    }
}
