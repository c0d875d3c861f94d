//! Path patterns: `*` is one segment or part of it, `**` any number of segments.

use std::fmt;
use std::str::FromStr;

use super::text;

/// A set of paths. The query is no part of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPattern(Box<[Segment]>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Segment {
    /// The literal parts between the `*`s of a segment; one part means no `*`.
    Parts(Box<[Box<str>]>),
    /// `**`.
    Any,
}

/// The longest pattern, in bytes: the usual bound of servers on a whole request line, so that a longer
/// one could match nothing. Comparing takes time by the pattern's length.
pub(super) const MAX_PATTERN: usize = 8192;

/// Why a text is not a path pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// It does not start with `/`.
    Slash,
    /// `**` together with other text in a segment.
    Stars,
    /// A query, a fragment, a space or a control character.
    Character,
    /// More than [`MAX_PATTERN`].
    Long,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slash => "a path starts with `/`",
            Self::Stars => "`**` stands for whole segments, as in /v1/**",
            Self::Character => "a path has no query, fragment, space or control character",
            Self::Long => "the pattern has more than 8192 characters",
        })
    }
}

impl std::error::Error for PathError {}

impl FromStr for PathPattern {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let rest = text.strip_prefix('/').ok_or(PathError::Slash)?;
        if text.len() > MAX_PATTERN {
            return Err(PathError::Long);
        }
        if text.bytes().any(|b| b <= b' ' || b == 0x7f || b"?#".contains(&b)) {
            return Err(PathError::Character);
        }
        let segments = rest.split('/').map(|segment| match segment {
            "**" => Ok(Segment::Any),
            _ if segment.contains("**") => Err(PathError::Stars),
            _ => Ok(Segment::Parts(segment.split('*').map(Into::into).collect())),
        });
        Ok(Self(segments.collect::<Result<_, _>>()?))
    }
}

impl PathPattern {
    /// Whether `path`, as sent and without its query, is in the set. Time is bounded by the product
    /// of the two lengths.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix('/') else { return false };
        let segments: Vec<&str> = rest.split('/').collect();
        match_segments(&self.0, &segments, |parts, segment| match_parts(parts, segment))
    }

    /// Whether each path of `other` is in the set. When in doubt, not.
    pub(super) fn covers(&self, other: &Self) -> bool {
        // What stands for any segments can only be met by what stands for any, too.
        match_segments(&self.0, &other.0, |all, few| match few {
            Segment::Parts(few) => covers_parts(all, few),
            Segment::Any => false,
        })
    }

    /// Whether a path may be in both sets. When in doubt, it may.
    pub(super) fn meets(&self, other: &Self) -> bool {
        self.0.len() * other.0.len() > COMPARED || segments_meet(&self.0, &other.0)
    }

    /// The one path of the set, where no `*` makes it more.
    pub(super) fn exact(&self) -> Option<String> {
        let plain =
            |segment: &Segment| matches!(segment, Segment::Parts(parts) if parts.len() == 1);
        self.0.iter().all(plain).then(|| self.to_string())
    }

    /// The segments at its start that have no `*`, as far as `most`.
    pub(super) fn head(&self, most: usize) -> impl Iterator<Item = &str> {
        let plain = self.0.iter().map_while(|segment| match segment {
            Segment::Parts(parts) if parts.len() == 1 => parts.first().map(|only| &**only),
            _ => None,
        });
        plain.take(most)
    }
}

/// Pairs of segments that are looked at to see whether two patterns meet.
const COMPARED: usize = 10_000;

/// Whether some segments fit both, by a table of what is left of each.
fn segments_meet(a: &[Segment], b: &[Segment]) -> bool {
    let width = b.len() + 1;
    let mut meets = vec![false; (a.len() + 1) * width];
    for at in (0..=a.len()).rev() {
        for other in (0..=b.len()).rev() {
            let left = |at: usize, other: usize| meets.get(at * width + other) == Some(&true);
            let found = match (a.get(at), b.get(other)) {
                (None, None) => true,
                // No segment more, or one of the other's under it.
                (Some(Segment::Any), one) => {
                    left(at + 1, other) || (one.is_some() && left(at, other + 1))
                }
                (one, Some(Segment::Any)) => {
                    left(at, other + 1) || (one.is_some() && left(at + 1, other))
                }
                (Some(Segment::Parts(one)), Some(Segment::Parts(two))) => {
                    parts_meet(one, two) && left(at + 1, other + 1)
                }
                (Some(_), None) | (None, Some(_)) => false,
            };
            meets[at * width + other] = found;
        }
    }
    meets.first() == Some(&true)
}

/// Whether a segment fits both. Between its first and its last part there is room for the parts of both.
fn parts_meet(a: &[Box<str>], b: &[Box<str>]) -> bool {
    match (a, b) {
        ([only], parts) | (parts, [only]) => match_parts(parts, only),
        ([first, .., last], [start, .., end]) => {
            (first.starts_with(&**start) || start.starts_with(&**first))
                && (last.ends_with(&**end) || end.ends_with(&**last))
        }
        _ => false,
    }
}

fn covers_parts(all: &[Box<str>], few: &[Box<str>]) -> bool {
    let empty = |parts: &[Box<str>]| parts.iter().all(|part| part.is_empty());
    // `*` alone is any segment but the empty one, and only an empty one has a single empty part.
    if all.len() > 1 && empty(all) { few.len() > 1 || !empty(few) } else { text::covers(all, few) }
}

