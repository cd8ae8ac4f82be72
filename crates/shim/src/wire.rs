//! Messages between daemon, spawner and shim: explicit bytes, so that an older shim and a newer
//! daemon understand each other.
//!
//! ```text
//! message = kind: u16, id: u32, fields            one SEQPACKET datagram, little-endian
//! fields  = (tag: u16, length: u32, bytes)*       unknown tags are skipped, tags may repeat
//! ```
//!
//! A reply repeats the id of its request; events have id 0. An unknown kind is answered with
//! `ENOSYS`, never with silence. Kinds and tags are never given another meaning.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::launch::{
    AttachOptions, ExecLaunch, ExecStatus, Health, HealthCheck, HealthResult, HealthStatus, Launch,
    LogPlan, Phase, Status,
};

/// The longest message; a socket's default buffer takes several.
pub(crate) const MAX_MESSAGE: usize = 32 << 10;

pub(crate) mod kind {
    /// Descriptors: plan, control, root if `ROOT` is there, one per `ATTACH` field, as many as `HELD`
    /// says.
    pub(crate) const LAUNCH: u16 = 0x01;

    /// The shim exists. Descriptor: its pidfd.
    pub(crate) const FORKED: u16 = 0x10;
    /// The program runs. Descriptor: the pidfd of the container's first process.
    pub(crate) const STARTED: u16 = 0x11;
    /// A step failed, or (with `TEXT`) something of the shim's own.
    pub(crate) const FAILED: u16 = 0x12;

    pub(crate) const STATUS: u16 = 0x20;
    /// Descriptor: the shim's end of a stream socket.
    pub(crate) const ATTACH: u16 = 0x21;
    /// Descriptors: plan, then one if there is an `ATTACH` field.
    pub(crate) const EXEC: u16 = 0x22;
    pub(crate) const SIGNAL: u16 = 0x23;
    pub(crate) const RESIZE: u16 = 0x24;
    pub(crate) const ROOT: u16 = 0x25;
    /// Descriptor: the plan of the check, with its times as fields; without one, only asks.
    pub(crate) const HEALTH: u16 = 0x26;
    /// Descriptors: the sockets of the container's name server, datagrams and connections. Without
    /// them, only asks; the answer has `NAMES` where names are served.
    pub(crate) const NAMES: u16 = 0x27;
    /// Descriptors: to be kept open for as long as the container runs.
    pub(crate) const HOLD: u16 = 0x28;

    /// Descriptors as the request says: `ROOT` one.
    pub(crate) const OK: u16 = 0x30;
    pub(crate) const ERROR: u16 = 0x31;
    /// Descriptors: the shim's pidfd, then that of the container's first process if it ever ran,
    /// then those of exec'd processes that have not been told as exited.
    pub(crate) const STATUS_IS: u16 = 0x32;
    /// Descriptor: the process's pidfd.
    pub(crate) const EXEC_STARTED: u16 = 0x33;

    /// Without `HEALTH_STATUS` nothing is checked. As an event (id 0) it tells of a check's end.
    pub(crate) const HEALTH_IS: u16 = 0x34;

    pub(crate) const EXITED: u16 = 0x40;
    pub(crate) const OOM: u16 = 0x41;
    pub(crate) const EXEC_EXITED: u16 = 0x42;
}

