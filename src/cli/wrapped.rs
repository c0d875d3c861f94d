//! What is said on the command line of a key of somebody else's that wraps the master key.

use crate::app::Failure;
use crate::credential::{Endpoint, VaultLogin, aws_endpoint};
use crate::vault::{KmsLogin, Wrapper};

/// A new key in the key file, wrapped by a key that stays where it is.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Wrapped")]
#[expect(clippy::doc_markdown, reason = "these are help texts, and names in them are plain")]
pub(super) struct WrappedArgs {
    /// Where OpenBao or HashiCorp Vault listens, with a transit key
    #[arg(long, value_name = "URL", requires = "transit_key", conflicts_with_all = ["passphrase", "passphrase_file", "key_file", "command"])]
    transit: Option<Endpoint>,
    /// The transit key's name
    #[arg(long, value_name = "NAME", requires = "transit")]
    transit_key: Option<String>,
    /// Where the transit engine is mounted
    #[arg(long, value_name = "PATH", default_value = "transit")]
    transit_mount: String,
    /// How it knows us: token-file:PATH, `approle:ROLE_ID` with --transit-secret-file, kubernetes:ROLE
    #[arg(long, value_name = "LOGIN", requires = "transit")]
    transit_login: Option<VaultLogin>,
    /// The private file with the `secret_id` of the AppRole
    #[arg(long, value_name = "FILE", requires = "transit")]
    transit_secret_file: Option<std::path::PathBuf>,
    /// Its namespace
    #[arg(long, value_name = "NAME", requires = "transit")]
    transit_namespace: Option<String>,
    /// A key of AWS KMS: its id, ARN or alias
    #[arg(long, value_name = "KEY", requires = "kms_login", conflicts_with_all = ["transit", "passphrase", "passphrase_file", "key_file", "command"])]
    kms: Option<String>,
    /// Its region, where an ARN does not say it
    #[arg(long, value_name = "REGION", requires = "kms")]
    kms_region: Option<String>,
    /// How KMS knows us: file:PATH with a key of AWS, environment, web-identity or instance
    #[arg(long, value_name = "LOGIN", requires = "kms", value_parser = kms_login)]
    kms_login: Option<KmsLogin>,
    /// Where KMS listens; by default the region's own
    #[arg(long, value_name = "URL", requires = "kms")]
    kms_url: Option<Endpoint>,
}

fn kms_login(text: &str) -> Result<KmsLogin, String> {
    match text.split_once(':') {
        Some(("file", path)) if path.starts_with('/') => {
            Ok(KmsLogin::File { path: path.to_owned() })
        }
        None if text == "environment" => Ok(KmsLogin::Environment),
        None if text == "web-identity" => Ok(KmsLogin::WebIdentity),
        None if text == "instance" => Ok(KmsLogin::Instance),
        _ => Err("it is file:PATH with a whole path, environment, web-identity or instance".into()),
    }
}

/// One segment of a path, or several.
fn is_plain(text: &str, slash: bool) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b) || (slash && b == b'/');
    let dots = text.split('/').any(|part| matches!(part, "" | "." | ".."));
    !dots && text.bytes().all(fits)
}

impl WrappedArgs {
    /// Whether anything is said.
    pub(super) fn is_said(&self) -> bool {
        self.transit.is_some() || self.kms.is_some()
    }

    /// Who wraps the key.
    pub(super) fn read(&self) -> Result<Wrapper, Failure> {
        match (&self.transit, &self.kms) {
            (Some(url), _) => self.transit(url),
            (None, Some(key)) => self.kms(key),
            (None, None) => Err(Failure::usage("nothing says who wraps the key")),
        }
    }

    fn transit(&self, url: &Endpoint) -> Result<Wrapper, Failure> {
        let key = self.transit_key.clone().unwrap_or_default();
        let mount = self.transit_mount.trim_matches('/').to_owned();
        if url.target() != "/" || !is_plain(&key, false) || !is_plain(&mount, true) {
            return Err(Failure::usage("the transit key cannot be named so")
                .help("--transit https://HOST:PORT --transit-key NAME --transit-mount PATH"));
        }
        let login = self.transit_login.clone().ok_or_else(|| {
            Failure::usage("nothing says how the vault knows us").help(
                "say it with --transit-login token-file:PATH, approle:ROLE_ID or kubernetes:ROLE",
            )
        })?;
        let secret_file = self.transit_secret_file.as_deref().map(std::path::absolute).transpose();
        let secret_file = secret_file.map_err(|e| Failure::usage(e.to_string()))?;
        let secret_file = secret_file.map(|path| path.display().to_string());
        match (&login, &secret_file) {
            (VaultLogin::Token, _) => {
                return Err(Failure::usage("a token that lies in no vault has to lie in a file")
                    .help("--transit-login token-file:PATH"));
            }
            (VaultLogin::Approle { .. }, None) => {
                return Err(Failure::usage("nothing says where the secret_id of the AppRole lies")
                    .help("--transit-secret-file FILE, a file that only this user can read"));
            }
            _ => {}
        }
        let (url, namespace) = (url.clone(), self.transit_namespace.clone());
        Ok(Wrapper::Transit { url, mount, key, login, secret_file, namespace })
    }

    fn kms(&self, key: &str) -> Result<Wrapper, Failure> {
        let own = match &*key.split(':').collect::<Vec<_>>() {
            ["arn", _, "kms", region, ..] => Some((*region).to_owned()),
            _ => None,
        };
        let region = self.kms_region.clone().or(own).filter(|region| is_plain(region, false));
        let region = region.ok_or_else(|| {
            Failure::usage("nothing says which region").help("say it with --kms-region")
        })?;
        let usual = || aws_endpoint("kms", &region);
        let url = self.kms_url.clone().or_else(usual).filter(|url| url.target() == "/");
        let url = url.ok_or_else(|| Failure::usage("expected https://HOST:PORT for --kms-url"))?;
        let login = self.kms_login.clone();
        let login = login.ok_or_else(|| Failure::usage("nothing says how KMS knows us"))?;
        Ok(Wrapper::Kms { url, region, key: key.to_owned(), login })
    }
}
