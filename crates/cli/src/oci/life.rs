//! `create`, `start`, `run`, `state`, `kill`, `delete`, `pause`, `resume`.

use std::path::PathBuf;

use runtime::oci::{Create, OciError, signal_number};

use super::{Context, Failure, Outcome, Verb, foreground};
use crate::flags::{Flag, go_uint, switch, value};

#[derive(Debug, Default)]
pub(super) struct CreateOptions {
    bundle: PathBuf,
    pid_file: Option<PathBuf>,
    console_socket: Option<PathBuf>,
    pidfd_socket: Option<PathBuf>,
    preserve_fds: u32,
    no_new_keyring: bool,
    no_pivot: bool,
    detach: bool,
    keep: bool,
    no_subreaper: bool,
}

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| text.into())
}

pub(super) fn descriptors(text: &str) -> Result<u32, String> {
    let n = go_uint(text, 16)?;
    u32::try_from(n).map_err(|_| "value out of range".to_owned())
}

const CREATE_FLAGS: &[Flag<CreateOptions>] = &[
    value(
        "bundle",
        Some('b'),
        "dir",
        |o, v| {
            o.bundle = v.into();
            Ok(())
        },
        "Directory with config.json (the current one)",
    ),
    value(
        "pid-file",
        None,
        "file",
        |o, v| {
            o.pid_file = path(v);
            Ok(())
        },
        "File to write the first process' id to",
    ),
    value(
        "console-socket",
        None,
        "socket",
        |o, v| {
            o.console_socket = path(v);
            Ok(())
        },
        "Unix socket that is sent the terminal's master",
    ),
    value(
        "pidfd-socket",
        None,
        "socket",
        |o, v| {
            o.pidfd_socket = path(v);
            Ok(())
        },
        "Unix socket that is sent a pidfd of the first process",
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
    switch(
        "no-new-keyring",
        None,
        |o, v| o.no_new_keyring = v,
        "Stay in the caller's session keyring",
    ),
    switch(
        "no-pivot",
        None,
        |o, v| o.no_pivot = v,
        "chroot instead of pivot_root, for a root on the initial ramdisk",
    ),
];

pub(super) static CREATE: Verb<CreateOptions> = Verb {
    name: "create",
    usage: "[OPTIONS] CONTAINER",
    about: "Make a container whose program waits for start",
    operands: (1, 1),
    flags: &[CREATE_FLAGS],
    run: |context, options, operands| {
        let wanted = Prepared::of(&options)?;
        context
            .runtime
            .create(&wanted.create(&options, &operands[0], true))
            .map_err(|e| context.failed("create", e))
    },
};

pub(super) static RUN: Verb<CreateOptions> = Verb {
    name: "run",
    usage: "[OPTIONS] CONTAINER",
    about: "Make a container and run its program",
    operands: (1, 1),
    flags: &[
        CREATE_FLAGS,
        &[
            switch(
                "detach",
                Some('d'),
                |o, v| o.detach = v,
                "Leave the program in the background",
            ),
            switch(
                "keep",
                None,
                |o, v| o.keep = v,
                "Keep the container when its program has ended",
            ),
            switch(
                "no-subreaper",
                None,
                |o, v| o.no_subreaper = v,
                "Don't adopt the container's orphans",
            ),
        ],
    ],
    run,
};

/// Paths made absolute before the bundle becomes the current directory.
struct Prepared {
    bundle: PathBuf,
    pid_file: Option<PathBuf>,
    preserve_fds: u32,
    listen_fds: u32,
}

impl Prepared {
    fn of(options: &CreateOptions) -> Result<Self, Failure> {
        let pid_file = options.pid_file.as_deref().map(std::path::absolute);
        if !options.bundle.as_os_str().is_empty() {
            rustix::process::chdir(&options.bundle).map_err(|e| {
                let why = crate::verb::reason(&e.into());
                Failure::Message(format!("chdir {}: {why}", options.bundle.display()), 1)
            })?;
        }
        Ok(Self {
            // relative paths of the spec count from here
            bundle: std::env::current_dir()?,
            pid_file: pid_file.transpose()?,
            preserve_fds: options.preserve_fds,
            listen_fds: listen_fds(),
        })
    }

    fn create<'a>(&'a self, options: &'a CreateOptions, id: &'a str, detach: bool) -> Create<'a> {
        Create {
            id,
            bundle: &self.bundle,
            pid_file: self.pid_file.as_deref(),
            console_socket: options.console_socket.as_deref(),
            pidfd_socket: options.pidfd_socket.as_deref(),
            preserve_fds: self.preserve_fds + self.listen_fds,
            listen_fds: self.listen_fds,
            no_new_keyring: options.no_new_keyring,
            no_pivot: options.no_pivot,
            detach,
            console_size: crate::term::size().filter(|_| !detach),
        }
    }
}

