//! The primitives, each a thin wrapper whose first line is its formula. Everything else in the vault
//! is built from these four and [`Encoder`].

use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

use crate::secret::Secret;

use super::error::Fault;

/// A 256-bit key that lives on the stack for one operation, and is wiped after it.
pub(super) type Key = Zeroizing<[u8; 32]>;

/// Length of a nonce: 96 bits, the size that AES-GCM is made for (NIST SP 800-38D section 8.2.2).
pub(super) const NONCE: usize = 12;
/// Length of an authentication tag.
pub(super) const TAG: usize = 16;

/// The system's random bytes.
pub(super) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, Fault> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(&mut *bytes).map_err(|_| Fault::NoRandomness)?;
    Ok(bytes)
}

/// `HKDF-Extract[salt](ikm)`: RFC 5869 with SHA-256.
pub(super) fn extract(salt: &[u8], ikm: &[u8]) -> Key {
    let (mut prk, _) = Hkdf::<Sha256>::extract(Some(salt), ikm);
    let key = Zeroizing::new(prk.into());
    prk.as_mut_slice().zeroize();
    key
}

/// `HKDF-Expand[prk](info, 32)`: RFC 5869 with SHA-256.
pub(super) fn expand(prk: &[u8; 32], info: &Encoder) -> Key {
    let mut key = Key::default();
    Hkdf::<Sha256>::from_prk(prk)
        .expect("a PRK of 32 bytes is as long as the hash")
        .expand(&info.0, &mut *key)
        .expect("32 bytes are fewer than 255 blocks");
    key
}

/// `HMAC-SHA-256[key](message)`.
pub(super) fn mac(key: &[u8; 32], message: &Encoder) -> [u8; 32] {
    let mut mac = mac_stream(key);
    mac.update(&message.0);
    mac.finalize().into_bytes().into()
}

/// The same, for messages that come in pieces.
pub(super) fn mac_stream(key: &[u8; 32]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

/// Whether two MACs are the same, in a time that does not depend on where they differ.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// `nonce || AES-256-GCM[key, nonce](plaintext, aad) || tag`, with a random nonce.
pub(super) fn seal(key: &[u8; 32], aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, Fault> {
    let nonce = *random::<NONCE>()?;
    // Of full size from the start: the plaintext is encrypted where it is first copied to.
    let mut sealed = Vec::with_capacity(NONCE + plaintext.len() + TAG);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plaintext);
    let (_, body) = sealed.split_at_mut(NONCE);
    let tag = Aes256Gcm::new(key.into())
        .encrypt_inout_detached(&Nonce::from(nonce), aad, body.into())
        .expect("a secret is shorter than the 64 GiB that AES-GCM can take");
    sealed.extend_from_slice(&tag);
    Ok(sealed)
}

/// The sealed bytes are not what was sealed under this key for this place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DoesNotOpen;

/// The reverse of [`seal`]. The tag is checked before a byte is decrypted.
pub(super) fn open(key: &[u8; 32], aad: &[u8], sealed: &[u8]) -> Result<Secret, DoesNotOpen> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE>().ok_or(DoesNotOpen)?;
    let (body, tag) = rest.split_last_chunk::<TAG>().ok_or(DoesNotOpen)?;
    let mut plaintext = Zeroizing::new(body.to_vec());
    Aes256Gcm::new(key.into())
        .decrypt_inout_detached(
            &Nonce::from(*nonce),
            aad,
            plaintext.as_mut_slice().into(),
            &Tag::from(*tag),
        )
        .map_err(|_| DoesNotOpen)?;
    Ok(Secret::new(std::mem::take(&mut *plaintext)))
}

/// Builds the bytes that AADs, MACs and key derivations are over. Fields have a fixed order for
/// each label, and every field of variable length carries its length, so that no two lists of fields
/// give the same bytes.
pub(super) struct Encoder(Vec<u8>);

impl Encoder {
    /// `label` says what the fields are, and the version of that.
    pub(super) fn new(label: &str) -> Self {
        Self(Vec::with_capacity(128)).text(label)
    }

    /// `u32 big endian length || bytes`.
    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        let length = u32::try_from(bytes.len()).expect("no field has 4 GiB");
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    /// As [`Self::bytes`], of the UTF-8.
    pub(super) fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// Eight bytes, big endian, two's complement.
    pub(super) fn int(mut self, value: i64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// The count as [`Self::int`], then each text.
    pub(super) fn list(self, texts: &[impl AsRef<str>]) -> Self {
        let count = i64::try_from(texts.len()).expect("no list has 2^63 entries");
        texts.iter().fold(self.int(count), |to, text| to.text(text.as_ref()))
    }

    /// A list of none or one.
    pub(super) fn option(self, text: Option<&str>) -> Self {
        self.list(text.as_slice())
    }

    /// A row of a table: a one, and then the values.
    pub(super) fn row() -> Self {
        Self(Vec::with_capacity(256)).byte(1)
    }

    /// The end of a table's rows: a zero.
    pub(super) fn end_of_rows() -> Self {
        Self(Vec::with_capacity(1)).byte(0)
    }

    /// One byte.
    pub(super) fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    /// The bytes.
    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;
    use std::collections::HashSet;

    const KEY: [u8; 32] = [9; 32];

    #[test]
    fn no_changed_byte_opens() {
        let sealed = seal(&KEY, b"place", b"the secret itself").unwrap();
        let opened = open(&KEY, b"place", &sealed).unwrap();
        assert!(opened.expose(|bytes| bytes == b"the secret itself"));
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut edited = sealed.clone();
                edited[at] ^= 1 << bit;
                assert!(open(&KEY, b"place", &edited).is_err(), "byte {at}, bit {bit}");
            }
            assert!(open(&KEY, b"place", &sealed[..at]).is_err(), "cut at {at}");
        }
        assert!(open(&KEY, b"plac", &sealed).is_err());
        assert!(open(&[8; 32], b"place", &sealed).is_err());
    }

    #[test]
    fn nonces_do_not_repeat() {
        let mut seen = HashSet::new();
        for _ in 0..100_000 {
            let sealed = seal(&KEY, b"", b"").unwrap();
            assert!(seen.insert(*sealed.first_chunk::<NONCE>().unwrap()));
        }
    }

    type Fields = (String, i64, Vec<String>, Option<String>, Vec<u8>);

    fn encode((text, int, list, option, bytes): &Fields) -> Vec<u8> {
        Encoder::new("test")
            .text(text)
            .int(*int)
            .list(list)
            .option(option.as_deref())
            .bytes(bytes)
            .finish()
    }

    /// Short texts over few letters, so that moving a letter from one field to the next is likely.
    fn fields() -> impl Strategy<Value = Fields> {
        let text = "[ab\\x00]{0,3}";
        (
            text,
            0..3_i64,
            prop::collection::vec(text, 0..3),
            prop::option::of(text),
            prop::collection::vec(0..2_u8, 0..3),
        )
    }

    proptest! {
        #[test]
        fn different_fields_encode_differently(a in fields(), b in fields()) {
            prop_assert_eq!(a == b, encode(&a) == encode(&b));
        }
    }

    #[test]
    fn moving_a_letter_between_fields_changes_the_bytes() {
        let two = |a, b| Encoder::new("t").text(a).text(b).finish();
        assert_ne!(two("ab", "c"), two("a", "bc"));
        let list = |texts: &[&str]| Encoder::new("t").list(texts).finish();
        assert_ne!(list(&["a,b"]), list(&["a", "b"]));
        assert_ne!(
            Encoder::new("t").option(None).finish(),
            Encoder::new("t").option(Some("")).finish()
        );
    }
}
