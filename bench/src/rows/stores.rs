//! Storing objects in four ways, and in the same runs what each takes at least.

use super::bytes::{Bench, RUN_BYTES, WORD, batch_of};
use crate::limits::copy::{Copy, copies};
use crate::limits::trip::Echo;
use crate::measure::{Runs, median_of, runs, typical_ns};
use crate::pool::{items, remove, said, store, write};
use hostkv::ChunkKey;
use hostkv::reservation::{Reservation, SpanMut};
use hostkv::session::{RESERVE_NO_WAIT, Request};
use hostkv_shm_protocol::sync::{Ordering, fence};
use std::time::Instant;

/// How long an answer may take, in milliseconds.
const WITHIN_MS: u32 = 5000;

/// One run of storing, in nanoseconds an object.
pub(super) struct Stored {
    pub(super) single: f64,
    pub(super) batched: f64,
    /// In batches, each commit with the next reserve.
    pub(super) paired: f64,
    /// The same, with two batches asked for ahead and no wait for an answer that is not there.
    pub(super) ahead: f64,
    pub(super) limit: StoreLimit,
}

/// What a store takes at least, in nanoseconds.
pub(super) struct StoreLimit {
    pub(super) copy: f64,
    /// A round trip beside one copy, and beside a batch of them.
    pub(super) trip: f64,
    pub(super) trip_of_batch: f64,
    /// To send a message behind a batch of copies and to receive the answer behind the next one, when it is there.
    pub(super) messages_of_batch: f64,
}

impl Bench<'_> {
    /// Stores one by one and in batches, and in turns with that copies the same bytes between round trips.
    pub(super) fn store(&self, len: u64) -> Result<Runs<Stored>, String> {
        let source = vec![WORD; len as usize / 8];
        let batch = batch_of(len);
        let singles = (RUN_BYTES / 2 / len).clamp(16, 200);
        let batches = (RUN_BYTES * 2 / (len * batch)).clamp(3, 20);
        let mut next = 1 << 40;
        runs(&[self.pool.pid()], || {
            let mut bare = Bare::new(self, &source)?;
            let mut stored = Vec::new();
            // The times of so many stores of `count` objects each, and of round trips around as many bare copies: each in turn,
            // because a processor's sleep deepens and a neighbour comes and goes within seconds.
            let mut in_turns = |turns: u64, count: u64| -> Result<(f64, f64), String> {
                let (mut times, mut trips) = (Vec::new(), Vec::new());
                for _ in 0..turns {
                    let items = items(next..next + count, len);
                    next += count;
                    stored.extend(items.iter().map(|item| item.key));
                    let begin = Instant::now();
                    store(self.session, self.keyspace, &items, &source)?;
                    times.push(begin.elapsed().as_nanos() as f64 / count as f64);
                    trips.push(bare.trip_around_ns(count)?);
                }
                Ok((median_of(times), median_of(trips)))
            };
            let (single, trip) = in_turns(singles, 1)?;
            let (batched, trip_of_batch) = in_turns(batches, batch)?;
            let (paired, keys) = self.paired(next, batches, batch, len, &source)?;
            next += (batches + 2) * batch;
            stored.extend(keys);
            let (ahead, keys) = self.ahead(next, batches, batch, len, &source)?;
            next += (batches + 2) * batch;
            stored.extend(keys);
            let limit = StoreLimit {
                copy: bare.copy_ns,
                trip,
                trip_of_batch,
                messages_of_batch: bare.messages_around_ns(batch, batches)?,
            };
            bare.end()?;
            // What a session with ASYNC_COMMIT has stored is readable from here on.
            self.session.flush().map_err(said)?;
            self.check(&stored, len)?;
            // The extents come back, so that no run waits for an eviction.
            remove(self.session, self.keyspace, &stored)?;
            Ok(Stored {
                single,
                batched,
                paired,
                ahead,
                limit,
            })
        })
    }

    /// Stores batch after batch from the key `first` on, each commit with the next reserve; the time an object, without the
    /// first and the last trip, and what was stored.
    fn paired(
        &self,
        first: u64,
        batches: u64,
        batch: u64,
        len: u64,
        source: &[u64],
    ) -> Result<(f64, Vec<ChunkKey>), String> {
        let items_of =
            |number: u64| items(first + number * batch..first + (number + 1) * batch, len);
        let none = Default::default();
        let mut stored: Vec<ChunkKey> = items_of(0).iter().map(|item| item.key).collect();
        let mut reservation = self
            .session
            .reserve(self.keyspace, &items_of(0), &none)
            .map_err(said)?;
        let mut times = Vec::new();
        for number in 1..=batches {
            let next = items_of(number);
            stored.extend(next.iter().map(|item| item.key));
            let begin = Instant::now();
            write(&reservation, source)?;
            reservation = reservation
                .commit_and_reserve(self.keyspace, &next, &none)
                .map_err(said)?;
            times.push(begin.elapsed().as_nanos() as f64 / batch as f64);
        }
        write(&reservation, source)?;
        reservation.commit().map_err(said)?;
        Ok((median_of(times), stored))
    }

    /// As [`Bench::paired`], with each batch asked for two copies before its own.
    fn ahead(
        &self,
        first: u64,
        batches: u64,
        batch: u64,
        len: u64,
        source: &[u64],
    ) -> Result<(f64, Vec<ChunkKey>), String> {
        let items_of =
            |number: u64| items(first + number * batch..first + (number + 1) * batch, len);
        let not_waiting = Request {
            flags: RESERVE_NO_WAIT,
            ..Request::default()
        };
        let ask = |number: u64| {
            self.session
                .reserve(self.keyspace, &items_of(number), &not_waiting)
                .map_err(said)
        };
        let (mut now, mut then) = (ask(0)?, ask(1)?);
        let mut stored = Vec::new();
        let mut times = Vec::new();
        for number in 0..batches {
            stored.extend(items_of(number).iter().map(|item| item.key));
            let next = items_of(number + 2);
            let begin = Instant::now();
            now.wait(WITHIN_MS).map_err(said)?;
            write(&now, source)?;
            let after = now
                .commit_and_reserve(self.keyspace, &next, &not_waiting)
                .map_err(said)?;
            times.push(begin.elapsed().as_nanos() as f64 / batch as f64);
            now = std::mem::replace(&mut then, after);
        }
        // Each abort waits first, so all of it is committed behind them.
        now.abort().and_then(|()| then.abort()).map_err(said)?;
        Ok((median_of(times), stored))
    }
}

