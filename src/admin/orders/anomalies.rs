//! What agents did that they usually do not, what they usually do, and the word that something new is usual.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::records::of_the_workspace;
use super::{Call, Desk, Order, Trouble, query_of, unix};
use crate::app::{self, Failure, Home, Undone};
use crate::audit::{Entry, Filter, Kind, query};
use crate::proxy::ANOMALY_EVENT;
use crate::reference::Name;
use crate::vault::Vault;

pub(crate) use crate::app::Usual;

/// How far back is looked, where nobody says.
pub(crate) const SINCE: Duration = Duration::from_hours(7 * 24);

/// How long a running proxy may take to hear a word: it listens four times a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was not as usual, from the audit log.
pub(crate) struct ListAnomalies {
    /// Of this agent only.
    pub(crate) agent: Option<Name>,
    pub(crate) since: SystemTime,
}

/// An event, taken apart.
#[derive(Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) time: String,
    pub(crate) agent: String,
    pub(crate) kind: String,
    pub(crate) seen: String,
    /// None for what went without one.
    pub(crate) credential: Option<String>,
    pub(crate) usual: String,
    pub(crate) request_id: String,
}

impl Told {
    fn of(entry: &Entry) -> Option<Self> {
        if entry.text("event") != Some(ANOMALY_EVENT) {
            return None;
        }
        let mut parts = entry.text("detail")?.splitn(5, "; ").map(ToOwned::to_owned);
        let (kind, seen, credential) = (parts.next()?, parts.next()?, parts.next()?);
        let (usual, request) = (parts.next()?, parts.next()?);
        Some(Self {
            time: entry.time()?.to_owned(),
            agent: entry.text("subject")?.to_owned(),
            kind,
            seen,
            credential: Some(credential).filter(|name| name != "-"),
            usual: usual.trim_start_matches("usual ").to_owned(),
            request_id: request.trim_start_matches("request ").to_owned(),
        })
    }
}

/// What the log in `dir` has of them.
pub(crate) fn told(dir: &Path, filter: Filter, agent: Option<&Name>) -> Result<Vec<Told>, Failure> {
    let filter = Filter { kind: Some(Kind::Event), ..filter };
    let all = query(dir, filter)?.filter_map(Result::ok);
    let of = |told: &Told| agent.is_none_or(|agent| *told.agent == *agent.as_str());
    Ok(all.filter_map(|entry| Told::of(&entry)).filter(of).collect())
}

impl Order for ListAnomalies {
    type Answer = Vec<Told>;

    fn call(&self) -> Result<Call, Failure> {
        let pairs = [
            ("agent", self.agent.as_ref().map(ToString::to_string)),
            ("since", Some(unix(self.since).to_string())),
        ];
        Ok(Call::get(format!("/v1/anomalies{}", query_of(pairs))))
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Vec<Told>, Trouble> {
        let filter = Filter { since: Some(self.since), ..Filter::default() };
        let filter = of_the_workspace(desk, filter)?;
        Ok(told(desk.log(), filter, self.agent.as_ref())?)
    }
}

/// What agents usually do, as a proxy has learned it and last wrote it down.
pub(crate) struct ShowUsual {
    /// Of this agent only.
    pub(crate) agent: Option<Name>,
}

impl Order for ShowUsual {
    type Answer = Vec<Usual>;

    fn call(&self) -> Result<Call, Failure> {
        let agent = self.agent.as_ref().map(ToString::to_string);
        Ok(Call::get(format!("/v1/anomalies/usual{}", query_of([("agent", agent)]))))
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Vec<Usual>, Trouble> {
        let home = desk.home().clone();
        let mut all = desk.read(|vault| Ok(app::baselines(&home, vault)?))?;
        all.retain(|one| {
            let own = one.workspace() == home.workspace();
            own && self.agent.as_ref().is_none_or(|agent| one.agent() == agent)
        });
        if let Some(agent) = self.agent.filter(|_| all.is_empty()) {
            let failure = Failure::new(format!("nothing is known of the agent {agent} yet"));
            return Err(Trouble::Missing(
                failure.help("a proxy writes what it has learned once a minute, and at its end"),
            ));
        }
        Ok(all.iter().flat_map(app::Habit::show).collect())
    }
}

/// Takes for usual what was told of an agent.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AcceptAnomalies {
    pub(crate) agent: Name,
    /// Only with this credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) credential: Option<Name>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Accepted {
    pub(crate) agent: Name,
    pub(crate) credential: Option<Name>,
    /// `now`, or `next-start` where no proxy has heard it.
    pub(crate) usual_from: String,
}

impl Order for AcceptAnomalies {
    type Answer = Accepted;

    fn call(&self) -> Result<Call, Failure> {
        Call::post("/v1/anomalies/accept", self)
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Accepted, Trouble> {
        let Self { agent, credential } = self;
        // Nothing of the vault is changed, so it is asked apart whether whoever says it may still.
        let home = desk.home().clone();
        desk.read(|vault| require_known(&home, vault, (&agent, credential.as_ref())))?;
        let by = desk.who().map(crate::vault::Administrator::signature);
        let about = (&agent, credential.as_ref());
        let heard = app::accept_anomalies((desk.home(), desk.log()), about, by, PATIENCE)?;
        // It is there, and the proxy takes it once it can record it.
        if !heard && desk.who().is_some() {
            return Err(Undone::Unsettled.into());
        }
        let usual_from = if heard { "now" } else { "next-start" }.to_owned();
        Ok(Accepted { agent, credential, usual_from })
    }
}

/// A slip of the pen would look like a word that was heard. An agent whom an issuer names is in no vault, but in what
/// was learned.
fn require_known(
    home: &Home,
    vault: &Vault,
    (agent, credential): (&Name, Option<&Name>),
) -> Result<(), Trouble> {
    let missing = |what: String, help: &str| Err(Trouble::Missing(Failure::new(what).help(help)));
    let is_kept = vault.agents()?.iter().any(|one| one.name == *agent);
    let is_usual = |one: &app::Habit| one.workspace() == home.workspace() && one.agent() == agent;
    if !is_kept && !app::baselines(home, vault)?.iter().any(is_usual) {
        return missing(
            format!("there is no agent {agent}, and nothing was told of it"),
            "`locum anomalies list` has those of which something was told",
        );
    }
    match credential {
        Some(name) if !vault.credentials()?.iter().any(|one| one.name == *name) => missing(
            format!("there is no credential {name}"),
            "`locum anomalies list` names the credential of each anomaly",
        ),
        _ => Ok(()),
    }
}
