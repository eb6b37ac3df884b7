//! Round trips on a socket: between two processors, and what their system calls cost a server in CPU.

use crate::machine;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, recv, send, shutdown, socketpair,
};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::Instant;

/// Both processors that a trip goes between: the client's and the server's. `None` on a machine with one.
pub fn processors() -> Option<(usize, usize)> {
    (machine::cpu_count() >= 2).then_some((0, 1))
}

/// A thread that answers messages, and the other end of its SEQPACKET socket.
pub struct Echo {
    socket: Option<OwnedFd>,
    thread: Option<JoinHandle<u64>>,
}

impl Echo {
    /// Starts it, on the second of [`processors`]. It waits with epoll, as a server of many clients must, receives, and
    /// sends the first word's number of bytes back.
    pub fn start() -> Result<Echo, String> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(|error| format!("socketpair: {error}"))?;
        let thread = std::thread::spawn(move || serve(&theirs));
        Ok(Echo {
            socket: Some(ours),
            thread: Some(thread),
        })
    }

    /// One round trip: `message` goes there, `answer` comes back whole.
    pub fn trip(&self, message: &mut [u8], answer: &mut [u8]) -> Result<(), String> {
        self.ask(message, answer.len())?;
        self.receive(answer)
    }

    /// The first half of a round trip: `message` goes there, and as many bytes are to come back.
    pub fn ask(&self, message: &mut [u8], answer_bytes: usize) -> Result<(), String> {
        message[..8].copy_from_slice(&(answer_bytes as u64).to_le_bytes());
        let sent = send(self.fd(), message, MsgFlags::empty());
        whole(sent, message.len())
    }

    /// The second half: an answer, waited for if it is not there yet.
    pub fn receive(&self, answer: &mut [u8]) -> Result<(), String> {
        let received = recv(self.fd(), answer, MsgFlags::empty());
        whole(received, answer.len())
    }

    fn fd(&self) -> i32 {
        self.socket.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Nanoseconds of each of `count` round trips of 64 bytes.
    pub fn trips_ns(&self, count: usize) -> Result<Vec<f64>, String> {
        let (mut message, mut answer) = ([0; 64], [0; 64]);
        (0..count)
            .map(|_| {
                let begin = Instant::now();
                self.trip(&mut message, &mut answer)?;
                Ok(begin.elapsed().as_nanos() as f64)
            })
            .collect()
    }

    /// Ends it; the nanoseconds of CPU that it used.
    pub fn end(mut self) -> u64 {
        self.stop()
    }

    fn stop(&mut self) -> u64 {
        if let Some(socket) = self.socket.take() {
            let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
        }
        self.thread
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or(0)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop();
    }
}

fn whole(moved: nix::Result<usize>, bytes: usize) -> Result<(), String> {
    if moved == Ok(bytes) {
        Ok(())
    } else {
        Err(format!("a round trip of {bytes} bytes failed: {moved:?}"))
    }
}

/// The thread's body; the CPU that it used.
fn serve(socket: &OwnedFd) -> u64 {
    if let Some((_, second)) = processors() {
        let _ = machine::bind(0, Some(second));
    }
    let mut buffer = vec![0; 128 << 10];
    let mut events = [EpollEvent::empty()];
    let _ = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).and_then(|epoll| {
        epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        loop {
            epoll.wait(&mut events, EpollTimeout::NONE)?;
            let received = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let Some(head) = buffer.first_chunk::<8>().filter(|_| received >= 8) else {
                return Ok(());
            };
            let wanted = u64::from_le_bytes(*head) as usize;
            send(
                socket.as_raw_fd(),
                &buffer[..wanted.min(buffer.len())],
                MsgFlags::MSG_NOSIGNAL,
            )?;
        }
    });
    machine::this_thread_cpu_ns()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_answers_with_as_many_bytes_as_were_asked_and_accounts_for_its_cpu() {
        let echo = Echo::start().expect("an echo starts");
        let (mut message, mut answer) = (vec![0; 1720], vec![0; 800]);
        for _ in 0..100 {
            echo.trip(&mut message, &mut answer).expect("a trip");
        }
        assert_eq!(echo.trips_ns(10).expect("trips").len(), 10);
        assert!(echo.end() > 0);
    }
}
