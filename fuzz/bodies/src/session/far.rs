//! A client's end of the socket, and what it knows: what it asked, what it was granted, what it pins.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use hostkv_shm_protocol::control::reader::Found;
use hostkv_shm_protocol::id::{EntryNumber, KeyspaceId, OpId};
use hostkv_shm_protocol::lease::LeaseGeometry;
use hostkv_shm_protocol::lease::pins::PinSlots;
use hostkv_shm_protocol::lease::recency::Recency;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::sync::Ordering;
use hostkv_shm_protocol::view::View;
use hostkv_shm_protocol::wire::MAX_FRAME_BYTES;
use hostkv_shm_protocol::wire::header::{FrameHeader, MessageType, flags};
use hostkv_shm_protocol::wire::hello::{Challenge, HELLO_DESCRIPTORS, HelloReply, NONCE_BYTES};
use hostkv_shm_protocol::wire::reply::{Reply, ReservedItem};
use hostkv_shm_protocol::wire::request::{Request, Reserve};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, send};

use super::moves::{Part, Scribble};
use crate::pool::{ALIGN, UNITS};

/// Units of the payload that somebody may write.
#[derive(Debug, Clone, Copy)]
pub struct Grant {
    /// Of which reserve.
    pub op: OpId,
    /// Which entry.
    pub entry: EntryNumber,
    /// The generation it will have.
    pub generation: u64,
    /// First unit.
    pub start: u32,
    /// The unit behind the last one.
    pub end: u32,
}

/// A lease segment as its client maps it.
pub struct Lease {
    view: View,
    geometry: LeaseGeometry,
    /// Its pin slots.
    pub pins: PinSlots,
    /// Its touches.
    pub recency: Recency,
    _map: memmap2::MmapRaw,
}

impl Lease {
    fn map(segment: &OwnedFd) -> Lease {
        let map = memmap2::MmapOptions::new().map_raw(segment).unwrap();
        // SAFETY: the map is page-aligned and kept beside the view; nobody makes a reference to its bytes.
        let view = unsafe { View::new(map.as_ptr(), map.len() as u64) };
        let geometry = LeaseGeometry::read(&view).unwrap();
        Lease {
            view,
            geometry,
            pins: PinSlots::new(view, &geometry).unwrap(),
            recency: Recency::new(view, &geometry).unwrap(),
            _map: map,
        }
    }

    /// Writes a word.
    pub fn scribble(&self, scribble: &Scribble) {
        let geometry = &self.geometry;
        let (start, end) = match scribble.part {
            Part::Header => (0, geometry.slots_offset()),
            Part::Slots => (geometry.slots_offset(), geometry.recency_offset()),
            Part::Recency => (geometry.recency_offset(), geometry.bitmap_offset()),
            Part::Bitmap => (geometry.bitmap_offset(), geometry.events_offset()),
            Part::Events => (geometry.events_offset(), geometry.segment_len()),
        };
        let word = u64::from(scribble.word) % ((end - start) / 8);
        let word = self.view.u64(start + word * 8).unwrap();
        word.store(scribble.value.word(), Ordering::Relaxed);
    }
}

/// What came from the daemon in one packet.
pub enum Heard {
    /// Its challenge.
    Challenge([u8; NONCE_BYTES]),
    /// The session is open.
    Opened,
    /// The grants of a reserve.
    Grants(Vec<Grant>),
    /// Anything else.
    Other,
}

/// A client's end.
pub struct Far {
    /// Its socket, until it closes it.
    pub socket: Option<OwnedFd>,
    /// Its lease segment, once it has one.
    pub lease: Option<Lease>,
    /// Whether it reads its replies.
    pub is_listening: bool,
    /// Whether it has never broken a rule of the lease segment.
    pub is_honest: bool,
    /// Keyspaces that it has open.
    pub keyspaces: Vec<KeyspaceId>,
    /// What it may write.
    pub grants: Vec<Grant>,
    /// What it pins.
    pub pins: BTreeMap<usize, Found>,
    /// Requests that are owed a reply, by their number.
    owed: BTreeMap<u64, Vec<Request>>,
    /// Numbers under which a frame was sent that is none.
    malformed: BTreeSet<u64>,
    next_request: u64,
}

impl Far {
    /// A client that has just connected.
    pub fn new(socket: OwnedFd) -> Far {
        Far {
            socket: Some(socket),
            lease: None,
            is_listening: true,
            is_honest: true,
            keyspaces: Vec::new(),
            grants: Vec::new(),
            pins: BTreeMap::new(),
            owed: BTreeMap::new(),
            malformed: BTreeSet::from([0]),
            next_request: 1,
        }
    }

    /// The number of its next request.
    pub fn number(&mut self) -> u64 {
        self.next_request += 1;
        self.next_request
    }

    /// Requests without a reply yet.
    pub fn owed_count(&self) -> usize {
        self.owed.values().map(Vec::len).sum()
    }

