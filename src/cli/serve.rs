//! `locum serve`.

use tokio::signal::unix::{SignalKind, signal};

use super::runtime;
use crate::app::{
    Activation, Failure, Home, Opened, ProxyOptions, Serving, nobody_to_ask, serve_lockable,
    start_log,
};
use crate::config::Config;

/// Arguments of `locum serve`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  locum serve\n  locum serve --home /srv/locum\n  locum serve --take-over\n  locum serve --locked"
)]
pub(super) struct Args {
    /// Go on over a damaged audit log, in a new chain; `audit verify` still names the damage
    #[arg(long)]
    accept_audit_damage: bool,
    /// Take the sockets of the proxy that runs on this home, and its place when it has finished;
    /// when none runs, just start
    #[arg(long)]
    take_over: bool,
    /// Listen, and answer 503, until `locum unlock` hands the key over. So it starts also when the vault
    /// wants a passphrase, and there is no terminal to ask on
    #[arg(long, conflicts_with = "take_over")]
    locked: bool,
}

pub(super) fn run(home: &Home, args: &Args) -> Result<(), Failure> {
    // Also the sockets that a service manager passes are taken before there are threads.
    let activation = Activation::take()?;
    // A passphrase is asked for before there are threads.
    let locked = args.locked || nobody_to_ask(home)?;
    let opened = if locked { None } else { Some(Opened::open(home)?) };
    match &opened {
        Some(opened) => start_log(&opened.config.log),
        None => start_log(&Config::load(&home.config(), home.path())?.log),
    }
    let accept_audit_damage = args.accept_audit_damage;
    let take_over = args.take_over;
    let options =
        ProxyOptions { accept_audit_damage, activation, take_over, ..ProxyOptions::default() };
    runtime()?.block_on(async {
        let locked = opened.is_none();
        let said = |serving: &Serving| {
            for place in serving.places() {
                super::output::note(&format!("locum: proxy on {place}"));
            }
            if let Some(address) = serving.ops {
                super::output::note(&format!("locum: operations on http://{address}"));
            }
            if locked {
                super::output::note("locum: locked; open it with `locum unlock`");
            }
        };
        serve_lockable(home, opened, options, stop_signal()?, said).await
    })
}

/// Resolves at the first SIGTERM or SIGINT. A second one ends the process as the system does.
pub(super) fn stop_signal() -> Result<impl Future<Output = ()> + Send, Failure> {
    let listen =
        |kind| signal(kind).map_err(|e| Failure::new(format!("signals cannot be waited for: {e}")));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
