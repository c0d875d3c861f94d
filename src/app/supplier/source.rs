//! Secrets that lie elsewhere: fetched over the gateway's own far side where another vault has them,
//! and read where they are on this machine.
//!
//! What another vault says of an error is never repeated, because it may quote what it was asked; the
//! causes are a closed list.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};

use super::super::program;
use crate::credential::{Credential, Endpoint, Place, Source, VaultLogin};
use crate::files;
use crate::outcome::{Code, Refusal};
use crate::proxy::{Errand, Gateway, Reply};
use crate::record::Use;
use crate::secret::Secret;
use crate::vault::{validate_secret, without_line_end};

/// What errands to other vaults are called in records.
const PURPOSE: &str = "source";

/// How long one call to another vault may take. Requests wait for it where no value is at hand.
const WITHIN: Duration = Duration::from_secs(10);

/// How long a program may take.
const COMMAND_TIME: Duration = Duration::from_secs(20);

/// The most bytes of a file: a document with many secrets in it.
const FILE_LIMIT: usize = 256 * 1024;

/// Where Kubernetes keeps the token of a pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// What was fetched.
pub(super) struct Fetched {
    pub(super) secret: Secret,
    /// How long it is good for, if its source has said so.
    pub(super) lease: Option<Duration>,
}

/// Why nothing was.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) why: &'static str,
    /// It is not there any more: what was fetched before is not to be used either.
    pub(super) gone: bool,
    /// A refusal that is not about the source.
    pub(super) own: Option<Refusal>,
}

impl From<&'static str> for Failed {
    fn from(why: &'static str) -> Self {
        Self { why, gone: false, own: None }
    }
}

impl From<Failed> for Refusal {
    fn from(failed: Failed) -> Self {
        failed.own.unwrap_or_else(|| Self::new(Code::SourceUnavailable).because(failed.why))
    }
}

/// Fetches the secret of a credential from its source. `raw`: a kind makes something else of it, so
/// that it need not fit into a header.
pub(super) async fn fetch(
    gateway: &Gateway,
    used: (&Credential, u32),
    source: &Source,
    raw: bool,
) -> Result<Fetched, Failed> {
    let fetched = match &source.place {
        Place::Vault { .. } => Caller { gateway, used }.vault(source).await?,
        place => near(place.clone(), source.field.clone()).await?,
    };
    let sound = raw || fetched.secret.expose(|bytes| validate_secret(bytes, true).is_ok());
    if sound { Ok(fetched) } else { Err("what lies there cannot be sent in a request".into()) }
}

/// What is on this machine. Files and programs may block.
async fn near(place: Place, field: Option<String>) -> Result<Fetched, Failed> {
    let read = tokio::task::spawn_blocking(move || read_near(&place, field.as_deref()));
    read.await.unwrap_or_else(|_| Err("it could not be read".into()))
}

fn read_near(place: &Place, field: Option<&str>) -> Result<Fetched, Failed> {
    let bytes = match place {
        Place::File { path } => file(Path::new(path))?,
        Place::Systemd { credential } => {
            let directory = std::env::var_os("CREDENTIALS_DIRECTORY")
                .ok_or("there is no CREDENTIALS_DIRECTORY in the proxy's environment")?;
            file(&PathBuf::from(directory).join(credential))?
        }
        Place::Env { variable } => {
            let value = std::env::var_os(variable).ok_or_else(|| Failed {
                gone: true,
                ..Failed::from("the variable is not in the proxy's environment")
            })?;
            Secret::new(value.into_encoded_bytes())
        }
        Place::Command { words } => {
            let mut printed = program::output(words, COMMAND_TIME).map_err(|failure| {
                tracing::warn!(error = %failure, "a source's program failed");
                Failed::from("its program failed, or took too long")
            })?;
            Secret::new(std::mem::take(&mut *printed))
        }
        Place::Vault { .. } => return Err("it is not on this machine".into()),
    };
    bytes.expose(|bytes| pick(bytes, field))
}

