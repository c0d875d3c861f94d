//! `locum agent certificate`: a short-lived certificate by which an agent shows who it is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::output::{self, Table, time_or_dash};
use super::super::way::Way;
use crate::admin::orders::certificates::{
    IssueCertificate, IssuedCertificate, ListCertificates, Wanted, checked,
};
use crate::app::Failure;
use crate::document::parse_duration;
use crate::files;
use crate::reference::Name;
use crate::tls::client_request;

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
    checked(ttl).map_err(str::to_owned)
}

pub(super) fn run(way: &mut Way, args: &Args) -> Result<(), Failure> {
    let Args { name, out, .. } = args;
    // A key that is made is made here: whoever issues the certificate never has it.
    let (own, csr) = match &args.csr {
        Some(file) => (None, read(file)?),
        None => client_request().map(|(key, request)| (Some(key), request))?,
    };
    let wanted = Wanted { csr, ttl: Some(args.ttl.as_secs()) };
    let issued = way.order(IssueCertificate { agent: name.clone(), wanted })?;
    let certificate = out.join(format!("{name}.pem"));
    let key = own.as_ref().map(|_| out.join(format!("{name}.key")));
    // The key first: a certificate without its key is worth nothing, and the pair before it stays a pair
    // for as long as can be.
    if let (Some(path), Some(pem)) = (&key, &own) {
        pem.expose(|pem| files::replace_private(path, pem))?;
    }
    files::replace_private(&certificate, issued.certificate.as_bytes())?;
    let IssuedCertificate { serial, id, expires, .. } = issued;
    if args.json {
        return output::json(&serde_json::json!({
            "agent": name, "serial": serial, "id": id, "expires": expires,
            "certificate": certificate, "key": key,
        }));
    }
    output::line(&format!("{}, good until {}", certificate.display(), output::time(expires)))?;
    if let Some(key) = &key {
        output::line(&format!("{}, its key", key.display()))?;
    }
    output::note(&format!(
        "It names {id}. `locum agent revoke {name} --certificate {serial}` ends it.\nA listener believes its CA with `client_ca: agents-ca.pem` under proxy.tls; `--help` has the rest.",
    ));
    Ok(())
}

/// Those that may still be good.
pub(super) fn list(way: &mut Way, agent: Name, json: bool) -> Result<(), Failure> {
    let all = way.order(ListCertificates { agent })?;
    if json {
        return output::json(&all);
    }
    let mut table = Table::new(&["SERIAL", "ISSUED", "REVOKED"]);
    for one in all {
        let (issued, revoked) = (output::time(one.issued), time_or_dash(one.revoked));
        table.row(vec![one.serial, issued, revoked]);
    }
    table.print()
}

fn read(path: &Path) -> Result<String, Failure> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = std::fs::File::open(path).map(|file| file.take(LONGEST));
    let read = file.and_then(|mut file| file.read_to_string(&mut text));
    read.map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    Ok(text)
}
