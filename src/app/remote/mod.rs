//! Other people's vaults, by their own APIs: for secrets that lie there, and for keys that ours is
//! wrapped with.
//!
//! Every call is an errand: it goes through the address guard, `upstream.hosts`, verified TLS and the
//! timeouts. What another vault says of an error is never repeated, because it may quote what it was
//! asked; the causes are a closed list.

pub(super) mod aws;
pub(super) mod azure;
pub(super) mod gcp;
pub(super) mod vault;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use serde_json::Value;

use crate::credential::Endpoint;
use crate::files;
use crate::outcome::{Code, Refusal};
use crate::proxy::{Errand, Gateway, Reply, run_errand};
use crate::record::{AuditSink, Use};
use crate::reference::Name;
use crate::secret::Secret;
use crate::upstream::Upstream;
use crate::vault::without_line_end;

/// How long one call may take. Requests wait for it where no value is at hand.
const WITHIN: Duration = Duration::from_secs(10);

/// The most bytes of a file: a document with many secrets in it.
const FILE_LIMIT: usize = 256 * 1024;

/// What was fetched.
pub(super) struct Fetched {
    pub(super) secret: Secret,
    /// How long it is good for, if its source has said so: another is got before that, and not sooner.
    pub(super) lease: Option<Duration>,
    /// How long it may be used at most, whatever else is said: it may change before.
    pub(super) ends: Option<Duration>,
}

/// Why nothing was.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) why: &'static str,
    /// It is not there any more: what was fetched before is not to be used either.
    pub(super) gone: bool,
    /// What we have logged in with is not taken any more: another may be.
    pub(super) login: bool,
    /// A refusal that is not about the other vault.
    pub(super) own: Option<Refusal>,
}

impl Failed {
    pub(super) fn gone(why: &'static str) -> Self {
        Self { gone: true, ..Self::from(why) }
    }

    pub(super) fn login(why: &'static str) -> Self {
        Self { login: true, ..Self::from(why) }
    }
}

impl From<&'static str> for Failed {
    fn from(why: &'static str) -> Self {
        Self { why, gone: false, login: false, own: None }
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self { own: Some(refusal), ..Self::from("") }
    }
}

impl From<Failed> for Refusal {
    fn from(failed: Failed) -> Self {
        failed.own.unwrap_or_else(|| Self::new(Code::SourceUnavailable).because(failed.why))
    }
}

/// Who calls.
pub(super) struct Caller<'a> {
    pub(super) via: Via<'a>,
    /// What the calls are called in records.
    pub(super) purpose: &'static str,
    /// For which workspace, if not for the home itself.
    pub(super) workspace: Option<&'a Name>,
    /// With what they are made, if with a credential.
    pub(super) uses: Option<Use>,
}

/// Over what.
pub(super) enum Via<'a> {
    /// A running proxy's own far side.
    Gateway(&'a Gateway),
    /// One of its own, before there is a vault.
    Alone(&'a Upstream, &'a dyn AuditSink),
}

impl Caller<'_> {
    pub(super) async fn call(
        &self,
        method: Method,
        endpoint: &Endpoint,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Reply, Failed> {
        let errand = Errand {
            purpose: self.purpose,
            workspace: self.workspace,
            uses: self.uses.clone(),
            endpoint,
            method,
            headers,
            body,
            within: Some(WITHIN),
        };
        let sent = match self.via {
            Via::Gateway(gateway) => gateway.errand(errand).await,
            Via::Alone(upstream, audit) => run_errand(upstream, audit, (0, ""), errand).await,
        };
        sent.map_err(|refusal| no_answer(&refusal))
    }
}

/// The agent hears nothing of where the call went; its own record says it.
fn no_answer(refusal: &Refusal) -> Failed {
    tracing::warn!(code = %refusal.code, detail = %refusal.detail, "another vault could not be asked");
    match refusal.code {
        Code::ResponseTimeout => "the vault did not answer in time".into(),
        Code::ConnectTimeout => "the vault could not be connected to in time".into(),
        Code::ConnectFailed => "the vault does not accept a connection".into(),
        Code::DnsError => "the vault's name does not resolve".into(),
        Code::CertificateInvalid => "the vault's certificate does not verify".into(),
        Code::TlsFailed => "TLS with the vault failed".into(),
        Code::AddressForbidden => "the vault's address is closed to the proxy".into(),
        Code::AuditUnavailable => refusal.clone().into(),
        _ => "the vault broke off".into(),
    }
}

