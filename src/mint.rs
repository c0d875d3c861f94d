//! Minting: what is sent to get a short-lived value for a long-lived secret, and what is made of the
//! answer.
//!
//! Pure: the call is made by whoever asks, who also brings the time. What an endpoint says is never
//! repeated, because it may quote what it was sent; errors come from a closed list.

pub mod authorize;
mod github;
mod jwt;
mod material;
mod oauth;
mod sts;
mod totp;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

pub use material::{Material, MaterialError, NATURAL};
pub use sts::{session_keys, with_web_identity};

use crate::credential::{Endpoint, Kind};
use crate::secret::Secret;

/// How long a token is taken to be good for when its server does not say: shorter than any server's
/// own default that is known.
const UNSAID: Duration = Duration::from_mins(5);

/// The longest that a token is kept, whatever its server says: what was withdrawn there is noticed
/// within it.
const LONGEST: Duration = Duration::from_hours(24);

/// The most bytes of a token: more than a header can carry.
const MOST: usize = 16 * 1024;

/// A call that gets a value.
pub struct Call {
    /// Where it goes.
    pub endpoint: Endpoint,
    /// How.
    pub method: Method,
    /// Its fields. Those with a secret in them are marked sensitive.
    pub headers: HeaderMap,
    /// Its body, in memory that is wiped.
    pub body: Bytes,
}

/// A value, and how long it is good for.
pub struct Minted {
    /// What enters requests.
    pub value: Secret,
    /// From the moment the call was sent.
    pub lifetime: Duration,
    /// What lies in the vault has to be replaced by this before the value is used.
    pub replacement: Option<Secret>,
}

/// Why there is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MintError {
    /// What it is made from is refused: trying again will not help.
    Refused(&'static str),
    /// It went wrong, and may go better later.
    Failed(&'static str),
    /// What lies in the vault cannot be used for this kind.
    Material(MaterialError),
}

impl fmt::Display for MintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) | Self::Failed(why) => f.write_str(why),
            Self::Material(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for MintError {}

impl From<MaterialError> for MintError {
    fn from(error: MaterialError) -> Self {
        Self::Material(error)
    }
}

/// The call that gets a value at `now`, in seconds of the server's Unix time.
///
/// # Errors
/// [`MintError::Material`] when the secret is not what the kind needs.
pub fn call(kind: &Kind, material: &Material, now: i64) -> Result<Call, MintError> {
    match kind {
        Kind::Oauth(oauth) => oauth::call(oauth, material, now),
        Kind::Aws(aws) => sts::call(aws.role.as_ref().ok_or(NOT_MINTED)?, material, now),
        Kind::GithubApp(app) => github::call(app, material, now),
        Kind::Totp(_) | Kind::Hmac(_) | Kind::ClientCertificate | Kind::Basic(_) => Err(NOT_MINTED),
    }
}

/// What the answer comes to.
///
/// # Errors
/// [`MintError::Refused`] or [`MintError::Failed`].
pub fn answer(
    kind: &Kind,
    material: &Material,
    status: StatusCode,
    body: &Secret,
) -> Result<Minted, MintError> {
    match kind {
        Kind::Oauth(oauth) => oauth::answer(oauth, material, status, body),
        Kind::Aws(aws) => sts::answer(aws.role.as_ref().ok_or(NOT_MINTED)?, status, body),
        Kind::GithubApp(_) => github::answer(status, body),
        Kind::Totp(_) | Kind::Hmac(_) | Kind::ClientCertificate | Kind::Basic(_) => Err(NOT_MINTED),
    }
}

/// The value of this moment, for a kind that asks nobody for it.
///
/// # Errors
/// [`MintError::Material`] when the secret is not what the kind needs.
pub fn of_the_moment(kind: &Kind, material: &Material, now: i64) -> Result<Secret, MintError> {
    match kind {
        Kind::Totp(totp) => Ok(totp::password(*totp, &material.seed()?, now)),
        Kind::Oauth(_)
        | Kind::Aws(_)
        | Kind::GithubApp(_)
        | Kind::Hmac(_)
        | Kind::ClientCertificate
        | Kind::Basic(_) => Err(NOT_MINTED),
    }
}

const NOT_MINTED: MintError = MintError::Failed("nothing is made of this credential");

/// A token that can stand in a header.
fn token(text: &str) -> Result<Secret, MintError> {
    let fits = (1..=MOST).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if !fits {
        return Err(MintError::Failed("the token that it answered with cannot stand in a header"));
    }
    Ok(Secret::new(text.as_bytes().to_vec()))
}
