//! Requests to AWS that boto3 and the AWS CLI sign with placeholders, at moto with its signature checks
//! on; what moto does not check is checked before it, by the documentation.

use std::path::PathBuf;

use serde_json::Value;

use crate::support::*;

const HOSTS: &[&str] = &[
    "sts.us-east-1.amazonaws.com",
    "sts.amazonaws.com",
    "s3.amazonaws.com",
    "box.s3.amazonaws.com",
    "s3.us-east-1.amazonaws.com",
    "box.s3.us-east-1.amazonaws.com",
    "dynamodb.us-east-1.amazonaws.com",
    "secretsmanager.us-east-1.amazonaws.com",
];

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/kinds").join(name)
}

/// A proxy whose credential `aws` may go to all of the hosts.
struct World {
    _serve: Serve,
    aws: Aws,
    home: Home,
}

impl World {
    fn new(more: impl Fn(&Aws) -> Vec<String>, secret: impl Fn(&Aws) -> String) -> Self {
        let home = Home::new();
        let aws = Aws::start(&home, HOSTS);
        let mut arguments: Vec<String> = vec!["--kind".into(), "aws".into()];
        for host in HOSTS {
            arguments.extend(["--to".to_owned(), format!("https://{host}")]);
        }
        arguments.extend(more(&aws));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        home.add("aws", &arguments, &secret(&aws));
        home.agent("worker");
        let serve = home.serve();
        Self { _serve: serve, aws, home }
    }

    fn run(&self, program: &[&str]) -> Ran {
        let mut command = self.home.command(&["run", "--agent", "worker", "--"]);
        command.arg(Aws::python().join("bin/python"));
        command.args(program).env("AWS_EC2_METADATA_DISABLED", "true");
        // What is lying about in the environment of whoever starts it is not what the program gets.
        command.env("AWS_SECRET_ACCESS_KEY", &self.aws.secret);
        let ran = run(&mut command, b"");
        self.home.said(&ran);
        ran
    }

    fn client(&self, arguments: &[&str]) -> Value {
        let script = script("aws_client.py");
        let ran = self.run(&[&[script.to_str().unwrap()], arguments].concat()).ok();
        serde_json::from_str(&ran.out).unwrap()
    }

    fn never_leaks(&self) {
        self.home.never_leaks(&[&self.aws.secret], &[]);
    }
}

fn pair(aws: &Aws) -> String {
    aws.pair()
}

#[test]
fn boto3_with_placeholder_keys_does_its_work() {
    let world = World::new(|_| Vec::new(), pair);
    let said = world.client(&[]);
    assert_eq!(said["ok"], true);
    assert!(said["identity"].as_str().unwrap().ends_with(":user/worker"), "{said}");
    let seen = world.aws.seen();
    assert_eq!(seen["bad"].as_array().unwrap().len(), 0, "{seen}");
    assert_eq!(seen["presigned"], 2);
    // Of 200,000 bytes in pieces of 64 KiB, twice.
    assert_eq!((&seen["chunks"], &seen["trailers"]), (&10.into(), &1.into()));
    assert!(seen["ranges"].as_u64().unwrap() >= 3, "ranges are asked for as they were: {seen}");
    let ids = seen["ids"].as_array().unwrap();
    assert!(ids.iter().all(|id| *id == world.aws.id.as_str()), "no placeholder goes out: {seen}");
    world.never_leaks();
}

#[test]
fn the_command_line_with_placeholder_keys_does_its_work() {
    let world = World::new(|_| Vec::new(), pair);
    let cli = Aws::python().join("bin/aws");
    let aws = |arguments: &[&str]| {
        let all = [&[cli.to_str().unwrap(), "--region", "us-east-1"], arguments].concat();
        world.run(&all).ok().out
    };
    assert!(aws(&["sts", "get-caller-identity"]).contains(":user/worker"));
    aws(&["s3", "mb", "s3://box"]);
    let file = world.home.work().join("file");
    std::fs::write(&file, vec![b'x'; 9 << 20]).unwrap();
    aws(&["s3", "cp", file.to_str().unwrap(), "s3://box/a file"]);
    let back = world.home.work().join("back");
    aws(&["s3", "cp", "s3://box/a file", back.to_str().unwrap()]);
    assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(&back).unwrap());
    assert!(aws(&["s3", "ls", "s3://box"]).contains("a file"));
    world.never_leaks();
}

#[test]
fn a_wrong_key_in_the_vault_is_the_providers_to_refuse() {
    let world = World::new(|_| Vec::new(), |aws| format!("{}:{}", aws.id, canary()));
    for (service, call) in [("sts", "get_caller_identity"), ("dynamodb", "list_tables")] {
        let said = world.client(&[service, call]);
        assert_eq!(said["status"], 403, "{said}");
        let error = said["error"].to_string();
        assert!(error.contains("SignatureDoesNotMatch"), "{said}");
        assert!(!error.contains(&world.aws.id), "the key's id is not the agent's to know: {said}");
    }
}

#[test]
fn a_role_is_assumed_once_and_its_session_signs() {
    let role = |aws: &Aws| {
        let text = ["--role", &aws.role, "--session-name", "by-locum", "--region", "us-east-1"];
        text.map(str::to_owned).to_vec()
    };
    let world = World::new(role, |aws| {
        format!("[default]\naws_access_key_id = {}\naws_secret_access_key = {}", aws.id, aws.secret)
    });
    let said = world.client(&[]);
    let identity = said["identity"].as_str().unwrap();
    assert!(identity.ends_with(":assumed-role/reader/by-locum"), "{said}");
    let seen = world.aws.seen();
    assert_eq!(seen["bad"].as_array().unwrap().len(), 0, "{seen}");
    let ids = seen["ids"].as_array().unwrap();
    let own = ids.iter().filter(|id| **id == world.aws.id.as_str()).count();
    assert_eq!(own, 1, "the key itself signs one call, which assumes the role: {ids:?}");
    world.never_leaks();
}

#[test]
fn what_a_placeholder_signs_for_is_held_to_the_host_and_to_what_was_said() {
    let world =
        World::new(|_| ["--service", "sts", "--service", "s3"].map(str::to_owned).to_vec(), pair);
    assert_eq!(world.client(&["sts", "get_caller_identity"])["ok"], true);
    let said = world.client(&["dynamodb", "list_tables"]);
    assert_eq!(said["status"], 403, "{said}");
    assert!(world.aws.seen()["ids"].as_array().unwrap().len() == 1);
    let refused: Vec<Value> =
        world.home.audit().into_iter().filter(|r| r["decision"] == "refuse").collect();
    assert_eq!(refused[0]["code"], "credential-refused");
    assert!(refused[0]["reason"].as_str().unwrap().contains("other services"), "{refused:?}");
}
