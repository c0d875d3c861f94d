//! Homes with many rules, agents and credentials in them, each agent with a rule and a credential of
//! its own. They are made through the library: one command for each would take a day.

use std::fmt::Write as _;
use std::fs;

use locum::app::{Home as LocumHome, Opened};
use locum::credential::Properties;
use locum::reference::Name;
use locum::secret::Secret;
use locum::vault::{NewCredential, Tier};

use super::Result;
use super::home::Home;
use super::origin::HOST;

/// Adds as many of each to a home that no proxy serves.
pub(crate) fn fill(home: &Home, count: u32) -> Result<()> {
    let mut agents = Vec::new();
    let mut credentials = Vec::new();
    for n in 0..count {
        agents.push(format!("agent-{n}").parse::<Name>()?);
        let new = NewCredential {
            name: format!("key-{n}").parse()?,
            provider: None,
            tier: Tier::Platform,
            tags: Vec::new(),
            destinations: vec![destination(n).parse()?],
            slots: vec!["header authorization: Bearer {secret}".parse()?],
            stand_in: None,
            properties: Properties::default(),
        };
        credentials.push((new, Secret::new(format!("a-secret-of-agent-{n}").into_bytes())));
    }
    let mut opened = Opened::open(&LocumHome::locate(Some(&home.path))?)?;
    opened.vault.add_all(&agents, &credentials)?;
    opened.changed()?;
    write_rules(home, count, "/v1/**")
}

/// Where the credential of the n-th agent may go: a third each to one host that all of these share,
/// to a host of their own, and to hosts of a pattern.
fn destination(n: u32) -> String {
    match n % 3 {
        0 => format!("https://{HOST}"),
        1 => format!("https://h{n}.test"),
        _ => format!("https://*.h{n}.test"),
    }
}

/// One rule for each, and last the one that lets the measured agent do what is in `paths`: in one
/// file, that takes the place of all that were there, or of itself.
pub(crate) fn write_rules(home: &Home, count: u32, paths: &str) -> Result<()> {
    let mut text = "version: 1\nrules:\n".to_owned();
    for n in 0..count {
        let to = destination(n);
        writeln!(
            text,
            "  - {{name: rule {n}, agents: [agent-{n}], to: ['{to}'], use: [key-{n}]}}"
        )?;
    }
    writeln!(
        text,
        "  - {{name: own, agents: [bench], to: ['https://{HOST}'], paths: [{paths}], use: [openai]}}"
    )?;
    let policies = home.path.join("policies");
    for entry in fs::read_dir(&policies)? {
        let file = entry?.path();
        if file.file_name().is_none_or(|name| name != "crowd.yaml") {
            fs::remove_file(file)?;
        }
    }
    let new = policies.join(".crowd.yaml.new");
    fs::write(&new, text)?;
    fs::rename(new, policies.join("crowd.yaml"))?;
    Ok(())
}
