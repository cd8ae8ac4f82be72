//! `ps`, `images`, `history`, `volume ls`: tables.

use std::collections::BTreeMap;

use api::container::{ContainerSummary, Port};
use api::image::{HistoryItem, ImageSummary};
use api::volume::{TrashedVolume, Volume, VolumeListResponse};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::containers::{filter, with_filters};
use crate::flags::{Flag, go_int, refused, switch, value};
use crate::http::{Query, escape_path};
use crate::human::{ago, ellipsis, short_id, size, size4};
use crate::table::{Column, Format, LABEL_MAP, Row, Table, column, row};
use crate::verb::{Context, Offer, Operands, Outcome, Verb};

/// `--format` of every list.
pub(crate) const FORMAT: Flag<ListOptions> = value(
    "format",
    None,
    "string",
    |o, v| {
        o.format = Some(v.to_owned());
        Ok(())
    },
    FORMAT_HELP,
);

pub(crate) const FORMAT_HELP: &str = "json, a template, or `table TEMPLATE`";

#[derive(Debug)]
pub(crate) struct ListOptions {
    all: bool,
    pub(crate) quiet: bool,
    pub(crate) no_trunc: bool,
    size: bool,
    digests: bool,
    human: bool,
    trash: bool,
    last: i64,
    pub(crate) format: Option<String>,
    pub(crate) filters: api::Filters,
}

impl Default for ListOptions {
    fn default() -> Self {
        Self {
            all: false,
            quiet: false,
            no_trunc: false,
            size: false,
            digests: false,
            human: true,
            trash: false,
            last: -1,
            format: None,
            filters: api::Filters::default(),
        }
    }
}

pub(crate) fn id_of(id: &str, full: bool) -> String {
    if full {
        id.to_owned()
    } else {
        short_id(id).to_owned()
    }
}

/// As Go prints a time: `2006-01-02 15:04:05 -0700 MST`.
fn go_time(unix: i64) -> String {
    Timestamp::from_second(unix).map_or_else(
        |_| String::new(),
        |t| {
            t.to_zoned(TimeZone::system())
                .strftime("%Y-%m-%d %H:%M:%S %z %Z")
                .to_string()
        },
    )
}

fn labels_text(labels: &BTreeMap<String, String>) -> String {
    labels
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect::<Vec<_>>()
        .join(",")
}

pub(crate) fn with_labels(mut row: Row, labels: &BTreeMap<String, String>) -> Row {
    row.insert("Labels".into(), Value::String(labels_text(labels)));
    row.insert(
        LABEL_MAP.into(),
        labels
            .iter()
            .map(|(k, v)| (k.clone(), Value::String(v.clone())))
            .collect(),
    );
    row
}

pub(crate) static PS: Verb<ListOptions> = Verb {
    path: "ps",
    aliases: &["container ls", "container list", "container ps"],
    usage: "[OPTIONS]",
    about: "List containers",
    operands: Operands::None,
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[&[
        switch(
            "all",
            Some('a'),
            |o, v| o.all = v,
            "Show all containers, not only those that run",
        ),
        switch("quiet", Some('q'), |o, v| o.quiet = v, "Only IDs"),
        switch("no-trunc", None, |o, v| o.no_trunc = v, "Do not cut"),
        switch("size", Some('s'), |o, v| o.size = v, "Show sizes"),
        switch(
            "latest",
            Some('l'),
            |o, v| {
                if v {
                    o.last = 1
                }
            },
            "Show the container created last",
        ),
        value(
            "last",
            Some('n'),
            "int",
            |o, v| {
                o.last = go_int(v)?;
                Ok(())
            },
            "Show n containers created last",
        ),
        FORMAT,
        value(
            "filter",
            Some('f'),
            "filter",
            |o, v| filter(&mut o.filters, v),
            "Only those that match (status=running, label=KEY, name=X, ...)",
        ),
    ]],
    run: ps,
};

