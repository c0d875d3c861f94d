//! Signatures with a shared key (HMAC, RFC 2104), of what a provider's own pattern says.

use std::borrow::Cow;
use std::time::Duration;

use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use http::HeaderMap;
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use zeroize::Zeroizing;

use crate::credential::{
    DateForm, Encoding, HmacHash, KeyForm, Pattern, Piece, Signing, Timestamp, Word,
};

/// What is of one request alone.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// The time, since the Unix epoch.
    pub time: Duration,
    /// What no other request has.
    pub nonce: [u8; 16],
}

/// What a signature is of.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The method.
    pub method: &'a str,
    /// As it is sent.
    pub path: &'a str,
    /// As it is sent, without its `?`; none where there is no `?`.
    pub query: Option<&'a str>,
    /// What stands in `Host`.
    pub host: &'a str,
    /// The fields, as they are sent.
    pub headers: &'a HeaderMap,
    /// All of the body.
    pub body: &'a [u8],
}

/// What stands for the words that are of the signature, and not of the request.
pub struct Words<'a> {
    /// How the time is written.
    pub timestamp: Timestamp,
    /// Time and nonce.
    pub stamp: Stamp,
    /// Who signs.
    pub key_id: &'a str,
    /// The second secret.
    pub passphrase: &'a str,
    /// The signature, once there is one.
    pub signature: &'a str,
    /// Patterns that have a name.
    pub parts: &'a [(String, Pattern)],
}

impl Words<'_> {
    /// A pattern filled in. Its memory is wiped.
    #[must_use]
    pub fn fill(&self, pattern: &Pattern, message: &Message<'_>) -> Zeroizing<Vec<u8>> {
        let pieces: Vec<Cow<'_, [u8]>> =
            pattern.pieces().iter().map(|piece| self.piece(piece, message)).collect();
        // Set aside at once, so that no part of a secret is left in a buffer outgrown.
        let mut out = Zeroizing::new(Vec::with_capacity(pieces.iter().map(|p| p.len()).sum()));
        for piece in &pieces {
            out.extend_from_slice(piece);
        }
        out
    }

    fn piece<'p>(&'p self, piece: &'p Piece, message: &Message<'p>) -> Cow<'p, [u8]> {
        let word = match piece {
            Piece::Text(text) => return Cow::Borrowed(text.as_bytes()),
            Piece::Word(word) => word,
        };
        Cow::Borrowed(match word {
            Word::Method => message.method.as_bytes(),
            Word::Path => message.path.as_bytes(),
            Word::Query => message.query.unwrap_or_default().as_bytes(),
            Word::Host => message.host.as_bytes(),
            Word::Body => message.body,
            Word::KeyId => self.key_id.as_bytes(),
            Word::Passphrase => self.passphrase.as_bytes(),
            Word::Signature => self.signature.as_bytes(),
            Word::Header(name) => {
                message.headers.get(name).map_or(&[][..], http::HeaderValue::as_bytes)
            }
            Word::Target => match message.query {
                None => message.path.as_bytes(),
                Some(query) => {
                    return Cow::Owned([message.path, "?", query].concat().into_bytes());
                }
            },
            Word::BodyDigest(hash, encoding) => {
                return Cow::Owned(encode(digest(*hash, message.body), *encoding));
            }
            Word::Form(name) => {
                let value = form_values(message.body, name.as_bytes()).next();
                return Cow::Owned(value.unwrap_or_default());
            }
            Word::Part(name, how) => {
                let part = self.parts.iter().find(|(own, _)| **own == **name);
                let text = part.map(|(_, pattern)| self.fill(pattern, message)).unwrap_or_default();
                return Cow::Owned(match how {
                    Some((hash, encoding)) => encode(digest(*hash, &text), *encoding),
                    None => text.to_vec(),
                });
            }
            Word::Date(form) => return Cow::Owned(self.date(*form).into_bytes()),
            Word::Timestamp => return Cow::Owned(self.time().into_bytes()),
            Word::Nonce => return Cow::Owned(HEXLOWER.encode(&self.stamp.nonce).into_bytes()),
        })
    }

    fn time(&self) -> String {
        let time = self.stamp.time;
        match self.timestamp {
            Timestamp::Seconds => time.as_secs().to_string(),
            Timestamp::Millis => time.as_millis().to_string(),
            Timestamp::Iso => format!("{:.3}", self.moment()),
        }
    }

    fn date(&self, form: DateForm) -> String {
        let form = match form {
            DateForm::Dashed => "%Y-%m-%d",
            DateForm::Compact => "%Y%m%d",
        };
        self.moment().strftime(form).to_string()
    }

    fn moment(&self) -> jiff::Timestamp {
        let millis = i64::try_from(self.stamp.time.as_millis()).unwrap_or(i64::MAX);
        jiff::Timestamp::from_millisecond(millis).unwrap_or_default()
    }
}

