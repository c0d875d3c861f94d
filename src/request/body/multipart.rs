//! `multipart/form-data` (RFC 7578): parts between boundaries, each with a name.

use std::ops::Range;

use memchr::memmem;

use super::{Found, Place};
use crate::reference;

/// What may not be read otherwise while there is a reference in it.
const MALFORMED: &str = "The body is said to be multipart/form-data, and is not: it holds a reference that may stand anywhere";

/// The boundary among the parameters of a type (RFC 2046 section 5.1.1).
pub(super) fn boundary(parameters: &str) -> Option<String> {
    let boundary = parameter(parameters.as_bytes(), b"boundary")?;
    let legal = |b: &u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(b);
    let fits = (1..=70).contains(&boundary.len()) && boundary.iter().all(legal);
    (fits && !boundary.ends_with(b" ")).then(|| String::from_utf8(boundary).ok())?
}

/// The value of a parameter in `; name=value; name="value"`. None if it is there twice.
fn parameter(text: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let mut found = None;
    let mut rest = text;
    while !rest.is_empty() {
        rest = rest.trim_ascii_start();
        let end = rest.iter().position(|b| matches!(b, b'=' | b';')).unwrap_or(rest.len());
        let (own, after) = rest.split_at(end);
        let Some(after) = after.strip_prefix(b"=") else {
            rest = after.strip_prefix(b";").unwrap_or_default();
            continue;
        };
        let (value, after) = value(after.trim_ascii_start())?;
        if own.trim_ascii().eq_ignore_ascii_case(name) && found.replace(value).is_some() {
            return None;
        }
        rest = after.trim_ascii_start();
        rest = if rest.is_empty() { rest } else { rest.strip_prefix(b";")? };
    }
    found
}

/// A token or a quoted text, and what follows it.
fn value(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|b| *b == b';').unwrap_or(text.len());
        return Some((text[..end].trim_ascii().to_vec(), &text[end..]));
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((value, &quoted[at + 1..])),
            b'\\' => value.push(*bytes.next()?.1),
            byte => value.push(*byte),
        }
    }
    None
}

/// The parts with references in them.
pub(super) fn find(bytes: &[u8], boundary: &[u8]) -> Result<Vec<Found>, &'static str> {
    let parts = parts(bytes, boundary).ok_or(MALFORMED)?;
    let mut found = Vec::new();
    for part in &parts {
        let text = &bytes[part.content.clone()];
        if reference::occurs(&bytes[part.head.clone()]) {
            // In a head it is text, but it has to be counted.
            let place = Place::Multipart(Vec::new());
            found.push(Found { place, text: Vec::new(), at: part.head.clone(), ambiguous: false });
        }
        if reference::occurs(text) {
            let named = part.name.as_ref().filter(|_| !part.file);
            let same = |other: &&Part| other.name == part.name;
            found.push(Found {
                place: Place::Multipart(named.cloned().unwrap_or_default()),
                // A file is not read any further.
                text: if part.file { Vec::new() } else { text.to_vec() },
                at: part.content.clone(),
                ambiguous: parts.iter().filter(same).count() > 1,
            });
        }
    }
    Ok(found)
}

struct Part {
    head: Range<usize>,
    content: Range<usize>,
    name: Option<Vec<u8>>,
    /// Whether it says that it is a file, or that it is coded: then it is no field.
    file: bool,
}

/// All parts, if the body is written as RFC 2046 has it and no line looks like a boundary without
/// being one.
fn parts(bytes: &[u8], boundary: &[u8]) -> Option<Vec<Part>> {
    let delimiter = [b"\r\n--", boundary].concat();
    // The first boundary may stand at the very start, without the line end that belongs to it.
    let mut at = if bytes.starts_with(&delimiter[2..]) {
        delimiter.len() - 2
    } else {
        memmem::find(bytes, &delimiter)? + delimiter.len()
    };
    let mut parts = Vec::new();
    loop {
        let rest = &bytes[at..];
        if let Some(end) = rest.strip_prefix(b"--") {
            // What follows the last boundary is nobody's, and must not be a part to anyone.
            return (memmem::find(end, boundary).is_none()).then_some(parts);
        }
        let blank = rest.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
        if !rest[blank..].starts_with(b"\r\n") {
            return None;
        }
        let head = at + blank + 2;
        let content = head_end(&bytes[head..])? + head;
        let length = memmem::find(&bytes[content..], &delimiter)?;
        let (name, file) = name(&bytes[head..content])?;
        parts.push(Part { head: head..content, content: content..content + length, name, file });
        at = content + length + delimiter.len();
    }
}

