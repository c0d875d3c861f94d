//! Who may ask for what, and where it is done: an administrator's seat in a running proxy.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::orders::policies::hide;
use super::orders::{Desk, Order, Trouble};
use super::problem::Problem;
use super::routes;
use crate::app::{Failure, Home, Keeper, check_policy_file};
use crate::audit::AuditLog;
use crate::files;
use crate::record::{AuditSink as _, Event};
use crate::vault::{ADMINISTRATOR_PREFIX, Administrator, Role, Vault, VaultError};

/// The most policy files of a workspace to which one is added here, with all else in their directory. Each
/// look of the proxy asks for the state of every one.
const POLICY_FILES: usize = 200;

/// The most bytes of them together: all are read and compiled when one changes.
const POLICY_BYTES: u64 = 8 << 20;

/// Does what administrators ask for, in a running proxy.
pub(crate) struct Office {
    keeper: Arc<Keeper>,
    audit: Arc<AuditLog>,
    home: Home,
    log: PathBuf,
    /// Held from the check of a policy until it is in force: two that are sound, each with what was there
    /// before, may not be so together.
    policies: Mutex<()>,
}

/// One request.
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) body: Bytes,
    /// In seconds since the Unix epoch.
    pub(super) at: i64,
}

pub(super) type Done = Result<Value, Problem>;

impl Office {
    pub(crate) fn new(keeper: Arc<Keeper>, audit: Arc<AuditLog>, home: Home, log: PathBuf) -> Self {
        Self { keeper, audit, home, log, policies: Mutex::default() }
    }

    /// Whose token it is. `asked` is what for, for the proxy's log.
    pub(super) fn admit(
        &self,
        token: Option<&str>,
        asked: &str,
        at: i64,
    ) -> Result<Administrator, Problem> {
        // What opens the proxy is not even looked up here.
        let token = token.filter(|token| token.starts_with(ADMINISTRATOR_PREFIX));
        let who = match token {
            Some(token) => self.keeper.consult(|vault| vault.administrator_of(token, at))??,
            None => None,
        };
        who.ok_or_else(|| {
            let asked = beginning(asked);
            tracing::warn!(path = asked, "somebody without an administrator's token");
            Problem::unauthorized()
        })
    }

    /// Does what is asked for, if whoever asks may.
    pub(super) fn answer(&self, who: Administrator, asked: &Asked) -> Done {
        let home = self.home.in_workspace(&who.workspace);
        routes::serve(&mut Seat { office: self, home, who, asked })
    }
}

/// One request of somebody who is known.
pub(super) struct Seat<'a> {
    office: &'a Office,
    pub(super) who: Administrator,
    /// Seen from the administrator's workspace, which nothing in a request can name.
    home: Home,
    pub(super) asked: &'a Asked,
}

