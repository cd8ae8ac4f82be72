//! Flags, each defined once: its names, what it does with its value, and its help.
//!
//! The syntax is that of Docker's command line (the pflag library), which differs from GNU's in
//! ways that scripts rely on: `--rm=false` sets a switch, `-it=false` too, `--name x` and
//! `--name=x` are the same, `-ename` gives `-e` the value `name`, and after the first operand of
//! `run`, `create` and `exec` everything belongs to the container's program. A general parser
//! library gives neither these words nor these exit codes, and building its tables costs more
//! time than the whole command may spend, so the lexer is here: the tables are constants.
//!
//! A flag that Docker has and Plimsoll has not yet is in the tables as [`Kind::Refused`]: it is
//! refused by name with a hint, never accepted and ignored.

use std::fmt;

/// One flag of a command whose options are `T`.
pub(crate) struct Flag<T: 'static> {
    pub(crate) long: &'static str,
    pub(crate) short: Option<char>,
    pub(crate) kind: Kind<T>,
    pub(crate) help: &'static str,
}

/// What a flag does with its value.
pub(crate) enum Kind<T: 'static> {
    /// `--rm`, `--rm=false`.
    Switch(fn(&mut T, bool)),
    /// `--name x`; the word names the value's type in the help.
    Value(&'static str, fn(&mut T, &str) -> Result<(), String>),
    /// Docker has it, Plimsoll has not yet; what to do instead.
    Refused(&'static str),
}

pub(crate) const fn switch<T>(
    long: &'static str,
    short: Option<char>,
    set: fn(&mut T, bool),
    help: &'static str,
) -> Flag<T> {
    Flag {
        long,
        short,
        kind: Kind::Switch(set),
        help,
    }
}

pub(crate) const fn value<T>(
    long: &'static str,
    short: Option<char>,
    ty: &'static str,
    set: fn(&mut T, &str) -> Result<(), String>,
    help: &'static str,
) -> Flag<T> {
    Flag {
        long,
        short,
        kind: Kind::Value(ty, set),
        help,
    }
}

pub(crate) const fn refused<T>(
    long: &'static str,
    short: Option<char>,
    hint: &'static str,
) -> Flag<T> {
    Flag {
        long,
        short,
        kind: Kind::Refused(hint),
        help: "",
    }
}

/// A flag without its effect: for help and completion.
#[derive(Debug, Clone)]
pub(crate) struct FlagInfo {
    pub(crate) long: &'static str,
    pub(crate) short: Option<char>,
    /// Empty for a switch.
    pub(crate) ty: &'static str,
    pub(crate) help: &'static str,
}

/// A wrong use of flags, in pflag's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FlagError {
    Help,
    UnknownLong(String),
    UnknownShort(char, String),
    NeedsValueLong(String),
    NeedsValueShort(char, String),
    Invalid {
        value: String,
        flag: String,
        reason: String,
    },
    Refused {
        flag: String,
        hint: &'static str,
    },
}

impl fmt::Display for FlagError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Help => f.write_str("help requested"),
            Self::UnknownLong(name) => write!(f, "unknown flag: --{name}"),
            Self::UnknownShort(c, arg) => write!(f, "unknown shorthand flag: '{c}' in -{arg}"),
            Self::NeedsValueLong(name) => write!(f, "flag needs an argument: --{name}"),
            Self::NeedsValueShort(c, arg) => write!(f, "flag needs an argument: '{c}' in -{arg}"),
            Self::Invalid {
                value,
                flag,
                reason,
            } => write!(
                f,
                "invalid argument \"{value}\" for \"{flag}\" flag: {reason}"
            ),
            Self::Refused { flag, hint } => {
                write!(f, "{flag} is not supported by this version: {hint}")
            }
        }
    }
}

/// Groups of flags: commands share groups (run and create).
pub(crate) type Groups<T> = &'static [&'static [Flag<T>]];

/// Reads `args` into `options` and returns the operands.
///
/// With `interspersed`, flags may follow operands; without, the first operand ends the flags.
///
/// # Errors
/// The first wrong flag.
pub(crate) fn parse<T>(
    groups: Groups<T>,
    options: &mut T,
    args: &[String],
    interspersed: bool,
) -> Result<Vec<String>, FlagError> {
    let mut operands = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if arg == "--" {
            operands.extend(rest.cloned());
            break;
        }
        if let Some(long) = arg.strip_prefix("--") {
            parse_long(groups, options, long, &mut rest)?;
        } else if arg.len() > 1 && arg.starts_with('-') {
            parse_shorts(groups, options, &arg[1..], &mut rest)?;
        } else if interspersed {
            operands.push(arg.clone());
        } else {
            operands.push(arg.clone());
            operands.extend(rest.cloned());
            break;
        }
    }
    Ok(operands)
}