fn file(path: &Path) -> Result<Secret, Failed> {
    let read = files::read_lent(path, FILE_LIMIT).or_else(|error| match error {
        // As Kubernetes and others show secrets: a link into a directory of its own.
        files::FileError::NotPlain(_) => files::read_lent(
            &path.canonicalize().map_err(|e| files::FileError::Io(path.to_owned(), e))?,
            FILE_LIMIT,
        ),
        other => Err(other),
    });
    let mut bytes = read.map_err(|error| {
        tracing::warn!(%error, "a source's file cannot be read");
        match error {
            files::FileError::Missing(_) => {
                Failed { gone: true, ..Failed::from("the file is gone") }
            }
            files::FileError::Loose(..) | files::FileError::Owner(..) => {
                "the file is open to others, or somebody else's".into()
            }
            _ => Failed::from("the file cannot be read"),
        }
    })?;
    Ok(Secret::new(std::mem::take(&mut *bytes)))
}

/// One field of a document, or all of a text, and how long it says that it is good for.
fn pick(bytes: &[u8], field: Option<&str>) -> Result<Fetched, Failed> {
    let document: Option<Value> = serde_json::from_slice(bytes).ok().filter(Value::is_object);
    let lease = document.as_ref().and_then(expiry).transpose()?;
    let secret = match (field, &document) {
        (None, _) => Secret::new(without_line_end(bytes).to_vec()),
        (Some(field), Some(document)) => text_of(document, field)?,
        (Some(_), None) => {
            return Err("it is no JSON object, and a field of one is asked for".into());
        }
    };
    Ok(Fetched { secret, lease })
}

/// What the forms of programs that print secrets call the end of one: AWS, Google, Kubernetes, others.
const EXPIRY: [&str; 5] =
    ["Expiration", "expiration", "expires_at", "expirationTimestamp", "expiration_time"];

/// How long a document says that it is good for.
fn expiry(document: &Value) -> Option<Result<Duration, Failed>> {
    let said = EXPIRY.iter().find_map(|name| {
        document.get(name).or_else(|| document.get("status").and_then(|status| status.get(name)))
    })?;
    let at = match said {
        Value::String(text) => text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second),
        number => number.as_i64(),
    };
    let now = jiff::Timestamp::now().as_second();
    Some(match at.map(|at| u64::try_from(at.saturating_sub(now))) {
        Some(Ok(left)) if left > 0 => Ok(Duration::from_secs(left)),
        Some(_) => Err("what it gave has expired already".into()),
        None => Err("what it says of its expiry cannot be read".into()),
    })
}

/// A field by its name, or by a JSON pointer.
fn text_of(document: &Value, field: &str) -> Result<Secret, Failed> {
    let found = if field.starts_with('/') { document.pointer(field) } else { document.get(field) };
    match found {
        Some(Value::String(text)) => Ok(Secret::new(text.as_bytes().to_vec())),
        Some(Value::Number(number)) => Ok(Secret::new(number.to_string().into_bytes())),
        Some(_) => Err("the field is no text".into()),
        None => Err("the field is not there".into()),
    }
}

/// Who calls, and for which credential.
struct Caller<'a> {
    gateway: &'a Gateway,
    used: (&'a Credential, u32),
}

