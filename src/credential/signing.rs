//! How a provider has requests signed with a shared key: what is signed, and where the signature goes.
//!
//! All of it is read once, when it is added or loaded, and nothing of a request is ever read as a template.

use std::fmt;
use std::str::FromStr;

use http::HeaderName;
use serde::{Deserialize, Serialize};

use super::{Slot, SlotError};

/// Requests that are signed with a shared key (HMAC, RFC 2104).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Signing {
    /// By which hash.
    pub hash: HmacHash,
    /// How the signature is written.
    pub encoding: Encoding,
    /// How the key is written in the vault.
    #[serde(default, skip_serializing_if = "is_default")]
    pub key: KeyForm,
    /// What stands before the key's bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_prefix: Option<String>,
    /// What the key that signs is derived of: each is signed with the key before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub derive: Vec<Pattern>,
    /// Named patterns that what is signed has in it, or a digest of them. Each may have those before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<(String, Pattern)>,
    /// What is signed.
    pub message: Pattern,
    /// How the time is written.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timestamp: Timestamp,
    /// Who signs, where the provider wants to hear it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Fields that go out, with what stands in each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, Pattern)>,
    /// Parameters of the query that go out, after all others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<(String, Pattern)>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The hash of a signature or a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HmacHash {
    /// SHA-1, which HMAC does not suffer from.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// How bytes are written as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// In lower case.
    Hex,
    /// With padding.
    Base64,
    /// For URLs, without padding.
    Base64url,
    /// As they are, in what is signed alone.
    Raw,
}

/// How a key is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyForm {
    /// Its bytes are the key.
    #[default]
    Text,
    /// In hex.
    Hex,
    /// In base64, with padding or without.
    Base64,
}

/// How a time is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Timestamp {
    /// Seconds of Unix time.
    #[default]
    Seconds,
    /// Milliseconds of Unix time.
    Millis,
    /// `2026-01-05T12:00:00.000Z`.
    Iso,
}

/// A text with words in braces: `{timestamp}{method}{target}{body}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    typed: Box<str>,
    pieces: Box<[Piece]>,
}

/// A part of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// This text.
    Text(Box<str>),
    /// What a word stands for.
    Word(Word),
}

/// What of a request, or of its signature, stands in a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// The method.
    Method,
    /// The path as it is sent, without the query.
    Path,
    /// The query as it is sent, without its `?`.
    Query,
    /// Path and query as they are sent.
    Target,
    /// What stands in `Host`.
    Host,
    /// A field of the head, as it is sent; nothing where it is not there.
    Header(HeaderName),
    /// The body.
    Body,
    /// A digest of the body.
    BodyDigest(HmacHash, Encoding),
    /// A field of the form that the body is.
    Form(Box<str>),
    /// A part that has a name, or a digest of it.
    Part(Box<str>, Option<(HmacHash, Encoding)>),
    /// The time.
    Timestamp,
    /// Its day in UTC, `2026-01-05`; or `20260105`.
    Date(DateForm),
    /// 32 random hex digits, of which no two requests have the same.
    Nonce,
    /// Who signs.
    KeyId,
    /// A second secret, which is sent as it is.
    Passphrase,
    /// The signature.
    Signature,
}

/// How a day is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DateForm {
    /// `2026-01-05`.
    Dashed,
    /// `20260105`.
    Compact,
}

/// Why a text is no pattern, or a signature cannot be made so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SigningError {
    /// A word in braces that there is none of.
    Word(String),
    /// A brace that is not closed, or not opened.
    Brace,
    /// A character that cannot stand in a field.
    Character,
    /// A word that has no place there.
    Misplaced(&'static str),
    /// The signature goes nowhere.
    NoSignature,
    /// What is signed is the same for all requests.
    Constant,
    /// A field that cannot be set.
    Header(SlotError),
    /// Nothing says who signs.
    NoKeyId,
    /// A field that is written anew after the request was signed.
    Rewritten(HeaderName),
    /// A part that is not there before it is used, is there twice, has no name, or is used nowhere.
    Part(String),
}

