//! Values for unit tests.

use crate::model::{ContainerRecord, ContainerSpec, RecordedState};

pub(crate) fn record() -> ContainerRecord {
    ContainerRecord {
        id: "0123456789abcdef".repeat(4),
        name: "steady_keel".to_owned(),
        created: "2026-01-02T03:04:05.123456789Z".to_owned(),
        image_id: format!("sha256:{}", "ab".repeat(32)),
        spec: ContainerSpec {
            image: "busybox".to_owned(),
            ..ContainerSpec::default()
        },
        argv: vec!["/bin/sh".to_owned()],
        mounts: Vec::new(),
        state: RecordedState::default(),
        restart_count: 0,
        stopped_by_user: false,
        networks: Default::default(),
    }
}
