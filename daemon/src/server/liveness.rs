//! The end of a client: what is still to be read when its process has ended, and how an end without one is seen.
//!
//! The loop's thread runs this at a pidfd's event, at a hang-up, and once a second or less often for orphans.
//!
//! ```text
//!   Serving --hang-up, EOF, disconnect--> Orphaned --pidfd, or its maps no longer show the lease--> ended
//!   Serving --pidfd--> final_drain --> ended          (BYE --> ended at once)
//! ```
//!
//! The pidfd decides, never the socket: a process that lives may write into its extents without one, and a GPU
//! driver may still do so while the process dies. Frames that were queued before the death come first: a COMMIT among
//! them counts. exec leaves the process and its pidfd alive, but unmaps the lease.

use std::collections::HashSet;
use std::fs;

use hostkv_shm_protocol::wire::header::FrameHeader;
use hostkv_shm_protocol::wire::request::Request;

use super::connection::{Connection, FrameBuffer, Received};

/// More frames than any socket holds at a death; a fork of the dead process may go on sending, and must not keep the
/// loop here.
const FRAMES_AT_MOST: usize = 65_536;

/// Reads what the socket still holds and carries out COMMIT, ABORT and BYE, in their order; true when there was a
/// BYE, after which nothing counts.
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
                    Ok(request @ (Request::Commit(_) | Request::Abort(_))) => carry_out(request),
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

/// Which file a lease segment is, as `/proc/PID/maps` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseFile {
    /// Major and minor number of its device; hexadecimal in the maps.
    device: (u32, u32),
    inode: u64,
}

impl LeaseFile {
    /// The file behind a descriptor.
    pub fn of(descriptor: impl std::os::fd::AsFd) -> nix::Result<LeaseFile> {
        let stat = nix::sys::stat::fstat(descriptor)?;
        Ok(LeaseFile {
            device: (libc::major(stat.st_dev), libc::minor(stat.st_dev)),
            inode: stat.st_ino,
        })
    }
}

/// What a process's maps say of its lease segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maps {
    /// They show it.
    Shown,
    /// They are there and do not show it.
    Gone,
    /// They can't be read, or the process is dying and has none.
    Unknown,
}

/// The files that a process has mapped, read once for all its orphans: a process may have tens of thousands of maps and
/// hundreds of orphans, and the loop serves nobody while it reads.
#[derive(Debug)]
pub struct ProcessMaps {
    /// None when the maps can't be read or the process has none.
    files: Option<HashSet<LeaseFile>>,
}

impl ProcessMaps {
    /// Reads them. The caller makes sure afterwards that the process still is the one it means.
    pub fn of(pid: i32) -> ProcessMaps {
        match fs::read_to_string(format!("/proc/{pid}/maps")) {
            Ok(maps) => ProcessMaps::parse(&maps),
            Err(_) => ProcessMaps { files: None },
        }
    }

    fn parse(maps: &str) -> ProcessMaps {
        // A dying process gives up its memory before its devices and its pidfd: no maps are no proof.
        let files = (!maps.is_empty()).then(|| maps.lines().filter_map(mapped_file).collect());
        ProcessMaps { files }
    }

    /// What they say of a lease segment.
    pub fn look_for(&self, lease: LeaseFile) -> Maps {
        match &self.files {
            None => Maps::Unknown,
            Some(files) if files.contains(&lease) => Maps::Shown,
            Some(_) => Maps::Gone,
        }
    }
}

/// The file that a line of `/proc/PID/maps` names; none for memory without a file.
fn mapped_file(line: &str) -> Option<LeaseFile> {
    let mut fields = line.split_ascii_whitespace().skip(3);
    let (major, minor) = fields.next()?.split_once(':')?;
    let inode = fields.next()?.parse().ok().filter(|inode| *inode != 0)?;
    let hexadecimal = |number| u32::from_str_radix(number, 16).ok();
    Some(LeaseFile {
        device: (hexadecimal(major)?, hexadecimal(minor)?),
        inode,
    })
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

    #[test]
    fn the_maps_of_a_process_show_its_lease_until_it_is_unmapped() {
        let file =
            nix::sys::memfd::memfd_create("lease-test", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
                .unwrap();
        nix::unistd::ftruncate(&file, 4096).unwrap();
        let lease = LeaseFile::of(&file).unwrap();
        let pid = std::process::id() as i32;
        assert_eq!(ProcessMaps::of(pid).look_for(lease), Maps::Gone);
        // SAFETY: the memfd is the test's own and nothing shrinks it.
        let map = unsafe { memmap2::MmapOptions::new().len(4096).map(&file) }.unwrap();
        assert_eq!(ProcessMaps::of(pid).look_for(lease), Maps::Shown);
        drop(map);
        assert_eq!(ProcessMaps::of(pid).look_for(lease), Maps::Gone);
    }

    #[test]
    fn missing_maps_prove_nothing() {
        let lease = LeaseFile {
            device: (0, 1),
            inode: 9,
        };
        assert_eq!(ProcessMaps::parse("").look_for(lease), Maps::Unknown);
        assert_eq!(ProcessMaps::of(-1).look_for(lease), Maps::Unknown);
        let line = "7f00-7f10 rw-s 00000000 00:01 9    /memfd:hostkv-lease (deleted)\n";
        assert_eq!(ProcessMaps::parse(line).look_for(lease), Maps::Shown);
        assert_eq!(
            ProcessMaps::parse(&line.replace(" 9 ", " 91 ")).look_for(lease),
            Maps::Gone
        );
        assert_eq!(
            ProcessMaps::parse(&line.replace("00:01", "00:02")).look_for(lease),
            Maps::Gone
        );
    }
}
