//! `admin`.

use super::Paths;
use super::listen::{file_mode, listener_tls, place};
use crate::config::{Admin, ListenAt};
use crate::document::{Node, Reader, Value};

pub(super) fn admin<'d>(
    reader: &mut Reader<'d>,
    node: &'d Node,
    mut admin: Admin,
    paths: Paths<'_>,
) -> Option<Admin> {
    let mut map = reader.map(node, &["listen", "mode", "tls"])?;
    let off = |n: &Node| matches!(&n.value, Value::String(text) if &**text == "off");
    let usual = admin.listen.clone();
    match map.node("listen") {
        Some(node) if off(node) => {
            admin.listen = None;
            map.optional("listen", |_, _| Some(()));
        }
        _ => {
            if let Some(at) = map.optional("listen", |r, n| place(r, n, paths)) {
                admin.listen = Some(at);
            }
        }
    }
    let given = map.optional("mode", file_mode);
    admin.tls = map.optional("tls", |r, n| listener_tls(r, n, paths));
    let tcp = match (&mut admin.listen, given) {
        (Some(ListenAt::Unix { mode, .. }), Some(given)) => {
            *mode = given;
            false
        }
        (at, _) => matches!(at, Some(ListenAt::Tcp(_))),
    };
    if let (true, Some(mode)) = (tcp, map.node("mode")) {
        map.reader().problem(mode, "only a Unix socket (`unix:PATH`) has a mode");
    }
    if let (false, Some(tls)) = (tcp, map.node("tls")) {
        map.reader().problem(tls, "only an address has TLS");
    }
    if let (true, false, Some(listen)) = (tcp, map.has("tls"), map.node("listen")) {
        let message = "tokens of administrators and new secrets would cross the wire as they are";
        map.reader().problem_with_help(listen, message, "give `tls`, or a Unix socket");
    }
    admin.asked = admin.listen != usual;
    Some(admin)
}
