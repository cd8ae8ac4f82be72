//! Prints the facts of this host and how long it took to find them.

use std::time::{Duration, Instant};

#[expect(clippy::print_stdout, reason = "printing is what this example is for")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::env::args_os().nth(1).ok_or("usage: facts DATA_ROOT")?;
    let before = Instant::now();
    let facts = host::Facts::probe(root.as_ref(), Duration::from_secs(2))?;
    let took = before.elapsed();
    println!("{}\n{took:?}", serde_json::to_string_pretty(&facts)?);
    Ok(())
}
