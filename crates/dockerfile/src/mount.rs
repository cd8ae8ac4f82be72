//! `RUN --mount=type=...`. source: Dockerfile reference, "RUN --mount"

use crate::error::{MountProblem, Problem};
use crate::expand::{Budget, Expander, Nothing};
use crate::flags::Wrong;
use crate::suggest::near;

/// A mount as it is written; its values may have variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFlag {
    text: String,
    fields: Vec<String>,
    from: Option<String>,
}

/// A mount of one `RUN`. Targets are as written: relative ones are below the working directory,
/// which an empty one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// Files of the build context, a stage or an image. What is written there is thrown away.
    Bind {
        /// The build context, where there is none.
        from: Option<String>,
        source: String,
        target: String,
        read_only: bool,
    },
    /// A directory that later builds find again.
    Cache {
        /// The target, where none is given.
        id: String,
        /// What it begins with; empty, where there is none.
        from: Option<String>,
        source: String,
        target: String,
        read_only: bool,
        sharing: Sharing,
        owner: Owner,
    },
    Tmpfs {
        target: String,
        /// Bytes.
        size: Option<u64>,
        read_only: bool,
    },
    Secret {
        id: String,
        /// A file; none where only a variable is asked for.
        target: Option<String>,
        /// A variable that has the secret's content.
        env: Option<String>,
        /// The build fails where there is no such secret.
        required: bool,
        /// Of the file; 0400 and root where it says nothing.
        owner: Owner,
    },
    /// A socket of an agent that has keys.
    Ssh {
        /// `default`, where none is given.
        id: String,
        /// `/run/buildkit/ssh_agent.N`, where none is given.
        target: Option<String>,
        required: bool,
        /// Of the socket; 0600 and root where it says nothing.
        owner: Owner,
    },
}

/// Who a mount belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owner {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// How builds at the same time use one cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Together.
    #[default]
    Shared,
    /// Each its own.
    Private,
    /// One after the other.
    Locked,
}

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "required",
    "size",
    "id",
    "sharing",
    "mode",
    "uid",
    "gid",
    "env",
];

/// What the fields say, before it is known which of them the type takes.
#[derive(Debug, Default)]
struct Said {
    kind: Option<Type>,
    from: Option<String>,
    source: Option<String>,
    target: Option<String>,
    id: Option<String>,
    env: Option<String>,
    sharing: Option<Sharing>,
    size: Option<u64>,
    read_only: Option<bool>,
    required: Option<bool>,
    owner: Owner,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

impl Type {
    const ALL: [Self; 5] = [
        Self::Bind,
        Self::Cache,
        Self::Tmpfs,
        Self::Secret,
        Self::Ssh,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }
}

impl MountFlag {
    /// The value of `--mount`. What has no variables is checked at once.
    pub(crate) fn parse(text: &str) -> Result<Self, Wrong> {
        let fields = csv(text).ok_or_else(|| MountProblem::Csv(text.to_owned()))?;
        let mut from = None;
        for field in &fields {
            if let Some((key, value)) = field.split_once('=')
                && key.eq_ignore_ascii_case("from")
            {
                if value.find('$').is_some_and(|at| at + 1 < value.len()) {
                    return Err(Problem::ExpandedFrom("from").into());
                }
                from = Some(value.to_owned()).filter(|v| !v.is_empty());
            }
        }
        let flag = Self {
            text: text.to_owned(),
            fields,
            from,
        };
        if !text.contains('$') {
            let nothing = &mut Expander::new(&Nothing, '\\', &Budget::default());
            flag.read(nothing)?;
        }
        Ok(flag)
    }

    /// As it is written behind `--mount=`.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The stage, image or context that it mounts from.
    #[must_use]
    pub fn from(&self) -> Option<&str> {
        self.from.as_deref()
    }

    /// The mount, with the values of variables in it.
    ///
    /// # Errors
    /// What cannot be expanded, is unknown, or does not go with the mount's type.
    pub fn mount(&self, expander: &mut Expander<'_>) -> Result<Mount, Problem> {
        self.read(expander).map_err(|wrong| wrong.problem)
    }

    fn read(&self, expander: &mut Expander<'_>) -> Result<Mount, Wrong> {
        let mut said = Said::default();
        for field in &self.fields {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key, Some(expander.word(value)?)),
                None => (field.as_str(), None),
            };
            said.take(&key.to_lowercase(), value, field)?;
        }
        Ok(said.mount()?)
    }
}

