//! What an agent usually does with each credential, and what leaves that.
//!
//! A baseline is learned for a while in silence; then what is new to it is told of, once a day. Nothing
//! here refuses: a rule may say that its requests are.

mod known;
mod volume;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::reference::Name;
use known::{Known, Look};
use volume::Volume;

/// Agents whose baseline is kept: more than people name. Where an issuer makes one for each job, the ones
/// that were not seen for longest make room. Nothing is forgotten for its age alone: then a clock that
/// is set forward would make everything new, and refused where a rule says so.
const AGENTS: usize = 8192;

/// Credentials in the baseline of one agent, by the names by which requests refer to them.
const CREDENTIALS: usize = 256;

/// How many things of one kind are told of in a day, of one agent and credential. Whoever meets with
/// more has left its habits in a way that ten records show.
const TOLD_A_DAY: u16 = 10;

/// Days on which an agent must have been seen before its habits are known, whatever the clock says: a
/// clock that is set forward ends no learning by itself.
const DAYS: u32 = 3;

/// How far an hour may be from one that is known, and be usual: summer time, and work that begins late.
const NEAR: u8 = 2;

/// In an hour, more than so many requests are remarkable; fewer never are.
const FEW_REQUESTS: u64 = 100;

/// In an hour, more than so many bytes are remarkable; fewer never are.
const FEW_BYTES: u64 = 10 << 20;

/// How baselines are learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// For how long, from when an agent is first seen with a credential.
    pub learn: Duration,
    /// How many times the busiest hour so far is remarkable.
    pub volume: u32,
}

impl Settings {
    fn learn_seconds(self) -> i64 {
        i64::try_from(self.learn.as_secs()).unwrap_or(i64::MAX)
    }

    /// In days, rounded up.
    fn learn_days(self) -> u32 {
        u32::try_from(self.learn.as_secs().div_ceil(DAY.unsigned_abs())).unwrap_or(u32::MAX)
    }
}

const DAY: i64 = 24 * HOUR;
const HOUR: i64 = 60 * 60;

fn day(at: i64) -> u32 {
    u32::try_from(at.max(0) / DAY).unwrap_or(u32::MAX)
}

/// In which respect something is not as usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A credential that this agent has not used.
    Credential,
    /// A destination.
    Destination,
    /// An hour of the day, in UTC.
    Hour,
    /// Requests in an hour.
    Requests,
    /// Bytes in an hour, both ways.
    Bytes,
    /// The network that the agent calls from.
    Source,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Credential,
        Self::Destination,
        Self::Hour,
        Self::Requests,
        Self::Bytes,
        Self::Source,
    ];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Credential => "credential",
            Self::Destination => "destination",
            Self::Hour => "hour",
            Self::Requests => "requests",
            Self::Bytes => "bytes",
            Self::Source => "source",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something that is not as usual, to be told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anomaly {
    /// In which respect.
    pub kind: Kind,
    /// With which credential; none for a request without one.
    pub credential: Option<Name>,
    /// What was met with: a destination, `03:00-04:00`, a number, a network.
    pub seen: String,
    /// What is usual, in words.
    pub usual: String,
}

/// Where an agent calls from, as coarse as it may be and still tell two places apart: addresses within
/// one network come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Network {
    /// A /24.
    V4([u8; 3]),
    /// A /48, which is what one site has.
    V6([u16; 3]),
    /// The user behind a Unix socket.
    Unix(Option<u32>),
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(address) => {
                let [a, b, c, ..] = address.segments();
                Self::V6([a, b, c])
            }
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::V4([a, b, c]) => write!(f, "{}/24", Ipv4Addr::new(a, b, c, 0)),
            Self::V6([a, b, c]) => write!(f, "{}/48", Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)),
            Self::Unix(Some(uid)) => write!(f, "unix:uid={uid}"),
            Self::Unix(None) => f.write_str("unix"),
        }
    }
}

/// A text is not a [`Network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkError;

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a network that an agent calls from")
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        if text == "unix" {
            return Ok(Self::Unix(None));
        }
        if let Some(uid) = text.strip_prefix("unix:uid=") {
            return uid.parse().map(|uid| Self::Unix(Some(uid))).map_err(|_| NetworkError);
        }
        let (address, _) = text.split_once('/').ok_or(NetworkError)?;
        address.parse::<IpAddr>().map(Self::from).map_err(|_| NetworkError)
    }
}

impl Serialize for Network {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One request, as far as habits go.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// To where.
    pub destination: &'a str,
    /// From where.
    pub source: Network,
    /// In which second of Unix time.
    pub at: i64,
    /// Whether what is not as usual is refused: then it becomes no habit by itself.
    pub refused: bool,
}

