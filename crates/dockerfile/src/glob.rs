//! Patterns of substitutions: `*` and `?` in `${NAME#pattern}`, `${NAME%pattern}` and
//! `${NAME/pattern/text}`.
//!
//! No pattern costs more than the length of the value times that of its longest part between two
//! stars: each part is sought once, the leftmost place first.

/// One character of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Literal(char),
    /// `?`
    Any,
}

/// Parts between stars: `a*b?` has two, `*a` an empty one first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    parts: Vec<Vec<Token>>,
}

impl Pattern {
    /// Reads a pattern, in which `\` takes the meaning of `*`, `?`, `\`, and keeps `}` and `/` from
    /// ending the substitution.
    ///
    /// # Errors
    /// What else follows a `\`; empty where nothing does.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = vec![Vec::new()];
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let token = match c {
                '*' => {
                    parts.push(Vec::new());
                    continue;
                }
                '?' => Token::Any,
                '\\' => match chars.next() {
                    Some(c @ ('*' | '?' | '\\' | '}' | '/')) => Token::Literal(c),
                    other => return Err(other.map(String::from).unwrap_or_default()),
                },
                c => Token::Literal(c),
            };
            if let Some(part) = parts.last_mut() {
                part.push(token);
            }
        }
        Ok(Self { parts })
    }

    /// What a search in a value of `length` characters may cost.
    pub(crate) fn cost(&self, length: usize) -> u64 {
        let longest = self.parts.iter().map(Vec::len).max().unwrap_or(0);
        (length as u64).saturating_mul(longest.max(1) as u64)
    }

    /// The same pattern for a value read backwards.
    pub(crate) fn reversed(mut self) -> Self {
        self.parts.reverse();
        for part in &mut self.parts {
            part.reverse();
        }
        self
    }

    fn is_literal(&self) -> bool {
        self.parts.len() == 1
    }

    /// Where the match that begins at `from` ends: the nearest place, or the farthest.
    pub(crate) fn prefix(&self, value: &[char], from: usize, longest: bool) -> Option<usize> {
        let first = self.parts.first()?;
        if !matches_at(first, value, from) {
            return None;
        }
        self.rest(value, from + first.len(), longest)
    }

    /// Where the parts after the first one end, these beginning at `at` or later.
    fn rest(&self, value: &[char], mut at: usize, longest: bool) -> Option<usize> {
        let Some((last, between)) = self.parts.split_first()?.1.split_last() else {
            return Some(at);
        };
        // the leftmost place of each part leaves the most room for those behind it
        for part in between {
            at = seek(part, value, at)? + part.len();
        }
        let found = if longest {
            (at..=value.len().checked_sub(last.len())?)
                .rev()
                .find(|&i| matches_at(last, value, i))?
        } else {
            seek(last, value, at)?
        };
        Some(found + last.len())
    }

    /// The leftmost match at `from` or later, the longest one there.
    fn find(&self, value: &[char], from: usize) -> Option<(usize, usize)> {
        // where the leftmost place of the first part leads to no match, no later one does
        let first = self.parts.first()?;
        let start = seek(first, value, from)?;
        let end = self.rest(value, start + first.len(), true)?;
        Some((start, end))
    }

    /// `value` with the first match, or every match, replaced; nothing if that takes more bytes than
    /// `limit`.
    pub(crate) fn replace(
        &self,
        value: &[char],
        with: &str,
        all: bool,
        limit: usize,
    ) -> Option<String> {
        let mut out = String::new();
        let mut at = 0;
        while let Some((start, end)) = self.find(value, at) {
            out.extend(&value[at..start]);
            out.push_str(with);
            if out.len() > limit {
                return None;
            }
            at = end;
            if start == end {
                // an empty match: go on behind the next character
                out.extend(value.get(at));
                at += 1;
            }
            if !all || at > value.len() || (at == value.len() && !self.is_empty()) {
                break;
            }
        }
        out.extend(value.get(at..).unwrap_or_default());
        Some(out).filter(|out| out.len() <= limit)
    }

    fn is_empty(&self) -> bool {
        self.is_literal() && self.parts.iter().all(Vec::is_empty)
    }
}

