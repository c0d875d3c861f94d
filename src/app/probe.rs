//! Trying a credential at its provider, by the provider's own cheap call that the catalogue knows.
//!
//! It goes the way of every call: the address guard, `upstream.hosts`, verified TLS. Its record is a line
//! of the vault's journal, which a running proxy writes into the audit log, and which is there before the
//! call is made.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use zeroize::Zeroizing;

use super::far_side::far_side;
use super::{Failure, Opened};
use crate::catalog::{Catalog, Health};
use crate::credential::{BasicPart, Endpoint, Slot};
use crate::proxy::{Errand, run_errand};
use crate::record::{Access, AuditSink, Event, Outcome, Unrecorded, Use, Why};
use crate::reference::Name;
use crate::secret::Secret;
use crate::upstream::NoLogins;
use crate::vault::{CredentialInfo, VersionState};

/// How long the call may take. A person waits for it.
const WITHIN: Duration = Duration::from_secs(15);

/// What came of a call.
#[derive(Debug)]
pub struct Probed {
    /// The version that was tried.
    pub version: u32,
    /// Where, without what the call asked for.
    pub at: String,
    /// What the provider answered.
    pub status: u16,
    /// Whether that says that the secret is good; none when it says nothing.
    pub good: Option<bool>,
}

/// Tries one version of a credential: the staged one, where there is one, unless another is named.
///
/// # Errors
/// When there is no such version, the catalogue knows no call that can be made with it, or the provider
/// cannot be reached.
pub async fn probe(
    opened: &mut Opened,
    name: &Name,
    version: Option<u32>,
) -> Result<Probed, Failure> {
    let info = opened.vault.credential(name)?;
    let version = version.or_else(|| newest(&info)).ok_or_else(|| {
        Failure::usage(format!("all versions of {name} are revoked"))
            .help(format!("give it a new secret: `locum credential rotate {name}`"))
    })?;
    let health = health(&info)?;
    let endpoint = endpoint(&info, health)?;
    let secret = opened.vault.open_version(name, version)?;
    let headers = headers(&info, health, &secret)?;
    let upstream = far_side(&opened.config, &[], Arc::new(NoLogins))?;
    // No record, no call.
    opened.vault.note_verification(name, version)?;
    opened.changed()?;
    let uses =
        Use { credential: name.clone(), version: Some(version), slot: None, why: Why::default() };
    let errand = Errand {
        purpose: "verify",
        workspace: None,
        uses: Some(uses),
        endpoint: &endpoint,
        method: if health.method == "POST" { Method::POST } else { Method::GET },
        headers,
        body: health.body.clone().map(Bytes::from).unwrap_or_default(),
        within: Some(WITHIN),
    };
    let reply = run_errand(&upstream, &InTheJournal, (0, ""), errand).await.map_err(|refusal| {
        Failure::new(format!("{name} could not be tried: {}", refusal.detail))
            .help(refusal.code.hint())
    })?;
    let path = endpoint.target().split('?').next().unwrap_or_default();
    Ok(Probed {
        version,
        at: format!("{}{path}", endpoint.origin()),
        status: reply.status.as_u16(),
        good: reply.body.expose(|body| judge(health, reply.status, body)),
    })
}

fn newest(info: &CredentialInfo) -> Option<u32> {
    let staged = info.versions.iter().find(|version| version.state == VersionState::Staged);
    staged.or_else(|| info.current()).map(|version| version.version)
}

fn health(info: &CredentialInfo) -> Result<&'static Health, Failure> {
    let refuse = |why: String| {
        Failure::usage(why)
            .help("try it with a request of your own, by its reference, once it is promoted")
    };
    if info.properties.kind.is_some() || info.properties.source.is_some() {
        return Err(refuse(format!(
            "what {} sends is made or fetched when it is used, and is tried then",
            info.name
        )));
    }
    let provider = info.provider.as_deref().and_then(|id| Catalog::embedded().get(id));
    let health = provider.and_then(|provider| provider.health());
    let health = health.ok_or_else(|| {
        refuse(format!("the catalogue knows no call by which {} could be tried", info.name))
    })?;
    if health.path.contains(crate::credential::SECRET) {
        return Err(refuse("its provider's call has the secret in its path".to_owned()));
    }
    Ok(health)
}

