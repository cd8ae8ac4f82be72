//! Patterns in the sources of `COPY` and `ADD`: those of Go's `filepath.Match`, name by name.

/// Whether a text has a character that means others.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '\\'])
}

/// Whether one name is meant by the pattern of one name. A pattern that is malformed means none.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // where the last star was, and what of the name it has taken
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&'*') {
            star = Some((p + 1, n));
            p += 1;
            continue;
        }
        match one(&pattern, p, name[n]) {
            Some((true, next)) => (p, n) = (next, n + 1),
            _ => match star {
                Some((after, taken)) => {
                    star = Some((after, taken + 1));
                    (p, n) = (after, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Whether the part of a pattern at `at` means a character, and where the next part begins.
fn one(pattern: &[char], at: usize, c: char) -> Option<(bool, usize)> {
    match *pattern.get(at)? {
        '?' => Some((true, at + 1)),
        '\\' => Some((*pattern.get(at + 1)? == c, at + 2)),
        '[' => class(pattern, at + 1, c),
        other => Some((other == c, at + 1)),
    }
}

fn class(pattern: &[char], mut at: usize, c: char) -> Option<(bool, usize)> {
    let is_negated = pattern.get(at) == Some(&'^');
    at += usize::from(is_negated);
    let mut found = false;
    let mut first = true;
    while first || pattern.get(at) != Some(&']') {
        first = false;
        let low = letter(pattern, &mut at)?;
        let mut high = low;
        if pattern.get(at) == Some(&'-') {
            at += 1;
            high = letter(pattern, &mut at)?;
        }
        found |= (low..=high).contains(&c);
    }
    Some((found != is_negated, at + 1))
}

fn letter(pattern: &[char], at: &mut usize) -> Option<char> {
    if pattern.get(*at) == Some(&'\\') {
        *at += 1;
    }
    let c = *pattern.get(*at)?;
    *at += 1;
    Some(c)
}

#[cfg(test)]
mod tests {
    use super::matches;

    /// source: Go's path/filepath match_test.go, for behaviour
    #[test]
    fn names_are_matched_as_go_does() {
        for (pattern, name, want) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "ab", true),
            ("a*b*c*d", "axbxcxd", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a???b", "aäääb", true),
            ("[\\]a]", "]", true),
            ("[", "a", false),
            ("[^", "a", false),
            ("", "a", false),
            ("*x", "xxx", true),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }
}
