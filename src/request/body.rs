//! The body of a request in which a credential may have its place: read whole, and searched for
//! references by the rules of its own encoding.
//!
//! Nothing is changed here. What cannot be read while it holds a reference is not guessed at: it is
//! a fault, and the request is refused.

mod form;
mod json;
mod multipart;

use std::ops::Range;

use bytes::Bytes;
use http::header::{self, HeaderMap};
use memchr::memmem;

pub(crate) use json::unescape;
pub use json::{Malformed, Show, Step, Value, walk};

use crate::credential::{Pointer, Slot};
use crate::reference;

/// How a body is written, and so which slots may be in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// JSON (RFC 8259).
    Json,
    /// Pairs as of a query (WHATWG URL, section 5).
    Form,
    /// Parts with a name each (RFC 7578).
    Multipart {
        /// What stands between them.
        boundary: Box<[u8]>,
    },
    /// JSON in a text message of a WebSocket: no body, but read like one.
    Message,
    /// Anything, read to be digested: no slot is in it.
    Whole,
}

impl BodyKind {
    /// What the head says of the body. None for all that has no slots in it.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut types = headers.get_all(header::CONTENT_TYPE).iter();
        let (Some(value), None) = (types.next(), types.next()) else { return None };
        let text = value.to_str().ok()?;
        let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
        let essence = essence.trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/json" | "text/json" => Some(Self::Json),
            "application/x-www-form-urlencoded" => Some(Self::Form),
            "multipart/form-data" => {
                let boundary = multipart::boundary(parameters)?.into_bytes().into();
                Some(Self::Multipart { boundary })
            }
            other => other.ends_with("+json").then_some(Self::Json),
        }
    }

    /// Whether the slot is a place in such a body.
    #[must_use]
    pub fn has(&self, slot: &Slot) -> bool {
        matches!(
            (self, slot),
            (Self::Json, Slot::Json { .. })
                | (Self::Form, Slot::Form { .. })
                | (Self::Multipart { .. }, Slot::Multipart { .. })
                | (Self::Message, Slot::WebSocket { .. })
        )
    }
}

/// Where in a body a text stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A string of a document, by the way to it.
    Json(Vec<Step>),
    /// The same in a message.
    Message(Vec<Step>),
    /// The value of a field.
    Form(Vec<u8>),
    /// A whole part.
    Multipart(Vec<u8>),
}

impl Place {
    /// Whether this is the place that the slot names.
    #[must_use]
    pub fn is(&self, slot: &Slot) -> bool {
        match (self, slot) {
            (Self::Json(path), Slot::Json { pointer })
            | (Self::Message(path), Slot::WebSocket { pointer }) => {
                path.len() == pointer.tokens().len() && leads_to(pointer, path)
            }
            (Self::Form(name), Slot::Form { field })
            | (Self::Multipart(name), Slot::Multipart { field }) => name == field.as_bytes(),
            _ => false,
        }
    }

    /// Whether the place is inside of what the slot names, which then is no string.
    #[must_use]
    pub fn is_inside(&self, slot: &Slot) -> bool {
        match (self, slot) {
            (Self::Json(path), Slot::Json { pointer })
            | (Self::Message(path), Slot::WebSocket { pointer }) => {
                path.len() > pointer.tokens().len() && leads_to(pointer, path)
            }
            _ => false,
        }
    }
}

/// Whether the way begins with all of the pointer.
fn leads_to(pointer: &Pointer, path: &[Step]) -> bool {
    let tokens = pointer.tokens();
    path.len() >= tokens.len() && tokens.iter().zip(path).all(|(token, step)| step.is(token))
}

/// A text with a reference in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it stands.
    pub place: Place,
    /// What it says, decoded.
    pub text: Vec<u8>,
    /// Which bytes of the body say so.
    pub at: Range<usize>,
    /// Whether there is another value for the same place, and readers differ in which one counts.
    pub ambiguous: bool,
}

/// A body that was read, with all texts in it that hold references.
#[derive(Clone, Debug)]
pub struct BodyText {
    bytes: Bytes,
    kind: BodyKind,
    found: Vec<Found>,
    /// What is wrong with a body that holds a reference.
    fault: Option<&'static str>,
}

impl BodyText {
    /// Reads a whole body.
    #[must_use]
    pub fn read(bytes: Bytes, kind: BodyKind) -> Self {
        let mut text = Self { bytes, kind, found: Vec::new(), fault: None };
        if !text.may_refer() {
            return text;
        }
        let found = match &text.kind {
            BodyKind::Json => json::find(&text.bytes),
            BodyKind::Message => json::find(&text.bytes).map(in_message),
            BodyKind::Form => Ok(form::find(&text.bytes)),
            BodyKind::Multipart { boundary } => multipart::find(&text.bytes, boundary),
            BodyKind::Whole => Ok(Vec::new()),
        };
        match found {
            Ok(found) => text.found = found,
            Err(fault) => text.fault = Some(fault),
        }
        text
    }

    /// Whether it may hold a reference, whose characters may be escaped. Nearly no body does, and then
    /// nothing else is looked at.
    fn may_refer(&self) -> bool {
        let escape: &[u8] = match self.kind {
            BodyKind::Json | BodyKind::Message => b"\\u00",
            BodyKind::Form => b"%",
            BodyKind::Multipart { .. } => return reference::occurs(&self.bytes),
            BodyKind::Whole => return false,
        };
        reference::occurs(&self.bytes) || memmem::find(&self.bytes, escape).is_some()
    }

    /// The body as it was sent.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How it is written.
    #[must_use]
    pub fn kind(&self) -> &BodyKind {
        &self.kind
    }

    /// The texts that hold references.
    #[must_use]
    pub fn found(&self) -> &[Found] {
        &self.found
    }

    /// Why it cannot be read, though it holds a reference.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        self.fault
    }
}

fn in_message(mut found: Vec<Found>) -> Vec<Found> {
    for found in &mut found {
        if let Place::Json(path) = &mut found.place {
            found.place = Place::Message(std::mem::take(path));
        }
    }
    found
}

/// Whether the head says that the body is coded, so that it cannot be searched as it is.
#[must_use]
pub fn is_coded(headers: &HeaderMap) -> bool {
    let identity = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    !headers.get_all(header::CONTENT_ENCODING).iter().all(identity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn the_type_says_which_slots_there_are() {
        let kind = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(text));
            BodyKind::of(&headers)
        };
        for json in
            ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"]
        {
            assert_eq!(kind(json), Some(BodyKind::Json), "{json}");
        }
        assert_eq!(kind("application/x-www-form-urlencoded;charset=UTF-8"), Some(BodyKind::Form));
        let multipart =
            |boundary: &str| Some(BodyKind::Multipart { boundary: boundary.as_bytes().into() });
        assert_eq!(kind("multipart/form-data; boundary=abc"), multipart("abc"));
        assert_eq!(kind("multipart/form-data; x=1; Boundary=\"a b\""), multipart("a b"));
        for other in [
            "text/plain",
            "multipart/form-data",
            "multipart/mixed; boundary=a",
            "application/jsonl",
            "",
        ] {
            assert_eq!(kind(other), None, "{other}");
        }
        let mut two = HeaderMap::new();
        two.append(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        two.append(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        assert_eq!(BodyKind::of(&two), None);
    }
}
