//! Strip, then set: what leaves, and that nothing else changed.

use std::collections::HashMap;

use http::Request;
use proptest::prelude::*;

use super::*;
use crate::agent::Identity;
use crate::credential::{CredentialIndex, Properties};
use crate::document::Source;
use crate::host::{Authority, Scheme};
use crate::policy;

fn credential(name: &str, slots: &[&str], stand_in: Option<&str>) -> Credential {
    Credential {
        workspace: "default".parse().unwrap(),
        name: name.parse().unwrap(),
        provider: None,
        destinations: ["https://api.test".parse().unwrap()].into(),
        slots: slots.iter().map(|s| s.parse().unwrap()).collect(),
        stand_in: stand_in.map(Into::into),
        version: Some(3),
        older: Box::default(),
        revoked: Box::default(),
        newest: 1,
        properties: Properties::default(),
        part: crate::credential::Part::default(),
        tier: crate::credential::Tier::default(),
    }
}

/// Takes a request through the whole pure path and gives what would go on the wire.
fn send(
    credentials: Vec<Credential>,
    secret: &str,
    target: &str,
    fields: &[(&str, &str)],
) -> Result<(Parts, Option<Needles>), Refusal> {
    let index = CredentialIndex::new(credentials, HashMap::new());
    let (request, needles) = send_with(&index, secret, target, fields, None)?;
    Ok((request.into_parts().0, needles))
}

/// The same for the body of a request, in which the credential `a` has this slot.
fn fill(slot: &str, kind: &str, secret: &str, body: &[u8]) -> Result<Vec<u8>, Refusal> {
    let length = body.len().to_string();
    let fields = [("content-type", kind), ("content-length", &*length)];
    let body = Bytes::copy_from_slice(body);
    let (request, _) = send_with(&among_others(slot), secret, "/", &fields, Some(body.clone()))?;
    let length = request.headers()["content-length"].to_str().unwrap().to_owned();
    let Some(filled) = request.into_body() else { return Ok(body.to_vec()) };
    assert_eq!(length, filled.len().to_string());
    Ok(filled.to_vec())
}

/// The credential `a` in a slot, beside one that is bound elsewhere, a bait, and the text of a value.
fn among_others(slot: &str) -> CredentialIndex {
    let slots = ["json /other", "form other", "multipart other"];
    let mut other = credential("other", &slots, Some("sk-locum_other-00000000"));
    other.destinations = ["https://other.test".parse().unwrap()].into();
    let mut bait = credential("bait", &["json /bait"], None);
    (bait.version, bait.properties.honeytoken) = (None, true);
    let values = r#"{"v":{"variable":"V","default":{"text":"acct_1"},"enters":
        {"to":["https://api.test"],"slots":["json /v","form v","multipart v"]}}}"#;
    let values = serde_json::from_str(values).unwrap();
    CredentialIndex::new(vec![credential("a", &[slot], None), other, bait], HashMap::new())
        .with_values(&"default".parse().unwrap(), &values)
}

fn send_with(
    index: &CredentialIndex,
    secret: &str,
    target: &str,
    fields: &[(&str, &str)],
    body: Option<Bytes>,
) -> Result<(Request<Option<Bytes>>, Option<Needles>), Refusal> {
    let authority = Authority::parse("api.test:443", None).unwrap();
    let origin = Origin { scheme: Scheme::Https, authority };
    let mut builder = Request::builder().uri(target).header("host", "api.test");
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    let mut request = InboundRequest::parse(builder.body(()).unwrap().into_parts().0, &origin)?;
    if let Some(body) = body {
        let kind = crate::request::BodyKind::of(request.headers()).unwrap();
        request.take_body(BodyText::read(body, kind));
    }
    let text = "version: 1\nrules:\n  - {name: all, agents: ['*'], use: ['*']}\n";
    let policy = policy::compile(vec![Source::new("p.yaml", text)]).unwrap();
    let who = Identity::new("default".parse().unwrap(), "a".parse().unwrap(), "t");
    let references = References::locate(&request, index);
    let permit = policy.authorize(&who, &request, &references, index, 0)?;
    let open = |credential: &Credential, version| {
        if let Some(text) = credential.as_text() {
            return Ok(Secret::new(text.as_bytes().to_vec()));
        }
        assert_eq!(version, 3);
        Ok(Secret::new(secret.as_bytes().to_vec()))
    };
    let resolved = Resolved::open(&permit, open)?;
    let outbound = inject(request, &permit, resolved)?;
    let body = outbound.body.clone();
    let (request, _, needles) = outbound.into_wire(body);
    Ok((request, needles))
}