impl Said {
    fn take(&mut self, key: &str, value: Option<String>, field: &str) -> Result<(), Wrong> {
        let Some(value) = value else {
            match key {
                "readonly" | "ro" => self.read_only = Some(true),
                "readwrite" | "rw" => self.read_only = Some(false),
                "required" => self.required = Some(true),
                _ => return Err(MountProblem::NoValue(field.to_owned()).into()),
            }
            return Ok(());
        };
        let wrong = || MountProblem::Value {
            key: key.to_owned(),
            value: value.clone(),
        };
        let boolean = || go_bool(&value).ok_or_else(wrong);
        let number = || value.parse().map_err(|_| wrong());
        match key {
            "type" => {
                let found = Type::ALL
                    .into_iter()
                    .find(|t| value.eq_ignore_ascii_case(t.name()));
                let Some(kind) = found else {
                    let meant = near(&value, Type::ALL.map(Type::name), true);
                    return Err(Wrong::meant(MountProblem::Type(value), meant));
                };
                self.kind = Some(kind);
            }
            "from" => self.from = Some(value).filter(|v| !v.is_empty()),
            "source" | "src" => self.source = Some(value),
            "target" | "dst" | "destination" => self.target = Some(value),
            "id" => self.id = Some(value),
            "env" => self.env = Some(value),
            "readonly" | "ro" => self.read_only = Some(boolean()?),
            "readwrite" | "rw" => self.read_only = Some(!boolean()?),
            "required" => self.required = Some(boolean()?),
            "size" => self.size = Some(bytes(&value).ok_or_else(wrong)?),
            "mode" => {
                let mode = u32::from_str_radix(&value, 8).map_err(|_| wrong())?;
                self.owner.mode = Some(mode);
            }
            "uid" => self.owner.uid = Some(number()?),
            "gid" => self.owner.gid = Some(number()?),
            "sharing" => {
                self.sharing = Some(match value.to_lowercase().as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => {
                        let meant = near(&value, ["shared", "private", "locked"], true);
                        return Err(Wrong::meant(MountProblem::Sharing(value), meant));
                    }
                });
            }
            _ => {
                let problem = MountProblem::Key {
                    key: key.to_owned(),
                    field: field.to_owned(),
                };
                return Err(Wrong::meant(problem, near(key, KEYS, true)));
            }
        }
        Ok(())
    }

    /// A key that the type has no use for is refused, not ignored.
    fn check_keys(&self, kind: Type) -> Result<(), MountProblem> {
        use Type::{Bind, Cache, Secret, Ssh, Tmpfs};
        let given: [(&str, bool, &[Type]); 11] = [
            ("from", self.from.is_some(), &[Bind, Cache]),
            ("source", self.source.is_some(), &[Bind, Cache, Secret]),
            ("id", self.id.is_some(), &[Cache, Secret, Ssh]),
            ("env", self.env.is_some(), &[Secret]),
            ("sharing", self.sharing.is_some(), &[Cache]),
            ("size", self.size.is_some(), &[Tmpfs]),
            ("required", self.required.is_some(), &[Secret, Ssh]),
            (
                "readwrite",
                self.read_only == Some(false),
                &[Bind, Cache, Tmpfs],
            ),
            ("mode", self.owner.mode.is_some(), &[Cache, Secret, Ssh]),
            ("uid", self.owner.uid.is_some(), &[Cache, Secret, Ssh]),
            ("gid", self.owner.gid.is_some(), &[Cache, Secret, Ssh]),
        ];
        match given
            .iter()
            .find(|(_, is_given, types)| *is_given && !types.contains(&kind))
        {
            None => Ok(()),
            Some((key, ..)) => Err(MountProblem::KeyOfOther {
                key: (*key).to_owned(),
                kind: kind.name(),
            }),
        }
    }

    fn mount(self) -> Result<Mount, MountProblem> {
        let kind = self.kind.unwrap_or(Type::Bind);
        self.check_keys(kind)?;
        if matches!(kind, Type::Secret) {
            return self.secret();
        }
        let target = self.target.clone().unwrap_or_default();
        if kind != Type::Ssh && !target.is_empty() && target.chars().all(|c| c == '/') {
            return Err(MountProblem::Target(target));
        }
        Ok(match kind {
            Type::Cache => Mount::Cache {
                id: self
                    .id
                    .filter(|id| !id.is_empty())
                    .unwrap_or_else(|| crate::path::clean(&target)),
                from: self.from,
                source: self.source.unwrap_or_default(),
                target,
                read_only: self.read_only.unwrap_or(false),
                sharing: self.sharing.unwrap_or_default(),
                owner: self.owner,
            },
            Type::Tmpfs => Mount::Tmpfs {
                target,
                size: self.size.filter(|s| *s > 0),
                read_only: self.read_only.unwrap_or(false),
            },
            Type::Ssh => Mount::Ssh {
                id: self
                    .id
                    .filter(|id| !id.is_empty())
                    .unwrap_or("default".into()),
                target: self.target.filter(|t| !t.is_empty()),
                required: self.required.unwrap_or(false),
                owner: self.owner,
            },
            Type::Bind | Type::Secret => Mount::Bind {
                from: self.from,
                source: self.source.unwrap_or_default(),
                target,
                read_only: self.read_only.unwrap_or(true),
            },
        })
    }

    fn secret(self) -> Result<Mount, MountProblem> {
        let given = |text: Option<String>| text.filter(|t| !t.is_empty());
        let (id, source, target) = (given(self.id), given(self.source), given(self.target));
        let id = match (id, source, &target) {
            (Some(_), Some(_), _) => return Err(MountProblem::SourceAndId),
            (Some(id), None, _) | (None, Some(id), _) => id,
            (None, None, Some(target)) => crate::path::base(target).to_owned(),
            (None, None, None) => return Err(MountProblem::SecretWithoutName),
        };
        let target = match (&self.env, target) {
            (None, None) => Some(format!("/run/secrets/{}", crate::path::base(&id))),
            (_, target) => target,
        };
        Ok(Mount::Secret {
            // a variable without a name of its own has the secret's
            env: self
                .env
                .map(|env| if env.is_empty() { id.clone() } else { env }),
            id,
            target,
            required: self.required.unwrap_or(false),
            owner: self.owner,
        })
    }
}

