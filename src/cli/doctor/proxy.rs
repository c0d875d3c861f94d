//! The proxy of the home: whether it answers as it should, or whether one could be started.

use std::fmt::Display;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::Findings;
use crate::app::{Opened, Serving};
use crate::audit::AuditLog;
use crate::cli::demo::{get_plain, knock};
use crate::config::{Listen, ListenAt};
use crate::tls::CaInfo;

const CHECK: &str = "proxy";

const NEXT: &str = "look at its log, and start it again with `locum serve`";

/// For a connection within this machine.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn look(opened: &Opened, findings: &mut Findings) {
    match (opened.running(), AuditLog::is_locked(&opened.config.audit.dir)) {
        (Some(serving), _) => look_at_running(opened, &serving, findings).await,
        (None, true) => findings.ok(CHECK, "a `locum run` of this home is at work, with its own"),
        (None, false) => look_at_ports(opened, findings),
    }
}

async fn look_at_running(opened: &Opened, serving: &Serving, findings: &mut Findings) {
    for address in &serving.proxy {
        look_at_door(*address, serving.pid, findings).await;
    }
    for address in &serving.tls {
        look_at_tls_door(*address, serving.pid, findings);
    }
    for path in &serving.unix {
        look_at_socket(path, serving.pid, findings);
    }
    let there = |listen: &Listen| match &listen.at {
        ListenAt::Tcp(at) if listen.tls.is_some() => at.port() == 0 || serving.tls.contains(at),
        ListenAt::Tcp(at) => at.port() == 0 || serving.proxy.contains(at),
        ListenAt::Unix { path, .. } => serving.unix.contains(path),
    };
    if !opened.config.proxy.listen.iter().all(there) {
        findings.warning(
            CHECK,
            "it listens elsewhere than locum.yaml says",
            "start it again: proxy.listen is read at the start only",
        );
    }
    look_at_ca(opened, serving, findings);
    match serving.ops {
        Some(address) => look_at_operations(address, findings).await,
        None => findings.ok("operations", "ops.listen is off"),
    }
}

/// Whose certificates the proxy shows: clients have the CA of today in their bundles.
fn look_at_ca(opened: &Opened, serving: &Serving, findings: &mut Findings) {
    let own = opened.certificate().and_then(|text| Ok(CaInfo::read(&text)?.fingerprint()));
    // Where the CA cannot be read, its own check says so.
    if let (Some(shown), Ok(own)) = (&serving.ca, own)
        && *shown != own
    {
        findings.problem(
            CHECK,
            format!("process {} has the CA from before `locum ca rotate`, and clients trust the new one", serving.pid),
            "start it again, and then the agents",
        );
    }
}

/// A proxy of Locum's answers a CONNECT without a token by 407, and by its name.
async fn look_at_door(address: SocketAddr, pid: u32, findings: &mut Findings) {
    let answer = match knock(&format!("http://{address}"), "doctor.invalid:443").await {
        Ok(answer) => answer,
        Err(error) => {
            return missing(&address, pid, &error, findings);
        }
    };
    let has = |name: &str| answer.headers.iter().any(|(field, _)| field == name);
    let right = answer.status == 407 && has("proxy-authenticate") && has("proxy-status");
    if right {
        let what = format!("process {pid} on {address} lets nobody in without a token");
        findings.ok(CHECK, what);
    } else {
        let told = answer.in_words();
        let what = format!("{address} answers a CONNECT without a token by {told}, not by 407");
        findings.problem(CHECK, what, NEXT);
    }
}

/// Whose certificate it shows is for its clients to judge; that it listens is ours.
fn look_at_tls_door(address: SocketAddr, pid: u32, findings: &mut Findings) {
    match TcpStream::connect_timeout(&address, PATIENCE) {
        Ok(_) => findings.ok(CHECK, format!("process {pid} listens on {address}, with TLS")),
        Err(error) => missing(&address, pid, &error, findings),
    }
}

fn look_at_socket(path: &Path, pid: u32, findings: &mut Findings) {
    match UnixStream::connect(path) {
        Ok(_) => findings.ok(CHECK, format!("process {pid} listens on unix:{}", path.display())),
        Err(error) => missing(&format!("unix:{}", path.display()), pid, &error, findings),
    }
}

fn missing(place: &dyn Display, pid: u32, error: &dyn Display, findings: &mut Findings) {
    let what = format!("process {pid} should listen on {place}, and does not: {error}");
    findings.problem(CHECK, what, NEXT);
}

async fn look_at_operations(address: SocketAddr, findings: &mut Findings) {
    const CHECK: &str = "operations";
    let answer = match get_plain(address, "/readyz").await {
        Ok(answer) => answer,
        Err(error) => {
            let what = format!("http://{address}/readyz does not answer: {error}");
            return findings.problem(CHECK, what, "start the proxy again with `locum serve`");
        }
    };
    if answer.status == 200 {
        return findings.ok(CHECK, format!("http://{address}/readyz says ready"));
    }
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let problems = body["problems"].as_array().cloned().unwrap_or_default();
    let problems: Vec<&str> = problems.iter().filter_map(serde_json::Value::as_str).collect();
    let what = format!("http://{address}/readyz says not ready: {}", problems.join(", "));
    findings.problem(CHECK, what, "mend what it names; the proxy goes on by itself");
}

/// Whether the ports of a proxy that is to be started are free.
fn look_at_ports(opened: &Opened, findings: &mut Findings) {
    if let Some(left) = opened.home.announced() {
        let what = format!("process {} did not end in order; nothing of it is lost", left.pid);
        findings.ok_next(CHECK, what, "start it again with `locum serve`");
    }
    let config = &opened.config;
    let addresses = config.proxy.listen.iter().filter_map(Listen::address);
    let proxies = addresses.map(|address| ("proxy.listen", address));
    let ops = config.ops.listen.map(|address| ("ops.listen", address));
    let mut free = true;
    for (key, address) in proxies.chain(ops) {
        if let Err(error) = TcpListener::bind(address) {
            free = false;
            findings.problem(
                CHECK,
                format!("none runs, and {key} {address} cannot be had: {error}"),
                format!(
                    "stop the program that has the port, or set {key} in locum.yaml to another"
                ),
            );
        }
    }
    if free {
        findings.ok_next(
            CHECK,
            "none runs; its ports are free",
            "start it with `locum serve`; `locum run` brings its own",
        );
    }
}
