//! What is used when a credential does not work: another version of it, or another of its pool.
//!
//! An origin that answers 401 or 429 has not done what it was asked for, so the same request may be sent
//! again with another credential, if all of it is at hand. What did not work is left alone for a while. A
//! credential that stands alone never comes here.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use dashmap::DashMap;
use http::{HeaderMap, StatusCode, header};

use super::{Gateway, Workspace};
use crate::agent::qualified;
use crate::credential::{Credential, Slot, by_weight};
use crate::outcome::{Code, Refusal};
use crate::policy::{Alternative, Grant, Permit};
use crate::record::{Event, Why};
use crate::reference::Name;

/// How long a credential rests after a 429 that does not say. Limits of providers are mostly by the
/// minute; who asks again too soon is told so.
const REST: Duration = Duration::from_secs(10);

/// The shortest: "0" says nothing that would keep the next request from the same answer.
const SHORTEST_REST: Duration = Duration::from_secs(1);

/// The longest rest: some providers name the end of a month.
const LONGEST_REST: Duration = Duration::from_hours(1);

/// How long a version rests that was answered 401 where another was not. As often as that it is tried
/// again, and said again that it does not work.
const INVALID: Duration = Duration::from_mins(1);

/// Credentials tried for one request. A provider that limits all of them limits the caller.
const MOST: usize = 5;

/// What rests.
#[derive(Debug, Default)]
pub(super) struct Spares {
    resting: DashMap<(Name, u32), Rest>,
    /// Whether anything ever rested: until then nobody looks.
    any: AtomicBool,
    /// Whose turn it is in the place of others.
    turn: AtomicU32,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    until: Instant,
    status: u16,
}

/// What was tried for one request.
#[derive(Debug, Default)]
pub(super) struct Tried(Vec<Attempt>);

#[derive(Debug)]
struct Attempt {
    name: Name,
    version: u32,
    status: StatusCode,
}

impl Tried {
    fn has(&self, name: &Name, version: u32) -> bool {
        self.0.iter().any(|one| one.name == *name && one.version == version)
    }
}

/// The one credential that a request carries; a client certificate and texts of values may go with it.
fn alone(permit: &Permit) -> Option<&Grant> {
    let (first, rest) = permit.grants().split_first()?;
    let is_shown = |grant: &Grant| {
        let credential = grant.credential();
        credential.as_text().is_some() || credential.slots.contains(&Slot::Certificate)
    };
    rest.iter().all(is_shown).then_some(first)
}

/// Whether there is anything to use in the place of what the permit injects.
pub(super) fn has_spare(permit: &Permit, at: i64) -> bool {
    let Some(grant) = alone(permit) else { return false };
    !grant.pool().is_empty() || versions(grant, at).next().is_some()
}

/// The other versions that may be used: the current one first.
fn versions(grant: &Grant, at: i64) -> impl Iterator<Item = u32> {
    let credential = grant.credential();
    let older = credential.older.iter().rev().filter(move |older| older.until >= at);
    let all = credential.version.into_iter().chain(older.map(|older| older.version));
    all.filter(|version| *version != grant.version())
}

impl Spares {
    fn rest(&self, name: &Name, version: u32, (status, time): (StatusCode, Duration)) {
        self.any.store(true, Ordering::Relaxed);
        let until = Instant::now() + time.clamp(SHORTEST_REST, LONGEST_REST);
        let rest = Rest { until, status: status.as_u16() };
        self.resting.insert((name.clone(), version), rest);
        // Few rest at a time, and those that do not any more are forgotten with the next.
        self.resting.retain(|_, rest| rest.until > Instant::now());
    }

    fn resting(&self, name: &Name, version: u32) -> Option<Rest> {
        let rest = *self.resting.get(&(name.clone(), version))?;
        (rest.until > Instant::now()).then_some(rest)
    }

