//! Which stages a target needs, and what each begins with.

use dockerfile::{Base, Instruction, Lines, Source};

use crate::{options, parse, plan, platform, with_args};

fn order(text: &str, target: &str) -> Vec<usize> {
    let mut options = options();
    options.target = Some(target.into()).filter(|t: &String| !t.is_empty());
    plan(text, &options).order
}

fn error(text: &str, target: &str) -> (String, Vec<Lines>) {
    let mut options = options();
    options.target = Some(target.into()).filter(|t: &String| !t.is_empty());
    let error = parse(text).plan(&options).expect_err("no plan");
    (error.to_string(), error.places)
}

const FILE: &str = "\
FROM a AS one
FROM b AS two
COPY --from=one /x /y
FROM scratch AS three
RUN --mount=from=two,target=/m true
FROM one AS four
COPY --from=1 /x /y
FROM scratch
COPY --from=alpine:3 /x /y
";

#[test]
fn a_target_needs_what_it_is_made_of() {
    assert_eq!(order(FILE, ""), [4], "the last one");
    assert_eq!(order(FILE, "one"), [0]);
    assert_eq!(order(FILE, "Two"), [0, 1], "COPY --from");
    assert_eq!(order(FILE, "three"), [0, 1, 2], "a mount");
    assert_eq!(order(FILE, "four"), [0, 1, 3], "a base, and a number");
    assert_eq!(order(FILE, "4"), [4], "by number");
    assert_eq!(
        error(FILE, "thre").0,
        "target stage \"thre\" could not be found (did you mean three?)"
    );
    assert_eq!(error(FILE, "5").0, "target stage \"5\" could not be found");
}

#[test]
fn bases() {
    let text = "ARG V=3\nFROM debian:$V AS base\nFROM Base\nFROM scratch\nFROM ${V:+base}\nFROM ctx AS x\nFROM y AS ctx2\n";
    let mut options = options();
    options.contexts = ["docker.io/library/ctx:latest".into(), "ctx2".into()].into();
    let plan = plan(text, &options);
    let bases: Vec<_> = plan.stages.iter().map(|s| s.base.clone()).collect();
    assert_eq!(
        bases,
        [
            Base::Image("debian:3".into()),
            Base::Stage(0),
            Base::Scratch,
            Base::Stage(0),
            Base::Context("docker.io/library/ctx:latest".into()),
            Base::Context("ctx2".into()),
        ]
    );
    let labels: Vec<_> = plan.stages.iter().map(|s| s.label.as_str()).collect();
    assert_eq!(
        labels,
        ["base", "stage-1", "stage-2", "stage-3", "x", "ctx2"]
    );
    assert_eq!(plan.source("BASE"), Source::Stage(0));
    assert_eq!(plan.source("other"), Source::Image("other".into()));
    assert_eq!(plan.source("scratch"), Source::Scratch);
    assert_eq!(plan.near_stage("bsae").as_deref(), Some("base"));
}

#[test]
fn a_context_takes_the_place_of_a_stage() {
    let text = "FROM a AS tools\nCOPY --from=x / /\nFROM b AS x\nRUN y\nFROM tools\nCMD z\n";
    let mut options = options();
    options.contexts = ["tools".into()].into();
    let plan = plan(text, &options);
    assert_eq!(plan.stages[0].base, Base::Context("tools".into()));
    assert!(plan.stages[0].instructions.is_empty());
    assert_eq!(plan.stages[2].base, Base::Stage(0));
    assert_eq!(plan.order, [0, 2], "what it needed is not needed");
}

#[test]
fn of_two_stages_with_one_name_the_later_one_is_meant() {
    let text = "FROM a AS x\nFROM x AS y\nFROM b AS x\nFROM x\nCOPY --from=y / /\n";
    let plan = plan(text, &options());
    assert_eq!(plan.stages[1].base, Base::Stage(0));
    assert_eq!(plan.stages[3].base, Base::Stage(2));
    assert_eq!(plan.order, [0, 1, 2, 3]);
}

#[test]
fn a_base_that_names_itself_is_an_image() {
    let plan = plan("FROM alpine AS alpine\nFROM alpine\n", &options());
    assert_eq!(plan.stages[0].base, Base::Image("alpine".into()));
    assert_eq!(plan.stages[1].base, Base::Stage(0));
}

