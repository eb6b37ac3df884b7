//! Will the pool fit? Asked before a page is taken, because a pool that does not fit is ended by the OOM killer
//! and not by an error.
//!
//! `create_payload` calls it on the start-up thread. After an end of the daemon the old payload stays allocated
//! until its last client has closed, so a restart may have to wait:
//!
//! ```text
//!   need > total of a resource ───────────────────────────────> LargerThanLimit, at once
//!   need <= available of each ────────────────────────────────> fits
//!   short, nobody maps an old pool ───────────────────────────> DoesNotFit
//!   short, somebody does ──> wait, name them, look again ──────> fits, or HeldByOldPool after --start-wait
//! ```
//!
//! While the pool is filled, [`check_remaining`] asks for what is still missing.
//!
//! The kernel frees a large pool some time after its last holder has left the process list. So once a holder was
//! seen, its absence ends the wait only when nothing has become free for [`SETTLE`].

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::{Budget, SegmentError, human_bytes, list_of};
use super::holders::{Holder, holders_of_old_pool};
use super::progress::ProgressSink;
use super::readings::{Need, read_budgets};

/// Between two looks at the machine.
const RECHECK: Duration = Duration::from_millis(200);
/// How long memory may stand still, after the last holder left, before it counts as not coming back.
const SETTLE: Duration = Duration::from_secs(2);

/// What the check sees of the machine and of time; tests put their own in its place.
pub trait Machine {
    /// Every resource that `need` touches.
    fn budgets(&mut self, need: &Need) -> Result<Vec<Budget>, SegmentError>;
    /// Who maps an old pool.
    fn holders(&mut self) -> Vec<Holder>;
    /// Time since the check began.
    fn elapsed(&self) -> Duration;
    /// Lets time pass.
    fn sleep(&mut self, pause: Duration);
}

/// The machine the daemon runs on.
#[derive(Debug)]
pub struct ThisMachine {
    root: PathBuf,
    shm_name: Option<String>,
    started: Instant,
}

impl ThisMachine {
    /// `shm_name`: the named payload whose holders count beside those of memfds.
    pub fn new(shm_name: Option<&str>) -> Self {
        ThisMachine {
            root: Path::new("/").to_path_buf(),
            shm_name: shm_name.map(str::to_string),
            started: Instant::now(),
        }
    }
}

impl Machine for ThisMachine {
    fn budgets(&mut self, need: &Need) -> Result<Vec<Budget>, SegmentError> {
        read_budgets(&self.root, need)
    }

    fn holders(&mut self) -> Vec<Holder> {
        holders_of_old_pool(self.shm_name.as_deref())
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn sleep(&mut self, pause: Duration) {
        std::thread::sleep(pause);
    }
}

/// Returns when `need` fits; waits for holders of an old pool up to `start_wait`.
pub fn wait_until_fits(
    need: &Need,
    start_wait: Duration,
    machine: &mut dyn Machine,
    sink: &mut dyn ProgressSink,
) -> Result<(), SegmentError> {
    if shortage(machine.budgets(need)?)?.is_none() {
        return Ok(());
    }
    // (when something last spoke for waiting, how much was available then)
    let mut last_sign: Option<(Duration, u64)> = None;
    loop {
        // Holders first, budgets second: a holder that leaves in between has then already given its memory back
        // to the second reading, and is not missed by both.
        let holders = machine.holders();
        let Some(short) = shortage(machine.budgets(need)?)? else {
            return Ok(());
        };
        let now = machine.elapsed();
        let grew =
            last_sign.is_some_and(|(_, available_bytes)| short.available_bytes > available_bytes);
        if !holders.is_empty() || grew {
            last_sign = Some((now, short.available_bytes));
        }
        match last_sign {
            None => return Err(SegmentError::DoesNotFit(short)),
            Some((at, _)) if holders.is_empty() && now.saturating_sub(at) >= SETTLE => {
                return Err(SegmentError::DoesNotFit(short));
            }
            Some(_) if now >= start_wait => return Err(not_in_time(short, holders, now)),
            Some(_) => {}
        }
        sink.waiting(&waiting_text(
            &short,
            &holders,
            start_wait.saturating_sub(now),
        ));
        machine.sleep(RECHECK.min(start_wait - now));
    }
}

/// Asked again and again while the pool is filled: two daemons, or a daemon and an engine that loads its weights, can
/// each have found enough for one.
///
/// `looked` is what the machine said, each need what comes on top of the pool. `missing_bytes` of the pool were still
/// missing at that look or later, never before it: what was taken in between would count on both sides.
pub(super) fn check_remaining(looked: Vec<Budget>, missing_bytes: u64) -> Result<(), SegmentError> {
    let taken = looked
        .into_iter()
        .map(|budget| Budget {
            need_bytes: budget.need_bytes.saturating_add(missing_bytes),
            ..budget
        })
        .find(|budget| {
            budget.need_bytes > budget.available_bytes.saturating_add(slack_bytes(budget))
        });
    taken.map_or(Ok(()), |budget| Err(SegmentError::MemoryTaken(budget)))
}

/// What the running system's ordinary ups and downs may be short of. MemAvailable keeps back more than this.
fn slack_bytes(budget: &Budget) -> u64 {
    budget.total_bytes / 128
}

/// The first resource that is short; a resource that can never do is the error.
fn shortage(budgets: Vec<Budget>) -> Result<Option<Budget>, SegmentError> {
    if let Some(hopeless) = budgets
        .iter()
        .find(|budget| budget.need_bytes > budget.total_bytes)
    {
        return Err(SegmentError::LargerThanLimit(hopeless.clone()));
    }
    Ok(budgets
        .into_iter()
        .find(|budget| budget.need_bytes > budget.available_bytes))
}

fn not_in_time(budget: Budget, holders: Vec<Holder>, waited: Duration) -> SegmentError {
    if holders.is_empty() {
        SegmentError::DoesNotFit(budget)
    } else {
        SegmentError::HeldByOldPool {
            budget,
            holders,
            waited,
        }
    }
}

fn waiting_text(short: &Budget, holders: &[Holder], left: Duration) -> String {
    let who = if holders.is_empty() {
        "the kernel, which is freeing an old pool".to_string()
    } else {
        format!("{}, which map an old pool", list_of(holders))
    };
    format!(
        "waiting up to {} s more for {who}: {} needed, {} available of {}",
        left.as_secs(),
        human_bytes(short.need_bytes),
        human_bytes(short.available_bytes),
        short.resource
    )
}

#[cfg(test)]
mod tests {
    use super::super::error::Resource;
    use super::*;

