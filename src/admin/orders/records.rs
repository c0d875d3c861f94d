//! Records of the audit log.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Call, Desk, Order, Trouble, unix};
use crate::app::Failure;
use crate::audit::{Filter, Kind, query};
use crate::record::Decision;

/// The most records of one query over the socket.
pub(crate) const RECORDS: usize = 1000;

/// Records of the workspace, the newest ones that a filter lets through.
pub(crate) struct QueryRecords {
    pub(crate) filter: Filter,
    /// At most so many.
    pub(crate) limit: usize,
}

/// Lines as they stand in the log.
#[derive(Serialize, Deserialize)]
pub(crate) struct Lines {
    pub(crate) lines: Vec<String>,
    /// Lines that cannot be read.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) unreadable: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde calls it.
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Order for QueryRecords {
    type Answer = Lines;

    fn call(&self) -> Result<Call, Failure> {
        let Filter {
            agent, credential, host, run, decision, kind, since, until, request_id, ..
        } = &self.filter;
        let time = |time: &Option<SystemTime>| time.map(|time| unix(time).to_string());
        let decision = decision.map(|decision| match decision {
            Decision::Permit => "permit".to_owned(),
            Decision::Refuse => "refuse".to_owned(),
        });
        let all = [
            ("agent", agent.clone()),
            ("credential", credential.clone()),
            ("host", host.clone()),
            ("run", run.clone()),
            ("decision", decision),
            ("kind", kind.map(|kind| kind.as_str().to_owned())),
            ("since", time(since)),
            ("until", time(until)),
            ("request", request_id.clone()),
            ("limit", Some(self.limit.to_string())),
            ("form", Some("lines".to_owned())),
        ];
        let pairs = all.into_iter().filter_map(|(name, value)| {
            let value =
                percent_encoding::utf8_percent_encode(&value?, percent_encoding::NON_ALPHANUMERIC)
                    .to_string();
            Some(format!("{name}={value}"))
        });
        Ok(Call::get(format!("/v1/audit?{}", pairs.collect::<Vec<_>>().join("&"))))
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Lines, Trouble> {
        let filter = Filter { limit: Some(self.limit.min(RECORDS)), ..self.filter };
        let filter = of_the_workspace(desk, filter)?;
        let found = query(desk.log(), filter).map_err(Failure::from)?;
        let mut lines = Lines { lines: Vec::new(), unreadable: 0 };
        for entry in found {
            match entry {
                Ok(entry) => lines.lines.push(entry.line().to_owned()),
                Err(_) => lines.unreadable += 1,
            }
        }
        Ok(lines)
    }
}

/// The same filter for records of the workspace alone, and of none of its name that was there before it.
pub(crate) fn of_the_workspace(desk: &impl Desk, filter: Filter) -> Result<Filter, Trouble> {
    let began = desk.read(|vault| Ok(vault.workspace_since()?))?;
    let began = began.and_then(|at| u64::try_from(at).ok()).map(Duration::from_secs);
    let began = began.and_then(|began| UNIX_EPOCH.checked_add(began));
    Ok(Filter {
        workspace: Some(desk.home().workspace().to_string()),
        since: filter.since.max(began),
        ..filter
    })
}

/// A kind of record by its word.
pub(crate) fn kind_of(word: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| kind.as_str() == word)
}
