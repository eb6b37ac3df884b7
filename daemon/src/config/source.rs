//! The three sources of a setting, and which one wins.
//!
//! Runs on the main thread at start, and again when the file is reread. Nothing here knows what a
//! value means: a source gives texts, with the name by which an operator will find them again.
//!
//! ```text
//!   command line ──> beats ──> environment ──> beats ──> file ──> beats ──> default
//! ```
//!
//! The outside world is a [`Host`], so that tests bring their own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::error::ConfigError;
use super::setting::{self, Setting, Shape, Sources};
use crate::systemd::listen::{self, ListenError};

/// What the configuration asks of the world outside.
pub trait Host {
    /// An environment variable.
    fn variable(&self, name: &str) -> Option<OsString>;
    /// The text of a file.
    fn read_file(&self, path: &Path) -> io::Result<String>;
    /// The number of a group, `None` when there is no such group.
    fn group_id(&self, name: &str) -> io::Result<Option<u32>>;
    /// Whether a folder exists.
    fn has_folder(&self, path: &Path) -> bool;
    /// Whether the process runs as root.
    fn is_root(&self) -> bool;
    /// Where the socket is that the service manager passed, if it did.
    fn passed_socket(&self) -> Result<Option<PathBuf>, ListenError>;
}

/// The real world.
pub(super) struct Process;

impl Host for Process {
    fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn read_file(&self, path: &Path) -> io::Result<String> {
        std::fs::read_to_string(path)
    }

    fn group_id(&self, name: &str) -> io::Result<Option<u32>> {
        let group = nix::unistd::Group::from_name(name)?;
        Ok(group.map(|group| group.gid.as_raw()))
    }

    fn has_folder(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn is_root(&self) -> bool {
        nix::unistd::Uid::effective().is_root()
    }

    fn passed_socket(&self) -> Result<Option<PathBuf>, ListenError> {
        listen::passed_path()
    }
}

/// The world as a running daemon rereads it: it looks no group up. The socket has its group until the next start, so
/// the number would be of no use; and a lookup may ask a server and take its time, on the loop's thread, or open files
/// that the sandbox keeps shut.
pub(super) struct WithoutGroups<'a>(pub(super) &'a dyn Host);

impl Host for WithoutGroups<'_> {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.0.variable(name)
    }

    fn read_file(&self, path: &Path) -> io::Result<String> {
        self.0.read_file(path)
    }

    fn group_id(&self, _: &str) -> io::Result<Option<u32>> {
        Ok(Some(0))
    }

    fn has_folder(&self, path: &Path) -> bool {
        self.0.has_folder(path)
    }

    fn passed_socket(&self) -> Result<Option<PathBuf>, ListenError> {
        self.0.passed_socket()
    }

    fn is_root(&self) -> bool {
        self.0.is_root()
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Flag,
    Environment,
    File(PathBuf),
    /// The socket that the service manager passed.
    Passed,
    Default,
}

/// A setting as one source gives it.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) setting: &'static Setting,
    /// One text, or one for each element of a list.
    pub(super) texts: Vec<String>,
    pub(super) origin: Origin,
}

impl Given {
    /// The setting in the spelling of its source.
    pub(super) fn name(&self) -> String {
        match &self.origin {
            Origin::Flag | Origin::Passed | Origin::Default => self.setting.flag(),
            Origin::Environment => self.setting.variable(),
            Origin::File(path) => format!("{} in {path:?}", self.setting.key()),
        }
    }

    /// The value as it was given.
    pub(super) fn text(&self) -> String {
        self.texts.join(",")
    }

    /// The complaint about this value.
    pub(super) fn bad(&self) -> ConfigError {
        self.bad_because(self.setting.allowed)
    }

    /// The complaint about this value, when what is allowed depends on more than the setting.
    pub(super) fn bad_because(&self, allowed: impl Into<String>) -> ConfigError {
        ConfigError::BadValue {
            name: self.name(),
            value: self.text(),
            allowed: allowed.into(),
        }
    }
}

