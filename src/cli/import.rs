//! `locum credential import`: the keys of a `.env` file go into the vault, and placeholders take
//! their place in the file.
//!
//! Everything is looked at before anything is changed, and the file is replaced only after the vault
//! has committed. A second run, also after one that was killed, finds in the vault what it would add.

mod dotenv;

use std::collections::HashSet;
use std::io::Read as _;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use memchr::memmem;
use serde_json::json;
use zeroize::Zeroizing;

use super::credential::{provider_slots, provider_to};
use super::output::{self, Table};
use crate::app::{Failure, Opened, VARIABLE_TAG};
use crate::catalog::{Catalog, Provider};
use crate::credential::Properties;
use crate::files;
use crate::reference::{self, Name};
use crate::secret::Secret;
use crate::vault::{
    CredentialInfo, Fingerprint, NewCredential, Tier, Vault, VersionState, validate_secret,
};
use dotenv::Assignment;
pub(super) use dotenv::replace;

/// Arguments of `locum credential import`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The .env file
    file: PathBuf,
    /// Write the placeholders into the file, in place of the keys
    #[arg(long)]
    replace: bool,
    /// Only these variables. Repeatable
    #[arg(long, value_name = "VAR", num_args = 1..)]
    only: Vec<String>,
    /// Accept keys of under 8 bytes, though such texts turn up in answers by chance
    #[arg(long)]
    force_short: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(opened: &mut Opened, args: &Args) -> Result<(), Failure> {
    let text = read(&args.file)?;
    let plan = Plan::make(&opened.vault, &text, args)?;
    plan.add_to(opened)?;
    let new = plan.rewrite(&text);
    if args.replace && *new != *text {
        let other_names = std::fs::metadata(&args.file).is_ok_and(|file| file.nlink() > 1);
        files::replace_own(&args.file, &text, &new)?;
        if other_names {
            let file = args.file.display();
            output::note(&format!(
                "warning: {file} had another name (a hard link), which still has the keys"
            ));
        }
    }
    plan.report(args)?;
    plan.warn(if args.replace { &new } else { &[] }, args);
    Ok(())
}

/// Far more than any such file has.
const LIMIT: usize = 1024 * 1024;

/// Reads the file into one buffer that is wiped. How private it is, is its owner's to say.
fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let failed = |e: std::io::Error| Failure::usage(format!("{}: {e}", path.display()));
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(Failure::usage(format!("{} is not a plain file", path.display())));
    }
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = Zeroizing::new(Vec::with_capacity(LIMIT + 1));
    file.take(LIMIT as u64 + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() > LIMIT {
        return Err(Failure::usage(format!("{} is too long for a .env file", path.display())));
    }
    Ok(text)
}

/// What is to be done, all of it checked.
struct Plan {
    imports: Vec<Import>,
    left: Vec<Left>,
    credentials: Vec<Planned>,
}

/// A variable whose value has a place in the vault.
struct Import {
    variable: String,
    line: usize,
    span: Range<usize>,
    /// Which of the plan's credentials has its value.
    credential: usize,
}

/// A variable that stays as it is.
struct Left {
    variable: String,
    line: usize,
    why: String,
}

/// A credential that is there, or will be.
struct Planned {
    name: Name,
    provider: &'static Provider,
    placeholder: String,
    value: Secret,
    fingerprint: Fingerprint,
    /// What is to be added; none when the vault has it.
    new: Option<NewCredential>,
}

/// A variable whose value may go into the vault.
struct Candidate {
    assignment: Assignment,
    provider: &'static Provider,
    value: Secret,
    fingerprint: Fingerprint,
}

impl Candidate {
    /// Whether it is the value of that credential.
    fn is_of(&self, planned: &Planned) -> bool {
        planned.provider.id() == self.provider.id() && planned.fingerprint == self.fingerprint
    }
}

/// What a look at one variable leads to.
enum Look {
    Candidate(Candidate),
    Left(String),
    /// It should go into the vault, and cannot.
    Problem(String),
}

