//! From one line to a typed instruction.

use std::time::Duration;

use crate::error::{Error, Lines, Problem};
use crate::flags::{Flags, Kind, Wrong};
use crate::instruction::{
    Add, ArgPair, Command, Copy, Files, From, Healthcheck, Heredoc, Instruction, Keyword, Located,
    Network, Onbuild, Run, Script, Security,
};
use crate::lines::{Logical, Reader, parse_heredoc};
use crate::mount::MountFlag;
use crate::suggest::near;
use crate::words::{self, Statement, command, fields, first_word, json, split_statement};

type Parsed<T> = Result<T, Wrong>;

/// `FROM` or another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Parse {
    From(From),
    Instruction(Instruction),
}

/// An instruction, and the last of its own lines if one within is empty.
type Found = (Located<Parse>, Option<usize>);

/// Reads the next instruction and its heredocs.
pub(crate) fn next(reader: &mut Reader<'_>) -> Result<Option<Found>, Error> {
    let Some(logical) = reader.instruction()? else {
        return Ok(None);
    };
    let escape = reader.directives.escape;
    let Logical {
        text,
        mut lines,
        comments,
        has_empty_continuation,
    } = logical;
    let empty_within = has_empty_continuation.then_some(lines.last);
    let located = |wrong: Wrong, lines| Error::parse(wrong.problem, lines).meant(wrong.suggestion);
    let statement = split_statement(&text, escape);
    let heredocs = match heredoc_holder(&statement, escape) {
        Some(_) => reader.heredocs(&text, lines.first)?,
        None => Vec::new(),
    };
    lines.last = reader.number();
    let value =
        statement_of(&statement, heredocs, escape).map_err(|wrong| located(wrong, lines))?;
    let found = Located {
        value,
        keyword: statement.keyword.to_owned(),
        text: text.clone(),
        lines,
        comments,
        is_trigger: false,
    };
    Ok(Some((found, empty_within)))
}

/// Reads a trigger of an image's configuration; its lines are those of `FROM`.
pub(crate) fn trigger(
    text: &str,
    escape: char,
    lines: Lines,
) -> Result<Located<Instruction>, Error> {
    let mut reader = Reader::of_trigger(text);
    reader.directives.escape = escape;
    let at = |error: Error| error.over(vec![lines]);
    let many = || Error::later(Problem::OnbuildMany(text.to_owned()), lines);
    let (first, _) = next(&mut reader).map_err(at)?.ok_or_else(many)?;
    if next(&mut reader).map_err(at)?.is_some() {
        return Err(many());
    }
    let instruction = match &first.value {
        Parse::Instruction(Instruction::Onbuild(_)) => Err(Problem::OnbuildChain),
        Parse::Instruction(Instruction::Maintainer(_)) => {
            Err(Problem::OnbuildTrigger("MAINTAINER".into()))
        }
        Parse::From(_) => Err(Problem::OnbuildTrigger("FROM".into())),
        Parse::Instruction(instruction) => Ok(instruction.clone()),
    };
    let instruction = instruction.map_err(|problem| Error::later(problem, lines))?;
    Ok(Located {
        lines,
        is_trigger: true,
        ..first.with(instruction)
    })
}

/// The instruction that may have heredocs: `RUN`, `COPY` or `ADD`, not in exec form, perhaps behind
/// `ONBUILD`.
fn heredoc_holder(statement: &Statement<'_>, escape: char) -> Option<Keyword> {
    let keyword = Keyword::parse(statement.keyword)?;
    match keyword {
        Keyword::Onbuild => {
            let inner = split_statement(statement.rest, escape);
            let keyword = Keyword::parse(inner.keyword)?;
            (keyword != Keyword::Onbuild).then(|| heredoc_holder(&inner, escape))?
        }
        Keyword::Run | Keyword::Copy | Keyword::Add => {
            let is_exec = matches!(json(statement.rest), Ok(Some(_)) | Err(_));
            (!is_exec).then_some(keyword)
        }
        _ => None,
    }
}

