//! Requests that are sent again because their origin failed, where their rule says so.
//!
//! A request is sent again only when that changes nothing (it is idempotent, or nothing of it had left),
//! when all of it is at hand, and before anything of an answer was handed on. How many are is bounded by
//! a share of what the agent sends there: an origin in trouble is never asked for more than that.

use std::collections::HashMap;
use std::time::Duration;

use dashmap::DashMap;
use http::{HeaderMap, Method};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Gateway;
use super::spares::retry_after;
use crate::agent::Identity;
use crate::host::Origin;
use crate::metrics::Again;
use crate::outcome::{Code, Refusal};
use crate::policy::{Cause, Permit, Retry};
use crate::reference::Name;
use crate::request::InboundRequest;

/// How one request may be sent again.
pub(super) struct Plan {
    rule: Retry,
    key: Key,
    /// Whether it can be sent twice with the effect of once. Of all others nothing may have left.
    idempotent: bool,
    began: Instant,
    /// How often it was sent.
    sent: u32,
}

impl Plan {
    /// Of a request that is about to be sent; none where its rule does not want it.
    pub(super) fn of(
        gateway: &Gateway,
        who: &Identity,
        inbound: &InboundRequest,
        permit: &Permit,
    ) -> Option<Box<Self>> {
        let rule = permit.retry()?;
        let key = (who.workspace.clone(), who.agent.clone(), inbound.origin().clone());
        gateway.budgets.sent(&key, rule.budget);
        let keyed = rule.keyed && inbound.headers().contains_key("idempotency-key");
        let idempotent = keyed || inbound.method().is_idempotent();
        // A field can ask for another method than the line says.
        let idempotent = idempotent && inbound.other_methods().iter().all(Method::is_idempotent);
        let can = idempotent || rule.on.contain(Cause::Connect);
        can.then(|| Box::new(Self { rule, key, idempotent, began: Instant::now(), sent: 1 }))
    }

    /// How long to wait before it is sent once more; none when it is not.
    pub(super) fn next(
        &mut self,
        gateway: &Gateway,
        end: Result<(u16, &HeaderMap), &Refusal>,
    ) -> Option<Duration> {
        let (cause, asked) = match end {
            Ok((status, headers)) => (Cause::Status(status), retry_after(headers)),
            Err(refusal) => (cause(refusal.code)?, None),
        };
        let fits = self.rule.on.contain(cause) && (self.idempotent || cause == Cause::Connect);
        if !fits || self.sent >= self.rule.attempts {
            return None;
        }
        let wait = self.wait(asked, random());
        if self.began.elapsed().saturating_add(wait) > self.rule.within {
            gateway.metrics.retry(Again::TooLate);
            return None;
        }
        if !gateway.budgets.take(&self.key) {
            gateway.metrics.retry(Again::NoBudget);
            return None;
        }
        self.sent += 1;
        gateway.metrics.retry(Again::Sent);
        Some(wait)
    }

    /// Full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"): anything between nothing
    /// and twice as much each time, so that those who failed together do not come back together. What
    /// the origin asks for comes before it.
    fn wait(&self, asked: Option<Duration>, random: u32) -> Duration {
        let most = self.rule.wait.saturating_mul(1 << (self.sent - 1).min(16));
        let share = f64::from(random) / f64::from(u32::MAX);
        // An origin may ask for more than there is.
        asked.unwrap_or_default().saturating_add(most.mul_f64(share))
    }
}

/// Failures that were none of the request's.
fn cause(code: Code) -> Option<Cause> {
    match code {
        Code::DnsError | Code::ConnectFailed | Code::ConnectTimeout | Code::NextProxyRefused => {
            Some(Cause::Connect)
        }
        Code::UpstreamFailed => Some(Cause::Broken),
        Code::ResponseTimeout => Some(Cause::Timeout),
        _ => None,
    }
}

fn random() -> u32 {
    // Without randomness all wait for as long: worse, and no harm.
    getrandom::u32().unwrap_or(u32::MAX)
}

/// Whose requests: workspace and agent; and where to.
type Key = (Name, Name, Origin);

/// How many requests of an agent to a destination may be sent again, in hundredths of one.
#[derive(Debug, Default)]
pub(super) struct Budgets(DashMap<(Name, Name), Mutex<Own>>);

/// Those of one agent. What it does with its own, by names that it makes up (`*.example.com`) for example,
/// changes nothing for another.
#[derive(Debug, Default)]
struct Own {
    to: HashMap<Origin, u32>,
    /// All of its destinations have together that are too many to have one each.
    others: Option<u32>,
}

/// With what a budget begins: a destination that is seldom asked has one too.
const FIRST: u32 = 10 * ONE;

/// As much as one can save up: a storm after a quiet hour is a storm.
const MOST: u32 = 100 * ONE;

const ONE: u32 = 100;

/// Destinations of one agent that have a budget each: more than programs have. With more, those are forgotten
/// of which nothing was taken, and no debt ever is: what is new shares one with all that is.
const MANY: usize = 256;

/// Agents whose budgets are kept. Issuers of tokens can name any number of them.
const AGENTS: usize = 4096;

impl Own {
    /// The budget of a destination; none where it has no part in any yet.
    fn of(&mut self, to: &Origin) -> Option<&mut u32> {
        self.to.get_mut(to).or(self.others.as_mut())
    }