impl Plan {
    fn make(vault: &Vault, text: &[u8], args: &Args) -> Result<Self, Failure> {
        let assignments = dotenv::parse(text);
        let (mut candidates, mut left, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        problems.extend(missing(&args.only, &assignments));
        for assignment in assignments {
            let (variable, line) = (assignment.name.clone(), assignment.line);
            let value = text.get(assignment.span.clone()).unwrap_or_default();
            match look(vault, assignment, value, args) {
                Look::Candidate(candidate) => candidates.push(candidate),
                Look::Left(why) => left.push(Left { variable, line, why }),
                Look::Problem(why) => problems.push(format!("line {line}: {variable}: {why}")),
            }
        }
        problems.extend(contradictions(&candidates));
        if !problems.is_empty() {
            let file = args.file.display();
            let text = problems.join("\n  ");
            return Err(Failure::usage(format!("nothing was imported from {file}:\n  {text}"))
                .help("mend the file, or name the variables to import with --only"));
        }
        let mut plan = Self { imports: Vec::new(), left, credentials: Vec::new() };
        plan.name_all(vault, candidates)?;
        Ok(plan)
    }

    /// Finds a credential for each value: one that is there, or a new one with a name of its own.
    fn name_all(&mut self, vault: &Vault, candidates: Vec<Candidate>) -> Result<(), Failure> {
        let there = vault.credentials()?;
        let mut taken: HashSet<String> = there.iter().map(|c| c.name.to_string()).collect();
        taken.extend(vault.sets()?.into_iter().map(|set| set.name.to_string()));
        let several = several(&candidates);
        for candidate in candidates {
            let Assignment { name: variable, line, span, .. } = candidate.assignment.clone();
            let known = self.credentials.iter().position(|planned| candidate.is_of(planned));
            if let Some(credential) = known {
                self.tag(credential, &variable);
                self.imports.push(Import { variable, line, span, credential });
                continue;
            }
            let id = candidate.provider.id();
            let planned = match found(&there, id, candidate.fingerprint) {
                Found::Current(info) => Planned::there(info, candidate),
                Found::Ended(why) => {
                    self.left.push(Left { variable, line, why });
                    continue;
                }
                Found::None => {
                    let name = free_name(id, &taken)?;
                    taken.insert(name.to_string());
                    let named = several.contains(id) || name.as_str() != id;
                    Planned::new(name, candidate, named)?
                }
            };
            self.imports.push(Import { variable, line, span, credential: self.credentials.len() });
            self.credentials.push(planned);
        }
        Ok(())
    }

    /// A new credential that names its variables names all of them.
    fn tag(&mut self, credential: usize, variable: &str) {
        let new = self.credentials.get_mut(credential).and_then(|planned| planned.new.as_mut());
        let Some(new) = new.filter(|new| !new.tags.is_empty()) else { return };
        let tag = format!("{VARIABLE_TAG}{variable}");
        if !new.tags.contains(&tag) {
            new.tags.push(tag);
        }
    }

    /// Adds what is new. What was added stays added when a later one fails: the next run finds it.
    fn add_to(&self, opened: &mut Opened) -> Result<(), Failure> {
        let new = self.credentials.iter().filter_map(|p| Some((p.new.as_ref()?, &p.value)));
        let mut result = Ok(());
        let mut added = false;
        for (new, value) in new {
            if let Err(error) = opened.vault.add_credential(new, value) {
                let what = format!("{} was not added, and the file is as it was", new.name);
                result = Err(Failure::from(error).within(&what));
                break;
            }
            added = true;
        }
        if added {
            opened.changed()?;
        }
        result
    }

    fn placeholder(&self, import: &Import) -> &str {
        self.credentials.get(import.credential).map_or("", |planned| &planned.placeholder)
    }

    fn rewrite(&self, text: &[u8]) -> Zeroizing<Vec<u8>> {
        let spans = self.imports.iter().map(|i| (i.span.clone(), self.placeholder(i)));
        dotenv::replace(text, &spans.collect::<Vec<_>>())
    }

    fn report(&self, args: &Args) -> Result<(), Failure> {
        if args.json {
            return output::json(&self.as_json(args));
        }
        if !self.imports.is_empty() {
            self.table().print()?;
        }
        if !self.left.is_empty() {
            output::line("left as they are:")?;
            for left in &self.left {
                let Left { variable, line, why } = left;
                output::line(&format!("  line {line}: {variable}: {why}"))?;
            }
        }
        let file = args.file.display();
        output::line(&match (self.imports.is_empty(), args.replace) {
            (true, _) => format!("nothing to import from {file}"),
            (false, true) => format!("wrote the placeholders to {file}"),
            (false, false) => {
                format!("{file} still has the keys; with --replace it gets the placeholders")
            }
        })
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["VARIABLE", "CREDENTIAL", "VAULT", "PLACEHOLDER"]);
        for import in &self.imports {
            let Some(planned) = self.credentials.get(import.credential) else { continue };
            let state = if planned.new.is_some() { "added" } else { "had it" };
            table.row(vec![
                import.variable.clone(),
                planned.name.to_string(),
                state.to_owned(),
                planned.placeholder.clone(),
            ]);
        }
        table
    }

