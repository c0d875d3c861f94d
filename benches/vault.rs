//! What the vault costs a request: opening one secret, and checking one token. And what a change
//! costs a proxy that has many of each: reading all of it.
#![allow(clippy::unwrap_used)] // A benchmark that cannot go on has failed.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use locum::authn::{Agents, Authenticators, Shown, parse_proxy_authorization};
use locum::credential::Properties;
use locum::record::Peer;
use locum::secret::Secret;
use locum::vault::{MasterKey, NewCredential, Tier, Vault};

fn vault(c: &mut Criterion) {
    let home = tempfile::tempdir().unwrap();
    let master = MasterKey::generate().unwrap();
    let mut vault = Vault::create(&home.path().join("vault.db"), &master).unwrap();
    let credential = credential("openai");
    vault.add_credential(&credential, &Secret::new(vec![b'k'; 164])).unwrap();
    let agent = "agent".parse().unwrap();
    vault.agent_add(&agent).unwrap();
    let token = vault.token_add(&agent, None, None).unwrap().into_text();
    let unknown = locum::token::Token::mint().unwrap().into_text();
    let snapshot = vault.snapshot().unwrap();
    let agents = Agents::new(
        &snapshot.workspace,
        snapshot.tokens.clone(),
        snapshot.token_key.clone(),
        snapshot.runs.clone(),
        snapshot.revoked_agents.clone(),
    );
    let authenticators = Authenticators::of_tokens(&Arc::new(agents).into());
    let header = |token: &str| {
        let pair = format!("agent+run=42:{token}");
        format!("Basic {}", data_encoding::BASE64.encode(pair.as_bytes()))
    };
    let ask = |header: &str| {
        let credentials = parse_proxy_authorization(header.as_bytes());
        let (credentials, peer) = (credentials.as_ref(), Peer::Unix(None));
        let shown = Shown { credentials, peer, certificate: None };
        authenticators.authenticate(&shown, 0)
    };
    let (token, unknown) = (header(&token), header(&unknown));

    c.bench_function("vault/open a secret", |b| {
        b.iter(|| black_box(snapshot.open(&credential.name, 1).unwrap()));
    });
    c.bench_function("authn/right token", |b| {
        b.iter(|| black_box(ask(&token).unwrap()));
    });
    c.bench_function("authn/unknown token", |b| {
        b.iter(|| black_box(ask(&unknown).unwrap_err()));
    });
    c.bench_function("vault/notice a change", |b| {
        b.iter(|| black_box(vault.change_mark().unwrap()));
    });
}

fn credential(name: &str) -> NewCredential {
    NewCredential {
        name: name.parse().unwrap(),
        provider: None,
        tier: Tier::Platform,
        tags: Vec::new(),
        destinations: vec!["https://api.openai.com".parse().unwrap()],
        slots: vec!["header authorization: Bearer {secret}".parse().unwrap()],
        stand_in: None,
        properties: Properties::default(),
    }
}

/// All credentials are bound to the same host, which is the worst that can be.
fn crowd(c: &mut Criterion) {
    let home = tempfile::tempdir().unwrap();
    let master = MasterKey::generate().unwrap();
    let mut vault = Vault::create(&home.path().join("vault.db"), &master).unwrap();
    let agents: Vec<_> = (0..CROWD).map(|n| format!("agent-{n}").parse().unwrap()).collect();
    let credentials: Vec<_> = (0..CROWD)
        .map(|n| (credential(&format!("key-{n}")), Secret::new(vec![b'k'; 164])))
        .collect();
    vault.add_all(&agents, &credentials).unwrap();
    let mut group = c.benchmark_group("vault of 100,000 agents and credentials");
    group.sample_size(10);
    group.bench_function("read all of it", |b| b.iter(|| black_box(vault.snapshot().unwrap())));
    let mut n = 0;
    group.bench_function("add an agent", |b| {
        b.iter(|| {
            n += 1;
            vault.agent_add(&format!("late-{n}").parse().unwrap()).unwrap();
        });
    });
    group.finish();
}

const CROWD: u32 = 100_000;

criterion_group!(benches, vault, crowd);
criterion_main!(benches);
