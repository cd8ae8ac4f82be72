//! Verbs on volumes: create, rm, restore, prune. A removed volume goes to the trash.

use api::volume::{Volume, VolumeCreateRequest, VolumePruneReport};

use super::containers::{PruneOptions, confirmed, filter, with_filters};
use crate::flags::{refused, switch, value};
use crate::http::{Body, Query, Response, escape};
use crate::human;
use crate::parse;
use crate::verb::{Context, Failure, Offer, Operands, Verb};

const CLUSTER: &str = "cluster volumes are not planned";

#[derive(Debug, Default)]
pub(crate) struct CreateOptions {
    request: VolumeCreateRequest,
}

pub(crate) static CREATE: Verb<CreateOptions> = Verb {
    path: "volume create",
    aliases: &[],
    usage: "[OPTIONS] [VOLUME]",
    about: "Create a volume",
    operands: Operands::Between(0, 1),
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[&[
        value(
            "driver",
            Some('d'),
            "string",
            |_, v| super::create::only_local(v),
            "Driver of the volume; local",
        ),
        value(
            "name",
            None,
            "string",
            |o, v| {
                v.clone_into(&mut o.request.name);
                Ok(())
            },
            "",
        ),
        value(
            "label",
            None,
            "list",
            |o, v| {
                let (key, value) = parse::key_value(&parse::label(v)?);
                o.request.labels.insert(key, value);
                Ok(())
            },
            "Label the volume",
        ),
        value(
            "opt",
            Some('o'),
            "map",
            |o, v| {
                let (key, value) = parse::key_value(v);
                o.request.driver_opts.insert(key, value);
                Ok(())
            },
            "Option of the driver (type=tmpfs)",
        ),
        refused("availability", None, CLUSTER),
        refused("group", None, CLUSTER),
        refused("limit-bytes", None, CLUSTER),
        refused("required-bytes", None, CLUSTER),
        refused("scope", None, CLUSTER),
        refused("secret", None, CLUSTER),
        refused("sharing", None, CLUSTER),
        refused("topology-preferred", None, CLUSTER),
        refused("topology-required", None, CLUSTER),
        refused("type", None, CLUSTER),
    ]],
    run: |context, mut o, mut names| {
        if let Some(name) = names.pop() {
            if !o.request.name.is_empty() {
                return Err(Failure::say(
                    "conflicting options: cannot specify a volume-name through both --name and as a positional arg",
                ));
            }
            o.request.name = name;
        }
        "local".clone_into(&mut o.request.driver);
        let body = serde_json::to_vec(&o.request).map_err(|e| Failure::say(e.to_string()))?;
        let made: Volume = context
            .client
            .send("POST", "/volumes/create", Body::Json(body))?
            .json()?;
        context.println(&made.name)
    },
};

#[derive(Debug, Default)]
pub(crate) struct RemoveOptions {
    force: bool,
}

pub(crate) static RM: Verb<RemoveOptions> = Verb {
    path: "volume rm",
    aliases: &["volume remove"],
    usage: "[OPTIONS] VOLUME [VOLUME...]",
    about: "Remove one or more volumes: they go to the trash, from which `volume restore` brings them back",
    operands: Operands::AtLeast(1),
    offer: Offer::Volumes,
    interspersed: true,
    flags: &[&[switch(
        "force",
        Some('f'),
        |o, v| o.force = v,
        "No error if it is not there",
    )]],
    run: |context, o, names| {
        context.for_each(&names, |name| {
            let query = Query::new(format!("/volumes/{}", escape(name)))
                .flag("force", o.force)
                .build();
            context
                .client
                .send("DELETE", &query, Body::Empty)
                .and_then(Response::discard)?;
            Ok(Some(name.to_owned()))
        })
    },
};

pub(crate) static RESTORE: Verb<()> = Verb {
    path: "volume restore",
    aliases: &[],
    usage: "VOLUME [VOLUME...]",
    about: "Bring back volumes that were removed",
    operands: Operands::AtLeast(1),
    offer: Offer::TrashedVolumes,
    interspersed: true,
    flags: &[],
    run: |context, (), names| {
        context.for_each(&names, |name| {
            let path = format!("/plimsoll/volumes/{}/restore", escape(name));
            context.client.post(&path)?;
            Ok(Some(name.to_owned()))
        })
    },
};

pub(crate) static PRUNE: Verb<PruneOptions> = Verb {
    path: "volume prune",
    aliases: &[],
    usage: "[OPTIONS]",
    about: "Remove unused local volumes",
    operands: Operands::None,
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[&[
        switch(
            "all",
            Some('a'),
            |o, v| o.all = v,
            "Those with a name too, not only anonymous ones",
        ),
        switch("force", Some('f'), |o, v| o.force = v, "Do not ask"),
        value(
            "filter",
            None,
            "filter",
            |o, v| filter(&mut o.filters, v),
            "Only those that match (label=KEY=VALUE)",
        ),
    ]],
    run: |context, mut o, _| {
        let warning = if o.all {
            "WARNING! This will remove all local volumes not used by at least one container."
        } else {
            "WARNING! This will remove anonymous local volumes not used by at least one container."
        };
        if !o.force && !confirmed(context, warning)? {
            return Ok(());
        }
        let (text, freed) = prune(context, &mut o.filters, o.all)?;
        context.print(&format!(
            "{text}Total reclaimed space: {}\n",
            human::size4(freed as f64)
        ))
    },
};

/// Removes unused volumes; the report and the bytes freed.
pub(crate) fn prune(
    context: &Context,
    filters: &mut api::Filters,
    all: bool,
) -> Result<(String, u64), Failure> {
    if all {
        filters.add("all", "true");
    }
    let query = with_filters(Query::new("/volumes/prune"), filters).build();
    let report: VolumePruneReport = context.client.send("POST", &query, Body::Empty)?.json()?;
    let deleted = report.volumes_deleted.unwrap_or_default();
    let mut text = String::new();
    if !deleted.is_empty() {
        text = format!("Deleted Volumes:\n{}\n\n", deleted.join("\n"));
    }
    Ok((text, report.space_reclaimed))
}
