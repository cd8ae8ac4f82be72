//! Names of images, as users write them and as they are kept.
//!
//! `ubuntu` is kept as `docker.io/library/ubuntu:latest` and shown as `ubuntu:latest`.
//! source: OCI distribution-spec 1.1 "Pulling manifests"; Docker's documentation of `docker tag`

use std::fmt;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library";
const NAME_LIMIT: usize = 255;

/// A normalised name of an image: a repository with a tag, a digest, or both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// What is wrong with a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("an image's name must not be empty")]
    Empty,
    #[error("invalid image name {0:?}: repository names are lower case: {suggestion:?}?", suggestion = .0.to_lowercase())]
    UpperCase(String),
    #[error(
        "invalid image name {0:?}: a repository is made of a-z, 0-9 and single separators . _ __ - between them, parts by /"
    )]
    Repository(String),
    #[error(
        "invalid image name {0:?}: the registry's name is not a host name with an optional port"
    )]
    Domain(String),
    #[error(
        "invalid image name {0:?}: a tag has at most 128 characters of A-Z a-z 0-9 _ . - and does not begin with . or -"
    )]
    Tag(String),
    #[error("invalid image name {0:?}: a digest is sha256: and 64 hexadecimal digits")]
    Digest(String),
    #[error("invalid image name {0:?}: longer than {NAME_LIMIT} characters")]
    TooLong(String),
    #[error("invalid image name {0:?}: 64 hexadecimal digits would be taken for an image's id")]
    LooksLikeId(String),
}

impl Reference {
    /// Reads a name as users write it. Without tag and digest the tag stays absent:
    /// see [`Reference::with_default_tag`].
    ///
    /// # Errors
    /// [`ReferenceError`] says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if is_hex64(text) {
            return Err(ReferenceError::LooksLikeId(text.into()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                if !is_digest(digest) {
                    return Err(ReferenceError::Digest(text.into()));
                }
                (rest, Some(digest.to_owned()))
            }
            None => (text, None),
        };
        // a colon after the last slash separates the tag; one before it a port
        let slash = rest.rfind('/').map_or(0, |i| i + 1);
        let (name, tag) = match rest[slash..].find(':') {
            Some(i) => (&rest[..slash + i], Some(&rest[slash + i + 1..])),
            None => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(ReferenceError::Tag(text.into()));
        }
        let (domain, path) = split_domain(name);
        if !is_domain(&domain) {
            return Err(ReferenceError::Domain(text.into()));
        }
        check_path(&path, text)?;
        if domain.len() + 1 + path.len() > NAME_LIMIT {
            return Err(ReferenceError::TooLong(text.into()));
        }
        Ok(Self {
            domain,
            path,
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// The same name with `latest` where it has neither tag nor digest.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".into());
        }
        self
    }

    /// The same repository with this tag and no digest.
    #[must_use]
    pub fn tagged(&self, tag: &str) -> Self {
        Self {
            tag: Some(tag.into()),
            digest: None,
            ..self.clone()
        }
    }

    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The registry: `docker.io` where none was written.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Registry and repository without tag and digest, in full.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// Repository as shown to users.
    #[must_use]
    pub fn familiar_repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        let official = self
            .path
            .strip_prefix(OFFICIAL)
            .and_then(|p| p.strip_prefix('/'))
            .filter(|p| !p.contains('/'));
        let short = official.unwrap_or(&self.path);
        // docker.io/example.com/tool must keep its registry: without it, it would name another one
        if split_domain(short) == (self.domain.clone(), self.path.clone()) {
            short.to_owned()
        } else {
            self.repository()
        }
    }

    /// As shown to users: without what is implied.
    #[must_use]
    pub fn familiar(&self) -> String {
        self.join(&self.familiar_repository())
    }

    fn join(&self, repository: &str) -> String {
        let mut out = repository.to_owned();
        if let Some(tag) = &self.tag {
            out.push(':');
            out.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            out.push('@');
            out.push_str(digest);
        }
        out
    }
}

/// In full, as kept.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.join(&self.repository()))
    }
}

/// The name as kept, as shown to users; a name that isn't one stays as it is.
#[must_use]
pub fn familiar(full: &str) -> String {
    Reference::parse(full).map_or_else(|_| full.to_owned(), |r| r.familiar())
}

fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(|c| c.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == LEGACY_DOMAIN {
        DEFAULT_DOMAIN
    } else {
        domain
    };
    if domain == DEFAULT_DOMAIN && !path.contains('/') {
        return (domain.into(), format!("{OFFICIAL}/{path}"));
    }
    (domain.into(), path.into())
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((v6, tail)) => {
                if v6.is_empty() || !v6.chars().all(|c| c.is_ascii_hexdigit() || c == ':') {
                    return false;
                }
                (
                    None,
                    tail.strip_prefix(':').or((!tail.is_empty()).then_some("")),
                )
            }
            None => return false,
        },
        None => match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        },
    };
    let part_ok = |p: &str| {
        !p.is_empty()
            && p.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !p.starts_with('-')
            && !p.ends_with('-')
    };
    host.is_none_or(|h| h.split('.').all(part_ok))
        && port.is_none_or(|p| !p.is_empty() && p.chars().all(|c| c.is_ascii_digit()))
}

fn check_path(path: &str, whole: &str) -> Result<(), ReferenceError> {
    if path.chars().any(|c| c.is_ascii_uppercase()) {
        return Err(ReferenceError::UpperCase(whole.into()));
    }
    if path.split('/').all(is_component) {
        Ok(())
    } else {
        Err(ReferenceError::Repository(whole.into()))
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(part: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alnum(*first) || !alnum(*last) {
        return false;
    }
    bytes
        .split(|b| alnum(*b))
        .filter(|s| !s.is_empty())
        .all(|s| matches!(s, b"." | b"_" | b"__") || s.iter().all(|b| *b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= 128
        && tag.starts_with(word)
        && tag.chars().all(|c| word(c) || c == '.' || c == '-')
}

/// `sha256:` and 64 lower-case hexadecimal digits.
#[must_use]
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(is_hex64)
}

fn is_hex64(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(text: &str) -> String {
        Reference::parse(text)
            .expect("a valid name")
            .with_default_tag()
            .to_string()
    }

    #[test]
    fn names_are_normalised_and_shown_short() {
        for (written, kept, shown) in [
            ("ubuntu", "docker.io/library/ubuntu:latest", "ubuntu:latest"),
            (
                "ubuntu:22.04",
                "docker.io/library/ubuntu:22.04",
                "ubuntu:22.04",
            ),
            ("me/app", "docker.io/me/app:latest", "me/app:latest"),
            (
                "docker.io/app",
                "docker.io/library/app:latest",
                "app:latest",
            ),
            ("index.docker.io/a/b:1", "docker.io/a/b:1", "a/b:1"),
            ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
            // found by the fuzz target: shortened, it would name another registry
            (
                "docker.io/a.b/c:1",
                "docker.io/a.b/c:1",
                "docker.io/a.b/c:1",
            ),
            ("host:5000/a:b", "host:5000/a:b", "host:5000/a:b"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            (
                "library/x/y",
                "docker.io/library/x/y:latest",
                "library/x/y:latest",
            ),
            (
                "a__b/c--d.e",
                "docker.io/a__b/c--d.e:latest",
                "a__b/c--d.e:latest",
            ),
        ] {
            assert_eq!(full(written), kept);
            assert_eq!(familiar(kept), shown);
            assert_eq!(full(shown), kept, "what is shown names the same image");
        }
    }

    #[test]
    fn a_digest_keeps_the_tag_absent() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let r = Reference::parse(&format!("a@{digest}"))
            .expect("valid")
            .with_default_tag();
        assert_eq!(r.tag(), None);
        assert_eq!(r.familiar(), format!("a@{digest}"));
    }

    #[test]
    fn bad_names_say_what_is_wrong() {
        let kind = |t: &str| Reference::parse(t).expect_err("an invalid name");
        assert_eq!(kind(""), ReferenceError::Empty);
        assert!(kind("Ubuntu").to_string().contains("\"ubuntu\"?"));
        for bad in ["a..b", "a___b", "-a", "a-", "a//b", "/a", "a/", "a b", "é"] {
            assert!(matches!(kind(bad), ReferenceError::Repository(_)), "{bad}");
        }
        for bad in ["a:", "a:.x", "a:b/c d", &format!("a:{}", "x".repeat(129))] {
            let e = kind(bad);
            assert!(
                matches!(
                    e,
                    ReferenceError::Tag(_)
                        | ReferenceError::Domain(_)
                        | ReferenceError::Repository(_)
                ),
                "{bad}"
            );
        }
        assert!(matches!(kind("a@sha256:12"), ReferenceError::Digest(_)));
        assert!(matches!(
            kind(&"a".repeat(64)),
            ReferenceError::LooksLikeId(_)
        ));
        assert!(matches!(kind(&"x".repeat(300)), ReferenceError::TooLong(_)));
        assert!(matches!(kind("ho_st:5000/a"), ReferenceError::Domain(_)));
    }
}
