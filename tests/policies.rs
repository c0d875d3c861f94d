//! The example policies: each is compiled, and asked what its own tests ask.

#![allow(missing_docs, unreachable_pub, dead_code)] // A harness is shared by halves.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::items_after_statements,
    clippy::format_push_string
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use locum::document::Source;
use locum::policy::{Compiled, Word, compile_all};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Each example, with the tests that stand beside it or in `policies/tests`.
fn examples() -> BTreeMap<String, Vec<Source>> {
    let yaml_in = |directory: &str| {
        let paths = fs::read_dir(root().join(directory)).unwrap().map(|e| e.unwrap().path());
        let yaml = paths.filter(|path| path.extension().is_some_and(|e| e == "yaml"));
        yaml.map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let shown = format!("{directory}/{name}");
            (name, Source::new(&shown, &fs::read_to_string(&path).unwrap()))
        })
        .collect::<BTreeMap<_, _>>()
    };
    let mut examples: BTreeMap<String, Vec<Source>> =
        yaml_in("policies").into_iter().map(|(name, source)| (name, vec![source])).collect();
    for (name, tests) in yaml_in("policies/tests") {
        examples
            .get_mut(&name)
            .unwrap_or_else(|| panic!("there is no policies/{name}"))
            .push(tests);
    }
    examples
}

fn compiled(sources: Vec<Source>) -> Compiled {
    compile_all(sources).unwrap_or_else(|report| panic!("{report}"))
}

#[test]
fn every_example_decides_as_its_tests_say() {
    let mut asked = 0;
    for sources in examples().into_values() {
        let Compiled { policy, cases, given } = compiled(sources);
        let index = given.index();
        for case in cases {
            let answer = case.inquiry.ask(&policy, &index);
            let (file, at) = policy.place_of(&case);
            assert!(
                case.expected.is_met(&answer),
                "{file}:{}: {}\n  expected: {}\n  answer:   {answer}",
                at.line,
                case.name,
                case.expected
            );
            asked += 1;
        }
    }
    assert!(asked >= 60, "{asked}");
}

/// Each trick that is known to have opened some proxy, and its opposite.
#[test]
fn every_decision_of_the_table_is_as_it_says() {
    let file = "tests/vectors/decisions.yaml";
    let text = fs::read_to_string(root().join(file)).unwrap();
    let Compiled { policy, cases, given } = compiled(vec![Source::new(file, &text)]);
    let index = given.index();
    let mut wrong = String::new();
    for case in &cases {
        let answer = case.inquiry.ask(&policy, &index);
        if !case.expected.is_met(&answer) {
            let (_, at) = policy.place_of(case);
            wrong += &format!("{}: {}: {} but {answer}\n", at.line, case.name, case.expected);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(cases.len() >= 150, "{}", cases.len());
}

/// A new example without tests would be tested for nothing.
#[test]
fn every_example_is_asked_for_a_permit_and_a_refusal() {
    let examples = examples();
    assert!(examples.len() >= 8, "{:?}", examples.keys());
    for (name, sources) in examples {
        let cases = compiled(sources).cases;
        let any = |words: &[Word]| cases.iter().any(|case| words.contains(&case.expected.word));
        assert!(any(&[Word::Allow, Word::Opaque]), "{name}: nothing is permitted");
        assert!(any(&[Word::Refuse]), "{name}: nothing is refused");
    }
}

/// Copied side by side they are one policy: no name is taken twice.
#[test]
fn the_examples_can_stand_beside_each_other() {
    let all = examples().into_iter().filter(|(name, _)| name != "strict.yaml");
    let sources = all.flat_map(|(_, sources)| sources).collect();
    let rules = compiled(sources).policy.len();
    assert!(rules >= 20, "{rules}");
}

/// The command runs them, too.
#[test]
fn the_command_asks_the_same() {
    let locum = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_locum"));
        command.current_dir(root()).args(["policy", "test"]).args(arguments);
        let ran = command.output().unwrap();
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (ran.status.code(), said(&ran.stdout), said(&ran.stderr))
    };
    let (code, out, err) = locum(&["policies/ci.yaml"]);
    assert_eq!((code, &*out), (Some(0), "8 tests passed\n"), "{err}");
    let directory = tempfile::tempdir().unwrap();
    let wrong = directory.path().join("wrong.yaml");
    let text = fs::read_to_string(root().join("policies/ci.yaml")).unwrap();
    fs::write(&wrong, text.replace("rule: audit packages", "rule: install from npm")).unwrap();
    let (code, _, err) = locum(&[wrong.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(err.contains("answer:   allow, by the rule `audit packages`"), "{err}");
    let (code, out, _) = locum(&[wrong.to_str().unwrap(), "--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["ok"], &json["tests"]), (Some(1), &false.into(), &8.into()));
    assert_eq!(json["failed"][0]["line"].as_u64(), Some(55), "{json}");
    // A check that checks nothing does not pass.
    let (code, _, err) = locum(&["policies/first.yaml"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("there are no tests"), "{err}");
}