pub(crate) mod tag {
    pub(crate) const ID: u16 = 1;
    pub(crate) const CONTAINER_DIR: u16 = 2;
    pub(crate) const RUN_DIR: u16 = 3;
    pub(crate) const TTY: u16 = 4;
    pub(crate) const ROWS: u16 = 5;
    pub(crate) const COLUMNS: u16 = 6;
    pub(crate) const OPEN_STDIN: u16 = 7;
    pub(crate) const STDIN_ONCE: u16 = 8;
    pub(crate) const LOG_PATH: u16 = 9;
    pub(crate) const LOG_MAX_SIZE: u16 = 10;
    pub(crate) const LOG_MAX_FILE: u16 = 11;
    pub(crate) const EPHEMERAL: u16 = 12;
    /// Nested fields: STDIN, STDOUT, STDERR, EXEC_ID, PATIENCE, AFTER_LOG.
    pub(crate) const ATTACH: u16 = 13;
    pub(crate) const STDIN: u16 = 14;
    pub(crate) const STDOUT: u16 = 15;
    pub(crate) const STDERR: u16 = 16;
    pub(crate) const EXEC_ID: u16 = 17;
    pub(crate) const PATIENCE_MS: u16 = 18;
    pub(crate) const KILL_ON_DISCONNECT: u16 = 19;
    pub(crate) const PID: u16 = 20;
    pub(crate) const START_TIME: u16 = 21;
    pub(crate) const SHIM_PID: u16 = 22;
    /// `StepError::to_bytes`.
    pub(crate) const STEP: u16 = 23;
    pub(crate) const TEXT: u16 = 24;
    pub(crate) const ERRNO: u16 = 25;
    pub(crate) const SIGNAL: u16 = 26;
    pub(crate) const ALL: u16 = 27;
    pub(crate) const PHASE: u16 = 28;
    pub(crate) const STARTED_AT: u16 = 29;
    pub(crate) const OOM_KILLED: u16 = 30;
    pub(crate) const LOG_DROPPED: u16 = 31;
    /// Nested fields: EXEC_ID, PID, CODE.
    pub(crate) const EXEC: u16 = 32;
    pub(crate) const CODE: u16 = 33;
    /// The exit record as in its file.
    pub(crate) const RECORD: u16 = 34;
    /// A descriptor of the root file system comes along.
    pub(crate) const ROOT: u16 = 35;
    /// Of the answer to ATTACH: what was written before is in the log up to here.
    pub(crate) const LOG_INODE: u16 = 36;
    pub(crate) const LOG_OFFSET: u16 = 37;
    pub(crate) const AFTER_LOG: u16 = 38;
    /// How many descriptors come along that are kept open as long as the shim lives, and that the
    /// plan may name by their index.
    pub(crate) const HELD: u16 = 39;
    /// Nanoseconds; so are the three that follow.
    pub(crate) const INTERVAL: u16 = 40;
    pub(crate) const TIMEOUT: u16 = 41;
    pub(crate) const START_PERIOD: u16 = 42;
    pub(crate) const START_INTERVAL: u16 = 43;
    pub(crate) const RETRIES: u16 = 44;
    /// 0 starting, 1 healthy, 2 unhealthy.
    pub(crate) const HEALTH_STATUS: u16 = 45;
    pub(crate) const STREAK: u16 = 46;
    /// Nested fields: STARTED_AT, ENDED_AT, CODE, TEXT.
    pub(crate) const RESULT: u16 = 47;
    pub(crate) const ENDED_AT: u16 = 48;
    /// The file of what a container may ask; with a launch, the last two of what is held are the
    /// sockets of its name server.
    pub(crate) const NAMES: u16 = 49;
    pub(crate) const LOG_ATTRIBUTES: u16 = 50;
}

/// Not a message of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message is damaged at byte {0}")]
pub(crate) struct Damaged(pub(crate) usize);

/// Builds a message or nested fields.
#[derive(Debug)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn message(kind: u16, id: u32) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
        Self { bytes }
    }

    fn nested() -> Self {
        Self { bytes: Vec::new() }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn bytes(&mut self, tag: u16, value: &[u8]) -> &mut Self {
        // a field longer than a message is refused when it is sent
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&tag.to_le_bytes());
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(value);
        self
    }

    pub(crate) fn str(&mut self, tag: u16, value: &str) -> &mut Self {
        self.bytes(tag, value.as_bytes())
    }

    pub(crate) fn path(&mut self, tag: u16, value: &Path) -> &mut Self {
        self.bytes(tag, value.as_os_str().as_bytes())
    }

    pub(crate) fn u64(&mut self, tag: u16, value: u64) -> &mut Self {
        self.bytes(tag, &value.to_le_bytes())
    }

    pub(crate) fn i32(&mut self, tag: u16, value: i32) -> &mut Self {
        self.bytes(tag, &value.to_le_bytes())
    }

    /// Present if true.
    pub(crate) fn flag(&mut self, tag: u16, value: bool) -> &mut Self {
        if value {
            self.bytes(tag, &[]);
        }
        self
    }
}

