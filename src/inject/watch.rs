//! Recognising secrets of the vault in what agents send.
//!
//! An agent that holds a real secret got it from somewhere, and should have a placeholder in its place.
//! Nobody has to hold secrets in the clear to know one: the vault keeps a keyed digest of each, of those
//! that were revoked too, and what is shaped like a token in a request is hashed and looked up.

use std::collections::HashMap;

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::header::{self, HeaderName};
use sha2::Sha256;

use super::{locate, query};
use crate::credential::BasicPart;
use crate::reference::{self, Name};
use crate::request::InboundRequest;

/// What is shorter is no token of any provider, and would cost a hash for each word.
const SHORTEST: usize = 16;

/// The digest that the vault keeps of a secret.
pub type Digest = [u8; 8];

/// What secrets are digested with.
#[derive(Clone)]
pub struct DigestKey(Hmac<Sha256>);

impl DigestKey {
    /// `HMAC[key](label || ...)`, of which the label is over.
    #[must_use]
    #[allow(clippy::missing_panics_doc)] // It takes a key of any length, as its text says.
    pub fn new(key: &[u8; 32], label: &[u8]) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
        mac.update(label);
        Self(mac)
    }

    /// The first eight bytes: two secrets in a vault of thousands, and a string in a life of requests,
    /// do not meet there by chance.
    #[must_use]
    pub fn digest(&self, text: &[u8]) -> Digest {
        let mut mac = self.0.clone();
        mac.update(text);
        let mac: [u8; 32] = mac.finalize().into_bytes().into();
        mac.first_chunk().copied().unwrap_or_default()
    }
}

/// The digests of a workspace's secrets, current and past.
pub struct Watch {
    /// More than one where some are of secrets that were revoked before the vault's keys changed.
    keys: Vec<DigestKey>,
    known: HashMap<Digest, (Name, u32)>,
}

/// A secret that a request carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Whose.
    pub credential: Name,
    /// Which version of it.
    pub version: u32,
    /// Whether it is in the path, which records show.
    pub in_path: bool,
}

/// Fields whose values nobody means for tokens. They come with every request and are long.
const ORDINARY: [HeaderName; 10] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::HOST,
    header::IF_MODIFIED_SINCE,
    header::TRANSFER_ENCODING,
    header::USER_AGENT,
];

impl Watch {
    /// Of digests made with any of `keys`.
    #[must_use]
    pub fn new(keys: Vec<DigestKey>, known: HashMap<Digest, (Name, u32)>) -> Self {
        Self { keys, known }
    }

    /// Looks through fields, query and path. Bodies are not looked at.
    #[must_use]
    pub fn find(&self, request: &InboundRequest) -> Option<Sighting> {
        if self.known.is_empty() {
            return None;
        }
        let fields = request.headers().iter().filter(|(name, _)| !ORDINARY.contains(name));
        let in_fields = fields.map(|(_, value)| value.as_bytes()).find_map(|v| self.in_text(v));
        let in_basic = || self.in_basic(request);
        let in_query = || self.in_query(request.query()?);
        let elsewhere = in_fields.or_else(in_basic).or_else(in_query);
        let found = elsewhere.map(|known| (known, false));
        let found = found.or_else(|| Some((self.in_text(request.path().as_bytes())?, true)));
        found.map(|((credential, version), in_path)| Sighting {
            credential: credential.clone(),
            version: *version,
            in_path,
        })
    }

    /// Whether there is a secret in a text.
    #[must_use]
    pub fn knows(&self, text: &[u8]) -> bool {
        !self.known.is_empty() && self.in_text(text).is_some()
    }

    fn in_basic(&self, request: &InboundRequest) -> Option<&(Name, u32)> {
        let pair = locate::basic_pair(request.headers())?;
        self.in_text(pair.half(BasicPart::Password))
            .or_else(|| self.in_text(pair.half(BasicPart::User)))
    }

    fn in_query(&self, query: &str) -> Option<&(Name, u32)> {
        query::pairs(query).find_map(|pair| self.in_text(pair.value.as_bytes()))
    }

    /// As it is, and without its percent escapes.
    fn in_text(&self, text: &[u8]) -> Option<&(Name, u32)> {
        if text.len() < SHORTEST {
            return None;
        }
        self.in_plain(text).or_else(|| {
            memchr::memchr(b'%', text)?;
            let decoded: Vec<u8> = percent_encoding::percent_decode(text).collect();
            self.in_plain(&decoded)
        })
    }

    fn in_plain(&self, text: &[u8]) -> Option<&(Name, u32)> {
        let text = text.trim_ascii();
        // Passwords have any characters: the value, and what follows a scheme.
        let wholes = [Some(text), memchr::memchr(b' ', text).map(|at| text[at..].trim_ascii())];
        let odd = |whole: &&[u8]| !whole.iter().all(|b| is_of_token(*b));
        let found = wholes.into_iter().flatten().filter(odd).find_map(|whole| self.known(whole));
        found.or_else(|| tokens(text).find_map(|token| self.known(token)))
    }

