//! The threads that touch payload bytes, so that the loop never does.
//!
//! The store says what is to be done ([`Job`]s); the loop hands it over and, when the bell rings, gives the store what is
//! done. Workers know offsets and lengths and nothing of keys or sessions.
//!
//! ```text
//!   loop:     store.take_jobs --> submit --> channel --> worker: zero, copy, sum --> channel, bell --> loop: store.job_done
//! ```
//!
//! A job owns its bytes from its making until the loop has seen its end: the store keeps the extent for so long, whatever
//! becomes of the session that it was of. Jobs are carried out in any order. Long ones go in pieces, between which the
//! end of the daemon is looked for, so that no end waits for a large extent.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use hostkv_shm_protocol::sum::{Sum, Summing};
use hostkv_shm_protocol::sync::{AtomicBool, Ordering};
use hostkv_shm_protocol::view::View;

/// What the name of each worker thread begins with.
pub const WORKER_THREADS: &str = "payload-";
/// Most threads: the memory bus is full before there are more.
const MOST_THREADS: usize = 4;
/// Bytes between two looks at whether the daemon ends.
const PIECE_BYTES: u64 = 4 << 20;

/// Names a job; never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct JobId(pub u64);

/// What is to be done; offsets are those in the payload, in bytes.
#[derive(Debug, Clone)]
pub enum Task {
    /// Fill with zeros.
    Zero {
        /// Where it begins.
        offset_bytes: u64,
        /// How long it is.
        len_bytes: u64,
    },
    /// Copy out of a staging segment.
    Copy {
        /// The segment, which the daemon does not map: what its writer does to it ends at worst in an error of this job.
        from: Arc<OwnedFd>,
        /// Where the source begins.
        from_bytes: u64,
        /// Where the copy begins; a multiple of 8.
        offset_bytes: u64,
        /// How long it is.
        len_bytes: u64,
        /// Whether the sum of what was copied is wanted; the source may be another by then.
        is_summed: bool,
    },
    /// Sum runs of bytes, each by itself.
    Sum {
        /// Offset and length of each; offsets are multiples of 8.
        extents: Vec<(u64, u64)>,
    },
}

/// A task with its name.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// What to do.
    pub task: Task,
}

/// A job that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobEnd {
    /// Which.
    pub id: JobId,
    /// Whether it was carried out to the end, and the sum of each run of a task that sums.
    pub outcome: Result<Vec<Sum>, Errno>,
}

/// The payload as workers use it.
#[derive(Debug, Clone, Copy)]
pub struct PayloadBytes {
    base: NonNull<u8>,
    len_bytes: u64,
}

// SAFETY: an address and a length; who made it promised that the bytes stay mapped, and which thread writes where is
// settled by the store, which gives an extent to one job at a time.
unsafe impl Send for PayloadBytes {}
// SAFETY: as above; no method makes a reference to the bytes.
unsafe impl Sync for PayloadBytes {}

impl PayloadBytes {
    /// The payload that is mapped read-write at `base`.
    ///
    /// # Safety
    ///
    /// The bytes stay mapped for as long as any worker that was given them runs.
    pub unsafe fn new(base: NonNull<u8>, len_bytes: u64) -> PayloadBytes {
        PayloadBytes { base, len_bytes }
    }

    /// Where `len_bytes` from `offset_bytes` on begin, if the payload has them; for system calls.
    pub(crate) fn at(&self, offset_bytes: u64, len_bytes: u64) -> Result<*mut u8, Errno> {
        let end = offset_bytes.checked_add(len_bytes).ok_or(Errno::ERANGE)?;
        if end > self.len_bytes {
            return Err(Errno::ERANGE);
        }
        Ok(self.base.as_ptr().wrapping_add(offset_bytes as usize))
    }

    /// A window on the payload, through which its words are read one by one.
    pub(crate) fn view(&self) -> View {
        // SAFETY: the bytes stay mapped by the promise of `new`, the payload begins at a page, and nobody makes a
        // reference to them.
        unsafe { View::new(self.base.as_ptr(), self.len_bytes) }
    }

