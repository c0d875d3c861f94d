//! Clients that show at the door who they are.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, SanType};
use serde_json::Value;

use crate::support::*;

/// A world whose door asks for certificates of `clients`, and knows who shows one by this setting.
fn world(setting: &str) -> (World, Authority, PathBuf) {
    let mut made = None;
    let world = World::with(BEARER, canary(), |home, _| {
        let ca = Authority::new(&home.work(), "listener");
        let clients = Authority::new(&home.work(), "clients");
        let issued = ca.issue("proxy");
        home.set(&format!(
            "proxy.tls: {{certificate: '{}', key: '{}', client_ca: '{}', client_auth: optional}}",
            issued.certificate.display(),
            issued.key.display(),
            clients.file.display(),
        ));
        home.set(&format!("identity.client_certificates: {setting}"));
        home.locum(&["agent", "add", "writer", "--no-token"]).ok();
        made = Some((clients, ca.file));
    });
    let (clients, ca) = made.unwrap();
    (world, clients, ca)
}

const SPIFFE: &str = "{name: spiffe, trust_domain: prod.example, \
                      map: [{match: 'spiffe://prod.example/ns/agents/sa/*', agent: '{1}'}]}";

fn uris(all: &[&str]) -> impl FnOnce(&mut CertificateParams) {
    let all = all.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    |params| params.subject_alt_names = all
}

fn ask(field: &str) -> String {
    format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n{field}\r\n")
}

fn credentials(authorization: &str) -> String {
    ask(&format!("Proxy-Authorization: {authorization}\r\n"))
}

#[track_caller]
fn door(world: &World, config: &rustls::ClientConfig) -> Wire {
    world.serve.wire().tls_with("127.0.0.1", config.clone()).unwrap()
}

/// What a client that comes anew hears; none where TLS ends first. Under TLS 1.3 the client is done before its
/// certificate is looked at: the alert may come at the hello, the request or the answer.
fn knock(world: &World, config: &rustls::ClientConfig) -> Option<u16> {
    let mut wire = world.serve.wire().tls_with("127.0.0.1", config.clone()).ok()?;
    wire.try_send(ask("").as_bytes()).ok()?;
    wire.try_answer("CONNECT").ok().map(|answer| answer.status)
}

#[track_caller]
fn through(world: &World, mut wire: Wire, connect: String) -> Wire {
    let answer = wire.ask(connect);
    assert_eq!(answer.status, 200, "{}", answer.text());
    wire.tls(HOST, &world.home.ca()).unwrap()
}

#[test]
fn a_spiffe_id_says_who_calls_and_no_password_is_needed() {
    let (world, clients, ca) = world(SPIFFE);
    let writer = "spiffe://prod.example/ns/agents/sa/writer";
    let config = clients.issue_with("writer", uris(&[writer])).client(&ca);
    let get = |path: &str, config: &rustls::ClientConfig, connect: String| -> Value {
        let mut wire = through(&world, door(&world, config), connect);
        assert_eq!(wire.ask(request("GET", path, &[AUTHORIZED], "")).status, 200);
        world.home.accesses_to(path).remove(0)
    };
    let record = get("/bare", &config, ask(""));
    assert_eq!(record["agent"], "writer");
    assert_eq!(record["authenticated_by"], "client-certificate");
    assert_eq!(record["client_certificate"]["subject"], writer);
    let serial = record["client_certificate"]["serial"].as_str().unwrap();
    assert_eq!(record["token_id"], format!("serial:{serial}"));
    // The second time the TLS session may be resumed, and the certificate not sent again.
    let record = get("/run", &config, credentials(&basic("writer+run=42", "")));
    assert_eq!((&record["agent"], &record["run"]), (&"writer".into(), &"42".into()));
    assert_eq!(record["client_certificate"]["serial"], serial);
    let status =
        |config: &rustls::ClientConfig, connect: String| door(&world, config).ask(connect).status;
    assert_eq!(status(&config, credentials(&basic("worker", ""))), 407, "another agent's name");
    assert_eq!(status(&config, credentials(&basic("writer", "wrong"))), 407, "a wrong password");
    // A token goes before it, as the order says, and the record has both.
    let record = get("/token", &config, credentials(&world.agent.authorization()));
    assert_eq!(record["authenticated_by"], "token");
    assert_eq!(record["client_certificate"]["subject"], writer);
    // What is nobody's opens the door, and no more.
    for (name, uris_of) in [
        ("other-domain", &["spiffe://test.example/ns/agents/sa/writer"][..]),
        ("other-path", &["spiffe://prod.example/ns/other/sa/writer"]),
        ("two", &[writer, "spiffe://prod.example/ns/agents/sa/worker"]),
        ("spelled", &["spiffe://prod.example/ns/agents/sa/x/../writer"]),
        ("stranger", &["spiffe://prod.example/ns/agents/sa/stranger"]),
    ] {
        let config = clients.issue_with(name, uris(uris_of)).client(&ca);
        assert_eq!(status(&config, ask("")), 407, "{name}");
        let by_token = credentials(&world.agent.authorization());
        assert_eq!(status(&config, by_token), 200, "{name}");
    }
    // A certificate of another CA does not even do that.
    let strangers = Authority::new(&world.home.work(), "strangers");
    let config = strangers.issue_with("forged", uris(&[writer])).client(&ca);
    assert!(knock(&world, &config).is_none());
    assert_eq!(status(&client_config(&ca), ask("")), 407, "without a certificate");
    // The refusal, too, has what was shown.
    let refused = world.home.audit();
    let refused = refused.iter().filter(|record| record["code"] == "proxy-auth-required");
    assert!(refused.into_iter().any(|r| r["client_certificate"]["subject"] == writer));
}

