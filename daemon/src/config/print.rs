//! The configuration as text: `--print-config`, and what SIGHUP says has changed.
//!
//! The print is TOML that can be given back with `--config` and then yields the same
//! configuration, but for passwords in it, which are left out. A setting without a value, and a default that follows from another setting, are
//! comments: written out they would stay when that other setting is edited.
//!
//! ```text
//!   l1_size_gb    = 1.5       # flag
//!   # max_objects = 65536     # default, follows from l1_size_gb
//!   # shm_name    =           # default, none
//! ```

use serde_json::Value as Json;

use super::setting::{self, Setting, Shape};
use super::source::Origin;

/// A setting as it came out.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shown {
    pub(super) setting: &'static Setting,
    /// In TOML; empty = none.
    pub(super) value: String,
    pub(super) origin: Origin,
    /// The setting that the default follows from.
    pub(super) follows: Option<&'static Setting>,
}

impl PartialEq for Setting {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Shown {
    fn is_default(&self) -> bool {
        self.origin == Origin::Default
    }

    fn value_or_none(&self) -> &str {
        if self.value.is_empty() {
            "none"
        } else {
            &self.value
        }
    }

    /// Key, value and origin.
    pub(super) fn described(&self) -> (String, String, String) {
        let key = self.setting.key().to_string();
        (key, self.value.clone(), self.origin_text())
    }

    fn origin_text(&self) -> String {
        match &self.origin {
            Origin::Flag => "flag".into(),
            Origin::Environment => format!("environment {}", self.setting.variable()),
            Origin::File(path) => format!("file {}", path.display().to_string().escape_debug()),
            Origin::Passed => "socket of the service manager".into(),
            Origin::Default => match self.follows {
                Some(other) => format!("default, follows from {}", other.key()),
                None if self.value.is_empty() => "default, none".into(),
                None => "default".into(),
            },
        }
    }
}

/// A text as a TOML string.
pub(super) fn string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A number as TOML, without a fraction where there is none.
pub(super) fn number(number: f64) -> String {
    if number.fract() == 0.0 {
        format!("{number}")
    } else {
        format!("{number:?}")
    }
}

/// Numbers as a TOML array.
pub(super) fn numbers(numbers: &[u32]) -> String {
    format!("{numbers:?}")
}

/// Texts as a TOML array.
pub(super) fn strings(texts: &[String]) -> String {
    let items: Vec<_> = texts.iter().map(|text| string(text)).collect();
    format!("[{}]", items.join(", "))
}

/// The spec of a part without the passwords in it, for whoever may see the configuration.
pub(super) fn spec_without_secrets(text: &str) -> String {
    fn hide(value: &mut Json) {
        if let Json::Object(fields) = value {
            for (field, value) in fields {
                match value {
                    Json::String(text) if field == "password" => "not shown".clone_into(text),
                    value => hide(value),
                }
            }
        }
    }
    match serde_json::from_str::<Json>(text) {
        Ok(mut spec) => {
            hide(&mut spec);
            spec.to_string()
        }
        // It was refused by then.
        Err(_) => "not shown".to_owned(),
    }
}

/// All settings as TOML, in the order and under the headings of the help.
pub(super) fn config(shown: &[Shown]) -> String {
    let lines: Vec<_> = setting::ALL
        .iter()
        .filter_map(|setting| shown.iter().find(|shown| shown.setting == *setting))
        .map(|shown| {
            let is_comment = shown.value.is_empty() || shown.follows.is_some();
            let key = format!(
                "{}{}",
                if is_comment { "# " } else { "" },
                shown.setting.key()
            );
            (shown, key)
        })
        .collect();
    let key_width = lines.iter().map(|(_, key)| key.len()).max().unwrap_or(0);
    // One long path or list does not push all comments out of sight.
    let value_width = lines
        .iter()
        .map(|(shown, _)| shown.value.chars().count())
        .filter(|width| *width <= 32)
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    let mut heading = "";
    for (shown, key) in lines {
        if shown.setting.heading != heading {
            if !heading.is_empty() {
                text.push('\n');
            }
            heading = shown.setting.heading;
            text.push_str(&format!("# {heading}\n"));
        }
        let value = &shown.value;
        let origin = shown.origin_text();
        text.push_str(&format!(
            "{key:key_width$} = {value:value_width$}  # {origin}\n"
        ));
    }
    text
}

/// Compares two outcomes: what a running daemon takes over, and what needs a restart.
pub(super) fn differences(old: &[Shown], new: &[Shown]) -> (Vec<String>, Vec<String>) {
    let (mut changed, mut kept) = (Vec::new(), Vec::new());
    for new in new {
        let Some(old) = old.iter().find(|old| old.setting == new.setting) else {
            continue;
        };
        // Two defaults differ only because they follow from a setting that is named itself.
        if old.value == new.value || (old.is_default() && new.is_default()) {
            continue;
        }
        let key = new.setting.key();
        let (old, new_value) = (old.value_or_none(), new.value_or_none());
        if new.setting.is_reloadable {
            changed.push(format!("{key} is now {new_value}, was {old}"));
        } else {
            kept.push(format!(
                "{key} stays {old}, because {new_value} needs a restart"
            ));
        }
    }
    (changed, kept)
}

/// A checked value, given as a flag would carry it, as TOML.
pub(super) fn value(shape: Shape, text: &str) -> String {
    match shape {
        Shape::Text | Shape::YesNo => string(text),
        Shape::Number | Shape::Switch | Shape::Numbers | Shape::Texts => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_of_a_spec_is_shown_however_deep_it_stands() {
        let spec =
            r#"{"type":"fault_inject","inner":{"type":"resp","host":"h","password":"geheim"}}"#;
        let shown = spec_without_secrets(spec);
        assert!(!shown.contains("geheim"), "{shown}");
        assert!(shown.contains(r#""host":"h""#), "{shown}");
        assert_eq!(spec_without_secrets("geheim"), "not shown");
    }
}
