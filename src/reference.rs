//! References: the text by which a request names a credential, `locum_openai`.
//!
//! The grammar is chosen so that a reference passes unescaped through shells, URLs, headers,
//! `token68`, JSON, YAML and Basic auth.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use memchr::memmem::Finder;

/// What every reference starts with.
pub const PREFIX: &str = "locum_";

/// The longest name, in bytes.
pub const MAX_NAME: usize = 63;

/// A name: `[a-z0-9]([a-z0-9-]*[a-z0-9])?`, 1 to 63 bytes. Credentials, sets, agents and
/// workspaces are named by it. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// A text is not a [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameError;

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a name is 1 to 63 characters of a-z, 0-9 and `-`, and neither starts nor ends with `-`",
        )
    }
}

impl std::error::Error for NameError {}

impl Name {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The reference that names the credential of this name: `locum_<name>`.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("{PREFIX}{}", self.0)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let whole = name_length(text.as_bytes()) == Some(text.len());
        if whole { Ok(Self(text.into())) } else { Err(NameError) }
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

/// The name at the start of `bytes`: as long as it can be, without the dashes at its end.
fn name_length(bytes: &[u8]) -> Option<usize> {
    let legal = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    let run = bytes.iter().take_while(|b| legal(b)).count();
    let end = bytes.get(..run)?.iter().rposition(|b| *b != b'-')? + 1;
    let starts_well = bytes.first() != Some(&b'-');
    (starts_well && end <= MAX_NAME).then_some(end)
}

/// The name in a text that is a reference and nothing else.
#[must_use]
pub fn whole(text: &[u8]) -> Option<&str> {
    let name = text.strip_prefix(PREFIX.as_bytes())?;
    (name_length(name) == Some(name.len())).then(|| std::str::from_utf8(name).ok()).flatten()
}

/// Whether `text` has anything in it that starts like a reference. No allocation, and as fast as a
/// substring search: it runs over every header of every request.
#[must_use]
pub fn occurs(text: &[u8]) -> bool {
    FINDER.find(text).is_some()
}

/// The names of all references in `text`, from left to right.
pub fn names_in(text: &[u8]) -> impl Iterator<Item = &str> {
    FINDER.find_iter(text).filter_map(|at| {
        let name = text.get(at + PREFIX.len()..)?;
        std::str::from_utf8(name.get(..name_length(name)?)?).ok()
    })
}

/// The name of the first reference in `text`, to be told to an operator: none where more than a name
/// follows the prefix, or where the name may be a secret that somebody put there by mistake.
#[must_use]
pub fn told(text: &[u8]) -> Option<Name> {
    let rest = text.get(FINDER.find(text)? + PREFIX.len()..)?;
    let word = |b: &&u8| b.is_ascii_alphanumeric() || b"-_.+=~".contains(b);
    let run = rest.get(..rest.iter().take_while(word).count())?;
    let name: Name = std::str::from_utf8(run).ok()?.parse().ok()?;
    (!may_be_secret(name.as_str())).then_some(name)
}

/// Whether a name is rather a random text than what people call things: a long part of it, or many
/// digits. A name of this kind that is meant is told by its place alone.
fn may_be_secret(name: &str) -> bool {
    let digits = |text: &str| text.bytes().filter(u8::is_ascii_digit).count();
    let random = |part: &str| part.len() > 15 || (part.len() > 11 && digits(part) > 1);
    name.split('-').any(random) || (name.len() > 23 && digits(name) > 3)
}

static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(PREFIX));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "openai", "a-b", "0", "x2-3y", &"a".repeat(63)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_whole_reference_has_nothing_around_it() {
        assert_eq!(whole(b"locum_openai"), Some("openai"));
        for no in
            [&b"Bearer locum_openai"[..], b"locum_openai ", b"locum_", b"locum_-a", b"LOCUM_a"]
        {
            assert_eq!(whole(no), None, "{}", no.escape_ascii());
        }
    }

    #[test]
    fn a_name_is_told_unless_it_may_be_a_secret() {
        for (text, told) in [
            ("Bearer locum_chat", Some("chat")),
            ("/botlocum_tg/getMe", Some("tg")),
            ("locum_github-app-2", Some("github-app-2")),
            ("token locum_salesforce-production-eu", Some("salesforce-production-eu")),
            ("locum_", None),
            ("locum_sk-live-4eC39HqLyjWDarjtT1zdp7dc", None),
            ("locum_sk-ant-api03-4ec39hqly0wd", None),
            ("locum_0123456789abcdef", None),
            ("locum_abcdefghijklmnop", None),
            ("locum_5f3a9c01-88aa-4411-9bcd-00aa11bb22cc", None),
            ("locum_chat_secret", None),
            ("nothing", None),
        ] {
            let found = super::told(text.as_bytes());
            assert_eq!(found.as_ref().map(Name::as_str), told, "{text}");
        }
    }

    #[test]
    fn references_are_found_inside_other_text() {
        let text = b"x locum_a, sk-locum_b-c-AA locum_ locum_-d locum_e-";
        assert_eq!(names_in(text).collect::<Vec<_>>(), ["a", "b-c", "e"]);
        assert!(occurs(text) && !occurs(b"locum"));
    }
}
