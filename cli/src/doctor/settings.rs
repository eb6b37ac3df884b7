//! What the daemon is configured with: as it tells itself, or as the program on disk would be.

use std::collections::HashMap;
use std::ffi::OsString;

use toml::{Table, Value};

use super::program::{self, Program};
use super::reach::Daemon;
use super::{Finding, Scene};

/// Where settings come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The running daemon.
    Daemon,
    /// The program on disk, run with the flags that were given.
    Program,
    /// Nobody could be asked; the reason.
    Nobody(String),
    /// The program refuses the configuration; what it says.
    Refused(String),
}

/// Settings by their key in the configuration file.
pub struct Settings {
    /// Where they come from.
    pub source: Source,
    values: HashMap<String, Value>,
}

impl Settings {
    /// A text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key)?.as_str()
    }

    /// A claim, true as such or as a word; false when it is not set.
    pub fn is(&self, key: &str) -> bool {
        match self.values.get(key) {
            Some(Value::Boolean(claim)) => *claim,
            Some(Value::String(word)) => word == "yes" || word == "on",
            _ => false,
        }
    }

    /// A number.
    pub fn number(&self, key: &str) -> Option<f64> {
        let value = self.values.get(key)?;
        value
            .as_float()
            .or(value.as_integer().map(|number| number as f64))
    }

    /// A list of user or group numbers.
    pub fn numbers(&self, key: &str) -> Vec<u32> {
        let array = self.values.get(key).and_then(Value::as_array);
        let numbers = array.into_iter().flatten().filter_map(Value::as_integer);
        numbers
            .filter_map(|number| u32::try_from(number).ok())
            .collect()
    }

    /// Length of the payload in bytes.
    pub fn pool_bytes(&self) -> Option<u64> {
        let bytes = (self.number("l1_size_gb")? * f64::from(1 << 30)) as u64;
        Some(bytes.next_multiple_of(2 << 20))
    }
}

/// The settings that hold, or would.
pub fn of(daemon: &Daemon, program: Option<&Program>, flags: &[OsString]) -> Settings {
    if let Some(state) = daemon.state() {
        let parse = |key: &str, value: &str| -> Option<Value> {
            let mut table: Table = format!("{key} = {value}").parse().ok()?;
            table.remove(key)
        };
        let values = state.settings.iter();
        let values = values.filter_map(|s| Some((s.key.clone(), parse(&s.key, &s.value)?)));
        return Settings {
            source: Source::Daemon,
            values: values.collect(),
        };
    }
    let nothing = |source| Settings {
        source,
        values: HashMap::new(),
    };
    let Some(program) = program else {
        return nothing(Source::Nobody(
            "neither a daemon that tells its configuration nor the hostkvd program can be asked"
                .to_owned(),
        ));
    };
    match program::print_config(program, flags, daemon.path()) {
        Ok(told) if told.is_success => match told.stdout.parse::<Table>() {
            Ok(table) => Settings {
                source: Source::Program,
                values: table.into_iter().collect(),
            },
            Err(error) => nothing(Source::Nobody(format!(
                "what {} prints is no TOML: {error}",
                program.path.display()
            ))),
        },
        Ok(told) => nothing(Source::Refused(told.last_line)),
        Err(why) => nothing(Source::Nobody(why)),
    }
}

/// Whether the configuration can be read.
pub fn configuration(scene: &Scene<'_>) -> Finding {
    const CHECK: &str = "configuration";
    match &scene.settings.source {
        Source::Daemon => Finding::ok(CHECK, "as the running daemon tells it"),
        Source::Program => Finding::ok(
            CHECK,
            "as hostkvd would be started with these flags and this environment",
        ),
        Source::Nobody(why) => Finding::not_checked(CHECK, why),
        Source::Refused(line) => Finding::problem(
            CHECK,
            format!("hostkvd would refuse to start: {line}"),
            "change what this sentence names; `hostkvd --help` lists every setting",
        ),
    }
}
