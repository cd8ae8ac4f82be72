//! Volumes, and their trash.

use api::volume::{
    TrashedVolume, Volume, VolumeCreateRequest, VolumeListResponse, VolumePruneReport,
};
use engine::VolumeView;

use super::answer::{Answer, created, no_content, ok};
use super::call::Call;
use super::failure::Failure;
use super::translate::mounts;

pub(super) fn wire(view: &VolumeView) -> Volume {
    Volume {
        created_at: view.created.clone(),
        driver: "local".to_owned(),
        labels: Some(view.labels.clone()).filter(|l| !l.is_empty()),
        mountpoint: view.mountpoint.display().to_string(),
        name: view.name.clone(),
        options: Some(view.options.clone()).filter(|o| !o.is_empty()),
        scope: "local".to_owned(),
        usage_data: None,
    }
}

pub(super) async fn list(call: Call) -> Answer {
    let filters = call.filters(&["dangling", "driver", "label", "label!", "name"])?;
    let dangling = match filters.get("dangling").last().map(String::as_str) {
        None => None,
        Some("1" | "true") => Some(true),
        Some("0" | "false") => Some(false),
        Some(other) => {
            return Err(Failure::invalid(format!(
                "invalid filter 'dangling={other}'"
            )));
        }
    };
    let snapshot = call.engine().snapshot();
    let volumes = snapshot
        .volumes
        .iter()
        .filter(|v| filters.any("name", |n| v.name.contains(n.as_str())))
        .filter(|v| filters.any("driver", |d| d == "local") && !v.name.is_empty())
        .filter(|v| filters.labels_match(&v.labels) && !filters.labels_excluded(&v.labels))
        .filter(|v| dangling.is_none_or(|d| d == call.engine().volume_users(&v.name).is_empty()))
        .map(wire)
        .collect();
    ok(&VolumeListResponse {
        volumes,
        warnings: None,
    })
}

pub(super) async fn create(mut call: Call) -> Answer {
    let body: VolumeCreateRequest = call.json_or_default().await?;
    if !matches!(body.driver.as_str(), "" | "local") {
        return Err(Failure::not_found(format!(
            "there is no volume driver {:?}: local is built in",
            body.driver
        )));
    }
    if body.cluster_volume_spec.is_some() {
        return super::absent::swarm(call).await;
    }
    if !body.name.is_empty() {
        mounts::volume_name(&body.name)?;
    }
    let engine = call.engine().clone();
    let made = call
        .change(async move {
            engine
                .create_volume(&body.name, body.labels, body.driver_opts)
                .await
        })
        .await?;
    created(&wire(&made))
}

pub(super) async fn inspect(call: Call) -> Answer {
    ok(&wire(&call.engine().volume(&call.param)?))
}

pub(super) async fn remove(call: Call) -> Answer {
    let (engine, name, force) = (
        call.engine().clone(),
        call.param.clone(),
        call.query.on("force"),
    );
    call.change(async move { engine.remove_volume(&name, force).await })
        .await?;
    no_content()
}

/// `all=true`: the named ones too. Up to API 1.41 that was what a prune did; here a named volume
/// goes only where that is asked for, whatever the client's age.
pub(super) async fn prune(call: Call) -> Answer {
    let filters = call.filters(&["all", "label", "label!"])?;
    let engine = call.engine().clone();
    let pruned = call
        .change(async move { engine.prune_volumes(&filters.0).await })
        .await?;
    ok(&VolumePruneReport {
        volumes_deleted: Some(pruned.volumes),
        space_reclaimed: pruned.space_reclaimed,
    })
}

/// Our extension: brings a removed volume back.
pub(super) async fn restore(call: Call) -> Answer {
    let (engine, name) = (call.engine().clone(), call.param.clone());
    let back = call
        .change(async move { engine.restore_volume(&name).await })
        .await?;
    ok(&wire(&back))
}

/// Our extension: what could be brought back.
pub(super) async fn trash(call: Call) -> Answer {
    let lines: Vec<TrashedVolume> = call
        .engine()
        .volumes_in_trash()
        .await?
        .into_iter()
        .map(|v| TrashedVolume {
            name: v.name,
            removed_at: v.removed,
            size: v.size.map_or(-1, |s| i64::try_from(s).unwrap_or(i64::MAX)),
            ..TrashedVolume::default()
        })
        .collect();
    ok(&lines)
}
