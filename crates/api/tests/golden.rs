//! What is written where nothing is set: which fields are null, which empty, which left out. That is
//! where clients written in Go, Python and JavaScript differ in what they forgive.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The type's zero on the wire; and it is read back as it was written.
fn zero<T: Default + Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>()
-> serde_json::Value {
    let value = T::default();
    let text = serde_json::to_vec(&value).expect("wire types are JSON");
    assert_eq!(
        api::decode::<T>(&text).expect("what is written is read"),
        value
    );
    assert_eq!(
        api::decode::<T>(b"{}").expect("every field has a zero"),
        value,
        "absent is zero"
    );
    serde_json::from_slice(&text).expect("what is written is read")
}

macro_rules! golden {
    ($($name:ident: $($type:path),+;)*) => {$(
        #[test]
        fn $name() {
            let all: Vec<(&str, serde_json::Value)> = vec![$((stringify!($type), zero::<$type>())),+];
            let text: Vec<String> = all.iter().map(|(name, v)| format!("{name} {v:#}")).collect();
            insta::assert_snapshot!(text.join("\n"));
        }
    )*};
}

golden! {
    containers: api::container::CreateRequest, api::container::CreateResponse, api::container::ContainerInspect,
        api::container::ContainerSummary, api::container::UpdateRequest, api::container::UpdateResponse,
        api::container::WaitResponse, api::container::TopResponse, api::container::FilesystemChange,
        api::container::PathStat, api::container::PruneReport, api::container::Mount, api::container::MountPoint;
    execs: api::exec::ExecCreateRequest, api::exec::ExecStartRequest, api::exec::ExecInspect;
    images: api::image::ImageSummary, api::image::ImageInspect, api::image::HistoryItem,
        api::image::ImageDeleteResponse, api::image::ImagePruneReport, api::image::SearchResult;
    volumes: api::volume::Volume, api::volume::VolumeListResponse, api::volume::VolumeCreateRequest,
        api::volume::VolumePruneReport, api::volume::TrashedVolume;
    networks: api::network::Network, api::network::NetworkPruneReport, api::network::EndpointSettings;
    system: api::system::Info, api::system::Version, api::system::Event, api::system::SystemDf,
        api::system::BuildPruneReport, api::system::FsckReport, api::system::DoctorReport, api::ErrorResponse,
        api::IdResponse, api::stream::ProgressMessage;
    stats: api::stats::Stats;
}

#[test]
fn a_path_stat_survives_its_header() {
    let stat = api::container::PathStat {
        name: "x".to_owned(),
        size: 7,
        mode: api::container::go_mode::from_unix(0o040_755),
        mtime: "2024-01-02T03:04:05Z".to_owned(),
        link_target: String::new(),
    };
    assert!(stat.is_dir());
    assert_eq!(stat.mode, 0x8000_0000 | 0o755);
    assert_eq!(
        api::container::PathStat::from_header(&stat.to_header()),
        Some(stat)
    );
    assert_eq!(api::container::PathStat::from_header("?"), None);
}

#[test]
fn a_string_is_a_list_of_one_word() {
    let config: api::container::Config =
        api::decode(br#"{"Cmd": "ls", "Entrypoint": ["a", "b"]}"#).unwrap();
    assert_eq!(config.cmd, Some(vec!["ls".to_owned()]));
    assert_eq!(config.entrypoint.map(|e| e.len()), Some(2));
}
