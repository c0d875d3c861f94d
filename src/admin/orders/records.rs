//! Records of the audit log.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Call, Desk, Order, Trouble, query_of, unix};
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
        Ok(Call::get(format!("/v1/audit{}", query_of(all))))
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

/// The most bytes of lines in one part of an export, and one line more.
const PART: usize = 4 << 20;

/// All records of the workspace within a time, the oldest first, in parts.
pub(crate) struct ExportRecords {
    pub(crate) since: Option<SystemTime>,
    pub(crate) until: Option<SystemTime>,
    /// The number of the last record of the part before; 0 for the first.
    pub(crate) after: u64,
    /// At most so many in this part; as many as there is room for, where nothing is said.
    pub(crate) limit: Option<usize>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) lines: Vec<String>,
    /// Lines that cannot be read.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) unreadable: u64,
    /// After which record the next part begins; none when this was the last.
    pub(crate) next: Option<u64>,
}

impl Order for ExportRecords {
    type Answer = Part;

    fn call(&self) -> Result<Call, Failure> {
        let time = |time: Option<SystemTime>| time.map(|time| unix(time).to_string());
        let pairs = [
            ("since", time(self.since)),
            ("until", time(self.until)),
            ("after", Some(self.after.to_string())),
            ("limit", self.limit.map(|limit| limit.to_string())),
        ];
        Ok(Call::get(format!("/v1/audit/export{}", query_of(pairs))))
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Part, Trouble> {
        let Self { since, until, after, limit } = self;
        let limit = limit.unwrap_or(usize::MAX).max(1);
        let filter = of_the_workspace(desk, Filter { since, until, ..Filter::default() })?;
        let mut part = Part { lines: Vec::new(), unreadable: 0, next: None };
        let (mut bytes, mut last) = (0, after);
        // From the beginning each time: only there an outcome finds the request that it is of.
        for entry in query(desk.log(), filter).map_err(Failure::from)? {
            let Ok(entry) = entry else {
                // What stands before the first of this part was told with the part before.
                part.unreadable += u64::from(after == 0 || last > after);
                continue;
            };
            let number = entry.seq().unwrap_or(last);
            if number <= after {
                continue;
            }
            if bytes >= PART || part.lines.len() >= limit {
                part.next = Some(last);
                break;
            }
            bytes += entry.line().len();
            last = number;
            part.lines.push(entry.line().to_owned());
        }
        Ok(part)
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