/// The classic glob loop over segments: on a mismatch, the last `**` takes one segment more.
fn match_segments<S>(
    pattern: &[Segment],
    segments: &[S],
    fits: impl Fn(&[Box<str>], &S) -> bool,
) -> bool {
    let (mut p, mut s) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while s < segments.len() {
        match pattern.get(p) {
            Some(Segment::Any) => {
                back = Some((p + 1, s));
                p += 1;
            }
            Some(Segment::Parts(parts)) if fits(parts, &segments[s]) => {
                p += 1;
                s += 1;
            }
            _ => match &mut back {
                Some((after, taken)) => {
                    *taken += 1;
                    (p, s) = (*after, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|segment| *segment == Segment::Any)
}

/// Literal parts in order, the first at the start and the last at the end.
fn match_parts(parts: &[Box<str>], segment: &str) -> bool {
    let [first, middle @ .., last] = parts else {
        return parts.first().is_some_and(|only| **only == *segment);
    };
    let Some(rest) = segment.strip_prefix(&**first) else { return false };
    let Some(mut rest) = rest.strip_suffix(&**last) else { return false };
    for part in middle {
        match rest.find(&**part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    // `*` alone is one segment, and an empty one is none.
    !(first.is_empty() && last.is_empty() && middle.is_empty() && segment.is_empty())
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.0 {
            match segment {
                Segment::Any => f.write_str("/**")?,
                Segment::Parts(parts) => write!(f, "/{}", parts.join("*"))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        pattern.parse::<PathPattern>().unwrap().matches(path)
    }

    #[test]
    fn stars_are_segments() {
        for (pattern, path, expected) in [
            ("/v1/chat", "/v1/chat", true),
            ("/v1/chat", "/v1/chat/", false),
            ("/v1/chat", "/v1/chats", false),
            ("/v1/*", "/v1/models", true),
            ("/v1/*", "/v1/", false),
            ("/v1/*", "/v1/a/b", false),
            ("/v1/**", "/v1", true),
            ("/v1/**", "/v1/", true),
            ("/v1/**", "/v1/a/b", true),
            ("/v1/**", "/v10", false),
            ("/**", "/", true),
            ("/**", "/a/b", true),
            ("/", "/", true),
            ("/a/**/z", "/a/z", true),
            ("/a/**/z", "/a/b/c/z", true),
            ("/a/**/z", "/a/b/c", false),
            ("/a/**/m/**/z", "/a/m/m/q/z", true),
            ("/repos/*/git-*", "/repos/x/git-upload-pack", true),
            ("/repos/*/git-*", "/repos/x/y/git-upload-pack", false),
            ("/*.git/info/refs", "/x.git/info/refs", true),
            ("/a*b*c", "/abc", true),
            ("/a*b*c", "/axxbyyc", true),
            ("/a*a", "/a", false),
            ("/v1/**", "*", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    /// What covers and what meets is found by trying: all paths of up to three segments of a few kinds.
    #[test]
    fn patterns_that_cover_or_meet_another() {
        let segments = ["", "a", "b", "ab", "ba", "aab"];
        let mut paths: Vec<String> = Vec::new();
        for one in segments {
            paths.push(format!("/{one}"));
            for two in segments {
                paths.push(format!("/{one}/{two}"));
                paths.extend(segments.map(|three| format!("/{one}/{two}/{three}")));
            }
        }
        let patterns = [
            "/", "/a", "/a/b", "/*", "/a/*", "/**", "/a/**", "/*/b", "/**/b", "/a*", "/*a", "/a*b",
            "/**/a/**", "/*/**", "/a/**/b", "/a/", "/*/*/*", "/**/*", "/b*/a", "/a/a*/b",
        ];
        let patterns = patterns.map(|text| text.parse::<PathPattern>().unwrap());
        let (mut covered, mut met) = (0, 0);
        for a in &patterns {
            for b in &patterns {
                let each = paths.iter().all(|path| !b.matches(path) || a.matches(path));
                let both = paths.iter().any(|path| b.matches(path) && a.matches(path));
                assert!(each || !a.covers(b), "{a} {b}");
                assert_eq!(a.meets(b), both, "{a} {b}");
                covered += usize::from(a.covers(b));
                met += usize::from(both);
            }
        }
        assert!(covered > 90 && met > 200, "{covered} {met}");
        let covers = |a: &str, b: &str| {
            a.parse::<PathPattern>().unwrap().covers(&b.parse::<PathPattern>().unwrap())
        };
        assert!(covers("/v1/**", "/v1") && covers("/v1/**", "/v1/*/x") && covers("/**", "/"));
        assert!(!covers("/v1/*", "/v1/**") && !covers("/v1/*", "/v1/") && !covers("/a*", "/*"));
    }

    #[test]
    fn hostile_patterns_take_no_time() {
        let pattern = format!("/{}z", "**/a/".repeat(30));
        let path = format!("/{}", "a/".repeat(2000));
        assert!(!matches(&pattern, &path));
    }

    #[test]
    fn what_is_no_pattern() {
        for (text, why) in [
            ("v1", PathError::Slash),
            ("", PathError::Slash),
            ("/a**", PathError::Stars),
            ("/a?b", PathError::Character),
            ("/a b", PathError::Character),
        ] {
            assert_eq!(text.parse::<PathPattern>(), Err(why), "{text}");
        }
    }
}
