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

use crate::credential::{Encoding, HmacHash, KeyForm, Pattern, Piece, Signing, Timestamp, Word};

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
    /// As it is sent, without its `?`.
    pub query: &'a str,
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
            Word::Query => message.query.as_bytes(),
            Word::Host => message.host.as_bytes(),
            Word::Body => message.body,
            Word::KeyId => self.key_id.as_bytes(),
            Word::Passphrase => self.passphrase.as_bytes(),
            Word::Signature => self.signature.as_bytes(),
            Word::Header(name) => {
                message.headers.get(name).map_or(&[][..], http::HeaderValue::as_bytes)
            }
            Word::Target if message.query.is_empty() => message.path.as_bytes(),
            Word::Target => {
                return Cow::Owned([message.path, "?", message.query].concat().into_bytes());
            }
            Word::BodyDigest(hash, encoding) => {
                return Cow::Owned(encode(&digest(*hash, message.body), *encoding).into_bytes());
            }
            Word::Timestamp => return Cow::Owned(self.time().into_bytes()),
            Word::Nonce => return Cow::Owned(HEXLOWER.encode(&self.stamp.nonce).into_bytes()),
        })
    }

    fn time(&self) -> String {
        let time = self.stamp.time;
        match self.timestamp {
            Timestamp::Seconds => time.as_secs().to_string(),
            Timestamp::Millis => time.as_millis().to_string(),
            Timestamp::Iso => {
                let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
                let moment = jiff::Timestamp::from_millisecond(millis).unwrap_or_default();
                format!("{moment:.3}")
            }
        }
    }
}

/// The signature of a message, as text.
#[must_use]
pub fn signature(signing: &Signing, key: &[u8], message: &[u8]) -> String {
    let mac = match signing.hash {
        HmacHash::Sha1 => mac::<Hmac<Sha1>>(key, message),
        HmacHash::Sha256 => mac::<Hmac<Sha256>>(key, message),
        HmacHash::Sha384 => mac::<Hmac<Sha384>>(key, message),
        HmacHash::Sha512 => mac::<Hmac<Sha512>>(key, message),
    };
    encode(&mac, signing.encoding)
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

fn encode(bytes: &[u8], encoding: Encoding) -> String {
    match encoding {
        Encoding::Hex => HEXLOWER.encode(bytes),
        Encoding::Base64 => BASE64.encode(bytes),
        Encoding::Base64url => BASE64URL_NOPAD.encode(bytes),
    }
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
            query: "q=1&r=%2F",
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
        let bare = Message { query: "", ..message };
        assert_eq!(words.fill(&"{target}".parse().unwrap(), &bare).to_vec(), b"/a%20b");
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
