//! Environment values: set by name and environment, and handed to programs beside the placeholders.

use serde_json::Value;

use crate::support::*;

fn environment(home: &Home, more: &[&str]) -> Value {
    let ran = home.locum(&[&["env", "--agent", "worker", "--json"], more].concat()).ok();
    serde_json::from_str::<Value>(&ran.out).unwrap()["set"].clone()
}

#[test]
fn programs_get_the_values_of_their_environment() {
    let world = World::new();
    let home = &world.home;
    home.add(
        "stripe-live",
        &["--to", "https://pay.test", "--header", "X-Key: {secret}"],
        &canary(),
    );
    home.add(
        "stripe-test",
        &["--to", "https://pay.test", "--header", "X-Key: {secret}"],
        &canary(),
    );
    home.locum(&["value", "set", "region", "eu-west-1"]).ok();
    home.locum(&["value", "set", "region", "us-east-1", "--environment", "prod"]).ok();
    let live = ["value", "set", "pay-key", "--credential", "stripe-live", "--environment", "prod"];
    home.locum(&live).ok();
    home.locum(&["value", "set", "pay-key", "--credential", "stripe-test"]).ok();
    home.locum(&["value", "set", "motto", "it's one line & more", "--variable", "TheMotto"]).ok();
    let none = environment(home, &[]);
    assert_eq!(
        (&none["REGION"], &none["PAY_KEY"]),
        (&"eu-west-1".into(), &"locum_stripe-test".into())
    );
    assert_eq!(none["TheMotto"], "it's one line & more");
    let prod = environment(home, &["--environment", "prod"]);
    assert_eq!(
        (&prod["REGION"], &prod["PAY_KEY"]),
        (&"us-east-1".into(), &"locum_stripe-live".into())
    );
    // A program has them as they are, whatever it inherited.
    let ran = run(
        home.command(&["run", "--agent", "worker", "--environment", "prod", "--", "sh", "-c"])
            .arg("echo \"$REGION|$TheMotto\"")
            .env("REGION", "inherited"),
        b"",
    )
    .ok();
    assert_eq!(ran.out.trim(), "us-east-1|it's one line & more");
    // A misspelt environment is not silently the default.
    let ran = home.locum(&["env", "--agent", "worker", "--environment", "prdo"]);
    assert_eq!(ran.code, 64, "{}", ran.err);
    assert!(ran.err.contains("there are: prod"), "{}", ran.err);
    // And a credential that is gone is not silently left out.
    home.locum(&["credential", "revoke", "stripe-live"]).ok();
    let ran = home.locum(&["env", "--agent", "worker", "--environment", "prod"]);
    assert!(ran.code == 1 && ran.err.contains("stripe-live"), "{}", ran.err);
}

#[test]
fn values_are_listed_shown_and_removed_and_the_vault_keeps_them_through_everything() {
    let home = Home::new();
    home.locum(&["value", "set", "region", "eu-west-1"]).ok();
    home.locum(&["value", "set", "region", "us-east-1", "--environment", "prod"]).ok();
    home.locum(&["vault", "rotate"]).ok();
    let list = home.locum(&["value", "list"]).ok().out;
    for text in ["region", "REGION", "eu-west-1", "prod", "us-east-1"] {
        assert!(list.contains(text), "{list}");
    }
    let prod = home.locum(&["value", "list", "--environment", "prod"]).ok().out;
    assert!(prod.contains("us-east-1") && !prod.contains("eu-west-1"), "{prod}");
    let shown: Value =
        serde_json::from_str(&home.locum(&["value", "show", "region", "--json"]).ok().out).unwrap();
    assert_eq!(shown["environments"]["prod"]["text"], "us-east-1");
    home.locum(&["value", "remove", "region", "--environment", "prod"]).ok();
    assert_eq!(home.locum(&["value", "remove", "region", "--environment", "prod"]).code, 1);
    home.locum(&["value", "remove", "region"]).ok();
    assert_eq!(home.locum(&["value", "show", "region"]).code, 1);
    assert_eq!(home.locum(&["value", "list", "--json"]).ok().out.trim(), "[]");
    // Who did it is on record.
    let journal = home.locum(&["vault", "status"]).ok();
    assert_eq!(journal.code, 0);
}

#[test]
fn a_value_is_no_place_for_a_secret_or_for_what_leads_to_the_proxy() {
    let home = Home::new();
    let mut random = [0; 18];
    getrandom::fill(&mut random).unwrap();
    let key = format!("ghp_{}", data_encoding::HEXLOWER.encode(&random));
    let ran = home.locum(&["value", "set", "token", &key]);
    assert_eq!(ran.code, 64, "{}", ran.err);
    assert!(ran.err.contains("locum credential add") && !ran.err.contains(&key), "{}", ran.err);
    for variable in ["HTTPS_PROXY", "NODE_TLS_REJECT_UNAUTHORIZED", "no-name", "LOCUM_HOME"] {
        let ran = home.locum(&["value", "set", "v", "text", "--variable", variable]);
        assert_eq!(ran.code, 64, "{variable}: {}", ran.err);
    }
    for text in ["", "two\nlines"] {
        assert_eq!(home.locum(&["value", "set", "v", text]).code, 64, "{text:?}");
    }
    assert_eq!(home.locum(&["value", "set", "v", "--credential", "none"]).code, 64);
    // The usual name of a variable is asked about as well.
    assert_eq!(home.locum(&["value", "set", "https-proxy", "text"]).code, 64);
}
