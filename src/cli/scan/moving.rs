//! `locum scan --move`: the keys that were found go into the vault, and their placeholders into the files.
//!
//! A file is replaced only after the vault has committed what was in it, and only if it is still what was
//! read. A second run, also after one that was killed, finds in the vault what it would add.

use std::collections::HashSet;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::ops::Range;
use std::path::Path;

use serde::Serialize;
use zeroize::Zeroizing;

use super::shapes::{Hit, What};
use super::{Finding, Start, hits, tree};
use crate::app::{Failure, Opened};
use crate::catalog::Provider;
use crate::cli::import::{self, Found};
use crate::cli::output;
use crate::files;
use crate::reference::Name;
use crate::secret::Secret;
use crate::vault::{CredentialInfo, NewCredential, validate_secret};

/// What became of a key.
#[derive(Debug, Serialize)]
pub(super) struct Moved {
    pub(super) path: String,
    pub(super) line: usize,
    pub(super) kind: &'static str,
    /// Whose value it is now; none when the key stays where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) credential: Option<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) placeholder: Option<String>,
    /// Why it stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

/// Moves what can be moved of `findings`, file by file.
pub(super) fn all(
    opened: &mut Opened,
    root: &Path,
    findings: &[Finding],
    yes: bool,
) -> Result<Vec<Moved>, Failure> {
    let mut paths: Vec<&str> = findings.iter().map(|finding| finding.path.as_str()).collect();
    paths.sort_unstable();
    paths.dedup();
    let mut moved = Vec::new();
    for path in paths {
        moved.extend(in_file(opened, root, (path, findings), yes)?);
    }
    Ok(moved)
}

/// What is to be done in one file.
#[derive(Default)]
struct Plan {
    spans: Vec<(Range<usize>, String)>,
    new: Vec<(NewCredential, Secret)>,
    moved: Vec<Moved>,
}

fn in_file(
    opened: &mut Opened,
    root: &Path,
    (shown, findings): (&str, &[Finding]),
    yes: bool,
) -> Result<Vec<Moved>, Failure> {
    // `join` gives the file itself where the root is one.
    let path = if root.is_file() { root.to_owned() } else { root.join(shown) };
    let text = match tree::read(&path) {
        Ok(Some(text)) => text,
        Ok(None) => return Ok(Vec::new()),
        Err(error) => return Ok(stay(findings, shown, &error)),
    };
    let there = opened.vault.credentials()?;
    let mut taken: HashSet<String> = there.iter().map(|c| c.name.to_string()).collect();
    taken.extend(opened.vault.sets()?.into_iter().map(|set| set.name.to_string()));
    let mut plan = Plan::default();
    for hit in hits(shown, &text) {
        plan.add(opened, (shown, &text), &hit, (&there, &mut taken), yes)?;
    }
    for (new, value) in &plan.new {
        opened.vault.add_credential(new, value)?;
    }
    if !plan.new.is_empty() {
        opened.changed()?;
    }
    if !plan.spans.is_empty() {
        let spans: Vec<_> = plan.spans.iter().map(|(at, new)| (at.clone(), new.as_str())).collect();
        files::replace_own(&path, &text, &import::replace(&text, &spans))?;
    }
    Ok(plan.moved)
}

/// The keys of a file that stays as it is.
fn stay(findings: &[Finding], path: &str, error: &std::io::Error) -> Vec<Moved> {
    let here = findings.iter().filter(|finding| finding.path == path);
    let moved = here.map(|finding| Moved {
        path: finding.path.clone(),
        line: finding.line,
        kind: finding.kind,
        credential: None,
        placeholder: None,
        why: Some(error.to_string()),
    });
    moved.collect()
}

impl Plan {
    fn add(
        &mut self,
        opened: &Opened,
        (shown, text): (&str, &Zeroizing<Vec<u8>>),
        hit: &Hit,
        (there, taken): (&[CredentialInfo], &mut HashSet<String>),
        yes: bool,
    ) -> Result<(), Failure> {
        let finding = Finding::new(shown, text, hit, &Start::default());
        let mut done = Moved {
            path: finding.path.clone(),
            line: finding.line,
            kind: finding.kind,
            credential: None,
            placeholder: None,
            why: None,
        };
        let value = text.get(hit.span.clone()).unwrap_or_default();
        let target = match usable(hit, value) {
            Ok(provider) => self.target(opened, provider, value, (there, taken))?,
            Err(why) => Err(why),
        };
        match target {
            Ok((name, placeholder, new)) => {
                if yes || agreed(&finding, &name)? {
                    taken.insert(name.to_string());
                    self.new.extend(new.map(|new| (new, Secret::new(value.to_vec()))));
                    self.spans.push((hit.span.clone(), placeholder.clone()));
                    (done.credential, done.placeholder) = (Some(name), Some(placeholder));
                } else {
                    done.why = Some("not wanted".to_owned());
                }
            }
            Err(why) => done.why = Some(why),
        }
        self.moved.push(done);
        Ok(())
    }

