//! `locum scan`: what it finds, and that it prints none of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::home::Home;

const GITHUB: &str = "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";
const STRIPE: &str = "sk_live_4eC39HqLyjWDarjtT1zdp7dcQ2";
const PLAIN: &str = "kJ8s2LmQ9xZr4TtW7vBn";

/// What a command came to.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    #[track_caller]
    fn ok(self) -> Self {
        self.failed(0)
    }

    #[track_caller]
    fn failed(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        self
    }
}

fn run(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[track_caller]
fn scan(directory: &Path, arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_locum"));
    command.arg("scan").args(arguments).current_dir(directory);
    let ran = run(&mut command);
    for secret in [GITHUB, STRIPE, PLAIN] {
        assert!(!ran.out.contains(secret) && !ran.err.contains(secret), "{}{}", ran.out, ran.err);
    }
    ran
}

#[track_caller]
fn git(directory: &Path, arguments: &[&str]) -> Ran {
    let mut command = Command::new("git");
    command.arg("-C").arg(directory).args(["-c", "user.name=a", "-c", "user.email=a@test"]);
    run(command.args(["-c", "init.defaultBranch=main"]).args(arguments))
}

fn found(ran: &Ran) -> Vec<(String, u64, String)> {
    let all: Vec<Value> = serde_json::from_str(&ran.out).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    all.iter().map(|f| (text(&f["path"]), f["line"].as_u64().unwrap(), text(&f["kind"]))).collect()
}

#[test]
fn keys_in_a_tree_are_found_and_not_shown() {
    let tree = tempfile::tempdir().unwrap();
    let at = tree.path();
    fs::create_dir_all(at.join("src/deep")).unwrap();
    fs::create_dir_all(at.join("build")).unwrap();
    fs::write(at.join(".gitignore"), "build/\n.env\n").unwrap();
    assert_eq!(scan(at, &["--json"]).ok().out.trim(), "[]");
    fs::write(at.join("src/deep/client.py"), format!("import os\n\ntoken = '{GITHUB}'\n")).unwrap();
    fs::write(at.join(".env"), format!("A=1\nSTRIPE_SECRET_KEY={STRIPE}\n")).unwrap();
    fs::write(at.join("app.yaml"), format!("db:\n  password: \"{PLAIN}\"\n")).unwrap();
    fs::write(at.join("build/out.js"), format!("var t = '{GITHUB}'\n")).unwrap();
    fs::write(at.join("blob.bin"), format!("\0{GITHUB}\n")).unwrap();
    fs::write(
        at.join("clean.md"),
        "set OPENAI_API_KEY=locum_openai, or sk-proj-locum_openai_000000\n",
    )
    .unwrap();
    let all = scan(at, &["--json"]).failed(1);
    let expected = [
        (".env", 2, "stripe"),
        ("app.yaml", 2, "assigned-secret"),
        ("src/deep/client.py", 3, "github"),
    ];
    assert_eq!(found(&all), expected.map(|(p, l, k)| (p.to_owned(), l, k.to_owned())));
    assert_eq!(found(&scan(at, &["--json", "--no-ignore"]).failed(1)).len(), 4);
    // For people, a place and what all keys of the kind start with.
    let table = scan(at, &[]).failed(1).out;
    assert!(
        table.contains("src/deep/client.py:3:10") && table.contains("ghp_… (40 bytes)"),
        "{table}"
    );
    let sarif: Value = serde_json::from_str(&scan(at, &["--sarif"]).failed(1).out).unwrap();
    assert_eq!(sarif["version"], "2.1.0");
    let results = &sarif["runs"][0]["results"];
    assert_eq!(results.as_array().unwrap().len(), 3);
    let region = &results[2]["locations"][0]["physicalLocation"]["region"];
    assert_eq!((&region["startLine"], &region["startColumn"]), (&3.into(), &10.into()));
    assert_eq!(found(&scan(&at.join("src"), &["--json", "deep/client.py"]).failed(1)).len(), 1);
    assert!(scan(at, &["nowhere"]).failed(64).err.contains("nowhere"));
}

#[test]
fn a_key_in_the_history_is_found_where_it_came_in() {
    let tree = tempfile::tempdir().unwrap();
    let at = tree.path();
    git(at, &["init"]).ok();
    let commit = |message: &str| {
        git(at, &["add", "-A"]).ok();
        git(at, &["commit", "-m", message]).ok();
        git(at, &["rev-parse", "HEAD"]).ok().out.trim().to_owned()
    };
    fs::write(at.join("a.py"), "x = 1\n").unwrap();
    commit("first");
    fs::write(at.join("a.py"), format!("x = 1\ny = 2\nkey = '{GITHUB}'\n")).unwrap();
    let brought = commit("second");
    fs::write(at.join("a.py"), format!("# moved\nx = 1\ny = 2\nkey = '{GITHUB}'\n")).unwrap();
    commit("third");
    fs::write(at.join("a.py"), "x = 1\n").unwrap();
    commit("fourth");
    // A diff program that a hostile tree brings along is not run.
    fs::write(at.join(".gitattributes"), "*.py diff=own\n").unwrap();
    git(at, &["config", "diff.own.command", "touch ran"]).ok();
    git(at, &["config", "diff.own.textconv", "touch ran; cat"]).ok();
    scan(at, &["--json"]).ok();
    let ran = scan(at, &["--json", "--history"]).failed(1);
    assert_eq!(found(&ran), [("a.py".to_owned(), 3, "github".to_owned())]);
    let all: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(all[0]["commit"], brought);
    assert!(!at.join("ran").exists());
    let bare = tempfile::tempdir().unwrap();
    assert!(scan(bare.path(), &["--history"]).failed(64).err.contains("git"));
}

#[test]
fn as_a_hook_it_keeps_a_key_out_of_a_commit() {
    use std::os::unix::fs::PermissionsExt as _;
    let tree = tempfile::tempdir().unwrap();
    let at = tree.path();
    git(at, &["init"]).ok();
    let hook = at.join(".git/hooks/pre-commit");
    fs::create_dir_all(hook.parent().unwrap()).unwrap();
    fs::write(&hook, format!("#!/bin/sh\nexec '{}' scan --staged\n", env!("CARGO_BIN_EXE_locum")))
        .unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(at.join("a.py"), "x = 1\n").unwrap();
    git(at, &["add", "-A"]).ok();
    git(at, &["commit", "-m", "clean"]).ok();
    fs::write(at.join("a.py"), format!("x = 1\nkey = '{GITHUB}'\n")).unwrap();
    git(at, &["add", "-A"]).ok();
    // What was staged counts, and not what lies there now.
    fs::write(at.join("a.py"), "x = 1\n").unwrap();
    let refused = git(at, &["commit", "-m", "key"]).failed(1);
    assert!(format!("{}{}", refused.out, refused.err).contains("a.py:2:8"), "{refused:?}");
    git(at, &["add", "-A"]).ok();
    git(at, &["commit", "--allow-empty", "-m", "none"]).ok();
}

/// A home with a tree beside it that has keys in it.
fn littered() -> (Home, PathBuf) {
    let home = Home::new();
    let at = home.beside("tree");
    fs::create_dir(&at).unwrap();
    let code = format!("import os\ntoken = '{GITHUB}'\nagain = \"{GITHUB}\"  # the same\n");
    fs::write(at.join("client.py"), code).unwrap();
    fs::write(at.join("pay.yaml"), format!("stripe:\n  key: {STRIPE}\n")).unwrap();
    fs::write(at.join("db.yaml"), format!("db:\n  password: \"{PLAIN}\"\n")).unwrap();
    (home, at)
}

#[test]
fn keys_are_moved_into_the_vault_and_placeholders_take_their_place() {
    let (home, at) = littered();
    let moving = |more: &[&str]| {
        let tree = at.to_str().unwrap();
        home.run(&[&["scan", "--move", tree], more].concat())
    };
    let before = fs::read(at.join("client.py")).unwrap();
    let refused = moving(&[]);
    assert_eq!(refused.code, 64, "nobody is there to be asked: {refused:?}");
    assert_eq!(fs::read(at.join("client.py")).unwrap(), before);
    assert!(home.credentials().is_empty());

    let ran = moving(&["--yes", "--json"]);
    assert_eq!(ran.code, 1, "one stays: {ran:?}");
    let moved: Value = serde_json::from_str(&ran.out).unwrap();
    let moved = moved.as_array().unwrap();
    assert_eq!(moved.len(), 4, "{moved:?}");
    let names = home.credentials();
    assert_eq!(names.len(), 2, "a key that stands twice is one credential: {names:?}");
    let code = fs::read_to_string(at.join("client.py")).unwrap();
    let github = moved.iter().find(|m| m["path"] == "client.py").unwrap();
    let placeholder = github["placeholder"].as_str().unwrap();
    let expected =
        format!("import os\ntoken = '{placeholder}'\nagain = \"{placeholder}\"  # the same\n");
    assert_eq!(code, expected);
    let stays = moved.iter().find(|m| m["path"] == "db.yaml").unwrap();
    assert!(stays.get("credential").is_none() && stays["why"].is_string(), "{stays}");
    assert!(fs::read_to_string(at.join("db.yaml")).unwrap().contains(PLAIN));
    for secret in [GITHUB, STRIPE] {
        assert!(!ran.out.contains(secret) && !ran.err.contains(secret));
        home.assert_nowhere(secret);
    }

    // The same key in another place is known by then.
    fs::write(at.join("more.py"), format!("t = '{GITHUB}'\n")).unwrap();
    moving(&["--yes"]);
    assert_eq!(home.credentials(), names);
    assert_eq!(fs::read_to_string(at.join("more.py")).unwrap(), format!("t = '{placeholder}'\n"));
}

#[test]
fn a_key_is_moved_whole_or_not_at_all() {
    const GITLAB: &str =
        "glpat-Y7sKq0ZpL3vXn9Rt2WbMf6HdJc8GaEuQ1oTiS5yVxBzNkPwCrDlAeFgUhOjI4mZs.01.1a6hr66co";
    const LONGER: &str = "fw_3ZKqRt8Lw2Nv6Xb9Pm4Ys7Hd.6hr66cocq";
    const ODD: &str = "glpat-wPw5k4aXcaT4fNP0UcnZ#wJUVFk6";
    let home = Home::new();
    let at = home.beside("tree");
    fs::create_dir(&at).unwrap();
    fs::write(at.join("g.sh"), format!("export GITLAB_TOKEN={GITLAB}\n")).unwrap();
    let stay = [
        ("f.py", format!("Fireworks('{LONGER}')\n")),
        // What `credential import` would not take in part either.
        (".env", format!("GITLAB_TOKEN={ODD}\n")),
    ];
    for (name, text) in &stay {
        fs::write(at.join(name), text).unwrap();
    }
    let ran = home.run(&["scan", "--move", "--yes", "--json", at.to_str().unwrap()]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let moved: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(moved.as_array().unwrap().len(), 3, "{moved:?}");
    for (name, text) in &stay {
        assert_eq!(fs::read_to_string(at.join(name)).unwrap(), *text);
        let one = moved.as_array().unwrap().iter().find(|m| m["path"] == *name).unwrap();
        assert!(one["why"].as_str().unwrap().contains("cannot be told"), "{one}");
    }
    let shell = fs::read_to_string(at.join("g.sh")).unwrap();
    let gitlab = moved.as_array().unwrap().iter().find(|m| m["path"] == "g.sh").unwrap();
    assert_eq!(shell, format!("export GITLAB_TOKEN={}\n", gitlab["placeholder"].as_str().unwrap()));
    assert_eq!(home.credentials(), ["gitlab"]);

    // The vault has the key that was in the file: an import of it finds it there.
    fs::write(at.join(".env"), format!("GITLAB_TOKEN={GITLAB}\n")).unwrap();
    let file = at.join(".env");
    let ran = home.run(&["credential", "import", "--json", file.to_str().unwrap()]);
    let imported: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(imported["imported"][0]["added"], false, "{imported}");
    assert_eq!(home.credentials(), ["gitlab"]);
}

/// At a terminal each key is asked for.
#[test]
fn at_a_terminal_each_key_is_asked_for() {
    let (home, at) = littered();
    let script = "import os, pty, sys\n\
        answers = [b'n\\n', b'y\\n', b'y\\n']\n\
        def read(fd):\n    data = os.read(fd, 1024)\n    if b'[y/N]' in data: os.write(fd, answers.pop(0))\n    return data\n\
        sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:], read)))";
    let command = home.command(&["scan", "--move", at.to_str().unwrap()]);
    let locum: Vec<_> = [command.get_program()].into_iter().chain(command.get_args()).collect();
    let mut python = Command::new("python3");
    python
        .arg("-c")
        .arg(script)
        .args(locum)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin");
    if let Some(path) = std::env::var_os("PATH") {
        python.env("PATH", path);
    }
    python.env("LOCUM_HOME", home.path()).stdin(std::process::Stdio::null());
    let output = python.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("client.py:2: move the"), "{text}");
    assert!(!text.contains(GITHUB) && !text.contains(STRIPE), "{text}");
    let code = fs::read_to_string(at.join("client.py")).unwrap();
    assert_eq!(code.matches(GITHUB).count(), 1, "the first was refused: {code}");
    assert!(!fs::read_to_string(at.join("pay.yaml")).unwrap().contains(STRIPE));
}
