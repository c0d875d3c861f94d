//! The scenarios. Each takes fresh contenders through a few rounds, in another order each time, and
//! makes a fixed number of calls in each.

use std::time::Duration;

use clap::ValueEnum;
use http_body_util::BodyExt;
use tokio::task::JoinSet;

use super::Result;
use super::body::{Body, now};
use super::client::{self, Connection, Latency, closed_loop, read};
use super::contender::{Contender, Field, Kind};
use super::process::Cpu;
use super::report::{Column, Table};

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
}

/// How much of everything.
pub(crate) struct Size {
    /// The contenders that take part; all when none is named.
    pub(crate) only: Vec<Kind>,
    /// Of `keepalive`.
    pub(crate) connections: Vec<usize>,
    pub(crate) rounds: usize,
    /// Divides counts.
    pub(crate) shrink: u32,
}

impl Size {
    fn chosen(&self, field: &Field, kinds: &[Kind]) -> impl Iterator<Item = Kind> {
        let named = |kind: &Kind| self.only.is_empty() || self.only.contains(kind);
        let chosen = move |kind: &Kind| named(kind) && field.has(*kind);
        kinds.iter().copied().filter(chosen)
    }
}

const EVERYONE: [Kind; 6] =
    [Kind::Direct, Kind::Tunnel, Kind::Locum, Kind::Other, Kind::LocumOpaque, Kind::Envoy];

impl Scenario {
    pub(crate) async fn run(self, field: &Field, size: &Size) -> Result<Vec<Table>> {
        match self {
            Self::Keepalive => keepalive(field, size).await,
            Self::Paced => paced(field, size).await,
            Self::Connect => connect(field, size).await,
            Self::Cold => cold(field, size).await,
            Self::Events => events(field, size).await,
            Self::Bulk => bulk(field, size).await,
            Self::Memory => memory(field, size).await,
        }
    }
}

fn start_all(field: &Field, kinds: &[Kind], size: &Size) -> Result<Vec<Contender>> {
    size.chosen(field, kinds).map(|kind| field.start(kind)).collect()
}

/// The contenders in the order of this round: whoever is first finds another machine than the last.
fn in_turn(contenders: &mut [Contender], round: usize) -> impl Iterator<Item = &mut Contender> {
    let start = round % contenders.len().max(1);
    let (late, early) = contenders.split_at_mut(start);
    early.iter_mut().chain(late)
}

impl Contender {
    fn cpu(&self) -> Result<Option<Cpu>> {
        Ok(self.process.as_ref().map(super::process::Process::cpu).transpose()?)
    }

    /// CPU time since `before`, for each of `count`, in microseconds.
    fn cpu_each(&self, before: Option<&Cpu>, count: u32) -> Result<Option<f64>> {
        let now = self.cpu()?;
        let used = now.as_ref().zip(before).map(|(now, before)| now.since(before));
        Ok(used.map(|used| used.as_secs_f64() * 1e6 / f64::from(count)))
    }
}

async fn keepalive(field: &Field, size: &Size) -> Result<Vec<Table>> {
    const COLUMNS: [Column; 5] = [
        Column::new("requests/s", 0).with_ratio(),
        Column::new("CPU us/request", 1).with_ratio(),
        Column::new("p50 us", 0),
        Column::new("p99 us", 0),
        Column::new("p99.9 us", 0),
    ];
    let mut tables = Vec::new();
    for &connections in &size.connections {
        let mut table = Table::new(format!("{connections} connections"), &COLUMNS);
        let count = if connections == 1 { 5_000 } else { 20_000 } / size.shrink;
        let mut contenders = start_all(field, &EVERYONE, size)?;
        for round in 0..size.rounds {
            for contender in in_turn(&mut contenders, round) {
                let mut open = contender.way.open_many(contender.host, connections).await?;
                // Past the first growth of buffers, pools and caches.
                closed_loop(&mut open, u64::from(count / 10)).await?;
                let before = contender.cpu()?;
                let run = closed_loop(&mut open, u64::from(count)).await?;
                table.add(
                    contender.kind,
                    vec![
                        Some(f64::from(count) / run.elapsed.as_secs_f64()),
                        contender.cpu_each(before.as_ref(), count)?,
                        Some(run.latency.quantile(0.5)),
                        Some(run.latency.quantile(0.99)),
                        Some(run.latency.quantile(0.999)),
                    ],
                );
            }
        }
        tables.push(table);
    }
    Ok(tables)
}

