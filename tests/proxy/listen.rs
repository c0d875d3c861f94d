//! The doors: TLS with and without client certificates, several of them, Unix sockets.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::support::*;

/// A world whose proxy has TLS on its port; the settings of `tls` beside its certificate.
fn with_tls(more: &str) -> (World, Authority) {
    let mut authority = None;
    let world = World::with(BEARER, canary(), |home, _| {
        let ca = Authority::new(&home.work(), "listener");
        set_tls(home, &ca.issue("proxy"), more);
        authority = Some(ca);
    });
    (world, authority.unwrap())
}

fn set_tls(home: &Home, issued: &Issued, more: &str) {
    let (certificate, key) = (issued.certificate.display(), issued.key.display());
    home.set(&format!("proxy.tls: {{certificate: '{certificate}', key: '{key}'{more}}}"));
}

/// Through a TLS door that believes this client, one authorized GET in an intercepted tunnel.
fn get_through(world: &World, door: std::io::Result<Wire>) -> Answer {
    let mut wire = door.expect("TLS with the proxy itself");
    let answer = wire.ask(connect("api.test:443", &world.agent.authorization()));
    assert_eq!(answer.status, 200);
    let mut wire = wire.tls(HOST, &world.home.ca()).expect("TLS in TLS");
    wire.ask(request("GET", "/v1/models", &[AUTHORIZED], ""))
}

