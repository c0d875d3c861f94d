//! The forms in which a secret could come back.

use std::collections::HashSet;
use std::hash::BuildHasher as _;
use std::ops::Range;
use std::sync::Arc;

use data_encoding::{BASE64_NOPAD, HEXLOWER};

use super::escapes::{base64_escapes, escapes, is_plain};
use crate::secret::{Secret, wipe};

/// All byte strings that must not pass, and what to write in their place. Made for each request and
/// wiped with it, so all forms share one buffer; and made late, because most texts can be seen to
/// hold none of them ([`Outline`]).
#[derive(Default)]
pub struct Needles {
    /// Secrets of which no form was made so far.
    late: Vec<Late>,
    text: Arena,
    places: Vec<Place>,
    /// The secrets, and what they became in their slots, as they are: what [`Listing`](super::listed::Listing)
    /// knows in notations of which no form is made.
    texts: Vec<Place>,
    /// Hashes of the forms, by which another one is known without a look at each. Keyed, and of nobody
    /// else's use.
    hashes: HashSet<u64>,
}

/// What is known of needles before they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outline {
    /// None is shorter.
    pub(super) shortest: usize,
    /// None has other bytes than letters, digits and those of [`is_of_forms`], but for lists of numbers,
    /// which are of [`is_of_lists`](super::listed::is_of_lists) and no shorter than
    /// [`shortest_list`](super::listed::shortest_list).
    pub(super) plain: bool,
}

/// Whether the byte can stand in a form of a secret that nobody escapes: in itself, in hex, in base64
/// with its padding, in what URLs and JSON make of base64, and in any of them spelled out.
pub(super) fn is_of_forms(byte: u8) -> bool {
    const OTHERS: &[u8] = b"+/=%\\&#;{}\r\n\0";
    is_plain(byte) || OTHERS.contains(&byte)
}

/// What will have forms, if any text may hold one.
enum Late {
    /// A secret, and what takes its place.
    Value(Secret, Arc<str>),
    /// The text that a secret became in its slot, what the client would have written there, and what
    /// takes the place of all other forms.
    Rendered { wire: Secret, known: Vec<u8>, placeholder: Arc<str> },
}

impl Late {
    fn outline(&self) -> Outline {
        let (text, padding) = match self {
            Self::Value(text, _) => (text, 0),
            // Its forms are made of what stands before the padding.
            Self::Rendered { wire, .. } => (wire, wire.expose(|wire| wire.len() - unpadded(wire))),
        };
        // Base64 is made of three characters whose escapes are of these bytes too.
        let of_base64 = |b: u8| matches!(self, Self::Rendered { .. }) && b"+/=".contains(&b);
        let length = text.len() - padding;
        Outline {
            // Of three bytes or more no form is shorter than the text itself.
            shortest: if length < 3 { 1 } else { length },
            plain: text.expose(|bytes| bytes.iter().all(|b| is_plain(*b) || of_base64(*b))),
        }
    }
}

/// How long a text is without the padding of base64.
fn unpadded(text: &[u8]) -> usize {
    text.iter().rposition(|b| *b != b'=').map_or(0, |at| at + 1)
}

/// Where in the text a form and its replacement are.
struct Place {
    form: Range<usize>,
    replacement: Range<usize>,
}

/// One form and what takes its place.
#[derive(Clone, Copy)]
pub(super) struct Needle<'n> {
    pub(super) bytes: &'n [u8],
    pub(super) replacement: &'n [u8],
}

/// How many forms nearly all secrets have: raw, hex in two cases, base64 at three alignments.
const USUAL_FORMS: usize = 6;

impl Needles {
    /// The same as [`Self::add`], for a secret that nobody else needs any more.
    pub(crate) fn add_late(&mut self, secret: Secret, placeholder: &Arc<str>) {
        self.late.push(Late::Value(secret, Arc::clone(placeholder)));
    }

    /// Makes the forms of what was added late.
    pub(super) fn complete(&mut self) {
        for late in std::mem::take(&mut self.late) {
            match late {
                Late::Value(secret, placeholder) => self.add(&secret, &placeholder),
                Late::Rendered { wire, known, placeholder } => {
                    self.add_wire(&wire, &known, &placeholder);
                }
            }
        }
    }

