//! Callers whom somebody else vouches for: the mapping says the workspace, and they do not.

use serde_json::json;

use crate::jwt::{Issuer, claims, world};
use crate::support::*;

/// A workspace `ml` with an agent `worker`, and a credential `main` of its own. Returns its secret.
fn furnish(world: &World) -> String {
    let key = canary();
    world.origin.accept(&key);
    world.home.locum(&["workspace", "add", "ml"]).ok();
    let add = [&["--workspace", "ml", "credential", "add", "main"], BEARER].concat();
    world.home.locum_with(&add, key.as_bytes()).ok();
    world.home.locum(&["--workspace", "ml", "agent", "add", "worker", "--no-token"]).ok();
    key
}

#[test]
fn an_issuers_subject_is_in_the_workspace_that_its_rule_says() {
    let issuer = Issuer::new("one");
    let map =
        ", map: [{match: 'ns:*:*', workspace: '{1}', agent: '{2}'}, {match: '*', agent: '{1}'}]";
    let (world, _) = world(&issuer, map);
    let key = furnish(&world);
    let token = |subject: &str| {
        let mut all = claims();
        all["sub"] = json!(subject);
        issuer.token(&all)
    };
    let ask = |subject: &str, path: &str| {
        let mut wire = world.serve.wire();
        let authorization = basic("worker", &token(subject));
        let answer = wire.ask(connect(&format!("{HOST}:443"), &authorization));
        if answer.status != 200 {
            return Err(answer.status);
        }
        let mut wire = wire.tls(HOST, &world.home.ca()).unwrap();
        // The agent may be revoked between the two.
        let answer = wire.ask(request("GET", path, &[AUTHORIZED], ""));
        if answer.status != 200 {
            return Err(answer.status);
        }
        let sent = world.origin.seen_at(path)[0].header("authorization").unwrap().to_owned();
        let workspace = world.home.accesses_to(path)[0]["workspace"].as_str().unwrap().to_owned();
        Ok((workspace, sent))
    };
    let own = |workspace: &str, key: &str| Ok((workspace.to_owned(), format!("Bearer {key}")));
    assert_eq!(ask("ns:ml:worker", "/ml"), own("ml", &key));
    assert_eq!(ask("worker", "/default"), own("default", &world.key));
    // One that is not there is nobody's, and not the default one's.
    assert_eq!(ask("ns:nowhere:worker", "/nowhere"), Err(407));
    // Whom the other workspace does not know is not let in by its namesake here.
    world.home.locum(&["--workspace", "ml", "agent", "revoke", "worker"]).ok();
    eventually("the revocation acts", PATIENCE, || {
        (ask("ns:ml:worker", "/gone") == Err(407)).then_some(())
    });
    assert_eq!(ask("worker", "/still"), own("default", &world.key));
}

#[test]
fn a_process_is_in_the_workspace_that_its_entry_says() {
    let mut made = None;
    let world = World::with(BEARER, canary(), |home, _| {
        let socket = home.work().join("proxy.sock");
        home.set(&format!("proxy.listen: ['127.0.0.1:0', 'unix:{}']", socket.display()));
        let uid = rustix::process::getuid().as_raw();
        home.set(&format!("identity.unix_peers: [{{user: {uid}, agent: worker, workspace: ml}}]"));
        made = Some(socket);
    });
    let socket = made.unwrap();
    let knock = || {
        let mut wire = Wire::try_unix(&socket).unwrap();
        let answer = wire.ask(format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n"));
        (answer.status, wire)
    };
    assert_eq!(
        knock().0,
        407,
        "there is no such workspace yet, and `worker` of default is another"
    );
    let key = furnish(&world);
    let (status, wire) = knock();
    assert_eq!(status, 200);
    let mut wire = wire.tls(HOST, &world.home.ca()).unwrap();
    assert_eq!(wire.ask(request("GET", "/ml", &[AUTHORIZED], "")).status, 200);
    let sent = world.origin.last();
    assert_eq!(sent.header("authorization"), Some(&*format!("Bearer {key}")));
    assert_eq!(world.home.accesses_to("/ml")[0]["workspace"], "ml");
}
