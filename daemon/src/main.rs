//! hostkvd.
fn main() {}
