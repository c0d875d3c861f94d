//! What can be asked for over the socket: one table, by which every request is admitted. What is not in it
//! is not there, and what is in it has a role.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Method;
use serde_json::{Value, json};

use super::office::{Done, Seat};
use super::orders::administrators::{AddAdministrator, ListAdministrators, RevokeAdministrator};
use super::orders::agents::{AddAgent, LabelAgent, ListAgents, RevokeAgent};
use super::orders::anomalies::{AcceptAnomalies, ListAnomalies, SINCE, ShowUsual};
use super::orders::approvals::{Decide, ListQuestions};
use super::orders::certificates::{IssueCertificate, ListCertificates};
use super::orders::credentials::{
    AddCredential, ListCredentials, PromoteCredential, RemoveCredential, RevokeCredential,
    RotateCredential, ScheduleCredential, ShowCredential, Shown,
};
use super::orders::learn::Learn;
use super::orders::policies::{ListPolicies, PutPolicy, RemovePolicy};
use super::orders::records::{ExportRecords, QueryRecords, RECORDS, kind_of, of_the_workspace};
use super::orders::register::{REGISTER_SINCE, Register, WhoUses};
use super::orders::runs::MakeRunToken;
use super::orders::sets::{AddToSet, ListSets, TakeFromSet};
use super::orders::values::{ListValues, RemoveValue, SetValue};
use super::orders::{Desk as _, Order as _};
use super::problem::Problem;
use crate::agent::{Identity, LabelPair, Labels};
use crate::app::placeholders_of;
use crate::audit::Filter;
use crate::cli::{explained, recorded};
use crate::policy::{Inquiry, Wish, supposed};
use crate::record::Decision;
use crate::reference::Name;
use crate::vault::Role;

