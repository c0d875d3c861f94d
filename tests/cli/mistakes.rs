//! What goes wrong is told with the place and the next step, and by the exit code.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use crate::home::{Home, Ran, set_mode};

#[test]
fn a_command_line_that_makes_no_sense_is_64() {
    let home = Home::missing();
    for args in [
        &["nonsense"][..],
        &["credential"],
        &["set", "add", "x"],
        &["audit", "query", "--since", "yesterday"],
        &["audit", "query", "--decision", "maybe"],
        &["audit", "query", "--request", "12"],
        &["vault", "rekey", "--passphrase", "--key-file"],
        &["agent", "add", "Not-A-Name"],
    ] {
        home.run(args).refused(64, &[]);
    }
    // What is no text is a mistake as any other.
    let odd: Vec<&OsStr> =
        [&b"credential"[..], b"shwo", b"\xff"].into_iter().map(OsStr::from_bytes).collect();
    Ran::of(&mut home.command(&odd), &[]).refused(64, &["unrecognized subcommand"]);
    let odd = [&odd[..], &[OsStr::new("--json")]].concat();
    Ran::of(&mut home.command(&odd), &[]).refused(64, &["\"exit_code\":64"]);
    assert_eq!(home.run(&["--help"]).code, 0);
    assert_eq!(home.run(&["--version"]).code, 0);
}

#[test]
fn a_machine_hears_of_a_mistake_in_json_too() {
    let missing = Home::missing();
    let home = Home::new();
    let said = |home: &Home, args: &[&str], code: i32| -> serde_json::Value {
        let ran = home.run(args);
        assert_eq!((ran.code, &*ran.out), (code, ""), "{args:?}: {}", ran.err);
        let said: serde_json::Value =
            serde_json::from_str(ran.err.lines().last().unwrap()).unwrap();
        assert_eq!(said["exit_code"], code, "{said}");
        said
    };
    let of = said(&missing, &["credential", "list", "--json"], 64);
    assert!(of["error"].as_str().unwrap().contains("is not a Locum home"), "{of}");
    assert!(of["help"].as_str().unwrap().contains("locum init"), "{of}");
    let of = said(&home, &["credential", "show", "nothing", "--json"], 1);
    assert_eq!(
        (&of["error"], &of["help"]),
        (&"there is no credential 'nothing'".into(), &().into())
    );
    // A line that is not understood is answered as it looks.
    let of = said(&home, &["credential", "shwo", "--json"], 64);
    assert!(of["error"].as_str().unwrap().contains("unrecognized subcommand 'shwo'"), "{of}");
    let ran = home.run(&["run", "--agent", "nobody", "--", "true", "--json"]);
    assert!(ran.code != 0 && ran.err.starts_with("error: "), "it is the program's: {}", ran.err);
}

#[test]
fn what_commands_have_done_is_json_where_that_is_asked_for() {
    let home = Home::new();
    home.add_credential("a", "a-secret-of-some-length");
    home.add_credential("b", "b-secret-of-some-length");
    fs::write(home.beside("extra.yaml"), "version: 1\nrules: []\n").unwrap();
    home.ok(&["admin", "add", "alice", "--role", "viewer"]);
    let rotated = home.run_with(
        &["credential", "rotate", "a", "--stage", "--json"],
        b"another-secret-of-some-length",
    );
    let rotated: serde_json::Value = serde_json::from_str(&rotated.out).unwrap();
    assert_eq!((&rotated["version"], &rotated["staged"]), (&2.into(), &true.into()));
    for (args, field, expected) in [
        (&["credential", "promote", "a"][..], "before", serde_json::json!(1)),
        (&["credential", "promote", "a", "--version", "1"], "version", serde_json::json!(1)),
        (&["set", "add", "both", "a", "b"], "members", serde_json::json!(["a", "b"])),
        (&["set", "remove", "both", "b"], "members", serde_json::json!(["a"])),
        (&["set", "remove", "both"], "members", serde_json::json!([])),
        (&["value", "set", "region", "eu"], "is", serde_json::json!({"text": "eu"})),
        (&["value", "remove", "region"], "name", serde_json::json!("region")),
        (&["policy", "put", "extra.yaml"], "file", serde_json::json!("extra.yaml")),
        (&["policy", "remove", "extra.yaml"], "removed", serde_json::json!(true)),
        (&["credential", "remove", "b"], "removed", serde_json::json!(true)),
        (&["admin", "revoke", "alice"], "revoked", serde_json::json!(true)),
    ] {
        let done = home.json(&[args, &["--json"]].concat());
        assert_eq!(done[field], expected, "{args:?}: {done}");
    }
}

