//! Variables: how texts are expanded, in which instructions, and which value is seen where.

use std::sync::Arc;

use dockerfile::instruction::ArgPair;
use dockerfile::{
    Budget, Expander, Instruction, Located, Lookup, Nothing, Options, Plan, Scope, history,
};

use crate::{options, plan, with_args};

struct Env(Vec<(&'static str, &'static str)>);

impl Lookup for Env {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }

    fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(n, _)| *n).collect()
    }
}

fn env() -> Env {
    Env(vec![
        ("PWD", "/home"),
        ("SHELL", "bash"),
        ("NULL", ""),
        ("UNI", "한국어"),
        ("SPACES", " a  b "),
        ("FILE", "/tmp/a/b.tar.gz"),
        ("STAR", "a*b**"),
        ("SLASH", "/"),
        ("PATTERN", "*/"),
    ])
}

#[track_caller]
fn word(text: &str) -> Result<String, String> {
    Expander::new(&env(), '\\', &Budget::default())
        .word(text)
        .map_err(|e| e.to_string())
}

#[test]
fn quotes_and_escapes() {
    for (text, expected) in [
        ("he'll'o", "hello"),
        ("he\\'llo", "he'llo"),
        ("a\\tb", "atb"),
        ("\"a\\tb\"", "a\\tb"),
        ("\"a\\\\tb\"", "a\\tb"),
        ("'a\\tb'", "a\\tb"),
        ("a\\", "a"),
        ("a\\\\", "a\\"),
        ("\"a'b\"", "a'b"),
        ("'a\\'", "a\\"),
        ("\"''\"", "''"),
        ("'\"a\"'", "\"a\""),
        ("\"a\\\"b\"", "a\"b"),
        ("a b  c", "a b  c"),
        ("a<b <<  c", "a<b <<  c"),
        ("안\\'녕'하세'요", "안'녕하세요"),
    ] {
        assert_eq!(word(text).as_deref(), Ok(expected), "{text}");
    }
    for text in ["he'llo", "\"a", "\"a\\\"", "a\\\\'b"] {
        assert!(word(text).is_err(), "{text}");
    }
}

#[test]
fn plain_variables() {
    for (text, expected) in [
        ("$PWD", "/home"),
        ("a${PWD}b", "a/homeb"),
        ("$PWDx", ""),
        ("$pwd.", "."),
        ("\"$PWD\" '$PWD'", "/home $PWD"),
        ("\\$PWD \"\\$PWD\"", "$PWD $PWD"),
        ("\\\\$PWD", "\\/home"),
        ("\\${}", "${}"),
        ("$. $", "$. $"),
        ("$1x $999a $@@ ${1:-b}", "x a @ b"),
        ("$$ $# $? $- $* $!", "     "),
        ("$UNI${UNI}", "한국어한국어"),
        ("${XXX}}", "}"),
    ] {
        assert_eq!(word(text).as_deref(), Ok(expected), "{text}");
    }
    for text in [
        "${}", "${.}", "${PWD", "${{PWD}", "${:}", "${:-x}", "${", "${PWD:",
    ] {
        assert!(word(text).is_err(), "{text}");
    }
    assert_eq!(
        word("a${}").unwrap_err(),
        "failed to process \"a${}\": syntax error: bad substitution"
    );
}

