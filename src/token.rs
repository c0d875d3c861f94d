//! The text of an agent's token, `lct_<id>_<secret><checksum>`, and the MAC that the vault keeps in
//! its stead.
//!
//! Lower-case letters, digits and `_` only: it passes unescaped through shells, URLs and headers. The
//! checksum tells a mistyped token from a revoked one without asking the vault, and lets secret
//! scanners know one when they see it.

pub mod jwt;
pub mod run;

use std::fmt;
use std::sync::LazyLock;

use data_encoding::{Encoding, Specification};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq as _};
use zeroize::Zeroizing;

use crate::agent::TokenRecord;
use crate::reference::Name;

/// What every token starts with.
pub const PREFIX: &str = "lct_";

/// 40 random bits: enough that the ids of one vault do not meet, short enough to read out.
const ID_BYTES: usize = 5;
/// 256 bits: nobody guesses it, however fast the check is.
const SECRET_BYTES: usize = 32;

const ID_LENGTH: usize = 8;
const SECRET_LENGTH: usize = 52;
const CRC_LENGTH: usize = 7;
/// The length of every token, in bytes: 72.
pub const LENGTH: usize = PREFIX.len() + ID_LENGTH + 1 + SECRET_LENGTH + CRC_LENGTH;

/// Base32 as in RFC 4648 section 6, in lower case and without padding.
static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut base32 = Specification::new();
    base32.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    base32.encoding().expect("32 distinct ASCII symbols are a base")
});

/// A new token: shown once, then only its MAC is left.
pub struct Token(Zeroizing<String>);

impl Token {
    /// Makes one.
    ///
    /// # Errors
    /// When the operating system has no random bytes to give.
    pub fn mint() -> Result<Self, getrandom::Error> {
        Self::mint_as(PREFIX)
    }

    /// One that begins otherwise, for somebody else than an agent: as long as [`PREFIX`].
    pub(crate) fn mint_as(prefix: &str) -> Result<Self, getrandom::Error> {
        debug_assert_eq!(prefix.len(), PREFIX.len(), "ids stand at one place");
        let mut random = Zeroizing::new([0; ID_BYTES + SECRET_BYTES]);
        getrandom::fill(&mut *random)?;
        let (id, secret) = random.split_at(ID_BYTES);
        // Of full size from the start, so that no outgrown copy stays in memory.
        let mut text = Zeroizing::new(String::with_capacity(LENGTH));
        text.push_str(prefix);
        BASE32.encode_append(id, &mut text);
        text.push('_');
        BASE32.encode_append(secret, &mut text);
        let crc = crc32fast::hash(text.as_bytes());
        BASE32.encode_append(&crc.to_be_bytes(), &mut text);
        Ok(Self(text))
    }

    /// The part that names it, in lists and records. No part of the secret.
    #[must_use]
    pub fn id(&self) -> &str {
        id_of(&self.0)
    }

    /// The token itself, to be shown once.
    #[must_use]
    pub fn into_text(self) -> Zeroizing<String> {
        self.0
    }

    /// For the MAC.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.id())
    }
}

/// Why a text is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// It does not start with `lct_`.
    Prefix,
    /// Too short or too long: a piece was not copied.
    Length,
    /// A character that no token has, or has there.
    Character,
    /// A character was mistyped.
    Checksum,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix => write!(f, "a token starts with {PREFIX}"),
            Self::Length => write!(f, "a token has {LENGTH} characters; was all of it copied?"),
            Self::Character => f.write_str("a token has only the characters a-z, 2-7 and _"),
            Self::Checksum => f.write_str("the token is mistyped: its checksum is wrong"),
        }
    }
}

impl std::error::Error for TokenError {}

/// The id of a well-formed token. Says nothing about whether a vault knows it.
///
/// # Errors
/// [`TokenError`] saying what is wrong with the text.
pub fn parse(text: &str) -> Result<&str, TokenError> {
    let rest = text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
    if text.len() != LENGTH {
        return Err(TokenError::Length);
    }
    let legal = |(at, byte): (usize, u8)| match at {
        ID_LENGTH => byte == b'_',
        _ => byte.is_ascii_lowercase() || (b'2'..=b'7').contains(&byte),
    };
    if !rest.bytes().enumerate().all(legal) {
        return Err(TokenError::Character);
    }
    let (body, crc) = text.split_at(LENGTH - CRC_LENGTH);
    if crc == BASE32.encode(&crc32fast::hash(body.as_bytes()).to_be_bytes()) {
        Ok(id_of(text))
    } else {
        Err(TokenError::Checksum)
    }
}

