//! Near misses: `FORM` is one letter's place from `FROM`.

/// A word this much unlike every option is not a misspelling.
const FURTHEST: usize = 2;
/// Longer words are compared with nothing: the comparison is quadratic in them.
const LONGEST: usize = 40;
/// Of a file with very many names only these are compared.
const MOST: usize = 1_000;

/// The option that `word` was meant to be. Options are compared without regard to case and the
/// answer takes the case of `word`, unless `exact` says that case matters.
pub(crate) fn near<'a>(
    word: &str,
    options: impl IntoIterator<Item = &'a str>,
    exact: bool,
) -> Option<String> {
    if word.len() > LONGEST {
        return None;
    }
    let folded = |text: &str| {
        if exact {
            text.to_owned()
        } else {
            text.to_lowercase()
        }
    };
    let wanted = folded(word);
    let mut best: Option<(usize, String)> = None;
    for option in options.into_iter().take(MOST) {
        if option.len() > LONGEST {
            continue;
        }
        let option = folded(option);
        let distance = distance(&wanted, &option);
        if distance == 0 {
            // spelled right: the trouble is another
            return None;
        }
        // a word that has nothing of the other is no misspelling of it
        let shorter = wanted.chars().count().min(option.chars().count());
        if distance <= FURTHEST.min(shorter.saturating_sub(1))
            && best.as_ref().is_none_or(|(b, _)| distance < *b)
        {
            best = Some((distance, option));
        }
    }
    let (_, found) = best?;
    if exact || word == word.to_lowercase() {
        Some(found)
    } else if word == word.to_uppercase() {
        Some(found.to_uppercase())
    } else {
        Some(found)
    }
}

/// How many letters are to be added, removed, replaced, or exchanged with the next one, to come from
/// one word to the other (the optimal string alignment distance).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut two_before = vec![0; b.len() + 1];
    let mut before: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = before[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(before[j] + 1).min(row[j - 1] + 1);
            let is_exchanged = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if is_exchanged {
                row[j] = row[j].min(two_before[j - 2] + 1);
            }
        }
        two_before = std::mem::replace(&mut before, row);
    }
    before[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("form", "from"), 1);
        assert_eq!(distance("rnu", "env"), 2);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "ab"), 2);
        assert_eq!(distance("안녕", "안넝"), 1);
    }

    #[test]
    fn takes_the_nearest_in_the_case_of_the_word() {
        let options = ["FROM", "RUN", "COPY"];
        assert_eq!(near("FORM", options, false).as_deref(), Some("FROM"));
        assert_eq!(near("rnu", options, false).as_deref(), Some("run"));
        assert_eq!(near("COPPY", options, false).as_deref(), Some("COPY"));
        assert_eq!(near("BANANA", options, false), None);
        assert_eq!(near("in", ["A", "XY"], true), None, "nothing of it");
        assert_eq!(near("from", ["FROM"], false), None, "spelled right");
        assert_eq!(near("form", ["FROM"], true), None, "case matters");
        assert_eq!(near(&"x".repeat(100_000), options, false), None);
    }
}
