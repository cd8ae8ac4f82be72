//! `exec`.

use std::path::PathBuf;

use runtime::oci::{Container, Exec, OciError, SubCgroup};
use runtime::spec::{Capabilities, Capability, LinuxCapabilities, Process, User};

use super::life::{descriptors, listen_fds};
use super::{Context, Failure, Outcome, Verb, foreground};
use crate::flags::{go_uint, switch, value};
use crate::verb::chain;

#[derive(Debug, Default)]
pub(super) struct ExecOptions {
    process: Option<PathBuf>,
    cwd: Option<String>,
    env: Vec<String>,
    user: Option<(u32, Option<u32>)>,
    groups: Vec<u32>,
    caps: Vec<String>,
    tty: bool,
    detach: bool,
    pid_file: Option<PathBuf>,
    console_socket: Option<PathBuf>,
    pidfd_socket: Option<PathBuf>,
    label: Option<String>,
    apparmor: Option<String>,
    no_new_privs: bool,
    preserve_fds: u32,
    cgroups: Vec<SubCgroup>,
    ignore_paused: bool,
}

fn id(text: &str) -> Result<u32, String> {
    let n = go_uint(text, 32)?;
    u32::try_from(n).map_err(|_| "value out of range".to_owned())
}

fn user(text: &str) -> Result<(u32, Option<u32>), String> {
    match text.split_once(':') {
        Some((uid, gid)) => Ok((id(uid)?, Some(id(gid)?))),
        None => Ok((id(text)?, None)),
    }
}

fn sub_cgroup(text: &str) -> SubCgroup {
    let (controller, path) = match text.split_once(':') {
        Some((c, path)) => (Some(c.to_owned()), path),
        None => (None, text),
    };
    SubCgroup {
        controller,
        path: path.trim_start_matches('/').into(),
    }
}

pub(super) static EXEC: Verb<ExecOptions> = Verb {
    name: "exec",
    usage: "[OPTIONS] CONTAINER COMMAND [ARG...] | --process FILE CONTAINER",
    about: "Run a further process in a container",
    operands: (1, usize::MAX),
    flags: &[PROCESS_FLAGS, HOW_FLAGS],
    run: |context, options, operands| {
        exec(context, &options, operands).map_err(|e| match e {
            Failure::Message(text, _) => Failure::Message(format!("exec failed: {text}"), 255),
            other => other,
        })
    },
};

const PROCESS_FLAGS: &[crate::flags::Flag<ExecOptions>] = &[
    value(
        "process",
        Some('p'),
        "file",
        |o, v| {
            o.process = Some(v.into());
            Ok(())
        },
        "JSON file that describes the process",
    ),
    value(
        "cwd",
        None,
        "dir",
        |o, v| {
            o.cwd = Some(v.to_owned());
            Ok(())
        },
        "Working directory in the container",
    ),
    value(
        "env",
        Some('e'),
        "name=value",
        |o, v| {
            o.env.push(v.to_owned());
            Ok(())
        },
        "Set an environment variable",
    ),
    value(
        "user",
        Some('u'),
        "uid[:gid]",
        |o, v| {
            o.user = Some(user(v)?);
            Ok(())
        },
        "User to run as",
    ),
    value(
        "additional-gids",
        Some('g'),
        "gid",
        |o, v| {
            o.groups.push(id(v)?);
            Ok(())
        },
        "Further group of the process",
    ),
    value(
        "cap",
        Some('c'),
        "name",
        |o, v| {
            o.caps.push(v.to_owned());
            Ok(())
        },
        "Further capability of the process",
    ),
    switch("tty", Some('t'), |o, v| o.tty = v, "Give it a terminal"),
    value(
        "process-label",
        None,
        "label",
        |o, v| {
            o.label = Some(v.to_owned());
            Ok(())
        },
        "SELinux label of the process",
    ),
    value(
        "apparmor",
        None,
        "profile",
        |o, v| {
            o.apparmor = Some(v.to_owned());
            Ok(())
        },
        "AppArmor profile of the process",
    ),
    switch(
        "no-new-privs",
        None,
        |o, v| o.no_new_privs = v,
        "Keep it from gaining privileges",
    ),
];

