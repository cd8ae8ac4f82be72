//! The build checks, each with what it complains of and what it leaves alone.

use dockerfile::ignore::Ignore;
use dockerfile::lint::{self, Config, Facts, Image, Report, Rule};
use dockerfile::{Lines, Options};

use crate::{options, parse, platform, with_args};

fn nothing_known(_: usize) -> Option<Image> {
    None
}

fn empty_images(_: usize) -> Option<Image> {
    Some(Image::default())
}

fn check(text: &str, options: &Options) -> Report {
    let facts = Facts {
        image: &empty_images,
        ignore: None,
        all_stages: true,
    };
    lint::check(&parse(text), options, facts)
}

fn lines(report: &Report) -> Vec<String> {
    report.warnings.iter().map(ToString::to_string).collect()
}

/// The warnings of a file that builds.
#[track_caller]
fn warnings(text: &str) -> Vec<String> {
    let report = check(text, &options());
    assert_eq!(report.error, None, "{text}");
    lines(&report)
}

#[test]
fn casing_of_stages() {
    assert_eq!(
        warnings("FROM scratch AS Base\n"),
        ["StageNameCasing: Stage name 'Base' should be lowercase (line 1)"]
    );
    assert_eq!(
        warnings("FROM scratch as a\nFROM scratch AS b\n"),
        ["FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)"]
    );
    assert_eq!(
        warnings("from scratch AS a\nfrom scratch as b\n"),
        ["FromAsCasing: 'AS' and 'from' keywords' casing do not match (line 1)"]
    );
}

#[test]
fn casing_of_instructions() {
    assert_eq!(
        warnings("FROM scratch\ncopy a b\nCOPY c d\n"),
        [
            "ConsistentInstructionCasing: Command 'copy' should match the case of the command majority (uppercase) (line 2)"
        ]
    );
    assert_eq!(
        warnings("from scratch\ncopy a b\nCOPY c d\n"),
        [
            "ConsistentInstructionCasing: Command 'COPY' should match the case of the command majority (lowercase) (line 3)"
        ]
    );
    assert_eq!(
        warnings("From scratch as base\nFROM scratch AS b\n"),
        [
            "ConsistentInstructionCasing: Command 'From' should match the case of the command majority (uppercase) (line 1)"
        ],
        "of its AS nothing is said"
    );
    assert!(warnings("from scratch\ncopy a b\n").is_empty());
    assert!(warnings("FROM scratch\nRUN <<e\nenv\ne\n").is_empty());
}

#[test]
fn names_of_stages() {
    assert_eq!(
        warnings("FROM scratch AS b\nFROM scratch AS B\n"),
        [
            "StageNameCasing: Stage name 'B' should be lowercase (line 2)",
            "DuplicateStageName: Duplicate stage name \"b\", stage names should be unique (line 2)",
        ]
    );
    assert_eq!(
        warnings("FROM scratch AS scratch\nFROM alpine AS context\n"),
        [
            "ReservedStageName: Stage name should not use the same name as reserved stage \"scratch\" (line 1)",
            "ReservedStageName: Stage name should not use the same name as reserved stage \"context\" (line 2)",
        ]
    );
    assert!(warnings("FROM scratch\nFROM scratch AS a\n").is_empty());
}

#[test]
fn empty_lines_within_instructions() {
    assert_eq!(
        warnings("FROM scratch\nCOPY a \\\n\nb\nCOPY a \\\n# c\nb\n"),
        ["NoEmptyContinuation: Empty continuation line (line 4)"]
    );
    assert_eq!(
        warnings("FROM scratch\nRUN <<E \\\n\n cat\n\nE\n"),
        ["NoEmptyContinuation: Empty continuation line (line 4)"],
        "a heredoc's own empty lines are its own"
    );
}

