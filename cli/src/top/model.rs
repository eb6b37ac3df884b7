//! What the screen shows: the last look at the daemon, the rates between the last two, and their history.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use hostkv::admin::{DaemonState, SessionState};
use hostkv::session::SessionInfo;
use hostkv_shm_protocol::wire::reply::Figures;

/// Looks that the history keeps: the widest screen.
const HISTORY: usize = 512;

/// One look at the daemon.
#[derive(Debug, Clone)]
pub struct Look {
    /// What the daemon granted at open.
    pub info: SessionInfo,
    /// What every session may see.
    pub figures: Figures,
    /// What admins see.
    pub daemon: Option<DaemonState>,
    /// The sessions, for admins.
    pub sessions: Vec<SessionState>,
}

/// Changes a second between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rates {
    /// Read requests.
    pub read_requests: f64,
    /// Keys asked.
    pub read_keys: f64,
    /// Share of those keys that were found; none when no key was asked.
    pub hit_ratio: Option<f64>,
    /// Reserve requests.
    pub write_requests: f64,
    /// Keys committed.
    pub write_keys: f64,
    /// Keys evicted.
    pub evicted_keys: f64,
}

/// What there is to be shown.
#[derive(Debug, Default)]
pub struct Model {
    /// The last look that succeeded.
    pub look: Option<Look>,
    /// Why the daemon could not be looked at last.
    pub trouble: Option<String>,
    /// Between the last two looks at the same daemon.
    pub rates: Rates,
    /// Share of the pool in use, in thousandths, the oldest first.
    pub used_history: VecDeque<u64>,
    /// Keys found a second, the oldest first.
    pub found_history: VecDeque<u64>,
    /// Keys found a second, by session.
    pub session_rates: HashMap<u64, f64>,
    looked_at: Option<Instant>,
}

impl Model {
    /// A look succeeded.
    pub fn saw(&mut self, look: Look, now: Instant) {
        let before = self.look.take().filter(|before| {
            // Another daemon has counted from zero again.
            before.info.instance_id == look.info.instance_id
        });
        let seconds = match (&before, self.looked_at) {
            (Some(_), Some(then)) => now.saturating_duration_since(then).as_secs_f64().max(1e-3),
            _ => f64::INFINITY,
        };
        let empty = Figures::default();
        let old = before.as_ref().map_or(&empty, |before| &before.figures);
        self.rates = rates(old, &look.figures, seconds);
        let found_before: HashMap<u64, u64> = before
            .iter()
            .flat_map(|before| &before.sessions)
            .map(|session| (session.session_id, session.read_succeed_keys))
            .collect();
        self.session_rates = look
            .sessions
            .iter()
            .map(|session| {
                let then = found_before.get(&session.session_id).copied();
                let rate = then.map_or(0.0, |then| {
                    per_second(then, session.read_succeed_keys, seconds)
                });
                (session.session_id, rate)
            })
            .collect();
        let capacity = look.figures.capacity_bytes.max(1);
        remember(
            &mut self.used_history,
            look.figures.used_bytes * 1000 / capacity,
        );
        let found = per_second(
            old.sm_read_succeed_keys,
            look.figures.sm_read_succeed_keys,
            seconds,
        );
        remember(&mut self.found_history, found as u64);
        self.look = Some(look);
        self.looked_at = Some(now);
        self.trouble = None;
    }

    /// A look failed; what was seen last stays on the screen.
    pub fn missed(&mut self, why: String) {
        self.trouble = Some(why);
        self.rates = Rates::default();
        self.session_rates.clear();
    }
}

fn remember(history: &mut VecDeque<u64>, value: u64) {
    if history.len() == HISTORY {
        history.pop_front();
    }
    history.push_back(value);
}

fn per_second(old: u64, new: u64, seconds: f64) -> f64 {
    new.saturating_sub(old) as f64 / seconds
}

fn rates(old: &Figures, new: &Figures, seconds: f64) -> Rates {
    let found = new
        .sm_read_succeed_keys
        .saturating_sub(old.sm_read_succeed_keys);
    let failed = new
        .sm_read_failed_keys
        .saturating_sub(old.sm_read_failed_keys);
    let asked = found + failed;
    Rates {
        read_requests: per_second(old.sm_read_requests, new.sm_read_requests, seconds),
        read_keys: asked as f64 / seconds,
        hit_ratio: (asked > 0 && seconds.is_finite()).then(|| found as f64 / asked as f64),
        write_requests: per_second(old.sm_write_requests, new.sm_write_requests, seconds),
        write_keys: per_second(old.l1_write_keys, new.l1_write_keys, seconds),
        evicted_keys: per_second(old.l1_evicted_keys, new.l1_evicted_keys, seconds),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::time::Duration;

    /// A look at a daemon with this instance number.
    pub fn look(instance: u8, found: u64, failed: u64) -> Look {
        Look {
            info: SessionInfo {
                instance_id: [instance; 16],
                session_id: 1,
                capacity_bytes: 1000,
                align_bytes: 64,
                huge_page_bytes: 0,
                pin_quota_bytes: 500,
                reserve_quota_bytes: 125,
                max_object_bytes: 125,
                pin_slot_count: 256,
                max_batch_keys: 1024,
                chunk_size: 256,
                server_version: "0.1.0".to_owned(),
            },
            figures: Figures {
                capacity_bytes: 1000,
                used_bytes: 400,
                sm_read_requests: found + failed,
                sm_read_succeed_keys: found,
                sm_read_failed_keys: failed,
                ..Figures::default()
            },
            daemon: None,
            sessions: Vec::new(),
        }
    }

    #[test]
    fn rates_are_between_two_looks_at_one_daemon_and_none_across_a_restart() {
        let mut model = Model::default();
        let start = Instant::now();
        model.saw(look(1, 100, 100), start);
        assert_eq!(model.rates, Rates::default(), "one look has no rate");
        model.saw(look(1, 130, 110), start + Duration::from_secs(2));
        assert_eq!(model.rates.hit_ratio, Some(0.75));
        assert_eq!(model.rates.read_keys, 20.0);
        assert_eq!(model.found_history.back(), Some(&15));
        model.saw(look(2, 500, 0), start + Duration::from_secs(4));
        assert_eq!(model.rates, Rates::default(), "another daemon");
    }

    #[test]
    fn a_look_that_failed_leaves_the_last_one_and_says_why() {
        let mut model = Model::default();
        model.saw(look(1, 1, 1), Instant::now());
        model.missed("gone".to_owned());
        assert!(model.look.is_some());
        assert_eq!(model.trouble.as_deref(), Some("gone"));
        model.saw(look(1, 2, 1), Instant::now());
        assert_eq!(model.trouble, None);
    }

    #[test]
    fn the_history_is_bounded() {
        let mut model = Model::default();
        for i in 0..HISTORY as u64 + 10 {
            model.saw(look(1, i, 0), Instant::now());
        }
        assert_eq!(model.used_history.len(), HISTORY);
    }
}
