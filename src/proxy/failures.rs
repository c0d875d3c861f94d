//! Callers that fail to show who they are: counted and slowed, by where they come from and by the agent
//! that they claim to be.
//!
//! Nobody guesses a token of 256 bits; but a stolen list of them can be tried, and a client that was
//! forgotten retries for ever. Only the answer to a failure waits: whoever shows something good, from
//! wherever, is not looked at here.

use std::fmt;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use parking_lot::Mutex;

use crate::record::Peer;
use crate::reference::Name;

/// Failures that are answered at once: a person who mistypes, a fleet that is changed over to a new
/// token.
const FREE: u32 = 8;

/// What the answer to the next one waits; each after it waits twice as long.
const FIRST: Duration = Duration::from_millis(50);

/// Who has not failed for so long starts anew.
const FORGET: Duration = Duration::from_mins(10);

/// Places in each table: 256 rows of 16. Of more that fail at the same time, those are forgotten that
/// have not failed for longest: memory is bounded, and nobody else's answer waits.
const ROWS: usize = 256;
const IN_A_ROW: usize = 16;

/// Where a caller comes from. An IPv6 client has its whole /64 to call from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    V4(Ipv4Addr),
    V6([u16; 4]),
    Unix(Option<u32>),
}

impl From<Peer> for Source {
    fn from(peer: Peer) -> Self {
        match peer {
            Peer::Unix(user) => Self::Unix(user.map(|user| user.uid)),
            Peer::Tcp(address) => match address.ip().to_canonical() {
                IpAddr::V4(address) => Self::V4(address),
                IpAddr::V6(address) => {
                    let [a, b, c, d, ..] = address.segments();
                    Self::V6([a, b, c, d])
                }
            },
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => address.fmt(f),
            Self::V6(network) => {
                let mut segments = [0; 8];
                let both = segments.iter_mut().zip(network);
                both.for_each(|(segment, own)| *segment = *own);
                write!(f, "{}/64", Ipv6Addr::from(segments))
            }
            Self::Unix(Some(uid)) => write!(f, "unix:uid={uid}"),
            Self::Unix(None) => f.write_str("unix"),
        }
    }
}

/// What is remembered of failures.
pub(super) struct Failures {
    sources: Table<Source>,
    agents: Table<Name>,
    /// The longest that an answer waits; nothing turns it off.
    longest: Duration,
}

/// What one more failure comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Noted {
    /// How many there were from the source, this one included.
    pub(super) from_source: u32,
    /// What the answer is to wait.
    pub(super) wait: Duration,
    /// Whether to say so: the first time that an answer waits, and whenever there are twice as many.
    pub(super) tell: bool,
}

impl Failures {
    pub(super) fn new(longest: Duration) -> Self {
        Self { sources: Table::default(), agents: Table::default(), longest }
    }

    /// Notes one more at the time `now`, of a caller that claims to be `agent`, whether there is one or
    /// not.
    pub(super) fn note(&self, source: Source, agent: Option<&Name>, now: Duration) -> Noted {
        let from_source = self.sources.count(&source, now);
        let of_agent = agent.map_or(0, |agent| self.agents.count(agent, now));
        let wait = self.wait(from_source.max(of_agent));
        let tell = from_source > FREE && (from_source == FREE + 1 || from_source.is_power_of_two());
        Noted { from_source, wait, tell }
    }

    fn wait(&self, failures: u32) -> Duration {
        let Some(doublings) = failures.checked_sub(FREE + 1) else { return Duration::ZERO };
        // Beyond that it is longer than anything that may be configured.
        FIRST.saturating_mul(1 << doublings.min(16)).min(self.longest)
    }
}

/// How often each of many has failed, as far as there is room.
struct Table<K> {
    rows: Box<[Mutex<Vec<Entry<K>>>]>,
    hasher: RandomState,
}

struct Entry<K> {
    key: K,
    failures: u32,
    last: Duration,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        let rows = (0..ROWS).map(|_| Mutex::default()).collect();
        Self { rows, hasher: RandomState::new() }
    }
}

