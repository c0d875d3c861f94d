//! Who may ask for what, and what is done.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::{Method, StatusCode};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::requests::{
    AddAdministrator, AddAgent, AddCredential, Decide, GiveSecret, MakeRunToken,
};
use crate::agent::Context;
use crate::app::{
    Home, Keeper, Place, Undone, check_policy_file, placeholders_of, policies_of, read_policies,
};
use crate::approval::{Decision, Question};
use crate::audit::{AuditLog, Filter, query};
use crate::cli::show_credential;
use crate::files;
use crate::policy::{Inquiry, Wish, supposed};
use crate::record::{AuditSink as _, Event};
use crate::reference::Name;
use crate::vault::{
    ADMINISTRATOR_PREFIX, Administrator, CredentialInfo, Fault, Kind, NewRunToken, Role, Vault,
    VaultError,
};

/// How long a run token is good for, in seconds, where its maker does not say.
const RUN_TTL: i64 = 60 * 60;

/// The most policy files of a workspace to which one is added here, with all else in their directory. Each
/// look of the proxy asks for the state of every one.
const POLICY_FILES: usize = 200;

/// The most bytes of them together: all are read and compiled when one changes.
const POLICY_BYTES: u64 = 8 << 20;

/// The most records of one query.
const RECORDS: usize = 1000;

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

/// Why it is not done.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) detail: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into() }
    }

    fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", detail)
    }

    fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail)
    }

    fn missing() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "there is nothing of this kind here")
    }

    fn unauthorized() -> Self {
        let detail = "the token of an administrator is missing, unknown, revoked or expired";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    }
}

impl From<VaultError> for Problem {
    fn from(error: VaultError) -> Self {
        let (status, code) = match &error.fault {
            // Since the request was begun.
            Fault::Revoked(Kind::Administrator, _) => return Self::unauthorized(),
            Fault::Unknown(..) => (StatusCode::NOT_FOUND, "not-found"),
            Fault::Exists(..) | Fault::Revoked(..) => (StatusCode::CONFLICT, "conflict"),
            Fault::Invalid(_) | Fault::Secret(_) | Fault::RunToken(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "invalid")
            }
            _ => {
                tracing::error!(%error, "an administrator's request failed");
                return Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "vault-unavailable",
                    "the vault cannot be used",
                );
            }
        };
        Self::new(status, code, error.fault.to_string())
    }
}

impl From<crate::app::Failure> for Problem {
    fn from(failure: crate::app::Failure) -> Self {
        tracing::error!(error = %failure, "an administrator's request failed");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "it cannot be done now; the proxy's log says why",
        )
    }
}

impl From<Undone> for Problem {
    fn from(undone: Undone) -> Self {
        let unavailable = |code, detail| Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail);
        match undone {
            Undone::Failed(failure) => failure.into(),
            Undone::Vault(error) => error.into(),
            Undone::Unrecordable => unavailable("audit-unavailable", NOT_RECORDED),
            Undone::Unsettled => unavailable(
                "not-settled",
                "it is written, and comes in force and on record as soon as it can; the proxy's log says \
                 what is in the way",
            ),
            Undone::Mistakes(report) => Self::new(
                StatusCode::CONFLICT,
                "policy-mistakes",
                format!(
                    "it is written, and not in force, with what was written beside it: {report}"
                ),
            ),
        }
    }
}

const NOT_RECORDED: &str = "it cannot be recorded, and is not done";

type Done = Result<Value, Problem>;

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
        let desk = Desk { office: self, home: self.home.in_workspace(&who.workspace), who, asked };
        desk.serve()
    }
}

/// One request of somebody who is known.
struct Desk<'a> {
    office: &'a Office,
    who: Administrator,
    /// Seen from the administrator's workspace, which nothing in a request can name.
    home: Home,
    asked: &'a Asked,
}

