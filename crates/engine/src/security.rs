//! Capabilities and security options, by Docker's rules. Pure.
//!
//! source: Docker Engine API, HostConfig (CapAdd, CapDrop, SecurityOpt); docs.docker.com
//! "Runtime privilege and Linux capabilities".

use std::collections::BTreeSet;

use crate::error::Error;

/// What a container keeps when nothing is asked.
pub(crate) const DEFAULT_CAPS: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// `ALL`, or `CAP_X` of a name in any case, with or without its prefix.
fn normalise(name: &str) -> Result<String, Error> {
    let upper = name.trim().to_ascii_uppercase();
    if upper == "ALL" {
        return Ok(upper);
    }
    let full = if upper.starts_with("CAP_") {
        upper
    } else {
        format!("CAP_{upper}")
    };
    if host::CAPABILITIES.contains(&full.as_str()) {
        return Ok(full);
    }
    Err(Error::invalid(format!(
        "unknown capability: \"{full}\" (names are as in capabilities(7), or ALL)"
    )))
}

/// The set a container gets. `available` is the engine's own bounding set: nobody can be given
/// more. A capability asked for by name that is not available is refused; of `ALL` it is left out.
pub(crate) fn capabilities(
    privileged: bool,
    add: &[String],
    drop: &[String],
    available: &BTreeSet<String>,
) -> Result<BTreeSet<String>, Error> {
    let add = add
        .iter()
        .map(|c| normalise(c))
        .collect::<Result<Vec<_>, _>>()?;
    let drop = drop
        .iter()
        .map(|c| normalise(c))
        .collect::<Result<Vec<_>, _>>()?;
    if privileged {
        return Ok(available.clone());
    }
    let all = |list: &[String]| list.iter().any(|c| c == "ALL");
    if let Some(missing) = add.iter().find(|c| *c != "ALL" && !available.contains(*c)) {
        return Err(Error::unsupported(format!(
            "capability {missing} cannot be given: this host's engine does not have it itself"
        )));
    }
    let mut set: BTreeSet<String> = if all(&add) {
        available.clone()
    } else if all(&drop) {
        BTreeSet::new()
    } else {
        DEFAULT_CAPS.iter().map(|c| (*c).to_owned()).collect()
    };
    // with ALL on both sides nothing can be taken away by name, as with Docker
    if !all(&drop) {
        for c in &drop {
            set.remove(c);
        }
    }
    set.extend(add.into_iter().filter(|c| c != "ALL"));
    set.retain(|c| available.contains(c));
    Ok(set)
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Seccomp {
    #[default]
    Default,
    Unconfined,
    /// A profile's JSON text, as Docker's clients send it.
    Profile(String),
}

/// What `--security-opt` says, all in one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SecurityOptions {
    pub(crate) seccomp: Seccomp,
    pub(crate) no_new_privileges: bool,
    /// Absent: the host's default. `unconfined` is given as it is.
    pub(crate) apparmor: Option<String>,
    /// SELinux: `user:`, `role:`, `type:`, `level:`, `disable`.
    pub(crate) labels: Vec<String>,
    /// Nothing masked, nothing read-only.
    pub(crate) systempaths_unconfined: bool,
}

impl SecurityOptions {
    pub(crate) fn parse(options: &[String]) -> Result<Self, Error> {
        let mut out = Self::default();
        for option in options {
            out.one(option)?;
        }
        Ok(out)
    }

    fn one(&mut self, option: &str) -> Result<(), Error> {
        if option == "no-new-privileges" {
            self.no_new_privileges = true;
            return Ok(());
        }
        let separator = if option.contains('=') { '=' } else { ':' };
        let Some((key, value)) = option.split_once(separator) else {
            return Err(Error::invalid(format!(
                "invalid --security-opt: \"{option}\" (want key=value)"
            )));
        };
        match key {
            "seccomp" => self.seccomp = seccomp(value)?,
            "no-new-privileges" => {
                self.no_new_privileges = value.parse().map_err(|_| {
                    Error::invalid(format!(
                        "invalid --security-opt: \"{option}\" (want true or false)"
                    ))
                })?;
            }
            "apparmor" => self.apparmor = Some(value.to_owned()),
            "label" => self.labels.push(value.to_owned()),
            "systempaths" if value == "unconfined" => self.systempaths_unconfined = true,
            _ => {
                return Err(Error::unsupported(format!(
                    "invalid --security-opt: \"{option}\" (known: seccomp, no-new-privileges, apparmor, label, systempaths=unconfined)"
                )));
            }
        }
        Ok(())
    }
}

fn seccomp(value: &str) -> Result<Seccomp, Error> {
    match value {
        "unconfined" => Ok(Seccomp::Unconfined),
        "builtin" | "default" => Ok(Seccomp::Default),
        json => match serde_json::from_str::<serde_json::Value>(json) {
            Ok(serde_json::Value::Object(_)) => Ok(Seccomp::Profile(json.to_owned())),
            _ => Err(Error::invalid(
                "decoding seccomp profile failed: it is no JSON object (clients send the file's content, not its path)",
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> BTreeSet<String> {
        host::CAPABILITIES
            .iter()
            .filter(|c| **c != "CAP_SYS_RESOURCE")
            .map(|c| (*c).to_owned())
            .collect()
    }

    fn caps(add: &[&str], drop: &[&str]) -> Result<Vec<String>, Error> {
        let own = |l: &[&str]| l.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        capabilities(false, &own(add), &own(drop), &host()).map(|s| s.into_iter().collect())
    }

    #[test]
    fn docker_s_rules_of_add_and_drop() {
        assert_eq!(caps(&[], &[]).unwrap().len(), 14);
        assert_eq!(caps(&["net_admin"], &[]).unwrap().len(), 15);
        assert_eq!(caps(&["net_admin"], &["ALL"]).unwrap(), ["CAP_NET_ADMIN"]);
        assert_eq!(caps(&["ALL"], &["CAP_MKNOD"]).unwrap().len(), 39);
        assert_eq!(caps(&[], &["chown", "KILL"]).unwrap().len(), 12);
        assert!(caps(&["all"], &["all"]).unwrap().len() == 40);
    }

    #[test]
    fn what_the_host_lacks_is_refused_by_name_only() {
        let error = caps(&["SYS_RESOURCE"], &[]).unwrap_err();
        assert!(error.to_string().contains("CAP_SYS_RESOURCE"), "{error}");
        assert!(caps(&["WALK_ON_WATER"], &[]).is_err());
        assert_eq!(
            capabilities(true, &[], &[], &host()).unwrap().len(),
            host().len()
        );
    }

    #[test]
    fn security_options() {
        let parse = |o: &[&str]| {
            SecurityOptions::parse(&o.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
        };
        let o = parse(&[
            "seccomp=unconfined",
            "no-new-privileges:true",
            "label:disable",
            "apparmor=unconfined",
        ])
        .unwrap();
        assert_eq!(o.seccomp, Seccomp::Unconfined);
        assert!(o.no_new_privileges);
        assert_eq!(o.labels, ["disable"]);
        assert_eq!(o.apparmor.as_deref(), Some("unconfined"));
        assert!(
            !parse(&["no-new-privileges=false"])
                .unwrap()
                .no_new_privileges
        );
        assert!(parse(&["no-new-privileges"]).unwrap().no_new_privileges);
        assert!(parse(&["seccomp=/a/file"]).is_err());
        assert!(parse(&["frobnicate=1"]).is_err());
        assert!(matches!(
            parse(&["seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}"])
                .unwrap()
                .seccomp,
            Seccomp::Profile(_)
        ));
    }
}
