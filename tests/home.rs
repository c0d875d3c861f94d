//! A home and its proxy, from outside: what was added is in force, what cannot be honoured is refused.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test that cannot go on has failed.

mod support;

use support::Home;

/// A token that was refused because a look at the vault was under way failed once in some twenty
/// times, so this asks often.
#[test]
fn a_token_is_good_as_soon_as_it_is_printed() {
    let home = Home::strict();
    let serve = home.serve();
    for _ in 0..80 {
        let agent = home.agent("hasty");
        serve.open_tunnel(&agent, "nowhere.test:443");
    }
}

#[test]
fn the_vault_may_be_in_another_place() {
    let home = Home::bare();
    let elsewhere = home.work().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let path = home.path();
    std::fs::create_dir(&path).unwrap();
    set_mode(&path, 0o700);
    set_mode(&elsewhere, 0o700);
    let store = elsewhere.join("v.db");
    let config = path.join("locum.yaml");
    std::fs::write(&config, format!("vault: {{store: '{}'}}\n", store.display())).unwrap();
    set_mode(&config, 0o600);
    home.locum(&["init"]).ok();
    assert!(store.exists() && !path.join("vault.db").exists());
    home.agent("a");
    assert!(home.locum(&["agent", "list"]).ok().out.contains('a'));
}

fn set_mode(path: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