    fn as_json(&self, args: &Args) -> serde_json::Value {
        let imports = self.imports.iter().filter_map(|import| {
            let planned = self.credentials.get(import.credential)?;
            Some(json!({
                "variable": import.variable, "line": import.line,
                "provider": planned.provider.id(), "credential": planned.name,
                "placeholder": planned.placeholder, "added": planned.new.is_some(),
            }))
        });
        let left = self
            .left
            .iter()
            .map(|left| json!({"variable": left.variable, "line": left.line, "why": left.why}));
        json!({
            "file": args.file,
            "replaced": args.replace && !self.imports.is_empty(),
            "imported": imports.collect::<Vec<_>>(),
            "left": left.collect::<Vec<_>>(),
        })
    }

    /// What a person should know about the keys that were in the file. `written` is the new file.
    fn warn(&self, written: &[u8], args: &Args) {
        for import in &self.imports {
            let Some(planned) = self.credentials.get(import.credential) else { continue };
            for line in planned.value.expose(|value| lines_with(written, value)) {
                output::note(&format!(
                    "warning: line {line} of {} still has the value of {}",
                    args.file.display(),
                    import.variable
                ));
            }
            if !looks_right(planned.provider, &planned.value) {
                output::note(&format!(
                    "warning: the value of {} does not look like a key of {}",
                    import.variable,
                    planned.provider.name()
                ));
            }
        }
        if self.credentials.iter().any(|planned| planned.new.is_some()) {
            output::note(
                "A key that was in a file may be in its history and its backups. To be sure, make a new one at the provider, and give it to `locum credential rotate`.",
            );
        }
    }
}

/// The variables of `--only` that the file does not have.
fn missing(only: &[String], assignments: &[Assignment]) -> Vec<String> {
    let there = |name: &&String| assignments.iter().any(|a| a.name == **name);
    let missing = only.iter().filter(|name| !there(name));
    missing.map(|name| format!("{}: there is no such variable", output::plain(name))).collect()
}

fn look(vault: &Vault, assignment: Assignment, value: &[u8], args: &Args) -> Look {
    let only = &args.only;
    let asked = only.contains(&assignment.name);
    if !only.is_empty() && !asked {
        return Look::Left("not among those of --only".to_owned());
    }
    let Some(provider) = Catalog::embedded().by_variable(&assignment.name) else {
        let variable = &assignment.name;
        return if asked {
            Look::Problem(format!(
                "the catalogue does not know it; use `locum credential add NAME --to ORIGIN --header SLOT --env {variable}`"
            ))
        } else {
            Look::Left("not in the catalogue".to_owned())
        };
    };
    if value.is_empty() {
        return Look::Left("empty".to_owned());
    }
    if reference::occurs(value) {
        return Look::Left("a placeholder already".to_owned());
    }
    if let Some(why) = cannot_be_used(provider, Some(&assignment.name)) {
        return if asked { Look::Problem(why) } else { Look::Left(why) };
    }
    if let Some(doubt) = assignment.doubt {
        return Look::Problem(doubt.to_string());
    }
    if let Err(problem) = validate_secret(value, args.force_short) {
        return Look::Problem(problem.to_string());
    }
    let value = Secret::new(value.to_vec());
    let fingerprint = vault.fingerprint(&value);
    Look::Candidate(Candidate { assignment, provider, value, fingerprint })
}

/// The values that a `.env` file gives to variables of the catalogue: whose each is, where it stands, and
/// whether all programs read it so.
pub(super) fn values(text: &[u8]) -> Vec<(&'static Provider, Range<usize>, bool)> {
    let known = dotenv::parse(text).into_iter().filter_map(|found| {
        let provider = Catalog::embedded().by_variable(&found.name)?;
        Some((provider, found.span, found.doubt.is_none()))
    });
    known.collect()
}

/// Why a provider's keys cannot be taken in without more to go by.
pub(super) fn cannot_be_used(provider: &Provider, variable: Option<&str>) -> Option<String> {
    if provider_slots(provider).is_err() {
        return Some("its provider wants it in a form that this version cannot fill in".to_owned());
    }
    let id = provider.id();
    let variable = variable.map_or_else(String::new, |name| format!(" --env {name}"));
    provider.to().is_empty().then(|| {
        format!(
            "its provider gives each customer a host; use `locum credential add {id} --provider {id} --to https://HOST{variable}`"
        )
    })
}

/// Variables that get two values. Programs do not agree on which one counts.
fn contradictions(candidates: &[Candidate]) -> Vec<String> {
    let other = |at: usize, one: &Candidate| {
        candidates.iter().take(at).find(|before| {
            before.assignment.name == one.assignment.name && before.fingerprint != one.fingerprint
        })
    };
    let pairs = candidates.iter().enumerate().filter_map(|(at, one)| Some((one, other(at, one)?)));
    let text = |(one, before): (&Candidate, &Candidate)| {
        let Assignment { name, line, .. } = &one.assignment;
        format!("line {line}: {name}: it has another value on line {}", before.assignment.line)
    };
    pairs.map(text).collect()
}

