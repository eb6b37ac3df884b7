//! The metrics endpoint's questions to the loop.
//!
//! The endpoint's render thread asks by a channel and an eventfd; the loop's thread answers when it comes round to it
//! with one consistent copy of all figures. The loop never waits for the endpoint.
//!
//! ```text
//!   render thread: request --> channel, eventfd --> loop: fold, copy --> reply channel --> render thread
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Instant;

use nix::sys::eventfd::{EfdFlags, EventFd};

use hostkv_shm_protocol::sync::{AtomicBool, Ordering};

use super::shared::Shared;
use crate::logging;
use crate::metrics::{Snapshot, SnapshotSource, WriteFailures};
use crate::telemetry::Telemetry;
use crate::tiers::Tiers;

type Request = SyncSender<Snapshot>;

/// The endpoint's end.
pub struct Asker {
    requests: Sender<Request>,
    bell: Arc<EventFd>,
    is_serving: Arc<AtomicBool>,
}

/// The loop's end. Dropping it ends every question.
pub struct Questions {
    requests: Receiver<Request>,
    bell: Arc<EventFd>,
    is_serving: Arc<AtomicBool>,
}

/// Both ends.
pub fn questions() -> io::Result<(Asker, Questions)> {
    let (sender, receiver) = channel();
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let bell = Arc::new(EventFd::from_flags(flags)?);
    let is_serving = Arc::new(AtomicBool::new(false));
    let asker = Asker {
        requests: sender,
        bell: Arc::clone(&bell),
        is_serving: Arc::clone(&is_serving),
    };
    let questions = Questions {
        requests: receiver,
        bell,
        is_serving,
    };
    Ok((asker, questions))
}

impl SnapshotSource for Asker {
    fn snapshot(&self, deadline: Instant) -> Option<Snapshot> {
        let (reply, answer) = sync_channel(1);
        self.requests.send(reply).ok()?;
        // A full counter is a bell that rings already.
        let _ = self.bell.write(1);
        answer
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .ok()
    }

    fn is_serving(&self) -> bool {
        // Relaxed: a single word that nothing else depends on.
        self.is_serving.load(Ordering::Relaxed)
    }
}

impl Questions {
    /// Says whether sessions are served.
    pub fn set_serving(&self, is_serving: bool) {
        // Relaxed: as in `Asker::is_serving`.
        self.is_serving.store(is_serving, Ordering::Relaxed);
    }

    /// Answers all that wait with one snapshot, made only if somebody asked.
    pub fn answer(&self, make: impl FnOnce() -> Snapshot) {
        // Before the channel is emptied, so that a question that comes now rings again.
        let _ = self.bell.read();
        let waiting: Vec<Request> = self.requests.try_iter().collect();
        if waiting.is_empty() {
            return;
        }
        let snapshot = make();
        for reply in waiting {
            // Whoever asked may have given up.
            let _ = reply.try_send(snapshot.clone());
        }
    }
}

