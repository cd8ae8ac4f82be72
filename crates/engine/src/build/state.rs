//! A stage between two instructions: what its image will be. Pure.

use std::time::Duration;

use dockerfile::history;
use dockerfile::instruction::{Command, Healthcheck};
use dockerfile::{Instruction, Platform, Scope};
use serde_json::{Map, Value, json};
use store::ImageInfo;
use store::config::{History, ImageConfig};

use super::digest;

/// What tools take for the mark of an image that a Dockerfile made.
const COMMENT: &str = "buildkit.dockerfile.v0";

#[derive(Debug, Clone)]
pub(super) struct State {
    /// The image whose files it has; none where there are no files yet.
    pub(super) image: Option<String>,
    /// Chain id of its highest layer; empty where there are no files.
    pub(super) chain: String,
    pub(super) config: ImageConfig,
    /// The image's id, or a digest of it and of the instructions since.
    pub(super) id: String,
    /// The configuration is not the image's any more.
    pub(super) pending: bool,
    has_own_cmd: bool,
}

impl State {
    pub(super) fn scratch(platform: &Platform, scope: &Scope) -> Self {
        let mut config = ImageConfig {
            architecture: platform.arch.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
            ..ImageConfig::default()
        };
        config.config.env = environment(scope);
        Self {
            image: None,
            chain: String::new(),
            id: digest(&["scratch", &platform.to_string()]),
            config,
            pending: false,
            has_own_cmd: false,
        }
    }

    pub(super) fn of(image: &ImageInfo) -> Self {
        let mut state = Self {
            image: None,
            chain: String::new(),
            config: ImageConfig::default(),
            id: String::new(),
            pending: false,
            has_own_cmd: false,
        };
        state.become_image(image);
        state
    }

    pub(super) fn become_image(&mut self, image: &ImageInfo) {
        self.image = Some(image.id.clone());
        self.chain = image
            .layers
            .last()
            .map(|l| l.chain.clone())
            .unwrap_or_default();
        self.config = ImageConfig::clone(&image.config);
        self.id.clone_from(&image.id);
        self.pending = false;
    }

    /// Another stage goes on from here: what it triggers has been taken over.
    pub(super) fn begin_on_stage(&mut self) {
        self.has_own_cmd = false;
        drop(self.take_triggers());
    }

    pub(super) fn take_triggers(&mut self) -> Vec<String> {
        let triggers = std::mem::take(&mut self.config.config.on_build);
        if !triggers.is_empty() {
            self.id = digest(&[&self.id, "triggers taken"]);
            self.pending = true;
        }
        triggers
    }

    pub(super) fn environment(&self) -> Vec<(String, String)> {
        let all = self.config.config.env.iter();
        let pairs = all.filter_map(|e| e.split_once('='));
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    pub(super) fn shell(&self) -> Vec<String> {
        let own = self.config.config.shell.clone().filter(|s| !s.is_empty());
        own.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()])
    }

    /// The configuration as that of an image made now.
    pub(super) fn dated(&self, now: String) -> ImageConfig {
        let mut config = self.config.clone();
        config.created = now;
        // what Docker's builder of old noted about its own container
        for key in ["container", "container_config", "id", "parent"] {
            config.other.remove(key);
        }
        config
    }

    /// The configuration of the image that a step with files makes now.
    pub(super) fn with_layer(&self, created_by: &str, now: String) -> ImageConfig {
        let mut config = self.dated(now.clone());
        config.history.push(line(created_by, now, false));
        config
    }

    pub(super) fn note(&mut self, created_by: &str) {
        let entry = line(created_by, crate::inner::now(), true);
        self.config.history.push(entry);
        self.id = digest(&[&self.id, created_by]);
        self.pending = true;
    }

    /// An instruction that changes the configuration alone; `scope` as it is after it.
    pub(super) fn apply(&mut self, found: &Instruction, scope: &Scope) -> Result<(), String> {
        let shell = self.shell();
        let run = &mut self.config.config;
        match found {
            Instruction::Cmd(command) => {
                run.cmd = Some(command.argv(&shell));
                self.has_own_cmd = true;
            }
            Instruction::Entrypoint(command) => {
                run.entrypoint = Some(command.argv(&shell));
                // arguments of another program are none of this one's
                if !self.has_own_cmd {
                    run.cmd = None;
                }
            }
            Instruction::Env(_) => run.env = environment(scope),
            Instruction::Label(pairs) => {
                let pairs = pairs.iter().map(|p| (p.name.clone(), p.value.clone()));
                run.labels.extend(pairs);
            }
            Instruction::Maintainer(name) => self.config.author.clone_from(name),
            Instruction::Expose(words) => {
                let ports = dockerfile::port::exposed(words).map_err(|e| e.to_string())?;
                run.exposed_ports.extend(ports.into_iter().map(empty));
            }
            Instruction::Volume(paths) => {
                run.volumes.extend(paths.iter().cloned().map(empty));
            }
            Instruction::User(user) => run.user.clone_from(user),
            Instruction::Shell(words) => run.shell = Some(words.clone()),
            Instruction::StopSignal(signal) => {
                crate::names::signal(signal).map_err(|e| e.report())?;
                run.stop_signal.clone_from(signal);
            }
            Instruction::Healthcheck(check) => run.healthcheck = Some(health(check)),
            Instruction::Onbuild(onbuild) => {
                run.on_build.push(onbuild.trigger.clone());
                self.note(&format!("ONBUILD {}", onbuild.trigger));
                return Ok(());
            }
            _ => return Err("the instruction makes files".to_owned()),
        }
        let entry = history::entry(found, scope, &shell);
        let created_by = entry.map(|e| e.created_by).unwrap_or_default();
        self.note(&created_by);
        Ok(())
    }
}

fn line(created_by: &str, created: String, empty_layer: bool) -> History {
    History {
        created,
        created_by: created_by.to_owned(),
        comment: COMMENT.to_owned(),
        empty_layer,
        ..History::default()
    }
}

fn environment(scope: &Scope) -> Vec<String> {
    let all = scope.image_env().into_iter();
    all.map(|(name, value)| format!("{name}={value}")).collect()
}

fn empty(key: String) -> (String, Value) {
    (key, json!({}))
}

/// source: Docker image specification 1.2, `Healthcheck`; nanoseconds
fn health(check: &Healthcheck) -> Value {
    let Healthcheck::Command {
        command,
        interval,
        timeout,
        start_period,
        start_interval,
        retries,
    } = check
    else {
        return json!({"Test": ["NONE"]});
    };
    let test = match command {
        Command::Shell(line) => vec!["CMD-SHELL".to_owned(), line.clone()],
        Command::Exec(argv) => [vec!["CMD".to_owned()], argv.clone()].concat(),
    };
    let mut out = Map::from_iter([("Test".to_owned(), json!(test))]);
    let times = [
        ("Interval", interval),
        ("Timeout", timeout),
        ("StartPeriod", start_period),
        ("StartInterval", start_interval),
    ];
    for (key, time) in times.into_iter().filter(|(_, t)| **t != Duration::ZERO) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        out.insert(key.to_owned(), json!(nanoseconds));
    }
    if *retries > 0 {
        out.insert("Retries".to_owned(), json!(retries));
    }
    Value::Object(out)
}
