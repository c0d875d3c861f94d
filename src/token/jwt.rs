//! JSON Web Tokens (RFC 7519) that others issue: read strictly, verified with the issuer's public keys,
//! and held to what is expected of them (RFC 8725).
//!
//! There is no way to what a token claims but through its signature: [`Unverified`] tells its issuer,
//! and [`Verified`] is made by a key alone. Nothing in the token says which key that is, but for the
//! name of one of the issuer's own: `jku`, `jwk`, `x5u` and `x5c` are not looked at.

mod json;
mod keys;

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};

pub use keys::{KeySet, KeySetError, Thumbprint};

/// The longest token that is read. Those of Kubernetes have 1 KiB, of identity providers 1 to 4 KiB;
/// what carries more than 8 KiB of claims fits into few servers' heads.
pub const MAX_LENGTH: usize = 8 * 1024;

/// The longest name of a key. Those in use are digests and UUIDs.
const MAX_KEY_ID: usize = 256;

/// Whether a text is meant as a token of this kind: three parts with dots between them. None of ours
/// has two dots in it.
#[must_use]
pub fn is_shaped(text: &str) -> bool {
    text.bytes().filter(|b| *b == b'.').count() == 2
}

/// A way to sign (RFC 7518 section 3.1, RFC 8037). There is none without a key, and none with a key
/// that the verifier could sign with too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // They are called as in the RFC.
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    /// All of them, by their registered names.
    pub const ALL: [(&'static str, Self); 9] = [
        ("RS256", Self::Rs256),
        ("RS384", Self::Rs384),
        ("RS512", Self::Rs512),
        ("PS256", Self::Ps256),
        ("PS384", Self::Ps384),
        ("PS512", Self::Ps512),
        ("ES256", Self::Es256),
        ("ES384", Self::Es384),
        ("EdDSA", Self::EdDsa),
    ];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(own, _)| *own == name).map(|(_, algorithm)| *algorithm)
    }
}

/// Why a token is not good. For the operator alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No three parts of base64url, or a part that is no JSON object, or one that says something twice.
    Unreadable,
    /// Over [`MAX_LENGTH`].
    TooLong,
    /// Its algorithm is none, unknown, or not one of those that are accepted.
    Algorithm,
    /// It demands an extension that is not understood (`crit`), or is about another token (`cty`).
    Critical,
    /// It is a token for something else (`typ`).
    Type,
    /// Nobody who is configured has issued it.
    Issuer,
    /// No key of its issuer has its name and fits its algorithm.
    UnknownKey,
    /// It was not signed with that key, or not as it is.
    Signature,
    /// It is for somebody else.
    Audience,
    /// It does not say when it ends.
    NoExpiry,
    /// It was good once.
    Expired,
    /// It will be good later, or was issued in the future.
    NotYet,
    /// A claim that is asked for is missing, or cannot be what it is asked for.
    Claim,
    /// Its claims name nobody that the config knows as an agent.
    NoAgent,
}

impl Fault {
    /// As the audit record has it.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unreadable => "the JWT cannot be read",
            Self::TooLong => "the JWT is too long",
            Self::Algorithm => "the JWT's algorithm is not accepted",
            Self::Critical => "the JWT demands an extension",
            Self::Type => "the JWT is of another type",
            Self::Issuer => "the JWT's issuer is not configured",
            Self::UnknownKey => "the JWT's key is not one of its issuer's",
            Self::Signature => "the JWT's signature is wrong",
            Self::Audience => "the JWT is for another audience",
            Self::NoExpiry => "the JWT has no expiry",
            Self::Expired => "the JWT has expired",
            Self::NotYet => "the JWT is not valid yet",
            Self::Claim => "a claim of the JWT is missing or does not fit",
            Self::NoAgent => "the JWT's claims are mapped to no agent",
        }
    }
}

/// A token before its signature was looked at.
pub struct Unverified<'t> {
    algorithm: Algorithm,
    key_id: Option<Box<str>>,
    kind: Option<Box<str>>,
    claims: Map<String, Value>,
    signed: &'t str,
    signature: Vec<u8>,
}

