//! The register of credentials, and who used one, out of the audit log.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::credentials::{age_days, due, rotated};
use super::{Call, Desk, Order, Trouble, now, records, unix};
use crate::agent::Label;
use crate::app::{Failure, load_policy};
use crate::audit::{Entry, Filter, Kind, query};
use crate::credential::{Schedule, Sensitivity};
use crate::policy::Policy;
use crate::record::Decision;
use crate::reference::Name;
use crate::vault::{CredentialInfo, Fault, Tier, VersionState};

/// What the audit log has of a credential's use.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    pub(crate) requests: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<String>,
    pub(crate) agents: BTreeSet<String>,
    /// The same of each version that requests carried.
    #[serde(default)]
    pub(crate) versions: BTreeMap<u64, VersionUsage>,
}

/// What it has of one version.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct VersionUsage {
    pub(crate) requests: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<String>,
}

impl Usage {
    /// One more request, whose record this is; `version` is the one that it carried.
    fn count(&mut self, entry: &Entry, version: Option<u64>) {
        let at = entry.text("time").map(str::to_owned);
        self.requests += 1;
        self.last.clone_from(&at);
        // Errands of Locum's own have no agent.
        self.agents.extend(entry.text("agent").map(str::to_owned));
        if let Some(version) = version {
            let of = self.versions.entry(version).or_default();
            (of.requests, of.last) = (of.requests + 1, at);
        }
    }
}

/// The use of all credentials of the workspace from a time on. Reads the files of the log that are as new,
/// and no others.
fn usage(desk: &impl Desk, since: SystemTime) -> Result<BTreeMap<String, Usage>, Trouble> {
    let filter =
        Filter { decision: Some(Decision::Permit), since: Some(since), ..Filter::default() };
    let mut all = BTreeMap::<String, Usage>::new();
    for entry in
        query(desk.log(), records::of_the_workspace(desk, filter)?).map_err(Failure::from)?
    {
        let entry = entry.map_err(Failure::from)?;
        if entry.kind() != Some(Kind::Access) {
            continue;
        }
        let more = entry.value().get("more_credentials").and_then(Value::as_array);
        for one in std::iter::once(entry.value()).chain(more.into_iter().flatten()) {
            let Some(name) = one.get("credential").and_then(Value::as_str) else { continue };
            let version = one.get("version").and_then(Value::as_u64);
            all.entry(name.to_owned()).or_default().count(&entry, version);
        }
    }
    Ok(all)
}

fn ago(seconds: u64) -> SystemTime {
    SystemTime::now().checked_sub(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH)
}

/// The names of live credentials that were not used for so many seconds, and are as old.
pub(super) fn unused(
    desk: &impl Desk,
    all: &[CredentialInfo],
    seconds: u64,
) -> Result<BTreeSet<String>, Trouble> {
    let since = ago(seconds);
    let used = usage(desk, since)?;
    let idle = all.iter().filter(|info| {
        let name = info.name.to_string();
        info.current().is_some() && info.created <= unix(since) && !used.contains_key(&name)
    });
    Ok(idle.map(|info| info.name.to_string()).collect())
}

/// All credentials, each with where it goes, who may use it and who did.
pub(crate) struct Register {
    /// For how many seconds back the log is read.
    pub(crate) since: u64,
}

/// How far back the register looks where nobody says, in seconds: 90 days.
pub(crate) const REGISTER_SINCE: u64 = 90 * 24 * 60 * 60;

/// A line of the register.
#[derive(Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) credential: String,
    pub(crate) what: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) provider: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<String>,
    /// Where its secret lies, if not in this vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    pub(crate) tier: Tier,
    /// The user whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<Label>,
    /// The reference that it serves beside its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) serves: Option<Name>,
    /// The steps of runs for which alone it is used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) nodes: Vec<Label>,
    pub(crate) tags: Vec<String>,
    pub(crate) goes_to: Vec<String>,
    /// In which places of a request.
    #[serde(default)]
    pub(crate) slots: Vec<String>,
    /// Each rule that lets anybody use it, with whom it names.
    pub(crate) may_use: BTreeMap<String, Vec<String>>,
    pub(crate) used: Usage,
    pub(crate) state: String,
    /// The versions that requests may carry, or could after a promotion.
    #[serde(default)]
    pub(crate) versions: Vec<LiveVersion>,
    pub(crate) rotated: i64,
    pub(crate) age_days: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sensitivity: Option<Sensitivity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) schedule: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) due: Option<i64>,
}

