//! The operator's specs of processors, checked.
//!
//! The configuration calls [`parse`] at every start, on the main thread, also when telemetry is off; nothing is opened and
//! no thread starts. Each refusal is one line that numbers the spec from 1, in the order of the flags.
//!
//! ```text
//!   '{"type": "jsonl", "path": "-"}' ──> JSON ──> object ──> type ──> known type ──> its fields ──> processor
//! ```

use serde_json::{Map, Value as Json};

use super::processors::{FieldError, Fields, Processor, REGISTRY};
use super::python::PythonStr;

/// Why a spec is refused.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// It is no JSON.
    #[error("Invalid JSON for --telemetry-processor #{number}: {source}")]
    InvalidJson {
        /// The spec, from 1.
        number: usize,
        /// What the JSON parser says.
        source: serde_json::Error,
    },
    /// It is JSON and no object.
    #[error("--telemetry-processor #{number}: expected a JSON object, got {got}")]
    NotAnObject {
        /// The spec, from 1.
        number: usize,
        /// What it is instead.
        got: &'static str,
    },
    /// It does not say which type of processor.
    #[error("--telemetry-processor #{number}: missing 'type' field")]
    MissingType {
        /// The spec, from 1.
        number: usize,
    },
    /// This version has no such type.
    #[error(
        "--telemetry-processor #{number}: unknown processor type {}. Known: {known}",
        PythonStr(.type_name)
    )]
    UnknownType {
        /// The spec, from 1.
        number: usize,
        /// The type as it was given.
        type_name: String,
        /// The types there are.
        known: String,
    },
    /// A field is wrong.
    #[error("--telemetry-processor #{number}: {source}")]
    Field {
        /// The spec, from 1.
        number: usize,
        /// What is wrong with which field.
        source: FieldError,
    },
}

/// The processors that the specs ask for, in their order.
pub fn parse(specs: &[String]) -> Result<Vec<Box<dyn Processor>>, SpecError> {
    (1..)
        .zip(specs)
        .map(|(number, spec)| parse_one(number, spec))
        .collect()
}

fn parse_one(number: usize, spec: &str) -> Result<Box<dyn Processor>, SpecError> {
    let spec =
        serde_json::from_str(spec).map_err(|source| SpecError::InvalidJson { number, source })?;
    let mut object = object_of(number, spec)?;
    let type_name = match object.remove("type") {
        None => return Err(SpecError::MissingType { number }),
        Some(Json::String(name)) => name,
        // No type is named by a number or a list; shown as it was given.
        Some(other) => other.to_string(),
    };
    let Some(kind) = REGISTRY.iter().find(|kind| kind.name == type_name) else {
        let known = REGISTRY.map(|kind| kind.name).join(", ");
        return Err(SpecError::UnknownType {
            number,
            type_name,
            known,
        });
    };
    Fields::of(kind, object)
        .and_then(|fields| (kind.build)(&fields))
        .map_err(|source| SpecError::Field { number, source })
}

fn object_of(number: usize, spec: Json) -> Result<Map<String, Json>, SpecError> {
    let got = match spec {
        Json::Object(object) => return Ok(object),
        Json::Array(_) => "an array",
        Json::String(_) => "a string",
        Json::Number(_) => "a number",
        Json::Bool(_) => "a boolean",
        Json::Null => "null",
    };
    Err(SpecError::NotAnObject { number, got })
}
