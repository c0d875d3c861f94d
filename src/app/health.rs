//! Whether a credential's secret is still good: its provider is asked, by the cheap call that the
//! catalogue has for it, over the same far side as every other call.
//!
//! The secret goes nowhere that the credential is not bound to, and an answer that proves nothing is no
//! verdict.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use crate::catalog::{Catalog, Health};
use crate::credential::{BasicPart, Endpoint, Kind, Slot};
use crate::host::{Authority, Destination, Host, Origin, Scheme};
use crate::outcome::Refusal;
use crate::proxy::{Errand, Reply};
use crate::record::Use;
use crate::reference::Name;
use crate::secret::Secret;

/// What errands to providers are called in records.
const PURPOSE: &str = "health";

/// What is known of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Its provider takes it.
    Good,
    /// Its provider does not.
    Bad,
    /// The answer, or its absence, proves nothing.
    Unknown,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Unknown => "unknown",
        })
    }
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The verdict.
    pub verdict: Verdict,
    /// Where it was tried, without what the call asked for.
    pub at: String,
    /// The answer's status, if there was one.
    pub status: Option<u16>,
    /// Why there is no verdict.
    pub why: Option<String>,
}

/// A credential as a check needs it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its workspace; none in a command, whose record is the vault's journal.
    pub workspace: Option<&'a Name>,
    /// Its name.
    pub name: &'a Name,
    /// The version that is tried.
    pub version: u32,
    /// The catalogue's id.
    pub provider: Option<&'a str>,
    /// Where it may go.
    pub destinations: &'a [Destination],
    /// How it enters a request.
    pub slots: &'a [Slot],
    /// What is made of its secret.
    pub kind: Option<&'a Kind>,
}

/// The call that the catalogue has for a provider's key, or for what a kind makes of it.
pub(super) fn call_for(provider: Option<&str>, kind: Option<&Kind>) -> Option<&'static Health> {
    let provider = Catalog::embedded().get(provider?)?;
    match kind {
        Some(kind) => provider.health_of(kind.name()),
        None => provider.health(),
    }
}

/// A call that tells a good secret from a bad one.
pub struct Probe {
    health: &'static Health,
    endpoint: Endpoint,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
}

impl Probe {
    /// The call for a credential with this secret.
    ///
    /// # Errors
    /// Why there is none.
    pub fn new(subject: Subject<'_>, secret: &Secret) -> Result<Self, &'static str> {
        let health = call_for(subject.provider, subject.kind)
            .ok_or("the catalogue has no call to check it with")?;
        if health.path.contains("{secret}") {
            return Err(
                "its provider wants the secret in the path of the check, which records show",
            );
        }
        let endpoint = endpoint(health, subject.destinations)?;
        let mut headers = headers(health)?;
        let (name, value) = subject
            .slots
            .iter()
            .find_map(|slot| field(slot, secret))
            .ok_or("it has no slot in a header to check it by")?;
        headers.insert(name, value);
        let body = Bytes::from_static(health.body.as_deref().unwrap_or_default().as_bytes());
        if !body.is_empty() {
            headers
                .entry(header::CONTENT_TYPE)
                .or_insert(HeaderValue::from_static("application/json"));
        }
        let method = Method::from_bytes(health.method.as_bytes()).map_err(|_| "no such method")?;
        Ok(Self { health, endpoint, method, headers, body })
    }

    /// The call, to be made over the far side.
    #[must_use]
    pub fn errand<'a>(&'a self, subject: Subject<'a>) -> Errand<'a> {
        let uses = Use {
            credential: subject.name.clone(),
            version: Some(subject.version),
            slot: Some(PURPOSE.to_owned()),
            why: crate::record::Why::default(),
        };
        Errand {
            purpose: PURPOSE,
            workspace: subject.workspace,
            uses: Some(uses),
            endpoint: &self.endpoint,
            method: self.method.clone(),
            headers: self.headers.clone(),
            body: self.body.clone(),
            within: None,
        }
    }

    /// What came of it.
    #[must_use]
    pub fn verdict(&self, sent: Result<Reply, Refusal>) -> Checked {
        let path = self.endpoint.target().split('?').next().unwrap_or_default();
        let at = format!("{}{path}", self.endpoint.origin());
        let reply = match sent {
            Ok(reply) => reply,
            Err(Refusal { code, detail, .. }) => {
                let why = Some(format!("{at} could not be asked: {code}: {detail}"));
                return Checked { verdict: Verdict::Unknown, at, status: None, why };
            }
        };
        let verdict = judge(self.health, &reply);
        let status = reply.status.as_u16();
        let why = (verdict == Verdict::Unknown)
            .then(|| format!("{at} answered {status}, which says nothing of the key"));
        Checked { verdict, at, status: Some(status), why }
    }
}

/// Where the call goes: to a host that the credential is bound to, and to no other.
fn endpoint(health: &Health, bound: &[Destination]) -> Result<Endpoint, &'static str> {
    let exact = |to: &Destination| Some((to.host.exact()?.clone(), to.port));
    let (host, port) = if let Some(host) = &health.host {
        let host = Host::parse(host).map_err(|_| "the catalogue's host is none")?;
        (host, Scheme::Https.default_port())
    } else {
        bound.iter().find_map(exact).ok_or("none of its destinations is one host")?
    };
    let origin = Origin { scheme: Scheme::Https, authority: Authority { host, port } };
    if !bound.iter().any(|to| to.matches(&origin)) {
        return Err("its provider's check is at a host that it is not bound to");
    }
    let text = format!("https://{}{}", origin.authority, health.path);
    text.parse().map_err(|_| "the catalogue's path is none")
}

