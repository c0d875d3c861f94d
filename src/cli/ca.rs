//! `locum ca`: the certificate authority that agents trust.

use std::time::SystemTime;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::output::{self, Table};
use crate::app::{Failure, Home, Opened, is_published};
use crate::tls::CaInfo;

/// Subcommands of `locum ca`.
#[derive(Clone, Copy, Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Show the CA's certificate, and how clients come to trust it
    #[command(
        after_help = "Example:\n  locum ca show\n  locum ca show --pem > locum-ca.pem\n\nThe CA's key is in the vault, and no command shows it."
    )]
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Print the certificate alone, PEM
        #[arg(long, conflicts_with = "json")]
        pem: bool,
    },
    /// Make a new CA in the place of the one there
    #[command(
        after_help = "Example:\n  locum ca rotate\n\nAfterwards start the proxy again, and the agents, so that they read the new bundle."
    )]
    Rotate {
        /// Print the new CA as JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(home: &Home, command: Command) -> Result<(), Failure> {
    let mut opened = Opened::open(home)?;
    match command {
        Command::Show { json, pem } => show(&opened, json, pem),
        Command::Rotate { json } => rotate(&mut opened, json),
    }
}

fn show(opened: &Opened, json: bool, pem: bool) -> Result<(), Failure> {
    let certificate = opened.certificate()?;
    let home = &opened.home;
    if pem {
        return output::line(certificate.trim_end());
    }
    let info = CaInfo::read(&certificate)?;
    let published = is_published(home, &certificate);
    if json {
        let mut value = describe(&info, home);
        value["published"] = json!(published);
        value["certificate"] = json!(certificate);
        return output::json(&value);
    }
    let mut table = Table::new(&["subject", &info.subject]);
    let mut field = |key: &str, value: String| table.row(vec![key.to_owned(), value]);
    field("fingerprint", info.fingerprint());
    field("serial", info.serial.clone());
    field("valid from", time(info.not_before));
    field("valid until", format!("{}{}", time(info.not_after), remaining(&info)));
    field("certificate", home.ca().display().to_string());
    field("bundle", home.bundle().display().to_string());
    table.print()?;
    if !published {
        output::note(&format!(
            "warning: {} is not this certificate; `locum init` writes it anew",
            home.ca().display()
        ));
    }
    output::line(&trust(home))
}

/// How many days are left, when that is worth a word.
fn remaining(info: &CaInfo) -> String {
    const SOON: u64 = 60;
    match info.not_after.duration_since(SystemTime::now()) {
        Err(_) => ", expired: run `locum ca rotate`".to_owned(),
        Ok(left) => match left.as_secs() / 86_400 {
            days if days < SOON => format!(", {days} days left: run `locum ca rotate`"),
            _ => String::new(),
        },
    }
}

fn trust(home: &Home) -> String {
    let (ca, bundle) = (home.ca(), home.bundle());
    let (ca, bundle) = (ca.display(), bundle.display());
    format!(
        "
`locum run` and `locum env` set all that clients need. By hand:
  curl, Go, OpenSSL, Python, Ruby   SSL_CERT_FILE={bundle}
  Python requests, pip              REQUESTS_CA_BUNDLE={bundle}
  git                               GIT_SSL_CAINFO={bundle}
  AWS CLI and SDKs                  AWS_CA_BUNDLE={bundle}
  Node                              NODE_EXTRA_CA_CERTS={ca}
  Deno                              DENO_CERT={ca}
  Java                              keytool -importcert -alias locum -file {ca} -keystore locum.p12 -storetype PKCS12
  a container image (Debian)        copy {ca} to /usr/local/share/ca-certificates/locum.crt, run update-ca-certificates
The bundle has the system's roots too. Leave the store of a machine that people use as it is."
    )
}

fn rotate(opened: &mut Opened, json: bool) -> Result<(), Failure> {
    let info = opened.rotate_authority()?;
    let running = opened.running();
    if json {
        let mut value = describe(&info, &opened.home);
        value["restart_needed"] = json!(running.is_some());
        return output::json(&value);
    }
    output::line(&format!("made {}", info.subject))?;
    output::line(&format!("fingerprint {}", info.fingerprint()))?;
    if let Some(serving) = running {
        output::line(&format!(
            "the proxy that runs (pid {}) has the old CA: start it again",
            serving.pid
        ))?;
    }
    output::line(
        "start the agents again, so that they read the new bundle; where the old CA was installed by hand, install this one",
    )
}

fn describe(info: &CaInfo, home: &Home) -> Value {
    json!({
        "subject": info.subject,
        "serial": info.serial,
        "key_id": info.key_id,
        "fingerprint_sha256": info.fingerprint(),
        "not_before": time(info.not_before),
        "not_after": time(info.not_after),
        "ca_file": home.ca(),
        "bundle_file": home.bundle(),
    })
}

/// RFC 3339, in seconds.
fn time(time: SystemTime) -> String {
    let time = Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
