use std::fmt::Write as _;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

/// Compares what a table of cases says with the golden file beside it. `LOCUM_BLESS=1` writes the
/// file anew; the difference is then for a person to read.
pub(crate) fn check_golden(path: &str, golden: &str, cases: &[&str], render: fn(&str) -> String) {
    let mut actual = String::new();
    for (index, case) in cases.iter().enumerate() {
        let shown: String = case.trim_end().chars().take(300).collect();
        let shown = shown.replace('\t', "<tab>").replace('\r', "<cr>");
        let shown: String =
            shown.chars().map(|c| if scalar::hidden(c) { '?' } else { c }).collect();
        let bar = "-".repeat(20);
        let _ = write!(actual, "{bar} {index}\n{shown}\n{bar}\n{}\n\n", render(case));
    }
    if std::env::var_os("LOCUM_BLESS").is_some() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        std::fs::write(root.join(path), &actual).unwrap();
        return;
    }
    for (actual, golden) in actual.lines().zip(golden.lines()) {
        assert_eq!(actual, golden, "in {path}; LOCUM_BLESS=1 writes it anew");
    }
    assert_eq!(actual.lines().count(), golden.lines().count(), "in {path}");
}

fn document(yaml: &str) -> Result<Document, Report> {
    Document::parse(Source::new("t.yaml", yaml), &Limits::CONFIG)
}

/// What is wrong with a text by the rules for YAML alone.
fn yaml_report(yaml: &str) -> Result<(), Report> {
    document(yaml)?.reader().finish(Some(()))
}

fn show<T>(result: Result<T, Report>) -> String {
    result.map_or_else(|report| report.to_string(), |_| "nothing wrong".to_owned())
}

#[test]
fn what_is_not_strict_yaml_is_refused_with_place_and_advice() {
    let cases = [
        "a: &x 1\nb: *x\nc: *.example.com\n",
        "a: &x [1]\nb: &y {c: d}\ne: {<<: *y}\n",
        "to: [*]\n",
        "t: !!str 5\nu: !foo [1]\nv: !other!x y\n",
        "a: 1\n---\nb: 2\n",
        "a: 1\n...\nb: 2\n",
        "a: 1\n\tb: 2\n",
        "a:\n\tb: 2\n",
        "a: [\n\tb]\n",
        "? [1,2]\n: 3\n443: x\ntrue: y\n<<: {a: 1}\n~: z\n\"\": u\n: v\n",
        "%YAML 1.1\n---\na: 1\n",
        "a: \"x\n",
        "a: \"x\nb: \"y\"\n",
        "a: [1, 2\nb: 3\n",
        "a: {x: 1\n",
        "a: [1}\n",
        "to: [https://*, http://[::1]:80]\n",
        "a: 'x' y\n",
        "a: b: c\n",
        "a: 1\n b: 2\n",
        "a\nb: 1\n",
        "a: \"\\u0007\\u202e\"\n",
        "a: @x\n",
        "a: `x\n",
        "a: %x\n",
        "a: \"\\q\"\n",
        "key: |\n  x\n  y\n z: 1\n",
        "a: 1\nb: 2\na: 3\na: 4\nc: {d: 1, e: 2, d: 3}\n",
        "a: b\u{202e}c\n\u{7}\r x\n",
        "x: 99999999999999999999\ny: -1e999\n",
        "- a\nb: c\n",
    ];
    let golden = include_str!("yaml.golden");
    check_golden("src/document/yaml.golden", golden, &cases, |case| show(yaml_report(case)));
}

const KEYS: &[&str] = &["name", "count", "list", "wait", "size", "mode", "inner", "password", "on"];

#[derive(Debug, Default, PartialEq)]
struct Sample<'d> {
    name: Option<&'d str>,
    count: Option<u8>,
    list: Option<Vec<&'d str>>,
    wait: Option<Duration>,
    size: Option<u64>,
    mode: Option<char>,
    on: Option<bool>,
}

fn sample(document: &Document) -> Result<Sample<'_>, Report> {
    let mut reader = document.reader();
    let value = read_sample(&mut reader, document.root());
    reader.finish(value)
}

fn read_sample<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Sample<'d>> {
    let mut map = reader.map(node, KEYS)?;
    let hour = Duration::from_hours(1);
    map.optional("inner", |r, n| r.map(n, &["deep"])?.required("deep", Reader::boolean));
    map.optional("password", |r, n| r.choice(n, &[("prompt", ())]));
    Some(Sample {
        name: map.optional("name", Reader::text),
        count: map.optional("count", |r, n| r.integer(n, 1..=9)),
        list: map.optional("list", |r, n| r.list(n, Reader::text)),
        wait: map.optional("wait", |r, n| r.duration(n, Duration::ZERO..=hour)),
        size: map.optional("size", |r, n| r.size(n, 1024..=1 << 20)),
        mode: map.optional("mode", |r, n| r.choice(n, &[("always", 'a'), ("never", 'n')])),
        on: map.optional("on", Reader::boolean),
    })
}

