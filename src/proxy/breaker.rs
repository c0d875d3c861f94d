//! Circuit breakers: a destination that fails again and again is left alone for a while, and its callers
//! are told at once what they would otherwise wait for.
//!
//! There are two for each destination. One is shared, and opens only by what no request can bring about:
//! that there is no connection to be had. The other is each agent's own, and counts what came after,
//! which an agent can provoke. So none can close a destination to the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::Gateway;
use crate::agent::Identity;
use crate::host::Origin;
use crate::metrics::Circle;
use crate::outcome::{Code, Refusal};
use crate::record::Event;
use crate::reference::Name;

/// When a destination is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerRule {
    /// So many failures, with no success between them.
    pub failures: u32,
    /// From the first of them to the last.
    pub window: Duration,
    /// For so long. Then one request at a time is let through, until one succeeds.
    pub open: Duration,
}

/// Who is kept from where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// Everybody.
    All(Origin),
    /// One agent of a workspace.
    Own(Name, Name, Origin),
}

impl Key {
    fn circle(&self) -> Circle {
        match self {
            Self::All(_) => Circle::All,
            Self::Own(..) => Circle::Agent,
        }
    }
}

/// Times are those of the gateway's own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Circuit {
    /// So many have failed in a row, the first of them then.
    Closed { failures: u32, since: Duration },
    /// Nobody is let through before then.
    Open { until: Duration },
    /// One is under way, since then.
    Trying { since: Duration },
}

/// What has become of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Opened,
    Closed,
}

impl Circuit {
    /// Lets a request through, or says how long to wait. True for the one that tries.
    fn admit(&mut self, rule: BreakerRule, now: Duration) -> Result<bool, Duration> {
        match *self {
            Self::Closed { .. } => Ok(false),
            Self::Open { until } if now < until => Err(until.saturating_sub(now)),
            // One that went away without a word does not keep the others out.
            Self::Trying { since } if now < since + rule.open => {
                Err((since + rule.open).saturating_sub(now))
            }
            Self::Open { .. } | Self::Trying { .. } => {
                *self = Self::Trying { since: now };
                Ok(true)
            }
        }
    }

    /// Notes a failure of one that was let through.
    fn failed(&mut self, rule: BreakerRule, (tried, now): (bool, Duration)) -> Option<News> {
        match self {
            Self::Closed { failures, since } => {
                if now.saturating_sub(*since) > rule.window {
                    (*failures, *since) = (0, now);
                }
                *failures += 1;
                if *failures < rule.failures {
                    return None;
                }
                *self = Self::Open { until: now + rule.open };
                Some(News::Opened)
            }
            // What had begun before it opened says nothing new.
            Self::Open { .. } => None,
            Self::Trying { .. } if !tried => None,
            Self::Trying { .. } => {
                *self = Self::Open { until: now + rule.open };
                None
            }
        }
    }

    fn is_closed(self) -> bool {
        matches!(self, Self::Closed { .. })
    }
}

/// Circuits that are kept. With more, those are forgotten that would let everybody through.
const MANY: usize = 4096;

/// All circuits of a process. What works has none.
#[derive(Debug, Default)]
pub(super) struct Breakers {
    rule: ArcSwapOption<BreakerRule>,
    circuits: DashMap<Key, Circuit>,
    /// How many there are, to be seen without a lock: nearly always none.
    count: AtomicUsize,
}

/// How a call ended, for those who count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The origin answered as one that works.
    Worked,
    /// There was no connection.
    Unreachable,
    /// There was one, and the origin failed.
    Failed,
}

impl Breakers {
    /// Breaks by this rule from now on; none: never.
    pub(super) fn set(&self, rule: Option<BreakerRule>) {
        if self.rule.load().as_deref().copied() != rule {
            self.rule.store(rule.map(Arc::new));
        }
    }

    /// Lets a request through all circuits on its way; true for each that it tries.
    fn admit(
        &self,
        rule: BreakerRule,
        keys: &[Key; 2],
        now: Duration,
    ) -> Result<[bool; 2], Duration> {
        let mut tries = [false; 2];
        for (at, key) in keys.iter().enumerate() {
            let Some(mut circuit) = self.circuits.get_mut(key) else { continue };
            match circuit.admit(rule, now) {
                Ok(tried) => tries[at] = tried,
                Err(wait) => {
                    drop(circuit);
                    self.give_up(keys, tries, now);
                    return Err(wait);
                }
            }
        }
        Ok(tries)
    }