fn parse_long<T>(
    groups: Groups<T>,
    options: &mut T,
    text: &str,
    rest: &mut std::slice::Iter<'_, String>,
) -> Result<(), FlagError> {
    let (name, inline) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    let Some(flag) = find(groups, |f| f.long == name) else {
        if name == "help" {
            return Err(FlagError::Help);
        }
        return Err(FlagError::UnknownLong(name.to_owned()));
    };
    match flag.kind {
        Kind::Value(..) if inline.is_none() => {
            let next = rest
                .next()
                .ok_or_else(|| FlagError::NeedsValueLong(name.to_owned()))?;
            apply(flag, options, Some(next))
        }
        _ => apply(flag, options, inline),
    }
}

fn parse_shorts<T>(
    groups: Groups<T>,
    options: &mut T,
    cluster: &str,
    rest: &mut std::slice::Iter<'_, String>,
) -> Result<(), FlagError> {
    for (at, c) in cluster.char_indices() {
        let Some(flag) = find(groups, |f| f.short == Some(c)) else {
            if c == 'h' {
                return Err(FlagError::Help);
            }
            return Err(FlagError::UnknownShort(c, cluster[at..].to_owned()));
        };
        let after = &cluster[at + c.len_utf8()..];
        let inline = after.strip_prefix('=');
        match flag.kind {
            Kind::Switch(_) => {
                apply(flag, options, inline)?;
                if inline.is_some() {
                    return Ok(());
                }
            }
            _ if inline.is_some() => return apply(flag, options, inline),
            Kind::Value(..) if after.is_empty() => {
                let next = rest
                    .next()
                    .ok_or_else(|| FlagError::NeedsValueShort(c, cluster[at..].to_owned()))?;
                return apply(flag, options, Some(next));
            }
            _ => return apply(flag, options, Some(after)),
        }
    }
    Ok(())
}

fn find<T>(groups: Groups<T>, wanted: impl Fn(&Flag<T>) -> bool) -> Option<&'static Flag<T>> {
    groups.iter().flat_map(|g| g.iter()).find(|f| wanted(f))
}

fn apply<T>(flag: &Flag<T>, options: &mut T, value: Option<&str>) -> Result<(), FlagError> {
    let outcome = match (&flag.kind, value) {
        (Kind::Switch(set), None) => {
            set(options, true);
            Ok(())
        }
        (Kind::Switch(set), Some(text)) => go_bool(text).map(|on| set(options, on)),
        (Kind::Value(_, set), text) => set(options, text.unwrap_or_default()),
        (Kind::Refused(hint), _) => {
            return Err(FlagError::Refused {
                flag: format!("--{}", flag.long),
                hint,
            });
        }
    };
    outcome.map_err(|reason| FlagError::Invalid {
        value: value.unwrap_or_default().to_owned(),
        flag: match flag.short {
            Some(c) => format!("-{c}, --{}", flag.long),
            None => format!("--{}", flag.long),
        },
        reason,
    })
}

/// What help and completion show: everything that works.
pub(crate) fn describe<T>(groups: Groups<T>) -> Vec<FlagInfo> {
    let mut infos: Vec<FlagInfo> = groups
        .iter()
        .flat_map(|g| g.iter())
        .filter_map(|f| {
            let ty = match f.kind {
                Kind::Switch(_) => "",
                Kind::Value(ty, _) => ty,
                Kind::Refused(_) => return None,
            };
            // another name of a flag that is there already
            if f.help.is_empty() {
                return None;
            }
            Some(FlagInfo {
                long: f.long,
                short: f.short,
                ty,
                help: f.help,
            })
        })
        .collect();
    infos.sort_by_key(|i| i.long);
    infos
}

/// The option block of a help text, wrapped to `width` columns.
pub(crate) fn render(infos: &[FlagInfo], width: usize) -> String {
    let names: Vec<String> = infos
        .iter()
        .map(|i| {
            let short = i
                .short
                .map_or_else(|| "    ".to_owned(), |c| format!("-{c}, "));
            let gap = if i.ty.is_empty() { "" } else { " " };
            format!("  {short}--{}{gap}{}", i.long, i.ty)
        })
        .collect();
    let column = names.iter().map(String::len).max().unwrap_or(0) + 3;
    let mut out = String::new();
    for (info, name) in infos.iter().zip(&names) {
        out.push_str(name);
        let mut at = name.len();
        for line in wrap(info.help, width.saturating_sub(column).max(24)) {
            out.extend(std::iter::repeat_n(' ', column - at));
            out.push_str(&line);
            out.push('\n');
            at = 0;
        }
    }
    out
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("starts with one line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// Go's `strconv.ParseBool`.
pub(crate) fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!(
            "strconv.ParseBool: parsing {text:?}: invalid syntax"
        )),
    }
}

