//! Where the proxy does not connect to, whatever a policy says. Canaries listen there, and nobody
//! ever comes.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::*;

/// This machine's own address in its network, if it has one.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: this only asks which way a packet would go.
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|a| a.ip()).filter(|ip| !ip.is_loopback())
}

fn opaque(port: u16) -> String {
    format!("- {{name: opaque {port}, agents: ['*'], to: ['https://*:{port}'], tunnel: opaque}}\n")
}

fn clear(port: u16) -> String {
    format!("- {{name: clear {port}, agents: ['*'], to: ['http://*:{port}']}}\n")
}

fn policy(rules: &[String]) -> String {
    format!("version: 1\nrules:\n{}", rules.concat())
}

/// A CONNECT that a rule lets through, so that only the address speaks against it.
fn tunnel_code(serve: &Serve, agent: &Agent, target: &str) -> String {
    let answer = serve.wire().ask(connect(target, &agent.authorization()));
    assert_ne!(answer.status, 200, "CONNECT {target}");
    answer.problem()
}

fn get(serve: &Serve, agent: &Agent, target: &str) -> Answer {
    let authorization = agent.authorization();
    serve.wire().ask(format!(
        "GET http://{target}/open/x HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: {authorization}\r\n\r\n"
    ))
}

#[test]
fn canaries_on_this_machine_are_never_touched() {
    let [closed, shut] = [0, 1].map(|_| Origin::silent("0.0.0.0").unwrap());
    let [tunnelled, asked] = [closed.address.port(), shut.address.port()];
    let home = Home::new();
    home.policy(&policy(&[opaque(tunnelled), clear(asked)]));
    let agent = home.agent("worker");
    let serve = home.serve();
    let mut hosts: Vec<String> = [
        "127.0.0.1",
        "127.0.0.2",
        "127.255.255.254",
        "0.0.0.0",
        "localhost",
        "localhost.",
        "LOCALHOST",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "100.100.100.200",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "198.18.0.1",
    ]
    .map(str::to_owned)
    .to_vec();
    hosts.extend(own_address().map(|ip| ip.to_string()));
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    hosts.extend(Some(name.trim().to_owned()).filter(|n| !n.is_empty()));
    for host in &hosts {
        let name = !host.starts_with('[') && host.parse::<IpAddr>().is_err();
        for code in [
            tunnel_code(&serve, &agent, &format!("{host}:{tunnelled}")),
            get(&serve, &agent, &format!("{host}:{asked}")).problem(),
        ] {
            assert!(code == "address-forbidden" || (name && code == "dns-error"), "{host}: {code}");
        }
    }
    assert_eq!((closed.connections(), shut.connections()), (0, 0));
    let audit = home.audit();
    let refused = audit.iter().filter(|r| r["code"] == "address-forbidden").count();
    assert!(refused >= 2 * 25, "each has its record: {refused}");
}

#[test]
fn a_credential_does_not_open_an_address() {
    let canary_listener = Origin::silent("127.0.0.1").unwrap();
    let port = canary_listener.address.port();
    let home = Home::new();
    let key = canary();
    let to = format!("https://localhost:{port}");
    home.add("main", &["--to", &to, "--header", "Authorization: Bearer {secret}"], &key);
    let agent = home.agent("worker");
    let serve = home.serve();
    let wire = serve.open_tunnel(&agent, &format!("localhost:{port}"));
    let mut wire = wire.tls("localhost", &home.ca()).unwrap();
    let answer =
        wire.ask(format!("GET / HTTP/1.1\r\nHost: localhost:{port}\r\n{AUTHORIZED}\r\n\r\n"));
    assert_eq!((answer.status, &*answer.problem()), (403, "address-forbidden"));
    assert_eq!(canary_listener.connections(), 0);
}

