//! Path slots: one segment, or a part of one, is replaced; every other byte of the target stays.

use std::ops::Range;

use zeroize::Zeroizing;

use super::query::{self, decode};
use crate::credential::{Credential, PathTemplate, segments};
use crate::reference;
use crate::secret::Secret;

/// Where in `path` the credential is named, in the place that its slot says.
pub(super) fn place(
    path: &str,
    template: Option<&PathTemplate>,
    credential: &Credential,
) -> Option<Range<usize>> {
    match template {
        Some(template) => template.find(path).filter(|at| names(&path[at.clone()], credential)),
        None => segments(path).find_map(|segment| part(path, segment, credential)),
    }
}

/// What the client wrote in a place, decoded. A `+` is itself in a path.
pub(super) fn text(written: &str) -> Vec<u8> {
    percent_encoding::percent_decode_str(written).collect()
}

fn names(written: &str, credential: &Credential) -> bool {
    credential.is_named_by(&text(written))
}

/// The reference in a segment of which it need not be all.
fn part(path: &str, segment: Range<usize>, credential: &Credential) -> Option<Range<usize>> {
    let written = &path[segment.clone()];
    if names(written, credential) {
        return Some(segment);
    }
    let found = |at: usize, text: &str| segment.start + at..segment.start + at + text.len();
    let stand_in = credential.stand_in.as_deref();
    if let Some((at, text)) = stand_in.and_then(|text| Some((written.find(text)?, text))) {
        return Some(found(at, text));
    }
    let own = credential.name.reference();
    // The start of a longer name is another's reference.
    let whole = |at: usize| {
        let name = reference::names_in(&written.as_bytes()[at..]).next();
        name == Some(credential.name.as_str())
    };
    let at = written.match_indices(&own).map(|(at, _)| at).find(|at| whole(*at))?;
    Some(found(at, &own))
}

/// A path with the secret in it.
pub(super) struct Filled {
    /// Path and query, as they go on the wire.
    pub(super) target: Zeroizing<Vec<u8>>,
    /// The secret as it stands there.
    pub(super) value: Zeroizing<Vec<u8>>,
}

/// Puts the secret in its place. None when an origin would take the segment for a way through the
/// path, and not for a name.
pub(super) fn with_secret(
    path: &str,
    at: Range<usize>,
    query: Option<&str>,
    secret: &Secret,
) -> Option<Filled> {
    let value = secret.expose(rendered);
    let room = path.len() + value.len() + query.map_or(0, |query| query.len() + 1);
    let mut target = Zeroizing::new(Vec::with_capacity(room));
    target.extend_from_slice(&path.as_bytes()[..at.start]);
    target.extend_from_slice(&value);
    let end = target.len();
    target.extend_from_slice(&path.as_bytes()[at.end..]);
    let start = path[..at.start].rfind('/')? + 1;
    let rest = path[at.end..].find('/').unwrap_or(path.len() - at.end);
    if matches!(&target[start..end + rest], b"." | b"..") {
        return None;
    }
    if let Some(query) = query {
        target.push(b'?');
        target.extend_from_slice(query.as_bytes());
    }
    Some(Filled { target, value })
}

/// A secret as it stands in a path.
pub(super) fn rendered(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut value = Zeroizing::new(Vec::with_capacity(3 * bytes.len()));
    query::push_encoded(&mut value, bytes, PLAIN);
    value
}

/// What a segment may have in it (RFC 3986 section 3.3) and nobody reads otherwise: all but `;`,
/// which some take for the start of parameters.
const PLAIN: &[u8] = b"-._~!$&'()*+,=:@";

/// The path that the secret would make, with every letter and digit of the secret masked; none when
/// there is nothing else in it, so that the path has no more readings than the one that was decided
/// on.
pub(super) fn masked(path: &str, at: Range<usize>, secret: &Secret) -> Option<String> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || PLAIN.contains(b);
    let mask: Vec<u8> = secret.expose(|bytes| {
        if bytes.iter().all(plain) {
            return Vec::new();
        }
        bytes.iter().map(|b| if b.is_ascii_alphanumeric() { b'x' } else { *b }).collect()
    });
    if mask.is_empty() {
        return None;
    }
    let mut value = Vec::new();
    query::push_encoded(&mut value, &mask, PLAIN);
    let value = String::from_utf8(value).ok()?;
    Some(format!("{}{value}{}", &path[..at.start], &path[at.end..]))
}

/// Whether a path or a query may hold a reference: any of its characters may be escaped.
pub(super) fn may_refer(text: &str) -> bool {
    reference::occurs(text.as_bytes())
        || (text.contains('%') && reference::occurs(&self::text(text)))
}

/// How many references are in a text.
pub(super) fn count(written: &str) -> usize {
    reference::names_in(&decode(written)).count()
}
