//! The processors: what happens to an event.
//!
//! Each type is one file beside this one and one line of [`REGISTRY`]. [`specs`](super::specs) finds the type there and
//! builds the processor; the start starts it on the main thread; from then on the dispatcher's thread alone calls it.
//!
//! ```text
//!   build (checks fields, opens nothing) ──> start (opens) ──> process ... process ──> stop ──> dropped
//! ```

mod fields;
mod jsonl;
mod logging;

use std::error::Error;
use std::fmt::Debug;
use std::path::Path;

use super::Event;

pub use fields::FieldError;
pub(super) use fields::Fields;

/// What a processor could not do: one sentence with its remedy.
pub type ProcessorError = Box<dyn Error + Send + Sync>;

/// Takes events.
///
/// It may wait as long as it likes and may fail or panic: others lose nothing but the place in the queue.
pub trait Processor: Debug + Send {
    /// The name of its type, as specs give it.
    fn type_name(&self) -> &'static str;

    /// The file that it opens at the start and anew while it runs, if there is one.
    fn path(&self) -> Option<&Path> {
        None
    }

    /// Opens what it needs. Called once, before the first event; an error ends the start of the daemon.
    fn start(&mut self) -> Result<(), ProcessorError>;

    /// Takes an event. After an error the next event comes all the same.
    fn process(&mut self, event: &Event) -> Result<(), ProcessorError>;

    /// Lets go of what it holds. Called once, after the last event.
    fn stop(&mut self) -> Result<(), ProcessorError>;
}

/// A type of processor.
#[derive(Debug)]
pub(super) struct Kind {
    /// Its name in specs.
    pub(super) name: &'static str,
    /// The fields it knows, beside `type`.
    pub(super) fields: &'static [&'static str],
    /// Makes one from the fields of a spec.
    pub(super) build: fn(&Fields) -> Result<Box<dyn Processor>, FieldError>,
}

/// All types, sorted by name.
pub(super) static REGISTRY: [&Kind; 2] = [
    &jsonl::KIND, //
    &logging::KIND,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_is_registered_once_and_they_are_sorted() {
        let names = REGISTRY.map(|kind| kind.name);
        assert!(
            names.is_sorted_by(|first, second| first < second),
            "{names:?}"
        );
    }
}
