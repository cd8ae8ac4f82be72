//! What files mean, from their text to what an executor is told.

mod checks;
mod expansion;
mod hostile;
mod instructions;
mod properties;
mod stages;

use dockerfile::{Dockerfile, Error, Instruction, Options, Plan, Platform};

fn platform(text: &str) -> Platform {
    let parts: Vec<&str> = text.split('/').collect();
    Platform {
        os: parts[0].into(),
        arch: parts[1].into(),
        variant: parts.get(2).copied().unwrap_or_default().into(),
    }
}

fn options() -> Options {
    Options::new(platform("linux/amd64"))
}

fn with_args(args: &[(&str, &str)]) -> Options {
    let mut options = options();
    for (name, value) in args {
        options.build_args.insert((*name).into(), (*value).into());
    }
    options
}

#[track_caller]
fn parse(text: &str) -> Dockerfile {
    Dockerfile::parse(text).unwrap_or_else(|e| panic!("{e}\n{}", e.excerpt("Dockerfile", text)))
}

#[track_caller]
fn parse_error(text: &str) -> Error {
    match Dockerfile::parse(text) {
        Ok(file) => panic!("it reads: {file:?}"),
        Err(error) => error,
    }
}

#[track_caller]
fn plan(text: &str, options: &Options) -> Plan {
    parse(text).plan(options).expect("a plan")
}

/// The only instruction of a stage.
#[track_caller]
fn one(text: &str) -> Instruction {
    let file = parse(&format!("FROM scratch\n{text}"));
    let [found] = file.stages[0].instructions.as_slice() else {
        panic!("not one instruction: {file:?}");
    };
    found.value.clone()
}

/// Why an instruction is refused, without its place.
#[track_caller]
fn refused(text: &str) -> String {
    let error = parse_error(&format!("FROM scratch\n{text}"));
    let message = error.to_string();
    let prefix = "dockerfile parse error on line 2: ";
    message
        .strip_prefix(prefix)
        .unwrap_or_else(|| panic!("elsewhere: {message}"))
        .to_owned()
}