    /// What was to be tried was not: the next may.
    fn give_up(&self, keys: &[Key; 2], tries: [bool; 2], now: Duration) {
        for (key, _) in keys.iter().zip(tries).filter(|(_, tried)| *tried) {
            if let Some(mut circuit) = self.circuits.get_mut(key) {
                *circuit = Circuit::Open { until: now };
            }
        }
    }

    fn worked(&self, key: &Key, tried: bool) -> Option<News> {
        let (_, circuit) = self.circuits.remove_if(key, |_, now| now.is_closed() || tried)?;
        self.count.fetch_sub(1, Ordering::Relaxed);
        (!circuit.is_closed()).then_some(News::Closed)
    }

    fn failed(&self, rule: BreakerRule, key: &Key, at: (bool, Duration)) -> Option<News> {
        match self.circuits.entry(key.clone()) {
            Entry::Occupied(mut circuit) => circuit.get_mut().failed(rule, at),
            Entry::Vacant(vacant) => {
                self.count.fetch_add(1, Ordering::Relaxed);
                let mut circuit = Circuit::Closed { failures: 0, since: at.1 };
                let news = circuit.failed(rule, at);
                vacant.insert(circuit);
                news
            }
        }
    }

    /// Makes room when there are too many circuits: for those that say nothing any more, or for a part of
    /// them, of which those that have said nothing for longest go. Returns which of them were open.
    /// An agent that fails at names that it makes up can have others forgotten so, which lets their
    /// requests through; it cannot have circuits go unwatched for good.
    fn make_room(&self, rule: BreakerRule, now: Duration) -> Vec<Circle> {
        if self.circuits.len() < MANY {
            return Vec::new();
        }
        let last = |circuit: &Circuit| match *circuit {
            Circuit::Closed { since, .. } => since + rule.window,
            Circuit::Open { until } => until + rule.window,
            Circuit::Trying { since } => since + rule.open + rule.window,
        };
        let mut times: Vec<Duration> = self.circuits.iter().map(|circuit| last(&circuit)).collect();
        let (_, first_eighth, _) = times.select_nth_unstable(MANY / 8);
        let keep = now.max(*first_eighth);
        let mut open = Vec::new();
        self.circuits.retain(|key, circuit| {
            let kept = last(circuit) > keep;
            if !kept && !circuit.is_closed() {
                open.push(key.circle());
            }
            kept
        });
        self.count.store(self.circuits.len(), Ordering::Relaxed);
        open
    }

    fn is_idle(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }
}

/// A request that was let through. Says how it ended, or that it came to nothing when it is dropped.
#[must_use]
pub(super) struct Pass<'g>(Option<Box<Open<'g>>>);

struct Open<'g> {
    gateway: &'g Gateway,
    rule: BreakerRule,
    /// The shared one, and the agent's own.
    keys: [Key; 2],
    /// Which of them it tries.
    tries: [AtomicBool; 2],
}

impl<'g> Pass<'g> {
    /// Asks whether a request may go to its destination now.
    ///
    /// # Errors
    /// `circuit-open`, with the time after which it is worth to ask again.
    pub(super) fn ask(
        gateway: &'g Gateway,
        who: &Identity,
        origin: &Origin,
    ) -> Result<Self, Refusal> {
        let Some(rule) = gateway.breakers.rule.load().as_deref().copied() else {
            return Ok(Self(None));
        };
        let (workspace, agent) = (who.workspace.clone(), who.agent.clone());
        let keys = [Key::All(origin.clone()), Key::Own(workspace, agent, origin.clone())];
        let mut tries = [false; 2];
        if !gateway.breakers.is_idle() {
            let admitted = gateway.breakers.admit(rule, &keys, gateway.elapsed());
            tries = admitted.map_err(|wait| shut(origin, wait))?;
        }
        let tries = tries.map(AtomicBool::new);
        Ok(Self(Some(Box::new(Open { gateway, rule, keys, tries }))))
    }

