//! The physical limits, by programs that do nothing else. None of them uses the product's code, except for the layout of
//! the index and its hash, which are what is searched, and the allocator's free, which stands for any.

pub mod copy;
pub mod evict;
pub mod index;
pub mod pages;
pub mod ring;
pub mod trip;