/// Fields of a message, checked to the last byte when made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Damaged> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            let (_, _, after) = split_field(rest).ok_or(Damaged(at))?;
            rest = after;
        }
        Ok(Self { bytes })
    }

    fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.bytes;
        std::iter::from_fn(move || {
            let (tag, value, after) = split_field(rest)?;
            rest = after;
            Some((tag, value))
        })
    }

    pub(crate) fn all(self, tag: u16) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |(t, _)| *t == tag).map(|(_, v)| v)
    }

    pub(crate) fn bytes(self, tag: u16) -> Option<&'a [u8]> {
        self.all(tag).next()
    }

    pub(crate) fn str(self, tag: u16) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(tag)?).ok()
    }

    pub(crate) fn path(self, tag: u16) -> Option<PathBuf> {
        let bytes = self.bytes(tag)?.to_vec();
        Some(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
    }

    pub(crate) fn u64(self, tag: u16) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(tag)?.try_into().ok()?))
    }

    pub(crate) fn i32(self, tag: u16) -> Option<i32> {
        Some(i32::from_le_bytes(self.bytes(tag)?.try_into().ok()?))
    }

    pub(crate) fn flag(self, tag: u16) -> bool {
        self.bytes(tag).is_some()
    }

    fn size(self) -> Option<(u16, u16)> {
        let rows = u16::try_from(self.i32(tag::ROWS)?).ok()?;
        let columns = u16::try_from(self.i32(tag::COLUMNS)?).ok()?;
        Some((rows, columns))
    }
}

fn split_field(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (value, rest) = rest.split_at_checked(length)?;
    Some((u16::from_le_bytes(*tag), value, rest))
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) id: u32,
    pub(crate) fields: Fields<'a>,
}

impl<'a> Message<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Damaged> {
        let (kind, rest) = bytes.split_first_chunk::<2>().ok_or(Damaged(0))?;
        let (id, rest) = rest.split_first_chunk::<4>().ok_or(Damaged(2))?;
        Ok(Self {
            kind: u16::from_le_bytes(*kind),
            id: u32::from_le_bytes(*id),
            fields: Fields::parse(rest).map_err(|Damaged(at)| Damaged(at + 6))?,
        })
    }
}

fn put_size(w: &mut Writer, size: Option<(u16, u16)>) {
    if let Some((rows, columns)) = size {
        w.i32(tag::ROWS, i32::from(rows));
        w.i32(tag::COLUMNS, i32::from(columns));
    }
}

pub(crate) fn put_attach(w: &mut Writer, options: &AttachOptions) {
    let mut inner = Writer::nested();
    inner.flag(tag::STDIN, options.stdin);
    inner.flag(tag::STDOUT, options.stdout);
    inner.flag(tag::STDERR, options.stderr);
    inner.flag(tag::AFTER_LOG, options.after_log);
    if let Some(exec_id) = &options.exec_id {
        inner.str(tag::EXEC_ID, exec_id);
    }
    if let Some(patience) = options.patience {
        let ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        inner.u64(tag::PATIENCE_MS, ms);
    }
    w.bytes(tag::ATTACH, &inner.bytes);
}

/// All `ATTACH` fields, in order.
pub(crate) fn attaches(fields: Fields<'_>) -> Result<Vec<AttachOptions>, Damaged> {
    fields
        .all(tag::ATTACH)
        .map(|bytes| {
            let f = Fields::parse(bytes)?;
            Ok(AttachOptions {
                stdin: f.flag(tag::STDIN),
                stdout: f.flag(tag::STDOUT),
                stderr: f.flag(tag::STDERR),
                after_log: f.flag(tag::AFTER_LOG),
                exec_id: f.str(tag::EXEC_ID).map(str::to_owned),
                patience: f
                    .u64(tag::PATIENCE_MS)
                    .map(std::time::Duration::from_millis),
            })
        })
        .collect()
}

