//! Answers that take long: events, and a gibibyte.

use std::time::{Duration, Instant};

use http::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::task::JoinSet;

use super::super::Result;
use super::super::body::{Body, now};
use super::super::client::{Connection, read};
use super::super::contender::{Contender, Field, Kind};
use super::super::load::Latency;
use super::super::report::{Column, Table};
use super::{EVERYONE, Figures, Size, in_turn, note, start_all};

/// And the one whose answers are not searched, which tells what the search costs.
fn all() -> Vec<Kind> {
    EVERYONE.into_iter().chain([Kind::LocumUnsearched]).collect()
}

/// The titles of the tables. A run that is quick has fewer bytes, and says so.
pub(crate) const EVENTS: &str = "events, 8 streams, one in 5 ms each";
pub(crate) const DOWN: &str = "1024 MiB down";
pub(crate) const UP: &str = "1024 MiB up";

pub(super) async fn events(field: &Field, size: &Size) -> Result<Vec<Table>> {
    const COLUMNS: [Column; 4] = [
        Column::new("CPU us/event", 1).with_ratio(),
        Column::new("p50 us", 0),
        Column::new("p99 us", 0),
        Column::new("max us", 0),
    ];
    let mut table = Table::new(EVENTS, &COLUMNS);
    let count = 250 / size.shrink.min(25);
    let mut contenders = start_all(field, &all(), size, size.first_http()).await?;
    for round in 0..size.rounds {
        for contender in in_turn(&mut contenders, round) {
            let measured = listen_to_all(contender, count).await;
            note(&mut table, contender.kind, measured)?;
        }
    }
    Ok(vec![table])
}

async fn listen_to_all(contender: &Contender, count: u32) -> Result<Figures> {
    const STREAMS: usize = 8;
    let open = contender.way.open_many(contender.host, STREAMS).await?;
    let before = contender.cpu()?;
    let mut streams = JoinSet::new();
    for connection in open {
        streams.spawn_local(listen(
            connection,
            contender.path(&format!("/events/{count}/5")),
            count,
        ));
    }
    let mut latency = Latency::new()?;
    while let Some(delays) = streams.join_next().await {
        delays??.into_iter().for_each(|delay| latency.record(delay));
    }
    Ok(vec![
        contender.cpu_each(before.as_ref(), latency.count())?,
        Some(latency.quantile(0.5)),
        Some(latency.quantile(0.99)),
        Some(latency.quantile(1.0)),
    ])
}

/// How long each event of a stream was on its way.
async fn listen(mut connection: Connection, path: String, count: u32) -> Result<Vec<Duration>> {
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
    let mut down = Table::new(format!("{mebibytes} MiB down"), &COLUMNS);
    let mut up = Table::new(format!("{mebibytes} MiB up"), &COLUMNS);
    let mut contenders = start_all(field, &all(), size, size.first_http()).await?;
    // Seconds each, and steady in themselves.
    for round in 0..size.rounds.min(3) {
        for contender in in_turn(&mut contenders, round) {
            note(&mut down, contender.kind, download(contender, mebibytes).await)?;
            note(&mut up, contender.kind, upload(contender, mebibytes).await)?;
        }
    }
    Ok(vec![down, up])
}

async fn download(contender: &Contender, mebibytes: u32) -> Result<Figures> {
    let path = contender.path(&format!("/text/{mebibytes}"));
    transfer(contender, mebibytes, &path, Body::empty(), async |response| read(response).await)
        .await
}

async fn upload(contender: &Contender, mebibytes: u32) -> Result<Figures> {
    let body = Body::Text(u64::from(mebibytes) << 20);
    let arrived = async |response: Response<Incoming>| {
        let length = response.headers().get("x-received").ok_or("no length")?.to_str()?.parse()?;
        read(response).await?;
        Ok(length)
    };
    transfer(contender, mebibytes, "/v1/files", body, arrived).await
}

/// Sends a body, and takes from the answer how many bytes arrived at the far end of the transfer.
async fn transfer(
    contender: &Contender,
    mebibytes: u32,
    path: &str,
    body: Body,
    arrived: impl AsyncFnOnce(Response<Incoming>) -> Result<u64>,
) -> Result<Figures> {
    let open = contender.way.open_many(contender.host, 1).await?;
    let mut connection = open.into_iter().next().ok_or("no connection")?;
    let before = contender.cpu()?;
    let start = Instant::now();
    let length = arrived(connection.send("POST", path, body).await?).await?;
    let elapsed = start.elapsed();
    if length != u64::from(mebibytes) << 20 {
        return Err(format!("{path}: only {length} bytes arrived").into());
    }
    let cpu = contender.cpu_each(before.as_ref(), u64::from(mebibytes))?;
    Ok(vec![
        Some(f64::from(mebibytes) / elapsed.as_secs_f64()),
        cpu.map(|each| each * 1024.0 / 1000.0),
    ])
}
