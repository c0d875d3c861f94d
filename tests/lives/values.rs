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
    // What refers to the value is the same in all environments: the token says in which it is used.
    let none = environment(home, &[]);
    assert_eq!((&none["REGION"], &none["PAY_KEY"]), (&"eu-west-1".into(), &"locum_pay-key".into()));
    assert_eq!(none["TheMotto"], "it's one line & more");
    let prod = environment(home, &["--environment", "prod"]);
    assert_eq!((&prod["REGION"], &prod["PAY_KEY"]), (&"us-east-1".into(), &"locum_pay-key".into()));
    // A reference that is something else's stays that: programs get what stands for the credential.
    let ran = home.locum(&["value", "set", "stripe-test", "--credential", "stripe-live"]).ok();
    assert!(
        ran.err.contains("locum_stripe-test is the reference of something else"),
        "{}",
        ran.err
    );
    assert_eq!(environment(home, &[])["STRIPE_TEST"], "locum_stripe-live");
    home.locum(&["value", "remove", "stripe-test"]).ok();
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

const PAY: &str = "Authorization: Bearer locum_pay-key";

/// The value `pay-key`: one credential by default, another in `prod`, a revoked one in `old`; and texts.
struct Payments {
    world: World,
    live: String,
    test: String,
}

impl Payments {
    fn ruled(policy: &str) -> Self {
        let (live, test, old) = (canary(), canary(), canary());
        let world = World::with(BEARER, canary(), |home, origin| {
            for (name, key) in
                [("stripe-live", &live), ("stripe-test", &test), ("stripe-old", &old)]
            {
                origin.accept(key);
                home.add(name, BEARER, key);
            }
            let set = |arguments: &[&str]| {
                home.locum(&[&["value", "set"], arguments].concat()).ok();
            };
            set(&["pay-key", "--credential", "stripe-test"]);
            set(&["pay-key", "--credential", "stripe-live", "--environment", "prod"]);
            set(&["pay-key", "--credential", "stripe-old", "--environment", "old"]);
            home.locum(&["credential", "revoke", "stripe-old"]).ok();
            let to = ["--to", "https://api.test", "--header", "Pay-Account: {value}"];
            let more = ["--query", "account", "--json-pointer", "/account"];
            set(&[&["account", "acct_test"], &to[..], &more].concat());
            set(&["account", "acct_\"prod\"", "--environment", "prod"]);
            home.policy(policy);
        });
        Self { world, live, test }
    }

    /// A tunnel by a run token with these arguments.
    fn fixed(&self, arguments: &[&str]) -> Wire {
        let command = [&["run-token", "--agent", "worker", "--json"], arguments].concat();
        let json: Value = serde_json::from_str(&self.world.home.locum(&command).ok().out).unwrap();
        let agent =
            Agent { token: json["token"].as_str().unwrap().to_owned(), ..self.world.agent.clone() };
        self.world.serve.tunnel(&agent, HOST)
    }

    /// What the origin was shown by a request with the value's reference.
    #[track_caller]
    fn shown(&self, wire: &mut Wire) -> String {
        let answer = wire.ask(request("GET", "/v1/x", &[PAY], ""));
        assert_eq!(answer.status, 200, "{}", answer.text());
        self.world.origin.last().header("authorization").unwrap().to_owned()
    }
}

/// What comes of a request, on a connection that may be cut.
fn asked(wire: &mut Wire) -> Option<Answer> {
    wire.try_send(request("GET", "/v1/x", &[PAY], "").as_bytes()).ok()?;
    wire.try_answer("GET").ok()
}

/// The record of the last request, with its reason if it was refused.
fn last(home: &Home, path: &str) -> Value {
    home.accesses_to(path).pop().unwrap()
}

