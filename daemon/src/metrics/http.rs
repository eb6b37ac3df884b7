//! The metrics endpoint: HTTP that no scraper can hold up.
//!
//! `main` calls [`Endpoint::bind`] before the payload is made and [`Bound::serve`] when the loop runs.
//! tiny_http, which answers the requests, has no time limits, takes threads and descriptors without
//! bound and loses its listener for good when descriptors run out. So it never meets the network: the
//! acceptor thread does, reads and checks each request's head, and hands checked requests on, one at a
//! time, over one connection of a Unix socket that nobody else can reach.
//!
//! ```text
//!   network          acceptor thread (acceptor.rs)                tiny_http's threads      render thread
//!   connect ───────► one of at most 16 (connection.rs)
//!   head    ───────► checked (head.rs); 5 s, 8 KiB
//!                    queue ── GET /metrics ──► inner socket ────► parse ─────────────────► pages.rs
//!                    answer in memory ◄─────── (inner.rs; 3 s) ◄──────────────────────────  snapshot, 2 s
//!   answer  ◄─────── written within 5 s, then closed
//! ```
//!
//! Threads: the acceptor and the render thread are ours; tiny_http has one that accepts and four or five
//! that parse, of which one ever works. Their number is the same idle and under attack. When the inner hop
//! fails, the acceptor replaces the whole of it; to know in time it scrapes itself every 30 s.

mod acceptor;
mod connection;
mod head;
mod inner;
mod pages;
mod plot;
mod status;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::stat::Mode;

use super::SnapshotSource;
use super::render::{RenderError, Renderer};
use acceptor::Acceptor;
use inner::Inner;
use pages::Pages;

/// Every bound of the endpoint. The tests shorten the times.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Connections held; a further one displaces the one that is longest in its phase.
    connection_count: usize,
    /// Size of a request's head.
    head_bytes: usize,
    /// From accept to the end of the head.
    head_within: Duration,
    /// From the end of the head until its turn at the inner hop.
    turn_within: Duration,
    /// One round trip of the inner hop; longer than `snapshot_within`, so that the sentence about a
    /// busy loop thread arrives.
    inner_within: Duration,
    /// The loop thread's answer.
    snapshot_within: Duration,
    /// From having the answer to the end of the connection.
    write_within: Duration,
    /// Between two scrapes of itself.
    watch_every: Duration,
    /// No accept for so long when descriptors have run out.
    accept_pause: Duration,
    /// Between two builds of the inner hop.
    rebuild_pause: Duration,
    /// How long a stop waits for the threads.
    stop_within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connection_count: 16,
            head_bytes: 8 << 10,
            head_within: Duration::from_secs(5),
            turn_within: Duration::from_secs(5),
            inner_within: Duration::from_secs(3),
            snapshot_within: Duration::from_secs(2),
            write_within: Duration::from_secs(5),
            watch_every: Duration::from_secs(30),
            accept_pause: Duration::from_millis(20),
            rebuild_pause: Duration::from_secs(1),
            stop_within: Duration::from_secs(1),
        }
    }
}

/// Why the endpoint cannot have its address; each ends the start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody listens there.
    #[error(
        "the metrics address {0} is in use already, perhaps by a Prometheus server, which itself also \
         uses 9090: choose another port with --prometheus-port (0 picks a free one)"
    )]
    PortTaken(SocketAddr),
    /// The host has no such address.
    #[error(
        "the metrics address {0} is no address of this host: set --prometheus-host to one that is, \
         such as 127.0.0.1 or 0.0.0.0"
    )]
    NotOurs(SocketAddr),
    /// The kernel forbids it.
    #[error(
        "the metrics address {0} is not allowed to this process, ports below 1024 need a privilege: \
         choose another port with --prometheus-port"
    )]
    NotAllowed(SocketAddr),
    /// Anything else that the kernel says.
    #[error(
        "the metrics address {address} cannot be listened on ({error}): see --prometheus-host and \
         --prometheus-port, or --disable-prometheus"
    )]
    Other {
        /// What was asked for.
        address: SocketAddr,
        /// The kernel's word.
        #[source]
        error: io::Error,
    },
    /// The metric families are defective.
    #[error(transparent)]
    Render(#[from] RenderError),
}

impl BindError {
    fn from_io(address: SocketAddr, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::PortTaken(address),
            io::ErrorKind::AddrNotAvailable => Self::NotOurs(address),
            io::ErrorKind::PermissionDenied => Self::NotAllowed(address),
            _ => Self::Other { address, error },
        }
    }
}