/// The same for a body of which the first bytes are decided on, and the rest comes in pieces: what has
/// gone out when all of it has, or why it was cut.
fn stream(
    slot: &str,
    kind: &str,
    body: &[u8],
    (first, piece): (usize, usize),
) -> Result<Vec<u8>, Refusal> {
    let index = Arc::new(among_others(slot));
    let authority = Authority::parse("api.test:443", None).unwrap();
    let origin = Origin { scheme: Scheme::Https, authority };
    let head = Request::post("/").header("host", "api.test").header("content-type", kind);
    let head = head.header("content-length", body.len()).body(()).unwrap();
    let mut request = InboundRequest::parse(head.into_parts().0, &origin)?;
    let (first, rest) = body.split_at(first);
    let kind = crate::request::BodyKind::of(request.headers()).unwrap();
    let (text, behind) = BodyText::begin(Bytes::copy_from_slice(first), kind);
    request.take_body(text);
    let text = "version: 1\nrules:\n  - {name: all, agents: ['*'], use: ['*']}\n";
    let policy = policy::compile(vec![Source::new("p.yaml", text)]).unwrap();
    let who = Identity::new("default".parse().unwrap(), "a".parse().unwrap(), "t");
    let references = References::locate(&request, &index);
    let permit = policy.authorize(&who, &request, &references, &index, 0)?;
    let mut remainder = Remainder::new(behind, (&request, &references), &permit, &index)?;
    let open = |credential: &Credential, _| {
        Ok(Secret::new(credential.as_text().unwrap_or(SECRET).as_bytes().to_vec()))
    };
    let resolved = Resolved::open(&permit, open)?;
    let outbound = inject(request, &permit, resolved)?;
    let mut sent = outbound.body.clone().expect("something enters it").to_vec();
    for piece in rest.chunks(piece) {
        remainder.push(piece)?;
        sent.extend_from_slice(piece);
    }
    remainder.finish()?;
    let (request, _, _) = outbound.into_wire(());
    assert_eq!(request.headers()["content-length"], sent.len().to_string());
    Ok(sent)
}

const SECRET: &str = "s\"e&c=ret";

const BEARER: &str = "header authorization: Bearer {secret}";
const KEY: &str = "header x-api-key: {secret}";

fn values<'p>(parts: &'p Parts, name: &str) -> Vec<&'p str> {
    parts.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect()
}

#[test]
fn one_copy_goes_out_whatever_the_client_sent() {
    let both = || vec![credential("a", &[KEY, BEARER], None)];
    for fields in [
        &[("x-api-key", "locum_a")][..],
        &[("x-api-key", "locum_a"), ("x-api-key", "other")],
        &[("x-api-key", "locum_a"), ("authorization", "Bearer locum_a")],
        &[("authorization", "Bearer locum_a"), ("x-api-key", "locum_a")],
    ] {
        let (parts, _) = send(both(), "sk-real-0123", "/", fields).unwrap();
        assert_eq!(values(&parts, "x-api-key"), ["sk-real-0123"], "{fields:?}");
        assert_eq!(values(&parts, "authorization"), [""; 0], "{fields:?}");
    }
    let (parts, _) =
        send(both(), "sk-real-0123", "/", &[("authorization", "bearer locum_a")]).unwrap();
    assert_eq!(values(&parts, "authorization"), ["Bearer sk-real-0123"]);
    assert!(parts.headers["authorization"].is_sensitive());
}

