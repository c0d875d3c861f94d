//! A proxy before the origin: what it is told, what it is not, and what its answers become.

use crate::support::*;

/// One host behind the proxy, with the credential `main`, and what the home says of the proxy.
struct Scene {
    serve: Serve,
    agent: Agent,
    home: Home,
    origin: Origin,
    next: NextProxy,
    key: String,
    password: String,
}

impl Scene {
    /// `proxy` is the value of `upstream.hosts.api.test.proxy`, with `PROXY` for its address.
    fn new(next: NextProxy, proxy: &str, more: &str) -> Self {
        let (key, password) = (canary(), canary());
        let origin = Origin::start(HOST);
        origin.accept(&key);
        next.lead("api.test:443", origin.address);
        let home = Home::new();
        let address = next.address.to_string();
        home.set(&format!(
            "upstream.hosts: {{api.test: {{ca_file: '{}', proxy: {}}}{}}}",
            origin.ca_file().display(),
            proxy.replace("PROXY", &address),
            more.replace("PROXY", &address),
        ));
        home.add("main", BEARER, &key);
        let port = next.address.port();
        for to in ["127.0.0.1", "proxy.test"] {
            let name = if to == "127.0.0.1" { "corp" } else { "corp-tls" };
            home.add(name, &["--to", &format!("https://{to}:{port}"), "--basic", "us"], &password);
        }
        next.want(&basic("us", &password));
        let agent = home.agent("worker");
        let serve = home.serve();
        Self { serve, agent, home, origin, next, key, password }
    }

    fn ask(&self) -> Answer {
        self.serve.tunnel(&self.agent, HOST).ask(request("GET", "/v1/x", &[AUTHORIZED], ""))
    }
}

const WITH_LOGIN: &str = "{url: 'http://PROXY', credential: corp, vet_names: false}";

#[test]
fn a_request_goes_through_the_proxy_and_shows_it_its_own_credential_alone() {
    let scene = Scene::new(NextProxy::clear(), WITH_LOGIN, "");
    for _ in 0..3 {
        assert_eq!(scene.ask().status, 200);
    }
    let authorization = basic("us", &scene.password);
    let head = format!(
        "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\nProxy-Authorization: {authorization}\r\n\r\n"
    );
    assert_eq!(scene.next.heads(), [head], "one tunnel, kept for the next requests");
    let raw = scene.origin.raw().concat();
    assert!(raw.contains(&scene.key) && !raw.contains("Proxy-Authorization"));
    let records = scene.home.audit();
    let at = |what: &dyn Fn(&serde_json::Value) -> bool| records.iter().position(what).unwrap();
    let login = at(&|r| r["kind"] == "access" && r["credential"] == "corp");
    let record = &records[login];
    assert_eq!(record["destination"], format!("http://{}", scene.next.address));
    assert_eq!((&record["method"], &record["path"]), (&"CONNECT".into(), &"api.test:443".into()));
    assert_eq!(record["rule"], "upstream.hosts.api.test.proxy");
    assert_eq!(record["slot"], "header:proxy-authorization");
    assert_eq!(record["version"], 1);
    let request = at(&|r| r["kind"] == "access" && r["credential"] == "main");
    let outcome = at(&|r| r["kind"] == "outcome" && r["request_id"] == record["request_id"]);
    assert!(request < login && login < outcome, "{request} {login} {outcome}");
    assert_eq!(
        (&records[outcome]["ending"], &records[outcome]["status"]),
        (&"complete".into(), &200.into())
    );
    let logins = records.iter().filter(|r| r["credential"] == "corp").count();
    assert_eq!(logins, 1, "a kept tunnel is no new login");
    let metrics = scene.serve.metrics();
    scene.home.locum(&["audit", "verify"]).ok();
    let secrets = [&*scene.password, &scene.key, &basic("us", &scene.password)[6..]];
    scene.home.never_leaks(&secrets, &[("metrics", metrics.as_bytes())]);
}

