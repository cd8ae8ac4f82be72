//! Verbs on images: load, save, import, export, commit, tag, rmi, prune.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use api::IdResponse;
use api::image::{ImageDeleteResponse, ImagePruneReport};
use api::stream::ProgressMessage;

use super::containers::{PruneOptions, confirmed, filter, with_filters};
use crate::flags::{refused, switch, value};
use crate::http::{Body, Query, Response, escape, escape_path};
use crate::human;
use crate::progress::{self, Counted};
use crate::term;
use crate::verb::{Context, Failure, Offer, Operands, Outcome, Verb, reason};

#[derive(Debug, Default)]
pub(crate) struct LoadOptions {
    input: Option<PathBuf>,
    quiet: bool,
}

pub(crate) static LOAD: Verb<LoadOptions> = Verb {
    path: "load",
    aliases: &["image load"],
    usage: "[OPTIONS]",
    about: "Load an image from a tar archive or STDIN",
    operands: Operands::None,
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[&[
        value(
            "input",
            Some('i'),
            "string",
            |o, v| {
                o.input = Some(v.into());
                Ok(())
            },
            "Read the archive from a file",
        ),
        switch("quiet", Some('q'), |o, v| o.quiet = v, "Show no progress"),
        value(
            "platform",
            None,
            "string",
            |_, v| super::create::platform(v),
            "Platform of the image; this machine's own",
        ),
    ]],
    run: load,
};

fn open(path: &Path) -> Result<(File, Option<u64>), Failure> {
    let file = File::open(path)
        .map_err(|e| Failure::say(format!("open {}: {}", path.display(), reason(&e))))?;
    let size = file
        .metadata()
        .ok()
        .filter(|m| m.is_file())
        .map(|m| m.len());
    Ok((file, size))
}

fn load(context: &Context, o: LoadOptions, _: Vec<String>) -> Outcome {
    let query = Query::new("/images/load").flag("quiet", true).build();
    let (mut source, size): (Box<dyn Read>, _) = match &o.input {
        Some(path) => {
            let (file, size) = open(path)?;
            (Box::new(file), size)
        }
        None if term::stdin_is_terminal() => {
            return Err(Failure::say(
                "requested load from stdin, but stdin is empty",
            ));
        }
        None => (Box::new(io::stdin()), None),
    };
    send_archive(context, &query, "loading", &mut *source, size, o.quiet)
}

/// Streams an archive to the daemon and prints what it says of it.
pub(crate) fn send_archive(
    context: &Context,
    query: &str,
    label: &str,
    source: &mut dyn Read,
    size: Option<u64>,
    quiet: bool,
) -> Outcome {
    let bar = if quiet {
        indicatif::ProgressBar::hidden()
    } else {
        progress::bar(label, size)
    };
    let mut counted = Counted::new(source, bar);
    let answer = context.client.send(
        "POST",
        query,
        Body::Stream("application/x-tar", &mut counted),
    );
    counted.finish();
    say_messages(answer?, |line| context.print(line))
}

/// Tells of a stream of progress messages; the last may be an error.
pub(super) fn say_messages(
    response: Response<'_>,
    mut tell: impl FnMut(&str) -> Outcome,
) -> Outcome {
    for line in BufReader::new(response).lines() {
        let line =
            line.map_err(|e| Failure::say(format!("the daemon's answer ends early: {e}")))?;
        if line.trim().is_empty() {
            continue;
        }
        let message: ProgressMessage =
            api::decode(line.as_bytes()).map_err(|e| Failure::say(e.to_string()))?;
        if !message.error.is_empty() {
            return Err(Failure::say(message.error));
        }
        // lines with an amount are steps of a progress, for a bar of their own
        if message.progress_detail.is_some() {
            continue;
        }
        if !message.stream.is_empty() {
            tell(&message.stream)?;
        } else if !message.status.is_empty() {
            let id = match message.id.is_empty() {
                true => String::new(),
                false => format!("{}: ", message.id),
            };
            tell(&format!("{id}{}\n", message.status))?;
        }
    }
    Ok(())
}

#[derive(Debug, Default)]
pub(crate) struct OutputOptions {
    output: Option<PathBuf>,
}