#[test]
fn shell_form() {
    assert_eq!(
        warnings("FROM scratch\nCMD x\nENTRYPOINT y\n"),
        [
            "JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals (line 2)",
            "JSONArgsRecommended: JSON arguments recommended for ENTRYPOINT to prevent unintended behavior related to OS signals (line 3)",
        ]
    );
    assert!(warnings("FROM scratch\nCMD [\"x\"]\nRUN x\n").is_empty());
    assert!(warnings("FROM scratch AS a\nSHELL [\"x\"]\nFROM a\nCMD y\n").is_empty());
    let with_shell = |_| {
        Some(Image {
            has_shell: true,
            ..Image::default()
        })
    };
    let facts = Facts {
        image: &with_shell,
        ignore: None,
        all_stages: true,
    };
    let report = lint::check(&parse("FROM alpine\nCMD x\n"), &options(), facts);
    assert!(report.warnings.is_empty());
}

#[test]
fn one_of_a_kind() {
    let message = |name: &str, line: u8| {
        format!(
            "MultipleInstructionsDisallowed: Multiple {name} instructions should not be used in the same stage because only the last one will be used (line {line})"
        )
    };
    assert_eq!(
        warnings(
            "FROM scratch\nCMD [\"a\"]\nENTRYPOINT [\"a\"]\nHEALTHCHECK NONE\nUSER x\nCMD [\"a\"]\nENTRYPOINT [\"a\"]\nHEALTHCHECK NONE\n"
        ),
        [
            message("CMD", 2),
            message("ENTRYPOINT", 3),
            message("HEALTHCHECK", 4)
        ]
    );
    assert!(warnings("FROM scratch AS a\nCMD [\"a\"]\nFROM a\nCMD [\"a\"]\n").is_empty());
}

#[test]
fn old_forms() {
    assert_eq!(
        warnings("FROM scratch\nMAINTAINER x\nENV a b\nLABEL a b\n"),
        [
            "MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)",
            "LegacyKeyValueFormat: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format (line 3)",
            "LegacyKeyValueFormat: \"LABEL key=value\" should be used instead of legacy \"LABEL key value\" format (line 4)",
        ]
    );
    assert!(warnings("FROM scratch\nENV a=b\nLABEL a=b\n").is_empty());
}

#[test]
fn working_directories() {
    assert_eq!(
        warnings("FROM scratch\nWORKDIR app/\nWORKDIR b\n"),
        [
            "WorkdirRelativePath: Relative workdir \"app/\" can have unexpected results if the base image changes (line 2)"
        ],
        "only the first one"
    );
    assert!(warnings("FROM scratch AS a\nWORKDIR /app\nFROM a\nWORKDIR b\n").is_empty());
    assert!(warnings("FROM scratch\nENV D=/d\nWORKDIR $D\n").is_empty());
}

#[test]
fn undefined_variables() {
    let undefined = |name: &str, hint: &str, line: u8| {
        format!("UndefinedVar: Usage of undefined variable '${name}'{hint} (line {line})")
    };
    assert_eq!(
        warnings("FROM alpine\nCOPY $foo .\nARG foo=bar\nCOPY $foo .\n"),
        [undefined("foo", "", 2)]
    );
    assert_eq!(
        warnings("FROM alpine\nARG DIR_ASSETS=a\nCOPY $DIR_ASSET .\n"),
        [undefined("DIR_ASSET", " (did you mean $DIR_ASSETS?)", 3)]
    );
    assert_eq!(
        warnings("FROM alpine\nENV PATH=$PAHT:/x\n"),
        [undefined("PAHT", " (did you mean $PATH?)", 2)]
    );
    assert_eq!(
        warnings(
            "FROM alpine\nARG A=$nope\nRUN --mount=type=cache,target=$nada x\nEXPOSE $port\nCOPY <<E /f\n$in\nE\n"
        ),
        [
            undefined("nope", "", 2),
            undefined("nada", "", 3),
            undefined("port", "", 4),
            undefined("in", "", 5)
        ]
    );
    for text in [
        "FROM alpine\nARG foo\nCOPY x$foo .\n",
        "FROM alpine AS a\nARG foo\nFROM a\nCOPY x$foo .\n",
        "FROM alpine\nRUN echo $anything\nCMD [\"$anything\"]\n",
        "FROM alpine\nCOPY <<'E' /f\n$in\nE\n",
        "FROM alpine\nRUN echo $PATH\n",
    ] {
        assert_eq!(warnings(text), Vec::<String>::new(), "{text}");
    }
    let report = check("FROM alpine\nARG A=$nope\n", &with_args(&[("A", "1")]));
    assert!(report.warnings.is_empty(), "the default is not used");
}

