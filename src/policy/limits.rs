//! How much a rule lets through: requests and bytes in a time, and requests at once.
//!
//! Own code rather than a library, because one request has to be taken from several allowances or
//! from none, given back when it never left, and its bytes charged after it was let in. Rates are
//! the generic cell rate algorithm (ITU-T I.371) in one atomic word each: no lock, no timer, and
//! nothing to do while nobody asks. Time is handed in, and monotonic: the wall clock moves nothing.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use dashmap::DashMap;

use super::line::Line;
use super::rule::Rule;
use crate::document::{UnitError, parse_size, show_duration, show_size};
use crate::outcome::{Code, Measure, Quota, Refusal};
use crate::reference::Name;

/// The most requests that a limit may name: an allowance has the resolution of a nanosecond.
pub(super) const MOST_REQUESTS: u64 = 1_000_000;

/// The most bytes that a limit may name. Larger is none.
pub(super) const MOST_BYTES: u64 = 1 << 50;

/// Counters that one rule keeps before it looks for those that nobody needs any more.
const MANY: usize = 1024;

/// So many in so long: `60/min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many; all of them may come at once.
    pub count: u64,
    /// After which time as many may come again.
    pub window: Duration,
}

const WINDOWS: [(&str, u64); 4] = [("s", 1), ("min", 60), ("h", 3600), ("day", 86_400)];

/// Why a text is no rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateError {
    /// Not `N/WINDOW`.
    Form,
    /// Not a number of requests.
    Count,
    /// Not a number of bytes.
    Size(UnitError),
    /// None at all, or more than can be counted.
    Range,
}

impl fmt::Display for RateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => f.write_str(
                "not a rate; write how many and in what time: 10/s, 60/min, 500/h, 1GiB/day",
            ),
            Self::Count => f.write_str("before the `/` stands a whole number"),
            Self::Size(error) => error.fmt(f),
            Self::Range => write!(
                f,
                "has to be from 1 to {MOST_REQUESTS} requests, or from 1B to {}; for none at all write a rule with `deny: true`",
                show_size(MOST_BYTES)
            ),
        }
    }
}

impl Rate {
    /// Reads `60/min`.
    ///
    /// # Errors
    /// [`RateError`] when it is none.
    pub fn of_requests(text: &str) -> Result<Self, RateError> {
        let (count, window) = Self::split(text)?;
        let digits = !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit());
        let count = Some(count).filter(|_| digits).ok_or(RateError::Count)?;
        let count = count.parse().map_err(|_| RateError::Range)?;
        Self { count, window }.within(MOST_REQUESTS)
    }

    /// Reads `1GiB/day`.
    ///
    /// # Errors
    /// [`RateError`] when it is none.
    pub fn of_bytes(text: &str) -> Result<Self, RateError> {
        let (size, window) = Self::split(text)?;
        let count = parse_size(size).map_err(RateError::Size)?;
        Self { count, window }.within(MOST_BYTES)
    }

    fn split(text: &str) -> Result<(&str, Duration), RateError> {
        let (count, unit) = text.split_once('/').ok_or(RateError::Form)?;
        let window = WINDOWS.iter().find(|(name, _)| *name == unit);
        let (_, seconds) = window.ok_or(RateError::Form)?;
        Ok((count, Duration::from_secs(*seconds)))
    }

    fn within(self, most: u64) -> Result<Self, RateError> {
        if (1..=most).contains(&self.count) { Ok(self) } else { Err(RateError::Range) }
    }

    /// The time that `n` of them stand for. Rounded up: a limit is never exceeded by a rounding.
    fn cost(self, n: u64) -> u64 {
        let time = (u128::from(n) * self.window.as_nanos()).div_ceil(u128::from(self.count));
        u64::try_from(time).unwrap_or(u64::MAX)
    }
}

/// Whose requests are counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Per {
    /// Those of each agent.
    #[default]
    Agent,
    /// Those with each credential.
    Credential,
    /// All that the rule lets through.
    Rule,
}

impl FromStr for Per {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "agent" => Ok(Self::Agent),
            "credential" => Ok(Self::Credential),
            "rule" => Ok(Self::Rule),
            _ => Err(()),
        }
    }
}

/// The limits of one rule, as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests in a time.
    pub requests: Option<Rate>,
    /// Requests at once.
    pub concurrent: Option<u32>,
    /// Bytes of bodies, both ways, in a time.
    pub bytes: Option<Rate>,
    /// Whose are counted together.
    pub per: Per,
    /// Whether what meets one of them waits for it.
    pub queue: Option<Queue>,
}

