//! The signals that the daemon listens to, as a descriptor that the loop reads.
//!
//! `run` blocks them before it starts any thread, so that every thread inherits the mask and none is ever
//! interrupted; the loop in `server/` polls the descriptor.
//!
//! ```text
//!   SIGTERM, SIGINT --> Stop       SIGHUP --> Reload
//! ```
//!
//! SIGXFSZ is blocked and never read: a write beyond the limit of file sizes then is an error of its call, and does not
//! end the process. SIGIO comes to who holds a kernel lease on a file that others open, which a look at a lease segment
//! does for a moment; it is blocked and never read either.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// End cleanly; the signal's name.
    Stop(&'static str),
    /// Read the configuration again.
    Reload,
}

/// The blocked signals.
#[derive(Debug)]
pub struct Signals {
    descriptor: SignalFd,
}

impl Signals {
    /// Blocks the signals in this thread and in all that it starts from now on.
    pub fn block() -> io::Result<Signals> {
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            mask.add(signal);
        }
        let mut blocked = mask;
        blocked.add(Signal::SIGXFSZ);
        blocked.add(Signal::SIGIO);
        blocked.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Signals {
            descriptor: SignalFd::with_flags(&mask, flags)?,
        })
    }

    /// What the next pending signal asks for.
    pub fn next(&self) -> Option<Wish> {
        // An error here can only be a descriptor that is not ready: it is ours and open.
        let info = self.descriptor.read_signal().ok().flatten()?;
        match Signal::try_from(info.ssi_signo as i32) {
            Ok(Signal::SIGHUP) => Some(Wish::Reload),
            Ok(signal) => Some(Wish::Stop(signal.as_str())),
            Err(_) => None,
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::raise;

    #[test]
    fn a_blocked_signal_waits_in_the_descriptor_and_says_what_it_asks_for() {
        // A thread of its own: the mask must not reach the other tests.
        std::thread::spawn(|| {
            let signals = Signals::block().unwrap();
            assert_eq!(signals.next(), None);
            raise(Signal::SIGHUP).unwrap();
            assert_eq!(signals.next(), Some(Wish::Reload));
            raise(Signal::SIGTERM).unwrap();
            assert_eq!(signals.next(), Some(Wish::Stop("SIGTERM")));
            assert_eq!(signals.next(), None);
        })
        .join()
        .unwrap();
    }
}