    /// A private copy of the bytes at `offset_bytes`, a multiple of 8; another process may write there meanwhile.
    pub(crate) fn private_copy(&self, offset_bytes: u64, len_bytes: u64) -> Result<Vec<u8>, Errno> {
        // Of megabytes: want of memory is the task's failure, not the end of the daemon.
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(len_bytes as usize)
            .map_err(|_| Errno::ENOMEM)?;
        self.copy_out(offset_bytes, len_bytes, |copied| {
            bytes.extend_from_slice(copied);
        })?;
        Ok(bytes)
    }

    /// The same, to `take` in private pieces that are in the cache.
    pub(crate) fn copy_out(
        &self,
        offset_bytes: u64,
        len_bytes: u64,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), Errno> {
        const CHUNK_WORDS: usize = 1024;
        let words = self
            .view()
            .words(offset_bytes, len_bytes.div_ceil(8))
            .map_err(|_| Errno::ERANGE)?;
        let mut chunk = [0_u64; CHUNK_WORDS];
        let mut next = 0;
        let mut bytes_left = len_bytes as usize;
        while bytes_left > 0 {
            let count = words.copy_out(next, &mut chunk);
            next += count;
            // SAFETY: each word is eight bytes, all of them written.
            let copied = unsafe { std::slice::from_raw_parts(chunk.as_ptr().cast(), count * 8) };
            let copied = &copied[..copied.len().min(bytes_left)];
            take(copied);
            bytes_left -= copied.len();
        }
        Ok(())
    }

    /// Copies private bytes to `offset_bytes`, where no client may look yet.
    pub(crate) fn copy_in(&self, offset_bytes: u64, bytes: &[u8]) -> Result<(), Errno> {
        let to = self.at(offset_bytes, bytes.len() as u64)?;
        // SAFETY: `at` checked the range, which stays mapped by the promise of `new`; the source is private, so both
        // are apart. The store gives the extent to nobody else while a job has it.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// The sum of one run. Its writer may still write there, against its contract: no slice is made of it.
    fn sum(&self, offset_bytes: u64, len_bytes: u64, is_ending: &AtomicBool) -> Result<Sum, Errno> {
        let payload = self.view();
        let mut summing = Summing::new();
        in_pieces(len_bytes, is_ending, |done, piece| {
            summing
                .add(&payload, offset_bytes + done, piece)
                .map_err(|_| Errno::ERANGE)?;
            Ok(piece)
        })?;
        Ok(summing.finish())
    }

    /// Carries a task out; ECANCELED when `is_ending` became true on the way.
    pub fn carry_out(&self, task: &Task, is_ending: &AtomicBool) -> Result<Vec<Sum>, Errno> {
        match task {
            Task::Zero {
                offset_bytes,
                len_bytes,
            } => {
                self.at(*offset_bytes, *len_bytes)?;
                in_pieces(*len_bytes, is_ending, |done, piece| {
                    let to = self.at(offset_bytes + done, piece)?;
                    // SAFETY: `at` checked the range, which stays mapped by the promise of `new`. No client may use it
                    // now: the store gives an extent out again only after this job.
                    unsafe { to.write_bytes(0, piece as usize) };
                    Ok(piece)
                })?;
                Ok(Vec::new())
            }
            Task::Copy {
                from,
                from_bytes,
                offset_bytes,
                len_bytes,
                is_summed,
            } => {
                self.at(*offset_bytes, *len_bytes)?;
                in_pieces(*len_bytes, is_ending, |done, piece| {
                    let to = self.at(offset_bytes + done, piece)?;
                    let at = i64::try_from(from_bytes + done).map_err(|_| Errno::ERANGE)?;
                    // SAFETY: as above. The kernel writes `piece` bytes at most, and says EFAULT where it can't.
                    let got =
                        unsafe { libc::pread(from.as_raw_fd(), to.cast(), piece as usize, at) };
                    match Errno::result(got) {
                        // The segment is sealed against shrinking, so it never ends early.
                        Ok(0) => Err(Errno::ENODATA),
                        Ok(got) => Ok(got as u64),
                        Err(Errno::EINTR) => Ok(0),
                        Err(errno) => Err(errno),
                    }
                })?;
                match is_summed {
                    true => Ok(vec![self.sum(*offset_bytes, *len_bytes, is_ending)?]),
                    false => Ok(Vec::new()),
                }
            }
            Task::Sum { extents } => extents
                .iter()
                .map(|(offset_bytes, len_bytes)| self.sum(*offset_bytes, *len_bytes, is_ending))
                .collect(),
        }
    }
}

/// Does `len_bytes` of work by pieces; `step` gets what is done and what is next, and says how much it did.
fn in_pieces(
    len_bytes: u64,
    is_ending: &AtomicBool,
    mut step: impl FnMut(u64, u64) -> Result<u64, Errno>,
) -> Result<(), Errno> {
    let mut done = 0;
    while done < len_bytes {
        // Relaxed: a sign to stop, nothing stands behind it.
        if is_ending.load(Ordering::Relaxed) {
            return Err(Errno::ECANCELED);
        }
        done += step(done, PIECE_BYTES.min(len_bytes - done))?;
    }
    Ok(())
}

/// Half as many threads as there are CPUs, one to four. It reads the files of the process's cgroup.
pub fn thread_count() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    (cpus / 2).clamp(1, MOST_THREADS)
}