    /// Has a permit inject what does not rest.
    ///
    /// # Errors
    /// `credential-exhausted` for a pool of which all rest, with the time of the first that does not.
    pub(super) fn settle(&self, permit: &mut Permit, at: i64) -> Result<(), Refusal> {
        if !self.any.load(Ordering::Relaxed) || !has_spare(permit, at) {
            return Ok(());
        }
        let Some(grant) = permit.grants().first() else { return Ok(()) };
        let Some(rest) = self.resting(&grant.credential().name, grant.version()) else {
            return Ok(());
        };
        let after = Some(rest.status);
        if self.next(permit, &Tried::default(), (after, at)) || grant_stands_alone(permit) {
            return Ok(());
        }
        Err(self.exhausted(permit))
    }

    /// Has a permit inject the next that was not tried and does not rest; false when there is none.
    fn next(&self, permit: &mut Permit, tried: &Tried, (after, at): (Option<u16>, i64)) -> bool {
        let Some(grant) = permit.grants().first() else { return false };
        let name = grant.credential().name.clone();
        let free = |name: &Name, version: u32| {
            !tried.has(name, version) && self.resting(name, version).is_none()
        };
        let why = Why { after, ..grant.why() };
        // Another version is another secret; a limit is the account's, which it shares.
        let other = versions(grant, at).find(|version| free(&name, *version));
        if let Some(version) = other.filter(|_| after != Some(429)) {
            return permit.choose_version(0, (version, at), why);
        }
        let is_free = |credential: &Credential| {
            credential.name != name && credential.version.is_some_and(|v| free(&credential.name, v))
        };
        let members = grant.pool().iter().map(Alternative::credential).enumerate();
        let (members, weights): (Vec<usize>, Vec<u32>) = members
            .filter(|(_, one)| is_free(one))
            .map(|(member, one)| (member, one.weight()))
            .unzip();
        // Those that are left share what the others do not take.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let member = members.get(by_weight(&weights, turn));
        member.is_some_and(|member| permit.choose_member(0, *member, why))
    }

    /// All of a pool rest: when the first does not any more.
    fn exhausted(&self, permit: &Permit) -> Refusal {
        let pool = permit.grants().first().map(Grant::pool).unwrap_or_default();
        let until = pool.iter().filter_map(|one| {
            let credential = one.credential();
            Some(self.resting(&credential.name, credential.version?)?.until)
        });
        let wait = until.min().map(|until| until.saturating_duration_since(Instant::now()));
        let mut refusal = Refusal::new(Code::CredentialExhausted);
        refusal.retry_after = Some(wait.unwrap_or(REST));
        refusal
    }

    /// Notes a limit that a member of a pool has met, also where nothing can be sent again.
    pub(super) fn note(&self, permit: &Permit, status: StatusCode, headers: &HeaderMap) {
        let Some(grant) = alone(permit) else { return };
        if status == StatusCode::TOO_MANY_REQUESTS && !grant.pool().is_empty() {
            let time = retry_after(headers).unwrap_or(REST);
            self.rest(&grant.credential().name, grant.version(), (status, time));
        }
    }
}

fn grant_stands_alone(permit: &Permit) -> bool {
    permit.grants().first().is_none_or(|grant| grant.pool().is_empty())
}

/// What is to be done with an answer.
pub(super) enum Verdict {
    /// It is the agent's.
    Take,
    /// The same request once more, as the permit is now.
    Again,
    /// It is the last of a pool that is exhausted.
    Exhausted(Refusal),
}

