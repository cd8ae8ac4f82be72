//! Our own extensions, under `/plimsoll/`.

use super::answer::Answer;
use super::call::Call;
use super::failure::Failure;

/// `POST /plimsoll/fsck?repair=1`
pub(super) async fn fsck(_: Call) -> Answer {
    Err(Failure::not_built("fsck over the API"))
}

/// `GET /plimsoll/doctor`
pub(super) async fn doctor(_: Call) -> Answer {
    Err(Failure::not_built("doctor over the API"))
}
