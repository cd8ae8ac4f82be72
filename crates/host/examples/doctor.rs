//! Prints the doctor's report on this host.

use std::time::Duration;

use host::doctor::{Context, Depth, examine};

#[expect(clippy::print_stdout, reason = "printing is what this example is for")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::env::args_os()
        .nth(1)
        .ok_or("usage: doctor DATA_ROOT")?;
    let facts = host::Facts::probe(root.as_ref(), Duration::from_secs(5))?;
    println!("{}", examine(&Context::gather(&facts, Depth::Full)?).text());
    Ok(())
}
