//! One line of a list.

use api::container::{ContainerSummary, Port, SummaryHostConfig};
use api::image::{ImageConfig, ImageInspect, ImageMetadata, ImageSummary, RootFs};
use api::network::NetworkSettingsSummary;
use engine::model::{Phase, PortSpec};
use engine::{ContainerView, ImageView};

use super::inspect;
use crate::docker::time;

pub(crate) fn container(view: &ContainerView) -> ContainerSummary {
    let record = &view.record;
    let host = &record.spec.host;
    ContainerSummary {
        id: record.id.clone(),
        names: vec![format!("/{}", record.name)],
        image: if view.image_name.is_empty() {
            record.spec.image.clone()
        } else {
            view.image_name.clone()
        },
        image_id: record.image_id.clone(),
        command: record.argv.join(" "),
        created: time::seconds(&record.created),
        labels: record.spec.labels.clone(),
        state: inspect::status(view.phase).to_owned(),
        status: status(view),
        host_config: SummaryHostConfig {
            network_mode: inspect::network_name(&host.network),
            annotations: (!host.annotations.is_empty()).then(|| host.annotations.clone()),
        },
        network_settings: NetworkSettingsSummary {
            networks: inspect::endpoints(view),
        },
        mounts: inspect::mounts(view),
        ports: ports(view),
        ..ContainerSummary::default()
    }
}

/// "Up 4 minutes", "Exited (0) 2 hours ago".
pub(crate) fn status(view: &ContainerView) -> String {
    let since = |time: &Option<String>| {
        time.as_deref()
            .map_or_else(|| "an unknown time".to_owned(), time::ago)
    };
    match view.phase {
        Phase::Created | Phase::Starting => "Created".to_owned(),
        Phase::Running | Phase::Stopping => {
            let health = match view.health.as_ref().map(|h| engine::health_word(h.status)) {
                None => String::new(),
                Some("starting") => " (health: starting)".to_owned(),
                Some(word) => format!(" ({word})"),
            };
            format!("Up {}{health}", since(&view.started_at))
        }
        Phase::Paused => format!("Up {} (Paused)", since(&view.started_at)),
        Phase::Restarting => format!(
            "Restarting ({}) {} ago",
            view.exit_code,
            since(&view.finished_at)
        ),
        Phase::Exited => format!(
            "Exited ({}) {} ago",
            view.exit_code,
            since(&view.finished_at)
        ),
        Phase::Removing => "Removal In Progress".to_owned(),
        Phase::Dead => "Dead".to_owned(),
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(crate) fn image(view: &ImageView, version: api::ApiVersion) -> ImageSummary {
    ImageSummary {
        containers: -1,
        created: time::seconds(&view.created),
        id: view.id.clone(),
        labels: Some(view.config.labels.clone()).filter(|l| !l.is_empty()),
        parent_id: view.parent.clone(),
        descriptor: None,
        repo_digests: view.digests.clone(),
        repo_tags: view.names.clone(),
        shared_size: -1,
        size: signed(view.size),
        virtual_size: if version.at_least(44) {
            0
        } else {
            signed(view.size)
        },
    }
}

/// Published ports with where they are, then those that are only exposed; none of one that does not
/// run.
fn ports(view: &ContainerView) -> Vec<Port> {
    let Some(membership) = &view.membership else {
        return Vec::new();
    };
    let of_the_host = membership.ports.iter().filter(|p| p.port != 0);
    let published = of_the_host.map(|p| Port {
        ip: p.host.to_string(),
        private_port: p.to.port(),
        public_port: p.port,
        r#type: p.protocol.to_string(),
    });
    let mut all: Vec<Port> = published.collect();
    for exposed in view
        .record
        .spec
        .exposed_ports
        .iter()
        .filter_map(|p| PortSpec::exposed(p))
    {
        let known = |p: &Port| {
            (p.private_port, p.r#type.as_str()) == (exposed.container, exposed.protocol.name())
        };
        if !all.iter().any(known) {
            all.push(Port {
                private_port: exposed.container,
                r#type: exposed.protocol.to_string(),
                ..Port::default()
            });
        }
    }
    all
}

fn set(keys: &[String]) -> api::Set {
    keys.iter().map(|k| (k.clone(), api::Empty {})).collect()
}

pub(crate) fn image_inspect(
    view: &ImageView,
    version: api::ApiVersion,
    driver: &str,
) -> ImageInspect {
    let c = &view.config;
    ImageInspect {
        id: view.id.clone(),
        repo_tags: view.names.clone(),
        repo_digests: view.digests.clone(),
        parent: view.parent.clone(),
        comment: view.comment.clone(),
        created: view.created.clone(),
        author: view.author.clone(),
        config: ImageConfig {
            user: c.user.clone(),
            exposed_ports: set(&c.exposed_ports),
            env: c.env.clone(),
            entrypoint: c.entrypoint.clone().unwrap_or_default(),
            cmd: c.cmd.clone().unwrap_or_default(),
            volumes: set(&c.volumes),
            working_dir: c.working_dir.clone(),
            labels: c.labels.clone(),
            stop_signal: c.stop_signal.clone().unwrap_or_default(),
            healthcheck: c.health.as_ref().map(inspect::health_config),
            shell: c.shell.clone().unwrap_or_default(),
            on_build: c.on_build.clone(),
            ..ImageConfig::default()
        },
        architecture: view.architecture.clone(),
        variant: view.variant.clone(),
        os: view.os.clone(),
        size: signed(view.size),
        virtual_size: if version.at_least(44) {
            0
        } else {
            signed(view.size)
        },
        graph_driver: api::container::DriverData {
            data: None,
            name: driver.to_owned(),
        },
        root_fs: RootFs {
            r#type: "layers".to_owned(),
            layers: view.layers.clone(),
        },
        metadata: ImageMetadata {
            last_tag_time: view
                .last_tagged
                .clone()
                .unwrap_or_else(|| api::container::NO_TIME.to_owned()),
        },
        ..ImageInspect::default()
    }
}

/// An image's configuration in the shape of a container's: what clients before API 1.50 read.
pub(crate) fn image_config_before_1_50(c: &engine::ImageConfig) -> api::container::Config {
    let filled = |keys: &[String]| (!keys.is_empty()).then(|| set(keys));
    api::container::Config {
        user: c.user.clone(),
        exposed_ports: filled(&c.exposed_ports),
        env: Some(c.env.clone()),
        cmd: c.cmd.clone(),
        volumes: filled(&c.volumes),
        working_dir: c.working_dir.clone(),
        entrypoint: c.entrypoint.clone(),
        labels: (!c.labels.is_empty()).then(|| c.labels.clone()),
        stop_signal: c.stop_signal.clone().unwrap_or_default(),
        healthcheck: c.health.as_ref().map(inspect::health_config),
        shell: c.shell.clone(),
        on_build: Some(c.on_build.clone()).filter(|l| !l.is_empty()),
        ..api::container::Config::default()
    }
}