/// A version that is not over: the current one, one that is staged, or one whose grace lasts.
#[derive(Serialize, Deserialize)]
pub(crate) struct LiveVersion {
    pub(crate) version: u32,
    pub(crate) state: String,
    pub(crate) created: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) grace_until: Option<i64>,
}

impl Order for Register {
    type Answer = Vec<Line>;

    fn call(&self) -> Result<Call, Failure> {
        Ok(Call::get(format!("/v1/credentials/register?since={}", self.since)))
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Vec<Line>, Trouble> {
        let mut used = usage(desk, ago(self.since))?;
        let policy = load_policy(desk.home())?;
        let (sets, values, all) =
            desk.read(|vault| Ok((vault.sets()?, vault.values()?, vault.credentials()?)))?;
        let line = |info: &CredentialInfo| {
            let within = sets.iter().filter(|set| set.members.contains(&info.name));
            let serves = &info.properties.serves;
            let leads =
                |reference: &Name| *reference == info.name || serves.as_ref() == Some(reference);
            let held = values.iter().filter(|(_, value)| value.credentials().any(leads));
            let names = within.map(|set| &set.name).chain(held.map(|(name, _)| name));
            let names: Vec<&Name> = names.chain([&info.name]).chain(serves).collect();
            let used = used.remove(info.name.as_str()).unwrap_or_default();
            Line::of(info, &policy, &names, used)
        };
        Ok(all.iter().map(line).collect())
    }
}

impl Line {
    /// Of a credential that rules may name in these ways.
    fn of(info: &CredentialInfo, policy: &Policy, names: &[&Name], used: Usage) -> Self {
        let properties = &info.properties;
        let rules = policy.users_of(names).into_iter();
        Self {
            credential: info.name.to_string(),
            what: what(info),
            provider: info.provider.clone(),
            kind: properties.kind.as_ref().map(|kind| kind.name().to_owned()),
            source: properties.source.as_ref().map(ToString::to_string),
            tier: info.tier,
            owner: properties.owner.clone(),
            serves: properties.serves.clone(),
            nodes: properties.nodes.clone(),
            tags: info.tags.clone(),
            goes_to: info.destinations.iter().map(ToString::to_string).collect(),
            slots: info.slots.iter().map(ToString::to_string).collect(),
            may_use: rules.map(|(rule, agents)| (rule.to_owned(), agents)).collect(),
            used,
            state: if info.current().is_some() { "live" } else { "revoked" }.to_owned(),
            versions: live_versions(info),
            rotated: rotated(info),
            age_days: age_days(info),
            sensitivity: match properties.rotate {
                Some(Schedule::Sensitivity(one)) => Some(one),
                Some(Schedule::Days(_)) | None => None,
            },
            schedule: properties.rotate.map(|schedule| schedule.to_string()),
            due: due(info),
        }
    }
}

fn live_versions(info: &CredentialInfo) -> Vec<LiveVersion> {
    let now = now();
    let lives = info.versions.iter().filter(|version| match version.state {
        VersionState::Current | VersionState::Staged => true,
        VersionState::Retired => version.grace_until.is_some_and(|until| until >= now),
        VersionState::Revoked => false,
    });
    let live = lives.map(|version| LiveVersion {
        version: version.version,
        state: version.state.as_str().to_owned(),
        created: version.created,
        grace_until: version.grace_until,
    });
    live.collect()
}

fn what(info: &CredentialInfo) -> String {
    let provider = info.provider.as_deref().unwrap_or("own");
    let kind = info.properties.kind.as_ref().map(|kind| format!(", {}", kind.name()));
    let source = info.properties.source.as_ref().map(|source| format!(", from {}", source.kind()));
    format!("{provider}{}{}", kind.unwrap_or_default(), source.unwrap_or_default())
}

/// The agents and runs that used a credential, the last first. Of one that is gone there is what the log has.
pub(crate) struct WhoUses {
    pub(crate) name: Name,
    /// Only these versions; any where none is named.
    pub(crate) versions: Vec<u32>,
    /// From this time on, in seconds since the Unix epoch.
    pub(crate) since: Option<u64>,
}

/// One run, or what an agent did outside of any, with one version.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) agent: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) run: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    pub(crate) version: u64,
    pub(crate) requests: u64,
    /// Requests that have no outcome yet.
    pub(crate) open: u64,
    pub(crate) first: String,
    pub(crate) last: String,
}