    /// Notes that there is a connection, which is all that the shared circuit is about: what an agent
    /// does with it for as long as it likes keeps nobody else waiting.
    pub(super) fn connected(&self) {
        if let Some(open) = &self.0
            && open.tries[0].swap(false, Ordering::Relaxed)
            && let Some(news) = open.gateway.breakers.worked(&open.keys[0], true)
        {
            open.tell(&open.keys[0], news, None);
        }
    }

    /// Notes an answer of the origin.
    pub(super) fn answered(mut self, status: u16) {
        let end = if is_failure(status) { End::Failed } else { End::Worked };
        if let Some(open) = self.0.take() {
            open.end(end, None);
        }
    }

    /// Notes why there is none.
    pub(super) fn failed(mut self, code: Code) {
        let end = match code {
            Code::DnsError
            | Code::ConnectFailed
            | Code::ConnectTimeout
            | Code::NextProxyRefused
            | Code::CertificateInvalid => End::Unreachable,
            // TLS, too: what is shown in it may be the agent's own certificate.
            Code::TlsFailed | Code::UpstreamFailed | Code::ResponseTimeout => End::Failed,
            // The agent's own doing, or ours.
            _ => return,
        };
        if let Some(open) = self.0.take() {
            open.end(end, Some(code));
        }
    }
}

/// What an origin says when it is in trouble, and hardly for want of a method (501, 505).
fn is_failure(status: u16) -> bool {
    (500..600).contains(&status) && !matches!(status, 501 | 505)
}

impl Open<'_> {
    fn end(self, end: End, code: Option<Code>) {
        let breakers = &self.gateway.breakers;
        // Nothing failed lately, and nothing does: that is nearly every call.
        if end == End::Worked && breakers.is_idle() {
            return;
        }
        let tries = self.take_tries();
        let now = self.gateway.elapsed();
        for circle in breakers.make_room(self.rule, now) {
            self.gateway.metrics.circuit(circle, -1);
        }
        for (key, tried) in self.keys.iter().zip(tries) {
            let news = match (key, end) {
                // A connection was to be had, whatever came of it.
                (Key::All(_), End::Worked | End::Failed) | (Key::Own(..), End::Worked) => {
                    breakers.worked(key, tried)
                }
                (Key::All(_), End::Unreachable) | (Key::Own(..), End::Failed) => {
                    breakers.failed(self.rule, key, (tried, now))
                }
                // That there is no connection says nothing of what would come after.
                (Key::Own(..), End::Unreachable) => {
                    breakers.give_up(&self.keys, [false, tried], now);
                    None
                }
            };
            if let Some(news) = news {
                self.tell(key, news, code);
            }
        }
    }

    fn take_tries(&self) -> [bool; 2] {
        [0, 1].map(|at: usize| self.tries[at].swap(false, Ordering::Relaxed))
    }

    fn tell(&self, key: &Key, news: News, code: Option<Code>) {
        let (Key::All(origin) | Key::Own(_, _, origin)) = key;
        let (event, change) = match news {
            News::Opened => ("circuit-opened", 1),
            News::Closed => ("circuit-closed", -1),
        };
        let (whom, workspace) = match key {
            Key::All(_) => ("all agents".to_owned(), None),
            Key::Own(workspace, agent, _) => (format!("agent {agent}"), Some(workspace.clone())),
        };
        self.gateway.metrics.circuit(key.circle(), change);
        let cause = code.map_or("an answer of its own", Code::as_str);
        tracing::warn!(destination = %origin, %whom, cause, "{event}");
        let detail = match news {
            News::Opened => format!(
                "for {whom}: {} failures in a row, the last {cause}; tried again in {:?}",
                self.rule.failures, self.rule.open
            ),
            News::Closed => format!("for {whom}"),
        };
        let _unrecorded = self.gateway.audit.event(&Event {
            event,
            workspace,
            subject: Some(origin.to_string()),
            detail: Some(detail),
            by: None,
            vault_epoch: None,
        });
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let tries = self.take_tries();
        if tries != [false; 2] {
            let now = self.gateway.elapsed();
            self.gateway.breakers.give_up(&self.keys, tries, now);
        }
    }
}

