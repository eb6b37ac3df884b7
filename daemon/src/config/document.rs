//! The settings as documentation: what the manual pages and the default file are rendered from.
//!
//! Called by the program in `packaging/pages` while an installation is put together, never by the daemon. The facts
//! are those of the one list in `setting`, and the defaults those that the resolver gives a process that is
//! told nothing.
//!
//! ```text
//!   setting::ALL ─┬─> command()       hostkvd(8)
//!                 └─> entries() ─┬──> hostkvd.toml(5)
//!                                └──> default_file()   every key, commented out and explained
//! ```

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::setting::{self, Shape, Sources};
use super::source::Host;
use super::{ConfigError, Invocation};
use crate::systemd::listen::ListenError;

/// Longest line of the default file.
const FILE_WIDTH: usize = 100;

/// A key of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The heading that it stands under.
    pub heading: &'static str,
    /// What it does, with the default, in the words of `--help`.
    pub help: String,
    /// What a value may be.
    pub allowed: &'static str,
    /// The default, or where there is none a value that stands for one, in TOML.
    pub example: String,
    /// Whether SIGHUP applies a new value.
    pub is_reloadable: bool,
}

/// A process of root's that is told nothing.
pub(crate) struct Silent;

impl Host for Silent {
    fn variable(&self, _: &str) -> Option<OsString> {
        None
    }

    fn read_file(&self, _: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn group_id(&self, _: &str) -> io::Result<Option<u32>> {
        Ok(None)
    }

    fn has_folder(&self, _: &Path) -> bool {
        false
    }

    fn is_root(&self) -> bool {
        true
    }

    fn passed_socket(&self) -> Result<Option<PathBuf>, ListenError> {
        Ok(None)
    }
}

/// The command line.
pub fn command() -> clap::Command {
    setting::command()
}

/// Every key of the file, in the order of the help.
pub fn entries() -> Result<Vec<Entry>, ConfigError> {
    let Invocation::Run(config) = super::load(vec!["hostkvd".into()], &Silent)? else {
        // A command line without flags asks for nothing else.
        return Ok(Vec::new());
    };
    let shown = &config.origins.shown;
    let keys = setting::ALL
        .iter()
        .filter(|setting| setting.sources != Sources::NotFile);
    Ok(keys
        .map(|setting| {
            let default = shown.iter().find(|shown| shown.setting == *setting);
            let example = match default.map(|shown| shown.value.as_str()) {
                None | Some("") => placeholder(setting.shape, setting.placeholder),
                Some(value) => value.to_owned(),
            };
            Entry {
                key: setting.key(),
                heading: setting.heading,
                help: match setting.sources {
                    Sources::FileOnly => format!(
                        "Level of the log, used when LMCACHE_LOG_LEVEL is not set: {}",
                        setting.allowed
                    ),
                    _ => setting.help.to_owned(),
                },
                allowed: setting.allowed,
                example,
                is_reloadable: setting.is_reloadable,
            }
        })
        .collect())
}

fn placeholder(shape: Shape, placeholder: &str) -> String {
    match shape {
        Shape::Text | Shape::YesNo if placeholder.is_empty() => "\"INFO\"".to_owned(),
        Shape::Text | Shape::YesNo => format!("\"{placeholder}\""),
        Shape::Number => "0".to_owned(),
        Shape::Switch => "false".to_owned(),
        Shape::Numbers | Shape::Texts => "[]".to_owned(),
    }
}

/// The file of a new installation: every key commented out and explained, but for `chosen`, keys with their values in
/// TOML, which apply.
pub fn default_file(chosen: &[(&str, &str)]) -> Result<String, ConfigError> {
    let mut text = String::from(
        "# Configuration of hostkvd; hostkvd.toml(5) has every key, hostkvd(8) the flags and variables that beat them.\n\
         # A line that begins with # shows a default. `hostkvd --config FILE --print-config` says what holds.\n\
         # \"On reload\" = applied by `systemctl reload hostkvd` (SIGHUP); all else needs a restart.\n",
    );
    let mut heading = "";
    for entry in entries()? {
        if entry.heading != heading {
            heading = entry.heading;
            text.push_str(&format!("\n## {heading}\n"));
        }
        let mut help = format!("{}. Allowed: {}.", entry.help, entry.allowed);
        if entry.is_reloadable {
            help.push_str(" On reload.");
        }
        text.push('\n');
        for line in wrap(&help, FILE_WIDTH - 2) {
            text.push_str(&format!("# {line}\n"));
        }
        match chosen.iter().find(|(key, _)| *key == entry.key) {
            Some((key, value)) => text.push_str(&format!("{key} = {value}\n")),
            None => text.push_str(&format!("# {} = {}\n", entry.key, entry.example)),
        }
    }
    Ok(text)
}

/// Lines of at most `width` characters, where words allow it.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    /// A file at /f, and a group that it may name.
    struct WithFile(String);

    impl Host for WithFile {
        fn variable(&self, name: &str) -> Option<OsString> {
            Silent.variable(name)
        }

        fn read_file(&self, _: &Path) -> io::Result<String> {
            Ok(self.0.clone())
        }

        fn group_id(&self, name: &str) -> io::Result<Option<u32>> {
            Ok((name == "hostkv").then_some(990))
        }

        fn has_folder(&self, _: &Path) -> bool {
            false
        }

        fn is_root(&self) -> bool {
            true
        }

        fn passed_socket(&self) -> Result<Option<PathBuf>, ListenError> {
            Ok(None)
        }
    }

    /// The values that hold with a file, without where they come from.
    fn values_with(file: &str) -> Vec<(String, String)> {
        let arguments = ["hostkvd", "--config", "/f"].map(OsString::from).to_vec();
        let Ok(Invocation::Run(config)) = load(arguments, &WithFile(file.to_owned())) else {
            panic!("refused: {file}");
        };
        let shown = config.origins.shown.iter();
        shown
            .map(|shown| (shown.setting.key(), shown.value.clone()))
            .collect()
    }

    #[test]
    fn the_default_file_has_every_key_once_and_says_what_it_means() {
        let text = default_file(&[]).unwrap();
        for setting in setting::ALL {
            let key = format!("# {} = ", setting.key());
            let count = text.lines().filter(|line| line.starts_with(&key)).count();
            let expected = usize::from(setting.sources != Sources::NotFile);
            assert_eq!(count, expected, "{}", setting.key());
        }
        assert!(text.contains("\n# Size of the payload in GiB, rounded up to 2 MiB [default: 1]."));
        assert!(
            text.lines()
                .all(|line| line.chars().count() <= FILE_WIDTH + 60)
        );
        assert_eq!(values_with(&text), values_with(""));
    }

    #[test]
    fn the_defaults_that_the_file_shows_are_those_that_hold() {
        let defaults = values_with("");
        let mut file = String::new();
        for entry in entries().unwrap() {
            let (_, value) = defaults.iter().find(|(key, _)| *key == entry.key).unwrap();
            if !value.is_empty() {
                file.push_str(&format!("{} = {}\n", entry.key, entry.example));
            }
        }
        assert!(file.lines().count() > 25, "{file}");
        assert_eq!(values_with(&file), defaults);
    }

    #[test]
    fn a_chosen_value_applies() {
        let text = default_file(&[("socket_group", "\"hostkv\"")]).unwrap();
        let values = values_with(&text);
        let (_, group) = values
            .iter()
            .find(|(key, _)| key == "socket_group")
            .unwrap();
        assert_eq!(group, "\"hostkv\"");
    }
}
