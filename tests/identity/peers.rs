//! Processes behind a Unix socket, known by their user and group.

use std::path::PathBuf;

use crate::support::*;

fn uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// A world with a port and a socket, whose processes of this test's user are the agent `local`.
fn world(order: &str) -> (World, PathBuf) {
    let mut made = None;
    let world = World::with(BEARER, canary(), |home, _| {
        let socket = home.work().join("proxy.sock");
        home.set(&format!("proxy.listen: ['127.0.0.1:0', 'unix:{}']", socket.display()));
        home.set(&format!("identity.unix_peers: [{{user: {}, agent: local}}]", uid()));
        if !order.is_empty() {
            home.set(&format!("proxy.authenticate: {order}"));
        }
        home.locum(&["agent", "add", "local", "--no-token"]).ok();
        made = Some(socket);
    });
    (world, made.unwrap())
}

fn knock(field: &str) -> String {
    format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n{field}\r\n")
}

fn credentials(authorization: &str) -> String {
    knock(&format!("Proxy-Authorization: {authorization}\r\n"))
}

#[test]
fn a_process_needs_no_token_where_its_user_is_known() {
    let (world, socket) = world("");
    let through = |path: &str, ask: String| {
        let mut wire = Wire::try_unix(&socket).unwrap();
        assert_eq!(wire.ask(ask).status, 200, "{path}");
        let mut wire = wire.tls(HOST, &world.home.ca()).unwrap();
        assert_eq!(wire.ask(request("GET", path, &[AUTHORIZED], "")).status, 200);
        let record = world.home.accesses_to(path).remove(0);
        ["agent", "authenticated_by", "token_id", "run", "peer"]
            .map(|field| record[field].as_str().unwrap_or("").to_owned())
    };
    let (id, peer) = (format!("uid:{}", uid()), format!("unix:uid={}", uid()));
    let expected = |run: &str| ["local", "unix-peer", &id, run, &peer].map(str::to_owned);
    assert_eq!(through("/bare", knock("")), expected(""));
    // It may say of which run it is; the password is left empty.
    assert_eq!(through("/run", credentials(&basic("local+run=42", ""))), expected("42"));
    // A token goes before, as the order says.
    let by_token = through("/token", credentials(&world.agent.authorization()));
    assert_eq!(by_token[..2], ["worker".to_owned(), "token".to_owned()]);
    // The port knows nobody by his user.
    assert_eq!(world.serve.wire().ask(knock("")).status, 407);
    assert_eq!(world.serve.wire().ask(credentials(&basic("local", ""))).status, 407);
}

#[test]
fn a_process_is_nobody_else_and_a_wrong_token_does_not_fall_back() {
    let (world, socket) = world("");
    let status = |authorization: &str| {
        Wire::try_unix(&socket).unwrap().ask(credentials(authorization)).status
    };
    assert_eq!(status(&basic("worker", "")), 407, "another agent's name");
    assert_eq!(status(&basic("local", "wrong")), 407, "a password is judged as one");
    assert_eq!(status(&basic("local", &world.agent.token)), 407);
    assert_eq!(status("Basic !!!"), 407);
    assert_eq!(status(&basic("local", "")), 200);
}

#[test]
fn the_order_says_whether_the_socket_or_the_token_decides() {
    let (world, socket) = world("[unix-peers, tokens]");
    let ask = |authorization: &str| {
        Wire::try_unix(&socket).unwrap().ask(credentials(authorization)).status
    };
    // The process is `local`, whatever token it has of another.
    assert_eq!(ask(&world.agent.authorization()), 407);
    assert_eq!(Wire::try_unix(&socket).unwrap().ask(knock("")).status, 200);
    // Where the socket says nothing, the token does.
    let mut wire = world.serve.wire();
    assert_eq!(wire.ask(credentials(&world.agent.authorization())).status, 200);
}

#[test]
fn it_ends_with_its_agent_and_with_its_rule() {
    let (world, socket) = world("");
    let open = || {
        let mut wire = Wire::try_unix(&socket).unwrap();
        assert_eq!(wire.ask(knock("")).status, 200);
        let mut wire = wire.tls(HOST, &world.home.ca()).unwrap();
        assert_eq!(wire.ask(request("GET", "/", &[AUTHORIZED], "")).status, 200);
        wire
    };
    let ended = |wire: &mut Wire| {
        let answer = eventually("the end", PATIENCE, || {
            let answer = wire.ask(request("GET", "/", &[AUTHORIZED], ""));
            (answer.status != 200).then_some(answer)
        });
        assert_eq!(answer.problem(), "agent-revoked");
    };
    let mut wire = open();
    world.home.locum(&["agent", "revoke", "local"]).ok();
    ended(&mut wire);
    assert_eq!(Wire::try_unix(&socket).unwrap().ask(knock("")).status, 407);
    world.home.locum(&["agent", "add", "local", "--no-token"]).ok();
    let mut wire = open();
    world.home.set(&format!("identity.unix_peers: [{{user: {}, agent: local}}]", uid() + 1));
    ended(&mut wire);
    assert_eq!(Wire::try_unix(&socket).unwrap().ask(knock("")).status, 407);
    world.never_leaks(&[]);
}

#[test]
fn users_and_groups_may_be_named_and_mistakes_have_their_place() {
    let home = Home::new();
    let check = |peers: &str| {
        home.set(&format!("identity.unix_peers: [{peers}]"));
        let ran = home.locum(&["agent", "list"]);
        ran.out + &ran.err
    };
    assert!(!check("{user: root, group: root, agent: a}").contains("unix_peers"));
    for (peers, what) in [
        ("{user: nobody-of-this-name, agent: a}", "knows no user of this name"),
        ("{group: nobody-of-this-name, agent: a}", "knows no group of this name"),
        ("{agent: a}", "expected a `user`, a `group`, or both"),
        ("{user: 1}", "the key `agent` is missing"),
        ("{user: 65534, agent: a}", "stands for every user that the kernel cannot name"),
        ("{user: -1, agent: a}", "has to be from 0"),
        ("{user: 1, agent: Not A Name}", "locum.yaml:"),
        ("{uid: 1, agent: a}", "unknown key `uid`"),
    ] {
        let said = check(peers);
        assert!(said.contains(what) && said.contains("locum.yaml:"), "{peers}: {said}");
    }
}