impl Gateway {
    /// Looks at the head of an answer to a request that can be sent again.
    pub(super) fn judge(
        &self,
        workspace: &Workspace,
        permit: &mut Permit,
        tried: &mut Tried,
        (status, at): (StatusCode, i64),
    ) -> Verdict {
        let spares = &workspace.spares;
        if !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS) {
            self.proved(workspace, permit, tried);
            return Verdict::Take;
        }
        // Which of several was not accepted, nobody says.
        let Some(grant) = alone(permit) else { return Verdict::Take };
        let (name, version) = (grant.credential().name.clone(), grant.version());
        tried.0.push(Attempt { name, version, status });
        let after = Some(status.as_u16());
        if tried.0.len() < MOST && spares.next(permit, tried, (after, at)) {
            return Verdict::Again;
        }
        if status == StatusCode::TOO_MANY_REQUESTS && !grant_stands_alone(permit) {
            self.limited(workspace, tried);
            return Verdict::Exhausted(spares.exhausted(permit));
        }
        Verdict::Take
    }

    /// What was answered 401 is at fault only when another was not: an origin may say 401 for reasons of
    /// its own, and no agent is to have the credentials of all others rest by asking for such a thing.
    fn proved(&self, workspace: &Workspace, permit: &Permit, tried: &Tried) {
        let spares = &workspace.spares;
        let invalid = tried.0.iter().filter(|one| one.status == StatusCode::UNAUTHORIZED);
        for Attempt { name, version, .. } in invalid {
            let is_news = spares.resting(name, *version).is_none();
            spares.rest(name, *version, (StatusCode::UNAUTHORIZED, INVALID));
            self.metrics.credential_failure(&label(workspace, name), "invalid");
            let Some(grant) = permit.grants().first().filter(|_| is_news) else { continue };
            let (other, used) = (&grant.credential().name, grant.version());
            tracing::warn!(
                credential = %name, version, instead = %other, instead_version = used,
                "an origin does not accept a credential; another is used in its place"
            );
            let event = Event {
                event: "credential-fallback",
                workspace: Some(workspace.name().clone()),
                subject: Some(format!("{name} version {version}")),
                detail: Some(format!("answered 401; {other} version {used} was not")),
                by: None,
                vault_epoch: None,
            };
            let _unrecorded = self.audit.event(&event);
        }
        self.limited(workspace, tried);
    }

    /// Counts what met a limit, whether or not another of its pool was used instead.
    fn limited(&self, workspace: &Workspace, tried: &Tried) {
        let limited = tried.0.iter().filter(|one| one.status == StatusCode::TOO_MANY_REQUESTS);
        for one in limited {
            self.metrics.credential_failure(&label(workspace, &one.name), "rate-limited");
        }
    }
}

/// A credential's name in a metric.
fn label(workspace: &Workspace, name: &Name) -> String {
    qualified(workspace.name().as_str(), name.as_str()).into_owned()
}

/// `Retry-After` (RFC 9110 section 10.2.3): seconds, or a date in any of the three forms.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_said_to_be_over_at_once_is_not_asked_about_at_once() {
        let (spares, name) = (Spares::default(), "key".parse::<Name>().unwrap());
        let before = Instant::now();
        spares.rest(&name, 1, (StatusCode::TOO_MANY_REQUESTS, Duration::ZERO));
        let until = spares.resting.get(&(name, 1)).unwrap().until;
        assert!(until >= before + SHORTEST_REST);
    }

    #[test]
    fn times_are_read_in_both_forms() {
        let read = |text: &str| {
            let value = http::HeaderValue::from_str(text).unwrap();
            retry_after(&HeaderMap::from_iter([(header::RETRY_AFTER, value)]))
        };
        assert_eq!(read("17"), Some(Duration::from_secs(17)));
        assert_eq!(read(" 0 "), Some(Duration::ZERO));
        let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(100);
        let date = jiff::fmt::strtime::format("%a, %d %b %Y %H:%M:%S GMT", soon).unwrap();
        let wait = read(&date).unwrap();
        assert!((95..=100).contains(&wait.as_secs()), "{date}: {wait:?}");
        let obsolete = jiff::fmt::strtime::format("%A, %d-%b-%y %H:%M:%S GMT", soon).unwrap();
        assert!(read(&obsolete).is_some_and(|wait| wait.as_secs() >= 95), "{obsolete}");
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), None, "it is past");
        assert_eq!((read("soon"), read("")), (None, None));
    }
}
