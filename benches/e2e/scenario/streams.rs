//! Answers that take long: events, and a gibibyte.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use tokio::task::JoinSet;

use super::super::Result;
use super::super::body::{Body, now};
use super::super::client::{Connection, read};
use super::super::contender::Field;
use super::super::load::Latency;
use super::super::report::{Column, Table};
use super::{EVERYONE, Size, in_turn, start_all};

/// The titles of the tables. A run that is quick has fewer bytes, and says so.
pub(crate) const EVENTS: &str = "events, 8 streams, one in 5 ms each";
pub(crate) const DOWN: &str = "1024 MiB down";
pub(crate) const UP: &str = "1024 MiB up";

pub(super) async fn events(field: &Field, size: &Size) -> Result<Vec<Table>> {
    const STREAMS: u32 = 8;
    const COLUMNS: [Column; 4] = [
        Column::new("CPU us/event", 1).with_ratio(),
        Column::new("p50 us", 0),
        Column::new("p99 us", 0),
        Column::new("max us", 0),
    ];
    let mut table = Table::new(EVENTS, &COLUMNS);
    let count = 250 / size.shrink.min(25);
    let mut contenders = start_all(field, &EVERYONE, size, size.first_http()).await?;
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
                    contender.cpu_each(before.as_ref(), u64::from(count * STREAMS))?,
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
async fn listen(mut connection: Connection, count: u32) -> Result<Vec<Duration>> {
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
            delays.push(Duration::from_nanos(arrived.saturating_sub(sent)));
        }
    }
    if delays.len() == count as usize && text.is_empty() {
        return Ok(delays);
    }
    Err(format!("{} of {count} events arrived", delays.len()).into())
}

pub(super) async fn bulk(field: &Field, size: &Size) -> Result<Vec<Table>> {
    const COLUMNS: [Column; 2] =
        [Column::new("MiB/s", 0).with_ratio(), Column::new("CPU ms/GiB", 0).with_ratio()];
    let mebibytes = 1024 / size.shrink.min(16);
    let length = u64::from(mebibytes) << 20;
    let mut down = Table::new(format!("{mebibytes} MiB down"), &COLUMNS);
    let mut up = Table::new(format!("{mebibytes} MiB up"), &COLUMNS);
    let mut contenders = start_all(field, &EVERYONE, size, size.first_http()).await?;
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
                let start = Instant::now();
                let response = connection.send("POST", &path, body).await?;
                let arrived = response.headers().get("x-received").cloned();
                let read = read(response).await?;
                let elapsed = start.elapsed();
                let arrived = arrived.and_then(|n| n.to_str().ok()?.parse().ok());
                if (if downloads { Some(read) } else { arrived }) != Some(length) {
                    return Err(format!("{path}: not all bytes arrived").into());
                }
                let cpu = contender.cpu_each(before.as_ref(), u64::from(mebibytes))?;
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
