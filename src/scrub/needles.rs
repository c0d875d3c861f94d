//! The forms in which a secret could come back.

use std::sync::Arc;

use data_encoding::{BASE64_NOPAD, HEXLOWER, HEXUPPER};
use zeroize::Zeroizing;

use super::escapes::{base64_escapes, escapes};
use crate::secret::Secret;

/// All byte strings that must not pass, and what to write in their place. Wiped on drop.
#[derive(Default)]
pub struct Needles(Vec<Needle>);

pub(super) struct Needle {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    pub(super) replacement: Arc<str>,
}

impl Needles {
    /// Adds every usual encoding of `secret`: raw, base64 and base64url at all three alignments,
    /// hex, percent (once and twice), JSON and HTML escapes. The rendered Basic pair is covered by
    /// the base64 alignments, a templated header by the raw form.
    pub fn add(&mut self, secret: &Secret, placeholder: &str) {
        let replacement: Arc<str> = placeholder.into();
        secret.expose(|bytes| {
            self.insert(Zeroizing::new(bytes.to_vec()), &replacement);
            self.insert(Zeroizing::new(HEXLOWER.encode(bytes).into_bytes()), &replacement);
            self.insert(Zeroizing::new(HEXUPPER.encode(bytes).into_bytes()), &replacement);
            for alignment in 0..3 {
                let core = base64_core(bytes, alignment);
                if core.iter().any(|b| b"+/".contains(b)) {
                    self.insert(url_alphabet(&core), &replacement);
                    for form in base64_escapes(&core) {
                        self.insert(form, &replacement);
                    }
                }
                self.insert(core, &replacement);
            }
            for form in escapes(bytes) {
                self.insert(form, &replacement);
            }
        });
    }

    /// Adds a rendered form that has an exact counterpart: base64 of a pair, padded or not.
    pub fn add_rendered(&mut self, wire: &[u8], known: &[u8]) {
        let unpadded = |text: &[u8]| text.iter().rposition(|b| *b != b'=').map_or(0, |at| at + 1);
        for (wire, known) in [(wire, known), (&wire[..unpadded(wire)], &known[..unpadded(known)])] {
            let replacement: Arc<str> = String::from_utf8_lossy(known).into();
            self.insert(Zeroizing::new(wire.to_vec()), &replacement);
        }
    }

    fn insert(&mut self, bytes: Zeroizing<Vec<u8>>, replacement: &Arc<str>) {
        let known = self.0.iter().any(|n| *n.bytes == *bytes);
        // Forms that come to nothing (the core of a two-byte secret) would match everywhere.
        if bytes.len() >= 3 && !known {
            self.0.push(Needle { bytes, replacement: Arc::clone(replacement) });
        }
    }

    pub(super) fn as_slice(&self) -> &[Needle] {
        &self.0
    }

    /// Whether there is nothing to look for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The base64 characters that depend on `bytes` alone when `before` unknown bytes stand in front and
/// anything follows: the first and last characters may mix with the neighbours', and are left out.
fn base64_core(bytes: &[u8], before: usize) -> Zeroizing<Vec<u8>> {
    let mut padded = Zeroizing::new(vec![0; before + bytes.len()]);
    padded[before..].copy_from_slice(bytes);
    let text = Zeroizing::new(BASE64_NOPAD.encode(&padded).into_bytes());
    let first = (before * 8).div_ceil(6);
    let last = padded.len() * 8 / 6;
    Zeroizing::new(text.get(first..last).unwrap_or_default().to_vec())
}

/// The same in the URL-safe alphabet (RFC 4648 section 5).
fn url_alphabet(text: &[u8]) -> Zeroizing<Vec<u8>> {
    let other = |b: &u8| match b {
        b'+' => b'-',
        b'/' => b'_',
        _ => *b,
    };
    Zeroizing::new(text.iter().map(other).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::{BASE64, BASE64URL_NOPAD};

    fn contains(needles: &Needles, text: &[u8]) -> bool {
        needles.0.iter().any(|n| text.windows(n.bytes.len()).any(|w| w == &n.bytes[..]))
    }

    #[test]
    fn every_alignment_of_base64_is_covered() {
        let mut needles = Needles::default();
        needles.add(&Secret::new(b"s3cr3t/+value".to_vec()), "locum_x");
        for before in ["", "u", "us", "user:", "x-access-token:"] {
            for after in ["", "z", "zz", ":zzz"] {
                let text = format!("{before}s3cr3t/+value{after}");
                assert!(contains(&needles, BASE64.encode(text.as_bytes()).as_bytes()), "{text}");
                assert!(contains(&needles, BASE64URL_NOPAD.encode(text.as_bytes()).as_bytes()));
            }
        }
    }

    #[test]
    fn escapes_are_covered() {
        let mut needles = Needles::default();
        needles.add(&Secret::new(b"a/b+c=d".to_vec()), "locum_x");
        for form in ["a%2Fb%2Bc%3Dd", "a\\/b+c=d", "a/b\\u002bc\\u003dd", "612f622b633d64"] {
            assert!(contains(&needles, form.as_bytes()), "{form}");
        }
    }

    #[test]
    fn forms_that_are_alike_are_searched_once() {
        let mut needles = Needles::default();
        needles.add(&Secret::new(b"plainalnum0123".to_vec()), "locum_x");
        // Raw, hex (both cases), base64 at three alignments: nothing else differs.
        assert!(needles.0.len() <= 1 + 2 + 3, "{}", needles.0.len());
    }
}
