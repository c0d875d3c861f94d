//! Path patterns: `*` is one segment or part of it, `**` any number of segments.

use std::fmt;
use std::str::FromStr;

/// A set of paths. The query is no part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern(Box<[Segment]>);

#[derive(Clone, Debug, PartialEq, Eq)]
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
        match_segments(&self.0, &segments)
    }
}

/// The classic glob loop over segments: on a mismatch, the last `**` takes one segment more.
fn match_segments(pattern: &[Segment], segments: &[&str]) -> bool {
    let (mut p, mut s) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while s < segments.len() {
        match pattern.get(p) {
            Some(Segment::Any) => {
                back = Some((p + 1, s));
                p += 1;
            }
            Some(Segment::Parts(parts)) if match_parts(parts, segments[s]) => {
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