#[test]
fn defaults_and_alternatives() {
    for (text, expected) in [
        ("${XXX:-0}x ${XXX-0}x", "0x 0x"),
        ("${NULL:-0}x ${NULL-0}x", "0x x"),
        ("${PWD:-0}x", "/homex"),
        ("${XXX:-$PWD} ${XXX:-${YYY:-y}}", "/home y"),
        ("${XXX:-\\$PWD:} ${XXX:-\\${PWD}z}", "$PWD: ${PWDz}"),
        ("${XXX:-a {b}", "a {b"),
        ("${XXX:-'a}b'}", "a}b"),
        ("${XXX:+0}x ${PWD:+0}x ${PWD+0}x", "x 0x 0x"),
        ("${NULL:+0}x ${NULL+0}x", "x 0x"),
        ("${PWD:+${PWD}:}", "/home:"),
        ("${PWD:?} ${PWD?} ${NULL?}", "/home /home "),
    ] {
        assert_eq!(word(text).as_deref(), Ok(expected), "{text}");
    }
    let reason = |text: &str| {
        let error = word(text).expect_err("it fails");
        error.split_once("\": ").expect("a reason").1.to_owned()
    };
    assert_eq!(reason("${XXX?}"), "XXX: is not allowed to be unset");
    assert_eq!(reason("${NULL:?}"), "NULL: is not allowed to be empty");
    assert_eq!(reason("${NULL:?give $PWD}"), "NULL: give /home");
    assert_eq!(
        reason("${PWD=x}"),
        "unsupported modifier (=) in substitution"
    );
    assert_eq!(
        reason("${PWD:=x}"),
        "unsupported modifier (:=) in substitution"
    );
    assert_eq!(
        reason("${PWD:YY}"),
        "unsupported modifier (:Y) in substitution"
    );
    assert_eq!(
        reason("${PWD:#x}"),
        "unsupported modifier (:#) in substitution"
    );
    assert_eq!(reason("${XXX:-${PWD}"), "syntax error: missing '}'");
}

#[test]
fn patterns() {
    for (text, expected) in [
        ("${FILE#*/}", "tmp/a/b.tar.gz"),
        ("${FILE##*/}", "b.tar.gz"),
        ("${FILE%.*}", "/tmp/a/b.tar"),
        ("${FILE%%.*}", "/tmp/a/b"),
        (
            "${FILE#nothing}${FILE%nothing}",
            "/tmp/a/b.tar.gz/tmp/a/b.tar.gz",
        ),
        ("${FILE#}${NULL%%*}${XXX##*}", "/tmp/a/b.tar.gz"),
        ("${STAR%\\**}", "a*b*"),
        ("${STAR%%\\**}", "a"),
        ("${STAR#a\\*}", "b**"),
        ("${UNI#?}${UNI%?}", "국어한국"),
        ("${FILE##$PATTERN}", "b.tar.gz"),
        ("${FILE/a/X}", "/tmp/X/b.tar.gz"),
        ("${FILE//a/X}", "/tmp/X/b.tXr.gz"),
        ("${FILE//a/}", "/tmp//b.tr.gz"),
        (
            "${FILE/$SLASH/-} ${FILE//\\//-}",
            "-tmp/a/b.tar.gz -tmp-a-b.tar.gz",
        ),
        ("${FILE/t*a/X}", "/Xr.gz"),
        ("${FILE/b.tar/$SHELL}", "/tmp/a/bash.gz"),
        ("${FILE/nothing/X}", "/tmp/a/b.tar.gz"),
        ("${XXX/a/b}", ""),
        ("${NULL/$NULL/w}${PWD/$NULL/w}", "ww/home"),
    ] {
        assert_eq!(word(text).as_deref(), Ok(expected), "{text}");
    }
    for text in [
        "${FILE/a}",
        "${FILE/a/b",
        "${FILE#a",
        "${FILE#\\a}",
        "${FILE/\\a/b}",
        "${FILE//}",
    ] {
        assert!(word(text).is_err(), "{text}");
    }
}

#[test]
fn words_split_where_nothing_quotes() {
    let words = |text: &str| {
        Expander::new(&env(), '\\', &Budget::default())
            .words(text)
            .expect("words")
    };
    assert_eq!(words("x${SPACES}y"), ["x", "a", "b", "y"]);
    assert_eq!(words("x\"${SPACES}\"y"), ["x a  b y"]);
    assert_eq!(words(" a\\ b  'c d' "), ["a b", "c d"]);
    assert_eq!(words("80${XXX:-80}"), ["8080"]);
    assert!(words(" $NULL ").is_empty());
}

#[test]
fn another_escape() {
    let env = env();
    let mut x = Expander::new(&env, '`', &Budget::default());
    assert_eq!(x.word("c:\\$SHELL`$SHELL").as_deref(), Ok("c:\\bash$SHELL"));
}

#[test]
fn names_are_told_apart() {
    let env = env();
    let mut x = Expander::new(&env, '\\', &Budget::default());
    x.word("$PWD ${XXX:-${YYY}} ${NULL:+z}").expect("a word");
    assert_eq!(x.used().iter().collect::<Vec<_>>(), ["NULL", "PWD"]);
    assert_eq!(x.unset().iter().collect::<Vec<_>>(), ["XXX", "YYY"]);
}

