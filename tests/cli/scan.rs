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

/// A program that leaves a file when it is run.
fn trap(at: &Path, name: &str) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let path = at.join(name);
    fs::write(&path, format!("#!/bin/sh\ntouch '{}'\ncat\n", at.join("ran").display())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The kinds of ways in which a change does not look like one.
#[test]
fn nothing_in_a_tree_hides_a_key_from_a_commit() {
    let tree = tempfile::tempdir().unwrap();
    let at = tree.path();
    git(at, &["init"]).ok();
    fs::create_dir_all(at.join("sub")).unwrap();
    let key = format!("key = '{GITHUB}'\n");
    fs::write(at.join(".gitattributes"), "*.py -diff\n*.json binary\n").unwrap();
    fs::write(at.join("a.json"), &key).unwrap();
    fs::write(at.join("b.py"), &key).unwrap();
    fs::write(at.join("c.txt"), format!("x\n++ {key}")).unwrap();
    fs::write(at.join("d.txt"), format!("{}{key}", "x ".repeat(600_007))).unwrap();
    fs::write(at.join("sub/e\"\u{1b}[2J\nf.txt"), &key).unwrap();
    fs::write(at.join("binary"), format!("\0{key}")).unwrap();
    git(at, &["add", "-A"]).ok();
    let expected = |commit: &str| {
        let one =
            |path: &str, line: u64, column: u64| (path.to_owned(), line, column, commit.to_owned());
        vec![
            one("a.json", 1, 8),
            one("b.py", 1, 8),
            one("c.txt", 2, 11),
            one("d.txt", 1, 1_200_022),
            one("sub/e\"\u{1b}[2J\nf.txt", 1, 8),
        ]
    };
    let places = |ran: &Ran| {
        let all: Vec<Value> = serde_json::from_str(&ran.out).unwrap();
        let place = |f: &Value| {
            let text = |name: &str| f[name].as_str().unwrap_or_default().to_owned();
            let number = |name: &str| f[name].as_u64().unwrap();
            (text("path"), number("line"), number("column"), text("commit"))
        };
        all.iter().map(place).collect::<Vec<_>>()
    };
    assert_eq!(places(&scan(at, &["--staged", "--json"]).failed(1)), expected(""));
    // All of it is committed, from wherever.
    let sub = at.join("sub");
    assert_eq!(places(&scan(&sub, &["--staged", "--json"]).failed(1)), expected(""));
    assert_eq!(places(&scan(&sub, &["--staged", "--json", "."]).failed(1)), expected("")[4..]);
    assert_eq!(places(&scan(at, &["--staged", "--json", "b.py"]).failed(1)), expected("")[1..2]);
    // What a name has in it does not reach the terminal.
    let table = scan(at, &["--staged"]).failed(1).out;
    assert!(!table.contains('\u{1b}') && table.contains("[2J\\u{a}f.txt:1:8"), "{table}");

    git(at, &["commit", "-m", "keys"]).ok();
    let commit = git(at, &["rev-parse", "HEAD"]).ok().out.trim().to_owned();
    let expected = expected(&commit);
    git(at, &["rm", "-r", "-q", "."]).ok();
    git(at, &["commit", "-m", "none"]).ok();
    assert_eq!(places(&scan(at, &["--history", "--json"]).failed(1)), expected);
    scan(at, &["--staged"]).ok();
}

#[test]
fn a_commit_is_asked_for_what_it_adds() {
    let tree = tempfile::tempdir().unwrap();
    let at = tree.path();
    git(at, &["init"]).ok();
    let staged = |text: &str| {
        fs::write(at.join("a.py"), text).unwrap();
        git(at, &["add", "-A"]).ok();
        scan(at, &["--staged", "--json"])
    };
    let line = format!("key = '{GITHUB}'\n");
    assert_eq!(found(&staged(&line).failed(1)).len(), 1);
    git(at, &["commit", "-m", "a key"]).ok();
    // It is there already, also when its line moves or changes.
    staged(&format!("x = 1\n{line}")).ok();
    staged(&format!("x = 1\nthe{line}")).ok();
    let twice = staged(&format!("{line}x = 1\n{line}")).failed(1);
    assert_eq!(found(&twice), [("a.py".to_owned(), 3, "github".to_owned())]);
    assert_eq!(found(&staged(&format!("{line}k = '{STRIPE}'\n")).failed(1)).len(), 1);
}

#[test]
fn a_repository_that_is_looked_at_runs_nothing() {
    let tree = tempfile::tempdir().unwrap();
    let at = tree.path();
    git(at, &["init"]).ok();
    fs::write(at.join("a.py"), format!("key = '{GITHUB}'\n")).unwrap();
    git(at, &["add", "-A"]).ok();
    git(at, &["commit", "-m", "first"]).ok();
    // A commit that asks for a program which verifies it.
    let signed = git(at, &["cat-file", "commit", "HEAD"]).ok().out.replacen(
        "\n\n",
        "\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n iQ==\n -----END PGP SIGNATURE-----\n\n",
        1,
    );
    fs::write(at.join(".git/signed"), signed).unwrap();
    let id = git(at, &["hash-object", "-t", "commit", "-w", ".git/signed"]).ok().out;
    git(at, &["update-ref", "HEAD", id.trim()]).ok();
    fs::write(at.join(".gitattributes"), "*.py diff=own filter=own\n").unwrap();
    fs::write(at.join("b.py"), "x = 1\n").unwrap();
    git(at, &["add", "-A"]).ok();
    let program = trap(at, ".git/program");
    fs::create_dir_all(at.join(".git/others")).unwrap();
    trap(at, ".git/others/post-index-change");
    for (name, value) in [
        ("log.showSignature", "true"),
        ("gpg.program", &program),
        ("core.fsmonitor", &program),
        ("core.hooksPath", ".git/others"),
        ("core.pager", &program),
        ("pager.rev-list", "true"),
        ("pager.diff-tree", "true"),
        ("core.sshCommand", &program),
        ("diff.external", &program),
        ("diff.own.command", &program),
        ("diff.own.textconv", &program),
        ("filter.own.clean", &program),
        ("filter.own.smudge", &program),
        ("alias.ls-files", &format!("!{program}")),
    ] {
        git(at, &["config", name, value]).ok();
    }
    for how in [&[][..], &["--staged"], &["--history"]] {
        scan(at, how).failed(i32::from(how != ["--staged"]));
        assert!(!at.join("ran").exists(), "{how:?}");
    }
}

#[test]
fn what_a_partial_clone_has_not_is_told_and_not_fetched() {
    let trees = tempfile::tempdir().unwrap();
    let (from, at) = (trees.path().join("from"), trees.path().join("at"));
    fs::create_dir(&from).unwrap();
    git(&from, &["init"]).ok();
    fs::write(from.join("a.py"), format!("key = '{GITHUB}'\n")).unwrap();
    git(&from, &["add", "-A"]).ok();
    git(&from, &["commit", "-m", "first"]).ok();
    git(&from, &["config", "uploadpack.allowFilter", "true"]).ok();
    let url = format!("file://{}", from.display());
    let partial = ["clone", "-q", "--no-checkout", "--filter=blob:none", &url, "at"];
    git(trees.path(), &partial).ok();
    let program = trap(trees.path(), "program");
    git(&at, &["config", "remote.origin.uploadpack", &program]).ok();
    git(&at, &["config", "protocol.file.allow", "always"]).ok();
    let ran = scan(&at, &["--history"]).failed(64);
    assert!(ran.err.contains("1 files that this partial clone has not"), "{ran:?}");
    assert!(!trees.path().join("ran").exists());
}

#[test]
fn the_tree_is_what_git_has_or_would_take() {
    let tree = tempfile::tempdir().unwrap();
    let at = tree.path();
    git(at, &["init"]).ok();
    let key = format!("token = '{GITHUB}'\n");
    for directory in ["conf", "kept", "build/deep", "node_modules"] {
        fs::create_dir_all(at.join(directory)).unwrap();
    }
    fs::write(at.join(".gitignore"), "conf/\nbuild/\nnode_modules/\n").unwrap();
    fs::write(at.join(".ignore"), "kept/\n").unwrap();
    for path in ["conf/prod.py", "kept/a.py"] {
        fs::write(at.join(path), &key).unwrap();
        git(at, &["add", "-f", path]).ok();
    }
    fs::write(at.join("build/deep/.env"), format!("GITHUB_TOKEN={GITHUB}\n")).unwrap();
    fs::write(at.join("build/.envrc"), format!("export GITHUB_TOKEN={GITHUB}\n")).unwrap();
    fs::write(at.join("build/a.js"), &key).unwrap();
    fs::write(at.join("node_modules/a.js"), &key).unwrap();
    let paths = |ran: &Ran| found(ran).into_iter().map(|(path, ..)| path).collect::<Vec<_>>();
    let expected = ["build/.envrc", "build/deep/.env", "conf/prod.py", "kept/a.py"];
    assert_eq!(paths(&scan(at, &["--json"]).failed(1)), expected);
    assert_eq!(paths(&scan(&at.join("conf"), &["--json"]).failed(1)), ["prod.py"]);
    assert_eq!(paths(&scan(at, &["--json", "--no-ignore"]).failed(1)).len(), 6);
}

#[test]
fn what_could_not_be_looked_at_is_no_clean_tree() {
    let tree = tempfile::tempdir().unwrap();
    let at = tree.path();
    // git cannot say what it tracks.
    fs::create_dir(at.join(".git")).unwrap();
    fs::write(at.join("a.py"), "x = 1\n").unwrap();
    let ran = scan(at, &[]).failed(64);
    assert!(ran.err.contains("not looked at: what git tracks"), "{ran:?}");
    let sarif: Value = serde_json::from_str(&scan(at, &["--sarif"]).failed(64).out).unwrap();
    let invocation = &sarif["runs"][0]["invocations"][0];
    assert_eq!(invocation["executionSuccessful"], false);
    let said = &invocation["toolExecutionNotifications"][0]["message"]["text"];
    assert!(said.as_str().unwrap().contains("what git tracks"), "{sarif}");
    scan(at, &["--no-ignore"]).ok();
    fs::write(at.join("a.py"), format!("key = '{GITHUB}'\n")).unwrap();
    scan(at, &[]).failed(1);
}

/// Files are looked at in pieces of this size.
const PIECE: usize = 16 << 20;

#[test]
fn a_large_file_is_looked_at_to_its_end() {
    let tree = tempfile::tempdir().unwrap();
    let at = tree.path();

    let line = format!("{}\n", "word ".repeat(20));
    let mut text = line.repeat(PIECE / line.len() - 1);
    // One stands across the border, and one behind it.
    let border = text.lines().count() as u64 + 1;
    text.push_str(&" ".repeat(PIECE - text.len() - 20));
    text.extend(["'", GITHUB, "'\n", &line.repeat(1000), "'", STRIPE, "'\n"]);
    fs::write(at.join("dump.sql"), &text).unwrap();
    let last = text.lines().count() as u64;
    let ran = scan(at, &["--json"]).failed(1);
    let path = "dump.sql".to_owned();
    let expected = [(path.clone(), border, "github".to_owned()), (path, last, "stripe".to_owned())];
    assert_eq!(found(&ran), expected);
}

#[test]
fn code_scanning_is_told_the_place_in_its_own_terms() {
    let tree = tempfile::tempdir().unwrap();
    let at = tree.path();
    fs::create_dir(at.join("a b#c%20")).unwrap();
    fs::write(
        at.join("a b#c%20/x.py"),
        format!("# \u{1f511}\nключ = \"{GITHUB}\"\n🔑 = \"{GITHUB}\"\n"),
    )
    .unwrap();
    let sarif: Value = serde_json::from_str(&scan(at, &["--sarif"]).failed(1).out).unwrap();
    let run = &sarif["runs"][0];
    assert_eq!(run["columnKind"], "utf16CodeUnits");
    assert_eq!(run["invocations"][0]["executionSuccessful"], true);
    let place = |n: usize| run["results"][n]["locations"][0]["physicalLocation"].clone();
    assert_eq!(place(0)["artifactLocation"]["uri"], "a%20b%23c%2520/x.py");
    assert_eq!(place(0)["region"], serde_json::json!({"startLine": 2, "startColumn": 9}));
    assert_eq!(place(1)["region"], serde_json::json!({"startLine": 3, "startColumn": 7}));
    let table = scan(at, &[]).failed(1).out;
    assert!(table.contains("x.py:2:9") && table.contains("x.py:3:6"), "{table}");
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

#[test]
fn a_key_is_moved_out_of_an_address() {
    let home = Home::new();
    let at = home.beside("tree");
    fs::create_dir(&at).unwrap();
    let hook =
        |key: &str| format!("URL=https://hooks.slack.com/services/T0AB12CD3/B0EF45GH6/{key}\n");
    fs::write(at.join("notify.sh"), hook("wPw5k4aXcaT4fNP0UcnZwJUV")).unwrap();
    let ran = home.run(&["scan", "--move", "--yes", "--json", at.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(home.credentials(), ["slack-webhook"]);
    let moved = fs::read_to_string(at.join("notify.sh")).unwrap();
    assert_eq!(moved, hook("locum_slack-webhook"));
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
