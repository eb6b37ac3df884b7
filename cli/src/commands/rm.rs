//! `hostkv rm`: single objects go.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::args::{Common, RmArguments};
use crate::connect;
use crate::failure::Failure;
use crate::key::ObjectKey;
use crate::output::{Output, shown};

/// Keys of one call.
const BATCH_KEYS: usize = 1024;

/// What went, and what was not there.
#[derive(Serialize, Default)]
struct Outcome {
    removed: Vec<String>,
    not_found: Vec<String>,
}

/// Removes. That some keys were not there is told; that none was is a failure.
pub fn run(common: &Common, arguments: &RmArguments, output: &mut Output) -> Result<(), Failure> {
    let session = connect::writer(common, "rm")?;
    let mut by_model: BTreeMap<&str, Vec<&ObjectKey>> = BTreeMap::new();
    for key in &arguments.keys {
        by_model.entry(&key.model_name).or_default().push(key);
    }
    let mut outcome = Outcome::default();
    for (model, keys) in by_model {
        let keyspace = connect::keyspace(common, &session, model)?;
        for batch in keys.chunks(BATCH_KEYS) {
            let chunk_keys: Vec<_> = batch.iter().map(|key| key.key).collect();
            let mut removed = vec![0; batch.len()];
            session.remove(keyspace, &chunk_keys, Some(&mut removed))?;
            for (key, was_there) in batch.iter().zip(removed) {
                match was_there {
                    0 => outcome.not_found.push(key.to_string()),
                    _ => outcome.removed.push(key.to_string()),
                }
            }
        }
    }
    if common.json {
        output.json(&outcome)?;
    } else {
        for key in &outcome.removed {
            output.line(&format!("removed {}", shown(key)))?;
        }
    }
    output.flush()?;
    let missing = outcome.not_found.len();
    if outcome.removed.is_empty() {
        return Err(Failure::not_found(format!(
            "none of the {missing} keys was there, {} for one; `hostkv ls` lists what there is, and HOSTKV_SALT chooses \
             a tenant",
            shown(&outcome.not_found[0])
        )));
    }
    for key in &outcome.not_found {
        eprintln!("hostkv: {} was not there", shown(key));
    }
    Ok(())
}
