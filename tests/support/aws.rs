//! AWS as moto plays it, with its signature checks on.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Home, Tools, identity_files};

/// Versions are fixed, so that a failure is ours.
const PYTHON: &[&str] = &[
    "moto[server,s3,dynamodb,secretsmanager,sts,iam,kms]==5.2.5",
    "boto3==1.44.5",
    "botocore==1.44.5",
    "awscli==1.46.3",
];

/// AWS, in a process of its own.
pub struct Aws {
    child: Child,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    /// Of a user who may do all.
    pub id: String,
    pub secret: String,
    /// Of a user who may do nothing.
    pub stranger: String,
    pub role: String,
}

impl Aws {
    /// The Python with its clients.
    pub fn python() -> PathBuf {
        Tools::python_as("python-aws", PYTHON).path
    }

    /// Starts it, in the place of these hosts.
    pub fn start(home: &Home, hosts: &[&str]) -> Self {
        let identities = home.work().join("identities");
        for host in hosts {
            let directory = identities.join(host);
            std::fs::create_dir_all(&directory).unwrap();
            identity_files(host, &directory);
        }
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/kinds/aws_server.py");
        let mut server = Command::new(Self::python().join("bin/python"));
        server.arg(script).arg(&identities);
        let log = std::fs::File::create(home.work().join("aws.log")).unwrap();
        server.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = server.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|_| {
            panic!("{}", std::fs::read_to_string(home.work().join("aws.log")).unwrap())
        });
        let port = u16::try_from(said["port"].as_u64().unwrap()).unwrap();
        for host in hosts {
            let ca = identities.join(host).join("ca.pem");
            home.reach_as(host, ([127, 0, 0, 1], port).into(), Some(ca));
        }
        let text = |key: &str| said[key].as_str().unwrap().to_owned();
        let (id, secret, role) = (text("id"), text("secret"), text("role"));
        let stranger = text("stranger");
        Self { child, pipes: Mutex::new((stdin, stdout)), id, secret, stranger, role }
    }

    /// Does something there, as its owner.
    #[track_caller]
    pub fn tell(&self, command: &Value) -> Value {
        let mut pipes = self.pipes.lock();
        writeln!(pipes.0, "{command}").unwrap();
        let mut line = String::new();
        pipes.1.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{command}: {e}: {line}"))
    }

    /// Calls a method of boto3.
    #[track_caller]
    pub fn call(&self, service: &str, method: &str, arguments: impl Into<Value>) -> Value {
        let arguments = arguments.into();
        let said = self.tell(&json!({"call": [service, method], "with": arguments}));
        assert!(said["error"].is_null(), "{service} {method}: {said}");
        said
    }

    /// What it has seen so far.
    pub fn seen(&self) -> Value {
        self.tell(&json!({}))
    }

    /// As a credential of the kind `aws` takes it.
    pub fn pair(&self) -> String {
        format!("{}:{}", self.id, self.secret)
    }
}

impl Drop for Aws {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
