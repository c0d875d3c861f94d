//! What the audit log costs a request: its two records, made and written.
//!
//! `cargo run --release --example audit_cost` tells CPU and wall time apart, and tries more threads.
#![allow(clippy::unwrap_used)] // A benchmark that cannot go on has failed.

use criterion::{Criterion, criterion_group, criterion_main};
use locum::audit::{AuditLog, Options};
use locum::outcome::Ending;
use locum::record::{Access, AuditSink as _, Outcome, RequestId, Use, Who, Why};
use locum::reference::Name;
use locum::secret::Secret;

fn audit(c: &mut Criterion) {
    // Beside the other build products: the log belongs on a disk, and /tmp is often none.
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let key = Secret::new(vec![7; 32]);
    let log =
        AuditLog::open(&scratch.path().join("audit"), &key, Options::default(), None).unwrap();
    let name = |text: &str| text.parse::<Name>().unwrap();
    let (workspace, agent) = (name("default"), name("researcher"));
    let (run, node) = ("42".parse().unwrap(), "writer".parse().unwrap());
    let credential = Use {
        credential: name("openai"),
        version: Some(3),
        slot: Some("header:authorization".to_owned()),
        why: Why::default(),
    };
    let who = || Who {
        workspace: &workspace,
        agent: &agent,
        token_id: "tk_3f9a1c",
        authenticated_by: "token",
        run: Some(&run),
        node: Some(&node),
        user: None,
        environment: None,
        labels: None,
        run_token_use: None,
    };
    let access = || Access {
        agent: Some(who()),
        peer: Some(locum::record::Peer::Tcp(([127, 0, 0, 1], 40_000).into())),
        method: Some("POST"),
        path: Some("/v1/chat/completions"),
        rule: Some("chat for research"),
        policy_generation: 4,
        policy_digest: "3a7bd3e2360a3d29",
        credential: Some(&credential),
        ..Access::new(RequestId([5; 16]), "https://api.openai.com")
    };
    let outcome = || Outcome {
        request_id: RequestId([5; 16]),
        ending: Ending::Complete,
        code: None,
        status: Some(200),
        complaint: None,
        bytes_up: 1200,
        bytes_down: 5300,
        scrubbed: 0,
        unsearched: false,
        misplaced: 0,
        upstream_us: Some(412_000),
        total_us: 900_123,
    };
    c.bench_function("audit/access and outcome", |b| {
        b.iter(|| {
            log.access(&access()).unwrap();
            log.outcome(&outcome());
        });
    });
}

criterion_group!(benches, audit);
criterion_main!(benches);
