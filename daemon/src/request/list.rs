//! LIST.

use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::wire::MAX_PAGE_BYTES;
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_shm_protocol::wire::report::ObjectPage;
use hostkv_shm_protocol::wire::request::{List, list_flags};

use super::{Caller, admins_only};
use crate::store::{ListFilter, Nanos, Refusal, Store};

/// Bytes that the JSON of one object takes at most: a model name of control characters, each written as six bytes, a
/// hash of 64 digits, and the names and numbers of the fields.
const OBJECT_JSON_BYTES: usize = 144 * 6 + 64 + 400;
/// Objects that a page has room for, whatever they are called.
const OBJECTS_IN_ANY_PAGE: usize = MAX_PAGE_BYTES / OBJECT_JSON_BYTES - 1;

/// A page of the objects that there are. Ends early, so that it holds the loop up no longer than a slice. Kept to
/// admins.
pub fn list(store: &Store, caller: &Caller, request: &List, now: Nanos) -> Result<Reply, Refusal> {
    admins_only(caller, "list objects")?;
    let wanted = |flag, text| (request.flags & flag != 0).then_some(text);
    let filter = ListFilter {
        model_name: wanted(list_flags::BY_MODEL, request.model_name.as_str()),
        cache_salt: wanted(list_flags::BY_SALT, request.cache_salt.as_str()),
    };
    let limit = (request.limit as usize).min(OBJECTS_IN_ANY_PAGE);
    let (objects, next_cursor) = store.list(&filter, request.cursor, limit, now);
    let page = ObjectPage {
        objects,
        next_cursor,
    };
    serde_json::to_string(&page)
        .map(Reply::Listed)
        .map_err(|error| Refusal {
            status: Status::Internal,
            text: format!(
                "the page can't be written as JSON: {error}; report this defect of hostkvd"
            ),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hostkv_shm_protocol::wire::report::ListedObject;

    #[test]
    fn the_longest_objects_that_there_can_be_fit_into_a_page() {
        let longest = ListedObject {
            model_name: "\u{1}".repeat(144),
            kv_rank: u32::MAX,
            object_group_id: u32::MAX,
            chunk_hash: "f".repeat(64),
            keyspace: u32::MAX,
            is_salted: false,
            len_bytes: u64::MAX,
            age_seconds: u64::MAX,
            is_pinned: false,
        };
        let one = serde_json::to_string(&longest).unwrap().len();
        assert!(one < OBJECT_JSON_BYTES, "{one} bytes");
        let page = ObjectPage {
            objects: vec![longest; OBJECTS_IN_ANY_PAGE],
            next_cursor: Some(u64::MAX),
        };
        let len = serde_json::to_string(&page).unwrap().len();
        assert!(len <= MAX_PAGE_BYTES, "{len} bytes");
    }
}
