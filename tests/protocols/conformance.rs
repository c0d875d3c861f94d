//! The HTTP/2 conformance suite of httpwg against the intercepted side, and against a bare server of
//! the same library: the proxy fails no case that the library passes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio_rustls::TlsAcceptor;

use crate::support::*;

/// The one host that the suite's requests can name.
const HOST: &str = "localhost";

/// How long the suite waits for a frame. Its own quarter of a second is too little for a busy machine;
/// a case that waits for silence takes that long.
const PATIENT: &str = "--frame-timeout=2000";

/// What each case came to, by its name.
type Verdicts = BTreeMap<String, bool>;

fn verdicts(server: &Forwarder) -> Verdicts {
    let mut command = Command::new(Tools::cargo("httpwg-cli", "0.2.5").join("httpwg"));
    command.args([PATIENT, "--connect-timeout=5000"]).arg(format!("--address={}", server.address));
    let ran = run(command.env("RUST_LOG", "off"), b"");
    let mut verdicts = Verdicts::new();
    for line in ran.err.lines() {
        let verdict = |start| line.strip_prefix(start).map(str::to_owned);
        if let Some(name) = verdict("✅ Test passed: ") {
            verdicts.insert(name, true);
        } else if let Some(name) = verdict("❌ Test failed: ") {
            verdicts.insert(name, false);
        }
    }
    assert!(verdicts.len() > 80, "{} cases\n{}\n{}", verdicts.len(), ran.out, ran.err);
    verdicts
}

/// A server of the library that the proxy is made with, which answers everything.
fn bare() -> (SocketAddr, PathBuf, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let identity = Identity::new(HOST);
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, &identity.ca).unwrap();
    let mut config = identity.server_config();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    runtime().spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(|request: http::Request<hyper::body::Incoming>| async {
                    let _ = request.into_body().collect().await;
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok"))))
                });
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    // The proxy's own settings, where the suite could see them.
                    .initial_stream_window_size(256 * 1024)
                    .max_concurrent_streams(128)
                    .max_header_list_size(64 * 1024)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    (address, ca, directory)
}

#[test]
fn no_case_is_worse_than_with_the_bare_library() {
    let slots = ["--to", "https://localhost", "--header", "Authorization: Bearer {secret}"];
    let home = Home::new();
    let origin = Origin::start(HOST);
    home.reach(&origin);
    home.add("main", &slots, &canary());
    let agent = home.agent("worker");
    let serve = home.serve();

    let (address, ca, _directory) = bare();
    let library = verdicts(&Forwarder::http2_to(address, HOST, &ca));
    let proxy = verdicts(&Forwarder::http2(&serve, &agent, HOST));
    let word = |verdict: Option<&bool>| match verdict {
        Some(true) => "pass",
        Some(false) => "FAIL",
        None => "none",
    };
    println!("{:6} {:6} case", "hyper", "locum");
    for (case, bare) in &library {
        println!("{:6} {:6} {case}", word(Some(bare)), word(proxy.get(case)));
    }
    let passed = |verdicts: &Verdicts| verdicts.values().filter(|passed| **passed).count();
    println!("passed: {} and {} of {}", passed(&library), passed(&proxy), library.len());
    let worse: Vec<&String> = library
        .iter()
        .filter(|(case, bare)| **bare && proxy.get(*case) != Some(&true))
        .map(|(case, _)| case)
        .collect();
    assert!(worse.is_empty(), "worse than the bare library: {worse:#?}");
}
