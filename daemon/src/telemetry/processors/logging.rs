//! The `logging` processor: one log line an event.
//!
//! Built at the start, then called by the dispatcher's thread. The line goes the way of every log line of the daemon, so
//! the daemon's own level decides whether it is seen.
//!
//! ```text
//!   Telemetry: lookup END session=req-001 ts=12345.680123 metadata={'found_count': 3}
//! ```

use std::fmt::{self, Display, Formatter};

use super::super::Event;
use super::super::python::PythonDict;
use super::{Kind, Processor, ProcessorError};
use crate::critical;
use crate::logging::Level;
use crate::specs::{FieldError, Fields};

/// This type, for the registry.
pub(super) static KIND: Kind = Kind {
    name: "logging",
    fields: &["log_level"],
    build,
};

#[derive(Debug)]
struct LoggingProcessor {
    level: Level,
}

fn build(fields: &Fields) -> Result<Box<dyn Processor>, FieldError> {
    const ALLOWED: &str = "DEBUG, INFO, WARNING, ERROR or CRITICAL, in any case";
    let level = match fields.text("log_level", ALLOWED)? {
        None => Level::Debug,
        Some(name) => Level::from_name(name).ok_or_else(|| fields.refuse("log_level", ALLOWED))?,
    };
    Ok(Box::new(LoggingProcessor { level }))
}

impl Processor for LoggingProcessor {
    fn type_name(&self) -> &'static str {
        KIND.name
    }

    fn start(&mut self) -> Result<(), ProcessorError> {
        if self.level == Level::Debug && !log::log_enabled!(log::Level::Debug) {
            log::info!(
                "Telemetry events are logged at DEBUG and this log shows INFO and above, so they will not be seen; set \
                 LMCACHE_LOG_LEVEL=DEBUG, or \"log_level\": \"INFO\" in --telemetry-processor"
            );
        }
        Ok(())
    }

    fn process(&mut self, event: &Event) -> Result<(), ProcessorError> {
        let line = Line(event);
        match self.level {
            Level::Debug => log::debug!("{line}"),
            Level::Info => log::info!("{line}"),
            Level::Warning => log::warn!("{line}"),
            Level::Error => log::error!("{line}"),
            Level::Critical => critical!("{line}"),
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<(), ProcessorError> {
        Ok(())
    }
}

/// Prints the line, only when the level shows it.
struct Line<'a>(&'a Event);

impl Display for Line<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let event = self.0;
        write!(
            out,
            "Telemetry: {} {} session={} ts={:.6} metadata={}",
            event.name,
            event.event_type.name(),
            event.session_id,
            event.timestamp_s,
            PythonDict(&event.metadata)
        )
    }
}
