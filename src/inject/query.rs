//! Query slots: one parameter's value is replaced, every other byte stays.

use zeroize::Zeroizing;

use crate::secret::Secret;

/// One `name=value` of a query, as sent.
pub(super) struct Pair<'q> {
    pub(super) name: &'q str,
    pub(super) value: &'q str,
}

pub(super) fn pairs(query: &str) -> impl Iterator<Item = Pair<'_>> {
    query.split('&').map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Pair { name, value }
    })
}

/// Decodes a form-encoded text (`+` is a space) for comparison only.
pub(super) fn decode(text: &str) -> Vec<u8> {
    let text = text.replace('+', " ");
    percent_encoding::percent_decode_str(&text).collect()
}

/// Path and query with the secret as the value of the first parameter `name`; further ones are taken
/// out, and a missing one is added at the end.
pub(super) fn with_secret(
    path: &str,
    query: Option<&str>,
    name: &str,
    secret: &Secret,
) -> Zeroizing<Vec<u8>> {
    let query = query.unwrap_or_default();
    // Reserved for the longest form, so that no part of the secret is left in a buffer outgrown.
    let room = path.len() + query.len() + 3 * (secret.len() + name.len()) + 4;
    let mut out = Zeroizing::new(Vec::with_capacity(room));
    out.extend_from_slice(path.as_bytes());
    let mut separator = b'?';
    let mut placed = false;
    let sent = pairs(query).zip(query.split('&')).filter(|_| !query.is_empty());
    for (pair, raw) in sent {
        let ours = decode(pair.name) == name.as_bytes();
        if ours && placed {
            continue;
        }
        out.push(separator);
        separator = b'&';
        if ours {
            out.extend_from_slice(pair.name.as_bytes());
            push_value(&mut out, secret);
            placed = true;
        } else {
            out.extend_from_slice(raw.as_bytes());
        }
    }
    if !placed {
        out.push(separator);
        push_encoded(&mut out, name.as_bytes(), UNRESERVED);
        push_value(&mut out, secret);
    }
    out
}

/// Path and query without the parameters that `is_ours` by name; none when there is none of them.
pub(super) fn without(path: &str, query: &str, is_ours: impl Fn(&[u8]) -> bool) -> Option<String> {
    let is_ours = |pair: &Pair<'_>| is_ours(&decode(pair.name));
    if !pairs(query).any(|pair| is_ours(&pair)) {
        return None;
    }
    let kept = pairs(query).zip(query.split('&')).filter(|(pair, _)| !is_ours(pair));
    let kept: Vec<&str> = kept.map(|(_, raw)| raw).collect();
    Some(if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) })
}

/// A secret as it stands in a query.
pub(super) fn rendered(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(3 * bytes.len()));
    push_encoded(&mut out, bytes, UNRESERVED);
    out
}

fn push_value(out: &mut Vec<u8>, secret: &Secret) {
    out.push(b'=');
    secret.expose(|bytes| push_encoded(out, bytes, UNRESERVED));
}

/// What never needs an escape in a URL, beside letters and digits (RFC 3986 section 2.3).
const UNRESERVED: &[u8] = b"-._~";

/// Writes `bytes` with all escaped that is neither a letter, a digit nor one of `plain`.
pub(super) fn push_encoded(out: &mut Vec<u8>, bytes: &[u8], plain: &[u8]) {
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || plain.contains(byte) {
            out.push(*byte);
        } else {
            let digit = |n: u8| b"0123456789ABCDEF"[usize::from(n & 15)];
            out.extend_from_slice(&[b'%', digit(byte >> 4), digit(*byte)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_stays_but_for_the_value() {
        let secret = Secret::new(b"s/1".to_vec());
        for (sent, filled) in [
            (None, "/p?key=s%2F1"),
            (Some(""), "/p?key=s%2F1"),
            (Some("a&&b="), "/p?a&&b=&key=s%2F1"),
            (Some("&k%65y=x&&key=2&a=%2f+"), "/p?&k%65y=s%2F1&&a=%2f+"),
        ] {
            assert_eq!(*with_secret("/p", sent, "key", &secret), filled.as_bytes(), "{sent:?}");
        }
    }
}
