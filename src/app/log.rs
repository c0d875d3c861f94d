//! The process log: structured lines on standard error.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Level, Log, LogFormat};

/// Starts logging. Only this crate's own lines are shown below `warn`, whatever the level: the trace
/// lines of HTTP and TLS libraries have headers in them, and headers have secrets in them.
pub fn start(settings: &Log) {
    use std::io::IsTerminal as _;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    start_with(*settings, std::io::stderr, colour);
}

/// The same, where somebody else shows the lines. Panics are among them.
pub(super) fn start_to<W>(settings: Log, to: W)
where
    W: std::io::Write + Clone + Send + Sync + 'static,
{
    start_with(settings, move || to.clone(), false);
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a task has ended by a panic")));
}

fn start_with<W>(settings: Log, to: W, colour: bool)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let level = match settings.level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let others = level.min(LevelFilter::WARN);
    let targets = Targets::new().with_default(others).with_target("locum", level);
    let registry = tracing_subscriber::registry().with(targets);
    let lines = tracing_subscriber::fmt::layer().with_writer(to).with_target(false);
    // A second start keeps the first.
    let _already_started = match settings.format {
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
        LogFormat::Text => registry.with(lines.with_ansi(colour)).try_init(),
    };
}
