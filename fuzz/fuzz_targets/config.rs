#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostkv_fuzz_bodies::config::run(data));