    pub(super) fn outline(&self) -> Outline {
        let made = self.iter().map(|needle| Outline {
            shortest: needle.bytes.len(),
            plain: needle.bytes.iter().all(|b| is_of_forms(*b)),
        });
        let late = self.late.iter().map(Late::outline);
        made.chain(late).fold(Outline { shortest: usize::MAX, plain: true }, |all, one| Outline {
            shortest: all.shortest.min(one.shortest),
            plain: all.plain && one.plain,
        })
    }

    /// Adds every usual encoding of `secret`: raw, base64 and base64url at all three alignments,
    /// hex, percent (once and twice), JSON and HTML escapes as encoders write them. A
    /// Basic pair is covered by the base64 alignments, a templated header by the raw form; a pair that
    /// was encoded once more is [`Self::add_rendered`]'s.
    pub fn add(&mut self, secret: &Secret, placeholder: &str) {
        let replacement = self.text.append(placeholder.as_bytes());
        secret.expose(|bytes| self.add_forms(bytes, &replacement, &replacement));
    }

    /// The same for the text that a secret became in its slot, where it is no part of the secret's own
    /// forms: an origin that shows its request in base64 or hex shows an encoding of just this text.
    /// `known` takes its place where it stands as it was sent, padded or not, because that has an exact
    /// counterpart in what the client wrote.
    pub fn add_rendered(&mut self, wire: &[u8], known: &[u8], placeholder: &Arc<str>) {
        let wire = Secret::new(wire.to_vec());
        let placeholder = Arc::clone(placeholder);
        self.late.push(Late::Rendered { wire, known: known.to_vec(), placeholder });
    }

    fn add_wire(&mut self, wire: &Secret, known: &[u8], placeholder: &str) {
        let placeholder = self.text.append(placeholder.as_bytes());
        wire.expose(|wire| {
            let whole = self.text.append(known);
            let bare = whole.start..whole.start + unpadded(known);
            self.insert(wire, &whole);
            self.add_forms(&wire[..unpadded(wire)], &bare, &placeholder);
        });
    }

    /// Every encoding of `bytes`; `known` takes the place of the bytes themselves.
    fn add_forms(&mut self, bytes: &[u8], known: &Range<usize>, replacement: &Range<usize>) {
        self.places.reserve(USUAL_FORMS);
        self.hashes.reserve(USUAL_FORMS);
        // The usual forms in full: each base64 is made with what is cut off at its ends.
        self.text.reserve(10 * bytes.len() + 32);
        // In front of the raw form, so that base64 can be made of it at each alignment.
        self.text.append(&[0; 2]);
        let raw = self.text.append(bytes);
        self.keep(raw.clone(), known);
        if bytes.len() >= 3 && !self.texts().any(|text| text.bytes == bytes) {
            self.texts.push(Place { form: raw.clone(), replacement: replacement.clone() });
        }
        self.add_hex(&raw, replacement);
        for alignment in 0..3 {
            self.add_base64(&raw, alignment, replacement);
        }
        for form in escapes(bytes) {
            self.insert(&form, replacement);
        }
    }

    fn add_hex(&mut self, raw: &Range<usize>, replacement: &Range<usize>) {
        let lower = self.text.grow(2 * raw.len());
        let (known, out) = self.text.bytes.split_at_mut(lower.start);
        HEXLOWER.encode_mut(&known[raw.clone()], out);
        let upper = self.text.append_own(lower.clone());
        self.text.bytes[upper.clone()].make_ascii_uppercase();
        for form in [lower, upper] {
            self.keep(form, replacement);
        }
    }

    /// The base64 characters that depend on the secret alone when `before` unknown bytes stand in
    /// front and anything follows: the first and last characters may mix with the neighbours', and
    /// are left out.
    fn add_base64(&mut self, raw: &Range<usize>, before: usize, replacement: &Range<usize>) {
        let padded = raw.start - before..raw.end;
        let first = (before * 8).div_ceil(6);
        let last = padded.len() * 8 / 6;
        let whole = self.text.grow(BASE64_NOPAD.encode_len(padded.len()));
        let (known, out) = self.text.bytes.split_at_mut(whole.start);
        BASE64_NOPAD.encode_mut(&known[padded], out);
        if first >= last {
            return;
        }
        let core = whole.start + first..whole.start + last;
        if memchr::memchr2(b'+', b'/', &self.text.bytes[core.clone()]).is_some() {
            self.add_escaped(core.clone(), replacement);
        }
        self.keep(core, replacement);
    }

