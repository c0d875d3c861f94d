//! AWS Secrets Manager as moto plays it, with its signature checks on.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::*;
use crate::{SOON, Stage};

const SECRETS: &str = "secretsmanager.us-east-1.amazonaws.com";
const STS: &str = "sts.us-east-1.amazonaws.com";

/// A secret of AWS, from this region, by the key that is named.
const BY_KEY: &[&str] = &["--source-region", "us-east-1", "--source-login", "credential:cloud"];

fn start() -> (Stage, Aws) {
    let scene = Stage::new();
    let aws = Aws::start(&scene.home, &[SECRETS, STS]);
    (scene, aws)
}

/// The credential that sources log in with.
fn cloud(scene: &Stage, more: &[&str], secret: &str) {
    let to = format!("https://{SECRETS}");
    let kind = ["--kind", "aws", "--for-sources", "--to", &to];
    scene.home.add("cloud", &[&kind[..], more].concat(), secret);
}

fn create(aws: &Aws, value: &str) -> String {
    let secret = json!({"Name": "prod/billing", "SecretString": json!({"key": value}).to_string()});
    let made = aws.call("secretsmanager", "create_secret", secret);
    made["VersionId"].as_str().unwrap().to_owned()
}

fn put(aws: &Aws, value: &str, stage: &str) -> String {
    let secret = json!({
        "SecretId": "prod/billing", "VersionStages": [stage],
        "SecretString": json!({"key": value}).to_string(),
    });
    let made = aws.call("secretsmanager", "put_secret_value", secret);
    made["VersionId"].as_str().unwrap().to_owned()
}

fn shown_all(scene: &Stage) -> Vec<String> {
    let key = |seen: &Seen| seen.header("authorization").unwrap_or_default().to_owned();
    scene.origin.seen().iter().map(key).collect()
}

#[test]
fn a_secret_of_aws_is_rotated_under_traffic_and_no_call_fails() {
    let (scene, aws) = start();
    let (first, second) = (canary(), canary());
    create(&aws, &first);
    cloud(&scene, &[], &aws.pair());
    scene.add(
        &[&["--source", "aws:prod/billing#key", "--source-refresh", "2s"], BY_KEY].concat(),
        "",
    );
    let serve = scene.home.serve();
    scene.until_shown(&serve, &first);
    let (over, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    let took = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut wire = serve.tunnel(&scene.agent, HOST);
                while !over.load(Ordering::Relaxed) {
                    let answer = wire.ask(request("GET", "/open/x", &[AUTHORIZED], ""));
                    if answer.status != 200 {
                        over.store(true, Ordering::Relaxed);
                    }
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    calls.fetch_add(1, Ordering::Relaxed);
                    wire.transcript.clear();
                }
            });
        }
        put(&aws, &second, "AWSCURRENT");
        let rotated = Instant::now();
        let new = format!("Bearer {second}");
        eventually("the new value is used", SOON, || {
            let used = scene.origin.last().header("authorization") == Some(&new);
            (used || over.load(Ordering::Relaxed)).then_some(())
        });
        let took = rotated.elapsed();
        over.store(true, Ordering::Relaxed);
        took
    });
    // The time after which it is looked for again, and what one call takes under this load.
    assert!(took < Duration::from_secs(5), "the old value was used for {took:?}");
    let known = [format!("Bearer {first}"), format!("Bearer {second}")];
    assert!(shown_all(&scene).iter().all(|key| known.contains(key)), "another value was sent");
    assert!(calls.into_inner() > 50);
    // Each look is on record, with the key that signed it and for whom.
    let records = scene.home.audit_now();
    let looks: Vec<&Value> =
        records.iter().filter(|r| r["kind"] == "access" && r["rule"] == "source").collect();
    assert!(looks.len() >= 2, "{looks:?}");
    assert!(looks.iter().all(|r| r["credential"] == "cloud" && r["destination"] == format!("https://{SECRETS}")));
    assert!(looks[0].to_string().contains("source:main"), "{}", looks[0]);
    let seen = aws.seen();
    assert!(seen["ids"].as_array().unwrap().iter().all(|id| *id == aws.id.as_str()), "{seen}");
    scene.home.never_leaks(
        &[&first, &second, &aws.secret],
        &[("log", serve.log().as_bytes()), ("metrics", serve.metrics().as_bytes())],
    );
}

