//! What is not there: answered as a dockerd outside a swarm answers, or refused by name.

use hyper::StatusCode;

use super::answer::{Answer, ok};
use super::call::Call;
use super::failure::Failure;

/// In dockerd's words: clients look for them.
pub(super) async fn swarm(_: Call) -> Answer {
    Err(Failure::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "This node is not a swarm manager. Swarm is not part of this engine; use Kubernetes for clusters.",
    ))
}

pub(super) async fn swarm_verbs(_: Call) -> Answer {
    Err(Failure::new(
        StatusCode::NOT_IMPLEMENTED,
        "swarm is not part of this engine; use Kubernetes for clusters",
    ))
}

pub(super) async fn search(_: Call) -> Answer {
    Err(Failure::not_built("searching registries"))
}

pub(super) async fn build(_: Call) -> Answer {
    Err(Failure::not_built(
        "building by BuildKit (docker build without buildx, DOCKER_BUILDKIT=0, is)",
    ))
}

pub(super) async fn checkpoints(_: Call) -> Answer {
    Err(Failure::not_built("checkpoint and restore"))
}

pub(super) async fn no_plugins(_: Call) -> Answer {
    ok(&[(); 0])
}

pub(super) async fn no_such_plugin(call: Call) -> Answer {
    Err(Failure::not_found(format!(
        "plugin {:?} not found",
        call.param
    )))
}

pub(super) async fn plugins(_: Call) -> Answer {
    Err(Failure::not_built("plugins"))
}
