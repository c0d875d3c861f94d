//! Rules that ask a person first.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::read::given;
use crate::document::{Node, Reader, Value};

/// What a rule says of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Approval {
    /// How long the request waits for the answer; none when it is refused at once, and sent again
    /// when it is approved.
    pub wait: Option<Duration>,
    /// How long a question stands, and then an approval.
    pub valid: Duration,
    /// How many people have to say yes.
    pub approvers: u32,
}

/// Without a word: long enough to be seen by whoever is at work, and less than the ten minutes for
/// which most clients wait.
const WAIT: Duration = Duration::from_mins(5);

/// Without a word: a person may be in a meeting.
const VALID: Duration = Duration::from_hours(1);

/// Longer, no client and no proxy on the way keeps a request open.
const WAITS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);

/// Longer, what was approved is not remembered.
const VALIDS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24 * 7);

/// More never find the time together.
const APPROVERS: RangeInclusive<u32> = 1..=10;

pub(super) const APPROVAL_KEYS: &[&str] = &["wait", "answer", "valid", "approvers"];

/// `required`, or `{wait: 5m, valid: 1h, approvers: 2}`, or `{answer: refuse}`.
pub(super) fn read_approval<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Approval> {
    if !matches!(node.value, Value::Map(_)) {
        reader.choice(node, &[("required", ())])?;
        return Some(Approval { wait: Some(WAIT), valid: VALID, approvers: 1 });
    }
    let mut map = reader.map(node, APPROVAL_KEYS)?;
    let wait = given(&mut map, "wait", |r, n| r.duration(n, WAITS));
    let answer =
        given(&mut map, "answer", |r, n| r.choice(n, &[("wait", true), ("refuse", false)]));
    let valid = given(&mut map, "valid", |r, n| r.duration(n, VALIDS));
    let approvers = given(&mut map, "approvers", |r, n| r.integer(n, APPROVERS));
    let (wait, answer, valid, approvers) = (wait?, answer?, valid?, approvers?);
    if answer == Some(false) && wait.is_some() {
        let spot = map.node("wait").unwrap_or(node);
        let message = "a request that is refused at once does not wait";
        map.reader().problem_with_help(spot, message, "remove `wait`, or `answer: refuse`");
        return None;
    }
    let wait = answer.unwrap_or(true).then(|| wait.unwrap_or(WAIT));
    let valid = valid.unwrap_or(VALID).max(wait.unwrap_or_default());
    Some(Approval { wait, valid, approvers: approvers.unwrap_or(1) })
}