#[test]
fn nothing_but_the_slot_changes() {
    let fields = [
        ("authorization", "Bearer locum_a"),
        ("user-agent", "locum_a/1.0"),
        ("x-note", "see locum_a"),
        ("accept", "*/*"),
    ];
    let target = "/v1/x%2Fy;p=1//z?b=2&a=1&a=&&c=%41+locum_a";
    let (parts, _) =
        send(vec![credential("a", &[BEARER], None)], "sk-real-0123", target, &fields).unwrap();
    assert_eq!(parts.uri.to_string(), target);
    assert_eq!(values(&parts, "user-agent"), ["locum_a/1.0"]);
    assert_eq!(values(&parts, "x-note"), ["see locum_a"]);
    assert_eq!(values(&parts, "accept-encoding"), ["identity"]);
}

#[test]
fn basic_keeps_the_clients_other_half() {
    let git = || vec![credential("git", &["basic x-access-token", "basic {secret}"], None)];
    let sent = |pair: &str| format!("Basic {}", BASE64.encode(pair.as_bytes()));
    for (client, wire) in [
        ("alice:locum_git", "alice:ghp-real-0123"),
        ("locum_git:x-oauth-basic", "ghp-real-0123:x-oauth-basic"),
        ("locum_git:", "ghp-real-0123:"),
        ("locum_git", "ghp-real-0123:"),
        ("locum_git:locum_git", "x-access-token:ghp-real-0123"),
    ] {
        let (parts, _) =
            send(git(), "ghp-real-0123", "/", &[("authorization", &sent(client))]).unwrap();
        assert_eq!(values(&parts, "authorization"), [sent(wire)], "{client}");
    }
}

#[test]
fn stand_ins_stand_for_their_credential() {
    let stand_in = "sk-ant-api03-locum_a-0000000000";
    let all = || vec![credential("a", &[KEY], Some(stand_in))];
    let (parts, needles) = send(all(), "sk-real-0123", "/", &[("x-api-key", stand_in)]).unwrap();
    assert_eq!(values(&parts, "x-api-key"), ["sk-real-0123"]);
    assert!(needles.is_some());
    let near =
        send(all(), "sk-real-0123", "/", &[("x-api-key", "sk-ant-api03-locum_a-0000000001")]);
    assert_eq!(near.err().unwrap().code, Code::CredentialRefused);
}

#[test]
fn query_slots_keep_every_other_byte() {
    let maps = || vec![credential("maps", &["query key"], None)];
    for (sent, wire) in [
        ("/m?a=%2f&key=locum_maps&b=+", "/m?a=%2f&key=r%26e%2Fal-0123&b=+"),
        ("/m?key=locum_maps&key=locum_maps", "/m?key=r%26e%2Fal-0123"),
        ("/m?k%65y=locum_maps", "/m?k%65y=r%26e%2Fal-0123"),
    ] {
        let (parts, _) = send(maps(), "r&e/al-0123", sent, &[]).unwrap();
        assert_eq!(parts.uri.to_string(), wire);
    }
}

#[test]
fn a_value_that_names_another_credential_is_not_expanded() {
    let all = vec![credential("a", &[KEY], None), credential("b", &[BEARER], None)];
    let (parts, _) = send(all, "locum_b", "/", &[("x-api-key", "locum_a")]).unwrap();
    assert_eq!(values(&parts, "x-api-key"), ["locum_b"]);
}

#[test]
fn ranges_and_codings_are_taken_out_of_requests_with_a_secret() {
    let fields = [("range", "bytes=0-3"), ("if-range", "x"), ("accept-encoding", "gzip, br")];
    let with: Vec<_> = fields.into_iter().chain([("x-api-key", "locum_a")]).collect();
    let (parts, _) = send(vec![credential("a", &[KEY], None)], "sk-real-0123", "/", &with).unwrap();
    assert!(parts.headers.get("range").is_none() && parts.headers.get("if-range").is_none());
    assert!(!parts.headers.contains_key("grpc-accept-encoding"), "what was not offered is not");
    let fields = [("x-api-key", "locum_a"), ("grpc-accept-encoding", "identity, gzip")];
    let (parts, _) =
        send(vec![credential("a", &[KEY], None)], "sk-real-0123", "/", &fields).unwrap();
    assert_eq!(values(&parts, "grpc-accept-encoding"), ["identity"]);
}

