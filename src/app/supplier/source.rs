//! Secrets that lie elsewhere: fetched over the gateway's own far side where another vault has them,
//! and read where they are on this machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::super::program;
use super::super::remote::{self, Caller, Failed, Fetched, Via, aws, azure, gcp, text_of, vault};
use super::Supplier;
use crate::credential::{Aws, CloudLogin, Credential, Endpoint, Kind, Place, Source};
use crate::mint::Material;
use crate::outcome::{Code, Refusal};
use crate::proxy::Gateway;
use crate::record::{Use, Why};
use crate::reference::Name;
use crate::secret::Secret;
use crate::vault::{validate_secret, without_line_end};

/// What errands to other vaults are called in records.
const PURPOSE: &str = "source";

/// How long a program may take.
const COMMAND_TIME: Duration = Duration::from_secs(20);

/// One fetch: for which version of which credential, and from where.
pub(super) struct Fetch<'a> {
    pub(super) supplier: &'a Supplier,
    pub(super) gateway: &'a Gateway,
    pub(super) credential: &'a Credential,
    pub(super) version: u32,
    pub(super) source: &'a Source,
}

impl Fetch<'_> {
    /// What is to be sent in a request.
    pub(super) async fn for_requests(&self) -> Result<Fetched, Failed> {
        let fetched = self.raw().await?;
        let sound = fetched.secret.expose(|bytes| validate_secret(bytes, true).is_ok());
        if sound { Ok(fetched) } else { Err("what lies there cannot be sent in a request".into()) }
    }

    /// What lies there: a kind makes something else of it, so that it need not fit into a header.
    pub(super) async fn raw(&self) -> Result<Fetched, Failed> {
        let field = self.source.field.as_deref();
        match &self.source.place {
            Place::Vault { url, path, login, namespace } => {
                let server = vault::Server { url, login, namespace: namespace.as_deref() };
                let caller = self.caller((&self.credential.name, self.version), "source".into());
                server.read(&caller, || self.own_secret(), (path, field)).await
            }
            Place::Aws { url, login, .. }
            | Place::Gcp { url, login, .. }
            | Place::Azure { url, login, .. } => self.cloud(url, login, field).await,
            place => near(place.clone(), self.source.field.clone()).await,
        }
    }

    async fn cloud(
        &self,
        url: &Endpoint,
        login: &CloudLogin,
        field: Option<&str>,
    ) -> Result<Fetched, Failed> {
        let CloudLogin::Credential { name } = login else {
            let caller = self.caller((&self.credential.name, self.version), "source".into());
            return self.ask(&caller, self.by_itself(&caller, login).await?, field).await;
        };
        let key =
            self.supplier.login(self.gateway, (&self.credential.workspace, name), url).await?;
        let caller = self.caller((name, key.version), format!("source:{}", self.credential.name));
        let asked = self.ask(&caller, key.secret, field).await;
        if asked.as_ref().is_err_and(|failed| failed.login) {
            self.supplier.login_failed(self.gateway, (&self.credential.workspace, name));
        }
        asked
    }

    /// The key or token of a login that no credential of ours is for.
    async fn by_itself(&self, caller: &Caller<'_>, login: &CloudLogin) -> Result<Secret, Failed> {
        match &self.source.place {
            Place::Aws { region, .. } => Ok(aws::keys(caller, login, region).await?.to_secret()),
            Place::Gcp { .. } => gcp::of_instance(caller).await,
            _ => azure::of_instance(caller).await,
        }
    }

    /// Asks the cloud, with a key of AWS or a token.
    async fn ask(
        &self,
        caller: &Caller<'_>,
        key: Secret,
        field: Option<&str>,
    ) -> Result<Fetched, Failed> {
        match &self.source.place {
            Place::Aws { url, region, secret, version, .. } => {
                let keys = Material::read(&key, &Kind::Aws(Box::<Aws>::default()));
                let keys = keys.map_err(|_| "the login is no key of AWS")?;
                let service = aws::Service { url, region, name: "secretsmanager" };
                service.secret(caller, &keys, (secret, version.as_ref()), field).await
            }
            Place::Gcp { url, name, .. } => gcp::secret(caller, &key, (url, name), field).await,
            Place::Azure { url, name, version, .. } => {
                azure::secret(caller, &key, (url, name, version.as_deref()), field).await
            }
            _ => Err("it is no cloud".into()),
        }
    }

    fn caller(&self, (name, version): (&Name, u32), slot: String) -> Caller<'_> {
        let uses = Use {
            credential: name.clone(),
            version: Some(version),
            slot: Some(slot),
            why: Why::default(),
        };
        let workspace = Some(&self.credential.workspace);
        Caller { via: Via::Gateway(self.gateway), purpose: PURPOSE, workspace, uses: Some(uses) }
    }

    /// What lies in our own vault: what the source asks its callers for.
    fn own_secret(&self) -> Result<Secret, Failed> {
        let state = super::state_of(self.gateway, &self.credential.workspace)?;
        Ok(state.open(&self.credential.name, self.version)?)
    }
}