/// Where the call goes: to a host that the credential may go to in any case.
fn endpoint(info: &CredentialInfo, health: &Health) -> Result<Endpoint, Failure> {
    let own = info.destinations.iter().find_map(|to| to.host.exact().map(|host| (host, to.port)));
    let authority = match (&health.host, own) {
        (Some(host), _) => host.clone(),
        (None, Some((host, 443))) => host.to_string(),
        (None, Some((host, port))) => format!("{host}:{port}"),
        (None, None) => {
            return Err(Failure::usage(format!(
                "all destinations of {} are patterns, and the call needs a host",
                info.name
            )));
        }
    };
    let text = format!("https://{authority}{}", health.path);
    let endpoint: Endpoint = text
        .parse()
        .map_err(|error| Failure::new(format!("the catalogue's {text} cannot be used: {error}")))?;
    if !info.destinations.iter().any(|to| to.matches(endpoint.origin())) {
        return Err(Failure::usage(format!(
            "{} may not go to {}, where its provider's call is",
            info.name,
            endpoint.origin()
        )));
    }
    Ok(endpoint)
}

/// The fields of the call, with the secret in the first slot that is one.
fn headers(info: &CredentialInfo, health: &Health, secret: &Secret) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    let unfit = || Failure::new("the call cannot be put together");
    for (name, value) in &health.headers {
        let name: HeaderName = name.parse().map_err(|_| unfit())?;
        headers.insert(name, value.parse().map_err(|_| unfit())?);
    }
    if health.body.is_some() {
        let json = HeaderValue::from_static("application/json");
        headers.entry(header::CONTENT_TYPE).or_insert(json);
    }
    let filled = info.slots.iter().find_map(|slot| {
        let name = slot.header_name()?.clone();
        Some((name, secret.expose(|secret| value(slot, secret))?))
    });
    let (name, value) = filled.ok_or_else(|| {
        Failure::usage(format!("{} enters no header, and this call has no other place", info.name))
    })?;
    let mut value =
        HeaderValue::from_maybe_shared(Bytes::from_owner(value)).map_err(|_| unfit())?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(headers)
}

/// A header with the secret in it.
fn value(slot: &Slot, secret: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::with_capacity(2 * secret.len() + 256));
    match slot {
        Slot::Header { template, .. } => {
            text.extend_from_slice(template.prefix().as_bytes());
            text.extend_from_slice(secret);
            text.extend_from_slice(template.suffix().as_bytes());
        }
        Slot::Basic { part, other } => {
            let mut pair = Zeroizing::new(Vec::with_capacity(secret.len() + other.len() + 1));
            let (user, password) = match part {
                BasicPart::User => (secret, other.as_bytes()),
                BasicPart::Password => (other.as_bytes(), secret),
            };
            pair.extend_from_slice(user);
            pair.push(b':');
            pair.extend_from_slice(password);
            text.extend_from_slice(b"Basic ");
            let mut encoded = Zeroizing::new(vec![0; BASE64.encode_len(pair.len())]);
            BASE64.encode_mut(&pair, &mut encoded);
            text.extend_from_slice(&encoded);
        }
        _ => return None,
    }
    Some(text)
}

/// What an answer says of the secret: its body decides before its status does.
fn judge(health: &Health, status: StatusCode, body: &[u8]) -> Option<bool> {
    let has = |text: &Option<String>| {
        text.as_ref().is_some_and(|text| memchr::memmem::find(body, text.as_bytes()).is_some())
    };
    let status = status.as_u16();
    match () {
        () if has(&health.invalid_body) => Some(false),
        () if has(&health.valid_body) => Some(true),
        () if health.invalid.contains(&status) => Some(false),
        () if health.valid.contains(&status) => Some(true),
        () => None,
    }
}

/// The record of the call is in the vault's journal already.
struct InTheJournal;

impl AuditSink for InTheJournal {
    fn access(&self, _: &Access<'_>) -> Result<(), Unrecorded> {
        Ok(())
    }

    fn outcome(&self, _: &Outcome) {}

    fn event(&self, _: &Event) -> Result<(), Unrecorded> {
        Ok(())
    }
}
