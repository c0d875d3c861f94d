//! What an access and its outcome cost: `cargo run --release --example audit_cost [DIR] [always]`.
//!
//! Prints CPU and wall time of a pair on one thread, and the rate on several. Measures; asserts
//! nothing.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use locum::audit::{AuditLog, Fsync, Options};
use locum::outcome::Ending;
use locum::record::{Access, AuditSink, Outcome, RequestId, Use, Who};
use locum::reference::Name;
use locum::secret::Secret;

const PAIRS: u32 = 200_000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let (fsync, pairs) = match arguments.next() {
        Some(_) => (Fsync::Always, PAIRS / 100),
        None => (Fsync::Interval(Duration::from_secs(1)), PAIRS),
    };
    for threads in [1, 2, 4, 8] {
        measure(&dir, fsync, pairs, threads);
    }
}

fn measure(dir: &Path, fsync: Fsync, pairs: u32, threads: u32) {
    let dir = dir.join(format!("audit-cost-{}", std::process::id()));
    let key = Secret::new(vec![7; 32]);
    let options = Options { fsync, ..Options::default() };
    let log = AuditLog::open(&dir, &key, options, None).expect("a new directory opens");
    let (wall, cpu) = (Instant::now(), cpu_time());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let log = &log;
            scope.spawn(move || pairs_of(log, thread, pairs / threads));
        }
    });
    let (wall, cpu) = (wall.elapsed(), cpu_time().saturating_sub(cpu));
    let (stats, pairs) = (log.stats(), f64::from(pairs));
    println!(
        "{threads} threads: {:.2} us CPU, {:.2} us wall a pair; {:.0} bytes a pair",
        cpu.as_secs_f64() * 1e6 / pairs,
        wall.as_secs_f64() * 1e6 / pairs,
        stats.bytes as f64 / pairs,
    );
    drop(log);
    std::fs::remove_dir_all(dir).expect("our own directory");
}

fn pairs_of(log: &AuditLog, thread: u32, pairs: u32) {
    let name = |text: &str| text.parse::<Name>().expect("a name");
    let (workspace, agent) = (name("default"), name("researcher"));
    let (run, node) = ("42".parse().expect("a label"), "writer".parse().expect("a label"));
    let credential = Use {
        credential: name("openai"),
        version: Some(3),
        slot: Some("header:authorization".to_owned()),
        why: locum::record::Why::default(),
    };
    for n in 0..pairs {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        id[4..8].copy_from_slice(&thread.to_be_bytes());
        let who = Who {
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
        let access = Access {
            agent: Some(who),
            peer: Some(locum::record::Peer::Tcp(([127, 0, 0, 1], 40_000).into())),
            method: Some("POST"),
            path: Some("/v1/chat/completions"),
            rule: Some("chat for research"),
            policy_generation: 4,
            policy_digest: "3a7bd3e2360a3d29",
            credential: Some(&credential),
            ..Access::new(RequestId(id), "https://api.openai.com")
        };
        log.access(&access).expect("recorded");
        log.outcome(&Outcome {
            request_id: RequestId(id),
            ending: Ending::Complete,
            code: None,
            status: Some(200),
            complaint: None,
            bytes_up: 1200,
            bytes_down: 5300,
            scrubbed: 0,
            misplaced: 0,
            unsearched: false,
            upstream_us: Some(412_000),
            total_us: 900_123,
        });
    }
}

/// User and system time of this process, from Linux: in hundredths of a second.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}