/// The best copy into the extents of a reservation that is aborted, with a server to talk to in between: while this end
/// copies, the server's processor falls asleep, and the first message after a pause takes longer than one of many in a row.
pub(super) struct Bare<'a> {
    echo: &'a Echo,
    source: &'a [u64],
    reservation: Reservation,
    spans: Vec<SpanMut>,
    copy: Copy,
    copy_ns: f64,
    turn: usize,
}

impl<'a> Bare<'a> {
    /// Finds the best copy. Copies go to as many extents as a run's stores do: each is out of the caches when its turn comes.
    pub(super) fn new(bench: &Bench<'a>, source: &'a [u64]) -> Result<Bare<'a>, String> {
        let len = size_of_val(source) as u64;
        let items = items((1 << 50)..(1 << 50) + (RUN_BYTES / len).clamp(4, 1024), len);
        let reservation = bench
            .session
            .reserve(bench.keyspace, &items, &Default::default())
            .map_err(said)?;
        let spans = (0..items.len())
            .map(|index| reservation.span(index).map_err(said))
            .collect::<Result<Vec<_>, String>>()?;
        let mut bare = Bare {
            echo: bench.echo,
            source,
            reservation,
            spans,
            copy: copies()[0].1,
            copy_ns: f64::MAX,
            turn: 0,
        };
        let mut best = (f64::MAX, bare.copy);
        for (_, copy) in copies() {
            bare.copy = copy;
            let ns = typical_ns(bare.spans.len(), 1, |_| {
                bare.copy_next();
                Ok(())
            })?;
            if ns < best.0 {
                best = (ns, copy);
            }
        }
        (bare.copy_ns, bare.copy) = best;
        Ok(bare)
    }

    fn copy_next(&mut self) {
        let span = &self.spans[self.turn % self.spans.len()];
        self.turn += 1;
        // SAFETY: the span is ours until the abort, aligned to 64, as long as the source, a multiple of 256.
        unsafe {
            (self.copy)(
                span.data,
                self.source.as_ptr().cast(),
                size_of_val(self.source),
            )
        };
    }

    /// A copy until another processor may be told of it: streaming stores leave this one's buffers late.
    pub(super) fn visible_copy_ns(&mut self) -> Result<f64, String> {
        typical_ns(self.spans.len(), 1, |_| {
            self.copy_next();
            fence(Ordering::SeqCst);
            Ok(())
        })
    }

    /// A round trip, of the two before and behind so many copies.
    fn trip_around_ns(&mut self, copies: u64) -> Result<f64, String> {
        let before = self.echo.trips_ns(1)?;
        for _ in 0..copies {
            self.copy_next();
        }
        Ok((before[0] + self.echo.trips_ns(1)?[0]) / 2.0)
    }

    /// To take an answer that has come during so many copies and to send the next message.
    fn messages_around_ns(&mut self, copies: u64, turns: u64) -> Result<f64, String> {
        let mut figures = Vec::new();
        let (mut message, mut answer) = ([0; 64], [0; 64]);
        self.echo.ask(&mut message, answer.len())?;
        for _ in 0..turns {
            for _ in 0..copies {
                self.copy_next();
            }
            let begin = Instant::now();
            self.echo.receive(&mut answer)?;
            self.echo.ask(&mut message, answer.len())?;
            figures.push(begin.elapsed().as_nanos() as f64);
        }
        self.echo.receive(&mut answer)?;
        Ok(median_of(figures))
    }

    pub(super) fn end(self) -> Result<(), String> {
        self.reservation.abort().map_err(said)
    }
}
