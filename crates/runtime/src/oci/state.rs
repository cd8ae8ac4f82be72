//! What is written about a container, and what is told of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{ContainerState, Spec, State as AgentState, StateBuilder};
use serde::{Deserialize, Serialize};

use super::Status;
use crate::cgroup::Cgroup;

/// Raised when a reader of the version before would misunderstand.
pub(super) const FORMAT: u32 = 1;

/// `state.json`. A reader ignores fields it doesn't know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) format: u32,
    pub(super) oci_version: String,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    pub(super) created: String,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) cgroup: Option<Cgroup>,
    #[serde(default)]
    pub(super) no_pivot: bool,
}

/// The state as `state` prints it and as hooks read it.
///
/// source: OCI runtime-spec 1.2 runtime.md "State"; `rootfs`, `created` and `owner` are runc's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub oci_version: String,
    pub id: String,
    pub pid: i32,
    pub status: Status,
    pub bundle: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// Whether another program answers for its seccomp profile.
pub(super) fn has_agent(spec: &Spec) -> bool {
    let profile = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
    profile.is_some_and(|p| p.listener_path().is_some())
}

/// What a seccomp agent is told of a container whose profile has one. `pid`: of its first process,
/// once there is one.
pub(super) fn for_agent(
    spec: &Spec,
    id: &str,
    record: &Record,
    status: ContainerState,
    pid: Option<i32>,
) -> Option<AgentState> {
    if !has_agent(spec) {
        return None;
    }
    let annotations = record.annotations.clone().into_iter();
    let state = StateBuilder::default()
        .version(record.oci_version.as_str())
        .id(id)
        .status(status)
        .bundle(record.bundle.as_path())
        .annotations(annotations.collect::<std::collections::HashMap<_, _>>());
    match pid {
        Some(pid) => state.pid(pid).build().ok(),
        None => state.build().ok(),
    }
}
