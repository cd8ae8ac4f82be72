//! Volumes, and the trash they go to (our extension).

use serde::{Deserialize, Serialize};

use crate::{StringMap, go};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Volume {
    #[serde(skip_serializing_if = "go::is_zero")]
    pub created_at: String,
    pub driver: String,
    pub labels: Option<StringMap>,
    pub mountpoint: String,
    pub name: String,
    pub options: Option<StringMap>,
    pub scope: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_data: Option<UsageData>,
}

/// -1: not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct UsageData {
    pub ref_count: i64,
    pub size: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct VolumeListResponse {
    pub volumes: Vec<Volume>,
    pub warnings: Option<Vec<String>>,
}

/// Body of `POST /volumes/create`; an empty name makes one up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct VolumeCreateRequest {
    #[serde(skip_serializing_if = "go::is_zero")]
    pub driver: String,
    #[serde(skip_serializing_if = "go::is_zero")]
    pub driver_opts: StringMap,
    #[serde(skip_serializing_if = "go::is_zero")]
    pub labels: StringMap,
    #[serde(skip_serializing_if = "go::is_zero")]
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_volume_spec: Option<crate::Empty>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct VolumePruneReport {
    pub volumes_deleted: Option<Vec<String>>,
    pub space_reclaimed: u64,
}

/// One line of `GET /plimsoll/volumes/trash`: a removed volume that `POST
/// /plimsoll/volumes/{name}/restore` brings back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TrashedVolume {
    pub name: String,
    pub removed_at: String,
    /// When it may be reaped; empty: only by name.
    pub expires_at: String,
    /// Bytes; -1: not known.
    pub size: i64,
    pub labels: StringMap,
}