    /// The URL-safe alphabet (RFC 4648 section 5), and what URLs and JSON make of the other one.
    fn add_escaped(&mut self, core: Range<usize>, replacement: &Range<usize>) {
        let escaped = base64_escapes(&self.text.bytes[core.clone()]);
        let url = self.text.append_own(core);
        for byte in &mut self.text.bytes[url.clone()] {
            match *byte {
                b'+' => *byte = b'-',
                b'/' => *byte = b'_',
                _ => {}
            }
        }
        self.keep(url, replacement);
        for form in escaped {
            self.insert(&form, replacement);
        }
    }

    fn insert(&mut self, form: &[u8], replacement: &Range<usize>) {
        let form = self.text.append(form);
        self.keep(form, replacement);
    }

    /// Makes a needle of a text that is there, unless it is one.
    fn keep(&mut self, form: Range<usize>, replacement: &Range<usize>) {
        let bytes = &self.text.bytes[form.clone()];
        // Forms that come to nothing (the core of a two-byte secret) would match everywhere.
        if bytes.len() < 3 {
            return;
        }
        let is_new = self.hashes.insert(self.hashes.hasher().hash_one(bytes));
        if is_new || !self.iter().any(|n| n.bytes == bytes) {
            self.places.push(Place { form, replacement: replacement.clone() });
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Needle<'_>> {
        self.places.iter().map(|place| self.at(place))
    }

    /// The texts that the forms were made of.
    pub(super) fn texts(&self) -> impl Iterator<Item = Needle<'_>> {
        self.texts.iter().map(|place| self.at(place))
    }

    fn at(&self, place: &Place) -> Needle<'_> {
        Needle {
            bytes: &self.text.bytes[place.form.clone()],
            replacement: &self.text.bytes[place.replacement.clone()],
        }
    }

    /// Whether there is nothing to look for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty() && self.late.is_empty()
    }
}

/// A text that only grows, and leaves nothing behind: neither where it grew from, nor at its end.
#[derive(Default)]
struct Arena {
    bytes: Vec<u8>,
}

impl Arena {
    fn reserve(&mut self, more: usize) {
        let needed = self.bytes.len() + more;
        if needed > self.bytes.capacity() {
            let mut larger = Vec::with_capacity(needed.max(2 * self.bytes.capacity()));
            larger.extend_from_slice(&self.bytes);
            wipe(&mut self.bytes);
            self.bytes = larger;
        }
    }

    fn grow(&mut self, more: usize) -> Range<usize> {
        self.reserve(more);
        let start = self.bytes.len();
        self.bytes.resize(start + more, 0);
        start..start + more
    }

    fn append(&mut self, text: &[u8]) -> Range<usize> {
        self.reserve(text.len());
        let start = self.bytes.len();
        self.bytes.extend_from_slice(text);
        start..self.bytes.len()
    }

