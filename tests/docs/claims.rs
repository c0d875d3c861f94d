//! What the documents say of the code, compared with the code: codes, metrics, settings, commands,
//! YAML, links.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::process::Command;

use locum::config::Config;
use locum::document::Source;
use locum::outcome::Code;

use crate::markdown::{blocks, documents, links, prose, read, root, spans};

const OPERATIONS: &str = "docs/OPERATIONS.md";

/// The cells of every table row of a document whose first cell is code.
fn rows(document: &str) -> Vec<(usize, Vec<String>)> {
    let rows = prose(document).into_iter().filter(|(_, line)| line.starts_with("| `"));
    rows.map(|(number, line)| {
        let cells = line.trim_matches('|').split(" | ");
        (number, cells.map(|cell| cell.trim().to_owned()).collect())
    })
    .collect()
}

#[test]
fn every_code_has_its_row_with_its_status() {
    let rows = rows(OPERATIONS);
    for code in Code::ALL {
        let named = format!("`{code}`");
        let row = rows.iter().find(|(_, cells)| cells[0] == named);
        let (line, cells) = row.unwrap_or_else(|| panic!("{OPERATIONS} has no row for {code}"));
        assert_eq!(cells[1], code.status().as_u16().to_string(), "{OPERATIONS}:{line}");
        assert!(
            cells.len() == 4 && cells[2].len() > 10 && cells[3].len() > 5,
            "{OPERATIONS}:{line}"
        );
    }
}

/// The names of the metrics, as the source has them.
pub(crate) fn metric_names() -> BTreeSet<String> {
    let source = read("src/metrics.rs");
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let texts = source.split('"').skip(1).step_by(2);
    let names: BTreeSet<String> = texts
        .filter(|t| {
            t.starts_with("locum_") && t.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        })
        .map(str::to_owned)
        .collect();
    assert!(names.len() >= 20, "only {names:?}");
    names
}

#[test]
fn every_metric_is_in_the_table_and_no_other() {
    let rows = rows(OPERATIONS);
    let named: BTreeSet<String> = rows
        .iter()
        .flat_map(|(_, cells)| spans(&cells[0]).into_iter().map(str::to_owned).collect::<Vec<_>>())
        .filter(|name| name.starts_with("locum_"))
        .collect();
    assert_eq!(named, metric_names());
}

/// Every setting of the commented default file, with its default.
fn settings() -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    let mut path: Vec<(usize, String)> = Vec::new();
    let lines = Config::default_text().lines().filter(|l| !l.starts_with("##"));
    for line in lines.filter_map(|line| line.strip_prefix('#')) {
        let text = line.split(" #").next().unwrap_or_default();
        let indent = text.len() - text.trim_start().len();
        let Some((key, value)) = text.trim().split_once(':') else { continue };
        path.retain(|(depth, _)| *depth < indent);
        path.push((indent, key.to_owned()));
        if !value.trim().is_empty() {
            let name = path.iter().map(|(_, key)| key.as_str()).collect::<Vec<_>>().join(".");
            settings.insert(name, value.trim().to_owned());
        }
    }
    assert!(settings.len() >= 25, "only {settings:?}");
    settings
}

#[test]
fn every_setting_is_in_the_table_with_its_default() {
    let rows = rows(OPERATIONS);
    for (setting, default) in settings() {
        let row = rows.iter().find(|(_, cells)| cells[0] == format!("`{setting}`"));
        let (line, cells) = row.unwrap_or_else(|| panic!("{OPERATIONS} has no row for {setting}"));
        assert_eq!(cells[1], format!("`{default}`"), "{OPERATIONS}:{line}: {setting}");
    }
}

/// Which settings wait for a restart is what the code says of them.
#[test]
fn the_table_says_what_a_reload_changes() {
    let rows = rows(OPERATIONS);
    let old = Config::defaults(Path::new("/home"));
    let reloaded = |setting: &str| {
        let row = rows.iter().find(|(_, cells)| cells[0] == format!("`{setting}`"));
        row.unwrap_or_else(|| panic!("no row for {setting}")).1[2] == "yes"
    };
    for (setting, text) in [
        ("proxy.listen", "proxy: {listen: '127.0.0.1:9'}"),
        ("ops.listen", "ops: {listen: off}"),
        ("audit.fsync", "audit: {fsync: always}"),
        ("vault.store", "vault: {store: other.db}"),
        ("log.format", "log: {format: json}"),
        ("limits.drain", "limits: {drain: 1s}"),
        ("upstream.timeouts.idle", "upstream: {timeouts: {idle: 1s}}"),
        ("upstream.allow_addresses", "upstream: {allow_addresses: [10.0.0.0/8]}"),
    ] {
        let new = Config::parse(Source::new("locum.yaml", text), Path::new("/home"));
        let new = new.unwrap_or_else(|e| panic!("{e}"));
        assert_ne!(new, old, "{setting}");
        assert_eq!(old.restart_needed(&new).is_empty(), reloaded(setting), "{setting}");
    }
}