fn sample_report(yaml: &str) -> String {
    match document(yaml) {
        Ok(document) => show(sample(&document)),
        Err(report) => report.to_string(),
    }
}

#[test]
fn every_mistake_is_reported_at_once() {
    let long = format!("name: [{}{{a: 1}}, {}]\n", "x, ".repeat(100), "y, ".repeat(100));
    let endless = format!("name: [{}]\n", "x, ".repeat(10_000));
    let cases = [
        "nme: x\ncount: 12\nlist: x\nwait: 10\nsize: 64KB\nmode: alway\ninner: {}\non: yes\nfoo: 1\n",
        "name: 5\ncount: \"5\"\nlist: [1, '', [a], x]\nwait: 2h\nsize: 1B\nmode: 1\ninner:\n",
        "count: 007\nlist: \"*\"\nname: [a]\n",
        "count: 0x5\n",
        "name: true\nname: &a !b x\nlist:\n- *a\n- ok\n- 3\n",
        "inner: {deap: true}\n",
        "- 1\n",
        // What stands under a key that is called like a secret is not repeated.
        "password: hunter2\n",
        "password: promt\n",
        "password:\n  hunter2\n",
        "name: {api_token: abc}\n",
        "inner:\n  deep: 1\n  secrets:\n  - abc: [",
        "list: [passphrase: 'a, hunter2]\n",
        &long,
        &endless,
    ];
    let golden = include_str!("reader.golden");
    check_golden("src/document/reader.golden", golden, &cases, sample_report);
}

#[test]
fn no_report_repeats_a_secret() {
    for yaml in [
        "password: hunter2\n",
        "password:\n  hunter2\n",
        "password:\n- a\n- hunter2: [\n",
        "inner:\n  Secret-Key: |\n    x\n   hunter2\n",
        "inner: {deep: 1, \"token\": hunter2, x: [}\n",
        "inner: {deep: 1, clientSecret: hunter2, deep: 2}\n",
        "api_key: 'hunter2\n",
        "size: http://user:hunter2@proxy:3128\n",
        "name: -----BEGIN PRIVATE KEY-----\nhunter2\n",
        "master_key: [hunter2\n",
    ] {
        let report = sample_report(yaml);
        assert!(report.contains("t.yaml:"), "{report}");
        assert!(!report.contains("hunter2"), "{report}");
    }
}

#[test]
fn what_is_right_is_read() {
    let yaml = "\u{feff}# a comment\r\nname: 'it''s'\r\ncount: 5\r\nlist: [a, \"*\", yes]\r\n\
                wait: 1m30s\r\nsize: 64KiB\r\nmode: never\r\non: true\r\n";
    let document = document(yaml).unwrap();
    let expected = Sample {
        name: Some("it's"),
        count: Some(5),
        list: Some(vec!["a", "*", "yes"]),
        wait: Some(Duration::from_secs(90)),
        size: Some(65_536),
        mode: Some('n'),
        on: Some(true),
    };
    assert_eq!(sample(&document), Ok(expected));
}

/// The tree as JSON, to compare it with what a text should mean.
fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => (*value).into(),
        Value::Float(value) => (*value).into(),
        Value::String(text) => (**text).into(),
        Value::Seq(items) => items.iter().map(|item| json(&item.value)).collect(),
        Value::Map(entries) => {
            entries.iter().map(|(key, node)| (key.text.to_string(), json(&node.value))).collect()
        }
        Value::Refused => "refused".into(),
    }
}