/// Requests that wait until a limit lets them in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// How many of one agent.
    pub size: u32,
    /// How long each of them, at most.
    pub wait: Duration,
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let window = |rate: Rate| {
            let unit = WINDOWS.iter().find(|(_, seconds)| *seconds == rate.window.as_secs());
            unit.map_or("", |(name, _)| name)
        };
        let requests = self.requests.map(|r| format!("{} requests/{}", r.count, window(r)));
        let concurrent = self.concurrent.map(|most| format!("{most} at once"));
        let bytes = self.bytes.map(|r| format!("{}/{}", show_size(r.count), window(r)));
        let all: Vec<String> = [requests, concurrent, bytes].into_iter().flatten().collect();
        write!(f, "at most {}", all.join(", "))?;
        let per = match self.per {
            Per::Agent => "agent",
            Per::Credential => "credential",
            Per::Rule => "rule",
        };
        write!(f, " per {per}")?;
        match self.queue {
            Some(Queue { size, wait }) => {
                write!(f, ", {size} more wait up to {}", show_duration(wait))
            }
            None => Ok(()),
        }
    }
}

/// What is left of a rate: the moment at which nothing of it is in use any more. As far ahead of now
/// as the whole allowance: used up. Further: in debt.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

impl Bucket {
    /// Takes one out of `allowance`, or says how long to wait for it.
    fn take(&self, cost: u64, allowance: u64, now: u64) -> Result<(), u64> {
        let next = |free: u64| {
            let after = free.max(now).saturating_add(cost);
            (after - now <= allowance).then_some(after)
        };
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let refused = |free: u64| free.saturating_add(cost).saturating_sub(now + allowance);
        taken.map(drop).map_err(refused)
    }