/// One line of comma-separated values, in which a quoted one may have commas. source: RFC 4180
fn csv(line: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        if let Some(mut quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            loop {
                let (part, behind) = quoted.split_once('"')?;
                field.push_str(part);
                match behind.strip_prefix('"') {
                    Some(more) => {
                        field.push('"');
                        quoted = more;
                    }
                    None => {
                        rest = behind;
                        break;
                    }
                }
            }
            fields.push(field);
            match rest.strip_prefix(',') {
                Some(behind) => rest = behind,
                None => return rest.is_empty().then_some(fields),
            }
            continue;
        }
        let (field, behind) = match rest.split_once(',') {
            Some((field, behind)) => (field, Some(behind)),
            None => (rest, None),
        };
        if field.contains('"') {
            return None;
        }
        fields.push(field.to_owned());
        match behind {
            Some(behind) => rest = behind,
            None => return Some(fields),
        }
    }
}

/// As Go's `strconv.ParseBool`.
pub(crate) fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A size with a binary unit: `64m`, `1.5 GiB`.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_lowercase();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let shift = match unit
        .strip_suffix("ib")
        .or(unit.strip_suffix('b'))
        .unwrap_or(unit)
    {
        "" if unit != "ib" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    let digits = digits.trim_end();
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let number: f64 = digits.parse().ok()?;
    let size = number * (1_u64 << shift) as f64;
    (size < i64::MAX as f64).then_some(size as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Mount, String> {
        let nothing = &mut Expander::new(&Nothing, '\\', &Budget::default());
        MountFlag::parse(text)
            .and_then(|flag| flag.read(nothing))
            .map_err(|wrong| match wrong.suggestion {
                Some(meant) => format!("{} ({meant})", wrong.problem),
                None => wrong.problem.to_string(),
            })
    }

    #[test]
    fn types_and_their_keys() {
        assert_eq!(
            read("target=/x,source=a,from=base,rw"),
            Ok(Mount::Bind {
                from: Some("base".into()),
                source: "a".into(),
                target: "/x".into(),
                read_only: false
            })
        );
        let cache = read("type=cache,dst=/root/.cache/,sharing=Locked,mode=0755,uid=1,gid=2");
        assert_eq!(
            cache,
            Ok(Mount::Cache {
                id: "/root/.cache".into(),
                from: None,
                source: String::new(),
                target: "/root/.cache/".into(),
                read_only: false,
                sharing: Sharing::Locked,
                owner: Owner {
                    mode: Some(0o755),
                    uid: Some(1),
                    gid: Some(2)
                }
            })
        );
        assert_eq!(
            read("type=tmpfs,target=/t,size=64m"),
            Ok(Mount::Tmpfs {
                target: "/t".into(),
                size: Some(64 << 20),
                read_only: false
            })
        );
        let ssh = read("type=ssh,required");
        assert_eq!(
            ssh,
            Ok(Mount::Ssh {
                id: "default".into(),
                target: None,
                required: true,
                owner: Owner::default()
            })
        );
    }

    #[test]
    fn secrets() {
        let secret = |text: &str| match read(text) {
            Ok(Mount::Secret {
                id, target, env, ..
            }) => (id, target, env),
            other => panic!("{other:?}"),
        };
        let is = |id: &str, target: Option<&str>, env: Option<&str>| {
            (
                id.to_owned(),
                target.map(str::to_owned),
                env.map(str::to_owned),
            )
        };
        assert_eq!(
            secret("type=secret,id=a"),
            is("a", Some("/run/secrets/a"), None)
        );
        assert_eq!(
            secret("type=secret,id=a/b"),
            is("a/b", Some("/run/secrets/b"), None)
        );
        assert_eq!(
            secret("type=secret,target=/x/y"),
            is("y", Some("/x/y"), None)
        );
        assert_eq!(
            secret("type=secret,id=a,env=TOKEN"),
            is("a", None, Some("TOKEN"))
        );
        assert_eq!(secret("type=secret,id=a,env="), is("a", None, Some("a")));
        assert_eq!(
            secret("type=secret,src=a,env=T,target=/x"),
            is("a", Some("/x"), Some("T"))
        );
    }

    #[test]
    fn refusals() {
        let cases = [
            (
                "type=bnd",
                "unsupported mount type \"bnd\": bind, cache, tmpfs, secret or ssh (bind)",
            ),
            ("tpye=bind", "unexpected key 'tpye' in 'tpye=bind' (type)"),
            (
                "type=bind,zzzzzz=1",
                "unexpected key 'zzzzzz' in 'zzzzzz=1'",
            ),
            (
                "type=cache,target",
                "invalid field 'target' must be a key=value pair",
            ),
            ("type=cache,ro=maybe", "invalid value for ro: maybe"),
            ("type=cache,mode=9", "invalid value for mode: 9"),
            ("type=cache,uid=-1", "invalid value for uid: -1"),
            (
                "type=cache,required=true",
                "unexpected key 'required' for mount type 'cache'",
            ),
            (
                "type=bind,size=1",
                "unexpected key 'size' for mount type 'bind'",
            ),
            (
                "type=bind,sharing=shared",
                "unexpected key 'sharing' for mount type 'bind'",
            ),
            (
                "type=secret",
                "invalid secret mount. one of id, target required",
            ),
            (
                "type=secret,id=a,source=b",
                "both source and id can't be set",
            ),
            (
                "type=secret,id=a,from=b",
                "unexpected key 'from' for mount type 'secret'",
            ),
            ("type=tmpfs,target=/,size=1", "invalid mount target \"/\""),
            (
                "from=$base,target=/x",
                "'from' doesn't support variable expansion, define alias stage instead",
            ),
            (
                "type=bind,\"x",
                "failed to parse csv mounts: \"type=bind,\\\"x\"",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text), Err(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn variables_are_read_when_they_have_values() {
        struct One;
        impl crate::Lookup for One {
            fn get(&self, name: &str) -> Option<&str> {
                (name == "kind").then_some("cache")
            }
            fn names(&self) -> Vec<&str> {
                vec!["kind"]
            }
        }
        let flag = MountFlag::parse("type=$kind,target=/x,id=${id:-y}").expect("a flag");
        let expander = &mut Expander::new(&One, '\\', &Budget::default());
        let mount = flag.mount(expander).expect("a mount");
        assert!(matches!(mount, Mount::Cache { id, .. } if id == "y"));
        let nothing = &mut Expander::new(&Nothing, '\\', &Budget::default());
        assert!(flag.mount(nothing).is_err());
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("0"), Some(0));
        assert_eq!(bytes("10"), Some(10));
        assert_eq!(bytes("10b"), Some(10));
        assert_eq!(bytes("1.5k"), Some(1536));
        assert_eq!(bytes("2 GiB"), Some(2 << 30));
        assert_eq!(bytes("2gb"), Some(2 << 30));
        for text in ["", "b", "ib", "1ib", "1x", "-1", "1e3q", "9999999p", "1kk"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn values_with_commas() {
        let fields = |line: &str| csv(line).map(|f| f.join("|"));
        assert_eq!(fields("a,b"), Some("a|b".into()));
        assert_eq!(fields("\"a,\"\"b\",c"), Some("a,\"b|c".into()));
        assert_eq!(fields(""), Some("".into()));
        assert_eq!(fields("a,"), Some("a|".into()));
        assert_eq!(fields("\"a\"b"), None);
        assert_eq!(fields("a\"b"), None);
    }
}
