//! Body slots: the bytes of one text are replaced, all others are copied.

use std::ops::Range;

use bytes::Bytes;
use zeroize::Zeroizing;

use super::query::push_encoded;
use crate::credential::{Credential, Slot};
use crate::request::BodyText;
use crate::secret::Secret;

/// What is to stand in a body, and where.
#[derive(Default)]
pub(super) struct Edits(Vec<(Range<usize>, Zeroizing<Vec<u8>>)>);

impl Edits {
    /// Notes the secret for the credential's own place; gives it as it will stand there. None when
    /// the body does not name the credential there.
    pub(super) fn add(
        &mut self,
        body: &BodyText,
        credential: &Credential,
        slot: &Slot,
        secret: &Secret,
    ) -> Option<&[u8]> {
        let named = |found: &&crate::request::Found| {
            found.place.is(slot) && credential.is_named_by(&found.text)
        };
        let found = body.found().iter().find(named)?;
        let value = secret.expose(|bytes| rendered(slot, bytes));
        self.0.push((found.at.clone(), value));
        self.0.last().map(|(_, value)| value.as_slice())
    }

    /// The body with all of it in place; none when nothing is. Its memory is wiped when the last
    /// holder lets go of it.
    pub(super) fn apply(mut self, body: &Bytes) -> Option<Bytes> {
        if self.0.is_empty() {
            return None;
        }
        self.0.sort_by_key(|(at, _)| at.start);
        let values: usize = self.0.iter().map(|(_, value)| value.len()).sum();
        // For the longest that it could be, so that no part of a secret is left in a buffer outgrown.
        let mut out = Zeroizing::new(Vec::with_capacity(body.len() + values));
        let mut done = 0;
        for (at, value) in &self.0 {
            out.extend_from_slice(&body[done..at.start]);
            out.extend_from_slice(value);
            done = at.end;
        }
        out.extend_from_slice(&body[done..]);
        Some(Bytes::from_owner(out))
    }
}

/// A secret as it stands in a slot of a body.
pub(super) fn rendered(slot: &Slot, bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    match slot {
        Slot::Json { .. } | Slot::WebSocket { .. } => json(bytes),
        Slot::Form { .. } => form(bytes),
        _ => Zeroizing::new(bytes.to_vec()),
    }
}

/// A string of JSON without its quotes (RFC 8259 section 7). Secrets are ASCII without control
/// characters, and those are written as they must be all the same.
fn json(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(6 * bytes.len()));
    for byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            0..0x20 => {
                let digit = |n: u8| b"0123456789abcdef"[usize::from(n & 15)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(*byte)]);
            }
            byte => out.push(*byte),
        }
    }
    out
}

/// The value of a field (WHATWG URL, section 5.2).
fn form(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(3 * bytes.len()));
    push_encoded(&mut out, bytes, b"-._*");
    out
}