#[test]
fn a_certificate_that_has_ended_ends_live_use() {
    let (world, clients, ca) = world(SPIFFE);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let end = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since.as_secs() + 8);
    let writer = clients.issue_with("writer", |params| {
        uris(&["spiffe://prod.example/ns/agents/sa/writer"])(params);
        params.not_after = end;
    });
    let config = writer.client(&ca);
    let mut wire = through(&world, door(&world, &config), ask(""));
    assert_eq!(wire.ask(request("GET", "/", &[AUTHORIZED], "")).status, 200);
    let problem = eventually("the certificate's end", PATIENCE, || {
        let answer = wire.ask(request("GET", "/", &[AUTHORIZED], ""));
        (answer.status != 200).then(|| answer.problem())
    });
    assert_eq!(problem, "agent-revoked");
    // A resumed session shows no certificate anew: it has ended all the same.
    assert_ne!(knock(&world, &config), Some(200));
}

#[test]
fn a_revoked_agent_is_none_by_its_certificate_and_a_mapping_may_be_changed() {
    let (world, clients, ca) = world("{name: cn}");
    let config = clients.issue("writer").client(&ca);
    let mut wire = through(&world, door(&world, &config), ask(""));
    let ended = |wire: &mut Wire| {
        eventually("the end", PATIENCE, || {
            let answer = wire.ask(request("GET", "/", &[AUTHORIZED], ""));
            (answer.status == 403).then_some(())
        });
    };
    world.home.locum(&["agent", "revoke", "writer"]).ok();
    ended(&mut wire);
    assert_eq!(door(&world, &config).ask(ask("")).status, 407);
    world.home.locum(&["agent", "add", "writer", "--no-token"]).ok();
    let mut wire = through(&world, door(&world, &config), ask(""));
    world.home.set("identity.client_certificates: {name: dns}");
    ended(&mut wire);
}

/// The list of revoked certificates of the world's clients, in force from the start.
fn world_with_list() -> (World, Authority, PathBuf, PathBuf) {
    let mut made = None;
    let world = World::with(BEARER, canary(), |home, _| {
        let ca = Authority::new(&home.work(), "listener");
        let clients = Authority::new(&home.work(), "clients");
        let issued = ca.issue("proxy");
        let list = home.work().join("revoked.pem");
        clients.revoke(&list, &[], 600);
        home.set(&format!(
            "proxy.tls: {{certificate: '{}', key: '{}', client_ca: '{}', client_crl: '{}'}}",
            issued.certificate.display(),
            issued.key.display(),
            clients.file.display(),
            list.display(),
        ));
        home.set("identity.client_certificates: {name: cn}");
        home.locum(&["agent", "add", "writer", "--no-token"]).ok();
        made = Some((clients, ca.file, list));
    });
    let (clients, ca, list) = made.unwrap();
    (world, clients, ca, list)
}

/// Whether the door opens to a client that comes anew.
fn opens(world: &World, config: &rustls::ClientConfig) -> bool {
    knock(world, config) == Some(200)
}

