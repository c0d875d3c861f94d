//! Recognising secrets of the vault in what agents send.
//!
//! An agent that holds a real secret got it from somewhere, and should have a placeholder in its place.
//! Nobody has to hold secrets in the clear to know one: the vault keeps a keyed digest of each, of those
//! that were revoked too, and what is shaped like a token in a request is hashed and looked up.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::iter::once;
use std::sync::atomic::{AtomicU64, Ordering};

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::header::{self, HeaderMap};
use sha2::Sha256;

use super::{locate, query, subprotocol};
use crate::agent::Context;
use crate::credential::{BasicPart, Credential, CredentialIndex, Slot};
use crate::host::Origin;
use crate::reference::{self, Name};
use crate::request::{BodyText, InboundRequest, Place};

/// No secret is shorter, but those that were forced in: as short a text is in requests by chance.
const SHORTEST: usize = 8;

/// How many texts are remembered that had no secret in them: 8 KiB for a workspace, and more than the
/// long fields of all its busy agents.
const REMEMBERED: usize = 1024;

/// After how many dots of a token the rest is looked at too: `v1.KEY` is a habit, and a host name long.
const DOTS: usize = 3;

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
    around: Vec<Around>,
    clean: Clean,
}

/// A secret that a request carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Whose.
    pub credential: Name,
    /// Which version of it.
    pub version: u32,
}

impl Sighting {
    fn of((credential, version): &(Name, u32)) -> Self {
        Self { credential: credential.clone(), version: *version }
    }
}

/// What stands around a secret in a slot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Around {
    prefix: Box<str>,
    suffix: Box<str>,
}

impl Around {
    /// That of a slot whose secret has text beside it, but for a scheme, which is taken off anyhow.
    fn of(slot: &Slot) -> Option<Self> {
        let (prefix, suffix) = match slot {
            Slot::Header { template, .. } | Slot::Subprotocol { template } => {
                (template.prefix(), template.suffix())
            }
            Slot::Path { template: Some(template) } => template.around(),
            _ => return None,
        };
        let scheme = prefix.find(' ').is_some_and(|at| at + 1 == prefix.len());
        let none = suffix.is_empty() && (prefix.is_empty() || scheme);
        (!none).then(|| Self { prefix: prefix.into(), suffix: suffix.into() })
    }

    fn take_off<'t>(&self, text: &'t [u8]) -> Option<&'t [u8]> {
        let (prefix, rest) = text.split_at_checked(self.prefix.len())?;
        let inner = rest.strip_suffix(self.suffix.as_bytes())?;
        prefix.eq_ignore_ascii_case(self.prefix.as_bytes()).then(|| inner.trim_ascii())
    }
}

/// Texts that had no secret in them, by a hash that nobody else can make: most requests of a client
/// bring the fields of the one before.
struct Clean {
    hasher: RandomState,
    seen: Box<[AtomicU64]>,
}

impl Clean {
    fn new() -> Self {
        let seen = (0..REMEMBERED).map(|_| AtomicU64::new(0)).collect();
        Self { hasher: RandomState::new(), seen }
    }

    /// What `find` finds in the text, unless it was looked through before and had nothing.
    fn or<T>(&self, text: &[u8], find: impl FnOnce() -> Option<T>) -> Option<T> {
        let hash = self.hasher.hash_one(text);
        let at = usize::try_from(hash % REMEMBERED as u64).unwrap_or_default();
        let place = self.seen.get(at)?;
        if place.load(Ordering::Relaxed) == hash {
            return None;
        }
        let found = find();
        if found.is_none() {
            place.store(hash, Ordering::Relaxed);
        }
        found
    }
}

impl Watch {
    /// Of digests made with any of `keys`, in a workspace with these `credentials`.
    #[must_use]
    pub fn new(
        keys: Vec<DigestKey>,
        known: HashMap<Digest, (Name, u32)>,
        credentials: &[Credential],
    ) -> Self {
        let slots = credentials.iter().flat_map(|credential| &credential.slots);
        let mut around: Vec<_> = slots.filter_map(Around::of).collect();
        around.sort_unstable();
        around.dedup();
        Self { keys, known, around, clean: Clean::new() }
    }