    /// Takes more, whatever is left.
    fn charge(&self, cost: u64, now: u64) {
        let next = |free: u64| Some(free.max(now).saturating_add(cost));
        let _always = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    fn give_back(&self, cost: u64) {
        let next = |free: u64| Some(free.saturating_sub(cost));
        let _always = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// How far ahead of `now` it is in use.
    fn ahead(&self, now: u64) -> u64 {
        self.0.load(Ordering::Relaxed).saturating_sub(now)
    }
}

/// What one agent, credential or rule has used.
#[derive(Debug, Default)]
struct Counter {
    requests: Bucket,
    bytes: Bucket,
    open: AtomicU32,
    line: Line,
}

impl Counter {
    /// Lets one request in, or names the limit that it meets. Nobody passes those who wait.
    fn enter(&self, limits: &Limits, now: u64, is_first: bool) -> Result<(), Quota> {
        if !is_first && !self.line.is_empty() {
            return Err(Quota::behind(limits));
        }
        if let Some(quota) = self.spent(limits, now) {
            return Err(quota);
        }
        if let Some(most) = limits.concurrent {
            let next = |open: u32| (open < most).then_some(open + 1);
            let entered = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
            // Nobody knows when one will end.
            let wait = Duration::from_secs(1);
            let limit = u64::from(most);
            entered.map_err(|_| Quota { what: Measure::Concurrent, limit, window: None, wait })?;
        }
        let Some(rate) = limits.requests else { return Ok(()) };
        let cost = rate.cost(1);
        self.requests.take(cost, cost.saturating_mul(rate.count), now).map_err(|wait| {
            // Told to nobody: who is first and asks would be told by its own asking.
            if limits.concurrent.is_some() {
                self.open.fetch_sub(1, Ordering::Relaxed);
            }
            Quota::of(Measure::Requests, rate, wait)
        })
    }

    fn leave(&self, limits: &Limits) {
        if limits.concurrent.is_some() {
            self.open.fetch_sub(1, Ordering::Relaxed);
            self.line.tell();
        }
    }

    fn give_back(&self, limits: &Limits) {
        if let Some(rate) = limits.requests {
            self.requests.give_back(rate.cost(1));
            self.line.tell();
        }
    }

    /// Whether the bytes are used up. While any are left a request may come in, whatever it will move.
    fn spent(&self, limits: &Limits, now: u64) -> Option<Quota> {
        let rate = limits.bytes?;
        let allowance = u64::try_from(rate.window.as_nanos()).unwrap_or(u64::MAX);
        let over = (self.bytes.ahead(now) + 1).checked_sub(allowance)?;
        (over > 0).then(|| Quota::of(Measure::Bytes, rate, over))
    }

    fn is_idle(&self, now: u64) -> bool {
        let used = [&self.requests, &self.bytes].iter().any(|bucket| bucket.ahead(now) > 0);
        !used && self.open.load(Ordering::Relaxed) == 0 && self.line.is_empty()
    }
}

impl Quota {
    fn of(what: Measure, rate: Rate, wait: u64) -> Self {
        let wait = Duration::from_nanos(wait);
        Self { what, limit: rate.count, window: Some(rate.window), wait }
    }

    /// Of one that others wait for.
    fn behind(limits: &Limits) -> Self {
        let second = 1_000_000_000;
        let concurrent = limits.concurrent.map(|most| {
            let wait = Duration::from_nanos(second);
            Self { what: Measure::Concurrent, limit: most.into(), window: None, wait }
        });
        let requests = limits.requests.map(|rate| Self::of(Measure::Requests, rate, second));
        let bytes = limits.bytes.map(|rate| Self::of(Measure::Bytes, rate, second));
        requests.or(concurrent).or(bytes).unwrap_or(Self {
            what: Measure::Requests,
            limit: 0,
            window: None,
            wait: Duration::from_nanos(second),
        })
    }
}

/// Whose counter it is, within a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Rule,
    Agent(Name),
    /// None for requests that carry none.
    Credential(Option<Name>),
}

/// The counters of one rule. Outlives the policy that it came with, where the next one has the same
/// rule with the same limits.
#[derive(Debug)]
pub(super) struct Meter {
    limits: Limits,
    counters: DashMap<Key, Arc<Counter>>,
}

impl Meter {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, counters: DashMap::new() })
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    fn counter(&self, key: Key, now: u64) -> Arc<Counter> {
        if let Some(counter) = self.counters.get(&key) {
            return Arc::clone(&counter);
        }
        if self.counters.len() >= MANY {
            let needed =
                |counter: &Arc<Counter>| Arc::strong_count(counter) > 1 || !counter.is_idle(now);
            self.counters.retain(|_, counter| needed(counter));
        }
        Arc::clone(&self.counters.entry(key).or_default())
    }

    fn keys<'a>(&self, agent: &Name, credentials: impl Iterator<Item = &'a Name>) -> Vec<Key> {
        match self.limits.per {
            Per::Rule => vec![Key::Rule],
            Per::Agent => vec![Key::Agent(agent.clone())],
            Per::Credential => {
                let keys: Vec<Key> =
                    credentials.map(|name| Key::Credential(Some(name.clone()))).collect();
                if keys.is_empty() { vec![Key::Credential(None)] } else { keys }
            }
        }
    }
}

/// The limits that a decision falls under; usually none.
#[derive(Clone, Debug, Default)]
pub struct Meters(pub(super) Vec<Arc<Meter>>);

impl Meters {
    /// The same, and those of a rule that bounds it.
    pub(super) fn and(mut self, bound: Option<&Rule>) -> Self {
        self.0.extend(bound.and_then(|rule| rule.meter.clone()));
        self
    }

    /// Takes one request out of every limit, or out of none.
    ///
    /// # Errors
    /// `rate-limited`, with the limit that is used up.
    pub fn admit<'a>(
        &self,
        agent: &Name,
        credentials: &(impl Iterator<Item = &'a Name> + Clone),
        now: Duration,
    ) -> Result<Option<Arc<Ticket>>, Refusal> {
        self.enter(agent, credentials, now, None).map_err(|met| met.refusal)
    }

