//! Registries: pull, push, login, logout.

use std::io::{self, BufRead as _};

use api::system::{AuthConfig, AuthResponse};

use super::images::say_messages;
use crate::flags::{refused, switch, value};
use crate::http::{Body, Query, Response, escape_path};
use crate::login;
use crate::term;
use crate::verb::{Context, Failure, Offer, Operands, Outcome, Verb, reason};

const TRUST: &str = "signatures of content trust (notary) are not built";

#[derive(Debug, Default)]
pub(crate) struct PullOptions {
    quiet: bool,
    platform: Option<String>,
}

pub(crate) static PULL: Verb<PullOptions> = Verb {
    path: "pull",
    aliases: &["image pull"],
    usage: "[OPTIONS] NAME[:TAG|@DIGEST]",
    about: "Download an image from a registry",
    operands: Operands::Exactly(1),
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[&[
        switch(
            "quiet",
            Some('q'),
            |o, v| o.quiet = v,
            "Print the name alone",
        ),
        value(
            "platform",
            None,
            "string",
            |o, v| {
                o.platform = Some(v.to_owned());
                Ok(())
            },
            "Of an image for several: os/architecture[/variant]",
        ),
        refused("all-tags", Some('a'), "name the tags one by one"),
        refused("disable-content-trust", None, TRUST),
    ]],
    run: |context, o, names| {
        let name = &names[0];
        let answer = ask(context, name, o.platform.as_deref())?;
        if o.quiet {
            say_messages(answer, |_| Ok(()))?;
        } else {
            say_messages(answer, |line| context.print(line))?;
        }
        context.println(&with_tag(name))
    },
};

/// A name as it is kept: with `latest` where it says neither tag nor digest.
fn with_tag(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.contains([':', '@']) {
        true => name.to_owned(),
        false => format!("{name}:latest"),
    }
}

fn ask<'a>(
    context: &'a Context,
    name: &str,
    platform: Option<&str>,
) -> Result<Response<'a>, Failure> {
    let path = Query::new("/images/create")
        .with("fromImage", &with_tag(name))
        .with_some("platform", platform)
        .build();
    let who = login::header(name)?;
    Ok(context.client.send_with("POST", &path, Body::Empty, &who)?)
}

/// For a container that lacks it; what is said goes where it is in nobody's way.
pub(crate) fn fetch(context: &Context, name: &str, platform: Option<&str>) -> Outcome {
    let answer = ask(context, name, platform)?;
    say_messages(answer, |line| {
        context.warn(line.trim_end_matches('\n'));
        Ok(())
    })
}

#[derive(Debug, Default)]
pub(crate) struct PushOptions {
    quiet: bool,
}

pub(crate) static PUSH: Verb<PushOptions> = Verb {
    path: "push",
    aliases: &["image push"],
    usage: "[OPTIONS] NAME[:TAG]",
    about: "Upload an image to a registry",
    operands: Operands::Exactly(1),
    offer: Offer::Images,
    interspersed: true,
    flags: &[&[
        switch(
            "quiet",
            Some('q'),
            |o, v| o.quiet = v,
            "Print the name alone",
        ),
        refused("all-tags", Some('a'), "name the tags one by one"),
        refused("platform", None, "images of one platform are kept here"),
        refused("disable-content-trust", None, TRUST),
    ]],
    run: |context, o, names| {
        let name = with_tag(&names[0]);
        let slash = name.rfind('/').map_or(0, |i| i + 1);
        let colon = name[slash..].find(':').map(|i| slash + i);
        let (repository, tag) = match colon {
            Some(at) => (&name[..at], &name[at + 1..]),
            None => (name.as_str(), ""),
        };
        let path = format!("/images/{}/push", escape_path(repository));
        let path = Query::new(&path).with("tag", tag).build();
        // the daemon wants the header, whoever asks
        let mut who = login::header(&name)?;
        if who.is_empty() {
            who = "X-Registry-Auth: e30=\r\n".to_owned();
        }
        let answer = context.client.send_with("POST", &path, Body::Empty, &who)?;
        if o.quiet {
            say_messages(answer, |_| Ok(()))?;
            return context.println(&name);
        }
        say_messages(answer, |line| context.print(line))
    },
};

