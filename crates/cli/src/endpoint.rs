//! Where the daemon listens, and how it is reached.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::tls::{self, Files, Reason};

/// An engine's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Unix(PathBuf),
    Tcp(String),
    Tls { address: String, files: Box<Files> },
    Ssh(Box<Ssh>),
}

/// `ssh://[user@]host[:port]`: the engine there is spoken to by its command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ssh {
    user: Option<String>,
    host: String,
    port: Option<u16>,
}

/// What is run there: ours, else Docker's.
const DIAL: &str = "if command -v plimsoll >/dev/null; then exec plimsoll system dial-stdio; else exec docker system dial-stdio; fi";

impl Endpoint {
    /// Reads `unix:///path`, `tcp://host:port`, `ssh://user@host` or a bare path. With files, TCP is TLS.
    pub(crate) fn parse(text: &str, files: Option<Files>) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        if text.starts_with('/') {
            return Ok(Self::Unix(PathBuf::from(text)));
        }
        if let Some(address) = text.strip_prefix("tcp://") {
            let address = address.trim_end_matches('/');
            let bare = address.ends_with(']') || !address.contains(':');
            let port = if files.is_some() { 2376 } else { 2375 };
            let address = if bare {
                format!("{address}:{port}")
            } else {
                address.to_owned()
            };
            return Ok(match files {
                Some(files) => Self::Tls {
                    address,
                    files: Box::new(files),
                },
                None => Self::Tcp(address),
            });
        }
        if let Some(rest) = text.strip_prefix("ssh://") {
            let wrong =
                || format!("unable to parse docker host `{text}`: give ssh://USER@HOST:PORT");
            return Ssh::parse(rest)
                .map(|ssh| Self::Ssh(Box::new(ssh)))
                .ok_or_else(wrong);
        }
        Err(format!(
            "unable to parse docker host `{text}`: give unix://PATH, tcp://HOST:PORT or ssh://USER@HOST"
        ))
    }

    pub(crate) fn connect(&self) -> io::Result<Socket> {
        match self {
            Self::Unix(path) => UnixStream::connect(path).map(Socket::Unix),
            Self::Tcp(address) => TcpStream::connect(address).map(Socket::Tcp),
            Self::Tls { address, files } => {
                let (stream, reason) = tls::connect(address, files)?;
                Ok(Socket::Relayed(stream, reason))
            }
            Self::Ssh(ssh) => ssh.connect().map(Socket::Unix),
        }
    }
}

impl Ssh {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim_end_matches('/');
        let (user, rest) = match text.split_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, text),
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') => (host, Some(port.parse().ok()?)),
            _ => (rest, None),
        };
        // a word that begins with a dash is an option of ssh
        let plain =
            |word: &str| !word.is_empty() && !word.starts_with('-') && !word.contains(['/', ' ']);
        if !plain(host) || user.is_some_and(|u| !plain(u)) {
            return None;
        }
        Some(Self {
            user: user.map(str::to_owned),
            host: host.to_owned(),
            port,
        })
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut all: Vec<OsString> = ["-o", "ConnectTimeout=30", "-T"].map(Into::into).to_vec();
        if let Some(user) = &self.user {
            all.extend(["-l".into(), user.into()]);
        }
        if let Some(port) = self.port {
            all.extend(["-p".into(), port.to_string().into()]);
        }
        all.extend(["--".into(), OsString::from(&self.host), DIAL.into()]);
        all
    }

    /// It ends with its end of the pair; what it complains about is seen.
    fn connect(&self) -> io::Result<UnixStream> {
        let (near, far) = UnixStream::pair()?;
        let input = OwnedFd::from(far);
        let output = input.try_clone()?;
        #[expect(
            clippy::disallowed_methods,
            reason = "ssh is the user's own, with keys and agents that only it knows"
        )]
        let mut ssh = Command::new("ssh");
        let ssh = ssh
            .args(self.arguments())
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(output));
        ssh.spawn()
            .map_err(|e| io::Error::new(e.kind(), format!("start ssh: {e}")))?;
        Ok(near)
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) | Self::Tls { address, .. } => write!(f, "tcp://{address}"),
            Self::Ssh(ssh) => {
                let user = ssh
                    .user
                    .as_ref()
                    .map(|u| format!("{u}@"))
                    .unwrap_or_default();
                let port = ssh.port.map(|p| format!(":{p}")).unwrap_or_default();
                write!(f, "ssh://{user}{}{port}", ssh.host)
            }
        }
    }
}

/// A connected socket of any kind.
#[derive(Debug)]
pub(crate) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
    /// Through a thread of ours; why it ended, if not in good order.
    Relayed(UnixStream, Reason),
}

impl Socket {
    /// Says "no more input" and keeps the other direction open.
    pub(crate) fn close_write(&self) -> io::Result<()> {
        match self {
            Self::Unix(s) | Self::Relayed(s, _) => s.shutdown(std::net::Shutdown::Write),
            Self::Tcp(s) => s.shutdown(std::net::Shutdown::Write),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(s) | Self::Relayed(s, _) => s.as_fd(),
            Self::Tcp(s) => s.as_fd(),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(s) => s.read(buf),
            Self::Tcp(s) => s.read(buf),
            Self::Relayed(s, reason) => match s.read(buf)? {
                0 if !buf.is_empty() => reason.take().map_or(Ok(0), Err),
                n => Ok(n),
            },
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(s) => s.write(buf),
            Self::Tcp(s) => s.write(buf),
            Self::Relayed(s, reason) => s.write(buf).map_err(|e| reason.take().unwrap_or(e)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for (text, want) in [
            ("unix:///run/a.sock", "unix:///run/a.sock"),
            ("/run/a.sock", "unix:///run/a.sock"),
            ("tcp://localhost", "tcp://localhost:2375"),
            ("tcp://[::1]", "tcp://[::1]:2375"),
            ("tcp://[::1]:80/", "tcp://[::1]:80"),
            ("ssh://me@there", "ssh://me@there"),
            ("ssh://there:22", "ssh://there:22"),
        ] {
            assert_eq!(Endpoint::parse(text, None).expect(text).to_string(), want);
        }
        let tls = Endpoint::parse("tcp://there", Some(Files::default())).expect("TLS");
        assert_eq!(tls.to_string(), "tcp://there:2376");
        for wrong in [
            "ftp://x",
            "ssh://",
            "ssh://-oProxyCommand=x",
            "ssh://a@-b",
            "ssh://a:b",
            "ssh://a/b",
        ] {
            assert!(Endpoint::parse(wrong, None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ssh_is_given_words_that_are_no_options() {
        let Ok(Endpoint::Ssh(ssh)) = Endpoint::parse("ssh://me@there:2222", None) else {
            panic!("ssh");
        };
        let words: Vec<_> = ssh
            .arguments()
            .iter()
            .map(|w| w.to_string_lossy().into_owned())
            .collect();
        assert_eq!(
            words[..words.len() - 1],
            [
                "-o",
                "ConnectTimeout=30",
                "-T",
                "-l",
                "me",
                "-p",
                "2222",
                "--",
                "there"
            ]
        );
    }
}