    /// Sends a packet, and notes what it may be answered with. False when the socket takes no more.
    pub fn say(&mut self, frame: &[u8]) -> bool {
        let Some(socket) = &self.socket else {
            return false;
        };
        let sent = send(
            socket.as_raw_fd(),
            frame,
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        );
        if sent.is_err() {
            return false;
        }
        let Ok((header, body)) = FrameHeader::decode(frame) else {
            return true;
        };
        match Request::decode(&header, body) {
            Ok(request) => {
                if let Request::Commit(held)
                | Request::CommitReserve(held, _)
                | Request::Abort(held) = &request
                {
                    // Whatever comes of it, the client no longer writes there.
                    self.grants.retain(|grant| {
                        grant.op != held.op_id
                            || held.items.iter().all(|item| item.entry != grant.entry)
                    });
                }
                if header.flags & flags::NO_REPLY == 0 {
                    self.owed
                        .entry(header.request_id)
                        .or_default()
                        .push(request);
                }
            }
            Err(_) => {
                self.malformed.insert(header.request_id);
            }
        }
        true
    }

    /// Takes the next packet; none when there is none, or nobody is listening.
    pub fn hear(&mut self) -> Option<Heard> {
        let socket = self.socket.as_ref().filter(|_| self.is_listening)?;
        let mut bytes = vec![0; MAX_FRAME_BYTES];
        let mut control = nix::cmsg_space!([RawFd; 8]);
        let mut iov = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let got = match recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut control), flags) {
            Ok(got) => got,
            Err(Errno::EAGAIN | Errno::ECONNRESET) => return None,
            Err(errno) => panic!("{errno}"),
        };
        let mut descriptors = Vec::new();
        for message in got.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(raw) = message {
                descriptors.extend(
                    raw.into_iter()
                        // SAFETY: they were received just now and belong to nobody else.
                        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                );
            }
        }
        let len = got.bytes;
        (len > 0).then(|| self.understand(&bytes[..len], &descriptors))
    }

    fn understand(&mut self, frame: &[u8], descriptors: &[OwnedFd]) -> Heard {
        let (header, body) = FrameHeader::decode(frame).expect("the daemon sends frames");
        match header.message {
            MessageType::Challenge => {
                return Heard::Challenge(Challenge::decode(body).unwrap().nonce);
            }
            MessageType::Hello => {
                HelloReply::decode(body).unwrap();
                assert_eq!(descriptors.len(), HELLO_DESCRIPTORS);
                self.lease = Some(Lease::map(&descriptors[1]));
                return Heard::Opened;
            }
            _ => assert!(descriptors.is_empty()),
        }
        let reply = Reply::decode(&header, body).expect("the daemon's replies decode");
        let asked = self.take_owed(header.request_id, &reply);
        match (reply, asked) {
            (Reply::Error { text, .. }, _) => {
                assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
                Heard::Other
            }
            (Reply::Resolved { keyspace, .. }, _) => {
                self.keyspaces.push(keyspace);
                Heard::Other
            }
            (Reply::Reserved(answers), Some(Request::Reserve(reserve))) => {
                Heard::Grants(grants(&answers, &reserve))
            }
            (
                Reply::CommitReserved(committed, answers),
                Some(Request::CommitReserve(held, reserve)),
            ) => {
                assert_eq!(committed.len(), held.items.len());
                match committed.iter().all(|item| item.status == Status::Ok) {
                    true => Heard::Grants(grants(&answers, &reserve)),
                    false => {
                        assert!(answers.is_empty(), "{answers:?} behind {committed:?}");
                        Heard::Other
                    }
                }
            }
            (Reply::Committed(answers), Some(Request::Commit(held))) => {
                assert_eq!(answers.len(), held.items.len());
                Heard::Other
            }
            (Reply::Aborted(answers), Some(Request::Abort(held))) => {
                assert_eq!(answers.len(), held.items.len());
                Heard::Other
            }
            (Reply::Removed(answers), Some(Request::Remove(keys))) => {
                assert_eq!(answers.len(), keys.len());
                Heard::Other
            }
            (Reply::Prefetched(got), Some(Request::Prefetch(prefetch))) => {
                assert!(got.prefix_count as usize <= prefetch.keys.len() && got.loaded_count == 0);
                Heard::Other
            }
            (Reply::Audit(audit), Some(_)) => {
                assert_eq!(audit.verdict, "");
                Heard::Other
            }
            (_, Some(_)) => Heard::Other,
            (reply, None) => panic!("nobody asked for {reply:?}"),
        }
    }

    /// The request that a reply answers; an error without one must answer something malformed.
    fn take_owed(&mut self, number: u64, reply: &Reply) -> Option<Request> {
        let is_error = matches!(reply, Reply::Error { .. });
        if let Some(asked) = self.owed.get_mut(&number)
            && let Some(at) = asked
                .iter()
                .position(|request| is_error || request.message() == reply.message())
        {
            let request = asked.remove(at);
            if asked.is_empty() {
                self.owed.remove(&number);
            }
            return Some(request);
        }
        assert!(
            is_error && (self.malformed.contains(&number) || self.lease.is_none()),
            "{reply:?} under the number {number} answers nothing"
        );
        None
    }
}

/// What a reserve was granted.
fn grants(answers: &[ReservedItem], reserve: &Reserve) -> Vec<Grant> {
    assert_eq!(answers.len(), reserve.items.len());
    let granted = answers
        .iter()
        .zip(&reserve.items)
        .filter(|(answer, _)| answer.status == Status::Ok);
    granted
        .map(|(answer, item)| {
            let units = item.len_bytes.div_ceil(ALIGN);
            let end = answer.offset_units + units;
            assert!(units > 0 && end <= UNITS, "{answer:?} for {item:?}");
            Grant {
                op: reserve.op_id,
                entry: answer.entry,
                generation: answer.generation,
                start: answer.offset_units,
                end,
            }
        })
        .collect()
}
