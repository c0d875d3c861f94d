//! Connections that are new, and hosts that are.

use std::time::Instant;

use tokio::task::JoinSet;

use super::super::Result;
use super::super::contender::{Contender, Field, Kind};
use super::super::load::{Latency, Run};
use super::super::origin::cold_host;
use super::super::process::Cpu;
use super::super::report::{Column, Table};
use super::{EVERYONE, Figures, Size, in_turn, note, start_all};

/// The titles of the tables.
pub(crate) const CONNECT: &str = "new connections, 8 at once";
pub(crate) const COLD: &str = "cold hosts, one at a time";

const PER_CONNECTION: [Column; 4] = [
    Column::new("connections/s", 0).with_ratio(),
    Column::new("CPU us/connection", 0).with_ratio(),
    Column::new("p50 us", 0).with_ratio(),
    Column::new("p99 us", 0),
];

impl Contender {
    /// The figures of a run in which each call had a connection of its own, for `PER_CONNECTION`.
    fn per_connection(&self, run: &Run, before: Option<&Cpu>) -> Result<Figures> {
        let count = run.latency.count();
        Ok(vec![
            Some(count as f64 / run.elapsed.as_secs_f64()),
            self.cpu_each(before, count)?,
            Some(run.latency.quantile(0.5)),
            Some(run.latency.quantile(0.99)),
        ])
    }
}

pub(super) async fn connect(field: &Field, size: &Size) -> Result<Vec<Table>> {
    let mut table = Table::new(CONNECT, &PER_CONNECTION);
    let mut contenders = start_all(field, &EVERYONE, size, size.first_http()).await?;
    for round in 0..size.rounds {
        for contender in in_turn(&mut contenders, round) {
            note(&mut table, contender.kind, open_and_close(contender, size).await)?;
        }
    }
    Ok(vec![table])
}

/// Eight clients that each open a connection, send a request, and close it.
async fn open_and_close(contender: &Contender, size: &Size) -> Result<Figures> {
    let host = contender.host;
    drop(contender.way.open_many(host, 16).await?);
    let before = contender.cpu()?;
    let start = Instant::now();
    let long = size.long() / 2;
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let way = contender.way.clone();
        clients.spawn_local(async move {
            let mut times = Vec::new();
            while start.elapsed() < long {
                let start = Instant::now();
                way.open(host).await?.call().await?;
                times.push(start.elapsed());
            }
            Result::Ok(times)
        });
    }
    let mut latency = Latency::new()?;
    while let Some(times) = clients.join_next().await {
        times??.into_iter().for_each(|time| latency.record(time));
    }
    contender.per_connection(&Run { elapsed: start.elapsed(), latency }, before.as_ref())
}

pub(super) async fn cold(field: &Field, size: &Size) -> Result<Vec<Table>> {
    // Envoy has a certificate for one host.
    const ANY_HOST: [Kind; 6] =
        [Kind::Direct, Kind::Tunnel, Kind::Locum, Kind::Other, Kind::Mitmproxy, Kind::Squid];
    let mut table = Table::new(COLD, &PER_CONNECTION);
    let count = 100 / size.shrink.min(50) as usize;
    let mut contenders = start_all(field, &ANY_HOST, size, size.first_http()).await?;
    for contender in contenders.iter_mut().filter(|c| [Kind::Locum, Kind::Other].contains(&c.kind))
    {
        contender.way.bearer = "Bearer locum_cold".parse()?;
    }
    for round in 0..size.rounds {
        for contender in in_turn(&mut contenders, round) {
            let measured = visit_cold_hosts(contender, round, count).await;
            note(&mut table, contender.kind, measured)?;
        }
    }
    Ok(vec![table])
}

async fn visit_cold_hosts(contender: &Contender, round: usize, count: usize) -> Result<Figures> {
    let mut latency = Latency::new()?;
    let before = contender.cpu()?;
    let first = Instant::now();
    for number in 0..count {
        let host = cold_host(round, number);
        let start = Instant::now();
        contender.way.open(&host).await?.call().await?;
        latency.record(start.elapsed());
    }
    contender.per_connection(&Run { elapsed: first.elapsed(), latency }, before.as_ref())
}