    const GIB: u64 = 1 << 30;

    /// A machine of 32 GiB whose available memory and holders follow a script, one step per look at the holders.
    struct Scripted {
        /// (available GiB, pids)
        steps: Vec<(u64, Vec<u32>)>,
        at: usize,
        elapsed: Duration,
        total_bytes: u64,
    }

    impl Scripted {
        fn new(steps: &[(u64, &[u32])]) -> Self {
            let steps = steps
                .iter()
                .map(|(gib, pids)| (*gib, pids.to_vec()))
                .collect();
            Scripted {
                steps,
                at: 0,
                elapsed: Duration::ZERO,
                total_bytes: 32 * GIB,
            }
        }

        fn step(&self) -> &(u64, Vec<u32>) {
            &self.steps[self.at.min(self.steps.len() - 1)]
        }
    }

    impl Machine for Scripted {
        fn budgets(&mut self, need: &Need) -> Result<Vec<Budget>, SegmentError> {
            Ok(vec![Budget {
                resource: Resource::Machine,
                need_bytes: need.memory_bytes,
                total_bytes: self.total_bytes,
                available_bytes: self.step().0 * GIB,
            }])
        }

        fn holders(&mut self) -> Vec<Holder> {
            self.step()
                .1
                .iter()
                .map(|&pid| Holder {
                    pid,
                    comm: format!("engine{pid}"),
                })
                .collect()
        }

        fn elapsed(&self) -> Duration {
            self.elapsed
        }

        fn sleep(&mut self, pause: Duration) {
            self.elapsed += pause;
            self.at += 1;
        }
    }

    #[derive(Default)]
    struct Recorded(Vec<String>);

    impl ProgressSink for Recorded {
        fn waiting(&mut self, text: &str) {
            self.0.push(text.to_string());
        }
        fn update(&mut self, _: u64, _: u64) {}
        fn finish(&mut self) {}
    }

    fn check(machine: &mut Scripted, need_gib: u64) -> (Result<(), SegmentError>, Vec<String>) {
        let need = Need {
            memory_bytes: need_gib * GIB,
            ..Need::default()
        };
        let mut sink = Recorded::default();
        let result = wait_until_fits(&need, Duration::from_secs(60), machine, &mut sink);
        (result, sink.0)
    }

    #[test]
    fn a_pool_that_fits_starts_without_a_wait_even_beside_another_pool() {
        let mut machine = Scripted::new(&[(20, &[7])]);
        let (result, said) = check(&mut machine, 20);
        assert!(result.is_ok() && said.is_empty() && machine.elapsed == Duration::ZERO);
    }

    #[test]
    fn a_pool_larger_than_the_machine_is_an_error_at_once_even_with_holders() {
        let mut machine = Scripted::new(&[(1, &[7])]);
        let (result, said) = check(&mut machine, 33);
        let text = result.expect_err("too large").to_string();
        assert!(
            text.contains("33.00 GiB")
                && text.contains("32.00 GiB")
                && text.contains("--l1-size-gb"),
            "{text}"
        );
        assert!(said.is_empty());
    }

