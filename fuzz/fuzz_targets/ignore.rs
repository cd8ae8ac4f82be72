//! An ignore file from a stranger, and a path: an error with its line, or the same answer on a walk
//! and alone.
#![no_main]

use dockerfile::ignore::Ignore;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| {
    let (text, path) = input;
    let Ok(ignore) = Ignore::parse(text) else {
        return;
    };
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).take(20).collect();
    let mut dir = ignore.root();
    let mut skipped = false;
    for end in 1..=parts.len() {
        let path = parts[..end].join("/");
        let (is_out, below) = ignore.enter(&dir, &path);
        assert_eq!(is_out, ignore.excludes_in(&dir, &path));
        assert_eq!(is_out, ignore.excludes(&path));
        assert!(is_out || !skipped, "what was skipped has something in it");
        skipped |= is_out && ignore.can_skip(&path);
        dir = below;
    }
});
