//! Origins that show what can be forged: keys and digests that are broken.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::*;

/// Fixed, so that a failure is ours.
const PYTHON: &[&str] = &["cryptography==43.0.3"];

/// And versions of TLS that are no more (RFC 8996).
#[test]
fn weak_certificates_are_refused_before_a_byte_of_the_request() {
    let home = Home::new();
    let python = Tools::python_as("python-weak", PYTHON).path.join("bin/python");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/proxy/weak_server.py");
    let directory = home.work().join("weak");
    std::fs::create_dir_all(&directory).unwrap();
    let mut server = Command::new(python);
    server.arg("-Wignore").arg(script).arg(&directory);
    let mut server = server.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, stdout) = (server.stdin.take().unwrap(), server.stdout.take().unwrap());
    let mut stdout = BufReader::new(stdout);
    let mut said = move || -> Value {
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).expect("the servers are there")
    };
    let ports = said();
    let hosts: Vec<&String> = ports.as_object().unwrap().keys().collect();
    let key = canary();
    let mut slots = vec!["--header".to_owned(), "Authorization: Bearer {secret}".to_owned()];
    for host in &hosts {
        let port = u16::try_from(ports[*host].as_u64().unwrap()).unwrap();
        let ca = directory.join(format!("{host}-ca.pem"));
        home.reach_as(host, ([127, 0, 0, 1], port).into(), Some(ca));
        slots.extend(["--to".to_owned(), format!("https://{host}")]);
    }
    let slots: Vec<&str> = slots.iter().map(String::as_str).collect();
    home.add("main", &slots, &key);
    let agent = home.agent("worker");
    let serve = home.serve();
    for host in &hosts {
        let ask = format!("GET /v1/x HTTP/1.1\r\nHost: {host}\r\n{AUTHORIZED}\r\n\r\n");
        let answer = serve.tunnel(&agent, host).ask(ask);
        writeln!(stdin).unwrap();
        let given = said()[host.as_str()].as_u64().unwrap();
        if host.starts_with("old") {
            let code = answer.problem();
            assert_eq!((answer.status, &*code, given), (502, "tls-failed", 0), "{host}");
        } else if host.starts_with("good") {
            assert_eq!(answer.status, 200, "{host}: {}", answer.text());
            assert!(given > 0, "{host}");
        } else {
            let code = answer.problem();
            assert_eq!((answer.status, &*code, given), (502, "certificate-invalid", 0), "{host}");
        }
    }
    assert_eq!(hosts.len(), 10);
    drop(stdin);
    server.wait().unwrap();
    home.never_leaks(&[&key], &[]);
}
