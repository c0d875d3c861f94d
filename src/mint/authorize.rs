//! Getting a refresh token from a person: an authorization code with PKCE (RFC 6749 section 4.1, 7636)
//! or a device's code (RFC 8628).

use data_encoding::BASE64URL_NOPAD;
use http::StatusCode;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::oauth::{self, encode};
use super::{Call, Material, MintError};
use crate::credential::{Endpoint, Oauth};
use crate::secret::Secret;

/// What proves that whoever brings the code is who asked for it (RFC 7636).
pub struct Pkce {
    /// Kept.
    pub verifier: String,
    /// Shown.
    pub challenge: String,
}

/// A text that nobody can guess.
///
/// # Errors
/// When the system has no randomness.
pub fn unguessable() -> Result<String, MintError> {
    let mut bytes = [0; 32];
    let failed = |_| MintError::Failed("the system has no randomness");
    getrandom::fill(&mut bytes).map_err(failed)?;
    Ok(BASE64URL_NOPAD.encode(&bytes))
}

impl Pkce {
    /// A fresh pair, by `S256`.
    ///
    /// # Errors
    /// As [`unguessable`].
    pub fn new() -> Result<Self, MintError> {
        let verifier = unguessable()?;
        let challenge = BASE64URL_NOPAD.encode(&Sha256::digest(verifier.as_bytes()));
        Ok(Self { verifier, challenge })
    }
}

/// Where a person consents.
#[must_use]
pub fn address(
    endpoint: &Endpoint,
    oauth: &Oauth,
    (redirect, state, pkce): (&str, &str, &Pkce),
    more: &[(String, String)],
) -> String {
    let mut query = String::new();
    let own = [
        ("response_type", Some("code")),
        ("client_id", oauth.client_id.as_deref()),
        ("redirect_uri", Some(redirect)),
        ("scope", oauth.scope.as_deref()),
        ("audience", oauth.audience.as_deref()),
        ("state", Some(state)),
        ("code_challenge", Some(&pkce.challenge)),
        ("code_challenge_method", Some("S256")),
    ];
    let own = own.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let more = more.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in own.chain(more) {
        query.push(if query.is_empty() { '?' } else { '&' });
        encode(&mut query, name);
        query.push('=');
        encode(&mut query, value);
    }
    let text = endpoint.to_string();
    if text.contains('?') { text + &query.replacen('?', "&", 1) } else { text + &query }
}

/// The call that exchanges a code.
///
/// # Errors
/// [`MintError::Material`].
pub fn exchange(
    oauth: &Oauth,
    material: &Material,
    (code, redirect, verifier): (&str, &str, &str),
    now: i64,
) -> Result<Call, MintError> {
    let pairs = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", redirect),
        ("code_verifier", verifier),
    ];
    oauth::call_with(oauth, material, &pairs, now)
}

/// The call that asks for a device's code.
///
/// # Errors
/// [`MintError::Material`].
pub fn device(oauth: &Oauth, material: &Material, endpoint: &Endpoint) -> Result<Call, MintError> {
    let scope = oauth.scope.as_deref().unwrap_or_default();
    let pairs = [("client_id", oauth.client_id.as_deref().unwrap_or_default()), ("scope", scope)];
    // The client only says who it is here (RFC 8628 section 3.1).
    let plain = Oauth {
        client_id: None,
        client_auth: crate::credential::ClientAuth::None,
        parameters: std::collections::BTreeMap::new(),
        ..oauth.clone()
    };
    let call = oauth::call_with(&plain, material, &pairs, 0)?;
    Ok(Call { endpoint: endpoint.clone(), ..call })
}

/// What a person is to type where, and how often to ask whether they have.
#[derive(Deserialize)]
pub struct DeviceCode {
    /// Ours.
    pub device_code: String,
    /// Theirs.
    pub user_code: String,
    /// Where they type it. Google has another name for it.
    #[serde(alias = "verification_url")]
    pub verification_uri: String,
    /// In seconds.
    #[serde(default)]
    pub interval: Option<u64>,
    /// In seconds.
    #[serde(default)]
    pub expires_in: Option<u64>,
}

