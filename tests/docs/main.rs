//! The documents are part of the product: what they show runs, what they name exists.

#![allow(missing_docs, unreachable_pub, dead_code)] // A harness is shared by halves.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::items_after_statements,
    clippy::format_push_string
)]

mod claims;
mod markdown;
mod origin;
mod session;

use std::collections::BTreeSet;

/// The documents with blocks to run, and how many commands each has at least.
const RUN: [(&str, usize); 7] = [
    ("README.md", 18),
    ("docs/OPERATIONS.md", 30),
    ("certs/README.md", 9),
    ("docs/CREDENTIALS.md", 17),
    ("docs/IDENTITY.md", 2),
    ("docs/SOURCES.md", 4),
    ("docs/WORKSPACES.md", 17),
];

#[test]
fn the_readme_runs() {
    session::run(RUN[0].0, RUN[0].1);
}

#[test]
fn operations_run() {
    session::run(RUN[1].0, RUN[1].1);
}

#[test]
fn the_ca_can_be_checked_and_rotated_as_described() {
    session::run(RUN[2].0, RUN[2].1);
}

#[test]
fn who_calls_runs() {
    session::run(RUN[4].0, RUN[4].1);
}

#[test]
fn credentials_live_as_described() {
    session::run(RUN[3].0, RUN[3].1);
}

#[test]
fn sources_are_as_described() {
    session::run(RUN[5].0, RUN[5].1);
}

#[test]
fn workspaces_are_as_described() {
    session::run(RUN[6].0, RUN[6].1);
}

#[test]
fn no_document_with_a_console_block_is_left_out() {
    let console = |d: &String| markdown::blocks(d).iter().any(|b| b.language == "console");
    let documents: BTreeSet<String> = markdown::documents().into_iter().filter(console).collect();
    let run: BTreeSet<String> = RUN.iter().map(|(document, _)| (*document).to_owned()).collect();
    assert_eq!(documents, run);
}
