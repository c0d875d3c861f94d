//! `locum agent certificate`: a short-lived certificate by which an agent shows who it is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::output;
use crate::app::{Failure, Opened};
use crate::document::parse_duration;
use crate::files;
use crate::reference::Name;
use crate::tls::MAX_CLIENT_TTL;

/// The longest request for a certificate: one with an RSA key of 16,384 bits has 6 KiB.
const LONGEST: u64 = 64 << 10;

/// Arguments of `locum agent certificate`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  locum agent certificate researcher --ttl 12h --out /run/researcher\n  locum agent certificate researcher --csr researcher.csr --out /run/researcher\n  locum agent revoke researcher --certificate 5f0c…\n\nThe first one makes the CA for agents, whose certificate is agents-ca.pem in the home:\n  proxy.tls: {certificate: …, key: …, client_ca: agents-ca.pem}\n  identity.client_certificates: {name: spiffe, trust_domain: locum,\n                                 map: [{match: 'spiffe://locum/agent/*', agent: '{1}'}]}"
)]
pub(in crate::cli) struct Args {
    /// The agent's name
    name: Name,
    /// How long it is good for, at most 90d
    #[arg(long, value_name = "DURATION", value_parser = ttl, default_value = "24h")]
    ttl: Duration,
    /// A request (PKCS #10, PEM) whose key is to be certified, so that the key stays where it is.
    /// Without it, a key is made
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,
    /// The directory for NAME.pem and NAME.key
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Print agent, serial, id, end and files as JSON
    #[arg(long)]
    json: bool,
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_mins(1)..=MAX_CLIENT_TTL).contains(&ttl) {
        Ok(ttl)
    } else {
        Err("a certificate is good for 1m to 90d; issue it again before it ends".into())
    }
}

pub(super) fn run(opened: &mut Opened, args: &Args) -> Result<(), Failure> {
    let Args { name, out, .. } = args;
    let request = args.csr.as_deref().map(read).transpose()?;
    let issued = opened.issue_certificate(name, args.ttl, request.as_deref())?;
    let certificate = out.join(format!("{name}.pem"));
    let key = issued.key_pem.as_ref().map(|_| out.join(format!("{name}.key")));
    // The key first: a certificate without its key is worth nothing, and the pair before it stays a pair
    // for as long as can be.
    if let (Some(path), Some(pem)) = (&key, &issued.key_pem) {
        pem.expose(|pem| files::replace_private(path, pem))?;
    }
    files::replace_private(&certificate, issued.certificate_pem.as_bytes())?;
    let end = jiff::Timestamp::try_from(issued.not_after).map(jiff::Timestamp::as_second);
    let end = end.unwrap_or_default();
    if args.json {
        return output::json(&serde_json::json!({
            "agent": name, "serial": issued.serial, "id": issued.id, "expires": end,
            "certificate": certificate, "key": key,
        }));
    }
    output::line(&format!("{}, good until {}", certificate.display(), output::time(end)))?;
    if let Some(key) = &key {
        output::line(&format!("{}, its key", key.display()))?;
    }
    output::note(&format!(
        "It names {}. `locum agent revoke {name} --certificate {}` ends it.\nA listener believes its CA with `client_ca: agents-ca.pem` under proxy.tls; `--help` has the rest.",
        issued.id, issued.serial,
    ));
    Ok(())
}

fn read(path: &Path) -> Result<String, Failure> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = std::fs::File::open(path).map(|file| file.take(LONGEST));
    let read = file.and_then(|mut file| file.read_to_string(&mut text));
    read.map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    Ok(text)
}
