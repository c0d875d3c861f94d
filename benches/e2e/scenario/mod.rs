//! The scenarios. Each takes fresh contenders through a few rounds, in another order each time.

pub(crate) mod connections;
pub(crate) mod growth;
pub(crate) mod memory;
pub(crate) mod requests;
pub(crate) mod streams;

use std::time::Duration;

use clap::ValueEnum;

use super::contender::{Contender, Field, Kind};
use super::process::{Cpu, Process};
use super::report::Table;
use super::{Http, Result};

/// A scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Requests a second, CPU and latency on open connections, in a closed loop.
    Keepalive,
    /// CPU and latency at 1,000 requests a second, one at a time, on 32 connections.
    Paced,
    /// New connections: CONNECT, TLS handshake, one request, close.
    Connect,
    /// The first request to a host that was never seen.
    Cold,
    /// How late server-sent events arrive.
    Events,
    /// A long download and a long upload.
    Bulk,
    /// Resident memory: at rest, for each idle tunnel, at the most.
    Memory,
    /// What rules, agents and credentials by the thousand cost: each request, and a change of them.
    Growth,
}

/// How much of everything.
pub(crate) struct Size {
    /// The contenders that take part; all when none is named.
    pub(crate) only: Vec<Kind>,
    /// Of `keepalive`.
    pub(crate) connections: Vec<usize>,
    /// What is spoken: all of it by `keepalive`, the first by the others.
    pub(crate) http: Vec<Http>,
    /// Of `memory`.
    pub(crate) tunnels: Vec<u64>,
    /// Of `growth`.
    pub(crate) crowds: Vec<u32>,
    pub(crate) rounds: usize,
    /// Divides counts and times.
    pub(crate) shrink: u32,
    /// Of one measurement in a closed loop.
    pub(crate) long: Duration,
}

impl Size {
    /// How long a measurement in a closed loop takes.
    fn long(&self) -> Duration {
        self.long / self.shrink
    }

    /// What is spoken where one version is enough.
    fn first_http(&self) -> Http {
        self.http.first().copied().unwrap_or(Http::One)
    }

    fn chosen(&self, field: &Field, kinds: &[Kind]) -> impl Iterator<Item = Kind> {
        let named = |kind: &Kind| self.only.is_empty() || self.only.contains(kind);
        let chosen = move |kind: &Kind| named(kind) && field.has(*kind);
        kinds.iter().copied().filter(chosen)
    }
}

const EVERYONE: [Kind; 8] = [
    Kind::Direct,
    Kind::Tunnel,
    Kind::Locum,
    Kind::Other,
    Kind::LocumOpaque,
    Kind::Envoy,
    Kind::Mitmproxy,
    Kind::Squid,
];

impl Scenario {
    pub(crate) async fn run(self, field: &Field, size: &Size) -> Result<Vec<Table>> {
        match self {
            Self::Keepalive => requests::keepalive(field, size).await,
            Self::Paced => requests::paced(field, size).await,
            Self::Connect => connections::connect(field, size).await,
            Self::Cold => connections::cold(field, size).await,
            Self::Events => streams::events(field, size).await,
            Self::Bulk => streams::bulk(field, size).await,
            Self::Memory => memory::memory(field, size).await,
            Self::Growth => growth::growth(field, size).await,
        }
    }
}

/// Starts those of the contenders that take part. Who does not speak HTTP/2 is left out of it, and it
/// is said.
async fn start_all(
    field: &Field,
    kinds: &[Kind],
    size: &Size,
    http: Http,
) -> Result<Vec<Contender>> {
    let mut contenders = Vec::new();
    for kind in size.chosen(field, kinds) {
        let contender = field.start(kind, http)?;
        match contender.way.open(contender.host).await {
            Err(error) if http == Http::Two => {
                eprintln!("{kind} is left out of HTTP/2, to which it says: {error}");
            }
            tried => {
                tried.map_err(|error| format!("{kind}: {error}"))?;
                contenders.push(contender);
            }
        }
    }
    Ok(contenders)
}

/// What one measurement gave, for the columns of its table.
type Figures = Vec<Option<f64>>;

/// Adds what one measurement gave. A peer that failed has no figures in that round, and it is said;
/// anyone else's failure ends the run.
fn note(table: &mut Table, kind: Kind, measured: Result<Figures>) -> Result<()> {
    match measured {
        Ok(figures) => table.add(kind, figures),
        Err(error) => {
            let what = format!("{kind} failed in \"{}\": {}", table.title(), causes(&*error));
            if !kind.is_peer() {
                return Err(what.into());
            }
            eprintln!("{what}");
            table.add(kind, Vec::new());
        }
    }
    Ok(())
}

/// An error and what is behind it: a library's own words seldom say why.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let all = std::iter::successors(Some(error), |error| error.source());
    all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The contenders in the order of this round: whoever is first finds another machine than the last.
fn in_turn<T>(contenders: &mut [T], round: usize) -> impl Iterator<Item = &mut T> {
    let start = round % contenders.len().max(1);
    let (late, early) = contenders.split_at_mut(start);
    early.iter_mut().chain(late)
}

impl Contender {
    fn cpu(&self) -> Result<Option<Cpu>> {
        Ok(self.process.as_ref().map(Process::cpu).transpose()?)
    }

    /// CPU time since `before`, for each of `count`, in microseconds.
    fn cpu_each(&self, before: Option<&Cpu>, count: u64) -> Result<Option<f64>> {
        let now = self.cpu()?;
        let used = now.as_ref().zip(before).map(|(now, before)| now.since(before));
        Ok(used.map(|used| used.as_secs_f64() * 1e6 / count.max(1) as f64))
    }
}
