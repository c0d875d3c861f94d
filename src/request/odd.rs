//! What whoever read a head saw of it that the head as it was read does not show.

/// Why a head has more than one meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odd {
    /// It says more than once where its body ends (RFC 9112 section 6.3).
    Framing,
    /// Its target has a fragment, which no request has (RFC 9112 section 3.2).
    Fragment,
}

impl Odd {
    /// What is wrong.
    #[must_use]
    pub fn detail(self) -> &'static str {
        match self {
            Self::Framing => "The request has more than one Content-Length or Transfer-Encoding",
            Self::Fragment => "The target has a fragment (`#`), which belongs to the client alone",
        }
    }
}
