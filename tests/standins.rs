//! Stand-ins of the catalogue, each in the hands of the provider's own SDK: it makes a client of it and
//! comes as far as to want the network.
//!
//! The SDKs are installed once under `target/`; where that fails, these tests fail.
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::format_collect)]

mod support;

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Map, Value};
use support::*;

/// Versions are fixed, so that a failure is ours.
const PYTHON: &[&str] = &[
    "aiogram==3.31.0",
    "anthropic==2.12.0",
    "discord.py==2.7.1",
    "groq==1.7.0",
    "huggingface_hub==2.4.0",
    "notion-client==3.1.0",
    "openai==3.54.0",
    "PyGithub==2.10.0",
    "pyTelegramBotAPI==4.37.1",
    "replicate==1.0.7",
    "sendgrid==6.12.5",
    "slack_sdk==3.47.0",
    "stripe==16.1.0",
    "supabase==2.34.1",
    "twilio==9.13.0",
    "wandb==0.31.0",
];
const NODE: &[&str] = &[
    "discord.js@14.28.1",
    "stripe@23.1.0",
    "twilio@6.2.0",
    "@sendgrid/mail@8.1.6",
    "@slack/web-api@8.2.0",
    "telegraf@4.16.3",
];

/// Each provider whose SDK is here, and where it would go if the catalogue does not say.
const PROVIDERS: &[(&str, Option<&str>)] = &[
    ("anthropic", None),
    ("discord", None),
    ("github", None),
    ("groq", None),
    ("huggingface", None),
    ("notion", None),
    ("openai", None),
    ("replicate", None),
    ("sendgrid", None),
    ("slack", None),
    ("slack-app", None),
    ("stripe", None),
    ("supabase", Some("https://x.supabase.test")),
    ("telegram", None),
    ("twilio", None),
    ("wandb", None),
];

/// What an agent gets for each provider, as `credential show` says.
fn placeholders() -> Value {
    let home = Home::new();
    let mut all = Map::new();
    for (provider, to) in PROVIDERS {
        let mut arguments = vec!["--provider", *provider];
        arguments.extend(to.iter().flat_map(|to| ["--to", *to]));
        home.add(provider, &arguments, &canary());
        let shown = home.locum(&["credential", "show", provider, "--json"]).ok();
        let shown: Value = serde_json::from_str(&shown.out).unwrap();
        let placeholder = shown["placeholder"].as_str().unwrap();
        assert!(placeholder.contains(&format!("locum_{provider}")), "{placeholder}");
        all.insert((*provider).to_owned(), placeholder.into());
    }
    all.into()
}

/// Runs a script with the stand-ins. All of its calls reach the network, and what it is known to
/// check it has refused of something else.
#[track_caller]
fn accepts(command: &mut Command, checked: &[&str]) {
    let keys = placeholders();
    let ran = run(command, keys.to_string().as_bytes()).ok();
    let said: Value = serde_json::from_str(&ran.out).unwrap();
    let results = said["results"].as_object().unwrap();
    for (call, result) in results.iter().filter(|(call, _)| !call.ends_with("nonsense")) {
        assert_eq!(result, "reached", "{call}");
    }
    // So that what is seen here is a check that was passed, and not one that was not made.
    for call in checked {
        assert_ne!(results[&format!("{call} nonsense")], "reached", "{call}");
    }
    let known = |provider: &&Value| PROVIDERS.iter().any(|(name, _)| **provider == *name);
    assert!(said["providers"].as_array().unwrap().iter().all(|p| known(&p)));
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/standins").join(name)
}

#[test]
fn sdks_for_python_take_them() {
    let python = Tools::python_as("python-standins", PYTHON).path.join("bin/python");
    let checked = ["telegram_aiogram", "telegram_telebot", "wandb"];
    accepts(Command::new(python).arg(script("shapes.py")), &checked);
}

#[test]
fn sdks_for_node_take_them() {
    let modules = Tools::node_as("node-standins", NODE).path.join("package.json");
    accepts(Command::new("node").arg(script("shapes.mjs")).env("MODULES", modules), &["sendgrid"]);
}
