//! One tier: its queues, its breaker, its figures, and what its threads are at.
//!
//! The loop puts jobs in, the tier's threads take them out, the watch looks after what takes too long.
//!
//! **The lock** guards all of it. Nobody waits for a store, logs, or takes the lock of another tier or of a task while
//! holding it; the loop holds it for as long as a push takes.
//!
//! Lookups go before loads, loads before removals, those before stores, and stores never take more than half of the
//! threads, so that a load does not wait behind them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::backend::{Backend, Fault};
use super::breaker::{Breaker, Weight};
use super::figures::{BreakerState, FailureReason, Traffic};
use super::jobs::{LoadJob, LookupJob, StoreJob, Tally};
use super::key::TierKey;
use super::spec::{Adapter, AdapterSpec};
use super::{TierFigures, open};

/// Most objects that wait to be stored.
const MOST_STORES: usize = 1024;
/// Most bytes of them.
const MOST_STORE_BYTES: u64 = 4 << 30;
const MOST_LOADS: usize = 16_384;
const MOST_LOOKUPS: usize = 1024;
const MOST_REMOVES: usize = 65_536;
const FIRST_FULL_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_FULL_PAUSE: Duration = Duration::from_secs(30);

/// What a thread has to do.
pub(super) enum Work {
    Probe,
    Lookup(Arc<LookupJob>),
    Load(LoadJob),
    Remove(TierKey),
    Store(StoreJob),
}

/// Names something that is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ticket(u64);

/// What a thread has taken out.
pub(super) struct Taken {
    pub(super) ticket: Ticket,
    pub(super) work: Work,
    /// None for a probe of a tier that is not there.
    pub(super) backend: Option<Arc<dyn Backend>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Probe,
    Lookup,
    Load,
    Remove,
    Store,
}

struct Running {
    kind: Kind,
    since: Instant,
    /// The watch has counted it as a timeout.
    is_overdue: bool,
    lookup: Option<Arc<LookupJob>>,
    bytes: u64,
}

/// Jobs that a tier will not do.
#[derive(Default)]
pub(super) struct Flushed {
    pub(super) lookups: Vec<Arc<LookupJob>>,
    pub(super) loads: Vec<LoadJob>,
    pub(super) stores: Vec<StoreJob>,
    /// The breaker opened by this fault, or closed.
    pub(super) news: Option<News>,
}

/// What the log is told.
pub(super) enum News {
    /// The breaker opened.
    Opened(String),
    /// It closed.
    Closed,
    /// The store has no room.
    Full(String),
}

/// When the threads are to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    No,
    /// As soon as nothing is queued, at this time at the latest.
    Draining(Instant),
}

struct Inner {
    backend: Option<Arc<dyn Backend>>,
    breaker: Breaker,
    full_until: Option<Instant>,
    full_pause: Duration,
    lookups: VecDeque<Arc<LookupJob>>,
    loads: VecDeque<LoadJob>,
    removes: VecDeque<TierKey>,
    stores: VecDeque<StoreJob>,
    store_bytes: u64,
    is_probe_due: bool,
    running: HashMap<Ticket, Running>,
    next_ticket: u64,
    figures: TierFigures,
    end: End,
}

/// One tier.
pub(super) struct Tier {
    pub(super) spec: AdapterSpec,
    pub(super) thread_count: usize,
    inner: Mutex<Inner>,
    wake: Condvar,
}