    fn append_own(&mut self, from: Range<usize>) -> Range<usize> {
        self.reserve(from.len());
        let start = self.bytes.len();
        self.bytes.extend_from_within(from);
        start..self.bytes.len()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        wipe(&mut self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::{BASE64, BASE64URL_NOPAD};
    use proptest::prelude::*;

    fn contains(needles: &Needles, text: &[u8]) -> bool {
        needles.iter().any(|n| text.windows(n.bytes.len()).any(|w| w == n.bytes))
    }

    #[test]
    fn a_form_of_two_secrets_is_one_needle_and_the_first_ones() {
        let mut needles = Needles::default();
        for (secret, placeholder) in [("s3cr3t-of-a", "locum_a"), ("s3cr3t-of-b", "locum_b")] {
            needles.add(&Secret::new(secret.into()), placeholder);
        }
        let forms = needles.places.len();
        needles.add(&Secret::new(b"s3cr3t-of-a".to_vec()), "locum_c");
        assert_eq!(needles.places.len(), forms);
        // One look tells: none of them was compared with all the others.
        assert_eq!(needles.hashes.len(), forms);
        let found = needles.iter().find(|n| n.bytes == b"s3cr3t-of-a").unwrap();
        assert_eq!(found.replacement, b"locum_a");
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

    /// What an origin shows of its own request: the slot's text, encoded as a whole.
    #[test]
    fn what_a_slot_made_of_a_secret_is_covered_in_every_encoding() {
        use data_encoding::HEXUPPER;
        let pair = BASE64.encode(b"robot1:P@ss/w0rd+q\"x&y<z~longer");
        for wire in [&*pair, "P%40ss%2Fw0rd%2Bq%22x", "P@ss/w0rd+q\\\"x&y<z~longer"] {
            let mut needles = Needles::default();
            needles.add_rendered(wire.as_bytes(), b"cm9ib3Q6bG9jdW1feA==", &"locum_x".into());
            needles.complete();
            assert!(
                needles.texts().any(|text| text.bytes == wire.trim_end_matches('=').as_bytes())
            );
            for before in ["", "u", "us", "Authorization: Basic "] {
                let text = format!("{before}{wire}\r\nHost: x");
                for form in [
                    text.clone(),
                    BASE64.encode(text.as_bytes()),
                    BASE64URL_NOPAD.encode(text.as_bytes()),
                    HEXLOWER.encode(text.as_bytes()),
                    HEXUPPER.encode(text.as_bytes()),
                ] {
                    assert!(contains(&needles, form.as_bytes()), "{form}");
                }
            }
        }
        let mut needles = Needles::default();
        needles.add_rendered(pair.as_bytes(), b"cm9ib3Q6bG9jdW1feA==", &"locum_x".into());
        needles.complete();
        let known = |form: &str| {
            let found = needles.iter().find(|needle| needle.bytes == form.as_bytes());
            found.map(|needle| String::from_utf8_lossy(needle.replacement).into_owned())
        };
        assert_eq!(known(&pair).as_deref(), Some("cm9ib3Q6bG9jdW1feA=="));
        let in_url = pair.trim_end_matches('=').replace('+', "%2B").replace('/', "%2F");
        assert!(known(&in_url).is_some(), "{in_url}");
        let bare = known(pair.trim_end_matches('='));
        assert_eq!(bare.as_deref(), Some("cm9ib3Q6bG9jdW1feA"));
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
        assert!(needles.iter().count() <= 1 + 2 + 3, "{}", needles.iter().count());
    }

    /// The forms as they were made one by one, each from its own definition.
    #[test]
    fn the_forms_are_what_their_definitions_say() {
        use data_encoding::{BASE64_NOPAD, HEXUPPER};
        for secret in
            [&b"sk-proj-0123456789"[..], b"a?b>c~d??>>", b"abc", b"ab", b"\xff\xfe\xfd\xfc"]
        {
            let mut needles = Needles::default();
            needles.add(&Secret::new(secret.to_vec()), "locum_x");
            let mut expected = vec![
                secret.to_vec(),
                HEXLOWER.encode(secret).into_bytes(),
                HEXUPPER.encode(secret).into_bytes(),
            ];
            for before in 0..3 {
                let padded = [&vec![0; before], secret].concat();
                let text = BASE64_NOPAD.encode(&padded).into_bytes();
                let core = text.get((before * 8).div_ceil(6)..padded.len() * 8 / 6);
                expected.push(core.unwrap_or_default().to_vec());
            }
            for form in expected.iter().filter(|form| form.len() >= 3) {
                assert!(needles.iter().any(|n| n.bytes == form), "{}", form.escape_ascii());
            }
            for needle in needles.iter() {
                assert_eq!(needle.replacement, b"locum_x");
                let bytes = needle.bytes;
                assert_eq!(needles.iter().filter(|n| n.bytes == bytes).count(), 1);
            }
        }
    }

    proptest! {
        /// What is said of needles before they are made is true of all that are made.
        #[test]
        fn the_outline_bounds_every_form(
            secrets in prop::collection::vec(
                prop_oneof![
                    "[A-Za-z0-9._-]{0,80}".prop_map(String::into_bytes),
                    "[ -~]{1,30}".prop_map(String::into_bytes),
                    prop::collection::vec(any::<u8>(), 0..30),
                ],
                1..3,
            ),
            rendered in any::<bool>(),
        ) {
            let mut needles = Needles::default();
            if rendered {
                let wire = BASE64.encode(&[b"user:", &secrets[0][..]].concat());
                needles.add_rendered(wire.as_bytes(), b"known", &"locum_x".into());
            }
            for secret in &secrets {
                needles.add_late(Secret::new(secret.clone()), &"locum_x".into());
            }
            let Outline { shortest, plain } = needles.outline();
            needles.complete();
            for needle in needles.iter() {
                prop_assert!(needle.bytes.len() >= shortest);
                prop_assert!(!plain || needle.bytes.iter().all(|b| is_of_forms(*b)));
            }
            let nobody_escapes = secrets.iter().flatten().all(|b| is_plain(*b));
            prop_assert_eq!(plain, nobody_escapes);
        }
    }
}
