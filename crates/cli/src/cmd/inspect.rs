//! `inspect`, of anything, of containers, of images, of volumes, of networks.

use serde_json::Value;

use crate::flags::{Groups, switch, value};
use crate::http::{HttpError, Query, escape, escape_path};
use crate::template::Template;
use crate::verb::{Context, Failure, Offer, Operands, Outcome, Verb};

#[derive(Debug, Default)]
pub(crate) struct InspectOptions {
    format: Option<String>,
    size: bool,
    kind: Option<String>,
}

const FORMAT: &str = "json, or a template";

#[rustfmt::skip]
const FLAGS: Groups<InspectOptions> = &[&[
    value("format", Some('f'), "string", |o, v| { o.format = Some(v.to_owned()); Ok(()) }, FORMAT),
]];

#[rustfmt::skip]
const SIZED: Groups<InspectOptions> = &[
    &[
        value("format", Some('f'), "string", |o, v| { o.format = Some(v.to_owned()); Ok(()) }, FORMAT),
        switch("size", Some('s'), |o, v| o.size = v, "Sizes of a container's files too"),
    ],
];

#[rustfmt::skip]
pub(crate) static ANY: Verb<InspectOptions> = Verb {
    path: "inspect",
    aliases: &[],
    usage: "[OPTIONS] NAME|ID [NAME|ID...]",
    about: "Return low-level information on Docker objects",
    operands: Operands::AtLeast(1),
    offer: Offer::ContainersImagesVolumes,
    interspersed: true,
    flags: &[&[
        value("format", Some('f'), "string", |o, v| { o.format = Some(v.to_owned()); Ok(()) }, FORMAT),
        switch("size", Some('s'), |o, v| o.size = v, "Sizes of a container's files too"),
        value("type", None, "string", |o, v| { o.kind = Some(v.to_owned()); Ok(()) }, "Only objects of a type (container, image, volume, network)"),
    ]],
    run: |context, o, names| {
        let kinds: &[Kind] = match o.kind.as_deref() {
            None => &[Kind::Container, Kind::Image, Kind::Volume, Kind::Network],
            Some("network") => &[Kind::Network],
            Some("container") => &[Kind::Container],
            Some("image") => &[Kind::Image],
            Some("volume") => &[Kind::Volume],
            Some(other) => {
                return Err(Failure::say(format!("\"{other}\" is not a valid value for --type")));
            }
        };
        inspect(context, &o, &names, kinds)
    },
};

macro_rules! of {
    ($name:ident, $path:literal, $usage:literal, $about:literal, $kind:ident, $offer:ident, $flags:ident) => {
        pub(crate) static $name: Verb<InspectOptions> = Verb {
            path: $path,
            aliases: &[],
            usage: $usage,
            about: $about,
            operands: Operands::AtLeast(1),
            offer: Offer::$offer,
            interspersed: true,
            flags: $flags,
            run: |context, o, names| inspect(context, &o, &names, &[Kind::$kind]),
        };
    };
}

of!(
    CONTAINER,
    "container inspect",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Display detailed information on one or more containers",
    Container,
    Containers,
    SIZED
);
of!(
    IMAGE,
    "image inspect",
    "[OPTIONS] IMAGE [IMAGE...]",
    "Display detailed information on one or more images",
    Image,
    Images,
    FLAGS
);
of!(
    VOLUME,
    "volume inspect",
    "[OPTIONS] VOLUME [VOLUME...]",
    "Display detailed information on one or more volumes",
    Volume,
    Volumes,
    FLAGS
);

of!(
    NETWORK,
    "network inspect",
    "[OPTIONS] NETWORK [NETWORK...]",
    "Display detailed information on one or more networks",
    Network,
    Networks,
    FLAGS
);

#[derive(Debug, Clone, Copy)]
enum Kind {
    Network,
    Container,
    Image,
    Volume,
}

impl Kind {
    fn path(self, name: &str, size: bool) -> String {
        match self {
            Self::Container => Query::new(format!("/containers/{}/json", escape(name)))
                .flag("size", size)
                .build(),
            Self::Image => format!("/images/{}/json", escape_path(name)),
            Self::Volume => format!("/volumes/{}", escape(name)),
            Self::Network => format!("/networks/{}", escape(name)),
        }
    }
}

fn inspect(context: &Context, o: &InspectOptions, names: &[String], kinds: &[Kind]) -> Outcome {
    let template = match o.format.as_deref() {
        None | Some("" | "json") => None,
        Some(text) => {
            let text = text.replace("\\t", "\t").replace("\\n", "\n");
            Some(Template::parse(&text).map_err(|e| Failure::Message {
                message: e.to_string(),
                code: 64,
            })?)
        }
    };
    let mut found: Vec<Value> = Vec::new();
    let mut problems: Vec<String> = Vec::new();
    for name in names {
        match one(context, name, kinds, o.size) {
            Ok(Some(value)) => found.push(value),
            Ok(None) => problems.push(format!("Error: No such object: {name}")),
            Err(e) if e.is_transport() => return Err(e.into()),
            Err(e) => problems.push(e.to_string()),
        }
    }
    let text = match (&template, o.format.as_deref()) {
        (Some(template), _) => {
            let mut text = String::new();
            for value in &found {
                match template.render(value) {
                    Ok(line) => text.push_str(&format!("{line}\n")),
                    Err(e) => {
                        // Docker leaves the line of the object empty
                        text.push('\n');
                        problems.push(e.to_string());
                        break;
                    }
                }
            }
            if found.is_empty() { "\n".into() } else { text }
        }
        (None, Some("json")) => format!("{}\n", Value::Array(found)),
        _ => format!("{}\n", indented(&Value::Array(found))),
    };
    context.print(&text)?;
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure::say(problems.join("\n")))
}

/// The object of the first kind that has the name; `None` when several kinds were tried in vain.
fn one(
    context: &Context,
    name: &str,
    kinds: &[Kind],
    size: bool,
) -> Result<Option<Value>, HttpError> {
    let answer = |kind: &Kind| -> Result<Value, HttpError> {
        let bytes = context.client.get(&kind.path(name, size))?.bytes()?;
        // kept as it is: `null` is part of what is shown
        serde_json::from_slice(&bytes).map_err(|e| HttpError::Decode {
            what: format!("inspect {name}"),
            source: e.into(),
        })
    };
    for kind in kinds {
        match answer(kind) {
            Ok(value) => return Ok(Some(value)),
            Err(e) if e.status() == Some(404) && kinds.len() > 1 => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// Four spaces, as Docker indents.
fn indented(value: &Value) -> String {
    use serde::Serialize as _;
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    // writing JSON to memory cannot fail
    drop(value.serialize(&mut serializer));
    String::from_utf8(out).unwrap_or_default()
}