pub(crate) const PS_COLUMNS: &[Column] = &[
    column("ID", "CONTAINER ID"),
    column("Image", "IMAGE"),
    column("Command", "COMMAND"),
    column("RunningFor", "CREATED"),
    column("CreatedAt", "CREATED AT"),
    column("Status", "STATUS"),
    column("State", "STATE"),
    column("Ports", "PORTS"),
    column("Names", "NAMES"),
    column("Size", "SIZE"),
    column("Labels", "LABELS"),
    column("Mounts", "MOUNTS"),
    column("LocalVolumes", "LOCAL VOLUMES"),
    column("Networks", "NETWORKS"),
    column("Platform", "PLATFORM"),
];

fn ps(context: &Context, mut o: ListOptions, _: Vec<String>) -> Outcome {
    let mentions_size = o.format.as_deref().is_some_and(|f| f.contains(".Size"));
    let query = Query::new("/containers/json")
        .flag("all", o.all)
        .flag("size", o.size || mentions_size)
        .with_some("limit", (o.last > 0).then(|| o.last.to_string()).as_deref());
    let query = with_filters(query, &std::mem::take(&mut o.filters));
    let list: Vec<ContainerSummary> = context.client.get_list(&query.build())?;
    let now = Timestamp::now();
    let rows: Vec<Row> = list.iter().map(|c| ps_row(c, o.no_trunc, now)).collect();
    let mut default =
        "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"
            .to_owned();
    if o.size {
        default.push_str("\t{{.Size}}");
    }
    let format = Format::parse(o.format.as_deref(), o.quiet, "{{.ID}}", &default);
    let table = Table {
        columns: PS_COLUMNS,
        rows: &rows,
    };
    context.print(&table.render(&format)?)
}

pub(crate) fn ps_row(c: &ContainerSummary, full: bool, now: Timestamp) -> Row {
    let command = if full {
        c.command.clone()
    } else {
        ellipsis(&c.command, 20)
    };
    let cut = |s: &str| if full { s.to_owned() } else { ellipsis(s, 15) };
    let mounts: Vec<String> = c
        .mounts
        .iter()
        .map(|m| {
            cut(if m.name.is_empty() {
                &m.source
            } else {
                &m.name
            })
        })
        .collect();
    let volumes = c.mounts.iter().filter(|m| m.driver == "local").count();
    let names: Vec<&str> = c
        .names
        .iter()
        .map(|n| n.strip_prefix('/').unwrap_or(n))
        .collect();
    let sizes = if c.size_root_fs > 0 {
        format!("{} (virtual {})", size(c.size_rw), size(c.size_root_fs))
    } else {
        size(c.size_rw)
    };
    let networks: Vec<&str> = c
        .network_settings
        .networks
        .keys()
        .map(String::as_str)
        .collect();
    let mut row = with_labels(
        row([
            ("ID", id_of(&c.id, full)),
            ("Image", image_name(c, full)),
            ("Command", format!("{command:?}")),
            ("RunningFor", ago(c.created, now)),
            ("CreatedAt", go_time(c.created)),
            ("Status", c.status.clone()),
            ("State", c.state.clone()),
            ("Ports", ports(&c.ports)),
            ("Names", names.join(",")),
            ("Size", sizes),
            ("Mounts", mounts.join(",")),
            ("LocalVolumes", volumes.to_string()),
            ("Networks", networks.join(",")),
        ]),
        &c.labels,
    );
    // of images of several platforms; null where there is none, as Docker writes it
    row.insert("Platform".into(), Value::Null);
    row
}

fn image_name(c: &ContainerSummary, full: bool) -> String {
    if c.image.is_empty() {
        return "<no image>".into();
    }
    if full {
        return c.image.clone();
    }
    if short_id(&c.image) == short_id(&c.image_id) {
        return short_id(&c.image).to_owned();
    }
    // a name with a digest is shown by its name
    match c.image.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => c.image.clone(),
    }
}