impl Caller<'_> {
    async fn vault(&self, source: &Source) -> Result<Fetched, Failed> {
        let Place::Vault { url, path, login, namespace } = &source.place else {
            return Err("it is no vault".into());
        };
        let mut headers = HeaderMap::new();
        headers.insert("x-vault-request", HeaderValue::from_static("true"));
        if let Some(namespace) = namespace {
            let value = HeaderValue::try_from(namespace).map_err(|_| "its namespace is none")?;
            headers.insert("x-vault-namespace", value);
        }
        let (token, session) = self.log_in(url, login, &headers).await?;
        headers.insert(HeaderName::from_static("x-vault-token"), sensitive(&token)?);
        let endpoint = url.at(&format!("/v1/{path}"));
        let reply = self.call(Method::GET, &endpoint, headers, Bytes::new()).await?;
        let answer =
            document(&reply, "the vault refuses the token: it has expired, or may not read this")?;
        let data = answer.get("data").ok_or("the vault's answer has no data")?;
        // KV version 2 has the secret one level further down, beside what it says of its versions.
        let inner = data.get("data").filter(|_| data.get("metadata").is_some());
        let secret = match &source.field {
            Some(field) => text_of(inner.unwrap_or(data), field)?,
            None => only_field(inner.unwrap_or(data))?,
        };
        let leased =
            answer.get("lease_id").and_then(Value::as_str).is_some_and(|id| !id.is_empty());
        let lease = seconds(&answer, "lease_duration").filter(|_| leased);
        // A lease ends with the token that it was given to.
        let lease = lease.map(|lease| session.map_or(lease, |session| lease.min(session)));
        Ok(Fetched { secret, lease })
    }

    /// A token, and how long it is good for where that is known.
    async fn log_in(
        &self,
        url: &Endpoint,
        login: &VaultLogin,
        headers: &HeaderMap,
    ) -> Result<(Secret, Option<Duration>), Failed> {
        let (mount, body) = match login {
            VaultLogin::Token => return Ok((self.own_secret()?, None)),
            VaultLogin::TokenFile { path } => return Ok((trimmed(&read_apart(path).await?), None)),
            VaultLogin::Approle { role, mount } => {
                let secret = self.own_secret()?;
                let body = secret.expose(|id| {
                    json!({"role_id": role, "secret_id": String::from_utf8_lossy(id)}).to_string()
                });
                (mount, body)
            }
            VaultLogin::Kubernetes { role, mount } => {
                let jwt = trimmed(&read_apart(SERVICE_ACCOUNT).await?);
                let body = jwt.expose(|jwt| {
                    json!({"role": role, "jwt": String::from_utf8_lossy(jwt)}).to_string()
                });
                (mount, body)
            }
        };
        let endpoint = url.at(&format!("/v1/auth/{mount}/login"));
        let body = Bytes::from_owner(zeroize::Zeroizing::new(body.into_bytes()));
        let reply = self.call(Method::POST, &endpoint, headers.clone(), body).await?;
        let answer = match reply.status {
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => {
                return Err("the vault refuses the login".into());
            }
            _ => document(&reply, "the vault refuses the login")?,
        };
        let auth = answer.get("auth").ok_or("the vault's answer to the login has no token")?;
        Ok((text_of(auth, "client_token")?, seconds(auth, "lease_duration")))
    }

    /// What lies in our own vault: what the source asks its callers for.
    fn own_secret(&self) -> Result<Secret, Failed> {
        let (credential, version) = self.used;
        let state = super::state_of(self.gateway, credential);
        let opened = state.and_then(|state| state.open(&credential.name, version));
        opened.map_err(|refusal| Failed { own: Some(refusal), ..Failed::from("") })
    }

    async fn call(
        &self,
        method: Method,
        endpoint: &Endpoint,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Reply, Failed> {
        let (credential, version) = self.used;
        let uses = Use {
            credential: credential.name.clone(),
            version: Some(version),
            slot: Some("source".to_owned()),
            why: crate::record::Why::default(),
        };
        let errand = Errand {
            purpose: PURPOSE,
            workspace: Some(&credential.workspace),
            uses: Some(uses),
            endpoint,
            method,
            headers,
            body,
            within: Some(WITHIN),
        };
        self.gateway.errand(errand).await.map_err(|refusal| no_answer(&refusal))
    }
}

async fn read_apart(path: &str) -> Result<Secret, Failed> {
    let path = PathBuf::from(path);
    let read = tokio::task::spawn_blocking(move || file(&path)).await;
    // That a login is gone says nothing of the secret.
    let read = read.unwrap_or_else(|_| Err("it could not be read".into()));
    read.map_err(|failed| Failed { gone: false, ..failed })
}