#[test]
fn a_hole_opens_what_it_names_and_no_more() {
    let inside = Origin::clear("127.0.0.1");
    let port = inside.address.port();
    let home = Home::new();
    home.policy(&policy(&[clear(port)]));
    home.set("upstream.allow_addresses: [127.0.0.1/32]");
    let agent = home.agent("worker");
    let serve = home.serve();
    let get = |host: &str| get(&serve, &agent, &format!("{host}:{port}"));
    assert_eq!(get("127.0.0.1").status, 200);
    assert_eq!(inside.connections(), 1, "so the canaries of the other tests can be reached");
    assert_eq!(get("127.0.0.2").problem(), "address-forbidden");
    assert_eq!(get("10.0.0.1").problem(), "address-forbidden");
}

#[test]
fn the_proxy_does_not_connect_to_itself() {
    let home = Home::new();
    home.set(
        "upstream.allow_addresses: [127.0.0.0/8, '::1', 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16]",
    );
    let agent = home.agent("worker");
    let serve = home.serve();
    let own = own_address().map(|ip| ip.to_string());
    let hosts = ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"].map(str::to_owned);
    for (generation, rule) in [(2, opaque as fn(u16) -> String), (3, clear)] {
        let ports = [serve.proxy.port(), serve.ops.port()];
        home.policy(&policy(&ports.map(rule)));
        eventually("the new policy", PATIENCE, || {
            let generation = format!("locum_policy_generation {generation}");
            serve.metrics().contains(&generation).then_some(())
        });
        for port in ports {
            for host in hosts.iter().chain(&own) {
                let target = format!("{host}:{port}");
                let code = match generation {
                    2 => tunnel_code(&serve, &agent, &target),
                    _ => get(&serve, &agent, &target).problem(),
                };
                // The ports are bound to loopback alone: at the machine's other address is nobody.
                let nobody = Some(host) == own.as_ref() && code != "proxy-loop";
                assert!(code == "proxy-loop" || nobody, "{target}: {code}");
            }
        }
    }
}

/// An address that is none of this machine's, as far as it knows, and leads to it all the same, as a NAT's may; and
/// how many connections came that way.
fn turned_back(listener: TcpListener, to: SocketAddr) -> Arc<AtomicUsize> {
    let turns = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&turns);
    std::thread::spawn(move || {
        for near in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
            let (near, far) = (near.unwrap(), TcpStream::connect(to).unwrap());
            let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
            for (from, to) in [(near, far), back] {
                std::thread::spawn(move || carry(from, to));
            }
        }
    });
    turns
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown(Shutdown::Write);
}

#[test]
fn what_leads_back_to_the_proxy_unseen_is_a_stranger_there() {
    let nat = TcpListener::bind("127.0.0.1:0").unwrap();
    let home = Home::new();
    home.reach_as("nat.test", nat.local_addr().unwrap(), None);
    home.set("limits.connections_per_agent: 4");
    home.policy(&policy(&[opaque(443), clear(80)]));
    let agent = home.agent("worker");
    let serve = home.serve();
    let turns = turned_back(nat, serve.proxy);
    // What goes on has no proxy credentials, and is no request to a proxy.
    let answer = get(&serve, &agent, "nat.test");
    assert_eq!((answer.status, turns.load(Ordering::SeqCst)), (400, 1), "{}", answer.text());
    assert_eq!(home.audit().iter().filter(|r| r["code"] == "bad-request").count(), 1);
    // In a tunnel it is the agent itself that takes each turn, and each is one of its tunnels.
    let mut wire = serve.open_tunnel(&agent, "nat.test:443");
    let again = connect("nat.test:443", &agent.authorization());
    let next = |wire: &mut Wire| {
        wire.send(&again);
        wire.answer_to("CONNECT").status
    };
    let tunnels = (1..9).take_while(|_| next(&mut wire) == 200).count();
    assert_eq!((tunnels, turns.load(Ordering::SeqCst)), (3, 5));
}

