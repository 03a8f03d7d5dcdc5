//! "Did you mean …": the known word nearest to a mistyped one.
//!
//! Owns: the distance and what counts as near. May not: know what the words mean.

/// The candidate with the smallest edit distance to `word`, where it is near enough to be a slip
/// of the fingers: at most a third of its letters, and at least one, may differ.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate, limit), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `did you mean "x"?`, or nothing.
pub(crate) fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates).map_or_else(String::new, |near| format!("did you mean \"{near}\"?"))
}

/// The hint as the end of a sentence: `: did you mean "x"?`, or nothing.
pub(crate) fn clause<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    match hint(word, candidates) {
        hint if hint.is_empty() => hint,
        hint => format!(": {hint}"),
    }
}

/// Edit distance without regard to case (insert, delete, replace, swap of neighbours); anything above `limit` may be
/// reported as `limit + 1`.
fn distance(a: &str, b: &str, limit: usize) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    if a.len().abs_diff(b.len()) > limit {
        return limit + 1;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let mut best = (above[j] + usize::from(ca != cb))
                .min(above[j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && *ca == b[j - 1] && a[i - 1] == *cb {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_slips_and_refuses_strangers() {
        let words = ["tmpfs", "persistent", "ro", "con"];
        assert_eq!(nearest("tmpsf", words), Some("tmpfs"));
        assert_eq!(nearest("persistant", words), Some("persistent"));
        assert_eq!(nearest("TMPFS", words), Some("tmpfs"));
        assert_eq!(nearest("nonsense", words), None);
        assert_eq!(nearest("", words), None);
        assert_eq!(hint("cn", words), "did you mean \"con\"?");
    }
}
