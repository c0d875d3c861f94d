//! Managers of secrets by their own programs. `bw` is run beside this, in the root of these tests. `op` is its maker's own
//! download and speaks to servers of theirs, so that a stand-in takes its place, which answers nothing but what 1Password
//! documents of the command, and which their own library for it calls as Locum does. `bws` is run where somebody has built it.

use super::*;

/// As 1Password documents `op read REFERENCE` with a service account's token: the value and a line end, or an
/// `[ERROR]` on standard error and exit code 1. It counts what it was called with, and takes nothing else.
const OP: &str = r#"#!/bin/sh
here=$(dirname "$0")
say() { echo "[ERROR] 2026/01/05 12:00:00 $1" >&2; exit 1; }
printf '%s\n' "$#" "$@" > "$here/called"
[ "$#" = 2 ] && [ "$1" = read ] || say "unknown command"
[ "$2" = op://prod/billing/key ] || say "could not find item $2"
[ "$OP_SERVICE_ACCOUNT_TOKEN" = "$(cat "$here/token")" ] || say "No accounts configured for use with 1Password CLI."
[ -z "$(cat)" ] || say "it reads no standard input"
cat "$here/value" && echo
"#;

struct Op {
    directory: tempfile::TempDir,
}

impl Op {
    fn new(token: &str, value: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let op = Self { directory };
        private(&op.file("token"), token);
        private(&op.file("value"), value);
        private(&op.file("op"), OP);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(op.file("op"), mode).unwrap();
        op
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn source(&self, reference: &str) -> String {
        format!("command:[\"{}\",\"read\",\"{reference}\"]", self.file("op").display())
    }
}

#[test]
fn a_secret_of_1password_by_what_its_program_is_documented_to_do() {
    let (first, second, token) = (canary(), canary(), format!("ops_{}", canary()));
    let op = Op::new(&token, &first);
    let scene = Stage::new();
    let short = ["--source-refresh", "1s", "--source-stale", "1s"];
    let source = op.source("op://prod/billing/key");
    scene.add(&[&["--source", &source], &short[..]].concat(), "");
    let mut command = scene.home.command(&["serve"]);
    command.env("OP_SERVICE_ACCOUNT_TOKEN", &token).stdin(Stdio::null());
    let serve = Serve::start_as(&scene.home, &mut command);
    scene.until_shown(&serve, &first);
    let called = fs::read_to_string(op.file("called")).unwrap();
    assert_eq!(called, "2\nread\nop://prod/billing/key\n", "these words, and no shell");
    private(&op.file("value"), &second);
    scene.until_shown(&serve, &second);
    // What it says when it fails is the operator's to read, and no agent's.
    private(&op.file("token"), "another");
    scene.until_refused(&serve, &second);
    assert!(serve.log().contains("No accounts configured"), "{}", serve.log());
    assert_eq!(scene.reason(), "its program failed, or took too long");
    private(&op.file("token"), &token);
    scene.until_shown(&serve, &second);
    scene.add_instead(&[&["--source", &op.source("op://prod/other/key")], &short[..]].concat());
    eventually("what is not there is refused", SOON, || {
        (scene.ask(&serve).problem() == "source-unavailable").then_some(())
    });
    scene.home.never_leaks(&[&first, &second, &token], &[("log", serve.log().as_bytes())]);
}

/// What 1Password's own library for the program makes of the stand-in.
const LIBRARY: &str = r#"
const op = require("@1password/op-js");
op.setServiceAccount(process.env.TOKEN);
const say = (read) => {
  try { return { value: read() } } catch (error) { return { error: error.name, message: error.message, status: error.status } }
};
const read = (reference) => say(() => op.read.parse(reference));
console.log(JSON.stringify([read("op://prod/billing/key"), read("op://prod/other/key")]));
"#;

#[test]
fn the_library_of_1password_calls_what_stands_in_for_its_program_as_we_do() {
    let tools = Tools::node_as("node-1password", &["@1password/op-js@0.1.13"]);
    let (value, token) = (canary(), format!("ops_{}", canary()));
    let op = Op::new(&token, &value);
    let scene = Stage::new();
    scene.add(&["--source", &op.source("op://prod/billing/key")], "");
    let mut command = scene.home.command(&["serve"]);
    command.env("OP_SERVICE_ACCOUNT_TOKEN", &token).stdin(Stdio::null());
    let serve = Serve::start_as(&scene.home, &mut command);
    scene.until_shown(&serve, &value);
    let ours = fs::read_to_string(op.file("called")).unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut node = Command::new("node");
    node.args(["-e", LIBRARY]).current_dir(&tools.path).env("TOKEN", &token);
    node.env("PATH", format!("{}:{path}", op.directory.path().display()));
    let said: Value = serde_json::from_str(&command_output(&mut node)).unwrap();
    assert_eq!(said[0]["value"], *value);
    let error = serde_json::json!({"error": "CLIError", "message": "could not find item op://prod/other/key", "status": 1});
    assert_eq!(said[1], error);
    let theirs = fs::read_to_string(op.file("called")).unwrap();
    assert_eq!(ours, theirs.replace("other", "billing"));
}

#[test]
#[ignore = "builds of bws take many minutes: `cargo install bws --version 2.1.0`, and its path in BWS"]
fn a_secret_of_bitwardens_secrets_manager_by_its_own_program() {
    let program = std::env::var("BWS").expect("the path of bws in BWS");
    let (first, second) = (canary(), canary());
    let token =
        "0.12121212-3434-4565-8787-909090909090.the-secret-of-the-machine:AAECAwQFBgcICQoLDA0ODw==";
    let (_server, url, directory) = Bitwarden::serve(&first, &[("BWS_ACCESS_TOKEN", token)]);
    // By the name that is in the certificate: `bws` takes no other.
    let url = url.replace("localhost", "127.0.0.1");
    let scene = Stage::new();
    let id = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
    let source = format!("command:[\"{program}\",\"secret\",\"get\",\"{id}\"]#value");
    scene.add(&["--source", &source, "--source-refresh", "1s", "--source-stale", "1s"], "");
    let mut command = scene.home.command(&["serve"]);
    command.env("BWS_ACCESS_TOKEN", token).env("BWS_SERVER_URL", &url);
    // Its state, which is a token and a key, goes elsewhere than where nothing of either may be found.
    command.env("HOME", directory.path()).env("SSL_CERT_FILE", directory.path().join("ca.pem"));
    let serve = Serve::start_as(&scene.home, command.stdin(Stdio::null()));
    scene.until_shown(&serve, &first);
    private(&directory.path().join("secret"), &second);
    scene.until_shown(&serve, &second);
    fs::remove_file(directory.path().join("secret")).unwrap();
    scene.until_refused(&serve, &second);
    scene.home.never_leaks(&[&first, &second, token], &[("log", serve.log().as_bytes())]);
}