#[test]
fn opaque_tunnels_and_clear_requests_take_the_same_way() {
    let free = Origin::start("free.test");
    let plain = Origin::clear("plain.test");
    let scene =
        Scene::new(NextProxy::clear(), WITH_LOGIN, &format!(", '*.test': {{proxy: {WITH_LOGIN}}}"));
    scene.next.lead("free.test:443", free.address);
    scene.next.lead("plain.test:80", plain.address);
    let wire = scene.serve.open_tunnel(&scene.agent, "free.test:443");
    let mut wire = wire.tls("free.test", &free.ca_file()).unwrap();
    assert_eq!(wire.ask("GET /open/x HTTP/1.1\r\nHost: free.test\r\n\r\n").status, 200);
    let policy = "version: 1\nrules:\n- {name: clear, agents: ['*'], to: ['http://*']}\n";
    scene.home.policy(policy);
    let authorization = scene.agent.authorization();
    let get = format!(
        "GET http://plain.test/open/x HTTP/1.1\r\nHost: plain.test\r\nProxy-Authorization: {authorization}\r\n\r\n"
    );
    eventually("the new policy", PATIENCE, || {
        (scene.serve.wire().ask(&get).status == 200).then_some(())
    });
    assert_eq!(plain.last().target, "/open/x", "in origin form, inside a tunnel");
    let targets: Vec<_> =
        scene.next.heads().iter().map(|h| h.split(' ').nth(1).unwrap().to_owned()).collect();
    assert_eq!(targets, ["free.test:443", "plain.test:80"]);
}

#[test]
fn a_proxy_over_tls_is_verified_and_the_origin_inside_it_too() {
    let next = NextProxy::tls("proxy.test");
    let ca = next.ca_file().display().to_string();
    let login = format!(
        "{{url: 'https://proxy.test:{}', credential: corp-tls, vet_names: false}}",
        next.address.port()
    );
    let own = format!(", proxy.test: {{address: 'PROXY', ca_file: '{ca}'}}");
    let scene = Scene::new(next, &login, &own);
    assert_eq!(scene.ask().status, 200);
    assert_eq!(scene.next.heads().len(), 1);
    assert!(scene.origin.last_raw().contains(&scene.key));

    let next = NextProxy::tls("proxy.test");
    let login = login.replace(
        &format!(":{}'", scene.next.address.port()),
        &format!(":{}'", next.address.port()),
    );
    let scene = Scene::new(next, &login, ", proxy.test: {address: 'PROXY'}");
    let answer = scene.ask();
    assert_eq!((answer.status, &*answer.problem()), (502, "certificate-invalid"));
    assert!(answer.text().contains("proxy.test"), "{}", answer.text());
    assert!(scene.next.heads().is_empty(), "an unverified proxy hears nothing");
}

#[test]
fn what_a_proxy_answers_in_place_of_a_tunnel_is_told_without_its_words() {
    let scene = Scene::new(NextProxy::clear(), WITH_LOGIN, "");
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(20_000));
    let cases = [
        (
            "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"OWN WORDS\"\r\n\r\n",
            "does not accept the credential",
        ),
        (
            "HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: Negotiate\r\n\r\n",
            "NTLM or Negotiate",
        ),
        ("HTTP/1.1 403 OWN WORDS\r\n\r\nOWN WORDS", "does not allow"),
        ("HTTP/1.1 502 OWN WORDS\r\n\r\n", "could not reach"),
        ("HTTP/1.1 302 OWN WORDS\r\nLocation: http://own.words/\r\n\r\n", "answered 302"),
        ("SSH-2.0-OWN WORDS\r\n\r\n", "did not answer in HTTP"),
        ("HTTP/1.1 2", "closed the connection"),
        (&long, "over the limit"),
    ];
    for (text, told) in cases {
        scene.next.answer(text);
        let answer = scene.ask();
        assert_eq!((answer.status, &*answer.problem()), (502, "next-proxy-refused"), "{text:.40}");
        let said = answer.text();
        let proxy = scene.next.address.to_string();
        assert!(said.contains(told) && said.contains(&proxy), "{said}");
        assert!(
            !said.to_lowercase().contains("own words") && !said.contains("own.words"),
            "{said}"
        );
        let outcome = scene.home.audit().into_iter().rev().find(|r| {
            r["kind"] == "outcome" && r["code"] == "next-proxy-refused" && r["bytes_down"] == 0
        });
        assert!(outcome.is_some());
    }
    // An interim answer is none.
    scene.next.answer("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 403 No\r\n\r\n");
    assert!(scene.ask().text().contains("does not allow"));
    // Only now: what answers at all must not be late on a busy machine.
    scene.home.set("upstream.timeouts: {connect: 1s}");
    scene.serve.hang_up();
    scene.next.answer("");
    let answer = scene.ask();
    assert_eq!((answer.status, &*answer.problem()), (504, "connect-timeout"));
    let metrics = scene.serve.metrics();
    let encoded = &basic("us", &scene.password)[6..];
    scene.home.never_leaks(&[&scene.password, encoded], &[("metrics", metrics.as_bytes())]);
    assert_eq!(scene.origin.connections(), 0);
}

