//! JSON pointers (RFC 6901): which value of a document is meant.

use std::fmt;
use std::str::FromStr;

use super::SlotError;

/// `/data/token`, read. Never empty: a document that is nothing but a secret has no field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    text: Box<str>,
    tokens: Box<[Box<str>]>,
}

impl Pointer {
    /// The names, and the places in lists, on the way to the value.
    #[must_use]
    pub fn tokens(&self) -> &[Box<str>] {
        &self.tokens
    }
}

impl FromStr for Pointer {
    type Err = SlotError;

    fn from_str(text: &str) -> Result<Self, SlotError> {
        let rest = text.strip_prefix('/').ok_or(SlotError::Pointer)?;
        // It is shown in records and in lists of slots, one a line.
        if text.chars().any(char::is_control) {
            return Err(SlotError::Pointer);
        }
        let token = |token: &str| {
            let mut rest = token;
            while let Some((_, after)) = rest.split_once('~') {
                if !after.starts_with(['0', '1']) {
                    return Err(SlotError::Pointer);
                }
                rest = after;
            }
            Ok(token.replace("~1", "/").replace("~0", "~").into())
        };
        let tokens = rest.split('/').map(token).collect::<Result<_, _>>()?;
        Ok(Self { text: text.into(), tokens })
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_those_of_the_rfc() {
        for (text, tokens) in [
            ("/api_key", &["api_key"][..]),
            ("/a/0/b", &["a", "0", "b"]),
            ("/a~1b/m~0n/~01", &["a/b", "m~n", "~1"]),
            ("/", &[""]),
            ("/a b/ä", &["a b", "ä"]),
        ] {
            let pointer: Pointer = text.parse().unwrap();
            assert_eq!(pointer.tokens().iter().map(|t| &**t).collect::<Vec<_>>(), tokens, "{text}");
            assert_eq!(pointer.to_string(), text);
        }
        for text in ["", "a", "/a~", "/~2", "/a\nb", "#/a"] {
            assert_eq!(text.parse::<Pointer>(), Err(SlotError::Pointer), "{text}");
        }
    }
}
