//! "Did you mean": the known word that is nearest to the one that was typed.

/// The candidate that a typing mistake most likely meant, if one is near enough: the same but for
/// case, `-` and `_`, or within one edit for each three letters (a swap of neighbours is one edit).
pub fn suggest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = fold(word);
    let reach = (word.len() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .filter(|candidate| candidate.chars().count().abs_diff(word.len()) <= reach)
        .map(|candidate| (distance(&word, &fold(candidate)), candidate))
        .filter(|(distance, _)| *distance <= reach)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Words longer than this are not typing mistakes of ours, and the table would grow with them.
const LONGEST: usize = 64;

fn fold(word: &str) -> Vec<char> {
    let lower = word.chars().take(LONGEST).map(|c| c.to_ascii_lowercase());
    lower.map(|c| if c == '-' { '_' } else { c }).collect()
}

/// Optimal string alignment distance: insert, delete, replace, swap neighbours.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before_last: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &y) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            let swapped = i > 0 && j > 0 && x == b[j - 1] && a[i - 1] == y;
            if swapped {
                best = best.min(before_last[j - 1] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let known = ["agents", "to", "methods", "paths", "use", "allow_addresses"];
        for (typed, meant) in [
            ("agent", Some("agents")),
            ("Agents", Some("agents")),
            ("mehtods", Some("methods")),
            ("path", Some("paths")),
            ("allow-addresses", Some("allow_addresses")),
            ("uses", Some("use")),
            ("ot", Some("to")),
            ("credentials", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(suggest(typed, known), meant, "{typed}");
        }
    }

    #[test]
    fn a_very_long_word_is_no_trouble() {
        assert_eq!(suggest(&"a".repeat(1 << 20), ["agents"]), None);
    }
}
