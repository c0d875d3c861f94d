//! Locator and policy: no input panics, and a permit only ever grants what is bound and allowed.
#![cfg_attr(fuzzing, no_main)]

use std::collections::HashMap;
use std::sync::LazyLock;

#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use locum::agent::Identity;
use locum::credential::{Credential, CredentialIndex, Properties};
use locum::document::Source;
use locum::host::{Authority, Origin, Scheme};
use locum::inject::References;
use locum::policy::{Policy, compile};
use locum::request::InboundRequest;

static INDEX: LazyLock<CredentialIndex> = LazyLock::new(|| {
    let credential = |name: &str, to: &str, slots: &[&str], live: bool| Credential {
        workspace: "default".parse().unwrap(),
        name: name.parse().unwrap(),
        provider: None,
        destinations: [to.parse().unwrap()].into(),
        slots: slots.iter().map(|slot| slot.parse().unwrap()).collect(),
        stand_in: Some(format!("sk-proj-locum_{name}_000000").into()),
        version: live.then_some(1),
        older: Box::default(),
        revoked: Box::default(),
        newest: 1,
        properties: Properties::default(),
        part: locum::credential::Part::default(),
        tier: locum::credential::Tier::default(),
    };
    let bearer = "header authorization: Bearer {secret}";
    let all = vec![
        credential("a", "https://api.test", &[bearer, "header x-api-key: {secret}"], true),
        credential("b", "https://api.test", &["basic x", "basic {secret}", "query key"], true),
        credential("c", "https://other.test", &[bearer], true),
        credential("d", "https://api.test", &[bearer], false),
        credential("e", "https://api.test", &[bearer], true),
    ];
    CredentialIndex::new(all, HashMap::new())
});

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let text = "version: 1\nrules:\n\
        - {name: one, agents: [x], to: ['https://api.test'], paths: ['/v1/**'], use: [a, b, c, d]}\n\
        - {name: two, agents: [x], to: ['https://api.test'], methods: [GET], paths: ['/pub/*']}\n";
    compile(vec![Source::new("p.yaml", text)]).unwrap()
});

fuzz_target!(|data: &[u8]| {
    let Some(parts) = parts(data) else { return };
    let authority = Authority::parse("api.test:443", None).unwrap();
    let origin = Origin { scheme: Scheme::Https, authority };
    let Ok(request) = InboundRequest::parse(parts, &origin) else { return };
    let who = Identity::new("default".parse().unwrap(), "x".parse().unwrap(), "t");
    let references = References::locate(&request, &INDEX);
    let Ok(permit) = POLICY.authorize(&who, &request, &references, &INDEX, 0) else { return };
    assert!(request.path().starts_with("/v1") || request.path().starts_with("/pub/"));
    for grant in permit.grants() {
        let credential = grant.credential();
        assert!(credential.is_bound_to(&origin) && credential.version == Some(grant.version()));
        assert!(["a", "b"].contains(&credential.name.as_str()), "{}", credential.name);
        assert!(grant.slot() < credential.slots.len());
        assert!(request.path().starts_with("/v1"), "{}", request.path());
    }
});

fn parts(data: &[u8]) -> Option<http::request::Parts> {
    let mut lines = data.split(|b| *b == b'\n');
    let mut first = lines.next()?.splitn(2, |b| *b == b' ');
    let mut builder = http::Request::builder()
        .method(first.next()?)
        .uri(first.next()?)
        .header("host", "api.test");
    for line in lines {
        let at = line.iter().position(|b| *b == b':')?;
        builder = builder.header(&line[..at], &line[at + 1..]);
    }
    Some(builder.body(()).ok()?.into_parts().0)
}
