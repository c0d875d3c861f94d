//! Injectors of fields: the secret goes out once, in the shape of its slot, or its signature does; nothing else
//! of the request changes but what its answer could be cut by.
//!
//! The first line of the input is method and target, each further line a field. A line that begins with `!` is a
//! pair that goes out as Basic.
#![cfg_attr(fuzzing, no_main)]

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::hmac;
use data_encoding::{BASE64, HEXLOWER};
use http::HeaderMap;
#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use locum::agent::Identity;
use locum::credential::{
    Credential, CredentialIndex, Encoding, HmacHash, KeyForm, Kind, Properties, Signing, Slot,
    Timestamp,
};
use locum::document::Source;
use locum::host::{Authority, Origin, Scheme};
use locum::inject::{References, Resolved, inject};
use locum::policy::{Policy, compile};
use locum::record::{Access, AuditSink, Event, Outcome, Recorded, RequestId, Unrecorded};
use locum::request::InboundRequest;
use locum::secret::Secret;
use locum::sign::hmac::Stamp;

/// Of letters that no input is likely to have.
const SECRET: &str = "Zq7+/=-sEcReT-Zq7";
const KEY: &str = "a key of Zq7's own";

static INDEX: LazyLock<Arc<CredentialIndex>> = LazyLock::new(|| {
    let text = |slots: &[&str]| slots.iter().map(|slot| slot.parse().unwrap()).collect();
    let fields = text(&[
        "header authorization: Bearer {secret}",
        "header x-k: {secret}",
        "header cookie: k={secret}; a=b",
    ]);
    let pair = text(&["basic x-token", "basic {secret}"]);
    let signed = signing();
    let slots = signed.slots();
    let signer = Properties { kind: Some(Kind::Hmac(Box::new(signed))), ..Properties::default() };
    let all = [
        ("a", fields, Properties::default()),
        ("b", pair, Properties::default()),
        ("c", slots, signer),
    ];
    let all = all.map(|(name, slots, properties): (_, Vec<Slot>, _)| Credential {
        workspace: "default".parse().unwrap(),
        name: name.parse().unwrap(),
        provider: None,
        destinations: ["https://api.test".parse().unwrap()].into(),
        slots: slots.into(),
        stand_in: None,
        version: Some(1),
        older: Box::default(),
        revoked: Box::default(),
        newest: 1,
        properties,
        part: locum::credential::Part::default(),
        tier: locum::credential::Tier::default(),
    });
    Arc::new(CredentialIndex::new(all.into(), HashMap::new()))
});

fn signing() -> Signing {
    let pattern = |text: &str| text.parse().unwrap();
    Signing {
        hash: HmacHash::Sha256,
        encoding: Encoding::Hex,
        key: KeyForm::Text,
        key_prefix: None,
        derive: Vec::new(),
        parts: Vec::new(),
        message: pattern("{timestamp}\n{method}\n{target}\n{header:x-note}"),
        timestamp: Timestamp::Seconds,
        key_id: Some("me".to_owned()),
        headers: vec![
            ("x-sign".to_owned(), pattern("v1={signature}")),
            ("x-time".to_owned(), pattern("{timestamp}")),
        ],
        parameters: Vec::new(),
    }
}

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let text = "version: 1\nrules:\n- {name: all, agents: ['*'], use: ['*']}\n";
    compile(vec![Source::new("p.yaml", text)]).unwrap()
});

struct Nowhere;