/// The providers of which the file has more than one key: their variables must be told apart.
fn several(candidates: &[Candidate]) -> HashSet<&'static str> {
    let differ = |a: &Candidate, b: &Candidate| {
        a.provider.id() == b.provider.id() && a.fingerprint != b.fingerprint
    };
    let more = candidates.iter().filter(|a| candidates.iter().any(|b| differ(a, b)));
    more.map(|candidate| candidate.provider.id()).collect()
}

/// What the vault has of a value.
pub(super) enum Found<'a> {
    Current(&'a CredentialInfo),
    /// It was taken out of use, which is not undone in passing.
    Ended(String),
    None,
}

pub(super) fn found<'a>(
    there: &'a [CredentialInfo],
    id: &str,
    fingerprint: Fingerprint,
) -> Found<'a> {
    let mut ended = Found::None;
    for info in there.iter().filter(|info| info.provider.as_deref() == Some(id)) {
        let versions = info.versions.iter().filter(|v| v.fingerprint == fingerprint);
        for version in versions {
            if version.state == VersionState::Current {
                return Found::Current(info);
            }
            ended = Found::Ended(format!(
                "its value is version {} of {}, which is {}",
                version.version,
                info.name,
                version.state.as_str()
            ));
        }
    }
    ended
}

/// The provider's id, or with `-2`, `-3` and so on.
pub(super) fn free_name(id: &str, taken: &HashSet<String>) -> Result<Name, Failure> {
    let numbered = (2..).map(|n: u32| format!("{id}-{n}"));
    let mut names = std::iter::once(id.to_owned()).chain(numbered);
    let free = names.find(|name| !taken.contains(name)).unwrap_or_default();
    free.parse().map_err(|e| Failure::new(format!("{free}: {e}")))
}

impl Planned {
    fn there(info: &CredentialInfo, candidate: Candidate) -> Self {
        let placeholder = info.stand_in.clone().unwrap_or_else(|| info.name.reference());
        let Candidate { provider, value, fingerprint, .. } = candidate;
        Self { name: info.name.clone(), provider, placeholder, value, fingerprint, new: None }
    }

    /// `named`: the credential names its variable itself, beside its provider.
    fn new(name: Name, candidate: Candidate, named: bool) -> Result<Self, Failure> {
        let Candidate { assignment, provider, value, fingerprint } = candidate;
        let variable = named.then_some(assignment.name);
        let new = new_credential(name.clone(), provider, variable)?;
        let placeholder = new.stand_in.clone().unwrap_or_else(|| name.reference());
        Ok(Self { name, provider, placeholder, value, fingerprint, new: Some(new) })
    }
}

/// A credential as the catalogue has it. `variable` is where its programs look for it, if the provider
/// does not say.
pub(super) fn new_credential(
    name: Name,
    provider: &Provider,
    variable: Option<String>,
) -> Result<NewCredential, Failure> {
    Ok(NewCredential {
        provider: Some(provider.id().to_owned()),
        tier: Tier::default(),
        tags: variable.map(|name| format!("{VARIABLE_TAG}{name}")).into_iter().collect(),
        destinations: provider_to(provider)?,
        slots: provider_slots(provider)?,
        stand_in: provider.stand_in(&name.reference()),
        properties: Properties::default(),
        name,
    })
}

/// Whether it starts as the provider's keys do, where they have a start in common.
fn looks_right(provider: &Provider, secret: &Secret) -> bool {
    let prefixes = provider.prefixes();
    let known = |value: &[u8]| prefixes.iter().any(|p| value.starts_with(p.as_bytes()));
    prefixes.is_empty() || secret.expose(known)
}

/// The lines of `text` that have `value` in them, from 1.
fn lines_with(text: &[u8], value: &[u8]) -> Vec<usize> {
    let line =
        |at: usize| memchr::memchr_iter(b'\n', text.get(..at).unwrap_or_default()).count() + 1;
    memmem::find_iter(text, value).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numbered_when_taken() {
        let name = |taken: &[&str]| {
            let taken = taken.iter().map(|t| (*t).to_owned()).collect();
            free_name("openai", &taken).unwrap().to_string()
        };
        assert_eq!(name(&[]), "openai");
        assert_eq!(name(&["openai", "openai-2"]), "openai-3");
    }

    #[test]
    fn copies_that_are_left_are_found_by_line() {
        assert_eq!(lines_with(b"a\nx key\n\nkey key", b"key"), [2, 4, 4]);
        assert!(lines_with(b"", b"key").is_empty());
    }
}
