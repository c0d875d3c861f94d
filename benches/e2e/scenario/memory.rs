//! Memory: resident, of the whole tree of processes.

use std::time::Duration;

use super::super::contender::{Field, Kind};
use super::super::load::closed_loop;
use super::super::report::{Column, Table};
use super::super::{Result, descriptors};
use super::{EVERYONE, Figures, Size, note};

const COLUMNS: [Column; 4] = [
    Column::new("at rest MiB", 1),
    Column::new("KiB/idle tunnel", 1).with_ratio(),
    Column::new("after load MiB", 1),
    Column::new("peak MiB", 1),
];

/// What a process has open besides its tunnels.
const OTHER_FILES: u64 = 256;

/// What takes an interpreter minutes is not asked of it.
const PATIENCE: u64 = 1_000;

/// The title of one of these tables.
pub(crate) fn title(tunnels: u64) -> String {
    format!("memory, {tunnels} tunnels")
}

/// As many as were asked for, or fewer: a proxy has two descriptors for each.
pub(crate) fn attainable(tunnels: u64) -> u64 {
    tunnels.min((descriptors() - OTHER_FILES) / 2)
}

pub(super) async fn memory(field: &Field, size: &Size) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for &tunnels in &size.tunnels {
        let tunnels = attainable(tunnels) / u64::from(size.shrink);
        let mut table = Table::new(title(tunnels), &COLUMNS);
        for kind in size.chosen(field, &EVERYONE[1..]) {
            if kind == Kind::Mitmproxy && tunnels > PATIENCE {
                continue;
            }
            eprintln!("{kind} with {tunnels} tunnels ...");
            note(&mut table, kind, measure(field, kind, tunnels, size).await)?;
        }
        tables.push(table);
    }
    Ok(tables)
}

async fn measure(field: &Field, kind: Kind, tunnels: u64, size: &Size) -> Result<Figures> {
    let contender = field.start(kind, size.first_http())?;
    let process = contender.process.as_ref().ok_or("no process")?;
    settle().await;
    let rest = process.resident()?;
    // What is made once is not the tunnels'.
    drop(contender.way.open_many(contender.host, 4).await?);
    settle().await;
    let warm = process.resident()?;
    let mut open = contender.way.open_many(contender.host, usize::try_from(tunnels)?).await?;
    settle().await;
    let idle = process.resident()?;
    closed_loop(&mut open, size.long() * 3).await?;
    drop(open);
    settle().await;
    Ok(vec![
        Some(mebibytes(rest)),
        Some(mebibytes(idle.saturating_sub(warm)) * 1024.0 / tunnels as f64),
        Some(mebibytes(process.resident()?)),
        Some(mebibytes(process.peak()?)),
    ])
}

/// Long enough for tasks that were woken to have run, and buffers to have gone.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

pub(super) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
