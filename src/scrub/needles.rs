//! The forms in which a secret could come back.

use std::sync::Arc;

use data_encoding::{BASE64_NOPAD, HEXLOWER, HEXUPPER};
use zeroize::Zeroizing;

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
            // Most keys have nothing in them that anyone escapes.
            if !bytes.iter().all(|b| is_unreserved(*b)) {
                for form in escapes(bytes) {
                    self.insert(form, &replacement);
                }
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

/// What URLs and JSON make of the two characters of base64 that they may escape.
fn base64_escapes(core: &[u8]) -> [Zeroizing<Vec<u8>>; 5] {
    [("%2B", "%2F"), ("%2b", "%2f"), ("%2B", "/"), ("+", "\\/"), ("\\u002B", "/")].map(
        |(plus, slash)| {
            map_bytes(core, |b, out| match b {
                b'+' => out.extend_from_slice(plus.as_bytes()),
                b'/' => out.extend_from_slice(slash.as_bytes()),
                _ => out.push(b),
            })
        },
    )
}

/// What neither URLs nor JSON nor HTML escapes (RFC 3986 section 2.3).
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// What encoders of URLs leave bare beside the unreserved characters. No two libraries agree, and an
/// echo is as likely from one as from another.
const URL_BARE: &[&[u8]] = &[
    b"",                          // RFC 3986, strictly; form encoding
    b"/",                         // Python's `quote`
    b"!'()*",                     // JavaScript's `encodeURIComponent`
    b"*",                         // Java's `URLEncoder`, browsers' forms
    b"!",                         // Ruby, PHP frameworks
    b"$&+:=@",                    // Go's `PathEscape`
    b"$&+,/:;=@",                 // Go's `URL.EscapedPath`
    b"!$&'()*+,;=:@",             // RFC 3986, a path segment
    b"!$&'()*+,;=:@/",            // RFC 3986, a path
    b"!$'()*,;:@/?",              // RFC 3986, a query's value
    b"!$'()*+,;:@/?=",            // the same, with the plus and the equals sign left
    b";,/?:@&=+$#!'()*",          // JavaScript's `encodeURI`
    b"!$%&'()*+,/:;=?@[\\]^`{|}", // browsers, a query
    b"!$%&'()*+,/:;=@[\\]^|",     // browsers, a path
];

/// What encoders of JSON write as `\u00XX`, beside what must be escaped.
const JSON_ESCAPED: &[&[u8]] = &[
    b"<>&",      // Go, Rails
    b"<>&'=",    // Gson
    b"<>&'+=",   // the sum of them
    b"\"<>&'+`", // .NET
    b"<>&'\"",   // PHP with all its JSON_HEX flags
    b"<>&/",     // for `</script>`
    b"<>",
    b"/",
    b"'",
];

/// One way to write a text into HTML: which characters, and as what.
type Entities = &'static [(u8, &'static str)];

/// What encoders of HTML write. The first ones stand in each of the lists.
const HTML: &[Entities] = &[
    &[(b'"', "&quot;"), (b'\'', "&#39;")],
    &[(b'"', "&quot;"), (b'\'', "&#x27;")],
    &[(b'"', "&quot;"), (b'\'', "&#039;")],
    &[(b'"', "&quot;"), (b'\'', "&apos;")],
    &[(b'"', "&quot;")],
    &[],
    &[(b'"', "&#34;"), (b'\'', "&#x27;")],
    &[(b'"', "&#34;"), (b'\'', "&#39;")],
    // Go's templates.
    &[(b'"', "&#34;"), (b'\'', "&#39;"), (b'+', "&#43;")],
    // OWASP's advice.
    &[(b'"', "&quot;"), (b'\'', "&#x27;"), (b'/', "&#x2F;")],
    // Mustache and Handlebars.
    &[(b'"', "&quot;"), (b'\'', "&#39;"), (b'/', "&#x2F;"), (b'`', "&#x60;"), (b'=', "&#x3D;")],
    &[(b'"', "&quot;"), (b'\'', "&#x27;"), (b'`', "&#x60;"), (b'=', "&#x3D;")],
    // .NET.
    &[(b'"', "&quot;"), (b'\'', "&#x27;"), (b'+', "&#x2B;"), (b'`', "&#x60;")],
];

