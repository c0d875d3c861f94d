//! `proxy`, and the addresses that `proxy` and `ops` have in common.

use std::net::SocketAddr;

use super::identity::order;
use super::{Paths, set};
use crate::config::{ClientCertificates, Listen, ListenAt, ListenerTls, Method, Proxy};
use crate::document::{Map, Node, Reader, Value};

pub(super) fn proxy<'d>(
    reader: &mut Reader<'d>,
    node: &'d Node,
    mut proxy: Proxy,
    paths: Paths<'_>,
) -> Option<(Proxy, Option<Vec<Method>>)> {
    let mut map = reader.map(node, &["listen", "tls", "allow_remote", "authenticate"])?;
    set(&mut proxy.allow_remote, map.optional("allow_remote", Reader::boolean));
    // The words are judged as they stand, also when they are wrong: that is a mistake of its own.
    let has_tls = map.has("tls");
    let tls = map.optional("tls", |r, n| listener_tls(r, n, paths));
    let common = Common { tls, has_tls, allow_remote: proxy.allow_remote };
    if map.has("listen") {
        set(&mut proxy.listen, map.optional("listen", |r, n| listeners(r, n, &common, paths)));
    } else {
        proxy.listen.iter_mut().for_each(|listen| listen.tls.clone_from(&common.tls));
    }
    // Which of them there are, and so the default, is said elsewhere in the file.
    let order = map.optional("authenticate", order);
    Some((proxy, order))
}

/// What holds for each listener that does not say otherwise.
struct Common {
    tls: Option<ListenerTls>,
    has_tls: bool,
    allow_remote: bool,
}

fn listeners<'d>(
    reader: &mut Reader<'d>,
    node: &'d Node,
    common: &Common,
    paths: Paths<'_>,
) -> Option<Vec<Listen>> {
    let listen = reader.one_or_list(node, |r, n| listen(r, n, common, paths))?;
    if listen.is_empty() {
        reader.problem(node, "the list is empty: agents could not connect");
        return None;
    }
    let items = match &node.value {
        Value::Seq(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    };
    for (index, (item, one)) in items.iter().zip(&listen).enumerate() {
        if listen.iter().take(index).any(|earlier| clash(&earlier.at, &one.at)) {
            reader.problem(item, "the address is taken by an earlier one in the list");
        }
    }
    Some(listen)
}

/// What a listener says of TLS itself.
enum OwnTls {
    /// Nothing: `proxy.tls` holds.
    Silent,
    /// `off`.
    Off,
    /// Its own; none when that is wrong, and noted.
    Given(Option<ListenerTls>),
}

/// An address alone, or `{address: …, tls: …, mode: …}`.
fn listen<'d>(
    reader: &mut Reader<'d>,
    node: &'d Node,
    common: &Common,
    paths: Paths<'_>,
) -> Option<Listen> {
    let Value::Map(_) = node.value else {
        let at = place(reader, node, paths)?;
        return Some(protect(reader, node, at, OwnTls::Silent, common));
    };
    let mut map = reader.map(node, &["address", "tls", "mode"])?;
    let at = map.required("address", |r, n| place(r, n, paths));
    let given = map.optional("mode", file_mode);
    let own = match map.node("tls") {
        None => OwnTls::Silent,
        Some(off) if matches!(&off.value, Value::String(text) if &**text == "off") => OwnTls::Off,
        Some(tls) => OwnTls::Given(listener_tls(map.reader(), tls, paths)),
    };
    let mut at = at?;
    unfitting(&mut map, &at, &own);
    if let (ListenAt::Unix { mode, .. }, Some(given)) = (&mut at, given) {
        *mode = given;
    }
    let spot = map.node("address").unwrap_or(node);
    Some(protect(map.reader(), spot, at, own, common))
}

/// Notes what the one kind of listener has, and the other has not.
fn unfitting(map: &mut Map<'_, '_>, at: &ListenAt, own: &OwnTls) {
    let unix = matches!(at, ListenAt::Unix { .. });
    if let (true, OwnTls::Given(_), Some(tls)) = (unix, own, map.node("tls")) {
        let advice = "take `tls` out: `mode` says who may open the socket";
        map.reader().problem_with_help(tls, "a Unix socket has no TLS", advice);
    }
    if let (false, Some(mode)) = (unix, map.node("mode")) {
        map.reader().problem(mode, "only a Unix socket (`unix:PATH`) has a mode");
    }
}

/// Settles what protects a listener, and refuses one that nothing does.
fn protect(
    reader: &mut Reader<'_>,
    node: &Node,
    at: ListenAt,
    own: OwnTls,
    common: &Common,
) -> Listen {
    let ListenAt::Tcp(address) = at else { return Listen { at, tls: None } };
    let (tls, protected) = match own {
        OwnTls::Silent => (common.tls.clone(), common.has_tls),
        OwnTls::Off => (None, false),
        OwnTls::Given(tls) => (tls, true),
    };
    if !protected && !common.allow_remote {
        refuse_remote(reader, node, address, "give `proxy.tls`, or ");
    }
    Listen { at, tls }
}

