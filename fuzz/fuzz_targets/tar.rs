//! A tar from a stranger: the reader ends, in an entry or in an error, and what it hands out obeys
//! the entry's own size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use store::tar::Reader;

fuzz_target!(|data: &[u8]| {
    let mut reader = Reader::new(data);
    while let Ok(Some(entry)) = reader.next_entry() {
        let mut seen = 0_u64;
        loop {
            match reader.data() {
                Ok([]) | Err(_) => break,
                Ok(chunk) => {
                    let n = chunk.len();
                    seen += n as u64;
                    reader.consume(n);
                }
            }
        }
        assert!(seen <= entry.size, "{} gave {seen} of {} bytes", entry.name(), entry.size);
    }
});