fn statement_of(statement: &Statement<'_>, heredocs: Vec<Heredoc>, escape: char) -> Parsed<Parse> {
    let Some(keyword) = Keyword::parse(statement.keyword) else {
        let problem = Problem::UnknownInstruction(statement.keyword.to_owned());
        let meant = near(statement.keyword, Keyword::ALL.map(Keyword::name), false);
        return Err(Wrong::meant(problem, meant));
    };
    let (rest, words) = (statement.rest, &statement.flags);
    let known = match keyword {
        // NONE is a check without options
        Keyword::Healthcheck if first_word(rest).0.eq_ignore_ascii_case("NONE") => &[],
        keyword => known_flags(keyword),
    };
    let flags = Flags::read(words, known)?;
    let at_least_one = Problem::AtLeastOne {
        keyword: keyword.name(),
    };
    let one = || {
        if rest.is_empty() {
            return Err(Problem::ExactlyOne {
                keyword: keyword.name(),
            });
        }
        Ok(rest.to_owned())
    };
    Ok(Parse::Instruction(match keyword {
        Keyword::From => return Ok(Parse::From(from(rest, &flags)?)),
        Keyword::Add => Instruction::Add(Add {
            files: files(keyword, rest, &flags, heredocs)?,
            checksum: flags.text("checksum"),
            keep_git_dir: flags.boolean("keep-git-dir"),
            unpack: flags.boolean("unpack"),
        }),
        Keyword::Copy => Instruction::Copy(Copy {
            files: files(keyword, rest, &flags, heredocs)?,
            from: flags.text("from").filter(|f| !f.is_empty()),
            parents: flags.boolean("parents").unwrap_or(false),
        }),
        Keyword::Arg => Instruction::Arg(arguments(rest, escape)?),
        Keyword::Cmd => Instruction::Cmd(command(rest)?),
        Keyword::Entrypoint => Instruction::Entrypoint(command(rest)?),
        Keyword::Env => Instruction::Env(words::pairs(rest, keyword, escape)?),
        Keyword::Label => Instruction::Label(words::pairs(rest, keyword, escape)?),
        Keyword::Expose if rest.is_empty() => return Err(at_least_one.into()),
        Keyword::Expose => {
            let mut ports = fields(rest);
            ports.sort();
            Instruction::Expose(ports)
        }
        Keyword::Healthcheck => Instruction::Healthcheck(healthcheck(rest, &flags)?),
        Keyword::Maintainer => Instruction::Maintainer(one()?),
        Keyword::Onbuild => Instruction::Onbuild(onbuild(rest, &heredocs, escape)?),
        Keyword::Run => Instruction::Run(run(rest, &flags, heredocs)?),
        Keyword::Shell if rest.is_empty() => return Err(at_least_one.into()),
        Keyword::Shell => match json(rest)? {
            Some(argv) if argv.is_empty() => return Err(at_least_one.into()),
            Some(argv) => Instruction::Shell(argv),
            None => return Err(Problem::NotJson { keyword: "SHELL" }.into()),
        },
        Keyword::StopSignal => Instruction::StopSignal(one()?),
        Keyword::User => Instruction::User(one()?),
        Keyword::Volume => Instruction::Volume(volumes(rest)?),
        Keyword::Workdir => Instruction::Workdir(one()?),
    }))
}

fn known_flags(keyword: Keyword) -> &'static [(&'static str, Kind)] {
    match keyword {
        Keyword::From => &[("platform", Kind::Text)],
        Keyword::Run => &[
            ("mount", Kind::Texts),
            ("network", Kind::Text),
            ("security", Kind::Text),
        ],
        Keyword::Copy => &[
            ("chown", Kind::Text),
            ("from", Kind::Text),
            ("chmod", Kind::Text),
            ("link", Kind::Boolean),
            ("exclude", Kind::Texts),
            ("parents", Kind::Boolean),
        ],
        Keyword::Add => &[
            ("chown", Kind::Text),
            ("chmod", Kind::Text),
            ("link", Kind::Boolean),
            ("keep-git-dir", Kind::Boolean),
            ("checksum", Kind::Text),
            ("unpack", Kind::Boolean),
            ("exclude", Kind::Texts),
        ],
        Keyword::Healthcheck => &[
            ("interval", Kind::Text),
            ("timeout", Kind::Text),
            ("start-period", Kind::Text),
            ("start-interval", Kind::Text),
            ("retries", Kind::Text),
        ],
        _ => &[],
    }
}

