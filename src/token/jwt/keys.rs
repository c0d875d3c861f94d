//! The public keys of an issuer: a JSON Web Key Set (RFC 7517).
//!
//! A key is for one kind of algorithm, by what it is made of: there is no key here that a token could
//! be verified with in a way that was not meant.

use std::fmt;

use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RsaParameters,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{Algorithm, MAX_KEY_ID, json};

/// The most keys of one issuer. Those in use publish two to ten.
const MAX_KEYS: usize = 100;

/// RSA keys under 2048 bits are broken in practice, and those over 8192 cost more than they are worth.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Names a key by what it is: a digest over its material.
pub type Thumbprint = [u8; 32];

/// The keys of an issuer that tokens can be verified with.
#[derive(Debug)]
pub struct KeySet {
    keys: Box<[Key]>,
}

/// A text is no [`KeySet`], or one without a key that could be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySetError {
    /// No JSON object with a list `keys`.
    Unreadable,
    /// Over a hundred keys.
    TooMany,
    /// A private key is among them, which whoever can read the set can sign with.
    Private,
    /// No key of a kind that is understood.
    Empty,
}

impl fmt::Display for KeySetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "it is no JSON Web Key Set ({\"keys\": [...]})",
            Self::TooMany => "it has more than 100 keys",
            Self::Private => "it has a private key in it: publish the public part alone",
            Self::Empty => {
                "it has no public key for signatures (RSA from 2048 bits, P-256, P-384, Ed25519)"
            }
        })
    }
}

impl std::error::Error for KeySetError {}

impl KeySet {
    /// Reads a set. Keys of kinds that are not understood, or that are for something else than
    /// signatures, are left out (section 5).
    ///
    /// # Errors
    /// [`KeySetError`].
    pub fn parse(text: &[u8]) -> Result<Self, KeySetError> {
        let set = json::object(text).ok_or(KeySetError::Unreadable)?;
        let Some(Value::Array(all)) = set.get("keys") else { return Err(KeySetError::Unreadable) };
        if all.len() > MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        let all: Vec<_> = all.iter().filter_map(Value::as_object).collect();
        if all.iter().any(|key| is_private(key)) {
            return Err(KeySetError::Private);
        }
        let keys: Box<[Key]> = all.iter().filter_map(|key| Key::read(key)).collect();
        if keys.is_empty() { Err(KeySetError::Empty) } else { Ok(Self { keys }) }
    }

    /// The key of this name for this algorithm. A token that names none means the only one that fits.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&Key> {
        let named = |key: &&Key| id.is_none_or(|id| key.id.as_deref() == Some(id));
        let mut fitting = self.keys.iter().filter(|key| key.is_for(algorithm)).filter(named);
        fitting.next().filter(|_| fitting.next().is_none())
    }

    /// Whether the key is among them.
    #[must_use]
    pub fn has(&self, key: Thumbprint) -> bool {
        self.keys.iter().any(|own| own.thumbprint == key)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// Whether both have the same keys under the same names, in the same order.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        let same = |(a, b): (&Key, &Key)| {
            (&a.id, a.algorithm, a.thumbprint) == (&b.id, b.algorithm, b.thumbprint)
        };
        self.keys.len() == other.keys.len() && self.keys.iter().zip(&other.keys).all(same)
    }
}

/// A symmetric key, or the private part of another.
fn is_private(key: &Map<String, Value>) -> bool {
    key.contains_key("d") || key.contains_key("k")
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    id: Option<Box<str>>,
    /// The one algorithm that it is for, if it says so.
    algorithm: Option<Algorithm>,
    material: Material,
    thumbprint: Thumbprint,
}

#[derive(Debug)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Key {
    /// None when it is of another kind, for another use, or damaged.
    fn read(key: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| key.get(name).map(|value| value.as_str().ok_or(()));
        let text = |name: &str| text(name).transpose().ok();
        if text("use")?.is_some_and(|meant| meant != "sig") {
            return None;
        }
        let verifies =
            |all: &Value| all.as_array().is_some_and(|a| a.iter().any(|o| o == "verify"));
        if key.get("key_ops").is_some_and(|all| !verifies(all)) {
            return None;
        }
        let algorithm = match text("alg")? {
            Some(name) => Some(Algorithm::named(name)?),
            None => None,
        };
        let id = text("kid")?.filter(|id| id.len() <= MAX_KEY_ID).map(Into::into);
        let material = Material::read(key)?;
        let thumbprint = material.digest();
        let key = Self { id, algorithm, material, thumbprint };
        // A key for an algorithm that it cannot be for is nobody's.
        algorithm.is_none_or(|algorithm| key.material.is_for(algorithm)).then_some(key)
    }

    fn is_for(&self, algorithm: Algorithm) -> bool {
        self.algorithm.is_none_or(|own| own == algorithm) && self.material.is_for(algorithm)
    }

    pub(super) fn thumbprint(&self) -> Thumbprint {
        self.thumbprint
    }

    pub(super) fn verifies(&self, by: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let checked =
            match &self.material {
                Material::Rsa { n, e } => {
                    let Some(parameters) = rsa(by) else { return false };
                    RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
                }
                Material::P256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                    .verify(message, signature),
                Material::P384(point) => UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point)
                    .verify(message, signature),
                Material::Ed25519(point) => {
                    UnparsedPublicKey::new(&ED25519, point).verify(message, signature)
                }
            };
        self.is_for(by) && checked.is_ok()
    }
}

fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::Rs256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::Ps256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::Ps384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::Ps512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa => None,
    }
}

impl Material {
    fn read(key: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let bytes = |name: &str| BASE64URL_NOPAD.decode(text(name)?.as_bytes()).ok();
        let point = |length: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            // Uncompressed (SEC 1 section 2.3.3); whether it is on the curve, the verifier says.
            (x.len() == length && y.len() == length).then(|| [&[4][..], &x, &y].concat())
        };
        match (text("kty")?, text("crv")) {
            ("RSA", _) => {
                let (n, e) = (bytes("n")?, bytes("e")?);
                let bits = n.len() * 8 - n.first()?.leading_zeros() as usize;
                let odd = e.last().is_some_and(|last| last % 2 == 1) && e.as_slice() != [1];
                (RSA_BITS.contains(&bits) && n.first() != Some(&0) && odd)
                    .then_some(Self::Rsa { n, e })
            }
            ("EC", Some("P-256")) => point(32).map(Self::P256),
            ("EC", Some("P-384")) => point(48).map(Self::P384),
            ("OKP", Some("Ed25519")) => bytes("x").filter(|x| x.len() == 32).map(Self::Ed25519),
            _ => None,
        }
    }

    fn is_for(&self, algorithm: Algorithm) -> bool {
        match self {
            Self::Rsa { .. } => rsa(algorithm).is_some(),
            Self::P256(_) => algorithm == Algorithm::Es256,
            Self::P384(_) => algorithm == Algorithm::Es384,
            Self::Ed25519(_) => algorithm == Algorithm::EdDsa,
        }
    }

    fn digest(&self) -> Thumbprint {
        let mut digest = Sha256::new();
        // Each part with its length before it, so that no two keys are one text.
        let parts: [&[u8]; 3] = match self {
            Self::Rsa { n, e } => [b"RSA", n, e],
            Self::P256(point) => [b"P-256", point, b""],
            Self::P384(point) => [b"P-384", point, b""],
            Self::Ed25519(point) => [b"Ed25519", point, b""],
        };
        for part in parts {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }
}