/// What was noted of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// What is to be told. Empty, and nothing was allocated, when all is as usual.
    pub tell: Vec<Anomaly>,
    /// Whether anything is not as usual, told of today or not.
    pub unusual: bool,
}

impl Noted {
    fn add(&mut self, look: Look, quota: &mut Quota, make: impl FnOnce() -> Anomaly) {
        let Look::Strange { tell } = look else { return };
        self.unusual = true;
        if tell && quota.takes() {
            self.tell.push(make());
        }
    }
}

/// How many were told of in a day.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Quota {
    day: u32,
    told: u16,
}

impl Quota {
    fn on(&mut self, day: u32) -> &mut Self {
        if self.day != day {
            *self = Self { day, told: 0 };
        }
        self
    }

    fn takes(&mut self) -> bool {
        self.told = self.told.saturating_add(1);
        self.told <= TOLD_A_DAY
    }
}

/// What an agent does with one credential, or without one.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pair {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    credential: Option<Name>,
    /// When it was first seen.
    since: i64,
    /// The last day on which it was, and on how many.
    last: u32,
    days: u32,
    /// Never taken back: a clock that is set back opens no new time of learning.
    learned: bool,
    /// On how many days it was told of, for a credential that the agent had not used; none for a habit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    strange: Option<known::Told>,
    destinations: Known<Box<str>>,
    hours: Known<u8>,
    sources: Known<Network>,
    requests: Volume,
    bytes: Volume,
    #[serde(default)]
    quota: Quota,
}

impl Pair {
    fn new(credential: Option<Name>, at: i64, strange: bool) -> Self {
        Self {
            credential,
            since: at,
            last: 0,
            days: 0,
            learned: false,
            strange: strange.then(known::Told::default),
            destinations: Known::default(),
            hours: Known::default(),
            sources: Known::default(),
            requests: Volume::default(),
            bytes: Volume::default(),
            quota: Quota::default(),
        }
    }

    /// Whether the time of learning is not over.
    fn is_learning(&mut self, at: i64, settings: Settings) -> bool {
        if self.learned {
            return false;
        }
        let today = day(at);
        if self.last != today {
            self.last = today;
            self.days = self.days.saturating_add(1);
        }
        let over = at.saturating_sub(self.since) >= settings.learn_seconds();
        self.learned = over && self.days >= DAYS.min(settings.learn_days());
        !self.learned
    }

    fn note(&mut self, seen: Seen<'_>, settings: Settings) -> Noted {
        let learning = self.is_learning(seen.at, settings);
        let today = day(seen.at);
        self.last = today;
        let mut noted = Noted::default();
        let how = known::How { today, learning, refused: seen.refused };
        if let Some(told) = &mut self.strange {
            let (look, habit) = told.again(how);
            noted.add(look, self.quota.on(today), || {
                let name = self.credential.as_ref().map_or("none", Name::as_str).to_owned();
                anomaly(
                    self.credential.as_ref(),
                    Kind::Credential,
                    name,
                    "other credentials".to_owned(),
                )
            });
            if habit {
                self.strange = None;
            }
        }
        self.note_places(seen, how, &mut noted);
        let hour = |few| volume::Hour::of(seen.at, settings, (few, learning, seen.refused));
        let requests = hour(FEW_REQUESTS);
        let look = self.requests.add(1, requests);
        noted.add(look, self.quota.on(today), || {
            let (now, most) = (self.requests.now(), self.requests.most(requests));
            let (now, most) = (format!("{now} in an hour"), format!("at most {most}"));
            anomaly(self.credential.as_ref(), Kind::Requests, now, most)
        });
        // Of bytes it is told when they have passed; here they only count for a rule that refuses.
        noted.unusual |= self.bytes.is_over(hour(FEW_BYTES));
        noted
    }

    /// To where, from where, and at what hour.
    fn note_places(&mut self, seen: Seen<'_>, how: known::How, noted: &mut Noted) {
        let (credential, quota) = (self.credential.as_ref(), self.quota.on(how.today));
        let to = seen.destination;
        let look =
            self.destinations.look(how, |one| **one == *to, |one| **one == *to, || to.into());
        noted.add(look, quota, || {
            let usual = self.destinations.usual(ToString::to_string);
            anomaly(credential, Kind::Destination, to.to_owned(), usual)
        });
        let same = |one: &Network| *one == seen.source;
        let look = self.sources.look(how, same, same, || seen.source);
        noted.add(look, quota, || {
            let usual = self.sources.usual(ToString::to_string);
            anomaly(credential, Kind::Source, seen.source.to_string(), usual)
        });
        let hour = hour_of_day(seen.at);
        let look = self.hours.look(how, |known| is_near(*known, hour), |one| *one == hour, || hour);
        noted.add(look, quota, || {
            let usual = self.hours.usual(|hour| show_hour(*hour));
            anomaly(credential, Kind::Hour, show_hour(hour), usual)
        });
    }

