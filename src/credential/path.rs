//! Path slots: which part of a path is the secret's.
//!
//! A template such as `/bot{secret}/**` names the one segment, by what stands before and after it.
//! Everything is compared as it was sent: what an origin could read otherwise is the policy's affair.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::{SECRET, SlotError};

/// A path around one `{secret}`: segments as they are sent, `*` for any one, and `**` at the end for
/// any number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate {
    before: Box<[Segment]>,
    /// What stands around the secret in its own segment.
    prefix: Box<str>,
    suffix: Box<str>,
    after: Box<[Segment]>,
    /// Whether more segments may follow.
    open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Any,
    Text(Box<str>),
}

impl Segment {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => !text.is_empty(),
            Self::Text(own) => **own == *text,
        }
    }
}

impl PathTemplate {
    /// What stands before and after the secret in its own segment.
    #[must_use]
    pub fn around(&self) -> (&str, &str) {
        (&self.prefix, &self.suffix)
    }

    /// Where in `path` the text in the secret's place is, if the path has the template's shape.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<Range<usize>> {
        let mut segments = segments(path);
        for segment in &self.before {
            segments.next().filter(|at| segment.matches(&path[at.clone()]))?;
        }
        let own = segments.next()?;
        let inner = path[own.clone()].strip_prefix(&*self.prefix)?.strip_suffix(&*self.suffix)?;
        for segment in &self.after {
            segments.next().filter(|at| segment.matches(&path[at.clone()]))?;
        }
        let start = own.start + self.prefix.len();
        let ends = self.open || segments.next().is_none();
        (ends && !inner.is_empty()).then_some(start..start + inner.len())
    }
}

/// Where the segments of a path are. A path starts with a slash, and what is before it is none.
pub fn segments(path: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut start = 0;
    let all = path.split('/').map(move |segment| {
        let at = start..start + segment.len();
        start = at.end + 1;
        at
    });
    all.skip(1)
}

impl FromStr for PathTemplate {
    type Err = SlotError;

    fn from_str(text: &str) -> Result<Self, SlotError> {
        let rest = text.strip_prefix('/').ok_or(SlotError::Path)?;
        // What ends a path in a target, and what no client sends unescaped.
        let legal = |b: u8| b.is_ascii_graphic() && !b"?#\\\"<>^`|".contains(&b);
        if !text.bytes().all(legal) {
            return Err(SlotError::Path);
        }
        let (rest, open) = rest.strip_suffix("/**").map_or((rest, false), |rest| (rest, true));
        let all: Vec<&str> = rest.split('/').collect();
        let own = all.iter().position(|s| s.contains(SECRET)).ok_or(SlotError::NoSecret)?;
        let (prefix, suffix) = all[own].split_once(SECRET).ok_or(SlotError::NoSecret)?;
        let others = || all.iter().enumerate().filter(|(at, _)| *at != own).map(|(_, s)| *s);
        if suffix.contains(SECRET) || others().any(|s| s.contains(SECRET)) {
            return Err(SlotError::NoSecret);
        }
        let braces = |s: &str| s.contains(['{', '}']);
        let star = |s: &str| s != "*" && s.contains('*');
        if [prefix, suffix].into_iter().any(|s| braces(s) || s.contains('*'))
            || others().any(|s| braces(s) || star(s) || s.is_empty())
        {
            return Err(SlotError::Path);
        }
        let segment = |s: &&str| match *s {
            "*" => Segment::Any,
            text => Segment::Text(text.into()),
        };
        Ok(Self {
            before: all[..own].iter().map(segment).collect(),
            prefix: prefix.into(),
            suffix: suffix.into(),
            after: all[own + 1..].iter().map(segment).collect(),
            open,
        })
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let write = |f: &mut fmt::Formatter<'_>, all: &[Segment]| {
            all.iter().try_for_each(|segment| match segment {
                Segment::Any => f.write_str("/*"),
                Segment::Text(text) => write!(f, "/{text}"),
            })
        };
        write(f, &self.before)?;
        write!(f, "/{}{SECRET}{}", self.prefix, self.suffix)?;
        write(f, &self.after)?;
        f.write_str(if self.open { "/**" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'p>(template: &str, path: &'p str) -> Option<&'p str> {
        Some(&path[template.parse::<PathTemplate>().unwrap().find(path)?])
    }

    #[test]
    fn a_template_finds_its_segment() {
        for (template, path, found) in [
            ("/bot{secret}/**", "/botX/getMe", Some("X")),
            ("/bot{secret}/**", "/botX", Some("X")),
            ("/bot{secret}/**", "/botX/a/b/", Some("X")),
            ("/bot{secret}/**", "/bot/getMe", None),
            ("/bot{secret}/**", "/BotX/getMe", None),
            ("/bot{secret}/**", "/x/botX/getMe", None),
            ("/file/bot{secret}/**", "/file/botX/d/f.bin", Some("X")),
            ("/services/*/*/{secret}", "/services/T/B/X", Some("X")),
            ("/services/*/*/{secret}", "/services/T/B/X/", None),
            ("/services/*/*/{secret}", "/services//B/X", None),
            ("/services/*/*/{secret}", "/services/B/X", None),
            ("/a/{secret}.json", "/a/X.json", Some("X")),
            ("/a/{secret}/b", "/a/X/b", Some("X")),
            ("/{secret}", "*", None),
        ] {
            assert_eq!(find(template, path), found, "{template} {path}");
        }
    }

    #[test]
    fn what_is_no_template() {
        for (text, why) in [
            ("bot{secret}", SlotError::Path),
            ("/bot", SlotError::NoSecret),
            ("/{secret}{secret}", SlotError::NoSecret),
            ("/{secret}/{secret}", SlotError::NoSecret),
            ("/**/{secret}", SlotError::Path),
            ("/a*/{secret}", SlotError::Path),
            ("/*{secret}", SlotError::Path),
            ("//{secret}", SlotError::Path),
            ("/{x}/{secret}", SlotError::Path),
            ("/a?b={secret}", SlotError::Path),
            ("/a b/{secret}", SlotError::Path),
        ] {
            assert_eq!(text.parse::<PathTemplate>(), Err(why), "{text}");
        }
    }
}
