//! The request engine: no input panics, and what passes has one authority and no field of ours.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use locum::host::{Authority, Origin, Scheme};
use locum::request::InboundRequest;

fuzz_target!(|data: &[u8]| {
    let Some(parts) = parts(data) else { return };
    let authority = Authority::parse("api.test:443", None).unwrap();
    let origin = Origin { scheme: Scheme::Https, authority };
    let Ok(request) = InboundRequest::parse(parts, &origin) else { return };
    assert!(request.path().starts_with('/') || request.path() == "*");
    assert_eq!(request.headers().get_all("host").iter().count(), 1);
    for name in request.headers().keys() {
        assert!(!name.as_str().starts_with("locum-"), "{name} was forwarded");
        assert!(name != "proxy-authorization" && name != "transfer-encoding", "{name}");
    }
    assert!(request.other_readings().iter().all(|reading| reading != request.path()));
});

/// The first line is method and target, each further line a field.
fn parts(data: &[u8]) -> Option<http::request::Parts> {
    let mut lines = data.split(|b| *b == b'\n');
    let mut first = lines.next()?.splitn(2, |b| *b == b' ');
    let mut builder = http::Request::builder().method(first.next()?).uri(first.next()?);
    for line in lines {
        let at = line.iter().position(|b| *b == b':')?;
        builder = builder.header(&line[..at], &line[at + 1..]);
    }
    Some(builder.body(()).ok()?.into_parts().0)
}