/// One of the things that there are.
struct Route {
    method: Method,
    /// From the root, part by part; `*` is any one part.
    path: &'static str,
    /// Who may.
    least: Role,
    /// With the parts for which there is a `*`.
    serve: fn(&mut Seat<'_>, &[&str]) -> Done,
}

const fn get(path: &'static str, least: Role, serve: Serve) -> Route {
    Route { method: Method::GET, path, least, serve }
}

const fn post(path: &'static str, least: Role, serve: Serve) -> Route {
    Route { method: Method::POST, path, least, serve }
}

type Serve = fn(&mut Seat<'_>, &[&str]) -> Done;

use Role::{Member, Owner, Viewer};

/// The first that fits is meant.
const ROUTES: &[Route] = &[
    get("/v1/me", Viewer, |seat, _| {
        let who = &seat.who;
        Ok(json!({"name": who.name, "role": who.role, "workspace": who.workspace}))
    }),
    get("/v1/routes", Viewer, |_, _| Ok(routes())),
    get("/v1/credentials", Viewer, |seat, _| {
        let unused_for = Parameters::of(seat).number("unused_for")?;
        let all = ListCredentials { unused_for }.carry_out(seat)?;
        Ok(all.into_iter().map(|one| as_seen_by(seat.who.role, one)).collect())
    }),
    get("/v1/credentials/register", Viewer, |seat, _| {
        let since = Parameters::of(seat).number("since")?.unwrap_or(REGISTER_SINCE);
        seat.take(Register { since })
    }),
    get("/v1/credentials/*", Viewer, |seat, parts| {
        let one = ShowCredential { name: name(parts)? }.carry_out(seat)?;
        Ok(as_seen_by(seat.who.role, one))
    }),
    get("/v1/credentials/*/users", Viewer, |seat, parts| {
        let parameters = Parameters::of(seat);
        let (versions, since) = (parameters.numbers("version")?, parameters.number("since")?);
        seat.take(WhoUses { name: name(parts)?, versions, since })
    }),
    get("/v1/sets", Viewer, |seat, _| seat.take(ListSets)),
    get("/v1/values", Viewer, |seat, _| seat.take(ListValues)),
    get("/v1/agents", Viewer, |seat, _| seat.take(ListAgents)),
    get("/v1/agents/*/certificates", Viewer, |seat, parts| {
        seat.take(ListCertificates { agent: name(parts)? })
    }),
    get("/v1/policies", Viewer, |seat, _| seat.take(ListPolicies)),
    get("/v1/policies/explain", Viewer, |seat, _| explain(seat)),
    get("/v1/policies/learn", Viewer, |seat, _| {
        let parameters = Parameters::of(seat);
        let (agent, since) = (parameters.name("agent")?, parameters.moment("since")?);
        seat.take(Learn { agent, since })
    }),
    get("/v1/audit", Viewer, |seat, _| records(seat)),
    get("/v1/audit/export", Viewer, |seat, _| {
        let parameters = Parameters::of(seat);
        let (since, until) = (parameters.moment("since")?, parameters.moment("until")?);
        let after = parameters.number("after")?.unwrap_or_default();
        let limit = parameters.number("limit")?;
        seat.take(ExportRecords { since, until, after, limit })
    }),
    get("/v1/anomalies", Viewer, |seat, _| {
        let parameters = Parameters::of(seat);
        let (agent, since) = (parameters.name("agent")?, parameters.moment("since")?);
        let since = since.or_else(|| SystemTime::now().checked_sub(SINCE)).unwrap_or(UNIX_EPOCH);
        seat.take(ListAnomalies { agent, since })
    }),
    get("/v1/anomalies/usual", Viewer, |seat, _| {
        let agent = Parameters::of(seat).name("agent")?;
        seat.take(ShowUsual { agent })
    }),
    get("/v1/approvals", Viewer, |seat, _| seat.take(ListQuestions)),
    get("/v1/placeholders", Member, |seat, _| {
        let all = seat.read(|vault| Ok(placeholders_of(&vault.credentials()?)))?;
        let shown = |(variables, value)| json!({"variables": variables, "value": value});
        Ok(all.into_iter().map(shown).collect())
    }),
    post("/v1/run-tokens", Member, |seat, _| seat.take(seat.body::<MakeRunToken>()?)),
    post("/v1/approvals/*", Member, |seat, parts| {
        seat.take(Decide { id: first(parts)?.to_owned(), word: seat.body()? })
    }),
    post("/v1/credentials", Owner, |seat, _| seat.take(seat.body::<AddCredential>()?)),
    post("/v1/credentials/*/rotate", Owner, |seat, parts| {
        seat.take(RotateCredential { name: name(parts)?, new: seat.body()? })
    }),
    post("/v1/credentials/*/promote", Owner, |seat, parts| {
        seat.take(PromoteCredential { name: name(parts)?, how: seat.body()? })
    }),
    post("/v1/credentials/*/revoke", Owner, |seat, parts| {
        seat.take(RevokeCredential { name: name(parts)?, what: seat.body()? })
    }),
    post("/v1/credentials/*/remove", Owner, |seat, parts| {
        seat.take(RemoveCredential { name: name(parts)? })
    }),
    post("/v1/credentials/*/schedule", Owner, |seat, parts| {
        seat.take(ScheduleCredential { name: name(parts)?, how: seat.body()? })
    }),
    post("/v1/sets", Owner, |seat, _| seat.take(seat.body::<AddToSet>()?)),
    post("/v1/sets/*/remove", Owner, |seat, parts| {
        seat.take(TakeFromSet { name: name(parts)?, taken: seat.body()? })
    }),
    post("/v1/values", Owner, |seat, _| seat.take(seat.body::<SetValue>()?)),
    post("/v1/values/*/remove", Owner, |seat, parts| {
        seat.take(RemoveValue { name: name(parts)?, from: seat.body()? })
    }),
    post("/v1/agents", Owner, |seat, _| seat.take(seat.body::<AddAgent>()?)),
    post("/v1/agents/*/labels", Owner, |seat, parts| {
        seat.take(LabelAgent { name: name(parts)?, change: seat.body()? })
    }),
    post("/v1/agents/*/certificates", Owner, |seat, parts| {
        seat.take(IssueCertificate { agent: name(parts)?, wanted: seat.body()? })
    }),
    post("/v1/anomalies/accept", Owner, |seat, _| seat.take(seat.body::<AcceptAnomalies>()?)),
    post("/v1/agents/*/revoke", Owner, |seat, parts| {
        seat.take(RevokeAgent { name: name(parts)?, only: seat.body()? })
    }),
    Route {
        method: Method::PUT,
        path: "/v1/policies/*",
        least: Owner,
        serve: |seat, parts| {
            let text = std::str::from_utf8(&seat.asked.body);
            let text = text.map_err(|_| Problem::bad("the policy is not text"))?.to_owned();
            seat.take(PutPolicy { file: first(parts)?.to_owned(), text })
        },
    },
    Route {
        method: Method::DELETE,
        path: "/v1/policies/*",
        least: Owner,
        serve: |seat, parts| seat.take(RemovePolicy { file: first(parts)?.to_owned() }),
    },
    get("/v1/administrators", Owner, |seat, _| seat.take(ListAdministrators)),
    post("/v1/administrators", Owner, |seat, _| seat.take(seat.body::<AddAdministrator>()?)),
    post("/v1/administrators/*/revoke", Owner, |seat, parts| {
        seat.take(RevokeAdministrator { name: name(parts)? })
    }),
];

/// Answers a request by the table.
pub(super) fn serve(seat: &mut Seat<'_>) -> Done {
    let (method, path) = (&seat.asked.method, seat.asked.path.as_str());
    let mut fitting = ROUTES.iter().filter(|route| route.method == *method);
    let found = fitting.find_map(|route| Some((route, route.parts(path)?)));
    let (route, parts) = found.ok_or_else(Problem::missing)?;
    // Before anything else of the request is looked at, and for each of them.
    seat.require(route.least)?;
    (route.serve)(seat, &parts)
}

impl Route {
    /// What stands for each `*`, if the path is one of these.
    fn parts<'p>(&self, path: &'p str) -> Option<Vec<&'p str>> {
        let (mut own, mut given) = (self.path.split('/'), path.split('/'));
        let mut parts = Vec::new();
        loop {
            match (own.next(), given.next()) {
                (None, None) => return Some(parts),
                (Some("*"), Some(part)) if !part.is_empty() => parts.push(part),
                (Some(own), Some(part)) if own == part => {}
                _ => return None,
            }
        }
    }
}

