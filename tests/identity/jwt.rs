//! Tokens that others issue: a cluster's service accounts, an identity provider with its key rotation,
//! and every way to forge one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaPair, KeySize};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use crate::support::*;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn encode(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

/// An issuer that is a file: its private key, and the name of it.
pub struct Issuer {
    pair: Ed25519KeyPair,
    id: &'static str,
}

impl Issuer {
    pub fn new(id: &'static str) -> Self {
        Self { pair: Ed25519KeyPair::generate().unwrap(), id }
    }

    fn key(&self) -> Value {
        let x = encode(self.pair.public_key().as_ref());
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.id, "use": "sig", "x": x })
    }

    fn seal(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()));
        let signature = self.pair.sign(signed.as_bytes());
        format!("{signed}.{}", encode(signature.as_ref()))
    }

    pub fn token(&self, claims: &Value) -> String {
        let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.id });
        self.seal(&header.to_string(), &claims.to_string())
    }
}

fn publish(file: &Path, issuers: &[&Issuer]) {
    let keys: Vec<Value> = issuers.iter().map(|issuer| issuer.key()).collect();
    let beside = file.with_extension("new");
    std::fs::write(&beside, json!({ "keys": keys }).to_string()).unwrap();
    std::fs::rename(&beside, file).unwrap();
}

/// What a token of agent `worker` says.
pub fn claims() -> Value {
    json!({ "iss": "https://issuer.test", "aud": "locum", "sub": "worker", "exp": now() + 600,
        "iat": now(), "jti": "id-1" })
}

fn with(name: &str, value: impl Into<Value>) -> Value {
    let mut all = claims();
    all[name] = value.into();
    all
}

/// A world that believes an issuer whose keys are in a file.
pub fn world(issuer: &Issuer, more: &str) -> (World, PathBuf) {
    let mut made = None;
    let world = World::with(BEARER, canary(), |home, _| {
        let file = home.work().join("jwks.json");
        publish(&file, &[issuer]);
        home.set("limits.failure_delay: 0s");
        home.set(&format!(
            "identity.jwt: [{{issuer: 'https://issuer.test', audience: locum, leeway: 0s, \
             keys: '{}'{more}}}]",
            file.display()
        ));
        made = Some(file);
    });
    (world, made.unwrap())
}

fn target() -> String {
    format!("{HOST}:443")
}

#[track_caller]
fn knock(world: &World, authorization: &str) -> u16 {
    world.serve.wire().ask(connect(&target(), authorization)).status
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// An open tunnel of who comes by this token.
#[track_caller]
fn tunnel(world: &World, authorization: &str) -> Wire {
    let mut wire = world.serve.wire();
    let answer = wire.ask(connect(&target(), authorization));
    assert_eq!(answer.status, 200, "{}", answer.text());
    wire.tls(HOST, &world.home.ca()).unwrap()
}

#[track_caller]
fn get(wire: &mut Wire, path: &str) -> u16 {
    wire.ask(request("GET", path, &[AUTHORIZED], "")).status
}

#[test]
fn it_opens_the_proxy_as_a_password_and_as_a_bearer() {
    let issuer = Issuer::new("one");
    let (world, _) = world(&issuer, ", claims: {user: email}");
    let mut claims = claims();
    claims["email"] = json!("alice@x.org");
    let token = issuer.token(&claims);
    for (path, authorization, run) in
        [("/basic", basic("worker+run=42", &token), "42"), ("/bearer", bearer(&token), "43")]
    {
        let mut wire = tunnel(&world, &authorization);
        let run_field = format!("Locum-Run: {run}");
        let fields = [AUTHORIZED, &run_field, "Locum-User: mallory"];
        assert_eq!(wire.ask(request("GET", path, &fields, "")).status, 200);
        let record = world.home.accesses_to(path).remove(0);
        let said = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
        let all = ["agent", "authenticated_by", "token_id", "run", "user"].map(said);
        assert_eq!(all, ["worker", "jwt", "id-1", run, "alice@x.org"]);
    }
    assert_eq!(knock(&world, &basic("other", &token)), 407, "another agent's name");
    assert_eq!(knock(&world, &basic("worker+user=bob", &token)), 407, "another user");
    // Tokens are as good as before beside it.
    assert_eq!(knock(&world, &world.agent.authorization()), 200);
    world.home.never_leaks(&[&world.key, &token, token.rsplit_once('.').unwrap().1], &[]);
}

/// The answer without what names the one request.
fn anonymous(answer: &Answer) -> (u16, Vec<(String, String)>, Value) {
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| name != "date");
    let mut body = answer.json();
    body["instance"] = Value::Null;
    (answer.status, headers, body)
}