fn id_of(text: &str) -> &str {
    let start = PREFIX.len();
    text.get(start..start + ID_LENGTH).unwrap_or_default()
}

/// The key under which a workspace's tokens are hashed, and those before it of which some tokens are.
pub struct TokenKey {
    current: Zeroizing<[u8; 32]>,
    older: Vec<Zeroizing<[u8; 32]>>,
}

impl TokenKey {
    /// Takes over the key's bytes.
    pub(crate) fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self { current: bytes, older: Vec::new() }
    }

    /// The same, which also knows tokens that were hashed with one of these.
    #[must_use]
    pub(crate) fn or_older(mut self, keys: impl IntoIterator<Item = Zeroizing<[u8; 32]>>) -> Self {
        self.older.extend(keys);
        self
    }

    /// `HMAC-SHA-256[key](mac_input(workspace, agent, id, expires) || token)`.
    #[must_use]
    pub(crate) fn mac(
        &self,
        workspace: &Name,
        agent: &Name,
        id: &str,
        expires: Option<i64>,
        token: &str,
    ) -> [u8; 32] {
        mac_with(&self.current, &TokenRecord::mac_input(workspace, agent, id, expires), token)
    }

    /// Whether `token`, shown by `agent`, is the one of `record`. Takes the same time whatever the
    /// answer.
    #[must_use]
    pub(crate) fn verifies(&self, record: &TokenRecord, agent: &Name, token: &str) -> bool {
        let input = TokenRecord::mac_input(&record.workspace, agent, &record.id, record.expires);
        let keys = std::iter::once(&self.current).chain(&self.older);
        // All of them, whichever it is.
        let verifies = keys.fold(Choice::from(0), |verifies, key| {
            verifies | mac_with(key, &input, token).ct_eq(&record.mac)
        });
        verifies.into()
    }
}

fn mac_with(key: &[u8; 32], input: &str, token: &str) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(input.as_bytes());
    mac.update(token.as_bytes());
    mac.finalize().into_bytes().into()
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minted() -> String {
        Token::mint().unwrap().into_text().to_string()
    }

    #[test]
    fn a_minted_token_reads_back_and_needs_no_escape() {
        let token = Token::mint().unwrap();
        let id = token.id().to_owned();
        let text = token.into_text();
        assert_eq!(parse(&text), Ok(&*id));
        assert_eq!(text.len(), LENGTH);
        assert!(text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
        assert_ne!(*text, minted());
    }

    #[test]
    fn every_typing_mistake_is_noticed() {
        let text = minted();
        for at in 0..text.len() {
            for wrong in ["a", "b", "7", "_", "A", "0", "ä"] {
                let mut typed = text.clone();
                typed.replace_range(at..=at, wrong);
                assert!(typed == text || parse(&typed).is_err(), "{at} {wrong}");
            }
            assert_eq!(
                parse(&text[..at]),
                Err(match at {
                    0..4 => TokenError::Prefix,
                    _ => TokenError::Length,
                })
            );
        }
        assert_eq!(parse(&format!("{text}a")), Err(TokenError::Length));
        assert_eq!(parse(&text.to_uppercase()), Err(TokenError::Prefix));
        let mut swapped = text.into_bytes();
        let (a, b) = (swapped[20], if swapped[20] == b'a' { b'b' } else { b'a' });
        swapped[20] = b;
        assert_eq!(parse(std::str::from_utf8(&swapped).unwrap()), Err(TokenError::Checksum));
        assert_ne!(a, b);
    }

    #[test]
    fn the_mac_is_over_everything_that_the_token_is_good_for() {
        let (w, a): (Name, Name) = ("default".parse().unwrap(), "agent".parse().unwrap());
        let key = TokenKey::new(Zeroizing::new([7; 32]));
        let base = key.mac(&w, &a, "aaaaaaaa", Some(5), "lct_x");
        for other in [
            key.mac(&a, &a, "aaaaaaaa", Some(5), "lct_x"),
            key.mac(&w, &w, "aaaaaaaa", Some(5), "lct_x"),
            key.mac(&w, &a, "aaaaaaab", Some(5), "lct_x"),
            key.mac(&w, &a, "aaaaaaaa", Some(6), "lct_x"),
            key.mac(&w, &a, "aaaaaaaa", None, "lct_x"),
            key.mac(&w, &a, "aaaaaaaa", Some(5), "lct_y"),
            TokenKey::new(Zeroizing::new([8; 32])).mac(&w, &a, "aaaaaaaa", Some(5), "lct_x"),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn debug_shows_the_id_and_no_more() {
        let token = Token::mint().unwrap();
        assert_eq!(format!("{token:?}"), format!("Token({})", token.id()));
    }
}
