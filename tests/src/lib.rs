//! End-to-end tests of hostkv.
