//! Google's and Azure's own clients beside Locum. They read what our origins in the place of the two say,
//! so that these are not merely as we read the documents; and what they ask for there is what Locum asks
//! for. And Google Secret Manager once more, as drongo plays it, which is not of our making.

use serde_json::{Value, json};

use super::clouds::{AZURE, GOOGLE, TOKENS, google, tokens};
use super::*;

/// Versions are fixed, so that a failure is ours.
const PYTHON: &[&str] = &[
    "drongo==0.8.0",
    "google-cloud-secret-manager==2.32.0",
    "google-auth==2.62.2",
    "requests==2.34.2",
    "azure-keyvault-secrets==4.12.0",
    "azure-identity==1.27.0",
];

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

fn python() -> PathBuf {
    Tools::python_as("python-clouds", PYTHON).path.join("bin/python")
}

/// What one of the clients says of these origins.
#[track_caller]
fn client(origins: &[&Origin], said: &Value) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sources/clouds_client.py");
    let mut command = Command::new(python());
    command.arg(script);
    let mut roots = String::new();
    for origin in origins {
        command.arg(format!("{}={}", origin.host, origin.address));
        roots += &fs::read_to_string(origin.ca_file()).unwrap();
    }
    let file = directory.path().join("roots.pem");
    fs::write(&file, roots).unwrap();
    command.env_clear().env("REQUESTS_CA_BUNDLE", file).env("HOME", directory.path());
    let ran = run(&mut command, said.to_string().as_bytes()).ok();
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {}{}", ran.out, ran.err))
}

/// The pairs of a form.
fn form(seen: &Seen) -> std::collections::BTreeMap<String, String> {
    let text = String::from_utf8(seen.body.clone()).unwrap().replace('+', " ");
    let plain =
        |part: &str| percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned();
    let pairs = text.split('&').map(|pair| pair.split_once('=').unwrap());
    pairs.map(|(name, value)| (plain(name), plain(value))).collect()
}

/// Head and claims of a signed token.
fn claims(token: &str) -> (Value, Value) {
    let part = |text: &str| {
        serde_json::from_slice(&data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).unwrap())
            .unwrap()
    };
    let mut parts = token.split('.');
    (part(parts.next().unwrap()), part(parts.next().unwrap()))
}

/// A service account, whose key is an RSA key as Google makes them.
fn account() -> Value {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap().serialize_pem();
    json!({
        "type": "service_account", "client_email": "bot@prod.test", "private_key_id": "k1",
        "private_key": key, "token_uri": format!("https://{TOKENS}/open/token"),
    })
}

/// The source, with the service account to log in with.
fn add_google(scene: &Stage, account: &Value, place: &str) {
    let kind = ["--kind", "google-service-account", "--for-sources", "--to"];
    let (to, scope) = (format!("https://{GOOGLE}"), ["--scope", SCOPE]);
    scene.home.add("cloud", &[&kind[..], &[&to], &scope].concat(), &account.to_string());
    scene.add(&[&["--source", place], &LOGIN[..], &TIMES].concat(), "");
}

const LOGIN: [&str; 2] = ["--source-login", "credential:cloud"];
const TIMES: [&str; 4] = ["--source-refresh", "1s", "--source-stale", "2s"];