/// The key that signs: the vault's, or what is derived of it for this request.
#[must_use]
pub fn signing_key(
    signing: &Signing,
    key: Zeroizing<Vec<u8>>,
    words: &Words<'_>,
    message: &Message<'_>,
) -> Zeroizing<Vec<u8>> {
    let key = match &signing.key_prefix {
        Some(prefix) => Zeroizing::new([prefix.as_bytes(), &key].concat()),
        None => key,
    };
    let next = |key: Zeroizing<Vec<u8>>, pattern: &Pattern| {
        Zeroizing::new(by_hash(signing.hash, &key, &words.fill(pattern, message)))
    };
    signing.derive.iter().fold(key, next)
}

/// The signature of a message, as text.
#[must_use]
pub fn signature(signing: &Signing, key: &[u8], message: &[u8]) -> String {
    let mac = encode(by_hash(signing.hash, key, message), signing.encoding);
    // Of an encoding that is a text: another is no signing's.
    String::from_utf8(mac).unwrap_or_default()
}

fn by_hash(hash: HmacHash, key: &[u8], message: &[u8]) -> Vec<u8> {
    match hash {
        HmacHash::Sha1 => mac::<Hmac<Sha1>>(key, message),
        HmacHash::Sha256 => mac::<Hmac<Sha256>>(key, message),
        HmacHash::Sha384 => mac::<Hmac<Sha384>>(key, message),
        HmacHash::Sha512 => mac::<Hmac<Sha512>>(key, message),
    }
}

