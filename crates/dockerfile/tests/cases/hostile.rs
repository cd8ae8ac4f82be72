//! Files that mean harm. What would be quadratic or exponential would not come to its end here:
//! there is no clock in these tests, but the runner has one.

use dockerfile::lint::{self, Facts, WARNING_LIMIT};
use dockerfile::{Dockerfile, FILE_LIMIT, INSTRUCTION_LIMIT, Problem};

use crate::options;

/// A quarter of a mebibyte of a text, again and again: its square is a lifetime of the test.
fn much(text: &str) -> String {
    text.repeat((1 << 18) / text.len())
}

/// Reads, plans and checks; whatever the outcome is.
fn all_of_it(text: &str) -> Option<lint::Report> {
    let file = Dockerfile::parse(text).ok()?;
    drop(file.plan(&options()));
    let facts = Facts {
        image: &|_| None,
        ignore: None,
        all_stages: true,
    };
    Some(lint::check(&file, &options(), facts))
}

#[test]
fn much_of_anything() {
    for (head, body) in [
        ("FROM a\nRUN ", "x \\\n"),
        ("FROM a\nRUN ", "\\\n\n"),
        ("FROM a\nRUN \\\n", "# c\n"),
        ("", "# c\n"),
        ("", "# syntax=x\n"),
        ("", "\n"),
        ("", "FROM a\n"),
        ("FROM a\n", "RUN x\n"),
        ("FROM a\n", "ENV A=b\n"),
        ("FROM a\nENV ", "a=b "),
        ("FROM a\nENV ", "a='"),
        ("FROM a\nENV a=", "${"),
        ("FROM a\nENV a=", "${x:-"),
        ("FROM a\nENV a=", "\"$x"),
        ("FROM a\nENV a=\"", "\\\""),
        ("FROM a\nRUN ", "<<"),
        ("FROM a\nRUN ", "<<E "),
        ("FROM a\nRUN ", "<<E"),
        ("FROM a\nRUN <<E\n", "F\n"),
        ("FROM a\nCOPY ", "<<E a "),
        ("FROM a\nCOPY [", "\"a\","),
        ("FROM a\nCMD ", "["),
        ("FROM a\nCMD [", "[\"a\"],"),
        ("FROM a\n", "ONBUILD "),
        ("FROM a\nRUN ", "--mount=type=cache,target=/x "),
        ("FROM a\nRUN --mount=", "type=cache,"),
        ("FROM a\nRUN --mount=", "\"\""),
        ("FROM a\nRUN ", "-- "),
        ("FROM a\nCOPY --from=", "x"),
        ("FROM ", "x"),
        ("FROM a AS ", "x"),
        ("", "FRM "),
        ("FROM a\nARG ", "a$b "),
        ("FROM a\nEXPOSE ", "0-65535 "),
        ("FROM a\nEXPOSE ", "1:"),
        ("FROM a\nLABEL ", "한=국 "),
        ("# check=skip=", "a,"),
        ("FROM a\nHEALTHCHECK --interval=", "1s"),
        ("FROM a\nHEALTHCHECK --interval=1.", "1"),
        ("FROM a\nHEALTHCHECK CMD ", " x"),
        ("FROM a\nWORKDIR ", "../"),
    ] {
        all_of_it(&format!("{head}{}", much(body)));
        all_of_it(&format!("{head}{}\nRUN x\n", much(body)));
    }
}

#[test]
fn limits_have_names() {
    let large = "#".repeat(FILE_LIMIT + 1);
    let error = Dockerfile::parse(&large).expect_err("too large");
    assert_eq!(error.problem, Problem::TooLarge);
    let error = Dockerfile::from_bytes(&[0xff; FILE_LIMIT + 1]).expect_err("too large");
    assert_eq!(error.problem, Problem::TooLarge);
    let many = "USER a\n".repeat(INSTRUCTION_LIMIT);
    let error = Dockerfile::parse(&format!("FROM a\n{many}")).expect_err("too many");
    assert_eq!(error.problem, Problem::TooManyInstructions);
    assert!(Dockerfile::parse(&format!("FROM a\n{}", &many[7..])).is_ok());
}

#[test]
fn a_line_beyond_the_limits_is_refused_not_misread() {
    let text = format!("FROM a\nRUN true {} <<E\nFROM b\nE\n", "x".repeat(1 << 20));
    let error = Dockerfile::parse(&text).expect_err("too long");
    assert!(
        error
            .to_string()
            .ends_with("expands to more than 1048576 bytes"),
        "{error}"
    );
    assert!(Dockerfile::parse(&text.replace(" <<E\nFROM b\nE", "")).is_ok());
}

#[test]
fn stages_and_triggers_that_multiply() {
    let half = INSTRUCTION_LIMIT / 2 - 1;
    // each stage needs all before it
    let chain: String = (0..half)
        .map(|i| format!("FROM s{i} AS s{}\nCOPY --from=s{i} / /\n", i + 1))
        .collect();
    let text = format!("FROM a AS s0\n{chain}");
    let plan = Dockerfile::parse(&text).expect("it reads").plan(&options());
    assert_eq!(plan.expect("a plan").order.len(), half + 1);
    // each stage gets every trigger
    let triggers = "ONBUILD RUN x\n".repeat(half);
    let stages = "FROM base\n".repeat(half);
    let text = format!("FROM a AS base\n{triggers}{stages}");
    let error = Dockerfile::parse(&text)
        .expect("it reads")
        .plan(&options())
        .expect_err("too many");
    assert_eq!(error.problem, Problem::TooManyInstructions);
}

#[test]
fn variables_that_multiply() {
    // each stage inherits as much as one may have
    let value = "x".repeat(1 << 19);
    let stages: String = (0..3_000)
        .map(|i| format!("FROM s{i} AS s{}\n", i + 1))
        .collect();
    let report = all_of_it(&format!("FROM a AS s0\nENV A={value} B={value}\n{stages}"));
    assert!(report.expect("it reads").error.is_some());
    // each line reads it all
    let lines = "ENV B=${A//xxy/z}\n".repeat(9_000);
    let report = all_of_it(&format!("FROM a\nENV A={value}\n{lines}"));
    let error = report.expect("it reads").error.expect("too much");
    assert!(
        error.to_string().contains("the work has a limit"),
        "{error}"
    );
}

#[test]
fn warnings_have_an_end() {
    let text = format!("FROM scratch\n{}", "ENV a $x1 $x2 $x3\n".repeat(5_000));
    let report = all_of_it(&text).expect("it reads");
    assert_eq!(report.warnings.len(), WARNING_LIMIT);
}
