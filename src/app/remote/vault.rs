//! `HashiCorp` Vault and `OpenBao`.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};

use super::{Caller, Failed, Fetched, json_of, login_file, sensitive, text_of};
use crate::credential::{Endpoint, VaultLogin};
use crate::proxy::Reply;
use crate::secret::Secret;

/// Where Kubernetes keeps the token of a pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// What a 401 or a 403 means where nothing else is known of it.
const REFUSED: &str = "the vault refuses the token: it has expired, or may not read this";

/// A vault, and how it knows us.
pub(in crate::app) struct Server<'a> {
    pub(in crate::app) url: &'a Endpoint,
    pub(in crate::app) login: &'a VaultLogin,
    pub(in crate::app) namespace: Option<&'a str>,
}

impl Server<'_> {
    /// The secret at a path, or one field of it. `own` is what the login asks for beside what is said.
    pub(in crate::app) async fn read(
        &self,
        caller: &Caller<'_>,
        own: impl FnOnce() -> Result<Secret, Failed>,
        (path, field): (&str, Option<&str>),
    ) -> Result<Fetched, Failed> {
        let (headers, session) = self.log_in(caller, own).await?;
        let endpoint = self.url.at(&format!("/v1/{path}"));
        let reply = caller.call(Method::GET, &endpoint, headers, Bytes::new()).await?;
        let answer = document(&reply, REFUSED)?;
        let data = answer.get("data").ok_or("the vault's answer has no data")?;
        // KV version 2 has the secret one level further down, beside what it says of its versions.
        let inner = data.get("data").filter(|_| data.get("metadata").is_some());
        let secret = match field {
            Some(field) => text_of(inner.unwrap_or(data), field)?,
            None => only_field(inner.unwrap_or(data))?,
        };
        let leased =
            answer.get("lease_id").and_then(Value::as_str).is_some_and(|id| !id.is_empty());
        let lease = seconds(&answer, "lease_duration").filter(|_| leased);
        // A lease ends with the token that it was given to.
        let lease = lease.map(|lease| session.map_or(lease, |session| lease.min(session)));
        Ok(Fetched { secret, lease, ends: None })
    }

    /// Has something done with a key of the vault's own.
    pub(in crate::app) async fn write(
        &self,
        caller: &Caller<'_>,
        own: impl FnOnce() -> Result<Secret, Failed>,
        path: &str,
        body: &Value,
    ) -> Result<Value, Failed> {
        let (headers, _) = self.log_in(caller, own).await?;
        let endpoint = self.url.at(&format!("/v1/{path}"));
        let body = Bytes::from_owner(zeroize::Zeroizing::new(body.to_string().into_bytes()));
        let reply = caller.call(Method::POST, &endpoint, headers, body).await?;
        match reply.status.as_u16() {
            400 | 404 => Err("the vault has no such key, or it has not wrapped this".into()),
            _ => document(
                &reply,
                "the vault refuses the token: it has expired, or may not use the key",
            ),
        }
    }

    /// Fields with a token in them, and how long it is good for where that is known.
    async fn log_in(
        &self,
        caller: &Caller<'_>,
        own: impl FnOnce() -> Result<Secret, Failed>,
    ) -> Result<(HeaderMap, Option<Duration>), Failed> {
        let mut headers = HeaderMap::new();
        headers.insert("x-vault-request", HeaderValue::from_static("true"));
        if let Some(namespace) = self.namespace {
            let value = HeaderValue::try_from(namespace).map_err(|_| "its namespace is none")?;
            headers.insert("x-vault-namespace", value);
        }
        let (token, session) = match self.login {
            VaultLogin::Token => (own()?, None),
            VaultLogin::TokenFile { path } => (login_file(path).await?, None),
            VaultLogin::Approle { role, mount } => {
                let body = own()?.expose(|id| {
                    json!({"role_id": role, "secret_id": String::from_utf8_lossy(id)}).to_string()
                });
                self.exchange(caller, &headers, mount, body).await?
            }
            VaultLogin::Kubernetes { role, mount, token_file } => {
                // Kubernetes has it renewed under us: each login takes what is there now.
                let path = token_file.as_deref().unwrap_or(SERVICE_ACCOUNT);
                let body = login_file(path).await?.expose(|jwt| {
                    json!({"role": role, "jwt": String::from_utf8_lossy(jwt)}).to_string()
                });
                self.exchange(caller, &headers, mount, body).await?
            }
        };
        headers.insert(HeaderName::from_static("x-vault-token"), sensitive(&token)?);
        Ok((headers, session))
    }

    async fn exchange(
        &self,
        caller: &Caller<'_>,
        headers: &HeaderMap,
        mount: &str,
        body: String,
    ) -> Result<(Secret, Option<Duration>), Failed> {
        let endpoint = self.url.at(&format!("/v1/auth/{mount}/login"));
        let body = Bytes::from_owner(zeroize::Zeroizing::new(body.into_bytes()));
        let reply = caller.call(Method::POST, &endpoint, headers.clone(), body).await?;
        let answer = match reply.status {
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => {
                return Err("the vault refuses the login".into());
            }
            _ => document(&reply, "the vault refuses the login")?,
        };
        let auth = answer.get("auth").ok_or("the vault's answer to the login has no token")?;
        Ok((text_of(auth, "client_token")?, seconds(auth, "lease_duration")))
    }
}

fn seconds(value: &Value, name: &str) -> Option<Duration> {
    value.get(name)?.as_u64().filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

fn only_field(data: &Value) -> Result<Secret, Failed> {
    match data.as_object().map(|fields| fields.keys().collect::<Vec<_>>()).as_deref() {
        Some([one]) => text_of(data, one),
        _ => Err("there is more than one field, and none is named".into()),
    }
}

/// The answer's document; `forbidden` is what a 403 means here.
fn document(reply: &Reply, forbidden: &'static str) -> Result<Value, Failed> {
    match reply.status.as_u16() {
        200 => json_of(reply),
        401 | 403 => Err(forbidden.into()),
        404 => Err(Failed::gone("there is no such secret in the vault")),
        429 | 472 | 473 => Err("the vault is a standby, or asks for fewer calls".into()),
        503 => {
            let sealed = json_of(reply).is_ok_and(|body| body.to_string().contains("sealed"));
            Err(if sealed { "the vault is sealed" } else { "the vault is not available" }.into())
        }
        _ => Err("the vault failed".into()),
    }
}
