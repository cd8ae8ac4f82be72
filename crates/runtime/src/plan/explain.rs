//! A failed step in words.

use std::io;
use std::path::PathBuf;

use super::Plan;
use crate::{Detail, StepError};

/// What a step is called, and what to tell the user when it fails.
#[derive(Debug, Clone)]
pub(super) struct Label {
    pub(super) what: String,
    pub(super) hint: Hint,
}

#[derive(Debug, Clone)]
pub(super) enum Hint {
    None,
    Mount {
        source: Option<PathBuf>,
        /// The spec wants a read-only root.
        read_only: bool,
    },
    Cwd(PathBuf),
    Program {
        argv0: String,
        /// Looked for in PATH.
        in_path: bool,
    },
    Rlimit,
    Maps,
    HostsNamespace,
    Scheduler,
    User,
}

/// The error's own words, without Rust's "(os error 2)", in lower case.
fn words(errno: i32) -> String {
    let full = io::Error::from_raw_os_error(errno).to_string();
    let bare = full.split(" (os error").next().unwrap_or(&full);
    let mut chars = bare.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
}

fn mount(e: StepError, source: Option<&PathBuf>, read_only: bool) -> String {
    let no_entry = words(libc::ENOENT);
    let source = source.map(|s| s.display().to_string()).unwrap_or_default();
    let why = match (e.detail, e.errno) {
        (Detail::Source, libc::ENOENT) => format!("{source} does not exist on this host"),
        (Detail::Source, _) => format!("{source} can't be opened on this host"),
        (Detail::CreateTarget, libc::EROFS) => {
            return format!(
                "{no_entry}: the image has no such directory and the root is read-only"
            );
        }
        (Detail::CreateTarget, _) => {
            "the image has no such directory and it can't be made".to_owned()
        }
        (Detail::Target, libc::ENOENT) => "a link in the image leads nowhere".to_owned(),
        (Detail::Target, libc::ENOTDIR) => {
            "a part of the path is a file in the image, not a directory".to_owned()
        }
        (Detail::Target, libc::ELOOP) => {
            "it is a symbolic link in the image, where only a directory is safe".to_owned()
        }
        (Detail::Attach, libc::ENOTDIR | libc::EISDIR | libc::EINVAL) => {
            "one of source and target is a file, the other a directory".to_owned()
        }
        (Detail::NotGenuine, _) => "a mount over the kernel's own /proc is not allowed".to_owned(),
        (Detail::IdMap, libc::EINVAL | libc::EOPNOTSUPP) => {
            format!("the file system of {source} can't map ids, or a mount below it can't")
        }
        (Detail::IdMap, _) => format!("the ids of {source} can't be mapped"),
        (Detail::CopyUp, libc::ENOSPC) => {
            "what the image has there doesn't fit: raise size=".to_owned()
        }
        (Detail::CopyUp, _) => "what the image has there can't be copied into it".to_owned(),
        (Detail::Attributes, _) => "the kernel refused these mount options".to_owned(),
        (_, libc::EINVAL) => "the kernel refused the file system's options".to_owned(),
        (_, libc::EROFS) if read_only => "the root is read-only".to_owned(),
        _ => return words(e.errno),
    };
    format!("{}: {why}", words(e.errno))
}

impl Plan {
    /// What failed, in words that name the thing and where the user can act, such as
    /// `mount volume data at /data: no such file or directory: ...`. For the program itself the
    /// words are Docker's (`exec: "x": executable file not found in $PATH`), since clients map
    /// them to exit codes.
    #[must_use]
    pub fn explain(&self, error: StepError) -> String {
        let Some(label) = self.labels.get(error.step as usize) else {
            return format!("start: {}", words(error.errno));
        };
        let what = &label.what;
        if error.detail == Detail::Vanished {
            return format!("{what}: the process was killed while it was being set up");
        }
        match &label.hint {
            Hint::Program { argv0, in_path } => match error.errno {
                libc::ENOENT if *in_path => {
                    format!("exec: {argv0:?}: executable file not found in $PATH")
                }
                libc::ENOENT => format!("exec: {argv0:?}: stat {argv0}: no such file or directory"),
                errno => format!("exec: {argv0:?}: {}", words(errno)),
            },
            Hint::Mount { source, read_only } => {
                format!("{what}: {}", mount(error, source.as_ref(), *read_only))
            }
            Hint::Cwd(path) => match error.detail {
                Detail::NotGenuine => format!("{what}: the directory lies outside the container"),
                _ => format!("chdir to cwd ({:?}): {}", path, words(error.errno)),
            },
            Hint::Rlimit if error.errno == libc::EPERM => format!(
                "{what}: {}: it is above this host's limit, which can't be raised without \
                 CAP_SYS_RESOURCE",
                words(error.errno)
            ),
            Hint::Maps if error.errno == libc::ENOENT => format!(
                "{what}: several ids without privilege need newuidmap and newgidmap: install them \
                 (package uidmap), or map the own id alone"
            ),
            Hint::Maps if error.errno == libc::EPERM => format!(
                "{what}: {}: these ids aren't lent to this user in /etc/subuid and /etc/subgid",
                words(error.errno)
            ),
            Hint::HostsNamespace if error.detail == Detail::NotGenuine => format!(
                "{what}: it is the host's own, which a host name or sysctl would change: give the \
                 container one of its own"
            ),
            Hint::Scheduler if error.errno == libc::EPERM => format!(
                "{what}: {}: it needs CAP_SYS_NICE, and for real time a share of cpu.rt_runtime_us",
                words(error.errno)
            ),
            Hint::User if error.errno == libc::EINVAL => format!(
                "{what}: {}: one of these ids isn't mapped in the container's user namespace",
                words(error.errno)
            ),
            Hint::None
            | Hint::User
            | Hint::Rlimit
            | Hint::Maps
            | Hint::HostsNamespace
            | Hint::Scheduler => match error.detail {
                Detail::NotGenuine => {
                    format!("{what}: a file that must be the kernel's own isn't")
                }
                _ => format!("{what}: {}", words(error.errno)),
            },
        }
    }

    /// The exit code that stands for this failure: 127 program not found, 126 it can't be
    /// executed, 125 anything of ours.
    #[must_use]
    pub fn exit_code(&self, error: StepError) -> u8 {
        let hint = self.labels.get(error.step as usize).map(|l| &l.hint);
        match (hint, error.errno) {
            (Some(Hint::Program { .. } | Hint::Cwd(_)), libc::ENOENT) => 127,
            (Some(Hint::Program { .. } | Hint::Cwd(_)), _) => 126,
            _ => 125,
        }
    }
}