/// Sockets handed over by systemd, for this process or for any.
pub(super) fn listen_fds() -> u32 {
    let number = |name| -> Option<u32> { std::env::var(name).ok()?.parse().ok() };
    if number("LISTEN_PID").is_some_and(|pid| pid != std::process::id()) {
        return 0;
    }
    number("LISTEN_FDS").unwrap_or(0)
}

fn run(context: &Context, options: CreateOptions, operands: &[String]) -> Outcome {
    let id = &operands[0];
    let prepared = Prepared::of(&options)?;
    let wanted = prepared.create(&options, id, options.detach);
    let failed = |e: OciError| context.failed("run", e);
    if options.detach {
        return context.runtime.run(&wanted).map(drop).map_err(failed);
    }
    if !options.no_subreaper {
        let this = rustix::process::getpid();
        rustix::process::set_child_subreaper(Some(this)).map_err(std::io::Error::from)?;
    }
    // before the program is there: no signal may be lost
    let signals = foreground::take_signals();
    let running = context.runtime.run(&wanted).map_err(failed)?;
    let code = foreground::attend(running, signals)?;
    if !options.keep {
        let container = context.runtime.container(id)?;
        context.runtime.remove(&container)?;
    }
    if code == 0 {
        return Ok(());
    }
    Err(Failure::Code(code))
}

pub(super) static START: Verb<()> = Verb {
    name: "start",
    usage: "CONTAINER",
    about: "Run the program of a container that was created",
    operands: (1, 1),
    flags: &[],
    run: |context, (), operands| Ok(context.runtime.start(&operands[0])?),
};

pub(super) static STATE: Verb<()> = Verb {
    name: "state",
    usage: "CONTAINER",
    about: "Print the state of a container as JSON",
    operands: (1, 1),
    flags: &[],
    run: |context, (), operands| {
        let state = context.runtime.container(&operands[0])?.state();
        let text = serde_json::to_string_pretty(&state).map_err(std::io::Error::from)?;
        context.print(&text)
    },
};

#[derive(Debug, Default)]
pub(super) struct KillOptions {
    all: bool,
}

pub(super) static KILL: Verb<KillOptions> = Verb {
    name: "kill",
    usage: "[OPTIONS] CONTAINER [SIGNAL]",
    about: "Send a signal (TERM) to a container's first process",
    operands: (1, 2),
    flags: &[&[switch(
        "all",
        Some('a'),
        |o, v| o.all = v,
        "Send it to all processes of the container",
    )]],
    run: |context, options, operands| {
        let signal = signal_number(operands.get(1).map_or("SIGTERM", String::as_str))?;
        Ok(context.runtime.kill(&operands[0], signal, options.all)?)
    },
};

#[derive(Debug, Default)]
pub(super) struct DeleteOptions {
    force: bool,
}

pub(super) static DELETE: Verb<DeleteOptions> = Verb {
    name: "delete",
    usage: "[OPTIONS] CONTAINER",
    about: "Remove a container that has stopped",
    operands: (1, 1),
    flags: &[&[switch(
        "force",
        Some('f'),
        |o, v| o.force = v,
        "Kill it first when it still runs; no container is no error",
    )]],
    run: |context, options, operands| Ok(context.runtime.delete(&operands[0], options.force)?),
};

pub(super) static PAUSE: Verb<()> = Verb {
    name: "pause",
    usage: "CONTAINER",
    about: "Stop all processes of a container where they are",
    operands: (1, 1),
    flags: &[],
    run: |context, (), operands| Ok(context.runtime.pause(&operands[0])?),
};

pub(super) static RESUME: Verb<()> = Verb {
    name: "resume",
    usage: "CONTAINER",
    about: "Let the processes of a paused container go on",
    operands: (1, 1),
    flags: &[],
    run: |context, (), operands| Ok(context.runtime.resume(&operands[0])?),
};
