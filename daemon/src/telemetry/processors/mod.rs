//! The processors: what happens to an event.
//!
//! Each type is one file beside this one and one word of [`PROCESSORS`], which finds the type and builds the processor; the
//! start starts it on the main thread; from then on the dispatcher's thread alone calls it.
//!
//! ```text
//!   build (checks fields, opens nothing) ──> start (opens) ──> process ... process ──> stop ──> dropped
//! ```

mod jsonl;
mod logging;

use std::error::Error;
use std::fmt::Debug;
use std::path::Path;

use super::Event;
use crate::specs::{self, Family};

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
type Kind = specs::Kind<Box<dyn Processor>>;

/// The specs of processors, checked by [`Family::parse`]; also when telemetry is off.
pub static PROCESSORS: Family<Box<dyn Processor>> = Family {
    flag: "--telemetry-processor",
    noun: "processor",
    kinds: &[&jsonl::KIND, &logging::KIND],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_is_registered_once_and_they_are_sorted() {
        let kinds = PROCESSORS.kinds;
        assert!(kinds.is_sorted_by(|first, second| first.name < second.name));
    }
}
