//! What administrators send: the bodies of their requests.

use serde::Deserialize;

use crate::agent::Label;
use crate::catalog::Catalog;
use crate::cli::{provider_slots, provider_to};
use crate::credential::{Properties, Slot};
use crate::host::Destination;
use crate::reference::Name;
use crate::secret::Secret;
use crate::vault::{NewCredential, Role, Tier, validate_secret, without_line_end};

/// A credential whose secret is in the body. Sources and kinds are for those who have the files: they read
/// files and run programs of the proxy's machine.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AddCredential {
    name: Name,
    provider: Option<String>,
    #[serde(default)]
    to: Vec<String>,
    /// As `credential show` has them: `header authorization: Bearer {secret}`.
    #[serde(default)]
    slots: Vec<String>,
    stand_in: Option<String>,
    secret: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GiveSecret {
    secret: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AddAgent {
    pub(super) name: Name,
    pub(super) note: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AddAdministrator {
    pub(super) name: Name,
    pub(super) role: Role,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MakeRunToken {
    pub(super) agent: Name,
    pub(super) run: Option<String>,
    /// In seconds.
    pub(super) ttl: Option<i64>,
    #[serde(rename = "use")]
    pub(super) uses: Option<Vec<Name>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Decide {
    pub(super) approve: bool,
}

impl AddCredential {
    /// What is to be stored, or what is wrong with it. Neither says anything of the secret.
    pub(super) fn read(self) -> Result<(NewCredential, Secret), String> {
        // First: what is wrong with the rest must not leave it behind.
        let secret = secret(self.secret)?;
        let provider = match &self.provider {
            Some(id) => {
                Some(Catalog::embedded().get(id).ok_or("the catalogue has no such provider")?)
            }
            None => None,
        };
        let own = |error: crate::app::Failure| error.to_string();
        let to: Vec<Destination> = match provider.filter(|_| self.to.is_empty()) {
            Some(provider) => provider_to(provider).map_err(own)?,
            None => parsed("to", &self.to)?,
        };
        let slots: Vec<Slot> = match provider.filter(|_| self.slots.is_empty()) {
            Some(provider) => provider_slots(provider).map_err(own)?,
            None => parsed("slots", &self.slots)?,
        };
        let stand_in = self.stand_in.or_else(|| provider?.stand_in(&self.name.reference()));
        let new = NewCredential {
            name: self.name,
            provider: self.provider,
            tier: Tier::default(),
            tags: Vec::new(),
            destinations: to,
            slots,
            stand_in,
            properties: Properties::default(),
        };
        Ok((new, secret))
    }
}

impl GiveSecret {
    pub(super) fn read(self) -> Result<Secret, String> {
        secret(self.secret)
    }
}

impl MakeRunToken {
    /// The run, if it can be one's name.
    pub(super) fn run(&self) -> Result<Option<Label>, String> {
        let run = self
            .run
            .as_ref()
            .map(|run| run.parse().map_err(|_| "run: no such id can be".to_owned()));
        run.transpose()
    }
}

/// A secret that can be used, without its line end.
fn secret(text: String) -> Result<Secret, String> {
    let bytes = zeroize::Zeroizing::new(text.into_bytes());
    let bytes = without_line_end(&bytes);
    validate_secret(bytes, false).map_err(|why| format!("the secret cannot be stored: {why}"))?;
    Ok(Secret::new(bytes.to_vec()))
}

fn parsed<T: std::str::FromStr>(key: &str, texts: &[String]) -> Result<Vec<T>, String>
where
    T::Err: std::fmt::Display,
{
    let one = |text: &String| text.parse().map_err(|error: T::Err| format!("{key}: {error}"));
    texts.iter().map(one).collect()
}