    fn known(&self, text: &[u8]) -> Option<&(Name, u32)> {
        if text.len() < SHORTEST || reference::occurs(text) {
            return None;
        }
        self.keys.iter().find_map(|key| self.known.get(&key.digest(text)))
    }
}

/// What tokens are made of (RFC 6750 section 2.1 and what providers use), but for `=` at their ends.
fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/')
}

/// The runs of a token's characters, with and without padding, whole and between slashes.
fn tokens(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    let runs = std::iter::from_fn(move || {
        let start = rest.iter().position(|b| is_of_token(*b))?;
        let length = rest[start..].iter().position(|b| !is_of_token(*b));
        let end = length.map_or(rest.len(), |length| start + length);
        let padding = rest[end..].iter().take_while(|b| **b == b'=').count();
        let (run, padded) = (&rest[start..end], &rest[start..end + padding]);
        rest = &rest[end + padding..];
        Some((run, padded))
    });
    runs.filter(|(_, padded)| padded.len() >= SHORTEST).flat_map(|(run, padded)| {
        let padded = (padded.len() > run.len()).then_some(padded);
        let slashed = memchr::memchr(b'/', run).is_some();
        let pieces = run.split(|b| *b == b'/').filter(move |_| slashed);
        std::iter::once(run).chain(padded).chain(pieces)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Authority, Host, Origin, Scheme};
    use http::Request;

    const KEY: &str = "sk-proj-AbC_0123456789.xyz";
    const PASSWORD: &str = "correct horse & battery";
    const BASE64: &str = "QUJD/DEF+0123456789abc==";

    fn watch() -> Watch {
        let key = DigestKey::new(&[7; 32], b"label");
        let name = |name: &str| name.parse::<Name>().unwrap();
        let known = [(KEY, "openai"), (PASSWORD, "mail"), (BASE64, "blob")];
        let known = known.map(|(text, of)| (key.digest(text.as_bytes()), (name(of), 3)));
        Watch::new(vec![key], known.into())
    }

    fn seen(target: &str, fields: &[(&str, &str)]) -> Option<(String, bool)> {
        let authority = Authority { host: Host::parse("api.test").unwrap(), port: 443 };
        let origin = Origin { scheme: Scheme::Https, authority };
        let mut builder = Request::get(target).header("host", "api.test");
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        let (parts, ()) = builder.body(()).unwrap().into_parts();
        let request = InboundRequest::parse(parts, &origin).unwrap();
        let sighting = watch().find(&request)?;
        assert_eq!(sighting.version, 3);
        Some((sighting.credential.to_string(), sighting.in_path))
    }

    #[test]
    fn a_secret_is_known_wherever_it_stands_in_a_head() {
        let basic = |pair: &str| format!("Basic {}", data_encoding::BASE64.encode(pair.as_bytes()));
        for (value, whose) in [
            (format!("Bearer {KEY}"), "openai"),
            (format!("bearer   {KEY} "), "openai"),
            (KEY.to_owned(), "openai"),
            (format!("token={KEY}; path=/"), "openai"),
            (format!("\"{KEY}\", realm=x"), "openai"),
            (format!("https://evil.test/x/{KEY}/y"), "openai"),
            (basic(&format!("user:{KEY}")), "openai"),
            (basic(&format!("{KEY}:")), "openai"),
            (PASSWORD.to_owned(), "mail"),
            (format!("Plain {PASSWORD}"), "mail"),
            (basic(&format!("me:{PASSWORD}")), "mail"),
            ("correct%20horse%20%26%20battery".to_owned(), "mail"),
            (format!("key={BASE64}"), "blob"),
        ] {
            let name = if value.starts_with("Basic") { "authorization" } else { "x-any" };
            let found = seen("/", &[(name, &value)]);
            assert_eq!(found, Some((whose.to_owned(), false)), "{value}");
        }
    }

    #[test]
    fn a_secret_is_known_in_query_and_path() {
        let found = |target: &str| seen(target, &[]).map(|(_, in_path)| in_path);
        assert_eq!(found(&format!("/v1?a=b&key={KEY}&c=d")), Some(false));
        assert_eq!(found("/v1?key=QUJD%2FDEF%2B0123456789abc%3D%3D"), Some(false));
        assert_eq!(found(&format!("/bot/{KEY}/send")), Some(true));
        assert_eq!(found("/a/correct%20horse%20%26%20battery"), None, "not a segment by itself");
    }

    #[test]
    fn what_is_no_secret_passes() {
        for (target, value) in [
            ("/", "Bearer locum_openai"),
            ("/", "sk-proj-locum_openai-0123456789"),
            ("/", "sk-proj-AbC_0123456789.xy"),
            ("/", "sk-proj-AbC_0123456789.xyzz"),
            ("/", "xsk-proj-AbC_0123456789.xyz"),
            ("/v1/chat/completions?x=0123456789012345678", ""),
        ] {
            assert_eq!(seen(target, &[("authorization", value)]), None, "{value}");
        }
        // Where nobody looks, for its cost.
        assert_eq!(seen("/", &[("user-agent", KEY)]), None);
    }
}
