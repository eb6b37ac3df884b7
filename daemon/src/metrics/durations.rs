//! How long socket requests take, one histogram for each request.
//!
//! The server observes on the loop's thread, from the moment a frame is read to the moment its reply is queued; a
//! parked request is observed once, when it is answered. What a session leaves unanswered, BYE and what is carried out
//! after a client's end are in none.

use crate::histogram::{Histogram, REQUEST_BOUNDS_NS};

/// A request whose duration is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimedRequest {
    /// RESOLVE.
    Resolve,
    /// RESERVE.
    Reserve,
    /// COMMIT.
    Commit,
    /// ABORT.
    Abort,
    /// REMOVE.
    Remove,
    /// CLEAR.
    Clear,
    /// STATS.
    Stats,
    /// AUDIT.
    Audit,
    /// PING.
    Ping,
    /// HELLO.
    Hello,
    /// LIST.
    List,
    /// STATE.
    State,
    /// RELOAD.
    Reload,
    /// PREFETCH, until the tiers are done with it.
    Prefetch,
    /// PREFETCH_END.
    PrefetchEnd,
    /// COMMIT_RESERVE.
    CommitReserve,
    /// GRANT.
    Grant,
    /// RETURN.
    Return,
    /// COMMIT_GRANTED.
    CommitGranted,
    /// FLUSH, until the commits are readable that it waits for.
    Flush,
}

impl TimedRequest {
    /// All of them, in the order of their numbers.
    pub const ALL: [TimedRequest; 20] = [
        TimedRequest::Resolve,
        TimedRequest::Reserve,
        TimedRequest::Commit,
        TimedRequest::Abort,
        TimedRequest::Remove,
        TimedRequest::Clear,
        TimedRequest::Stats,
        TimedRequest::Audit,
        TimedRequest::Ping,
        TimedRequest::Hello,
        TimedRequest::List,
        TimedRequest::State,
        TimedRequest::Reload,
        TimedRequest::Prefetch,
        TimedRequest::PrefetchEnd,
        TimedRequest::CommitReserve,
        TimedRequest::Grant,
        TimedRequest::Return,
        TimedRequest::CommitGranted,
        TimedRequest::Flush,
    ];

    /// The value of the label `request`.
    pub fn label(self) -> &'static str {
        match self {
            TimedRequest::Resolve => "resolve",
            TimedRequest::Reserve => "reserve",
            TimedRequest::Commit => "commit",
            TimedRequest::Abort => "abort",
            TimedRequest::Remove => "remove",
            TimedRequest::Clear => "clear",
            TimedRequest::Stats => "stats",
            TimedRequest::Audit => "audit",
            TimedRequest::Ping => "ping",
            TimedRequest::Hello => "hello",
            TimedRequest::List => "list",
            TimedRequest::State => "state",
            TimedRequest::Reload => "reload",
            TimedRequest::Prefetch => "prefetch",
            TimedRequest::PrefetchEnd => "prefetch_end",
            TimedRequest::CommitReserve => "commit_reserve",
            TimedRequest::Grant => "grant",
            TimedRequest::Return => "return",
            TimedRequest::CommitGranted => "commit_granted",
            TimedRequest::Flush => "flush",
        }
    }
}

/// A histogram for each request.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestDurations([Histogram; TimedRequest::ALL.len()]);

impl Default for RequestDurations {
    fn default() -> RequestDurations {
        RequestDurations(TimedRequest::ALL.map(|_| Histogram::new(REQUEST_BOUNDS_NS)))
    }
}

impl RequestDurations {
    /// Counts one answered request.
    pub fn observe(&mut self, request: TimedRequest, duration_ns: u64) {
        self.0[request as usize].observe(duration_ns);
    }

    /// The durations of one request.
    pub fn of(&self, request: TimedRequest) -> &Histogram {
        &self.0[request as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_has_a_histogram_and_a_label_of_its_own() {
        let mut durations = RequestDurations::default();
        for (number, request) in TimedRequest::ALL.into_iter().enumerate() {
            assert_eq!(request as usize, number);
            for _ in 0..=number {
                durations.observe(request, 1);
            }
        }
        let counts = TimedRequest::ALL.map(|request| durations.of(request).count());
        assert_eq!(counts, std::array::from_fn(|at| at as u64 + 1));
        let mut labels = TimedRequest::ALL.map(TimedRequest::label);
        labels.sort_unstable();
        assert!(labels.is_sorted_by(|a, b| a < b), "{labels:?}");
    }
}