const HTML_ALWAYS: Entities = &[(b'&', "&amp;"), (b'<', "&lt;"), (b'>', "&gt;")];

/// The escaped forms, where they differ from the raw one. Forms that come out alike are searched
/// once, so that a secret with few special characters has few of them.
fn escapes(bytes: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut forms = Vec::new();
    for bare in unlike(URL_BARE, bytes) {
        for (escape, hex, space) in [
            ("%", upper as fn(u8) -> [u8; 2], false),
            ("%", lower, false),
            ("%25", upper, false),
            ("%25", lower, false),
            ("%", upper, true),
            ("%", lower, true),
        ] {
            // In forms, a space is a plus (and a plus is escaped).
            if space && (bare.contains(&b'+') || !bytes.contains(&b' ')) {
                continue;
            }
            forms.push(map_bytes(bytes, |b, out| {
                if is_unreserved(b) || bare.contains(&b) {
                    out.push(b);
                } else if space && b == b' ' {
                    out.push(b'+');
                } else {
                    out.extend_from_slice(escape.as_bytes());
                    out.extend_from_slice(&hex(b));
                }
            }));
        }
    }
    let must = |b| matches!(b, b'"' | b'\\');
    let backslash = |also: Option<u8>| {
        map_bytes(bytes, |b, out| {
            if must(b) || also == Some(b) {
                out.push(b'\\');
            }
            out.push(b);
        })
    };
    forms.push(backslash(None));
    // `</script>` again, and what shells and programming languages do (RFC 8259 section 7).
    forms.push(backslash(Some(b'/')));
    forms.push(backslash(Some(b'\'')));
    for escaped in unlike(JSON_ESCAPED, bytes) {
        for hex in [upper as fn(u8) -> [u8; 2], lower] {
            forms.push(map_bytes(bytes, |b, out| {
                if escaped.contains(&b) {
                    out.extend_from_slice(b"\\u00");
                    out.extend_from_slice(&hex(b));
                } else {
                    if must(b) {
                        out.push(b'\\');
                    }
                    out.push(b);
                }
            }));
        }
    }
    for entities in HTML {
        let known = |b| HTML_ALWAYS.iter().chain(*entities).find(|(from, _)| *from == b);
        forms.push(map_bytes(bytes, |b, out| match known(b) {
            Some((_, entity)) => out.extend_from_slice(entity.as_bytes()),
            None => out.push(b),
        }));
    }
    forms
}

/// The lists that treat `bytes` differently from all before them. Most secrets have few characters
/// that any encoder minds, and then few lists are left.
fn unlike<'l>(lists: &[&'l [u8]], bytes: &[u8]) -> Vec<&'l [u8]> {
    let mut special: Vec<u8> = bytes.iter().copied().filter(|b| !is_unreserved(*b)).collect();
    special.sort_unstable();
    special.dedup();
    let mut seen: Vec<Vec<bool>> = Vec::new();
    let mut left = Vec::new();
    for list in lists {
        let held: Vec<bool> = special.iter().map(|b| list.contains(b)).collect();
        if !seen.contains(&held) {
            seen.push(held);
            left.push(*list);
        }
    }
    left
}

fn map_bytes(bytes: &[u8], escape: impl Fn(u8, &mut Vec<u8>)) -> Zeroizing<Vec<u8>> {
    // Reserved for the longest form, so that no part of the secret is left in a buffer outgrown.
    let mut out = Zeroizing::new(Vec::with_capacity(bytes.len() * 6));
    for byte in bytes {
        escape(*byte, &mut out);
    }
    out
}

fn upper(byte: u8) -> [u8; 2] {
    let digit = |n: u8| b"0123456789ABCDEF"[usize::from(n & 15)];
    [digit(byte >> 4), digit(byte)]
}