#[test]
fn a_request_without_a_secret_is_answered_without_one_too() {
    // The origin may show in this answer what an earlier request brought.
    let fields = [("range", "bytes=0-3"), ("accept-encoding", "gzip, br")];
    let (parts, needles) =
        send(vec![credential("a", &[KEY], None)], "sk-real-0123", "/", &fields).unwrap();
    assert_eq!(values(&parts, "x-api-key"), [""; 0]);
    assert_eq!(values(&parts, "accept-encoding"), ["identity"]);
    assert!(needles.is_some() && !parts.headers.contains_key("range"));
}

#[test]
fn a_value_that_a_header_cannot_carry_is_refused() {
    for bad in ["a\r\nx: y", "a\0b", "tab\tx", "ünïcode"] {
        let sent = send(vec![credential("a", &[KEY], None)], bad, "/", &[("x-api-key", "locum_a")]);
        assert_eq!(sent.err().unwrap().code, Code::CredentialRefused, "{bad:?}");
    }
}

#[test]
fn an_echo_becomes_what_the_client_sent() {
    use crate::scrub::{Fit, Scrubber};
    let sent = |pair: &str| BASE64.encode(pair.as_bytes());
    let git = [credential("git", &["basic x"], Some("ghp_locum_git_00000000"))];
    for placeholder in ["locum_git", "ghp_locum_git_00000000"] {
        let field = format!("Basic {}", sent(&format!("alice:{placeholder}")));
        let git =
            git.iter().map(|c| credential(c.name.as_str(), &["basic x"], c.stand_in.as_deref()));
        let (_, needles) =
            send(git.collect(), "ghp-real-0123", "/", &[("authorization", &field)]).unwrap();
        let mut scrubber = Scrubber::for_needles(needles.unwrap(), Fit::Exact);
        let echo = format!("a {} b ghp-real-0123 c", sent("alice:ghp-real-0123"));
        let mut out = Vec::new();
        scrubber.push(Bytes::from(echo), &mut |data| out.extend_from_slice(&data));
        scrubber.finish(&mut |data| out.extend_from_slice(&data));
        let known = format!("a {} b {placeholder} c", sent(&format!("alice:{placeholder}")));
        assert_eq!(String::from_utf8(out).unwrap(), known);
    }
}

#[test]
fn path_slots_keep_every_other_byte() {
    let bot = || vec![credential("bot", &["path /bot{secret}/**"], None)];
    for (sent, wire) in [
        ("/botlocum_bot/x%2Fy;p=1//z?b=2&a=%41", "/botr&e%2Fal:0123/x%2Fy;p=1//z?b=2&a=%41"),
        ("/botlocum%5Fbot/?", "/botr&e%2Fal:0123/?"),
        ("/bot%6cocum_bot/?", "/botr&e%2Fal:0123/?"),
    ] {
        let (parts, _) = send(bot(), "r&e/al:0123", sent, &[]).unwrap();
        assert_eq!(parts.uri.to_string(), wire);
    }
    // A key of the client's own in that place is the client's own affair.
    let (parts, _) = send(bot(), "r&e/al:0123", "/botmine/x", &[]).unwrap();
    assert_eq!(parts.uri.to_string(), "/botmine/x");
}

mod properties {
    use super::*;

    /// What a client may write into a path or a query.
    const SEGMENT: &str = "[A-Za-z0-9._~!$&'()*+,=:@-]{0,6}(%[2-6][0-9A-F])?";

    fn decoded(text: &str) -> Vec<u8> {
        percent_encoding::percent_decode_str(text).collect()
    }