    fn weigh(&mut self, moved: u64, at: i64, settings: Settings) -> Noted {
        let learning = self.is_learning(at, settings);
        let bytes = volume::Hour::of(at, settings, (FEW_BYTES, learning, false));
        let look = self.bytes.add(moved, bytes);
        let mut noted = Noted::default();
        noted.add(look, self.quota.on(day(at)), || Anomaly {
            kind: Kind::Bytes,
            credential: self.credential.clone(),
            seen: format!("{} bytes in an hour", self.bytes.now()),
            usual: format!("at most {}", self.bytes.most(bytes)),
        });
        noted
    }

    /// Takes for usual all that was told of.
    fn accept(&mut self) {
        self.strange = None;
        self.destinations.accept();
        self.hours.accept();
        self.sources.accept();
        self.requests.accept();
        self.bytes.accept();
    }
}

fn anomaly(credential: Option<&Name>, kind: Kind, seen: String, usual: String) -> Anomaly {
    Anomaly { kind, credential: credential.cloned(), seen, usual }
}

fn hour_of_day(at: i64) -> u8 {
    u8::try_from(at.rem_euclid(DAY) / HOUR).unwrap_or_default()
}

fn is_near(one: u8, other: u8) -> bool {
    let apart = one.abs_diff(other);
    apart.min(24 - apart.min(24)) <= NEAR
}

fn show_hour(hour: u8) -> String {
    format!("{hour:02}:00-{:02}:00 UTC", (hour + 1) % 24)
}

/// What one agent does. Requests hold it for a moment, and never across a wait.
#[derive(Debug)]
pub struct Baseline {
    settings: Settings,
    pairs: Mutex<Vec<Pair>>,
    changed: Arc<AtomicBool>,
}

impl Baseline {
    fn new(settings: Settings, pairs: Vec<Pair>, changed: Arc<AtomicBool>) -> Self {
        Self { settings, pairs: Mutex::new(pairs), changed }
    }

    /// Notes a request with a credential, or without one.
    pub fn note(&self, credential: Option<&Name>, seen: Seen<'_>) -> Noted {
        self.changed.store(true, Ordering::Relaxed);
        let mut pairs = self.pairs.lock();
        let found = pairs.iter().position(|pair| pair.credential.as_ref() == credential);
        let at = match found {
            Some(at) => at,
            // No habit of it can be known, so a rule that lets habits through alone lets none of it.
            None if pairs.len() >= CREDENTIALS => {
                return Noted { unusual: true, ..Noted::default() };
            }
            None => {
                // Also the first request without a credential, of an agent that had one in each so far.
                let known = pairs.iter().any(|pair| pair.learned);
                pairs.push(Pair::new(credential.cloned(), seen.at, known));
                pairs.len() - 1
            }
        };
        pairs.get_mut(at).map(|pair| pair.note(seen, self.settings)).unwrap_or_default()
    }

    /// Notes what a request has moved, when it is over.
    pub fn weigh(&self, credential: Option<&Name>, moved: u64, at: i64) -> Noted {
        let mut pairs = self.pairs.lock();
        let pair = pairs.iter_mut().find(|pair| pair.credential.as_ref() == credential);
        pair.map(|pair| pair.weigh(moved, at, self.settings)).unwrap_or_default()
    }
}

/// An agent of a workspace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    workspace: Name,
    agent: Name,
}

/// The baselines of all agents.
#[derive(Debug)]
pub struct Baselines {
    settings: Settings,
    agents: DashMap<Key, Arc<Baseline>>,
    changed: Arc<AtomicBool>,
}

/// One agent's baseline, as it is kept and shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kept {
    workspace: Name,
    agent: Name,
    uses: Vec<Pair>,
}

