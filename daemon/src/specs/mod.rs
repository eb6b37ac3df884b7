//! The operator's specs of parts that he plugs in, each a JSON object with a `type`: checked and built.
//!
//! The configuration calls this at every start, on the main thread, for each repeatable flag that takes such specs; nothing
//! is opened and no thread starts. Each refusal is one line that numbers the spec from 1, in the order of the flags.
//!
//! ```text
//!   '{"type": "jsonl", "path": "-"}' ──> JSON ──> object ──> type ──> known type ──> its fields ──> part
//! ```

mod fields;
mod python;

use serde_json::{Map, Value as Json};

pub use fields::{FieldError, Fields};
pub use python::PythonStr;

/// A type that specs can name; `T` is what they make.
#[derive(Debug)]
pub struct Kind<T> {
    /// Its name in specs.
    pub name: &'static str,
    /// The fields it knows, beside `type`.
    pub fields: &'static [&'static str],
    /// Makes one from the fields of a spec.
    pub build: fn(&Fields) -> Result<T, FieldError>,
}

/// The specs that one flag takes.
#[derive(Debug)]
pub struct Family<T: 'static> {
    /// The flag with its dashes.
    pub flag: &'static str,
    /// What a spec makes, as "processor".
    pub noun: &'static str,
    /// All types, sorted by name.
    pub kinds: &'static [&'static Kind<T>],
}

/// Why a spec is refused.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// It is no JSON.
    #[error("Invalid JSON for {flag} #{number}: {source}")]
    InvalidJson {
        /// The flag.
        flag: &'static str,
        /// The spec, from 1.
        number: usize,
        /// What the JSON parser says.
        source: serde_json::Error,
    },
    /// It is JSON and wrong.
    #[error("{flag} #{number}: {source}")]
    Wrong {
        /// The flag.
        flag: &'static str,
        /// The spec, from 1.
        number: usize,
        /// What is wrong.
        source: WrongSpec,
    },
}

/// What is wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongSpec {
    /// It is no object.
    #[error("expected a JSON object, got {got}")]
    NotAnObject {
        /// What it is instead.
        got: &'static str,
    },
    /// It does not say which type.
    #[error("missing 'type' field")]
    MissingType,
    /// This version has no such type.
    #[error("unknown {noun} type {}. Known: {known}", PythonStr(.type_name))]
    UnknownType {
        /// What it was to make.
        noun: &'static str,
        /// The type as it was given.
        type_name: String,
        /// The types there are.
        known: String,
    },
    /// A field is wrong.
    #[error(transparent)]
    Field(#[from] FieldError),
}

impl<T> Family<T> {
    /// What the specs ask for, in their order.
    pub fn parse(&self, specs: &[String]) -> Result<Vec<T>, SpecError> {
        let flag = self.flag;
        (1..)
            .zip(specs)
            .map(|(number, spec)| {
                let spec = serde_json::from_str(spec).map_err(|source| SpecError::InvalidJson {
                    flag,
                    number,
                    source,
                })?;
                self.build(spec).map_err(|source| SpecError::Wrong {
                    flag,
                    number,
                    source,
                })
            })
            .collect()
    }

    /// What one spec asks for.
    pub fn build(&self, spec: Json) -> Result<T, WrongSpec> {
        let mut object = object_of(spec)?;
        let type_name = match object.remove("type") {
            None => return Err(WrongSpec::MissingType),
            Some(Json::String(name)) => name,
            // No type is named by a number or a list; shown as it was given.
            Some(other) => other.to_string(),
        };
        let Some(kind) = self.kinds.iter().find(|kind| kind.name == type_name) else {
            let names: Vec<&str> = self.kinds.iter().map(|kind| kind.name).collect();
            return Err(WrongSpec::UnknownType {
                noun: self.noun,
                type_name,
                known: names.join(", "),
            });
        };
        let fields = Fields::of(kind.name, kind.fields, object)?;
        Ok((kind.build)(&fields)?)
    }
}

fn object_of(spec: Json) -> Result<Map<String, Json>, WrongSpec> {
    let got = match spec {
        Json::Object(object) => return Ok(object),
        Json::Array(_) => "an array",
        Json::String(_) => "a string",
        Json::Number(_) => "a number",
        Json::Bool(_) => "a boolean",
        Json::Null => "null",
    };
    Err(WrongSpec::NotAnObject { got })
}
