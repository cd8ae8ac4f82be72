//! Runs an operation once for each of its steps, with a kill or an error at that step.
//!
//! The steps are those of `sys::fault`: one run with `PLIMSOLL_FAULT_LOG` lists them, then each is
//! replayed in an instance of its own with `PLIMSOLL_FAULT=<role>:<n>:<action>`. Afterwards the
//! engine is started again without a fault and must be able to go on as if nothing had been.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::PathBuf;

use crate::conservation::Snapshot;
use crate::instance::Instance;

/// What happens at the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Kill,
    Enospc,
    Eio,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::Enospc => "enospc",
            Self::Eio => "eio",
        })
    }
}

/// One passage of a fault point.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step {
    pub role: String,
    pub number: u64,
    pub name: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.role, self.number, self.name)
    }
}

/// What is done and what must hold.
pub struct Scenario<'a> {
    pub name: &'static str,
    /// Brings an instance to where the operation starts. Runs without a fault.
    pub prepare: &'a dyn Fn(&Instance),
    /// The operation. The engine may die under it, so it must not insist on answers; what was
    /// acknowledged it tells.
    pub operation: &'a dyn Fn(&Instance) -> Acknowledged,
    /// After the engine has started again: what must hold, given what was acknowledged.
    pub check: &'a dyn Fn(&Instance, &Acknowledged),
}

impl fmt::Debug for Scenario<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Names of what the engine said was done.
pub type Acknowledged = BTreeSet<String>;

/// Steps seen, and those at which the fault didn't come to pass (another order of events).
#[derive(Debug, Default)]
pub struct Report {
    pub steps: usize,
    pub missed: Vec<String>,
    pub failures: Vec<String>,
}

fn log_path(instance: &Instance) -> PathBuf {
    instance.path().join("steps")
}

fn read_steps(instance: &Instance) -> Vec<Step> {
    fs::read_to_string(log_path(instance))
        .unwrap_or_default()
        .lines()
        .filter_map(|l| {
            let mut words = l.splitn(3, ' ');
            Some(Step {
                role: words.next()?.to_owned(),
                number: words.next()?.parse().ok()?,
                name: words.next()?.to_owned(),
            })
        })
        .collect()
}

/// The steps of an operation in the order they were passed.
///
/// # Panics
/// When the operation passes none: then nothing would be tested.
#[must_use]
#[track_caller]
pub fn steps(scenario: &Scenario<'_>, template: &Instance) -> Vec<Step> {
    let mut instance = fresh(template);
    arm(&mut instance, None);
    instance.start();
    (scenario.prepare)(&instance);
    begin(&instance);
    let acknowledged = (scenario.operation)(&instance);
    let mut steps = read_steps(&instance);
    (scenario.check)(&instance, &acknowledged);
    steps.sort();
    steps.dedup();
    assert!(
        !steps.is_empty(),
        "{}: passed no fault point: is this a debug build?",
        scenario.name
    );
    steps
}

/// Path whose existence starts the numbering: the operation's steps count, not its preparation's.
fn from_path(instance: &Instance) -> PathBuf {
    instance.path().join("from")
}

fn arm(instance: &mut Instance, fault: Option<&str>) {
    let (log, from) = (log_path(instance), from_path(instance));
    let text = |p: &PathBuf| p.to_string_lossy().into_owned();
    let (log, from) = (text(&log), text(&from));
    let mut variables = vec![
        ("PLIMSOLL_FAULT_LOG", log.as_str()),
        ("PLIMSOLL_FAULT_FROM", from.as_str()),
    ];
    variables.extend(fault.map(|f| ("PLIMSOLL_FAULT", f)));
    instance.set_environment(&variables);
}

fn begin(instance: &Instance) {
    fs::write(from_path(instance), "").expect("room in the temporary directory");
}

fn fresh(template: &Instance) -> Instance {
    let instance = if template.is_networked() {
        Instance::prepared_networked()
    } else {
        Instance::prepared()
    };
    instance.copy_data_from(&template.data_root());
    instance
}

/// Replays an operation once for each of its steps in a role (all roles without one).
///
/// `template` is a stopped instance whose data root each replay starts from.
///
/// # Panics
/// With every step at which something didn't hold.
#[track_caller]
pub fn every_step(
    scenario: &Scenario<'_>,
    template: &Instance,
    roles: &[&str],
    actions: &[Action],
) -> Report {
    let mut report = Report::default();
    let steps = steps(scenario, template);
    for step in steps.iter().filter(|s| roles.contains(&s.role.as_str())) {
        for action in actions {
            report.steps += 1;
            replay(scenario, template, step, *action, &mut report);
        }
    }
    assert!(
        report.failures.is_empty(),
        "{}: {} of {} crash points failed:\n{}",
        scenario.name,
        report.failures.len(),
        report.steps,
        report.failures.join("\n")
    );
    // Steps of concurrent tasks come in another order now and then; most must be hit, or the test
    // says nothing.
    assert!(
        report.missed.len() * 4 <= report.steps,
        "{}: {} of {} crash points were never reached: {:?}",
        scenario.name,
        report.missed.len(),
        report.steps,
        report.missed
    );
    report
}

fn replay(
    scenario: &Scenario<'_>,
    template: &Instance,
    step: &Step,
    action: Action,
    report: &mut Report,
) {
    let shown = format!("{}: {action} at {step}", scenario.name);
    let run = std::panic::AssertUnwindSafe(|| replay_once(scenario, template, step, action));
    match std::panic::catch_unwind(run) {
        Ok(true) => {}
        Ok(false) => report.missed.push(shown),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("panicked");
            report.failures.push(format!("{shown}: {text}"));
        }
    }
}

/// Whether the step was reached.
fn replay_once(scenario: &Scenario<'_>, template: &Instance, step: &Step, action: Action) -> bool {
    let mut instance = fresh(template);
    let fault = format!("{}:{}:{action}", step.role, step.number);
    arm(&mut instance, Some(&fault));
    instance.start();
    // what the operation may well leave for good when it was acknowledged is for `check` to judge
    let lasting = ["layers", "volumes"];
    let clean = Snapshot::take(&instance).without(&lasting);
    (scenario.prepare)(&instance);
    begin(&instance);
    let acknowledged = (scenario.operation)(&instance);
    let reached = read_steps(&instance)
        .iter()
        .any(|s| s.role == step.role && s.number == step.number);
    if instance.has_ended() {
        instance.set_environment(&[]);
        instance.start();
    } else {
        // a daemon that goes on must be able to, and so must the next one
        instance.kill9();
        instance.set_environment(&[]);
        instance.start();
    }
    (scenario.check)(&instance, &acknowledged);
    instance.remove_all();
    clean.assert_settled(&instance);
    reached
}
