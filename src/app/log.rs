//! The process log: structured lines on standard error.

use std::panic::PanicHookInfo;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Level, Log, LogFormat};

/// Starts logging. Only this crate's own lines are shown below `warn`, whatever the level: h2 says the words of a
/// GOAWAY and fields that are not allowed, in which an origin may hand a secret back, and others may yet say more
/// (`tests/trace.rs` knows what they say today).
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
}

const ENDED: &str = "a task has ended by a panic";

/// Has panics told on standard error, until there is a log.
pub fn tell_panics() {
    use std::io::Write as _;
    std::panic::set_hook(Box::new(|panic| {
        // Nobody is left to tell when the terminal is gone, and a panic here would end the process.
        let _ = writeln!(std::io::stderr(), "{ENDED}: {}", told(panic));
    }));
}

/// Where it was, and what it says if that stands in the source. The rest is made of values: an index that cuts a
/// character in two tells the whole text, and `unwrap` what it found.
fn told(panic: &PanicHookInfo<'_>) -> String {
    let place = panic.location().map_or_else(String::new, ToString::to_string);
    match panic.payload().downcast_ref::<&'static str>() {
        Some(said) => format!("{place}: {said}"),
        None => place,
    }
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
    std::panic::set_hook(Box::new(|panic| tracing::error!(panic = told(panic), "{ENDED}")));
    // A second start keeps the first.
    let _already_started = match settings.format {
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
        LogFormat::Text => registry.with(lines.with_ansi(colour)).try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set in the process of its own that the test starts: a hook is of the whole process.
    const INSIDE: &str = "LOCUM_TEST_PANICS";

    #[test]
    fn a_panic_tells_its_place_and_no_value() {
        if std::env::var_os(INSIDE).is_some() {
            tell_panics();
            let secret = std::hint::black_box(String::from("sk-canary-\u{e9}-secret"));
            let panics: [fn(&str); 4] = [
                |secret| panic!("it holds {secret}"),
                |secret| assert!(secret[..11].is_empty()),
                |secret| assert_eq!(secret.parse::<u8>().map_err(|_| secret).expect("a value"), 0),
                |_| panic!("what stands in the source"),
            ];
            for panics in panics {
                assert!(std::panic::catch_unwind(|| panics(&secret)).is_err());
            }
            return;
        }
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "app::log::tests::a_panic_tells_its_place_and_no_value"]);
        let ran = command.arg("--nocapture").env(INSIDE, "1").output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{said}");
        assert!(!said.contains("canary"), "{said}");
        assert_eq!(said.matches(&format!("{ENDED}: src/app/log.rs:")).count(), 4, "{said}");
        assert_eq!(said.matches("what stands in the source").count(), 1, "{said}");
    }
}