#[track_caller]
fn ends(wire: &mut Wire) {
    eventually("the end", PATIENCE, || {
        let answer = wire.ask(request("GET", "/", &[AUTHORIZED], ""));
        (answer.status == 403).then(|| assert_eq!(answer.problem(), "agent-revoked"))
    });
}

#[test]
fn what_its_ca_has_revoked_ends_in_open_tunnels_and_opens_no_door() {
    let (world, clients, ca, list) = world_with_list();
    let config = clients.issue("writer").client(&ca);
    let other = clients.issue_with("writer-again", |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "writer");
    });
    let other = other.client(&ca);
    let mut wire = through(&world, door(&world, &config), ask(""));
    assert_eq!(wire.ask(request("GET", "/mine", &[AUTHORIZED], "")).status, 200);
    let record = world.home.accesses_to("/mine").remove(0);
    let serial = record["client_certificate"]["serial"].as_str().unwrap().to_owned();
    clients.revoke(&list, &[&serial], 600);
    ends(&mut wire);
    // Also where the TLS session could be resumed, and the certificate would not be shown anew.
    assert!(!opens(&world, &config));
    assert!(opens(&world, &other), "another certificate of the same agent");
    // The list is taken back: so is what it said.
    clients.revoke(&list, &[], 600);
    eventually("the new list", PATIENCE, || opens(&world, &config).then_some(()));
}

#[test]
fn a_ca_that_is_taken_out_ends_what_came_by_it() {
    let (world, clients, ca) = world("{name: cn}");
    let others = Authority::new(&world.home.work(), "others");
    let both = |all: &[&Authority]| {
        let pems = all.iter().map(|one| std::fs::read_to_string(&one.file).unwrap());
        pems.collect::<String>()
    };
    let (own, all) = (both(&[&clients]), both(&[&clients, &others]));
    let door_believes = |pem: &str| {
        let beside = clients.file.with_extension("new");
        std::fs::write(&beside, pem).unwrap();
        std::fs::rename(&beside, &clients.file).unwrap();
    };
    door_believes(&all);
    let config = others.issue_with("other-writer", named("writer")).client(&ca);
    eventually("the second CA", PATIENCE, || opens(&world, &config).then_some(()));
    let stays = clients.issue("writer").client(&ca);
    // By the certificate, and by a token through the door that it opened.
    let by_token = || credentials(&world.agent.authorization());
    let mut gone =
        [ask(""), by_token()].map(|connect| through(&world, door(&world, &config), connect));
    let mut left =
        [ask(""), by_token()].map(|connect| through(&world, door(&world, &stays), connect));
    let get = request("GET", "/", &[AUTHORIZED], "");
    for wire in gone.iter_mut().chain(&mut left) {
        assert_eq!(wire.ask(&get).status, 200);
    }
    // A connection that has not asked for anything yet.
    let mut waits = door(&world, &config);
    // One that cannot be read takes nothing back.
    door_believes("nothing");
    eventually("the complaint", PATIENCE, || {
        world.serve.log().contains("the new certificate cannot be used").then_some(())
    });
    assert_eq!(gone[0].ask(&get).status, 200);
    door_believes(&own);
    gone.iter_mut().for_each(ends);
    assert_eq!(waits.ask(ask("")).status, 407);
    assert!(!opens(&world, &config), "nor by a session that is resumed");
    for wire in &mut left {
        assert_eq!(wire.ask(&get).status, 200);
    }
    assert!(opens(&world, &stays));
}

/// With this common name.
fn named(name: &'static str) -> impl FnOnce(&mut CertificateParams) {
    move |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
    }
}

/// A tunnel that nothing is asked in any more: the proxy does not look into it.
#[track_caller]
fn opaque(world: &World, config: &rustls::ClientConfig) -> Wire {
    world.home.reach_as("opaque.test", world.origin.address, None);
    let connect = "CONNECT opaque.test:443 HTTP/1.1\r\nHost: opaque.test:443\r\n\r\n";
    eventually("the host is known", PATIENCE, || {
        let mut wire = door(world, config);
        (wire.ask(connect).status == 200).then_some(wire)
    })
}