/// The environment variables that matter, as they were when the process started.
pub(super) fn environment(host: &dyn Host) -> Result<BTreeMap<String, String>, ConfigError> {
    let settings = setting::ALL
        .iter()
        .filter(|setting| setting.sources != Sources::FileOnly)
        .map(|setting| setting.variable());
    let folders = ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"].map(String::from);
    let mut found = BTreeMap::new();
    for name in settings.chain(folders) {
        if let Some(value) = host.variable(&name) {
            match value.into_string() {
                Ok(value) => found.insert(name, value),
                Err(_) => return Err(ConfigError::NotUtf8 { name }),
            };
        }
    }
    Ok(found)
}

/// What the command line asks for.
pub(super) enum CommandLine {
    /// Flags, and whether to print the configuration rather than to run.
    Flags(BTreeMap<&'static str, Given>, bool),
    /// A text to print: help or version.
    Text(String),
}

/// Reads the command line; `arguments` begins with the program's name.
pub(super) fn command_line(arguments: &[OsString]) -> Result<CommandLine, ConfigError> {
    let matches = match setting::command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            ) =>
        {
            return Ok(CommandLine::Text(error.to_string()));
        }
        Err(error) => return Err(translate(&error)),
    };
    let mut flags = BTreeMap::new();
    for setting in setting::ALL {
        if setting.sources == Sources::FileOnly {
            continue;
        }
        if let Some(texts) = texts_of(&matches, setting) {
            let origin = Origin::Flag;
            flags.insert(
                setting.name,
                Given {
                    setting,
                    texts,
                    origin,
                },
            );
        }
    }
    Ok(CommandLine::Flags(
        flags,
        matches.get_flag(setting::PRINT_CONFIG),
    ))
}

fn texts_of(matches: &ArgMatches, setting: &Setting) -> Option<Vec<String>> {
    if setting.shape == Shape::Switch {
        return matches.get_flag(setting.name).then(|| vec!["yes".into()]);
    }
    let texts = matches.get_many::<String>(setting.name)?;
    Some(texts.cloned().collect())
}

/// One sentence of ours for what the argument parser found.
fn translate(error: &clap::Error) -> ConfigError {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    // An argument appears as in the usage line, "--l1-size-gb <F>"; its name comes first.
    let shown = text(ContextKind::InvalidArg);
    let flag = shown.split(' ').next().unwrap_or_default().to_owned();
    let value = text(ContextKind::InvalidValue);
    match error.kind() {
        ErrorKind::UnknownArgument if shown.starts_with('-') => {
            // The parser compares loosely; a typing error seldom is in the first letter.
            let nearest = Some(text(ContextKind::SuggestedArg))
                .filter(|nearest| !nearest.is_empty() && nearest.get(..3) == shown.get(..3));
            ConfigError::UnknownFlag {
                flag: shown,
                nearest,
            }
        }
        ErrorKind::UnknownArgument => ConfigError::UnexpectedArgument { argument: shown },
        ErrorKind::ArgumentConflict => ConfigError::GivenTwice { flag },
        ErrorKind::InvalidValue if value.is_empty() => {
            let allowed = setting::ALL
                .iter()
                .find(|setting| setting.flag() == flag)
                .map_or("a value", |setting| setting.allowed);
            ConfigError::MissingValue {
                allowed: allowed.into(),
                flag,
            }
        }
        ErrorKind::TooManyValues => ConfigError::SwitchWithValue { flag, value },
        ErrorKind::InvalidUtf8 => ConfigError::NotUtf8 {
            name: "an argument".into(),
        },
        _ => {
            let message = error.to_string();
            let first = message.lines().next().unwrap_or_default();
            ConfigError::Arguments {
                message: first.trim_start_matches("error: ").to_owned(),
            }
        }
    }
}

/// What the environment gives for a setting.
fn from_environment(
    environment: &BTreeMap<String, String>,
    setting: &'static Setting,
) -> Option<Given> {
    let text = environment.get(&setting.variable())?;
    let texts = match setting.shape {
        Shape::Numbers if text.trim().is_empty() => Vec::new(),
        Shape::Numbers => text.split(',').map(|item| item.trim().to_owned()).collect(),
        Shape::Texts => text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(str::to_owned)
            .collect(),
        Shape::Text | Shape::Number | Shape::YesNo | Shape::Switch => vec![text.clone()],
    };
    Some(Given {
        setting,
        texts,
        origin: Origin::Environment,
    })
}

