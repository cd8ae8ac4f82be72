//! An image name from a user: what parses, prints to a name that parses to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use store::reference::Reference;

fuzz_target!(|text: &str| {
    if let Ok(reference) = Reference::parse(text) {
        let again = Reference::parse(&reference.to_string()).expect("a printed reference parses");
        assert_eq!(reference, again);
        assert_eq!(Reference::parse(&reference.familiar()).expect("a familiar name parses"), reference);
    }
});
