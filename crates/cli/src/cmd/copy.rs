//! `cp`: files between a container and here, as one archive each way.
//!
//! What an archive from a container may make here is decided by `store::archive_path`: everything
//! is resolved beneath the destination's own directory, links in the archive lead nowhere else.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use api::container::{PathStat, go_mode};
use store::archive_path::{TarOptions, UntarOptions, tar_tree, untar_into};
use store::tar::{Kind, Reader, Writer};

use crate::flags::switch;
use crate::http::{Body, HttpError, Query, Response, escape};
use crate::human;
use crate::term;
use crate::verb::{Context, Failure, Offer, Operands, Outcome, Verb, chain, reason};

#[derive(Debug, Default)]
pub(crate) struct CopyOptions {
    archive: bool,
    follow: bool,
    quiet: bool,
}

pub(crate) static CP: Verb<CopyOptions> = Verb {
    path: "cp",
    aliases: &["container cp"],
    usage: "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\tplimsoll cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    about: "Copy files/folders between a container and the local filesystem\n\n'-' as the source reads a tar archive from standard input, as the destination writes one to standard output.",
    operands: Operands::Exactly(2),
    offer: Offer::Files,
    interspersed: true,
    flags: &[&[
        switch(
            "archive",
            Some('a'),
            |o, v| o.archive = v,
            "Keep users and groups",
        ),
        switch(
            "follow-link",
            Some('L'),
            |o, v| o.follow = v,
            "Follow symbolic links of the source",
        ),
        switch("quiet", Some('q'), |o, v| o.quiet = v, "Say nothing"),
    ]],
    run: |context, o, paths| match (split(&paths[0]), split(&paths[1])) {
        (Some(_), Some(_)) => Err(Failure::say("copying between containers is not supported")),
        (Some((container, path)), None) => from_container(context, &o, container, path, &paths[1]),
        (None, Some((container, path))) => to_container(context, &o, &paths[0], container, path),
        (None, None) => Err(Failure::say("must specify at least one container source")),
    },
};

/// `CONTAINER:PATH`; a path that begins with `/` or `.` is a local one whatever follows.
fn split(text: &str) -> Option<(&str, &str)> {
    if text.starts_with(['/', '.']) {
        return None;
    }
    text.split_once(':')
        .filter(|(container, _)| !container.is_empty())
}

fn archive_path(container: &str, path: &str) -> Query {
    Query::new(format!("/containers/{}/archive", escape(container))).with("path", path)
}

/// What is at a path in the container; `None`: nothing.
fn stat(context: &Context, container: &str, path: &str) -> Result<Option<PathStat>, Failure> {
    let answer = context
        .client
        .send("HEAD", &archive_path(container, path).build(), Body::Empty);
    let response = match answer {
        Ok(response) => response,
        // a HEAD has no body to tell a missing container from a missing path
        Err(e) if e.status() == Some(404) => {
            context
                .client
                .get(&format!("/containers/{}/json", escape(container)))
                .and_then(Response::discard)?;
            return Ok(None);
        }
        Err(e) => return Err(e.into()),
    };
    let header = response
        .header("X-Docker-Container-Path-Stat")
        .unwrap_or_default();
    let text = api::base64::decode(header)
        .ok_or_else(|| Failure::say("the daemon's answer to HEAD archive has no stat"))?;
    let stat = api::decode(&text).map_err(|e| Failure::say(e.to_string()))?;
    response.discard()?;
    Ok(Some(stat))
}

/// A path without what only says "the content": its plain form, and whether that was asked.
fn content_only(path: &str) -> (&str, bool) {
    match path.strip_suffix("/.") {
        Some("") => ("/", true),
        Some(rest) => (rest, true),
        None if path == "." => (path, true),
        None => (path, false),
    }
}

fn base(path: &str) -> String {
    let path = path.trim_end_matches('/');
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// Where a copy goes: the directory that receives it, and the name it gets there (`None`: only its
/// content goes there).
#[derive(Debug, PartialEq, Eq)]
struct Landing {
    directory: String,
    name: Option<String>,
}

/// What is at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    Nothing,
    Directory,
    File,
}

