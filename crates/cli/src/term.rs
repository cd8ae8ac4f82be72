//! The user's terminal: its size, raw mode that is always undone, and the signals that reach us.

use std::io::{self, IsTerminal};

use rustix::termios::{self, OptionalActions, Termios};

pub(crate) fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Rows and columns of the terminal on standard output, or on standard input.
pub(crate) fn size() -> Option<(u16, u16)> {
    let of = |r: rustix::io::Result<termios::Winsize>| {
        r.ok()
            .filter(|w| w.ws_row > 0 && w.ws_col > 0)
            .map(|w| (w.ws_row, w.ws_col))
    };
    of(termios::tcgetwinsize(io::stdout())).or_else(|| of(termios::tcgetwinsize(io::stdin())))
}

/// Columns for help texts.
pub(crate) fn help_width() -> usize {
    size().map_or(80, |(_, columns)| usize::from(columns).max(40))
}

/// Raw mode of the terminal on standard input, undone when dropped.
///
/// The panic hook undoes it too: release builds abort on panic and run no destructor. An end by
/// SIGKILL cannot be caught by anybody; all other signals are read from a descriptor while a
/// terminal is raw, and end in a return.
#[derive(Debug)]
pub(crate) struct RawMode {
    saved: Termios,
}

impl RawMode {
    pub(crate) fn enter() -> io::Result<Self> {
        let saved = termios::tcgetattr(io::stdin())?;
        let mut raw = saved.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        let for_panic = saved.clone();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // best effort: the panic itself must be reported whatever the terminal says
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &for_panic);
            before(info);
        }));
        Ok(Self { saved })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // nothing can be done when the terminal has gone
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.saved);
        drop(std::panic::take_hook());
    }
}

/// The terminal shows nothing of what is typed, until this is dropped.
#[derive(Debug)]
pub(crate) struct Silent {
    saved: Termios,
}

impl Silent {
    pub(crate) fn enter() -> io::Result<Self> {
        let saved = termios::tcgetattr(io::stdin())?;
        let mut silent = saved.clone();
        silent.local_modes.remove(termios::LocalModes::ECHO);
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &silent)?;
        Ok(Self { saved })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // nothing can be done about a terminal that is gone
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.saved);
    }
}

/// The keys that detach, as bytes: `ctrl-p,ctrl-q`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetachKeys(Vec<u8>);

impl Default for DetachKeys {
    fn default() -> Self {
        Self(vec![16, 17])
    }
}

impl DetachKeys {
    /// source: docker/cli's `--detach-keys`: a letter, or `ctrl-` with a-z, @, [, \, ], ^ or _,
    /// separated by commas.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(|key| {
                let one = |t: &str| {
                    let mut bytes = t.bytes();
                    match (bytes.next(), bytes.next()) {
                        (Some(b), None) => Some(b),
                        _ => None,
                    }
                };
                match key.strip_prefix("ctrl-") {
                    Some(rest) => match one(&rest.to_ascii_lowercase()) {
                        Some(b @ b'a'..=b'z') => Some(b - b'a' + 1),
                        Some(b'@') => Some(0),
                        Some(b @ b'['..=b'_') => Some(b - b'[' + 27),
                        _ => None,
                    },
                    None => one(key),
                }
                .ok_or_else(|| format!("Unknown character: '{key}'"))
            })
            .collect::<Result<Vec<u8>, String>>()
            .map(Self)
    }
}

/// Finds the keys in what is typed, and holds back what may become them.
#[derive(Debug)]
pub(crate) struct DetachScanner {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachScanner {
    pub(crate) fn new(keys: &DetachKeys) -> Self {
        Self {
            keys: keys.0.clone(),
            matched: 0,
        }
    }

    /// Appends to `out` what the container shall see; true when the user detached.
    pub(crate) fn feed(&mut self, typed: &[u8], out: &mut Vec<u8>) -> bool {
        for &byte in typed {
            if self.keys.get(self.matched) == Some(&byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return true;
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.matched]);
            self.matched = 0;
            if self.keys.first() == Some(&byte) {
                self.matched = 1;
                if self.keys.len() == 1 {
                    return true;
                }
            } else {
                out.push(byte);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys() {
        assert_eq!(
            DetachKeys::parse("ctrl-p,ctrl-q"),
            Ok(DetachKeys::default())
        );
        assert_eq!(
            DetachKeys::parse("a,ctrl-@,ctrl-[,ctrl-_"),
            Ok(DetachKeys(vec![b'a', 0, 27, 31]))
        );
        assert!(DetachKeys::parse("ctrl-1").is_err());
        assert!(DetachKeys::parse("").is_err());
        assert!(DetachKeys::parse("ab").is_err());
    }

    #[test]
    fn scanner_holds_back_and_gives_back() {
        let mut s = DetachScanner::new(&DetachKeys::default());
        let mut out = Vec::new();
        assert!(!s.feed(b"a\x10", &mut out));
        assert_eq!(out, b"a");
        assert!(!s.feed(b"\x10b", &mut out));
        assert_eq!(out, b"a\x10\x10b");
    }

    #[test]
    fn scanner_detaches_across_reads() {
        let mut s = DetachScanner::new(&DetachKeys::default());
        let mut out = Vec::new();
        assert!(!s.feed(b"x\x10", &mut out));
        assert!(s.feed(b"\x11y", &mut out));
        assert_eq!(out, b"x");
    }
}
