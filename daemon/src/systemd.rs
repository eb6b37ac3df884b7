//! What the service manager hears from the daemon, and the socket that it may have made.
//!
//! For `Type=notify` units: ready, a status line, more time for a long start, the watchdog's feed, stopping,
//! reloading. `main` and the start-up (`segment::progress`) call it; the loop's thread calls the rest, what recurs by
//! `server::reports`. Without `NOTIFY_SOCKET` in the environment every call does nothing. A message that cannot be sent
//! is logged and the daemon goes on: the service manager's own timeouts are the safety net.
//!
//! ```text
//!   start ── status + extend_timeout (prefault) ──> ready ──> reloading ──> ready ──> stopping ──> exit
//!                                                     └ feed_watchdog, status: from the loop ┘
//! ```
//!
//! [`listen`] is the other direction: the listening socket of a `.socket` unit.

pub mod listen;

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

/// How long a message that must not be lost waits for a service manager that does not read. Those that come again
/// do not wait at all.
const WRITE_WITHIN: Duration = Duration::from_secs(1);

/// Whether somebody listens to what is said here.
pub fn is_heard() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Whether it listens on an abstract socket.
pub fn is_heard_at_abstract_socket() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|place| place.as_bytes().starts_with(b"@"))
}

/// How long the service manager waits for a feed of the watchdog; `None` when it keeps none for this process.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

/// The daemon serves requests (also said again when a reload is done).
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// One line for `systemctl status`; line ends in `text` become spaces, since the protocol is line based.
pub fn status(text: &str) {
    send(&[NotifyState::Status(&one_line(text))]);
}

/// As [`status`], from the loop: a service manager that does not read does not hold it up, and misses the line.
pub fn status_if_read(text: &str) -> bool {
    send_if_read(&[NotifyState::Status(&one_line(text))])
}

/// The loop is alive; false = the service manager did not take it, say it again soon.
pub fn feed_watchdog() -> bool {
    send_if_read(&[NotifyState::Watchdog])
}

/// The start (or stop) may take `more` from now on before the service manager gives it up.
pub fn extend_timeout(more: Duration) {
    let usec = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
    send(&[NotifyState::ExtendTimeoutUsec(usec)]);
}

/// The daemon has begun its clean end.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// The configuration is being reread; [`ready`] ends that.
pub fn reloading() {
    // systemd ignores RELOADING=1 of a Type=notify-reload unit without the time at which it was said.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => {
            log::warn!("the service manager was not told of the reload: no monotonic time: {error}")
        }
    }
}

fn send(states: &[NotifyState<'_>]) {
    let sent = deliver(states, |socket| {
        socket.set_write_timeout(Some(WRITE_WITHIN))
    });
    if let Err(error) = sent {
        log::warn!("the service manager was not told {states:?}: {error}");
    }
}

fn send_if_read(states: &[NotifyState<'_>]) -> bool {
    match deliver(states, |socket| socket.set_nonblocking(true)) {
        Ok(()) => true,
        // Its queue is full: it hears the next one.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
        Err(error) => {
            log::debug!("the service manager was not told {states:?}: {error}");
            false
        }
    }
}

/// One datagram with a line for each state. The crate's own function would wait for a service manager that does not
/// read, and knows no abstract sockets.
fn deliver(
    states: &[NotifyState<'_>],
    prepare: impl FnOnce(&UnixDatagram) -> io::Result<()>,
) -> io::Result<()> {
    let Some(place) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let address = match place.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&place)?,
    };
    let text: String = states.iter().map(|state| format!("{state}\n")).collect();
    let socket = UnixDatagram::unbound()?;
    prepare(&socket)?;
    socket.send_to_addr(text.as_bytes(), &address).map(drop)
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const CHILD: &str = "HOSTKV_TEST_SYSTEMD_CHILD";

    #[test]
    #[ignore = "runs as a child of each_call_says_its_line_to_the_notify_socket, with NOTIFY_SOCKET set"]
    fn child_says_everything() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        super::status("prefault 1/2 GiB\nREADY=1");
        super::extend_timeout(Duration::from_secs(30));
        super::ready();
        super::reloading();
        assert!(super::status_if_read("3 sessions") && super::feed_watchdog());
        super::stopping();
    }

    #[test]
    #[ignore = "runs as a child of a_service_manager_that_does_not_read_holds_nobody_up, with NOTIFY_SOCKET set"]
    fn child_feeds_until_the_queue_is_full() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        let fed = (0..100_000).take_while(|_| super::feed_watchdog()).count();
        assert!(fed > 0 && fed < 100_000, "{fed}");
        let begin = std::time::Instant::now();
        assert!(!super::status_if_read("never read"));
        // A second is what the calls that must not be lost may wait.
        super::stopping();
        assert!(begin.elapsed() < Duration::from_secs(20));
    }

    /// Runs one of the tests above as a process of its own.
    fn run_child(name: &str, notify_socket: impl AsRef<std::ffi::OsStr>) {
        let name = format!("{}::{name}", module_path!().split_once("::").unwrap().1);
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--ignored"])
            .env(CHILD, "1")
            .env("NOTIFY_SOCKET", notify_socket)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("1 passed"), "{text}");
    }

    #[test]
    fn a_service_manager_that_does_not_read_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify.sock");
        let _socket = UnixDatagram::bind(&path).unwrap();
        run_child("child_feeds_until_the_queue_is_full", &path);
    }

    #[test]
    fn each_call_says_its_line_to_the_notify_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify.sock");
        says_everything(UnixDatagram::bind(&path).unwrap(), path.as_os_str());
        let name = format!("hostkv-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        says_everything(socket, format!("@{name}").as_ref());
    }

    fn says_everything(socket: UnixDatagram, notify_socket: &std::ffi::OsStr) {
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        run_child("child_says_everything", notify_socket);
        let mut said = Vec::new();
        let mut packet = [0u8; 512];
        for _ in 0..7 {
            let length = socket.recv(&mut packet).unwrap();
            said.push(String::from_utf8(packet[..length].to_vec()).unwrap());
        }
        assert_eq!(said[0], "STATUS=prefault 1/2 GiB READY=1\n");
        assert_eq!(said[1], "EXTEND_TIMEOUT_USEC=30000000\n");
        assert_eq!(said[2], "READY=1\n");
        assert!(
            said[3].starts_with("RELOADING=1\nMONOTONIC_USEC="),
            "{:?}",
            said[3]
        );
        assert_eq!(said[4], "STATUS=3 sessions\n");
        assert_eq!(said[5], "WATCHDOG=1\n");
        assert_eq!(said[6], "STOPPING=1\n");
    }

    #[test]
    fn without_a_notify_socket_every_call_does_nothing() {
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            eprintln!("SKIPPED: this test itself runs under a service manager");
            return;
        }
        super::status("nobody listens");
        super::ready();
        super::stopping();
    }
}
