//! How a client writes the names of its fields.
//!
//! HTTP minds no case, some origins do, and so an origin gets names as the client wrote them. Nearly all
//! clients write all names in one of two ways, and a way can be told in one word.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderName;

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

/// Looks at the names of a head one after another.
pub(super) struct Speller {
    /// Whether no name so far has a capital.
    lower: bool,
    /// Whether each word of each name so far begins with a capital, and has no other.
    title: bool,
}

impl Default for Speller {
    fn default() -> Self {
        Self { lower: true, title: true }
    }
}

impl Speller {
    pub(super) fn look(&mut self, name: &[u8]) {
        let mut begins = true;
        for byte in name {
            let capital = byte.is_ascii_uppercase();
            self.lower &= !capital;
            self.title &= if begins { !byte.is_ascii_lowercase() } else { !capital };
            begins = *byte == b'-';
        }
    }

    /// The way of all names; None where it takes [`Spelling::Each`] to tell.
    pub(super) fn one_way(&self) -> Option<Spelling> {
        match (self.lower, self.title) {
            (true, _) => Some(Spelling::Lower),
            (false, true) => Some(Spelling::Title),
            (false, false) => None,
        }
    }
}

impl Spelling {
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