impl Tier {
    /// A tier; without a backend its breaker is open.
    pub(super) fn new(spec: AdapterSpec, backend: Option<Arc<dyn Backend>>) -> Tier {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        if backend.is_none() {
            breaker.open(now);
        }
        let thread_count = thread_count(&spec.adapter);
        let figures = TierFigures {
            name: spec.name.clone(),
            type_name: spec.adapter.type_name(),
            ..TierFigures::default()
        };
        Tier {
            spec,
            thread_count,
            inner: Mutex::new(Inner {
                backend,
                breaker,
                full_until: None,
                full_pause: FIRST_FULL_PAUSE,
                lookups: VecDeque::new(),
                loads: VecDeque::new(),
                removes: VecDeque::new(),
                stores: VecDeque::new(),
                store_bytes: 0,
                is_probe_due: false,
                running: HashMap::new(),
                next_ticket: 0,
                figures,
                end: End::No,
            }),
            wake: Condvar::new(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the objects of one task; gives back those that it will not store.
    pub(super) fn offer_stores(&self, jobs: Vec<StoreJob>) -> Vec<StoreJob> {
        let now = Instant::now();
        let mut inner = self.inner();
        let inner = &mut *inner;
        inner.figures.stores.tasks_count += 1;
        inner.figures.stores.keys_count += jobs.len() as u64;
        let refusal = inner.refusal().or_else(|| {
            let is_full = inner.full_until.is_some_and(|until| now < until);
            is_full.then_some(FailureReason::Full)
        });
        let mut refused = Vec::new();
        for job in jobs {
            let bytes = job.store.object.source.len_bytes;
            // An object alone always has room.
            let has_room = inner.stores.is_empty()
                || (inner.stores.len() < MOST_STORES
                    && inner.store_bytes + bytes <= MOST_STORE_BYTES);
            match refusal.or((!has_room).then_some(FailureReason::Dropped)) {
                None => {
                    inner.store_bytes += bytes;
                    inner.stores.push_back(job);
                }
                Some(reason) => {
                    inner.figures.stores.failures.add(reason);
                    refused.push(job);
                }
            }
        }
        self.wake.notify_all();
        refused
    }

    /// A task begins to load here.
    pub(super) fn count_load_task(&self) {
        self.inner().figures.loads.tasks_count += 1;
    }

    /// Takes an object to load, or gives it back.
    pub(super) fn offer_load(&self, job: LoadJob) -> Result<(), LoadJob> {
        let mut inner = self.inner();
        inner.figures.loads.keys_count += 1;
        let has_room = inner.loads.len() < MOST_LOADS;
        match inner
            .refusal()
            .or((!has_room).then_some(FailureReason::Dropped))
        {
            None => {
                inner.loads.push_back(job);
                self.wake.notify_one();
                Ok(())
            }
            Some(reason) => {
                inner.figures.loads.failures.add(reason);
                Err(job)
            }
        }
    }

    /// Takes a lookup; whether it does.
    pub(super) fn offer_lookup(&self, job: &Arc<LookupJob>) -> bool {
        let mut inner = self.inner();
        inner.figures.lookups_count += 1;
        inner.figures.lookup_keys_count += job.keys.len() as u64;
        let has_room = inner.lookups.len() < MOST_LOOKUPS;
        match inner
            .refusal()
            .or((!has_room).then_some(FailureReason::Dropped))
        {
            None => {
                inner.lookups.push_back(Arc::clone(job));
                self.wake.notify_one();
                true
            }
            Some(reason) => {
                inner.figures.lookup_failures.add(reason);
                false
            }
        }
    }

    /// Takes what is to be removed, as far as there is room.
    pub(super) fn offer_removes(&self, keys: &[TierKey]) {
        let mut inner = self.inner();
        if inner.refusal().is_some() {
            return;
        }
        let room = MOST_REMOVES.saturating_sub(inner.removes.len());
        inner.removes.extend(keys.iter().take(room));
        self.wake.notify_one();
    }

    /// Drops the jobs of stores that were cancelled.
    pub(super) fn drop_cancelled(&self) -> Vec<StoreJob> {
        let mut inner = self.inner();
        let (over, kept): (VecDeque<_>, VecDeque<_>) =
            inner.stores.drain(..).partition(|job| job.store.is_over());
        inner.stores = kept;
        for job in &over {
            inner.store_bytes -= job.store.object.source.len_bytes;
            inner.figures.stores.failures.add(FailureReason::Dropped);
        }
        over.into()
    }

    /// A job that was taken out turned out to be cancelled.
    pub(super) fn count_cancelled(&self, ticket: Ticket) {
        let mut inner = self.inner();
        inner.running.remove(&ticket);
        inner.figures.stores.failures.add(FailureReason::Dropped);
    }

    /// A task is over for this tier.
    pub(super) fn task_ended(&self, direction: fn(&mut TierFigures) -> &mut Traffic) {
        direction(&mut self.inner().figures).completed_tasks_count += 1;
    }

    /// Waits for what is to be done next; none when the thread is to end.
    pub(super) fn next(&self) -> Option<Taken> {
        let mut inner = self.inner();
        loop {
            let now = Instant::now();
            if let End::Draining(until) = inner.end
                && (now >= until || inner.stores.is_empty() || !inner.works())
            {
                return None;
            }
            if let Some(work) = inner.take_work(self.thread_count) {
                return Some(Taken {
                    ticket: inner.begin(&work, now),
                    work,
                    backend: inner.backend.clone(),
                });
            }
            // Woken when there is work; the time only bounds how late the end of a drain is seen.
            inner = self
                .wake
                .wait_timeout(inner, Duration::from_millis(200))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// What was taken out is over: counts it, by `count` if it went well, and gives what the tier will not do because of it.
    pub(super) fn finish(
        &self,
        ticket: Ticket,
        fault: Option<&Fault>,
        count: impl FnOnce(&mut TierFigures, u64),
    ) -> Flushed {
        let now = Instant::now();
        let mut inner = self.inner();
        let Some(running) = inner.running.remove(&ticket) else {
            return Flushed::default();
        };
        // A thread that stores may be free for another one now.
        self.wake.notify_one();
        if running.is_overdue {
            return Flushed::default();
        }
        let Some(fault) = fault else {
            inner.breaker.succeeded();
            if running.kind == Kind::Store {
                inner.full_until = None;
                inner.full_pause = FIRST_FULL_PAUSE;
            }
            let duration = now.duration_since(running.since);
            let duration_ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
            count(&mut inner.figures, duration_ns);
            return Flushed::default();
        };
        inner.count_failure(running.kind, fault.reason);
        match fault.reason {
            FailureReason::Full => {
                let was_full = inner.full_until.is_some();
                inner.full_until = Some(now + inner.full_pause);
                inner.full_pause = (inner.full_pause * 2).min(LONGEST_FULL_PAUSE);
                Flushed {
                    news: (!was_full).then(|| News::Full(fault.sentence.clone())),
                    ..Flushed::default()
                }
            }
            FailureReason::Timeout => inner.failed(Weight::Timeout, &fault.sentence, now),
            _ => inner.failed(Weight::Error, &fault.sentence, now),
        }
    }

    /// The probe is over; `found` is the backend that works.
    pub(super) fn probed(&self, ticket: Ticket, found: Result<Arc<dyn Backend>, Fault>) -> Flushed {
        let mut inner = self.inner();
        let probe = inner.running.remove(&ticket);
        // The watch has given it up, and another may be at work by now.
        if probe.is_none_or(|probe| probe.is_overdue) {
            return Flushed::default();
        }
        inner.breaker.probed(found.is_ok(), Instant::now());
        let mut flushed = Flushed::default();
        if let Ok(backend) = found {
            inner.backend = Some(backend);
            flushed.news = Some(News::Closed);
            self.wake.notify_all();
        }
        flushed
    }

    /// Looks after what takes too long: gives the lookups that are answered for the tier, and what it will not do.
    pub(super) fn watch(&self, now: Instant) -> Flushed {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let timeout = self.spec.timeout;
        let mut flushed = Flushed::default();
        let mut overdue = Vec::new();
        for running in inner.running.values_mut() {
            let is_late = now.duration_since(running.since) >= timeout;
            if is_late && !running.is_overdue && running.kind != Kind::Probe {
                running.is_overdue = true;
                overdue.push(running.kind);
                flushed.lookups.extend(running.lookup.take());
            }
        }
        while inner
            .lookups
            .front()
            .is_some_and(|job| now.duration_since(job.since) >= timeout)
        {
            flushed.lookups.extend(inner.lookups.pop_front());
            inner.figures.lookup_failures.add(FailureReason::Timeout);
        }
        for kind in overdue {
            inner.count_failure(kind, FailureReason::Timeout);
            let sentence = format!("no answer within {} ms", timeout.as_millis());
            let more = inner.failed(Weight::Timeout, &sentence, now);
            flushed.lookups.extend(more.lookups);
            flushed.loads.extend(more.loads);
            flushed.stores.extend(more.stores);
            flushed.news = flushed.news.or(more.news);
        }
        let probe_timeout = match inner.backend {
            Some(_) => timeout,
            None => open::timeout_of(&self.spec),
        };
        if inner.breaker.gives_up_probe(probe_timeout, now) {
            inner.is_probe_due = false;
            let probes = inner.running.values_mut();
            probes
                .filter(|running| running.kind == Kind::Probe)
                .for_each(|probe| probe.is_overdue = true);
        }
        // Probes that hang leave threads for what is to be done once one of them works.
        let probes = inner.running.values().filter(|r| r.kind == Kind::Probe);
        if probes.count() < (self.thread_count / 2).max(1) && inner.breaker.take_probe(now) {
            inner.is_probe_due = true;
            self.wake.notify_one();
        }
        flushed
    }

    /// The threads end when nothing is left to store, at `until` at the latest; gives what nobody waits for any more.
    pub(super) fn drain(&self, until: Instant) -> Flushed {
        let mut inner = self.inner();
        inner.end = End::Draining(until);
        self.wake.notify_all();
        Flushed {
            lookups: inner.lookups.drain(..).collect(),
            loads: inner.loads.drain(..).collect(),
            ..Flushed::default()
        }
    }

    /// The opened tier, if it is there.
    pub(super) fn backend(&self) -> Option<Arc<dyn Backend>> {
        self.inner().backend.clone()
    }

    /// Objects that wait to be stored.
    pub(super) fn queued_stores(&self) -> usize {
        self.inner().stores.len()
    }

    /// A copy of the figures.
    pub(super) fn figures(&self) -> TierFigures {
        let (mut figures, backend) = {
            let inner = self.inner();
            let mut figures = inner.figures.clone();
            figures.breaker = inner.breaker.state();
            figures.breaker_openings_count = inner.breaker.openings_count();
            let waiting = inner.stores.len() + inner.loads.len() + inner.running.len();
            figures.queued_keys = waiting as u64;
            figures.running = inner.running.len() as u64;
            let load_bytes = |job: &LoadJob| job.load.destination.len_bytes;
            figures.queued_bytes = inner.store_bytes
                + inner.loads.iter().map(load_bytes).sum::<u64>()
                + inner.running.values().map(|r| r.bytes).sum::<u64>();
            (figures, inner.backend.clone())
        };
        if let Some(backend) = backend {
            let usage = backend.usage();
            figures.used_bytes = usage.used_bytes;
            figures.objects = usage.objects;
            figures.capacity_bytes = usage.capacity_bytes;
            figures.evicted_keys_count = usage.evicted_keys_count;
            figures.evicted_bytes = usage.evicted_bytes;
        }
        figures
    }
}

impl Inner {
    fn works(&self) -> bool {
        self.backend.is_some() && self.breaker.state() == BreakerState::Closed
    }

    /// Why nothing is taken, if nothing is.
    fn refusal(&self) -> Option<FailureReason> {
        if self.end != End::No {
            return Some(FailureReason::Dropped);
        }
        (!self.works()).then_some(FailureReason::Unavailable)
    }

    fn take_work(&mut self, thread_count: usize) -> Option<Work> {
        if std::mem::take(&mut self.is_probe_due) {
            return Some(Work::Probe);
        }
        if !self.works() {
            return None;
        }
        if let Some(job) = self.lookups.pop_front() {
            return Some(Work::Lookup(job));
        }
        if let Some(job) = self.loads.pop_front() {
            return Some(Work::Load(job));
        }
        if let Some(key) = self.removes.pop_front() {
            return Some(Work::Remove(key));
        }
        let storing = self.running.values().filter(|r| r.kind == Kind::Store);
        if storing.count() >= (thread_count / 2).max(1) {
            return None;
        }
        let job = self.stores.pop_front()?;
        self.store_bytes -= job.store.object.source.len_bytes;
        Some(Work::Store(job))
    }

    fn begin(&mut self, work: &Work, now: Instant) -> Ticket {
        let (kind, lookup, bytes) = match work {
            Work::Probe => (Kind::Probe, None, 0),
            Work::Lookup(job) => (Kind::Lookup, Some(Arc::clone(job)), 0),
            Work::Load(job) => (Kind::Load, None, job.load.destination.len_bytes),
            Work::Remove(_) => (Kind::Remove, None, 0),
            Work::Store(job) => (Kind::Store, None, job.store.object.source.len_bytes),
        };
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let running = Running {
            kind,
            since: now,
            is_overdue: false,
            lookup,
            bytes,
        };
        self.running.insert(ticket, running);
        ticket
    }

    fn count_failure(&mut self, kind: Kind, reason: FailureReason) {
        match kind {
            Kind::Lookup => self.figures.lookup_failures.add(reason),
            Kind::Load => self.figures.loads.failures.add(reason),
            Kind::Store => self.figures.stores.failures.add(reason),
            Kind::Probe | Kind::Remove => {}
        }
    }

    /// Something failed; when the breaker opens, nothing that waits is done.
    fn failed(&mut self, weight: Weight, sentence: &str, now: Instant) -> Flushed {
        if !self.breaker.failed(weight, now) {
            return Flushed::default();
        }
        let flushed = Flushed {
            lookups: self.lookups.drain(..).collect(),
            loads: self.loads.drain(..).collect(),
            stores: self.stores.drain(..).collect(),
            news: Some(News::Opened(sentence.to_owned())),
        };
        self.removes.clear();
        self.store_bytes = 0;
        for (kind, count) in [
            (Kind::Lookup, flushed.lookups.len()),
            (Kind::Load, flushed.loads.len()),
            (Kind::Store, flushed.stores.len()),
        ] {
            (0..count).for_each(|_| self.count_failure(kind, FailureReason::Unavailable));
        }
        flushed
    }
}

/// One of the objects of a task that a tier has done with; whether it was the task's last.
pub(super) fn is_last(tally: &Tally) -> bool {
    tally.one_ended()
}

fn thread_count(adapter: &Adapter) -> usize {
    match adapter {
        // Two or three large requests keep a disk busy.
        Adapter::Fs(_) => 4,
        // These wait for a network most of the time.
        Adapter::Resp(_) | Adapter::S3(_) => 8,
        Adapter::FaultInject(fault) => thread_count(&fault.inner.adapter),
    }
}