impl fmt::Display for SigningError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => write!(
                f,
                "`{{{word}}}` is none of: {{method}}, {{path}}, {{query}}, {{target}}, {{host}}, {{header:NAME}}, {{body}}, {{body:HASH:ENCODING}}, {{form:NAME}}, {{part:NAME}}, {{part:NAME:HASH:ENCODING}}, {{timestamp}}, {{date}}, {{date:compact}}, {{nonce}}, {{key-id}}, {{passphrase}}, {{signature}}"
            ),
            Self::Brace => f.write_str("a brace is not closed, or not opened"),
            Self::Character => f.write_str("only printable ASCII, and \\n, can stand there"),
            Self::Misplaced(word) => write!(f, "{{{word}}} has no place there"),
            Self::NoSignature => f.write_str("no field and no parameter has the {signature} in it"),
            Self::Constant => f.write_str("what is signed would be the same for all requests"),
            Self::Header(error) => error.fmt(f),
            Self::Rewritten(name) => {
                write!(
                    f,
                    "the field {name} is the connection's or Locum's own, and may go out as another"
                )
            }
            Self::Part(name) => write!(
                f,
                "the part `{name}` has to be given once, under a name of a-z, 0-9 and `-`, before what has it in it, and to be used"
            ),
            Self::NoKeyId => f.write_str("{key-id} is wanted, and nothing says who signs"),
        }
    }
}

impl std::error::Error for SigningError {}

impl Pattern {
    /// Its parts.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Its words, in order.
    pub fn words(&self) -> impl Iterator<Item = &Word> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Word(word) => Some(word),
            Piece::Text(_) => None,
        })
    }

    /// Whether the word stands in it.
    #[must_use]
    pub fn has(&self, word: &Word) -> bool {
        self.words().any(|one| one == word)
    }

    /// The texts around its only word, if it has just one.
    fn around(&self) -> Option<(&str, &str)> {
        match &*self.pieces {
            [Piece::Word(_)] => Some(("", "")),
            [Piece::Text(before), Piece::Word(_)] => Some((before, "")),
            [Piece::Word(_), Piece::Text(after)] => Some(("", after)),
            [Piece::Text(before), Piece::Word(_), Piece::Text(after)] => Some((before, after)),
            _ => None,
        }
    }
}

impl FromStr for Pattern {
    type Err = SigningError;

    fn from_str(typed: &str) -> Result<Self, SigningError> {
        let text = typed.replace("\\n", "\n");
        if !text.bytes().all(|b| (0x20..0x7f).contains(&b) || b == b'\n') {
            return Err(SigningError::Character);
        }
        let mut pieces = Vec::new();
        let mut rest = &*text;
        while !rest.is_empty() {
            let end = rest.find(['{', '}']).unwrap_or(rest.len());
            let (before, from) = rest.split_at(end);
            if !before.is_empty() {
                pieces.push(Piece::Text(before.into()));
            }
            if from.is_empty() {
                break;
            }
            let inner = from.strip_prefix('{').ok_or(SigningError::Brace)?;
            let (word, after) = inner.split_once('}').ok_or(SigningError::Brace)?;
            pieces.push(Piece::Word(word.parse()?));
            rest = after;
        }
        Ok(Self { typed: typed.into(), pieces: pieces.into() })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.typed)
    }
}

impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.typed)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for Word {
    type Err = SigningError;

    fn from_str(text: &str) -> Result<Self, SigningError> {
        let unknown = || SigningError::Word(text.to_owned());
        Ok(match text {
            "method" => Self::Method,
            "path" => Self::Path,
            "query" => Self::Query,
            "target" => Self::Target,
            "host" => Self::Host,
            "body" => Self::Body,
            "timestamp" => Self::Timestamp,
            "date" => Self::Date(DateForm::Dashed),
            "date:compact" => Self::Date(DateForm::Compact),
            "nonce" => Self::Nonce,
            "key-id" => Self::KeyId,
            "passphrase" => Self::Passphrase,
            "signature" => Self::Signature,
            _ => match text.split_once(':') {
                Some(("header", name)) => Self::Header(name.parse().map_err(|_| unknown())?),
                Some(("body", how)) => {
                    let (hash, encoding) = digest(how).ok_or_else(unknown)?;
                    Self::BodyDigest(hash, encoding)
                }
                Some(("form", name)) if !name.is_empty() => Self::Form(name.into()),
                Some(("part", part)) => match part.split_once(':') {
                    None => Self::Part(part.into(), None),
                    Some((name, how)) => {
                        Self::Part(name.into(), Some(digest(how).ok_or_else(unknown)?))
                    }
                },
                _ => return Err(unknown()),
            },
        })
    }
}

/// `sha256:hex`.
fn digest(how: &str) -> Option<(HmacHash, Encoding)> {
    let (hash, encoding) = how.split_once(':')?;
    Some((hash.parse().ok()?, encoding.parse().ok()?))
}

/// Not one of the words that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownWord(&'static str);

impl fmt::Display for UnknownWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "known are {}", self.0)
    }
}

impl std::error::Error for UnknownWord {}

macro_rules! words {
    ($($type:ident { $($text:literal $variant:ident),+ })+) => { $(
        impl FromStr for $type {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(UnknownWord(concat!($($text, " "),+))),
                }
            }
        }
    )+ };
}

words! {
    HmacHash { "sha1" Sha1, "sha256" Sha256, "sha384" Sha384, "sha512" Sha512 }
    Encoding { "hex" Hex, "base64" Base64, "base64url" Base64url, "raw" Raw }
    KeyForm { "text" Text, "hex" Hex, "base64" Base64 }
    Timestamp { "seconds" Seconds, "millis" Millis, "iso" Iso }
}

