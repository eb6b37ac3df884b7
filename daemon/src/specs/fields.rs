//! The fields of a spec, as a type of processor reads them.
//!
//! Made by [`parse`](super::parse) at the start, read by the `build` function of each type. A field that the type does not
//! know is refused before the type sees any.

use std::ops::RangeInclusive;

use serde_json::{Map, Value as Json};

use super::PythonStr;

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// It is needed and not there.
    #[error("missing '{field}' field of type '{type_name}'; allowed is {allowed}")]
    Missing {
        /// The field.
        field: &'static str,
        /// The type.
        type_name: &'static str,
        /// What may stand there.
        allowed: String,
    },
    /// Its value is not allowed.
    #[error("field '{field}' of type '{type_name}' is {value}; allowed is {allowed}")]
    BadValue {
        /// The field.
        field: &'static str,
        /// The type.
        type_name: &'static str,
        /// The value as JSON.
        value: String,
        /// What may stand there.
        allowed: String,
    },
    /// The type does not have it.
    #[error("unknown field {} of type '{type_name}'. Known: {known}", PythonStr(.field))]
    Unknown {
        /// The field as it was given.
        field: String,
        /// The type.
        type_name: &'static str,
        /// The fields there are.
        known: String,
    },
    /// Two fields, each allowed alone, that contradict each other.
    #[error("fields '{field}' and '{other}' of type '{type_name}' do not go together: {remedy}")]
    NotTogether {
        /// One field.
        field: &'static str,
        /// The other.
        other: &'static str,
        /// The type.
        type_name: &'static str,
        /// Why, and the way out.
        remedy: String,
    },
}

/// The fields of one spec, without `type`.
#[derive(Debug)]
pub struct Fields {
    type_name: &'static str,
    values: Map<String, Json>,
}

impl Fields {
    /// The fields of a spec, if the type knows all of them.
    pub(super) fn of(
        type_name: &'static str,
        known: &[&str],
        values: Map<String, Json>,
    ) -> Result<Self, FieldError> {
        let unknown = values.keys().find(|field| !known.contains(&field.as_str()));
        match unknown {
            None => Ok(Self { type_name, values }),
            Some(field) => Err(FieldError::Unknown {
                field: field.clone(),
                type_name,
                known: known.join(", "),
            }),
        }
    }

    /// The text of a field, if it is there.
    pub fn text(&self, field: &'static str, allowed: &str) -> Result<Option<&str>, FieldError> {
        match self.values.get(field) {
            None => Ok(None),
            Some(Json::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.refuse(field, allowed)),
        }
    }

    /// The whole number of a field, if it is there.
    pub fn whole(
        &self,
        field: &'static str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, FieldError> {
        let Some(value) = self.values.get(field) else {
            return Ok(None);
        };
        match value.as_u64() {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let allowed = format!("a whole number from {} to {}", range.start(), range.end());
                Err(self.refuse(field, &allowed))
            }
        }
    }

    /// The yes or no of a field, if it is there.
    pub fn yes_no(&self, field: &'static str) -> Result<Option<bool>, FieldError> {
        match self.values.get(field) {
            None => Ok(None),
            Some(Json::Bool(is_so)) => Ok(Some(*is_so)),
            Some(_) => Err(self.refuse(field, "true or false")),
        }
    }

    /// The number of a field, if it is there.
    pub fn number(
        &self,
        field: &'static str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, FieldError> {
        let Some(value) = self.values.get(field) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let allowed = format!("a number from {} to {}", range.start(), range.end());
                Err(self.refuse(field, &allowed))
            }
        }
    }

    /// The text of a field that is never shown, if it is there.
    pub fn secret(&self, field: &'static str) -> Result<Option<String>, FieldError> {
        match self.values.get(field) {
            None => Ok(None),
            Some(Json::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
            Some(_) => Err(FieldError::BadValue {
                field,
                type_name: self.type_name,
                value: "not shown".to_owned(),
                allowed: "a text that is not empty".to_owned(),
            }),
        }
    }

    /// A field as it stands, if it is there.
    pub fn json(&self, field: &str) -> Option<&Json> {
        self.values.get(field)
    }

    /// The error about two fields that contradict each other.
    pub fn not_together(
        &self,
        field: &'static str,
        other: &'static str,
        remedy: String,
    ) -> FieldError {
        FieldError::NotTogether {
            field,
            other,
            type_name: self.type_name,
            remedy,
        }
    }

    /// The error that says what may stand in a field, whether it is wrong or not there.
    pub fn refuse(&self, field: &'static str, allowed: &str) -> FieldError {
        let (type_name, allowed) = (self.type_name, allowed.to_owned());
        match self.values.get(field) {
            None => FieldError::Missing {
                field,
                type_name,
                allowed,
            },
            Some(value) => FieldError::BadValue {
                field,
                type_name,
                value: value.to_string(),
                allowed,
            },
        }
    }

    /// Whether a field is there.
    pub fn has(&self, field: &str) -> bool {
        self.values.contains_key(field)
    }
}
