//! The end of a client: what is still to be read when its process has ended, and how an end without one is seen.
//!
//! The loop's thread runs this at a pidfd's event, at a hang-up, and once a second or less often for orphans.
//!
//! ```text
//!   Serving --hang-up, EOF, disconnect--> Orphaned --pidfd, or nobody has the lease segment any more--> ended
//!   Serving --pidfd--> final_drain --> ended          (BYE --> ended at once)
//! ```
//!
//! The pidfd decides, never the socket: a process that lives may write into its extents without one, and a GPU
//! driver may still do so while the process dies. Frames that were queued before the death come first: a COMMIT among
//! them counts. exec leaves the process and its pidfd alive, but unmaps the lease.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;

use hostkv_shm_protocol::wire::header::FrameHeader;
use hostkv_shm_protocol::wire::request::Request;

use super::connection::{Connection, FrameBuffer, Received};

/// More frames than any socket holds at a death; a fork of the dead process may go on sending, and must not keep the
/// loop here.
const FRAMES_AT_MOST: usize = 65_536;

/// Reads what the socket still holds and carries out COMMIT, also that of a COMMIT_RESERVE, ABORT and BYE, and what the like is
/// for granted entries, in their order; true when there was a BYE, after which nothing counts.
pub fn final_drain(
    connection: &Connection,
    buffer: &mut FrameBuffer,
    mut carry_out: impl FnMut(Request),
) -> bool {
    let mut resets = 0;
    for _ in 0..FRAMES_AT_MOST {
        match connection.receive(buffer) {
            Ok(Received::Frame { frame, .. }) => {
                let request = FrameHeader::decode(frame)
                    .and_then(|(header, body)| Request::decode(&header, body));
                match request {
                    Ok(Request::Bye) => return true,
                    Ok(Request::CommitReserve(held, _)) => carry_out(Request::Commit(held)),
                    Ok(
                        request @ (Request::Commit(_)
                        | Request::Abort(_)
                        | Request::CommitGranted(_)
                        | Request::Return(_)),
                    ) => carry_out(request),
                    // Nobody is there to hear of anything else, nor of a malformed frame.
                    Ok(_) | Err(_) => {}
                }
            }
            Ok(Received::Refused(_)) => {}
            // A client that dies with a reply unread gives one reset before its queued frames.
            Ok(Received::Reset) if resets == 0 => resets += 1,
            Ok(Received::Empty | Received::Closed | Received::Reset) | Err(_) => break,
        }
    }
    false
}

/// What is left of a lease segment's use outside the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Somebody has it open or mapped.
    Held,
    /// Nobody has, and the process that it was made for has memory of its own: it has unmapped the segment.
    GivenUp,
    /// Nobody has, and the process has no memory any more or can't be seen: it may be dying.
    Unknown,
}

/// The daemon's own descriptor of a lease segment, by which the kernel tells whether somebody else still has it.
///
/// A client's descriptor is an open file of its own, for writing, and each mapping keeps it: while there is one, the
/// kernel grants nobody its own kind of lease for reading (F_SETLEASE) on that file. So the answer needs no look into
/// the client's process, which a daemon of another user, or one that has locked itself in, may not have.
#[derive(Debug)]
pub struct LeaseFile {
    descriptor: OwnedFd,
}

impl LeaseFile {
    /// `descriptor` is the one that memfd_create gave: it does not count as open for writing itself.
    pub fn new(descriptor: OwnedFd) -> LeaseFile {
        LeaseFile { descriptor }
    }

    /// Looks at its use by process `pid`. The caller makes sure afterwards that the process still is the one it means.
    pub fn look(&self, pid: i32) -> Use {
        match self.is_held_elsewhere() {
            Some(true) => Use::Held,
            // A dying process gives up its memory before its devices and its pidfd: that proves nothing.
            Some(false) if has_memory(pid) => Use::GivenUp,
            Some(false) | None => Use::Unknown,
        }
    }

    fn is_held_elsewhere(&self) -> Option<bool> {
        let descriptor = self.descriptor.as_raw_fd();
        // SAFETY: fcntl with these numbers touches no memory of this process. Whoever opens the file for writing while
        // the kernel's lease is there makes the kernel send SIGIO, which `signal` blocks.
        let granted =
            Errno::result(unsafe { libc::fcntl(descriptor, libc::F_SETLEASE, libc::F_RDLCK) });
        match granted {
            Ok(_) => {
                // SAFETY: as above. It can't fail: the lease was granted to this very descriptor.
                unsafe { libc::fcntl(descriptor, libc::F_SETLEASE, libc::F_UNLCK) };
                Some(false)
            }
            Err(Errno::EAGAIN) => Some(true),
            Err(_) => None,
        }
    }
}

/// Whether the process is there and has memory of its own; also false when it can't be seen.
fn has_memory(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| virtual_bytes(&stat) > 0)
}

