//! Clients that do not trust the CA: said once, with the fix for that client, and a storm of them
//! costs the handshakes.

use crate::support::*;

/// CONNECT as this program sends it, and then a handshake that its own roots end.
fn distrusting(world: &World, user_agent: &str, roots: &std::path::Path) {
    let authorization = world.agent.authorization();
    let mut wire = world.serve.wire();
    wire.send(format!(
        "CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\nUser-Agent: {user_agent}\r\nProxy-Authorization: {authorization}\r\n\r\n"
    ));
    assert_eq!(wire.answer_to("CONNECT").status, 200);
    assert!(wire.tls(HOST, roots).is_err(), "it does not trust the CA");
}

fn count(world: &World, client: &str) -> u64 {
    let agent = &world.agent.name;
    world
        .serve
        .metric(&format!("locum_untrusted_ca_total{{agent=\"{agent}\",client=\"{client}\"}}"))
}

/// The log's lines at the level at which an operator is told of it.
fn said(world: &World) -> Vec<String> {
    let log = world.serve.log();
    let lines = log.lines().filter(|l| l.contains(" WARN ") && l.contains("does not trust the CA"));
    lines.map(str::to_owned).collect()
}

#[test]
fn a_storm_of_clients_without_the_ca_is_said_once_and_costs_the_handshakes() {
    let other = Origin::start("other.test");
    let world = World::new();
    let storm = |times: usize| {
        for _ in 0..times {
            distrusting(&world, "curl/8.5.0", &other.ca_file());
        }
    };
    storm(100);
    let (resident, lines) = (world.serve.resident(), info_lines(&world));
    storm(400);
    eventually("all to be counted", PATIENCE, || (count(&world, "curl") == 500).then_some(()));
    let grown = world.serve.resident().saturating_sub(resident);
    assert!(grown < 8 * 1024, "it grew by {grown} KiB");
    assert_eq!(info_lines(&world), lines, "no line for each");
    let said = said(&world);
    assert_eq!(said.len(), 1, "{said:#?}");
    assert!(said[0].contains("CURL_CA_BUNDLE") && said[0].contains("unknown_ca"), "{}", said[0]);
    assert_eq!(world.origin.connections(), 0, "nobody called the origin");
    assert_eq!(world.serve.metric("locum_tunnels_open{kind=\"intercepted\"}"), 0);
    let mut audit = world.home.audit();
    audit.retain(|r| r["event"] == "client-distrusts-ca");
    assert_eq!(audit.len(), 1);
    assert_eq!(audit[0]["subject"], "worker");
    assert!(audit[0]["detail"].as_str().unwrap().starts_with("curl at api.test: "));
}

/// Lines that are written by default.
fn info_lines(world: &World) -> usize {
    let log = world.serve.log();
    log.lines().filter(|l| !l.contains(" DEBUG ") && !l.contains(" TRACE ")).count()
}

#[test]
fn each_agent_and_each_kind_of_client_is_told_of_once_and_doctor_knows_them_all() {
    let other = Origin::start("other.test");
    let world = World::new();
    for user_agent in ["curl/8.5.0", "curl/7.1", "git/2.47.3", "Java-http-client/17.0.1"] {
        distrusting(&world, user_agent, &other.ca_file());
    }
    eventually("the counts", PATIENCE, || {
        let all = ["curl", "git", "java"].map(|client| count(&world, client));
        (all == [2, 1, 1]).then_some(())
    });
    assert_eq!(said(&world).len(), 3);
    let doctor = || {
        let ran = world.home.locum(&["doctor", "--json"]);
        let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        let mut all = json["findings"].as_array().unwrap().clone();
        all.retain(|finding| finding["check"] == "clients");
        all
    };
    let all = doctor();
    assert_eq!(all.len(), 3, "{all:#?}");
    for (finding, client, times, fix) in [
        (&all[0], "curl at api.test", "started: 2", "CURL_CA_BUNDLE"),
        (&all[1], "git at api.test", "started: 1", "GIT_SSL_CAINFO"),
        (&all[2], "java at api.test", "started: 1", "trustStore"),
    ] {
        assert_eq!(finding["level"], "warning");
        let what = finding["what"].as_str().unwrap();
        assert!(what.contains(client) && what.contains(times) && what.contains("worker"), "{what}");
        assert!(finding["next"].as_str().unwrap().contains(fix), "{finding}");
    }
    // What was seen survives the proxy; how often does not.
    let World { serve, home, .. } = world;
    serve.stop();
    let ran = home.locum(&["doctor", "--json"]);
    assert!(
        ran.out.contains("git at api.test") && !ran.out.contains("since the proxy started"),
        "{}",
        ran.out
    );
}

#[test]
fn a_client_that_closes_without_a_word_is_told_of_when_it_never_does_anything_else() {
    let world = World::new();
    let ca = world.home.ca();
    let close = || drop(world.serve.tunnel(&world.agent, HOST));
    let unknown = || count(&world, "unknown");
    close();
    close();
    // Two may be connections that were not needed.
    assert_eq!(unknown(), 0);
    close();
    eventually("the third", PATIENCE, || (unknown() == 1).then_some(()));
    assert_eq!(world.get("/v1/x").status, 200);
    for _ in 0..5 {
        close();
    }
    // wget, with GnuTLS: it completes TLS 1.3 and closes.
    let authorization = world.agent.authorization();
    let mut wire = world.serve.wire();
    wire.send(format!(
        "CONNECT {HOST}:443 HTTP/1.1\r\nUser-Agent: Wget/1.21.3\r\nProxy-Authorization: {authorization}\r\nHost: {HOST}:443\r\n\r\n"
    ));
    assert_eq!(wire.answer_to("CONNECT").status, 200);
    drop(wire.tls(HOST, &ca).unwrap());
    eventually("wget", PATIENCE, || (count(&world, "wget") == 1).then_some(()));
    assert_eq!(unknown(), 1, "an agent that makes requests there trusts the CA");
    let said = said(&world);
    assert_eq!(said.len(), 2, "{said:#?}");
    assert!(said[1].contains("WGETRC"), "{}", said[1]);
}
