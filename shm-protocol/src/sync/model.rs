//! The shared words as the model checker sees them; only in a build with `--cfg loom`.
//!
//! A model that passes says little until it has been seen to fail. So each model also runs with one step of
//! the protocol broken on purpose, and must then find the fault. The words here are loom's, with one addition:
//! every operation looks whether a [`Mutation`] names the place in the source that it was called from
//! (`#[track_caller]`), and if so does what the mutation says. The protocol's code knows nothing of it.
//!
//! ```text
//!   lease::pins, control::reader, ...   word.store(v, Release)      called from pins.rs:107
//!                                          |
//!   AtomicU64 here                      is pins.rs:107 mutated? -- no --> loom, Release
//!                                          \-- yes, Relaxed ----------> loom, Relaxed
//! ```
//!
//! Loom runs all threads of a model as coroutines of the thread that called it, so the mutations stand in a
//! thread-local and models can run beside each other.

use core::ops::Range;
use core::panic::Location;
use loom::sync::atomic::{self, Ordering};
use std::cell::RefCell;
use std::sync::atomic as newest;

/// Kind of operation that a mutation changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A fence.
    Fence,
    /// A load.
    Load,
    /// A store.
    Store,
    /// A fetch-and-modify or a compare-and-exchange.
    Modify,
}

/// What the changed operation does instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The same with this ordering.
    Weaken(Ordering),
    /// Nothing; only for fences.
    Omit,
    /// A load, then a store, in the place of a read-modify-write.
    Split,
    /// First a store of 0, then the store.
    ThroughZero,
    /// No fault: the load is by the one thread that may write the word, so it sees the newest value and is no
    /// step of the model. Loom keeps only the last access of a word; a thread that loads a word and then
    /// stores it would hide from the search that another thread had loaded it before.
    Own,
}

/// One place in the protocol's source where a rule is broken.
#[derive(Debug, Clone)]
pub struct Mutation {
    /// Source file, relative to `src/`.
    pub file: &'static str,
    /// Its lines.
    pub lines: Range<u32>,
    /// Which operations on these lines.
    pub operation: Operation,
    /// What they do.
    pub change: Change,
}

thread_local! {
    static ACTIVE: RefCell<Vec<(Mutation, u64)>> = const { RefCell::new(Vec::new()) };
}

/// Makes these mutations, and no others, work on the calling thread.
pub fn set_mutations(mutations: Vec<Mutation>) {
    ACTIVE.with_borrow_mut(|active| *active = mutations.into_iter().map(|m| (m, 0)).collect());
}

/// How often each mutation has changed an operation since it was set.
pub fn mutation_hits() -> Vec<u64> {
    ACTIVE.with_borrow(|active| active.iter().map(|(_, hits)| *hits).collect())
}

fn change_at(caller: &Location<'_>, operation: Operation) -> Option<Change> {
    ACTIVE.with_borrow_mut(|active| {
        let (mutation, hits) = active.iter_mut().find(|(mutation, _)| {
            mutation.operation == operation
                && mutation.lines.contains(&caller.line())
                && caller
                    .file()
                    .strip_suffix(mutation.file)
                    .is_some_and(|rest| rest.ends_with("src/"))
        })?;
        *hits += 1;
        Some(mutation.change)
    })
}

/// A fence.
#[track_caller]
pub fn fence(order: Ordering) {
    match change_at(Location::caller(), Operation::Fence) {
        Some(Change::Omit | Change::Weaken(Ordering::Relaxed)) => {}
        Some(Change::Weaken(weaker)) => atomic::fence(weaker),
        Some(change) => panic!("{change:?} is not for a fence"),
        None => atomic::fence(order),
    }
}