/// `0.0.0.0:8080->80/tcp, 90-92/tcp`
fn ports(list: &[Port]) -> String {
    let mut list = list.to_vec();
    list.sort_by(|a, b| {
        (a.private_port, &a.ip, a.public_port, &a.r#type).cmp(&(
            b.private_port,
            &b.ip,
            b.public_port,
            &b.r#type,
        ))
    });
    // key of a run of ports -> its first and last
    let mut runs: Vec<(String, u16, u16)> = Vec::new();
    let mut mapped = Vec::new();
    for port in &list {
        if !port.ip.is_empty() && port.public_port != port.private_port {
            let ip = bracketed(&port.ip);
            mapped.push(format!(
                "{ip}:{}->{}/{}",
                port.public_port, port.private_port, port.r#type
            ));
            continue;
        }
        let key = if port.ip.is_empty() {
            port.r#type.clone()
        } else {
            format!("{}/{}", port.ip, port.r#type)
        };
        match runs
            .iter_mut()
            .rev()
            .find(|(k, _, last)| *k == key && last.checked_add(1) == Some(port.private_port))
        {
            Some(run) => run.2 = port.private_port,
            None => runs.push((key, port.private_port, port.private_port)),
        }
    }
    let mut parts: Vec<String> = runs
        .iter()
        .map(|(key, first, last)| {
            let range = if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            };
            match key.rsplit_once('/') {
                Some((ip, kind)) => format!("{}:{range}->{range}/{kind}", bracketed(ip)),
                None => format!("{range}/{key}"),
            }
        })
        .collect();
    parts.append(&mut mapped);
    parts.join(", ")
}

fn bracketed(ip: &str) -> String {
    if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    }
}

pub(crate) static IMAGES: Verb<ListOptions> = Verb {
    path: "images",
    aliases: &["image ls", "image list"],
    usage: "[OPTIONS] [REPOSITORY[:TAG]]",
    about: "List images",
    operands: Operands::Between(0, 1),
    offer: Offer::Images,
    interspersed: true,
    flags: &[&[
        switch(
            "all",
            Some('a'),
            |o, v| o.all = v,
            "Show intermediate images too",
        ),
        switch("quiet", Some('q'), |o, v| o.quiet = v, "Only IDs"),
        switch("no-trunc", None, |o, v| o.no_trunc = v, "Do not cut"),
        switch("digests", None, |o, v| o.digests = v, "Show digests"),
        FORMAT,
        value(
            "filter",
            Some('f'),
            "filter",
            |o, v| filter(&mut o.filters, v),
            "Only those that match (dangling=true, label=KEY, reference=PATTERN, ...)",
        ),
        refused("tree", None, "images of several platforms come later"),
    ]],
    run: images,
};

pub(crate) const IMAGE_COLUMNS: &[Column] = &[
    column("Repository", "REPOSITORY"),
    column("Tag", "TAG"),
    column("Digest", "DIGEST"),
    column("ID", "IMAGE ID"),
    column("CreatedSince", "CREATED"),
    column("CreatedAt", "CREATED AT"),
    column("Size", "SIZE"),
    column("SharedSize", "SHARED SIZE"),
    column("UniqueSize", "UNIQUE SIZE"),
    column("Containers", "CONTAINERS"),
    column("VirtualSize", "VIRTUAL SIZE"),
];

fn images(context: &Context, mut o: ListOptions, names: Vec<String>) -> Outcome {
    if let Some(name) = names.first() {
        o.filters.add("reference", name);
    }
    let query = with_filters(Query::new("/images/json").flag("all", o.all), &o.filters);
    let list: Vec<ImageSummary> = context.client.get_json(&query.build())?;
    let now = Timestamp::now();
    let with_digests = o.digests || o.format.as_deref().is_some_and(|f| f.contains(".Digest"));
    let rows: Vec<Row> = list
        .iter()
        .flat_map(|i| image_rows(i, o.no_trunc, with_digests, now))
        .collect();
    let default = if o.digests {
        "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
    } else {
        "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
    };
    let format = Format::parse(o.format.as_deref(), o.quiet, "{{.ID}}", default);
    let table = Table {
        columns: IMAGE_COLUMNS,
        rows: &rows,
    };
    context.print(&table.render(&format)?)
}

