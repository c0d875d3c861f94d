//! What is said of a source on the command line.

use super::Value;
use crate::admin::orders::kinds::{AtSource, LONGEST};
use crate::app::Failure;
use crate::credential::{Endpoint, Source};
use crate::document::parse_duration;
use crate::reference::Name;
use crate::secret::Secret;

/// Where the secret lies, if not in Locum's own vault.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Sources")]
pub(super) struct SourceArgs {
    /// Where the secret lies: `vault:PATH#FIELD`, `aws:SECRET#FIELD`, `gcp:NAME`, `azure:NAME`,
    /// `file:PATH`, `env:NAME`, `systemd:NAME` or `command:LIST`; docs/SOURCES.md has all about each
    #[arg(long, value_name = "SOURCE", conflicts_with_all = ["captured", "honeytoken"])]
    source: Option<String>,
    /// Where the other vault listens; AWS and Google are known
    #[arg(long, value_name = "URL", requires = "source")]
    source_url: Option<Endpoint>,
    /// How it knows us. A vault: token (the default) or `approle:ROLE_ID`, whose secret half is given
    /// as a secret is; token-file:PATH; kubernetes:ROLE. A cloud: credential:NAME; instance;
    /// environment; web-identity
    #[arg(long, value_name = "LOGIN", requires = "source")]
    source_login: Option<String>,
    /// The region of AWS, where the secret's ARN does not say it
    #[arg(long, value_name = "REGION", requires = "source")]
    source_region: Option<String>,
    /// Which version: of AWS a label such as AWSPREVIOUS, or id:ID; by default the current one
    #[arg(long, value_name = "VERSION", requires = "source")]
    source_version: Option<String>,
    /// The other vault's namespace
    #[arg(long, value_name = "NAME", requires = "source")]
    source_namespace: Option<String>,
    /// After what time it is looked for again [default: 5m, of files and variables 10s]
    #[arg(long, value_name = "DURATION", requires = "source", value_parser = seconds)]
    source_refresh: Option<u32>,
    /// For what time more the last value is used when it cannot be had [default: 1h]
    #[arg(long, value_name = "DURATION", requires = "source", value_parser = seconds)]
    source_stale: Option<u32>,
}

fn seconds(text: &str) -> Result<u32, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    let seconds = u32::try_from(duration.as_secs()).ok().filter(|seconds| *seconds <= LONGEST);
    seconds.ok_or_else(|| "it is a day at most".to_owned())
}

impl SourceArgs {
    /// The source, if one is named, and the words for it.
    pub(super) fn read(&self) -> Result<Option<(AtSource, Source)>, Failure> {
        let Some(from) = self.source.clone() else { return Ok(None) };
        let words = AtSource {
            from,
            url: self.source_url.clone(),
            login: self.source_login.clone(),
            namespace: self.source_namespace.clone(),
            region: self.source_region.clone(),
            version: self.source_version.clone(),
            refresh: self.source_refresh,
            stale: self.source_stale,
        };
        let source = words.read()?;
        Ok(Some((words, source)))
    }

    /// What our own vault keeps for it: what the source asks its callers for, if it asks for anything.
    pub(super) fn login(
        source: &Source,
        value: &Value,
        name: &Name,
    ) -> Result<Option<Secret>, Failure> {
        if source.wants_login() {
            return value.read(&format!("Login of {name} at its source: ")).map(Some);
        }
        if value.from_env.is_some() || value.from_file.is_some() {
            return Err(Failure::usage("a source that asks for no login takes no secret")
                .help("leave --from-env and --from-file out"));
        }
        Ok(None)
    }
}