impl Desk<'_> {
    #[allow(clippy::too_many_lines)] // The table of what there is, a line or two for each.
    fn serve(&self) -> Done {
        let path = self.asked.path.strip_prefix("/v1/").ok_or_else(Problem::missing)?;
        let parts: Vec<&str> = path.split('/').collect();
        let get = self.asked.method == Method::GET;
        let post = self.asked.method == Method::POST;
        match *parts {
            ["me"] if get => self.stands().map(|()| {
                json!({
                    "name": self.who.name, "role": self.who.role, "workspace": self.who.workspace,
                })
            }),
            ["credentials"] if get => self
                .read(|vault| Ok(vault.credentials()?.iter().map(|one| self.shown(one)).collect())),
            ["credentials", name] if get => {
                let name = named(name)?;
                self.read(|vault| vault.credential(&name).map(|info| self.shown(&info)))
            }
            ["sets"] if get => self.read(|vault| {
                let all = vault.sets()?.into_iter();
                Ok(all.map(|set| json!({"set": set.name, "members": set.members})).collect())
            }),
            ["agents"] if get => self.read(|vault| {
                let all = vault.agents()?.into_iter();
                Ok(all.map(|one| json!({
                    "agent": one.name, "labels": one.labels, "revoked": one.revoked,
                    "tokens": one.tokens.iter().map(|token| json!({
                        "token_id": token.id, "created": token.created, "expires": token.expires,
                        "revoked": token.revoked, "note": token.note,
                    })).collect::<Vec<_>>(),
                })).collect())
            }),
            ["policies"] if get => self.stands().and_then(|()| self.policies()),
            ["policies", "explain"] if get => self.stands().and_then(|()| self.explain()),
            ["audit"] if get => self.stands().and_then(|()| self.records()),
            ["approvals"] if get => {
                self.stands()?;
                let open = self.questions()?;
                Ok(open
                    .iter()
                    .map(|question| serde_json::to_value(question).unwrap_or_default())
                    .collect())
            }
            ["approvals", id] if post => self.decide(id),
            ["placeholders"] if get => {
                self.may(Role::Member)?;
                self.read(|vault| {
                    let all = placeholders_of(&vault.credentials()?).into_iter();
                    Ok(all
                        .map(|(variables, value)| json!({"variables": variables, "value": value}))
                        .collect())
                })
            }
            ["run-tokens"] if post => self.run_token(),
            ["credentials"] if post => {
                self.may(Role::Owner)?;
                let (new, secret) =
                    self.body::<AddCredential>()?.read().map_err(Problem::invalid)?;
                let name = new.name.clone();
                self.write(|vault| vault.add_credential(&new, &secret))?;
                Ok(json!({"name": name, "version": 1}))
            }
            ["credentials", name, "rotate"] if post => {
                self.may(Role::Owner)?;
                let name = named(name)?;
                let secret = self.body::<GiveSecret>()?.read().map_err(Problem::invalid)?;
                let version = self.write(|vault| vault.rotate(&name, &secret))?;
                Ok(json!({"name": name, "version": version}))
            }
            ["credentials", name, "revoke"] if post => {
                self.may(Role::Owner)?;
                let name = named(name)?;
                self.write(|vault| vault.revoke(&name))?;
                Ok(json!({"name": name, "revoked": true}))
            }
            ["agents"] if post => {
                self.may(Role::Owner)?;
                let AddAgent { name, note } = self.body()?;
                let token = self.write(|vault| vault.agent_admit(&name, None, note.as_deref()))?;
                let id = token.id().to_owned();
                Ok(json!({"agent": name, "token_id": id, "token": token.into_text().as_str()}))
            }
            ["agents", name, "revoke"] if post => {
                self.may(Role::Owner)?;
                let name = named(name)?;
                let tokens = self.write(|vault| vault.agent_revoke(&name))?;
                Ok(json!({"agent": name, "tokens": tokens}))
            }
            ["policies", file] if self.asked.method == Method::PUT => self.put_policy(file),
            ["policies", file] if self.asked.method == Method::DELETE => self.remove_policy(file),
            ["administrators"] if get => {
                self.may(Role::Owner)?;
                self.read(|vault| {
                    let all = vault.administrators()?.into_iter();
                    Ok(all.map(|one| json!({
                        "name": one.name, "role": one.role, "token_id": one.token_id,
                        "created": one.created, "expires": one.expires, "revoked": one.revoked,
                    })).collect())
                })
            }
            ["administrators"] if post => {
                self.may(Role::Owner)?;
                let AddAdministrator { name, role } = self.body()?;
                let (id, token) = self.write(|vault| vault.administrator_add(&name, role, None))?;
                Ok(json!({"name": name, "role": role, "token_id": id, "token": token.as_str()}))
            }
            ["administrators", name, "revoke"] if post => {
                self.may(Role::Owner)?;
                let name = named(name)?;
                self.write(|vault| vault.administrator_revoke(&name))?;
                Ok(json!({"name": name, "revoked": true}))
            }
            _ => Err(Problem::missing()),
        }
    }

    /// Whether the role reaches. That it does not is on record: somebody tries.
    fn may(&self, least: Role) -> Result<(), Problem> {
        if self.who.role >= least {
            return Ok(());
        }
        let what = format!("{} {}", self.asked.method, beginning(&self.asked.path));
        self.note("administration-refused", None, &what)?;
        let detail = format!(
            "this takes the role {}, and you are {}",
            least.as_str(),
            self.who.role.as_str()
        );
        Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
    }

    fn body<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_json::from_slice(&self.asked.body).map_err(|error| {
            // The text of the error may quote what was sent, and that may be a secret.
            Problem::bad(format!(
                "the body is not what is expected here (line {}, column {})",
                error.line(),
                error.column()
            ))
        })
    }

    /// That whoever asks is an administrator still: the body of a request may have come slowly.
    fn stands(&self) -> Result<(), Problem> {
        Ok(self.office.keeper.consult_for(&self.who, |_| Ok(()))?)
    }

    /// A credential, without what only those need who use it.
    fn shown(&self, info: &CredentialInfo) -> Value {
        let mut shown = show_credential(info);
        if let Some(fields) = shown.as_object_mut().filter(|_| self.who.role < Role::Member) {
            fields.remove("placeholder");
        }
        shown
    }

    fn read(&self, read: impl FnOnce(&Vault) -> Result<Value, VaultError>) -> Done {
        Ok(self.office.keeper.consult_for(&self.who, |vault| read(vault))?)
    }

    /// A change of the vault, in the administrator's workspace and name. It is in force when this returns.
    fn write<T>(
        &self,
        write: impl FnOnce(&mut Vault) -> Result<T, VaultError>,
    ) -> Result<T, Problem> {
        Ok(self.office.keeper.administer(&self.who, write)?)
    }

    /// Records what is no change of the vault. What cannot be recorded is not done.
    fn note(
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
        self.office.audit.event(&event).map_err(|_| {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "audit-unavailable", NOT_RECORDED)
        })
    }

    /// A parameter of the query.
    fn parameter(&self, name: &str) -> Option<String> {
        let mut pairs = self.asked.query.split('&').filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.find(|(key, _)| *key == name)?;
        let text = value.replace('+', " ");
        percent_encoding::percent_decode_str(&text).decode_utf8().ok().map(Cow::into_owned)
    }

    fn policies(&self) -> Done {
        let paths = policies_of(&self.home)?;
        let read = read_policies(&paths);
        let organisation = self.home.organisation();
        let files: BTreeMap<String, Value> = read
            .sources
            .iter()
            .map(|source| {
                let of_all = std::path::Path::new(source.name()).starts_with(&organisation);
                let name = source.name().rsplit('/').next().unwrap_or_default();
                let name = if of_all { format!("org/{name}") } else { name.to_owned() };
                (name, json!({"text": source.text(), "organisation": of_all}))
            })
            .collect();
        let problem =
            read.policy.as_ref().err().map(|report| hide(&report.to_string(), self.home.path()));
        Ok(json!({"files": files, "mistakes": problem}))
    }

    fn explain(&self) -> Done {
        let need = |name: &str| {
            self.parameter(name)
                .ok_or_else(|| Problem::bad(format!("the parameter `{name}` is missing")))
        };
        let who = need("agent")?.parse().ok().and_then(supposed);
        let who = who.ok_or_else(|| Problem::bad("`agent` is no agent's name"))?;
        let wish = format!("{} {}", need("method")?, need("url")?).parse::<Wish>();
        let inquiry = Inquiry {
            who: crate::agent::Identity { workspace: self.who.workspace.clone(), ..who },
            wish: wish.map_err(|error| Problem::bad(error.to_string()))?,
            refers: self.parameter("use").and_then(|name| name.parse().ok()),
            fields: Vec::new(),
            at: self.asked.at,
        };
        let workspace = &self.who.workspace;
        let served = self.office.keeper.served(workspace).ok_or_else(Problem::missing)?;
        let state = served.state();
        let explanation = state.policy.explain(&inquiry, &state.credentials);
        Ok(crate::cli::explained(&explanation))
    }

    fn records(&self) -> Done {
        let limit =
            self.parameter("limit").and_then(|n| n.parse().ok()).unwrap_or(100).min(RECORDS);
        let filter = Filter {
            workspace: Some(self.who.workspace.to_string()),
            agent: self.parameter("agent"),
            credential: self.parameter("credential"),
            request_id: self.parameter("request"),
            limit: Some(limit),
            since: self.since()?.and_then(|at| UNIX_EPOCH.checked_add(Duration::from_secs(at))),
            ..Filter::default()
        };
        let found = query(&self.office.log, filter).map_err(|error| {
            tracing::error!(%error, "an administrator's query failed");
            Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "the audit log cannot be read",
            )
        })?;
        Ok(found.filter_map(Result::ok).map(|entry| entry.value().clone()).collect())
    }

    /// When the workspace began, where it did not with the vault: what is older is of another of its name.
    fn since(&self) -> Result<Option<u64>, Problem> {
        let workspace = &self.who.workspace;
        let within = |vault: &mut Vault| vault.within(workspace, |vault| vault.workspace_since());
        let since = self.office.keeper.consult(within)??;
        Ok(since.and_then(|at| u64::try_from(at).ok()))
    }

    /// The questions of the workspace that wait.
    fn questions(&self) -> Result<Vec<Question>, Problem> {
        let workspace = &self.who.workspace;
        let decided =
            self.office.keeper.served(workspace).and_then(|one| one.state().sealed.clone());
        let mut open = Place::of(&self.home).open()?;
        let since = self.since()?;
        open.retain(|question| {
            if since.is_some_and(|since| question.asked.cast_unsigned() < since) {
                return false;
            }
            let decision = decided.as_ref().and_then(|sealed| sealed.approvals.get(&question.id));
            let decided = decision.is_some_and(|decision| decision.digest == question.digest());
            let own = question.workspace == *workspace;
            own && !decided && question.until >= self.asked.at && question.shows_its_body()
        });
        Ok(open)
    }

    fn decide(&self, id: &str) -> Done {
        self.may(Role::Member)?;
        let Decide { approve } = self.body()?;
        let open = self.questions()?;
        let question =
            open.iter().find(|question| question.id == id).ok_or_else(Problem::missing)?;
        // Whoever asked for it, by a run of their own, is not the one to say yes.
        if question.user.as_deref() == Some(self.who.name.as_str()) {
            self.note("administration-refused", Some(id), "to decide on a request of one's own")?;
            let detail = "this request was made for you; somebody else has to decide on it";
            return Err(Problem::new(StatusCode::FORBIDDEN, "own-request", detail));
        }
        let decision = Decision {
            id: question.id.clone(),
            digest: question.digest(),
            approved: approve,
            at: self.asked.at,
            until: self.asked.at.saturating_add(question.valid),
        };
        let until = decision.until;
        self.write(|vault| vault.decide(decision))?;
        Ok(json!({"id": id, "approved": approve, "until": until}))
    }

    /// A run token for whoever asks: what is done with it is done for that person, and says so.
    fn run_token(&self) -> Done {
        self.may(Role::Member)?;
        let made: MakeRunToken = self.body()?;
        let run = made.run().map_err(Problem::bad)?;
        let user = self.who.name.as_str().parse().ok();
        let new = NewRunToken {
            agent: made.agent.clone(),
            context: Context { run, node: None, user },
            uses: made.uses.clone(),
            environment: None,
            ttl: made.ttl.unwrap_or(RUN_TTL),
        };
        let (claims, token) =
            self.office.keeper.consult_for(&self.who, |vault| vault.run_token(new))?;
        self.note(
            "run-token-made",
            Some(claims.agent.as_str()),
            &format!("run token {}", claims.id),
        )?;
        Ok(json!({
            "agent": claims.agent, "token_id": &*claims.id, "expires": claims.expires,
            "user": self.who.name, "token": token.as_str(),
        }))
    }

    /// Puts a policy file of the workspace in force, if all of the workspace's are sound with it, and the
    /// organisation's above them.
    fn put_policy(&self, file: &str) -> Done {
        self.may(Role::Owner)?;
        let path = self.policy_file(file)?;
        let text = std::str::from_utf8(&self.asked.body)
            .map_err(|_| Problem::bad("the policy is not text"))?;
        let _turn = self.office.policies.lock();
        self.has_room(&path, text.len() as u64)?;
        self.change_policy(&path, Some(text), || {
            self.note("policy-put", Some(file), &format!("{} bytes", text.len()))?;
            Ok(files::replace_private(&path, text.as_bytes()).map_err(crate::app::Failure::from)?)
        })?;
        Ok(json!({"file": file}))
    }

    fn remove_policy(&self, file: &str) -> Done {
        self.may(Role::Owner)?;
        let path = self.policy_file(file)?;
        let _turn = self.office.policies.lock();
        if !path.exists() {
            return Err(Problem::missing());
        }
        self.change_policy(&path, None, || {
            self.note("policy-removed", Some(file), "")?;
            fs::remove_file(&path).map_err(|_| Problem::missing())
        })?;
        Ok(json!({"file": file, "removed": true}))
    }

    /// Has a policy file changed, if all are sound with this text in it, or without it. In force when it
    /// returns. Whoever calls it has the turn.
    fn change_policy(
        &self,
        path: &Path,
        text: Option<&str>,
        change: impl FnOnce() -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let checked = check_policy_file(&self.home, path, text)?;
        checked.map_err(|report| {
            let text = hide(&report, self.home.path());
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "policy-mistakes", text)
        })?;
        let keeper = &self.office.keeper;
        keeper.consult_for(&self.who, |_| Ok(change()))??;
        let taken = keeper.take_policy(&self.who.workspace, path);
        taken.map_err(|undone| {
            let Problem { status, code, detail } = undone.into();
            Problem::new(status, code, hide(&detail, self.home.path()))
        })
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

    /// A file of the workspace's own, and never one of the organisation's: a name has no slash and no dot
    /// but the last.
    fn policy_file(&self, file: &str) -> Result<PathBuf, Problem> {
        let stem = file.strip_suffix(".yaml").and_then(|stem| stem.parse::<Name>().ok());
        let stem = stem.ok_or_else(|| Problem::bad("a policy's file is named NAME.yaml"))?;
        Ok(self.home.policies().join(format!("{stem}.yaml")))
    }
}

fn named(text: &str) -> Result<Name, Problem> {
    text.parse().map_err(|_| Problem::missing())
}

/// As much of a path as a log has use for.
fn beginning(path: &str) -> String {
    path.chars().take(100).collect()
}

/// A report whose paths begin in the home.
fn hide(report: &str, directory: &std::path::Path) -> String {
    report.replace(&format!("{}/", directory.display()), "")
}