pub(crate) fn put_launch(w: &mut Writer, launch: &Launch) {
    w.str(tag::ID, &launch.id);
    w.path(tag::CONTAINER_DIR, &launch.container_dir);
    w.path(tag::RUN_DIR, &launch.run_dir);
    w.flag(tag::TTY, launch.tty);
    put_size(w, launch.console_size);
    w.flag(tag::OPEN_STDIN, launch.open_stdin);
    w.flag(tag::STDIN_ONCE, launch.stdin_once);
    if let Some(log) = &launch.log {
        w.path(tag::LOG_PATH, &log.path);
        w.u64(tag::LOG_MAX_SIZE, log.max_size);
        w.u64(tag::LOG_MAX_FILE, u64::from(log.max_file));
        if !log.attributes.is_empty() {
            w.str(tag::LOG_ATTRIBUTES, &log.attributes);
        }
    }
    w.flag(tag::EPHEMERAL, launch.ephemeral);
    if let Some(names) = &launch.names {
        w.path(tag::NAMES, names);
    }
}

/// `None`: a field that cannot be absent is.
pub(crate) fn launch(f: Fields<'_>) -> Option<Launch> {
    let log = f.path(tag::LOG_PATH).map(|path| LogPlan {
        path,
        max_size: f.u64(tag::LOG_MAX_SIZE).unwrap_or(0),
        max_file: f
            .u64(tag::LOG_MAX_FILE)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(1),
        attributes: f.str(tag::LOG_ATTRIBUTES).unwrap_or_default().to_owned(),
    });
    Some(Launch {
        id: f.str(tag::ID)?.to_owned(),
        container_dir: f.path(tag::CONTAINER_DIR)?,
        run_dir: f.path(tag::RUN_DIR)?,
        tty: f.flag(tag::TTY),
        console_size: f.size(),
        open_stdin: f.flag(tag::OPEN_STDIN),
        stdin_once: f.flag(tag::STDIN_ONCE),
        log,
        ephemeral: f.flag(tag::EPHEMERAL),
        names: f.path(tag::NAMES),
    })
}

pub(crate) fn put_exec(w: &mut Writer, exec: &ExecLaunch) {
    w.str(tag::EXEC_ID, &exec.exec_id);
    w.flag(tag::TTY, exec.tty);
    put_size(w, exec.console_size);
    w.flag(tag::OPEN_STDIN, exec.open_stdin);
    w.flag(tag::KILL_ON_DISCONNECT, exec.kill_on_disconnect);
}

pub(crate) fn exec(f: Fields<'_>) -> Option<ExecLaunch> {
    Some(ExecLaunch {
        exec_id: f.str(tag::EXEC_ID)?.to_owned(),
        tty: f.flag(tag::TTY),
        console_size: f.size(),
        open_stdin: f.flag(tag::OPEN_STDIN),
        kill_on_disconnect: f.flag(tag::KILL_ON_DISCONNECT),
    })
}

pub(crate) fn put_check(w: &mut Writer, check: &HealthCheck) {
    let nanos = |d: std::time::Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    w.u64(tag::INTERVAL, nanos(check.interval));
    w.u64(tag::TIMEOUT, nanos(check.timeout));
    w.u64(tag::START_PERIOD, nanos(check.start_period));
    w.u64(tag::START_INTERVAL, nanos(check.start_interval));
    w.u64(tag::RETRIES, u64::from(check.retries));
}

pub(crate) fn check(f: Fields<'_>) -> Option<HealthCheck> {
    let time = |tag| Some(std::time::Duration::from_nanos(f.u64(tag)?));
    Some(HealthCheck {
        interval: time(tag::INTERVAL)?,
        timeout: time(tag::TIMEOUT)?,
        start_period: time(tag::START_PERIOD)?,
        start_interval: time(tag::START_INTERVAL)?,
        retries: u32::try_from(f.u64(tag::RETRIES)?).ok()?,
    })
}