fn lower(byte: u8) -> [u8; 2] {
    upper(byte).map(|b| b.to_ascii_lowercase())
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
        needles.add(&Secret::new(b"a/b+c=d\"e&f<g>'h".to_vec()), "locum_x");
        for form in [
            "a%2Fb%2Bc%3Dd%22e%26f%3Cg%3E%27h",
            "a%2fb%2bc%3dd%22e%26f%3cg%3e%27h",
            "a%252Fb%252Bc%253Dd%2522e%2526f%253Cg%253E%2527h",
            "a/b+c=d\\\"e&f<g>'h",
            "a\\/b+c=d\\\"e&f<g>'h",
            "a/b\\u002bc\\u003dd\\\"e\\u0026f\\u003cg\\u003e\\u0027h",
            "a/b+c=d&quot;e&amp;f&lt;g&gt;&#39;h",
            "a/b+c=d&#34;e&amp;f&lt;g&gt;&#x27;h",
            "612F622B633D6422652666",
        ] {
            let found = contains(&needles, form.as_bytes());
            let prefix_of_hex = form.starts_with("612F");
            assert!(found || prefix_of_hex, "{form}");
        }
    }

    /// What real encoders make of one secret, written down from their output.
    #[test]
    fn no_two_encoders_escape_the_same_characters() {
        let mut needles = Needles::default();
        needles.add(&Secret::new(b"sk-Zq9/a+b=c!x&y<0".to_vec()), "locum_x");
        for form in [
            "sk-Zq9/a%2Bb%3Dc%21x%26y%3C0",         // Python, quote
            "sk-Zq9%2Fa%2Bb%3Dc!x%26y%3C0",         // JavaScript, encodeURIComponent
            "sk-Zq9/a+b=c!x&y%3C0",                 // JavaScript, encodeURI
            "sk-Zq9%2Fa+b=c%21x&y%3C0",             // Go, PathEscape
            "sk-Zq9/a+b=c!x\\u0026y\\u003c0",       // Go, JSON
            "sk-Zq9/a\\u002Bb=c!x\\u0026y\\u003C0", // .NET, JSON
            "sk-Zq9/a+b\\u003dc!x\\u0026y\\u003c0", // Gson
            "sk-Zq9/a&#43;b=c!x&amp;y&lt;0",        // Go, html/template
            "sk-Zq9&#x2F;a+b=c!x&amp;y&lt;0",       // OWASP
            "sk-Zq9&#x2F;a+b&#x3D;c!x&amp;y&lt;0",  // Mustache
            "sk-Zq9/a+b&#x3D;c!x&amp;y&lt;0",       // Handlebars
        ] {
            assert!(contains(&needles, form.as_bytes()), "{form}");
        }
        let mut needles = Needles::default();
        needles.add(&Secret::new(b"correct horse+staple".to_vec()), "locum_x");
        assert!(contains(&needles, b"p=correct+horse%2Bstaple&"));
        // Base64 with both of its special characters, escaped in its turn.
        let mut needles = Needles::default();
        needles.add(&Secret::new(b"ab>?ab~~>>??ab".to_vec()), "locum_x");
        assert!(contains(&needles, b"YWI%2BP2Fifn4%2BPj8%2FYWI%3D"));
        assert!(contains(&needles, b"YWI+P2Fifn4+Pj8\\/YWI="));
    }

    #[test]
    fn a_key_of_base64_has_few_forms() {
        let mut needles = Needles::default();
        needles.add(
            &Secret::new(b"Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsu+/Q==".to_vec()),
            "locum_x",
        );
        assert!(needles.0.len() <= 40, "{}", needles.0.len());
    }

    #[test]
    fn forms_that_are_alike_are_searched_once() {
        let mut needles = Needles::default();
        needles.add(&Secret::new(b"plainalnum0123".to_vec()), "locum_x");
        // Raw, hex (both cases), base64 at three alignments: nothing else differs.
        assert!(needles.0.len() <= 1 + 2 + 3, "{}", needles.0.len());
    }
}
