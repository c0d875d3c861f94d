//! Google Secret Manager and Azure Key Vault, as origins of ours that answer as the providers' documents
//! say (and that their own clients take for them: `sdks.rs`); and metadata services, which are ours too.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};

use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::support::*;
use crate::{SOON, Stage};

pub(super) const GOOGLE: &str = "secretmanager.googleapis.com";
pub(super) const AZURE: &str = "billing.vault.azure.net";
pub(super) const TOKENS: &str = "login.test";

/// A token endpoint that gives this token to whoever asks: that the assertions are right is tested with
/// the kinds.
pub(super) fn tokens(scene: &Stage, token: &str) -> Origin {
    let origin = Origin::start(TOKENS);
    scene.home.reach(&origin);
    let answer = json!({"access_token": token, "token_type": "Bearer", "expires_in": 3600});
    origin.serve("/open/token", "application/json", answer.to_string().as_bytes());
    origin
}

/// An answer of `projects.secrets.versions.access`.
pub(super) fn google(origin: &Origin, version: &str, value: &str, sum: Option<&str>) {
    let mut payload = json!({"data": BASE64.encode(value.as_bytes())});
    if let Some(sum) = sum {
        payload["dataCrc32c"] = json!(sum);
    }
    let name = format!("projects/123456/secrets/billing/versions/{version}");
    let answer = json!({"name": name, "payload": payload}).to_string();
    let path = format!("/v1/projects/prod/secrets/billing/versions/{version}:access");
    origin.serve(&path, "application/json", answer.as_bytes());
}

#[test]
fn a_secret_of_google_is_read_with_the_token_of_a_service_account() {
    let scene = Stage::new();
    let (token, value, other) = (canary(), canary(), canary());
    let issuer = tokens(&scene, &token);
    let vault = Origin::start(GOOGLE);
    scene.home.reach(&vault);
    vault.accept(&token);
    google(&vault, "latest", &value, None);
    google(&vault, "7", &other, None);
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let account = json!({
        "type": "service_account", "client_email": "bot@prod.test", "private_key_id": "k1",
        "private_key": key, "token_uri": format!("https://{TOKENS}/open/token"),
    });
    let scope = ["--scope", "https://www.googleapis.com/auth/cloud-platform"];
    let kind = ["--kind", "google-service-account", "--for-sources", "--to"];
    let to = format!("https://{GOOGLE}");
    scene.home.add("cloud", &[&kind[..], &[&to], &scope].concat(), &account.to_string());
    let source = [
        "--source",
        "gcp:projects/prod/secrets/billing",
        "--source-login",
        "credential:cloud",
        "--source-refresh",
        "1s",
        "--source-stale",
        "3s",
    ];
    scene.add(&source, "");
    let serve = scene.home.serve();
    scene.until_shown(&serve, &value);
    let asked = vault.last();
    assert_eq!(asked.method, "GET");
    assert_eq!(asked.target, "/v1/projects/prod/secrets/billing/versions/latest:access");
    assert_eq!(issuer.seen().len(), 1, "one token for all looks");
    for (status, reason) in [
        (429, "the vault asks for fewer calls"),
        (403, "the vault refuses the login: it may not read this"),
        (503, "the vault is not available"),
        (404, "there is no such secret in the vault"),
        (400, "the version of the secret is disabled or destroyed"),
    ] {
        vault.answer(&token, status, None);
        scene.until_refused(&serve, &value);
        assert_eq!(scene.reason(), reason);
        vault.answer_as_ever(&token);
        scene.until_shown(&serve, &value);
    }
    // What was damaged on its way is not sent.
    google(&vault, "latest", "123456789", Some("3808858755"));
    scene.until_shown(&serve, "123456789");
    google(&vault, "latest", "123456780", Some("3808858755"));
    scene.until_refused(&serve, "123456789");
    assert_eq!(scene.reason(), "what the vault answered is damaged");
    // A version by its number.
    let numbered = ["--source", "gcp:projects/prod/secrets/billing/versions/7"];
    scene.add_instead(&[&numbered, &source[2..]].concat());
    scene.until_shown(&serve, &other);
    scene.home.never_leaks(&[&value, &other, &token], &[("log", serve.log().as_bytes())]);
}