#[test]
fn platforms_of_from() {
    let text = "FROM --platform=$BUILDPLATFORM a\nFROM --platform=arm64 b\nFROM c\nFROM --platform=linux/$ARCH d\n";
    let mut options = with_args(&[("TARGETARCH", "riscv64")]);
    options.target_platform = platform("linux/arm/v7");
    let file = format!("ARG ARCH=s390x\n{text}");
    let plan = plan(&file, &options);
    let platforms: Vec<_> = plan
        .stages
        .iter()
        .map(|s| s.platform.as_ref().map(ToString::to_string))
        .collect();
    assert_eq!(
        platforms,
        [
            Some("linux/amd64".into()),
            Some("linux/arm64".into()),
            None,
            Some("linux/s390x".into())
        ]
    );
    assert_eq!(
        error("FROM --platform=$BULIDPLATFORM a", "").0,
        "empty platform value from expression $BULIDPLATFORM (did you mean BUILDPLATFORM?)"
    );
    let (message, places) = error("ARG MY_ARCH=x\nFROM --platform=linux/${MYARCH} a", "");
    assert!(
        message
            .starts_with("failed to parse platform linux/${MYARCH}: \"\" is an invalid component"),
        "{message}"
    );
    assert!(message.ends_with("(did you mean MY_ARCH?)"), "{message}");
    assert_eq!(places, [Lines::at(2)]);
}

#[test]
fn names_that_are_missing() {
    assert_eq!(
        error("ARG IMAGE\nFROM $IMGAE", "").0,
        "base name ($IMGAE) should not be blank (did you mean IMAGE?)"
    );
    assert_eq!(
        error("FROM ${X:?unset}", "").0,
        "failed to process \"${X:?unset}\": X: unset"
    );
}

#[test]
fn circles_are_refused() {
    let (message, places) = error("FROM a AS x\nCOPY --from=x / /\n", "");
    assert_eq!(message, "circular dependency detected on stage: x");
    assert_eq!(places, [Lines::at(2)]);
    let text = "FROM a AS x\nCOPY --from=z / /\nFROM x AS y\nFROM b AS z\nRUN --mount=from=y,target=/m true\nFROM scratch\n";
    let (message, places) = error(text, "3");
    assert_eq!(message, "circular dependency detected on stage: x");
    assert_eq!(places, [Lines::at(2), Lines::at(5), Lines::at(3)]);
}

#[test]
fn a_later_stage_cannot_be_copied_from() {
    let text = "FROM a AS x\nCOPY --from=y / /\nFROM b AS y\nFROM c AS z\n";
    let (message, places) = error(text, "x");
    assert_eq!(
        message,
        "cannot copy from stage \"y\", it needs to be defined before current stage \"x\""
    );
    assert_eq!(places, [Lines::at(2)]);
    assert_eq!(order(text, "z"), [2], "nobody needs x");
    let text = "FROM a AS x\nRUN --mount=from=y,target=/m true\nFROM b AS y\n";
    assert_eq!(
        error(text, "x").0,
        "cannot mount from stage \"y\", it needs to be defined before current stage \"x\""
    );
}

#[test]
fn stages_by_number() {
    let (message, places) = error("FROM a\nCOPY --from=1 / /\n", "");
    assert_eq!(
        message,
        "invalid stage index 1: there are 1 stages, the first one is 0"
    );
    assert_eq!(places, [Lines::at(2)]);
    let (message, _) = error("FROM a\nCOPY --from=99999999999999999999 / /\n", "");
    assert!(message.starts_with("invalid stage index"), "{message}");
    let (message, _) = error("ARG X=a\nFROM a\nCOPY --from=$X / /\n", "");
    assert_eq!(
        message,
        "'--from' doesn't support variable expansion, define alias stage instead"
    );
}

#[test]
fn triggers_of_a_stage_come_first_in_those_based_on_it() {
    let text = "FROM a AS base\nONBUILD COPY --from=tools /t /t\nONBUILD RUN <<E\nx\nE\nFROM b AS tools\nFROM base\nCMD z\nFROM 2\n";
    let file = text.replace("FROM 2", "FROM scratch");
    let plan = plan(&file, &options());
    let found: Vec<_> = plan.stages[2]
        .instructions
        .iter()
        .map(|i| (i.text.as_str(), i.is_trigger, i.lines))
        .collect();
    assert_eq!(
        found,
        [
            ("COPY --from=tools /t /t", true, Lines::at(7)),
            ("RUN <<E", true, Lines::at(7)),
            ("CMD z", false, Lines::at(8))
        ]
    );
    assert!(
        matches!(&plan.stages[2].instructions[1].value, Instruction::Run(r) if r.heredocs.len() == 1)
    );
    // and they need what they need
    let mut options = options();
    options.target = Some("2".into());
    let plan = parse(&file).plan(&options).expect("a plan");
    assert_eq!(plan.order, [0, 1, 2]);
}

#[test]
fn build_arguments_that_nothing_asks_for() {
    let text = "ARG A\nFROM a\nARG B\nRUN x\n";
    let options = with_args(&[
        ("A", "1"),
        ("B", "1"),
        ("C", "1"),
        ("http_proxy", "p"),
        ("TARGETARCH", "x"),
        ("BUILDKIT_INLINE_CACHE", "1"),
    ]);
    let file = parse(text);
    let plan = file.plan(&options).expect("a plan");
    assert_eq!(plan.unused_build_args(&file, &options), ["C"]);
}