pub(crate) fn put_health(w: &mut Writer, health: &Health) {
    let status = match health.status {
        HealthStatus::Starting => 0,
        HealthStatus::Healthy => 1,
        HealthStatus::Unhealthy => 2,
    };
    w.i32(tag::HEALTH_STATUS, status);
    w.u64(tag::STREAK, u64::from(health.failing_streak));
    for result in &health.log {
        let mut inner = Writer::nested();
        inner.str(tag::STARTED_AT, &result.start);
        inner.str(tag::ENDED_AT, &result.end);
        inner.i32(tag::CODE, result.code);
        inner.str(tag::TEXT, &result.output);
        w.bytes(tag::RESULT, &inner.bytes);
    }
}

/// `None`: nothing is checked.
pub(crate) fn health(f: Fields<'_>) -> Option<Health> {
    let result = |bytes| {
        let f = Fields::parse(bytes).ok()?;
        Some(HealthResult {
            start: f.str(tag::STARTED_AT)?.to_owned(),
            end: f.str(tag::ENDED_AT)?.to_owned(),
            code: f.i32(tag::CODE)?,
            output: f.str(tag::TEXT)?.to_owned(),
        })
    };
    Some(Health {
        status: match f.i32(tag::HEALTH_STATUS)? {
            0 => HealthStatus::Starting,
            1 => HealthStatus::Healthy,
            _ => HealthStatus::Unhealthy,
        },
        failing_streak: u32::try_from(f.u64(tag::STREAK)?).ok()?,
        log: f.all(tag::RESULT).filter_map(result).collect(),
    })
}

pub(crate) fn put_status(w: &mut Writer, status: &Status) {
    w.str(tag::ID, &status.id);
    let phase = match status.phase {
        Phase::Starting => 0,
        Phase::Running => 1,
        Phase::Exited => 2,
    };
    w.i32(tag::PHASE, phase);
    w.i32(tag::SHIM_PID, status.shim_pid);
    w.i32(tag::PID, status.pid);
    w.u64(tag::START_TIME, status.pid_start_time);
    w.str(tag::STARTED_AT, &status.started_at);
    w.flag(tag::TTY, status.tty);
    w.flag(tag::OOM_KILLED, status.oom_killed);
    w.u64(tag::LOG_DROPPED, status.log_lines_dropped);
    for exec in &status.execs {
        let mut inner = Writer::nested();
        inner.str(tag::EXEC_ID, &exec.exec_id);
        inner.i32(tag::PID, exec.pid);
        if let Some(code) = exec.code {
            inner.i32(tag::CODE, code);
        }
        w.bytes(tag::EXEC, &inner.bytes);
    }
}

