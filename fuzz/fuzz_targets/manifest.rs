//! The manifest of an unpacked layer, as a damaged disk may give it back.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| store::fuzzing::manifest(data));