/// Go's `strconv.ParseInt(text, 0, 64)` as pflag calls it.
pub(crate) fn go_int(text: &str) -> Result<i64, String> {
    let (negative, digits) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let syntax = || format!("strconv.ParseInt: parsing {text:?}: invalid syntax");
    let range = || format!("strconv.ParseInt: parsing {text:?}: value out of range");
    let (radix, digits) = radix_of(digits);
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(syntax());
    }
    let signed = if negative {
        format!("-{digits}")
    } else {
        digits.to_owned()
    };
    i64::from_str_radix(&signed, radix).map_err(|_| range())
}

/// Go's `strconv.ParseUint(text, 0, bits)`.
pub(crate) fn go_uint(text: &str, bits: u32) -> Result<u64, String> {
    let (radix, digits) = radix_of(text);
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(format!(
            "strconv.ParseUint: parsing {text:?}: invalid syntax"
        ));
    }
    u64::from_str_radix(digits, radix)
        .ok()
        .filter(|n| bits == 64 || *n < 1 << bits)
        .ok_or_else(|| format!("strconv.ParseUint: parsing {text:?}: value out of range"))
}

fn radix_of(digits: &str) -> (u32, &str) {
    let lower = digits.get(..2).map(str::to_ascii_lowercase);
    match lower.as_deref() {
        Some("0x") => (16, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Opts {
        rm: bool,
        tty: bool,
        env: Vec<String>,
        shares: i64,
    }

    const FLAGS: Groups<Opts> = &[&[
        switch("rm", None, |o, v| o.rm = v, "remove"),
        switch("tty", Some('t'), |o, v| o.tty = v, "terminal"),
        switch("interactive", Some('i'), |_, _| (), "stdin"),
        value(
            "env",
            Some('e'),
            "list",
            |o, v| {
                o.env.push(v.to_owned());
                Ok(())
            },
            "environment",
        ),
        value(
            "cpu-shares",
            Some('c'),
            "int",
            |o, v| {
                o.shares = go_int(v)?;
                Ok(())
            },
            "shares",
        ),
        refused("publish", Some('p'), "ports come later"),
    ]];

    fn run(args: &[&str], interspersed: bool) -> Result<(Opts, Vec<String>), String> {
        let args: Vec<String> = args.iter().map(|s| (*s).to_owned()).collect();
        let mut opts = Opts::default();
        parse(FLAGS, &mut opts, &args, interspersed)
            .map(|rest| (opts, rest))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn values_inline_and_apart() {
        let (o, rest) = run(
            &["--env=a=b", "-ec", "-e", "d", "-e=f", "img", "-e", "x"],
            false,
        )
        .expect("parses");
        assert_eq!(o.env, ["a=b", "c", "d", "f"]);
        assert_eq!(rest, ["img", "-e", "x"]);
    }

    #[test]
    fn switches_cluster_and_take_false() {
        let (o, rest) = run(&["-it", "--rm", "--rm=false", "x", "--rm"], true).expect("parses");
        assert!(o.tty && o.rm);
        assert_eq!(rest, ["x"]);
        let (o, _) = run(&["-it=false"], true).expect("parses");
        assert!(!o.tty);
    }

    #[test]
    fn words_are_those_of_pflag() {
        for (args, said) in [
            (&["--foo"][..], "unknown flag: --foo"),
            (&["-iZx"], "unknown shorthand flag: 'Z' in -Zx"),
            (&["--env"], "flag needs an argument: --env"),
            (&["-te"], "flag needs an argument: 'e' in -e"),
            (
                &["-c", "x"],
                "invalid argument \"x\" for \"-c, --cpu-shares\" flag: strconv.ParseInt: parsing \"x\": invalid syntax",
            ),
            (
                &["--rm=foo"],
                "invalid argument \"foo\" for \"--rm\" flag: strconv.ParseBool: parsing \"foo\": invalid syntax",
            ),
            (
                &["-p", "80:80"],
                "--publish is not supported by this version: ports come later",
            ),
        ] {
            assert_eq!(run(args, true).expect_err("refused"), said);
        }
    }

    #[test]
    fn double_dash_ends_flags() {
        let (o, rest) = run(&["--", "--rm"], true).expect("parses");
        assert!(!o.rm);
        assert_eq!(rest, ["--rm"]);
    }

    #[test]
    fn integers_as_go() {
        assert_eq!(go_int("0x10"), Ok(16));
        assert_eq!(go_int("-017"), Ok(-15));
        assert!(go_int("99999999999999999999").is_err());
        assert_eq!(go_uint("1000", 16), Ok(1000));
        assert!(go_uint("70000", 16).is_err());
    }

    #[test]
    fn help_block() {
        insta::assert_snapshot!(render(&describe(FLAGS), 60), @r"
          -c, --cpu-shares int   shares
          -e, --env list         environment
          -i, --interactive      stdin
              --rm               remove
          -t, --tty              terminal
        ");
    }
}
