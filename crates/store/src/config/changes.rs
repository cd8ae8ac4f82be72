//! `--change` of import and commit: a few of Dockerfile's words on a configuration.
//! source: Docker's documentation of `docker commit --change` and the Dockerfile reference

use serde_json::{Value, json};

use super::RunConfig;

/// A `--change` that cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error(
        "change {0:?}: use one of CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME, WORKDIR"
    )]
    Word(String),
    #[error("change {change:?}: {what}")]
    Value { change: String, what: &'static str },
}

/// Applies one line in Dockerfile's words.
///
/// # Errors
/// The word is not one of those that make sense on an image, or its argument is malformed.
pub fn apply_change(config: &mut RunConfig, change: &str) -> Result<(), ChangeError> {
    let text = change.trim();
    let (word, rest) = text
        .split_once(|c: char| c.is_ascii_whitespace())
        .unwrap_or((text, ""));
    let rest = rest.trim();
    let bad = |what| ChangeError::Value {
        change: change.to_owned(),
        what,
    };
    if rest.is_empty() {
        return Err(bad("an argument is missing"));
    }
    match word.to_ascii_uppercase().as_str() {
        "CMD" => config.cmd = Some(command(rest, config)),
        "ENTRYPOINT" => {
            config.entrypoint = Some(command(rest, config));
            // as in a Dockerfile: a new entry point does not take the old arguments
            config.cmd = None;
        }
        "ENV" => {
            for (key, value) in pairs(rest, true).map_err(bad)? {
                set_env(&mut config.env, &key, &value);
            }
        }
        "LABEL" => config.labels.extend(pairs(rest, true).map_err(bad)?),
        "EXPOSE" => {
            for port in words(rest).map_err(bad)? {
                config.exposed_ports.insert(
                    port_proto(&port).ok_or(bad("a port is 1-65535[/tcp|udp|sctp]"))?,
                    json!({}),
                );
            }
        }
        "VOLUME" => {
            let list = json_list(rest)
                .map_or_else(|| words(rest), Ok)
                .map_err(bad)?;
            config
                .volumes
                .extend(list.into_iter().map(|v| (v, json!({}))));
        }
        "WORKDIR" => config.working_dir = join_dir(&config.working_dir, &unquote(rest)),
        "USER" => config.user = unquote(rest),
        "STOPSIGNAL" => config.stop_signal = unquote(rest),
        "ONBUILD" => config.on_build.push(rest.to_owned()),
        "SHELL" => {
            config.shell = Some(json_list(rest).ok_or(bad("SHELL takes a JSON list"))?);
        }
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(rest, config).map_err(bad)?),
        _ => return Err(ChangeError::Word(change.to_owned())),
    }
    Ok(())
}

/// A JSON list is the command itself; other text is given to a shell.
fn command(text: &str, config: &RunConfig) -> Vec<String> {
    json_list(text).unwrap_or_else(|| {
        let shell = config.shell.clone();
        let mut argv = shell.unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
        argv.push(text.to_owned());
        argv
    })
}

fn json_list(text: &str) -> Option<Vec<String>> {
    text.starts_with('[')
        .then(|| serde_json::from_str(text).ok())
        .flatten()
}

fn set_env(env: &mut Vec<String>, key: &str, value: &str) {
    let entry = format!("{key}={value}");
    let old = env.iter_mut().find(|e| e.split('=').next() == Some(key));
    match old {
        Some(slot) => *slot = entry,
        None => env.push(entry),
    }
}

/// `key=value key2="value 2"`, or the old form `key the rest of the line`.
fn pairs(text: &str, old_form: bool) -> Result<Vec<(String, String)>, &'static str> {
    let list = words(text)?;
    if old_form && !list[0].contains('=') {
        let (key, value) = text
            .split_once(|c: char| c.is_ascii_whitespace())
            .ok_or("a value is missing: key=value")?;
        return Ok(vec![(key.into(), unquote(value.trim()))]);
    }
    list.into_iter()
        .map(|w| {
            w.split_once('=')
                .filter(|(k, _)| !k.is_empty())
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .ok_or("each must be key=value")
        })
        .collect()
}

/// Words as a shell splits them: quotes group, a backslash takes the next character as it is.
fn words(text: &str) -> Result<Vec<String>, &'static str> {
    let mut list = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('\\', None | Some('"')) => {
                let next = chars.next().ok_or("a backslash at the end")?;
                word.get_or_insert_default().push(next);
            }
            (c, None) if c.is_ascii_whitespace() => list.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quotation mark is not closed");
    }
    list.extend(word);
    if list.is_empty() {
        return Err("an argument is missing");
    }
    Ok(list)
}

fn unquote(text: &str) -> String {
    match words(text) {
        Ok(list) if list.len() == 1 => list.into_iter().next().unwrap_or_default(),
        _ => text.to_owned(),
    }
}

fn port_proto(text: &str) -> Option<String> {
    let (port, proto) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = port.split_once('-').unwrap_or((port, port));
    let number = |t: &str| t.parse::<u16>().ok().filter(|n| *n > 0);
    let valid = number(first)? <= number(last)? && matches!(proto, "tcp" | "udp" | "sctp");
    valid.then(|| format!("{port}/{proto}"))
}

