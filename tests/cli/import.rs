//! `credential import`: keys move from a .env file into the vault.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use serde_json::Value;

use crate::home::{Home, assert_not_in, kill_after, set_mode};

const OPENAI: &str = "sk-proj-canary7Qx2mVb9Lp4Rt8Wz";
const GITHUB: &str = "ghp_canary5Fk3nYc8Hs1Jd6Ge0Ab2Cd4Ef6Gh8";

fn env_file() -> String {
    format!(
        "# settings\r\nDEBUG=1\r\n\r\nexport OPENAI_API_KEY=\"{OPENAI}\"   # prod\r\nGH_TOKEN='{GITHUB}'\r\nGITHUB_TOKEN={GITHUB}\r\nANTHROPIC_API_KEY=\r\nDB_URL=postgres://u:p@h/db"
    )
}

#[test]
fn keys_go_into_the_vault_and_placeholders_into_the_file() {
    let home = Home::new();
    let path = home.beside(".env");
    fs::write(&path, env_file()).unwrap();
    set_mode(&path, 0o640);

    // Without --replace the vault gets the keys, and the file stays.
    let ran = home.run(&["credential", "import", ".env"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains(".env still has the keys"), "{}", ran.out);
    assert!(ran.out.contains("line 2: DEBUG: not in the catalogue"), "{}", ran.out);
    assert_eq!(fs::read_to_string(&path).unwrap(), env_file());
    assert_eq!(home.credentials(), ["github", "openai"]);

    // The next time the vault has them already.
    let ran = home.run(&["credential", "import", ".env", "--replace", "--json"]);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["replaced"], true);
    let imported = report["imported"].as_array().unwrap();
    assert_eq!(imported.len(), 3);
    assert!(imported.iter().all(|one| one["added"] == false), "{report}");
    assert_eq!(home.credentials(), ["github", "openai"]);
    let placeholder = |variable: &str| {
        let one = imported.iter().find(|one| one["variable"] == variable).unwrap();
        one["placeholder"].as_str().unwrap().to_owned()
    };
    let wanted = env_file()
        .replace(OPENAI, &placeholder("OPENAI_API_KEY"))
        .replace(GITHUB, &placeholder("GH_TOKEN"));
    assert_eq!(fs::read_to_string(&path).unwrap(), wanted);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    for secret in [OPENAI, GITHUB] {
        assert_not_in(secret, format!("{ran:?}").as_bytes(), "the report");
        home.assert_nowhere(secret);
    }

    // And a third time there is nothing left to do.
    let text = home.ok(&["credential", "import", ".env", "--replace"]);
    assert!(text.contains("a placeholder already") && text.contains("nothing to import"), "{text}");
    assert_eq!(fs::read_to_string(&path).unwrap(), wanted);
}

#[test]
fn all_or_none() {
    let home = Home::new();
    for (bad, why) in [
        ("GH_TOKEN=a$b12345678", "line 2: GH_TOKEN: it has a `$`"),
        ("GH_TOKEN=short", "line 2: GH_TOKEN: the secret is under 8 bytes"),
        ("GH_TOKEN='two\nlines of it'", "line 2: GH_TOKEN: the secret has a line break"),
        (
            "OPENAI_API_KEY=sk-another-value",
            "line 2: OPENAI_API_KEY: it has another value on line 1",
        ),
    ] {
        let text = format!("OPENAI_API_KEY={OPENAI}\n{bad}\n");
        fs::write(home.beside(".env"), &text).unwrap();
        let ran = home.run(&["credential", "import", ".env", "--replace"]);
        ran.refused(64, &["nothing was imported", why]);
        assert_not_in(OPENAI, ran.err.as_bytes(), "the refusal");
        assert_eq!(fs::read_to_string(home.beside(".env")).unwrap(), text);
        assert!(home.credentials().is_empty());
    }
    // The sound one can be imported by itself.
    fs::write(home.beside(".env"), format!("OPENAI_API_KEY={OPENAI}\nGH_TOKEN=short\n")).unwrap();
    home.ok(&["credential", "import", ".env", "--replace", "--only", "OPENAI_API_KEY"]);
    let text = fs::read_to_string(home.beside(".env")).unwrap();
    assert!(
        text.contains("=sk-proj-locum_openai_0") && text.ends_with("GH_TOKEN=short\n"),
        "{text}"
    );
    home.run(&["credential", "import", ".env", "--only", "NOPE"])
        .refused(64, &["NOPE: there is no such variable"]);
    home.run(&["credential", "import", "none"]).refused(64, &["none: No such file"]);
}