impl Baselines {
    /// None is known yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, agents: DashMap::new(), changed: Arc::default() }
    }

    /// The baseline of an agent.
    #[must_use]
    pub fn of(&self, workspace: &Name, agent: &Name) -> Arc<Baseline> {
        let key = Key { workspace: workspace.clone(), agent: agent.clone() };
        if let Some(known) = self.agents.get(&key) {
            return Arc::clone(&known);
        }
        if self.agents.len() >= AGENTS {
            self.make_room();
        }
        let new = || Arc::new(Baseline::new(self.settings, Vec::new(), Arc::clone(&self.changed)));
        Arc::clone(&self.agents.entry(key).or_insert_with(new))
    }

    /// Forgets a sixteenth of the agents, those that were not seen for longest: so that it is not looked
    /// for them each time.
    fn make_room(&self) {
        let last = |one: &Baseline| one.pairs.lock().iter().map(|pair| pair.last).max();
        let mut all: Vec<_> =
            self.agents.iter().map(|one| (last(&one), one.key().clone())).collect();
        all.sort_by_key(|(last, _)| *last);
        for (_, key) in all.into_iter().take(AGENTS / 16) {
            self.agents.remove(&key);
        }
    }

    /// Takes for usual what was told of an agent, with one credential or with all. False when nothing
    /// is known of it.
    #[must_use]
    pub fn accept(&self, (workspace, agent): (&Name, &Name), credential: Option<&Name>) -> bool {
        let mut found = false;
        let key = Key { workspace: workspace.clone(), agent: agent.clone() };
        if let Some(one) = self.agents.get(&key) {
            let mut pairs = one.pairs.lock();
            let of =
                |pair: &&mut Pair| credential.is_none() || pair.credential.as_ref() == credential;
            for pair in pairs.iter_mut().filter(of) {
                pair.accept();
                found = true;
            }
        }
        self.changed.store(found || self.changed.load(Ordering::Relaxed), Ordering::Relaxed);
        found
    }

    /// Goes on with what was kept.
    pub fn recall(&self, kept: Vec<Kept>) {
        for Kept { workspace, agent, uses } in kept.into_iter().take(AGENTS) {
            let baseline = Baseline::new(self.settings, uses, Arc::clone(&self.changed));
            self.agents.insert(Key { workspace, agent }, Arc::new(baseline));
        }
    }

    /// All of them, to be kept; none when nothing was noted since.
    #[must_use]
    pub fn keep(&self) -> Option<Vec<Kept>> {
        if !self.changed.swap(false, Ordering::Relaxed) {
            return None;
        }
        let kept = |key: &Key, baseline: &Baseline| {
            let Key { workspace, agent } = key.clone();
            Kept { workspace, agent, uses: baseline.pairs.lock().clone() }
        };
        let mut all: Vec<Kept> = self.agents.iter().map(|one| kept(one.key(), &one)).collect();
        all.sort_by(|a, b| (&a.workspace, &a.agent).cmp(&(&b.workspace, &b.agent)));
        Some(all)
    }
}

/// A baseline in words, of one agent with one credential.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shown {
    /// Of which workspace.
    pub workspace: Name,
    /// Which agent.
    pub agent: Name,
    /// With which credential; none without one.
    pub credential: Option<Name>,
    /// When it was first seen, in seconds of Unix time.
    pub since: i64,
    /// Whether it is still learned, and nothing told.
    pub learning: bool,
    /// The usual destinations.
    pub destinations: Vec<String>,
    /// The usual hours of the day, in UTC.
    pub hours: Vec<String>,
    /// The usual networks.
    pub sources: Vec<String>,
    /// The most requests in an hour.
    pub requests: u64,
    /// The most bytes in an hour.
    pub bytes: u64,
    /// What was told of and is not usual yet.
    pub unusual: Vec<String>,
}

impl Kept {
    /// What it says, with each credential.
    pub fn show(&self) -> impl Iterator<Item = Shown> {
        self.uses.iter().map(|pair| {
            let mut unusual: Vec<String> =
                pair.strange.iter().map(|_| "the credential".to_owned()).collect();
            unusual.extend(pair.destinations.strange().map(ToString::to_string));
            unusual.extend(pair.hours.strange().map(|hour| show_hour(*hour)));
            unusual.extend(pair.sources.strange().map(ToString::to_string));
            let mut hours: Vec<u8> = pair.hours.known().copied().collect();
            hours.sort_unstable();
            Shown {
                workspace: self.workspace.clone(),
                agent: self.agent.clone(),
                credential: pair.credential.clone(),
                since: pair.since,
                learning: !pair.learned,
                destinations: pair.destinations.known().map(ToString::to_string).collect(),
                hours: hours.into_iter().map(show_hour).collect(),
                sources: pair.sources.known().map(ToString::to_string).collect(),
                requests: pair.requests.peak(),
                bytes: pair.bytes.peak(),
                unusual,
            }
        })
    }

    /// In which workspace.
    #[must_use]
    pub fn workspace(&self) -> &Name {
        &self.workspace
    }

    /// Of which agent.
    #[must_use]
    pub fn agent(&self) -> &Name {
        &self.agent
    }
}

#[cfg(test)]
mod tests;
