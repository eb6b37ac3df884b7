//! `hostkv clear`: all objects of a model go, or all there are. It asks before.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use hostkv_shm_protocol::wire::request::clear_flags;
use serde::Serialize;

use crate::args::{ClearArguments, Common};
use crate::connect;
use crate::failure::Failure;
use crate::output::{Output, shown};

/// What was done.
#[derive(Serialize)]
struct Cleared {
    cleared_keys: u64,
}

/// Clears, once it is sure that this is meant.
pub fn run(
    common: &Common,
    arguments: &ClearArguments,
    output: &mut Output,
) -> Result<(), Failure> {
    let what = match &arguments.keyspace {
        None => "every object of every model and tenant".to_owned(),
        Some(model) => format!(
            "every object of model {:?} and {}",
            shown(model),
            match connect::salt(common)? {
                None => "no tenant (no salt is given)",
                Some(_) => "the tenant of the given salt",
            }
        ),
    };
    let session = connect::writer(common, "clear")?;
    let flags = match &arguments.keyspace {
        // A clear is of all keyspaces that the session opened, which is this one.
        Some(model) => connect::keyspace(common, &session, model).map(|_| 0)?,
        None => clear_flags::ALL_KEYSPACES,
    };
    if !arguments.yes {
        confirm(&what)?;
    }
    let cleared_keys = session.clear(flags)?;
    if common.json {
        return output.json(&Cleared { cleared_keys });
    }
    output.line(&format!("{cleared_keys} objects removed"))
}

fn confirm(what: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "this removes {what}, and there is no terminal to ask on; add --yes if that is meant"
        )));
    }
    let mut stderr = io::stderr().lock();
    // Where the question can't be shown it must not be answered either.
    write!(stderr, "This removes {what}. Type yes to go on: ")
        .and_then(|()| stderr.flush())
        .map_err(|error| Failure::failed(format!("the question can't be asked: {error}")))?;
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Failure::failed(format!("the answer can't be read: {error}")))?;
    match answer.trim() {
        "yes" => Ok(()),
        _ => Err(Failure::failed(
            "nothing is removed; the answer was not yes",
        )),
    }
}