fn headers(health: &Health) -> Result<HeaderMap, &'static str> {
    let pair = |(name, value): (&String, &String)| {
        Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
    };
    let all: Option<HeaderMap> = health.headers.iter().map(pair).collect();
    all.ok_or("a header of the catalogue is none")
}

/// The field that the secret enters by.
fn field(slot: &Slot, secret: &Secret) -> Option<(HeaderName, HeaderValue)> {
    let (name, text) = match slot {
        Slot::Header { name, template } => {
            let text = secret.expose(|bytes| {
                [template.prefix().as_bytes(), bytes, template.suffix().as_bytes()].concat()
            });
            (name.clone(), zeroize::Zeroizing::new(text))
        }
        Slot::Basic { part, other } => {
            let pair = secret.expose(|bytes| match part {
                BasicPart::User => [bytes, b":", other.as_bytes()].concat(),
                BasicPart::Password => [other.as_bytes(), b":", bytes].concat(),
            });
            let pair = zeroize::Zeroizing::new(pair);
            let text = format!("Basic {}", data_encoding::BASE64.encode(&pair));
            (header::AUTHORIZATION, zeroize::Zeroizing::new(text.into_bytes()))
        }
        _ => return None,
    };
    let mut value = HeaderValue::from_bytes(&text).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

/// What the answer says: its body before its status, because some answer 200 with an error in it.
fn judge(health: &Health, reply: &Reply) -> Verdict {
    let has = |text: &Option<String>| {
        text.as_deref().is_some_and(|text| {
            reply.body.expose(|body| memchr::memmem::find(body, text.as_bytes()).is_some())
        })
    };
    let status = reply.status.as_u16();
    match () {
        () if has(&health.invalid_body) => Verdict::Bad,
        () if has(&health.valid_body) => Verdict::Good,
        () if health.invalid.contains(&status) => Verdict::Bad,
        () if health.valid.contains(&status) => Verdict::Good,
        () => Verdict::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject<'a>(name: &'a Name, to: &'a [Destination], slots: &'a [Slot]) -> Subject<'a> {
        Subject {
            workspace: None,
            name,
            version: 1,
            provider: Some("openai"),
            destinations: to,
            slots,
            kind: None,
        }
    }

    fn to(text: &str) -> Vec<Destination> {
        vec![text.parse().unwrap()]
    }

    #[test]
    fn a_secret_goes_only_where_it_is_bound_and_in_a_header() {
        let name: Name = "openai".parse().unwrap();
        let secret = Secret::new(b"sk-secret".to_vec());
        let slots: Vec<Slot> = vec!["header authorization: Bearer {secret}".parse().unwrap()];
        let bound = to("https://api.openai.com");
        let probe = Probe::new(subject(&name, &bound, &slots), &secret).unwrap();
        assert_eq!(probe.endpoint.to_string(), "https://api.openai.com/v1/models");
        assert_eq!(probe.headers["authorization"], "Bearer sk-secret");
        assert!(probe.headers["authorization"].is_sensitive());
        // The host is the credential's own, whatever the catalogue's would be.
        let own = to("https://llm.internal:8443");
        let probe = Probe::new(subject(&name, &own, &slots), &secret).unwrap();
        assert_eq!(probe.endpoint.to_string(), "https://llm.internal:8443/v1/models");
        let many = to("https://*.openai.com");
        assert!(Probe::new(subject(&name, &many, &slots), &secret).is_err());
        let query: Vec<Slot> = vec!["query key".parse().unwrap()];
        assert!(Probe::new(subject(&name, &bound, &query), &secret).is_err());
        let none = Subject { provider: None, ..subject(&name, &bound, &slots) };
        assert!(Probe::new(none, &secret).is_err());
    }

    #[test]
    fn a_check_at_another_host_needs_a_binding_there() {
        let bound = to("https://a.example.com");
        for provider in Catalog::embedded().iter() {
            let Some(health) = provider.health().filter(|health| health.host.is_some()) else {
                continue;
            };
            assert!(endpoint(health, &bound).is_err(), "{}", provider.id());
        }
    }
}
