//! `identity`, and `proxy.authenticate`, which names what is set there.

use std::time::Duration;

use super::{Paths, seconds, set};
use crate::agent::certificate::is_trust_domain;
use crate::agent::default_workspace;
use crate::agent::mapping::{Mapping, MappingRule};
use crate::config::{
    CertificateName, ClientNames, Config, Identity, JwtIssuer, Keys, Listen, Method, UnixPeer,
};
use crate::document::{Map, Node, Reader, Value};
use crate::token::jwt::{Algorithm, ClaimPath};

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
    paths: Paths<'_>,
) -> Option<Identity> {
    let mut map = reader.map(node, &["jwt", "client_certificates", "unix_peers"])?;
    set(&mut identity.jwt, map.optional("jwt", |r, n| issuers(r, n, paths)));
    if let Some(names) = map.optional("client_certificates", client_names) {
        identity.client_certificates = Some(names);
    }
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
        Method::Jwt => !identity.jwt.is_empty(),
        Method::ClientCertificates => identity.client_certificates.is_some(),
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

fn issuers<'d>(
    reader: &mut Reader<'d>,
    node: &'d Node,
    paths: Paths<'_>,
) -> Option<Vec<JwtIssuer>> {
    let all = reader.list(node, |r, n| issuer(r, n, paths))?;
    let Value::Seq(items) = &node.value else { return Some(all) };
    for (at, (item, one)) in items.iter().zip(&all).enumerate() {
        if all.iter().take(at).any(|earlier| earlier.issuer == one.issuer) {
            let advice = "put all its audiences into one entry";
            reader.problem_with_help(item, "the issuer is in the list already", advice);
        }
    }
    Some(all)
}

const ISSUER: &[&str] = &[
    "issuer",
    "audience",
    "keys",
    "algorithms",
    "leeway",
    "refresh",
    "types",
    "claims",
    "map",
    "workspace",
    "agents",
];

fn issuer<'d>(reader: &mut Reader<'d>, node: &'d Node, paths: Paths<'_>) -> Option<JwtIssuer> {
    let owned = |r: &mut Reader<'d>, n: &'d Node| r.text(n).map(str::to_owned);
    let mut map = reader.map(node, ISSUER)?;
    let issuer = map.required("issuer", owned);
    let audiences = map.required("audience", |r, n| non_empty(r, n, owned));
    let keys = map.required("keys", |r, n| keys(r, n, paths));
    let choice = |r: &mut Reader<'d>, n: &'d Node| r.choice(n, &Algorithm::ALL);
    let algorithms = map.optional("algorithms", |r, n| non_empty(r, n, choice));
    // Over five minutes it is not the clocks that are apart.
    let leeway = Duration::ZERO..=seconds(5 * 60);
    let leeway = map.optional("leeway", |r, n| r.duration(n, leeway));
    // Under a second it is a flood, over a day a key that was withdrawn stays good.
    let refresh = seconds(1)..=seconds(24 * 3600);
    let refresh = map.optional("refresh", |r, n| r.duration(n, refresh));
    let types = map.optional("types", |r, n| non_empty(r, n, owned));
    let claims = map.optional("claims", claims).unwrap_or_default();
    let rules = map.optional("map", |r, n| non_empty(r, n, mapping_rule));
    let workspace = map.optional("workspace", Reader::parsed);
    let words = [("known", false), ("any", true)];
    let any_agent = map.optional("agents", |r, n| r.choice(n, &words)).unwrap_or(false);
    let all = || Algorithm::ALL.iter().map(|(_, algorithm)| *algorithm).collect();
    Some(JwtIssuer {
        issuer: issuer?,
        audiences: audiences?,
        keys: keys?,
        algorithms: algorithms.unwrap_or_else(all),
        leeway: leeway.unwrap_or(seconds(30)),
        refresh: refresh.unwrap_or(seconds(10 * 60)),
        types: types.unwrap_or_else(|| ["JWT", "at+jwt"].map(str::to_owned).into()),
        agent: claims.agent.unwrap_or_else(|| ClaimPath::named("sub")),
        user: claims.user,
        run: claims.run,
        labels: claims.labels,
        map: Mapping::new(rules.unwrap_or_default()),
        workspace: workspace.unwrap_or_else(default_workspace),
        any_agent,
    })
}

/// One or a list, with something in it.
fn non_empty<'d, T>(
    reader: &mut Reader<'d>,
    node: &'d Node,
    item: impl FnMut(&mut Reader<'d>, &'d Node) -> Option<T>,
) -> Option<Vec<T>> {
    let all = reader.one_or_list(node, item)?;
    if all.is_empty() {
        reader.problem(node, "the list is empty, so that nothing would be accepted");
        return None;
    }
    Some(all)
}

/// A URL, or a path.
fn keys<'d>(reader: &mut Reader<'d>, node: &'d Node, paths: Paths<'_>) -> Option<Keys> {
    let text = reader.text(node)?;
    if text.starts_with("http://") {
        let message = "keys that come in the clear may be anybody's";
        reader.problem_with_help(node, message, "give a URL with https://, or a file");
        return None;
    }
    if text.starts_with("https://") {
        return reader.parsed(node).map(Keys::Url);
    }
    paths.read(reader, node).map(Keys::File)
}

