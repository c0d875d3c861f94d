//! What the vault costs a request: opening one secret, and checking one token.
#![allow(clippy::unwrap_used)] // A benchmark that cannot go on has failed.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use locum::authn::{Authenticate as _, Authenticator};
use locum::secret::Secret;
use locum::vault::{MasterKey, NewCredential, Tier, Vault};

fn vault(c: &mut Criterion) {
    let home = tempfile::tempdir().unwrap();
    let master = MasterKey::generate().unwrap();
    let mut vault = Vault::create(&home.path().join("vault.db"), &master).unwrap();
    let name = "openai".parse().unwrap();
    let credential = NewCredential {
        name,
        provider: None,
        tier: Tier::Platform,
        tags: Vec::new(),
        destinations: vec!["https://api.openai.com".parse().unwrap()],
        slots: vec!["header authorization: Bearer {secret}".parse().unwrap()],
        stand_in: None,
    };
    vault.add_credential(&credential, &Secret::new(vec![b'k'; 164])).unwrap();
    let agent = "agent".parse().unwrap();
    vault.agent_add(&agent).unwrap();
    let token = vault.token_add(&agent, None, None).unwrap().into_text();
    let unknown = locum::token::Token::mint().unwrap().into_text();
    let snapshot = vault.snapshot().unwrap();
    let authenticator = Authenticator::new(
        &snapshot.workspace,
        snapshot.tokens.clone(),
        snapshot.token_key.clone(),
    );
    let user = "agent+run=42".parse().unwrap();

    c.bench_function("vault/open a secret", |b| {
        b.iter(|| black_box(snapshot.open(&credential.name, 1).unwrap()));
    });
    c.bench_function("authn/right token", |b| {
        b.iter(|| black_box(authenticator.authenticate(&user, &token, 0).unwrap()));
    });
    c.bench_function("authn/unknown token", |b| {
        b.iter(|| black_box(authenticator.authenticate(&user, &unknown, 0).unwrap_err()));
    });
    c.bench_function("vault/notice a change", |b| {
        b.iter(|| black_box(vault.change_mark().unwrap()));
    });
}

criterion_group!(benches, vault);
criterion_main!(benches);