impl<K: Clone + Eq + Hash> Table<K> {
    /// Counts one more.
    fn count(&self, key: &K, now: Duration) -> u32 {
        let index = self.hasher.hash_one(key) as usize % ROWS;
        let Some(row) = self.rows.get(index) else { return 1 };
        let mut row = row.lock();
        row.retain(|entry| now.saturating_sub(entry.last) < FORGET);
        if let Some(entry) = row.iter_mut().find(|entry| entry.key == *key) {
            entry.failures = entry.failures.saturating_add(1);
            entry.last = now;
            return entry.failures;
        }
        if row.len() >= IN_A_ROW
            && let Some(oldest) = (0..row.len()).min_by_key(|at| row.get(*at).map(|e| e.last))
        {
            row.swap_remove(oldest);
        }
        row.push(Entry { key: key.clone(), failures: 1, last: now });
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::UnixUser;

    const LONGEST: Duration = Duration::from_secs(2);

    fn tcp(text: &str) -> Source {
        Source::from(Peer::Tcp(text.parse().unwrap()))
    }

    #[test]
    fn the_answer_waits_longer_after_each_up_to_a_bound_and_then_not_at_all() {
        let failures = Failures::new(LONGEST);
        let now = Duration::from_secs(1);
        let waits: Vec<u128> = (0..16)
            .map(|_| failures.note(tcp("192.0.2.7:1"), None, now).wait.as_millis())
            .collect();
        assert_eq!(waits[..8], [0; 8]);
        assert_eq!(waits[8..], [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(failures.note(tcp("192.0.2.8:1"), None, now).wait, Duration::ZERO);
        let later = now + FORGET;
        assert_eq!(failures.note(tcp("192.0.2.7:1"), None, later).from_source, 1, "forgotten");
        let off = Failures::new(Duration::ZERO);
        let worst = (0..40).map(|_| off.note(tcp("192.0.2.7:1"), None, now).wait).max();
        assert_eq!(worst, Some(Duration::ZERO));
    }

    #[test]
    fn an_agents_name_that_is_tried_from_everywhere_waits_too() {
        let failures = Failures::new(LONGEST);
        let (agent, now) = ("a".parse().unwrap(), Duration::ZERO);
        let note = |n: u8, agent| failures.note(Source::V4([192, 0, 2, n].into()), agent, now);
        for n in 0..8 {
            assert_eq!(note(n, Some(&agent)).wait, Duration::ZERO);
        }
        let ninth = note(8, Some(&agent));
        assert_eq!((ninth.from_source, ninth.wait), (1, FIRST));
        assert_eq!(note(9, None).wait, Duration::ZERO);
        // Nothing here knows which agents there are.
        let unknown = "nobody".parse().unwrap();
        let waits: Vec<_> = (10..20).map(|n| note(n, Some(&unknown)).wait).collect();
        assert_eq!(waits[8], FIRST);
    }

    #[test]
    fn it_is_told_when_answers_begin_to_wait_and_ever_more_seldom() {
        let failures = Failures::new(LONGEST);
        let told: Vec<u32> = (0..200)
            .map(|_| failures.note(Source::Unix(None), None, Duration::ZERO))
            .filter(|noted| noted.tell)
            .map(|noted| noted.from_source)
            .collect();
        assert_eq!(told, [9, 16, 32, 64, 128]);
    }

    #[test]
    fn a_source_is_an_address_a_network_of_ipv6_or_a_user() {
        assert_eq!(tcp("[2001:db8:1:2:3::4]:1"), tcp("[2001:db8:1:2:ffff::1]:99"));
        assert_ne!(tcp("[2001:db8:1:2::1]:1"), tcp("[2001:db8:1:3::1]:1"));
        assert_eq!(tcp("[::ffff:192.0.2.7]:1"), tcp("192.0.2.7:2"));
        let user = |uid| Source::from(Peer::Unix(Some(UnixUser { uid, gid: 1 })));
        assert_ne!(user(1), user(2));
        for (source, text) in [
            (tcp("192.0.2.7:1"), "192.0.2.7"),
            (tcp("[2001:db8:1:2::1]:1"), "2001:db8:1:2::/64"),
            (user(7), "unix:uid=7"),
            (Source::Unix(None), "unix"),
        ] {
            assert_eq!(source.to_string(), text);
        }
    }

    #[test]
    fn memory_is_bounded_and_those_are_forgotten_that_have_not_failed_for_longest() {
        let table = Table::default();
        for n in 0..100_000_u32 {
            table.count(&n, Duration::from_millis(u64::from(n)));
        }
        let rows: Vec<usize> = table.rows.iter().map(|row| row.lock().len()).collect();
        assert!(rows.iter().all(|row| *row <= IN_A_ROW));
        let late = Duration::from_secs(100);
        assert_eq!(table.count(&99_999, late), 2, "the last one is known");
        assert_eq!(table.count(&0, late), 1, "the first one is not");
    }
}