/// The instructions of the last stage, each expanded where it stands.
fn run_through(plan: &Plan) -> (Vec<Instruction>, Scope) {
    let mut scopes: Vec<Option<Scope>> = vec![None; plan.stages.len()];
    let mut expanded = Vec::new();
    for &index in &plan.order {
        let stage = &plan.stages[index];
        let mut scope = match &stage.base {
            dockerfile::Base::Stage(base) => scopes[*base]
                .as_ref()
                .expect("before")
                .inherited()
                .expect("small"),
            _ => Scope::new(&plan.globals, &[("FROM_IMAGE".into(), "i".into())]).expect("small"),
        };
        expanded.clear();
        for found in &stage.instructions {
            let now = found.expand(&mut scope.expander()).expect("it expands");
            match &now.value {
                Instruction::Env(pairs) => scope.env(pairs).expect("small"),
                Instruction::Arg(args) => drop(scope.arg(args).expect("it has a value")),
                _ => {}
            }
            expanded.push(now.value);
        }
        scopes[index] = Some(scope);
    }
    let last = scopes.pop().flatten().expect("the target");
    (expanded, last)
}

/// What `USER $X` becomes at the end of a file.
fn seen(text: &str, options: &Options) -> String {
    let plan = plan(&format!("{text}\nUSER <$X>"), options);
    match run_through(&plan).0.pop() {
        Some(Instruction::User(user)) => user,
        other => panic!("{other:?}"),
    }
}

#[test]
fn which_value_is_seen() {
    let none = &options();
    let given = &with_args(&[("X", "given")]);
    for (text, without, with) in [
        ("FROM a", "<>", "<>"),
        ("FROM a\nARG X", "<>", "<given>"),
        ("FROM a\nARG X=d", "<d>", "<given>"),
        ("ARG X=g\nFROM a", "<>", "<>"),
        ("ARG X=g\nFROM a\nARG X", "<g>", "<given>"),
        ("ARG X=g\nFROM a\nARG X=d", "<d>", "<given>"),
        ("ARG X\nFROM a\nARG X", "<>", "<given>"),
        ("FROM a\nENV X=e", "<e>", "<e>"),
        ("FROM a\nARG X=d\nENV X=e", "<e>", "<e>"),
        ("FROM a\nARG X=d\nENV X=${X:-none}", "<d>", "<given>"),
        ("FROM a\nENV X=e\nARG X=d", "<d>", "<given>"),
        ("FROM a\nENV X=e\nARG X", "<e>", "<given>"),
        // of another stage
        ("FROM a AS b\nARG X=d\nFROM c", "<>", "<>"),
        ("FROM a AS b\nARG X=d\nFROM b", "<d>", "<given>"),
        ("FROM a AS b\nENV X=e\nFROM b", "<e>", "<e>"),
        (
            "FROM a AS b\nARG X=d\nFROM b AS c\nARG X=other\nFROM c",
            "<other>",
            "<given>",
        ),
        // of the base image
        ("FROM a\nARG X=$FROM_IMAGE", "<i>", "<given>"),
        // in one instruction: ENV sees what was before, ARG what is left of it
        (
            "FROM a\nENV X=old\nENV X=new Y=$X\nENV X=$Y",
            "<old>",
            "<old>",
        ),
        ("FROM a\nARG Y=1 X=$Y", "<1>", "<given>"),
        (
            "ARG Y=1 X=$Y-$TARGETARCH\nFROM a\nARG X",
            "<1-amd64>",
            "<given>",
        ),
    ] {
        assert_eq!(seen(text, none), without, "{text}");
        assert_eq!(seen(text, given), with, "{text}");
    }
}