pub(crate) static SAVE: Verb<OutputOptions> = Verb {
    path: "save",
    aliases: &["image save"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Save one or more images to a tar archive (streamed to STDOUT by default)",
    operands: Operands::AtLeast(1),
    offer: Offer::Images,
    interspersed: true,
    flags: &[&[
        value(
            "output",
            Some('o'),
            "string",
            |o, v| {
                o.output = Some(v.into());
                Ok(())
            },
            "Write the archive to a file",
        ),
        value(
            "platform",
            None,
            "string",
            |_, v| super::create::platform(v),
            "Platform of the image; this machine's own",
        ),
    ]],
    run: |context, o, names| {
        let query = names
            .iter()
            .fold(Query::new("/images/get"), |q, n| q.with("names", n))
            .build();
        receive(context, &query, "saving", o.output.as_deref())
    },
};

pub(crate) static EXPORT: Verb<OutputOptions> = Verb {
    path: "export",
    aliases: &["container export"],
    usage: "[OPTIONS] CONTAINER",
    about: "Export a container's filesystem as a tar archive",
    operands: Operands::Exactly(1),
    offer: Offer::Containers,
    interspersed: true,
    flags: &[&[value(
        "output",
        Some('o'),
        "string",
        |o, v| {
            o.output = Some(v.into());
            Ok(())
        },
        "Write the archive to a file",
    )]],
    run: |context, o, names| {
        let path = format!("/containers/{}/export", escape(&names[0]));
        receive(context, &path, "exporting", o.output.as_deref())
    },
};

/// Streams an archive from the daemon into a file or standard output.
fn receive(context: &Context, path: &str, label: &str, output: Option<&Path>) -> Outcome {
    let Some(output) = output else {
        if term::stdout_is_terminal() {
            return Err(Failure::say(
                "cowardly refusing to save to a terminal. Use the -o flag or redirect",
            ));
        }
        let mut response = context.client.get(path)?;
        let mut stdout = io::stdout().lock();
        progress::copy(&mut response, &mut stdout, &progress::bar(label, None))?;
        stdout.flush()?;
        return Ok(());
    };
    let mut response = context.client.get(path)?;
    write_file(output, &mut response, label)
}

/// The whole archive or nothing: written beside the target, synced, renamed.
fn write_file(target: &Path, from: &mut dyn Read, label: &str) -> Outcome {
    let say = |what: &str, e: &io::Error| {
        Failure::say(format!("{what} {}: {}", target.display(), reason(e)))
    };
    // what is no plain file (/dev/stdout, a pipe) cannot be replaced
    if target.metadata().is_ok_and(|m| !m.is_file()) {
        let mut file = File::options()
            .write(true)
            .open(target)
            .map_err(|e| say("open", &e))?;
        progress::copy(from, &mut file, &progress::bar(label, None))
            .map_err(|e| say("write", &e))?;
        return Ok(());
    }
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = target.with_file_name(name);
    let write = || -> io::Result<()> {
        let mut file = File::create_new(&partial)?;
        progress::copy(from, &mut file, &progress::bar(label, None))?;
        file.sync_all()?;
        std::fs::rename(&partial, target)
    };
    write_and_tidy(write, &partial).map_err(|e| say("write", &e))
}

fn write_and_tidy(write: impl FnOnce() -> io::Result<()>, partial: &Path) -> io::Result<()> {
    let outcome = write();
    if outcome.is_err() {
        // the error of the write is the one to tell
        drop(std::fs::remove_file(partial));
    }
    outcome
}

#[derive(Debug)]
pub(crate) struct CommitOptions {
    author: String,
    message: String,
    pause: bool,
    changes: Vec<String>,
}

impl Default for CommitOptions {
    fn default() -> Self {
        Self {
            author: String::new(),
            message: String::new(),
            pause: true,
            changes: Vec::new(),
        }
    }
}

/// Repository and tag of a reference; a digest cannot be given to an image.
fn name_and_tag(reference: &str) -> Result<(String, String), Failure> {
    if reference.contains('@') {
        return Err(Failure::say(format!(
            "refusing to create a tag with a digest reference: {reference}"
        )));
    }
    Ok(match reference.rsplit_once(':') {
        // the colon of a registry's port is not that of a tag
        Some((name, tag)) if !tag.contains('/') => (name.to_owned(), tag.to_owned()),
        _ => (reference.to_owned(), String::new()),
    })
}

pub(crate) static COMMIT: Verb<CommitOptions> = Verb {
    path: "commit",
    aliases: &["container commit"],
    usage: "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    about: "Create a new image from a container's changes",
    operands: Operands::Between(1, 2),
    offer: Offer::Containers,
    interspersed: true,
    flags: &[&[
        value(
            "author",
            Some('a'),
            "string",
            |o, v| {
                v.clone_into(&mut o.author);
                Ok(())
            },
            "Who made it",
        ),
        value(
            "message",
            Some('m'),
            "string",
            |o, v| {
                v.clone_into(&mut o.message);
                Ok(())
            },
            "What was done",
        ),
        value(
            "change",
            Some('c'),
            "list",
            |o, v| {
                o.changes.push(v.to_owned());
                Ok(())
            },
            "Apply a Dockerfile instruction to the image",
        ),
        switch(
            "pause",
            Some('p'),
            |o, v| o.pause = v,
            "Pause the container meanwhile (default true)",
        ),
    ]],
    run: commit,
};

fn commit(context: &Context, o: CommitOptions, names: Vec<String>) -> Outcome {
    let (repository, tag) = match names.get(1) {
        Some(reference) => name_and_tag(reference)?,
        None => Default::default(),
    };
    let query = Query::new("/commit")
        .with("container", &names[0])
        .with("repo", &repository)
        .with("tag", &tag)
        .with("comment", &o.message)
        .with("author", &o.author)
        .with("pause", if o.pause { "1" } else { "0" });
    let query = o.changes.iter().fold(query, |q, c| q.with("changes", c));
    let spinner = progress::bar("committing", None);
    spinner.enable_steady_tick(std::time::Duration::from_millis(100));
    let answer = context
        .client
        .send("POST", &query.build(), Body::Json(b"null".to_vec()));
    spinner.finish_and_clear();
    let created: IdResponse = answer?.json()?;
    context.println(&created.id)
}

#[derive(Debug, Default)]
pub(crate) struct ImportOptions {
    changes: Vec<String>,
    message: Option<String>,
}

pub(crate) static IMPORT: Verb<ImportOptions> = Verb {
    path: "import",
    aliases: &["image import"],
    usage: "[OPTIONS] file|- [REPOSITORY[:TAG]]",
    about: "Import the contents from a tarball to create a filesystem image",
    operands: Operands::Between(1, 2),
    offer: Offer::Files,
    interspersed: true,
    flags: &[&[
        value(
            "change",
            Some('c'),
            "list",
            |o, v| {
                o.changes.push(v.to_owned());
                Ok(())
            },
            "Apply a Dockerfile instruction to the image",
        ),
        value(
            "message",
            Some('m'),
            "string",
            |o, v| {
                o.message = Some(v.to_owned());
                Ok(())
            },
            "What it is",
        ),
        value(
            "platform",
            None,
            "string",
            |_, v| super::create::platform(v),
            "Platform of the image; this machine's own",
        ),
    ]],
    run: import,
};

fn import(context: &Context, o: ImportOptions, names: Vec<String>) -> Outcome {
    if names[0].starts_with("http://") || names[0].starts_with("https://") {
        return Err(Failure::say(
            "import of a URL is not supported by this version: fetch it first and give the file",
        ));
    }
    let query = Query::new("/images/create").with("fromSrc", "-");
    let query = match names.get(1) {
        Some(reference) => {
            let (repository, tag) = name_and_tag(reference)?;
            query.with("repo", &repository).with("tag", &tag)
        }
        None => query,
    };
    let query = query.with_some("message", o.message.as_deref());
    let query = o
        .changes
        .iter()
        .fold(query, |q, c| q.with("changes", c))
        .build();
    if names[0] == "-" {
        return send_archive(context, &query, "importing", &mut io::stdin(), None, false);
    }
    let (mut file, size) = open(Path::new(&names[0]))?;
    send_archive(context, &query, "importing", &mut file, size, false)
}

pub(crate) static TAG: Verb<()> = Verb {
    path: "tag",
    aliases: &["image tag"],
    usage: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    about: "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    operands: Operands::Exactly(2),
    offer: Offer::Images,
    interspersed: true,
    flags: &[],
    run: |context, (), names| {
        let (repository, tag) = name_and_tag(&names[1])?;
        let tag = if tag.is_empty() { "latest" } else { &tag };
        let query = Query::new(format!("/images/{}/tag", escape_path(&names[0])))
            .with("repo", &repository)
            .with("tag", tag)
            .build();
        Ok(context.client.post(&query)?)
    },
};

#[derive(Debug, Default)]
pub(crate) struct RemoveOptions {
    force: bool,
    no_prune: bool,
}

pub(crate) static RMI: Verb<RemoveOptions> = Verb {
    path: "rmi",
    aliases: &["image rm", "image remove"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Remove one or more images",
    operands: Operands::AtLeast(1),
    offer: Offer::Images,
    interspersed: true,
    flags: &[&[
        switch(
            "force",
            Some('f'),
            |o, v| o.force = v,
            "Remove it although it has other names or stopped containers",
        ),
        switch(
            "no-prune",
            None,
            |o, v| o.no_prune = v,
            "Keep parents without a name",
        ),
        refused("platform", None, "images of several platforms come later"),
    ]],
    run: |context, o, names| {
        context.for_each(&names, |name| {
            let query = Query::new(format!("/images/{}", escape_path(name)))
                .flag("force", o.force)
                .flag("noprune", o.no_prune)
                .build();
            match context.client.send("DELETE", &query, Body::Empty) {
                Err(e) if o.force && e.status() == Some(404) => {
                    context.warn(&e.to_string());
                    Ok(None)
                }
                answer => {
                    let gone: Vec<ImageDeleteResponse> = answer?.json()?;
                    let lines: Vec<String> = gone
                        .iter()
                        .map(|g| removed(g, "Untagged", "Deleted"))
                        .collect();
                    Ok((!lines.is_empty()).then(|| lines.join("\n")))
                }
            }
        })
    },
};

fn removed(gone: &ImageDeleteResponse, untagged: &str, deleted: &str) -> String {
    if gone.deleted.is_empty() {
        format!("{untagged}: {}", gone.untagged)
    } else {
        format!("{deleted}: {}", gone.deleted)
    }
}

pub(crate) static PRUNE: Verb<PruneOptions> = Verb {
    path: "image prune",
    aliases: &[],
    usage: "[OPTIONS]",
    about: "Remove unused images",
    operands: Operands::None,
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[&[
        switch(
            "all",
            Some('a'),
            |o, v| o.all = v,
            "All that no container uses, not only those without a name",
        ),
        switch("force", Some('f'), |o, v| o.force = v, "Do not ask"),
        value(
            "filter",
            None,
            "filter",
            |o, v| filter(&mut o.filters, v),
            "Only those that match (until=TIME, label=KEY=VALUE)",
        ),
    ]],
    run: |context, mut o, _| {
        let warning = if o.all {
            "WARNING! This will remove all images without at least one container associated to them."
        } else {
            "WARNING! This will remove all dangling images."
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

/// Removes unused images; the report and the bytes freed.
pub(crate) fn prune(
    context: &Context,
    filters: &mut api::Filters,
    all: bool,
) -> Result<(String, u64), Failure> {
    filters.add("dangling", if all { "false" } else { "true" });
    let query = with_filters(Query::new("/images/prune"), filters).build();
    let report: ImagePruneReport = context.client.send("POST", &query, Body::Empty)?.json()?;
    let deleted = report.images_deleted.unwrap_or_default();
    let mut text = String::new();
    if !deleted.is_empty() {
        let lines: Vec<String> = deleted
            .iter()
            .map(|g| removed(g, "untagged", "deleted"))
            .collect();
        text = format!("Deleted Images:\n{}\n\n", lines.join("\n"));
    }
    Ok((text, report.space_reclaimed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        for (text, name, tag) in [
            ("x", "x", ""),
            ("x:1", "x", "1"),
            ("r:5000/x", "r:5000/x", ""),
            ("r:5000/x:1", "r:5000/x", "1"),
        ] {
            let (n, t) = name_and_tag(text).expect(text);
            assert_eq!((n.as_str(), t.as_str()), (name, tag));
        }
        assert!(name_and_tag("x@sha256:0").is_err());
    }

    #[test]
    fn a_failed_write_leaves_no_file() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("cut"))
            }
        }
        let dir = tempfile::tempdir().expect("a directory");
        let target = dir.path().join("x.tar");
        assert!(write_file(&target, &mut Broken, "x").is_err());
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0);
        write_file(&target, &mut &b"abc"[..], "x").expect("written");
        assert_eq!(std::fs::read(&target).expect("read"), b"abc");
    }
}
