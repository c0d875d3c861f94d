//! What a rule asks of query, fields and run context, beside method and path.
//!
//! As with paths, an origin may read a query or a field in more than one way. A rule that allows asks
//! every reading to agree; a rule that denies is content with one.

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName};
use percent_encoding::percent_decode;

use super::text::TextPattern;
use crate::agent::{Context, Label};
use crate::request::{decode_wide, has_wide, is_named, is_one_field, settled};

/// Fields that no rule can ask for: the proxy takes them out, sets them anew, or puts a secret there.
const UNFIT: [HeaderName; 16] = [
    header::ACCEPT_ENCODING,
    header::AUTHORIZATION,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::COOKIE,
    header::EXPECT,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::RANGE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Whether a rule can ask for a field.
pub(super) fn is_fit(name: &HeaderName) -> bool {
    !UNFIT.contains(name) && !name.as_str().starts_with("locum-")
}

/// What one key of `query` or `headers` asks: a value that is one of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted<N> {
    /// Of the parameter or field.
    pub(super) name: N,
    /// Any of them will do.
    pub(super) values: Vec<TextPattern>,
}

impl<N: PartialEq> Wanted<N> {
    /// Whether one of `others` asks for the same name, and takes no value that this one does not.
    pub(super) fn is_asked_by(&self, others: &[Self]) -> bool {
        others.iter().any(|other| other.name == self.name && cover(&self.values, &other.values))
    }
}

/// Whether each text of `few` is one of `all`.
fn cover(all: &[TextPattern], few: &[TextPattern]) -> bool {
    few.iter().all(|one| all.iter().any(|pattern| pattern.covers(one)))
}

impl<N> Wanted<N> {
    pub(super) fn takes(&self, value: &[u8]) -> bool {
        self.values.iter().any(|pattern| pattern.matches(value))
    }
}

/// All that a rule asks beside agent, destination, method and path. Every list that is not empty has to
/// be met; of users and runs, one of the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Conditions {
    /// Parameters of the query, decoded.
    pub(super) query: Vec<Wanted<Box<str>>>,
    /// Fields.
    pub(super) headers: Vec<Wanted<HeaderName>>,
    /// Of the run context.
    pub(super) users: Vec<TextPattern>,
    /// Of the run context.
    pub(super) runs: Vec<TextPattern>,
}

impl Conditions {
    /// Whether nothing is asked.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether whatever is as `other` asks is as these ask, in whichever sense they are asked.
    pub(super) fn cover(&self, other: &Self) -> bool {
        let query = self.query.iter().all(|wanted| wanted.is_asked_by(&other.query));
        let headers = self.headers.iter().all(|wanted| wanted.is_asked_by(&other.headers));
        let said = |all: &[TextPattern], few: &[TextPattern]| {
            all.is_empty() || (!few.is_empty() && cover(all, few))
        };
        query && headers && said(&self.users, &other.users) && said(&self.runs, &other.runs)
    }

    /// Whether the query is as asked, in every reading of it, or for `any` in one.
    pub(super) fn query(&self, query: Option<&str>, any: bool) -> bool {
        self.query.iter().all(|wanted| {
            let query = query.unwrap_or_default();
            let mut readings = Reading::all().filter(|reading| reading.differs(query));
            if any {
                readings.any(|reading| reading.found(wanted, query).any)
            } else {
                readings.all(|reading| reading.found(wanted, query).all())
            }
        })
    }

    /// Whether the fields are as asked, in every reading of them, or for `any` in one.
    pub(super) fn headers(&self, headers: &HeaderMap, any: bool) -> bool {
        self.headers.iter().all(|wanted| {
            // CGI and its kin read `X_Mode` as `X-Mode`, and join the two or take the last.
            let namesakes = headers
                .iter()
                .filter(|(name, _)| is_one_field(name.as_str(), wanted.name.as_str()));
            let mut lines = namesakes.map(|(_, value)| value.as_bytes());
            if any {
                return lines.any(|value| readings(value).any(|v| wanted.takes(v)));
            }
            headers.contains_key(&wanted.name)
                && lines.all(|value| readings(value).all(|v| wanted.takes(v)))
        })
    }

    /// Whether the run is for one of the users.
    pub(super) fn users(&self, context: &Context) -> bool {
        said(&self.users, context.user.as_ref())
    }

    /// Whether the run is one of these.
    pub(super) fn runs(&self, context: &Context) -> bool {
        said(&self.runs, context.run.as_ref())
    }
}

fn said(patterns: &[TextPattern], label: Option<&Label>) -> bool {
    patterns.is_empty()
        || label.is_some_and(|l| patterns.iter().any(|p| p.matches(l.as_str().as_bytes())))
}