#[test]
fn what_goes_through_a_tunnel_ends_by_itself_when_a_ca_or_a_list_says_so() {
    let (world, clients, ca, list) = world_with_list();
    let config = clients.issue("writer").client(&ca);
    let mut wire = through(&world, door(&world, &config), ask(""));
    assert_eq!(wire.ask(request("GET", "/mine", &[AUTHORIZED], "")).status, 200);
    let record = world.home.accesses_to("/mine").remove(0);
    let serial = record["client_certificate"]["serial"].as_str().unwrap().to_owned();
    let mut wire = opaque(&world, &config);
    clients.revoke(&list, &[&serial], 600);
    wire.until_closed();
    let (world, clients, ca) = self::world("{name: cn}");
    let mut wire = opaque(&world, &clients.issue("writer").client(&ca));
    let strangers = Authority::new(&world.home.work(), "strangers");
    std::fs::rename(&strangers.file, &clients.file).unwrap();
    wire.until_closed();
}

#[test]
fn a_list_that_has_run_out_lets_nobody_in_and_says_so() {
    let (world, clients, ca, list) = world_with_list();
    let config = clients.issue("writer").client(&ca);
    let mut wire = through(&world, door(&world, &config), ask(""));
    assert_eq!(wire.ask(request("GET", "/", &[AUTHORIZED], "")).status, 200);
    assert_eq!(world.serve.metric("locum_reload_success{what=\"certificate\"}"), 1);
    clients.revoke(&list, &[], -60);
    ends(&mut wire);
    assert!(!opens(&world, &config));
    let said = "the revocation list has run out: no certificate of its CA is let in until there is a new one";
    eventually("the log", PATIENCE, || world.serve.log().contains(said).then_some(()));
    eventually("the metric", PATIENCE, || {
        (world.serve.metric("locum_reload_success{what=\"certificate\"}") == 0).then_some(())
    });
    let events = world.home.audit();
    assert_eq!(events.iter().filter(|r| r["event"] == "revocation-list-run-out").count(), 1);
    // A file that is no list leaves the last one in force.
    std::fs::write(&list, "nothing").unwrap();
    eventually("the complaint", PATIENCE, || {
        world.serve.log().contains("holds no certificate revocation list").then_some(())
    });
    assert!(!opens(&world, &config));
    clients.revoke(&list, &[], 600);
    eventually("the new list", PATIENCE, || opens(&world, &config).then_some(()));
    eventually("the metric", PATIENCE, || {
        (world.serve.metric("locum_reload_success{what=\"certificate\"}") == 1).then_some(())
    });
}

/// A world whose door believes the home's own CA for agents.
fn world_with_own_ca() -> (World, PathBuf) {
    let mut made = None;
    let world = World::with(BEARER, canary(), |home, _| {
        let ca = Authority::new(&home.work(), "listener");
        let issued = ca.issue("proxy");
        home.locum(&["agent", "add", "writer", "--no-token"]).ok();
        // The first one makes the CA.
        home.locum(&["agent", "certificate", "writer"]).ok();
        home.set(&format!(
            "proxy.tls: {{certificate: '{}', key: '{}', client_ca: agents-ca.pem}}",
            issued.certificate.display(),
            issued.key.display(),
        ));
        home.set(
            "identity.client_certificates: {name: spiffe, trust_domain: locum, \
             map: [{match: 'spiffe://locum/agent/*', agent: '{1}'}]}",
        );
        made = Some(ca.file);
    });
    (world, made.unwrap())
}

/// What `agent certificate` made, and its serial number.
fn issue(world: &World, more: &[&str]) -> (Issued, String) {
    let all = [&["agent", "certificate", "writer", "--json"], more].concat();
    let made: Value = serde_json::from_str(&world.home.locum(&all).ok().out).unwrap();
    let file = |key: &str| world.home.work().join(made[key].as_str().unwrap_or("./none"));
    let issued = Issued { certificate: file("certificate"), key: file("key") };
    (issued, made["serial"].as_str().unwrap().to_owned())
}