/// Policies and process configs in the documents are right as they stand.
#[test]
fn every_yaml_block_is_read_without_a_mistake() {
    let (mut policies, mut configs) = (0, 0);
    for document in documents() {
        for block in blocks(&document).into_iter().filter(|b| b.language == "yaml") {
            let organisation = block.text.contains("layer: organisation");
            let directory = if organisation { "org/" } else { "" };
            let name = format!("{directory}{document}:{}", block.line);
            let name = name.replace("docs/", "");
            let source = Source::new(&name, &block.text);
            if block.text.contains("\nrules:") || block.text.starts_with("rules:") {
                policies += 1;
                if let Err(report) = locum::policy::compile(vec![source]) {
                    panic!("{report}");
                }
            } else {
                configs += 1;
                if let Err(report) = Config::parse(source, Path::new("/home")) {
                    panic!("{report}");
                }
            }
        }
    }
    assert!(policies >= 8 && configs >= 1, "{policies} policies, {configs} configs");
}

/// The help of `locum WORDS`, by the words; none when there is no such command.
struct Helps(HashMap<Vec<String>, Option<String>>);

impl Helps {
    fn of(&mut self, words: &[String]) -> Option<&str> {
        let help = self.0.entry(words.to_vec()).or_insert_with(|| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_locum"));
            let output = command.args(words).arg("--help").output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            output.status.success().then_some(text)
        });
        help.as_deref()
    }

    fn subcommands(&mut self, words: &[String]) -> Vec<String> {
        let help = self.of(words).unwrap_or_default();
        let listed = help.split("\nCommands:\n").nth(1).unwrap_or_default();
        let listed = listed.split("\n\n").next().unwrap_or_default();
        let names = listed.lines().filter(|l| l.starts_with("  ") && !l.starts_with("   "));
        names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
    }

    /// Why a command line cannot be typed, as far as its words and flags tell.
    fn check(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.split_whitespace().skip(1).peekable();
        let mut command: Vec<String> = Vec::new();
        loop {
            let subcommands = self.subcommands(&command);
            if subcommands.is_empty() {
                break;
            }
            match words.peek().map(|word| word.trim_matches(|c: char| !c.is_alphanumeric())) {
                // Of the program as a whole, with a value.
                Some("workspace" | "home") if words.peek().is_some_and(|w| w.starts_with("--")) => {
                    words.nth(1);
                }
                Some(word) if subcommands.iter().any(|s| s == word) => {
                    command.push(word.to_owned());
                    words.next();
                }
                // A group named by itself, or a flag such as `--version` after the bare name.
                None => break,
                Some(_) if words.peek().is_some_and(|w| w.starts_with('-')) => break,
                Some(word) => return Err(format!("there is no `{word}` among {subcommands:?}")),
            }
        }
        let help = self.of(&command).unwrap_or_default().to_owned();
        for flag in words.take_while(|word| *word != "--").filter(|w| w.starts_with("--")) {
            let flag = flag.split('=').next().unwrap_or_default();
            let flag = flag.trim_end_matches(|c: char| !c.is_alphanumeric());
            if !help.split([' ', '\n', ',', '[']).any(|word| word == flag) {
                return Err(format!("`{}` has no {flag}", command.join(" ")));
            }
        }
        Ok(())
    }
}

/// Commands that are named but not run (in text, and in blocks that only a real machine can run)
/// exist, with their flags.
#[test]
fn every_command_that_is_named_exists() {
    let mut helps = Helps(HashMap::new());
    let (mut named, mut wrong) = (0, Vec::new());
    let mut check = |place: String, line: &str| {
        named += 1;
        if let Err(why) = helps.check(line) {
            wrong.push(format!("{place}: {line}: {why}"));
        }
    };
    for document in documents() {
        for (number, line) in prose(&document) {
            for span in spans(&line).into_iter().filter(|s| s.starts_with("locum ")) {
                check(format!("{document}:{number}"), span);
            }
        }
        for block in blocks(&document) {
            let shell = ["sh", "console"].contains(&&*block.language);
            for line in block.text.lines().filter(|_| shell) {
                let line = line.trim_start_matches("$ ").trim_start();
                if line.starts_with("locum ") {
                    check(format!("{document}:{}", block.line), line);
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(named >= 30, "only {named} commands were found");
}

/// How a heading is linked to.
fn slug(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_';
    heading
        .trim()
        .to_lowercase()
        .chars()
        .filter(kept)
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let (mut followed, mut dead) = (0, Vec::new());
    for document in documents() {
        let directory = root().join(&document).parent().unwrap().to_owned();
        for (number, line) in prose(&document) {
            // Patterns in code look like links, and are none.
            let line: String = line.split('`').step_by(2).collect();
            for link in links(&line).into_iter().filter(|l| !l.contains("://")) {
                followed += 1;
                let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
                let target =
                    if file.is_empty() { root().join(&document) } else { directory.join(file) };
                if !target.exists() {
                    dead.push(format!("{document}:{number}: {link}"));
                    continue;
                }
                let text = std::fs::read_to_string(&target).unwrap_or_default();
                let headings = text.lines().filter(|l| l.starts_with('#'));
                let found = headings.map(|l| slug(l.trim_start_matches('#'))).any(|s| s == anchor);
                if !anchor.is_empty() && !found {
                    dead.push(format!("{document}:{number}: {link} (no such heading)"));
                }
            }
        }
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
    assert!(followed >= 30, "only {followed} links were found");
}
