//! `docs/THREAT_MODEL.md` says nothing about tests that is not so.

#![allow(missing_docs, unreachable_pub, dead_code)] // A harness is shared by halves.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::items_after_statements,
    clippy::format_push_string
)]

use std::collections::BTreeMap;
use std::path::Path;

const DOCUMENT: &str = "docs/THREAT_MODEL.md";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// One row: its number, its state, and its last cell.
struct Row {
    line: usize,
    state: String,
    proof: String,
}

/// The rows of the tables, by number: 1 to 70, F1 to F19, I1 to I8; other letters are ours beside the list.
fn rows() -> BTreeMap<String, Row> {
    let text = std::fs::read_to_string(root().join(DOCUMENT)).unwrap();
    let mut rows = BTreeMap::new();
    for (index, line) in text.lines().enumerate().filter(|(_, l)| l.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let number = cells[0];
        let digits = number.trim_start_matches(|c: char| c.is_ascii_uppercase());
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let [.., state, proof] = cells[..] else { panic!("{DOCUMENT}:{}: too short", index + 1) };
        let row = Row { line: index + 1, state: state.to_owned(), proof: proof.to_owned() };
        let before = rows.insert(number.to_owned(), row);
        assert!(before.is_none(), "{DOCUMENT}:{}: {number} is there twice", index + 1);
    }
    rows
}

/// The tests that a text names: code spans of the form `path.rs::name`.
fn named(text: &str) -> Vec<(String, String)> {
    let spans = text.split('`').skip(1).step_by(2);
    let tests = spans.filter_map(|span| span.split_once(".rs::"));
    tests.map(|(file, name)| (format!("{file}.rs"), name.to_owned())).collect()
}

/// Whether a source file is a root of its own, or declared by the module above it.
fn is_built(file: &str) -> bool {
    let path = Path::new(file);
    let (directory, stem) = (path.parent().unwrap(), path.file_stem().unwrap().to_str().unwrap());
    if ["main", "mod", "lib"].contains(&stem) || directory == Path::new("tests") {
        return true;
    }
    let own = ["main.rs", "mod.rs", "lib.rs"].map(|name| directory.join(name));
    let above = own.into_iter().chain([directory.with_extension("rs")]);
    let texts = above.filter_map(|above| std::fs::read_to_string(root().join(above)).ok());
    texts.into_iter().any(|text| text.contains(&format!("mod {stem};")))
}

#[test]
fn every_attack_has_its_row() {
    let rows = rows();
    let numbers = (1..=70).map(|n| n.to_string());
    let numbers = numbers.chain((1..=19).map(|n| format!("F{n}")));
    let numbers = numbers.chain((1..=8).map(|n| format!("I{n}")));
    let numbers: Vec<String> = numbers.collect();
    for number in &numbers {
        assert!(rows.contains_key(number), "{DOCUMENT} has no row {number}");
    }
    // The others are our own: each letter's are counted from 1, so that none gets lost.
    let mut own: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for number in rows.keys().filter(|number| !numbers.contains(number)) {
        let (letter, digits) = number.split_at(1);
        own.entry(letter).or_default().push(digits.parse().unwrap());
    }
    for (letter, mut numbers) in own {
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>(), "{DOCUMENT}: {letter}");
    }
}

#[test]
fn every_state_is_what_it_says() {
    for (number, Row { line, state, proof }) in rows() {
        let tests = named(&proof).len();
        let words: String = proof.split('`').step_by(2).collect();
        let words = words.trim_matches([' ', ',', '.']).len();
        let sound = match state.as_str() {
            "tested" => tests >= 1,
            // What is missing is said.
            "partly" => tests >= 1 && words > 20,
            "accepted" | "open" => words > 5,
            _ => false,
        };
        assert!(sound, "{DOCUMENT}:{line}: {number}: {state}: {proof}");
    }
}

#[test]
fn every_named_test_exists() {
    let mut checked = 0;
    for (number, Row { line, proof, .. }) in rows() {
        for (file, name) in named(&proof) {
            let source = std::fs::read_to_string(root().join(&file));
            let source = source.unwrap_or_else(|e| panic!("{DOCUMENT}:{line}: {file}: {e}"));
            let at = source.find(&format!("fn {name}("));
            let at =
                at.unwrap_or_else(|| panic!("{DOCUMENT}:{line}: {number}: {file} has no {name}"));
            // The attribute is right above, among others and comments at most.
            let above = source[..at].rsplit("\n\n").next().unwrap_or_default();
            // A property of proptest has it inside the macro.
            let is_test = above.contains("#[test]") || above.contains("#[tokio::test");
            assert!(is_test, "{DOCUMENT}:{line}: {file}::{name} is no test");
            assert!(!above.contains("#[ignore"), "{DOCUMENT}:{line}: {file}::{name} is not run");
            assert!(is_built(&file), "{DOCUMENT}:{line}: {file} is part of no test run");
            checked += 1;
        }
    }
    assert!(checked >= 100, "only {checked} tests are named");
}