fn from(rest: &str, flags: &Flags) -> Parsed<From> {
    let words = fields(rest);
    let (base, written) = match words.as_slice() {
        [base] => (base, None),
        [base, keyword, name] if keyword.eq_ignore_ascii_case("as") => {
            (base, Some((keyword.clone(), name.clone())))
        }
        _ => return Err(Problem::FromArguments.into()),
    };
    let name = match &written {
        Some((_, name)) => Some(stage_name(name)?),
        None => None,
    };
    Ok(From {
        base: base.clone(),
        name,
        platform: flags.text("platform").filter(|p| !p.is_empty()),
        written,
    })
}

/// In lower case: `[a-z][a-z0-9-_.]*`.
fn stage_name(written: &str) -> Parsed<String> {
    let name = written.to_lowercase();
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(fits) {
        return Err(Problem::StageName(written.to_owned()).into());
    }
    Ok(name)
}

fn files(keyword: Keyword, rest: &str, flags: &Flags, mut heredocs: Vec<Heredoc>) -> Parsed<Files> {
    let name = keyword.name();
    let exec = json(rest)?;
    let is_exec = exec.is_some();
    let mut words = exec.unwrap_or_else(|| fields(rest));
    let destination = words.pop().filter(|_| !words.is_empty());
    let Some(destination) = destination else {
        return Err(Problem::NoDestination { keyword: name }.into());
    };
    let is_heredoc = |word: &str| !is_exec && matches!(parse_heredoc(word), Ok(Some(_)));
    if is_heredoc(&destination) {
        return Err(Problem::HeredocDestination { keyword: name }.into());
    }
    let (marks, sources): (Vec<String>, Vec<String>) =
        words.into_iter().partition(|word| is_heredoc(word));
    // one that has spaces in it was split: it would be taken for files
    if let Some(lost) = heredocs.get(marks.len()) {
        let problem = Problem::HeredocWord {
            keyword: name,
            name: lost.name.clone(),
        };
        return Err(problem.into());
    }
    heredocs.truncate(marks.len());
    heredocs.iter().try_for_each(check_file_name)?;
    let given = |name| flags.text(name).filter(|v| !v.is_empty());
    Ok(Files {
        sources,
        heredocs,
        destination,
        chown: given("chown"),
        chmod: given("chmod"),
        link: flags.boolean("link").unwrap_or(false),
        exclude: flags.texts("exclude").collect(),
    })
}

/// A heredoc that becomes a file has that file's name.
fn check_file_name(heredoc: &Heredoc) -> Result<(), Problem> {
    let name = heredoc.name.as_str();
    if name.contains(['/', '\0']) || name == "." || name == ".." {
        return Err(Problem::HeredocName(name.to_owned()));
    }
    Ok(())
}

fn arguments(rest: &str, escape: char) -> Parsed<Vec<ArgPair>> {
    let words = words::quoted_words(rest, escape);
    if words.is_empty() {
        return Err(Problem::AtLeastOne { keyword: "ARG" }.into());
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err(Problem::BlankName { keyword: "ARG" }.into()),
            Some((name, default)) => Ok(ArgPair {
                name: name.to_owned(),
                default: Some(default.to_owned()),
            }),
            None => Ok(ArgPair {
                name: word,
                default: None,
            }),
        })
        .collect()
}