fn shut(origin: &Origin, wait: Duration) -> Refusal {
    let detail =
        format!("{} has failed again and again, and is left alone for a while", origin.authority);
    let mut refusal = Refusal::with_detail(Code::CircuitOpen, detail);
    refusal.retry_after = Some(wait);
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: BreakerRule =
        BreakerRule { failures: 3, window: Duration::from_secs(10), open: Duration::from_secs(30) };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_by_one_that_works() {
        let breakers = Breakers::default();
        let key = Key::All(Origin {
            scheme: crate::host::Scheme::Https,
            authority: crate::host::Authority::parse("x.test:443", None).unwrap(),
        });
        let fail = |second| breakers.failed(RULE, &key, (false, at(second)));
        assert_eq!((fail(0), fail(1)), (None, None));
        assert_eq!(breakers.worked(&key, false), None, "one that works ends the row");
        assert!(breakers.is_idle());
        assert_eq!((fail(2), fail(3), fail(13)), (None, None, None), "too far apart");
        assert_eq!((fail(14), fail(15)), (None, Some(News::Opened)));
        assert_eq!(fail(16), None, "what was under way says nothing new");
        assert_eq!(breakers.worked(&key, false), None, "nor when it works");
        let wait = breakers.admit(RULE, &[key.clone(), key.clone()], at(20)).unwrap_err();
        assert_eq!(wait, at(25));
        // One tries; the others wait for it.
        let one = [key.clone(), Key::Own(name(), name(), origin_of(&key))];
        assert_eq!(breakers.admit(RULE, &one, at(45)), Ok([true, false]));
        assert!(breakers.admit(RULE, &one, at(46)).is_err());
        assert_eq!(breakers.failed(RULE, &key, (true, at(46))), None);
        assert_eq!(breakers.admit(RULE, &one, at(47)), Err(at(29)), "it stays open as long again");
        // Who goes away leaves the try to the next.
        assert_eq!(breakers.admit(RULE, &one, at(76)), Ok([true, false]));
        breakers.give_up(&one, [true, false], at(76));
        assert_eq!(breakers.admit(RULE, &one, at(76)), Ok([true, false]));
        assert_eq!(breakers.worked(&key, true), Some(News::Closed));
        assert!(breakers.is_idle() && breakers.admit(RULE, &one, at(77)).is_ok());
    }

    #[test]
    fn names_that_all_fail_keep_no_other_destination_from_being_watched() {
        let breakers = Breakers::default();
        let key = |n: usize| {
            let authority = crate::host::Authority::parse(&format!("h{n}.test:443"), None).unwrap();
            Key::Own(name(), name(), Origin { scheme: crate::host::Scheme::Https, authority })
        };
        let fail = |n: usize, now: u64| {
            let open = breakers.make_room(RULE, at(now));
            assert!(open.iter().all(|circle| *circle == Circle::Agent));
            (breakers.failed(RULE, &key(n), (false, at(now))), open.len())
        };
        // One after another, and each stays open for long after the last.
        let second = |n: usize| n as u64 / 1000;
        let opens = |n: usize| (0..3).any(|_| fail(n, second(n)).0 == Some(News::Opened));
        assert_eq!((0..MANY - 1).filter(|n| opens(*n)).count(), MANY - 1);
        // All of them are open, and new ones open all the same; those that go are told.
        let gone: usize = (MANY - 1..2 * MANY).map(|n| fail(n, second(n)).1).sum();
        assert!((MANY / 8..=2 * MANY).contains(&gone), "{gone}");
        assert!((2 * MANY + 1..2 * MANY + 9).filter(|n| opens(*n)).count() >= 7);
        // What has been open for long, and was not asked for, is forgotten.
        for n in 3 * MANY..=4 * MANY {
            fail(n, 1000);
        }
        assert!(breakers.circuits.iter().all(|circuit| circuit.is_closed()));
    }

    fn name() -> Name {
        "a".parse().unwrap()
    }

    fn origin_of(key: &Key) -> Origin {
        match key {
            Key::All(origin) | Key::Own(_, _, origin) => origin.clone(),
        }
    }

    #[test]
    fn destinations_that_are_made_up_take_a_bounded_memory() {
        let breakers = Breakers::default();
        for n in 0..3 * MANY {
            let authority = crate::host::Authority::parse(&format!("h{n}.test:443"), None).unwrap();
            let key = Key::All(Origin { scheme: crate::host::Scheme::Https, authority });
            let now = at(n as u64 / 100);
            breakers.make_room(RULE, now);
            breakers.failed(RULE, &key, (false, now));
        }
        assert!(breakers.circuits.len() <= MANY);
    }
}