const HOW_FLAGS: &[crate::flags::Flag<ExecOptions>] = &[
    switch(
        "detach",
        Some('d'),
        |o, v| o.detach = v,
        "Leave the process in the background",
    ),
    value(
        "pid-file",
        None,
        "file",
        |o, v| {
            o.pid_file = Some(v.into());
            Ok(())
        },
        "File to write the process' id to",
    ),
    value(
        "console-socket",
        None,
        "socket",
        |o, v| {
            o.console_socket = Some(v.into());
            Ok(())
        },
        "Unix socket that is sent the terminal's master",
    ),
    value(
        "pidfd-socket",
        None,
        "socket",
        |o, v| {
            o.pidfd_socket = Some(v.into());
            Ok(())
        },
        "Unix socket that is sent a pidfd of the process",
    ),
    value(
        "preserve-fds",
        None,
        "n",
        |o, v| {
            o.preserve_fds = descriptors(v)?;
            Ok(())
        },
        "Descriptors for the program after stdio and LISTEN_FDS",
    ),
    value(
        "cgroup",
        None,
        "[controller:]path",
        |o, v| {
            o.cgroups.push(sub_cgroup(v));
            Ok(())
        },
        "Run it in a cgroup below the container's",
    ),
    switch(
        "ignore-paused",
        None,
        |o, v| o.ignore_paused = v,
        "Also in a paused container: it starts when that is resumed",
    ),
];

fn exec(context: &Context, options: &ExecOptions, operands: &[String]) -> Outcome {
    let container = context.runtime.container(&operands[0]).map_err(failed)?;
    let mut process = process_of(&container, options, &operands[1..])?;
    if let Some(size) = crate::term::size().filter(|_| !options.detach) {
        runtime::oci::size_console(&mut process, size);
    }
    let wanted = Exec {
        process: &process,
        pid_file: options.pid_file.as_deref(),
        console_socket: options.console_socket.as_deref(),
        pidfd_socket: options.pidfd_socket.as_deref(),
        preserve_fds: options.preserve_fds + listen_fds(),
        cgroups: &options.cgroups,
        ignore_paused: options.ignore_paused,
        detach: options.detach,
    };
    if options.detach {
        return context
            .runtime
            .exec(&container, &wanted)
            .map(drop)
            .map_err(failed);
    }
    let signals = foreground::take_signals();
    let running = context.runtime.exec(&container, &wanted).map_err(failed)?;
    match foreground::attend(running, signals)? {
        0 => Ok(()),
        code => Err(Failure::Code(code)),
    }
}

fn failed(e: OciError) -> Failure {
    Failure::Message(chain(&e), 255)
}

/// The process of `--process`, else the container's own with another program and the flags.
fn process_of(
    container: &Container,
    options: &ExecOptions,
    args: &[String],
) -> Result<Process, Failure> {
    if let Some(path) = &options.process {
        let said = |why: String| Failure::Message(format!("{}: {why}", path.display()), 255);
        let bytes = std::fs::read(path).map_err(|e| said(crate::verb::reason(&e)))?;
        let read = runtime::config::read_process(&bytes);
        return read
            .map(|(process, _)| process)
            .map_err(|e| said(chain(&e)));
    }
    if args.is_empty() {
        return Err(Failure::Message("process args cannot be empty".into(), 255));
    }
    let spec = container.spec().map_err(failed)?;
    let mut process = spec.process().clone().unwrap_or_default();
    process
        .set_args(Some(args.to_vec()))
        .set_terminal(Some(options.tty));
    if let Some(cwd) = &options.cwd {
        process.set_cwd(cwd.into());
    }
    if let Some(profile) = &options.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &options.label {
        process.set_selinux_label(Some(label.clone()));
    }
    if options.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(options.env.iter().cloned());
    process.set_env(Some(env));
    give_user(&mut process, options);
    give_capabilities(&mut process, &options.caps)?;
    Ok(process)
}

fn give_user(process: &mut Process, options: &ExecOptions) {
    if let Some((uid, gid)) = options.user {
        let mut user = User::default();
        user.set_uid(uid).set_gid(gid.unwrap_or(0));
        user.set_umask(process.user().umask());
        process.set_user(user);
    }
    if !options.groups.is_empty() {
        let mut user = process.user().clone();
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        groups.extend(&options.groups);
        user.set_additional_gids(Some(groups));
        process.set_user(user);
    }
}

/// To every set but the inheritable and the ambient one, which would outlive a change of user.
fn give_capabilities(process: &mut Process, names: &[String]) -> Result<(), Failure> {
    let mut more = Capabilities::new();
    for name in names {
        let bare = name.to_ascii_uppercase();
        let bare = bare.strip_prefix("CAP_").unwrap_or(&bare);
        let known: Capability = bare
            .parse()
            .map_err(|_| Failure::Message(format!("unknown capability {name:?}"), 255))?;
        more.insert(known);
    }
    if more.is_empty() {
        return Ok(());
    }
    let mut all: LinuxCapabilities = process.capabilities().clone().unwrap_or_default();
    let join = |set: &Option<Capabilities>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend(&more);
        Some(set)
    };
    all.set_bounding(join(all.bounding()));
    all.set_effective(join(all.effective()));
    all.set_permitted(join(all.permitted()));
    process.set_capabilities(Some(all));
    Ok(())
}