    proptest! {
        /// Nothing but the slot changes, and what stands in it is the secret.
        #[test]
        fn of_a_path_one_segment_changes(
            before in prop::collection::vec(SEGMENT, 0..4),
            after in prop::collection::vec(SEGMENT, 0..4),
            query in prop::option::of("[A-Za-z0-9=&%+./?-]{0,12}"),
            secret in "[!-~]{8,30}",
        ) {
            prop_assume!(!before.iter().chain(&after).any(|s| s.contains("locum") || s.contains("%00")));
            let join = |segments: &[String]| segments.iter().map(|s| format!("/{s}")).collect::<String>();
            let (before, after) = (join(&before), join(&after));
            let query = query.map(|q| format!("?{q}")).unwrap_or_default();
            let sent = format!("{before}/locum_a{after}{query}");
            prop_assume!(sent.parse::<http::Uri>().is_ok());
            let result = send(vec![credential("a", &["path"], None)], &secret, &sent, &[]);
            let Ok((parts, _)) = result else { return Ok(()) };
            let target = parts.uri.to_string();
            let sent = sent.parse::<http::Uri>().unwrap().to_string();
            let (head, tail) = sent.split_once("locum_a").unwrap();
            let value = target.strip_prefix(head).and_then(|rest| rest.strip_suffix(tail));
            let value = value.ok_or_else(|| TestCaseError::fail(format!("{sent} became {target}")))?;
            prop_assert_eq!(decoded(value), secret.as_bytes());
            prop_assert!(!value.contains(['/', '?', '#', ';', '\\']));
        }

        /// However many parameters of the name there are, one goes out, and it is the secret.
        #[test]
        fn of_a_query_one_parameter_changes(
            pairs in prop::collection::vec(("[a-c]|key|k%65y", "[A-Za-z0-9%2B+.-]{0,5}"), 0..6),
            at in 0..6usize,
            secret in "[!-~]{8,30}",
        ) {
            let mut all: Vec<String> = pairs.iter().map(|(n, v)| format!("{n}={v}")).collect();
            all.insert(at.min(all.len()), "key=locum_a".to_owned());
            let sent = format!("/x?{}", all.join("&"));
            prop_assume!(sent.parse::<http::Uri>().is_ok());
            let (parts, _) = send(vec![credential("a", &["query key"], None)], &secret, &sent, &[]).unwrap();
            let query = parts.uri.query().unwrap().to_owned();
            let is_key = |pair: &&str| decoded(pair.split('=').next().unwrap()) == b"key";
            let keys: Vec<&str> = query.split('&').filter(is_key).collect();
            prop_assert_eq!(keys.len(), 1);
            prop_assert_eq!(decoded(keys[0].split_once('=').unwrap().1), secret.as_bytes());
            let others = |text: &str| text.split('&').filter(|p| !is_key(p)).map(str::to_owned).collect::<Vec<_>>();
            prop_assert_eq!(others(&query), others(&all.join("&")));
        }

        /// Of a document that somebody else wrote, one string changes, and it is the secret.
        #[test]
        fn of_a_document_one_string_changes(
            keys in prop::collection::vec("[a-c~/é\"\\\\ ]{0,3}", 1..4),
            beside in prop::collection::btree_map("[d-f]{1,2}", "\\PC{0,6}|see locum_a", 0..4),
            secret in "[!-~]{8,30}",
            pretty in any::<bool>(),
        ) {
            let beside = serde_json::to_value(&beside).unwrap();
            let document = |text: &str| {
                let mut value = serde_json::Value::from(text);
                for key in keys.iter().rev() {
                    let mut object = beside.clone();
                    object[key] = value;
                    value = object;
                }
                value
            };
            let write = |value: &serde_json::Value| {
                if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) }
            };
            let token = |key: &String| format!("/{}", key.replace('~', "~0").replace('/', "~1"));
            let pointer: String = keys.iter().map(token).collect();
            let sent = write(&document("locum_a")).unwrap();
            let filled = fill(&format!("json {pointer}"), "application/json", &secret, sent.as_bytes()).unwrap();
            prop_assert_eq!(String::from_utf8(filled).unwrap(), write(&document(&secret)).unwrap());
        }

        /// Whatever else is in a form, one value changes, and it is the secret.
        #[test]
        fn of_a_form_one_value_changes(
            before in "([a-z]{0,3}(=[a-zA-Z0-9%+.]{0,4})?&){0,4}",
            after in "(&[a-z]{0,3}(=[a-zA-Z0-9%+.]{0,4})?){0,4}",
            secret in "[!-~]{8,30}",
        ) {
            let sent = format!("{before}token=locum_a{after}");
            let kind = "application/x-www-form-urlencoded";
            let filled = fill("form token", kind, &secret, sent.as_bytes()).unwrap();
            let filled = String::from_utf8(filled).unwrap();
            let start = format!("{before}token=");
            let value = filled.strip_prefix(&start).and_then(|rest| rest.strip_suffix(&after)).unwrap();
            prop_assert_eq!(decoded(value), secret.as_bytes());
            prop_assert!(!value.contains(['&', '=', '+']));
        }

        /// Whatever else is in a body of parts, one part changes, and it is the secret.
        #[test]
        fn of_parts_one_changes(
            before in prop::collection::vec("[a-z \r\n-]{0,12}", 0..3),
            after in prop::collection::vec("[a-z \r\n-]{0,12}", 0..3),
            secret in "[!-~]{8,30}",
        ) {
            let part = |(at, text): (usize, &String)| {
                format!("--bnd9\r\nContent-Disposition: form-data; name=\"f{at}\"\r\n\r\n{text}\r\n")
            };
            let parts = |all: &[String]| all.iter().enumerate().map(part).collect::<String>();
            let own = "--bnd9\r\nContent-Disposition: form-data; name=token\r\n\r\n{}\r\n";
            let sent = format!("{}{own}{}--bnd9--\r\n", parts(&before), parts(&after));
            let kind = "multipart/form-data; boundary=bnd9";
            let body = sent.replace("{}", "locum_a");
            let filled = fill("multipart token", kind, &secret, body.as_bytes()).unwrap();
            prop_assert_eq!(String::from_utf8(filled).unwrap(), sent.replacen("{}", &secret, 1));
        }

        /// One copy goes out in one header, whatever else was sent there.
        #[test]
        fn of_headers_one_is_filled(
            more in prop::collection::vec((0..3usize, "[a-zA-Z0-9 ._-]{0,12}"), 0..5),
            secret in "[!-~]{8,30}",
        ) {
            let names = ["x-api-key", "authorization", "x-other"];
            let mut fields = vec![("x-api-key", "locum_a")];
            fields.extend(more.iter().map(|(at, value)| (names[*at], value.as_str())));
            let (parts, _) = send(vec![credential("a", &[KEY, BEARER], None)], &secret, "/", &fields).unwrap();
            prop_assert_eq!(values(&parts, "x-api-key"), [&*secret]);
            prop_assert_eq!(values(&parts, "authorization").len(), 0);
            let others: Vec<&str> = fields.iter().filter(|(n, _)| *n == "x-other").map(|(_, v)| *v).collect();
            prop_assert_eq!(values(&parts, "x-other"), others);
        }
    }
}