/// Reads the answer to [`device`].
///
/// # Errors
/// [`MintError::Failed`].
pub fn device_code(status: StatusCode, body: &Secret) -> Result<DeviceCode, MintError> {
    if !status.is_success() {
        return Err(MintError::Failed("it gives no code to a device"));
    }
    body.expose(|bytes| serde_json::from_slice(bytes))
        .map_err(|_| MintError::Failed("it answered something that is no device's code"))
}

/// The call that asks whether the person has typed the code.
///
/// # Errors
/// [`MintError::Material`].
pub fn poll(
    oauth: &Oauth,
    material: &Material,
    device_code: &str,
    now: i64,
) -> Result<Call, MintError> {
    let grant = "urn:ietf:params:oauth:grant-type:device_code";
    let pairs = [("grant_type", grant), ("device_code", device_code)];
    oauth::call_with(oauth, material, &pairs, now)
}

/// The name of an error in an answer (RFC 6749 section 5.2), as [`error_name`] lets it be shown.
#[must_use]
pub fn error_of(body: &Secret) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        error: String,
    }
    let answer = body.expose(|bytes| serde_json::from_slice::<Answer>(bytes)).ok()?;
    error_name(&answer.error).map(str::to_owned)
}

/// An error's name, if it is one that may be shown: letters and `_`, as all that are registered and the providers' own.
/// Nothing that steers a terminal passes as one, and no token.
#[must_use]
pub fn error_name(text: &str) -> Option<&str> {
    /// The longest that is registered has 33.
    const LONGEST: usize = 64;
    let is_name = (1..=LONGEST).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    is_name.then_some(text)
}

/// What came of a code.
pub enum Granted {
    /// The refresh token.
    Token(String),
    /// Not yet.
    Pending,
    /// Not yet, and we ask too often.
    SlowDown,
}

/// Reads the answer to [`exchange`] or [`poll`].
///
/// # Errors
/// [`MintError`] saying why there is no refresh token.
pub fn granted(status: StatusCode, body: &Secret) -> Result<Granted, MintError> {
    #[derive(Deserialize)]
    struct Answer {
        refresh_token: Option<String>,
        error: Option<String>,
    }
    let answer = body.expose(|bytes| serde_json::from_slice::<Answer>(bytes));
    let answer = answer.map_err(|_| MintError::Failed("it answered something that is no token"))?;
    match answer.error.as_deref() {
        Some("authorization_pending") => return Ok(Granted::Pending),
        Some("slow_down") => return Ok(Granted::SlowDown),
        Some("access_denied") => return Err(MintError::Refused("the person has refused")),
        Some("expired_token") => return Err(MintError::Refused("the code has run out")),
        Some("invalid_grant") => return Err(MintError::Refused("it answered invalid_grant")),
        Some("invalid_client") => return Err(MintError::Refused("it answered invalid_client")),
        Some(_) => return Err(MintError::Failed("it answered with an error")),
        None if !status.is_success() => return Err(MintError::Failed("it answered with an error")),
        None => {}
    }
    let token = answer.refresh_token.filter(|token| !token.is_empty());
    token.map(Granted::Token).ok_or(MintError::Failed(
        "it answered without a refresh token: some want a scope or a parameter for one (offline_access, access_type=offline)",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_error_is_shown_and_nothing_else() {
        let of = |body: &str| error_of(&Secret::new(body.as_bytes().to_vec()));
        for name in ["unauthorized_client", "AuthorizationPendingException", "x"] {
            assert_eq!(of(&format!(r#"{{"error":"{name}"}}"#)).as_deref(), Some(name));
        }
        let long = "a".repeat(65);
        for other in ["", "a b", r"\u001b[2J", "sk-live", "k3y", "é", &long] {
            assert_eq!(of(&format!(r#"{{"error":"{other}"}}"#)), None, "{other}");
        }
        assert_eq!(of(r#"{"error":7}"#), None);
        assert_eq!(of("<html>"), None);
    }
}