#[test]
fn a_home_issues_certificates_to_its_agents_and_takes_them_back() {
    let (world, trusted) = world_with_own_ca();
    let (first, serial) = issue(&world, &["--ttl", "1h"]);
    let config = first.client(&trusted);
    let (again, _) = issue(&world, &[]);
    let other = again.client(&trusted);
    let mut wire = through(&world, door(&world, &config), ask(""));
    assert_eq!(wire.ask(request("GET", "/own", &[AUTHORIZED], "")).status, 200);
    let record = world.home.accesses_to("/own").remove(0);
    assert_eq!(record["agent"], "writer");
    assert_eq!(record["client_certificate"]["subject"], "spiffe://locum/agent/writer");
    assert_eq!(record["token_id"], format!("serial:{serial}"));
    let issued = world.home.audit();
    let issued = issued.iter().find(|record| record["event"] == "certificate-issued").unwrap();
    assert!(issued["subject"].as_str().unwrap().starts_with("writer serial:"), "{issued}");
    // As other tools write a serial number.
    let pairs: Vec<&str> = (0..serial.len()).step_by(2).map(|at| &serial[at..at + 2]).collect();
    let colons = pairs.join(":").to_uppercase();
    let revoked = world.home.locum(&["agent", "revoke", "writer", "--certificate", &colons]).ok();
    assert_eq!(revoked.out, format!("revoked serial:{serial} of writer\n"));
    ends(&mut wire);
    assert!(!opens(&world, &config));
    assert!(opens(&world, &other));
    // The CA's key, and nobody's, is anywhere.
    let ca = std::fs::read_to_string(world.home.path().join("agents-ca.pem")).unwrap();
    assert!(ca.starts_with("-----BEGIN CERTIFICATE-----") && !ca.contains("PRIVATE"));
    world.home.locum(&["agent", "revoke", "writer"]).ok();
    let refused = world.home.locum(&["agent", "certificate", "writer"]).failed(1);
    assert!(refused.err.contains("the agent writer was revoked"), "{}", refused.err);
    // The name is given again, and what was issued by it before is not good again.
    world.home.locum(&["agent", "add", "writer", "--no-token"]).ok();
    let (new, _) = issue(&world, &[]);
    eventually("the end of the old one", PATIENCE, || (!opens(&world, &other)).then_some(()));
    eventually("the new agent", PATIENCE, || opens(&world, &new.client(&trusted)).then_some(()));
    assert!(!opens(&world, &other) && !opens(&world, &config));
    let refused = world.home.locum(&["agent", "certificate", "nobody"]).failed(1);
    assert!(refused.err.contains("locum agent add nobody --no-token"), "{}", refused.err);
}

#[test]
fn openssl_makes_a_request_and_takes_what_comes_of_it() {
    let (world, ca) = world_with_own_ca();
    let work = world.home.work();
    let key = work.join("own.key");
    let csr = work.join("own.csr");
    command_output(
        std::process::Command::new("openssl")
            .args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
            .args(["-subj", "/CN=admin", "-addext", "subjectAltName=DNS:evil.test", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&csr),
    );
    let (issued, _) = issue(&world, &["--csr", csr.to_str().unwrap()]);
    let issued = Issued { key, ..issued };
    assert!(opens(&world, &issued.client(&ca)));
    let text = command_output(
        std::process::Command::new("openssl")
            .args(["x509", "-noout", "-text", "-in"])
            .arg(&issued.certificate),
    );
    assert!(
        text.contains("URI:spiffe://locum/agent/writer") && !text.contains("evil.test"),
        "{text}"
    );
    // It verifies by the strictest, for a client, and for nothing else.
    let verify = |purpose: &str| {
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(["verify", "-x509_strict", "-purpose", purpose, "-CAfile"]);
        openssl.arg(world.home.path().join("agents-ca.pem")).arg(&issued.certificate);
        openssl.output().unwrap().status.success()
    };
    assert!(verify("sslclient"));
    assert!(!verify("sslserver"));
}

#[test]
fn settings_that_cannot_be_meant_are_refused_with_their_place() {
    let home = Home::new();
    for (setting, what) in [
        ("{name: spiffe}", "needs its `trust_domain`"),
        ("{name: spiffe, trust_domain: 'spiffe://x'}", "without spiffe://"),
        ("{name: cn, trust_domain: x}", "only a SPIFFE id"),
        ("{name: san}", "`san` is not one of"),
        ("{map: []}", "the key `name` is missing"),
        ("{name: cn}", "no listener asks for a certificate"),
    ] {
        home.set(&format!("identity.client_certificates: {setting}"));
        let ran = home.locum(&["agent", "list"]).failed(64);
        assert!(
            ran.err.contains(what) && ran.err.contains("locum.yaml:"),
            "{setting}: {}",
            ran.err
        );
    }
}