    /// Looks through all that a head has: method, path, query, fields, and what our own fields say.
    #[must_use]
    pub fn find(&self, request: &InboundRequest) -> Option<Sighting> {
        if self.known.is_empty() {
            return None;
        }
        let found = self
            .in_fields(request.headers())
            .or_else(|| self.in_basic(request))
            .or_else(|| self.in_query(request.query()?))
            .or_else(|| self.in_path(request.path()))
            .or_else(|| self.in_text(request.method().as_str().as_bytes()))
            .or_else(|| self.in_context(request.context()));
        found.map(Sighting::of)
    }

    /// Looks through what stands in the fields of a body that a credential which is bound to `origin` enters:
    /// there an agent would write its key. The rest of a body is talk, and nobody looks at it.
    #[must_use]
    pub fn find_in_body(
        &self,
        body: &BodyText,
        origin: &Origin,
        index: &CredentialIndex,
    ) -> Option<Sighting> {
        if self.known.is_empty() {
            return None;
        }
        let slots = index.concerned(origin).flat_map(|bound| &bound.slots);
        let slots: Vec<&Slot> = slots.filter(|slot| body.kind().has(slot)).collect();
        if slots.is_empty() {
            return None;
        }
        let is = |place: &Place| slots.iter().any(|slot| place.is(slot) || place.is_inside(slot));
        let mut found = None;
        body.texts_in(&is, &mut |text| found = found.or_else(|| self.in_text(text)));
        found.map(Sighting::of)
    }

    /// Whether there is a secret in what a record shows of a request, however little of it was read.
    #[must_use]
    pub fn is_in_target(&self, method: &str, path: &str) -> bool {
        !self.known.is_empty()
            && (self.in_path(path).is_some() || self.in_text(method.as_bytes()).is_some())
    }

    /// Whether there is a secret in the name of a host, which records show and resolvers are asked for.
    #[must_use]
    pub fn is_in_host(&self, host: &str) -> bool {
        let mut texts = once(host).chain(host.split('.'));
        !self.known.is_empty() && texts.any(|text| self.in_text(text.as_bytes()).is_some())
    }

    /// Whether there is a secret in what a request or a tunnel says of its run, which records show too.
    #[must_use]
    pub fn is_in_context(&self, context: &Context) -> bool {
        !self.known.is_empty() && self.in_context(context).is_some()
    }

    /// Whether there is a secret in the fields that follow a body.
    #[must_use]
    pub fn is_in_trailers(&self, trailers: &HeaderMap) -> bool {
        !self.known.is_empty() && self.in_fields(trailers).is_some()
    }

    /// Whether there is a secret in a text.
    #[must_use]
    pub fn knows(&self, text: &[u8]) -> bool {
        !self.known.is_empty() && self.in_text(text).is_some()
    }

    /// All but those that are held to what tunnel and framing say.
    fn in_fields(&self, headers: &HeaderMap) -> Option<&(Name, u32)> {
        headers.iter().find_map(|(name, value)| {
            let value = value.as_bytes();
            match *name {
                header::HOST | header::CONTENT_LENGTH => None,
                header::COOKIE => self.in_text(value).or_else(|| self.in_cookies(value)),
                header::SEC_WEBSOCKET_PROTOCOL => {
                    subprotocol::entries(value).find_map(|entry| self.in_text(entry))
                }
                _ => self.in_text(value),
            }
        })
    }

    fn in_basic(&self, request: &InboundRequest) -> Option<&(Name, u32)> {
        let pair = locate::basic_pair(request.headers())?;
        self.in_text(pair.half(BasicPart::Password))
            .or_else(|| self.in_text(pair.half(BasicPart::User)))
    }

    /// Passwords have any characters, so each value is looked at whole.
    fn in_cookies(&self, line: &[u8]) -> Option<&(Name, u32)> {
        line.split(|b| *b == b';').find_map(|cookie| {
            let behind = |b: u8| memchr::memchr(b, cookie).map(|at| &cookie[at + 1..]);
            [behind(b'='), behind(b':')].into_iter().flatten().find_map(|v| self.in_text(v))
        })
    }

    fn in_query(&self, query: &str) -> Option<&(Name, u32)> {
        query::pairs(query).find_map(|pair| {
            self.in_text(pair.value.as_bytes()).or_else(|| self.in_text(pair.name.as_bytes()))
        })
    }