/// source: docs.docker.com/reference/cli/docker/container/cp
fn landing(
    source: &str,
    source_is_dir: bool,
    destination: &str,
    there: There,
) -> Result<Landing, String> {
    let (plain, content) = content_only(source);
    let parent = || {
        let trimmed = destination.trim_end_matches('/');
        let parent = match trimmed.rsplit_once('/') {
            Some(("", _)) => "/",
            Some((parent, _)) => parent,
            None => ".",
        };
        Landing {
            directory: parent.to_owned(),
            name: Some(base(trimmed)),
        }
    };
    match there {
        There::Directory => Ok(Landing {
            directory: destination.to_owned(),
            name: (!content && !base(plain).is_empty()).then(|| base(plain)),
        }),
        There::File if source_is_dir => Err(format!("cannot copy directory to file {destination}")),
        There::File if destination.ends_with('/') => {
            Err(format!("{destination} is not a directory"))
        }
        There::Nothing if !source_is_dir && destination.ends_with('/') => {
            Err(format!("no such directory: {destination}"))
        }
        _ => Ok(parent()),
    }
}

fn done(context: &Context, o: &CopyOptions, bytes: u64, to: &str) {
    if !o.quiet && term::stderr_is_terminal() {
        context.warn(&format!(
            "Successfully copied {} to {to}",
            human::size4(bytes as f64)
        ));
    }
}

