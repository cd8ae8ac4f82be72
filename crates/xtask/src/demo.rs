//! `cargo xtask demo`.

use crate::Failed;

pub(crate) fn demo(_arguments: &[String]) -> Result<(), Failed> {
    Err("the demonstration isn't built yet".into())
}
