//! Rules that have a request sent again when its origin fails.
//!
//! What is written here says when, how often and at what pace; whether a request can be sent again at
//! all (its method, its body, that nothing of an answer has gone on) is for the proxy to see.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::read::given;
use crate::document::{Node, Reader, Value, show_duration};

/// What a rule says of sending again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How often a request is sent in all, the first time among them.
    pub attempts: u32,
    /// After what.
    pub on: Causes,
    /// What the wait before the second time is drawn from; it doubles with each further one.
    pub wait: Duration,
    /// How long after the first time the last may begin.
    pub within: Duration,
    /// Of a hundred requests of one agent to one destination, how many may be sent again.
    pub budget: u32,
    /// Whether a request is as good as idempotent that has an `Idempotency-Key`.
    pub keyed: bool,
}

/// A failure after which a request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// There was no connection, so that nothing of the request has left.
    Connect,
    /// The connection broke off before an answer.
    Broken,
    /// No answer came in time.
    Timeout,
    /// The origin answered with this status.
    Status(u16),
}

/// A set of causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Causes(u16);

/// Those that stand as words.
const WORDS: [(&str, Cause); 3] =
    [("connect", Cause::Connect), ("broken", Cause::Broken), ("timeout", Cause::Timeout)];

/// Those that an origin says of itself: it was not ready, or had too much to do. All others speak of the
/// request, and say the same the next time.
pub(super) const STATUSES: [u16; 7] = [408, 425, 429, 500, 502, 503, 504];

impl Causes {
    fn bit(cause: Cause) -> Option<u16> {
        let nth = match cause {
            Cause::Connect => 0,
            Cause::Broken => 1,
            Cause::Timeout => 2,
            Cause::Status(status) => 3 + STATUSES.iter().position(|known| *known == status)?,
        };
        1_u16.checked_shl(u32::try_from(nth).ok()?)
    }

    fn of(causes: &[Cause]) -> Self {
        Self(causes.iter().filter_map(|cause| Self::bit(*cause)).fold(0, |all, bit| all | bit))
    }

    /// Whether it is among them.
    #[must_use]
    pub fn contain(self, cause: Cause) -> bool {
        Self::bit(cause).is_some_and(|bit| self.0 & bit != 0)
    }
}

impl Default for Causes {
    /// What is over by itself within seconds, or has reached nobody.
    fn default() -> Self {
        let passing = [502, 503, 504].map(Cause::Status);
        Self::of(&[Cause::Connect, passing[0], passing[1], passing[2]])
    }
}

impl fmt::Display for Causes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = WORDS.iter().filter(|(_, cause)| self.contain(*cause));
        let words = words.map(|(word, _)| (*word).to_owned());
        let statuses = STATUSES.iter().filter(|status| self.contain(Cause::Status(**status)));
        let all: Vec<String> = words.chain(statuses.map(ToString::to_string)).collect();
        f.write_str(&all.join(", "))
    }
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attempts, on, wait, within, budget, keyed } = self;
        let (wait, within) = (show_duration(*wait), show_duration(*within));
        write!(
            f,
            "sent up to {attempts} times on {on}, from {wait} apart within {within}, {budget}% at most"
        )?;
        if *keyed { f.write_str(", with a key also if it is not idempotent") } else { Ok(()) }
    }
}

/// Each further time makes a storm worse and helps less: what fails five times is down.
const ATTEMPTS: RangeInclusive<u32> = 2..=5;

/// Shorter is at once; longer, and its client has given up.
const WAITS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(30);

/// Most clients wait for a minute, some for ten.
const WITHIN: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_mins(10);

/// A round trip across the world: what has failed a moment ago fails again at once.
const WAIT: Duration = Duration::from_millis(200);

/// Without a word: less than any client waits.
const SHORTLY: Duration = Duration::from_secs(10);

/// A fifth more calls is what an origin in trouble may still bear (as Finagle and linkerd have it).
const BUDGET: u32 = 20;

pub(super) const RETRY_KEYS: &[&str] =
    &["attempts", "on", "wait", "within", "budget", "idempotency_key"];

/// `{attempts: 3, on: [connect, 502, 503, 504], wait: 200ms, within: 10s, budget: 20%}`.
pub(super) fn read_retry<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Retry> {
    let mut map = reader.map(node, RETRY_KEYS)?;
    let attempts = map.required("attempts", |r, n| r.integer(n, ATTEMPTS));
    let on = given(&mut map, "on", |r, n| r.list(n, read_cause));
    let wait = given(&mut map, "wait", |r, n| r.duration(n, WAITS));
    let within = given(&mut map, "within", |r, n| r.duration(n, WITHIN));
    let budget = given(&mut map, "budget", |r, n| r.parsed_with(n, percent));
    let keyed = given(&mut map, "idempotency_key", Reader::boolean);
    let on = on?;
    if on.as_ref().is_some_and(Vec::is_empty) {
        let spot = map.node("on").unwrap_or(node);
        map.reader().problem_with_help(spot, "the list is empty", "name one, or remove `retry`");
        return None;
    }
    Some(Retry {
        attempts: attempts?,
        on: on.map_or_else(Causes::default, |causes| Causes::of(&causes)),
        wait: wait?.unwrap_or(WAIT),
        within: within?.unwrap_or(SHORTLY),
        budget: budget?.unwrap_or(BUDGET),
        keyed: keyed?.unwrap_or(false),
    })
}

fn read_cause<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Cause> {
    let Value::Int(number) = node.value else { return reader.choice(node, &WORDS) };
    let status = STATUSES.into_iter().find(|status| i64::from(*status) == number);
    if status.is_none() {
        let known = STATUSES.map(|status| status.to_string()).join(", ");
        let message = format!("`{number}` is not one of: {known}");
        reader.problem_with_help(node, message, "the others say the same the next time");
    }
    status.map(Cause::Status)
}

/// `20%`.
fn percent(text: &str) -> Result<u32, &'static str> {
    const FORM: &str = "not a share; write a whole number of percent from 1% to 100%, such as 20%";
    let digits = text.strip_suffix('%').ok_or(FORM)?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let share = digits.parse().ok().filter(|_| plain).ok_or(FORM)?;
    if (1..=100).contains(&share) { Ok(share) } else { Err(FORM) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_one_of_its_own() {
        let all: Vec<Cause> = WORDS
            .iter()
            .map(|(_, cause)| *cause)
            .chain(STATUSES.iter().map(|status| Cause::Status(*status)))
            .collect();
        for one in &all {
            let only = Causes::of(&[*one]);
            let found: Vec<_> = all.iter().filter(|cause| only.contain(**cause)).collect();
            assert_eq!(found, [one]);
        }
        assert!(!Causes::of(&all).contain(Cause::Status(404)));
        assert_eq!(Causes::default().to_string(), "connect, 502, 503, 504");
    }

    #[test]
    fn shares_are_whole_percents() {
        assert_eq!((percent("1%"), percent("100%")), (Ok(1), Ok(100)));
        for bad in ["0%", "101%", "20", "%", "2.5%", "+5%", "-1%", "٣%"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }
}
