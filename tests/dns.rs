//! A name server that lies: it changes its answers between one question and the next, mixes public
//! and private addresses, hides private ones in every form of IPv6, and lets nothing be kept. Whatever
//! it says, the proxy touches no address that is not public.
//!
//! It all happens in a network of the test's own, made by `unshare`: in there every address of the
//! Internet is this machine, and whoever is connected to is written down.
#![allow(missing_docs, unreachable_pub, dead_code)] // A harness is shared by halves.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use simple_dns::rdata::{A, AAAA, RData};
use simple_dns::{CLASS, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
use support::*;

/// A public address: `example.com` had it for years.
const PUBLIC: &str = "93.184.216.34";
const PUBLIC_6: &str = "2606:2800:220:1:248:1893:25c8:1946";

/// Where nobody but the machine and its network should get to, in every spelling that an answer has.
const PRIVATE: [&str; 30] = [
    "127.0.0.1",
    "127.9.9.9",
    "0.0.0.0",
    "10.0.0.5",
    "172.16.0.1",
    "172.31.255.254",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "169.254.170.2",
    "192.0.0.192",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::7f00:1",
    "2002:7f00:1::1",
    "2002:a9fe:a9fe::1",
    "2001:0:7f00:1::80ff:fffe",
    "fe80::1",
    "fc00::1",
    "fd00:ec2::254",
    "fec0::1",
];

#[test]
fn a_name_server_that_lies_leads_to_no_private_address() {
    in_its_own_network("whoever_asks", "timeout:1");
}

#[test]
fn nor_does_it_lead_calls_of_the_proxys_own_there() {
    in_its_own_network("its_own_calls", "timeout:1");
}

#[test]
fn nor_does_it_lead_to_a_port_of_the_proxys_own() {
    in_its_own_network("its_own_ports", "timeout:1");
}

#[test]
fn a_silent_name_server_keeps_no_other_agent_waiting() {
    in_its_own_network("one_agents_silent_names", "timeout:30");
}

/// Runs one of the ignored tests below where every address is this machine.
#[track_caller]
fn in_its_own_network(test: &str, options: &str) {
    let resolv = tempfile::NamedTempFile::new().unwrap();
    let conf = format!("nameserver 127.0.0.1\noptions {options} attempts:1\n");
    std::fs::write(resolv.path(), conf).unwrap();
    let prelude = "\"$IP\" link set lo up; \
                   \"$IP\" route add local default dev lo; \
                   \"$IP\" -6 route add local default dev lo; \
                   mount --bind \"$RESOLV\" /etc/resolv.conf;";
    let (ip, libraries) = iproute();
    let variables = [
        ("RESOLV", resolv.path().as_os_str()),
        ("IP", ip.as_os_str()),
        ("LD_LIBRARY_PATH", &libraries),
    ];
    apart(test, &["--net", "--mount"], prelude, &variables);
}

/// The program that sets addresses and routes.
fn iproute() -> (std::path::PathBuf, std::ffi::OsString) {
    let own = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"].map(std::path::PathBuf::from);
    if let Some(own) = own.into_iter().find(|path| path.exists()) {
        return (own, std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default());
    }
    let tools = Tools::debian("iproute2", &["iproute2"]);
    (tools.program("bin/ip"), tools.libraries())
}

#[test]
#[ignore = "started by a test above, in its network"]
fn whoever_asks() {
    let touched = Touched::listen(&[443, 80]);
    let names = Names::serve();
    let home = Home::new();
    home.unset("upstream.allow_addresses");
    let slots = ["--to", "https://*.bound.test", "--header", "Authorization: Bearer {secret}"];
    home.add("main", &slots, &canary());
    home.policy(
        "version: 1\nrules:\n\
         - {name: bound, agents: ['*'], use: [main]}\n\
         - {name: clear, agents: ['*'], to: ['http://*.clear.test']}\n\
         - {name: web, agents: ['*'], to: ['https://*.web.test'], tunnel: opaque}\n",
    );
    let agent = home.agent("worker");
    let serve = home.serve();
    let visit = Visit { serve: &serve, agent: &agent };

    // That this network works, and that the canaries notice.
    names.say("good", &[&[PUBLIC]]);
    visit.all("good");
    assert_eq!(touched.take(), BTreeSet::from([PUBLIC.parse().unwrap()]));
    names.say("good6", &[&[PUBLIC_6]]);
    visit.all("good6");
    assert_eq!(touched.take(), BTreeSet::from([PUBLIC_6.parse().unwrap()]));

    // Every private address, alone and beside a public one in either order.
    for (n, private) in PRIVATE.iter().enumerate() {
        names.say(&format!("alone{n}"), &[&[private]]);
        visit.all(&format!("alone{n}"));
        assert_eq!(touched.take(), BTreeSet::new(), "{private}");
        names.say(&format!("first{n}"), &[&[private, PUBLIC, PUBLIC_6]]);
        names.say(&format!("last{n}"), &[&[PUBLIC_6, PUBLIC, private]]);
        visit.all(&format!("first{n}"));
        visit.all(&format!("last{n}"));
        assert_eq!(touched.take(), BTreeSet::new(), "{private} closes the whole answer");
    }

    // Another answer each time that it is asked: what is checked is what is dialled.
    names.say("rebind", &[&[PUBLIC], &["127.0.0.1"]]);
    names.say("flip", &[&["169.254.169.254"], &[PUBLIC], &["::1", "10.0.0.5"]]);
    for _ in 0..30 {
        visit.all("rebind");
        visit.all("flip");
    }
    let public: BTreeSet<IpAddr> = [PUBLIC, PUBLIC_6].map(|ip| ip.parse().unwrap()).into();
    let touched = touched.take();
    assert!(touched.contains(&PUBLIC.parse().unwrap()), "the public answers were used");
    assert!(touched.is_subset(&public), "{touched:?}");
    assert!(names.asked("rebind") > 30, "the proxy asked anew");
}

/// Health checks, by the proxy and by the command, and word of approvals.
#[test]
#[ignore = "started by a test above, in its network"]
fn its_own_calls() {
    let touched = Touched::listen(&[443]);
    let names = Names::serve();
    let home = Home::new();
    home.unset("upstream.allow_addresses");
    home.add("openai", &["--provider", "openai"], &canary());
    let hook = ["--to", "https://hook.test", "--header", "X-Unused: {secret}"];
    home.add("hook", &hook, &canary());
    home.add("main", BEARER, &canary());
    home.set("approvals.webhook: https://hook.test/word");
    home.set("approvals.key: hook");
    home.policy(
        "version: 1\nrules:\n\
         - {name: held, agents: ['*'], use: [main], approval: {answer: refuse}}\n",
    );
    let agent = home.agent("worker");
    let public = BTreeSet::from([PUBLIC.parse().unwrap()]);

    // The command asks once, and for each answer.
    let verify = || {
        let ran = home.locum(&["credential", "verify", "openai", "--json"]);
        assert!(ran.out.contains("\"unknown\""), "{}{}", ran.out, ran.err);
        ran.out
    };
    names.say("api", &[&[PUBLIC]]);
    verify();
    assert_eq!(touched.take(), public, "this network works, and the canaries notice");
    for private in PRIVATE {
        for answer in [&[private][..], &[private, PUBLIC, PUBLIC_6], &[PUBLIC_6, PUBLIC, private]] {
            names.say("api", &[answer]);
            let said = verify();
            assert_eq!(touched.take(), BTreeSet::new(), "{answer:?}: {said}");
        }
    }

    // A proxy checks each second, and sends word of each question.
    home.set("credentials.health: 1s");
    let serve = home.serve();
    let ask = |path: &str| {
        let asked = "Authorization: Bearer locum_main\r\n";
        let answer = serve
            .tunnel(&agent, HOST)
            .ask(format!("GET /{path} HTTP/1.1\r\nHost: {HOST}\r\n{asked}\r\n"));
        assert_eq!(answer.status, 403, "{}", answer.text());
    };
    let refused = |purpose: &str| {
        let audit = home.audit_now();
        let is_refused = |access: &&serde_json::Value| {
            access["rule"] == purpose
                && audit.iter().any(|record| {
                    record["request_id"] == access["request_id"]
                        && record["code"] == "address-forbidden"
                })
        };
        audit.iter().filter(is_refused).count()
    };
    for (n, answer) in
        [&["127.0.0.1"][..], &["169.254.169.254"], &[PUBLIC, "::1"], &["64:ff9b::a9fe:a9fe"]]
            .into_iter()
            .enumerate()
    {
        names.say("api", &[answer]);
        names.say("hook", &[answer]);
        let before = ["health", "approval-webhook"].map(refused);
        ask(&format!("private/{n}"));
        eventually("both are on record as refused", PATIENCE, || {
            let now = ["health", "approval-webhook"].map(refused);
            (now[0] > before[0] && now[1] > before[1]).then_some(())
        });
        assert_eq!(touched.take(), BTreeSet::new(), "{answer:?}");
    }
    names.say("hook", &[&[PUBLIC]]);
    ask("public");
    eventually("word goes where it may", PATIENCE, || (touched.take() == public).then_some(()));
}

/// Two of them at all addresses of the machine, which here are all there are; the administrators' at one.
#[test]
#[ignore = "started by a test above, in its network"]
fn its_own_ports() {
    let names = Names::serve();
    let home = Home::new();
    let issued = Authority::new(&home.work(), "listener").issue("proxy");
    let (certificate, key) = (issued.certificate.display(), issued.key.display());
    home.set("upstream.allow_addresses: [127.0.0.0/8]");
    for place in ["proxy", "ops"] {
        home.set(&format!("{place}.listen: 0.0.0.0:0"));
        home.set(&format!("{place}.allow_remote: true"));
    }
    home.set("admin.listen: 127.0.0.1:0");
    home.set(&format!("admin.tls: {{certificate: '{certificate}', key: '{key}'}}"));
    let authorization = home.agent("worker").authorization();
    let serve = home.serve();
    let announced = std::fs::read(home.path().join("serve.json")).unwrap();
    let announced: serde_json::Value = serde_json::from_slice(&announced).unwrap();
    let admin: std::net::SocketAddr = announced["admin"].as_str().unwrap().parse().unwrap();
    let ports = [serve.proxy.port(), serve.ops.port(), admin.port()];
    let rules = ports.map(|port| {
        format!(
            "- {{name: clear {port}, agents: ['*'], to: ['http://*.clear.test:{port}']}}\n\
             - {{name: web {port}, agents: ['*'], to: ['https://*.web.test:{port}'], tunnel: opaque}}\n"
        )
    });
    home.policy(&format!("version: 1\nrules:\n{}", rules.concat()));
    eventually("the new policy", PATIENCE, || {
        serve.metrics().contains("locum_policy_generation 2").then_some(())
    });
    for address in [PUBLIC, "127.0.0.1", "127.9.9.9"] {
        names.say("own", &[&[address]]);
        for port in ports {
            let opaque = connect(&format!("own.web.test:{port}"), &authorization);
            let clear = format!(
                "GET http://own.clear.test:{port}/ HTTP/1.1\r\nHost: own.clear.test:{port}\r\n\
                 Proxy-Authorization: {authorization}\r\n\r\n"
            );
            let met = [opaque, clear].map(|asked| serve.wire().ask(asked).problem());
            // At the machine's other addresses are no administrators.
            let own = port != admin.port() || address == "127.0.0.1";
            let expected = if own { "proxy-loop" } else { "connect-failed" };
            assert_eq!(met, [expected; 2], "{address}:{port}");
        }
    }
}

/// An agent may go wherever it likes, and asks for two hundred names whose server says nothing.
#[test]
#[ignore = "started by a test above, in its network"]
fn one_agents_silent_names() {
    let touched = Touched::listen(&[80]);
    let names = Names::serve();
    let home = Home::new();
    home.unset("upstream.allow_addresses");
    home.policy(
        "version: 1\nrules:\n- {name: clear, agents: ['*'], to: ['http://*.clear.test']}\n",
    );
    // What an agent's own names do closes no host to the others.
    home.set("upstream.breaker: {failures: 2}");
    let agents = ["slow", "quick"].map(|name| home.agent(name).authorization());
    let serve = home.serve();
    let ask = |name: &str, authorization: &str| {
        let mut wire = serve.wire();
        wire.send(format!(
            "GET http://{name}.clear.test/ HTTP/1.1\r\nHost: {name}.clear.test\r\n\
             Proxy-Authorization: {authorization}\r\n\r\n"
        ));
        wire
    };
    let slow: Vec<_> = (0..200).map(|n| ask(&format!("silent{n}"), &agents[0])).collect();
    eventually("the name server was asked", PATIENCE, || (names.ignored() >= 16).then_some(()));
    let begun = std::time::Instant::now();
    for n in 0..10 {
        names.say(&format!("good{n}"), &[&[PUBLIC]]);
        let answer = ask(&format!("good{n}"), &agents[1]).answer();
        assert_ne!(answer.problem(), "dns-error");
        assert_eq!(touched.take(), BTreeSet::from([PUBLIC.parse().unwrap()]));
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    // Two questions for each name; the second may wait for the answer to the first.
    assert!((16..=32).contains(&names.ignored()), "{}", names.ignored());
    // Its own others wait, and are told so.
    let mut waiting: Vec<_> = (0..10).map(|_| ask("good0", &agents[0])).collect();
    for wire in &mut waiting {
        assert_eq!(wire.answer().problem(), "overloaded");
    }
    assert_ne!(ask("good0", &agents[1]).answer().problem(), "circuit-open");
    let mut last = ask("good1", &agents[0]);
    assert_eq!(last.answer().problem(), "overloaded");
    drop((last, slow));
}

/// One host by every way that the proxy goes.
struct Visit<'a> {
    serve: &'a Serve,
    agent: &'a Agent,
}

impl Visit<'_> {
    fn all(&self, name: &str) {
        let authorization = self.agent.authorization();
        // An opaque tunnel, whose address is dialled before the answer.
        self.serve.wire().ask(connect(&format!("{name}.web.test:443"), &authorization));
        // In the clear.
        self.serve.wire().ask(format!(
            "GET http://{name}.clear.test/ HTTP/1.1\r\nHost: {name}.clear.test\r\n\
             Proxy-Authorization: {authorization}\r\n\r\n"
        ));
        // Intercepted, with a credential, and as a WebSocket.
        let host = format!("{name}.bound.test");
        let mut wire = self.serve.tunnel(self.agent, &host);
        let asked = "Authorization: Bearer locum_main\r\n";
        wire.ask(format!("GET / HTTP/1.1\r\nHost: {host}\r\n{asked}\r\n"));
        wire.ask(format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\n{asked}Connection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        ));
    }
}