    /// The same for one that may be `waiting` for it.
    ///
    /// # Errors
    /// The limit that is used up, which can perhaps be waited for.
    pub fn enter<'a>(
        &self,
        agent: &Name,
        credentials: &(impl Iterator<Item = &'a Name> + Clone),
        now: Duration,
        waiting: Option<&Waiting>,
    ) -> Result<Option<Arc<Ticket>>, Box<Met>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        self.take((agent, credentials), now, waiting, |limits| limits).map(Arc::new).map(Some)
    }

    /// Takes one request out of every limit on requests, or out of none, for what comes over something that is
    /// open already: it is no further one at once.
    ///
    /// # Errors
    /// `rate-limited`, with the limit that is used up.
    pub fn count<'a>(
        &self,
        agent: &Name,
        credentials: &(impl Iterator<Item = &'a Name> + Clone),
        now: Duration,
    ) -> Result<(), Refusal> {
        let limits = |limits| Limits { concurrent: None, ..limits };
        let counted = self.take((agent, credentials), now, None, limits);
        counted.map(drop).map_err(|met| met.refusal)
    }

    fn take<'a>(
        &self,
        (agent, credentials): (&Name, &(impl Iterator<Item = &'a Name> + Clone)),
        now: Duration,
        waiting: Option<&Waiting>,
        counted: impl Fn(Limits) -> Limits,
    ) -> Result<Ticket, Box<Met>> {
        let now = nanos(now);
        let mut ticket = Ticket::default();
        for meter in &self.0 {
            let limits = counted(meter.limits);
            for key in meter.keys(agent, credentials.clone()) {
                let counter = meter.counter(key, now);
                let is_first = waiting.is_some_and(|one| one.is_first_of(&counter));
                if let Err(quota) = counter.enter(&limits, now, is_first) {
                    ticket.give_back();
                    let refusal = refusal(quota, limits.per);
                    return Err(Box::new(Met { refusal, queue: limits.queue, counter }));
                }
                ticket.held.push((counter, limits));
            }
        }
        Ok(ticket)
    }
}

/// A limit that a request has met.
#[derive(Debug)]
pub struct Met {
    /// What it is refused with, if it is.
    pub refusal: Refusal,
    queue: Option<Queue>,
    counter: Arc<Counter>,
}

impl Met {
    /// Whether the rule lets requests wait for it, and how.
    #[must_use]
    pub fn queue(&self) -> Option<Queue> {
        self.queue
    }

    /// Waits behind the others; none where as many of the agent's wait as may. Who waits for this limit
    /// already keeps its place.
    #[must_use]
    pub fn wait(&self, agent: &Name, before: Option<Waiting>) -> Option<Waiting> {
        if let Some(before) = before.filter(|before| Arc::ptr_eq(&before.counter, &self.counter)) {
            return Some(before);
        }
        let most = self.queue?.size as usize;
        let id = self.counter.line.join(agent, most)?;
        let counter = Arc::clone(&self.counter);
        Some(Waiting { counter, agent: agent.clone(), id, seen: None })
    }
}

/// A place among those who wait for a limit. Given up when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Waiting {
    counter: Arc<Counter>,
    agent: Name,
    id: u64,
    /// How often something had been given back when it last looked.
    seen: Option<u64>,
}

impl Waiting {
    fn is_first_of(&self, counter: &Arc<Counter>) -> bool {
        Arc::ptr_eq(&self.counter, counter) && self.is_first()
    }

    /// Whether it is its turn.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.counter.line.is_first(self.id)
    }

    /// Whether it was its turn before, and there was nothing.
    #[must_use]
    pub fn has_looked(&self) -> bool {
        self.seen.is_some()
    }

    /// Notes what was given back so far, before it is looked for: what is given back afterwards is news.
    pub fn looks(&mut self) {
        self.seen = Some(self.counter.line.news());
    }

    /// Ready when it is this one's turn, and there is news for one that has looked.
    pub fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.counter.line.poll(self.id, self.seen, cx)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.counter.line.leave(&self.agent, self.id);
    }
}

/// Two decisions are one when they fall under the very same counters.
impl PartialEq for Meters {
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (&Arc<Meter>, &Arc<Meter>)| Arc::ptr_eq(a, b);
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same)
    }
}

impl Eq for Meters {}

/// Of what several agents use up together, none is told that it was itself.
fn refusal(quota: Quota, per: Per) -> Refusal {
    let own = per == Per::Agent;
    let (detail, reason) = match quota.what {
        Measure::Requests if own => (
            "This agent has sent as many requests as a policy rule lets it in this time",
            "the rule's limit on requests",
        ),
        Measure::Requests => (
            "As many requests were sent as a policy rule lets through in this time",
            "the rule's limit on requests",
        ),
        Measure::Concurrent if own => (
            "This agent has as many requests open as a policy rule lets it at once",
            "the rule's limit on requests at once",
        ),
        Measure::Concurrent => (
            "As many requests are open as a policy rule lets through at once",
            "the rule's limit on requests at once",
        ),
        Measure::Bytes if own => (
            "This agent has moved as many bytes as a policy rule lets it in this time",
            "the rule's limit on bytes",
        ),
        Measure::Bytes => (
            "As many bytes were moved as a policy rule lets through in this time",
            "the rule's limit on bytes",
        ),
    };
    let refusal = Refusal::with_detail(Code::RateLimited, detail).because(reason);
    Refusal { quota: Some(Box::new(quota)), ..refusal }
}

