//! How the client loads what is between it and the origin: in a closed loop, where each request is sent
//! when the one before it was answered in full, or at a fixed pace.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use super::Result;
use super::client::Connection;

/// What a run of calls took.
pub(crate) struct Run {
    pub(crate) elapsed: Duration,
    pub(crate) latency: Latency,
}

/// Times in nanoseconds, to three digits.
pub(crate) struct Latency(Histogram<u32>);

impl Latency {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(Histogram::new_with_bounds(100, 60_000_000_000, 3)?))
    }

    pub(crate) fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// In microseconds.
    #[allow(clippy::cast_precision_loss)] // Far below 2^52 nanoseconds.
    pub(crate) fn quantile(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// Makes `count` calls over the connections in turn, one in each millisecond, whether or not the one
/// before was answered. The runtime's timers have just this step, so no two calls start together.
/// Who cannot keep this pace is not asked for more when the time is over.
pub(crate) async fn paced(connections: &mut Vec<Connection>, count: u32) -> Result<Run> {
    const EVERY: Duration = Duration::from_millis(1);
    let many = u32::try_from(connections.len())?;
    let start = tokio::time::Instant::now() + EVERY;
    let mut running = JoinSet::new();
    for (mut connection, first) in connections.drain(..).zip(0..) {
        running.spawn_local(async move {
            let mut times = Vec::new();
            for at in (first..count).step_by(many as usize) {
                if start.elapsed() > EVERY * count {
                    break;
                }
                let due = start + EVERY * at;
                // What the call before made late has waited since its own time.
                let late = tokio::time::Instant::now().saturating_duration_since(due);
                tokio::time::sleep_until(due).await;
                let sent = Instant::now();
                connection.call().await?;
                times.push(sent.elapsed() + late);
            }
            Result::Ok((connection, times))
        });
    }
    let mut latency = Latency::new()?;
    while let Some(done) = running.join_next().await {
        let (connection, times) = done??;
        connections.push(connection);
        for time in times {
            latency.record(time);
        }
    }
    Ok(Run { elapsed: start.elapsed(), latency })
}

/// Makes calls over all connections for so long, each taking the next as soon as it is free.
pub(crate) async fn closed_loop(connections: &mut Vec<Connection>, long: Duration) -> Result<Run> {
    let latency = Rc::new(RefCell::new(Latency::new()?));
    let start = Instant::now();
    let mut running = JoinSet::new();
    for mut connection in connections.drain(..) {
        let latency = Rc::clone(&latency);
        running.spawn_local(async move {
            while start.elapsed() < long {
                let sent = Instant::now();
                connection.call().await?;
                latency.borrow_mut().record(sent.elapsed());
            }
            Result::Ok(connection)
        });
    }
    while let Some(done) = running.join_next().await {
        connections.push(done??);
    }
    let elapsed = start.elapsed();
    let latency = Rc::into_inner(latency).ok_or("a call is still running")?.into_inner();
    Ok(Run { elapsed, latency })
}