#[test]
fn every_command_says_how_to_make_a_home_where_there_is_none() {
    let home = Home::missing();
    for args in [
        &["credential", "list"][..],
        &["set", "list"],
        &["agent", "list"],
        &["policy", "check"],
        &["audit", "query"],
        &["audit", "tail"],
        &["audit", "verify"],
        &["audit", "export"],
        &["ca", "show"],
        &["ca", "rotate"],
        &["vault", "status"],
        &["vault", "rekey"],
        &["vault", "backup", "x"],
        &["serve"],
    ] {
        home.run(args).refused(64, &["is not a Locum home", "locum init"]);
    }
    assert!(!home.path().exists(), "nothing was made in passing");
}

#[test]
fn init_twice_is_init_once() {
    let home = Home::new();
    let before = home.files();
    assert!(home.ok(&["init"]).contains("has everything already"));
    assert_eq!(home.files(), before);
    // What was lost and can be made again is.
    fs::remove_file(home.file("ca.pem")).unwrap();
    home.ok(&["init"]);
    assert!(home.files() == before);
}

#[test]
fn what_others_could_read_is_refused_with_the_command_that_mends_it() {
    let home = Home::new();
    for (name, mode, advice) in [
        ("", 0o755, "chmod 700 "),
        ("", 0o770, "chmod 700 "),
        ("vault.db", 0o644, "chmod 600 "),
        ("master.key", 0o640, "chmod 600 "),
        ("locum.yaml", 0o666, "chmod o-w "),
    ] {
        let path = if name.is_empty() { home.path() } else { home.file(name) };
        set_mode(&path, mode);
        for args in [&["credential", "list"][..], &["serve"], &["vault", "status"]] {
            let ran = home.run(args);
            assert_ne!(ran.code, 0, "{name} {mode:o} {args:?}");
            ran.refused(ran.code, &[advice, &path.display().to_string()]);
        }
        set_mode(&path, if name.is_empty() { 0o700 } else { 0o600 });
        home.ok(&["vault", "status"]);
    }
}