/// The threads and both channels, owned by the loop. Drop ends and joins the threads.
pub struct Workers {
    jobs: Option<Sender<Job>>,
    ends: Receiver<JobEnd>,
    bell: Arc<EventFd>,
    is_ending: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `thread_count` threads: see [`thread_count`].
    pub fn start(payload: PayloadBytes, thread_count: usize) -> io::Result<Workers> {
        let (jobs, queue) = channel::<Job>();
        let (end, ends) = channel();
        let bell = Arc::new(EventFd::from_flags(
            EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
        )?);
        let is_ending = Arc::new(AtomicBool::new(false));
        // **The lock** lets one idle thread at a time wait for the next job. Nobody works or logs while holding it.
        let queue = Arc::new(Mutex::new(queue));
        let mut workers = Workers {
            jobs: Some(jobs),
            ends,
            bell,
            is_ending,
            threads: Vec::new(),
        };
        for number in 0..thread_count {
            let (queue, end) = (Arc::clone(&queue), end.clone());
            let (bell, is_ending) = (Arc::clone(&workers.bell), Arc::clone(&workers.is_ending));
            let work = move || {
                let payload = payload;
                serve(&payload, &queue, &end, &bell, &is_ending);
            };
            let thread = Builder::new()
                .name(format!("{WORKER_THREADS}{number}"))
                .spawn(work)?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Hands a job over; never waits.
    pub fn submit(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // The threads live as long as `self`.
            let _ = jobs.send(job);
        }
    }

    /// At most `most` jobs that are over. When more are, the bell rings again.
    pub fn ends(&self, most: usize) -> Vec<JobEnd> {
        // Before the channel is read, so that an end that comes now rings again.
        let _ = self.bell.read();
        let ends: Vec<JobEnd> = self.ends.try_iter().take(most).collect();
        if ends.len() == most {
            // A full counter is a bell that rings already.
            let _ = self.bell.write(1);
        }
        ends
    }
}

/// One worker, until the daemon ends.
fn serve(
    payload: &PayloadBytes,
    queue: &Mutex<Receiver<Job>>,
    end: &Sender<JobEnd>,
    bell: &EventFd,
    is_ending: &AtomicBool,
) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { id, task }) = job else {
            return;
        };
        let outcome = payload.carry_out(&task, is_ending);
        // The staging segment goes before the end is told: what the loop then looks at is gone.
        drop(task);
        if end.send(JobEnd { id, outcome }).is_err() {
            return;
        }
        let _ = bell.write(1);
    }
}

impl AsFd for Workers {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Relaxed: as where it is read.
        self.is_ending.store(true, Ordering::Relaxed);
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A panic was logged when it happened.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
