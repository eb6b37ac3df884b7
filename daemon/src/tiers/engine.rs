//! The ways of tasks through the tiers: from tier to tier, and back to the loop.
//!
//! The threads of the tiers and the watch run here; what they share is [`Engine`].
//!
//! ```text
//!   l2-TIER-N   takes the next job of its tier, carries it out, hands on what did not succeed
//!   l2-watch    answers lookups for tiers that are late, opens breakers, starts probes
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use nix::sys::eventfd::EventFd;

use super::backend::{Backend, Fault, Got, Put};
use super::figures::FailureReason;
use super::jobs::{LoadJob, Lookup, LookupJob, StoreJob};
use super::open;
use super::tier::{Flushed, News, Taken, Ticket, Tier, Work, is_last};
use super::{Completion, LoadOutcome, TierNumber};
use crate::workers::PayloadBytes;

/// What all threads share.
pub(super) struct Engine {
    pub(super) tiers: Vec<Tier>,
    pub(super) payload: PayloadBytes,
    /// **The lock** is held for one push or for taking what is there.
    completions: Mutex<VecDeque<Completion>>,
    pub(super) bell: EventFd,
}

impl Engine {
    pub(super) fn new(tiers: Vec<Tier>, payload: PayloadBytes, bell: EventFd) -> Engine {
        Engine {
            tiers,
            payload,
            completions: Mutex::default(),
            bell,
        }
    }

    pub(super) fn complete(&self, completion: Completion) {
        self.completions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(completion);
        // A full counter is a bell that rings already.
        let _ = self.bell.write(1);
    }

    pub(super) fn take_completions(&self, most: usize) -> Vec<Completion> {
        // Before the queue is read, so that what comes now rings again.
        let _ = self.bell.read();
        let mut completions = self
            .completions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = completions.len().min(most);
        let taken = completions.drain(..count).collect();
        if !completions.is_empty() {
            let _ = self.bell.write(1);
        }
        taken
    }

    /// Asks the tiers from `tier` on, until one takes the lookup.
    pub(super) fn look_up_from(&self, lookup: &Arc<Lookup>, mut tier: TierNumber) {
        loop {
            let job = match lookup.ask(tier, self.tiers.len(), Instant::now()) {
                Ok(job) => job,
                Err(completion) => {
                    if let Some(completion) = completion {
                        self.complete(completion);
                    }
                    return;
                }
            };
            if self.tiers[tier].offer_lookup(&job) {
                return;
            }
            tier += 1;
        }
    }

    fn answer(&self, tier: TierNumber, job: &LookupJob, lens: &[Option<u64>]) {
        if job.lookup.answer(tier, job, lens) {
            self.look_up_from(&job.lookup, tier + 1);
        }
    }

    /// Loads from the first tier that takes the job, `job.load.tier` or one behind it.
    pub(super) fn load(&self, mut job: LoadJob) {
        while let Some(tier) = self.tiers.get(job.load.tier) {
            job = match tier.offer_load(job) {
                Ok(()) => return,
                Err(job) => self.to_next_tier(job),
            };
        }
        self.load_ended(&job, LoadOutcome::Missed);
    }

    /// The tier that was asked has done with it without success.
    fn to_next_tier(&self, mut job: LoadJob) -> LoadJob {
        self.load_left(&mut job);
        job.load.tier += 1;
        job
    }

    fn load_left(&self, job: &mut LoadJob) {
        if let Some(tally) = job.tally.take()
            && is_last(&tally)
        {
            self.tiers[job.load.tier].task_ended(|figures| &mut figures.loads);
        }
    }

    fn load_ended(&self, job: &LoadJob, outcome: LoadOutcome) {
        self.complete(Completion::Loaded {
            task: job.task,
            object: job.index,
            outcome,
        });
    }

    /// A tier has done with an object it did not begin to store.
    pub(super) fn store_refused(&self, tier: TierNumber, job: &StoreJob) {
        let completion = job.store.leave(None);
        self.store_left(tier, job, completion);
    }

    fn store_left(&self, tier: TierNumber, job: &StoreJob, completion: Option<Completion>) {
        if is_last(&job.tally) {
            self.tiers[tier].task_ended(|figures| &mut figures.stores);
            log::debug!(
                "L2 store task {} completed: adapter {tier}, {} keys.",
                job.tally.task.0,
                job.tally.keys_count
            );
        }
        if let Some(completion) = completion {
            self.complete(completion);
        }
    }