#[test]
fn init_does_not_take_a_loose_directory() {
    let home = Home::missing();
    fs::create_dir(home.path()).unwrap();
    set_mode(&home.path(), 0o755);
    home.run(&["init"]).refused(1, &["chmod 700"]);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn links_in_the_place_of_vault_and_key_are_refused() {
    let home = Home::new();
    for name in ["vault.db", "master.key"] {
        let elsewhere = home.beside(name);
        fs::rename(home.file(name), &elsewhere).unwrap();
        symlink(&elsewhere, home.file(name)).unwrap();
        home.run(&["vault", "status"]).refused(1, &[name, "is a link or a special file"]);
        fs::remove_file(home.file(name)).unwrap();
        fs::rename(&elsewhere, home.file(name)).unwrap();
        home.ok(&["vault", "status"]);
    }
}

#[test]
fn a_policy_that_everyone_can_write_is_refused() {
    let home = Home::new();
    let path = home.file("policies/first.yaml");
    set_mode(&path, 0o606);
    home.run(&["policy", "check"]).refused(64, &["first.yaml", "chmod o-w"]);
    home.run(&["serve"]).refused(64, &["first.yaml", "chmod o-w"]);
}

#[test]
fn a_lost_or_foreign_key_is_told_apart_from_a_broken_vault() {
    let (home, other) = (Home::new(), Home::new());
    let key = fs::read(home.file("master.key")).unwrap();
    fs::copy(other.file("master.key"), home.file("master.key")).unwrap();
    home.run(&["vault", "status"]).refused(1, &["the master key does not open this vault"]);
    fs::write(home.file("master.key"), &key[..40]).unwrap();
    home.run(&["vault", "status"]).refused(1, &["is damaged: its checksum is wrong"]);
    fs::remove_file(home.file("master.key")).unwrap();
    home.run(&["vault", "status"]).refused(1, &["master.key does not exist"]);
    home.run(&["init"]).refused(1, &["master.key"]);
    assert!(!home.file("master.key").exists(), "no new key beside a vault that it does not open");
}

/// Which a start script may do on two machines of a pod, or twice.
#[test]
fn homes_are_made_by_several_at_once() {
    for _ in 0..3 {
        let home = Home::missing();
        let at_once: Vec<_> =
            (0..4).map(|_| home.command(&["init", "--json"]).spawn().unwrap()).collect();
        let mut made = Vec::new();
        for child in at_once {
            let ran = child.wait_with_output().unwrap();
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
            let json: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
            made.extend(json["made"].as_array().unwrap().clone());
        }
        let (all, vault) = (made.len(), home.file("vault.db"));
        assert_eq!(made.iter().filter(|path| **path == *vault.to_str().unwrap()).count(), 1);
        made.sort_by_key(ToString::to_string);
        made.dedup();
        assert_eq!(made.len(), all, "each file was made once: {made:?}");
        home.ok(&["vault", "status", "--verify"]);
    }
}

#[test]
fn init_says_what_it_made_and_what_it_did_not() {
    let home = Home::missing();
    home.ok(&["init"]);
    let ran = home.run(&["init", "--strict"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("--strict is for a new home, and changed nothing"), "{ran:?}");
    fs::remove_file(home.file("ca-bundle.pem")).unwrap();
    let ran = home.run(&["init"]);
    assert_eq!((&*ran.err, ran.out.contains("ca-bundle.pem")), ("", true), "{ran:?}");
    assert!(home.ok(&["init"]).contains("has everything already"));
    // Where the strict policy is there, nothing is swallowed.
    assert_eq!(Home::new().run(&["init", "--strict"]).err, "");
}

#[test]
fn a_home_that_cannot_be_looked_into_is_not_called_absent() {
    let home = Home::missing();
    symlink("home", home.path()).unwrap();
    let ran = home.run(&["credential", "list"]);
    ran.refused(1, &["locum.yaml: ", "as the user whose home it is"]);
    assert!(!ran.err.contains("is not a Locum home"), "{ran:?}");
}

#[test]
fn providers_can_be_found() {
    let home = Home::missing();
    let all = home.json(&["credential", "providers", "--json"]);
    assert!(all.as_array().unwrap().len() > 50, "{}", all.as_array().unwrap().len());
    let openai = all.as_array().unwrap().iter().find(|one| one["provider"] == "openai").unwrap();
    assert_eq!(
        (&openai["name"], &openai["variables"][0]),
        (&"OpenAI".into(), &"OPENAI_API_KEY".into())
    );
    let some = home.ok(&["credential", "providers", "GITHUB"]);
    let rows: Vec<&str> = some.lines().collect();
    assert!(rows[0].starts_with("PROVIDER") && rows.len() > 1 && rows.len() < 12, "{some}");
    assert!(rows.iter().any(|row| row.starts_with("github ")), "{some}");
    home.run(&["credential", "providers", "nobody-has-this"]).refused(1, &["--to and --header"]);
    let home = Home::new();
    let ran =
        home.run_with(&["credential", "add", "x", "--provider", "opnai"], b"0123456789abcdef");
    ran.refused(64, &["did you mean `openai`?", "locum credential providers"]);
    let ran =
        home.run_with(&["credential", "add", "x", "--provider", "zzzzzzzz"], b"0123456789abcdef");
    ran.refused(64, &["locum credential providers"]);
}

#[test]
fn a_key_that_is_typed_where_none_belongs_is_not_shown() {
    let home = Home::new();
    let key = "sk-proj-aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5zA7";
    let given = format!("--secret={key}");
    for words in [
        &["credential", "add", "x", key][..],
        &["credential", "add", "x", "--secret", key],
        &["credential", "add", "x", &given],
        &["credential", "add", "x", key, "--json"],
    ] {
        let ran = home.run(words);
        ran.refused(64, &[]);
        assert!(!ran.err.contains("aB3dE5fG7hI9"), "{words:?}: {ran:?}");
    }
    home.run(&["credential", "add", "x", key]).refused(64, &["on standard input", "--from-file"]);
}

#[test]
fn what_was_pasted_along_with_a_secret_is_told() {
    let home = Home::new();
    let add = |name: &str, secret: &str, more: &[&str]| {
        let words =
            ["credential", "add", name, "--to", "https://api.test", "--header", "x: {secret}"];
        home.run_with(&[&words[..], more].concat(), secret.as_bytes())
    };
    for (secret, why) in [
        ("\"0123456789abcdef\"", "stands in quotes"),
        ("'0123456789abcdef'\n", "stands in quotes"),
        ("API_KEY=0123456789abcdef", "has the name of its variable before it"),
        ("export API_KEY=0123456789abcdef", "has the name of its variable before it"),
    ] {
        let ran = add("x", secret, &[]);
        ran.refused(64, &[why, "--as-is"]);
        assert!(!ran.err.contains("0123456789abcdef"), "{ran:?}");
    }
    for (name, secret) in
        [("a", "QUJD0123_456789=="), ("b", "key=0123456789abcdef"), ("c", "it's \"so\"!")]
    {
        assert_eq!(add(name, secret, &[]).code, 0, "{secret}");
    }
    assert_eq!(add("d", "'0123456789abcdef'", &["--as-is"]).code, 0);
}

#[test]
fn what_was_typed_wrongly_is_64() {
    let home = Home::new();
    home.run(&["vault", "recovery", "--threshold", "5", "--shares", "3"])
        .refused(64, &["no more than there are"]);
    let nowhere = home.beside("nowhere.yaml");
    home.run(&["config", "check", nowhere.to_str().unwrap()])
        .refused(64, &["there is no such file"]);
    let ran = home.run(&["workspace", "remove", "default"]);
    ran.refused(64, &["cannot be removed"]);
    assert!(!ran.err.contains("--yes"), "{ran:?}");
}

#[test]
fn what_was_revoked_or_accepted_is_json_where_json_was_asked_for() {
    let home = Home::new();
    home.ok(&["agent", "add", "researcher"]);
    let told = home.json(&["agent", "revoke", "researcher", "--run", "42", "--json"]);
    let only = serde_json::json!({ "run": "42" });
    assert_eq!(
        (&told["agent"], &told["all"], &told["only"]),
        (&"researcher".into(), &false.into(), &only)
    );
    let told = home.json(&["agent", "revoke", "researcher", "--json"]);
    assert_eq!((&told["all"], &told["tokens"]), (&true.into(), &1.into()));
    let told = home.json(&["anomalies", "accept", "researcher", "--json"]);
    assert_eq!((&told["agent"], &told["usual_from"]), (&"researcher".into(), &"next-start".into()));
    let ran = home.run(&["agent", "revoke", "nobody", "--json"]);
    assert_eq!((ran.code, &*ran.out), (1, ""), "{ran:?}");
    let told: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert!(told["error"].as_str().unwrap().contains("nobody"), "{told}");
}

/// What a command says that cannot print: it is printed to where nothing fits.
fn unprinted(home: &Home, args: &[&str]) -> Ran {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = home.command(args).stdin(Stdio::null()).stdout(full).output().unwrap();
    Ran {
        code: output.status.code().unwrap(),
        out: String::new(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn a_token_that_could_not_be_printed_is_ended_and_the_way_to_another_is_told() {
    let home = Home::new();
    for args in [&["agent", "add", "one"][..], &["agent", "add", "two", "--json"]] {
        let again = format!("`locum agent add {}` makes another", args[2]);
        unprinted(&home, args).refused(1, &["No space left", "was revoked", &again]);
    }
    // So is one whose reader has gone away.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = home.command(&["agent", "add", "three"]).stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let listed = home.json(&["agent", "list", "--json"]);
    let agents = listed.as_array().unwrap();
    assert_eq!(agents.len(), 3, "{listed}");
    assert!(agents.iter().all(|agent| agent["tokens"][0]["revoked"].is_i64()), "{listed}");
    home.ok(&["agent", "add", "one"]);
    let args = ["admin", "add", "boss", "--role", "owner"];
    unprinted(&home, &args).refused(1, &["boss was revoked", "add it again"]);
    home.ok(&args);
}

#[test]
fn what_has_no_effect_or_another_than_meant_says_so() {
    let home = Home::new();
    let said = &["there is no agent nobody", "locum anomalies list"];
    home.run(&["anomalies", "accept", "nobody"]).refused(1, said);
    home.ok(&["agent", "add", "worker"]);
    home.ok(&["anomalies", "accept", "worker"]);
    let args = ["anomalies", "accept", "worker", "--credential", "nothing"];
    home.run(&args).refused(1, &["there is no credential nothing"]);
    home.add_credential("a", "a-secret-of-some-length");
    let rotate =
        |secret: &str| home.run_with(&["credential", "rotate", "a"], secret.as_bytes()).out;
    assert!(!rotate("b-secret-of-some-length").contains("used again"));
    home.ok(&["credential", "revoke", "a"]);
    assert!(
        rotate("c-secret-of-some-length")
            .contains("a was revoked, and no request got it; now it is used again")
    );
}

#[test]
fn what_is_gone_is_named_with_the_way_back() {
    let home = Home::new();
    let missing = home.beside("no").join("log.jsonl");
    let ran = home.run(&["audit", "export", "--output", missing.to_str().unwrap()]);
    ran.refused(1, &["no does not exist"]);
    assert!(!ran.err.contains("log.jsonl"), "{}", ran.err);
    let copy = home.beside("copy");
    home.ok(&["vault", "backup", copy.to_str().unwrap()]);
    let away = home.beside("away");
    for (file, way) in
        [("master.key", "locum vault restore --recovery"), ("vault.db", "locum vault restore FILE")]
    {
        fs::rename(home.file(file), &away).unwrap();
        for args in [&["credential", "list"][..], &["serve"]] {
            home.run(args).refused(1, &[&format!("{file} does not exist"), way]);
        }
        if file == "master.key" {
            fs::rename(&away, home.file(file)).unwrap();
        }
    }
    home.ok(&["vault", "restore", copy.to_str().unwrap()]);
    home.ok(&["credential", "list"]);
    home.write("locum.yaml", "upstream:\n  hosts:\n    a.test: {ca_file: /nowhere/ca.pem}\n");
    let said = &["locum.yaml:3:5: upstream.hosts.a.test: /nowhere/ca.pem cannot be read"];
    home.run(&["config", "check"]).refused(64, said);
    home.run(&["serve"]).refused(64, said);
    let ran = home.run(&["config", "check", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(told["ok"], false, "{told}");
    assert!(told["problems"][0]["message"].as_str().unwrap().contains(said[0]), "{told}");
    assert_eq!(ran.code, 64);
}

#[test]
fn a_number_is_to_be_put_in_quotes_only_where_that_helps() {
    let home = Home::new();
    let file = home.beside("rules.yaml");
    let check = |text: &str| {
        fs::write(&file, text).unwrap();
        home.run(&["policy", "check", file.to_str().unwrap()])
    };
    let rule = |limit: &str| {
        format!(
            "version: 1\nrules:\n- {{name: a, agents: ['*'], to: ['https://x.test'], limits: {{requests: {limit}}}}}\n"
        )
    };
    for limit in ["60", "'60'"] {
        let ran = check(&rule(limit));
        ran.refused(64, &["write how many and in what time: 10/s, 60/min"]);
        assert!(!ran.err.contains("quotes"), "{}", ran.err);
    }
    check("version: 1\nrules:\n- {name: 7, agents: ['*'], to: ['https://x.test']}\n")
        .refused(64, &["put it in quotes"]);
    check("version: 2\nrules: []\n").refused(64, &["version: has to be 1"]);
}

/// Whoever registers such a name would be sent the key by any agent whose rule says no host.
#[test]
fn a_credential_is_not_bound_to_what_anybody_can_register() {
    let home = Home::new();
    let add = |name: &str, to: &str, more: &[&str]| {
        let args = ["credential", "add", name, "--to", to];
        home.run_with(&[&args[..], more].concat(), b"a-secret-of-some-length")
    };
    let slot = ["--header", "X-Key: {secret}"];
    for to in ["https://*.vercel.app", "https://**.github.io", "https://*.s3.amazonaws.com"] {
        let ran = add("k", to, &slot);
        assert_eq!(ran.code, 1, "{to}: {}", ran.err);
        assert!(ran.err.contains(to) && ran.err.contains("name the hosts"), "{}", ran.err);
    }
    let list = home.ok(&["credential", "list"]);
    assert!(!list.contains("vercel"), "{list}");
    for (name, to) in [("one", "https://mine.vercel.app"), ("own", "https://*.googleapis.com")] {
        assert_eq!(add(name, to, &slot).code, 0, "{to}");
    }
    let key = b"AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    let signs = ["credential", "add", "aws", "--kind", "aws", "--to", "https://*.s3.amazonaws.com"];
    let ran = home.run_with(&signs, key);
    assert_eq!(ran.code, 0, "{}", ran.err);
}