    /// Puts the share of one request in.
    fn sent(&mut self, to: &Origin, share: u32) {
        let more = |left: &mut u32| *left = (*left + share).min(MOST);
        if let Some(left) = self.to.get_mut(to) {
            return more(left);
        }
        if self.to.len() >= MANY {
            self.to.retain(|_, left| *left < FIRST);
        }
        if self.to.len() < MANY {
            self.to.insert(to.clone(), FIRST);
        } else {
            match &mut self.others {
                Some(left) => more(left),
                none => *none = Some(FIRST),
            }
        }
    }

    fn is_in_debt(&self) -> bool {
        self.to.values().chain(&self.others).any(|left| *left < FIRST)
    }
}

impl Budgets {
    /// Puts the share of one request in.
    fn sent(&self, (workspace, agent, to): &Key, share: u32) {
        let key = (workspace.clone(), agent.clone());
        if let Some(own) = self.0.get(&key) {
            return own.lock().sent(to, share);
        }
        if self.0.len() >= AGENTS {
            self.0.retain(|_, own| own.get_mut().is_in_debt());
            // One without a budget is sent nothing again, which is better than one with a new one.
            if self.0.len() >= AGENTS {
                return;
            }
        }
        self.0.entry(key).or_default().lock().sent(to, share);
    }

    /// Takes one out, if there is one.
    fn take(&self, (workspace, agent, to): &Key) -> bool {
        let own = self.0.get(&(workspace.clone(), agent.clone()));
        let Some(own) = own else { return false };
        let mut own = own.lock();
        let Some(budget) = own.of(to) else { return false };
        let less = budget.checked_sub(ONE);
        *budget = less.unwrap_or(*budget);
        less.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Authority, Destination};
    use crate::policy::Causes;

    fn key(agent: &str, host: &str) -> Key {
        let to: Destination = format!("https://{host}").parse().unwrap();
        let authority = Authority { host: to.host.exact().unwrap().clone(), port: to.port };
        let origin = Origin { scheme: to.scheme, authority };
        ("default".parse().unwrap(), agent.parse().unwrap(), origin)
    }

    fn plan(sent: u32) -> Plan {
        let rule = Retry {
            attempts: 5,
            on: Causes::default(),
            wait: Duration::from_millis(100),
            within: Duration::from_secs(10),
            budget: 20,
            keyed: false,
        };
        let key = key("a", "x.test");
        Plan { rule, key, idempotent: true, began: Instant::now(), sent }
    }

    #[test]
    fn waits_are_drawn_from_twice_as_much_each_time_and_never_under_what_is_asked_for() {
        assert_eq!(plan(1).wait(None, 0), Duration::ZERO);
        assert_eq!(plan(1).wait(None, u32::MAX), Duration::from_millis(100));
        assert_eq!(plan(3).wait(None, u32::MAX), Duration::from_millis(400));
        let asked = Some(Duration::from_secs(2));
        assert_eq!(plan(1).wait(asked, 0), Duration::from_secs(2));
        assert!(plan(1).wait(asked, u32::MAX) > Duration::from_secs(2));
        let for_ever = Some(Duration::from_secs(u64::MAX));
        assert!(plan(9).wait(for_ever, u32::MAX) > Duration::from_secs(u64::MAX));
    }

    #[test]
    fn a_storm_is_sent_again_by_its_share_and_no_more() {
        let budgets = Budgets::default();
        let (one, other) = (key("a", "x.test"), key("b", "x.test"));
        let storm = |key: &Key| {
            let again = (0..1000).filter(|_| {
                budgets.sent(key, 20);
                budgets.take(key)
            });
            again.count()
        };
        // A fifth of a thousand, and the ten that it began with.
        assert_eq!(storm(&one), 209);
        assert!(!budgets.take(&one));
        assert_eq!(storm(&other), 209, "another agent has a budget of its own");
        // What is saved up has a bound.
        for _ in 0..10_000 {
            budgets.sent(&one, 20);
        }
        assert_eq!((0..1000).filter(|_| budgets.take(&one)).count(), 100);
    }

    #[test]
    fn made_up_destinations_take_a_bounded_memory_and_reset_no_budget() {
        let budgets = Budgets::default();
        let (own, other) = (key("a", "x.test"), key("b", "x.test"));
        for key in [&own, &other] {
            budgets.sent(key, 20);
            while budgets.take(key) {}
        }
        let mut again = 0;
        for n in 0..3 * MANY {
            let key = key("a", &format!("h{n}.test"));
            budgets.sent(&key, 20);
            again += usize::from(budgets.take(&key));
        }
        // One each of those that have a budget, and of all others together what one has, and a fifth of them.
        assert_eq!(again, MANY - 1 + 10 + (2 * MANY) / 5);
        let kept = budgets.0.iter().map(|own| own.lock().to.len()).max();
        assert_eq!(kept, Some(MANY));
        assert!(!budgets.take(&own) && !budgets.take(&other), "what was used up is used up");
    }

    #[test]
    fn destinations_that_owe_nothing_make_room() {
        let budgets = Budgets::default();
        for n in 0..3 * MANY {
            budgets.sent(&key("a", &format!("h{n}.test")), 20);
        }
        let last = key("a", "last.test");
        budgets.sent(&last, 20);
        assert_eq!((0..100).filter(|_| budgets.take(&last)).count(), 10);
    }

    #[test]
    fn agents_without_end_take_a_bounded_memory_and_reset_no_budget() {
        let budgets = Budgets::default();
        let first = key("a0", "x.test");
        for n in 0..AGENTS + 100 {
            let key = key(&format!("a{n}"), "x.test");
            budgets.sent(&key, 20);
            while budgets.take(&key) {}
        }
        assert_eq!(budgets.0.len(), AGENTS);
        assert!(!budgets.take(&first));
    }
}
