//! Load driver and benchmarks of hostkv.