/// In a closed loop, whoever is behind handles many requests for each time it is woken, which is
/// cheap. Agents send one now and then: here every request wakes the proxy.
async fn paced(field: &Field, size: &Size) -> Result<Vec<Table>> {
    const COLUMNS: [Column; 4] = [
        Column::new("CPU us/request", 1).with_ratio(),
        Column::new("p50 us", 0).with_ratio(),
        Column::new("p99 us", 0),
        Column::new("p99.9 us", 0),
    ];
    let mut table = Table::new("1,000 requests/s, 32 connections", &COLUMNS);
    let count = 1_500 / size.shrink;
    let mut contenders = start_all(field, &EVERYONE, size)?;
    for round in 0..size.rounds {
        for contender in in_turn(&mut contenders, round) {
            let mut open = contender.way.open_many(contender.host, 32).await?;
            client::paced(&mut open, count / 10).await?;
            let before = contender.cpu()?;
            let run = client::paced(&mut open, count).await?;
            table.add(
                contender.kind,
                vec![
                    contender.cpu_each(before.as_ref(), count)?,
                    Some(run.latency.quantile(0.5)),
                    Some(run.latency.quantile(0.99)),
                    Some(run.latency.quantile(0.999)),
                ],
            );
        }
    }
    Ok(vec![table])
}

const PER_CONNECTION: [Column; 4] = [
    Column::new("connections/s", 0).with_ratio(),
    Column::new("CPU us/connection", 0).with_ratio(),
    Column::new("p50 us", 0).with_ratio(),
    Column::new("p99 us", 0),
];

async fn connect(field: &Field, size: &Size) -> Result<Vec<Table>> {
    const AT_ONCE: u32 = 8;
    let mut table = Table::new("new connections, 8 at once", &PER_CONNECTION);
    let each = 150 / size.shrink.min(50);
    let count = AT_ONCE * each;
    let mut contenders = start_all(field, &EVERYONE, size)?;
    for round in 0..size.rounds {
        for contender in in_turn(&mut contenders, round) {
            drop(contender.way.open_many(contender.host, 16).await?);
            let before = contender.cpu()?;
            let start = now();
            let mut clients = JoinSet::new();
            for _ in 0..AT_ONCE {
                let (way, host) = (contender.way.clone(), contender.host);
                clients.spawn_local(async move {
                    let mut times = Vec::new();
                    for _ in 0..each {
                        let start = now();
                        way.open(host).await?.call().await?;
                        times.push(now() - start);
                    }
                    Result::Ok(times)
                });
            }
            let mut latency = Latency::new()?;
            while let Some(times) = clients.join_next().await {
                for time in times?? {
                    latency.record(time);
                }
            }
            let elapsed = Duration::from_nanos(now() - start);
            table.add(
                contender.kind,
                vec![
                    Some(f64::from(count) / elapsed.as_secs_f64()),
                    contender.cpu_each(before.as_ref(), count)?,
                    Some(latency.quantile(0.5)),
                    Some(latency.quantile(0.99)),
                ],
            );
        }
    }
    Ok(vec![table])
}

async fn cold(field: &Field, size: &Size) -> Result<Vec<Table>> {
    let mut table = Table::new("cold hosts, one at a time", &PER_CONNECTION);
    let count = 100 / size.shrink.min(50);
    let mut contenders =
        start_all(field, &[Kind::Direct, Kind::Tunnel, Kind::Locum, Kind::Other], size)?;
    for contender in contenders.iter_mut().filter(|c| [Kind::Locum, Kind::Other].contains(&c.kind))
    {
        contender.way.bearer = "Bearer locum_cold".parse()?;
    }
    for round in 0..size.rounds {
        for contender in in_turn(&mut contenders, round) {
            let mut latency = Latency::new()?;
            let before = contender.cpu()?;
            let first = now();
            for number in 0..count {
                let host = format!("r{round}-h{number}.cold.test");
                let start = now();
                contender.way.open(&host).await?.call().await?;
                latency.record(now() - start);
            }
            let elapsed = Duration::from_nanos(now() - first);
            table.add(
                contender.kind,
                vec![
                    Some(f64::from(count) / elapsed.as_secs_f64()),
                    contender.cpu_each(before.as_ref(), count)?,
                    Some(latency.quantile(0.5)),
                    Some(latency.quantile(0.99)),
                ],
            );
        }
    }
    Ok(vec![table])
}

async fn events(field: &Field, size: &Size) -> Result<Vec<Table>> {
    const STREAMS: u32 = 8;
    const COLUMNS: [Column; 4] = [
        Column::new("CPU us/event", 1).with_ratio(),
        Column::new("p50 us", 0),
        Column::new("p99 us", 0),
        Column::new("max us", 0),
    ];
    let mut table = Table::new("events, 8 streams, one in 5 ms each", &COLUMNS);
    let count = 250 / size.shrink.min(25);
    let mut contenders = start_all(field, &EVERYONE, size)?;
    for round in 0..size.rounds {
        for contender in in_turn(&mut contenders, round) {
            let open = contender.way.open_many(contender.host, STREAMS as usize).await?;
            let before = contender.cpu()?;
            let mut streams = JoinSet::new();
            for connection in open {
                streams.spawn_local(listen(connection, count));
            }
            let mut latency = Latency::new()?;
            while let Some(delays) = streams.join_next().await {
                for delay in delays?? {
                    latency.record(delay);
                }
            }
            table.add(
                contender.kind,
                vec![
                    contender.cpu_each(before.as_ref(), count * STREAMS)?,
                    Some(latency.quantile(0.5)),
                    Some(latency.quantile(0.99)),
                    Some(latency.quantile(1.0)),
                ],
            );
        }
    }
    Ok(vec![table])
}