#[test]
fn a_credential_that_is_withdrawn_is_shown_no_more() {
    let scene = Scene::new(NextProxy::clear(), WITH_LOGIN, "");
    let before = scene.serve.metric("locum_vault_epoch");
    scene.home.locum(&["credential", "revoke", "corp"]).ok();
    eventually("the change", PATIENCE, || {
        (scene.serve.metric("locum_vault_epoch") > before).then_some(())
    });
    let heard = scene.next.heads().len();
    let answer = scene.ask();
    assert_eq!(answer.problem(), "next-proxy-refused");
    assert!(!answer.text().contains("corp"), "an agent is not told what exists: {}", answer.text());
    assert_eq!(scene.next.heads().len(), heard);
    assert!(scene.serve.log().contains("the credential is revoked"));
}

#[test]
fn addresses_are_vetted_behind_a_proxy_too() {
    let inside = Origin::start("inside.test");
    let port = inside.address.port();
    let next = NextProxy::clear();
    let rule = "{proxy: {url: 'http://PROXY', vet_names: VET}}"
        .replace("PROXY", &next.address.to_string());
    let targets = ["127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]", "localhost", "a.localhost"];
    for target in targets {
        next.lead(&format!("{target}:{port}"), inside.address);
    }
    for vetted in [true, false] {
        let home = Home::new();
        home.policy(&format!("version: 1\nrules:\n- {{name: all, agents: ['*'], to: ['https://*:{port}'], tunnel: opaque}}\n"));
        home.set(&format!("upstream.hosts: {{'*': {}}}", rule.replace("VET", &vetted.to_string())));
        let agent = home.agent("worker");
        let serve = home.serve();
        let code = |target: &str| {
            let connect = connect(&format!("{target}:{port}"), &agent.authorization());
            let answer = serve.wire().ask(connect);
            if answer.status == 200 { "tunnel".to_owned() } else { answer.problem() }
        };
        for target in targets {
            assert_eq!(code(target), "address-forbidden", "{target}");
        }
        let heard = next.heads().len();
        next.lead(&format!("only-the-proxy.test:{port}"), inside.address);
        if vetted {
            assert_eq!(code("only-the-proxy.test"), "dns-error");
            assert_eq!(next.heads().len(), heard);
        } else {
            assert_eq!(code("only-the-proxy.test"), "tunnel");
        }
    }
}

#[test]
fn a_credential_of_another_place_is_refused_at_the_start() {
    let home = Home::new();
    home.add("main", BEARER, &canary());
    let serve = |credential: &str| {
        home.set(&format!("upstream.hosts: {{'*': {{proxy: {{url: 'http://127.0.0.1:9', credential: {credential}}}}}}}"));
        home.locum(&["serve"])
    };
    let ran = serve("main").failed(64);
    assert!(ran.err.contains("not bound to the proxy's host and port"), "{}", ran.err);
    assert!(ran.err.contains("--to https://127.0.0.1:9 --basic"), "{}", ran.err);
    let ran = home.locum(&["doctor", "--json"]);
    assert!(ran.out.contains("not bound to the proxy"), "{}", ran.out);
}
