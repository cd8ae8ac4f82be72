//! Each instruction, its forms, its flags and what is refused.

use std::time::Duration;

use dockerfile::instruction::{Command, Healthcheck, Network, Script, Security};
use dockerfile::mount::Mount;
use dockerfile::{Dockerfile, Expander, Instruction, Lines, Nothing, Options};

use crate::{one, parse, parse_error, refused};

fn shell(line: &str) -> Command {
    Command::Shell(line.into())
}

fn exec(argv: &[&str]) -> Command {
    Command::Exec(argv.iter().map(|a| (*a).to_owned()).collect())
}

#[test]
fn from_in_its_forms() {
    let file = parse(
        "FROM --platform=$BUILDPLATFORM golang:1.22 AS Build\nfrom scratch\nFROM build as x-1_2.y\n",
    );
    let from: Vec<_> = file
        .stages
        .iter()
        .map(|s| {
            let from = &s.from.value;
            (
                from.base.as_str(),
                from.name.as_deref(),
                from.platform.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        from,
        [
            ("golang:1.22", Some("build"), Some("$BUILDPLATFORM")),
            ("scratch", None, None),
            ("build", Some("x-1_2.y"), None)
        ]
    );
    for (text, message) in [
        ("FROM", "FROM requires either one or three arguments"),
        ("FROM a b", "FROM requires either one or three arguments"),
        ("FROM a IS b", "FROM requires either one or three arguments"),
        (
            "FROM a AS b c",
            "FROM requires either one or three arguments",
        ),
        (
            "FROM a AS 1b",
            "invalid name for build stage: \"1b\", name can't start with a number or contain symbols",
        ),
        (
            "FROM a AS b/c",
            "invalid name for build stage: \"b/c\", name can't start with a number or contain symbols",
        ),
        (
            "FROM --plattform=x a",
            "unknown flag: --plattform (did you mean platform?)",
        ),
    ] {
        assert_eq!(refused(text), message, "{text}");
    }
}

#[test]
fn commands_in_shell_and_exec_form() {
    assert_eq!(one("CMD a  b"), Instruction::Cmd(shell("a  b")));
    assert_eq!(
        one("cmd [ \"a\", \"b c\" ]"),
        Instruction::Cmd(exec(&["a", "b c"]))
    );
    assert_eq!(one("CMD []"), Instruction::Cmd(exec(&[])));
    assert_eq!(
        one("ENTRYPOINT ['a']"),
        Instruction::Entrypoint(shell("['a']")),
        "no JSON, hence a command line"
    );
    assert_eq!(
        one("ENTRYPOINT [\"a"),
        Instruction::Entrypoint(shell("[\"a"))
    );
    assert_eq!(
        one("SHELL [\"/bin/bash\", \"-c\"]"),
        Instruction::Shell(vec!["/bin/bash".into(), "-c".into()])
    );
    let bash = ["/bin/bash".to_owned(), "-c".to_owned()];
    assert_eq!(shell("x y").argv(&bash), ["/bin/bash", "-c", "x y"]);
    assert_eq!(exec(&["x"]).argv(&bash), ["x"]);
    for (text, message) in [
        (
            "CMD [\"a\", 1]",
            "when using JSON array syntax, arrays must be comprised of strings only",
        ),
        (
            "SHELL bash -c",
            "SHELL requires the arguments to be in JSON form",
        ),
        ("SHELL []", "SHELL requires at least one argument"),
        ("SHELL", "SHELL requires at least one argument"),
        ("CMD --x a", "unknown flag: --x"),
    ] {
        assert_eq!(refused(text), message, "{text}");
    }
}

fn run(text: &str) -> dockerfile::instruction::Run {
    match one(text) {
        Instruction::Run(run) => run,
        other => panic!("{other:?}"),
    }
}

#[test]
fn run_and_its_flags() {
    let found = run(
        "RUN --mount=type=cache,target=/c --mount=type=secret,id=k \\\n --network=none --security=insecure make -j --x",
    );
    assert_eq!(found.command, shell("make -j --x"));
    assert_eq!(found.network, Network::None);
    assert_eq!(found.security, Security::Insecure);
    let x = &mut Expander::new(
        &Nothing,
        '\\',
        &Options::new(crate::platform("linux/amd64")).budget,
    );
    let mounts: Vec<Mount> = found
        .mounts
        .iter()
        .map(|m| m.mount(x).expect("a mount"))
        .collect();
    assert!(matches!(&mounts[0], Mount::Cache { target, .. } if target == "/c"));
    assert!(matches!(&mounts[1], Mount::Secret { id, .. } if id == "k"));
    assert_eq!(run("RUN [\"a\"]").command, exec(&["a"]));
    assert_eq!(run("RUN -- --x").command, shell("--x"));
    for (text, message) in [
        (
            "RUN --netwrok=none x",
            "unknown flag: --netwrok (did you mean network?)",
        ),
        (
            "RUN --network=bridge x",
            "invalid network mode \"bridge\": default, none or host",
        ),
        (
            "RUN --network=nome x",
            "invalid network mode \"nome\": default, none or host (did you mean none?)",
        ),
        (
            "RUN --security=off x",
            "security \"off\" is not valid: sandbox or insecure",
        ),
        (
            "RUN --mount=type=cahce,target=/x y",
            "unsupported mount type \"cahce\": bind, cache, tmpfs, secret or ssh (did you mean cache?)",
        ),
        ("RUN --device=gpu x", "unknown flag: --device"),
    ] {
        assert_eq!(refused(text), message, "{text}");
    }
}

#[test]
fn heredocs_of_run() {
    // one alone is the script itself
    let found = run("RUN <<EOF\necho a\n  echo $b\nEOF");
    assert_eq!(found.script(), Script::Shell("echo a\n  echo $b\n".into()));
    let found = run("RUN <<-EOF\n\techo a\n\tEOF");
    assert_eq!(found.script(), Script::Shell("echo a\n".into()));
    let found = run("RUN <<run.py\n#!/usr/bin/python3\nprint()\nrun.py");
    assert_eq!(
        found.script(),
        Script::File {
            name: "run.py".into(),
            content: "#!/usr/bin/python3\nprint()\n".into()
        }
    );
    // otherwise the shell has them back
    let found = run("RUN cat <<A 3<<-B > f\n1\nA\n\t2\n\tB");
    assert_eq!(
        found.script(),
        Script::Shell("cat <<A 3<<-B > f\n1\nA\n\t2\nB".into())
    );
    assert_eq!(found.heredocs[1].descriptor, 3);
    // an instruction begins behind it; a comment within it is none
    let file = parse("FROM a\nRUN <<E\n# c\nFROM b\nE\nCMD x");
    assert_eq!(file.stages.len(), 1);
    assert_eq!(file.stages[0].instructions[0].lines, Lines::new(2, 5));
    assert_eq!(file.stages[0].instructions[1].lines, Lines::at(6));
    // no heredocs
    assert!(run("RUN [\"<<EOF\"]").heredocs.is_empty());
    assert!(run("RUN echo \"<<EOF\"").heredocs.is_empty());
    assert!(run("RUN cat <<<x").heredocs.is_empty());
    assert_eq!(one("USER <<EOF"), Instruction::User("<<EOF".into()));
    assert_eq!(
        refused("RUN <<EOF\nx"),
        "unterminated heredoc: no line is \"EOF\" alone"
    );
}

fn copy(text: &str) -> dockerfile::instruction::Copy {
    match one(text) {
        Instruction::Copy(copy) => copy,
        other => panic!("{other:?}"),
    }
}

#[test]
fn copy_and_its_flags() {
    let found = copy(
        "COPY --from=build --chown=1:2 --chmod=755 --link --parents --exclude=*.md --exclude=x a b* /dst/",
    );
    assert_eq!(found.from.as_deref(), Some("build"));
    assert!(found.parents && found.files.link);
    assert_eq!(found.files.sources, ["a", "b*"]);
    assert_eq!(found.files.destination, "/dst/");
    assert_eq!(found.files.chown.as_deref(), Some("1:2"));
    assert_eq!(found.files.chmod.as_deref(), Some("755"));
    assert_eq!(found.files.exclude, ["*.md", "x"]);
    let found = copy("COPY\t[ \"a b\", \"/c d\" ]");
    assert_eq!(
        (found.files.sources, found.files.destination),
        (vec!["a b".into()], "/c d".into())
    );
    assert_eq!(copy("COPY -- --a b").files.sources, ["--a"]);
    assert!(!copy("COPY --link=false a b").files.link);
    for (text, message) in [
        (
            "COPY a",
            "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
        ),
        (
            "COPY",
            "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
        ),
        (
            "COPY --form=x a b",
            "unknown flag: --form (did you mean from?)",
        ),
        ("COPY --from a b", "missing a value on flag: --from"),
        (
            "COPY --from=a --from=b c d",
            "duplicate flag specified: --from",
        ),
        (
            "COPY --link=1 a b",
            "expecting boolean value for flag --link, not: 1",
        ),
        ("COPY --checksum=x a b", "unknown flag: --checksum"),
        (
            "COPY a <<EOF\nEOF",
            "COPY cannot accept a heredoc as a destination",
        ),
    ] {
        assert_eq!(refused(text), message, "{text}");
    }
}

#[test]
fn heredocs_of_copy() {
    let found = copy("COPY <<a.txt x <<-'b' /dst/\n1 $v\na.txt\n\t2\nb");
    assert_eq!(found.files.sources, ["x"]);
    let heredocs: Vec<_> = found
        .files
        .heredocs
        .iter()
        .map(|h| (h.name.as_str(), h.text(), h.expand))
        .collect();
    assert_eq!(
        heredocs,
        [("a.txt", "1 $v\n".into(), true), ("b", "2\n".into(), false)]
    );
    assert!(copy("COPY [\"<<a\", \"/dst\"]").files.heredocs.is_empty());
    assert_eq!(
        refused("COPY <<'a b' /dst\nx\na b"),
        "COPY takes a heredoc as one word: write <<NAME without spaces, not <<\"a b\""
    );
    for text in [
        "COPY <<../x /dst\n../x",
        "ADD <<a/b /dst\na/b",
        "RUN <<..\n#!/bin/sh\n..",
        "ONBUILD COPY <<. /dst\n.",
    ] {
        let error = refused(text);
        assert!(
            error.ends_with("becomes a file: its name can't be a path"),
            "{error}"
        );
    }
    assert_eq!(run("RUN <<a/b\necho\na/b").heredocs.len(), 1, "no file");
}

#[test]
fn add_and_its_flags() {
    let Instruction::Add(found) = one(
        "ADD --checksum=sha256:00 --keep-git-dir=true --unpack=false --chmod=u+x https://h/a.git#v1 /b",
    ) else {
        panic!("no ADD");
    };
    assert_eq!(found.checksum.as_deref(), Some("sha256:00"));
    assert_eq!(
        (found.keep_git_dir, found.unpack),
        (Some(true), Some(false))
    );
    assert_eq!(found.files.sources, ["https://h/a.git#v1"]);
    let Instruction::Add(found) = one("ADD a b") else {
        panic!("no ADD");
    };
    assert_eq!((found.keep_git_dir, found.unpack), (None, None));
    assert_eq!(refused("ADD --from=x a b"), "unknown flag: --from");
    assert_eq!(refused("ADD --parents a b"), "unknown flag: --parents");
}

#[test]
fn what_add_takes_and_copy_does_not() {
    let add = |text| match one(text) {
        Instruction::Add(add) => add.origins().map(|o| o.len()).map_err(|p| p.to_string()),
        other => panic!("{other:?}"),
    };
    assert_eq!(add("ADD https://h/a b https://h/c.git /d"), Ok(3));
    assert_eq!(add("ADD --checksum=sha256:00 https://h/a /d"), Ok(1));
    assert_eq!(add("ADD --checksum=ab https://h/c.git?commit=ab /d"), Ok(1));
    for (text, message) in [
        (
            "ADD --checksum=x a /d",
            "checksum requires HTTP(S) or Git sources",
        ),
        (
            "ADD --checksum=x https://h/a https://h/b /d",
            "checksum can't be specified for multiple sources",
        ),
        (
            "ADD --checksum=cd https://h/c.git?commit=ab /d",
            "checksum mismatch \"cd\" != \"ab\": the flag and the URL differ",
        ),
        (
            "ADD --keep-git-dir https://h/c.git?keep-git-dir=0 /d",
            "inconsistent keep-git-dir configuration: the flag and the URL differ",
        ),
    ] {
        assert_eq!(add(text), Err(message.into()), "{text}");
    }
    let copy = |text| copy(text).check_sources().map_err(|p| p.to_string());
    assert_eq!(copy("COPY a git@h /d"), Ok(()));
    assert_eq!(
        copy("COPY https://h/a /d"),
        Err("source can't be a URL for COPY: use ADD".into())
    );
    assert_eq!(
        copy("COPY git@h:a/b.git /d"),
        Err("source can't be a git ref for COPY: use ADD".into())
    );
}

#[test]
fn names_and_values() {
    let pairs = |text| match one(text) {
        Instruction::Env(pairs) | Instruction::Label(pairs) => pairs
            .into_iter()
            .map(|p| format!("{}|{}", p.name, p.value))
            .collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(pairs("ENV a b  c"), ["a|b  c"]);
    assert_eq!(pairs("ENV a=b c=\"d e\""), ["a|b", "c|\"d e\""]);
    assert_eq!(pairs("ENV a=b \\\n  c=d\\\n"), ["a|b", "c|d"]);
    assert_eq!(pairs("LABEL \"x y\"=1 z="), ["\"x y\"|1", "z|"]);
    assert_eq!(refused("ENV a"), "ENV must have two arguments");
    assert_eq!(refused("LABEL"), "LABEL requires at least one argument");
    assert_eq!(
        refused("ENV a=b c"),
        "Syntax error - can't find = in \"c\". Must be of the form: name=value"
    );
    assert_eq!(refused("ENV =b"), "ENV names can not be blank");
    let Instruction::Arg(args) = one("ARG a b=c d= e=\"x y\"") else {
        panic!("no ARG");
    };
    let args: Vec<_> = args
        .iter()
        .map(|a| (a.name.as_str(), a.default.as_deref()))
        .collect();
    assert_eq!(
        args,
        [
            ("a", None),
            ("b", Some("c")),
            ("d", Some("")),
            ("e", Some("\"x y\""))
        ]
    );
    assert_eq!(refused("ARG"), "ARG requires at least one argument");
    assert_eq!(refused("ARG =x"), "ARG names can not be blank");
    assert_eq!(refused("ARG --x a"), "unknown flag: --x");
}

#[test]
fn healthchecks() {
    let check = |text| match one(text) {
        Instruction::Healthcheck(check) => check,
        other => panic!("{other:?}"),
    };
    assert_eq!(check("HEALTHCHECK none"), Healthcheck::None);
    assert_eq!(
        check(
            "HEALTHCHECK --interval=5s --timeout=1m30s --start-period=0s --start-interval=500ms --retries=3 \\\n CMD curl -f x"
        ),
        Healthcheck::Command {
            command: shell("curl -f x"),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(90),
            start_period: Duration::ZERO,
            start_interval: Duration::from_millis(500),
            retries: 3
        }
    );
    assert!(matches!(
        check("HEALTHCHECK CMD [\"a\"]"),
        Healthcheck::Command {
            command: Command::Exec(_),
            retries: 0,
            ..
        }
    ));
    for (text, message) in [
        ("HEALTHCHECK", "HEALTHCHECK requires at least one argument"),
        ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK --retries=1 NONE", "unknown flag: --retries"),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        (
            "HEALTHCHECK CMD []",
            "Missing command after HEALTHCHECK CMD",
        ),
        (
            "HEALTHCHECK TCP 80",
            "Unknown type \"TCP\" in HEALTHCHECK (try CMD)",
        ),
        (
            "HEALTHCHECK --interval=1us CMD x",
            "Interval \"interval\" cannot be less than 1ms",
        ),
        (
            "HEALTHCHECK --timeout=5 CMD x",
            "invalid duration \"5\" for --timeout: such as 1m30s, with ns, us, ms, s, m or h",
        ),
        (
            "HEALTHCHECK --retries=-1 CMD x",
            "--retries \"-1\" is not a number from 0 to 2147483647",
        ),
    ] {
        assert_eq!(refused(text), message, "{text}");
    }
}

#[test]
fn the_rest() {
    assert_eq!(one("USER a:b"), Instruction::User("a:b".into()));
    assert_eq!(one("WORKDIR /a b"), Instruction::Workdir("/a b".into()));
    assert_eq!(one("STOPSIGNAL 9"), Instruction::StopSignal("9".into()));
    assert_eq!(
        one("MAINTAINER A <b@c>"),
        Instruction::Maintainer("A <b@c>".into())
    );
    assert_eq!(
        one("EXPOSE 9000 80/udp $p"),
        Instruction::Expose(vec!["$p".into(), "80/udp".into(), "9000".into()])
    );
    assert_eq!(
        one("VOLUME /a /b"),
        Instruction::Volume(vec!["/a".into(), "/b".into()])
    );
    assert_eq!(
        one("VOLUME [\"/a b\"]"),
        Instruction::Volume(vec!["/a b".into()])
    );
    for keyword in ["MAINTAINER", "WORKDIR", "USER", "STOPSIGNAL"] {
        assert_eq!(
            refused(keyword),
            format!("{keyword} requires exactly one argument")
        );
    }
    for keyword in ["EXPOSE", "VOLUME", "ONBUILD"] {
        assert_eq!(
            refused(keyword),
            format!("{keyword} requires at least one argument")
        );
    }
    assert_eq!(
        refused("VOLUME [\" \"]"),
        "VOLUME specified can not be an empty string"
    );
}

#[test]
fn triggers() {
    let trigger = |text| match one(text) {
        Instruction::Onbuild(onbuild) => onbuild.trigger,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        trigger("ONBUILD  RUN --network=none x"),
        "RUN --network=none x"
    );
    let text = trigger("ONBUILD COPY <<a <<-b /c\n1\na\n\t2\n\tb");
    assert_eq!(text, "COPY <<a <<-b /c\n1\na\n\t2\nb");
    let found = dockerfile::parse_trigger(&text, Lines::at(7)).expect("a trigger");
    assert!(found.is_trigger);
    assert_eq!(found.lines, Lines::at(7));
    assert!(matches!(&found.value, Instruction::Copy(c) if c.files.heredocs.len() == 2));
    for (text, message) in [
        (
            "ONBUILD ONBUILD RUN x",
            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        ),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        (
            "ONBUILD maintainer x",
            "MAINTAINER isn't allowed as an ONBUILD trigger",
        ),
        (
            "ONBUILD RNU x",
            "unknown instruction: RNU (did you mean RUN?)",
        ),
        (
            "ONBUILD COPY --form=x a b",
            "unknown flag: --form (did you mean from?)",
        ),
        ("ONBUILD --x RUN y", "unknown flag: --x"),
    ] {
        assert_eq!(refused(text), message, "{text}");
    }
    for text in ["", "RUN a\nRUN b", "FROM x", "ONBUILD RUN x", "WHAT x"] {
        assert!(
            dockerfile::parse_trigger(text, Lines::at(1)).is_err(),
            "{text}"
        );
    }
}

#[test]
fn errors_say_where_and_what_was_meant() {
    let text = "FROM alpine\n\nFORM x\nCMD y\n";
    let error = parse_error(text);
    assert_eq!(
        error.to_string(),
        "dockerfile parse error on line 3: unknown instruction: FORM (did you mean FROM?)"
    );
    insta::assert_snapshot!(error.excerpt("Dockerfile", text), @r"
    Dockerfile:3
    --------------------
       1 |     FROM alpine
       2 |     
       3 | >>> FORM x
       4 |     CMD y
       5 |     
    --------------------
    ");
    let text = "FROM a\nRUN x\ncopy --form=b \\\n  c \\\n  d\nCMD y\n";
    let error = parse_error(text);
    assert_eq!(error.places, [Lines::new(3, 5)]);
    insta::assert_snapshot!(error.excerpt("Dockerfile", text), @r"
    Dockerfile:3
    --------------------
       2 |     RUN x
       3 | >>> copy --form=b \
       4 | >>>   c \
       5 | >>>   d
       6 |     CMD y
    --------------------
    ");
    assert_eq!(
        parse_error("FROM a\nbanana x").to_string(),
        "dockerfile parse error on line 2: unknown instruction: banana"
    );
    assert_eq!(
        parse_error("FROM a\ncoppy bar").to_string(),
        "dockerfile parse error on line 2: unknown instruction: coppy (did you mean copy?)"
    );
}

#[test]
fn files_without_stages() {
    for text in ["", "\n\n", "# only\n# comments"] {
        assert!(
            parse_error(text)
                .to_string()
                .ends_with("file with no instructions"),
            "{text:?}"
        );
    }
    assert_eq!(
        parse_error("ARG a").to_string(),
        "dockerfile contains no stages to build: begin one with FROM"
    );
    assert_eq!(
        parse_error("ARG a\nRUN x\nFROM a").to_string(),
        "dockerfile parse error on line 2: no build stage in current context: RUN comes before the first FROM"
    );
}

#[test]
fn encodings() {
    let file = Dockerfile::from_bytes(b"\xEF\xBB\xBF# caf\xE9\nFROM a\n").expect("a comment");
    assert_eq!(file.stages[0].from.lines, Lines::at(2));
    for bytes in [
        &b"FROM a\nRUN caf\xE9\n"[..],
        b"FROM a\nRUN <<E\n# caf\xE9\nE\n",
        b"FROM a\nRUN <<E\nx\n#\xE9\nE\nCMD b",
    ] {
        let error = Dockerfile::from_bytes(bytes).expect_err("not UTF-8");
        assert!(error.to_string().contains("is not UTF-8"), "{error}");
    }
    // a comment between the lines of an instruction is none of its text
    assert!(Dockerfile::from_bytes(b"FROM a\nRUN b \\\n# \xE9\n c\n").is_ok());
}