/// The addresses at which somebody was met since it was last asked.
struct Touched(Arc<Mutex<BTreeSet<IpAddr>>>);

impl Touched {
    /// Listens at these ports of every address. A connection is closed as soon as it is noted.
    fn listen(ports: &[u16]) -> Self {
        let touched = Arc::new(Mutex::new(BTreeSet::new()));
        for &port in ports {
            // Takes those of IPv4 too, as mapped addresses.
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
            let touched = Arc::clone(&touched);
            std::thread::spawn(move || {
                for met in listener.incoming() {
                    let Ok(at) = met.and_then(|stream| stream.local_addr()) else { continue };
                    touched.lock().unwrap().insert(at.ip().to_canonical());
                }
            });
        }
        Self(touched)
    }

    fn take(&self) -> BTreeSet<IpAddr> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// The name server. It says nothing to questions for `silent…`.
struct Names(Arc<Mutex<HashMap<String, Said>>>, Arc<AtomicUsize>);

/// What is said of a name: one answer after the other, and then from the start again.
struct Said {
    answers: Vec<Vec<IpAddr>>,
    /// How often each kind of address was asked for.
    asked: [usize; 2],
}

impl Names {
    fn serve() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).unwrap();
        let (names, ignored) = <(Arc<Mutex<HashMap<_, _>>>, Arc<AtomicUsize>)>::default();
        let (said, silent) = (Arc::clone(&names), Arc::clone(&ignored));
        std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                if buffer[..length].windows(6).any(|name| name == b"silent") {
                    silent.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                let answer = answer(&buffer[..length], &mut said.lock().unwrap());
                socket.send_to(&answer, from).unwrap();
            }
        });
        Self(names, ignored)
    }

    /// Questions that were not answered.
    fn ignored(&self) -> usize {
        self.1.load(Ordering::SeqCst)
    }

    fn say(&self, name: &str, answers: &[&[&str]]) {
        let parse = |all: &&[&str]| all.iter().map(|ip| ip.parse().unwrap()).collect();
        let answers = answers.iter().map(parse).collect();
        self.0.lock().unwrap().insert(name.to_owned(), Said { answers, asked: [0; 2] });
    }

    fn asked(&self, name: &str) -> usize {
        self.0.lock().unwrap()[name].asked[0]
    }
}