#[test]
fn googles_own_client_reads_our_origin_and_asks_for_what_we_ask() {
    let scene = Stage::new();
    let (token, value) = (canary(), "123456789");
    let issuer = tokens(&scene, &token);
    let vault = Origin::start(GOOGLE);
    scene.home.reach(&vault);
    vault.accept(&token);
    google(&vault, "7", value, Some("3808858755"));
    let account = account();
    add_google(&scene, &account, "gcp:projects/prod/secrets/billing/versions/7");
    let serve = scene.home.serve();
    scene.until_shown(&serve, value);
    let (ours, our_login) = (vault.last(), issuer.last());
    // The same of Google's.
    let login = json!({"as": "google_token", "account": account, "scopes": [SCOPE]});
    assert_eq!(client(&[&issuer], &login)["token"], *token);
    let read = json!({
        "as": "google", "token": token, "method": "access_secret_version",
        "request": {"name": "projects/prod/secrets/billing/versions/7"},
    });
    let before = vault.seen().len();
    let said = client(&[&vault], &read);
    assert_eq!(said["payload"]["data"], data_encoding::BASE64.encode(value.as_bytes()));
    assert_eq!(said["payload"]["dataCrc32c"], "3808858755");
    assert_eq!(said["name"], "projects/123456/secrets/billing/versions/7");
    let theirs =
        vault.seen().into_iter().skip(before).find(|seen| seen.target.contains("alt=json"));
    let theirs = theirs.expect("a call of Google's client");
    assert_eq!(ours.method, theirs.method);
    assert_eq!(ours.target, theirs.target.split('?').next().unwrap());
    assert_eq!(ours.header("authorization"), theirs.header("authorization"));
    // How both log in.
    let (mut ours, mut theirs) = (form(&our_login), form(&issuer.last()));
    assert_eq!(our_login.target, issuer.last().target);
    let (our_head, our_claims) = claims(&ours.remove("assertion").unwrap());
    let (their_head, their_claims) = claims(&theirs.remove("assertion").unwrap());
    // RFC 7523 has it beside the assertion, where Google does not look.
    assert_eq!(ours.remove("scope").as_deref(), Some(SCOPE));
    assert_eq!(ours, theirs, "besides the assertion");
    assert_eq!(our_head, their_head);
    for claim in ["iss", "scope"] {
        assert_eq!(our_claims[claim], their_claims[claim], "{claim}");
    }
    // An hour is the most that Google takes.
    let lifetime =
        |claims: &Value| claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    assert!((1..=lifetime(&their_claims)).contains(&lifetime(&our_claims)));
    // The statuses that our origin fails with are errors to their client too, of these names.
    let words = [
        (429, "TooManyRequests"),
        (403, "Forbidden"),
        (503, "ServiceUnavailable"),
        (404, "NotFound"),
        (400, "BadRequest"),
    ];
    for (status, name) in words {
        vault.answer(&token, status, None);
        let said = client(&[&vault], &read);
        assert_eq!((&said["error"], &said["status"]), (&json!(name), &json!(status)));
    }
}

/// drongo, in a process of its own, behind the name of Google's.
struct Drongo {
    server: Running,
    front: Origin,
}

impl Drongo {
    fn start(home: &Home) -> Self {
        let script = "import drongo.server as s\nserver = s.create_server('127.0.0.1')\nprint(server.server_address[1], flush=True)\nserver.serve_forever()";
        let mut server = Running::start(Command::new(python()).args(["-c", script]));
        let port: u16 = server.line("").parse().unwrap();
        let front = Origin::before(GOOGLE, ([127, 0, 0, 1], port).into());
        home.reach(&front);
        home.http1_only(GOOGLE);
        Self { server, front }
    }

    /// Calls a method of Google's client.
    #[track_caller]
    fn call(&self, method: &str, request: &Value) -> Value {
        let said = json!({"as": "google", "token": "t", "method": method, "request": request});
        let answer = client(&[&self.front], &said);
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer
    }

    fn put(&self, value: &str) {
        let data = data_encoding::BASE64.encode(value.as_bytes());
        let payload = json!({"data": data});
        self.call("add_secret_version", &json!({"parent": SECRET, "payload": payload}));
    }
}

const SECRET: &str = "projects/prod/secrets/billing";

#[test]
fn a_secret_of_google_is_followed_where_googles_own_client_keeps_it() {
    let scene = Stage::new();
    let (token, first, second) = (canary(), canary(), canary());
    let _issuer = tokens(&scene, &token);
    let drongo = Drongo::start(&scene.home);
    let secret = json!({"replication": {"automatic": {}}});
    let secret = json!({"parent": "projects/prod", "secret_id": "billing", "secret": secret});
    drongo.call("create_secret", &secret);
    drongo.put(&first);
    add_google(&scene, &account(), &format!("gcp:{SECRET}"));
    let serve = scene.home.serve();
    scene.until_shown(&serve, &first);
    drongo.put(&second);
    scene.until_shown(&serve, &second);
    // A version that its owner has pinned, disabled, enabled again, and destroyed for good.
    let pinned = format!("gcp:{SECRET}/versions/1");
    scene.add_instead(&[&["--source", &pinned], &LOGIN[..], &TIMES].concat());
    scene.until_shown(&serve, &first);
    let version = json!({"name": format!("{SECRET}/versions/1")});
    drongo.call("disable_secret_version", &version);
    scene.until_refused(&serve, &first);
    assert_eq!(scene.reason(), "the version of the secret is disabled or destroyed");
    drongo.call("enable_secret_version", &version);
    scene.until_shown(&serve, &first);
    drongo.call("destroy_secret_version", &version);
    scene.until_refused(&serve, &first);
    assert_eq!(scene.reason(), "the version of the secret is disabled or destroyed");
    scene.add_instead(&[&["--source", &format!("gcp:{SECRET}")], &LOGIN[..], &TIMES].concat());
    scene.until_shown(&serve, &second);
    drongo.call("delete_secret", &json!({"name": SECRET}));
    scene.until_refused(&serve, &second);
    assert_eq!(scene.reason(), "there is no such secret in the vault");
    scene.home.never_leaks(&[&first, &second, &token], &[("log", serve.log().as_bytes())]);
}