    /// Hands on what a tier will not do, and tells the log why.
    pub(super) fn hand_on(&self, tier: TierNumber, flushed: Flushed) {
        let name = &self.tiers[tier].spec.name;
        match flushed.news {
            Some(News::Opened(sentence)) => {
                log::warn!("L2 {name} is left alone until a probe finds that it works: {sentence}.")
            }
            Some(News::Closed) => log::info!("L2 {name} works."),
            Some(News::Full(sentence)) => {
                log::warn!(
                    "L2 {name} has no room, nothing is stored there for a while: {sentence}."
                );
            }
            None => {}
        }
        for job in flushed.lookups {
            self.answer(tier, &job, &[]);
        }
        for job in flushed.loads {
            let job = self.to_next_tier(job);
            self.load(job);
        }
        for job in flushed.stores {
            self.store_refused(tier, &job);
        }
    }

    /// One thread of a tier, until the end.
    pub(super) fn serve(&self, number: TierNumber) {
        let tier = &self.tiers[number];
        while let Some(Taken {
            ticket,
            work,
            backend,
        }) = tier.next()
        {
            let flushed = match (work, backend) {
                (Work::Probe, backend) => self.probe(tier, ticket, backend),
                (Work::Lookup(job), Some(backend)) => self.find(number, ticket, &job, &*backend),
                (Work::Load(job), Some(backend)) => self.get(number, ticket, job, &*backend),
                (Work::Store(job), Some(backend)) => self.put(number, ticket, &job, &*backend),
                (Work::Remove(key), Some(backend)) => {
                    let fault = backend.remove(&key).err();
                    tier.finish(ticket, fault.as_ref(), |_, _| {})
                }
                // A tier without a backend gives out probes only.
                (_, None) => Flushed::default(),
            };
            self.hand_on(number, flushed);
        }
    }

    fn probe(&self, tier: &Tier, ticket: Ticket, backend: Option<Arc<dyn Backend>>) -> Flushed {
        let found = match backend {
            Some(backend) => backend.probe().map(|()| backend),
            None => open::open_in_time(&tier.spec, self.payload),
        };
        tier.probed(ticket, found)
    }

    fn find(
        &self,
        number: TierNumber,
        ticket: Ticket,
        job: &LookupJob,
        backend: &dyn Backend,
    ) -> Flushed {
        let found = backend.find(&job.keys);
        let hits = found
            .as_ref()
            .map_or(0, |found| found.iter().flatten().count());
        let flushed = self.tiers[number].finish(ticket, found.as_ref().err(), |figures, _| {
            figures.hit_keys_count += hits as u64;
        });
        self.answer(number, job, &found.unwrap_or_default());
        flushed
    }

    fn get(
        &self,
        number: TierNumber,
        ticket: Ticket,
        mut job: LoadJob,
        backend: &dyn Backend,
    ) -> Flushed {
        let got = backend.get(&job.load.key, job.load.destination);
        let len_bytes = job.load.destination.len_bytes;
        let tier = &self.tiers[number];
        let flushed = tier.finish(ticket, got.as_ref().err(), |figures, duration_ns| {
            let loads = &mut figures.loads;
            match &got {
                Ok(Got::Loaded(_)) => {
                    loads.done_keys_count += 1;
                    loads.moved(len_bytes, duration_ns);
                }
                Ok(Got::Absent) => loads.failures.add(FailureReason::Lost),
                Ok(Got::Damaged) => loads.failures.add(FailureReason::Damaged),
                Err(_) => {}
            }
        });
        match got {
            Ok(Got::Loaded(sum)) => {
                self.load_left(&mut job);
                self.load_ended(&job, LoadOutcome::Loaded { tier: number, sum });
            }
            Ok(Got::Absent | Got::Damaged) | Err(Fault { .. }) => {
                let job = self.to_next_tier(job);
                self.load(job);
            }
        }
        flushed
    }

    fn put(
        &self,
        number: TierNumber,
        ticket: Ticket,
        job: &StoreJob,
        backend: &dyn Backend,
    ) -> Flushed {
        let tier = &self.tiers[number];
        if !job.store.begin() {
            tier.count_cancelled(ticket);
            self.store_refused(number, job);
            return Flushed::default();
        }
        let put = backend.put(&job.store.object);
        let len_bytes = job.store.object.source.len_bytes;
        let flushed = tier.finish(ticket, put.as_ref().err(), |figures, duration_ns| {
            figures.stores.done_keys_count += 1;
            match put {
                Ok(Put::Known) => figures.known_keys_count += 1,
                _ => figures.stores.moved(len_bytes, duration_ns),
            }
        });
        let completion = job.store.end(put.is_ok().then_some(number));
        self.store_left(number, job, completion);
        flushed
    }
}