fn run(rest: &str, flags: &Flags, heredocs: Vec<Heredoc>) -> Parsed<Run> {
    let command = command(rest)?;
    let mounts = flags
        .texts("mount")
        .map(|text| MountFlag::parse(&text))
        .collect::<Parsed<Vec<_>>>()?;
    let network = match flags.text("network").as_deref() {
        None | Some("default") => Network::Default,
        Some("none") => Network::None,
        Some("host") => Network::Host,
        Some(other) => {
            let meant = near(other, ["default", "none", "host"], true);
            return Err(Wrong::meant(Problem::Network(other.to_owned()), meant));
        }
    };
    let security = match flags.text("security").as_deref() {
        None | Some("sandbox") => Security::Sandbox,
        Some("insecure") => Security::Insecure,
        Some(other) => {
            let meant = near(other, ["sandbox", "insecure"], true);
            return Err(Wrong::meant(Problem::Security(other.to_owned()), meant));
        }
    };
    let run = Run {
        command,
        heredocs,
        mounts,
        network,
        security,
    };
    if let (Script::File { .. }, Some(heredoc)) = (run.script(), run.heredocs.first()) {
        check_file_name(heredoc)?;
    }
    Ok(run)
}

fn volumes(rest: &str) -> Parsed<Vec<String>> {
    let paths = json(rest)?.unwrap_or_else(|| fields(rest));
    if paths.is_empty() {
        return Err(Problem::AtLeastOne { keyword: "VOLUME" }.into());
    }
    paths
        .into_iter()
        .map(|path| match path.trim() {
            "" => Err(Problem::EmptyVolume.into()),
            path => Ok(path.to_owned()),
        })
        .collect()
}

fn healthcheck(rest: &str, flags: &Flags) -> Parsed<Healthcheck> {
    let (kind, line) = first_word(rest);
    let line = line.unwrap_or_default();
    match kind.to_uppercase().as_str() {
        "" => {
            let keyword = Keyword::Healthcheck.name();
            return Err(Problem::AtLeastOne { keyword }.into());
        }
        "NONE" if line.is_empty() => return Ok(Healthcheck::None),
        "NONE" => return Err(Problem::HealthcheckNone.into()),
        "CMD" => {}
        other => return Err(Problem::HealthcheckType(other.to_owned()).into()),
    }
    let command = command(line)?;
    let is_empty = match &command {
        Command::Shell(line) => line.is_empty(),
        Command::Exec(argv) => argv.is_empty(),
    };
    if is_empty {
        return Err(Problem::HealthcheckCommand.into());
    }
    let retries = match flags.text("retries").filter(|r| !r.is_empty()) {
        None => 0,
        Some(text) => match text.parse::<i32>().map(u32::try_from) {
            Ok(Ok(retries)) => retries,
            _ => return Err(Problem::Retries(text).into()),
        },
    };
    Ok(Healthcheck::Command {
        command,
        interval: interval(flags, "interval")?,
        timeout: interval(flags, "timeout")?,
        start_period: interval(flags, "start-period")?,
        start_interval: interval(flags, "start-interval")?,
        retries,
    })
}

fn interval(flags: &Flags, flag: &'static str) -> Parsed<Duration> {
    let Some(value) = flags.text(flag).filter(|v| !v.is_empty()) else {
        return Ok(Duration::ZERO);
    };
    match crate::duration::parse(&value) {
        None => Err(Problem::Duration { flag, value }.into()),
        Some(d) if !d.is_zero() && d < Duration::from_millis(1) => {
            Err(Problem::Interval { flag }.into())
        }
        Some(duration) => Ok(duration),
    }
}

fn onbuild(rest: &str, heredocs: &[Heredoc], escape: char) -> Parsed<Onbuild> {
    if rest.is_empty() {
        let keyword = Keyword::Onbuild.name();
        return Err(Problem::AtLeastOne { keyword }.into());
    }
    let inner = split_statement(rest, escape);
    match Keyword::parse(inner.keyword) {
        Some(Keyword::Onbuild) => return Err(Problem::OnbuildChain.into()),
        Some(keyword @ (Keyword::From | Keyword::Maintainer)) => {
            return Err(Problem::OnbuildTrigger(keyword.name().to_owned()).into());
        }
        // refused here, not in the build that is based on this one
        _ => drop(statement_of(&inner, heredocs.to_vec(), escape)?),
    }
    let mut trigger = rest.to_owned();
    for heredoc in heredocs {
        trigger.push('\n');
        trigger.push_str(&heredoc.content);
        trigger.push_str(&heredoc.name);
    }
    Ok(Onbuild { trigger })
}
