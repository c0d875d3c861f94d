//! The published schema and the reader say the same.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::policy::{approval, cases, read, retry};

fn schema() -> Value {
    serde_json::from_str(SCHEMA).unwrap()
}

/// Each mapping that the reader knows, and where the schema has it.
fn mappings() -> [(&'static str, &'static str, &'static [&'static str]); 14] {
    [
        ("TOP_KEYS", "", read::TOP_KEYS),
        ("RULE_KEYS", "/$defs/rule", read::RULE_KEYS),
        ("PART_KEYS", "/$defs/part", read::PART_KEYS),
        ("CHOICE_KEYS", "/$defs/labelled", read::CHOICE_KEYS),
        ("WHEN_KEYS", "/$defs/when", read::WHEN_KEYS),
        ("SCRUB_KEYS", "/$defs/scrub", read::SCRUB_KEYS),
        ("CAPTURE_KEYS", "/$defs/capture/items", read::CAPTURE_KEYS),
        ("TIMEOUT_KEYS", "/$defs/timeouts", read::TIMEOUT_KEYS),
        ("RETRY_KEYS", "/$defs/retry", retry::RETRY_KEYS),
        ("LIMIT_KEYS", "/$defs/limits", read::LIMIT_KEYS),
        ("QUEUE_KEYS", "/$defs/limits/properties/queue", read::QUEUE_KEYS),
        ("APPROVAL_KEYS", "/$defs/approval/anyOf/1", approval::APPROVAL_KEYS),
        ("CASE_KEYS", "/$defs/test", cases::CASE_KEYS),
        ("GIVEN_KEYS", "/$defs/given", cases::GIVEN_KEYS),
    ]
}

#[test]
fn the_schema_has_the_keys_of_the_reader_and_no_others() {
    let schema = schema();
    for (name, pointer, keys) in mappings() {
        let object = schema.pointer(pointer).unwrap();
        let known: BTreeSet<&str> = keys.iter().copied().collect();
        let named = object["properties"].as_object().unwrap();
        assert_eq!(named.keys().map(String::as_str).collect::<BTreeSet<_>>(), known, "{name}");
        assert_eq!(object["additionalProperties"], json!(false), "{name}");
        for (key, value) in named {
            let described = value.get("description").is_some()
                || value["$ref"].as_str().is_some_and(|to| {
                    schema.pointer(&to[1..]).is_some_and(|there| there.get("description").is_some())
                });
            assert!(described, "{name}: {key} has no description");
        }
    }
}

/// Whoever reads another mapping adds it to the table above, and so to the schema.
#[test]
fn every_mapping_of_the_reader_is_compared() {
    for (file, text, least) in [
        ("read", include_str!("../read.rs"), 6),
        ("cases", include_str!("../cases.rs"), 2),
        ("approval", include_str!("../approval.rs"), 1),
        ("retry", include_str!("../retry.rs"), 1),
    ] {
        let calls = text.split(".map(").skip(1).map(|rest| rest.split(')').next().unwrap());
        let reads = calls.filter(|call| {
            let first = call.split(',').next().unwrap();
            ["node", "root", "part", "n"].contains(&first) && call.contains(", ")
        });
        let mut count = 0;
        for call in reads {
            let keys = call.rsplit(", ").next().unwrap();
            assert!(mappings().iter().any(|(name, ..)| *name == keys), "{file}: {call}");
            count += 1;
        }
        assert!(count >= least, "{file}: {count}");
    }
}

/// The words that a key may have are those that the reader names when it gets another.
#[test]
fn the_schema_has_the_words_of_the_reader() {
    let schema = schema();
    let known = |document: &str| -> BTreeSet<String> {
        let report = compile(vec![Source::new("p.yaml", document)]).unwrap_err().to_string();
        let (_, list) = report.split_once("is not one of: ").unwrap_or_else(|| panic!("{report}"));
        list.lines().next().unwrap().split(", ").map(str::to_owned).collect()
    };
    let words = |pointer: &str| -> BTreeSet<String> {
        let words = schema.pointer(pointer).unwrap_or_else(|| panic!("{pointer}"));
        words.as_array().unwrap().iter().map(|w| w.as_str().unwrap().to_owned()).collect()
    };
    let rule = |text: &str| {
        format!("version: 1\nrules: [{{name: r, agents: [a], to: ['https://x.test'], {text}}}]\n")
    };
    for (pointer, document) in [
        ("/properties/layer/enum", "version: 1\nlayer: zzzz\n".to_owned()),
        ("/$defs/rule/properties/mode/enum", rule("mode: zzzz")),
        ("/$defs/tunnel/enum", rule("tunnel: zzzz")),
        ("/$defs/inject/enum", rule("inject: zzzz")),
        ("/$defs/misplaced/enum", rule("misplaced: zzzz")),
        ("/$defs/websocket/enum", rule("websocket: zzzz")),
        ("/$defs/scrub/properties/undecodable/enum", rule("scrub: {undecodable: zzzz}")),
        ("/$defs/onWithdrawal/enum", rule("on_withdrawal: zzzz")),
        ("/$defs/anomalies/enum", rule("anomalies: zzzz")),
        ("/$defs/approval/anyOf/0/enum", rule("approval: zzzz")),
        ("/$defs/approval/anyOf/1/properties/answer/enum", rule("approval: {answer: zzzz}")),
        ("/$defs/retry/properties/on/items/anyOf/0/enum", rule("retry: {attempts: 2, on: [zzzz]}")),
        ("/$defs/limits/properties/per/enum", rule("limits: {requests: 1/s, per: zzzz}")),
        (
            "/$defs/test/properties/expect/enum",
            "version: 1\ntests: [{agent: a, request: GET https://x.test/, expect: zzzz}]\n"
                .to_owned(),
        ),
    ] {
        assert_eq!(words(pointer), known(&document), "{pointer}");
    }
    let text = SCHEMA.matches("\"enum\"").count();
    assert_eq!(
        text, 16,
        "a new list of words: compare it here (methods that are never sent are one, and statuses that are none)"
    );
    let statuses = schema.pointer("/$defs/retry/properties/on/items/anyOf/1/enum").unwrap();
    assert_eq!(*statuses, json!(retry::STATUSES));
}
