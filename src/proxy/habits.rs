//! Requests that are not as usual for their agent: told of, and refused where a rule wants that.
//!
//! A request pays one uncontended lock and a few comparisons for it. What is told is written before the
//! record that lets the request go, so no crash takes it away.

use std::iter;
use std::sync::Arc;

use super::ledger::Ledger;
use super::{Caller, Gateway};
use crate::anomaly::{Anomaly, Baseline, Network, Noted, Seen};
use crate::outcome::{Code, Refusal, reason};
use crate::policy::Permit;
use crate::record::{Event, Peer};
use crate::reference::Name;

/// The event of each of them.
pub const EVENT: &str = "anomaly";

/// What a request is to be counted for when it is over.
#[derive(Clone, Debug)]
pub(super) struct Habit {
    baseline: Arc<Baseline>,
    /// The first credential; none without one.
    credential: Option<Name>,
}

/// Looks at a permitted request, with the credentials that it is to carry.
///
/// # Errors
/// `unusual-request`, where a rule wants it.
pub(super) fn look(
    caller: &Caller,
    permit: &Permit,
    ledger: &mut Ledger,
    at: i64,
) -> Result<(), Refusal> {
    let Some(baseline) = ledger.gateway().baseline(caller) else { return Ok(()) };
    let refused = permit.refuses_unusual();
    let unusual = note(baseline, permit, ledger, (at, refused));
    let credential = referred(permit).next().cloned();
    ledger.counts_for(Habit { baseline: Arc::clone(baseline), credential });
    refuse(refused && unusual).map_err(|refusal| refusal.by(permit.rule()))
}

/// Looks at a message of a socket that was let in.
///
/// # Errors
/// `unusual-request`, where a rule wants it.
pub(super) fn look_at_message(permit: &Permit, ledger: &Ledger, at: i64) -> Result<(), Refusal> {
    let Some(habit) = ledger.habit() else { return Ok(()) };
    let refused = permit.refuses_unusual();
    let unusual = note(&habit.baseline, permit, ledger, (at, refused));
    refuse(refused && unusual).map_err(|refusal| refusal.by(permit.rule()))
}

/// Looks at a tunnel of which nothing but its ends is seen.
///
/// # Errors
/// `unusual-request`, where a rule wants it.
pub(super) fn look_at_tunnel(
    caller: &Caller,
    refused: bool,
    ledger: &mut Ledger,
    at: i64,
) -> Result<(), Refusal> {
    let Some(baseline) = ledger.gateway().baseline(caller) else { return Ok(()) };
    let noted = baseline.note(None, seen(ledger, (at, refused)));
    tell(ledger, &noted);
    ledger.counts_for(Habit { baseline: Arc::clone(baseline), credential: None });
    refuse(refused && noted.unusual)
}

impl Habit {
    /// Counts what was moved.
    pub(super) fn weigh(&self, ledger: &Ledger, moved: u64, at: i64) {
        let noted = self.baseline.weigh(self.credential.as_ref(), moved, at);
        tell(ledger, &noted);
    }
}

impl Gateway {
    /// What a caller usually does; none where that is not asked.
    fn baseline<'c>(&self, caller: &'c Caller) -> Option<&'c Arc<Baseline>> {
        let all = self.baselines.get()?;
        let who = &caller.identity;
        Some(caller.baseline.get_or_init(|| all.of(&who.workspace, &who.agent)))
    }
}

/// The credentials of a request by the names by which agents know them: of those that serve one
/// reference, each user has another.
fn referred(permit: &Permit) -> impl Iterator<Item = &Name> {
    permit.grants().iter().map(|grant| grant.credential().serves())
}

/// Notes it for each of its credentials, or as one without; whether it is unusual.
fn note(baseline: &Baseline, permit: &Permit, ledger: &Ledger, how: (i64, bool)) -> bool {
    let mut names = referred(permit);
    let mut unusual = false;
    for credential in iter::once(names.next()).chain(names.map(Some)) {
        let noted = baseline.note(credential, seen(ledger, how));
        tell(ledger, &noted);
        unusual |= noted.unusual;
    }
    unusual
}

fn seen(ledger: &Ledger, (at, refused): (i64, bool)) -> Seen<'_> {
    let source = match ledger.peer() {
        Peer::Tcp(address) => address.ip().into(),
        Peer::Unix(user) => Network::Unix(user.map(|user| user.uid)),
    };
    Seen { destination: ledger.destination(), source, at, refused }
}

fn refuse(unusual: bool) -> Result<(), Refusal> {
    if unusual { Err(Refusal::new(Code::Unusual).because(reason::UNUSUAL)) } else { Ok(()) }
}

fn tell(ledger: &Ledger, noted: &Noted) {
    for Anomaly { kind, credential, seen, usual } in &noted.tell {
        let gateway = ledger.gateway();
        gateway.metrics.anomaly(*kind);
        let with = credential.as_ref().map_or("-", Name::as_str);
        let (agent, request) = (ledger.agent(), ledger.id);
        tracing::warn!(%agent, %kind, credential = with, seen, usual, request_id = %request, "not as usual");
        // What cannot be recorded is in the log and the metric all the same, and its call is not made.
        let _unrecorded = gateway.audit.event(&Event {
            event: EVENT,
            workspace: ledger.workspace().cloned(),
            subject: Some(ledger.agent_name().to_owned()),
            detail: Some(format!("{kind}; {seen}; {with}; usual {usual}; request {request}")),
            by: None,
            vault_epoch: None,
        });
    }
}
