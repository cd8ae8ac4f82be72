//! What `plimsoll spawner` is, as a program of its own for this crate's tests.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(u8::try_from(shim::spawner::main()).unwrap_or(1))
}
