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
    let run = bytes.iter().take_while(|b| is_of_name(**b)).count();
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

/// Finds the references of a text that comes in pieces, and keeps none of it but a name that is not over.
#[derive(Clone, Debug, Default)]
pub struct Spotter {
    /// How much of the prefix has come.
    matched: usize,
    /// What follows the last one. Boxed: nearly no text has one.
    name: Option<Box<Begun>>,
}

/// A name, as far as it has come.
#[derive(Clone, Debug)]
struct Begun {
    bytes: [u8; MAX_NAME],
    /// How many legal characters there were, of which only those within the longest name are kept.
    run: usize,
    /// The same without the dashes at the end.
    end: usize,
}

impl Begun {
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.run) {
            *place = byte;
        }
        self.run += 1;
        if byte != b'-' {
            self.end = self.run;
        }
    }

    fn text(&self) -> Option<&str> {
        let name = self.bytes.get(..self.end).filter(|name| !name.is_empty() && name[0] != b'-')?;
        std::str::from_utf8(name).ok()
    }
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

impl Spotter {
    /// Reads on. `found` is called once for all that starts like a reference, when its name is over, with
    /// the name if it is one.
    pub fn push(&mut self, mut piece: &[u8], found: &mut dyn FnMut(Option<&str>)) {
        loop {
            if self.matched == 0 && self.name.is_none() {
                piece = from_the_next(piece);
            }
            let Some((byte, rest)) = piece.split_first() else { return };
            self.step(*byte, found);
            piece = rest;
        }
    }

    /// Whether there is one whose name may not be over.
    #[must_use]
    pub fn is_at_one(&self) -> bool {
        self.name.is_some()
    }

    /// The text is over, and another one begins.
    pub fn finish(&mut self, found: &mut dyn FnMut(Option<&str>)) {
        if let Some(name) = self.name.take() {
            found(name.text());
        }
        self.matched = 0;
    }

    fn step(&mut self, byte: u8, found: &mut dyn FnMut(Option<&str>)) {
        match &mut self.name {
            Some(name) if is_of_name(byte) => name.push(byte),
            Some(name) => {
                found(name.text());
                self.name = None;
            }
            None => {}
        }
        let prefix = PREFIX.as_bytes();
        if prefix[self.matched] == byte {
            self.matched += 1;
        } else {
            // Its first character stands nowhere else in it, so nothing shorter can have begun.
            self.matched = usize::from(prefix[0] == byte);
        }
        if self.matched == prefix.len() {
            self.matched = 0;
            self.name = Some(Box::new(Begun { bytes: [0; MAX_NAME], run: 0, end: 0 }));
        }
    }
}

/// What is left of a piece from where a prefix stands in it, or could begin at its end.
fn from_the_next(piece: &[u8]) -> &[u8] {
    let at = FINDER.find(piece).or_else(|| {
        let tail = piece.len().saturating_sub(PREFIX.len() - 1);
        let at = tail + memchr::memrchr(PREFIX.as_bytes()[0], &piece[tail..])?;
        PREFIX.as_bytes().starts_with(&piece[at..]).then_some(at)
    });
    &piece[at.unwrap_or(piece.len())..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    fn spotted(pieces: &[&[u8]]) -> Vec<Option<String>> {
        let (mut spotter, mut all) = (Spotter::default(), Vec::new());
        let mut found = |name: Option<&str>| all.push(name.map(str::to_owned));
        for piece in pieces {
            spotter.push(piece, &mut found);
        }
        spotter.finish(&mut found);
        all
    }

    proptest! {
        /// In pieces there are the same references, however it is cut.
        #[test]
        fn a_text_in_pieces_has_the_references_of_the_whole(
            text in "(locum_|locum|lo|_|-|[a-c0]{1,70}|\\PC){0,12}",
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let ends = cuts.iter().copied().chain([bytes.len()]);
            let mut from = 0;
            let pieces: Vec<&[u8]> = ends.map(|end| &bytes[std::mem::replace(&mut from, end)..end]).collect();
            let found = spotted(&pieces);
            prop_assert_eq!(found.len(), text.matches(PREFIX).count());
            let names: Vec<&str> = found.iter().flatten().map(String::as_str).collect();
            prop_assert_eq!(names, names_in(bytes).collect::<Vec<_>>());
        }
    }
}
