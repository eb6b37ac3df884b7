//! The hop from the acceptor to tiny_http: one Unix connection, made once, used for one request at a
//! time.
//!
//! [`Inner::build`] runs on the caller of `serve` and later on the acceptor thread, which alone uses
//! the hop; the render thread is its child. The connection stays open between requests, so a scrape
//! takes no descriptor here and cannot fail for want of one. The socket has a name in the file system
//! only inside `build`, one that nobody can foresee and that only this user could use: from then on nobody
//! can connect to it but through a descriptor that we hold. The name is in the folder of the daemon's own
//! socket, so that the process needs to write to no other one.
//!
//! ```text
//!   build:  bind ─ keep an O_PATH descriptor ─ unlink ─ tiny_http ─ connect
//!   end:    close the connection ─ unblock recv ─ last user drops `Listening`:
//!           tiny_http told to close ─ its accept woken by one last connection
//! ```
//!
//! tiny_http's parsing threads, idle then, end up to five seconds later.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::fcntl::{OFlag, open};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::stat::Mode;
use tiny_http::{Header, Response, Server, StatusCode};

use super::head::Request;
use super::pages::{Page, Pages};
use crate::random::random_bytes;

/// An answer beyond this is a defect, not a scrape: all families take some 20 KiB.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// The hop, idle or with one exchange under way.
pub(super) struct Inner {
    /// Shared with the render thread, which only ever hangs up.
    stream: Arc<UnixStream>,
    listening: Arc<Listening>,
    /// `None` only while dropping.
    render_thread: Option<JoinHandle<()>>,
    exchange: Option<Exchange>,
}

struct Exchange {
    request: Vec<u8>,
    sent_bytes: usize,
    answer: Vec<u8>,
    is_head: bool,
}

/// tiny_http's listener; the last of the acceptor and the render thread that lets go ends it.
struct Listening {
    /// `None` only while dropping.
    server: Option<Server>,
    /// Not connected yet: the connection that wakes tiny_http's accept at the end. Made beforehand, so
    /// that the end needs no descriptor.
    waker: OwnedFd,
    /// The socket's inode, which has no name any more.
    node: OwnedFd,
    /// The folder in which it was bound. tiny_http remembers the path through this descriptor and
    /// removes it when it ends: kept until then, so that the path leads nowhere else.
    folder: Arc<File>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        // Sets tiny_http's mark of closing; its own attempt to wake itself goes by the lost name.
        drop(self.server.take());
        let woken = UnixAddr::new(&by_descriptor(&self.node))
            .and_then(|address| connect(self.waker.as_raw_fd(), &address));
        if let Err(errno) = woken {
            log::debug!("tiny_http's accept was not woken ({errno}).");
        }
        log::trace!("Inner listener in folder {:?} ended.", self.folder);
    }
}

/// Ends the connection when the render thread ends, for whatever reason: the acceptor then learns at once
/// that nobody would answer.
struct HangUp(Arc<UnixStream>);

impl Drop for HangUp {
    fn drop(&mut self) {
        // A failure means that it has ended already.
        let _ended_already = self.0.shutdown(Shutdown::Both);
    }
}

