//! Why a text is not YAML, said to the person who wrote it: the parser's finding, the usual slip
//! behind it, and the place where the slip was made.

use granit_parser::{ErrorKind, ScanError};

use super::tree::position;
use super::{Position, Problem, Source};

/// The problem that a parser's error stands for.
pub(super) fn problem(source: &Source, error: &ScanError) -> Problem {
    let at = position(error.marker());
    let (message, advice) = explain(error);
    Problem {
        source: source.clone(),
        at: Some(tab_of(source, error.kind(), at).unwrap_or(at)),
        path: String::new(),
        message,
        advice: advice.map(str::to_owned),
    }
}

pub(super) const ANCHOR_ADVICE: &str =
    "write the value out where it is needed; to begin a text with `&`, put it in quotes";
pub(super) const ALIAS_ADVICE: &str =
    "put a text that begins with `*` in quotes, such as \"*\" or \"*.example.com\"";
pub(super) const TAG_ADVICE: &str = "remove it; to begin a text with `!`, put it in quotes";

fn explain(error: &ScanError) -> (String, Option<&'static str>) {
    let (message, advice) = match error.kind() {
        kind if is_tab(kind) => ("a tab cannot indent", "indent with spaces"),
        ErrorKind::DirectiveDisallowed => ("directives (`%`) are not supported", "remove the line"),
        ErrorKind::UndeclaredTagHandle => ("tags are not supported", TAG_ADVICE),
        ErrorKind::MissingAnchorOrAliasName => ("an anchor or alias without a name", ALIAS_ADVICE),
        ErrorKind::UnexpectedCharacter { character } => {
            let message = format!("a text cannot begin with {}", character.escape_default());
            return (message, Some("put the text in quotes"));
        }
        ErrorKind::MappingValueNotAllowed => (
            "a `:` where no key can stand",
            "put a text that has `: ` in it in quotes, or check the indentation",
        ),
        ErrorKind::ExpectedFlowMappingSeparator | ErrorKind::ExpectedFlowSequenceSeparator => (
            "expected `,` or the closing bracket",
            "put a text that has one of , [ ] { } in it in quotes",
        ),
        ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey => (
            "expected `key: value`",
            "put a `:` and a space after the key, or check the indentation",
        ),
        ErrorKind::UnclosedQuotedScalar
        | ErrorKind::InvalidQuotedScalarIndent
        | ErrorKind::DocumentIndicatorInQuotedScalar => {
            ("a text in quotes is not closed", "close the quotes that open above")
        }
        ErrorKind::InvalidIndentation
        | ErrorKind::InvalidFlowScalarIndent
        | ErrorKind::ExpectedBlockMappingKey
        | ErrorKind::ExpectedBlockSequenceEntry => (
            "the indentation does not fit what stands above",
            "align it with its neighbours, or close the bracket that is open above",
        ),
        _ => return (format!("not valid YAML: {}", error.info()), None),
    };
    (message.to_owned(), Some(advice))
}

fn is_tab(kind: &ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::TabNotAllowed
            | ErrorKind::TabInBlockIndentation
            | ErrorKind::TabInIndentation
            | ErrorKind::TabInPlainScalar
    )
}

/// The tab itself: the parser names the start of what the tab interrupts.
fn tab_of(source: &Source, kind: &ErrorKind, from: Position) -> Option<Position> {
    if !is_tab(kind) {
        return None;
    }
    let skipped = usize::try_from(from.line).ok()?.checked_sub(1)?;
    let mut lines = source.text().lines().zip(1_u32..).skip(skipped);
    lines.find_map(|(line, number)| {
        let blank = line.len() - line.trim_start().len();
        let tab = line.get(..blank)?.find('\t')?;
        Some(Position { line: number, column: u32::try_from(tab + 1).ok()? })
    })
}
