//! Requests on connections that are open.

use super::super::client::Connection;
use super::super::contender::{Contender, Field, Kind};
use super::super::load::{self, Run, closed_loop};
use super::super::report::{Column, Table};
use super::super::{Http, Result};
use super::{EVERYONE, Figures, Size, in_turn, note, start_all};

pub(super) const COLUMNS: [Column; 5] = [
    Column::new("requests/s", 0).with_ratio(),
    Column::new("CPU us/request", 1).with_ratio(),
    Column::new("p50 us", 0),
    Column::new("p99 us", 0),
    Column::new("p99.9 us", 0),
];

/// The title of one of `keepalive`'s tables.
pub(crate) fn title(http: Http, connections: usize) -> String {
    match (http, connections) {
        (Http::One, 1) => "HTTP/1.1, 1 connection".to_owned(),
        (Http::One, many) => format!("HTTP/1.1, {many} connections"),
        (Http::Two, 1) => "HTTP/2, 1 connection".to_owned(),
        (Http::Two, many) => format!("HTTP/2, {many} connections"),
    }
}

/// How many streams one HTTP/2 connection has at once, in the one table of streams.
const STREAMS: usize = 32;

/// Both versions of HTTP take part in each round, so that they can be compared.
pub(super) async fn keepalive(field: &Field, size: &Size) -> Result<Vec<Table>> {
    let mut fields = Vec::new();
    for &http in &size.http {
        fields.push((http, start_all(field, &EVERYONE, size, http).await?));
    }
    let mut tables = Vec::new();
    for &connections in &size.connections {
        let mut of_size: Vec<_> = fields
            .iter()
            .map(|(http, _)| Table::new(title(*http, connections), &COLUMNS))
            .collect();
        for round in 0..size.rounds {
            for ((_, contenders), table) in fields.iter_mut().zip(&mut of_size) {
                for contender in in_turn(contenders, round) {
                    let measured = measure(contender, connections, size).await;
                    note(table, contender.kind, measured)?;
                }
            }
        }
        tables.append(&mut of_size);
    }
    if let Some((_, contenders)) = fields.iter_mut().find(|(http, _)| *http == Http::Two) {
        tables.push(streams(contenders, size).await?);
    }
    Ok(tables)
}

async fn streams(contenders: &mut [Contender], size: &Size) -> Result<Table> {
    let title = format!("HTTP/2, 1 connection with {STREAMS} streams");
    let mut table = Table::new(title, &COLUMNS);
    for round in 0..size.rounds {
        for contender in in_turn(contenders, round) {
            let open = contender.way.open_streams(contender.host, STREAMS).await;
            let measured = match open {
                Ok(open) => measure_on(contender, open, size).await,
                Err(error) => Err(error),
            };
            note(&mut table, contender.kind, measured)?;
        }
    }
    Ok(table)
}

/// The figures of one closed loop, for `COLUMNS`.
pub(super) async fn measure(
    contender: &Contender,
    connections: usize,
    size: &Size,
) -> Result<Figures> {
    let open = contender.way.open_many(contender.host, connections).await?;
    measure_on(contender, open, size).await
}

async fn measure_on(
    contender: &Contender,
    mut open: Vec<Connection>,
    size: &Size,
) -> Result<Figures> {
    // Past the first growth of buffers, pools and caches.
    closed_loop(&mut open, size.long() / 10).await?;
    let before = contender.cpu()?;
    let Run { elapsed, latency } = closed_loop(&mut open, size.long()).await?;
    Ok(vec![
        Some(latency.count() as f64 / elapsed.as_secs_f64()),
        contender.cpu_each(before.as_ref(), latency.count())?,
        Some(latency.quantile(0.5)),
        Some(latency.quantile(0.99)),
        Some(latency.quantile(0.999)),
    ])
}

/// In a closed loop, whoever is behind handles many requests for each time it is woken, which is
/// cheap. Agents send one now and then: here every request wakes the proxy.
pub(super) async fn paced(field: &Field, size: &Size) -> Result<Vec<Table>> {
    const COLUMNS: [Column; 4] = [
        Column::new("CPU us/request", 1).with_ratio(),
        Column::new("p50 us", 0).with_ratio(),
        Column::new("p99 us", 0),
        Column::new("p99.9 us", 0),
    ];
    let mut table = Table::new("1,000 requests/s, 32 connections", &COLUMNS);
    let count = 1_500 / size.shrink;
    // Whose interpreter is slower than this pace would only show its queue.
    let fast: Vec<_> = EVERYONE.into_iter().filter(|kind| *kind != Kind::Mitmproxy).collect();
    let mut contenders = start_all(field, &fast, size, size.first_http()).await?;
    for round in 0..size.rounds {
        for contender in in_turn(&mut contenders, round) {
            note(&mut table, contender.kind, measure_paced(contender, count).await)?;
        }
    }
    Ok(vec![table])
}

async fn measure_paced(contender: &Contender, count: u32) -> Result<Figures> {
    let mut open = contender.way.open_many(contender.host, 32).await?;
    load::paced(&mut open, count / 10).await?;
    let before = contender.cpu()?;
    let run = load::paced(&mut open, count).await?;
    Ok(vec![
        contender.cpu_each(before.as_ref(), run.latency.count())?,
        Some(run.latency.quantile(0.5)),
        Some(run.latency.quantile(0.99)),
        Some(run.latency.quantile(0.999)),
    ])
}
