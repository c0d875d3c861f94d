//! The tree is held to the table of layers in docs/ARCHITECTURE.md: modules depend downwards only.

#![allow(missing_docs, unreachable_pub, dead_code)] // A harness is shared by halves.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::items_after_statements,
    clippy::format_push_string
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The layer of each module, as the document has it.
fn layers() -> BTreeMap<String, u8> {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let mut layers = BTreeMap::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("| L") else { continue };
        let (layer, cells) = rest.split_at(1);
        let modules = cells.split('|').nth(1).unwrap_or_default();
        // What stands in parentheses are parts of the module before them.
        let modules = modules.split('(').next().unwrap_or_default();
        for module in modules.split('`').skip(1).step_by(2) {
            layers.insert(module.to_owned(), layer.parse().unwrap());
        }
    }
    assert!(layers.len() >= 20, "{layers:?}");
    layers
}

/// The source files of a module, without those that only tests use.
fn files(module: &str) -> Vec<PathBuf> {
    fn walk(path: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() && name != "tests" {
                walk(&path, found);
            } else if path_is_rust(&name) && name != "tests.rs" {
                found.push(path);
            }
        }
    }
    let file = root().join("src").join(format!("{module}.rs"));
    let mut found: Vec<PathBuf> = file.exists().then_some(file).into_iter().collect();
    walk(&root().join("src").join(module), &mut found);
    found
}

/// The modules that a source names as `crate::module`, outside of its tests and comments.
fn uses(source: &str) -> BTreeSet<String> {
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut found = BTreeSet::new();
    for line in lines {
        for (at, text) in line.match_indices("crate::") {
            let rest = &line[at + text.len()..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            found.insert(rest[..end.unwrap_or(rest.len())].to_owned());
        }
    }
    found
}

#[test]
fn modules_depend_downwards_only() {
    let layers = layers();
    let (mut edges, mut wrong) = (0, Vec::new());
    for (module, layer) in &layers {
        let files = files(module);
        assert!(!files.is_empty(), "there is no module {module}");
        for file in files {
            let source = fs::read_to_string(&file).unwrap();
            for used in uses(&source).iter().filter(|used| layers.contains_key(*used)) {
                edges += 1;
                let below = layers[used] < *layer;
                // The vocabulary is one, the engines work hand in hand, and so does the composition;
                // adapters do not know one another.
                let beside = layers[used] == *layer && *layer != 2;
                if !(below || beside || used == module) {
                    let file = file.strip_prefix(root()).unwrap().display();
                    wrong.push(format!("{file} uses {used}, which is L{}", layers[used]));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(edges >= 100, "only {edges} uses were found");
}

#[test]
fn every_module_has_its_layer() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let modules = lib.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';'));
    let missing: Vec<&str> = modules.filter(|m| !layers().contains_key(*m)).collect();
    assert!(missing.is_empty(), "docs/ARCHITECTURE.md has no layer for {missing:?}");
}

/// Only one adapter knows each library family: to replace one is to change one module.
#[test]
fn libraries_stay_in_their_adapter() {
    for (library, at_home) in [
        ("rusqlite", &["vault"][..]),
        ("prometheus", &["metrics"]),
        ("aes_gcm", &["vault"]),
        ("argon2", &["vault"]),
        // The demo's origins have a CA of their own.
        ("rcgen", &["tls", "cli"]),
        ("clap", &["cli"]),
    ] {
        let mut known = false;
        for module in layers().keys() {
            // The demo plays origins and thieves, who bring their own tools.
            for file in files(module).iter().filter(|f| !f.starts_with(root().join("src/cli/demo")))
            {
                let source = fs::read_to_string(file).unwrap();
                let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
                if code.lines().any(|l| l.contains(&format!("{library}::"))) {
                    assert!(at_home.contains(&&**module), "{} uses {library}", file.display());
                    known = true;
                }
            }
        }
        assert!(known, "nobody uses {library}");
    }
}

fn path_is_rust(name: &str) -> bool {
    std::path::Path::new(name).extension().is_some_and(|extension| extension == "rs")
}