#[test]
fn platforms_and_the_target_are_arguments() {
    let mut options = options();
    options.target_platform = crate::platform("linux/arm/v7");
    options.target = Some("final".into());
    let text = "FROM a AS final\nARG BUILDPLATFORM BUILDARCH TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT TARGETSTAGE\n\
                ENV ALL=$BUILDPLATFORM,$BUILDARCH,$TARGETPLATFORM,$TARGETOS,$TARGETARCH,$TARGETVARIANT,$TARGETSTAGE";
    let plan = plan(text, &options);
    let (_, scope) = run_through(&plan);
    assert_eq!(
        scope.get("ALL"),
        Some("linux/amd64,amd64,linux/arm/v7,linux,arm,v7,final")
    );
    let plan = crate::plan("FROM a\nARG TARGETSTAGE TARGETOSVERSION", &crate::options());
    let (_, scope) = run_through(&plan);
    assert_eq!(scope.get("TARGETSTAGE"), Some("default"));
    assert_eq!(scope.get("TARGETOSVERSION"), Some(""));
    assert_eq!(scope.get("TARGETARCH"), None, "not asked for");
}

#[test]
fn environments() {
    let options = with_args(&[("https_proxy", "p"), ("A", "1")]);
    let plan = plan("FROM a\nENV Z=1 B=2\nARG A U\nENV Z=3", &options);
    let (_, scope) = run_through(&plan);
    let pair = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
    let image = [
        ("FROM_IMAGE", "i"),
        ("PATH", dockerfile::scope::DEFAULT_PATH),
        ("Z", "3"),
        ("B", "2"),
    ];
    assert_eq!(
        scope.image_env(),
        image.iter().map(pair).collect::<Vec<_>>()
    );
    let mut run: Vec<_> = image.iter().map(pair).collect();
    run.extend(
        [("A", "1"), ("HTTPS_PROXY", "p"), ("https_proxy", "p")]
            .iter()
            .map(pair),
    );
    assert_eq!(scope.run_env(), run);
    assert_eq!(scope.args(), [pair(&("A", "1")), pair(&("U", ""))]);
}