#[test]
fn tls_at_the_door_and_tls_inside() {
    let free = Origin::start("free.test");
    let mut ca = None;
    let world = World::with(BEARER, canary(), |home, _| {
        home.reach(&free);
        let authority = Authority::new(&home.work(), "listener");
        set_tls(home, &authority.issue("proxy"), "");
        ca = Some(authority.file);
    });
    let ca = ca.unwrap();
    let door = || world.serve.wire().tls("127.0.0.1", &ca);
    assert_eq!(get_through(&world, door()).status, 200);
    // Opaque too, with both half-closes.
    let mut wire = door().unwrap();
    let answer = wire.ask(connect("free.test:443", &world.agent.authorization()));
    assert_eq!(answer.status, 200);
    let mut wire = wire.tls("free.test", &free.ca_file()).unwrap();
    let answer = wire.ask("GET /open/bytes/1000000 HTTP/1.1\r\nHost: free.test\r\n\r\n");
    assert_eq!(answer.body.len(), 1_000_000);
    drop(wire);
    // A 407 leaves the connection open here as well.
    let mut wire = door().unwrap();
    assert_eq!(wire.ask("CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n").status, 407);
    assert_eq!(wire.ask(connect("api.test:443", &world.agent.authorization())).status, 200);
    // In the clear nothing is answered.
    let mut wire = world.serve.wire();
    wire.send(connect("api.test:443", &world.agent.authorization()));
    let said = wire.until_closed();
    assert!(!said.starts_with(b"HTTP"), "{said:?}");
    let access = world.home.accesses_to("/v1/models").remove(0);
    assert!(access["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{access}");
    world.never_leaks(&[]);
}

#[test]
fn whoever_is_slow_at_a_tls_door_is_let_go_of() {
    let (world, ca) = {
        let mut authority = None;
        let world = World::with(BEARER, canary(), |home, _| {
            for limit in ["head_time", "handshake", "idle_tunnel"] {
                home.set(&format!("limits.{limit}: 500ms"));
            }
            let ca = Authority::new(&home.work(), "listener");
            set_tls(home, &ca.issue("proxy"), "");
            authority = Some(ca);
        });
        (world, authority.unwrap())
    };
    let door = || world.serve.wire().tls("127.0.0.1", &ca.file).unwrap();
    let after = |mut wire: Wire, bytes: &[u8]| {
        wire.send(bytes);
        wire
    };
    let opened = || {
        let mut wire = door();
        assert_eq!(wire.ask(connect("api.test:443", &world.agent.authorization())).status, 200);
        wire
    };
    for (name, mut wire) in [
        ("no handshake", world.serve.wire()),
        ("half a handshake", after(world.serve.wire(), b"\x16\x03\x01\x02\x00\x01\x00")),
        ("no request", door()),
        ("half a CONNECT", after(door(), b"CONNECT api.test:443 HTTP/1.1\r\nHo")),
        ("nothing in the tunnel", opened()),
        ("no request in the tunnel", opened().tls(HOST, &world.home.ca()).unwrap()),
    ] {
        let rest = wire.until_closed();
        let said = String::from_utf8_lossy(&rest);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{name}: {said}");
    }
    let wire = world.serve.wire().tls("127.0.0.1", &ca.file);
    assert_eq!(get_through(&world, wire).status, 200);
}

#[test]
fn client_certificates_are_required_or_asked_for() {
    for (setting, without) in
        [("", false), (", client_auth: required", false), (", client_auth: optional", true)]
    {
        let mut made = None;
        let world = World::with(BEARER, canary(), |home, _| {
            let ca = Authority::new(&home.work(), "listener");
            let clients = Authority::new(&home.work(), "clients");
            let more = format!(", client_ca: '{}'{setting}", clients.file.display());
            set_tls(home, &ca.issue("proxy"), &more);
            let strangers = Authority::new(&home.work(), "strangers");
            made = Some((ca.file, clients.issue("client"), strangers.issue("stranger")));
        });
        let (ca, client, stranger) = made.unwrap();
        let door = |config| world.serve.wire().tls_with("127.0.0.1", config);
        assert_eq!(get_through(&world, door(client.client(&ca))).status, 200, "{setting}");
        let enters = |config| {
            // In TLS 1.3 the refusal comes after the client's own handshake.
            let Ok(mut wire) = door(config) else { return false };
            let sent =
                wire.try_send(connect("api.test:443", &world.agent.authorization()).as_bytes());
            sent.is_ok() && wire.try_answer("CONNECT").is_ok_and(|answer| answer.status == 200)
        };
        assert_eq!(enters(client_config(&ca)), without, "{setting}");
        assert!(!enters(stranger.client(&ca)), "{setting}");
        // The certificate opens the door, and is nobody's identity.
        let mut wire = door(client.client(&ca)).unwrap();
        let anonymous = "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n";
        assert_eq!(wire.ask(anonymous).status, 407);
    }
}

#[test]
fn a_renewed_certificate_is_shown_and_a_bad_one_is_not() {
    let (world, ca) = with_tls("");
    let shown = || {
        let wire = world.serve.wire().tls("127.0.0.1", &ca.file).unwrap();
        wire.certificates().remove(0)
    };
    // One connection that lives through all of it.
    let mut wire = world.serve.wire().tls("127.0.0.1", &ca.file).unwrap();
    assert_eq!(wire.ask(connect("api.test:443", &world.agent.authorization())).status, 200);
    let mut wire = wire.tls(HOST, &world.home.ca()).unwrap();
    let first = shown();
    ca.issue("proxy");
    eventually("the renewed certificate", PATIENCE, || (shown() != first).then_some(()));
    let second = shown();
    let good = "locum_reload_success{what=\"certificate\"}";
    assert_eq!(world.serve.metric(good), 1);
    // The key of another: the last good pair stays.
    let key = world.home.work().join("proxy.key");
    let saved = std::fs::read(&key).unwrap();
    let other = Authority::new(&world.home.work(), "other").issue("other");
    std::fs::copy(&other.key, &key).unwrap();
    eventually("the metric", PATIENCE, || {
        world.serve.metrics().contains(&format!("{good} 0")).then_some(())
    });
    assert_eq!(shown(), second);
    assert!(world.serve.log().contains("does not belong to the certificate"));
    let beside = key.with_extension("saved");
    std::fs::write(&beside, saved).unwrap();
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(&beside, &key).unwrap();
    eventually("the metric", PATIENCE, || (world.serve.metric(good) == 1).then_some(()));
    assert_eq!(shown(), second);
    assert_eq!(wire.ask(request("GET", "/late", &[AUTHORIZED], "")).status, 200);
    let events: Vec<Value> = world.home.audit();
    let count = |name: &str| events.iter().filter(|e| e["event"] == name).count();
    assert_eq!(count("certificate-rejected"), 1);
    assert!(count("certificate-reloaded") >= 2);
}

#[test]
fn a_listener_without_a_usable_certificate_does_not_start() {
    let home = Home::new();
    let ca = Authority::new(&home.work(), "listener");
    let issued = ca.issue("proxy");
    let refused = |what: &str| {
        let ran = home.locum(&["serve"]).failed(64);
        assert!(ran.err.contains(what), "{what}: {}", ran.err);
    };
    set_tls(&home, &issued, ", client_ca: absent.pem");
    refused("absent.pem");
    let not_pem = home.work().join("empty.pem");
    std::fs::write(&not_pem, "").unwrap();
    set_tls(&home, &issued, &format!(", client_ca: '{}'", not_pem.display()));
    refused("client CA");
    set_tls(&home, &Issued { key: ca.issue("other").key, ..issued.clone() }, "");
    refused("does not belong");
    set_tls(&home, &issued, "");
    std::fs::set_permissions(&issued.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    refused("chmod 600");
}

#[test]
fn several_doors_at_once_and_each_with_its_own_lock() {
    let mut made = None;
    let world = World::with(BEARER, canary(), |home, _| {
        let ca = Authority::new(&home.work(), "listener");
        set_tls(home, &ca.issue("proxy"), "");
        let own = ca.issue("own");
        let socket = home.work().join("proxy.sock");
        home.set(&format!(
            "proxy.listen: [{{address: '127.0.0.1:0', tls: off}}, '127.0.0.1:0', \
             {{address: '127.0.0.1:0', tls: {{certificate: '{}', key: '{}'}}}}, 'unix:{}']",
            own.certificate.display(),
            own.key.display(),
            socket.display(),
        ));
        made = Some((ca.file, socket));
    });
    let (ca, socket) = made.unwrap();
    let serving = world.home.path().join("serve.json");
    let serving: Value = serde_json::from_slice(&std::fs::read(serving).unwrap()).unwrap();
    assert_eq!(serving["proxy"].as_array().unwrap().len(), 1);
    assert_eq!(serving["unix"][0], socket.to_str().unwrap());
    let own = serving["tls"].as_array().unwrap();
    assert_eq!(own.len(), 2);
    let leaf = |address: &Value| {
        let wire = Wire::plain(address.as_str().unwrap().parse().unwrap());
        wire.tls("127.0.0.1", &ca).unwrap().certificates().remove(0)
    };
    assert_ne!(leaf(&own[0]), leaf(&own[1]));
    assert_eq!(world.get("/clear").status, 200);
    for address in own {
        let wire = Wire::plain(address.as_str().unwrap().parse().unwrap());
        assert_eq!(get_through(&world, wire.tls("127.0.0.1", &ca)).status, 200);
    }
    assert_eq!(get_through(&world, Wire::try_unix(&socket)).status, 200);
    let doctor = world.home.locum(&["doctor"]);
    assert!(doctor.out.contains("with TLS") && doctor.out.contains("unix:"), "{}", doctor.out);
}

fn unix_home() -> (Home, PathBuf) {
    let home = Home::new();
    let socket = home.work().join("s");
    home.set(&format!("proxy.listen: 'unix:{}'", socket.display()));
    (home, socket)
}

#[test]
fn a_unix_socket_is_its_owners_and_its_peer_is_a_user() {
    let home = Home::new();
    let socket = home.work().join("s");
    home.set(&format!("proxy.listen: 'unix:{}'", socket.display()));
    let origin = Origin::start(HOST);
    let key = canary();
    origin.accept(&key);
    home.reach(&origin);
    home.add("main", BEARER, &key);
    let agent = home.agent("worker");
    let serve = home.serve();
    assert_eq!(std::fs::metadata(&socket).unwrap().mode() & 0o777, 0o600);
    let mut wire = Wire::try_unix(&socket).unwrap();
    assert_eq!(wire.ask(connect("api.test:443", &agent.authorization())).status, 200);
    let mut wire = wire.tls(HOST, &home.ca()).unwrap();
    assert_eq!(wire.ask(request("GET", "/v1/models", &[AUTHORIZED], "")).status, 200);
    let uid = std::fs::metadata(home.path()).unwrap().uid();
    let access = home.accesses_to("/v1/models").remove(0);
    assert_eq!(access["peer"], format!("unix:uid={uid}"));
    // Whoever did not authenticate is on record by the user as well.
    let mut wire = Wire::try_unix(&socket).unwrap();
    assert_eq!(wire.ask(connect("api.test:443", &basic("worker", "wrong"))).status, 407);
    eventually("its record", PATIENCE, || {
        let audit = home.audit();
        let refused = audit.iter().find(|r| r["code"] == "proxy-auth-required")?;
        (refused["peer"] == format!("unix:uid={uid}")).then_some(())
    });
    serve.stop();
    assert!(!socket.exists(), "a socket goes with its proxy");
    home.never_leaks(&[&key], &[]);
}

#[test]
fn a_unix_socket_of_a_dead_process_is_replaced_and_of_a_live_one_is_not() {
    let (home, socket) = unix_home();
    let serve = home.serve();
    serve.kill();
    assert!(socket.exists(), "a killed process leaves its socket");
    home.serve().stop();
    // Another program listens there.
    let live = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let ran = home.locum(&["serve"]).failed(1);
    assert!(ran.err.contains("another process listens"), "{}", ran.err);
    drop(live);
    std::fs::remove_file(&socket).unwrap();
    std::fs::write(&socket, "precious").unwrap();
    let ran = home.locum(&["serve"]).failed(1);
    assert!(ran.err.contains("is no socket"), "{}", ran.err);
    assert_eq!(std::fs::read(&socket).unwrap(), b"precious");
}

#[test]
fn a_unix_socket_has_the_mode_that_it_is_given() {
    let home = Home::new();
    let socket = home.work().join("s");
    home.set(&format!("proxy.listen: {{address: 'unix:{}', mode: '0660'}}", socket.display()));
    let _serve = home.serve();
    assert_eq!(std::fs::metadata(&socket).unwrap().mode() & 0o777, 0o660);
}

#[test]
fn curl_speaks_to_a_tls_door() {
    let (world, ca) = with_tls("");
    let proxy = world.agent.proxy_url(world.serve.proxy).replace("http://", "https://");
    for tunnel in ["https://api.test/v1/models", "https://api.test/open/bytes/300000"] {
        let mut curl = Command::new("curl");
        world.home.clean(&mut curl);
        curl.args(["-sS", "--fail", "--proxy", &proxy, "--proxy-cacert"]).arg(&ca.file);
        curl.arg("--cacert").arg(world.home.ca());
        curl.args(["-H", AUTHORIZED, tunnel]);
        run(&mut curl, b"").ok();
    }
    // Without the CA of the door it stays outside.
    let mut curl = Command::new("curl");
    world.home.clean(&mut curl);
    curl.args(["-sS", "--proxy", &proxy, "https://api.test/v1/models"]);
    assert_ne!(run(&mut curl, b"").code, 0);
    assert_eq!(world.origin.seen().len(), 2);
}