#[test]
fn what_an_unknown_image_sets_is_not_complained_of() {
    let text = "FROM alpine AS a\nFROM a\nCOPY $GOPATH .\nFROM scratch\nCOPY $GOPATH .\n";
    let facts = |image| Facts {
        image,
        ignore: None,
        all_stages: true,
    };
    let report = lint::check(&parse(text), &options(), facts(&nothing_known));
    assert_eq!(
        lines(&report),
        ["UndefinedVar: Usage of undefined variable '$GOPATH' (did you mean $PATH?) (line 5)"]
    );
    let golang = |_| {
        Some(Image {
            environment: vec![("GOPATH".into(), "/go".into())],
            ..Image::default()
        })
    };
    let report = lint::check(&parse(text), &options(), facts(&golang));
    assert_eq!(report.warnings.len(), 1);
}

#[test]
fn arguments_of_from() {
    let undeclared = |name: &str, hint: &str| {
        format!("UndefinedArgInFrom: FROM argument '{name}' is not declared{hint} (line 2)")
    };
    assert_eq!(
        warnings("ARG tag=latest\nFROM busybox:${tag}${version}\n"),
        [undeclared("version", "")]
    );
    let report = check("\nFROM --platform=$BULIDPLATFORM scratch\n", &options());
    assert_eq!(
        lines(&report),
        [undeclared(
            "BULIDPLATFORM",
            " (did you mean BUILDPLATFORM?)"
        )],
        "before the error"
    );
    assert!(report.error.is_some());
    for text in [
        "ARG base=scratch\nFROM $base\n",
        "ARG DEBUG\nFROM scratch${DEBUG}\n",
        "ARG DEBUG\nFROM scra${DEBUG:-tch}\n",
        "FROM --platform=$BUILDPLATFORM scratch\n",
    ] {
        assert_eq!(warnings(text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn defaults_of_from() {
    let invalid = |base: &str| {
        format!(
            "InvalidDefaultArgInFrom: Default value for ARG {base} results in empty or invalid base image name (line 2)"
        )
    };
    for (text, base) in [
        ("ARG V\nFROM busybox:$V\n", "busybox:$V"),
        ("ARG V\nFROM $V\n", "$V"),
        ("ARG V=\"box:\"\nFROM busy${V}\n", "busy${V}"),
    ] {
        let report = check(text, &with_args(&[("V", "box:latest")]));
        assert_eq!(lines(&report), [invalid(base)], "{text}");
    }
    for text in [
        "ARG V=latest\nFROM busybox:$V\n",
        "ARG V\nFROM busybox:stable$V\n",
        "ARG V=\"\"\nFROM localhost:5000/a/b_c$V@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n",
    ] {
        assert!(
            check(text, &with_args(&[("V", "x")])).warnings.is_empty(),
            "{text}"
        );
    }
}

#[test]
fn platforms() {
    assert_eq!(
        warnings("FROM --platform=${TARGETPLATFORM} scratch\n"),
        [
            "RedundantTargetPlatform: Setting platform to predefined ${TARGETPLATFORM} in FROM is redundant as this is the default behavior (line 1)"
        ]
    );
    assert_eq!(
        warnings("FROM --platform=linux/amd64 scratch\n"),
        [
            "FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value \"linux/amd64\" (line 1)"
        ]
    );
    assert!(warnings("FROM --platform=linux/amd64 scratch AS my_amd64\n").is_empty());
    assert!(warnings("FROM --platform=$BUILDPLATFORM scratch\n").is_empty());
    let arm = |_| {
        Some(Image {
            platform: Some(platform("linux/arm64")),
            ..Image::default()
        })
    };
    let facts = Facts {
        image: &arm,
        ignore: None,
        all_stages: true,
    };
    let report = lint::check(&parse("FROM busybox\n"), &options(), facts);
    assert_eq!(
        lines(&report),
        [
            "InvalidBaseImagePlatform: Base image busybox was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build (line 1)"
        ]
    );
}

#[test]
fn secrets() {
    let secret = |keyword: &str, name: &str, line: u8| {
        format!(
            "SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data ({keyword} {name:?}) (line {line})"
        )
    };
    assert_eq!(
        warnings(
            "FROM scratch\nARG SECRET_WORD\nENV password=a Git_Key= sunflower=b\nARG my_token=x auth\n"
        ),
        [
            secret("ARG", "SECRET_WORD", 2),
            secret("ENV", "password", 3),
            secret("ENV", "Git_Key", 3),
            secret("ARG", "my_token", 4),
            secret("ARG", "auth", 4),
        ]
    );
    for name in [
        "PUBLIC_KEY",
        "password_file",
        "AUTH_VERSION",
        "keyboard",
        "authors",
    ] {
        assert_eq!(
            warnings(&format!("FROM scratch\nARG {name}\n")),
            Vec::<String>::new()
        );
    }
}

#[test]
fn ports() {
    assert_eq!(
        warnings("FROM scratch\nEXPOSE 80/TcP 81/udp 5000:5000 127.0.0.1:80:80\n"),
        [
            "ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:80:80' (line 2)",
            "ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '5000:5000' (line 2)",
            "ExposeProtoCasing: Defined protocol '80/TcP' in EXPOSE instruction should be lowercase (line 2)",
        ]
    );
    let report = check("FROM scratch\nEXPOSE x\n", &options());
    let error = report.error.expect("no port");
    assert!(
        error.to_string().starts_with("invalid containerPort: x"),
        "{error}"
    );
    assert_eq!(error.places, [Lines::at(2)]);
}

#[test]
fn ignored_files() {
    let with = |text: &str, patterns: &str| {
        let ignore = Ignore::parse(patterns).expect("patterns");
        let facts = Facts {
            image: &empty_images,
            ignore: Some(&ignore),
            all_stages: true,
        };
        lines(&lint::check(&parse(text), &options(), facts))
    };
    let ignored = |verb: &str, path: &str, line: u8| {
        format!(
            "CopyIgnoredFile: Attempting to {verb} file \"{path}\" that is excluded by .dockerignore (line {line})"
        )
    };
    assert_eq!(
        with(
            "FROM scratch\nCOPY Dockerfile .\nADD ./Dockerfile /x\n",
            "Dockerfile\n"
        ),
        [
            ignored("Copy", "Dockerfile", 2),
            ignored("Add", "Dockerfile", 3)
        ]
    );
    assert_eq!(
        with("FROM scratch\nCOPY . .\n", "*\n"),
        [ignored("Copy", ".", 2)]
    );
    assert!(with("FROM scratch\nCOPY . .\n", ".*\n").is_empty());
    assert!(with("FROM scratch\nCOPY Dockerfile .\n", "**\n!Dockerfile\n").is_empty());
    assert!(with("FROM scratch AS a\nFROM a\nCOPY --from=a /x /y\n", "x\n").is_empty());
    assert!(
        with(
            "FROM scratch\nADD https://x/a.tar /y\n",
            "https:*\n**/a.tar\n"
        )
        .is_empty()
    );
}

#[test]
fn descriptions_are_checked_where_asked_for() {
    let text = "# check=experimental=InvalidDefinitionDescription\n# bar is it\nARG foo=bar\n# base is it\nFROM scratch AS base\n# no\nARG a b\n#\nARG c\n";
    assert_eq!(
        warnings(text),
        [
            "InvalidDefinitionDescription: Comment for ARG should follow the format: `# foo <description>` (line 3)",
            "InvalidDefinitionDescription: Comment for ARG should follow the format: `# <arg_key> <description>` (line 7)",
        ]
    );
    let file = parse(text);
    assert_eq!(file.stages[0].from.description("base"), Some("is it"));
    assert!(warnings(&text[text.find('\n').expect("a line") + 1..]).is_empty());
}

#[test]
fn what_a_build_would_refuse_is_an_error() {
    for (line, message) in [
        ("COPY --chmod=9 a b", "invalid chmod parameter: '9'"),
        ("ADD --chmod=u+q a b", "invalid chmod parameter: 'u+q'"),
        ("COPY https://h/a b", "source can't be a URL for COPY"),
        ("ADD --checksum=x a b", "checksum requires"),
        ("RUN --mount=type=$N x", "unsupported mount type \"\""),
        (
            "USER ${N:?name one}",
            "failed to process \"${N:?name one}\": N: name one",
        ),
        (
            "ARG A=${N:?}",
            "failed to process \"${N:?}\": N: is not allowed to be unset",
        ),
    ] {
        let report = check(&format!("FROM scratch\n{line}\nMAINTAINER x\n"), &options());
        let error = report.error.expect(line);
        assert!(error.to_string().starts_with(message), "{error}");
        assert_eq!(error.places, [Lines::at(2)]);
        let last = report.warnings.last().map(|w| w.rule);
        assert_eq!(
            last,
            Some(Rule::MaintainerDeprecated),
            "what is of the text alone"
        );
    }
}

#[test]
fn stages_that_are_not_needed_are_left_alone() {
    let text = "FROM scratch AS a\nENV x y\nFROM scratch\nENV z w\n";
    let facts = Facts {
        image: &empty_images,
        ignore: None,
        all_stages: false,
    };
    let report = lint::check(&parse(text), &options(), facts);
    assert_eq!(report.warnings.len(), 1);
    assert_eq!(report.warnings[0].lines, Lines::at(4));
    assert_eq!(warnings(text).len(), 2);
}

#[test]
fn checks_can_be_skipped() {
    let text = "FROM scratch as base\ncopy a b\n";
    let rules = |check: &str| {
        let report = check_with(check, text);
        report.warnings.iter().map(|w| w.rule).collect::<Vec<_>>()
    };
    let both = [Rule::FromAsCasing, Rule::ConsistentInstructionCasing];
    assert_eq!(rules("error=false"), both);
    assert_eq!(rules("skip=all"), []);
    assert_eq!(rules("skip=FromAsCasing, x"), both[1..], "up to the space");
    assert_eq!(rules("skip=FromAsCasing,ConsistentInstructionCasing"), []);

    let failure = |check: &str| {
        check_with(check, text)
            .failure()
            .map(|e| (e.to_string(), e.places))
    };
    assert_eq!(failure("skip=all;error=true"), None);
    assert_eq!(failure("skip=FromAsCasing"), None);
    assert_eq!(
        failure("skip=ConsistentInstructionCasing;error=true"),
        Some((
            "lint violation found for rules: FromAsCasing".into(),
            vec![Lines::at(2)]
        ))
    );
    // what is given is before what is in the file
    let options = with_args(&[("BUILDKIT_DOCKERFILE_CHECK", "skip=all")]);
    let report = check(&format!("# check=error=true\n{text}"), &options);
    assert_eq!((report.warnings.len(), report.failure()), (0, None));

    let error = check_with("skip", text).error.expect("no option");
    assert!(
        error
            .to_string()
            .starts_with("invalid check option \"skip\""),
        "{error}"
    );
    assert_eq!(error.places, [Lines::at(1)]);
    assert!(Config::parse("error=maybe").is_err());
    assert!(Config::parse("what=x").is_err());
}

fn check_with(directive: &str, text: &str) -> Report {
    check(&format!("# check={directive}\n{text}"), &options())
}

#[test]
fn checks_can_be_skipped_for_one_instruction() {
    let text = "FROM scratch\n# check=skip=SecretsUsedInArgOrEnv // here it is fine\nENV password=a\n# check=skip=all\nENV secret b\nENV token=c\n";
    let found = warnings(text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].ends_with("(line 6)"), "{found:?}");
    assert!(
        warnings(
            "#\n\n# check=skip=RedundantTargetPlatform\nFROM --platform=$TARGETPLATFORM scratch\n"
        )
        .is_empty()
    );
}

#[test]
fn rules_are_explained() {
    assert_eq!(
        Rule::JsonArgsRecommended.url().as_deref(),
        Some("https://docs.docker.com/go/dockerfile/rule/json-args-recommended/")
    );
    assert_eq!(
        Rule::SecretsUsedInArgOrEnv.url().as_deref(),
        Some("https://docs.docker.com/go/dockerfile/rule/secrets-used-in-arg-or-env/")
    );
    assert_eq!(Rule::InvalidBaseImagePlatform.url(), None);
}
