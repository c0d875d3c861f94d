//! The engines alone: what each step of a request costs without sockets, and how it grows.
//!
//! `cargo bench --bench engines` runs all, `-- scrub` those with that in their name.

#![allow(missing_docs, unreachable_pub, dead_code)] // A harness is shared by halves.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::items_after_statements,
    clippy::format_push_string
)]

use std::collections::HashMap;
use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http::Request;
use http::request::Parts;

use locum::agent::Identity;
use locum::credential::{Credential, CredentialIndex, Properties};
use locum::document::Source;
use locum::host::{Authority, Destination, Origin};
use locum::inject::{References, Resolved, inject};
use locum::policy::{Policy, compile};
use locum::request::InboundRequest;
use locum::scrub::{Fit, Needles, Scrubber};
use locum::secret::Secret;

/// As long as a project key of today.
const KEY: &str = "sk-proj-B3nchM4rk-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-\
                   0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-ThisIsNotAKey";

const BEARER: &str = "header authorization: Bearer {secret}";

/// A secret, and what is looked for because of it.
fn needles() -> Needles {
    let mut needles = Needles::default();
    needles.add(&Secret::new(KEY.as_bytes().to_vec()), "locum_openai");
    needles
}

fn filled(length: usize, unit: &str) -> Bytes {
    unit.bytes().cycle().take(length).collect()
}

fn scrub(c: &mut Criterion) {
    let mut group = c.benchmark_group("scrub");
    let json =
        r#"{"id":"msg_01","type":"text_delta","text":"The quick brown fox, sk-eptical of keys"}"#;
    let base64 = "VGhlIHF1aWNrIGJyb3duIGZveCBqdW1wcyBvdmVyIHRoZSBsYXp5IGRvZy4";
    // What a hostile origin sends: the longest beginnings of the secret that are not the secret.
    let almost = &KEY[..KEY.len() - 1];
    // And the last bytes of a window, which is where the search looks first.
    let window = &KEY[KEY.len().min(64) - 24..KEY.len().min(64)];
    // What is made of few characters may be a list of a secret's bytes, or base32.
    let dump = "4f 67 1c 9a 03 7e d2 b8 55 0c e1 3f 88 a6 2b f4 \n";
    let base64_lines = format!("{base64}{}\n", &base64[..17]);
    let base32 = "KRUGKIDROVUWG2ZAMJZG653OEBTG66BANJ2W24DTEBXXMZLSEB2GQZJANRQXU6JA\n";
    let escapes = "\\u043a\\u043b\\u044e\\u0447";
    for (name, unit) in [
        ("json", json),
        ("base64", base64),
        ("almost", almost),
        ("windows", window),
        ("base64 in lines", &base64_lines),
        ("base32 in lines", base32),
        ("hex dump", dump),
        ("escapes", escapes),
        ("run of x", "x"),
        ("run of 0", "0"),
        ("NULs", "\0"),
    ] {
        let text = filled(64 * 1024, unit);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(BenchmarkId::new("64 KiB", name), |b| {
            let mut scrubber = Scrubber::for_needles(needles(), Fit::InPlace);
            b.iter(|| scrubber.push(text.clone(), &mut |data| drop(black_box(data))));
        });
    }
    // What a TLS record brings, which is what comes most often.
    let record = filled(16 * 1024, json);
    group.throughput(Throughput::Bytes(record.len() as u64));
    group.bench_function(BenchmarkId::new("16 KiB", "json"), |b| {
        let mut scrubber = Scrubber::for_needles(needles(), Fit::InPlace);
        b.iter(|| scrubber.push(record.clone(), &mut |data| drop(black_box(data))));
    });
    let event = Bytes::from(format!("data: {json}\n\n"));
    group.throughput(Throughput::Bytes(event.len() as u64));
    group.bench_function("event", |b| {
        let mut scrubber = Scrubber::for_needles(needles(), Fit::Exact);
        b.iter(|| scrubber.push(event.clone(), &mut |data| drop(black_box(data))));
    });
    group.finish();
    // Done for each request, so it counts as much as the search itself.
    c.bench_function("scrub/prepare", |b| {
        b.iter(|| Scrubber::for_needles(black_box(needles()), Fit::Exact));
    });
}

fn credential(name: &str, to: &str) -> Credential {
    Credential {
        workspace: locum::agent::default_workspace(),
        name: name.parse().expect("a name"),
        provider: None,
        destinations: [to.parse().expect("a destination")].into(),
        slots: [BEARER.parse().expect("a slot")].into(),
        stand_in: None,
        version: Some(1),
        older: Box::default(),
        revoked: Box::default(),
        newest: 1,
        properties: Properties::default(),
        part: locum::credential::Part::default(),
        tier: locum::credential::Tier::default(),
    }
}

fn index() -> CredentialIndex {
    let hosts = ["openai", "anthropic", "github", "stripe"];
    let all = hosts.map(|name| credential(name, &format!("https://api.{name}.com")));
    CredentialIndex::new(all.into(), HashMap::new())
}