    /// As a whole, because some tokens have slashes, and each segment by itself.
    fn in_path(&self, path: &str) -> Option<&(Name, u32)> {
        let in_segment = |segment: &str| self.in_text(segment.as_bytes());
        self.in_text(path.as_bytes()).or_else(|| path.split('/').find_map(in_segment))
    }

    fn in_context(&self, context: &Context) -> Option<&(Name, u32)> {
        let labels = [&context.run, &context.node, &context.user];
        labels.into_iter().flatten().find_map(|label| self.in_text(label.as_str().as_bytes()))
    }

    /// As it is, and without its percent escapes.
    fn in_text(&self, text: &[u8]) -> Option<&(Name, u32)> {
        if text.len() < SHORTEST {
            return None;
        }
        self.clean.or(text, || {
            self.in_plain(text).or_else(|| {
                memchr::memchr(b'%', text)?;
                let decoded: Vec<u8> = percent_encoding::percent_decode(text).collect();
                self.in_plain(&decoded)
            })
        })
    }

    fn in_plain(&self, text: &[u8]) -> Option<&(Name, u32)> {
        let text = text.trim_ascii();
        // Passwords have any characters: the value, and what follows a scheme.
        let wholes = [Some(text), memchr::memchr(b' ', text).map(|at| text[at..].trim_ascii())];
        let odd = |whole: &&[u8]| !whole.iter().all(|b| is_of_token(*b));
        let found = wholes.into_iter().flatten().filter(odd).find_map(|whole| self.known(whole));
        found.or_else(|| tokens(text).find_map(|token| self.in_token(token)))
    }

    /// The token, and what follows its first dots.
    fn in_token(&self, token: &[u8]) -> Option<&(Name, u32)> {
        self.known(token).or_else(|| {
            let dots = memchr::memchr_iter(b'.', token).take(DOTS);
            dots.map(|at| &token[at + 1..]).find_map(|rest| self.known(rest))
        })
    }

