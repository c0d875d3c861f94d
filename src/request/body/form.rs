//! `application/x-www-form-urlencoded`: pairs between `&`.

use super::{Found, Place};
use crate::reference;

/// The values with references in them.
pub(super) fn find(bytes: &[u8]) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    let mut start = 0;
    for pair in bytes.split(|b| *b == b'&') {
        let name_end = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
        let value = (start + name_end + 1).min(start + pair.len())..start + pair.len();
        start += pair.len() + 1;
        let text = decode(&bytes[value.clone()]);
        if reference::occurs(&text) {
            let place = Place::Form(decode(&pair[..name_end]));
            found.push(Found { place, text, at: value, ambiguous: false });
        }
    }
    mark_repeated(bytes, &mut found);
    found
}

/// Two values of one name: some take the first, some the last, some both.
fn mark_repeated(bytes: &[u8], found: &mut [Found]) {
    if found.is_empty() {
        return;
    }
    let name = |pair: &[u8]| decode(pair.split(|b| *b == b'=').next().unwrap_or_default());
    let names: Vec<Vec<u8>> = bytes.split(|b| *b == b'&').map(name).collect();
    for found in found {
        let same = |name: &&Vec<u8>| matches!(&found.place, Place::Form(own) if own == *name);
        found.ambiguous = names.iter().filter(same).count() > 1;
    }
}

/// A plus is a space, and the rest is percent-encoded.
fn decode(text: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> = text.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
    percent_encoding::percent_decode(&spaced).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(body: &str) -> Vec<(String, String, &str, bool)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let one = |f: Found| match f.place {
            Place::Form(name) => (text(&name), text(&f.text), &body[f.at], f.ambiguous),
            other => panic!("{other:?}"),
        };
        find(body.as_bytes()).into_iter().map(one).collect()
    }

    #[test]
    fn values_are_found_by_name() {
        let is = |name: &str, text: &str, raw: &'static str, twice| {
            (name.to_owned(), text.to_owned(), raw, twice)
        };
        assert_eq!(found("a=1&token=locum_x&b"), [is("token", "locum_x", "locum_x", false)]);
        assert_eq!(found("t%6Fken=locum%5Fx"), [is("token", "locum_x", "locum%5Fx", false)]);
        assert_eq!(found("a+b=locum_x+y="), [is("a b", "locum_x y=", "locum_x+y=", false)]);
        assert_eq!(found("token=locum_x&token="), [is("token", "locum_x", "locum_x", true)]);
        assert_eq!(found("locum_x"), [], "a name is no value");
        assert_eq!(found("=locum_x"), [is("", "locum_x", "locum_x", false)]);
        assert_eq!(found("&&=&"), []);
    }
}