/// Tokens that must not open anything, each with what is wrong in the operator's record.
fn forgeries(issuer: &Issuer) -> Vec<(&'static str, String, &'static str)> {
    let header = |more: Value| {
        let mut all = json!({ "alg": "EdDSA", "kid": "one" });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all.to_string()
    };
    let good = claims().to_string();
    let stranger = Issuer::new("one");
    let unsigned = |alg: &str| {
        let head = json!({ "alg": alg, "kid": "one" }).to_string();
        format!("{}.{}.", encode(head.as_bytes()), encode(good.as_bytes()))
    };
    let confused = {
        use hmac::{Hmac, KeyInit as _, Mac as _};
        let head = json!({ "alg": "HS256", "kid": "one" }).to_string();
        let signed = format!("{}.{}", encode(head.as_bytes()), encode(good.as_bytes()));
        let public = issuer.pair.public_key();
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(public.as_ref()).unwrap();
        mac.update(signed.as_bytes());
        format!("{signed}.{}", encode(&mac.finalize().into_bytes()))
    };
    let twice = good.replacen('{', "{\"sub\":\"other\",", 1);
    let foreign = json!({ "jku": "https://evil.test/keys", "x5u": "https://evil.test/x",
        "jwk": stranger.key() });
    let wrong_key = stranger.token(&claims());
    let sealed = |more: Value| issuer.seal(&header(more), &good);
    vec![
        ("alg none", unsigned("none"), "algorithm"),
        ("alg None", unsigned("None"), "algorithm"),
        ("no signature", unsigned("EdDSA"), "signature"),
        ("key confusion", confused, "algorithm"),
        ("wrong key", wrong_key.clone(), "signature"),
        ("own key brought along", stranger.seal(&header(foreign), &good), "signature"),
        ("wrong audience", issuer.token(&with("aud", "other")), "audience"),
        ("no audience", issuer.token(&with("aud", Value::Null)), "audience"),
        ("wrong issuer", issuer.token(&with("iss", "https://issuer.test.evil")), "issuer"),
        ("list of issuers", issuer.token(&with("iss", json!(["https://issuer.test"]))), "issuer"),
        ("expired", issuer.token(&with("exp", now() - 1)), "expired"),
        (
            "no expiry",
            issuer.seal(&header(json!({})), &{
                let mut all = claims();
                all.as_object_mut().unwrap().remove("exp");
                all.to_string()
            }),
            "expiry",
        ),
        ("not yet valid", issuer.token(&with("nbf", now() + 600)), "not valid yet"),
        ("of the future", issuer.token(&with("iat", now() + 600)), "not valid yet"),
        ("unknown crit", sealed(json!({ "crit": ["exp"], "exp": 1 })), "extension"),
        ("empty crit", sealed(json!({ "crit": [] })), "extension"),
        ("another type", sealed(json!({ "typ": "logout+jwt" })), "type"),
        ("kid traversal", sealed(json!({ "kid": "../../../../dev/null" })), "key is not"),
        ("kid injection", sealed(json!({ "kid": "one' OR '1'='1" })), "key is not"),
        ("claims twice", issuer.seal(&header(json!({})), &twice), "cannot be read"),
        ("oversized", issuer.token(&with("pad", "x".repeat(8000))), "too long"),
        ("unknown agent", issuer.token(&with("sub", "nobody-of-this-name")), "agent"),
        ("no name at all", issuer.token(&with("sub", "../worker")), "no agent"),
        ("four parts", format!("{wrong_key}.x"), "kind"),
        ("not base64", "a!.b!.c!".to_owned(), "cannot be read"),
    ]
}