fn from_container(
    context: &Context,
    o: &CopyOptions,
    container: &str,
    path: &str,
    destination: &str,
) -> Outcome {
    let mut asked = absolute(content_only(path).0);
    let missing = || {
        Failure::say(format!(
            "Error response from daemon: Could not find the file {path} in container {container}"
        ))
    };
    let mut found = stat(context, container, &asked)?.ok_or_else(missing)?;
    let follow = o.follow || content_only(path).1 || path.ends_with('/');
    if follow && found.mode & go_mode::SYMLINK != 0 && !found.link_target.is_empty() {
        asked = found.link_target;
        found = stat(context, container, &asked)?.ok_or_else(missing)?;
    }
    let query = archive_path(container, &asked).build();
    let mut response = context.client.get(&query)?;
    if destination == "-" {
        let mut out = io::stdout().lock();
        io::copy(&mut response, &mut out)?;
        out.flush()?;
        return Ok(());
    }
    let there = match std::fs::metadata(destination) {
        Ok(m) if m.is_dir() => There::Directory,
        Ok(_) => There::File,
        Err(_) => There::Nothing,
    };
    let is_dir = found.mode & go_mode::DIR != 0;
    let landing = landing(path, is_dir, destination, there).map_err(Failure::say)?;
    let bytes = unpack(response, &landing, o.archive)?;
    done(context, o, bytes, destination);
    Ok(())
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

/// Unpacks what comes, with its top renamed, into the landing's directory.
fn unpack(mut from: Response<'_>, landing: &Landing, keep_owners: bool) -> Result<u64, Failure> {
    let directory = &landing.directory;
    let root = std::fs::File::open(directory)
        .map_err(|e| Failure::say(format!("{directory}: {}", reason(&e))))?;
    let (mut reader, writer) = io::pipe()?;
    let options = UntarOptions {
        throwaway: false,
        no_overwrite_dir_non_dir: true,
        // ours, unless the archive's were asked for
        owner: (!keep_owners).then(|| {
            (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            )
        }),
    };
    std::thread::scope(|scope| {
        let unpacking = scope.spawn(move || {
            use std::os::fd::AsFd as _;
            untar_into(root.as_fd(), "/", &mut reader, &options).map_err(|e| chain(&e))
        });
        let renamed = rename_top(&mut from, writer, landing.name.as_deref());
        let unpacked = unpacking
            .join()
            .unwrap_or_else(|_| Err("the unpacking thread panicked".into()));
        // what the disk refused explains a broken pipe, not the other way round
        unpacked.map_err(Failure::say)?;
        renamed.map_err(Failure::say)
    })
}

/// Copies an archive with the first part of every path replaced, or removed.
fn rename_top(from: &mut dyn Read, to: PipeWriter, name: Option<&str>) -> Result<u64, String> {
    let mut reader = Reader::new(io::BufReader::with_capacity(256 * 1024, from));
    let mut writer = Writer::new(to);
    let mut bytes = 0;
    let rename = |path: &[u8]| -> Vec<u8> {
        let path = path.strip_prefix(b"./").unwrap_or(path);
        let rest = path
            .iter()
            .position(|b| *b == b'/')
            .map_or(&b""[..], |at| &path[at + 1..]);
        let mut out = name.unwrap_or(".").as_bytes().to_vec();
        if !rest.is_empty() {
            out.push(b'/');
            out.extend_from_slice(rest);
        }
        out
    };
    while let Some(mut entry) = reader.next_entry().map_err(|e| chain(&e))? {
        entry.path = rename(&entry.path);
        if entry.kind == Kind::HardLink {
            entry.link = rename(&entry.link);
        }
        bytes += entry.logical_size();
        writer.start(&entry).map_err(|e| reason(&e))?;
        loop {
            let data = reader.data().map_err(|e| chain(&e))?;
            if data.is_empty() {
                break;
            }
            writer.write_data(data).map_err(|e| reason(&e))?;
            let n = data.len();
            reader.consume(n);
        }
    }
    writer.finish().map_err(|e| reason(&e))?;
    Ok(bytes)
}

fn to_container(
    context: &Context,
    o: &CopyOptions,
    source: &str,
    container: &str,
    path: &str,
) -> Outcome {
    let mut destination = absolute(path);
    let mut found = stat(context, container, &destination)?;
    if let Some(stat_of) = &found
        && stat_of.mode & go_mode::SYMLINK != 0
        && !stat_of.link_target.is_empty()
    {
        destination.clone_from(&stat_of.link_target);
        found = stat(context, container, &destination)?;
    }
    let there = match &found {
        None => There::Nothing,
        Some(s) if s.mode & go_mode::DIR != 0 => There::Directory,
        Some(_) => There::File,
    };
    if source == "-" {
        if there != There::Directory {
            return Err(Failure::say(format!(
                "destination \"{container}:{path}\" must be a directory"
            )));
        }
        return put(context, o, container, &destination, &mut io::stdin());
    }
    let local = PathBuf::from(content_only(source).0);
    let local = if o.follow {
        std::fs::canonicalize(&local)
    } else {
        std::path::absolute(&local)
    }
    .map_err(|e| Failure::say(format!("{source}: {}", reason(&e))))?;
    let metadata = if content_only(source).1 || source.ends_with('/') {
        std::fs::metadata(&local)
    } else {
        std::fs::symlink_metadata(&local)
    }
    .map_err(|e| Failure::say(format!("lstat {}: {}", local.display(), reason(&e))))?;
    let named = if content_only(source).1 {
        source.to_owned()
    } else {
        local.display().to_string()
    };
    let landing = landing(&named, metadata.is_dir(), &destination, there).map_err(Failure::say)?;
    let mut produced = Produced::new(&local, landing.name.unwrap_or_default())?;
    put(context, o, container, &landing.directory, &mut produced)?;
    done(context, o, produced.bytes, &format!("{container}:{path}"));
    Ok(())
}

fn put(
    context: &Context,
    o: &CopyOptions,
    container: &str,
    directory: &str,
    source: &mut dyn Read,
) -> Outcome {
    let query = archive_path(container, directory)
        .with("noOverwriteDirNonDir", "true")
        .flag("copyUIDGID", o.archive)
        .build();
    context
        .client
        .send("PUT", &query, Body::Stream("application/x-tar", source))
        .and_then(Response::discard)
        .map_err(|e| match e {
            HttpError::Io { source, .. } if source.kind() == io::ErrorKind::Other => {
                Failure::say(source.to_string())
            }
            other => other.into(),
        })
}

/// A local tree as an archive, packed by a thread. If packing fails, reading fails: an archive that
/// merely ends would be taken for a whole one.
struct Produced {
    pipe: PipeReader,
    packing: Option<JoinHandle<Result<(), String>>>,
    bytes: u64,
}

impl Produced {
    fn new(local: &Path, name: String) -> Result<Self, Failure> {
        let (pipe, mut writer) = io::pipe()?;
        let root = std::fs::File::open("/")?;
        let path = local
            .to_str()
            .ok_or_else(|| Failure::say(format!("{}: the path is not UTF-8", local.display())))?
            .to_owned();
        let options = TarOptions {
            rename: Some(name),
            ..TarOptions::default()
        };
        let packing = std::thread::spawn(move || {
            use std::os::fd::AsFd as _;
            tar_tree(root.as_fd(), &path, &mut writer, &options).map_err(|e| chain(&e))
        });
        Ok(Self {
            pipe,
            packing: Some(packing),
            bytes: 0,
        })
    }
}

impl Read for Produced {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.pipe.read(buf)?;
        self.bytes += n as u64;
        if n == 0
            && let Some(packing) = self.packing.take()
        {
            packing
                .join()
                .unwrap_or_else(|_| Err("the packing thread panicked".into()))
                .map_err(io::Error::other)?;
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        assert_eq!(split("c:/x"), Some(("c", "/x")));
        assert_eq!(split("./c:x"), None);
        assert_eq!(split("/c:x"), None);
        assert_eq!(split("x"), None);
        assert_eq!(split("-"), None);
    }

    #[test]
    fn landings_as_docker_documents_them() {
        let at = |directory: &str, name: Option<&str>| {
            Ok(Landing {
                directory: directory.into(),
                name: name.map(str::to_owned),
            })
        };
        use There::{Directory, File, Nothing};
        for (source, is_dir, destination, there, want) in [
            ("/a/f", false, "/b", Nothing, at("/", Some("b"))),
            ("/a/f", false, "/b/c", Nothing, at("/b", Some("c"))),
            ("/a/f", false, "x", Nothing, at(".", Some("x"))),
            (
                "/a/f",
                false,
                "/b/",
                Nothing,
                Err("no such directory: /b/".into()),
            ),
            ("/a/f", false, "/b", File, at("/", Some("b"))),
            ("/a/f", false, "/b", Directory, at("/b", Some("f"))),
            ("/a/d", true, "/b", Nothing, at("/", Some("b"))),
            ("/a/d", true, "/b/", Nothing, at("/", Some("b"))),
            (
                "/a/d",
                true,
                "/b",
                File,
                Err("cannot copy directory to file /b".into()),
            ),
            ("/a/d", true, "/b", Directory, at("/b", Some("d"))),
            ("/a/d/", true, "/b", Directory, at("/b", Some("d"))),
            ("/a/d/.", true, "/b", Directory, at("/b", None)),
            ("/a/d/.", true, "/b", Nothing, at("/", Some("b"))),
            ("/", true, "/b", Directory, at("/b", None)),
        ] {
            assert_eq!(
                landing(source, is_dir, destination, there),
                want,
                "{source} {destination}"
            );
        }
    }

    #[test]
    fn the_top_is_renamed_in_links_too() {
        use store::tar::Entry;
        let mut tar = Writer::new(Vec::new());
        tar.append(&Entry::new(Kind::Directory, b"d", 0o755), b"")
            .expect("written");
        let mut file = Entry::new(Kind::File, b"d/f", 0o644);
        file.size = 3;
        tar.append(&file, b"abc").expect("written");
        let mut link = Entry::new(Kind::HardLink, b"d/l", 0o644);
        link.link = b"d/f".to_vec();
        tar.append(&link, b"").expect("written");
        let bytes = tar.finish().expect("written");
        for (name, want) in [
            (Some("new"), "new new/f new/l>new/f"),
            (None, ". ./f ./l>./f"),
        ] {
            let (mut reader, writer) = io::pipe().expect("a pipe");
            assert_eq!(rename_top(&mut &bytes[..], writer, name), Ok(3));
            let mut all = Vec::new();
            reader.read_to_end(&mut all).expect("read");
            let mut renamed = Reader::new(&all[..]);
            let mut got = Vec::new();
            while let Some(entry) = renamed.next_entry().expect("an entry") {
                let mut text = entry.name();
                if entry.kind == Kind::HardLink {
                    text.push_str(&format!(">{}", String::from_utf8_lossy(&entry.link)));
                }
                got.push(text);
                loop {
                    let n = renamed.data().expect("data").len();
                    if n == 0 {
                        break;
                    }
                    renamed.consume(n);
                }
            }
            assert_eq!(got.join(" "), want);
        }
    }

    #[test]
    fn base64_of_both_alphabets() {
        use api::base64::decode;
        assert_eq!(decode("eyJhIjoxfQ==").as_deref(), Some(&b"{\"a\":1}"[..]));
        assert_eq!(decode("__8"), Some(vec![255, 255]));
        assert_eq!(decode("!"), None);
    }
}
