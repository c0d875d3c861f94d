//! What there is to administer, each thing as one order: a command carries it out beside the home's files,
//! a running proxy for whoever brings it over the socket. There is one of each, whichever way it comes.

pub(crate) mod administrators;
pub(crate) mod agents;
pub(crate) mod anomalies;
pub(crate) mod approvals;
pub(crate) mod certificates;
pub(crate) mod credentials;
pub(crate) mod kinds;
pub(crate) mod learn;
pub(crate) mod policies;
pub(crate) mod records;
pub(crate) mod register;
pub(crate) mod runs;
pub(crate) mod sets;
pub(crate) mod values;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Method;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::problem::Problem;
use crate::app::{Failure, Home, Opened, check_policy_file, trust_domain};
use crate::files;
use crate::secret::Secret;
use crate::vault::{Administrator, Vault, VaultError};

/// One thing to do or to look up.
pub(crate) trait Order {
    /// What comes of it, as the socket and `--json` have it.
    type Answer: Serialize + DeserializeOwned;

    /// How it is brought over the socket.
    fn call(&self) -> Result<Call, Failure>;

    /// Does it. That whoever asks may is settled.
    fn carry_out(self, desk: &mut impl Desk) -> Result<Self::Answer, Trouble>;
}

/// A request for the socket.
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    /// May have a secret in it.
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl Call {
    pub(crate) fn get(target: impl Into<String>) -> Self {
        Self { method: Method::GET, target: target.into(), body: Zeroizing::default() }
    }

    pub(crate) fn post(target: impl Into<String>, body: &impl Serialize) -> Result<Self, Failure> {
        let json = serde_json::to_vec(body)
            .map_err(|_| Failure::usage("what is to be sent is no text of UTF-8"))?;
        Ok(Self { method: Method::POST, target: target.into(), body: Zeroizing::new(json) })
    }
}

/// The query of a target, of the parameters that there are.
fn query_of<const N: usize>(pairs: [(&str, Option<String>); N]) -> String {
    let encoded = |(name, value): (&str, Option<String>)| {
        let value = value?;
        let value =
            percent_encoding::utf8_percent_encode(&value, percent_encoding::NON_ALPHANUMERIC);
        Some(format!("{name}={value}"))
    };
    let all: Vec<String> = pairs.into_iter().filter_map(encoded).collect();
    if all.is_empty() { String::new() } else { format!("?{}", all.join("&")) }
}

/// Where orders are carried out: in a home that is open, or in a running proxy for an administrator.
pub(crate) trait Desk {
    /// The home, in the workspace that is worked in.
    fn home(&self) -> &Home;

    /// Where the audit log is.
    fn log(&self) -> &Path;

    /// How long what began with the old version of a credential may use it, where nobody says.
    fn grace(&self) -> Result<Duration, Trouble>;

    /// The trust domain of the names in certificates that the home issues to agents.
    fn trust_domain(&self) -> String;

    /// The administrator whose order it is; none for whoever has the home's files.
    fn who(&self) -> Option<&Administrator>;

    /// Looks something up in the workspace.
    fn read<T>(&self, read: impl FnOnce(&Vault) -> Result<T, Trouble>) -> Result<T, Trouble>;

    /// Changes the workspace. On record when it returns, where there is a log to write to.
    fn write<T>(
        &mut self,
        write: impl FnOnce(&mut Vault) -> Result<T, Trouble>,
    ) -> Result<T, Trouble>;

    /// Records what is no change of the vault. What cannot be recorded is not done.
    fn note(&self, event: &'static str, subject: Option<&str>, detail: &str)
    -> Result<(), Trouble>;

    /// Puts a policy file of the workspace in force, or takes it away, if all are sound then.
    fn change_policy(&mut self, path: &Path, text: Option<&str>) -> Result<(), Trouble>;
}

/// Why an order is not carried out.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The vault does not do it.
    Vault(VaultError),
    /// What it is about is not there.
    Missing(Failure),
    /// What was asked for is wrong, or it failed.
    Failed(Failure),
    /// Not over the socket, or not now.
    Refused(Problem),
}

impl Trouble {
    /// What was asked for cannot be, and what to do.
    pub(crate) fn wrong(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Failed(Failure::usage(what).help(help))
    }
}

impl From<VaultError> for Trouble {
    fn from(error: VaultError) -> Self {
        Self::Vault(error)
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Vault(error) => error.into(),
            Trouble::Missing(failure) | Trouble::Failed(failure) => failure,
            Trouble::Refused(problem) => Self::new(problem.detail),
        }
    }
}

impl Desk for Opened {
    fn home(&self) -> &Home {
        &self.home
    }

    fn log(&self) -> &Path {
        &self.config.audit.dir
    }

    fn grace(&self) -> Result<Duration, Trouble> {
        Ok(self.config.credentials.grace)
    }

    fn trust_domain(&self) -> String {
        trust_domain(&self.config).to_owned()
    }

    fn who(&self) -> Option<&Administrator> {
        None
    }

    fn read<T>(&self, read: impl FnOnce(&Vault) -> Result<T, Trouble>) -> Result<T, Trouble> {
        read(&self.vault)
    }

    fn write<T>(
        &mut self,
        write: impl FnOnce(&mut Vault) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let done = write(&mut self.vault);
        // Of several changes the first may stand though the last was refused.
        let recorded = self.changed();
        let done = done?;
        recorded?;
        Ok(done)
    }

    /// Who has the files may do all of it without a word; what changes anything is in the journal.
    fn note(&self, _: &'static str, _: Option<&str>, _: &str) -> Result<(), Trouble> {
        Ok(())
    }

    fn change_policy(&mut self, path: &Path, text: Option<&str>) -> Result<(), Trouble> {
        check_policy_file(&self.home, path, text)?.map_err(Failure::usage)?;
        match text {
            Some(text) => files::replace_private(path, text.as_bytes()).map_err(Failure::from)?,
            None => std::fs::remove_file(path)
                .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?,
        }
        Ok(())
    }
}

/// A secret that somebody gives.
pub(crate) struct Given(pub(crate) Secret);

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(d)?);
        let bytes = crate::vault::without_line_end(text.as_bytes());
        Ok(Self(Secret::new(bytes.to_vec())))
    }
}

/// For the request that brings it to the socket, and nothing else.
impl Serialize for Given {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let not_text = |_| serde::ser::Error::custom("it is no text of UTF-8");
        self.0.expose(|bytes| s.serialize_str(std::str::from_utf8(bytes).map_err(not_text)?))
    }
}

/// A token that was made, on its way to whoever asked for it.
pub(crate) struct Made(pub(crate) Zeroizing<String>);

impl<'de> Deserialize<'de> for Made {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Self(Zeroizing::new(String::deserialize(d)?)))
    }
}

impl Serialize for Made {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

/// Seconds since the Unix epoch.
pub(crate) fn unix(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

pub(crate) fn now() -> i64 {
    unix(SystemTime::now())
}

/// The Unix time so many seconds from now.
fn after(seconds: u64) -> i64 {
    now().saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX))
}