macro_rules! model_atomic {
    ($(#[$doc:meta])* $name:ident, $int:ty) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name(Word<atomic::$name, newest::$name, $int>);

        impl $name {
            /// A word of the model.
            #[track_caller]
            pub fn new(value: $int) -> $name {
                $name(Word::Modelled(atomic::$name::new(value), newest::$name::new(value)))
            }

            /// A word that every step writes with the same value. It adds no states to a model.
            pub fn fixed(value: $int) -> $name {
                $name(Word::Fixed(value))
            }

            /// Loads the word.
            #[track_caller]
            pub fn load(&self, order: Ordering) -> $int {
                match &self.0 {
                    Word::Modelled(word, newest) => {
                        match change_at(Location::caller(), Operation::Load) {
                            Some(Change::Own) => newest.load(Ordering::Relaxed),
                            Some(Change::Weaken(weaker)) => word.load(weaker),
                            Some(change) => panic!("{change:?} is not for a load"),
                            None => word.load(order),
                        }
                    }
                    Word::Fixed(value) => *value,
                }
            }

            /// Stores the word.
            #[track_caller]
            pub fn store(&self, value: $int, order: Ordering) {
                match &self.0 {
                    Word::Modelled(word, newest) => {
                        match change_at(Location::caller(), Operation::Store) {
                            Some(Change::Weaken(weaker)) => word.store(value, weaker),
                            Some(Change::ThroughZero) => {
                                word.store(0, order);
                                word.store(value, order);
                            }
                            Some(change) => panic!("{change:?} is not for a store"),
                            None => word.store(value, order),
                        }
                        newest.store(value, Ordering::Relaxed);
                    }
                    Word::Fixed(fixed) => {
                        assert_eq!(*fixed, value, "the model fixed this word");
                    }
                }
            }

            /// Raises the word to `value`.
            #[track_caller]
            pub fn fetch_max(&self, value: $int, order: Ordering) -> $int {
                self.modify(order, Location::caller(), |old| old.max(value), |w, o| w.fetch_max(value, o))
            }

            /// Sets bits.
            #[track_caller]
            pub fn fetch_or(&self, bits: $int, order: Ordering) -> $int {
                self.modify(order, Location::caller(), |old| old | bits, |w, o| w.fetch_or(bits, o))
            }

            /// Clears bits.
            #[track_caller]
            pub fn fetch_and(&self, bits: $int, order: Ordering) -> $int {
                self.modify(order, Location::caller(), |old| old & bits, |w, o| w.fetch_and(bits, o))
            }

            /// Adds.
            #[track_caller]
            pub fn fetch_add(&self, by: $int, order: Ordering) -> $int {
                self.modify(
                    order,
                    Location::caller(),
                    |old| old.wrapping_add(by),
                    |w, o| w.fetch_add(by, o),
                )
            }

            /// Subtracts.
            #[track_caller]
            pub fn fetch_sub(&self, by: $int, order: Ordering) -> $int {
                self.modify(
                    order,
                    Location::caller(),
                    |old| old.wrapping_sub(by),
                    |w, o| w.fetch_sub(by, o),
                )
            }

            /// Exchanges.
            #[track_caller]
            pub fn swap(&self, value: $int, order: Ordering) -> $int {
                self.modify(order, Location::caller(), |_| value, |w, o| w.swap(value, o))
            }

            /// Exchanges if the word is `current`.
            #[track_caller]
            pub fn compare_exchange(
                &self,
                current: $int,
                new: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                let (word, newest) = self.modelled();
                let outcome = match change_at(Location::caller(), Operation::Modify) {
                    Some(Change::Weaken(weaker)) => {
                        word.compare_exchange(current, new, weaker, Ordering::Relaxed)
                    }
                    Some(Change::Split) => {
                        let old = word.load(failure);
                        if old == current {
                            word.store(new, success);
                            Ok(old)
                        } else {
                            Err(old)
                        }
                    }
                    Some(change) => panic!("{change:?} is not for a compare-and-exchange"),
                    None => word.compare_exchange(current, new, success, failure),
                };
                if outcome.is_ok() {
                    newest.store(new, Ordering::Relaxed);
                }
                outcome
            }

            /// Exchanges if the word is `current`; never fails without reason here.
            #[track_caller]
            pub fn compare_exchange_weak(
                &self,
                current: $int,
                new: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                self.compare_exchange(current, new, success, failure)
            }

            fn modelled(&self) -> (&atomic::$name, &newest::$name) {
                match &self.0 {
                    Word::Modelled(word, newest) => (word, newest),
                    Word::Fixed(value) => panic!("a word that is fixed at {value} is modified"),
                }
            }

            fn modify(
                &self,
                order: Ordering,
                caller: &Location<'_>,
                result: impl Fn($int) -> $int,
                at_once: impl FnOnce(&atomic::$name, Ordering) -> $int,
            ) -> $int {
                let (word, newest) = self.modelled();
                let old = match change_at(caller, Operation::Modify) {
                    Some(Change::Weaken(weaker)) => at_once(word, weaker),
                    Some(Change::Split) => {
                        let old = word.load(Ordering::Relaxed);
                        word.store(result(old), order);
                        old
                    }
                    Some(change) => panic!("{change:?} is not for a read-modify-write"),
                    None => at_once(word, order),
                };
                newest.store(result(old), Ordering::Relaxed);
                old
            }
        }
    };
}

#[derive(Debug)]
enum Word<A, N, I> {
    /// Loom's word, and its newest value for [`Change::Own`].
    Modelled(A, N),
    Fixed(I),
}

model_atomic!(
    /// A shared word of 32 bits.
    AtomicU32,
    u32
);
model_atomic!(
    /// A shared word of 64 bits.
    AtomicU64,
    u64
);