/// Fields that go out as Locum, or the connection, has them. `{host}` is a word of its own.
const REWRITTEN: [&str; 14] = [
    "accept-encoding",
    "connect-accept-encoding",
    "connection",
    "content-length",
    "expect",
    "grpc-accept-encoding",
    "host",
    "if-range",
    "keep-alive",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl Signing {
    /// Whether a signature can be made so.
    ///
    /// # Errors
    /// The first reason why not.
    pub fn check(&self) -> Result<(), SigningError> {
        self.check_parts()?;
        for (word, name) in [(Word::Signature, "signature"), (Word::Passphrase, "passphrase")] {
            if self.signed_words().contains(&&word) {
                return Err(SigningError::Misplaced(name));
            }
        }
        let tells = |word: &&Word| !matches!(word, Word::KeyId | Word::Part(..));
        if !self.message_words().iter().any(tells) {
            return Err(SigningError::Constant);
        }
        // What a key is derived of is of its day or its place, and of no body.
        let of_body = |word: &Word| {
            matches!(word, Word::Body | Word::BodyDigest(..) | Word::Form(_) | Word::Part(..))
        };
        if self.derive.iter().flat_map(Pattern::words).any(of_body) {
            return Err(SigningError::Misplaced("what is of the body"));
        }
        let printable = |text: &String| text.bytes().all(|b| (0x20..0x7f).contains(&b));
        if !self.key_prefix.iter().all(printable) {
            return Err(SigningError::Character);
        }
        if self.encoding == Encoding::Raw {
            return Err(SigningError::Misplaced("raw"));
        }
        let rewritten = |word: &Word| match word {
            Word::Header(name) if REWRITTEN.contains(&name.as_str()) => Some(name.clone()),
            _ => None,
        };
        if let Some(name) = self.signed_words().into_iter().find_map(rewritten) {
            return Err(SigningError::Rewritten(name));
        }
        for (name, pattern) in &self.headers {
            // A slot may be there, and so what Locum sets.
            Slot::header(&format!("{name}: {{secret}}")).map_err(SigningError::Header)?;
            if pattern.pieces.iter().any(|p| matches!(p, Piece::Text(text) if text.contains('\n')))
            {
                return Err(SigningError::Character);
            }
        }
        for (name, pattern) in &self.parameters {
            Slot::query(name).map_err(SigningError::Header)?;
            if pattern.has(&Word::Passphrase) {
                return Err(SigningError::Misplaced("passphrase"));
            }
        }
        let outputs = || self.headers.iter().chain(&self.parameters).map(|(_, pattern)| pattern);
        if !outputs().any(|pattern| pattern.has(&Word::Signature)) {
            return Err(SigningError::NoSignature);
        }
        let about = |word: &Word| {
            let of_request = [Word::Method, Word::Path, Word::Query, Word::Target, Word::Host];
            let raw = matches!(word, Word::BodyDigest(_, Encoding::Raw));
            let of_body = matches!(word, Word::Body | Word::Form(_) | Word::Part(..));
            of_request.contains(word) || matches!(word, Word::Header(_)) || of_body || raw
        };
        if outputs().flat_map(Pattern::words).any(about) {
            return Err(SigningError::Misplaced("what is of the request"));
        }
        let wants_id = outputs().any(|pattern| pattern.has(&Word::KeyId))
            || self.signed_words().contains(&&Word::KeyId);
        if wants_id && self.key_id.is_none() { Err(SigningError::NoKeyId) } else { Ok(()) }
    }

    /// Each part once, before what has it in it, and none that nothing has.
    fn check_parts(&self) -> Result<(), SigningError> {
        let mut known: Vec<&str> = Vec::new();
        let stray = |known: &[&str], pattern: &Pattern| {
            pattern.words().find_map(|word| match word {
                Word::Part(name, _) if !known.contains(&&**name) => Some(name.to_string()),
                _ => None,
            })
        };
        for (name, pattern) in &self.parts {
            if let Some(stray) = stray(&known, pattern) {
                return Err(SigningError::Part(stray));
            }
            let named =
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            if !named || name.is_empty() || known.contains(&&**name) {
                return Err(SigningError::Part(name.clone()));
            }
            known.push(name);
        }
        if let Some(stray) = stray(&known, &self.message) {
            return Err(SigningError::Part(stray));
        }
        let words = self.message_words();
        let used =
            |part: &str| words.iter().any(|w| matches!(w, Word::Part(name, _) if **name == *part));
        match known.into_iter().find(|name| !used(name)) {
            Some(unused) => Err(SigningError::Part(unused.to_owned())),
            None => Ok(()),
        }
    }

    /// The words of what is signed, with those of its parts.
    fn message_words(&self) -> Vec<&Word> {
        let mut words: Vec<&Word> = self.message.words().collect();
        let mut at = 0;
        // Parts have only parts before them in them, so that this ends.
        while let Some(word) = words.get(at) {
            if let Word::Part(name, _) = word
                && !words[..at].contains(word)
                && let Some((_, part)) = self.parts.iter().find(|(own, _)| **own == **name)
            {
                words.extend(part.words());
            }
            at += 1;
        }
        words
    }

    /// All words that the signature is over, those of the key that makes it among them.
    #[must_use]
    pub fn signed_words(&self) -> Vec<&Word> {
        let mut words = self.message_words();
        words.extend(self.derive.iter().flat_map(Pattern::words));
        words
    }

    /// The fields that it sets, and those that it is over.
    pub fn fields(&self) -> impl Iterator<Item = HeaderName> {
        let set = self.headers.iter().filter_map(|(name, _)| name.parse().ok());
        let over = self.signed_words().into_iter().filter_map(|word| match word {
            Word::Header(name) => Some(name.clone()),
            _ => None,
        });
        set.chain(over)
    }

    /// Whether a field is the signature's own, and nothing of what a client has in it goes out.
    #[must_use]
    pub fn owns(&self, field: &HeaderName) -> bool {
        self.headers.iter().any(|(name, _)| field.as_str() == name)
    }

    /// Where a request may refer to the credential: in place of the signature, of who signs, or of the
    /// passphrase.
    #[must_use]
    pub fn slots(&self) -> Vec<Slot> {
        let mut slots = Vec::new();
        let words = [Word::Signature, Word::KeyId, Word::Passphrase];
        let refers = |pattern: &Pattern| words.iter().any(|word| pattern.has(word));
        for (name, pattern) in self.headers.iter().filter(|(_, pattern)| refers(pattern)) {
            let around = pattern.around().unwrap_or_default();
            let shaped = format!("{name}: {}{{secret}}{}", around.0, around.1);
            for text in [shaped, format!("{name}: {{secret}}")] {
                slots.extend(Slot::header(&text).ok().filter(|slot| !slots.contains(slot)));
            }
        }
        for (name, _) in self.parameters.iter().filter(|(_, pattern)| refers(pattern)) {
            slots.extend(Slot::query(name));
        }
        slots
    }

    /// Whether the body has to be read before the request can be signed.
    #[must_use]
    pub fn reads_body(&self) -> bool {
        let outputs = self.headers.iter().chain(&self.parameters).map(|(_, pattern)| pattern);
        let mut words = outputs.flat_map(Pattern::words).chain(self.message_words());
        words.any(|word| matches!(word, Word::Body | Word::BodyDigest(..) | Word::Form(_)))
    }

    /// Whether a second secret is sent.
    #[must_use]
    pub fn wants_passphrase(&self) -> bool {
        self.headers.iter().any(|(_, pattern)| pattern.has(&Word::Passphrase))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signing(message: &str, headers: &[(&str, &str)]) -> Result<Signing, SigningError> {
        let headers = headers.iter().map(|(name, text)| Ok(((*name).to_owned(), text.parse()?)));
        let signing = Signing {
            hash: HmacHash::Sha256,
            encoding: Encoding::Hex,
            key: KeyForm::Text,
            key_prefix: None,
            derive: Vec::new(),
            parts: Vec::new(),
            message: message.parse()?,
            timestamp: Timestamp::Seconds,
            key_id: None,
            headers: headers.collect::<Result<_, SigningError>>()?,
            parameters: Vec::new(),
        };
        signing.check().map(|()| signing)
    }

    #[test]
    fn patterns_read_back_as_they_are_typed() {
        for text in [
            "v0:{timestamp}:{body}",
            "{method}\\n{path}\\n{query}\\n{body:sha512:hex}\\n{timestamp}",
            "{header:x-recv-window}{nonce}",
            "plain",
            "",
        ] {
            let pattern: Pattern = text.parse().unwrap();
            assert_eq!(pattern.to_string(), text);
            let json = serde_json::to_string(&pattern).unwrap();
            assert_eq!(serde_json::from_str::<Pattern>(&json).unwrap(), pattern);
        }
        for (text, why) in [
            ("{", SigningError::Brace),
            ("a}", SigningError::Brace),
            ("{{body}}", SigningError::Word("{body".to_owned())),
            ("{secret}", SigningError::Word("secret".to_owned())),
            ("{body:md5:hex}", SigningError::Word("body:md5:hex".to_owned())),
            ("{header:a b}", SigningError::Word("header:a b".to_owned())),
            ("ä", SigningError::Character),
            ("\t", SigningError::Character),
        ] {
            assert_eq!(text.parse::<Pattern>(), Err(why), "{text}");
        }
    }

    #[test]
    fn what_proves_nothing_is_no_signature() {
        let out = &[("x-signature", "sha256={signature}")];
        assert!(signing("{body}", out).is_ok());
        for (message, headers, why) in [
            ("{body}", &[("x-time", "{timestamp}")][..], SigningError::NoSignature),
            ("hello", out, SigningError::Constant),
            ("{signature}", out, SigningError::Misplaced("signature")),
            ("{header:Range}", out, SigningError::Rewritten(http::header::RANGE)),
            (
                "{body}",
                &[("x-s", "{signature}{path}")],
                SigningError::Misplaced("what is of the request"),
            ),
            ("{body}", &[("host", "{signature}")], SigningError::Header(SlotError::ReservedHeader)),
            ("{body}", &[("x-s", "{signature}"), ("x-k", "{key-id}")], SigningError::NoKeyId),
            ("{body}", &[("x-s", "a\\n{signature}")], SigningError::Character),
        ] {
            assert_eq!(signing(message, headers).unwrap_err(), why, "{message}");
        }
    }

    #[test]
    fn parts_are_there_before_they_are_used_and_keys_are_derived_of_no_body() {
        let base = || signing("{body}", &[("x-s", "{signature}")]).unwrap();
        let pattern = |text: &str| text.parse::<Pattern>().unwrap();
        let with = |parts: &[(&str, &str)], message: &str| {
            let parts = parts.iter().map(|(name, text)| ((*name).to_owned(), pattern(text)));
            let signing = Signing { parts: parts.collect(), message: pattern(message), ..base() };
            signing.check().map(|()| signing.reads_body())
        };
        let inner = ("inner", "{form:nonce}{body}");
        assert_eq!(with(&[inner], "{path}{part:inner:sha256:raw}"), Ok(true));
        assert_eq!(with(&[("a", "{method}"), ("b", "{part:a}")], "{part:b:sha1:hex}"), Ok(false));
        let part = |name: &str| Err(SigningError::Part(name.to_owned()));
        assert_eq!(with(&[], "{part:none}"), part("none"));
        assert_eq!(with(&[("b", "{part:a}"), ("a", "{body}")], "{part:b}"), part("a"));
        assert_eq!(with(&[("a", "{part:a}")], "{part:a}"), part("a"));
        assert_eq!(with(&[inner, inner], "{part:inner}"), part("inner"));
        assert_eq!(with(&[("A", "{body}")], "{part:A}"), part("A"));
        assert_eq!(with(&[inner], "{path}"), part("inner"));
        assert_eq!(with(&[("a", "same")], "{part:a:sha256:hex}"), Err(SigningError::Constant));
        assert_eq!(
            with(&[("a", "{passphrase}")], "{part:a}"),
            Err(SigningError::Misplaced("passphrase"))
        );
        let range = Err(SigningError::Rewritten(http::header::RANGE));
        assert_eq!(with(&[("a", "{header:Range}")], "{part:a}"), range);
        let derived = |text: &str| Signing { derive: vec![pattern(text)], ..base() }.check();
        assert_eq!(derived("{date}"), Ok(()));
        assert_eq!(derived("{body}"), Err(SigningError::Misplaced("what is of the body")));
        assert_eq!(derived("{signature}"), Err(SigningError::Misplaced("signature")));
        assert_eq!(
            signing("{body}", &[("x-s", "{signature}"), ("x-d", "{body:sha256:raw}")]),
            Err(SigningError::Misplaced("what is of the request"))
        );
        let raw = Signing { encoding: Encoding::Raw, ..base() };
        assert_eq!(raw.check(), Err(SigningError::Misplaced("raw")));
    }

    #[test]
    fn a_request_refers_to_it_where_the_signature_goes() {
        let slots = |headers| -> Vec<String> {
            let slots = signing("{body}", headers).unwrap().slots();
            slots.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            slots(&[("x-hub-signature-256", "sha256={signature}"), ("x-time", "{timestamp}")]),
            ["header x-hub-signature-256: sha256={secret}", "header x-hub-signature-256: {secret}"]
        );
        assert_eq!(
            slots(&[("stripe-signature", "t={timestamp},v1={signature}")]),
            ["header stripe-signature: {secret}"]
        );
    }
}