    /// The credential that a value belongs to: one of the vault, one of this plan, or a new one; or why
    /// there can be none.
    #[allow(clippy::type_complexity)] // Two ways to fail: for this key, and for all.
    fn target(
        &self,
        opened: &Opened,
        provider: &'static Provider,
        value: &[u8],
        (there, taken): (&[CredentialInfo], &HashSet<String>),
    ) -> Result<Result<(Name, String, Option<NewCredential>), String>, Failure> {
        let secret = Secret::new(value.to_vec());
        let fingerprint = opened.vault.fingerprint(&secret);
        match import::found(there, provider.id(), fingerprint) {
            Found::Current(info) => return Ok(Ok((info.name.clone(), placeholder(info), None))),
            Found::Ended(why) => return Ok(Err(why)),
            Found::None => {}
        }
        let same = |(new, planned): &&(NewCredential, Secret)| {
            new.provider.as_deref() == Some(provider.id())
                && opened.vault.fingerprint(planned) == fingerprint
        };
        if let Some((new, _)) = self.new.iter().find(same) {
            return Ok(Ok((new.name.clone(), placeholder_of(new), None)));
        }
        let name = import::free_name(provider.id(), taken)?;
        let new = import::new_credential(name.clone(), provider, None)?;
        Ok(Ok((name, placeholder_of(&new), Some(new))))
    }
}

fn placeholder(info: &CredentialInfo) -> String {
    info.stand_in.clone().unwrap_or_else(|| info.name.reference())
}

fn placeholder_of(new: &NewCredential) -> String {
    new.stand_in.clone().unwrap_or_else(|| new.name.reference())
}

/// The provider whose key it is, if that is enough to go by.
fn usable(hit: &Hit, value: &[u8]) -> Result<&'static Provider, String> {
    let provider = match hit.what {
        What::Provider(provider) => provider,
        What::PrivateKey => return Err("a private key; nothing says what it opens".to_owned()),
        What::Assigned | What::WebToken => return Err("nothing says where it goes".to_owned()),
    };
    if !hit.whole {
        return Err(format!(
            "where the key begins and ends cannot be told for certain; give it to `locum credential add NAME --provider {}`",
            provider.id()
        ));
    }
    import::cannot_be_used(provider, None).map_or(Ok(()), Err)?;
    validate_secret(value, false).map_err(|problem| problem.to_string())?;
    Ok(provider)
}

/// Asks the person at the terminal.
fn agreed(finding: &Finding, name: &Name) -> Result<bool, Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::usage("--move asks for each key, and there is no terminal")
            .help("add --yes to move all that can be moved"));
    }
    let Finding { path, line, name: kind, prefix, .. } = finding;
    let path = output::plain(path);
    eprint!("{path}:{line}: move the {kind} key {prefix}… into the vault, as {name}? [y/N] ");
    let asked = |e: std::io::Error| Failure::new(format!("the answer could not be read: {e}"));
    std::io::stderr().flush().map_err(asked)?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).map_err(asked)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The report, as a table.
pub(super) fn report(moved: &[Moved]) -> Result<(), Failure> {
    let mut table = output::Table::new(&["PLACE", "CREDENTIAL", "PLACEHOLDER"]);
    for one in moved {
        table.row(vec![
            format!("{}:{}", output::plain(&one.path), one.line),
            one.credential.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            one.placeholder
                .clone()
                .unwrap_or_else(|| format!("stays: {}", one.why.as_deref().unwrap_or("-"))),
        ]);
    }
    table.print()?;
    if moved.iter().any(|one| one.credential.is_some()) {
        output::note(
            "A key that was in a file may be in its history and its backups. To be sure, make a new one at the provider, and give it to `locum credential rotate`.",
        );
    }
    Ok(())
}