pub(crate) fn status(f: Fields<'_>) -> Option<Status> {
    let exec = |bytes| {
        let f = Fields::parse(bytes).ok()?;
        Some(ExecStatus {
            exec_id: f.str(tag::EXEC_ID)?.to_owned(),
            pid: f.i32(tag::PID)?,
            code: f.i32(tag::CODE),
        })
    };
    Some(Status {
        id: f.str(tag::ID)?.to_owned(),
        phase: match f.i32(tag::PHASE)? {
            0 => Phase::Starting,
            1 => Phase::Running,
            _ => Phase::Exited,
        },
        shim_pid: f.i32(tag::SHIM_PID)?,
        pid: f.i32(tag::PID)?,
        pid_start_time: f.u64(tag::START_TIME)?,
        started_at: f.str(tag::STARTED_AT)?.to_owned(),
        tty: f.flag(tag::TTY),
        oom_killed: f.flag(tag::OOM_KILLED),
        log_lines_dropped: f.u64(tag::LOG_DROPPED).unwrap_or(0),
        execs: f.all(tag::EXEC).filter_map(exec).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn a_launch() -> impl Strategy<Value = Launch> {
        let log = proptest::option::of((any::<[String; 2]>(), any::<u64>(), any::<u32>()));
        let names = any::<Option<String>>();
        let flags = any::<[bool; 4]>();
        (
            any::<[String; 3]>(),
            flags,
            any::<Option<(u16, u16)>>(),
            (log, names),
        )
            .prop_map(
                |([id, dir, run], [tty, open_stdin, stdin_once, ephemeral], console_size, rest)| {
                    let (log, names) = rest;
                    Launch {
                        id,
                        container_dir: dir.into(),
                        run_dir: run.into(),
                        tty,
                        console_size,
                        open_stdin,
                        stdin_once,
                        log: log.map(|([path, attributes], max_size, max_file)| LogPlan {
                            path: path.into(),
                            max_size,
                            max_file,
                            attributes,
                        }),
                        ephemeral,
                        names: names.map(PathBuf::from),
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn a_launch_comes_back(wanted in a_launch()) {
            let mut w = Writer::message(kind::LAUNCH, 7);
            put_launch(&mut w, &wanted);
            let m = Message::parse(w.as_bytes()).unwrap();
            prop_assert_eq!((m.kind, m.id), (kind::LAUNCH, 7));
            prop_assert_eq!(launch(m.fields), Some(wanted));
        }

        #[test]
        fn attach_options_come_back(flags in any::<[bool; 3]>(), exec in any::<Option<String>>(),
                                    ms in any::<Option<u32>>()) {
            let wanted = AttachOptions {
                stdin: flags[0], stdout: flags[1], stderr: flags[2], after_log: true,
                exec_id: exec,
                patience: ms.map(|ms| std::time::Duration::from_millis(u64::from(ms))),
            };
            let mut w = Writer::message(kind::ATTACH, 1);
            put_attach(&mut w, &wanted);
            put_attach(&mut w, &wanted);
            let m = Message::parse(w.as_bytes()).unwrap();
            prop_assert_eq!(attaches(m.fields), Ok(vec![wanted.clone(), wanted]));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(m) = Message::parse(&bytes) {
                drop((launch(m.fields), exec(m.fields), status(m.fields), attaches(m.fields)));
            }
        }

        #[test]
        fn a_cut_message_is_refused_or_shorter(wanted in a_launch(), cut in any::<prop::sample::Index>()) {
            let mut w = Writer::message(kind::LAUNCH, 7);
            put_launch(&mut w, &wanted);
            let whole = w.as_bytes();
            let cut = cut.index(whole.len());
            if let Ok(m) = Message::parse(&whole[..cut]) {
                prop_assert!(m.fields.bytes.len() < whole.len() - 6);
            }
        }
    }

    #[test]
    fn unknown_tags_are_skipped() {
        let mut w = Writer::message(kind::EXEC, 1);
        w.bytes(999, b"from the future").str(tag::EXEC_ID, "e");
        let m = Message::parse(w.as_bytes()).unwrap();
        assert_eq!(exec(m.fields).unwrap().exec_id, "e");
    }

    /// The bytes on the wire are a promise between versions.
    #[test]
    fn golden_exec() {
        let mut w = Writer::message(kind::EXEC, 0x0102);
        put_exec(
            &mut w,
            &ExecLaunch {
                exec_id: "ab".into(),
                tty: true,
                console_size: Some((24, 80)),
                open_stdin: false,
                kill_on_disconnect: true,
            },
        );
        let golden: &[u8] = &[
            0x22, 0, 2, 1, 0, 0, // kind, id
            17, 0, 2, 0, 0, 0, b'a', b'b', // exec id
            4, 0, 0, 0, 0, 0, // tty
            5, 0, 4, 0, 0, 0, 24, 0, 0, 0, // rows
            6, 0, 4, 0, 0, 0, 80, 0, 0, 0, // columns
            19, 0, 0, 0, 0, 0, // kill on disconnect
        ];
        assert_eq!(w.as_bytes(), golden);
    }
}