/// The table itself, for whoever asks what there is.
fn routes() -> Value {
    let shown = |route: &Route| json!({"method": route.method.as_str(), "path": route.path, "role": route.least});
    ROUTES.iter().map(shown).collect()
}

fn first<'p>(parts: &[&'p str]) -> Result<&'p str, Problem> {
    parts.first().copied().ok_or_else(Problem::missing)
}

fn name(parts: &[&str]) -> Result<Name, Problem> {
    first(parts)?.parse().map_err(|_| Problem::missing())
}

/// A credential, without what only those need who use it.
fn as_seen_by(role: Role, mut one: Shown) -> Value {
    if role < Member {
        one.placeholder = None;
    }
    serde_json::to_value(one).unwrap_or_default()
}

/// The parameters of a query.
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn of(seat: &Seat<'_>) -> Self {
        let decoded = |text: &str| {
            let text = text.replace('+', " ");
            let text = percent_encoding::percent_decode_str(&text).decode_utf8().ok()?;
            Some(text.into_owned())
        };
        let pairs = seat.asked.query.split('&').filter_map(|pair| pair.split_once('='));
        Self(pairs.filter_map(|(key, value)| Some((key.to_owned(), decoded(value)?))).collect())
    }

    fn text(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    fn name(&self, name: &str) -> Result<Option<Name>, Problem> {
        let read = |text: String| {
            text.parse().map_err(|_| Problem::bad(format!("the parameter `{name}` is no name")))
        };
        self.text(name).map(read).transpose()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn needed(&self, name: &str) -> Result<String, Problem> {
        self.text(name).ok_or_else(|| Problem::bad(format!("the parameter `{name}` is missing")))
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Problem> {
        Ok(self.numbers(name)?.into_iter().next())
    }

    fn numbers<T: std::str::FromStr>(&self, name: &str) -> Result<Vec<T>, Problem> {
        let read = |value: &str| {
            value.parse().map_err(|_| Problem::bad(format!("the parameter `{name}` is no number")))
        };
        self.all(name).map(read).collect()
    }

    fn moment(&self, name: &str) -> Result<Option<SystemTime>, Problem> {
        let seconds = self.number(name)?.map(Duration::from_secs);
        Ok(seconds.and_then(|seconds| UNIX_EPOCH.checked_add(seconds)))
    }
}

/// On the policy in force, for a request that is described or one of the audit log.
fn explain(seat: &Seat<'_>) -> Done {
    let parameters = Parameters::of(seat);
    let workspace = seat.who.workspace.clone();
    let served = seat.keeper().served(&workspace).ok_or_else(Problem::missing)?;
    let state = served.state();
    let (inquiry, recorded) = if let Some(id) = parameters.text("request") {
        let filter = of_the_workspace(seat, Filter::default())?;
        let (inquiry, recorded) = recorded(seat.log(), filter, &id)
            .map_err(|failure| Problem::missing().told(&failure))?;
        let Some(inquiry) = inquiry else {
            // Refused before anything of it was known that rules could decide on.
            return Ok(json!({"record": recorded.access, "outcome": recorded.outcome}));
        };
        (inquiry, Some(recorded))
    } else {
        let mut inquiry = described(seat, &parameters)?;
        let known = state.sealed.as_ref().and_then(|all| all.labels.get(&inquiry.who.agent));
        if let Some(labels) = known.filter(|_| inquiry.who.labels.is_empty()) {
            inquiry.who.labels = labels.clone();
        }
        (inquiry, None)
    };
    let explanation = state.policy.explain(&inquiry, &state.credentials);
    let mut explained = explained(&explanation, (&inquiry, &state.credentials), recorded);
    explained.hide(seat.home());
    serde_json::to_value(explained).map_err(|_| Problem::missing())
}

fn described(seat: &Seat<'_>, parameters: &Parameters) -> Result<Inquiry, Problem> {
    let who = parameters.needed("agent")?.parse().ok().and_then(supposed);
    let who = who.ok_or_else(|| Problem::bad("`agent` is no agent's name"))?;
    let wish = format!("{} {}", parameters.needed("method")?, parameters.needed("url")?);
    let labels = parameters.all("label").map(str::parse::<LabelPair>);
    let labels = labels.map(|pair| pair.map(|LabelPair(name, value)| (name, value)));
    let labels = labels.collect::<Result<Vec<_>, _>>().and_then(Labels::new);
    let field = |text: &str| {
        let (name, value) = text.split_once(':')?;
        Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
    };
    let fields: Option<Vec<_>> = parameters.all("header").map(field).collect();
    Ok(Inquiry {
        who: Identity {
            workspace: seat.who.workspace.clone(),
            labels: labels.map_err(|error| Problem::bad(error.to_string()))?,
            ..who
        },
        wish: wish.parse::<Wish>().map_err(|error| Problem::bad(error.to_string()))?,
        refers: parameters.text("use").and_then(|name| name.parse().ok()),
        seen: None,
        fields: fields.ok_or_else(|| Problem::bad("a field is written `NAME: VALUE`"))?,
        at: parameters.number("at")?.unwrap_or(seat.asked.at),
    })
}

fn records(seat: &mut Seat<'_>) -> Done {
    let parameters = Parameters::of(seat);
    let word = |name: &str| Problem::bad(format!("the parameter `{name}` is none of its words"));
    let decision = match parameters.text("decision").as_deref() {
        None => None,
        Some("permit") => Some(Decision::Permit),
        Some("refuse") => Some(Decision::Refuse),
        Some(_) => return Err(word("decision")),
    };
    let kind = parameters.text("kind").map(|text| kind_of(&text).ok_or_else(|| word("kind")));
    let filter = Filter {
        agent: parameters.text("agent"),
        credential: parameters.text("credential"),
        host: parameters.text("host"),
        run: parameters.text("run"),
        decision,
        kind: kind.transpose()?,
        since: parameters.moment("since")?,
        until: parameters.moment("until")?,
        request_id: parameters.text("request"),
        ..Filter::default()
    };
    let limit = parameters.number("limit")?.unwrap_or(100).min(RECORDS);
    let lines = QueryRecords { filter, limit }.carry_out(seat)?;
    if parameters.text("form").as_deref() == Some("lines") {
        return serde_json::to_value(lines).map_err(|_| Problem::missing());
    }
    Ok(lines.lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_fits_part_by_part() {
        let route = post("/v1/agents/*/revoke", Owner, |_, _| Ok(Value::Null));
        assert_eq!(route.parts("/v1/agents/worker/revoke").unwrap(), ["worker"]);
        for other in [
            "/v1/agents/worker",
            "/v1/agents//revoke",
            "/v1/agents/worker/revoke/",
            "/v1/agents/a/b/revoke",
            "v1/agents/worker/revoke",
        ] {
            assert!(route.parts(other).is_none(), "{other}");
        }
    }

    #[test]
    fn no_two_routes_are_one_and_those_with_names_come_after_words() {
        for (at, route) in ROUTES.iter().enumerate() {
            let sample = route.path.replace('*', "x");
            let first = ROUTES
                .iter()
                .position(|other| other.method == route.method && other.parts(&sample).is_some());
            assert_eq!(first, Some(at), "{} {}", route.method, route.path);
        }
    }
}