#[test]
fn all_that_is_wrong_with_a_token_hears_the_same_as_a_wrong_token() {
    let issuer = Issuer::new("one");
    let (world, _) = world(&issuer, "");
    let reference =
        anonymous(&world.serve.wire().ask(connect(&target(), &basic("worker", "lct_x"))));
    assert_eq!(reference.0, 407);
    let mut wire = world.serve.wire();
    for (what, token, _) in forgeries(&issuer) {
        for authorization in [basic("worker", &token), bearer(&token)] {
            let heard = anonymous(&wire.ask(connect(&target(), &authorization)));
            assert_eq!(heard, reference, "{what}");
        }
    }
    // The same connection takes a good one after all of that.
    assert_eq!(wire.ask(connect(&target(), &bearer(&issuer.token(&claims())))).status, 200);
    assert_eq!(world.origin.connections(), 0);
}

#[test]
fn the_operator_is_told_what_was_wrong() {
    let issuer = Issuer::new("one");
    // Ten refusals of strangers are recorded each second, so some at a time.
    for some in forgeries(&issuer).chunks(9) {
        let (world, _) = world(&issuer, "");
        for (_, token, _) in some {
            assert_eq!(knock(&world, &bearer(token)), 407);
        }
        let reasons: Vec<String> = eventually("a record for each", PATIENCE, || {
            let all = world.home.audit();
            let all = all.iter().filter(|record| record["code"] == "proxy-auth-required");
            let all: Vec<_> = all.filter_map(|r| r["reason"].as_str().map(str::to_owned)).collect();
            (all.len() == some.len()).then_some(all)
        });
        for ((what, _, word), reason) in some.iter().zip(reasons) {
            assert!(reason.contains(word), "{what}: {reason}");
        }
    }
}

#[test]
fn an_expired_token_ends_live_use() {
    let issuer = Issuer::new("one");
    let (world, _) = world(&issuer, "");
    let mut lasting = tunnel(&world, &bearer(&issuer.token(&claims())));
    let mut brief = tunnel(&world, &bearer(&issuer.token(&with("exp", now() + 3))));
    assert_eq!(get(&mut brief, "/x"), 200);
    let answer = eventually("the token's end", PATIENCE, || {
        let answer = brief.ask(request("GET", "/x", &[AUTHORIZED], ""));
        (answer.status != 200).then_some(answer)
    });
    assert_eq!((answer.status, &*answer.problem()), (403, "agent-revoked"));
    assert_eq!(get(&mut lasting, "/x"), 200);
}

#[test]
fn a_revoked_agent_is_none_by_a_token_of_its_issuer() {
    let issuer = Issuer::new("one");
    for agents in ["known", "any"] {
        let (world, _) = world(&issuer, &format!(", agents: {agents}"));
        let stranger = issuer.token(&with("sub", "stranger"));
        let status = if agents == "any" { 200 } else { 407 };
        assert_eq!(knock(&world, &bearer(&stranger)), status, "{agents}");
        let token = issuer.token(&claims());
        let mut wire = tunnel(&world, &bearer(&token));
        world.home.locum(&["agent", "revoke", "worker"]).ok();
        let problem = eventually("the agent's end", PATIENCE, || {
            let answer = wire.ask(request("GET", "/x", &[AUTHORIZED], ""));
            (answer.status != 200).then(|| answer.problem())
        });
        assert_eq!(problem, "agent-revoked");
        assert_eq!(knock(&world, &bearer(&token)), 407, "{agents}");
    }
}

#[test]
fn a_file_of_keys_is_followed_and_a_bad_one_leaves_the_last_good_one() {
    let (first, second) = (Issuer::new("one"), Issuer::new("two"));
    let (world, file) = world(&first, "");
    let mut wire = tunnel(&world, &bearer(&first.token(&claims())));
    assert_eq!(knock(&world, &bearer(&second.token(&claims()))), 407);
    let sound = || world.serve.metric("locum_reload_success{what=\"issuer-keys\"}");
    std::fs::write(&file, "{\"keys\": [").unwrap();
    eventually("the metric", PATIENCE, || (sound() == 0).then_some(()));
    assert_eq!(knock(&world, &bearer(&first.token(&claims()))), 200, "the last good keys");
    // The new key beside the old one: what is open goes on.
    publish(&file, &[&first, &second]);
    eventually("the new key", PATIENCE, || {
        (knock(&world, &bearer(&second.token(&claims()))) == 200).then_some(())
    });
    assert_eq!((sound(), get(&mut wire, "/x")), (1, 200));
    // The old one is withdrawn: what came by it ends.
    publish(&file, &[&second]);
    eventually("the old key's end", PATIENCE, || (get(&mut wire, "/x") == 403).then_some(()));
    assert_eq!(knock(&world, &bearer(&first.token(&claims()))), 407);
    let events: Vec<Value> = world.home.audit();
    let count = |name: &str| events.iter().filter(|event| event["event"] == name).count();
    assert_eq!(count("issuer-keys-rejected"), 1);
    assert!(count("issuer-keys-loaded") >= 2);
}