#[derive(Default)]
struct Claims {
    agent: Option<ClaimPath>,
    user: Option<ClaimPath>,
    run: Option<ClaimPath>,
    labels: Vec<(crate::agent::LabelName, ClaimPath)>,
}

fn claims<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Claims> {
    let mut map = reader.map(node, &["agent", "user", "run", "labels"])?;
    Some(Claims {
        agent: map.optional("agent", Reader::parsed),
        user: map.optional("user", Reader::parsed),
        run: map.optional("run", Reader::parsed),
        labels: map.optional("labels", labels).unwrap_or_default(),
    })
}

fn labels<'d>(
    reader: &mut Reader<'d>,
    node: &'d Node,
) -> Option<Vec<(crate::agent::LabelName, ClaimPath)>> {
    let mut all = Vec::new();
    for (key, node) in reader.entries(node)? {
        let name = key.text.parse().map_err(|e: crate::agent::LabelsError| {
            reader.problem(key, e.to_string());
        });
        all.extend(name.ok().zip(reader.parsed(node)));
    }
    Some(all)
}

/// `{match: 'system:serviceaccount:agents:*', agent: '{1}'}`, with `workspace` where that follows from the
/// name too.
pub(super) fn mapping_rule<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<MappingRule> {
    let mut map = reader.map(node, &["match", "agent", "workspace"])?;
    let pattern = map.required("match", Reader::parsed);
    let agent = map.required("agent", Reader::parsed);
    let workspace = map.optional("workspace", Reader::parsed);
    // What is there and wrong was noted, and the whole is refused for it.
    let rule = MappingRule::new(pattern?, agent?, workspace);
    rule.map_err(|error| reader.problem(node, error.to_string())).ok()
}

fn client_names<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<ClientNames> {
    let mut map = reader.map(node, &["name", "trust_domain", "map", "workspace", "agents"])?;
    let words = [
        ("spiffe", CertificateWord::Spiffe),
        ("uri", CertificateWord::Uri),
        ("dns", CertificateWord::Dns),
        ("email", CertificateWord::Email),
        ("cn", CertificateWord::CommonName),
    ];
    let name = map.required("name", |r, n| r.choice(n, &words));
    let domain = map.optional("trust_domain", trust_domain);
    let rules = map.optional("map", |r, n| non_empty(r, n, mapping_rule));
    let workspace = map.optional("workspace", Reader::parsed);
    let words = [("known", false), ("any", true)];
    let any_agent = map.optional("agents", |r, n| r.choice(n, &words)).unwrap_or(false);
    let name = match name? {
        CertificateWord::Spiffe => {
            if !map.has("trust_domain") {
                let (node, message) = (map.whole(), "a SPIFFE id needs its `trust_domain`");
                map.reader().problem_with_help(node, message, "such as prod.example");
            }
            CertificateName::Spiffe(domain?)
        }
        CertificateWord::Uri => CertificateName::Uri,
        CertificateWord::Dns => CertificateName::Dns,
        CertificateWord::Email => CertificateName::Email,
        CertificateWord::CommonName => CertificateName::CommonName,
    };
    if let (false, Some(node)) =
        (matches!(name, CertificateName::Spiffe(_)), map.node("trust_domain"))
    {
        map.reader().problem(node, "only a SPIFFE id (`name: spiffe`) has a trust domain");
    }
    let map = Mapping::new(rules.unwrap_or_default());
    let workspace = workspace.unwrap_or_else(default_workspace);
    Some(ClientNames { name, map, workspace, any_agent })
}

#[derive(Clone, Copy)]
enum CertificateWord {
    Spiffe,
    Uri,
    Dns,
    Email,
    CommonName,
}

fn trust_domain<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<String> {
    let text = reader.text(node)?;
    if !is_trust_domain(text) {
        let advice = "write it without spiffe://, such as prod.example";
        reader.problem_with_help(node, "expected the name of a trust domain", advice);
        return None;
    }
    Some(text.to_owned())
}

/// A certificate says who an agent is only where one is asked for.
pub(super) fn check_doors(map: &mut Map<'_, '_>, config: &Config) {
    let asks = |listen: &Listen| listen.tls.as_ref().is_some_and(|tls| tls.clients.is_some());
    let asked = config.proxy.listen.iter().any(asks);
    if config.identity.client_certificates.is_some() && !asked {
        let message = "`client_certificates` is set, and no listener asks for a certificate";
        problem(map, "identity", message, "set `client_ca` in `proxy.tls`");
    }
}

/// The number that the kernel gives for a user whom it cannot tell, in a container that does not map
/// it: it could be anybody.
const NOBODY: u32 = 65_534;

fn unix_peer<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<UnixPeer> {
    let mut map = reader.map(node, &["user", "group", "workspace", "agent"])?;
    let uid = map.optional("user", |r, n| number_of(r, n, "user", user_id));
    let gid = map.optional("group", |r, n| number_of(r, n, "group", group_id));
    let workspace = map.optional("workspace", Reader::parsed);
    let agent = map.required("agent", Reader::parsed);
    if !map.has("user") && !map.has("group") {
        let node = map.whole();
        map.reader().problem(node, "expected a `user`, a `group`, or both");
        return None;
    }
    // What is there and wrong was noted, and the whole is refused for it.
    let workspace = workspace.unwrap_or_else(default_workspace);
    Some(UnixPeer { uid, gid, workspace, agent: agent? })
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