impl<'t> Unverified<'t> {
    /// Reads the compact form (RFC 7515 section 3.1).
    ///
    /// # Errors
    /// A [`Fault`] of the form, the algorithm, or the header.
    pub fn read(text: &'t str) -> Result<Self, Fault> {
        if text.len() > MAX_LENGTH {
            return Err(Fault::TooLong);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Fault::Unreadable)?;
        let (header, claims) = signed.split_once('.').ok_or(Fault::Unreadable)?;
        let header = object(header)?;
        let algorithm = header.get("alg").and_then(Value::as_str).and_then(Algorithm::named);
        let algorithm = algorithm.ok_or(Fault::Algorithm)?;
        // Nothing that could be demanded is spoken here, and an empty list is no list (section 4.1.11).
        if header.contains_key("crit") || header.contains_key("cty") {
            return Err(Fault::Critical);
        }
        Ok(Self {
            algorithm,
            key_id: optional_text(&header, "kid")?,
            kind: optional_text(&header, "typ")?,
            claims: object(claims)?,
            signed,
            signature: decode(signature)?,
        })
    }

    /// Who it says has issued it. One text: an issuer has one name.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// Whether it says that it is signed in one of these ways.
    ///
    /// # Errors
    /// [`Fault::Algorithm`].
    pub fn signed_by(&self, allowed: &[Algorithm]) -> Result<(), Fault> {
        if allowed.contains(&self.algorithm) { Ok(()) } else { Err(Fault::Algorithm) }
    }

    /// What it claims, if its issuer has signed it: with an algorithm of `allowed`, and with a key of
    /// its own that is for this algorithm.
    ///
    /// # Errors
    /// [`Fault::Algorithm`], [`Fault::UnknownKey`] or [`Fault::Signature`].
    pub fn verify(self, keys: &KeySet, allowed: &[Algorithm]) -> Result<Verified, Fault> {
        self.signed_by(allowed)?;
        let key = keys.find(self.key_id.as_deref(), self.algorithm).ok_or(Fault::UnknownKey)?;
        if !key.verifies(self.algorithm, self.signed.as_bytes(), &self.signature) {
            // Without a name the issuer may mean a key that it has made since.
            return Err(if self.key_id.is_some() { Fault::Signature } else { Fault::UnknownKey });
        }
        Ok(Verified { claims: self.claims, kind: self.kind, key: key.thumbprint() })
    }
}

/// What an issuer has signed. What it is worth, [`Verified::check`] says.
#[derive(Debug)]
pub struct Verified {
    claims: Map<String, Value>,
    kind: Option<Box<str>>,
    key: Thumbprint,
}

/// What is expected of a token, whoever it is about.
#[derive(Clone, Debug, Hash)]
pub struct Expected {
    /// Its issuer, to the letter.
    pub issuer: Box<str>,
    /// Whom it must be for: one of these.
    pub audiences: Box<[Box<str>]>,
    /// Of which types it may be. One that says nothing is of any.
    pub types: Box<[Box<str>]>,
    /// How far clocks may be apart, in seconds.
    pub leeway: i64,
}

impl Verified {
    /// Holds it to what is expected at the time `now`, in seconds since the Unix epoch. Returns the
    /// moment from which it is good no more, leeway included.
    ///
    /// # Errors
    /// The [`Fault`] that was found first.
    pub fn check(&self, expected: &Expected, now: i64) -> Result<i64, Fault> {
        self.check_type(&expected.types)?;
        if self.claims.get("iss").and_then(Value::as_str) != Some(&expected.issuer) {
            return Err(Fault::Issuer);
        }
        let meant = |value: &Value| {
            value.as_str().is_some_and(|own| expected.audiences.iter().any(|one| **one == *own))
        };
        let ours = match self.claims.get("aud") {
            Some(Value::Array(all)) => all.iter().all(Value::is_string) && all.iter().any(meant),
            Some(one) => meant(one),
            None => false,
        };
        if !ours {
            return Err(Fault::Audience);
        }
        let end = self.moment("exp")?.ok_or(Fault::NoExpiry)?.saturating_add(expected.leeway);
        if now >= end {
            return Err(Fault::Expired);
        }
        let ahead = now.saturating_add(expected.leeway);
        let later = [self.moment("nbf")?, self.moment("iat")?].into_iter().flatten();
        if later.into_iter().any(|moment| moment > ahead) {
            return Err(Fault::NotYet);
        }
        Ok(end)
    }