fn mac<M: Mac + KeyInit>(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = <M as KeyInit>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn digest(hash: HmacHash, bytes: &[u8]) -> Vec<u8> {
    match hash {
        HmacHash::Sha1 => Sha1::digest(bytes).to_vec(),
        HmacHash::Sha256 => Sha256::digest(bytes).to_vec(),
        HmacHash::Sha384 => Sha384::digest(bytes).to_vec(),
        HmacHash::Sha512 => Sha512::digest(bytes).to_vec(),
    }
}

fn encode(bytes: Vec<u8>, encoding: Encoding) -> Vec<u8> {
    match encoding {
        Encoding::Hex => HEXLOWER.encode(&bytes).into_bytes(),
        Encoding::Base64 => BASE64.encode(&bytes).into_bytes(),
        Encoding::Base64url => BASE64URL_NOPAD.encode(&bytes).into_bytes(),
        Encoding::Raw => bytes,
    }
}

/// All values of one name in a form, decoded.
pub fn form_values<'b>(form: &'b [u8], name: &'b [u8]) -> impl Iterator<Item = Vec<u8>> + 'b {
    let pairs = form.split(|b| *b == b'&').map(|pair| {
        let end = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
        (&pair[..end], pair.get(end + 1..).unwrap_or_default())
    });
    pairs.filter(move |(own, _)| decode(own) == name).map(|(_, value)| decode(value))
}

/// A plus is a space, and the rest is percent-encoded.
fn decode(text: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> = text.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
    percent_encoding::percent_decode(&spaced).collect()
}

/// The bytes of a key; none when it is not written so.
#[must_use]
pub fn key(form: KeyForm, text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let bytes = match form {
        KeyForm::Text => text.as_bytes().to_vec(),
        KeyForm::Hex => HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?,
        KeyForm::Base64 => BASE64_NOPAD.decode(text.trim_end_matches('=').as_bytes()).ok()?,
    };
    (!bytes.is_empty()).then(|| Zeroizing::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signing(hash: HmacHash, encoding: Encoding) -> Signing {
        Signing {
            hash,
            encoding,
            key: KeyForm::Text,
            key_prefix: None,
            derive: Vec::new(),
            parts: Vec::new(),
            message: "{body}".parse().unwrap(),
            timestamp: Timestamp::Seconds,
            key_id: None,
            headers: Vec::new(),
            parameters: Vec::new(),
        }
    }

    /// RFC 4231 section 4.3, and RFC 2202 section 3 for SHA-1.
    #[test]
    fn the_vectors_of_the_rfcs() {
        for (hash, expected) in [
            (HmacHash::Sha1, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
            (HmacHash::Sha256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
            (
                HmacHash::Sha384,
                "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
            ),
            (
                HmacHash::Sha512,
                "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
            ),
        ] {
            let signing = signing(hash, Encoding::Hex);
            assert_eq!(signature(&signing, b"Jefe", b"what do ya want for nothing?"), expected);
        }
    }

    #[test]
    fn each_word_is_what_is_sent() {
        let headers =
            HeaderMap::from_iter([("x-window".parse().unwrap(), "5000".parse().unwrap())]);
        let message = Message {
            method: "POST",
            path: "/a%20b",
            query: Some("q=1&r=%2F"),
            host: "api.test:8443",
            headers: &headers,
            body: b"{}",
        };
        let words = Words {
            timestamp: Timestamp::Iso,
            stamp: Stamp { time: Duration::from_millis(1_700_000_000_007), nonce: [0xab; 16] },
            key_id: "me",
            passphrase: "open",
            signature: "s",
            parts: &[("inner".to_owned(), "{method}\\n{body}".parse().unwrap())],
        };
        let fill = |text: &str| {
            String::from_utf8(words.fill(&text.parse().unwrap(), &message).to_vec()).unwrap()
        };
        assert_eq!(
            fill("{method} {path} {query} {target} {host} {header:x-window}{header:x-none}"),
            "POST /a%20b q=1&r=%2F /a%20b?q=1&r=%2F api.test:8443 5000"
        );
        assert_eq!(fill("{timestamp}"), "2023-11-14T22:13:20.007Z");
        assert_eq!(fill("{key-id}:{passphrase}:{signature}"), "me:open:s");
        assert_eq!(fill("{nonce}"), "ab".repeat(16));
        let empty = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        assert_eq!(fill("{body}\\n{body:sha256:hex}"), format!("{{}}\n{empty}"));
        assert_eq!(fill("{date} {date:compact}"), "2023-11-14 20231114");
        assert_eq!(fill("{part:inner}"), "POST\n{}");
        let bytes = words.fill(&"{path}{part:inner:sha256:raw}".parse().unwrap(), &message);
        assert_eq!(bytes.strip_prefix(b"/a%20b"), Some(&*Sha256::digest("POST\n{}")));
        let form = Message { body: b"a=1&n%6Fnce=x+y%21&b", ..message };
        let value = words.fill(&"{form:nonce}|{form:none}".parse().unwrap(), &form);
        assert_eq!(*value, b"x y!|");
        for (query, target) in [(None, "/a%20b"), (Some(""), "/a%20b?")] {
            let bare = Message { query, ..message };
            let signed = words.fill(&"{target}".parse().unwrap(), &bare);
            assert_eq!(signed.to_vec(), target.as_bytes());
        }
    }

    /// Of the derivation that AWS publishes with Signature Version 4.
    #[test]
    fn a_key_is_derived_step_by_step() {
        let headers = HeaderMap::new();
        let message = Message {
            method: "GET",
            path: "/",
            query: None,
            host: "",
            headers: &headers,
            body: b"",
        };
        let words = Words {
            timestamp: Timestamp::Seconds,
            // 2012-02-15.
            stamp: Stamp { time: Duration::from_hours(369_240), nonce: [0; 16] },
            key_id: "",
            passphrase: "",
            signature: "",
            parts: &[],
        };
        let steps = ["{date:compact}", "us-east-1", "iam", "aws4_request"];
        let signing = Signing {
            key_prefix: Some("AWS4".to_owned()),
            derive: steps.iter().map(|step| step.parse().unwrap()).collect(),
            ..signing(HmacHash::Sha256, Encoding::Hex)
        };
        let key = b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_vec();
        let derived = signing_key(&signing, Zeroizing::new(key), &words, &message);
        assert_eq!(
            HEXLOWER.encode(&derived),
            "f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d"
        );
    }

    #[test]
    fn keys_are_read_in_each_form() {
        let read = |form, text| key(form, text).map(|key| key.to_vec());
        assert_eq!(read(KeyForm::Text, "k y"), Some(b"k y".to_vec()));
        assert_eq!(read(KeyForm::Hex, "0A0b"), Some(vec![10, 11]));
        assert_eq!(read(KeyForm::Base64, "Cgs="), Some(vec![10, 11]));
        assert_eq!(read(KeyForm::Base64, "Cgs"), Some(vec![10, 11]));
        for (form, text) in [(KeyForm::Text, ""), (KeyForm::Hex, "0"), (KeyForm::Base64, "!")] {
            assert_eq!(read(form, text), None, "{text}");
        }
    }
}
