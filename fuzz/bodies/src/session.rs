//! Clients that do anything in any order, against the daemon's own state machine of a client and its store.
//!
//! ```text
//!   bytes --arbitrary--> [Move] --> World: up to 4 Far ends ==socket pair==> Client (server/session.rs) --> Store
//!                                          lease words scribbled              slices, ticks as the loop does them
//! ```
//!
//! Everything runs on one thread; time is an argument but for the moment of a disconnect. What must hold:
//!
//! - the audit adds up after every move, and no quota is passed;
//! - what the daemon sends decodes, and each reply answers a request that is owed one, with as many items;
//! - no grant overlaps another's grant or an honest session's pin;
//! - when nothing more comes, the store comes to rest and every reading client has all its replies;
//! - when all have died, nothing is reserved, pinned or kept for them.

mod far;
mod moves;
mod world;

use arbitrary::{Arbitrary as _, Unstructured};

use moves::Play;
use world::World;

/// Moves of one play at most; more would only be slower.
const MOVES: usize = 256;

/// Plays the moves that the bytes say.
pub fn run(data: &[u8]) {
    let Ok(play) = Play::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let mut world = World::new(&play);
    for step in play.moves.into_iter().take(MOVES) {
        world.make(step);
        world.check();
    }
    world.finish();
}