/// Where the content begins: after the first empty line.
fn head_end(text: &[u8]) -> Option<usize> {
    if text.starts_with(b"\r\n") {
        return Some(2);
    }
    memmem::find(text, b"\r\n\r\n").map(|at| at + 4)
}

/// The part's name, and whether it is something else than a field. None for a head that says it twice.
fn name(head: &[u8]) -> Option<(Option<Vec<u8>>, bool)> {
    let (mut name, mut file) = (None, false);
    for line in head.split(|b| *b == b'\n') {
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let (field, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        if field.eq_ignore_ascii_case(b"content-transfer-encoding") {
            file |=
                ![&b"7bit"[..], b"8bit", b"binary"].iter().any(|c| value.eq_ignore_ascii_case(c));
        }
        if !field.eq_ignore_ascii_case(b"content-disposition") {
            continue;
        }
        let (kind, parameters) = value.split_at(value.iter().position(|b| *b == b';')?);
        if name.is_some() || !kind.trim_ascii().eq_ignore_ascii_case(b"form-data") {
            return None;
        }
        name = Some(parameter(&parameters[1..], b"name")?);
        let lower = parameters.to_ascii_lowercase();
        file |=
            memmem::find(&lower, b"filename").is_some() || memmem::find(&lower, b"name*").is_some();
    }
    Some((name, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--b\r\n\
        content-disposition: form-data; name=token\r\n\r\nlocum_x\r\n--b--\r\n";

    fn found(body: &str) -> Result<Vec<(String, &str, bool)>, &'static str> {
        let one = |f: Found| match f.place {
            Place::Multipart(name) => (String::from_utf8(name).unwrap(), &body[f.at], f.ambiguous),
            other => panic!("{other:?}"),
        };
        find(body.as_bytes(), b"b").map(|all| all.into_iter().map(one).collect())
    }

    #[test]
    fn a_part_is_found_by_its_name() {
        assert_eq!(found(BODY), Ok(vec![("token".to_owned(), "locum_x", false)]));
        let quoted = BODY.replace("name=token", "name=\"to\\ken\"; x=1");
        assert_eq!(found(&quoted), Ok(vec![("token".to_owned(), "locum_x", false)]));
        let twice = BODY.replace("name=\"a\"", "name=\"token\"");
        assert_eq!(found(&twice), Ok(vec![("token".to_owned(), "locum_x", true)]));
        let file = BODY.replace("name=token", "name=token; filename=x");
        assert_eq!(found(&file), Ok(vec![(String::new(), "locum_x", false)]), "a file is no field");
        let coded = BODY.replace("name=token", "name=token\r\nContent-Transfer-Encoding: base64");
        assert_eq!(found(&coded).unwrap()[0].0, "");
        let preamble = format!("hello\r\n{BODY}epilogue");
        assert_eq!(found(&preamble).unwrap().len(), 1);
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for (from, to) in [
            ("--b--", "--b"),
            ("--b--\r\n", "--b--\r\n--b\r\n\r\nx\r\n--b--"),
            ("--b\r\nC", "--bX\r\nC"),
            ("name=token", "name=token; name=other"),
            ("form-data; name=token", "attachment; name=token"),
            ("name=token", "name=\"token"),
            ("name=token\r\n\r\n", "name=token\r\n"),
            ("name=token", "name=token\r\nContent-Disposition: form-data; name=b"),
        ] {
            let body = BODY.replace(from, to);
            assert_ne!(body, BODY);
            assert!(found(&body).is_err(), "{body}");
        }
    }
}
