//! Rules, agents and credentials by the thousand: what they cost each request, and what a change of
//! them costs those who have nothing to do with it.

use std::path::Path;
use std::time::{Duration, Instant};

use super::super::client::Way;
use super::super::contender::{Contender, Field, Kind};
use super::super::crowd;
use super::super::home::{Home, LOCUM};
use super::super::load::paced;
use super::super::origin::HOST;
use super::super::report::{Column, Table};
use super::super::{Http, Result};
use super::memory::mebibytes;
use super::requests::{COLUMNS, measure};
use super::{Figures, Size, in_turn};

const CHANGES: [Column; 6] = [
    Column::new("start to first answer s", 2),
    Column::new("at rest MiB", 1),
    Column::new("rule in force ms", 0),
    Column::new("p99 us before", 0),
    Column::new("p99 us meanwhile", 0),
    Column::new("max us meanwhile", 0),
];

const AGENTS: [Column; 5] = [
    Column::new("command ms", 0),
    Column::new("agent in force ms", 0),
    Column::new("p99 us before", 0),
    Column::new("p99 us meanwhile", 0),
    Column::new("max us meanwhile", 0),
];

/// The titles of the tables.
pub(crate) const COST: &str = "growth, 32 connections";
pub(crate) const RULE: &str = "growth, a rule is changed";
pub(crate) const AGENT: &str = "growth, an agent is added";

/// The row of so many.
pub(crate) fn row(count: u32) -> String {
    format!("{count} of each")
}

/// A home with a crowd in it, and its proxy.
struct Crowded {
    count: u32,
    home: Home,
    contender: Contender,
    start: Duration,
}

impl Crowded {
    async fn start(field: &Field, count: u32) -> Result<Self> {
        eprintln!("{} ...", row(count));
        let scratch = field.scratch.path().join(format!("crowd-{count}"));
        let home = Home::new(Path::new(LOCUM), &scratch, &field.origin, Http::One)?;
        crowd::fill(&home, count)?;
        // The first start writes into the audit log what was done to the vault.
        drop(home.serve("")?);
        let (way, start) = (home.way()?, Instant::now());
        let process = Some(home.serve("")?);
        // It listens before it has read everything.
        way.open(HOST).await?.call().await?;
        let start = start.elapsed();
        let contender = Contender { kind: Kind::Locum, way, host: HOST, process };
        Ok(Self { count, home, contender, start })
    }
}

pub(super) async fn growth(field: &Field, size: &Size) -> Result<Vec<Table>> {
    let floor = row(size.crowds.first().copied().unwrap_or_default());
    let mut cost = Table::new(COST, &COLUMNS).with_floor(floor);
    let mut rule = Table::new(RULE, &CHANGES);
    let mut agent = Table::new(AGENT, &AGENTS);
    let mut crowds = Vec::new();
    for &count in &size.crowds {
        crowds.push(Crowded::start(field, count).await?);
    }
    for round in 0..size.rounds {
        for crowded in in_turn(&mut crowds, round) {
            let contender = &crowded.contender;
            cost.add(row(crowded.count), measure(contender, 32, size).await?);
        }
    }
    for round in 0..size.rounds.min(3) {
        for crowded in in_turn(&mut crowds, round) {
            rule.add(row(crowded.count), crowded.change_rule(round).await?);
            agent.add(row(crowded.count), crowded.add_agent(round).await?);
        }
    }
    for crowded in crowds {
        drop(crowded.contender);
        crowded.home.run(&["audit", "verify"], "")?;
    }
    Ok(vec![cost, rule, agent])
}

/// For how long a client sends at its pace while something changes, in requests of a millisecond.
const WHILE: u32 = 3_000;

/// When it changes.
const AFTER: Duration = Duration::from_millis(500);

/// p99 before, p99 and the longest wait in the time of the change.
async fn beside(way: &Way, change: impl Future<Output = Result<()>>) -> Result<[Option<f64>; 3]> {
    let mut open = way.open_many(HOST, 8).await?;
    let before = paced(&mut open, WHILE / 3).await?.latency;
    let (run, changed) = tokio::join!(paced(&mut open, WHILE), change);
    changed?;
    let latency = run?.latency;
    Ok([before.quantile(0.99), latency.quantile(0.99), latency.quantile(1.0)].map(Some))
}

impl Crowded {
    /// A new path is allowed, and asked for until it is.
    async fn change_rule(&self, round: usize) -> Result<Figures> {
        let way = &self.contender.way;
        let mut probe = way.open(HOST).await?;
        let path = format!("/new-{round}");
        let mut took = Duration::ZERO;
        let waits = beside(way, async {
            tokio::time::sleep(AFTER).await;
            // On a thread of its own: the client goes on meanwhile.
            let (home, count, paths) = (self.home.clone(), self.count, format!("/v1/**, {path}"));
            let write = move || crowd::write_rules(&home, count, &paths).map_err(|e| e.to_string());
            tokio::task::spawn_blocking(write).await??;
            let start = Instant::now();
            while !probe.allowed(&path).await? {
                give_up_after(start, "the new rule is not in force")?;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            took = start.elapsed();
            Ok(())
        });
        let waits = Box::pin(waits).await?;
        let process = self.contender.process.as_ref().ok_or("no process")?;
        let rest = mebibytes(process.resident()?);
        let own = [self.start.as_secs_f64(), rest, took.as_secs_f64() * 1e3];
        Ok(own.map(Some).into_iter().chain(waits).collect())
    }

    /// A new agent comes with its token as soon as it has one.
    async fn add_agent(&self, round: usize) -> Result<Figures> {
        let mut way = self.contender.way.clone();
        let (mut command, mut took) = (Duration::ZERO, Duration::ZERO);
        let waits = beside(&self.contender.way, async {
            tokio::time::sleep(AFTER).await;
            let start = Instant::now();
            // On a thread of its own: the client goes on meanwhile.
            let home = self.home.clone();
            let add = move || home.add_agent(&format!("new-{round}"));
            way.proxy = Some(tokio::task::spawn_blocking(add).await??);
            command = start.elapsed();
            let start = Instant::now();
            while way.open(HOST).await.is_err() {
                give_up_after(start, "the new agent is not known")?;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            took = start.elapsed();
            Ok(())
        });
        let waits = Box::pin(waits).await?;
        let own = [command, took].map(|time| Some(time.as_secs_f64() * 1e3));
        Ok(own.into_iter().chain(waits).collect())
    }
}

fn give_up_after(start: Instant, what: &str) -> Result<()> {
    if start.elapsed() > Duration::from_secs(30) {
        return Err(format!("{what} after 30 s").into());
    }
    Ok(())
}
