//! Azure Key Vault.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};

use super::{Caller, Failed, Fetched, access_token, bearer, chosen, json_of, refused, text_of};
use crate::credential::Endpoint;
use crate::secret::Secret;

/// The newest version of the API that every Key Vault has.
const API: &str = "7.4";

/// A token of the machine's own managed identity.
pub(in crate::app) async fn of_instance(caller: &Caller<'_>) -> Result<Secret, Failed> {
    let target = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";
    let endpoint = Endpoint::metadata_service("169.254.169.254", target);
    let mut headers = HeaderMap::new();
    headers.insert("metadata", HeaderValue::from_static("true"));
    access_token(&caller.call(Method::GET, &endpoint, headers, Bytes::new()).await?)
}

/// One version of a secret, or one field of it.
pub(in crate::app) async fn secret(
    caller: &Caller<'_>,
    token: &Secret,
    (url, name, version): (&Endpoint, &str, Option<&str>),
    field: Option<&str>,
) -> Result<Fetched, Failed> {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, bearer(token)?);
    let version = version.map(|version| format!("/{version}")).unwrap_or_default();
    let endpoint = url.at(&format!("/secrets/{name}{version}?api-version={API}"));
    let reply = caller.call(Method::GET, &endpoint, headers, Bytes::new()).await?;
    let disabled = || json_of(&reply).is_ok_and(|said| said.to_string().contains("SecretDisabled"));
    match reply.status.as_u16() {
        200 => {}
        403 if disabled() => return Err(Failed::gone("the secret is disabled in the vault")),
        status => return Err(refused(status)),
    }
    let said = json_of(&reply)?;
    let value = text_of(&said, "value").map_err(|_| "the vault's answer has no secret")?;
    // Its owner's word for a version, which is often months ahead: another may be there much sooner.
    let ends = said.pointer("/attributes/exp").and_then(serde_json::Value::as_i64);
    let left = ends.map(|ends| ends.saturating_sub(jiff::Timestamp::now().as_second()));
    let ends = match left.map(u64::try_from) {
        None => None,
        Some(Ok(left)) if left > 0 => Some(Duration::from_secs(left)),
        Some(_) => return Err("what it gave has expired already".into()),
    };
    let secret = value.expose(|bytes| chosen(bytes, field))?;
    Ok(Fetched { secret, lease: None, ends })
}