/// As Kubernetes makes them: RS256, no type, an audience in a list, and the account's names in a claim
/// whose own name has a dot and a slash in it.
#[test]
fn service_accounts_of_kubernetes_are_agents() {
    let pair = RsaPair::generate(KeySize::Rsa2048).unwrap();
    let public = pair.public_key();
    let part = |bytes: Vec<u8>| encode(&bytes);
    let n = part(public.modulus().big_endian_without_leading_zero().to_vec());
    let e = part(public.exponent().big_endian_without_leading_zero().to_vec());
    let set = json!({ "keys": [{ "use": "sig", "kty": "RSA", "kid": "k8s", "alg": "RS256", "n": n, "e": e }] });
    let world = World::with(BEARER, canary(), |home, _| {
        let file = home.work().join("jwks.json");
        std::fs::write(&file, set.to_string()).unwrap();
        home.set(&format!(
            "identity.jwt: [{{issuer: 'https://kubernetes.default.svc.cluster.local', \
             audience: [locum], keys: '{}', claims: {{agent: sub, labels: {{namespace: \
             /kubernetes.io/namespace}}}}, map: [{{match: 'system:serviceaccount:agents:*', \
             agent: '{{1}}'}}]}}]",
            file.display()
        ));
        home.locum(&["agent", "add", "writer", "--no-token"]).ok();
        home.policy(
            "version: 1\nrules:\n- {name: labelled, agents: [{labels: {namespace: agents}}], \
             to: ['https://api.test'], paths: [/labelled], use: [main]}\n",
        );
    });
    let token = |namespace: &str, name: &str| {
        let claims = json!({
            "aud": ["locum", "https://kubernetes.default.svc"], "exp": now() + 3600, "iat": now(),
            "iss": "https://kubernetes.default.svc.cluster.local", "jti": "5b8c", "nbf": now(),
            "kubernetes.io": { "namespace": namespace, "serviceaccount": { "name": name, "uid": "x" } },
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
        });
        let header = encode(json!({ "alg": "RS256", "kid": "k8s" }).to_string().as_bytes());
        let signed = format!("{header}.{}", encode(claims.to_string().as_bytes()));
        let mut signature = vec![0; pair.public_modulus_len()];
        let random = SystemRandom::new();
        pair.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
        format!("{signed}.{}", encode(&signature))
    };
    let mut wire = tunnel(&world, &basic("writer", &token("agents", "writer")));
    assert_eq!(get(&mut wire, "/labelled"), 200, "the rule chooses by the token's label");
    assert_eq!(get(&mut wire, "/other"), 403);
    assert_eq!(world.home.accesses_to("/labelled")[0]["agent"], "writer");
    assert_eq!(knock(&world, &bearer(&token("others", "writer"))), 407, "another namespace");
    assert_eq!(knock(&world, &bearer(&token("agents", "stranger"))), 407, "no agent of ours");
}

/// A directory in which Node finds the issuer.
fn modules() -> PathBuf {
    Tools::node_as("oidc-issuer", &["oauth2-mock-server@8.2.3"]).path.join("package.json")
}

/// A real issuer in a process of its own.
struct Provider {
    _running: Running,
    address: std::net::SocketAddr,
    orders: std::net::SocketAddr,
    ca: PathBuf,
}

impl Provider {
    fn start(directory: &Path) -> Self {
        identity_files("issuer.test", directory);
        let file = |name: &str| directory.join(format!("{name}.pem"));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/identity/issuer.mjs");
        let mut node = Command::new("node");
        node.arg(script).arg(modules()).arg(file("cert")).arg(file("key")).arg(file("ca"));
        let mut running = Running::start(&mut node);
        let port =
            |text: String| std::net::SocketAddr::from(([127, 0, 0, 1], text.parse().unwrap()));
        let address = port(running.line("issuer "));
        let orders = port(running.line("orders "));
        Self { _running: running, address, orders, ca: file("ca") }
    }

