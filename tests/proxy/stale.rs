//! What was decided a while ago: nothing leaves on a decision that would not be made any more.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use crate::support::*;

const TEAM: &str = "version: 1
rules:
  - name: the team
    agents: [{labels: {team: ml}}]
    to: [https://api.test]
    use: [main]
  - name: everybody, without the credential
    agents: ['*']
    to: [https://api.test]
    paths: [/open/**, /socket]
";

/// Takes the label away, and returns when that is in force.
#[track_caller]
fn unlabel(home: &Home, serve: &Serve, agent: &Agent) {
    home.locum(&["agent", "label", "worker", "--remove", "team"]).ok();
    eventually("the label is gone", PATIENCE, || {
        (serve.tunnel(agent, HOST).ask(request("GET", "/gone", &[], "")).status == 403)
            .then_some(())
    });
}

#[test]
fn a_body_that_comes_slowly_does_not_keep_a_label_that_was_taken_away() {
    let slots = ["--to", "https://api.test", "--json-pointer", "/key"];
    let world = World::with(&slots, canary(), |home, _| {
        home.policy(TEAM);
        home.locum(&["agent", "label", "worker", "team=ml"]).ok();
    });
    let body = r#"{"key":"locum_main"}"#;
    let head = |more: &str| {
        format!(
            "POST /open/slow HTTP/1.1\r\nHost: api.test\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{more}\r\n",
            body.len()
        )
    };
    assert_eq!(world.tunnel().ask(head("") + body).status, 200);
    let mut slow = world.tunnel();
    slow.send(head("Expect: 100-continue\r\n"));
    assert!(slow.until("\r\n\r\n").contains(" 100 "));
    slow.send(&body[..10]);
    unlabel(&world.home, &world.serve, &world.agent);
    let before = world.origin.seen().len();
    slow.send(&body[10..]);
    let answer = slow.answer_to("POST");
    assert_eq!((answer.status, &*answer.problem()), (403, "credential-refused"));
    assert_eq!(world.origin.seen().len(), before);
    assert_eq!(world.origin.raw().concat().matches(&*world.key).count(), 1);
}

#[test]
fn messages_of_a_socket_do_not_keep_a_label_that_was_taken_away() {
    let home = Home::new();
    let origin = Origin::scripted(HOST, vec![Script::Switch, Script::Echo, Script::Goodbye]);
    home.reach(&origin);
    let key = canary();
    let slots = ["--to", "https://api.test", "--websocket", "/d/token", "--json-pointer", "/key"];
    home.add("main", &slots, &key);
    let agent = home.agent("worker");
    home.policy(TEAM);
    home.locum(&["agent", "label", "worker", "team=ml"]).ok();
    let serve = home.serve();
    let mut wire = serve.tunnel(&agent, HOST);
    assert_eq!(wire.ask(request("GET", "/socket", &crate::frames::HANDSHAKE, "")).status, 101);
    unlabel(&home, &serve, &agent);
    // Still a socket that everybody may have.
    wire.send(crate::frames::text("hello"));
    assert!(wire.until("hello").ends_with("hello"));
    wire.send(crate::frames::text(r#"{"d":{"token":"locum_main"}}"#));
    let rest = wire.until_closed();
    assert!(leaks(&key, &rest).is_empty());
    assert!(leaks("locum_main", &rest).is_empty(), "the message went up");
    let last = home.accesses_to("/socket").pop().unwrap();
    assert_eq!(
        (&last["decision"], &last["code"]),
        (&"refuse".into(), &"credential-refused".into())
    );
}

/// A token endpoint that waits, and the API behind it.
struct Minting {
    serve: Serve,
    issuer: Origin,
    agent: Agent,
    token: String,
    home: Home,
}

impl Minting {
    fn new(api: &Origin, slots: &[&str]) -> Self {
        let home = Home::new();
        let (token, secret) = (canary(), canary());
        let minted =
            format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":3600}}"#);
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{minted}", minted.len());
        let script = vec![Script::Read, Script::Wait, Script::Send(answer.into()), Script::Goodbye];
        let issuer = Origin::scripted("as.test", script);
        api.accept(&token);
        home.reach(&issuer);
        home.reach(api);
        let kind = ["--kind", "oauth-refresh", "--token-endpoint", "https://as.test/token"];
        let rest = ["--client-id", "us", "--to", "https://api.test"];
        home.add("main", &[&kind[..], &rest, slots].concat(), &secret);
        let agent = home.agent("worker");
        let serve = home.serve();
        Self { serve, issuer, agent, token, home }
    }
}

#[test]
fn a_request_that_waits_for_its_token_does_not_outlive_its_agent_or_its_rule() {
    let refuse = "version: 1\nrules:\n  - {name: none, agents: [other], to: ['https://api.test'], use: [main]}\n";
    for revoke in [true, false] {
        let api = Origin::start(HOST);
        let scene = Minting::new(&api, &[]);
        let mut wire = scene.serve.tunnel(&scene.agent, HOST);
        wire.send(request("GET", "/open/late", &[AUTHORIZED], ""));
        eventually("the errand", PATIENCE, || {
            scene.issuer.raw().concat().contains("refresh_token=").then_some(())
        });
        if revoke {
            scene.home.locum(&["agent", "revoke", "worker"]).ok();
        } else {
            scene.home.policy(refuse);
        }
        eventually("it is in force", PATIENCE, || {
            let mut wire = scene.serve.wire();
            wire.send(connect("api.test:443", &scene.agent.authorization()));
            let head = wire.try_head()?;
            if revoke {
                return head.contains(" 407 ").then_some(());
            }
            let mut wire = scene.serve.tunnel(&scene.agent, HOST);
            (wire.ask(request("GET", "/open/other", &[], "")).status == 403).then_some(())
        });
        scene.issuer.release();
        let answer = wire.answer();
        assert!(answer.status >= 400, "{revoke}: {}", answer.text());
        assert_eq!(api.seen_at("/open/late").len(), 0, "{revoke}: it left");
    }
}

/// Carries a connection on to where it should have gone.
fn carry(near: TcpStream, to: SocketAddr) {
    let far = TcpStream::connect(to).unwrap();
    for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
        std::thread::spawn(move || {
            let _either_may_be_gone = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
}

#[test]
fn a_request_that_waits_for_its_connection_does_not_outlive_its_rule() {
    let rule = |agent: &str| {
        format!(
            "version: 1\nrules:\n  - {{name: r, agents: [{agent}], to: ['https://api.test'], use: [main]}}\n"
        )
    };
    for (agent, status) in [("worker, other", 200), ("other", 403)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let world = World::with(BEARER, canary(), |home, origin| {
            home.reach_as(HOST, at, Some(origin.ca_file()));
            home.set("upstream.timeouts: {connect: 1m, tls: 1m}");
            home.policy(&rule("worker"));
        });
        let mut wire = world.tunnel();
        wire.send(request("GET", "/v1/late", &[AUTHORIZED], ""));
        let (near, _) = listener.accept().unwrap();
        let before = world.serve.metric("locum_policy_generation");
        world.home.policy(&rule(agent));
        eventually("the policy to be in force", PATIENCE, || {
            (world.serve.metric("locum_policy_generation") > before).then_some(())
        });
        carry(near, world.origin.address);
        let answer = wire.answer();
        assert_eq!(answer.status, status, "{agent}: {}", answer.text());
        assert_eq!(world.origin.seen().len(), usize::from(status == 200), "{agent}");
    }
}

#[test]
fn a_token_that_is_minted_for_a_message_does_not_come_back() {
    let api = Origin::scripted(HOST, vec![Script::Switch, Script::Echo, Script::Goodbye]);
    let scene = Minting::new(&api, &["--websocket", "/d/token"]);
    scene.issuer.release();
    let mut wire = scene.serve.tunnel(&scene.agent, HOST);
    assert_eq!(wire.ask(request("GET", "/socket", &crate::frames::HANDSHAKE, "")).status, 101);
    wire.send(crate::frames::text(r#"{"d":{"token":"locum_main"}}"#));
    wire.send(crate::frames::text("op-9"));
    let _all = wire.until("op-9");
    let heard = String::from_utf8_lossy(&wire.transcript).into_owned();
    assert!(leaks(&scene.token, heard.as_bytes()).is_empty(), "{heard}");
    assert!(heard.contains("locum_main*"), "{heard}");
    scene.home.never_leaks(&[&scene.token], &[]);
}
