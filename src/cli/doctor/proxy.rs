//! The proxy of the home: whether it answers as it should, or whether one could be started.

use std::net::{SocketAddr, TcpListener};

use super::Findings;
use crate::app::{Opened, Serving};
use crate::audit::AuditLog;
use crate::cli::demo::{get_plain, knock};

const CHECK: &str = "proxy";

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
    let wanted = &opened.config.proxy.listen;
    let moved = wanted.iter().any(|a| a.port() != 0 && !serving.proxy.contains(a));
    if moved {
        findings.warning(
            CHECK,
            "it listens elsewhere than locum.yaml says",
            "start it again: proxy.listen is read at the start only",
        );
    }
    match serving.ops {
        Some(address) => look_at_operations(address, findings).await,
        None => findings.ok("operations", "ops.listen is off"),
    }
}

/// A proxy of Locum's answers a CONNECT without a token by 407, and by its name.
async fn look_at_door(address: SocketAddr, pid: u32, findings: &mut Findings) {
    const NEXT: &str = "look at its log, and start it again with `locum serve`";
    let answer = match knock(&format!("http://{address}"), "doctor.invalid:443").await {
        Ok(answer) => answer,
        Err(error) => {
            let what = format!("process {pid} should listen on {address}, and does not: {error}");
            return findings.problem(CHECK, what, NEXT);
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
    let proxies = config.proxy.listen.iter().map(|address| ("proxy.listen", *address));
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