/// The most rows that are kept. More runs than a person reads; a script asks for less time at once.
pub(crate) const MOST_USERS: usize = 100_000;

impl Order for WhoUses {
    type Answer = Vec<User>;

    fn call(&self) -> Result<Call, Failure> {
        let since = self.since.map(|since| format!("since={since}"));
        let versions = self.versions.iter().map(|version| format!("version={version}"));
        let query: Vec<String> = since.into_iter().chain(versions).collect();
        Ok(Call::get(format!("/v1/credentials/{}/users?{}", self.name, query.join("&"))))
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Vec<User>, Trouble> {
        let filter = Filter {
            credential: Some(self.name.to_string()),
            decision: Some(Decision::Permit),
            since: self.since.and_then(|at| UNIX_EPOCH.checked_add(Duration::from_secs(at))),
            ..Filter::default()
        };
        let known = desk.read(|vault| Ok(vault.credential(&self.name)?));
        let mut found = Found::default();
        for entry in
            query(desk.log(), records::of_the_workspace(desk, filter)?).map_err(Failure::from)?
        {
            found.take(&entry.map_err(Failure::from)?, &self.name, &self.versions);
        }
        let mut all: Vec<User> = found.users.into_values().collect();
        if all.is_empty() {
            self.check_names(&known?)?;
        } else {
            known.map(drop).or_else(is_gone)?;
        }
        all.sort_by(|a, b| b.last.cmp(&a.last).then_with(|| a.agent.cmp(&b.agent)));
        Ok(all)
    }
}

impl WhoUses {
    /// That nobody has used what there is not is no answer, but a slip.
    fn check_names(&self, known: &CredentialInfo) -> Result<(), Trouble> {
        let is_known = |version: &&u32| known.versions.iter().any(|one| one.version == **version);
        match self.versions.iter().find(|version| !is_known(version)) {
            None => Ok(()),
            Some(version) => Err(Trouble::Missing(
                Failure::new(format!("{} has no version {version}", self.name))
                    .help(format!("`locum credential show {}` lists them", self.name)),
            )),
        }
    }
}

/// A credential that was removed is known by its records alone.
fn is_gone(trouble: Trouble) -> Result<(), Trouble> {
    match trouble {
        Trouble::Vault(error) if matches!(error.fault, Fault::Unknown(..)) => Ok(()),
        other => Err(other),
    }
}

type Key = (String, Option<String>, u64);

#[derive(Default)]
struct Found {
    users: HashMap<Key, User>,
    /// Requests without an outcome, each with all that it is counted under: another attempt may carry another version.
    open: HashMap<String, Vec<Key>>,
}

impl Found {
    fn take(&mut self, entry: &Entry, name: &Name, versions: &[u32]) {
        if entry.kind() == Some(Kind::Outcome) {
            let keys = entry.request_id().and_then(|id| self.open.remove(id));
            for key in keys.into_iter().flatten() {
                self.users.entry(key).and_modify(|user| user.open -= 1);
            }
            return;
        }
        let Some(version) = version_of(entry, name) else { return };
        let wanted = |own: &u32| u64::from(*own) == version;
        if !versions.is_empty() && !versions.iter().any(wanted) {
            return;
        }
        let text = |field: &str| entry.text(field).map(str::to_owned);
        let key = (text("agent").unwrap_or_default(), text("run"), version);
        if !self.users.contains_key(&key) && self.users.len() >= MOST_USERS {
            return;
        }
        let time = text("time").unwrap_or_default();
        let user = self.users.entry(key.clone()).or_insert_with(|| User {
            agent: key.0.clone(),
            run: key.1.clone(),
            user: text("user"),
            version,
            requests: 0,
            open: 0,
            first: time.clone(),
            last: String::new(),
        });
        user.last = time;
        let keys = self.open.entry(text("request_id").unwrap_or_default()).or_default();
        if !keys.contains(&key) {
            keys.push(key);
            (user.requests, user.open) = (user.requests + 1, user.open + 1);
        }
    }
}

/// In which version a request carried the credential.
fn version_of(entry: &Entry, name: &Name) -> Option<u64> {
    let more = entry.value().get("more_credentials").and_then(Value::as_array);
    let mut all = std::iter::once(entry.value()).chain(more.into_iter().flatten());
    let is_it = |one: &&Value| one.get("credential").and_then(Value::as_str) == Some(name.as_str());
    all.find(is_it)?.get("version")?.as_u64()
}
