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

fn policy(port: u16) -> String {
    format!(
        "version: 1\nrules:\n- {{name: opaque, agents: ['*'], to: ['https://*:{port}'], tunnel: opaque}}\n- {{name: clear, agents: ['*'], to: ['http://*:{port}']}}\n"
    )
}

#[test]
fn canaries_on_this_machine_are_never_touched() {
    let canary = Origin::silent("0.0.0.0").unwrap();
    let port = canary.address.port();
    // The same port on IPv6, where the machine has it.
    let home = Home::new();
    home.policy(&policy(port));
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
        let target = format!("{host}:{port}");
        let answer = serve.wire().ask(connect(&target, &agent.authorization()));
        assert_ne!(answer.status, 200, "CONNECT {target}");
        let code = answer.problem();
        let unresolved = code == "dns-error" && host.parse::<IpAddr>().is_err();
        assert!(code == "address-forbidden" || unresolved, "CONNECT {target}: {code}");
        let authorization = agent.authorization();
        let absolute = format!(
            "GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: {authorization}\r\n\r\n"
        );
        let code = serve.wire().ask(absolute).problem();
        assert!(code == "address-forbidden" || unresolved, "GET {target}: {code}");
    }
    assert_eq!(canary.connections(), 0);
    let refused = home.audit();
    let refused = refused.iter().filter(|r| r["code"] == "address-forbidden");
    assert!(refused.count() >= 2 * 25, "each has its record");
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
    home.policy(&policy(port));
    home.set("upstream.allow_addresses: [127.0.0.1/32]");
    let agent = home.agent("worker");
    let serve = home.serve();
    let get = |host: &str| {
        let authorization = agent.authorization();
        serve.wire().ask(format!(
            "GET http://{host}:{port}/open/x HTTP/1.1\r\nHost: {host}:{port}\r\nProxy-Authorization: {authorization}\r\n\r\n"
        ))
    };
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
    let ports = [serve.proxy.port(), serve.ops.port()];
    let rules = ports.map(|port| {
        format!(
            "- {{name: opaque {port}, agents: ['*'], to: ['https://*:{port}'], tunnel: opaque}}\n- {{name: clear {port}, agents: ['*'], to: ['http://*:{port}']}}\n"
        )
    });
    home.policy(&format!("version: 1\nrules:\n{}", rules.concat()));
    eventually("the new policy", PATIENCE, || {
        serve.metrics().contains("locum_policy_generation 2").then_some(())
    });
    for port in ports {
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
            let target = format!("{host}:{port}");
            let answer = serve.wire().ask(connect(&target, &agent.authorization()));
            assert_eq!(
                (answer.status, &*answer.problem()),
                (508, "proxy-loop"),
                "CONNECT {target}"
            );
            let authorization = agent.authorization();
            let answer = serve.wire().ask(format!(
                "GET http://{target}/metrics HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: {authorization}\r\n\r\n"
            ));
            assert_eq!((answer.status, &*answer.problem()), (508, "proxy-loop"), "GET {target}");
        }
    }
}