#[derive(Debug, Default)]
pub(crate) struct LoginOptions {
    user: Option<String>,
    password: Option<String>,
    from_stdin: bool,
}

pub(crate) static LOGIN: Verb<LoginOptions> = Verb {
    path: "login",
    aliases: &[],
    usage: "[OPTIONS] [SERVER]",
    about: "Authenticate to a registry",
    operands: Operands::Between(0, 1),
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[&[
        value(
            "username",
            Some('u'),
            "string",
            |o, v| {
                o.user = Some(v.to_owned());
                Ok(())
            },
            "Username",
        ),
        value(
            "password",
            Some('p'),
            "string",
            |o, v| {
                o.password = Some(v.to_owned());
                Ok(())
            },
            "Password or Personal Access Token (PAT)",
        ),
        switch(
            "password-stdin",
            None,
            |o, v| o.from_stdin = v,
            "Take the Password or Personal Access Token (PAT) from stdin",
        ),
    ]],
    run: log_in,
};

fn log_in(context: &Context, o: LoginOptions, names: Vec<String>) -> Outcome {
    let server = names.first().map_or("", String::as_str);
    if o.from_stdin && o.password.is_some() {
        return Err(Failure::say(
            "conflicting options: cannot specify both --password and --password-stdin",
        ));
    }
    let user = match (o.user, o.from_stdin) {
        (Some(user), _) => user,
        (None, true) => {
            return Err(Failure::say(
                "the --password-stdin option requires --username to be set",
            ));
        }
        (None, false) => asked(context, "Username: ", true)?,
    };
    let password = match (o.password, o.from_stdin) {
        (Some(password), _) => {
            context
                .warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
            password
        }
        (None, true) => line()?,
        (None, false) => asked(context, "Password: ", false)?,
    };
    let auth = AuthConfig {
        username: user.clone(),
        password: password.clone(),
        serveraddress: login::key(server),
        ..AuthConfig::default()
    };
    let body = serde_json::to_vec(&auth).map_err(|e| Failure::say(e.to_string()))?;
    let answer: AuthResponse = context
        .client
        .send("POST", "/auth", Body::Json(body))?
        .json()?;
    login::keep(server, &user, &password)?;
    context.println(&answer.status)
}

fn line() -> Result<String, Failure> {
    let mut text = String::new();
    let read = io::stdin().lock().read_line(&mut text);
    read.map_err(|e| Failure::say(format!("read standard input: {}", reason(&e))))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn asked(context: &Context, what: &str, shown: bool) -> Result<String, Failure> {
    if !term::stdin_is_terminal() {
        return Err(Failure::say(
            "cannot perform an interactive login from a non-TTY device: use --username with --password-stdin",
        ));
    }
    context.print(what)?;
    let silent = (!shown).then(term::Silent::enter).transpose();
    let silent = silent.map_err(|e| Failure::say(format!("the terminal: {}", reason(&e))))?;
    let text = line()?;
    if silent.is_some() {
        context.println("")?;
    }
    match text.is_empty() {
        false => Ok(text),
        true => Err(Failure::say(format!(
            "{} required",
            what.trim_end_matches(": ")
        ))),
    }
}

#[derive(Debug, Default)]
pub(crate) struct LogoutOptions;

pub(crate) static LOGOUT: Verb<LogoutOptions> = Verb {
    path: "logout",
    aliases: &[],
    usage: "[SERVER]",
    about: "Log out from a registry",
    operands: Operands::Between(0, 1),
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[&[]],
    run: |context, _, names| {
        let server = names.first().map_or("", String::as_str);
        let shown = login::key(server);
        match login::forget(server)? {
            true => context.println(&format!("Removing login credentials for {shown}")),
            false => context.println(&format!("Not logged in to {shown}")),
        }
    },
};
