//! What the tests read out of a Markdown file: fenced blocks, code spans, links.

use std::fs;
use std::path::Path;

/// A fenced block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// The word after the fence.
    pub(crate) language: String,
    /// The line of the fence, from 1.
    pub(crate) line: usize,
    /// What stands between the fences.
    pub(crate) text: String,
}

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The contents of a file of the repository.
pub(crate) fn read(path: &str) -> String {
    let full = root().join(path);
    fs::read_to_string(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()))
}

/// Every Markdown file of the repository that people read, by its path from the root.
pub(crate) fn documents() -> Vec<String> {
    let mut found = Vec::new();
    for directory in ["", "docs", "certs", "policies", "deploy"] {
        let entries = fs::read_dir(root().join(directory)).into_iter().flatten().flatten();
        let markdown =
            entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "md"));
        found.extend(markdown.map(|path| relative(&path)));
    }
    found.sort();
    assert!(found.len() >= 8, "only {found:?} were found");
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).to_string_lossy().into_owned()
}

/// The fenced blocks of a document, in order.
pub(crate) fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in read(document).lines().enumerate() {
        let fence = line.trim_start().strip_prefix("```");
        match (fence, open.take()) {
            (Some(language), None) => {
                let language = language.trim().to_owned();
                open = Some(Block { language, line: index + 1, text: String::new() });
            }
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some(mut block)) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{document}: a fence is not closed");
    blocks
}

/// The document without its fenced blocks, line by line with the line's number.
pub(crate) fn prose(document: &str) -> Vec<(usize, String)> {
    let mut inside = false;
    let mut lines = Vec::new();
    for (index, line) in read(document).lines().enumerate() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            lines.push((index + 1, line.to_owned()));
        }
    }
    lines
}

/// The code spans of a line of prose.
pub(crate) fn spans(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

/// The targets of a line's links, as `[text](target)` has them.
pub(crate) fn links(line: &str) -> Vec<&str> {
    line.match_indices("](").filter_map(|(at, _)| line[at + 2..].split(')').next()).collect()
}
