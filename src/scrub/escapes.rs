//! How the encoders in use write a text into a URL, into JSON and into HTML.
//!
//! They agree on how a byte is escaped and not on which bytes are: Python leaves a slash in a URL,
//! Gson escapes `=` in JSON and .NET `+`. So each set of bytes that one of them escapes is a form of
//! its own; those that come to the same for a secret are made once.

use zeroize::Zeroizing;

/// What URL encoders leave as it is, beside letters and digits.
const URL_KEPT: [&str; 9] = [
    // RFC 3986 section 2.3, and all that are strict.
    "-._~",
    // Forms (WHATWG URL, Java's `URLEncoder`).
    "-._*",
    // JavaScript's `encodeURIComponent`.
    "-._~!*'()",
    // Python's `quote`.
    "-._~/",
    // Go's `PathEscape`.
    "-._~$&+=:@",
    // A segment of a path, and a path (RFC 3986 section 3.3).
    "-._~!$&'()*+,;=:@",
    "-._~!$&'()*+,;=:@/",
    // JavaScript's `encodeURI`.
    "-._~!$&'()*+,;=:@/?#",
    // What browsers do to a query (WHATWG URL).
    "-._~!$%&'()*+,;=:@/?[]\\^`{|}",
];

/// What JSON encoders write as `\u00xx`, beside what they have to.
const JSON_ESCAPED: [&str; 8] = [
    "", "<>", // Go, Ruby on Rails, Django.
    "<>&", "<>&'", // Java's Gson.
    "<>&'=", "<>&'+=",   // .NET.
    "\"<>&'+`", // PHP with all of `JSON_HEX_*`.
    "\"<>&'",
];

/// What HTML encoders write, and how.
const HTML: [&[(u8, &str)]; 9] = [
    &[(b'&', "&amp;"), (b'<', "&lt;"), (b'>', "&gt;")],
    &[(b'&', "&amp;"), (b'<', "&lt;"), (b'>', "&gt;"), (b'"', "&quot;")],
    &[(b'&', "&amp;"), (b'<', "&lt;"), (b'>', "&gt;"), (b'"', "&quot;"), (b'\'', "&#39;")],
    // PHP; XML; Python.
    &[(b'&', "&amp;"), (b'<', "&lt;"), (b'>', "&gt;"), (b'"', "&quot;"), (b'\'', "&#039;")],
    &[(b'&', "&amp;"), (b'<', "&lt;"), (b'>', "&gt;"), (b'"', "&quot;"), (b'\'', "&apos;")],
    &[(b'&', "&amp;"), (b'<', "&lt;"), (b'>', "&gt;"), (b'"', "&quot;"), (b'\'', "&#x27;")],
    &[(b'&', "&amp;"), (b'<', "&lt;"), (b'>', "&gt;"), (b'"', "&#34;"), (b'\'', "&#x27;")],
    // Go's `html/template`.
    &[
        (b'&', "&amp;"),
        (b'<', "&lt;"),
        (b'>', "&gt;"),
        (b'"', "&#34;"),
        (b'\'', "&#39;"),
        (b'+', "&#43;"),
    ],
    // Mustache and its kin.
    &[
        (b'&', "&amp;"),
        (b'<', "&lt;"),
        (b'>', "&gt;"),
        (b'"', "&quot;"),
        (b'\'', "&#39;"),
        (b'/', "&#x2F;"),
        (b'`', "&#x60;"),
        (b'=', "&#x3D;"),
    ],
];

/// Whether nobody escapes the byte: letters, digits, and three that every set above keeps.
pub(super) fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

/// The escaped forms of a secret, some of them more than once; none when there is nothing to escape.
pub(super) fn escapes(bytes: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    if bytes.iter().all(|b| is_plain(*b)) {
        return Vec::new();
    }
    // Which bytes a secret has that anyone escapes: few.
    let mut special: Vec<u8> = bytes.iter().copied().filter(|b| !is_plain(*b)).collect();
    special.sort_unstable();
    special.dedup();
    let mut forms = Vec::new();
    in_urls(bytes, &special, &mut forms);
    in_json(bytes, &special, &mut forms);
    in_html(bytes, &mut forms);
    forms
}