impl AuditSink for Nowhere {
    fn access(&self, _: &Access<'_>) -> Result<(), Unrecorded> {
        Ok(())
    }
    fn outcome(&self, _: &Outcome) {}
    fn event(&self, _: &Event) -> Result<(), Unrecorded> {
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    // What already has the marks of the secret could not be told from it.
    if data.windows(3).any(|w| w == b"Zq7") {
        return;
    }
    let Some(parts) = parts(data) else { return };
    let authority = Authority::parse("api.test:443", None).unwrap();
    let origin = Origin { scheme: Scheme::Https, authority };
    let Ok(request) = InboundRequest::parse(parts, &origin) else { return };
    let (before, sent) = (fields(request.headers()), request.headers().clone());
    let target =
        request.query().map_or(request.path().to_owned(), |q| format!("{}?{q}", request.path()));
    let method = request.method().clone();
    let who = Identity::new("default".parse().unwrap(), "x".parse().unwrap(), "t");
    let references = References::locate(&request, &INDEX);
    let Ok(permit) = POLICY.authorize(&who, &request, &references, &INDEX, 0) else { return };
    let open = |of: &Credential, _| {
        let text = if of.name.as_str() == "c" { KEY } else { SECRET };
        Ok(Secret::new(text.as_bytes().to_vec()))
    };
    let stamp = Stamp { time: Duration::from_secs(1_700_000_000), nonce: [7; 16] };
    let resolved = Resolved::open(&permit, open).unwrap().stamped(stamp);
    let granted: Vec<_> =
        permit.grants().iter().map(|g| (g.credential().name.as_str(), g.slot())).collect();
    // Two that claim one place, or a field that is signed and there twice.
    let Ok(outbound) = inject(request, &permit, resolved) else { return };
    let access = Access::new(RequestId([0; 16]), "");
    let Ok(recorded) = Recorded::new(outbound, &Nowhere, &access) else { unreachable!() };
    let wire = recorded.into_wire(|filled| filled).0.into_inner();
    assert_eq!(wire.uri().to_string(), target);
    assert_eq!(*wire.method(), method);
    let after = fields(wire.headers());
    let owned: Vec<&str> = granted.iter().flat_map(|(name, _)| owned_by(name)).copied().collect();
    let others = |all: &BTreeMap<String, Vec<Vec<u8>>>| {
        let mut all = all.clone();
        all.retain(|name, _| {
            let name = name.replace(['_', '.'], "-");
            !owned.contains(&&*name) && !OF_ANSWERS.contains(&&*name)
        });
        all
    };
    assert_eq!(others(&before), others(&after));
    let shown: usize = after.values().flatten().map(|value| copies(value)).sum();
    let direct = granted.iter().filter(|(name, _)| *name == "a").count();
    assert_eq!(shown, direct, "{granted:?}");
    for (name, slot) in &granted {
        // One field of all those that are its own, under its own name.
        let own = owned_by(name);
        let out: Vec<_> = after
            .iter()
            .filter(|(name, _)| own.contains(&&*name.replace(['_', '.'], "-")))
            .flat_map(|(name, values)| {
                values.iter().map(move |value| (name.as_str(), value.as_slice()))
            })
            // Another credential's.
            .filter(|(field, _)| {
                granted.iter().all(|(other, at)| other == name || place(other, *at) != *field)
            })
            .collect();
        let key = hmac::Key::new(hmac::HMAC_SHA256, KEY.as_bytes());
        let note = sent.get("x-note").map_or(&[][..], http::HeaderValue::as_bytes);
        let signed = [format!("1700000000\n{method}\n{target}\n").as_bytes(), note].concat();
        let signature = format!("v1={}", HEXLOWER.encode(hmac::sign(&key, &signed).as_ref()));
        let expected: Vec<(&str, Vec<u8>)> = match (*name, slot) {
            ("a", 0) => vec![("authorization", format!("Bearer {SECRET}").into())],
            ("a", 1) => vec![("x-k", SECRET.into())],
            ("a", _) => vec![("cookie", format!("k={SECRET}; a=b").into())],
            ("b", slot) => vec![("authorization", pair(&sent, *slot))],
            _ => vec![("x-sign", signature.into()), ("x-time", "1700000000".into())],
        };
        let expected: Vec<_> =
            expected.iter().map(|(name, value)| (*name, value.as_slice())).collect();
        assert_eq!(out, expected, "{granted:?}");
    }
});

/// What asks for the parts and the codings of an answer, which could hide a secret in it.
const OF_ANSWERS: [&str; 7] = [
    "accept-encoding",
    "grpc-accept-encoding",
    "connect-accept-encoding",
    "range",
    "if-range",
    "request-range",
    "x-ms-range",
];

fn owned_by(credential: &str) -> &'static [&'static str] {
    match credential {
        "a" => &["authorization", "x-k", "cookie"],
        "b" => &["authorization"],
        _ => &["x-sign", "x-time"],
    }
}

fn place(credential: &str, slot: usize) -> &'static str {
    owned_by(credential).get(slot).copied().unwrap_or("authorization")
}

/// The pair with the secret in it, and the client's own other half, if it sent a reference in one and something
/// else in the other.
fn pair(sent: &HeaderMap, slot: usize) -> Vec<u8> {
    let pairs = sent.get_all("authorization").iter().filter_map(|value| {
        let text = value.as_bytes().trim_ascii();
        let token = text.strip_prefix(b"Basic ").map(<[u8]>::trim_ascii)?;
        BASE64.decode(token).ok()
    });
    let half = pairs.into_iter().next().and_then(|pair| {
        let colon = pair.iter().position(|b| *b == b':').unwrap_or(pair.len());
        let (user, password) = (&pair[..colon], pair.get(colon + 1..).unwrap_or_default());
        let (own, other) = if slot == 0 { (password, user) } else { (user, password) };
        (own == b"locum_b" && other != b"locum_b").then(|| other.to_vec())
    });
    let pair = if slot == 0 {
        [&half.unwrap_or(b"x-token".to_vec())[..], b":", SECRET.as_bytes()].concat()
    } else {
        [SECRET.as_bytes(), b":", &half.unwrap_or_default()].concat()
    };
    format!("Basic {}", BASE64.encode(&pair)).into_bytes()
}

fn copies(value: &[u8]) -> usize {
    value.windows(SECRET.len()).filter(|w| *w == SECRET.as_bytes()).count()
}

fn fields(headers: &HeaderMap) -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (name, value) in headers {
        all.entry(name.as_str().to_owned()).or_default().push(value.as_bytes().to_vec());
    }
    all
}

fn parts(data: &[u8]) -> Option<http::request::Parts> {
    let mut lines = data.split(|b| *b == b'\n');
    let mut first = lines.next()?.splitn(2, |b| *b == b' ');
    let mut builder = http::Request::builder().method(first.next()?).uri(first.next()?);
    builder = builder.header("host", "api.test");
    for line in lines {
        if let Some(pair) = line.strip_prefix(b"!") {
            builder = builder.header("authorization", format!("Basic {}", BASE64.encode(pair)));
            continue;
        }
        let at = line.iter().position(|b| *b == b':')?;
        builder = builder.header(&line[..at], line[at + 1..].trim_ascii());
    }
    Some(builder.body(()).ok()?.into_parts().0)
}