/// How long each event of a stream was on its way.
async fn listen(mut connection: Connection, count: u32) -> Result<Vec<u64>> {
    let path = format!("/events/{count}/5");
    let mut body = connection.send("POST", &path, Body::empty()).await?.into_body();
    let mut delays = Vec::new();
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        let arrived = now();
        text.extend_from_slice(&data);
        while let Some(end) = text.windows(2).position(|w| w == b"\n\n") {
            let event: Vec<u8> = text.drain(..end + 2).collect();
            let event = event.strip_prefix(b"data: ").ok_or("an event is not whole")?;
            let event: serde_json::Value = serde_json::from_slice(event)?;
            let sent = event["sent"].as_u64().ok_or("an event has no stamp")?;
            delays.push(arrived.saturating_sub(sent));
        }
    }
    if delays.len() == count as usize && text.is_empty() {
        return Ok(delays);
    }
    Err(format!("{} of {count} events arrived", delays.len()).into())
}

async fn bulk(field: &Field, size: &Size) -> Result<Vec<Table>> {
    const COLUMNS: [Column; 2] =
        [Column::new("MiB/s", 0).with_ratio(), Column::new("CPU ms/GiB", 0).with_ratio()];
    let mebibytes = 1024 / size.shrink.min(16);
    let length = u64::from(mebibytes) << 20;
    let mut down = Table::new(format!("{mebibytes} MiB down"), &COLUMNS);
    let mut up = Table::new(format!("{mebibytes} MiB up"), &COLUMNS);
    let mut contenders = start_all(field, &EVERYONE, size)?;
    // Seconds each, and steady in themselves.
    for round in 0..size.rounds.min(3) {
        for contender in in_turn(&mut contenders, round) {
            let mut connection =
                contender.way.open_many(contender.host, 1).await?.pop().ok_or("no connection")?;
            for (table, path, body) in [
                (&mut down, format!("/text/{mebibytes}"), Body::empty()),
                (&mut up, "/v1/files".to_owned(), Body::Text(length)),
            ] {
                let downloads = path.starts_with("/text");
                let before = contender.cpu()?;
                let start = now();
                let response = connection.send("POST", &path, body).await?;
                let arrived = response.headers().get("x-received").cloned();
                let read = read(response).await?;
                let elapsed = Duration::from_nanos(now() - start);
                let arrived = arrived.and_then(|n| n.to_str().ok()?.parse().ok());
                if (if downloads { Some(read) } else { arrived }) != Some(length) {
                    return Err(format!("{path}: not all bytes arrived").into());
                }
                let cpu = contender.cpu_each(before.as_ref(), mebibytes)?;
                table.add(
                    contender.kind,
                    vec![
                        Some(f64::from(mebibytes) / elapsed.as_secs_f64()),
                        cpu.map(|each| each * 1024.0 / 1000.0),
                    ],
                );
            }
        }
    }
    Ok(vec![down, up])
}

async fn memory(field: &Field, size: &Size) -> Result<Vec<Table>> {
    const COLUMNS: [Column; 4] = [
        Column::new("at rest MiB", 1),
        Column::new("KiB/idle tunnel", 1).with_ratio(),
        Column::new("after load MiB", 1),
        Column::new("peak MiB", 1),
    ];
    let tunnels = 1_000 / size.shrink.min(10);
    let mut table = Table::new(format!("memory, {tunnels} tunnels"), &COLUMNS);
    for kind in size.chosen(field, &EVERYONE[1..]) {
        let contender = field.start(kind)?;
        let process = contender.process.as_ref().ok_or("no process")?;
        settle().await;
        let rest = process.resident()?;
        // What is made once is not the tunnels'.
        drop(contender.way.open_many(contender.host, 4).await?);
        settle().await;
        let warm = process.resident()?;
        let mut open = contender.way.open_many(contender.host, tunnels as usize).await?;
        settle().await;
        let idle = process.resident()?;
        closed_loop(&mut open, u64::from(tunnels) * 10).await?;
        drop(open);
        settle().await;
        table.add(
            kind,
            vec![
                Some(mebibytes(rest)),
                Some(mebibytes(idle.saturating_sub(warm)) * 1024.0 / f64::from(tunnels)),
                Some(mebibytes(process.resident()?)),
                Some(mebibytes(process.peak()?)),
            ],
        );
    }
    Ok(vec![table])
}

/// Long enough for tasks that were woken to have run, and buffers to have gone.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(500)).await;
}

#[allow(clippy::cast_precision_loss)] // Far below 2^52 bytes.
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
