//! The model's tier: what it has to do, what it holds, and that nothing else becomes readable by it.

use super::*;

/// One object, or question, that the tier has.
pub(super) enum TierPart {
    Store(TaskId, usize, StoreObject),
    Lookup(LookupTask),
    Load(TaskId, usize, LoadObject),
}

impl TierPart {
    /// The payload bytes that must stay as they are, as units.
    pub(super) fn range(&self) -> Option<Range> {
        let PayloadRange {
            offset_bytes,
            len_bytes,
        } = match self {
            TierPart::Store(_, _, object) => object.source,
            TierPart::Load(_, _, object) => object.destination,
            TierPart::Lookup(_) => return None,
        };
        let start = (offset_bytes / u64::from(ALIGN)) as u32;
        Some((start, start + len_bytes.div_ceil(u64::from(ALIGN)) as u32))
    }
}
impl World {
    pub(super) fn take_tiers(&mut self) {
        for work in self.pool.store.take_tier_work() {
            match work {
                TierWork::Store(task) => {
                    let objects = task.objects.into_iter().enumerate();
                    let parts = objects.map(|(at, object)| TierPart::Store(task.id, at, object));
                    self.tier_parts.extend(parts);
                }
                TierWork::Lookup(task) => self.tier_parts.push(TierPart::Lookup(task)),
                TierWork::Load(task) => {
                    let objects = task.objects.into_iter().enumerate();
                    let parts = objects.map(|(at, object)| TierPart::Load(task.id, at, object));
                    self.tier_parts.extend(parts);
                }
                TierWork::Remove(keys) => {
                    for key in keys {
                        self.tier.remove(&key);
                    }
                }
            }
        }
    }

    pub(super) fn serve_tier(&mut self, part: TierPart, is_well: bool) {
        let now = self.pool.now;
        match part {
            TierPart::Store(task, object, stored) => {
                let mut tiers = TierSet::default();
                if is_well {
                    self.tier.insert(stored.key, stored.source.len_bytes);
                    tiers = tiers.with(0);
                }
                let completion = Completion::Stored {
                    task,
                    object,
                    tiers,
                };
                self.pool.store.tier_ended(completion, now);
            }
            TierPart::Lookup(task) => {
                let found = |key| {
                    let len_bytes = *self.tier.get(key).filter(|_| is_well)?;
                    Some(FoundInTier { tier: 0, len_bytes })
                };
                let completion = Completion::LookedUp {
                    task: task.id,
                    found: task.keys.iter().map(found).collect(),
                };
                self.pool.store.tier_ended(completion, now);
            }
            TierPart::Load(task, object, load) => {
                let range = load.destination;
                let completion = Completion::Loaded {
                    task,
                    object,
                    outcome: match is_well {
                        true => LoadOutcome::Loaded {
                            tier: 0,
                            sum: sum_at(&(range.offset_bytes, range.len_bytes)),
                        },
                        false => LoadOutcome::Missed,
                    },
                };
                self.pool.store.tier_ended(completion, now);
                // What is readable there now is what was loaded.
                let start = (range.offset_bytes / u64::from(ALIGN)) as u32;
                for number in 0..KEYS {
                    let found = self.pool.find(&key(self.keyspace, number));
                    if let Some(found) = found.filter(|f| f.extent.offset_units == start) {
                        assert!(is_well, "key {number} is readable and was not loaded");
                        let units = found.extent.len_bytes.div_ceil(ALIGN);
                        self.committed.insert(number, (start, start + units));
                    }
                }
            }
        }
    }

    pub(super) fn give_way(&mut self) {
        if self.pool.store.take_wanted_room().is_none() {
            return;
        }
        let is_store = |part: &TierPart| matches!(part, TierPart::Store(..));
        let mut given_up = Vec::new();
        if let Some(at) = self.tier_parts.iter().position(is_store)
            && let TierPart::Store(task, object, _) = self.tier_parts.remove(at)
        {
            given_up.push(Completion::Stored {
                task,
                object,
                tiers: TierSet::default(),
            });
        }
        self.pool.store.stores_gave_way(given_up, self.pool.now);
    }
}
