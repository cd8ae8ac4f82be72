//! Modes of `COPY --chmod` and `ADD --chmod`: `755`, `u=rwX,go=rX`. source: chmod(1), POSIX 1003.1

use crate::error::Problem;

/// What becomes of the mode of each file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mode(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Absolute(u32),
    Changes(Vec<Change>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    /// A bit each for others, group and user: 1, 2, 4.
    who: u32,
    operator: char,
    what: Vec<What>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// A bit of each class: 4, 2, 1.
    Bits(u32),
    /// `X`: executable where it is a directory, or executable by somebody already.
    Search,
    SetId,
    Sticky,
    /// What the class whose shift this is has.
    Copy(u32),
}

const USER: u32 = 4;
const GROUP: u32 = 2;
const OTHERS: u32 = 1;

impl Mode {
    /// # Errors
    /// What is neither an octal number up to 07777 nor a list of changes.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = || Problem::Chmod(text.to_owned());
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let is_octal = text.bytes().all(|b| (b'0'..=b'7').contains(&b));
            let mode = u32::from_str_radix(text, 8).ok().filter(|_| is_octal);
            let mode = mode.filter(|mode| *mode <= 0o7777).ok_or_else(wrong)?;
            return Ok(Self(Kind::Absolute(mode)));
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            read_clause(clause, &mut changes).ok_or_else(wrong)?;
        }
        Ok(Self(Kind::Changes(changes)))
    }

    /// The mode of a file that has `mode` now: the twelve bits of permissions and set-id alone.
    #[must_use]
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match &self.0 {
            Kind::Absolute(mode) => *mode,
            Kind::Changes(changes) => changes.iter().fold(mode & 0o7777, |mode, change| {
                change.apply(mode, is_directory)
            }),
        }
    }
}

/// `ug+rw-x`: who, then operators with what they concern.
fn read_clause(clause: &str, changes: &mut Vec<Change>) -> Option<()> {
    let mut who = 0;
    let mut chars = clause.chars().peekable();
    while let Some(c) = chars.next_if(|c| "ugoa".contains(*c)) {
        who |= match c {
            'u' => USER,
            'g' => GROUP,
            'o' => OTHERS,
            _ => USER | GROUP | OTHERS,
        };
    }
    // no umask has a say in a build
    if who == 0 {
        who = USER | GROUP | OTHERS;
    }
    chars.peek()?;
    while let Some(operator) = chars.next() {
        if !"+-=".contains(operator) {
            return None;
        }
        let mut what = Vec::new();
        while let Some(c) = chars.next_if(|c| !"+-=".contains(*c)) {
            what.push(match c {
                'r' => What::Bits(4),
                'w' => What::Bits(2),
                'x' => What::Bits(1),
                'X' => What::Search,
                's' => What::SetId,
                't' => What::Sticky,
                'u' => What::Copy(6),
                'g' => What::Copy(3),
                'o' => What::Copy(0),
                _ => return None,
            });
        }
        changes.push(Change {
            who,
            operator,
            what,
        });
    }
    Some(())
}

impl Change {
    fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let each = |bits: u32| {
            let shifts = [(USER, 6), (GROUP, 3), (OTHERS, 0)];
            let concerned = shifts.iter().filter(|(class, _)| self.who & class != 0);
            concerned.fold(0, |all, (_, shift)| all | bits << shift)
        };
        let set_ids = [(USER, 0o4000), (GROUP, 0o2000)];
        let set_ids = set_ids.iter().filter(|(class, _)| self.who & class != 0);
        let set_ids = set_ids.fold(0, |all, (_, bit)| all | bit);
        let sticky = if self.who & OTHERS != 0 { 0o1000 } else { 0 };
        let bits = self.what.iter().fold(0, |all, what| {
            all | match what {
                What::Bits(bits) => each(*bits),
                What::Search if is_directory || mode & 0o111 != 0 => each(1),
                What::Search => 0,
                What::SetId => set_ids,
                What::Sticky => sticky,
                What::Copy(shift) => each(mode >> shift & 7),
            }
        });
        match self.operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            // a directory keeps its set-id bits unless they are named
            _ => {
                let kept = if is_directory { 0 } else { set_ids | sticky };
                mode & !(each(7) | kept) | bits
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(text: &str, mode: u32, is_directory: bool) -> u32 {
        Mode::parse(text)
            .unwrap_or_else(|e| panic!("{e}"))
            .apply(mode, is_directory)
    }

    #[test]
    fn numbers() {
        assert_eq!(apply("755", 0o600, false), 0o755);
        assert_eq!(apply("04755", 0o600, true), 0o4755);
        assert_eq!(apply("0", 0o777, false), 0);
        for text in ["8", "10000", "0o7", "77x", "999999999999"] {
            let error = Mode::parse(text).expect_err(text).to_string();
            assert_eq!(
                error,
                format!(
                    "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777, or changes such as u=rwX,go=rX"
                )
            );
        }
    }

    #[test]
    fn changes() {
        for (text, mode, file, directory) in [
            ("u=rwX,go=rX", 0o640, 0o644, 0o755),
            ("u=rwX,go=rX", 0o100, 0o755, 0o755),
            ("+x", 0o644, 0o755, 0o755),
            ("a-w", 0o666, 0o444, 0o444),
            ("go=", 0o777, 0o700, 0o700),
            ("g=u", 0o640, 0o660, 0o660),
            ("go=u-w", 0o700, 0o755, 0o755),
            ("u+s,g+s,o+t", 0o755, 0o7755, 0o7755),
            ("o+s", 0o755, 0o755, 0o755),
            ("u=rw", 0o4755, 0o655, 0o4655),
            ("=r", 0o777, 0o444, 0o444),
            ("u+", 0o644, 0o644, 0o644),
        ] {
            assert_eq!(apply(text, mode, false), file, "{text} {mode:o}");
            assert_eq!(apply(text, mode, true), directory, "{text} {mode:o}");
        }
        for text in ["", "u", "x", "u+q", "u+x,", ",u+x", "+x y", "u*x", "$M"] {
            assert!(Mode::parse(text).is_err(), "{text}");
        }
    }
}