fn matches_at(part: &[Token], value: &[char], at: usize) -> bool {
    value
        .get(at..at.saturating_add(part.len()))
        .is_some_and(|there| {
            part.iter().zip(there).all(|(token, c)| match token {
                Token::Literal(l) => l == c,
                Token::Any => true,
            })
        })
}

fn seek(part: &[Token], value: &[char], from: usize) -> Option<usize> {
    let last = value.len().checked_sub(part.len())?;
    (from..=last).find(|&i| matches_at(part, value, i))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(pattern: &str, value: &str, longest: bool) -> Option<usize> {
        let value: Vec<char> = value.chars().collect();
        Pattern::parse(pattern)
            .expect("a pattern")
            .prefix(&value, 0, longest)
    }

    fn replace(pattern: &str, value: &str, with: &str, all: bool) -> String {
        let value: Vec<char> = value.chars().collect();
        Pattern::parse(pattern)
            .expect("a pattern")
            .replace(&value, with, all, 100)
            .expect("a short text")
    }

    #[test]
    fn prefixes() {
        assert_eq!(prefix("*", "abc", false), Some(0));
        assert_eq!(prefix("*", "abc", true), Some(3));
        assert_eq!(prefix("*/", "a/b/c", false), Some(2));
        assert_eq!(prefix("*/", "a/b/c", true), Some(4));
        assert_eq!(prefix("a?c", "abcd", false), Some(3));
        assert_eq!(prefix("b", "abc", false), None);
        assert_eq!(prefix("*b*d", "abcbd", false), Some(5));
        assert_eq!(prefix("", "abc", false), Some(0));
    }

    #[test]
    fn replacements() {
        assert_eq!(replace("b", "abcb", "x", false), "axcb");
        assert_eq!(replace("b", "abcb", "x", true), "axcx");
        assert_eq!(replace("b*b", "abcbd", "x", true), "axd");
        assert_eq!(replace("", "ab", "x", false), "xab");
        assert_eq!(replace("", "ab", "x", true), "xaxbx");
        assert_eq!(replace("*", "ab", "x", true), "x");
        assert_eq!(replace("aa", "aaaaa", "b", true), "bba");
        assert_eq!(replace("z", "ab", "x", true), "ab");
    }

    /// The obvious matcher, which takes exponential time.
    fn naive(pattern: &[char], value: &[char]) -> bool {
        match pattern.split_first() {
            None => value.is_empty(),
            Some(('*', rest)) => (0..=value.len()).any(|i| naive(rest, &value[i..])),
            Some(('?', rest)) => !value.is_empty() && naive(rest, &value[1..]),
            Some((c, rest)) => value.first() == Some(c) && naive(rest, &value[1..]),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_obvious_matcher(pattern in "[ab*?]{0,6}", value in "[abc]{0,8}") {
            let chars: Vec<char> = value.chars().collect();
            let wild: Vec<char> = pattern.chars().collect();
            let ends: Vec<usize> = (0..=chars.len())
                .filter(|&end| naive(&wild, &chars[..end]))
                .collect();
            prop_assert_eq!(prefix(&pattern, &value, false), ends.first().copied());
            prop_assert_eq!(prefix(&pattern, &value, true), ends.last().copied());

            let start = (0..=chars.len()).find(|&s| (s..=chars.len()).any(|e| naive(&wild, &chars[s..e])));
            let parsed = Pattern::parse(&pattern).expect("a pattern");
            let found = parsed.find(&chars, 0);
            let expected = start.map(|s| {
                let end = (s..=chars.len()).rev().find(|&e| naive(&wild, &chars[s..e]));
                (s, end.expect("it matches"))
            });
            prop_assert_eq!(found, expected);
        }
    }
}