    /// A type is a media type, of which `application/` may be left out (RFC 7515 section 4.1.9).
    fn check_type(&self, accepted: &[Box<str>]) -> Result<(), Fault> {
        let Some(kind) = &self.kind else { return Ok(()) };
        let short = |kind: &str| {
            let kind = kind.to_ascii_lowercase();
            kind.strip_prefix("application/").map(str::to_owned).unwrap_or(kind)
        };
        let known = accepted.iter().any(|one| short(one) == short(kind));
        if known { Ok(()) } else { Err(Fault::Type) }
    }

    /// A time in seconds (`NumericDate`, RFC 7519 section 2). Fractions of a second are left out.
    fn moment(&self, name: &str) -> Result<Option<i64>, Fault> {
        // Whole numbers beyond that are not exact as the floating numbers that JSON means.
        const MOST: f64 = 9_007_199_254_740_992.0;
        let Some(value) = self.claims.get(name) else { return Ok(None) };
        let seconds = value.as_f64().filter(|seconds| seconds.abs() <= MOST);
        seconds.map(|seconds| Some(seconds.floor() as i64)).ok_or(Fault::Claim)
    }

    /// A claim, by its name or by its way.
    #[must_use]
    pub fn claim(&self, path: &ClaimPath) -> Option<&Value> {
        path.0.split_first().and_then(|(first, rest)| {
            let first = self.claims.get(&**first)?;
            rest.iter().try_fold(first, |value, name| value.as_object()?.get(&**name))
        })
    }

    /// The key that it was signed with.
    #[must_use]
    pub fn key(&self) -> Thumbprint {
        self.key
    }

    /// When the signature is worth nothing any more, if it says so: to forget it.
    #[must_use]
    pub fn expiry(&self) -> Option<i64> {
        self.moment("exp").ok().flatten()
    }
}

/// Where a claim is: its name, or a JSON pointer (RFC 6901) to a member within a claim, such as
/// `/kubernetes.io/serviceaccount/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath(Box<[Box<str>]>);

/// A text is no [`ClaimPath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimPathError;

impl fmt::Display for ClaimPathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected the name of a claim, or a JSON pointer into one, such as /realm/name")
    }
}

impl std::error::Error for ClaimPathError {}

impl FromStr for ClaimPath {
    type Err = ClaimPathError;

    fn from_str(text: &str) -> Result<Self, ClaimPathError> {
        let Some(pointer) = text.strip_prefix('/') else {
            return if text.is_empty() { Err(ClaimPathError) } else { Ok(Self::named(text)) };
        };
        let unescaped = |part: &str| {
            let plain = part.replace("~1", "/");
            let sound = !part.is_empty() && !part.replace("~0", "").replace("~1", "").contains('~');
            sound.then(|| plain.replace("~0", "~").into_boxed_str()).ok_or(ClaimPathError)
        };
        pointer.split('/').map(unescaped).collect::<Result<_, _>>().map(Self)
    }
}

impl ClaimPath {
    /// The claim of this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self([name.into()].into())
    }
}

fn decode(part: &str) -> Result<Vec<u8>, Fault> {
    BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| Fault::Unreadable)
}

fn object(part: &str) -> Result<Map<String, Value>, Fault> {
    json::object(&decode(part)?).ok_or(Fault::Unreadable)
}

/// A text of the header, if it is there.
fn optional_text(header: &Map<String, Value>, name: &str) -> Result<Option<Box<str>>, Fault> {
    match header.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if text.len() <= MAX_KEY_ID => Ok(Some(text.as_str().into())),
        Some(_) => Err(Fault::Unreadable),
    }
}

#[cfg(test)]
mod tests;