/// A line for each name, or one without.
pub(crate) fn image_rows(i: &ImageSummary, full: bool, digests: bool, now: Timestamp) -> Vec<Row> {
    let line = |repository: &str, tag: &str, digest: &str| {
        let count = |n: i64, text: String| if n < 0 { "N/A".to_owned() } else { text };
        row([
            ("Repository", repository.to_owned()),
            ("Tag", tag.to_owned()),
            ("Digest", digest.to_owned()),
            ("ID", id_of(&i.id, full)),
            ("CreatedSince", ago(i.created, now)),
            ("CreatedAt", go_time(i.created)),
            ("Size", size(i.size)),
            (
                "SharedSize",
                count(i.shared_size, size4(i.shared_size as f64)),
            ),
            (
                "UniqueSize",
                count(i.shared_size, size4((i.size - i.shared_size) as f64)),
            ),
            ("Containers", count(i.containers, i.containers.to_string())),
            ("VirtualSize", size4(i.size as f64)),
        ])
    };
    const NONE: &str = "<none>";
    let digest_of = |repository: &str| {
        i.repo_digests
            .iter()
            .filter_map(|d| d.split_once('@'))
            .find(|(r, _)| *r == repository)
            .map_or(NONE, |(_, d)| d)
    };
    let mut rows: Vec<Row> = i
        .repo_tags
        .iter()
        .filter_map(|t| t.rsplit_once(':'))
        .filter(|(r, _)| *r != NONE)
        .map(|(r, t)| line(r, t, if digests { digest_of(r) } else { NONE }))
        .collect();
    if rows.is_empty() {
        rows.extend(
            i.repo_digests
                .iter()
                .filter_map(|d| d.split_once('@'))
                .filter(|(r, _)| *r != NONE)
                .map(|(r, d)| line(r, NONE, if digests { d } else { NONE })),
        );
    }
    if rows.is_empty() {
        rows.push(line(NONE, NONE, NONE));
    }
    rows
}

pub(crate) static HISTORY: Verb<ListOptions> = Verb {
    path: "history",
    aliases: &["image history"],
    usage: "[OPTIONS] IMAGE",
    about: "Show the history of an image",
    operands: Operands::Exactly(1),
    offer: Offer::Images,
    interspersed: true,
    flags: &[&[
        switch(
            "human",
            Some('H'),
            |o, v| o.human = v,
            "Times and sizes for people (default true)",
        ),
        switch("quiet", Some('q'), |o, v| o.quiet = v, "Only IDs"),
        switch("no-trunc", None, |o, v| o.no_trunc = v, "Do not cut"),
        FORMAT,
        value(
            "platform",
            None,
            "string",
            |_, v| super::create::platform(v),
            "Platform of the image; this machine's own",
        ),
    ]],
    run: history,
};

const HISTORY_COLUMNS: &[Column] = &[
    column("ID", "IMAGE"),
    column("CreatedSince", "CREATED"),
    column("CreatedAt", "CREATED AT"),
    column("CreatedBy", "CREATED BY"),
    column("Size", "SIZE"),
    column("Comment", "COMMENT"),
];