#[test]
fn another_key_of_the_same_provider_gets_a_name_and_its_variable() {
    let home = Home::new();
    home.run_with(
        &["credential", "add", "github", "--provider", "github"],
        b"ghp_the-first-one-there-was",
    );
    fs::write(home.beside(".env"), format!("GITHUB_TOKEN={GITHUB}\n")).unwrap();
    let ran = home.run(&["credential", "import", ".env", "--replace"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(home.credentials(), ["github", "github-2"]);
    let shown = home.json(&["credential", "show", "github-2", "--json"]);
    assert_eq!(shown["tags"], serde_json::json!(["env:GITHUB_TOKEN"]));
    let text = fs::read_to_string(home.beside(".env")).unwrap();
    assert!(text.starts_with("GITHUB_TOKEN=ghp_locum_github-2_"), "{text}");
}

#[test]
fn a_revoked_key_does_not_come_back_in_passing() {
    let home = Home::new();
    let text = format!("OPENAI_API_KEY={OPENAI}\n");
    fs::write(home.beside(".env"), &text).unwrap();
    home.ok(&["credential", "import", ".env"]);
    home.ok(&["credential", "revoke", "openai"]);
    let said = home.ok(&["credential", "import", ".env", "--replace"]);
    assert!(said.contains("its value is version 1 of openai, which is revoked"), "{said}");
    assert_eq!(fs::read_to_string(home.beside(".env")).unwrap(), text);
}

#[test]
fn a_copy_of_a_key_that_stays_in_the_file_is_told() {
    let home = Home::new();
    let text = format!("#OPENAI_API_KEY={OPENAI}\nOPENAI_API_KEY={OPENAI}\n");
    fs::write(home.beside(".env"), text).unwrap();
    let ran = home.run(&["credential", "import", ".env", "--replace"]);
    assert!(ran.err.contains("line 1 of .env still has the value of OPENAI_API_KEY"), "{ran:?}");
    assert_not_in(OPENAI, format!("{ran:?}").as_bytes(), "the warning");
}

#[test]
fn links_to_the_file_are_followed_and_other_names_of_it_told() {
    let home = Home::new();
    fs::create_dir(home.beside("real")).unwrap();
    fs::write(home.beside("real/env"), format!("OPENAI_API_KEY={OPENAI}\n")).unwrap();
    std::os::unix::fs::symlink("real/env", home.beside(".env")).unwrap();
    fs::hard_link(home.beside("real/env"), home.beside("other")).unwrap();
    let ran = home.run(&["credential", "import", ".env", "--replace"]);
    assert!(ran.err.contains(".env had another name (a hard link)"), "{ran:?}");
    assert!(home.beside(".env").symlink_metadata().unwrap().is_symlink());
    assert!(!fs::read_to_string(home.beside("real/env")).unwrap().contains(OPENAI));
    assert!(fs::read_to_string(home.beside("other")).unwrap().contains(OPENAI));
}

#[test]
fn an_import_that_is_killed_at_any_moment_loses_no_key() {
    let home = Home::new();
    let path = home.beside(".env");
    let import = ["credential", "import", ".env", "--replace"];
    let mut killed = 0;
    for round in 0..30_u64 {
        let keys = [
            format!("sk-proj-round{round}-canary7Qx2mVb9"),
            format!("ghp_round{round}canary5Fk3nYc8Hs1Jd6"),
        ];
        let old = format!("OPENAI_API_KEY={}\nGH_TOKEN={}\n", keys[0], keys[1]);
        fs::write(&path, &old).unwrap();
        let after = Duration::from_millis(1 + round * 11 % 120);
        killed += u64::from(!kill_after(&mut home.command(&import), after));
        let text = fs::read_to_string(&path).unwrap();
        if text != old {
            // The file is replaced last: each placeholder in it has its key in the vault.
            assert!(!text.contains("canary"), "after {after:?}: {text}");
            let names = home.credentials();
            let held = text.lines().filter_map(|line| line.split_once("locum_"));
            for (_, rest) in held {
                let name = rest.split('_').next().unwrap();
                assert!(names.iter().any(|n| n == name), "no {name} in {names:?}");
            }
        }
        home.ok(&import);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches("locum_").count(), 2, "{text}");
        for key in &keys {
            home.assert_nowhere(key);
        }
        let names = home.credentials();
        assert_eq!(names.len(), 2, "a second run adds nothing twice: {names:?}");
        for name in &names {
            home.ok(&["credential", "remove", name]);
        }
    }
    assert!(killed > 0, "none was killed");
    home.ok(&["vault", "status", "--verify"]);
    home.ok(&["audit", "verify"]);
}
