//! The HTTP/2 conformance suite of httpwg against the intercepted side, and against a bare server of
//! the same library: the proxy fails no case that the library passes.

use std::collections::{BTreeMap, BTreeSet};
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

/// The host that the suite's requests name.
const HOST: &str = "localhost";

/// What each case came to, by its name.
type Verdicts = BTreeMap<String, bool>;

fn verdicts(server: &Forwarder) -> (Verdicts, String) {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/protocols/httpwg");
    let runner = Tools::built("httpwg-runner", &source);
    let ran = run(Command::new(runner).arg(server.address.to_string()), b"");
    let verdict = |line: &str| {
        let (verdict, name) = line.split_once(' ').unwrap();
        (name.to_owned(), verdict == "pass")
    };
    let verdicts: Verdicts = ran.out.lines().map(verdict).collect();
    assert!(verdicts.len() > 100, "{} cases\n{}\n{}", verdicts.len(), ran.out, ran.err);
    (verdicts, ran.err)
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
    let (bare, proxy) =
        (Forwarder::http2_to(address, HOST, &ca), Forwarder::http2(&serve, &agent, HOST));
    let mut worse: Option<BTreeSet<String>> = None;
    // Some verdicts depend on what arrives first; those differ from one time to the next.
    for round in 0..6 {
        let again = compare(&bare, &proxy);
        println!("round {round}: worse in {again:?}");
        let both = worse.map(|before| before.intersection(&again).cloned().collect());
        let now = both.unwrap_or(again);
        if now.is_empty() {
            // The requests among the cases were carried out, and not refused.
            assert!(origin.seen().len() > 10, "{}", origin.seen().len());
            return;
        }
        worse = Some(now);
    }
    panic!("worse than the bare library: {worse:#?}");
}

/// Runs both, prints the table, and names the cases that the library alone passes.
fn compare(bare: &Forwarder, proxy: &Forwarder) -> BTreeSet<String> {
    let (library, _) = verdicts(bare);
    let (proxy, reasons) = verdicts(proxy);
    let word = |passed: bool| if passed { "pass" } else { "FAIL" };
    println!("{:6} {:6} case", "hyper", "locum");
    for (case, bare) in &library {
        println!("{:6} {:6} {case}", word(*bare), word(proxy[case]));
    }
    let passed = |verdicts: &Verdicts| verdicts.values().filter(|passed| **passed).count();
    println!("passed: {} and {} of {}", passed(&library), passed(&proxy), library.len());
    println!("the proxy: {reasons}");
    let worse = library.into_iter().filter(|(case, bare)| *bare && !proxy[case]);
    worse.map(|(case, _)| case).collect()
}