fn history(context: &Context, o: ListOptions, names: Vec<String>) -> Outcome {
    let path = format!("/images/{}/history", escape_path(&names[0]));
    let items: Vec<HistoryItem> = context.client.get_json(&path)?;
    let now = Timestamp::now();
    let rows: Vec<Row> = items.iter().map(|h| history_row(h, &o, now)).collect();
    let created = if o.human {
        "{{.CreatedSince}}"
    } else {
        "{{.CreatedAt}}"
    };
    let default =
        format!("{{{{.ID}}}}\t{created}\t{{{{.CreatedBy}}}}\t{{{{.Size}}}}\t{{{{.Comment}}}}");
    let format = Format::parse(o.format.as_deref(), o.quiet, "{{.ID}}", &default);
    let table = Table {
        columns: HISTORY_COLUMNS,
        rows: &rows,
    };
    context.print(&table.render(&format)?)
}

fn history_row(h: &HistoryItem, o: &ListOptions, now: Timestamp) -> Row {
    let by = h.created_by.replace('\t', " ");
    let at = Timestamp::from_second(h.created).map_or_else(
        |_| String::new(),
        |t| {
            t.to_zoned(TimeZone::system())
                .strftime("%Y-%m-%dT%H:%M:%S%:z")
                .to_string()
                .replace("+00:00", "Z")
        },
    );
    row([
        ("ID", id_of(&h.id, o.no_trunc)),
        ("CreatedSince", ago(h.created, now)),
        ("CreatedAt", at),
        ("CreatedBy", if o.no_trunc { by } else { ellipsis(&by, 45) }),
        (
            "Size",
            if o.human {
                size(h.size)
            } else {
                h.size.to_string()
            },
        ),
        ("Comment", h.comment.clone()),
    ])
}

pub(crate) static VOLUME_LS: Verb<ListOptions> = Verb {
    path: "volume ls",
    aliases: &["volume list"],
    usage: "[OPTIONS]",
    about: "List volumes",
    operands: Operands::None,
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[&[
        switch("quiet", Some('q'), |o, v| o.quiet = v, "Only names"),
        switch(
            "trash",
            None,
            |o, v| o.trash = v,
            "Removed volumes that `volume restore` brings back",
        ),
        FORMAT,
        value(
            "filter",
            Some('f'),
            "filter",
            |o, v| filter(&mut o.filters, v),
            "Only those that match (dangling=true, label=KEY, name=X)",
        ),
        refused("cluster", None, "cluster volumes are not planned"),
    ]],
    run: volumes,
};

pub(crate) const VOLUME_COLUMNS: &[Column] = &[
    column("Name", "VOLUME NAME"),
    column("Driver", "DRIVER"),
    column("Scope", "SCOPE"),
    column("Mountpoint", "MOUNTPOINT"),
    column("Labels", "LABELS"),
    column("Links", "LINKS"),
    column("Size", "SIZE"),
    column("Availability", "AVAILABILITY"),
    column("Group", "GROUP"),
    column("Status", "STATUS"),
];

fn volumes(context: &Context, o: ListOptions, _: Vec<String>) -> Outcome {
    if o.trash {
        return trash(context, &o);
    }
    let query = with_filters(Query::new("/volumes"), &o.filters).build();
    let mut answer: VolumeListResponse = context.client.get_json(&query)?;
    for warning in answer.warnings.unwrap_or_default() {
        context.warn(&warning);
    }
    answer.volumes.sort_by(|a, b| natural(&a.name, &b.name));
    let rows: Vec<Row> = answer.volumes.iter().map(volume_row).collect();
    let format = Format::parse(
        o.format.as_deref(),
        o.quiet,
        "{{.Name}}",
        "{{.Driver}}\t{{.Name}}",
    );
    let table = Table {
        columns: VOLUME_COLUMNS,
        rows: &rows,
    };
    context.print(&table.render(&format)?)
}