/// Reads the file that `named` names.
fn from_file(named: &Given, host: &dyn Host) -> Result<BTreeMap<&'static str, Given>, ConfigError> {
    let path = PathBuf::from(named.text());
    let text = host
        .read_file(&path)
        .map_err(|source| ConfigError::FileUnreadable {
            name: named.name(),
            path: path.clone(),
            source,
        })?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        ConfigError::FileSyntax {
            path: path.clone(),
            line: text.as_bytes()[..start]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count()
                + 1,
            message: error.message().replace('\n', ", "),
        }
    })?;
    let mut keys = BTreeMap::new();
    for (key, value) in table {
        let setting = setting::ALL
            .into_iter()
            .find(|setting| setting.sources != Sources::NotFile && setting.key() == key);
        let Some(setting) = setting else {
            return Err(ConfigError::UnknownKey { path, key });
        };
        let origin = Origin::File(path.clone());
        keys.insert(setting.name, from_toml(setting, &value, origin)?);
    }
    Ok(keys)
}

/// A TOML value as the text that a flag would carry.
fn from_toml(
    setting: &'static Setting,
    value: &toml::Value,
    origin: Origin,
) -> Result<Given, ConfigError> {
    use toml::Value;
    let number = |value: &Value| match value {
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        _ => None,
    };
    let (texts, form) = match (setting.shape, value) {
        (Shape::Text, Value::String(text)) => (Some(vec![text.clone()]), "a string"),
        (Shape::Text, _) => (None, "a string"),
        (Shape::YesNo, Value::String(text)) => (Some(vec![text.clone()]), ""),
        (Shape::YesNo | Shape::Switch, Value::Boolean(is_on)) => {
            (Some(vec![if *is_on { "yes" } else { "no" }.into()]), "")
        }
        (Shape::YesNo, _) => (None, "a boolean or a string"),
        (Shape::Switch, _) => (None, "a boolean"),
        (Shape::Number, value) => (number(value).map(|text| vec![text]), "a number"),
        (Shape::Numbers, Value::Array(items)) => {
            (items.iter().map(number).collect(), "an array of numbers")
        }
        (Shape::Numbers, _) => (None, "an array of numbers"),
        (Shape::Texts, Value::Array(items)) => {
            let text = |item: &Value| item.as_str().map(str::to_owned);
            (items.iter().map(text).collect(), "an array of strings")
        }
        (Shape::Texts, _) => (None, "an array of strings"),
    };
    let as_written = Given {
        setting,
        texts: vec![value.to_string()],
        origin,
    };
    match texts {
        Some(texts) => Ok(Given {
            texts,
            ..as_written
        }),
        None => Err(as_written.bad_because(format!("{form} in TOML: {}", setting.allowed))),
    }
}

/// All three sources, read.
pub(super) struct Layers {
    flags: BTreeMap<&'static str, Given>,
    environment: BTreeMap<String, String>,
    file: BTreeMap<&'static str, Given>,
    /// The file that was read.
    pub(super) config_file: Option<Given>,
}

impl Layers {
    /// Reads the file that the flags or the environment name, and joins the three.
    pub(super) fn read(
        flags: BTreeMap<&'static str, Given>,
        environment: BTreeMap<String, String>,
        host: &dyn Host,
    ) -> Result<Self, ConfigError> {
        let config_file = flags
            .get(setting::CONFIG.name)
            .cloned()
            .or_else(|| from_environment(&environment, &setting::CONFIG));
        let file = match &config_file {
            Some(named) => from_file(named, host)?,
            None => BTreeMap::new(),
        };
        Ok(Self {
            flags,
            environment,
            file,
            config_file,
        })
    }

    /// What the strongest source that has the setting says.
    pub(super) fn given(&self, setting: &'static Setting) -> Option<Given> {
        let environment = || from_environment(&self.environment, setting);
        let flag = self.flags.get(setting.name).cloned();
        flag.or_else(environment)
            .or_else(|| self.file.get(setting.name).cloned())
    }

    /// A variable that is no setting.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }
}
