//! A connection to a message bus, synchronous, every wait with a deadline.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::wire::{Call, ERROR, METHOD_RETURN, Message, Reader, SIGNAL, Writer};
use super::{Manager, SystemdError};

const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
const SYSTEMD: &str = "org.freedesktop.systemd1";
const SYSTEMD_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// A line of the authentication is short.
const MOST_LINE: usize = 512;

#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    until: Instant,
    /// What was waited for, for the error.
    waiting: &'static str,
    signals: VecDeque<Message>,
}

/// Where the bus of a manager listens.
pub(super) fn socket(manager: Manager) -> Result<PathBuf, SystemdError> {
    if manager == Manager::System {
        return Ok(PathBuf::from(SYSTEM_BUS));
    }
    let address = std::env::var("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
    let path = address
        .split(';')
        .find_map(|a| a.strip_prefix("unix:path="))
        .map(|p| PathBuf::from(p.split(',').next().unwrap_or(p)));
    let runtime = || std::env::var_os("XDG_RUNTIME_DIR").map(|d| PathBuf::from(d).join("bus"));
    path.or_else(runtime).ok_or(SystemdError::NoUserBus)
}

impl Bus {
    pub(super) fn connect(socket: &Path, deadline: Duration) -> Result<Self, SystemdError> {
        let stream = UnixStream::connect(socket).map_err(|source| SystemdError::Connect {
            path: socket.to_owned(),
            source,
        })?;
        let mut bus = Self {
            stream,
            serial: 0,
            until: Instant::now() + deadline,
            waiting: "the message bus to let us in",
            signals: VecDeque::new(),
        };
        bus.authenticate()?;
        bus.call(&Call {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "Hello",
            signature: "",
            body: &[],
        })?;
        Ok(bus)
    }

    /// Signals that jobs end come from now on.
    pub(super) fn subscribe(&mut self) -> Result<(), SystemdError> {
        let mut rule = Writer::default();
        rule.string(
            "type='signal',sender='org.freedesktop.systemd1',\
             interface='org.freedesktop.systemd1.Manager',member='JobRemoved'",
        );
        self.call(&Call {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "AddMatch",
            signature: "s",
            body: &rule.into_bytes(),
        })?;
        self.manager("Subscribe", "", &[]).map(drop)
    }

    /// A method of systemd's manager; the answer's body.
    pub(super) fn manager(
        &mut self,
        member: &'static str,
        signature: &str,
        body: &[u8],
    ) -> Result<Vec<u8>, SystemdError> {
        self.waiting = member;
        self.call(&Call {
            destination: SYSTEMD,
            path: SYSTEMD_PATH,
            interface: MANAGER,
            member,
            signature,
            body,
        })
    }

    /// A text property of systemd's manager.
    pub(super) fn property(&mut self, name: &str) -> Result<String, SystemdError> {
        let mut body = Writer::default();
        body.string(MANAGER);
        body.string(name);
        self.waiting = "a property of systemd";
        let answer = self.call(&Call {
            destination: SYSTEMD,
            path: SYSTEMD_PATH,
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
            signature: "ss",
            body: &body.into_bytes(),
        })?;
        let mut r = Reader::new(&answer);
        let text = r.signature().filter(|s| *s == "s").and_then(|_| r.string());
        text.map(str::to_owned).ok_or(SystemdError::Garbled)
    }

    /// Waits until a job is done; its result.
    pub(super) fn job_result(&mut self, job: &str) -> Result<String, SystemdError> {
        self.waiting = "a job of systemd to end";
        loop {
            let message = match self.signals.pop_front() {
                Some(kept) => kept,
                None => self.receive()?,
            };
            if message.kind != SIGNAL || message.member != "JobRemoved" {
                continue;
            }
            // (u id, o job, s unit, s result)
            let mut r = Reader::new(&message.body);
            let fields = (r.u32(), r.string(), r.string(), r.string());
            if let (Some(_), Some(ended), Some(_), Some(result)) = fields
                && ended == job
            {
                return Ok(result.to_owned());
            }
        }
    }

    fn authenticate(&mut self) -> Result<(), SystemdError> {
        let user = rustix::process::geteuid().as_raw().to_string();
        let line = format!("\0AUTH EXTERNAL {}\r\n", hex::encode(user));
        self.send(line.as_bytes())?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n") {
            let mut byte = [0];
            self.fill(&mut byte)?;
            answer.push(byte[0]);
            if answer.len() > MOST_LINE {
                return Err(SystemdError::Garbled);
            }
        }
        if !answer.starts_with(b"OK ") {
            let said = String::from_utf8_lossy(&answer).trim().to_owned();
            return Err(SystemdError::Refused(said));
        }
        self.send(b"BEGIN\r\n")
    }

    fn call(&mut self, call: &Call<'_>) -> Result<Vec<u8>, SystemdError> {
        self.serial += 1;
        let serial = self.serial;
        self.send(&call.encode(serial))?;
        loop {
            let message = self.receive()?;
            match message.kind {
                SIGNAL => self.signals.push_back(message),
                METHOD_RETURN if message.reply_to == serial => return Ok(message.body),
                ERROR if message.reply_to == serial => {
                    let said = Reader::new(&message.body).string().unwrap_or_default();
                    return Err(SystemdError::Answer {
                        name: message.error,
                        said: said.to_owned(),
                    });
                }
                _ => {}
            }
        }
    }

    fn receive(&mut self) -> Result<Message, SystemdError> {
        let mut bytes = vec![0; 16];
        self.fill(&mut bytes)?;
        let size = Message::size(&bytes).ok_or(SystemdError::Garbled)?;
        bytes.resize(size, 0);
        self.fill(&mut bytes[16..])?;
        Message::decode(&bytes).ok_or(SystemdError::Garbled)
    }

    fn left(&self) -> Result<Duration, SystemdError> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(SystemdError::Deadline(self.waiting));
        }
        Ok(left)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), SystemdError> {
        let left = self.left()?;
        let sent = self
            .stream
            .set_write_timeout(Some(left))
            .and_then(|()| self.stream.write_all(bytes));
        sent.map_err(|e| self.failed(e))
    }

    fn fill(&mut self, mut buf: &mut [u8]) -> Result<(), SystemdError> {
        while !buf.is_empty() {
            let left = self.left()?;
            let got = self
                .stream
                .set_read_timeout(Some(left))
                .and_then(|()| self.stream.read(buf));
            match got {
                Ok(0) => return Err(self.failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => buf = &mut buf[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed(e)),
            }
        }
        Ok(())
    }

    fn failed(&self, source: io::Error) -> SystemdError {
        if matches!(
            source.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        ) {
            return SystemdError::Deadline(self.waiting);
        }
        SystemdError::Io(source)
    }
}