/// What a source logs in with.
pub(super) struct Key {
    pub(super) secret: Secret,
    pub(super) version: u32,
}

impl Supplier {
    /// The value of a credential that is for sources, and that may go there.
    async fn login(
        &self,
        gateway: &Gateway,
        (workspace, name): (&Name, &Name),
        to: &Endpoint,
    ) -> Result<Key, Failed> {
        let state = super::state_of(gateway, workspace)?;
        let sealed = state.sealed.as_ref().ok_or_else(|| Refusal::new(Code::VaultUnavailable))?;
        let missing = "the credential that the source logs in with is not there, or is revoked";
        let credential = state.credentials.get(name.as_str()).ok_or(missing)?;
        let version = sealed.current(name).ok_or(missing)?;
        if !credential.properties.for_sources {
            return Err("the credential that the source logs in with is not for sources".into());
        }
        if !credential.is_bound_to(to.origin()) {
            return Err("the credential that the source logs in with may not go there".into());
        }
        // One that logs in with another, and that with it, would wait for itself.
        let own = credential.properties.source.as_ref().and_then(Source::cloud_login);
        if matches!(own, Some(CloudLogin::Credential { .. })) {
            return Err("the credential that the source logs in with is itself got by one".into());
        }
        let secret = if credential.is_supplied() {
            use crate::supply::Supply as _;
            self.supply(credential, version).await.map_err(|refusal| {
                let why = refusal.reason.unwrap_or_default();
                tracing::warn!(login = %name, code = %refusal.code, why, "a source's login cannot be had");
                Failed::from("the value of the credential that the source logs in with cannot be had")
            })?
        } else {
            state.open(name, version)?
        };
        Ok(Key { secret, version })
    }

    /// The cloud does not take it any more: another is made, where it is made.
    fn login_failed(&self, gateway: &Gateway, (workspace, name): (&Name, &Name)) {
        use crate::supply::Supply as _;
        let Ok(state) = super::state_of(gateway, workspace) else { return };
        let version = state.sealed.as_ref().and_then(|sealed| sealed.current(name));
        if let (Some(credential), Some(version)) = (state.credentials.get(name.as_str()), version) {
            self.rejected(credential, version);
        }
    }
}

/// What is on this machine. Files and programs may block.
async fn near(place: Place, field: Option<String>) -> Result<Fetched, Failed> {
    let read = tokio::task::spawn_blocking(move || read_near(&place, field.as_deref()));
    read.await.unwrap_or_else(|_| Err("it could not be read".into()))
}

fn read_near(place: &Place, field: Option<&str>) -> Result<Fetched, Failed> {
    let bytes = match place {
        Place::File { path } => remote::file(Path::new(path))?,
        Place::Systemd { credential } => {
            let directory = std::env::var_os("CREDENTIALS_DIRECTORY")
                .ok_or("there is no CREDENTIALS_DIRECTORY in the proxy's environment")?;
            remote::file(&PathBuf::from(directory).join(credential))?
        }
        Place::Env { variable } => {
            let value = std::env::var_os(variable)
                .ok_or_else(|| Failed::gone("the variable is not in the proxy's environment"))?;
            Secret::new(value.into_encoded_bytes())
        }
        Place::Command { words } => {
            let mut printed = program::output(words, COMMAND_TIME).map_err(|failure| {
                tracing::warn!(error = %failure, "a source's program failed");
                Failed::from("its program failed, or took too long")
            })?;
            Secret::new(std::mem::take(&mut *printed))
        }
        _ => return Err("it is not on this machine".into()),
    };
    bytes.expose(|bytes| pick(bytes, field))
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
    Ok(Fetched { secret, lease, ends: None })
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