    #[track_caller]
    fn order(&self, path: &str) -> String {
        let mut wire = Wire::plain(self.orders);
        let answer = wire.ask(format!("GET {path} HTTP/1.1\r\nHost: orders\r\n\r\n"));
        assert_eq!(answer.status, 200);
        answer.text()
    }

    /// A token from its token endpoint.
    #[track_caller]
    fn token(&self, claims: &Value) -> String {
        self.order(&format!("/token?claims={}", percent(&claims.to_string())))
    }
}

#[test]
fn an_openid_provider_and_its_key_rotation() {
    let directory = tempfile::tempdir().unwrap();
    let provider = Provider::start(directory.path());
    let world = World::with(BEARER, canary(), |home, _| {
        home.reach_as("issuer.test", provider.address, Some(provider.ca.clone()));
        home.set(
            "identity.jwt: [{issuer: 'https://issuer.test', audience: locum, \
             keys: 'https://issuer.test/jwks', refresh: 1h}]",
        );
    });
    let worker = json!({ "sub": "worker" });
    let first = provider.token(&worker);
    // The first one fetches the keys, if they have not come yet.
    let mut wire = tunnel(&world, &bearer(&first));
    assert_eq!(get(&mut wire, "/first"), 200);
    assert_eq!(
        knock(&world, &bearer(&provider.token(&json!({ "sub": "worker", "aud": "x" })))),
        407
    );
    let fetches = || {
        let all = world.home.audit();
        all.iter().filter(|r| r["kind"] == "access" && r["rule"] == "issuer-keys").count()
    };
    assert_eq!(fetches(), 1, "every token after it was judged by the same keys");
    // Rotation, with the tunnel open: a new key, of another kind even.
    let id = provider.order("/rotate?alg=ES256");
    let second = provider.token(&worker);
    assert!(id.len() > 10 && second != first);
    // A stranger's name for a key fetches no more often than the floor lets it.
    eventually("the new key", PATIENCE, || (knock(&world, &bearer(&second)) == 200).then_some(()));
    assert_eq!(fetches(), 2, "fetched once, when it was needed");
    assert_eq!(get(&mut wire, "/still"), 200, "what is open goes on");
    assert_eq!(knock(&world, &bearer(&first)), 200, "the old key is still published");
    let record = world.home.audit();
    let record = record.iter().find(|r| r["rule"] == "issuer-keys").unwrap();
    assert_eq!(record["destination"], "https://issuer.test");
    assert_eq!(record["path"], "/jwks");
}

#[test]
fn an_issuer_that_is_down_keeps_nobody_else_out_and_may_come_later() {
    // An origin that has nothing to say of keys.
    let origin = Origin::start("issuer.test");
    let world = World::with(BEARER, canary(), |home, _| {
        home.reach(&origin);
        home.set("limits.failure_delay: 0s");
        home.set(
            "identity.jwt: [{issuer: 'https://issuer.test', audience: locum, \
             keys: 'https://issuer.test/nothing'}]",
        );
    });
    let issuer = Issuer::new("one");
    assert_eq!(knock(&world, &world.agent.authorization()), 200);
    assert_eq!(knock(&world, &bearer(&issuer.token(&claims()))), 407);
    eventually("the metric", PATIENCE, || {
        (world.serve.metrics().contains("locum_reload_success{what=\"issuer-keys\"} 0"))
            .then_some(())
    });
    assert!(world.serve.log().contains("the last good ones stay in force"));
    assert_eq!(world.serve.readiness().0, 200);
    // With a file of them in place of the URL, it is believed at once.
    let file = world.home.work().join("jwks.json");
    publish(&file, &[&issuer]);
    world.home.set(&format!(
        "identity.jwt: [{{issuer: 'https://issuer.test', audience: locum, keys: '{}'}}]",
        file.display()
    ));
    eventually("the keys of the file", PATIENCE, || {
        (knock(&world, &bearer(&issuer.token(&claims()))) == 200).then_some(())
    });
    assert_eq!(world.serve.metric("locum_reload_success{what=\"issuer-keys\"}"), 1);
}

