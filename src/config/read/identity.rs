//! `identity`, and `proxy.authenticate`, which names what is set there.

use super::set;
use crate::config::{Identity, Method, UnixPeer};
use crate::document::{Map, Node, Reader, Value};

/// `proxy.authenticate`: a list of methods, each once.
pub(super) fn order<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Vec<Method>> {
    let order = reader.list(node, |r, n| r.choice(n, &Method::ALL))?;
    if order.is_empty() {
        reader.problem(node, "the list is empty: nobody could show who it is");
        return None;
    }
    let Value::Seq(items) = &node.value else { return Some(order) };
    for (at, (item, method)) in items.iter().zip(&order).enumerate() {
        if order.iter().take(at).any(|earlier| earlier == method) {
            reader.problem(item, "stands in the list already");
        }
    }
    Some(order)
}

pub(super) fn identity<'d>(
    reader: &mut Reader<'d>,
    node: &'d Node,
    mut identity: Identity,
) -> Option<Identity> {
    let mut map = reader.map(node, &["unix_peers"])?;
    set(&mut identity.unix_peers, map.optional("unix_peers", |r, n| r.list(n, unix_peer)));
    Some(identity)
}

/// The order that was given, or that of all that is configured. What is configured and not asked, or
/// asked and not configured, is a mistake: somebody thinks that it works.
pub(super) fn settle_order(
    map: &mut Map<'_, '_>,
    given: Option<Vec<Method>>,
    identity: &Identity,
) -> Vec<Method> {
    let configured = |method: Method| match method {
        Method::Tokens | Method::RunTokens => true,
        Method::UnixPeers => !identity.unix_peers.is_empty(),
    };
    let Some(given) = given else {
        let all = Method::ALL.iter().map(|(_, method)| *method);
        return all.filter(|method| configured(*method)).collect();
    };
    for (word, method) in Method::ALL {
        let key = word.replace('-', "_");
        if given.contains(&method) && !configured(method) {
            let message = format!("`authenticate` names {word}, and nothing says who they are");
            problem(map, "proxy", &message, &format!("set `identity.{key}`, or take it out"));
        }
        let optional = !matches!(method, Method::Tokens | Method::RunTokens);
        if optional && !given.contains(&method) && configured(method) {
            let message = format!("`{key}` is set, and `proxy.authenticate` does not name {word}");
            problem(map, "identity", &message, "add it to the list, or take the list out");
        }
    }
    given
}

fn problem(map: &mut Map<'_, '_>, section: &'static str, message: &str, advice: &str) {
    let spot = map.node(section).unwrap_or(map.whole());
    map.reader().problem_with_help(spot, message, advice);
}

/// The number that the kernel gives for a user whom it cannot tell, in a container that does not map
/// it: it could be anybody.
const NOBODY: u32 = 65_534;

fn unix_peer<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<UnixPeer> {
    let mut map = reader.map(node, &["user", "group", "agent"])?;
    let uid = map.optional("user", |r, n| number_of(r, n, "user", user_id));
    let gid = map.optional("group", |r, n| number_of(r, n, "group", group_id));
    let agent = map.required("agent", Reader::parsed);
    if !map.has("user") && !map.has("group") {
        let node = map.whole();
        map.reader().problem(node, "expected a `user`, a `group`, or both");
        return None;
    }
    // What is there and wrong was noted, and the whole is refused for it.
    Some(UnixPeer { uid, gid, agent: agent? })
}

fn user_id(name: &str) -> Option<u32> {
    Some(nix::unistd::User::from_name(name).ok()??.uid.as_raw())
}

fn group_id(name: &str) -> Option<u32> {
    Some(nix::unistd::Group::from_name(name).ok()??.gid.as_raw())
}

/// A number, or a name that this machine knows.
fn number_of<'d>(
    reader: &mut Reader<'d>,
    node: &'d Node,
    kind: &str,
    find: fn(&str) -> Option<u32>,
) -> Option<u32> {
    let number = if let Value::Int(_) = &node.value {
        reader.integer(node, 0..=u32::MAX - 1)?
    } else {
        let found = find(reader.text(node)?);
        if found.is_none() {
            reader.problem(node, format!("this machine knows no {kind} of this name"));
        }
        found?
    };
    if number == NOBODY {
        let message = format!("{NOBODY} stands for every {kind} that the kernel cannot name here");
        reader.problem_with_help(node, message, "give the agent one of its own");
        return None;
    }
    Some(number)
}