/// Cases in the spirit of the YAML test suite: what the syntax means when it is allowed.
#[test]
fn texts_mean_what_yaml_1_2_says() {
    for (yaml, expected) in [
        ("", "{}"),
        ("# nothing\n", "{}"),
        ("---\n...\n", "{}"),
        ("~", "{}"),
        ("a:\nb: ~\nc: null\nd: \"\"\n", r#"{"a": null, "b": null, "c": null, "d": ""}"#),
        (
            "yes: [no, on, off, y, N, True, TRUE, Null]",
            r#"{"yes": ["no","on","off","y","N","True","TRUE","Null"]}"#,
        ),
        ("[true, false, 'true']", r#"[true, false, "true"]"#),
        ("[0, -1, 12, 9223372036854775807]", "[0, -1, 12, 9223372036854775807]"),
        ("[1.5, -0.25, 1e3, 2E-1]", "[1.5, -0.25, 1000.0, 0.2]"),
        (
            "[012, 0x1f, 0o17, 1_000, +1, .5, 5., .inf, 1e, 12:30:45, 1.2.3]",
            r#"["012","0x1f","0o17","1_000","+1",".5","5.",".inf","1e","12:30:45","1.2.3"]"#,
        ),
        ("2026-01-01", r#""2026-01-01""#),
        ("a: x\n  y\n\n  z\n", r#"{"a": "x y\nz"}"#),
        ("a: |\n  x\n   y\n\n  z\n", r#"{"a": "x\n y\n\nz\n"}"#),
        ("a: |-\n  x\n", r#"{"a": "x"}"#),
        ("a: >\n  x\n  y\n\n  z\n", r#"{"a": "x y\nz\n"}"#),
        ("a: \"x\\ty\\\n  z\"\n", r#"{"a": "x\tyz"}"#),
        ("a: 'x\n\n  y'\n", r#"{"a": "x\ny"}"#),
        (
            "- - - a\n  - b\n- {c: [d, {e: f}], g: h}\n",
            r#"[[["a"],"b"],{"c":["d",{"e":"f"}],"g":"h"}]"#,
        ),
        ("? a\n: b\n", r#"{"a": "b"}"#),
        ("a:\n- b\n-\n- c: d\n  e: f\n", r#"{"a": ["b", null, {"c": "d", "e": "f"}]}"#),
        ("to: [https://*, 'http://[::1]:80']", r#"{"to": ["https://*", "http://[::1]:80"]}"#),
        (
            "to: https://api.example.com:8443/x#y # z\n",
            r#"{"to": "https://api.example.com:8443/x#y"}"#,
        ),
        ("{\"a\":1,'b':2}", r#"{"a": 1, "b": 2}"#),
        ("naïve: Ünï\u{1F980}\n", "{\"naïve\": \"Ünï\u{1F980}\"}"),
    ] {
        let expected: serde_json::Value = serde_json::from_str(expected).unwrap();
        match document(yaml) {
            Ok(document) => assert_eq!(json(&document.root().value), expected, "{yaml}"),
            Err(report) => panic!("{yaml}\n{report}"),
        }
    }
}

#[test]
fn places_survive_at_every_depth() {
    let yaml = "rules:\n  - name: a\n    to: [x, y]\n  - - 1\nempty:\nnext:\n-\n- a:\n  b:\nodd key: {'*': 1}\n";
    let document = document(yaml).unwrap();
    let mut paths = Vec::new();
    walk(document.root(), &mut |node| {
        paths.push((node.at.line, node.at.column, document.path(node)));
    });
    let expected = [
        (1, 1, ""),
        (2, 3, "rules"),
        (2, 5, "rules[0]"),
        (2, 11, "rules[0].name"),
        (3, 9, "rules[0].to"),
        (3, 10, "rules[0].to[0]"),
        (3, 13, "rules[0].to[1]"),
        (4, 5, "rules[1]"),
        (4, 7, "rules[1][0]"),
        (5, 6, "empty"),
        (7, 1, "next"),
        (7, 2, "next[0]"),
        (8, 3, "next[1]"),
        (8, 4, "next[1].a"),
        (9, 4, "next[1].b"),
        (10, 10, "[\"odd key\"]"),
        (10, 16, "[\"odd key\"][\"*\"]"),
    ];
    let expected = expected.map(|(line, column, path)| (line, column, path.to_owned()));
    assert_eq!(paths, expected);
    let key = Spot::Key(Position { line: 2, column: 5 });
    assert_eq!(document.path(key), "rules[0].name");
}

fn walk(node: &Node, visit: &mut impl FnMut(&Node)) {
    visit(node);
    match &node.value {
        Value::Seq(items) => items.iter().for_each(|item| walk(item, visit)),
        Value::Map(entries) => entries.iter().for_each(|(_, value)| walk(value, visit)),
        _ => {}
    }
}

#[test]
fn bombs_are_refused_in_bounded_time() {
    let mut laughs = "a0: &a0 [x]\n".to_owned();
    for i in 1..40 {
        let _ = writeln!(laughs, "a{i}: &a{i} [{}]", format!("*a{},", i - 1).repeat(9));
    }
    let size = 512 * 1024;
    let fill = |unit: &str| unit.repeat(size / unit.len());
    let bombs = [
        laughs,
        fill("["),
        fill("{a: "),
        fill("- "),
        fill("? "),
        fill("a: 1\n"),
        fill("---\n"),
        fill("&a "),
        fill("!t "),
        fill("*a "),
        fill("\u{7}"),
        fill(": "),
        format!("a: \"{}", fill("x\n ")),
        format!("{}: 1", fill("x")),
        format!("[{}]", fill("a,")),
        fill("xxxx").repeat(3),
    ];
    for bomb in bombs {
        let start = Instant::now();
        let report = match document(&bomb) {
            Ok(document) => document.reader().finish(Some(())).unwrap_err(),
            Err(report) => report,
        };
        let text = report.to_string();
        // In debug builds, on a busy machine; in release it is a tenth.
        assert!(start.elapsed() < Duration::from_secs(20), "{}", &bomb[..20]);
        assert!(text.len() < 100_000, "{}", text.len());
        assert!(report.problems().len() <= 100);
    }
}

#[test]
fn a_report_sorts_merges_and_speaks_json() {
    let mut all = yaml_report("a: 1\na: 2\n").unwrap_err();
    let other = Document::parse(Source::new("b.yaml", "x: *y\n"), &Limits::CONFIG).unwrap();
    all.extend(other.reader().finish(Some(())).unwrap_err());
    let expected = serde_json::json!({
        "problems": [
            {"file": "b.yaml", "line": 1, "column": 4, "path": "x",
             "message": "aliases are not supported",
             "help": "put a text that begins with `*` in quotes, such as \"*\" or \"*.example.com\""},
            {"file": "t.yaml", "line": 2, "column": 1, "path": "a",
             "message": "the key `a` was already set at line 1, column 1",
             "help": "keep one of the two"},
        ],
        "left_off": 0,
    });
    assert_eq!(all.to_json(), expected);
    assert_eq!(all.len(), 2);
}

#[test]
fn files_are_read_with_care() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("locum.yaml");
    let small = Limits { bytes: 10, ..Limits::CONFIG };
    let read = |limits: &Limits| Source::read(&path, "locum.yaml", limits);
    assert_eq!(read(&small), Ok(None));

    std::fs::write(&path, "a: 1\n").unwrap();
    assert_eq!(read(&small).unwrap().unwrap().text(), "a: 1\n");

    std::fs::write(&path, "a: 12345678\n").unwrap();
    assert_eq!(
        show(read(&small)),
        "locum.yaml: has more than 10B\n  help: split it, or check that it is the file you meant"
    );

    std::fs::write(&path, b"a: 1\nb: \xff\n").unwrap();
    assert_eq!(
        show(read(&Limits::CONFIG)),
        "locum.yaml:2:4: is not UTF-8 text\n  help: save the file as UTF-8"
    );

    let directory = Source::read(dir.path(), "home", &small);
    assert_eq!(show(directory), "home: is not a regular file");
}

#[cfg(unix)]
#[test]
fn a_file_that_everyone_can_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("locum.yaml");
    std::fs::write(&path, "a: 1\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let link = dir.path().join("link.yaml");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let refused = show(Source::read(&link, "link.yaml", &Limits::CONFIG));
    assert_eq!(
        refused,
        "link.yaml: can be written by everyone on this machine\n  help: chmod o-w link.yaml"
    );
}

/// Texts that look like YAML more often than random bytes do.
fn yamlish() -> impl Strategy<Value = String> {
    let words = [
        "a",
        "b: ",
        "- ",
        "? ",
        ": ",
        "\n",
        "\n  ",
        "\n    ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "\"",
        "'",
        "|",
        ">",
        "&a ",
        "*a",
        "!t ",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "# c",
        "\t",
        "\r\n",
        "\r",
        "é",
        "\u{202e}",
        "token: ",
        "1",
        "true",
        "~",
        "<<: ",
        "\\",
        "\u{feff}",
        "name: ",
        "list: ",
    ];
    prop::collection::vec(prop::sample::select(words.to_vec()), 0..60).prop_map(|w| w.concat())
}

fn json_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "[a-zA-Z0-9 :#*&!,{}'\"~\\[\\]-]{0,12}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::btree_map("[a-z*. ]{1,8}", inner, 0..5)
                .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(source) = Source::from_bytes("t.yaml", &bytes, &Limits::CONFIG) {
            let _ = sample_report(source.text());
        }
    }

    #[test]
    fn no_text_makes_it_panic_and_places_are_in_the_text(text in yamlish()) {
        let _ = sample_report(&text);
        if let Ok(document) = document(&text) {
            let lines = text.lines().count() + 1;
            let mut last = Position { line: 1, column: 1 };
            walk(document.root(), &mut |node| {
                assert!(node.at >= last, "{text:?} at {}", node.at);
                assert!(node.at.line as usize <= lines, "{text:?} at {}", node.at);
                last = node.at;
            });
        }
    }

    #[test]
    fn json_is_read_as_itself(value in json_value()) {
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let document = document(&text).map_err(|r| TestCaseError::fail(r.to_string()))?;
            let expected = if value.is_null() { serde_json::json!({}) } else { value.clone() };
            prop_assert_eq!(json(&document.root().value), expected, "{}", text);
        }
    }
}
