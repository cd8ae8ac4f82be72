//! What holds of every file.

use std::collections::BTreeSet;

use dockerfile::lint::{self, Facts};
use dockerfile::{Base, Budget, Dockerfile, Expander, Lookup, Source};
use proptest::prelude::*;

use crate::options;

struct One(String);

impl Lookup for One {
    fn get(&self, name: &str) -> Option<&str> {
        (name == "V").then_some(&self.0)
    }

    fn names(&self) -> Vec<&str> {
        vec!["V"]
    }
}

/// Pieces of which files are made, and of which wrong ones are.
fn soup() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "FROM ",
        "a",
        " AS ",
        "b",
        "\n",
        "\n",
        "RUN ",
        "COPY ",
        "ADD ",
        "--from=",
        "--mount=type=bind,from=",
        "target=/x",
        "<<E",
        "<<-'E'",
        "\nE\n",
        "E",
        "\\\n",
        "\\",
        "`",
        "#",
        "# escape=`\n",
        "\"",
        "'",
        "[\"x\"]",
        "[",
        "]",
        "$V",
        "${V",
        "${V:-",
        "${V#",
        "${V/",
        "/",
        "}",
        "*",
        " ",
        "\t",
        "ENV ",
        "ARG ",
        "=",
        "ONBUILD ",
        "한",
        "\r\n",
        "HEALTHCHECK ",
        "NONE",
        "CMD ",
        "EXPOSE ",
        "80",
        "-",
        "LABEL ",
        "--",
        "0",
        "\u{FEFF}",
        "SHELL ",
        "scratch",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// A file that reads, of which the stages are what counts.
fn stages() -> impl Strategy<Value = String> {
    let stage = (
        0..6usize,
        prop::collection::vec((0..6usize, any::<bool>()), 0..3),
    );
    prop::collection::vec(stage, 1..6).prop_map(|stages| {
        let mut out = String::new();
        for (index, (base, needs)) in stages.into_iter().enumerate() {
            out.push_str(&format!("FROM s{base} AS s{index}\n"));
            for (need, is_mount) in needs {
                out.push_str(&if is_mount {
                    format!("RUN --mount=from=s{need},target=/m true\n")
                } else {
                    format!("COPY --from=s{need} / /\n")
                });
            }
        }
        out
    })
}

proptest! {
    #[test]
    fn nothing_panics_and_errors_have_a_place(text in soup()) {
        match Dockerfile::parse(&text) {
            Err(error) => {
                for place in &error.places {
                    prop_assert!(place.first >= 1 && place.first <= place.last);
                    prop_assert!(place.last <= text.split_inclusive('\n').count().max(1));
                }
                prop_assert_eq!(error.places.is_empty(), error.excerpt("x", &text).is_empty());
            }
            Ok(file) => {
                let facts = Facts { image: &|_| None, ignore: None, all_stages: true };
                let report = lint::check(&file, &options(), facts);
                if let Ok(plan) = file.plan(&options()) {
                    prop_assert_eq!(plan.order.last(), Some(&plan.target));
                } else {
                    prop_assert!(report.error.is_some(), "the checks see what a plan refuses");
                }
            }
        }
    }

    #[test]
    fn line_ends_and_a_mark_change_nothing(text in soup()) {
        let text = text.replace(['\r', '\u{FEFF}'], "");
        let read = |text: &str| Dockerfile::parse(text).map(|file| {
            let all = file.stages.iter().flat_map(|s| &s.instructions);
            all.map(|i| (i.text.clone(), i.lines)).collect::<Vec<_>>()
        }).map_err(|e| e.places);
        let plain = read(&text);
        prop_assert_eq!(&read(&format!("\u{FEFF}{text}")), &plain);
        prop_assert_eq!(&read(&text.replace('\n', "\r\n")), &plain);
        // the other escape, where neither is used otherwise
        if !text.contains('`') {
            let other = format!("# escape=`\n{}", text.replace('\\', "`"));
            if let (Ok(other), Ok(plain)) = (read(&other), &plain) {
                prop_assert_eq!(other.len(), plain.len());
            }
        }
    }

    #[test]
    fn what_is_quoted_comes_back(text in "[^'\\n]{0,30}") {
        let env = One("value".into());
        let mut x = Expander::new(&env, '\\', &Budget::default());
        prop_assert_eq!(x.word(&format!("'{text}'")).expect("quoted"), text.clone());
        let escaped: String = text.chars().flat_map(|c| ['\\', c]).collect();
        prop_assert_eq!(x.word(&escaped).expect("escaped"), text);
    }

    #[test]
    fn a_value_is_not_read_again(value in ".{0,30}") {
        let env = One(value.clone());
        let mut x = Expander::new(&env, '\\', &Budget::default());
        for text in ["$V", "${V}", "\"$V\"", "${V:-x}${N}", "${N:-$V}", "${V?}"] {
            let expected = if text == "${V:-x}${N}" && value.is_empty() { "x" } else { &value };
            prop_assert_eq!(x.word(text).expect("a value"), expected);
        }
        let words = x.words("$V").expect("words");
        let expected: Vec<&str> = value.split_whitespace().collect();
        prop_assert_eq!(words, expected);
    }

    #[test]
    fn a_trimmed_value_and_what_was_trimmed_are_the_value(
        value in "[ab/]{0,8}", pattern in "[ab*?/]{0,4}"
    ) {
        let env = One(value.clone());
        let mut x = Expander::new(&env, '\\', &Budget::default());
        let mut get = |modifier: &str| x.word(&format!("${{V{modifier}{pattern}}}")).expect("a value");
        let (short, long) = (get("#"), get("##"));
        prop_assert!(value.ends_with(&short) && short.ends_with(&long));
        let (short, long) = (get("%"), get("%%"));
        prop_assert!(value.starts_with(&short) && short.starts_with(&long));
    }

    #[test]
    fn plans_are_in_an_order_that_works(text in stages()) {
        let file = Dockerfile::parse(&text).expect("it reads");
        let Ok(plan) = file.plan(&options()) else { return Ok(()) };
        let mut done = BTreeSet::new();
        for &index in &plan.order {
            let stage = &plan.stages[index];
            if let Base::Stage(base) = stage.base {
                prop_assert!(done.contains(&base), "{text}");
            }
            for found in &stage.instructions {
                for need in plan.needs_of(found).expect("it was planned") {
                    prop_assert!(done.contains(&need), "{text}");
                }
            }
            done.insert(index);
        }
        prop_assert!(done.contains(&plan.target));
        prop_assert_eq!(plan.source("S0"), Source::Stage(0));
    }
}