#[test]
fn calls_of_the_proxys_own_go_no_further() {
    let inside = Origin::silent("127.0.0.1").unwrap();
    let url = format!("https://localhost:{}", inside.address.port());
    let endpoint = format!("{url}/token");
    let home = Home::new();
    let kind = ["--kind", "oauth-refresh", "--token-endpoint", &endpoint, "--client-id", "us"];
    home.add("minted", &[&kind[..], &["--to", "https://api.test"]].concat(), &canary());
    let source = ["--source", "vault:kv/data/x#key", "--source-url", &url];
    let login = ["--source-login", "approle:role", "--to", "https://api.test"];
    let slot = ["--header", "X-Api-Key: {secret}"];
    home.add("followed", &[&source[..], &login, &slot].concat(), &canary());
    home.set(&format!(
        "identity.jwt: [{{issuer: 'https://issuer.test', audience: locum, keys: '{url}/keys'}}]"
    ));
    let held = ["--to", "https://api.test", "--header", "X-Held: {secret}"];
    home.add("held", &held, &canary());
    home.add("word", &["--to", &url, "--header", "X-Word: {secret}"], &canary());
    home.set(&format!("approvals.webhook: {url}/word"));
    home.set("approvals.key: word");
    home.policy(
        "version: 1\nrules:\n\
         - {name: asked, agents: ['*'], use: [held], approval: {answer: refuse}}\n\
         - {name: others, agents: ['*'], use: [minted, followed]}\n",
    );
    let agent = home.agent("worker");
    let serve = home.serve();
    for field in ["Authorization: Bearer locum_minted", "X-Api-Key: locum_followed"] {
        let answer = serve.tunnel(&agent, HOST).ask(request("GET", "/", &[field], ""));
        assert!(answer.status >= 500, "{field}: {}", answer.text());
    }
    let held = serve.tunnel(&agent, HOST).ask(request("GET", "/", &["X-Held: locum_held"], ""));
    assert_eq!(held.status, 403, "{}", held.text());
    eventually("each is on record as refused", PATIENCE, || {
        let audit = home.audit_now();
        let is_refused = |purpose: &str| {
            let mut own = audit.iter().filter(|record| record["rule"] == purpose);
            own.any(|access| {
                let mut same = audit.iter().filter(|r| r["request_id"] == access["request_id"]);
                same.any(|record| record["code"] == "address-forbidden")
            })
        };
        ["token", "source", "issuer-keys", "approval-webhook"]
            .into_iter()
            .all(is_refused)
            .then_some(())
    });
    assert_eq!(inside.connections(), 0);
}

#[test]
fn ports_that_no_rule_names_are_not_reached() {
    let (origin, free) = (Origin::silent("0.0.0.0").unwrap(), Origin::silent("0.0.0.0").unwrap());
    let home = Home::new();
    home.reach_as("api.test", origin.address, None);
    home.reach_as("free.test", free.address, None);
    home.add("main", BEARER, &canary());
    let agent = home.agent("worker");
    let serve = home.serve();
    for host in ["api.test", "free.test"] {
        for (port, bytes) in [
            (22, "SSH-2.0-x\r\n"),
            (25, "EHLO x\r\n"),
            (2375, "GET /version HTTP/1.1\r\nHost: x\r\n\r\n"),
            (6379, "*1\r\n$4\r\nPING\r\n"),
            (8443, "\x16\x03\x01"),
        ] {
            let target = format!("{host}:{port}");
            let mut wire = serve.open_tunnel(&agent, &target);
            wire.send(bytes);
            wire.finish();
            wire.until_closed();
            let answer = get(&serve, &agent, &target);
            assert_eq!((answer.status, &*answer.problem()), (403, "not-allowed"), "{target}");
        }
    }
    assert_eq!((origin.connections(), free.connections()), (0, 0));
    serve.open_tunnel(&agent, "free.test:443");
    // The tunnel is open when the kernel has the connection; the listener's own thread takes it later.
    eventually("and this one can be reached", PATIENCE, || (free.connections() == 1).then_some(()));
}
