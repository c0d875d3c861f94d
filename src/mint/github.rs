//! Tokens of an installation of a GitHub App, good for the repositories and permissions that are named.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::material::Material;
use super::{Call, MintError, Minted, token};
use crate::credential::GithubApp;
use crate::secret::Secret;

/// How long GitHub has a token live.
const LIFETIME: Duration = Duration::from_hours(1);

/// How long an assertion is good for: GitHub takes ten minutes at most.
const ASSERTION: i64 = 300;

/// How long before now it was made: GitHub asks for a minute, for clocks that differ.
const BEFORE: i64 = 60;

pub(super) fn call(app: &GithubApp, material: &Material, now: i64) -> Result<Call, MintError> {
    let claims = json!({"iss": app.app_id, "iat": now - BEFORE, "exp": now + ASSERTION});
    let assertion = material.signing_key()?.assertion(None, &claims);
    let assertion = assertion.ok_or(MintError::Failed("the assertion could not be signed"))?;
    let mut headers = HeaderMap::new();
    let text = Zeroizing::new(format!("Bearer {assertion}").into_bytes());
    let mut bearer = HeaderValue::from_maybe_shared(Bytes::from_owner(text))
        .map_err(|_| MintError::Failed("the assertion cannot stand in a header"))?;
    bearer.set_sensitive(true);
    headers.insert(header::AUTHORIZATION, bearer);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/vnd.github+json"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-github-api-version", HeaderValue::from_static("2022-11-28"));
    let mut wish = serde_json::Map::new();
    if !app.repositories.is_empty() {
        wish.insert("repositories".to_owned(), json!(app.repositories));
    }
    if !app.permissions.is_empty() {
        wish.insert("permissions".to_owned(), json!(app.permissions));
    }
    let body = serde_json::Value::Object(wish).to_string();
    Ok(Call {
        endpoint: app.endpoint.clone(),
        method: Method::POST,
        headers,
        body: Bytes::from(body.into_bytes()),
    })
}

#[derive(Deserialize)]
struct Answer {
    token: String,
}

pub(super) fn answer(status: StatusCode, body: &Secret) -> Result<Minted, MintError> {
    match status.as_u16() {
        200 | 201 => {}
        401 => return Err(MintError::Refused("it answered 401: the key is not the app's")),
        403 => return Err(MintError::Refused("it answered 403: the installation is suspended")),
        404 => return Err(MintError::Refused("it answered 404: the app has no such installation")),
        422 => {
            let why = "it answered 422: the installation has not these repositories or permissions";
            return Err(MintError::Refused(why));
        }
        _ => return Err(MintError::Failed("it answered with an error")),
    }
    let answer = body.expose(|bytes| serde_json::from_slice::<Answer>(bytes));
    let answer = answer.map_err(|_| MintError::Failed("it answered without a token"))?;
    Ok(Minted { value: token(&answer.token)?, lifetime: LIFETIME, replacement: None })
}
