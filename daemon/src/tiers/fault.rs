//! The tier `fault_inject`: another tier whose operations fail as the operator wants, for tests.
//!
//! Which operations fail follows from the seed and their order. The faults are those of
//! [`FaultKind`]; what the other tier then does is its own.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use hostkv_shm_protocol::sum::{Sum, sum_of};

use super::backend::{Backend, Fault, Got, Put, Usage};
use super::key::TierKey;
use super::spec::{FaultKind, FaultSpec};
use super::{PayloadRange, StoreObject};
use crate::workers::PayloadBytes;

/// The wrapper.
pub(super) struct FaultInject {
    inner: Arc<dyn Backend>,
    payload: PayloadBytes,
    kind: FaultKind,
    rate: f64,
    timeout: Duration,
    /// State of the random numbers, and whether the daemon ends.
    state: Mutex<(u64, bool)>,
    ending: Condvar,
}

impl FaultInject {
    /// Wraps an opened tier.
    pub(super) fn new(
        spec: &FaultSpec,
        inner: Arc<dyn Backend>,
        timeout: Duration,
        payload: PayloadBytes,
    ) -> FaultInject {
        FaultInject {
            inner,
            payload,
            kind: spec.kind,
            rate: spec.rate,
            timeout,
            state: Mutex::new((spec.seed, false)),
            ending: Condvar::new(),
        }
    }

    /// Whether this operation is one that fails. The generator is splitmix64 (Steele, Lea, Flood 2014).
    fn is_hit(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = state.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        (word >> 11) as f64 / (1_u64 << 53) as f64 >= 1.0 - self.rate && self.rate > 0.0
    }

    /// Waits until the daemon ends, at most `most`.
    fn wait(&self, most: Option<Duration>) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = |state: &mut (u64, bool)| !state.1;
        match most {
            Some(most) => drop(self.ending.wait_timeout_while(state, most, goes_on)),
            None => drop(self.ending.wait_while(state, goes_on)),
        }
    }

    /// The faults that any operation can have.
    fn any(&self) -> Result<(), Fault> {
        match self.kind {
            FaultKind::Error if self.is_hit() => Err(Fault::error("an injected error")),
            FaultKind::Slow if self.is_hit() => {
                self.wait(Some(self.timeout / 2));
                Ok(())
            }
            FaultKind::Hang if self.is_hit() => {
                self.wait(None);
                Err(Fault::timeout("an injected hang"))
            }
            FaultKind::Panic if self.is_hit() => std::panic::panic_any("an injected panic"),
            _ => Ok(()),
        }
    }

    /// The sum of an object with one bit of it changed: one bit of a sum stands for a bit of its object.
    fn wrong_sum(&self, object: &StoreObject) -> Option<Sum> {
        let source = object.source;
        let sum = object
            .sum
            .or_else(|| sum_of(&self.payload.view(), source.offset_bytes, source.len_bytes).ok());
        Some(Sum::of_checksum(Sum::to_word(sum) ^ 1 << 17))
    }
}

impl Backend for FaultInject {
    fn find(&self, keys: &[TierKey]) -> Result<Vec<Option<u64>>, Fault> {
        self.any()?;
        self.inner.find(keys)
    }

    fn put(&self, object: &StoreObject) -> Result<Put, Fault> {
        self.any()?;
        match self.kind {
            FaultKind::Lose if self.is_hit() => Ok(Put::Stored),
            FaultKind::Full if self.is_hit() => Err(Fault::full("an injected lack of room")),
            FaultKind::Corrupt if self.is_hit() => self.inner.put(&StoreObject {
                sum: self.wrong_sum(object),
                ..*object
            }),
            _ => self.inner.put(object),
        }
    }

    fn get(&self, key: &TierKey, destination: PayloadRange) -> Result<Got, Fault> {
        self.any()?;
        self.inner.get(key, destination)
    }

    fn remove(&self, key: &TierKey) -> Result<(), Fault> {
        self.any()?;
        self.inner.remove(key)
    }

    fn probe(&self) -> Result<(), Fault> {
        self.any()?;
        self.inner.probe()
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }

    fn end(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.ending.notify_all();
        self.inner.end();
    }
}