#[test]
fn what_sources_log_in_with_is_no_agents() {
    let (scene, aws) = start();
    cloud(&scene, &[], &aws.pair());
    let serve = scene.home.serve();
    let signed = format!(
        "Authorization: AWS4-HMAC-SHA256 Credential=AKIAlocum_cloud_0000/20260101/us-east-1/secretsmanager/aws4_request, SignedHeaders=host;x-amz-date, Signature={}",
        "0".repeat(64)
    );
    let shown = scene.home.locum(&["credential", "show", "cloud"]).ok().out;
    assert!(shown.contains("AKIAlocum_cloud") && shown.contains("no agent gets it"), "{shown}");
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {SECRETS}\r\n{signed}\r\nX-Amz-Date: 20260101T000000Z\r\nContent-Length: 0\r\n\r\n"
    );
    let answer = serve.tunnel(&scene.agent, SECRETS).ask(&request);
    assert_eq!((answer.status, &*answer.problem()), (403, "credential-refused"));
    let records = scene.home.audit_now();
    let refused = records.iter().rev().find(|r| r["decision"] == "refuse").unwrap();
    assert_eq!(refused["reason"], "the credential is for sources alone");
    assert_eq!(aws.seen()["ids"], json!([]));
    // `run` and `env` hand no placeholder for it out.
    let environment = scene.home.locum(&["env", "--agent", "worker"]).ok().out;
    assert!(!environment.contains("locum_cloud"), "{environment}");
    // And what agents get is no login of a source.
    scene.home.add("open", &["--kind", "aws", "--to", &format!("https://{SECRETS}")], &aws.pair());
    let add = |login: &str| {
        let source = ["--source", "aws:x", "--source-region", "us-east-1", "--source-login", login];
        scene.home.locum(&[&["credential", "add", "main"], BEARER, &source[..]].concat())
    };
    for (login, why) in [
        ("credential:open", "agents may get"),
        ("credential:nobody", "nobody"),
        ("token", "environment or web-identity"),
    ] {
        let ran = add(login);
        assert!(ran.code != 0 && ran.err.contains(why), "{login}: {}", ran.err);
    }
    let elsewhere = ["--kind", "aws", "--for-sources", "--to", "https://s3.amazonaws.com"];
    scene.home.add("elsewhere", &elsewhere, &aws.pair());
    let ran = add("credential:elsewhere");
    assert!(ran.err.contains("may not go to"), "{}", ran.err);
}

