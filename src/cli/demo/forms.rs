//! The forms in which a key could come back, written down a second time and on their own: what the
//! demo's origin sends, and what is searched for in all that the agent got.
//!
//! The scrubber has its own list. A demo that shared it would prove only that the list is the list.

use std::collections::HashMap;

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};

/// Bytes of a piece that gives a key away: long enough not to turn up by chance in megabytes.
const PIECE: usize = 16;

/// A way of writing bytes.
type Write = fn(&[u8]) -> Vec<u8>;

/// Every form, by the name that the demo prints.
const FORMS: [(&str, Write); 15] = [
    ("raw", <[u8]>::to_vec),
    ("base64", |key| BASE64.encode(key).into_bytes()),
    ("Basic pair", |key| BASE64.encode(&[b"user:", key].concat()).into_bytes()),
    ("base64 in text", |key| BASE64.encode(&[b"{\"k\":\"", key, b"\"}"].concat()).into_bytes()),
    ("base64url", |key| BASE64URL_NOPAD.encode(key).into_bytes()),
    ("hex", |key| HEXLOWER.encode(key).into_bytes()),
    ("HEX", |key| HEXUPPER.encode(key).into_bytes()),
    ("percent", |key| escaped(key, "", |b| format!("%{b:02X}"))),
    ("percent twice", |key| escaped(key, "", |b| format!("%25{b:02X}"))),
    // Python's `quote`, and the segments of a path.
    ("percent but slashes", |key| escaped(key, "/", |b| format!("%{b:02X}"))),
    ("percent in a path", |key| escaped(key, "+=", |b| format!("%{b:02X}"))),
    // PHP and others escape the slash in JSON.
    ("JSON", |key| escaped(key, ".+=~", |b| format!("\\{}", char::from(b)))),
    // What is escaped for a page in JSON; Java's Gson; .NET.
    ("JSON for HTML", |key| escaped(key, "./~", |b| format!("\\u{b:04x}"))),
    ("JSON, = escaped", |key| escaped(key, "./~+", |b| format!("\\u{b:04x}"))),
    ("JSON, + escaped", |key| escaped(key, "./~=", |b| format!("\\u{b:04X}"))),
];

/// Writes letters, digits and `kept` as they are, and the rest by `escape`.
fn escaped(key: &[u8], kept: &str, escape: fn(u8) -> String) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in key {
        if byte.is_ascii_alphanumeric() || kept.as_bytes().contains(byte) || b"-_".contains(byte) {
            out.push(*byte);
        } else {
            out.extend_from_slice(escape(*byte).as_bytes());
        }
    }
    out
}

/// `key` in every form, as an origin would send it.
pub(super) fn write_all(key: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    FORMS.iter().map(|(name, write)| (*name, write(key))).collect()
}

/// The number of forms.
pub(super) const COUNT: usize = FORMS.len();

/// Finds a key in any form, whole or in pieces.
pub(super) struct Search {
    /// Every piece of every form, with a bit for each form that it is a piece of.
    pieces: HashMap<[u8; PIECE], u16>,
}

impl Search {
    /// Searches for `keys`, of which `known` bytes at the start are no secret: the provider's own
    /// prefix, which the placeholder has too.
    pub(super) fn new<'k>(keys: impl IntoIterator<Item = &'k [u8]>, known: usize) -> Self {
        let mut search = Self { pieces: HashMap::new() };
        for key in keys {
            let secret = key.get(known..).unwrap_or_default();
            for (form, (_, text)) in write_all(secret).iter().enumerate() {
                search.add(form, text);
            }
            for (form, text) in aligned(secret) {
                search.add(form, &text);
            }
        }
        search
    }

    fn add(&mut self, form: usize, text: &[u8]) {
        for piece in text.windows(PIECE) {
            if let Ok(piece) = piece.try_into() {
                *self.pieces.entry(piece).or_default() |= 1 << form;
            }
        }
    }

    /// The forms of which something stands in `bytes`.
    pub(super) fn found_in(&self, bytes: &[u8]) -> Vec<&'static str> {
        let pieces = bytes.windows(PIECE).filter_map(|piece| self.pieces.get(piece));
        let found = pieces.fold(0, |all, forms| all | forms);
        let forms = FORMS.iter().enumerate().filter(|(form, _)| found & (1 << form) != 0);
        forms.map(|(_, (name, _))| *name).collect()
    }

    /// Whether there is nothing of any key in `bytes`.
    pub(super) fn is_clean(&self, bytes: &[u8]) -> bool {
        self.found_in(bytes).is_empty()
    }
}

/// Base64 looks different for each of three distances from its start.
fn aligned(secret: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    let form = |wanted| FORMS.iter().position(|(name, _)| *name == wanted).unwrap_or(0);
    let (plain, url) = (form("base64"), form("base64url"));
    (0..3).flat_map(move |before| {
        let text = [&vec![b'x'; before][..], secret].concat();
        // What mixes with a neighbour is cut off.
        let inner = move |text: String| text.into_bytes()[4..].to_vec();
        [(plain, inner(BASE64.encode(&text))), (url, inner(BASE64URL_NOPAD.encode(&text)))]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"sk-proj-0123456789abcdef/ghijklmnopqrstuvwxyz+ABCDEFGHIJKLM=";

    #[test]
    fn every_form_is_found_wherever_it_stands() {
        let search = Search::new([KEY], 8);
        for (name, text) in write_all(KEY) {
            for before in ["", "a", "ab", "abc"] {
                let sent = [before.as_bytes(), &text, b" and so on"].concat();
                assert!(!search.is_clean(&sent), "{name} after `{before}`");
            }
        }
    }

    #[test]
    fn half_a_key_is_found_and_a_placeholder_is_not() {
        let search = Search::new([KEY], 8);
        assert_eq!(search.found_in(&KEY[20..40]).first(), Some(&"raw"));
        assert!(search.is_clean(b"Bearer sk-proj-locum_openai_AAAAAAAAAAAAAAAAAAAAAAAAAAAA"));
    }
}
