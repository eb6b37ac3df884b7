//! `hostkv ls`: the objects, page by page as the daemon gives them, so that any number of them takes the same memory.

use hostkv::admin::{ListedObject, ObjectFilter};

use crate::args::{Common, LsArguments};
use crate::connect;
use crate::failure::Failure;
use crate::output::{Output, Tone, human_seconds, shown};

/// Objects asked for at a time; the daemon gives fewer when these would take it too long.
const PAGE_OBJECTS: u64 = 1024;

/// Lists.
pub fn run(common: &Common, arguments: &LsArguments, output: &mut Output) -> Result<(), Failure> {
    let filter = ObjectFilter {
        model_name: arguments.keyspace.clone(),
        cache_salt: connect::salt(common)?,
    };
    let session = connect::reader(common, "ls")?;
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    let mut cursor = Some(0);
    if !common.json {
        let heading = format!(
            "{:>14}  {:>8}  {:6}  {:>8}  KEY",
            "BYTES", "AGE", "PINNED", "KEYSPACE"
        );
        let heading = output.toned(Tone::Bold, &heading);
        output.line(&heading)?;
    }
    while let Some(from) = cursor.filter(|_| left > 0) {
        let page = session.list_page(&filter, from, left.min(PAGE_OBJECTS) as u32)?;
        for object in &page.objects {
            if common.json {
                output.json(object)?;
            } else {
                output.line(&row(object))?;
            }
        }
        left = left.saturating_sub(page.objects.len() as u64);
        output.flush()?;
        cursor = page.next_cursor.filter(|next| *next > from);
    }
    Ok(())
}

fn row(object: &ListedObject) -> String {
    // The number tells tenants of one model apart; their salts are not the daemon's to tell.
    let keyspace = match object.is_salted {
        true => format!("{}*", object.keyspace),
        false => object.keyspace.to_string(),
    };
    format!(
        "{:>14}  {:>8}  {:6}  {keyspace:>8}  {}/{}/{}/{}",
        object.len_bytes,
        human_seconds(object.age_seconds),
        if object.is_pinned { "yes" } else { "no" },
        shown(&object.model_name),
        object.kv_rank,
        object.object_group_id,
        object.chunk_hash
    )
}
