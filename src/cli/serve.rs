//! `locum serve`.

use tokio::signal::unix::{SignalKind, signal};

use super::runtime;
use crate::app::{Activation, Failure, Home, Opened, Proxy, ProxyOptions, start_log};

/// Arguments of `locum serve`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  locum serve\n  locum serve --home /srv/locum\n  locum serve --take-over"
)]
pub(super) struct Args {
    /// Go on over a damaged audit log, in a new chain; `audit verify` still names the damage
    #[arg(long)]
    accept_audit_damage: bool,
    /// Take the sockets of the proxy that runs on this home, and its place when it has finished;
    /// when none runs, just start
    #[arg(long)]
    take_over: bool,
}

pub(super) fn run(home: &Home, args: &Args) -> Result<(), Failure> {
    // Also the sockets that a service manager passes are taken before there are threads.
    let activation = Activation::take()?;
    // A passphrase is asked for before there are threads.
    let opened = Opened::open(home)?;
    start_log(&opened.config.log);
    let accept_audit_damage = args.accept_audit_damage;
    let take_over = args.take_over;
    let options =
        ProxyOptions { accept_audit_damage, activation, take_over, ..ProxyOptions::default() };
    runtime()?.block_on(async {
        let stop = stop_signal()?;
        let drain = opened.config.limits.drain;
        let proxy = Proxy::start_opened(opened, options).await?;
        for place in proxy.serving.places() {
            super::output::note(&format!("locum: proxy on {place}"));
        }
        if let Some(address) = proxy.serving.ops {
            super::output::note(&format!("locum: operations on http://{address}"));
        }
        proxy.serve(stop, drain).await
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
