//! Requests that are sent again because their origin failed, where their rule says so.
//!
//! A request is sent again only when that changes nothing (it is idempotent, or nothing of it had left),
//! when all of it is at hand, and before anything of an answer was handed on. How many are is bounded by
//! a share of what the agent sends there: an origin in trouble is never asked for more than that.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use http::{HeaderMap, Method};
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
pub(super) struct Budgets(DashMap<Key, AtomicU32>);

/// With what a budget begins: a destination that is seldom asked has one too.
const FIRST: u32 = 10 * ONE;

/// As much as one can save up: a storm after a quiet hour is a storm.
const MOST: u32 = 100 * ONE;

const ONE: u32 = 100;

/// Budgets that are kept. With more, those are forgotten of which nothing was taken.
const MANY: usize = 4096;

impl Budgets {
    /// Puts the share of one request in.
    fn sent(&self, key: &Key, share: u32) {
        if let Some(budget) = self.0.get(key) {
            let more = |left: u32| Some((left + share).min(MOST));
            let _always = budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
            return;
        }
        if self.0.len() >= MANY {
            self.0.retain(|_, left| *left.get_mut() < FIRST);
            // Names that are made up (`*.example.com`) shall not fill the memory: whoever has so many in
            // debt begins anew with none of them.
            if self.0.len() >= MANY {
                self.0.clear();
            }
        }
        self.0.insert(key.clone(), AtomicU32::new(FIRST));
    }

    /// Takes one out, if there is one.
    fn take(&self, key: &Key) -> bool {
        let Some(budget) = self.0.get(key) else { return false };
        let less = |left: u32| left.checked_sub(ONE);
        budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
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
    fn made_up_destinations_take_a_bounded_memory() {
        let budgets = Budgets::default();
        for n in 0..3 * MANY {
            let key = key("a", &format!("h{n}.test"));
            budgets.sent(&key, 20);
            assert!(budgets.take(&key));
        }
        assert!(budgets.0.len() <= MANY);
    }
}
