//! `locum unlock` and `locum lock`.

use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;

use zeroize::Zeroizing;

use serde_json::json;

use super::output::{self, Json};
use crate::app::{Failure, Home, ask_to_lock, ask_to_unlock};
use crate::secret::Secret;
use crate::vault::without_line_end;

/// The most bytes of a passphrase or a key file.
const MOST: u64 = 4096;

/// Arguments of `locum unlock`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  locum unlock\n  locum unlock --from-file /media/stick/master.key\n  locum unlock --configured\n\nWithout an option it asks for the passphrase, or takes it, or a key file's text, from standard input."
)]
pub(super) struct Args {
    /// Take the passphrase, or the key, from this file, which the proxy itself need not be able to read
    #[arg(long, value_name = "FILE", conflicts_with = "configured")]
    from_file: Option<PathBuf>,
    /// Hand nothing over: have the proxy take the key from where locum.yaml says, or have it unwrapped
    #[arg(long)]
    configured: bool,
    #[command(flatten)]
    json: Json,
}

/// Arguments of `locum lock`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  locum lock\n\nWhat is under way is broken off.")]
pub(super) struct LockArgs {
    #[command(flatten)]
    json: Json,
}

pub(super) fn unlock(home: &Home, args: &Args) -> Result<(), Failure> {
    let given = match &args.from_file {
        _ if args.configured => Secret::new(Vec::new()),
        Some(path) => {
            let failed = |e: std::io::Error| Failure::usage(format!("{}: {e}", path.display()));
            read(std::fs::File::open(path).map_err(failed)?).map_err(failed)?
        }
        None if std::io::stdin().is_terminal() => {
            let text = rpassword::prompt_password("Passphrase of the vault: ")
                .map_err(|e| Failure::new(format!("the passphrase could not be read: {e}")))?;
            Secret::new(text.into_bytes())
        }
        None => read(std::io::stdin().lock())
            .map_err(|e| Failure::usage(format!("standard input: {e}")))?,
    };
    if !args.configured && given.expose(<[u8]>::is_empty) {
        return Err(Failure::usage("nothing was handed over")
            .help("give the passphrase or the key; or say --configured"));
    }
    let said = ask_to_unlock(home, &given)?;
    args.json.tell(&json!({ "locked": false, "said": said }), || output::line(&said))
}

fn read(from: impl std::io::Read) -> std::io::Result<Secret> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(MOST).unwrap_or(0) + 1));
    from.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(std::io::Error::other("it is too long for a passphrase or a key"));
    }
    Ok(Secret::new(without_line_end(&bytes).to_vec()))
}

pub(super) fn lock(home: &Home, args: &LockArgs) -> Result<(), Failure> {
    let said = ask_to_lock(home)?;
    args.json.tell(&json!({ "locked": true, "said": said }), || output::line(&said))
}
