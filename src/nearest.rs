//! What somebody who has mistyped a word may have meant.

/// Longer words are nobody's mistyped ones.
const LENGTH_MAX: usize = 64;

/// The known word that `word` is most likely to be, if it is like one at all: a third of it may be wrong.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > LENGTH_MAX {
        return None;
    }
    let most = (word.chars().count() / 3).max(1);
    let distances = known.into_iter().map(|known| (distance(word, known), known));
    distances.filter(|(far, _)| *far <= most).min_by_key(|(far, _)| *far).map(|(_, known)| known)
}

/// How many characters have to be added, taken away, replaced, or exchanged with the next one, to make one of the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // Of the beginnings of `a` that are two shorter, one shorter, and as long as what is looked at, to each beginning of `b`.
    let (mut before_last, mut last) = (vec![0; b.len() + 1], (0..=b.len()).collect::<Vec<_>>());
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let same = a[i - 1] == b[j - 1];
            row[j] = (last[j - 1] + usize::from(!same)).min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        (before_last, last) = (last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistyped_words_are_known_again() {
        let known = ["size", "inodes", "require-encryption", "cache-size", "noatime"];
        for (word, meant) in [
            ("sice", Some("size")),
            ("szie", Some("size")),
            ("siz", Some("size")),
            ("require-encrytion", Some("require-encryption")),
            ("require_encryption", Some("require-encryption")),
            ("cachesize", Some("cache-size")),
            ("noatmie", Some("noatime")),
            ("colour", None),
            ("", None),
            ("é", None),
            (&"x".repeat(100_000), None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word:.20}");
        }
        assert_eq!([distance("abc", "abc"), distance("", "abc"), distance("abc", "")], [0, 3, 3]);
    }
}
