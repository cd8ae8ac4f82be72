//! A Dockerfile from a stranger: an error with its place, or a plan that can be followed to its end.
#![no_main]

use dockerfile::lint::{self, Facts, Image};
use dockerfile::{Base, Dockerfile, Instruction, Options, Platform, Scope, history};
use libfuzzer_sys::fuzz_target;

fn options() -> Options {
    Options::new(Platform {
        os: "linux".into(),
        arch: "amd64".into(),
        variant: String::new(),
    })
}

fuzz_target!(|bytes: &[u8]| {
    let file = match Dockerfile::from_bytes(bytes) {
        Ok(file) => file,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let text = String::from_utf8_lossy(bytes);
            assert_eq!(
                error.places.is_empty(),
                error.excerpt("f", &text).is_empty()
            );
            return;
        }
    };
    let facts = Facts {
        image: &|_| Some(Image::default()),
        ignore: None,
        all_stages: true,
    };
    let report = lint::check(&file, &options(), facts);
    let Ok(plan) = file.plan(&options()) else {
        assert!(report.error.is_some(), "the checks see what a plan refuses");
        return;
    };
    let shell = ["sh".to_owned(), "-c".to_owned()];
    let mut scopes: Vec<Option<Scope>> = vec![None; plan.stages.len()];
    for &index in &plan.order {
        let base = match plan.stages[index].base {
            Base::Stage(base) => scopes[base]
                .as_ref()
                .expect("it was built before")
                .inherited(),
            _ => Scope::new(&plan.globals, &[]),
        };
        let Ok(mut scope) = base else { return };
        for found in &plan.stages[index].instructions {
            drop(history::progress(found, &mut scope.expander()));
            let Ok(now) = found.expand(&mut scope.expander()) else {
                return;
            };
            let changed = match &now.value {
                Instruction::Env(pairs) => scope.env(pairs),
                Instruction::Arg(args) => scope.arg(args).map(drop),
                // an image does not say which escape its triggers were written with
                Instruction::Onbuild(onbuild) if plan.escape == '\\' => {
                    dockerfile::parse_trigger(&onbuild.trigger, found.lines)
                        .expect("what a file accepts as a trigger, is one");
                    Ok(())
                }
                _ => Ok(()),
            };
            if changed.is_err() {
                return;
            }
            drop(history::entry(&now.value, &scope, &shell));
        }
        scopes[index] = Some(scope);
    }
});