fn join_dir(old: &str, new: &str) -> String {
    if new.starts_with('/') {
        return new.to_owned();
    }
    let base = if old.is_empty() { "/" } else { old };
    format!("{}/{new}", base.trim_end_matches('/'))
}

fn healthcheck(text: &str, config: &RunConfig) -> Result<Value, &'static str> {
    if text.eq_ignore_ascii_case("NONE") {
        return Ok(json!({"Test": ["NONE"]}));
    }
    let mut out = serde_json::Map::new();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option
            .split_once(|c: char| c.is_ascii_whitespace())
            .ok_or("HEALTHCHECK needs CMD or NONE")?;
        let (key, value) = option.split_once('=').ok_or("an option is --name=value")?;
        let (field, value) = match key {
            "interval" => ("Interval", json!(duration(value)?)),
            "timeout" => ("Timeout", json!(duration(value)?)),
            "start-period" => ("StartPeriod", json!(duration(value)?)),
            "start-interval" => ("StartInterval", json!(duration(value)?)),
            "retries" => {
                let n: u32 = value.parse().map_err(|_| "retries is a number")?;
                ("Retries", json!(n))
            }
            _ => return Err("unknown option of HEALTHCHECK"),
        };
        out.insert(field.into(), value);
        rest = after.trim_start();
    }
    let (word, argument) = rest
        .split_once(|c: char| c.is_ascii_whitespace())
        .ok_or("HEALTHCHECK needs CMD or NONE")?;
    if !word.eq_ignore_ascii_case("CMD") {
        return Err("HEALTHCHECK needs CMD or NONE");
    }
    let argument = argument.trim();
    let test = match json_list(argument) {
        Some(list) => std::iter::once("CMD".to_owned()).chain(list).collect(),
        None if config.shell.is_none() => vec!["CMD-SHELL".to_owned(), argument.to_owned()],
        None => std::iter::once("CMD".to_owned())
            .chain(command(argument, config))
            .collect::<Vec<_>>(),
    };
    out.insert("Test".into(), json!(test));
    Ok(Value::Object(out))
}

/// Go's durations (`1m30s`, `500ms`) to nanoseconds.
fn duration(text: &str) -> Result<i64, &'static str> {
    const BAD: &str = "a duration is a number with a unit: 30s, 1m30s, 500ms";
    let mut rest = text;
    let mut total = 0_f64;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or(BAD)?;
        let value: f64 = rest[..digits].parse().map_err(|_| BAD)?;
        rest = &rest[digits..];
        let unit_len = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let scale = match &rest[..unit_len] {
            "h" => 3.6e12,
            "m" => 6e10,
            "s" => 1e9,
            "ms" => 1e6,
            "us" | "µs" => 1e3,
            "ns" => 1.0,
            _ => return Err(BAD),
        };
        total += value * scale;
        rest = &rest[unit_len..];
    }
    if text.is_empty() || !(0.0..9e18).contains(&total) {
        return Err(BAD);
    }
    Ok(total.round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(changes: &[&str]) -> RunConfig {
        let mut config = RunConfig::default();
        for c in changes {
            apply_change(&mut config, c).expect("a valid change");
        }
        config
    }

    #[test]
    fn words_of_a_dockerfile_change_the_configuration() {
        let c = applied(&[
            r#"ENTRYPOINT ["/bin/x", "-y"]"#,
            "cmd echo hello",
            r#"ENV A=1 B="two words" A=3"#,
            "ENV OLD form of it",
            "EXPOSE 80 53/udp 8000-8010",
            "LABEL a=b c='d e'",
            r#"VOLUME ["/data", "/x"]"#,
            "WORKDIR /srv",
            "WORKDIR app",
            "USER nobody:nogroup",
            "STOPSIGNAL SIGINT",
            "HEALTHCHECK --interval=1m30s --retries=2 CMD true",
        ]);
        assert_eq!(c.entrypoint, Some(vec!["/bin/x".into(), "-y".into()]));
        assert_eq!(
            c.cmd,
            Some(vec!["/bin/sh".into(), "-c".into(), "echo hello".into()])
        );
        assert_eq!(c.env, ["A=3", "B=two words", "OLD=form of it"]);
        assert_eq!(
            c.exposed_ports.keys().collect::<Vec<_>>(),
            ["53/udp", "80/tcp", "8000-8010/tcp"]
        );
        assert_eq!(c.labels["c"], "d e");
        assert_eq!(c.volumes.len(), 2);
        assert_eq!(c.working_dir, "/srv/app");
        assert_eq!(c.stop_signal, "SIGINT");
        let health = c.healthcheck.expect("set above");
        assert_eq!(health["Interval"], 90_000_000_000_i64);
        assert_eq!(health["Test"], json!(["CMD-SHELL", "true"]));
    }

    #[test]
    fn a_change_that_makes_no_sense_is_refused_by_name() {
        let mut config = RunConfig::default();
        for bad in [
            "RUN ls",
            "CMD",
            "ENV",
            "EXPOSE 0",
            "EXPOSE x/icmp",
            "ENV A='b",
            "SHELL sh",
        ] {
            let error = apply_change(&mut config, bad).expect_err("must be refused");
            assert!(error.to_string().contains(bad), "{error}");
        }
        assert_eq!(config, RunConfig::default());
    }
}
