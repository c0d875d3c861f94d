//! Injectors of head and body: nothing but the slot changes, and what stands in it is the secret. A body
//! whose rest streams behind its beginning goes out as one that was read whole, or not to its end.
//!
//! The first line of the input is the request's target, the second its `Content-Type`, the third its
//! `Sec-WebSocket-Protocol`; the rest is its body.
#![cfg_attr(fuzzing, no_main)]

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use locum::agent::Identity;
use locum::credential::{Credential, CredentialIndex, Properties};
use locum::document::Source;
use locum::host::{Authority, Origin, Scheme};
use locum::inject::{References, Remainder, Resolved, inject};
use locum::outcome::Refusal;
use locum::policy::{Grant, Permit, Policy, compile};
use locum::record::{Access, AuditSink, Event, Outcome, Recorded, RequestId, Unrecorded};
use locum::request::{BodyKind, BodyText, InboundRequest, Step};
use locum::secret::Secret;

/// Of letters that no input is likely to have, and one of each kind that an encoder escapes.
const SECRET: &str = "Zq7\"\\/+&=%;Zq7";

static INDEX: LazyLock<Arc<CredentialIndex>> = LazyLock::new(|| {
    let slots = [
        "query key",
        "path /p/{secret}/**",
        "subprotocol k.{secret}",
        "json /a",
        "json /b/0/c",
        "form a",
        "multipart a",
    ];
    let credential = Credential {
        workspace: "default".parse().unwrap(),
        name: "a".parse().unwrap(),
        provider: None,
        destinations: ["https://api.test".parse().unwrap()].into(),
        slots: slots.iter().map(|slot| slot.parse().unwrap()).collect(),
        stand_in: None,
        version: Some(1),
        older: Box::default(),
        revoked: Box::default(),
        newest: 1,
        properties: Properties::default(),
        part: locum::credential::Part::default(),
        tier: locum::credential::Tier::default(),
    };
    Arc::new(CredentialIndex::new(vec![credential], HashMap::new()))
});

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
    let mut lines = data.splitn(4, |b| *b == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (target, kind, list, body) = (line(), line(), line(), line());
    // What already has the marks of the secret could not be told from it.
    if memchr(data) {
        return;
    }
    let head = http::Request::builder()
        .method("POST")
        .uri(target)
        .header("host", "api.test")
        .header("content-type", kind)
        .header("sec-websocket-protocol", list);
    let Ok(head) = head.body(()) else { return };
    let target = head.uri().to_string();
    let authority = Authority::parse("api.test:443", None).unwrap();
    let origin = Origin { scheme: Scheme::Https, authority };
    let Ok(mut request) = InboundRequest::parse(head.into_parts().0, &origin) else { return };
    // A kind that is not certain is refused before anything of the body is read.
    let certain = |kind: &BodyKind| !matches!(kind, BodyKind::Unclear(_));
    let kind = BodyKind::of(request.headers()).filter(certain);
    let sent = Bytes::copy_from_slice(body);
    if let Some(kind) = kind.clone() {
        streams_as_a_whole(&request, &sent, &kind);
        request.take_body(BodyText::read(sent.clone(), kind));
    }
    let who = Identity::new("default".parse().unwrap(), "x".parse().unwrap(), "t");
    let references = References::locate(&request, &INDEX);
    let Ok(permit) = POLICY.authorize(&who, &request, &references, &INDEX, 0) else { return };
    let open = |_: &Credential, _| Ok(Secret::new(SECRET.as_bytes().to_vec()));
    let resolved = Resolved::open(&permit, open).unwrap();
    let always = permit.grants().first().map(Grant::slot);
    let list = request.headers().get("sec-websocket-protocol").cloned();
    let Ok(outbound) = inject(request, &permit, resolved) else {
        // No list of subprotocols can hold this secret.
        assert!(always.is_none_or(|slot| slot == 2));
        return;
    };
    let access = Access::new(RequestId([0; 16]), "");
    let Ok(recorded) = Recorded::new(outbound, &Nowhere, &access) else { unreachable!() };
    let (wire, _) = recorded.into_wire(|filled| filled);
    let wire = wire.into_inner();
    let arrived = wire.uri().to_string();
    match always {
        None => {
            assert_eq!(arrived, target);
            assert!(wire.body().is_none());
            assert_eq!(wire.headers().get("sec-websocket-protocol"), list.as_ref());
        }
        Some(0 | 1) => {
            assert!(wire.body().is_none());
            // Once, as one segment or one value.
            assert_eq!(arrived.matches("Zq7").count(), 2, "{target} {arrived}");
            let value = &arrived[arrived.find("Zq7").unwrap()..];
            let value = &value[..value.rfind("Zq7").unwrap() + 3];
            assert!(!value.contains(['/', '?', '#', ';', '"', '\\']), "{value}");
        }
        Some(_) => {
            assert_eq!(arrived.matches("Zq7").count(), 0);
            let filled = wire.body().as_ref().expect("it is in the body");
            body_changed_once(&sent, filled, kind.as_ref().unwrap());
        }
    }
});

