//! Runs a model, then each of its mutants, and says what was found.
//!
//! A model that never reaches its interesting ends passes for the wrong reason, so it names them
//! ([`reached`]) and each must have been reached in some execution. A mutant that changes nothing, or that
//! dies of a mistake of the model itself, is not caught but wrong, and fails too.
//!
//! `HOSTKV_MODEL_FULL=1` runs with the wider bounds.

use hostkv_shm_protocol::sync::Ordering;
use hostkv_shm_protocol::sync::model::{Change, Mutation, Operation, mutation_hits, set_mutations};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::Instant;

/// How far the search goes.
#[derive(Clone, Copy)]
pub enum Bound {
    /// Every interleaving.
    All,
    /// Those with at most so many preemptions.
    Preemptions(usize),
}

/// One model.
pub struct Model {
    pub name: &'static str,
    /// Search of `make test`, and of the mutants always.
    pub quick: Bound,
    /// Search with `HOSTKV_MODEL_FULL=1`.
    pub full: Bound,
    pub body: fn(),
    /// What some execution must reach.
    pub ends: &'static [&'static str],
    pub mutants: Vec<Mutant>,
}

/// One way to break the protocol.
pub struct Mutant {
    name: &'static str,
    sites: Vec<Site>,
}

/// An operation in the crate's source: all of its kind in one function.
#[derive(Clone, Copy)]
pub struct Site {
    pub file: &'static str,
    pub function: &'static str,
    pub operation: Operation,
    pub change: Change,
}

/// A mutant in the crate's own code.
pub fn code(name: &'static str, sites: &[Site]) -> Mutant {
    Mutant {
        name,
        sites: sites.to_vec(),
    }
}

/// A mutant in the model's own steps, which ask [`broken`].
pub fn steps(name: &'static str) -> Mutant {
    Mutant {
        name,
        sites: Vec::new(),
    }
}

/// The fences of a function left out.
pub fn no_fence(file: &'static str, function: &'static str) -> Site {
    Site {
        file,
        function,
        operation: Operation::Fence,
        change: Change::Omit,
    }
}

/// The operations of a function with a weaker ordering.
pub fn weaken(
    file: &'static str,
    function: &'static str,
    operation: Operation,
    to: Ordering,
) -> Site {
    Site {
        file,
        function,
        operation,
        change: Change::Weaken(to),
    }
}

/// Loads by the one thread that may write the word; see [`Change::Own`].
const OWN_LOADS: [(&str, &str); 5] = [
    ("lease/pins.rs", "publish"),
    ("lease/pins.rs", "clear"),
    ("control/writer.rs", "bucket_word"),
    ("control/writer.rs", "move_overflow"),
    ("control/writer.rs", "seq"),
];