pub(super) fn refuse_remote(
    reader: &mut Reader<'_>,
    node: &Node,
    address: SocketAddr,
    other_way: &str,
) {
    if address.ip().to_canonical().is_loopback() {
        return;
    }
    let message = "listens beyond this machine, without TLS";
    let advice = format!(
        "use a loopback address, {other_way}write `allow_remote: true` if the network is trusted"
    );
    reader.problem_with_help(node, message, advice);
}

pub(super) fn place<'d>(
    reader: &mut Reader<'d>,
    node: &'d Node,
    paths: Paths<'_>,
) -> Option<ListenAt> {
    let path = match &node.value {
        Value::String(text) => text.strip_prefix("unix:"),
        _ => None,
    };
    let Some(path) = path else { return address(reader, node).map(ListenAt::Tcp) };
    if path.is_empty() {
        reader.problem(node, "expected a path after `unix:`, such as `unix:/run/locum/proxy.sock`");
        return None;
    }
    let path = paths.resolve(reader, node, path)?;
    // `sun_path` of Linux has 108 bytes with the NUL, that of macOS 104.
    if path.as_os_str().len() >= 104 {
        let advice = "choose a shorter one, such as unix:/run/locum/proxy.sock";
        reader.problem_with_help(node, "the path is too long for a socket (103 bytes)", advice);
        return None;
    }
    Some(ListenAt::Unix { path, mode: SOCKET_MODE })
}

/// Only the own user.
const SOCKET_MODE: u32 = 0o600;

/// Octal digits in quotes, as `chmod` has them: YAML would take bare ones for a decimal number.
pub(super) fn file_mode<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<u32> {
    let text = match &node.value {
        Value::String(text) => &**text,
        _ => "",
    };
    let octal = text.len() <= 4 && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| octal && *mode <= 0o777);
    if mode.is_none() {
        let advice = "write it in quotes, such as '0660'";
        reader.problem_with_help(node, "expected a file mode in octal digits", advice);
    }
    mode
}

pub(super) const ADDRESS: &str = "an address and a port, such as `127.0.0.1:3128`";

pub(super) fn address<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<SocketAddr> {
    let Value::String(text) = &node.value else {
        return reader.wrong_kind(node, ADDRESS);
    };
    let address = text.parse().ok();
    if address.is_none() {
        let advice = match &**text {
            local if local.starts_with("localhost:") => "write 127.0.0.1 or [::1] for localhost",
            path if path.starts_with('/') => "write unix:PATH for a Unix socket",
            _ => "write a.b.c.d:PORT, or [v6]:PORT",
        };
        reader.problem_with_help(node, format!("expected {ADDRESS}"), advice);
    }
    address
}

/// Whether two listeners cannot both be bound.
fn clash(a: &ListenAt, b: &ListenAt) -> bool {
    match (a, b) {
        (ListenAt::Tcp(a), ListenAt::Tcp(b)) => overlap(*a, *b),
        (ListenAt::Unix { path: a, .. }, ListenAt::Unix { path: b, .. }) => a == b,
        _ => false,
    }
}

/// Whether two ports cannot both be bound. Port 0 is whatever is free.
pub(super) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let any = |address: SocketAddr| address.ip().is_unspecified();
    let same = a.ip().to_canonical() == b.ip().to_canonical();
    // `[::]` takes IPv4 too, where the platform leaves it so.
    let family = a.is_ipv4() == b.is_ipv4() || (any(a) && a.is_ipv6()) || (any(b) && b.is_ipv6());
    a.port() != 0 && a.port() == b.port() && (same || (family && (any(a) || any(b))))
}

pub(super) fn listener_tls<'d>(
    reader: &mut Reader<'d>,
    node: &'d Node,
    paths: Paths<'_>,
) -> Option<ListenerTls> {
    let mut map =
        reader.map(node, &["certificate", "key", "client_ca", "client_crl", "client_auth"])?;
    let certificate = map.required("certificate", |r, n| paths.read(r, n));
    let key = map.required("key", |r, n| paths.read(r, n));
    let ca = map.optional("client_ca", |r, n| paths.read(r, n));
    let crl = map.optional("client_crl", |r, n| paths.read(r, n));
    let words = [("required", true), ("optional", false)];
    let required = map.optional("client_auth", |r, n| r.choice(n, &words));
    let without = map.node("client_auth").or(map.node("client_crl"));
    if let (false, Some(node)) = (map.has("client_ca"), without) {
        let advice = "name the CAs whose certificates are believed: `client_ca: FILE`";
        map.reader().problem_with_help(node, "there is no `client_ca` to check against", advice);
    }
    let clients = ca.map(|ca| ClientCertificates { ca, crl, required: required.unwrap_or(true) });
    Some(ListenerTls { certificate: certificate?, key: key?, clients })
}