#[test]
fn which_instructions_expand() {
    let text = "FROM a
ENV X=x N=name
ADD --chown=$X --chmod=$X --checksum=$X $X '$X' /$X
COPY --chown=$X --exclude=$X $X /$X
COPY <<$N <<'q' <<\"E\" /d
$X '$X' \\$X \\\\
$N
$X
q
E
LABEL $N=$X \"$N\"=\"$X $X\"
EXPOSE $X ${Y:-8}0
STOPSIGNAL $X
VOLUME $X /$X
VOLUME [\"$X\"]
WORKDIR /$X
RUN echo $X
CMD $X
ENTRYPOINT [\"$X\"]
HEALTHCHECK CMD $X
SHELL [\"$X\"]
ONBUILD RUN $X
MAINTAINER $X
";
    let (expanded, scope) = run_through(&plan(text, &options()));
    let shell = ["sh".to_owned(), "-c".to_owned()];
    let lines: Vec<String> = expanded
        .iter()
        .filter_map(|i| history::entry(i, &scope, &shell))
        .map(|e| e.created_by)
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    ENV X=x N=name
    ADD --chown=x --chmod=x x $X /x # buildkit
    COPY --chown=x x /x # buildkit
    COPY <<$N <<q <<E /d # buildkit
    LABEL name=x name=x x
    EXPOSE [x 80]
    STOPSIGNAL x
    VOLUME [x /x]
    VOLUME [x]
    WORKDIR /x
    RUN sh -c echo $X # buildkit
    CMD ["sh" "-c" "$X"]
    ENTRYPOINT ["$X"]
    HEALTHCHECK {Test:[CMD-SHELL $X] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}
    SHELL [$X]
    MAINTAINER $X
    "#);
    let Instruction::Copy(copy) = &expanded[3] else {
        panic!("no COPY");
    };
    let contents: Vec<_> = copy
        .files
        .heredocs
        .iter()
        .map(|h| h.content.as_str())
        .collect();
    assert_eq!(contents, ["x 'x' $X \\\n", "$X\n", ""]);
    let Instruction::Copy(copy) = &expanded[2] else {
        panic!("no COPY");
    };
    assert_eq!(copy.files.exclude, ["$X"]);
}

#[test]
fn histories_are_buildkits() {
    let text = "FROM a
ARG A=1 B
ENV X=\"x y\" Z=2
RUN echo $X
RUN [\"a\", \"b\"]
COPY --parents --chown=1:2 --chmod=700 a <<f /b
f
CMD [\"a\\\"b\", \"c\\td\"]
HEALTHCHECK --interval=90s --retries=2 CMD curl x
HEALTHCHECK NONE
EXPOSE 80 53/udp
USER u
SHELL [\"bash\", \"-c\"]
ONBUILD RUN x
";
    let plan = plan(text, &options());
    let (expanded, scope) = run_through(&plan);
    let shell = ["/bin/sh".to_owned(), "-c".to_owned()];
    let lines: Vec<String> = expanded
        .iter()
        .filter_map(|i| history::entry(i, &scope, &shell))
        .map(|e| format!("{}{}", if e.empty_layer { "" } else { "+ " }, e.created_by))
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    ARG A=1 B
    ENV X=x y Z=2
    + RUN |2 A=1 B= /bin/sh -c echo $X # buildkit
    + RUN |2 A=1 B= a b # buildkit
    + COPY --parents --chown=1:2 --chmod=700 a <<f /b # buildkit
    CMD ["a\"b" "c\td"]
    HEALTHCHECK {Test:[CMD-SHELL curl x] Interval:1m30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:2}
    HEALTHCHECK {Test:[NONE] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}
    EXPOSE [53/udp 80/tcp]
    USER u
    SHELL [bash -c]
    "#);
}

#[test]
fn progress_lines() {
    let text = "FROM a\nENV X=x\nrun echo \"$X $Y\" &&   true\ncopy \\\n $X '$X' /b\nRUN <<E cat\none\ntwo\nE\n";
    let plan = plan(text, &options());
    let (_, scope) = run_through(&plan);
    let stage: &Vec<Located<Instruction>> = &plan.stages[0].instructions;
    let lines: Vec<String> = stage[1..]
        .iter()
        .map(|found| history::progress(found, &mut scope.expander()))
        .collect();
    assert_eq!(
        lines,
        [
            "RUN echo \"x $Y\" &&   true",
            "COPY  x $X /b",
            "RUN <<E cat (one...)"
        ]
    );
    let trigger = dockerfile::parse_trigger("RUN x", dockerfile::Lines::at(1)).expect("a trigger");
    let x = &mut Expander::new(&Nothing, '\\', &Budget::default());
    assert_eq!(history::progress(&trigger, x), "ONBUILD RUN x");
}

#[test]
fn what_expands_without_end_is_refused() {
    let doubling = "ENV A=$A$A\n".repeat(60);
    let text = format!("FROM a\nENV A=0123456789\n{doubling}");
    let plan = plan(&text, &options());
    let mut scope = Scope::new(&plan.globals, &[]).expect("small");
    let failed = plan.stages[0].instructions.iter().find_map(|found| {
        match found.expand(&mut scope.expander()) {
            Err(error) => Some(error),
            Ok(now) => match &now.value {
                Instruction::Env(pairs) => scope.env(pairs).map_err(|e| panic!("{e}")).err(),
                _ => None,
            },
        }
    });
    let error = failed.expect("it ends").to_string();
    assert!(
        error.ends_with("expands to more than 1048576 bytes"),
        "{error}"
    );

    // many large values, none too large alone
    let globals = Arc::clone(&plan.globals);
    let mut scope = Scope::new(&globals, &[]).expect("small");
    let value = "x".repeat(1 << 19);
    let many = |i: usize| ArgPair {
        name: format!("A{i}"),
        default: Some(value.clone()),
    };
    let args: Vec<ArgPair> = (0..10).map(many).collect();
    let error = scope.arg(&args).expect_err("too many").to_string();
    assert!(error.contains("2097152 bytes together"), "{error}");

    // the same value again and again
    let env = Env(vec![("V", Box::leak(value.into_boxed_str()))]);
    let budget = Budget::default();
    let work = (0..10_000).find_map(|_| {
        Expander::new(&env, '\\', &budget)
            .word("${V#nothing}")
            .err()
    });
    let error = work.expect("it ends").to_string();
    assert!(error.contains("the work has a limit"), "{error}");

    let deep = format!("{}x{}", "${N:-".repeat(200), "}".repeat(200));
    let error = word(&deep).expect_err("too deep");
    assert!(error.contains("nested more than 100 deep"), "{error}");
}
