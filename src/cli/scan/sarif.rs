//! Findings as SARIF 2.1.0 (OASIS), for code scanning.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::Finding;

/// What stands in a path of a URI as it is (RFC 3986 section 2.3), and what parts it.
const PATH: AsciiSet =
    NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The log of one run: what was found, and what could not be looked at.
pub(super) fn log(findings: &[Finding], left: &[String]) -> Value {
    let mut kinds: Vec<(&str, &str)> = findings.iter().map(|f| (f.kind, f.name)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let rules = kinds.iter().map(|(id, name)| {
        json!({"id": id, "shortDescription": {"text": format!("{name}: a key in the clear")}})
    });
    let not_looked_at = left.iter().map(
        |what| json!({"level": "error", "message": {"text": format!("not looked at: {what}")}}),
    );
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "locum", "version": env!("CARGO_PKG_VERSION"), "rules": rules.collect::<Vec<_>>(),
            }},
            "invocations": [{
                "executionSuccessful": left.is_empty(),
                "toolExecutionNotifications": not_looked_at.collect::<Vec<_>>(),
            }],
            "columnKind": "utf16CodeUnits",
            "results": findings.iter().map(result).collect::<Vec<_>>(),
        }],
    })
}

fn result(finding: &Finding) -> Value {
    let mut text = format!("{}, {}… ({} bytes)", finding.name, finding.prefix, finding.length);
    if let Some(commit) = &finding.commit {
        text = format!("{text}, brought by commit {commit}");
    }
    json!({
        "ruleId": finding.kind,
        "level": "error",
        "message": {"text": text},
        "locations": [{"physicalLocation": {
            "artifactLocation": {"uri": uri(&finding.path)},
            "region": {"startLine": finding.line, "startColumn": finding.utf16},
        }}],
    })
}

/// A path as a reference (RFC 3986 section 4): relative, or of a file.
fn uri(path: &str) -> String {
    let scheme = if path.starts_with('/') { "file://" } else { "" };
    format!("{scheme}{}", utf8_percent_encode(path, &PATH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_as_uris() {
        assert_eq!(uri("a b#c%20/x.py"), "a%20b%23c%2520/x.py");
        assert_eq!(uri("src/ключ-1_2.~"), "src/%D0%BA%D0%BB%D1%8E%D1%87-1_2.~");
        assert_eq!(uri("a:b/c?d"), "a%3Ab/c%3Fd");
        assert_eq!(uri("/tmp/x"), "file:///tmp/x");
    }
}