fn who() -> Identity {
    Identity::new("default".parse().expect("a name"), "agent-5".parse().expect("a name"), "t")
}

fn origin() -> Origin {
    let to: Destination = "https://api.openai.com".parse().expect("a destination");
    let host = to.host.exact().expect("no pattern").clone();
    Origin { scheme: to.scheme, authority: Authority { host, port: to.port } }
}

/// A request with 20 fields, as SDKs send them.
fn parts() -> Parts {
    let mut request = Request::post("/v1/chat/completions?stream=true")
        .header("host", "api.openai.com")
        .header("accept-encoding", "gzip, deflate, br")
        .header("connection", "keep-alive")
        .header("accept", "application/json")
        .header("user-agent", "OpenAI/Python 2.8.0")
        .header("content-type", "application/json")
        .header("content-length", "1024")
        .header("authorization", "Bearer locum_openai")
        .header("cookie", "__cf_bm=c1d7e5a4b3f2; _cfuvid=9f8e7d6c5b4a39281706")
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    for name in ["lang", "package-version", "os", "arch", "runtime", "runtime-version"] {
        request = request.header(format!("x-stainless-{name}"), "a value of usual length");
    }
    for name in ["async", "retry-count", "read-timeout", "raw-response"] {
        request = request.header(format!("x-stainless-{name}"), "600");
    }
    request.body(()).expect("a request").into_parts().0
}

fn inbound() -> InboundRequest {
    InboundRequest::parse(parts(), &origin()).expect("a plain request")
}

fn request(c: &mut Criterion) {
    let (index, who, origin) = (index(), who(), origin());
    let policy = policy("  - {name: own, agents: ['*'], use: ['*']}\n");
    c.bench_function("request/parse", |b| {
        let parse = |parts| InboundRequest::parse(parts, &origin);
        b.iter_batched(parts, parse, BatchSize::SmallInput);
    });
    c.bench_function("request/locate, 20 fields", |b| {
        let request = inbound();
        b.iter(|| References::locate(black_box(&request), &index));
    });
    c.bench_function("request/inject", |b| {
        let prepare = || {
            let request = inbound();
            let references = References::locate(&request, &index);
            let permit =
                policy.authorize(&who, &request, &references, &index, 0).expect("a permit");
            let open = |_: &Credential, _| Ok(Secret::new(KEY.as_bytes().to_vec()));
            let resolved = Resolved::open(&permit, open).expect("a secret");
            (request, permit, resolved)
        };
        let fill = |(request, permit, resolved)| {
            let filled = inject(request, &permit, resolved);
            (filled, permit)
        };
        b.iter_batched(prepare, fill, BatchSize::SmallInput);
    });
}

fn policy(rules: &str) -> Policy {
    let text = format!("version: 1\nrules:\n{rules}");
    compile(vec![Source::new("bench.yaml", &text)]).unwrap_or_else(|report| panic!("{report}"))
}

/// How a decision grows with the number of rules, by what the rules differ in.
fn decide(c: &mut Criterion) {
    let (index, who, request) = (index(), who(), inbound());
    let references = References::locate(&request, &index);
    for (kind, rule) in [
        ("hosts", "{agents: ['*'], to: ['https://h@.test'], use: [openai], name: r@}"),
        ("agents", "{agents: [agent-@], to: ['https://api.openai.com'], use: [openai], name: r@}"),
        ("patterns", "{agents: ['*'], to: ['https://*.h@.test'], use: [openai], name: r@}"),
        ("credentials", "{agents: ['*'], use: [c@], name: r@}"),
        (
            "denied",
            "{deny: true, agents: ['*'], to: ['https://**.h@.test'], methods: [PUT], name: r@}",
        ),
    ] {
        let mut group = c.benchmark_group(format!("decide/{kind}"));
        for count in [10_u32, 1_000, 100_000] {
            let line = |n: u32| format!("  - {}\n", rule.replace('@', &n.to_string()));
            let mut rules: String = (0..count).map(line).collect();
            rules += "  - {name: own, agents: ['*'], use: ['*']}\n";
            let policy = policy(&rules);
            group.bench_function(BenchmarkId::from_parameter(count), |b| {
                b.iter(|| policy.authorize(&who, black_box(&request), &references, &index, 0));
            });
        }
        group.finish();
    }
    let mut group = c.benchmark_group("compile");
    group.sample_size(10);
    for count in [10_u32, 1_000, 100_000] {
        let line = |n| {
            format!(
                "  - {{agents: [agent-{n}], to: ['https://h{n}.test'], use: [c{n}], name: r{n}}}\n"
            )
        };
        let rules: String = (0..count).map(line).collect();
        let text = format!("version: 1\nrules:\n{rules}");
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| compile(vec![Source::new("bench.yaml", &text)]).map_err(drop));
        });
    }
    group.finish();
}

criterion_group! {
    name = engines;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2))
        .without_plots();
    targets = scrub, request, decide
}
criterion_main!(engines);