/// The answer to a call that was accepted.
fn json_of(reply: &Reply) -> Result<Value, Failed> {
    let read = |body: &[u8]| serde_json::from_slice(body).ok();
    reply.body.expose(read).ok_or_else(|| "the vault's answer is no JSON".into())
}

/// A file that only we can read, or that root lends us.
pub(super) fn file(path: &Path) -> Result<Secret, Failed> {
    let read = files::read_lent(path, FILE_LIMIT).or_else(|error| match error {
        // As Kubernetes and others show secrets: a link into a directory of its own.
        files::FileError::NotPlain(_) => files::read_lent(
            &path.canonicalize().map_err(|e| files::FileError::Io(path.to_owned(), e))?,
            FILE_LIMIT,
        ),
        other => Err(other),
    });
    let mut bytes = read.map_err(|error| {
        tracing::warn!(%error, "a file with a secret cannot be read");
        match error {
            files::FileError::Missing(_) => Failed::gone("the file is gone"),
            files::FileError::Loose(..) | files::FileError::Owner(..) => {
                "the file is open to others, or somebody else's".into()
            }
            _ => Failed::from("the file cannot be read"),
        }
    })?;
    Ok(Secret::new(std::mem::take(&mut *bytes)))
}

/// A login that lies in a file, read anew each time: what keeps it there renews it.
pub(super) async fn login_file(path: &str) -> Result<Secret, Failed> {
    let path = PathBuf::from(path);
    let read = tokio::task::spawn_blocking(move || file(&path)).await;
    let read = read.unwrap_or_else(|_| Err("it could not be read".into()));
    // That a login is gone says nothing of the secret.
    let secret = read.map_err(|failed| Failed { gone: false, ..failed })?;
    Ok(secret.expose(|bytes| Secret::new(bytes.trim_ascii().to_vec())))
}

fn sensitive(secret: &Secret) -> Result<HeaderValue, Failed> {
    let value = secret.expose(HeaderValue::from_bytes);
    let mut value = value.map_err(|_| "the login cannot be sent")?;
    value.set_sensitive(true);
    Ok(value)
}

/// `Bearer`, and the token.
fn bearer(token: &Secret) -> Result<HeaderValue, Failed> {
    let text = token.expose(|bytes| Secret::new([b"Bearer ", bytes].concat()));
    sensitive(&text)
}

/// What the clouds' secret managers say by a status, where it is the same of each.
fn refused(status: u16) -> Failed {
    match status {
        401 => Failed::login("the vault refuses the login: its token is not good"),
        403 => "the vault refuses the login: it may not read this".into(),
        404 => Failed::gone("there is no such secret in the vault"),
        429 => "the vault asks for fewer calls".into(),
        503 => "the vault is not available".into(),
        _ => "the vault failed".into(),
    }
}

/// A token that a metadata service has answered with.
fn access_token(reply: &Reply) -> Result<Secret, Failed> {
    if !reply.status.is_success() {
        return Err("the metadata service gives this machine no token".into());
    }
    text_of(&json_of(reply)?, "access_token")
}

/// A field by its name, or by a JSON pointer.
pub(super) fn text_of(document: &Value, field: &str) -> Result<Secret, Failed> {
    let found = if field.starts_with('/') { document.pointer(field) } else { document.get(field) };
    match found {
        Some(Value::String(text)) => Ok(Secret::new(text.as_bytes().to_vec())),
        Some(Value::Number(number)) => Ok(Secret::new(number.to_string().into_bytes())),
        Some(_) => Err("the field is no text".into()),
        None => Err("the field is not there".into()),
    }
}

/// One field of a text that is JSON, or all of it without a line end.
fn chosen(bytes: &[u8], field: Option<&str>) -> Result<Secret, Failed> {
    let Some(field) = field else {
        return Ok(Secret::new(without_line_end(bytes).to_vec()));
    };
    let document: Option<Value> = serde_json::from_slice(bytes).ok().filter(Value::is_object);
    match document {
        Some(document) => text_of(&document, field),
        None => Err("it is no JSON object, and a field of one is asked for".into()),
    }
}
