//! Where the proxy does not connect to, whatever a policy says. Canaries listen there, and nobody
//! ever comes.

use std::net::{IpAddr, UdpSocket};

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
