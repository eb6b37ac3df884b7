//! `hostkv reload`: what SIGHUP does, with an answer.

use crate::args::Common;
use crate::connect;
use crate::failure::Failure;
use crate::output::{Output, shown};

/// Has the configuration read again and tells what changed.
pub fn run(common: &Common, output: &mut Output) -> Result<(), Failure> {
    let reloaded = connect::reader(common, "reload")?.reload()?;
    if common.json {
        return output.json(&reloaded);
    }
    for sentence in reloaded.changed.iter().chain(&reloaded.kept) {
        output.line(&shown(sentence))?;
    }
    if reloaded.changed.is_empty() && reloaded.kept.is_empty() {
        output.line("nothing has changed in the configuration file")?;
    }
    Ok(())
}