/// A path to what a descriptor refers to, whatever its name was.
fn by_descriptor(descriptor: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

impl Inner {
    /// Binds, starts tiny_http and the render thread, connects.
    pub(super) fn build(pages: &Arc<Pages>, folder: &Arc<File>) -> io::Result<Self> {
        let (listener, node) = bind_without_name(folder)?;
        let stream = Arc::new(UnixStream::connect(by_descriptor(&node))?);
        stream.set_nonblocking(true)?;
        let waker = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        // tiny_http panics when the system has no thread left; to us that is one failed build. Not on this thread: at
        // the start it is the loop's, whose panics end the daemon.
        let server = std::thread::Builder::new()
            .name("metrics-start".to_owned())
            .spawn(move || Server::from_listener(listener, None))?
            .join()
            .map_err(|_| io::Error::other("tiny_http could not start its threads"))?
            .map_err(io::Error::other)?;
        let listening = Arc::new(Listening {
            server: Some(server),
            waker,
            node,
            folder: Arc::clone(folder),
        });
        let render_thread = std::thread::Builder::new()
            .name("metrics-render".to_owned())
            .spawn({
                let listening = Arc::clone(&listening);
                let pages = Arc::clone(pages);
                let hang_up = HangUp(Arc::clone(&stream));
                move || {
                    render_loop(&listening, &pages);
                    drop(hang_up);
                }
            })?;
        Ok(Self {
            stream,
            listening,
            render_thread: Some(render_thread),
            exchange: None,
        })
    }

    /// Whether the exchange still has bytes to send.
    pub(super) fn wants_to_send(&self) -> bool {
        self.exchange
            .as_ref()
            .is_some_and(|exchange| exchange.sent_bytes < exchange.request.len())
    }

    /// Begins an exchange; only method and path go on, none of the client's headers.
    pub(super) fn begin(&mut self, request: &Request) {
        let Request { method, target } = request;
        self.exchange = Some(Exchange {
            request: format!("{method} {target} HTTP/1.1\r\nHost: hostkvd\r\n\r\n").into_bytes(),
            sent_bytes: 0,
            answer: Vec::new(),
            is_head: method == "HEAD",
        });
    }

    /// Sends and receives as far as that goes without waiting. `Some` is the whole answer for the
    /// client; an error means that the hop must be built anew.
    pub(super) fn advance(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(exchange) = &mut self.exchange else {
            // Between exchanges only the end of the connection can be there to read.
            return match (&*self.stream).read(&mut [0]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(error),
                Ok(_) => Err(io::ErrorKind::ConnectionAborted.into()),
            };
        };
        while exchange.sent_bytes < exchange.request.len() {
            match (&*self.stream).write(&exchange.request[exchange.sent_bytes..]) {
                Ok(count) => exchange.sent_bytes += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let mut piece = [0; 16 << 10];
        loop {
            match (&*self.stream).read(&mut piece) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => exchange.answer.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
            if let Some(answer) = whole_answer(&exchange.answer, exchange.is_head)? {
                self.exchange = None;
                return Ok(Some(answer));
            }
        }
    }

    /// Ends the hop and gives the render thread, which may take as long as its question takes.
    pub(super) fn end(mut self) -> Option<JoinHandle<()>> {
        self.render_thread.take()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A failure means that the other side has closed already.
        let _closed_already = self.stream.shutdown(Shutdown::Both);
        if let Some(server) = &self.listening.server {
            server.unblock();
        }
    }
}

impl AsFd for Inner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// A listener whose name is gone, and a descriptor of its inode.
fn bind_without_name(folder: &File) -> io::Result<(UnixListener, OwnedFd)> {
    let name = u128::from_ne_bytes(random_bytes()?);
    // Through the descriptor the path is short, however deep the folder is.
    let path = by_descriptor(folder).join(format!(".hostkvd-metrics-{name:032x}"));
    let listener = UnixListener::bind(&path)?;
    let node = open(&path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    std::fs::remove_file(&path)?;
    Ok((listener, node?))
}

/// The render thread: tiny_http's requests one after the other, until it is unblocked or fails.
fn render_loop(listening: &Listening, pages: &Pages) {
    let Some(server) = &listening.server else {
        return;
    };
    while let Ok(request) = server.recv() {
        // A panic costs this one answer, not the hop. The pages hold nothing that it could leave half
        // done: a lock they find poisoned they take over.
        let answer = || pages.answer(request.method().as_str(), request.url());
        let page = catch_unwind(AssertUnwindSafe(answer)).unwrap_or_else(|_| Page::panicked());
        if let Err(error) = request.respond(response(page)) {
            // The acceptor gave this hop up in the meantime.
            log::debug!("An answer to a scrape found no reader ({error}).");
        }
    }
}

fn response(page: Page) -> Response<io::Cursor<Vec<u8>>> {
    let header = |name: &str, value: &str| {
        Header::from_bytes(name, value).expect("names and values here are plain ASCII")
    };
    let mut response = Response::from_data(page.body)
        .with_status_code(StatusCode(page.status))
        // Always with a length, never in chunks: the acceptor reads by the length.
        .with_chunked_threshold(usize::MAX)
        .with_header(header("Server", "hostkvd"))
        .with_header(header("Content-Type", page.content_type));
    if let Some(policy) = page.content_policy {
        response.add_header(header("Content-Security-Policy", policy));
        response.add_header(header("Cache-Control", "no-store"));
    }
    if page.has_allow {
        response.add_header(header("Allow", "GET, HEAD"));
    }
    response
}

/// The answer for the client once all of it is there: tiny_http's, which closes after itself.
fn whole_answer(bytes: &[u8], is_head: bool) -> io::Result<Option<Vec<u8>>> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    if bytes.len() > MAX_ANSWER_BYTES {
        return Err(malformed());
    }
    let Some(head_bytes) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let (head, body) = (&bytes[..head_bytes], &bytes[head_bytes + 4..]);
    let length_bytes = std::str::from_utf8(head)
        .map_err(|_| malformed())?
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .ok_or_else(malformed)?;
    let expected_bytes = if is_head { 0 } else { length_bytes };
    if body.len() < expected_bytes {
        return Ok(None);
    }
    if body.len() > expected_bytes {
        return Err(malformed());
    }
    let mut answer = head.to_vec();
    answer.extend_from_slice(b"\r\nConnection: close\r\n\r\n");
    answer.extend_from_slice(body);
    Ok(Some(answer))
}
