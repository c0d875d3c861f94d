//! Text patterns: `*` is any run of characters, none included. For values, not for hosts or paths.

use std::fmt;
use std::str::FromStr;

use super::path::MAX_PATTERN;

/// A set of texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextPattern(Box<[Box<str>]>);

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextError;

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a pattern is not empty, has no control character, and at most 8192 characters")
    }
}

impl std::error::Error for TextError {}

impl FromStr for TextPattern {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        if text.is_empty() || text.len() > MAX_PATTERN || text.chars().any(char::is_control) {
            return Err(TextError);
        }
        Ok(Self(text.split('*').map(Into::into).collect()))
    }
}

impl TextPattern {
    /// The one text of the set, where no `*` makes it more.
    #[must_use]
    pub fn exact(&self) -> Option<&str> {
        match &*self.0 {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Whether `text` is in the set. Case counts.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        fits(&self.0, text)
    }
}

impl TextPattern {
    /// Whether each text of `other` is in the set.
    pub(super) fn covers(&self, other: &Self) -> bool {
        covers(&self.0, &other.0)
    }
}

/// Whether what fits `few` fits `all`: each the literal parts between its `*`s. What a `*` of `few` stands
/// for can be anything, so a part of `all` has to be in one of its parts, or under one of its own `*`s.
pub(super) fn covers(all: &[Box<str>], few: &[Box<str>]) -> bool {
    if let [only] = few {
        return fits(all, only.as_bytes());
    }
    let ([first, middle @ .., last], [start, inner @ .., end]) = (all, few) else { return false };
    let Some(start) = start.strip_prefix(&**first) else { return false };
    let Some(end) = end.strip_suffix(&**last) else { return false };
    let mut parts = inner.iter().map(|part| &**part).chain([end]);
    let mut rest = start;
    for wanted in middle {
        rest = loop {
            match rest.find(&**wanted) {
                Some(at) => break &rest[at + wanted.len()..],
                None => match parts.next() {
                    Some(next) => rest = next,
                    None => return false,
                },
            }
        };
    }
    true
}

fn fits(parts: &[Box<str>], text: &[u8]) -> bool {
    let [first, middle @ .., last] = parts else {
        return parts.first().is_some_and(|only| only.as_bytes() == text);
    };
    let Some(rest) = text.strip_prefix(first.as_bytes()) else { return false };
    let Some(mut rest) = rest.strip_suffix(last.as_bytes()) else { return false };
    for part in middle {
        match memchr::memmem::find(rest, part.as_bytes()) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

impl fmt::Display for TextPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("*"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one pattern covers is found by trying: all texts of a few letters.
    #[test]
    fn a_pattern_that_covers_another_has_all_its_texts() {
        let mut texts = vec![String::new()];
        for length in 0..5 {
            let longer = texts.iter().filter(|text| text.len() == length);
            let longer: Vec<String> =
                longer.flat_map(|text| ["a", "b", "c"].map(|c| format!("{text}{c}"))).collect();
            texts.extend(longer);
        }
        let patterns = [
            "a", "b", "ab", "*", "a*", "*a", "a*b", "*a*", "a*b*", "ab*", "*ab*b", "a*a", "**",
            "a*b*a",
        ];
        let patterns = patterns.map(|text| text.parse::<TextPattern>().unwrap());
        let mut covered = 0;
        for all in &patterns {
            for few in &patterns {
                let has = |p: &TextPattern, text: &String| p.matches(text.as_bytes());
                let each = texts.iter().all(|text| !has(few, text) || has(all, text));
                assert_eq!(all.covers(few), each, "{all} {few}");
                covered += usize::from(each);
            }
        }
        assert!(covered > patterns.len() * 2, "{covered}");
    }

    #[test]
    fn stars_are_any_text() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("abc", "Abc", false),
            ("abc", "abcd", false),
            ("2024-*", "2024-", true),
            ("2024-*", "2024-01-31", true),
            ("2024-*", "x2024-01", false),
            ("*", "", true),
            ("*", "anything at all", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "a--b--c", true),
            ("a*b*c", "acb", false),
            ("*x*", "x", true),
            ("**", "", true),
        ] {
            let found = pattern.parse::<TextPattern>().unwrap();
            assert_eq!(found.matches(text.as_bytes()), expected, "{pattern} {text}");
            assert_eq!(found.to_string(), pattern);
        }
        for bad in ["", "a\nb", "\u{7f}"] {
            assert_eq!(bad.parse::<TextPattern>(), Err(TextError), "{bad:?}");
        }
    }
}