/// Field 23 of `/proc/PID/stat`, counted after the name in field 2, which may hold blanks and brackets; 0 when it is not
/// there.
fn virtual_bytes(stat: &str) -> u64 {
    stat.rsplit_once(')')
        .and_then(|(_, fields)| fields.split_ascii_whitespace().nth(20)?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::connection::tests::pair;
    use hostkv_shm_protocol::id::{EntryNumber, OpId};
    use hostkv_shm_protocol::wire::request::{Held, HeldItem};
    use nix::sys::socket::{MsgFlags, send};
    use std::os::fd::{AsRawFd, OwnedFd};

    fn held(op_id: u64) -> Held {
        Held {
            op_id: OpId(op_id),
            items: vec![HeldItem {
                entry: EntryNumber(3),
                generation: 2,
            }],
        }
    }

    fn ask(socket: &OwnedFd, request: &Request) {
        let frame = request.encode(1, true);
        send(socket.as_raw_fd(), &frame, MsgFlags::empty()).unwrap();
    }

    fn drained(connection: &Connection) -> (Vec<Request>, bool) {
        let mut carried_out = Vec::new();
        let was_bye = final_drain(connection, &mut FrameBuffer::new(), |request| {
            carried_out.push(request);
        });
        (carried_out, was_bye)
    }

    #[test]
    fn a_commit_queued_behind_an_unread_reply_is_carried_out_after_the_reset() {
        let (mut ours, theirs) = pair();
        ours.send(b"a reply that is never read".to_vec().into())
            .unwrap();
        ask(&theirs, &Request::Commit(held(7)));
        drop(theirs);
        // The premise: the kernel gives the reset first.
        let (mut probe, probe_theirs) = pair();
        probe.send(b"unread".to_vec().into()).unwrap();
        ask(&probe_theirs, &Request::Ping);
        drop(probe_theirs);
        assert_eq!(
            probe.receive(&mut FrameBuffer::new()).unwrap(),
            Received::Reset
        );

        assert_eq!(drained(&ours), (vec![Request::Commit(held(7))], false));
    }

    #[test]
    fn only_commit_abort_and_bye_count_after_a_death() {
        let (ours, theirs) = pair();
        ask(&theirs, &Request::Ping);
        ask(&theirs, &Request::Clear { flags: 0 });
        ask(&theirs, &Request::Abort(held(1)));
        send(theirs.as_raw_fd(), b"no frame at all", MsgFlags::empty()).unwrap();
        ask(&theirs, &Request::Commit(held(2)));
        drop(theirs);
        let expected = vec![Request::Abort(held(1)), Request::Commit(held(2))];
        assert_eq!(drained(&ours), (expected, false));
    }

    #[test]
    fn a_bye_ends_the_drain() {
        let (ours, theirs) = pair();
        ask(&theirs, &Request::Commit(held(1)));
        ask(&theirs, &Request::Bye);
        ask(&theirs, &Request::Commit(held(2)));
        assert_eq!(drained(&ours), (vec![Request::Commit(held(1))], true));
    }

    #[test]
    fn a_fork_that_holds_the_socket_does_not_keep_the_drain_waiting() {
        let (ours, _held_by_the_fork) = pair();
        assert_eq!(drained(&ours), (vec![], false));
    }

    /// A memfd as a lease segment is, and what a client gets of it.
    fn lease() -> (LeaseFile, OwnedFd) {
        let segment = crate::segment::create_lease(4096).unwrap();
        let theirs = segment.writable_fd().unwrap();
        let (_, descriptor) = segment.into_parts();
        (LeaseFile::new(descriptor), theirs)
    }

    /// Children that other tests fork have a copy of every descriptor for the moment until they call exec.
    fn wait_until_nobody_has(lease: &LeaseFile) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while lease.is_held_elsewhere() != Some(false) {
            assert!(std::time::Instant::now() < deadline, "it stays held");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_lease_is_held_while_its_client_has_it_open_or_mapped() {
        let pid = std::process::id() as i32;
        let (lease, theirs) = lease();
        assert_eq!(lease.look(pid), Use::Held);
        let map = memmap2::MmapOptions::new().map_raw(&theirs).unwrap();
        drop(theirs);
        assert_eq!(lease.look(pid), Use::Held);
        drop(map);
        wait_until_nobody_has(&lease);
        assert_eq!(lease.look(pid), Use::GivenUp);
        assert_eq!(lease.look(pid), Use::GivenUp, "a look changes nothing");
    }

    #[test]
    fn a_lease_that_nobody_has_proves_nothing_without_a_process_that_has_memory() {
        let (lease, theirs) = lease();
        drop(theirs);
        wait_until_nobody_has(&lease);
        assert_eq!(lease.look(-1), Use::Unknown);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let is_zombie = |stat: String| stat.contains(") Z ");
        while !fs::read_to_string(format!("/proc/{}/stat", child.id())).is_ok_and(is_zombie) {
            std::thread::yield_now();
        }
        assert_eq!(lease.look(child.id() as i32), Use::Unknown);
        child.wait().unwrap();
    }

    #[test]
    fn a_name_with_blanks_and_brackets_shifts_no_field() {
        let fields =
            "S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 400 8192 3 18446744073709551615";
        assert_eq!(virtual_bytes(&format!("7 (a ) b) {fields}")), 8192);
        assert_eq!(virtual_bytes("7 (dying) Z 1 7"), 0);
        assert_eq!(virtual_bytes(""), 0);
    }
}