/// What a body is made of, of which some must not stand beside others.
fn body() -> impl Strategy<Value = (&'static str, &'static str, String)> {
    let some = |of: &'static [&'static str]| prop::collection::vec(prop::sample::select(of), 0..6);
    let json = some(&[
        r#""key":"locum_a""#,
        r#""n":{"a":["locum_a",1.5e3,{}]}"#,
        r#""t":"see \\u006cocum_a and \\\" locum_b-""#,
        r#""long":"................locum_........................""#,
        r#""k\u0065y":null"#,
        r#""key":{"key":"locum_a"}"#,
        r#""other":[true,false,"locum_locum_c"]"#,
        r#""broken":01"#,
        r#""v":"locum_v""#,
        r#""v":"locum_nobody""#,
        r#""other":"sk-\u006cocum_other-00000000""#,
        r#""x":"""#,
    ]);
    let json = (json, prop::sample::select(&["}", "} ", "", "}x"][..])).prop_map(|(all, end)| {
        ("json /key", "application/json", format!("{{{}{end}", all.join(" , ")))
    });
    let form = some(&[
        "key=locum_a",
        "a=%6cocum_a+&b",
        "k%65y",
        "keys=1",
        "",
        "=locum_b",
        "x=%%6",
        "y=locum_%61",
        "v=locum_v",
        "v=locum_nobody",
        "other=sk%2dlocum_other-00000000",
    ]);
    let form =
        form.prop_map(|all| ("form key", "application/x-www-form-urlencoded", all.join("&")));
    let parts = some(&[
        "form-data; name=key\r\n\r\nlocum_a",
        "form-data; name=file; filename=\"x\"\r\n\r\n\r\n-\r\n--\r\r\n--blocum_a",
        "form-data; name=t\r\nX: locum_a\r\n\r\n locum_b \r",
        "form-data; name=\"k\\ey\"\r\n\r\n",
        "form-data; name=big\r\n\r\n.............................................",
        "attachment; name=key\r\n\r\nlocum_a",
        "form-data; name=v\r\n\r\nlocum_nobody",
        "form-data; name=other\r\n\r\nsk-locum_other-00000000",
    ]);
    let ends = prop::sample::select(&["--b--", "--b-- \r\nbye", "--b--\r\n--b", "--b", ""][..]);
    let parts = (parts, ends).prop_map(|(all, end)| {
        let all: String =
            all.iter().map(|part| format!("--b\r\nContent-Disposition: {part}\r\n")).collect();
        ("multipart key", "multipart/form-data; boundary=b", all + end)
    });
    prop_oneof![json, form, parts]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever was decided on, and however the rest comes: what goes out is what would go out if all of
    /// the body had been there, and what would have been refused does not go out to its end.
    #[test]
    fn a_body_that_streams_is_one_that_was_read_whole(
        (slot, kind, text) in body(),
        first in any::<prop::sample::Index>(),
        piece in 1usize..40,
    ) {
        let first = first.index(text.len() + 1);
        let whole = fill(slot, kind, SECRET, text.as_bytes());
        if let Ok(sent) = stream(slot, kind, text.as_bytes(), (first, piece)) {
            prop_assert_eq!(Ok(sent), whole);
        }
    }

    /// A field that is over before the rest comes enters wherever it is cut behind it.
    #[test]
    fn what_needs_no_more_than_the_beginning_streams(cut in 0usize..60, piece in 1usize..40) {
        let rest = "x".repeat(40) + "locum_b" + &"y".repeat(40);
        for (slot, kind, start, end) in [
            ("json /key", "application/json", r#"{"key":"locum_a","#, format!(r#" "keys":["{rest}",{{"key":1}}]}}"#)),
            ("form key", "application/x-www-form-urlencoded", "key=locum_a&", format!("file={rest}%&b")),
            (
                "multipart key",
                "multipart/form-data; boundary=b",
                "--b\r\nContent-Disposition: form-data; name=key\r\n\r\nlocum_a\r\n--b\r\n",
                format!("Content-Disposition: form-data; name=f; filename=x\r\n\r\n{rest}\r\n--b--\r\n"),
            ),
        ] {
            let text = format!("{start}{end}");
            let sent = stream(slot, kind, text.as_bytes(), (start.len() + cut, piece));
            let whole = fill(slot, kind, SECRET, text.as_bytes());
            prop_assert!(sent.is_ok(), "{:?}", sent);
            prop_assert_eq!(sent, whole);
        }
    }
}

