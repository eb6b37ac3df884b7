//! Tests that lack a tool or a right say so, where a reader and the script that counts them can see it.

use std::io::Write as _;
use std::path::PathBuf;

/// Says on standard error and in `target/test-skips.txt` why a test, or a part of one, is left out.
pub fn skip(why: &str) {
    let line = format!("SKIPPED: {why}\n");
    // One write a line, so that tests that run at the same time do not mix theirs.
    let _ = std::io::stderr().write_all(line.as_bytes());
    let written = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(skips_file())
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        panic!("{} can't be written: {error}", skips_file().display());
    }
}

/// Whether this process may change its user, mount and trace.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// `test-skips.txt` in the target folder: this program is `target/<profile>/deps/<name>`, or one level higher.
fn skips_file() -> PathBuf {
    crate::daemon::profile_folder()
        .parent()
        .map(|target| target.join("test-skips.txt"))
        .expect("the profile's folder is in the target folder")
}
