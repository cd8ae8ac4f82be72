//! Images.

use serde::{Deserialize, Serialize};

use crate::container::{DriverData, HealthConfig};
use crate::{Set, StringMap, go};

/// One line of `GET /images/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageSummary {
    /// -1: not counted.
    pub containers: i64,
    pub created: i64,
    pub id: String,
    pub labels: Option<StringMap>,
    pub parent_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<Descriptor>,
    pub repo_digests: Vec<String>,
    pub repo_tags: Vec<String>,
    /// -1: not counted.
    pub shared_size: i64,
    pub size: i64,
    /// Up to API 1.43.
    #[serde(skip_serializing_if = "go::is_zero")]
    pub virtual_size: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: String,
    pub size: i64,
}

/// `GET /images/{name}/json`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageInspect {
    pub id: String,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    pub parent: String,
    pub comment: String,
    #[serde(skip_serializing_if = "go::is_zero")]
    pub created: String,
    pub docker_version: String,
    pub author: String,
    pub config: ImageConfig,
    pub architecture: String,
    #[serde(skip_serializing_if = "go::is_zero")]
    pub variant: String,
    pub os: String,
    #[serde(skip_serializing_if = "go::is_zero")]
    pub os_version: String,
    pub size: i64,
    /// Up to API 1.43.
    #[serde(skip_serializing_if = "go::is_zero")]
    pub virtual_size: i64,
    pub graph_driver: DriverData,
    #[serde(rename = "RootFS")]
    pub root_fs: RootFs,
    pub metadata: ImageMetadata,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<Descriptor>,
}

/// The part of an image's configuration that a container inherits. Since API 1.50 what is empty is
/// left out; for older clients the daemon writes a [`crate::container::Config`] instead.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageConfig {
    #[serde(skip_serializing_if = "go::is_zero")]
    pub user: String,
    #[serde(skip_serializing_if = "go::is_zero")]
    pub exposed_ports: Set,
    #[serde(skip_serializing_if = "go::is_zero")]
    pub env: Vec<String>,
    #[serde(skip_serializing_if = "go::is_zero")]
    pub entrypoint: Vec<String>,
    #[serde(skip_serializing_if = "go::is_zero")]
    pub cmd: Vec<String>,
    #[serde(skip_serializing_if = "go::is_zero")]
    pub volumes: Set,
    #[serde(skip_serializing_if = "go::is_zero")]
    pub working_dir: String,
    #[serde(skip_serializing_if = "go::is_zero")]
    pub labels: StringMap,
    #[serde(skip_serializing_if = "go::is_zero")]
    pub stop_signal: String,
    #[serde(skip_serializing_if = "go::is_zero")]
    pub args_escaped: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    #[serde(skip_serializing_if = "go::is_zero")]
    pub on_build: Vec<String>,
    #[serde(skip_serializing_if = "go::is_zero")]
    pub shell: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RootFs {
    #[serde(skip_serializing_if = "go::is_zero")]
    pub r#type: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageMetadata {
    pub last_tag_time: String,
}

/// One line of `GET /images/{name}/history`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HistoryItem {
    pub comment: String,
    pub created: i64,
    pub created_by: String,
    /// `<missing>` where a layer is no image of its own.
    pub id: String,
    pub size: i64,
    pub tags: Option<Vec<String>>,
}

/// One line of `DELETE /images/{name}`: one of the two is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageDeleteResponse {
    #[serde(skip_serializing_if = "go::is_zero")]
    pub untagged: String,
    #[serde(skip_serializing_if = "go::is_zero")]
    pub deleted: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImagePruneReport {
    pub images_deleted: Option<Vec<ImageDeleteResponse>>,
    pub space_reclaimed: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SearchResult {
    pub name: String,
    pub description: String,
    pub star_count: i64,
    pub is_official: bool,
    pub is_automated: bool,
}