impl AsFd for Questions {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// The figures of this moment.
pub fn snapshot(shared: &mut Shared) -> Snapshot {
    let Shared {
        store,
        facts,
        rejected_frames,
        request_durations,
        owner_death,
        telemetry,
        tiers,
        ..
    } = shared;
    store.fold();
    let stats = *store.stats();
    let gauges = store.gauges();
    let l2 = store.l2_gauges();
    let failures = stats.write_failures;
    Snapshot {
        read_requests: stats.read_requests,
        read_succeed_keys: stats.read_succeed_keys,
        read_failed_keys: stats.read_failed_keys,
        write_requests: stats.write_requests,
        write_succeed_keys: stats.write_succeed_keys,
        write_failed_keys: stats.write_failed_keys,
        l1_read_keys: stats.l1_read_keys,
        l1_write_keys: stats.l1_write_keys,
        l1_evicted_keys: stats.l1_evicted_keys,
        read_keys: stats.read_succeed_keys + stats.read_failed_keys,
        write_keys: stats.write_succeed_keys + stats.write_failed_keys,
        l1_capacity_bytes: gauges.capacity_bytes,
        l1_used_bytes: gauges.used_bytes,
        l1_pinned_bytes: stats.pinned_bytes,
        l1_reserved_bytes: gauges.reserved_bytes,
        l1_quarantined_bytes: gauges.quarantined_bytes,
        orphaned_bytes: gauges.orphaned_bytes,
        l1_pinned_objects: stats.pinned_objects,
        l1_reserved_objects: gauges.reserved_objects,
        l1_quarantined_objects: gauges.quarantined_objects,
        orphaned_objects: gauges.orphaned_objects,
        l1_zeroing_bytes: gauges.zeroing_bytes,
        l1_objects: gauges.objects,
        l1_usage_ratio: gauges.used_bytes as f64 / gauges.capacity_bytes.max(1) as f64,
        eviction_watermark_ratio: gauges.watermark_ratio,
        index_entries: gauges.index_entries,
        index_entries_used: gauges.index_entries_used,
        huge_page_bytes: facts.huge_page_bytes,
        largest_free_extent_bytes: gauges.largest_free_extent_bytes,
        sessions: gauges.sessions,
        keyspaces: gauges.keyspaces,
        oldest_pin_seconds: stats.oldest_pin_ns as f64 / 1e9,
        is_pin_gate_shut: stats.pin_gate_shut,
        eviction_passes: stats.eviction_passes,
        quota_evicted_keys: stats.quota_evicted_keys,
        evicted_bytes: stats.evicted_bytes,
        eviction_passes_all_pinned: stats.eviction_passes_all_pinned,
        removed_keys: stats.removed_keys,
        cleared_keys: stats.cleared_keys,
        layout_replaced_keys: stats.layout_replaced_keys,
        reclaimed_pins: stats.reclaimed_pins,
        reclaimed_reservations: stats.reclaimed_reservations,
        voided_pins: stats.voided_pins,
        expired_pins: stats.expired_pins,
        integrity_failures: stats.integrity_failures,
        integrity_failures_scrubbed: stats.integrity_failures_scrubbed,
        integrity_reports_refuted: stats.integrity_reports_refuted,
        scrubbed_bytes: stats.scrubbed_bytes,
        scrub_passes: stats.scrub_passes,
        last_scrub_pass_seconds: stats.last_scrub_pass_ns as f64 / 1e9,
        l2_prefetches: stats.l2_prefetches,
        l2_prefetched_keys: stats.l2_prefetched_keys,
        l2_left_out_keys: stats.l2_left_out_keys,
        l2_evicted_unstored_keys: stats.l2_evicted_unstored_keys,
        l2_displaced_stores: stats.l2_displaced_stores,
        l2_skipped_l1_keys: stats.l2_skipped_l1_keys,
        l2_waiting_objects: l2.waiting_objects,
        l2_storing_objects: l2.storing_objects,
        l2_storing_bytes: l2.storing_bytes,
        l2_loading_bytes: l2.loading_bytes,
        l2_open_prefetches: l2.prefetches,
        l2_kept_bytes: l2.kept_bytes,
        tiers: tiers.as_ref().map_or_else(Vec::new, Tiers::figures),
        rejected_frames: *rejected_frames,
        telemetry_events_dropped: stats.events_dropped
            + telemetry.as_ref().map_or(0, Telemetry::dropped_events),
        log_lines_dropped: logging::dropped_lines(),
        recency_hints_overflowed: stats.recency_overflows,
        write_failures: WriteFailures {
            no_space: failures.no_space,
            no_entry: failures.no_entry,
            bucket_full: failures.bucket_full,
            exists: failures.exists,
            reserved: failures.reserved,
            quota: failures.quota,
            keyspace_quota: failures.keyspace_quota,
            invalid: failures.invalid,
        },
        object_lifetime: store.ages().lifetime.clone(),
        idle_before_eviction: store.ages().idle_before_eviction.clone(),
        reuse_gap: store.ages().reuse_gap.clone(),
        owner_death: owner_death.clone(),
        request_durations: request_durations.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::time::Duration;

    #[test]
    fn a_question_rings_and_gets_the_figures_of_the_moment_it_is_answered() {
        let (asker, questions) = questions().unwrap();
        let render =
            std::thread::spawn(move || asker.snapshot(Instant::now() + Duration::from_secs(10)));
        let mut watched = [PollFd::new(questions.as_fd(), PollFlags::POLLIN)];
        assert_eq!(
            poll(&mut watched, PollTimeout::from(10_000_u16)).unwrap(),
            1
        );
        questions.answer(|| Snapshot {
            sessions: 3,
            ..Snapshot::default()
        });
        assert_eq!(render.join().unwrap().unwrap().sessions, 3);
        assert_eq!(poll(&mut watched, PollTimeout::ZERO).unwrap(), 0);
        questions.answer(|| panic!("nobody asked"));
    }

    #[test]
    fn a_loop_that_does_not_answer_is_given_up_and_one_that_has_ended_is_noticed_at_once() {
        let (asker, questions) = questions().unwrap();
        assert!(asker.snapshot(Instant::now()).is_none());
        drop(questions);
        let asked = Instant::now();
        assert!(asker.snapshot(asked + Duration::from_secs(60)).is_none());
        assert!(asked.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn whether_sessions_are_served_is_known_without_asking() {
        let (asker, questions) = questions().unwrap();
        assert!(!asker.is_serving());
        questions.set_serving(true);
        assert!(asker.is_serving());
    }
}