impl Seat<'_> {
    /// Whether the role reaches, and whoever asks is an administrator still: the body of a request may have
    /// come slowly. That the role does not reach is on record: somebody tries.
    pub(super) fn require(&self, least: Role) -> Result<(), Problem> {
        self.office.keeper.consult_for(&self.who, |_| Ok(()))?;
        if self.who.role >= least {
            return Ok(());
        }
        let what = format!("{} {}", self.asked.method, beginning(&self.asked.path));
        self.record("administration-refused", None, &what)?;
        Err(Problem::forbidden(format!(
            "this takes the role {}, and you are {}",
            least.as_str(),
            self.who.role.as_str()
        )))
    }

    /// Carries an order out.
    pub(super) fn take<O: Order>(&mut self, order: O) -> Done {
        let answer = order.carry_out(self)?;
        serde_json::to_value(answer).map_err(|_| {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal-error", "it failed")
        })
    }

    /// What the request brings.
    pub(super) fn body<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_json::from_slice(&self.asked.body).map_err(|error| {
            // The text of the error may quote what was sent, and that may be a secret.
            Problem::bad(format!(
                "the body is not what is expected here (line {}, column {})",
                error.line(),
                error.column()
            ))
        })
    }

    pub(super) fn keeper(&self) -> &Keeper {
        &self.office.keeper
    }

    fn record(
        &self,
        event: &'static str,
        subject: Option<&str>,
        detail: &str,
    ) -> Result<(), Problem> {
        let event = Event {
            event,
            workspace: Some(self.who.workspace.clone()),
            subject: subject.map(str::to_owned),
            detail: Some(detail.to_owned()),
            by: Some(self.who.signature()),
            vault_epoch: None,
        };
        self.office.audit.event(&event).map_err(|_| Problem::unrecorded())
    }

    /// That with so many bytes in this file the workspace's policies are not too many, nor too long.
    fn has_room(&self, path: &Path, bytes: u64) -> Result<(), Problem> {
        let entries = fs::read_dir(self.home.policies()).map_err(|_| Problem::missing())?;
        let others = entries.flatten().filter(|entry| entry.path() != path);
        let sizes: Vec<u64> =
            others.filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).collect();
        if sizes.len() >= POLICY_FILES || sizes.iter().sum::<u64>() + bytes > POLICY_BYTES {
            return Err(Problem::invalid(format!(
                "the policies of a workspace are {POLICY_FILES} files and {} MiB at most",
                POLICY_BYTES >> 20
            )));
        }
        Ok(())
    }

    /// Records the change of a file, and makes it.
    fn change_file(&self, path: &Path, text: Option<&str>) -> Result<(), Problem> {
        let file = path.file_name().and_then(|name| name.to_str());
        if let Some(text) = text {
            self.record("policy-put", file, &format!("{} bytes", text.len()))?;
            files::replace_private(path, text.as_bytes()).map_err(Failure::from)?;
        } else {
            self.record("policy-removed", file, "")?;
            fs::remove_file(path).map_err(|_| Problem::missing())?;
        }
        Ok(())
    }
}

impl Desk for Seat<'_> {
    fn home(&self) -> &Home {
        &self.home
    }

    fn log(&self) -> &Path {
        &self.office.log
    }

    fn grace(&self) -> Result<Duration, Trouble> {
        Ok(self.office.keeper.grace())
    }

    fn trust_domain(&self) -> String {
        self.office.keeper.trust_domain()
    }

    fn who(&self) -> Option<&Administrator> {
        Some(&self.who)
    }

    fn read<T>(&self, read: impl FnOnce(&Vault) -> Result<T, Trouble>) -> Result<T, Trouble> {
        self.office.keeper.consult_for(&self.who, |vault| apart(read(vault)))?
    }

    /// In the administrator's name. In force when it returns.
    fn write<T>(
        &mut self,
        write: impl FnOnce(&mut Vault) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        self.office.keeper.administer(&self.who, |vault| apart(write(vault)))?
    }

    fn note(
        &self,
        event: &'static str,
        subject: Option<&str>,
        detail: &str,
    ) -> Result<(), Trouble> {
        Ok(self.record(event, subject, detail)?)
    }

    /// In force when it returns, and never with mistakes, nor above the organisation's.
    fn change_policy(&mut self, path: &Path, text: Option<&str>) -> Result<(), Trouble> {
        let _turn = self.office.policies.lock();
        match text {
            Some(text) => self.has_room(path, text.len() as u64)?,
            None if !path.exists() => return Err(Problem::missing().into()),
            None => {}
        }
        check_policy_file(&self.home, path, text)?.map_err(|report| {
            let text = hide(&report, &self.home);
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "policy-mistakes", text)
        })?;
        let keeper = &self.office.keeper;
        keeper.consult_for(&self.who, |_| Ok(self.change_file(path, text)))??;
        let taken = keeper.take_policy(&self.who.workspace, path);
        taken.map_err(|undone| {
            let problem = Problem::from(undone);
            Trouble::Refused(Problem { detail: hide(&problem.detail, &self.home), ..problem })
        })
    }
}

/// An error of the vault's own beside one of an order: the vault hands on its own.
fn apart<T>(done: Result<T, Trouble>) -> Result<Result<T, Trouble>, VaultError> {
    match done {
        Err(Trouble::Vault(error)) => Err(error),
        other => Ok(other),
    }
}

/// As much of a path as a log has use for.
fn beginning(path: &str) -> String {
    path.chars().take(100).collect()
}
