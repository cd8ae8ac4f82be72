//! Any profile and any calls: the compiled filter decides as a reading of the profile does.
#![no_main]

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

#[allow(unreachable_pub, reason = "shared with the test it comes from")]
#[path = "../../crates/runtime/tests/kernel/filters.rs"]
mod filters;

use filters::{Call, Rule, decide, interpret, profile};

/// Values near those that comparisons turn on.
fn value(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.int_in_range(0..=3)? {
        0 => u.int_in_range(0..=3)?,
        1 => 0xffff_ffff + u.int_in_range(0..=2)?,
        2 => u64::MAX - u.int_in_range(0..=2)?,
        _ => u.arbitrary()?,
    })
}

fn rule(u: &mut Unstructured<'_>) -> Result<Rule> {
    let mut conditions = Vec::new();
    for _ in 0..u.int_in_range(0..=4)? {
        let (index, op) = (u.int_in_range(0..=5)?, u.int_in_range(0..=6)?);
        conditions.push((index, op, value(u)?, value(u)?));
    }
    let mut names = Vec::new();
    for _ in 0..u.int_in_range(1..=3)? {
        names.push(u.int_in_range(0..=7)?);
    }
    Ok(Rule {
        names,
        action: u.int_in_range(0..=6)?,
        errno: u.arbitrary()?,
        conditions,
    })
}

fn check(u: &mut Unstructured<'_>) -> Result<()> {
    let default = u.int_in_range(0..=4)?;
    let mut rules = Vec::new();
    for _ in 0..u.int_in_range(0..=10)? {
        rules.push(rule(u)?);
    }
    let json = profile(default, &rules);
    let parsed = serde_json::from_value(json).expect("a profile");
    let filter = runtime::seccomp::compile_once(&parsed).expect("it compiles");
    for _ in 0..8 {
        let mut args = [0; 6];
        for a in &mut args {
            *a = value(u)?;
        }
        let call = Call {
            name: u.int_in_range(0..=7)?,
            machine: u.int_in_range(0..=3)?,
            args,
        };
        let (got, _) = interpret(filter.bytes(), call.arch(), call.number(), call.args);
        assert_eq!(got, decide(default, &rules, &call), "{call:?} {rules:?}");
    }
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    let _too_short = check(&mut Unstructured::new(bytes));
});
