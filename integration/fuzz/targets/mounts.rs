#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| statelite::fuzzing::mounts(data));
