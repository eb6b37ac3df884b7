//! The configuration from any file, any variables and any arguments.
//!
//! ```text
//! data: file NUL text NUL text ...     a text with HOSTKV_ in front is a variable NAME=VALUE, any other an argument
//! ```
//!
//! It is refused in one sentence, or it holds: every number is within its range, and reading it again changes nothing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use hostkv_daemon::config::{self, Host, Invocation};
use hostkv_daemon::systemd::listen::ListenError;

/// Where the arguments say that the file is.
const FILE: &str = "/etc/hostkv.toml";
const MIB: u64 = 1 << 20;

struct World {
    file: Vec<u8>,
    variables: BTreeMap<String, OsString>,
}

impl Host for World {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.variables.get(name).cloned()
    }

    fn read_file(&self, _: &Path) -> io::Result<String> {
        String::from_utf8(self.file.clone()).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    fn group_id(&self, name: &str) -> io::Result<Option<u32>> {
        Ok(name.len().is_multiple_of(2).then_some(100))
    }

    fn has_folder(&self, path: &Path) -> bool {
        path.is_absolute()
    }

    fn passed_socket(&self) -> Result<Option<PathBuf>, ListenError> {
        Ok(None)
    }

    fn is_root(&self) -> bool {
        self.file.len().is_multiple_of(2)
    }
}

/// Reads the configuration that the bytes say.
pub fn run(data: &[u8]) {
    let mut parts = data.split(|byte| *byte == 0);
    let mut world = World {
        file: parts.next().unwrap_or_default().to_vec(),
        variables: BTreeMap::new(),
    };
    world
        .variables
        .insert("XDG_RUNTIME_DIR".to_owned(), "/run/user/1000".into());
    let mut arguments: Vec<OsString> = ["hostkvd", "--config", FILE].map(OsString::from).to_vec();
    for part in parts {
        let variable = part
            .starts_with(b"HOSTKV_")
            .then(|| part.iter().position(|byte| *byte == b'='))
            .flatten();
        match variable {
            Some(at) => {
                let name = String::from_utf8_lossy(&part[..at]).into_owned();
                let value = OsString::from_vec(part[at + 1..].to_vec());
                world.variables.insert(name, value);
            }
            None => arguments.push(OsString::from_vec(part.to_vec())),
        }
    }
    match config::load(arguments, &world) {
        Err(error) => {
            let sentence = error.to_string();
            assert!(
                !sentence.trim().is_empty() && !sentence.contains('\n'),
                "not a sentence: {sentence:?}"
            );
        }
        Ok(Invocation::PrintConfig(text) | Invocation::Text(text)) => assert!(!text.is_empty()),
        Ok(Invocation::Run(config)) => {
            let pool = &config.pool;
            assert!(pool.size_bytes > 0 && pool.size_bytes.is_multiple_of(2 * MIB));
            assert!(pool.align_bytes.is_power_of_two());
            assert!((64..=2 * MIB).contains(&pool.align_bytes));
            assert!(pool.size_bytes / pool.align_bytes <= u64::from(u32::MAX));
            let ratio = 0.0..=1.0;
            assert!(ratio.contains(&config.eviction.trigger_watermark));
            assert!(ratio.contains(&config.eviction.ratio));
            assert!(ratio.contains(&config.limits.max_reserved_ratio));
            assert!(config.limits.max_sessions > 0 && config.limits.chunk_size > 0);
            let (_, changed, kept) = config::reload_from(&config, &world).unwrap();
            assert_eq!((changed, kept), (vec![], vec![]), "nothing has changed");
        }
    }
}