#[test]
fn a_value_is_resolved_where_a_credential_is_in_the_environment_that_the_token_fixes() {
    let rules =
        "version: 1\nrules:\n- {name: pay, agents: [worker], use: [pay-key], on_withdrawal: cut}\n";
    let pay = Payments::ruled(rules);
    let home = &pay.world.home;
    let (live, test) = (format!("Bearer {}", pay.live), format!("Bearer {}", pay.test));
    let mut none = pay.world.tunnel();
    assert_eq!(pay.shown(&mut none), test);
    let mut prod = pay.fixed(&["--environment", "prod"]);
    assert_eq!(pay.shown(&mut prod), live);
    let record = last(home, "/v1/x");
    assert_eq!(
        (&record["credential"], &record["version"], &record["chosen_by"], &record["environment"]),
        (&"stripe-live".into(), &1.into(), &"platform,value".into(), &"prod".into())
    );
    // Its echo is what was sent, and no key.
    let answer = prod.ask(request("GET", "/echo/raw", &[PAY], ""));
    assert!(answer.text().contains("locum_pay-key"), "{}", answer.text());
    // What another environment's run brings is hidden as well.
    let answer = none.ask(request("GET", "/kept", &[PAY], ""));
    assert!(!answer.text().contains(&pay.live) && !answer.text().contains(&pay.test));
    // The rule is for the value: by its own name the credential is not to be had, in any environment.
    for wire in [&mut none, &mut prod] {
        let own = "Authorization: Bearer locum_stripe-live";
        assert_eq!(wire.ask(request("GET", "/own", &[own], "")).problem(), "credential-refused");
    }
    // What is an environment's own is not stood in for by another's.
    let before = pay.world.origin.seen().len();
    let mut old = pay.fixed(&["--environment", "old"]);
    let answer = old.ask(request("GET", "/old", &[PAY], ""));
    assert_eq!(answer.problem(), "credential-refused");
    assert!(last(home, "/old")["reason"].as_str().unwrap().contains("for this environment"));
    assert_eq!(pay.world.origin.seen().len(), before, "nothing was sent");
    // A value that changes is in force at once, in tunnels that are open.
    home.locum(&[
        "value",
        "set",
        "pay-key",
        "--credential",
        "stripe-test",
        "--environment",
        "prod",
    ])
    .ok();
    // One that is just leaving while its value changes may be refused, or, as the rule says, be cut with its connection.
    eventually("the new value", PATIENCE, || {
        let Some(answer) = asked(&mut prod) else {
            prod = pay.fixed(&["--environment", "prod"]);
            return None;
        };
        let shown = pay.world.origin.last().header("authorization").unwrap().to_owned();
        (answer.status == 200 && shown == test).then_some(())
    });
    assert_eq!(pay.shown(&mut prod), test);
    home.locum(&["value", "remove", "pay-key"]).ok();
    eventually("no value", PATIENCE, || {
        let Some(answer) = asked(&mut prod) else {
            prod = pay.world.tunnel();
            return None;
        };
        (answer.status == 403).then_some(())
    });
    home.never_leaks(&[&pay.live, &pay.test], &[("the wire", &prod.transcript)]);
}

#[test]
fn a_token_that_fixes_an_environment_or_a_value_does_not_widen() {
    let rules = "version: 1\nrules:\n- {name: all, agents: [worker], use: [\"*\"]}\n";
    let pay = Payments::ruled(rules);
    let home = &pay.world.home;
    let mut narrow = pay.fixed(&["--use", "pay-key", "--environment", "prod"]);
    assert_eq!(pay.shown(&mut narrow), format!("Bearer {}", pay.live));
    for other in ["locum_stripe-live", "locum_stripe-test", "locum_main"] {
        let field = format!("Authorization: Bearer {other}");
        let answer = narrow.ask(request("GET", "/other", &[&field], ""));
        assert_eq!(answer.problem(), "credential-refused", "{other}");
    }
    // One for a credential gets it by the value only where the value is that.
    let own = ["--use", "stripe-test"];
    assert_eq!(pay.shown(&mut pay.fixed(&own)), format!("Bearer {}", pay.test));
    let mut prod = pay.fixed(&["--use", "stripe-test", "--environment", "prod"]);
    let answer = prod.ask(request("GET", "/v1/x", &[PAY], ""));
    assert_eq!(answer.problem(), "credential-refused");
    // The environment is in the token, which nobody can change; and there has to be such a one.
    let mut widened = home.locum(&["run-token", "--agent", "worker", "--environment", "prdo"]);
    assert_eq!(widened.code, 1, "{}", widened.err);
    assert!(widened.err.contains("no environment 'prdo'"), "{}", widened.err);
    widened = home.locum(&["run-token", "--agent", "worker", "--use", "no-such"]);
    assert_eq!(widened.code, 1, "{}", widened.err);
    // What programs are started with fixes it as well.
    let set = environment(home, &["--environment", "prod"]);
    let url = set["HTTPS_PROXY"].as_str().unwrap();
    let token =
        url.split_once(':').unwrap().1.split_once(':').unwrap().1.split('@').next().unwrap();
    assert!(token.starts_with("lcr_"), "a run token");
    let agent = Agent { token: token.to_owned(), ..pay.world.agent.clone() };
    let mut wire = pay.world.serve.tunnel(&agent, HOST);
    assert_eq!(pay.shown(&mut wire), format!("Bearer {}", pay.live));
}