    #[test]
    fn a_short_machine_without_holders_is_an_error_at_once_with_the_numbers() {
        let mut machine = Scripted::new(&[(10, &[])]);
        let (result, _) = check(&mut machine, 20);
        let error = result.expect_err("does not fit");
        assert!(matches!(error, SegmentError::DoesNotFit(_)), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("20.00 GiB") && text.contains("10.00 GiB") && text.contains("32.00 GiB"),
            "{text}"
        );
        assert_eq!(machine.elapsed, Duration::ZERO);
    }

    #[test]
    fn the_start_goes_on_as_soon_as_the_last_holder_has_gone() {
        let mut machine = Scripted::new(&[(10, &[7, 9]), (10, &[7, 9]), (15, &[9]), (25, &[])]);
        let (result, said) = check(&mut machine, 20);
        assert!(result.is_ok());
        assert_eq!(machine.elapsed, RECHECK * 3);
        assert!(
            said[0].contains("engine7 (pid 7), engine9 (pid 9)"),
            "{said:?}"
        );
        assert!(
            said[2].contains("engine9 (pid 9)") && !said[2].contains("pid 7"),
            "{said:?}"
        );
    }

    #[test]
    fn holders_that_stay_end_the_wait_with_their_pids_at_the_limit() {
        let mut machine = Scripted::new(&[(10, &[4711])]);
        let (result, said) = check(&mut machine, 20);
        let error = result.expect_err("held");
        assert!(
            matches!(error, SegmentError::HeldByOldPool { .. }),
            "{error}"
        );
        let text = error.to_string();
        assert!(
            text.contains("engine4711 (pid 4711)") && text.contains("after 60 s"),
            "{text}"
        );
        assert!(text.contains("--start-wait"), "{text}");
        assert_eq!(machine.elapsed, Duration::from_secs(60));
        assert_eq!(said.len(), 300);
    }

    #[test]
    fn memory_that_comes_back_after_the_holder_left_the_process_list_is_waited_for() {
        // 30 s of freeing, a GiB every 1.6 s, with no holder to be seen.
        let mut steps: Vec<(u64, &[u32])> = vec![(1, &[7])];
        steps.extend((0..160).map(|step| (1 + step / 8, &[] as &[u32])));
        let mut machine = Scripted::new(&steps);
        let (result, said) = check(&mut machine, 20);
        assert!(result.is_ok(), "{result:?}");
        assert!(
            said.last().expect("waited").contains("the kernel"),
            "{said:?}"
        );
    }

    #[test]
    fn memory_that_stands_still_after_the_holder_left_ends_the_wait_soon() {
        let mut machine = Scripted::new(&[(10, &[7]), (10, &[])]);
        let (result, _) = check(&mut machine, 20);
        assert!(
            matches!(result, Err(SegmentError::DoesNotFit(_))),
            "{result:?}"
        );
        assert_eq!(machine.elapsed, SETTLE);
    }

    #[test]
    fn memory_that_others_take_while_the_pool_is_filled_is_an_error_before_it_is_gone() {
        let mut machine = Scripted::new(&[(10, &[7])]);
        let mut check = |mib: u64| {
            let beside = Need {
                memory_bytes: 1 << 20,
                ..Need::default()
            };
            check_remaining(machine.budgets(&beside)?, (mib - 1) << 20)
        };
        assert!(check(10 * 1024).is_ok());
        assert!(check(10 * 1024 + 256).is_ok(), "the slack is 32 GiB / 128");
        let error = check(10 * 1024 + 257).expect_err("taken");
        assert!(matches!(error, SegmentError::MemoryTaken(_)), "{error}");
        assert!(
            error.to_string().contains("10.00 GiB of 32.00 GiB is left"),
            "{error}"
        );
    }

    #[test]
    fn the_remedy_names_the_setting_of_the_resource() {
        let budget = |resource| Budget {
            resource,
            need_bytes: 4 * GIB,
            total_bytes: 3 * GIB,
            available_bytes: 2 * GIB,
        };
        let text = |resource| SegmentError::LargerThanLimit(budget(resource)).to_string();
        assert!(text(Resource::ShmFileSystem).contains("remount,size=5120m"));
        assert!(text(Resource::ShmFileSystem).contains("--shm-name"));
        assert!(text(Resource::HugePages).contains("vm.nr_hugepages=2560"));
        let cgroup = text(Resource::Cgroup {
            path: PathBuf::from("/sys/fs/cgroup/x"),
        });
        assert!(cgroup.contains("/sys/fs/cgroup/x") && cgroup.contains("MemoryMax="));
    }
}
