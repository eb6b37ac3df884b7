//! Waits of a thread of a tier for what a tokio runtime does: until a deadline, or until the daemon ends.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::tiers::NET_THREAD;
use crate::tiers::backend::Fault;

/// Why something was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// The deadline is over.
    TooLate,
    /// The daemon ends.
    Ending,
}

impl Cut {
    /// What it is to the tier, whose operations may take so long.
    pub(super) fn fault(self, timeout: Duration) -> Fault {
        match self {
            Cut::TooLate => Fault::timeout(format!("no answer within {} ms", timeout.as_millis())),
            Cut::Ending => Fault::error("the daemon ends"),
        }
    }
}

/// Until when something may take.
#[derive(Debug, Clone)]
pub(super) struct Limit {
    until: Instant,
    ending: watch::Receiver<bool>,
}

/// Says that the daemon ends to all who wait.
pub(super) struct Ending(watch::Sender<bool>);

impl Ending {
    /// It does not end yet.
    pub(super) fn new() -> Ending {
        Ending(watch::Sender::new(false))
    }

    /// Now it does.
    pub(super) fn tell(&self) {
        self.0.send_replace(true);
    }

    /// A limit from now on.
    pub(super) fn or_within(&self, timeout: Duration) -> Limit {
        Limit {
            until: Instant::now() + timeout,
            ending: self.0.subscribe(),
        }
    }
}

/// A runtime whose drop waits for nothing: a look-up of a name that hangs holds nobody up.
pub(super) struct Background {
    /// None only while it is dropped.
    runtime: Option<Runtime>,
}

impl Background {
    /// One that runs while somebody waits, or on this many threads of its own.
    pub(super) fn start(threads: Option<usize>) -> Result<Background, Fault> {
        let mut builder = match threads {
            None => Builder::new_current_thread(),
            Some(threads) => {
                let mut builder = Builder::new_multi_thread();
                builder.worker_threads(threads);
                builder
            }
        };
        let runtime = builder
            .thread_name(NET_THREAD)
            .enable_all()
            .build()
            .map_err(|error| Fault::error(format!("starting threads failed: {error}")))?;
        Ok(Background {
            runtime: Some(runtime),
        })
    }

    /// What comes of `work`.
    pub(super) fn wait<T>(&self, limit: &Limit, work: impl Future<Output = T>) -> Result<T, Cut> {
        let Some(runtime) = &self.runtime else {
            return Err(Cut::Ending);
        };
        // Here, too: work that never has to wait is seen to its end by what follows.
        if *limit.ending.borrow() {
            return Err(Cut::Ending);
        }
        if Instant::now() >= limit.until {
            return Err(Cut::TooLate);
        }
        let mut ending = limit.ending.clone();
        runtime.block_on(async {
            let mut work = pin!(tokio::time::timeout_at(limit.until.into(), work));
            let mut ending = pin!(ending.wait_for(|is_ending| *is_ending));
            poll_fn(|context| {
                if let Poll::Ready(result) = work.as_mut().poll(context) {
                    return Poll::Ready(result.map_err(|_| Cut::TooLate));
                }
                match ending.as_mut().poll(context) {
                    Poll::Ready(_) => Poll::Ready(Err(Cut::Ending)),
                    Poll::Pending => Poll::Pending,
                }
            })
            .await
        })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let ending = Ending::new();
        let limit = ending.or_within(Duration::from_millis(10));
        let background = Background::start(None).unwrap();
        let waited = background.wait(&limit, std::future::pending::<()>());
        assert_eq!(waited, Err(Cut::TooLate));
    }

    #[test]
    fn work_that_is_ready_at_once_begins_within_its_deadline_and_before_the_end_only() {
        let ending = Ending::new();
        let background = Background::start(None).unwrap();
        let late = ending.or_within(Duration::ZERO);
        let ready = || std::future::ready(());
        assert_eq!(background.wait(&late, ready()), Err(Cut::TooLate));
        let early = ending.or_within(Duration::from_secs(30));
        assert_eq!(background.wait(&early, ready()), Ok(()));
        ending.tell();
        assert_eq!(background.wait(&early, ready()), Err(Cut::Ending));
    }

    #[test]
    fn a_wait_ends_with_the_daemon() {
        let ending = Ending::new();
        let limit = ending.or_within(Duration::from_secs(30));
        let background = Background::start(None).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| ending.tell());
            let waited = background.wait(&limit, std::future::pending::<()>());
            assert_eq!(waited, Err(Cut::Ending));
        });
    }
}
