//! PING.

use hostkv_shm_protocol::wire::reply::Reply;

/// A sign of life: the loop reads and answers.
pub fn ping() -> Reply {
    Reply::Pong
}
