//! Subprotocol slots: one entry of the list in `Sec-WebSocket-Protocol`. Browsers can set no header of
//! a handshake but this one, so some providers take their keys in it.

use http::header::{self, HeaderMap, HeaderValue};
use zeroize::Zeroizing;

use crate::credential::{Credential, Slot, Template, is_token};
use crate::outcome::{Code, Refusal};
use crate::secret::Secret;

/// The entries of one line of the list, with the spaces around them.
pub(super) fn entries(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|b| *b == b',')
}

/// Which of the credential's slots an entry is, with its reference in it, and what it was named by.
pub(super) fn slot<'e>(entry: &'e [u8], credential: &Credential) -> Option<(usize, &'e [u8])> {
    let fits = |(at, slot): (usize, &Slot)| {
        let Slot::Subprotocol { template } = slot else { return None };
        let inner = template.unwrap(entry.trim_ascii())?;
        credential.is_named_by(inner).then_some((at, inner))
    };
    credential.slots.iter().enumerate().find_map(fits)
}

/// Whether an entry is in one of the credential's own places: it has the shape of a slot that has one,
/// or names the credential.
fn is_place(entry: &[u8], credential: &Credential) -> bool {
    let entry = entry.trim_ascii();
    let shaped = |slot: &Slot| match slot {
        Slot::Subprotocol { template } => template
            .unwrap(entry)
            .is_some_and(|inner| inner.len() < entry.len() || credential.is_named_by(inner)),
        _ => false,
    };
    credential.slots.iter().any(shaped)
}

/// Takes out what the client has in the credential's places, and puts the secret into the first entry
/// that names it where `fill` says so.
///
/// # Errors
/// `credential-refused` for a secret that no entry can hold.
pub(super) fn rewrite(
    headers: &mut HeaderMap,
    credential: &Credential,
    fill: Option<(&Template, &Secret)>,
) -> Result<(), Refusal> {
    let mut fill = fill;
    let mut lines = Vec::new();
    for line in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
        let mut out = Line::default();
        for entry in entries(line.as_bytes()) {
            let named = slot(entry, credential).is_some();
            if let Some((template, secret)) = fill.take_if(|_| named) {
                out.fill(entry, template, secret)?;
            } else if !is_place(entry, credential) {
                out.keep(entry);
            }
        }
        lines.extend(out.value(line)?);
    }
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    for line in lines {
        headers.append(header::SEC_WEBSOCKET_PROTOCOL, line);
    }
    Ok(())
}

/// A line as it will be.
#[derive(Default)]
struct Line {
    text: Zeroizing<Vec<u8>>,
    any: bool,
    filled: bool,
}

impl Line {
    fn keep(&mut self, entry: &[u8]) {
        self.part(entry.len());
        self.text.extend_from_slice(entry);
    }

    fn fill(&mut self, entry: &[u8], template: &Template, secret: &Secret) -> Result<(), Refusal> {
        if !secret.expose(|bytes| bytes.iter().all(|b| is_token(*b))) {
            return Err(Refusal::new(Code::CredentialRefused)
                .because("the secret cannot stand in a list of subprotocols"));
        }
        let space = entry.len() - entry.trim_ascii_start().len();
        self.part(entry.len() + secret.len() + template.prefix().len() + template.suffix().len());
        self.text.extend_from_slice(&entry[..space]);
        self.text.extend_from_slice(template.prefix().as_bytes());
        secret.expose(|bytes| self.text.extend_from_slice(bytes));
        self.text.extend_from_slice(template.suffix().as_bytes());
        self.filled = true;
        Ok(())
    }

    /// Begins an entry, with room for it, so that no part of a secret is left in a buffer outgrown.
    fn part(&mut self, room: usize) {
        let mut larger = Zeroizing::new(Vec::with_capacity(self.text.len() + room + 1));
        larger.extend_from_slice(&self.text);
        self.text = larger;
        if self.any {
            self.text.push(b',');
        }
        self.any = true;
    }

    fn value(self, before: &HeaderValue) -> Result<Option<HeaderValue>, Refusal> {
        let text = self.text.trim_ascii();
        if text.is_empty() {
            return Ok(None);
        }
        if !self.filled {
            let same = text == before.as_bytes();
            let value = if same { Ok(before.clone()) } else { HeaderValue::from_bytes(text) };
            return value.map(Some).map_err(|_| Refusal::new(Code::Internal));
        }
        super::sensitive(Zeroizing::new(text.to_vec())).map(Some)
    }
}
