//! Where a source of `ADD` comes from: the context, a URL, a git repository.
//! source: Dockerfile reference, "ADD", "Adding files from a Git repository"; `docker build`,
//! "Git repositories", for fragments and queries

use std::collections::BTreeMap;

use crate::error::Problem;
use crate::instruction::{Add, Copy};
use crate::mount::go_bool;
use crate::path::clean;

/// Where a source comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A path of the build context.
    Context(String),
    Url {
        url: String,
        /// The file's name, where the URL ends with one.
        name: Option<String>,
    },
    Git(Git),
}

/// A git repository, and what of it is meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Git {
    /// What git is told: without fragment and query.
    pub remote: String,
    /// A branch, a tag or a commit; the remote's default, where there is none.
    pub reference: Option<String>,
    /// Below the repository's root, without `/` at its ends.
    pub directory: Option<String>,
    /// The commit that it must be.
    pub checksum: Option<String>,
    pub keep_git_dir: Option<bool>,
    pub submodules: Option<bool>,
    /// The files' times are the commit's, not the checkout's.
    pub commit_times: bool,
}

impl Origin {
    /// # Errors
    /// A repository whose query says what is not known, or two things at once.
    pub fn parse(source: &str) -> Result<Self, Problem> {
        let Some(parts) = Parts::split(source) else {
            return Ok(Self::Context(source.to_owned()));
        };
        let is_web = matches!(parts.scheme.as_str(), "http" | "https");
        if is_web && !parts.path.ends_with(".git") {
            let name = parts.path.rsplit('/').next().unwrap_or_default();
            let name =
                Some(decoded(name, false)).filter(|n| !matches!(n.as_str(), "" | "." | ".."));
            return Ok(Self::Url {
                url: source.to_owned(),
                name: name.filter(|n| !n.contains('/')),
            });
        }
        let wrong = |what: String| Problem::Git {
            url: source.to_owned(),
            what,
        };
        let mut git = Git {
            remote: parts.remote.to_owned(),
            ..Git::default()
        };
        if let Some(fragment) = parts.fragment {
            let fragment = decoded(fragment, false);
            let (reference, directory) = fragment.split_once(':').unwrap_or((&fragment, ""));
            git.reference = given(reference);
            git.directory = given(clean(&format!("/{directory}")).trim_matches('/'));
        }
        git.read_query(parts.query.unwrap_or_default())
            .map_err(wrong)?;
        Ok(Self::Git(git))
    }
}

fn given(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|t| !t.is_empty())
}

impl Git {
    fn read_query(&mut self, query: &str) -> Result<(), String> {
        let mut values: BTreeMap<String, String> = BTreeMap::new();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decoded(key, true), decoded(value, true));
            if values.insert(key.clone(), value).is_some() {
                return Err(format!("query {key:?} has multiple values"));
            }
        }
        for (key, value) in &values {
            let boolean = || match value.as_str() {
                "" => Ok(true),
                value => go_bool(value).ok_or_else(|| format!("invalid {key} value: {value:?}")),
            };
            let text = || match value.as_str() {
                "" => Err(format!("query {key:?} has no value")),
                value => Ok(value.to_owned()),
            };
            match key.as_str() {
                "ref" => agree(&mut self.reference, text()?, "ref")?,
                "tag" | "branch" => text().map(drop)?,
                "subdir" => agree(&mut self.directory, text()?, "subdir")?,
                "checksum" | "commit" => agree(&mut self.checksum, text()?, "checksum")?,
                "keep-git-dir" => self.keep_git_dir = Some(boolean()?),
                "submodules" => self.submodules = Some(boolean()?),
                "mtime" => match value.as_str() {
                    "checkout" => self.commit_times = false,
                    "commit" => self.commit_times = true,
                    _ => return Err(format!("invalid mtime value: {value:?}")),
                },
                _ => return Err(format!("unexpected query {key:?}")),
            }
        }
        if values.contains_key("tag") && values.contains_key("branch") {
            return Err("branch conflicts with tag".to_owned());
        }
        for (key, prefix) in [("tag", "refs/tags/"), ("branch", "refs/heads/")] {
            if let Some(name) = values.get(key) {
                let name = name.strip_prefix(prefix).unwrap_or(name);
                agree(&mut self.reference, format!("{prefix}{name}"), "ref")?;
            }
        }
        Ok(())
    }
}

fn agree(known: &mut Option<String>, value: String, what: &str) -> Result<(), String> {
    match known.replace(value) {
        Some(old) if Some(&old) != known.as_ref() => {
            let new = known.as_deref().unwrap_or_default();
            Err(format!("{what} conflicts: {old:?} vs {new:?}"))
        }
        _ => Ok(()),
    }
}

/// A URL, or `user@host:path`, taken apart.
#[derive(Debug)]
struct Parts<'a> {
    scheme: String,
    /// Without query and fragment.
    remote: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    fragment: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn split(source: &'a str) -> Option<Self> {
        let (rest, fragment) = match source.split_once('#') {
            Some((rest, fragment)) => (rest, Some(fragment)),
            None => (source, None),
        };
        let (remote, query) = match rest.split_once('?') {
            Some((remote, query)) => (remote, Some(query)),
            None => (rest, None),
        };
        let (scheme, path) = match remote.split_once("://") {
            Some((scheme, rest)) => {
                let scheme = scheme.to_lowercase();
                if !["http", "https", "ssh", "git"].contains(&scheme.as_str()) {
                    return None;
                }
                (scheme, rest.find('/').map_or("", |slash| &rest[slash..]))
            }
            None => {
                let (user, rest) = remote.split_once('@')?;
                let (host, path) = rest.split_once(':')?;
                let word = |text: &str, more: &str| {
                    let fits = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
                    !text.is_empty() && text.chars().all(fits)
                };
                if !word(user, "_.+-") || !word(host, ".-") || path.is_empty() {
                    return None;
                }
                ("ssh".to_owned(), path)
            }
        };
        Some(Self {
            scheme,
            remote,
            path,
            query,
            fragment,
        })
    }
}