#[test]
fn a_text_enters_where_it_is_said_to_by_the_same_reference_and_is_no_secret() {
    let rules = "version: 1\nrules:\n- {name: pay, agents: [worker], use: [pay-key, account]}\n- {name: other, agents: [other], to: [\"https://api.test\"], use: [pay-key]}\n";
    let pay = Payments::ruled(rules);
    let (home, origin) = (&pay.world.home, &pay.world.origin);
    let account = "Pay-Account: locum_account";
    let mut none = pay.world.tunnel();
    let mut prod = pay.fixed(&["--environment", "prod"]);
    for (wire, text) in [(&mut none, "acct_test"), (&mut prod, "acct_\"prod\"")] {
        assert_eq!(wire.ask(request("GET", "/v1/x", &[PAY, account], "")).status, 200);
        assert_eq!(origin.last().header("pay-account"), Some(text));
        let body = "{\"account\": \"locum_account\"}";
        let json = "Content-Type: application/json";
        assert_eq!(wire.ask(request("POST", "/v1/x", &[PAY, json], body)).status, 200);
        let sent: Value = serde_json::from_slice(&origin.last().body).unwrap();
        assert_eq!(sent["account"], text);
        // It is not looked for in what comes back.
        let answer = wire.ask(request("GET", "/open/target?account=locum_account", &[], ""));
        assert_eq!(answer.status, 200);
        assert!(answer.text().contains("account=acct_"), "{}", answer.text());
    }
    let record = last(home, "/open/target");
    assert_eq!(
        (&record["credential"], &record["version"], &record["chosen_by"]),
        (&"account".into(), &Value::Null, &"value".into())
    );
    // By policy, as a credential is; and to its own hosts.
    let other = home.agent("other");
    let mut wire = pay.world.serve.tunnel(&other, HOST);
    let answer = wire.ask(request("GET", "/v1/x", &[PAY, account], ""));
    assert_eq!(answer.problem(), "credential-refused");
    home.locum(&["value", "set", "account", "acct_1", "--to", "https://else.test", "--query", "a"])
        .ok();
    eventually("the new place", PATIENCE, || {
        let answer = none.ask(request("GET", "/open/target?a=locum_account", &[], ""));
        (answer.status == 403 && answer.problem() == "credential-refused").then_some(())
    });
    // A key beside it is tried in its other versions as ever.
    let to = ["--to", "https://api.test", "--header", "Pay-Account: {value}"];
    home.locum(&[&["value", "set", "account", "acct_2"], &to[..]].concat()).ok();
    let next = canary();
    home.rotate("stripe-test", &next);
    eventually("a fallback", PATIENCE, || {
        let answer = none.ask(request("GET", "/v1/x", &[PAY, account], ""));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let chosen = last(home, "/v1/x")["chosen_by"].as_str().unwrap_or_default().to_owned();
        chosen.contains("after-401").then_some(())
    });
    let seen = origin.last();
    assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {}", pay.test)));
    assert_eq!(seen.header("pay-account"), Some("acct_2"));
}

#[test]
fn a_rule_that_injects_unasked_puts_in_what_the_value_is_in_the_environment() {
    let rules = "version: 1\nrules:\n- {name: pay, agents: [worker], use: [pay-key, account], inject: always}\n";
    let pay = Payments::ruled(rules);
    for (mut wire, key, account) in [
        (pay.world.tunnel(), &pay.test, "acct_test"),
        (pay.fixed(&["--environment", "prod"]), &pay.live, "acct_\"prod\""),
    ] {
        assert_eq!(wire.ask(request("GET", "/v1/x", &[], "")).status, 200);
        let seen = pay.world.origin.last();
        assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {key}")));
        assert_eq!(seen.header("pay-account"), Some(account));
    }
}

#[test]
fn a_value_has_its_name_for_itself_and_its_text_fits_where_it_enters() {
    let home = Home::new();
    home.locum(&["value", "set", "region", "eu-west-1"]).ok();
    let ran = home.locum_with(
        &["credential", "add", "region", "--to", "https://a.test", "--header", "X: {secret}"],
        canary().as_bytes(),
    );
    assert!(ran.code == 1 && ran.err.contains("value 'region'"), "{}: {}", ran.code, ran.err);
    let set = |more: &[&str]| home.locum(&[&["value", "set", "region"], more].concat());
    for (more, why) in [
        (&["x", "--to", "https://a.test"][..], "nothing says how it enters"),
        (&["x", "--header", "X: {value}"], "--to"),
        (&["x", "--to", "https://a.test", "--header", "Host: {value}"], "cannot carry"),
        (&["x", "--to", "http://a.test", "--query", "r"], "without TLS"),
        (&["ä", "--to", "https://a.test", "--query", "r"], "printable ASCII"),
    ] {
        let ran = set(more);
        assert!(ran.code != 0 && ran.err.contains(why), "{more:?}: {} {}", ran.code, ran.err);
    }
    set(&["x", "--to", "https://a.test", "--query", "r"]).ok();
    // A text of another environment enters there too.
    assert_eq!(set(&["ä", "--environment", "prod"]).code, 64);
    let shown: Value =
        serde_json::from_str(&home.locum(&["value", "show", "region", "--json"]).ok().out).unwrap();
    assert_eq!(shown["enters"]["to"][0], "https://a.test");
    home.agent("worker");
    let ran = home.locum(&["run", "--agent", "worker", "--", "sh", "-c", "echo $REGION"]).ok();
    assert_eq!(ran.out.trim(), "locum_region");
}