#[test]
fn a_secret_of_azure_is_read_with_the_token_of_a_client() {
    let scene = Stage::new();
    let (token, client, value) = (canary(), canary(), canary());
    let _issuer = tokens(&scene, &token);
    let vault = Origin::start(AZURE);
    scene.home.reach(&vault);
    vault.accept(&token);
    let answer = |value: &str, more: Value| {
        let id = format!("https://{AZURE}/secrets/billing/0a1b");
        let mut attributes = json!({"enabled": true, "created": 1, "updated": 1});
        attributes.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let text = json!({"value": value, "id": id, "attributes": attributes}).to_string();
        vault.serve("/secrets/billing", "application/json", text.as_bytes());
    };
    answer(&json!({"key": value}).to_string(), json!({}));
    let (to, endpoint) = (format!("https://{AZURE}"), format!("https://{TOKENS}/open/token"));
    let kind = ["--kind", "oauth-client-credentials", "--for-sources", "--to", &to];
    let client_id = ["--token-endpoint", &endpoint, "--client-id", "us", "--client-auth", "post"];
    let scope = ["--scope", "https://vault.azure.net/.default"];
    scene.home.add("cloud", &[&kind[..], &client_id, &scope].concat(), &client);
    scene.add(
        &[
            "--source",
            "azure:billing#key",
            "--source-url",
            &to,
            "--source-login",
            "credential:cloud",
            "--source-refresh",
            "1s",
            "--source-stale",
            "2s",
        ],
        "",
    );
    let serve = scene.home.serve();
    scene.until_shown(&serve, &value);
    assert_eq!(vault.last().target, "/secrets/billing?api-version=7.4");
    for (status, reason) in [
        (403, "the vault refuses the login: it may not read this"),
        (429, "the vault asks for fewer calls"),
        (404, "there is no such secret in the vault"),
    ] {
        vault.answer(&token, status, None);
        scene.until_refused(&serve, &value);
        assert_eq!(scene.reason(), reason);
        vault.answer_as_ever(&token);
        scene.until_shown(&serve, &value);
    }
    let past = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() - 10;
    answer(&json!({"key": value}).to_string(), json!({"exp": past}));
    scene.until_refused(&serve, &value);
    assert_eq!(scene.reason(), "what it gave has expired already");
    scene.home.never_leaks(&[&value, &token, &client], &[("log", serve.log().as_bytes())]);
}

/// A metadata service: in the clear, and strict about the fields by which such calls are told from those
/// that somebody was talked into.
fn metadata(answer: impl Fn(&str, &str) -> Option<String> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
            while !text.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => text.extend_from_slice(&buffer[..count]),
                }
            }
            let head = String::from_utf8_lossy(&text).to_lowercase();
            let line = head.lines().next().unwrap_or_default().to_owned();
            let (status, body) = match answer(&line, &head) {
                Some(body) => ("200 OK", body),
                None => ("403 Forbidden", String::new()),
            };
            let _ = stream.write_all(
                format!(
                    "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
                .as_bytes(),
            );
        }
    });
    address
}

#[test]
fn machines_of_clouds_are_known_by_their_metadata_service_when_it_is_said() {
    let scene = Stage::new();
    let (token, value) = (canary(), canary());
    let vault = Origin::start(GOOGLE);
    scene.home.reach(&vault);
    vault.accept(&token);
    google(&vault, "latest", &value, None);
    let given = json!({"access_token": token, "expires_in": 3600, "token_type": "Bearer"});
    let address = metadata(move |line, head| {
        let path = "get /computemetadata/v1/instance/service-accounts/default/token http/1.1";
        (line == path && head.contains("metadata-flavor: google")).then(|| given.to_string())
    });
    scene.home.reach_as("metadata.google.internal", address, None);
    let source = ["--source", "gcp:projects/prod/secrets/billing", "--source-login", "instance"];
    scene.add(&source, "");
    let serve = scene.home.serve();
    scene.until_shown(&serve, &value);
    scene.home.never_leaks(&[&value, &token], &[("log", serve.log().as_bytes())]);
}

#[test]
fn an_instance_of_aws_asks_for_a_token_first() {
    let scene = Stage::new();
    let aws = Aws::start(&scene.home, &["secretsmanager.us-east-1.amazonaws.com"]);
    let value = canary();
    let secret = json!({"Name": "billing", "SecretString": value});
    aws.call("secretsmanager", "create_secret", secret);
    let keys = json!({"Code": "Success", "AccessKeyId": aws.id, "SecretAccessKey": aws.secret});
    let address = metadata(move |line, head| {
        let known = head.contains("x-aws-ec2-metadata-token: session-token");
        match line {
            "put /latest/api/token http/1.1" => {
                let ttl = head.contains("x-aws-ec2-metadata-token-ttl-seconds: 60");
                ttl.then(|| "session-token".to_owned())
            }
            "get /latest/meta-data/iam/security-credentials/ http/1.1" => {
                known.then(|| "reader\n".to_owned())
            }
            "get /latest/meta-data/iam/security-credentials/reader http/1.1" => {
                known.then(|| keys.to_string())
            }
            _ => None,
        }
    });
    let source = ["--source", "aws:billing", "--source-region", "us-east-1"];
    scene.add(
        &[&source[..], &["--source-login", "instance", "--source-refresh", "1s"]].concat(),
        "",
    );
    let serve = scene.home.serve();
    // Its address is closed to the proxy until the config opens it.
    eventually("it is refused", SOON, || (scene.ask(&serve).status == 503).then_some(()));
    assert_eq!(scene.reason(), "the vault's address is closed to the proxy");
    scene.home.reach_as("169.254.169.254", address, None);
    scene.until_shown(&serve, &value);
    scene.home.never_leaks(&[&value, &aws.secret], &[("log", serve.log().as_bytes())]);
}