/// Why a bound endpoint cannot begin to serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The hop between the acceptor and tiny_http could not be built.
    #[error(
        "the inner socket of the metrics endpoint cannot be made in {folder:?} ({error}): give a --socket \
         in a folder that this process may write, or --disable-prometheus"
    )]
    Inner {
        /// Where the socket is bound for the moment that it takes to connect to it.
        folder: PathBuf,
        /// The kernel's word.
        #[source]
        error: io::Error,
    },
    /// No thread or no event descriptor to be had.
    #[error("the metrics endpoint cannot start ({0}): raise the limits of threads and descriptors")]
    Start(#[source] io::Error),
}

/// The address is ours; connections queue up in the kernel until [`Bound::serve`].
pub struct Bound {
    listener: TcpListener,
    local_addr: SocketAddr,
    renderer: Renderer,
}

/// A serving endpoint; stops when dropped.
pub struct Endpoint {
    stop: Arc<EventFd>,
    /// Returns the render threads that it left behind; `None` once stopped.
    acceptor: Option<JoinHandle<Vec<JoinHandle<()>>>>,
    stop_within: Duration,
    local_addr: SocketAddr,
}

impl Endpoint {
    /// Takes the address. Port 0 picks a free one.
    pub fn bind(host: IpAddr, port: u16) -> Result<Bound, BindError> {
        let asked = SocketAddr::new(host, port);
        let bound = || {
            let listener = TcpListener::bind(asked)?;
            listener.set_nonblocking(true)?;
            let local_addr = listener.local_addr()?;
            Ok((listener, local_addr))
        };
        let (listener, local_addr) = bound().map_err(|error| BindError::from_io(asked, error))?;
        Ok(Bound {
            listener,
            local_addr,
            renderer: Renderer::new()?,
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Ends the endpoint's threads and waits for them, at most a second: a render thread whose
    /// [`SnapshotSource`] does not come back ends when it does.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(acceptor) = self.acceptor.take() else {
            return;
        };
        let deadline = Instant::now() + self.stop_within;
        if let Err(error) = self.stop.write(1) {
            log::warn!("The metrics endpoint cannot be told to stop ({error}).");
            return;
        }
        if !ends_by(&acceptor, deadline) {
            log::warn!("The metrics endpoint did not stop in time.");
            return;
        }
        match acceptor.join() {
            Ok(render_threads) => {
                for thread in render_threads {
                    ends_by(&thread, deadline);
                }
            }
            Err(_) => log::warn!("The acceptor thread of the metrics endpoint had panicked."),
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.end();
    }
}

/// `JoinHandle` has no wait with a deadline: looks every millisecond.
fn ends_by<T>(thread: &JoinHandle<T>, deadline: Instant) -> bool {
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

impl Bound {
    /// Where it listens, with the port that was picked.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Starts the threads, and says at INFO where the metrics are. The inner socket has its name, for a moment now and
    /// whenever it is built anew, in `folder`, which nobody but this user may write to.
    pub fn serve(
        self,
        source: Box<dyn SnapshotSource>,
        folder: &Path,
    ) -> Result<Endpoint, ServeError> {
        self.serve_within(source, folder, Limits::default())
    }

    fn serve_within(
        self,
        source: Box<dyn SnapshotSource>,
        folder: &Path,
        limits: Limits,
    ) -> Result<Endpoint, ServeError> {
        let pages = Arc::new(Pages::new(self.renderer, source, limits.snapshot_within));
        let no_inner = |error| ServeError::Inner {
            folder: folder.to_owned(),
            error,
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = open(folder, flags, Mode::empty()).map_err(|errno| no_inner(errno.into()))?;
        let folder = Arc::new(File::from(opened));
        let inner = Inner::build(&pages, &folder).map_err(no_inner)?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let stop = EventFd::from_value_and_flags(0, flags)
            .map(Arc::new)
            .map_err(|errno| ServeError::Start(errno.into()))?;
        let acceptor = Acceptor::new(
            self.listener,
            Arc::clone(&stop),
            pages,
            folder,
            inner,
            limits,
        )
        .map_err(ServeError::Start)?;
        let acceptor = std::thread::Builder::new()
            .name("metrics-accept".to_owned())
            .spawn(move || acceptor.run())
            .map_err(ServeError::Start)?;
        log::info!(
            "Prometheus metrics available at http://{}/metrics",
            self.local_addr
        );
        Ok(Endpoint {
            stop,
            acceptor: Some(acceptor),
            stop_within: limits.stop_within,
            local_addr: self.local_addr,
        })
    }
}