#[test]
fn versions_of_aws_are_followed_by_label_and_by_id() {
    let (scene, aws) = start();
    let (first, second) = (canary(), canary());
    let one = create(&aws, &first);
    // A role, whose session then signs.
    let role = ["--role", &aws.role, "--region", "us-east-1"];
    cloud(&scene, &role, &aws.pair());
    let two = put(&aws, &second, "AWSPENDING");
    let asked = |version: &[&str]| {
        let source = ["--source", "aws:prod/billing#key", "--source-refresh", "1s"];
        [&source[..], version, BY_KEY].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let instead = |version: &[&str]| {
        let arguments = asked(version);
        scene.add_instead(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    };
    let arguments = asked(&["--source-version", "AWSPENDING"]);
    scene.add(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), "");
    let serve = scene.home.serve();
    scene.until_shown(&serve, &second);
    instead(&[]);
    scene.until_shown(&serve, &first);
    // The rotation there is finished: here it is followed.
    aws.call(
        "secretsmanager",
        "update_secret_version_stage",
        json!({
            "SecretId": "prod/billing", "VersionStage": "AWSCURRENT",
            "MoveToVersionId": two, "RemoveFromVersionId": one,
        }),
    );
    scene.until_shown(&serve, &second);
    instead(&["--source-version", "AWSPREVIOUS"]);
    scene.until_shown(&serve, &first);
    instead(&["--source-version", &format!("id:{two}")]);
    scene.until_shown(&serve, &second);
    let seen = aws.seen();
    let looks = seen["targets"].as_array().unwrap();
    assert!(looks.len() >= 5 && looks.iter().all(|look| look[1] != aws.id.as_str()), "{seen}");
}

#[test]
fn the_trouble_of_aws_is_borne_for_a_while_and_named() {
    let (scene, aws) = start();
    let value = canary();
    create(&aws, &value);
    cloud(&scene, &[], &aws.pair());
    let times =
        ["--source", "aws:prod/billing#key", "--source-refresh", "1s", "--source-stale", "4s"];
    scene.add(&[&times[..], BY_KEY].concat(), "");
    let serve = scene.home.serve();
    scene.until_shown(&serve, &value);
    let trouble = |mode: &str, reason: &str| {
        aws.tell(&json!({"mode": mode}));
        assert!(
            scene.until_refused(&serve, &value) > 0,
            "{mode}: no bounded use of the last value"
        );
        assert_eq!(scene.reason(), reason, "{mode}");
        aws.tell(&json!({"mode": "ok"}));
        scene.until_shown(&serve, &value);
    };
    trouble("throttle", "the vault asks for fewer calls");
    trouble("error", "the vault failed");
    let stale = scene.events("source-stale");
    assert!(stale[0]["detail"].as_str().unwrap().contains("fewer calls; the last value is used"));
    assert_eq!(scene.events("source-recovered").len(), 2);
    // Who may not read it, and a key that is none.
    for (key, reason) in [
        (aws.stranger.clone(), "the vault refuses the login: it may not read this"),
        (
            format!("{}:{}", aws.id, canary()),
            "the vault refuses the login: its key is wrong, or has expired",
        ),
    ] {
        scene.home.rotate("cloud", &key);
        scene.until_refused(&serve, &value);
        assert_eq!(scene.reason(), reason);
        scene.home.rotate("cloud", &aws.pair());
        scene.until_shown(&serve, &value);
    }
    // Marked for deletion there: not used any more here.
    let deleted = json!({"SecretId": "prod/billing", "RecoveryWindowInDays": 7});
    aws.call("secretsmanager", "delete_secret", deleted);
    scene.until_refused(&serve, &value);
    assert_eq!(scene.reason(), "the secret is marked for deletion in the vault");
    aws.call("secretsmanager", "restore_secret", json!({"SecretId": "prod/billing"}));
    scene.until_shown(&serve, &value);
    scene.home.locum(&["credential", "revoke", "cloud"]).ok();
    scene.until_refused(&serve, &value);
    assert!(scene.reason().contains("is not there, or is revoked"), "{}", scene.reason());
    scene.home.never_leaks(&[&value, &aws.secret], &[("log", serve.log().as_bytes())]);
}

#[test]
fn keys_of_the_environment_and_of_a_workload_are_used_when_it_is_said() {
    let (scene, aws) = start();
    let value = canary();
    create(&aws, &value);
    let source = ["--source", "aws:prod/billing#key", "--source-region", "us-east-1"];
    scene.add(&[&source[..], &["--source-login", "environment"]].concat(), "");
    // As whoever issues it leaves it: any text does for moto, which has no issuer.
    let token = scene.home.work().join("token");
    crate::private(&token, "header.claims.signature\n");
    let mut command = scene.home.command(&["serve"]);
    command.env("AWS_ACCESS_KEY_ID", &aws.id).env("AWS_SECRET_ACCESS_KEY", &aws.secret);
    command.env("AWS_WEB_IDENTITY_TOKEN_FILE", &token).env("AWS_ROLE_ARN", &aws.role);
    let serve = Serve::start_as(&scene.home, command.stdin(Stdio::null()));
    scene.until_shown(&serve, &value);
    let before = aws.seen()["ids"].as_array().unwrap().len();
    scene.add_instead(&[&source[..], &["--source-login", "web-identity"]].concat());
    scene.until_shown(&serve, &value);
    let seen = aws.seen();
    assert_eq!(seen["tokens"][0], "header.claims.signature");
    let since = &seen["ids"].as_array().unwrap()[before..];
    assert!(!since.is_empty() && !since.contains(&json!(aws.id)), "the session signs: {since:?}");
    // Nothing is taken from there that was not asked for.
    cloud(&scene, &[], &aws.stranger);
    scene.add_instead(&[&source[..], &["--source-login", "credential:cloud"]].concat());
    assert_eq!(scene.ask(&serve).status, 503);
}