/// A field's value as a whole, and as each member of a list (RFC 9110 section 5.6.1).
fn readings(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let members = value.split(|b| *b == b',').filter(|_| value.contains(&b','));
    std::iter::once(value).chain(members.map(<[u8]>::trim_ascii))
}

/// One way in which an origin may take a query apart: a set of habits.
#[derive(Clone, Copy)]
struct Reading(u8);

/// `;` separates, too.
const SEMICOLON: u8 = 1;

/// `+` is a space.
const PLUS: u8 = 2;

/// What was decoded is decoded again.
const TWICE: u8 = 4;

/// `%u0064` is a `d`.
const WIDE: u8 = 8;

/// What a reading has of one wanted parameter.
#[derive(Default)]
struct Found {
    /// It is there, by its very name.
    there: bool,
    /// One of its values is wanted.
    any: bool,
    /// One of its values is not.
    other: bool,
}

impl Found {
    fn all(&self) -> bool {
        self.there && !self.other
    }
}

impl Reading {
    /// All of them, the plainest first.
    fn all() -> impl Iterator<Item = Self> {
        (0..=SEMICOLON | PLUS | TWICE | WIDE).map(Self)
    }

    fn has(self, habit: u8) -> bool {
        self.0 & habit != 0
    }

    /// Whether it can differ for this query from the ones before it. The first always counts.
    fn differs(self, query: &str) -> bool {
        let there = |byte| query.as_bytes().contains(&byte);
        (!self.has(SEMICOLON) || there(b';'))
            && (!self.has(PLUS) || there(b'+'))
            && (!self.has(TWICE) || there(b'%'))
            && (!self.has(WIDE) || self.has_wide(query.as_bytes()))
    }

    fn has_wide(self, query: &[u8]) -> bool {
        let again = || has_wide(&percent_decode(query).collect::<Vec<u8>>());
        query.contains(&b'%') && (has_wide(query) || (self.has(TWICE) && again()))
    }