/// Decides on a beginning of any length, and lets the rest come in pieces of any length: what goes out is
/// what does when all of the body was decided on.
fn streams_as_a_whole(request: &InboundRequest, sent: &Bytes, kind: &BodyKind) {
    let whole = BodyText::read(sent.clone(), kind.clone());
    let whole = filled(request.clone(), whole, |_, _| Ok(Vec::new()));
    let number = sent.iter().fold(7_usize, |n, b| n.wrapping_mul(31).wrapping_add((*b).into()));
    let (first, rest) = sent.split_at(number % (sent.len() + 1));
    let (text, behind) = BodyText::begin(Bytes::copy_from_slice(first), kind.clone());
    let streamed = filled(request.clone(), text, |asked, permit| {
        let mut remainder = Remainder::new(behind, asked, permit, &INDEX)?;
        for piece in rest.chunks(number % 13 + 1) {
            remainder.push(piece)?;
        }
        remainder.finish().map(|()| rest.to_vec())
    });
    if let Ok(streamed) = streamed {
        assert!(whole.as_ref() == Ok(&streamed), "{whole:?} {streamed:?}");
    }
}

/// What goes out of a body, with what `behind` it goes out too.
fn filled(
    mut request: InboundRequest,
    body: BodyText,
    behind: impl FnOnce((&InboundRequest, &References), &Permit) -> Result<Vec<u8>, Refusal>,
) -> Result<Vec<u8>, Refusal> {
    let sent = body.bytes().clone();
    request.take_body(body);
    let who = Identity::new("default".parse().unwrap(), "x".parse().unwrap(), "t");
    let references = References::locate(&request, &INDEX);
    let permit = POLICY.authorize(&who, &request, &references, &INDEX, 0)?;
    let rest = behind((&request, &references), &permit)?;
    let open = |_: &Credential, _| Ok(Secret::new(SECRET.as_bytes().to_vec()));
    let outbound = inject(request, &permit, Resolved::open(&permit, open)?)?;
    let access = Access::new(RequestId([0; 16]), "");
    let Ok(recorded) = Recorded::new(outbound, &Nowhere, &access) else { unreachable!() };
    let (wire, _) = recorded.into_wire(|filled| filled);
    let body = wire.into_inner().into_body().unwrap_or(sent);
    Ok([&body[..], &rest].concat())
}

fn memchr(data: &[u8]) -> bool {
    data.windows(3).any(|w| w == b"Zq7")
        || data.windows(2).any(|w| w == b"\\u" || w.starts_with(b"%5"))
}

/// What is before and behind the secret's place is the same; what is there is the secret, encoded.
fn body_changed_once(sent: &[u8], filled: &[u8], kind: &BodyKind) {
    let find = |text: &[u8]| filled.windows(3).position(|w| w == text);
    let start = find(b"Zq7").expect("the secret is there");
    let end = filled.windows(3).rposition(|w| w == b"Zq7").unwrap() + 3;
    assert_eq!(sent[..start], filled[..start]);
    let behind = filled.len() - end;
    assert_eq!(sent[sent.len() - behind..], filled[end..]);
    assert_eq!(&sent[start..sent.len() - behind], b"locum_a");
    let value = &filled[start..end];
    match kind {
        BodyKind::Json | BodyKind::Message => {
            let strings = |body: &[u8]| {
                let mut all: Vec<(Vec<Step>, usize)> = Vec::new();
                locum::request::strings(body, &mut |path, at| all.push((path.to_vec(), at.len())))
                    .expect("it was read");
                all
            };
            assert_eq!(strings(sent).len(), strings(filled).len());
            assert_eq!(value, b"Zq7\\\"\\\\/+&=%;Zq7");
        }
        BodyKind::Form => assert!(!value.iter().any(|b| b"&=+;".contains(b))),
        BodyKind::Multipart { .. } => assert_eq!(value, SECRET.as_bytes()),
        BodyKind::Whole | BodyKind::Unclear(_) => unreachable!("no slot is in it"),
    }
}