    /// As it is, and without what a slot has around its secret.
    fn known(&self, text: &[u8]) -> Option<&(Name, u32)> {
        let inner = self.around.iter().filter_map(|around| around.take_off(text));
        let mut texts = std::iter::once(text).chain(inner);
        texts.find_map(|text| {
            if text.len() < SHORTEST || reference::occurs(text) {
                return None;
            }
            self.keys.iter().find_map(|key| self.known.get(&key.digest(text)))
        })
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
    use crate::credential::tests::credential;
    use crate::host::{Authority, Host, Origin, Scheme};
    use http::Request;

    const KEY: &str = "sk-proj-AbC_0123456789.xyz";
    const PASSWORD: &str = "correct horse & battery";
    const BASE64: &str = "QUJD/DEF+0123456789abc==";
    const BOT: &str = "123456789:AAHfiqksKZ8WmR2zSjiQ7";

    fn watch() -> Watch {
        let key = DigestKey::new(&[7; 32], b"label");
        let name = |name: &str| name.parse::<Name>().unwrap();
        let known = [(KEY, "openai"), (PASSWORD, "mail"), (BASE64, "blob"), (BOT, "bot")];
        let known = known.map(|(text, of)| (key.digest(text.as_bytes()), (name(of), 3)));
        let slots = [
            "path /bot{secret}/**",
            "header x-auth: Token token=\"{secret}\"",
            "subprotocol key-{secret}-end",
        ];
        let bot = credential("bot", &["https://api.test"], &slots);
        Watch::new(vec![key], known.into(), &[bot])
    }

    fn parsed(target: &str, fields: &[(&str, &str)]) -> InboundRequest {
        let authority = Authority { host: Host::parse("api.test").unwrap(), port: 443 };
        let origin = Origin { scheme: Scheme::Https, authority };
        let mut builder = Request::get(target).header("host", "api.test");
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        let (parts, ()) = builder.body(()).unwrap().into_parts();
        InboundRequest::parse(parts, &origin).unwrap()
    }

    fn seen(target: &str, fields: &[(&str, &str)]) -> Option<String> {
        let (watch, request) = (watch(), parsed(target, fields));
        let sighting = watch.find(&request);
        // What has a secret in it is not remembered as clean.
        assert_eq!(sighting, watch.find(&request));
        let sighting = sighting?;
        assert_eq!(sighting.version, 3);
        Some(sighting.credential.to_string())
    }

    #[test]
    fn a_secret_is_known_wherever_it_stands_in_a_head() {
        let basic = |pair: &str| format!("Basic {}", data_encoding::BASE64.encode(pair.as_bytes()));
        for (name, value, whose) in [
            ("x-any", format!("Bearer {KEY}"), "openai"),
            ("x-any", format!("bearer   {KEY} "), "openai"),
            ("x-any", KEY.to_owned(), "openai"),
            ("x-any", format!("token={KEY}; path=/"), "openai"),
            ("x-any", format!("\"{KEY}\", realm=x"), "openai"),
            ("x-any", format!("https://evil.test/x/{KEY}/y"), "openai"),
            ("x-any", format!("v1.{KEY}"), "openai"),
            ("authorization", basic(&format!("user:{KEY}")), "openai"),
            ("authorization", basic(&format!("{KEY}:")), "openai"),
            ("x-any", PASSWORD.to_owned(), "mail"),
            ("x-any", format!("Plain {PASSWORD}"), "mail"),
            ("authorization", basic(&format!("me:{PASSWORD}")), "mail"),
            ("x-any", "correct%20horse%20%26%20battery".to_owned(), "mail"),
            ("x-any", format!("key={BASE64}"), "blob"),
            ("user-agent", format!("curl/8 ({KEY})"), "openai"),
            ("accept", format!("text/{KEY}"), "openai"),
            ("accept-language", KEY.to_owned(), "openai"),
            ("content-type", format!("a/{KEY}"), "openai"),
            ("if-modified-since", KEY.to_owned(), "openai"),
            ("cookie", format!("a=1; k={PASSWORD}; z=2"), "mail"),
            ("cookie", format!("k={BOT}"), "bot"),
            ("x-auth", format!("Token token=\"{BOT}\""), "bot"),
            ("locum-run", KEY.to_owned(), "openai"),
            ("locum-node", KEY.to_owned(), "openai"),
            ("locum-user", KEY.to_owned(), "openai"),
        ] {
            assert_eq!(seen("/", &[(name, &value)]).as_deref(), Some(whose), "{name}: {value}");
        }
        // Of a handshake, and of trailers, too.
        for value in [format!("chat, key-{KEY}-end"), format!("k.{KEY}"), format!("chat,{KEY}")] {
            let mut fields = HeaderMap::new();
            fields.insert(header::SEC_WEBSOCKET_PROTOCOL, value.parse().unwrap());
            assert!(watch().is_in_trailers(&fields), "{value}");
        }
    }

    #[test]
    fn a_secret_is_known_in_query_and_path() {
        for (target, whose, shown) in [
            (format!("/v1?a=b&key={KEY}&c=d"), "openai", false),
            (format!("/v1?{KEY}"), "openai", false),
            (format!("/v1?{KEY}=1"), "openai", false),
            ("/v1?key=QUJD%2FDEF%2B0123456789abc%3D%3D".to_owned(), "blob", false),
            (format!("/bot/{KEY}/send"), "openai", true),
            (format!("/bot{KEY}/send"), "openai", true),
            (format!("/bot{BOT}/getMe"), "bot", true),
            (format!("/bot{}/getMe", BOT.replace(':', "%3A")), "bot", true),
            ("/a/correct%20horse%20%26%20battery".to_owned(), "mail", true),
        ] {
            assert_eq!(seen(&target, &[]).as_deref(), Some(whose), "{target}");
            let path = target.split('?').next().unwrap_or_default();
            assert_eq!(watch().is_in_target("GET", path), shown, "{target}");
        }
        assert!(watch().is_in_target(KEY, "/"));
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
    }

    /// Much more than is remembered, so that each place is taken again and again.
    #[test]
    fn what_is_remembered_as_clean_hides_nothing() {
        let watch = watch();
        for number in 0..5 * REMEMBERED {
            let text = format!("Mozilla/5.0 (X11; Linux x86_64) number {number}");
            assert!(!watch.knows(text.as_bytes()));
            assert!(watch.knows(format!("{text} {KEY}").as_bytes()), "{number}");
        }
    }
}