/// Without `%20`, and in a query without `+`; what is no such code stays.
fn decoded(text: &str, in_query: bool) -> String {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        let code = match behind {
            [high, low, ..] if byte == b'%' => digit(*high).zip(digit(*low)),
            _ => None,
        };
        if let Some((high, low)) = code {
            out.extend(u8::try_from(high * 16 + low));
            rest = &behind[2..];
        } else if byte == b'+' && in_query {
            out.push(b' ');
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

impl Add {
    /// Where each source comes from, once expanded.
    ///
    /// # Errors
    /// A checksum of what has none, or options of a repository that its URL says otherwise.
    pub fn origins(&self) -> Result<Vec<Origin>, Problem> {
        let mut origins = Vec::new();
        for source in &self.files.sources {
            let mut origin = Origin::parse(source)?;
            if let Origin::Git(git) = &mut origin {
                match (self.keep_git_dir, git.keep_git_dir) {
                    (Some(a), Some(b)) if a != b => return Err(Problem::KeepGitDir),
                    (flag, url) => git.keep_git_dir = url.or(flag),
                }
                if let (Some(a), Some(b)) = (&self.checksum, &git.checksum)
                    && a != b
                {
                    return Err(Problem::Checksums(a.clone(), b.clone()));
                }
                git.checksum = git.checksum.take().or_else(|| self.checksum.clone());
            }
            origins.push(origin);
        }
        if self.checksum.is_some() {
            match origins.as_slice() {
                [Origin::Context(_)] | [] => return Err(Problem::ChecksumOfFile),
                [_] => {}
                _ => return Err(Problem::ChecksumOfMany),
            }
        }
        Ok(origins)
    }
}

impl Copy {
    /// Refuses what only `ADD` takes, once expanded.
    ///
    /// # Errors
    /// A source that is a URL or a repository.
    pub fn check_sources(&self) -> Result<(), Problem> {
        for source in &self.files.sources {
            match Origin::parse(source) {
                Ok(Origin::Context(_)) => {}
                Ok(Origin::Url { .. }) => return Err(Problem::CopyUrl),
                Ok(Origin::Git(_)) | Err(_) => return Err(Problem::CopyGit),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(source: &str) -> Git {
        match Origin::parse(source) {
            Ok(Origin::Git(git)) => git,
            other => panic!("{source}: {other:?}"),
        }
    }

    #[test]
    fn files_and_urls() {
        for source in [
            "a",
            "./a.git",
            "a@b",
            "/x:y",
            "ftp://h/a",
            "github.com/a/b",
            "c:\\x",
        ] {
            let origin = Origin::parse(source);
            assert_eq!(origin, Ok(Origin::Context(source.into())));
        }
        let name = |source: &str| match Origin::parse(source) {
            Ok(Origin::Url { url, name }) => {
                assert_eq!(url, source);
                name
            }
            other => panic!("{source}: {other:?}"),
        };
        assert_eq!(
            name("https://h/a/b.tar.gz?x=1#y").as_deref(),
            Some("b.tar.gz")
        );
        assert_eq!(name("http://h/a%20b").as_deref(), Some("a b"));
        assert_eq!(name("http://h/a%2Fb"), None, "no name has a slash");
        assert_eq!(name("http://h/"), None);
        assert_eq!(name("http://h"), None);
        assert_eq!(name("http://h/.."), None);
    }

    #[test]
    fn repositories() {
        assert_eq!(
            git("https://h/a/b.git#v1:sub/dir/"),
            Git {
                remote: "https://h/a/b.git".into(),
                reference: Some("v1".into()),
                directory: Some("sub/dir".into()),
                ..Git::default()
            }
        );
        assert_eq!(git("git@h:a/b.git#:x").directory.as_deref(), Some("x"));
        assert_eq!(git("git@h:a/b").remote, "git@h:a/b");
        assert_eq!(git("ssh://git@h/a").reference, None);
        assert_eq!(
            git("https://h/b.git#:../../x").directory.as_deref(),
            Some("x")
        );
        let found = git(
            "https://h/b.git?tag=v1&subdir=x&commit=ab&keep-git-dir&submodules=false&mtime=commit",
        );
        assert_eq!(
            found,
            Git {
                remote: "https://h/b.git".into(),
                reference: Some("refs/tags/v1".into()),
                directory: Some("x".into()),
                checksum: Some("ab".into()),
                keep_git_dir: Some(true),
                submodules: Some(false),
                commit_times: true,
            }
        );
        assert_eq!(
            git("https://h/b.git?branch=a%2Fb").reference.as_deref(),
            Some("refs/heads/a/b")
        );
        for query in [
            "what=1",
            "ref",
            "ref=a&ref=b",
            "tag=a&branch=b",
            "ref=a&tag=a",
            "submodules=maybe",
            "mtime=x",
            "commit=a&checksum=b",
            "fetch-by-commit=1",
        ] {
            let source = format!("https://h/b.git?{query}");
            assert!(Origin::parse(&source).is_err(), "{query}");
        }
        assert!(Origin::parse("https://h/b.git?ref=a#b").is_err());
    }
}