    fn found(self, wanted: &Wanted<Box<str>>, query: &str) -> Found {
        let mut found = Found::default();
        for pair in query.split(|c| c == '&' || (self.has(SEMICOLON) && c == ';')) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = self.decode(name);
            if !is_named(&name, wanted.name.as_bytes()) {
                continue;
            }
            found.there |= *name == *wanted.name.as_bytes();
            let value = self.decode(value);
            for value in [&*value, settled(&value)] {
                let takes = wanted.takes(value);
                found.any |= takes;
                found.other |= !takes;
            }
        }
        found
    }

    fn decode(self, text: &str) -> Cow<'_, [u8]> {
        let text = if self.has(PLUS) && text.contains('+') {
            Cow::Owned(text.replace('+', " ").into_bytes())
        } else {
            Cow::Borrowed(text.as_bytes())
        };
        if !text.contains(&b'%') {
            return text;
        }
        let once = |text: &[u8]| {
            if self.has(WIDE) { decode_wide(text) } else { percent_decode(text).collect() }
        };
        let decoded = once(&text);
        Cow::Owned(if self.has(TWICE) { once(&decoded) } else { decoded })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(name: &str, value: &str) -> Conditions {
        let query = vec![Wanted { name: name.into(), values: vec![value.parse().unwrap()] }];
        Conditions { query, ..Conditions::default() }
    }

    #[test]
    fn an_allowed_query_has_one_meaning_and_a_denied_one_any() {
        let fetch = conditions("service", "git-upload-pack");
        for (query, all, any) in [
            (Some("service=git-upload-pack"), true, true),
            (Some("x=1&service=git-upload-pack&y"), true, true),
            (Some("service=git%2dupload-pack"), true, true),
            (Some("%73ervice=git-upload-pack"), true, true),
            (None, false, false),
            (Some(""), false, false),
            (Some("service"), false, false),
            (Some("service=git-receive-pack"), false, false),
            // Two values: origins take the first, the last, or both.
            (Some("service=git-upload-pack&service=git-receive-pack"), false, true),
            (Some("service=git-receive-pack&service=git-upload-pack"), false, true),
            (Some("service=git-upload-pack&Service=git-receive-pack"), false, true),
            (Some("service=git-upload-pack&service[]=git-receive-pack"), false, true),
            (Some("service=git-upload-pack&%73ervice=git-receive-pack"), false, true),
            (Some("service=git-upload-pack&service"), false, true),
            // Another separator, another decoding.
            (Some("service=git-upload-pack;service=git-receive-pack"), false, true),
            (Some("x=;service=git-receive-pack&service=git-upload-pack"), false, true),
            (Some("service=git-upload-pack&%2573ervice=git-receive-pack"), false, true),
            // `%u0073`, which classic ASP reads, in name and value, and behind another encoding.
            (Some("service=git-upload-pack&%u0073ervice=git-receive-pack"), false, true),
            (Some("%u0073ervice=git-upload-pack"), false, true),
            (Some("service=git%u002Dupload-pack"), false, true),
            (Some("service=git-upload-pack&%25%750073ervice=git-receive-pack"), false, true),
            (Some("service=git-upload-pack&x=%u0073&%u00zz=%u"), true, true),
            (Some("Service=git-upload-pack"), false, true),
            // Names and values as PHP and C have them.
            (Some("service=git-upload-pack&+service=git-receive-pack"), false, true),
            (Some("service=git-upload-pack&%20service=git-receive-pack"), false, true),
            (Some("service=git-upload-pack&service%00x=git-receive-pack"), false, true),
            (Some("service=git-upload-pack&service+=git-receive-pack"), false, true),
            (Some("service=git-upload-pack&%09service[x]=git-receive-pack"), false, true),
            (Some("service=git-upload-pack&[service]=git-receive-pack"), false, true),
            (Some("service=git-upload-pack&%5Bservice%5D[0]=git-receive-pack"), false, true),
            (Some("service=git-upload-pack&service]=git-receive-pack"), false, true),
            (Some("service=git-upload-pack%00.git-receive-pack"), false, true),
            (Some("service=%20git-upload-pack"), false, true),
            (Some("service=git-upload-pack&services=1&a.service=1"), true, true),
        ] {
            assert_eq!(fetch.query(query, false), all, "{query:?}");
            assert_eq!(fetch.query(query, true), any, "{query:?}");
        }
        let scored = conditions("my_mode", "safe");
        for other in
            ["my.mode", "my%20mode", "my+mode", "my[mode", "my%5Bmode", "MY.mode", "%20my.mode"]
        {
            let query = format!("my_mode=safe&{other}=evil");
            assert!(!scored.query(Some(&query), false), "{query}");
            let query = format!("{other}=safe");
            assert!(scored.query(Some(&query), true), "{query}");
        }
        assert!(scored.query(Some("my_mode=safe&my-mode=evil"), false));
        let spaced = conditions("q", "a b");
        assert!(!spaced.query(Some("q=a+b"), false), "a plus is a space, or it is not");
        assert!(spaced.query(Some("q=a+b"), true) && spaced.query(Some("q=a%20b"), false));
    }

    #[test]
    fn fields_are_read_line_by_line_and_as_lists() {
        let name: HeaderName = "x-api-version".parse().unwrap();
        let values = vec!["2024-*".parse().unwrap()];
        let headers = vec![Wanted { name: name.clone(), values }];
        let wanted = Conditions { headers, ..Conditions::default() };
        for (lines, all, any) in [
            (&["2024-01"][..], true, true),
            (&["2024-01", "2024-02"], true, true),
            (&["2024-01, 2024-02"], true, true),
            (&[], false, false),
            (&["2023-01"], false, false),
            (&["2024-01", "2023-01"], false, true),
            (&["2024-01, 2023-01"], false, true),
            (&["2023-01,2024-01"], false, true),
        ] {
            let mut map = HeaderMap::new();
            for line in lines {
                map.append(name.clone(), line.parse().unwrap());
            }
            assert_eq!(wanted.headers(&map, false), all, "{lines:?}");
            assert_eq!(wanted.headers(&map, true), any, "{lines:?}");
        }
        // A field that is read as the same counts, and is not the one that was asked for.
        for (other, value, both) in
            [("x_api_version", "2023-01", false), ("x.api_version", "2024-9", true)]
        {
            let mut map = HeaderMap::new();
            map.insert(HeaderName::from_static(other), value.parse().unwrap());
            assert!(!wanted.headers(&map, false), "{other}");
            assert_eq!(wanted.headers(&map, true), both, "{other}");
            map.insert(name.clone(), "2024-01".parse().unwrap());
            assert_eq!(wanted.headers(&map, false), both, "{other}");
        }
    }

    #[test]
    fn who_says_nothing_is_nobody() {
        let users = vec!["alice".parse().unwrap(), "*@example.org".parse().unwrap()];
        let wanted = Conditions { users, ..Conditions::default() };
        let context = |user: Option<&str>| Context {
            user: user.map(|user| user.parse().unwrap()),
            ..Context::default()
        };
        assert!(wanted.users(&context(Some("alice"))));
        assert!(wanted.users(&context(Some("bob@example.org"))));
        assert!(!wanted.users(&context(Some("bob"))) && !wanted.users(&context(None)));
        assert!(wanted.runs(&context(None)), "not asked for");
    }
}
