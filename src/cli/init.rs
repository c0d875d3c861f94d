//! `locum init`.

use std::path::PathBuf;

use super::output;
use crate::app::{Failure, Home, KeyChoice, init};
use crate::config::Passphrase;

/// Arguments of `locum init`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  locum init\n  locum init --strict\n  locum init --passphrase")]
pub(super) struct Args {
    /// Leave out the rule that tunnels the rest of the web
    #[arg(long)]
    strict: bool,
    /// Open the vault by a passphrase, asked for at each start, in place of a key file
    #[arg(long)]
    passphrase: bool,
    /// Open the vault by the passphrase in this private file
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase")]
    passphrase_file: Option<PathBuf>,
    /// Print what was made as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(home: &Home, args: &Args) -> Result<(), Failure> {
    let key = match &args.passphrase_file {
        Some(path) => {
            let path = std::path::absolute(path)
                .map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
            KeyChoice::Passphrase(Passphrase::File(path))
        }
        None if args.passphrase => KeyChoice::Passphrase(Passphrase::Prompt),
        None => KeyChoice::Config,
    };
    let init = init(home, args.strict, &key)?;
    if init.other_policy {
        output::note(&format!(
            "locum: --strict is for a new home, and changed nothing: policies are in {} already; to lock this home down, \
             take rules with `tunnel: opaque` out of them",
            home.policies().display()
        ));
    }
    let made: Vec<String> = init.made.iter().map(|path| path.display().to_string()).collect();
    if args.json {
        return output::json(&serde_json::json!({"home": home.path(), "made": made}));
    }
    if made.is_empty() {
        return output::line(&format!("{} has everything already", home.path().display()));
    }
    for path in &made {
        output::line(&format!("made {path}"))?;
    }
    output::line(&format!(
        "\nNext:\n  locum credential add openai --provider openai < key.txt\n  locum agent add researcher\n  locum run --agent researcher -- curl https://api.openai.com/v1/models\nRules are in {}",
        home.policies().display()
    ))
}