pub(crate) fn volume_row(v: &Volume) -> Row {
    let usage = v.usage_data.as_ref();
    let known = |n: Option<i64>, text: fn(i64) -> String| match n {
        Some(n) if n >= 0 => text(n),
        _ => "N/A".to_owned(),
    };
    with_labels(
        row([
            ("Name", v.name.clone()),
            ("Driver", v.driver.clone()),
            ("Scope", v.scope.clone()),
            ("Mountpoint", v.mountpoint.clone()),
            (
                "Links",
                known(usage.map(|u| u.ref_count), |n| n.to_string()),
            ),
            ("Size", known(usage.map(|u| u.size), |n| size4(n as f64))),
            ("Availability", "N/A".into()),
            ("Group", "N/A".into()),
            ("Status", "N/A".into()),
        ]),
        &v.labels.clone().unwrap_or_default(),
    )
}

const TRASH_COLUMNS: &[Column] = &[
    column("Name", "VOLUME NAME"),
    column("Removed", "REMOVED"),
    column("Expires", "KEPT UNTIL"),
    column("Size", "SIZE"),
    column("Labels", "LABELS"),
];

fn trash(context: &Context, o: &ListOptions) -> Outcome {
    let list: Vec<TrashedVolume> = context.client.get_json("/plimsoll/volumes/trash")?;
    let now = Timestamp::now();
    let rows: Vec<Row> = list
        .iter()
        .map(|t| {
            let removed = t
                .removed_at
                .parse::<Timestamp>()
                .map_or_else(|_| t.removed_at.clone(), |at| ago(at.as_second(), now));
            with_labels(
                row([
                    ("Name", t.name.clone()),
                    ("Removed", removed),
                    (
                        "Expires",
                        if t.expires_at.is_empty() {
                            "removed by name".into()
                        } else {
                            t.expires_at.clone()
                        },
                    ),
                    (
                        "Size",
                        if t.size < 0 {
                            "N/A".into()
                        } else {
                            size4(t.size as f64)
                        },
                    ),
                ]),
                &t.labels,
            )
        })
        .collect();
    let format = Format::parse(
        o.format.as_deref(),
        o.quiet,
        "{{.Name}}",
        "{{.Name}}\t{{.Removed}}\t{{.Expires}}\t{{.Size}}",
    );
    let table = Table {
        columns: TRASH_COLUMNS,
        rows: &rows,
    };
    context.print(&table.render(&format)?)
}

/// `a2` before `a10`.
fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let digits = |s: &[u8]| s.iter().take_while(|c| c.is_ascii_digit()).count();
        let (na, nb) = (digits(a), digits(b));
        if na > 0 && nb > 0 {
            let strip = |s: &[u8]| {
                s.iter()
                    .skip_while(|c| **c == b'0')
                    .copied()
                    .collect::<Vec<_>>()
            };
            let (x, y) = (strip(&a[..na]), strip(&b[..nb]));
            let order = x.len().cmp(&y.len()).then_with(|| x.cmp(&y));
            if order.is_ne() {
                return order;
            }
            (a, b) = (&a[na..], &b[nb..]);
            continue;
        }
        match (a.split_first(), b.split_first()) {
            (Some((x, ra)), Some((y, rb))) if x == y => (a, b) = (ra, rb),
            (x, y) => return x.map(|p| p.0).cmp(&y.map(|p| p.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(ip: &str, private_port: u16, public_port: u16) -> Port {
        Port {
            ip: ip.into(),
            private_port,
            public_port,
            r#type: "tcp".into(),
        }
    }

    #[test]
    fn ports_as_docker_groups_them() {
        for (list, want) in [
            (
                vec![port("", 81, 0), port("0.0.0.0", 80, 8080)],
                "81/tcp, 0.0.0.0:8080->80/tcp",
            ),
            (
                vec![port("", 80, 0), port("", 82, 0), port("", 81, 0)],
                "80-82/tcp",
            ),
            (vec![port("::", 80, 80)], "[::]:80->80/tcp"),
            (vec![], ""),
        ] {
            assert_eq!(ports(&list), want);
        }
    }

    #[test]
    fn names_sort_as_people_count() {
        let mut names = vec!["a10", "a2", "b", "a", "a02x"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["a", "a2", "a02x", "a10", "b"]);
    }
}
