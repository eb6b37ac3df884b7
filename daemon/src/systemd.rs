//! What the service manager hears from the daemon.
//!
//! For `Type=notify` units: ready, a status line, more time for a long start, stopping, reloading. `main` and
//! the start-up (`segment::progress`) call it, the loop thread calls `reloading`, `ready` and `stopping`.
//! Without `NOTIFY_SOCKET` in the environment every call does nothing. A message that cannot be sent is logged
//! and the daemon goes on: the service manager's own timeouts are the safety net.
//!
//! ```text
//!   start ── status + extend_timeout (prefault) ──> ready ──> reloading ──> ready ──> stopping ──> exit
//! ```

use std::time::Duration;

use sd_notify::NotifyState;

/// The daemon serves requests (also said again when a reload is done).
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// One line for `systemctl status`; line ends in `text` become spaces, since the protocol is line based.
pub fn status(text: &str) {
    send(&[NotifyState::Status(&one_line(text))]);
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
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("the service manager was not told {states:?}: {error}");
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;
    use std::time::Duration;

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
        super::stopping();
    }

    #[test]
    fn each_call_says_its_line_to_the_notify_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let name = format!(
            "{}::child_says_everything",
            module_path!().split_once("::").unwrap().1
        );
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--ignored"])
            .env(CHILD, "1")
            .env("NOTIFY_SOCKET", &path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let mut said = Vec::new();
        let mut packet = [0u8; 512];
        for _ in 0..5 {
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
        assert_eq!(said[4], "STOPPING=1\n");
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