#[test]
fn what_comes_too_late_is_refused_or_cut() {
    let json = |text: &str, first| {
        stream("json /key", "application/json", text.as_bytes(), (first, 7)).unwrap_err()
    };
    let start = r#"{"key":"locum_a","#;
    for (rest, code, words) in [
        (r#""x":1,"key":2}"#, Code::BodyUnreadable, "twice"),
        (r#""x":1,"k\u0065y":2}"#, Code::BodyUnreadable, "twice"),
        (r#""x":1}}"#, Code::BodyUnreadable, "said to be JSON"),
        (r#""x":"#, Code::BodyUnreadable, "said to be JSON"),
        (r#""x":"unfinished"#, Code::BodyUnreadable, "said to be JSON"),
    ] {
        let refused = json(&format!("{start}{rest}"), start.len());
        assert_eq!(refused.code, code, "{rest}");
        assert!(refused.detail.contains(words), "{rest}: {}", refused.detail);
    }
    for (text, first) in [
        (r#"{"x":"................","key":"locum_a"}"#, 20),
        (r#"{"x":"................","key":"locum_a"}"#, 37),
        (r#"{"t":"locum_a",        "key":"locum_a"}"#, 20),
        (r#"{"x":"................"}"#, 20),
    ] {
        let refused = json(text, first);
        assert_eq!(refused.code, Code::BodyTooLarge, "{text}");
        assert!(refused.detail.contains("put the field before the file"), "{}", refused.detail);
    }
    // As they are refused in a body that is there at once.
    for late in [r#""v":"locum_nobody""#, r#""other":"sk-locum_other-00000000""#] {
        let text = format!("{start}\"x\":1,{late}}}");
        assert_eq!(
            fill("json /key", "application/json", SECRET, text.as_bytes()).unwrap_err().code,
            Code::CredentialRefused
        );
        assert_eq!(json(&text, start.len()).code, Code::BodyTooLarge, "{late}");
    }
    // The first is decided on, and the other of the same credential comes when it has left.
    let index = "form key";
    let refused =
        stream(index, "application/x-www-form-urlencoded", b"key=locum_a&a=1&key=locum_b", (14, 3));
    assert_eq!(refused.unwrap_err().code, Code::BodyUnreadable);
}

#[test]
fn a_bait_at_the_end_of_a_beginning_is_an_alarm_whatever_it_is_refused_for() {
    let index = Arc::new(among_others("json /key"));
    let authority = Authority::parse("api.test:443", None).unwrap();
    let origin = Origin { scheme: Scheme::Https, authority };
    for (misplaced, text, code) in [
        ("refuse", r#"{"key":"locum_a","x":"see locum_bait, "#, Code::Misplaced),
        ("inert", r#"{"x":"see locum_bait, "#, Code::BodyTooLarge),
        ("inert", r#"{"key":"locum_a","bait":"locum_bait "#, Code::BodyTooLarge),
    ] {
        let head = Request::post("/").header("host", "api.test");
        let head = head.header("content-type", "application/json").body(()).unwrap();
        let mut request = InboundRequest::parse(head.into_parts().0, &origin).unwrap();
        let (body, behind) = BodyText::begin(text.into(), crate::request::BodyKind::Json);
        request.take_body(body);
        let rules = format!(
            "version: 1\nrules:\n  - {{name: all, agents: ['*'], to: ['https://api.test'], use: ['*'], misplaced: {misplaced}}}\n"
        );
        let policy = policy::compile(vec![Source::new("p.yaml", &rules)]).unwrap();
        let who = Identity::new("default".parse().unwrap(), "a".parse().unwrap(), "t");
        let references = References::locate(&request, &index);
        assert!(references.honeytoken().is_none(), "the text is not over");
        let permit = policy.authorize(&who, &request, &references, &index, 0).unwrap();
        let why = Remainder::new(behind, (&request, &references), &permit, &index).unwrap_err();
        assert_eq!(why.refusal.code, code, "{text}");
        assert_eq!(why.honeytoken.unwrap().as_str(), "bait", "{text}");
    }
}

#[test]
fn a_bait_in_a_body_that_cannot_be_read_is_an_alarm() {
    let index = among_others("json /key");
    let authority = Authority::parse("api.test:443", None).unwrap();
    let origin = Origin { scheme: Scheme::Https, authority };
    let message = BodyText::read(r#"{"x":"locum_bait""#.into(), crate::request::BodyKind::Message);
    let references = References::locate_message(&message, &origin, &index);
    assert!(references.fault().is_some() && references.honeytoken().is_some());
}
