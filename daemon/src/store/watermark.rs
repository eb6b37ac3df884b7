//! When eviction starts and how much a pass frees.
//!
//! Bytes and index entries have the same watermark and ratio. A pass frees a share of what is *used*.

/// Watermark and ratio.
#[derive(Debug, Clone, Copy)]
pub struct Watermark {
    /// Share of the payload, or of the index, in use at which eviction starts.
    pub trigger: f64,
    /// Share of the used bytes, or entries, that a pass frees.
    pub ratio: f64,
}

/// What a pass still has to free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Goal {
    /// Bytes.
    pub bytes: u64,
    /// Entries.
    pub entries: u32,
}

impl Goal {
    /// Whether nothing is left to free.
    pub fn is_met(&self) -> bool {
        self.bytes == 0 && self.entries == 0
    }

    /// Counts what was freed.
    pub fn freed(&mut self, bytes: u64, entries: u32) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.entries = self.entries.saturating_sub(entries);
    }
}

/// What is in use, of what.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Used bytes.
    pub used_bytes: u64,
    /// Payload bytes.
    pub capacity_bytes: u64,
    /// Used entries.
    pub used_entries: u32,
    /// All entries.
    pub entry_count: u32,
}

impl Usage {
    /// Share of the payload in use.
    pub fn ratio(&self) -> f64 {
        self.used_bytes as f64 / self.capacity_bytes as f64
    }

    fn entries_ratio(&self) -> f64 {
        f64::from(self.used_entries) / f64::from(self.entry_count)
    }
}

impl Watermark {
    /// The goal of a pass, when the usage is above the watermark.
    pub fn goal(&self, usage: &Usage) -> Option<Goal> {
        let mut goal = Goal::default();
        if usage.ratio() > self.trigger {
            goal.bytes = (usage.used_bytes as f64 * self.ratio).ceil() as u64;
        }
        if usage.entries_ratio() > self.trigger {
            goal.entries = (f64::from(usage.used_entries) * self.ratio).ceil() as u32;
        }
        (!goal.is_met()).then_some(goal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_frees_a_share_of_the_used_bytes_or_entries_whichever_crossed() {
        let mark = Watermark {
            trigger: 0.8,
            ratio: 0.2,
        };
        let mut usage = Usage {
            used_bytes: 800,
            capacity_bytes: 1000,
            used_entries: 10,
            entry_count: 100,
        };
        assert_eq!(mark.goal(&usage), None);
        usage.used_bytes = 900;
        assert_eq!(
            mark.goal(&usage),
            Some(Goal {
                bytes: 180,
                entries: 0
            })
        );
        usage.used_bytes = 1;
        usage.used_entries = 90;
        assert_eq!(
            mark.goal(&usage),
            Some(Goal {
                bytes: 0,
                entries: 18
            })
        );
    }
}
