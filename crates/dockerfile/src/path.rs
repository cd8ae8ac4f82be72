//! Paths as texts, always with `/`.

/// Without `.`, `..` where it can go, doubled and last slashes; `.` if nothing is left. As Go's
/// `path.Clean`.
#[must_use]
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|p| *p != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// The last part.
#[must_use]
pub(crate) fn base(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    path.rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaned() {
        for (path, expected) in [
            ("", "."),
            (".", "."),
            ("/", "/"),
            ("a//b/./c/", "a/b/c"),
            ("a/../b", "b"),
            ("../a/..", ".."),
            ("/../a", "/a"),
            ("./a", "a"),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
        assert_eq!(base("/a/b/"), "b");
        assert_eq!(base("b"), "b");
    }
}
