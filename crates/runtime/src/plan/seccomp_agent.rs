//! A filter whose notifications another program answers (`listenerPath`).
//!
//! source: OCI runtime-spec config-linux.md "The Container Process State".

use std::ffi::CString;

use oci_spec::runtime::LinuxSeccomp;
use serde_json::json;

use super::explain::{Hint, Label};
use super::{Builder, Choices, PlanError, c_path, invalid};

/// Whom the parent tells, and what: the parts with the process' id between them.
pub(super) struct Agent {
    pub(super) path: CString,
    pub(super) told: Vec<Vec<u8>>,
    pub(super) step: u32,
}

/// Stands for the process' id until there is one: no string of JSON contains a bare NUL.
const HOLE: &str = "\u{0}";

pub(super) fn plan(
    b: &mut Builder,
    profile: Option<&LinuxSeccomp>,
    choices: &Choices,
) -> Result<Agent, PlanError> {
    let what = "linux.seccomp";
    let path = profile.and_then(|p| p.listener_path().as_ref());
    let path = path.filter(|p| !p.as_os_str().is_empty()).ok_or_else(|| {
        invalid(
            what,
            "SCMP_ACT_NOTIFY needs a listenerPath, where an agent answers",
        )
    })?;
    if !path.is_absolute() {
        return Err(invalid(what, "listenerPath is not an absolute path"));
    }
    let state = choices.state.as_ref().ok_or_else(|| {
        invalid(
            what,
            "SCMP_ACT_NOTIFY is only for containers of the OCI command line",
        )
    })?;
    let metadata = profile.and_then(|p| p.listener_metadata().clone());
    let encode = |v: &serde_json::Value| v.to_string();
    let mut inner =
        serde_json::to_value(state).map_err(|e| invalid("the container's state", e.to_string()))?;
    if state.pid().is_none() {
        inner["pid"] = json!(HOLE);
    }
    let mut all = json!({
        "ociVersion": state.version(), "fds": ["seccompFd"], "pid": HOLE, "state": inner,
    });
    if let Some(metadata) = metadata {
        all["metadata"] = json!(metadata);
    }
    // as JSON writes it, with its quotes
    let hole = encode(&json!(HOLE));
    let told = encode(&all)
        .split(hole.as_str())
        .map(|part| part.as_bytes().to_vec())
        .collect();
    Ok(Agent {
        path: c_path(path)?,
        told,
        step: b.label(Label {
            what: format!("hand the seccomp listener to {}", path.display()),
            hint: Hint::None,
        }),
    })
}