#[test]
fn strangers_make_it_ask_for_keys_no_more_often_than_its_floor() {
    let origin = Origin::start("issuer.test");
    let world = World::with(BEARER, canary(), |home, _| {
        home.reach(&origin);
        home.set("limits.failure_delay: 0s");
        home.set(
            "identity.jwt: [{issuer: 'https://issuer.test', audience: locum, \
             keys: 'https://issuer.test/nothing'}]",
        );
    });
    let start = std::time::Instant::now();
    for n in 0..40 {
        let issuer = Issuer::new("none");
        let token = issuer.token(&with("jti", n));
        assert_eq!(knock(&world, &bearer(&token)), 407);
    }
    let floor = Duration::from_secs(5);
    let most = 2 + start.elapsed().as_secs() / floor.as_secs();
    let asked = origin.seen().len() as u64;
    assert!((1..=most).contains(&asked), "{asked} times in {:?}", start.elapsed());
}

#[test]
fn issuers_that_cannot_be_meant_are_refused_with_their_place() {
    let home = Home::new();
    let file = home.work().join("jwks.json");
    publish(&file, &[&Issuer::new("one")]);
    let keys = format!("keys: '{}'", file.display());
    let check = |entry: &str, what: &str| {
        home.set(&format!("identity.jwt: [{entry}]"));
        let ran = home.locum(&["agent", "list"]).failed(64);
        assert!(ran.err.contains(what) && ran.err.contains("locum.yaml:"), "{entry}: {}", ran.err);
    };
    let of = |more: &str| format!("{{issuer: i, audience: a, {keys}{more}}}");
    check(&format!("{{issuer: i, {keys}}}"), "the key `audience` is missing");
    check("{issuer: i, audience: a}", "the key `keys` is missing");
    check("{issuer: i, audience: a, keys: 'http://issuer.test/jwks'}", "in the clear");
    check("{issuer: i, audience: a, keys: 'https://issuer.test/a b'}", "no URL has");
    check(&of(", algorithms: [none]"), "`none` is not one of");
    check(&of(", algorithms: [HS256]"), "`HS256` is not one of");
    check(&of(", algorithms: []"), "the list is empty");
    check(&of(", leeway: 1h"), "has to be from");
    check(&of(", claims: {agent: '/'}"), "JSON pointer");
    check(&of(", map: [{match: 'a*b*', agent: x}]"), "`*` stands once");
    check(&of(", map: [{match: 'a', agent: '{1}'}]"), "there is no such `*`");
    check(&of(", agents: some"), "`some` is not one of");
    check(&format!("{}, {}", of(""), of("")), "in the list already");
    // A file that cannot be read keeps the proxy from starting, as a bad certificate does.
    home.set("identity.jwt: [{issuer: i, audience: a, keys: absent.json}]");
    let ran = home.locum(&["serve"]).failed(64);
    assert!(ran.err.contains("absent.json"), "{}", ran.err);
}

#[test]
fn one_token_is_revoked_by_its_id_and_no_other() {
    let issuer = Issuer::new("one");
    let (world, _) = world(&issuer, "");
    let named = bearer(&issuer.token(&with("jti", "first")));
    let other = bearer(&issuer.token(&with("jti", "second")));
    let mut nameless = claims();
    nameless.as_object_mut().unwrap().remove("jti");
    let nameless = bearer(&issuer.token(&nameless));
    let mut first = tunnel(&world, &named);
    let mut third = tunnel(&world, &nameless);
    let get = |wire: &mut Wire, path: &str| wire.ask(request("GET", path, &[AUTHORIZED], ""));
    assert_eq!(get(&mut first, "/first").status, 200);
    assert_eq!(get(&mut third, "/third").status, 200);
    let id = |path: &str| world.home.accesses_to(path)[0]["token_id"].as_str().unwrap().to_owned();
    assert_eq!(id("/first"), "first");
    assert!(id("/third").starts_with("sha256:"));
    for (path, wire, shown) in [("/first", &mut first, &named), ("/third", &mut third, &nameless)] {
        world.home.locum(&["agent", "revoke", "worker", "--jwt", &id(path)]).ok();
        eventually("the end", PATIENCE, || (get(wire, "/").status == 403).then_some(()));
        assert_eq!(knock(&world, shown), 407);
    }
    assert_eq!(knock(&world, &other), 200);
}
