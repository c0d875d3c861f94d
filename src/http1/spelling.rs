//! How a client writes the names of its fields.
//!
//! HTTP minds no case, some origins do, and so an origin gets names as the client wrote them. Nearly all
//! clients write all names in one of two ways, and a way can be told in one word.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderName;
use httparse::Header;

/// How the names of the fields of a head are written. Goes with a request, among its extensions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Spelling {
    /// `content-type`. What HTTP/2 has.
    #[default]
    Lower,
    /// `Content-Type`.
    Title,
    /// Each in its own way: the names as they stood. Others are written in lower case.
    Each(Arc<[Bytes]>),
}

impl Spelling {
    /// How these names of a head are written.
    pub(super) fn of(head: &Bytes, fields: &[Header<'_>]) -> Self {
        let names = || fields.iter().map(|field| field.name.as_bytes());
        if names().all(|name| !name.iter().any(u8::is_ascii_uppercase)) {
            Self::Lower
        } else if names().all(is_title) {
            Self::Title
        } else {
            Self::Each(names().map(|name| head.slice_ref(name)).collect())
        }
    }

    /// Writes a name in this way.
    pub(super) fn write(&self, name: &HeaderName, out: &mut Vec<u8>) {
        let lower = name.as_str().as_bytes();
        match self {
            Self::Lower => out.extend_from_slice(lower),
            Self::Title => {
                let start = out.len();
                out.extend_from_slice(lower);
                let mut begins = true;
                for byte in &mut out[start..] {
                    if begins {
                        byte.make_ascii_uppercase();
                    }
                    begins = *byte == b'-';
                }
            }
            Self::Each(names) => {
                let own = names.iter().find(|own| own.eq_ignore_ascii_case(lower));
                out.extend_from_slice(own.map_or(lower, |own| own));
            }
        }
    }
}

/// Whether each word of a name begins with a capital, and has no other.
fn is_title(name: &[u8]) -> bool {
    let mut begins = true;
    name.iter().all(|byte| {
        let title = if begins { !byte.is_ascii_lowercase() } else { !byte.is_ascii_uppercase() };
        begins = *byte == b'-';
        title
    })
}