fn trimmed(secret: &Secret) -> Secret {
    secret.expose(|bytes| Secret::new(bytes.trim_ascii().to_vec()))
}

fn sensitive(secret: &Secret) -> Result<HeaderValue, Failed> {
    let value = secret.expose(HeaderValue::from_bytes);
    let mut value = value.map_err(|_| "the login cannot be sent")?;
    value.set_sensitive(true);
    Ok(value)
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
    let read = || reply.body.expose(|body| serde_json::from_slice::<Value>(body).ok());
    match reply.status.as_u16() {
        200 => read().ok_or_else(|| "the vault's answer is no JSON".into()),
        401 | 403 => Err(forbidden.into()),
        404 => Err(Failed { gone: true, ..Failed::from("there is no such secret in the vault") }),
        429 | 472 | 473 => Err("the vault is a standby, or asks for fewer calls".into()),
        503 => {
            let sealed = read().is_some_and(|body| body.to_string().contains("sealed"));
            Err(if sealed { "the vault is sealed" } else { "the vault is not available" }.into())
        }
        _ => Err("the vault failed".into()),
    }
}

/// The agent hears nothing of where the call went; its own record says it.
fn no_answer(refusal: &Refusal) -> Failed {
    tracing::warn!(code = %refusal.code, detail = %refusal.detail, "a source could not be asked");
    match refusal.code {
        Code::ResponseTimeout => "the vault did not answer in time".into(),
        Code::ConnectTimeout => "the vault could not be connected to in time".into(),
        Code::ConnectFailed => "the vault does not accept a connection".into(),
        Code::DnsError => "the vault's name does not resolve".into(),
        Code::CertificateInvalid => "the vault's certificate does not verify".into(),
        Code::TlsFailed => "TLS with the vault failed".into(),
        Code::AddressForbidden => "the vault's address is closed to the proxy".into(),
        Code::AuditUnavailable => Failed { own: Some(refusal.clone()), ..Failed::from("") },
        _ => "the vault broke off".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(text: &str, field: Option<&str>) -> Result<(String, Option<Duration>), &'static str> {
        let fetched = pick(text.as_bytes(), field).map_err(|failed| failed.why)?;
        let text = fetched.secret.expose(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
        Ok((text, fetched.lease))
    }

    #[test]
    fn a_text_is_taken_whole_and_a_document_by_its_field() {
        assert_eq!(picked("key\n", None), Ok(("key".into(), None)));
        assert_eq!(picked(r#"{"a":"x","b":{"c":7}}"#, Some("a")), Ok(("x".into(), None)));
        assert_eq!(picked(r#"{"a":"x","b":{"c":7}}"#, Some("/b/c")), Ok(("7".into(), None)));
        for (text, field, why) in [
            ("key", "a", "no JSON"),
            (r#"{"a":"x"}"#, "b", "not there"),
            (r#"{"a":["x"]}"#, "a", "no text"),
        ] {
            assert!(picked(text, Some(field)).unwrap_err().contains(why), "{text}");
        }
    }

    #[test]
    fn what_says_when_it_ends_is_kept_no_longer() {
        let at = |seconds: i64| {
            let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
            format!(r#"{{"Version":1,"Expiration":"{end}","token":"x"}}"#)
        };
        let (_, lease) = picked(&at(900), Some("token")).unwrap();
        assert!((880..=900).contains(&lease.unwrap().as_secs()));
        assert!(picked(&at(-5), Some("token")).unwrap_err().contains("expired"));
        assert!(picked(r#"{"expires_at":"soon","token":"x"}"#, Some("token")).is_err());
        let nested = r#"{"status":{"expirationTimestamp":"2999-01-01T00:00:00Z","token":"x"}}"#;
        assert!(picked(nested, Some("/status/token")).unwrap().1.is_some());
    }
}