#[test]
fn azures_own_client_reads_our_origin_and_asks_for_what_we_ask() {
    let scene = Stage::new();
    let (token, secret, value) = (canary(), canary(), canary());
    // A tenant by the name of what the origin gives to everybody.
    let endpoint = format!("https://{TOKENS}/open/oauth2/v2.0/token");
    let issuer = tokens(&scene, &token);
    let given = json!({"access_token": token, "token_type": "Bearer", "expires_in": 3600});
    issuer.serve("/open/oauth2/v2.0/token", "application/json", given.to_string().as_bytes());
    let known = json!({
        "issuer": format!("https://{TOKENS}/open/v2.0"), "token_endpoint": endpoint,
        "authorization_endpoint": format!("https://{TOKENS}/open/oauth2/v2.0/authorize"),
    });
    let path = "/open/v2.0/.well-known/openid-configuration";
    issuer.serve(path, "application/json", known.to_string().as_bytes());
    let vault = Origin::start(AZURE);
    scene.home.reach(&vault);
    vault.accept(&token);
    vault.challenge(&format!(
        "Bearer authorization=\"https://{TOKENS}/open\", resource=\"https://vault.azure.net\""
    ));
    let version = "0123456789abcdef0123456789abcdef";
    let ends = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() + 3600;
    let attributes = json!({"enabled": true, "created": 1, "updated": 1, "exp": ends});
    let id = format!("https://{AZURE}/secrets/billing/{version}");
    let answer = json!({"value": value, "id": id, "attributes": attributes}).to_string();
    let place = format!("/secrets/billing/{version}");
    vault.serve(&place, "application/json", answer.as_bytes());

    let to = format!("https://{AZURE}");
    let kind = ["--kind", "oauth-client-credentials", "--for-sources", "--to", &to];
    let client_id = ["--token-endpoint", &endpoint, "--client-id", "us", "--client-auth", "post"];
    let scope = ["--scope", "https://vault.azure.net/.default"];
    scene.home.add("cloud", &[&kind[..], &client_id, &scope].concat(), &secret);
    let source = format!("azure:billing/{version}");
    let source = ["--source", &source, "--source-url", &to];
    scene.add(&[&source[..], &LOGIN, &TIMES].concat(), "");
    let serve = scene.home.serve();
    scene.until_shown(&serve, &value);
    let (ours, our_login) = (vault.last(), issuer.last());
    // The same of Microsoft's, which asks without a token first, and goes where it is then sent.
    let read = json!({
        "as": "azure", "tenant": "open", "client": "us", "secret": secret, "vault": to, "api": "7.4",
        "authority": format!("https://{TOKENS}"), "name": "billing", "version": version,
    });
    let said = client(&[&vault, &issuer], &read);
    assert_eq!(
        said,
        json!({"name": "billing", "value": value, "version": version, "enabled": true, "expires": ends})
    );
    let (theirs, their_login) = (vault.last(), issuer.last());
    assert_eq!((&ours.method, &ours.target), (&theirs.method, &theirs.target));
    assert_eq!(ours.header("authorization"), theirs.header("authorization"));
    assert_eq!(our_login.target, their_login.target);
    let (ours, theirs) = (form(&our_login), form(&their_login));
    for (name, value) in &ours {
        assert_eq!(theirs.get(name), Some(value), "{name}");
    }
    assert_eq!(ours.len(), 4, "grant, client, secret and scope: {:?}", ours.keys());
    // What is wrong is understood by both. Microsoft's client asks without a token first.
    let word = |code: &str, inner: &str| {
        json!({"error": {"code": code, "message": "no", "innererror": {"code": inner}}}).to_string()
    };
    let disabled = word("Forbidden", "SecretDisabled");
    vault.answer_next(403, None, &disabled);
    let said = client(&[&vault, &issuer], &read);
    assert_eq!((&said["code"], &said["inner"]), (&json!("Forbidden"), &json!("SecretDisabled")));
    vault.answer_next(403, None, &disabled);
    eventually("it is disabled to us as well", SOON, || {
        (scene.ask(&serve).status == 503).then_some(())
    });
    assert_eq!(scene.reason(), "the secret is disabled in the vault");
    for (status, name) in [(404, "ResourceNotFoundError"), (429, "HttpResponseError")] {
        vault.answer(&token, status, None);
        assert_eq!(client(&[&vault, &issuer], &read)["error"], name);
    }
    scene.home.never_leaks(&[&value, &token, &secret], &[("log", serve.log().as_bytes())]);
}