/// What URLs and JSON make of the two characters of base64 that they may escape.
pub(super) fn base64_escapes(core: &[u8]) -> [Zeroizing<Vec<u8>>; 5] {
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

/// Upper and lower case, once and twice; a space also as `+`.
fn in_urls(bytes: &[u8], special: &[u8], forms: &mut Vec<Zeroizing<Vec<u8>>>) {
    let sets = URL_KEPT.map(|kept| subset(special, |b| !kept.as_bytes().contains(&b)));
    for escaped in distinct(sets) {
        for hex in [upper, lower] {
            for escape in ["%", "%25"] {
                for plus in [false, true] {
                    forms.push(map_bytes(bytes, |b, out| match b {
                        b' ' if plus => out.push(b'+'),
                        _ if escaped.contains(&b) => {
                            out.extend_from_slice(escape.as_bytes());
                            out.extend_from_slice(&hex(b));
                        }
                        _ => out.push(b),
                    }));
                    if !special.contains(&b' ') {
                        break;
                    }
                }
            }
        }
    }
}

/// With `/` as it is and as `\/` (RFC 8259 section 7 allows both), hex digits in either case. What
/// every encoder escapes also twice: an error message quotes the JSON it could not read.
fn in_json(bytes: &[u8], special: &[u8], forms: &mut Vec<Zeroizing<Vec<u8>>>) {
    let sets = JSON_ESCAPED.map(|set| subset(special, |b| set.as_bytes().contains(&b)));
    for escaped in distinct(sets) {
        for hex in [lower, upper] {
            for slashed in [false, true] {
                let once = map_bytes(bytes, |b, out| match b {
                    _ if escaped.contains(&b) => {
                        out.extend_from_slice(b"\\u00");
                        out.extend_from_slice(&hex(b));
                    }
                    b'"' | b'\\' => out.extend_from_slice(&[b'\\', b]),
                    b'/' if slashed => out.extend_from_slice(b"\\/"),
                    _ => out.push(b),
                });
                if escaped.is_empty() {
                    forms.push(map_bytes(&once, |b, out| match b {
                        b'"' | b'\\' => out.extend_from_slice(&[b'\\', b]),
                        _ => out.push(b),
                    }));
                }
                forms.push(once);
            }
        }
    }
}

fn in_html(bytes: &[u8], forms: &mut Vec<Zeroizing<Vec<u8>>>) {
    for set in HTML {
        forms.push(map_bytes(bytes, |b, out| match set.iter().find(|(from, _)| *from == b) {
            Some((_, entity)) => out.extend_from_slice(entity.as_bytes()),
            None => out.push(b),
        }));
    }
}

fn subset(special: &[u8], escaped: impl Fn(u8) -> bool) -> Vec<u8> {
    special.iter().copied().filter(|b| escaped(*b)).collect()
}

/// Each set once: for most secrets the encoders differ less than their rules do.
fn distinct<const N: usize>(sets: [Vec<u8>; N]) -> Vec<Vec<u8>> {
    let mut sets = Vec::from(sets);
    sets.sort_unstable();
    sets.dedup();
    sets
}

fn map_bytes(bytes: &[u8], escape: impl Fn(u8, &mut Vec<u8>)) -> Zeroizing<Vec<u8>> {
    // Reserved for the longest form, so that no part of the secret is left in a buffer outgrown.
    let mut out = Zeroizing::new(Vec::with_capacity(bytes.len() * 6));
    for byte in bytes {
        escape(*byte, &mut out);
    }
    out
}

pub(super) fn upper(byte: u8) -> [u8; 2] {
    let digit = |n: u8| b"0123456789ABCDEF"[usize::from(n & 15)];
    [digit(byte >> 4), digit(byte)]
}

pub(super) fn lower(byte: u8) -> [u8; 2] {
    upper(byte).map(|b| b.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(secret: &str, form: &str) -> bool {
        escapes(secret.as_bytes()).iter().any(|f| **f == form.as_bytes())
    }

    #[test]
    fn each_encoder_has_its_own_form() {
        const SECRET: &str = "a/b+c=d\"e&f<g>'h";
        for form in [
            // URLs: strict, Python's `quote`, Go's `PathEscape`, `encodeURIComponent`.
            "a%2Fb%2Bc%3Dd%22e%26f%3Cg%3E%27h",
            "a%2fb%2bc%3dd%22e%26f%3cg%3e%27h",
            "a%252Fb%252Bc%253Dd%2522e%2526f%253Cg%253E%2527h",
            "a/b%2Bc%3Dd%22e%26f%3Cg%3E%27h",
            "a%2Fb+c=d%22e&f%3Cg%3E%27h",
            "a%2Fb%2Bc%3Dd%22e%26f%3Cg%3E'h",
            // JSON: plain, PHP, Go, Gson, .NET, PHP with JSON_HEX_*.
            "a/b+c=d\\\"e&f<g>'h",
            "a\\/b+c=d\\\"e&f<g>'h",
            "a/b+c=d\\\"e\\u0026f\\u003cg\\u003e'h",
            "a/b+c\\u003dd\\\"e\\u0026f\\u003cg\\u003e\\u0027h",
            "a/b\\u002Bc=d\\u0022e\\u0026f\\u003Cg\\u003E\\u0027h",
            "a\\/b+c=d\\u0022e\\u0026f\\u003Cg\\u003E\\u0027h",
            "a/b\\u002bc\\u003dd\\\"e\\u0026f\\u003cg\\u003e\\u0027h",
            // JSON in JSON: plain, PHP.
            "a/b+c=d\\\\\\\"e&f<g>'h",
            "a\\\\/b+c=d\\\\\\\"e&f<g>'h",
            // HTML: Python's `escape`, PHP, Go, Mustache.
            "a/b+c=d&quot;e&amp;f&lt;g&gt;&#x27;h",
            "a/b+c=d&quot;e&amp;f&lt;g&gt;&#039;h",
            "a/b&#43;c=d&#34;e&amp;f&lt;g&gt;&#39;h",
            "a&#x2F;b+c&#x3D;d&quot;e&amp;f&lt;g&gt;&#39;h",
        ] {
            assert!(has(SECRET, form), "{form}");
        }
    }

    #[test]
    fn spaces_and_tildes() {
        assert!(has("a b~c", "a+b%7Ec") && has("a b~c", "a%20b~c"));
    }

    #[test]
    fn what_nobody_escapes_has_no_escaped_form() {
        assert!(escapes(b"sk-proj-0123_ABC.def").is_empty());
    }

    #[test]
    fn forms_stay_few() {
        // Base64 has three special characters; a password of all has the most.
        let count = |secret: &[u8]| {
            let mut forms = escapes(secret);
            forms.sort_unstable_by(|a, b| a.cmp(b));
            forms.dedup_by(|a, b| **a == **b);
            forms.len()
        };
        assert!(count(b"ab+cd/ef==") < 32, "{}", count(b"ab+cd/ef=="));
        let all: Vec<u8> = (b' '..=b'~').collect();
        assert!(count(&all) < 128, "{}", count(&all));
    }
}
