//! The bounded queue between log calls and standard error.
//!
//! A log call puts its finished line here from whatever thread and goes on; one thread writes. The
//! call never waits: a full queue drops the line and counts it.
//!
//! ```text
//!   any thread ── try_send ──> [ 8192 lines ] ──> "hostkvd-log" ── write ──> standard error
//!                    │                                  │
//!                 full: dropped += 1             failed: dropped += 1
//! ```
//!
//! Waking that thread is what a line costs most: several times what it takes to make it. So the thread rests for a moment when
//! it has written all that there was, and whoever logs meanwhile wakes nobody. A line that comes after a silence is written
//! at once, one that follows another a rest later at most.
//!
//! What this cannot do is stop the writer thread from waiting for a reader that does not read. That
//! thread holds nothing that anybody else wants, and the end of the process ends it.

use std::io;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use hostkv_shm_protocol::sync::{AtomicU64, Ordering};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow};

/// Lines that wait for the writer thread.
pub(super) const LINE_COUNT: usize = 8192;
/// How long the writer thread rests after a run of lines: shorter than it takes anybody to fill the queue.
const REST: Duration = Duration::from_millis(5);

/// What the two ends and the onlookers share.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Lines put into the queue.
    accepted: AtomicU64,
    /// Lines that nobody will see.
    dropped: AtomicU64,
    /// Lines taken out and done with, written or not. Guarded so that `flush` can wait for it; the
    /// writer thread holds it for one addition, `flush` for one comparison.
    finished: Mutex<u64>,
    advanced: Condvar,
}

impl Progress {
    /// Lines that were dropped since the start.
    pub(super) fn dropped(&self) -> u64 {
        // Relaxed: a count by itself, nothing is read on the strength of it.
        self.dropped.load(Ordering::Relaxed)
    }

    fn drop_one(&self) {
        // Relaxed: as in `dropped`.
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until every line that was accepted before this call is done with; false when that
    /// takes longer than `timeout`.
    pub(super) fn flush(&self, timeout: Duration) -> bool {
        // Relaxed: the caller's own lines are counted by its own thread or by threads that it has
        // joined, and other lines are not promised.
        let wanted = self.accepted.load(Ordering::Relaxed);
        let deadline = Instant::now() + timeout;
        let mut finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        while *finished < wanted {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            finished = self
                .advanced
                .wait_timeout(finished, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    fn finish_one(&self) {
        *self.finished.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.advanced.notify_all();
    }
}

/// The end that log calls write to: each `write` is one line.
pub(super) struct LineSender {
    lines: SyncSender<Vec<u8>>,
    progress: Arc<Progress>,
}

impl io::Write for LineSender {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.lines.try_send(line.to_vec()) {
            // Relaxed: as in `flush`.
            Ok(()) => {
                self.progress.accepted.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => self.progress.drop_one(),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes the queue and starts its writer thread on `sink`, which calls `begin` before it takes a line.
pub(super) fn start<S>(
    sink: S,
    begin: impl FnOnce() + Send + 'static,
) -> io::Result<(LineSender, Arc<Progress>)>
where
    S: AsFd + Send + 'static,
{
    let (sender, receiver) = sync_channel(LINE_COUNT);
    let progress = Arc::new(Progress::default());
    let theirs = Arc::clone(&progress);
    // The thread inherits the mask, so no signal of the process ever lands on it.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let thread = thread::Builder::new()
        .name("hostkvd-log".into())
        .spawn(move || {
            begin();
            write_lines(&receiver, &sink, &theirs, || thread::sleep(REST));
        });
    mask.thread_set_mask()?;
    thread?;
    let lines = LineSender {
        lines: sender,
        progress: Arc::clone(&progress),
    };
    Ok((lines, progress))
}

/// The writer thread: ends when the last sender is gone. It calls `rest` whenever it has written all lines that there were.
pub(super) fn write_lines(
    lines: &Receiver<Vec<u8>>,
    sink: &impl AsFd,
    progress: &Progress,
    mut rest: impl FnMut(),
) {
    let write = |line: Vec<u8>| {
        // A reader that has gone may be followed by another, so each line is tried.
        if write_all(sink, &line).is_err() {
            progress.drop_one();
        }
        progress.finish_one();
    };
    while let Ok(line) = lines.recv() {
        write(line);
        lines.try_iter().for_each(write);
        rest();
    }
}

/// Writes a whole line. Not through [`std::io::Stderr`]: its lock would be held while a reader does
/// not read, and then a panic elsewhere could not say its last words.
fn write_all(sink: &impl AsFd, mut rest: &[u8]) -> nix::Result<()> {
    while !rest.is_empty() {
        match nix::unistd::write(sink, rest) {
            Ok(count) => rest = &rest[count..],
            Err(Errno::EINTR) => {}
            // Whoever shares the descriptor may have made it non-blocking.
            Err(Errno::EAGAIN) => {
                wait_for_room(sink, PollTimeout::NONE)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until a write of a few bytes does not block; false after the timeout.
fn wait_for_room(sink: &impl AsFd, timeout: PollTimeout) -> nix::Result<bool> {
    let mut polled = [PollFd::new(sink.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut polled, timeout) {
        Ok(count) => Ok(count > 0),
        Err(Errno::EINTR) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Writes one line past the queue, for a process that is about to end. Waits a second at most for
/// a reader that does not read; a failed write has nobody left to be told.
pub(super) fn write_past(sink: &impl AsFd, line: &str) {
    // A pipe that is ready takes this many bytes without blocking.
    const PIPE_BUF: usize = libc::PIPE_BUF;
    let mut end = line.len().min(PIPE_BUF - 1);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    let line = format!("{}\n", &line[..end]);
    if wait_for_room(sink, PollTimeout::from(1000u16)).unwrap_or(false) {
        let _unheard = nix::unistd::write(sink, line.as_bytes());
    }
}