/// The answer to a question about `NAME.*.test`, with a time to live of nothing.
fn answer(question: &[u8], names: &mut HashMap<String, Said>) -> Vec<u8> {
    let question = Packet::parse(question).unwrap();
    let asked = question.questions[0].clone();
    let mut reply = question.into_reply();
    reply.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
    let full = asked.qname.to_string();
    let kind = match asked.qtype {
        QTYPE::TYPE(TYPE::A) => 0,
        QTYPE::TYPE(TYPE::AAAA) => 1,
        _ => 2,
    };
    match full.split('.').next().and_then(|name| names.get_mut(name)) {
        Some(said) if kind < 2 => {
            let turn = said.asked[kind] % said.answers.len();
            said.asked[kind] += 1;
            for ip in &said.answers[turn] {
                let data = match ip {
                    IpAddr::V4(ip) if kind == 0 => RData::A(A::from(*ip)),
                    IpAddr::V6(ip) if kind == 1 => RData::AAAA(AAAA::from(*ip)),
                    _ => continue,
                };
                let name = asked.qname.clone();
                reply.answers.push(ResourceRecord::new(name, CLASS::IN, 0, data));
            }
        }
        Some(_) => {}
        None => *reply.rcode_mut() = RCODE::NameError,
    }
    reply.build_bytes_vec().unwrap()
}
