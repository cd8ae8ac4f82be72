//! `WWW-Authenticate`: what a registry wants to be told.
//!
//! source: RFC 9110 11.6.1; distribution "Token Authentication Specification"

use std::collections::BTreeMap;

/// One way to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// Name and password with each call.
    Basic,
    /// A token, to be had at `realm`.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// Those of a header's value that are understood.
#[must_use]
pub fn parse(value: &str) -> Vec<Challenge> {
    let mut all = Vec::new();
    let mut rest = value;
    while let Some((scheme, after)) = token(rest) {
        let (parameters, left) = parameters(after);
        rest = left;
        let of = |key: &str| parameters.get(key).cloned();
        if scheme.eq_ignore_ascii_case("basic") {
            all.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = of("realm")
        {
            all.push(Challenge::Bearer {
                realm,
                service: of("service"),
                scope: of("scope"),
            });
        }
    }
    all
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// A word, and what follows it.
fn token(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches([' ', '\t', ',']);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// `name=value` pairs, up to the next scheme.
fn parameters(text: &str) -> (BTreeMap<String, String>, &str) {
    let mut all = BTreeMap::new();
    let mut rest = text;
    loop {
        let Some((name, after)) = token(rest) else {
            // what is no word is passed over: a header that is broken must not be read for ever
            let mut chars = rest.trim_start_matches([' ', '\t', ',']).chars();
            return match chars.next() {
                Some(_) => (all, chars.as_str()),
                None => (all, ""),
            };
        };
        let Some(value) = after.trim_start().strip_prefix('=') else {
            // a word without a value is a scheme
            return (all, rest);
        };
        let (value, left) = quoted(value.trim_start());
        all.insert(name.to_ascii_lowercase(), value);
        rest = left;
    }
}

/// A value with or without quotation marks, and what follows it.
fn quoted(text: &str) -> (String, &str) {
    let Some(inner) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => value.extend(chars.next()),
            c => value.push(c),
        }
    }
    (value, chars.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_registries_say() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        };
        for (value, wanted) in [
            ("Basic realm=\"x\"", vec![Challenge::Basic]),
            (
                "Bearer realm=\"https://a.test/token\",service=\"r.test\",scope=\"repository:a/b:pull,push\"",
                vec![bearer(
                    "https://a.test/token",
                    Some("r.test"),
                    Some("repository:a/b:pull,push"),
                )],
            ),
            (
                "bearer realm=\"https://a.test/t\" , Service = r , Basic realm=\"b\"",
                vec![
                    bearer("https://a.test/t", Some("r"), None),
                    Challenge::Basic,
                ],
            ),
            ("Bearer service=\"no realm\"", vec![]),
            ("Negotiate, Basic", vec![Challenge::Basic]),
            (r#"Bearer realm="a\"b""#, vec![bearer("a\"b", None, None)]),
            ("", vec![]),
        ] {
            assert_eq!(parse(value), wanted, "{value}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_read_to_its_end(value: String) {
            prop_assert!(parse(&value).len() <= value.len());
        }

        #[test]
        fn near_the_grammar_too(value in "(Bearer|Basic|x)[ =,\"\\\\a-z:]{0,40}") {
            prop_assert!(parse(&value).len() <= 1 + value.len());
        }
    }
}