thread_local! {
    static BROKEN: Cell<&'static str> = const { Cell::new("") };
    static EXECUTIONS: Cell<u64> = const { Cell::new(0) };
    static ENDS: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Whether the mutant with this name is being run.
pub fn broken(name: &str) -> bool {
    BROKEN.get() == name
}

/// Counts that an execution got to an interesting end.
pub fn reached(end: &'static str) {
    ENDS.with_borrow_mut(|ends| *ends.entry(end).or_default() += 1);
}

/// Runs the model and its mutants.
pub fn run(model: Model) {
    let is_full = std::env::var_os("HOSTKV_MODEL_FULL").is_some_and(|value| value == "1");
    let bound = if is_full { model.full } else { model.quick };
    let begin = Instant::now();
    if let Err(message) = explore(model.body, bound, "", Vec::new()) {
        panic!("model '{}' failed: {message}", model.name);
    }
    let ends = ENDS.with_borrow(Clone::clone);
    println!(
        "model   {:<38} {:>9} executions, {:<22} {:>5.1} s  {}",
        model.name,
        EXECUTIONS.get(),
        match bound {
            Bound::All => "all".to_owned(),
            Bound::Preemptions(most) => format!("up to {most} preemptions"),
        },
        begin.elapsed().as_secs_f64(),
        ends.iter()
            .map(|(end, count)| format!("{end} {count}"))
            .collect::<Vec<_>>()
            .join(", "),
    );
    let unreached: Vec<_> = model
        .ends
        .iter()
        .filter(|end| !ends.contains_key(*end))
        .collect();
    assert!(
        unreached.is_empty(),
        "model '{}' never reached {unreached:?}",
        model.name
    );
    let mut escaped = Vec::new();
    for mutant in &model.mutants {
        let mutations = mutant.sites.iter().map(Site::resolve).collect();
        let verdict = match explore(model.body, model.quick, mutant.name, mutations) {
            Ok(()) => {
                escaped.push(mutant.name);
                "NOT CAUGHT".to_owned()
            }
            Err(message) => {
                assert!(
                    !message.starts_with("the model ") && !message.contains(" is not for a"),
                    "mutant '{}' of '{}' broke the model itself: {message}",
                    mutant.name,
                    model.name
                );
                let first = message.lines().find(|line| !line.trim().is_empty());
                format!("caught: {}", first.unwrap_or_default().trim())
            }
        };
        let mut hits = mutation_hits().into_iter().take(mutant.sites.len());
        if let Some(at) = hits.position(|hits| hits == 0) {
            panic!(
                "mutant '{}' of '{}' changes nothing at its site {at}",
                mutant.name, model.name
            );
        }
        println!(
            "  mutant {:<38} {:>8} executions, {verdict}",
            mutant.name,
            EXECUTIONS.get()
        );
    }
    set_mutations(Vec::new());
    assert!(
        escaped.is_empty(),
        "model '{}' does not catch {escaped:?}",
        model.name
    );
}

/// One search; an error is the message of the first execution that failed.
fn explore(
    body: fn(),
    bound: Bound,
    mutant: &'static str,
    mut mutations: Vec<Mutation>,
) -> Result<(), String> {
    quiet_hook();
    mutations.extend(OWN_LOADS.map(|(file, function)| {
        let site = Site {
            file,
            function,
            operation: Operation::Load,
            change: Change::Own,
        };
        site.resolve()
    }));
    set_mutations(mutations);
    BROKEN.set(mutant);
    EXECUTIONS.set(0);
    ENDS.with_borrow_mut(BTreeMap::clear);
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 100_000;
    builder.preemption_bound = match bound {
        Bound::All => None,
        Bound::Preemptions(most) => Some(most),
    };
    IS_QUIET.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        builder.check(move || {
            EXECUTIONS.set(EXECUTIONS.get() + 1);
            body();
        });
    }));
    IS_QUIET.set(false);
    BROKEN.set("");
    outcome.map_err(|panic| {
        panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "a panic without a message".to_owned())
    })
}

/// Keeps the panics that a search expects off the terminal.
fn quiet_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IS_QUIET.get() {
                usual(info);
            }
        }));
    });
}

impl Site {
    /// Finds the lines of the function, from its head to the brace that closes it.
    fn resolve(&self) -> Mutation {
        let path = format!("{}/src/{}", env!("CARGO_MANIFEST_DIR"), self.file);
        let source = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let head = format!("fn {}", self.function);
        let mut lines = source.lines().zip(1_u32..).skip_while(|(line, _)| {
            !line
                .split(&head)
                .nth(1)
                .is_some_and(|rest| rest.starts_with(['(', '<']))
        });
        let (text, first) = lines
            .next()
            .unwrap_or_else(|| panic!("{path} has no function {}", self.function));
        let close = format!("{}}}", &text[..text.len() - text.trim_start().len()]);
        let (_, last) = lines
            .find(|(line, _)| *line == close)
            .unwrap_or_else(|| panic!("{path}: function {} has no end", self.function));
        Mutation {
            file: self.file,
            lines: first..last,
            operation: self.operation,
            change: self.change,
        }
    }
}
