//! The shared words as shuttle sees them; only in a build with `--cfg shuttle`.
//!
//! Shuttle runs the threads of a model as coroutines of one thread and lets chance decide, before every operation on a
//! shared word, who goes on. Its own atomics cannot stand in mapped memory; these can, because they are the machine's, with
//! a step before each operation. Orders are not weakened: what needs weak memory to go wrong is loom's to find.
//!
//! ```text
//!   lease::pins, control::reader, store, ...   word.store(v, Release)
//!                                                 |
//!   AtomicU64 here                             scheduled? -- yes --> shuttle picks who goes on --> the machine's store
//!                                                 \-- no -----------------------------------> the machine's store
//! ```

use core::sync::atomic;
// A pointer is private to its process; what is done to it is no step.
pub use core::sync::atomic::{AtomicPtr, Ordering};
use std::cell::Cell;

thread_local! {
    static IS_SCHEDULED: Cell<bool> = const { Cell::new(false) };
}

/// Whether operations of the calling thread, and of all coroutines on it, are steps of a schedule.
pub fn set_scheduled(is_scheduled: bool) {
    IS_SCHEDULED.set(is_scheduled);
}

fn step() {
    if IS_SCHEDULED.get() {
        shuttle::thread::yield_now();
    }
}

/// A fence.
pub fn fence(order: Ordering) {
    step();
    atomic::fence(order);
}

macro_rules! scheduled_atomic {
    ($name:ident, $value:ty, { $($method:ident($($argument:ident: $kind:ty),*) -> $result:ty;)* }) => {
        /// A shared word, each of whose operations is a step.
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub struct $name(atomic::$name);

        impl $name {
            /// A word.
            pub const fn new(value: $value) -> $name {
                $name(atomic::$name::new(value))
            }

            /// Where it is; what happens there is no step.
            pub const fn as_ptr(&self) -> *mut $value {
                self.0.as_ptr()
            }

            $(
                /// As the machine's.
                pub fn $method(&self, $($argument: $kind),*) -> $result {
                    step();
                    self.0.$method($($argument),*)
                }
            )*
        }
    };
}

macro_rules! scheduled_number {
    ($name:ident, $value:ty) => {
        scheduled_atomic!($name, $value, {
            load(order: Ordering) -> $value;
            store(value: $value, order: Ordering) -> ();
            swap(value: $value, order: Ordering) -> $value;
            fetch_add(value: $value, order: Ordering) -> $value;
            fetch_sub(value: $value, order: Ordering) -> $value;
            fetch_and(value: $value, order: Ordering) -> $value;
            fetch_or(value: $value, order: Ordering) -> $value;
            fetch_xor(value: $value, order: Ordering) -> $value;
            fetch_max(value: $value, order: Ordering) -> $value;
            compare_exchange(current: $value, new: $value, success: Ordering, failure: Ordering)
                -> Result<$value, $value>;
            compare_exchange_weak(current: $value, new: $value, success: Ordering, failure: Ordering)
                -> Result<$value, $value>;
        });
    };
}

macro_rules! scheduled_update {
    ($name:ident, $value:ty) => {
        impl $name {
            /// As the machine's, at once.
            pub fn fetch_update(
                &self,
                set: Ordering,
                fetch: Ordering,
                update: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                step();
                self.0.fetch_update(set, fetch, update)
            }
        }
    };
}

scheduled_update!(AtomicU32, u32);
scheduled_update!(AtomicU64, u64);
scheduled_update!(AtomicUsize, usize);
scheduled_number!(AtomicU32, u32);
scheduled_number!(AtomicU64, u64);
scheduled_number!(AtomicI32, i32);
scheduled_number!(AtomicUsize, usize);
scheduled_atomic!(AtomicBool, bool, {
    load(order: Ordering) -> bool;
    store(value: bool, order: Ordering) -> ();
    swap(value: bool, order: Ordering) -> bool;
    compare_exchange(current: bool, new: bool, success: Ordering, failure: Ordering) -> Result<bool, bool>;
});