/// One request that was let in. Its place among those at once is given back when this is dropped.
#[derive(Debug, Default)]
#[must_use]
pub struct Ticket {
    held: Vec<(Arc<Counter>, Limits)>,
    /// What was charged of each way.
    up: AtomicU64,
    down: AtomicU64,
    given_back: AtomicBool,
}

impl Ticket {
    /// Charges the bytes that have passed so far, each once. What goes beyond the limit is a debt, that
    /// later requests wait for.
    pub fn charge(&self, up: u64, down: u64, now: Duration) {
        let news = |charged: &AtomicU64, total: u64| {
            total.saturating_sub(charged.fetch_max(total, Ordering::Relaxed))
        };
        let bytes = news(&self.up, up) + news(&self.down, down);
        if bytes == 0 {
            return;
        }
        for (counter, limits) in &self.held {
            if let Some(rate) = limits.bytes {
                counter.bytes.charge(rate.cost(bytes), nanos(now));
            }
        }
    }

    /// Whether what may last for long may not go on, because the bytes are used up.
    #[must_use]
    pub fn is_spent(&self, now: Duration) -> bool {
        self.held.iter().any(|(counter, limits)| counter.spent(limits, nanos(now)).is_some())
    }

    /// For a request that was let in and never left: it does not count.
    pub fn give_back(&self) {
        if self.given_back.swap(true, Ordering::Relaxed) {
            return;
        }
        for (counter, limits) in &self.held {
            counter.give_back(limits);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        for (counter, limits) in &self.held {
            counter.leave(limits);
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: [Name; 0] = [];

    fn meters(limits: Limits) -> Meters {
        Meters(vec![Meter::new(limits)])
    }

    fn requests(text: &str) -> Limits {
        Limits { requests: Some(Rate::of_requests(text).unwrap()), ..Limits::default() }
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn ask(meters: &Meters, agent: &str, now: Duration) -> Result<Option<Arc<Ticket>>, Quota> {
        let admitted = meters.admit(&name(agent), &NOBODY.iter(), now);
        admitted.map_err(|refusal| *refusal.quota.unwrap())
    }

    #[test]
    fn rates_are_read() {
        let rate = |text| Rate::of_requests(text).map(|r| (r.count, r.window.as_secs()));
        assert_eq!(rate("60/min"), Ok((60, 60)));
        assert_eq!(rate("1/s"), Ok((1, 1)));
        assert_eq!(rate("7/h"), Ok((7, 3600)));
        assert_eq!(rate("1000000/day"), Ok((1_000_000, 86_400)));
        for bad in ["60", "60/", "/min", "60/fortnight", "60 /min", "-1/s", "1.5/s", "٣/s", "1/s/s"]
        {
            assert!(Rate::of_requests(bad).is_err(), "{bad}");
        }
        assert_eq!(rate("0/s"), Err(RateError::Range));
        assert_eq!(rate("1000001/s"), Err(RateError::Range));
        let bytes = Rate::of_bytes("1GiB/day").unwrap();
        assert_eq!((bytes.count, bytes.window.as_secs()), (1 << 30, 86_400));
        for bad in ["1GB/day", "0B/s", "5/s", "9999TiB/s"] {
            assert!(Rate::of_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn so_many_and_no_more_however_the_rate_divides() {
        for text in ["1/s", "7/s", "60/min", "100/min", "999983/day", "3/h"] {
            let limits = requests(text);
            let meters = meters(limits);
            let rate = limits.requests.unwrap();
            let admitted = (0..=rate.count).filter(|_| ask(&meters, "a", Duration::ZERO).is_ok());
            assert_eq!(admitted.count() as u64, rate.count, "{text}");
            let quota = ask(&meters, "a", Duration::ZERO).unwrap_err();
            assert_eq!((quota.what, quota.limit), (Measure::Requests, rate.count));
            assert!(
                ask(&meters, "a", quota.wait.saturating_sub(Duration::from_nanos(1))).is_err(),
                "{text}"
            );
            assert!(
                ask(&meters, "a", quota.wait).is_ok(),
                "{text}: the wait is as long as it says"
            );
            assert!(ask(&meters, "b", Duration::ZERO).is_ok(), "another agent has its own");
        }
    }

    #[test]
    fn parallel_requests_are_counted_exactly() {
        let meters = meters(requests("100/day"));
        let admitted = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..125 {
                        if ask(&meters, "a", Duration::from_secs(1)).is_ok() {
                            admitted.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), 100);
    }

    #[test]
    fn places_are_given_back() {
        let meters = meters(Limits { concurrent: Some(2), ..Limits::default() });
        let now = Duration::ZERO;
        let (one, two) = (ask(&meters, "a", now).unwrap(), ask(&meters, "a", now).unwrap());
        assert_eq!(ask(&meters, "a", now).unwrap_err().what, Measure::Concurrent);
        drop(one);
        let three = ask(&meters, "a", now).unwrap();
        assert!(ask(&meters, "a", now).is_err());
        drop((two, three));
        assert!(ask(&meters, "a", now).is_ok());
    }

    #[test]
    fn limits_are_told_one_by_one() {
        let all = Limits { concurrent: Some(8), per: Per::Rule, ..requests("60/min") };
        assert_eq!(all.to_string(), "at most 60 requests/min, 8 at once per rule");
    }

    #[test]
    fn a_refused_request_takes_nothing_of_any_limit() {
        let tight = meters(requests("1/day")).0.remove(0);
        let wide = Meter::new(Limits { concurrent: Some(1), per: Per::Rule, ..requests("2/day") });
        let both = Meters(vec![Arc::clone(&wide), tight]);
        let now = Duration::ZERO;
        assert!(ask(&both, "a", now).is_ok());
        for _ in 0..10 {
            assert_eq!(ask(&both, "a", now).unwrap_err().limit, 1);
        }
        let wide = Meters(vec![wide]);
        assert!(ask(&wide, "a", now).is_ok(), "the second of two, and its place is free");
        assert!(ask(&wide, "a", now).is_err());
    }

    #[test]
    fn what_never_left_does_not_count() {
        let meters = meters(requests("1/day"));
        let ticket = ask(&meters, "a", Duration::ZERO).unwrap().unwrap();
        ticket.give_back();
        ticket.give_back();
        assert!(ask(&meters, "a", Duration::ZERO).is_ok());
        assert!(ask(&meters, "a", Duration::ZERO).is_err(), "given back once, not twice");
    }

    #[test]
    fn bytes_are_a_debt() {
        let bytes = Some(Rate::of_bytes("1KiB/s").unwrap());
        let meters = meters(Limits { bytes, ..Limits::default() });
        let now = Duration::from_secs(5);
        let ticket = ask(&meters, "a", now).unwrap().unwrap();
        ticket.charge(1000, 0, now);
        ticket.charge(1000, 23, now);
        assert!(!ticket.is_spent(now) && ask(&meters, "a", now).is_ok(), "one byte is left");
        ticket.charge(1000, 1048, now);
        assert!(ticket.is_spent(now));
        let quota = ask(&meters, "a", now).unwrap_err();
        assert_eq!(quota.what, Measure::Bytes);
        // Two windows are spent: one has to pass before there is anything left.
        assert!(quota.wait >= Duration::from_secs(1) && quota.wait < Duration::from_millis(1001));
        assert!(ask(&meters, "a", now + Duration::from_secs(1)).is_err());
        assert!(ask(&meters, "a", now + quota.wait).is_ok());
    }

    #[test]
    fn credentials_are_counted_by_themselves() {
        let meters = meters(Limits { per: Per::Credential, ..requests("1/day") });
        let ask = |credentials: &[Name]| {
            meters.admit(&name("a"), &credentials.iter(), Duration::ZERO).is_ok()
        };
        let (one, two) = (name("one"), name("two"));
        assert!(ask(std::slice::from_ref(&one)) && !ask(std::slice::from_ref(&one)));
        assert!(!ask(&[two.clone(), one]), "all of its credentials, or none");
        assert!(ask(&[two]) && ask(&[]) && !ask(&[]));
    }

    #[test]
    fn counters_that_nobody_needs_are_let_go_of() {
        let meters = meters(requests("60/min"));
        for n in 0..10 * MANY {
            let now = Duration::from_secs(n as u64);
            assert!(ask(&meters, &format!("a{n}"), now).is_ok());
        }
        assert!(meters.0[0].counters.len() <= MANY + 60, "{}", meters.0[0].counters.len());
    }
}
