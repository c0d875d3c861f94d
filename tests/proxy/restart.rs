//! The end of a proxy, and the next one in its place.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::*;

/// New connections, one after the other, each with one call, until it is told to stop.
struct Load {
    stop: AtomicBool,
    done: AtomicUsize,
}

impl Load {
    fn new() -> Self {
        Self { stop: AtomicBool::new(false), done: AtomicUsize::new(0) }
    }

    fn run(&self, proxy: SocketAddr, agent: &Agent, ca: &std::path::Path) {
        while !self.stop.load(Ordering::Relaxed) {
            let mut wire = Wire::try_plain(proxy).expect("a connection is never refused");
            wire.send(connect("api.test:443", &agent.authorization()));
            assert_eq!(wire.answer_to("CONNECT").status, 200);
            let mut wire = wire.tls(HOST, ca).expect("TLS in the tunnel");
            assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn more(&self, count: usize) {
        let before = self.done.load(Ordering::Relaxed);
        eventually("more calls", PATIENCE, || {
            (self.done.load(Ordering::Relaxed) >= before + count).then_some(())
        });
    }
}

/// Replaces the proxy three times under load.
fn replace_under_load(home: &Home, agent: &Agent, serve: Serve, next: impl Fn(Serve) -> Serve) {
    let (load, proxy, ca) = (Load::new(), serve.proxy, home.ca());
    let serve = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| load.run(proxy, agent, &ca));
        }
        load.more(20);
        let mut serve = serve;
        for _ in 0..3 {
            let before = serve.pid();
            serve = next(serve);
            assert_ne!(serve.pid(), before);
            assert_eq!(serve.proxy, proxy);
            load.more(20);
        }
        load.stop.store(true, Ordering::Relaxed);
        serve
    });
    serve.stop();
    home.locum(&["audit", "verify"]).ok();
    let audit = home.audit();
    let count = |event: &str| audit.iter().filter(|r| r["event"] == event).count();
    assert_eq!((count("proxy-started"), count("proxy-stopped")), (4, 4));
    let (accesses, outcomes) =
        ["access", "outcome"].map(|kind| audit.iter().filter(|r| r["kind"] == kind).count()).into();
    assert_eq!(accesses, outcomes);
    assert!(accesses >= load.done.load(Ordering::Relaxed));
}

/// A home with the usual credential, agent and origin.
fn home() -> (Home, Agent, Origin, String) {
    let home = Home::new();
    let origin = Origin::start(HOST);
    let key = canary();
    origin.accept(&key);
    home.reach(&origin);
    home.add("main", BEARER, &key);
    let agent = home.agent("worker");
    (home, agent, origin, key)
}

#[test]
fn a_successor_takes_the_sockets_and_no_connection_is_refused() {
    let (home, agent, _origin, key) = home();
    let serve = home.serve();
    replace_under_load(&home, &agent, serve, |mut old| {
        let new =
            Serve::start_as(&home, home.command(&["serve", "--take-over"]).stdin(Stdio::null()));
        assert!(old.ended(PATIENCE).success(), "{}", old.log());
        new
    });
    home.never_leaks(&[&key], &[]);
}

/// Starts the proxy as systemd would: with the socket as descriptor 3.
fn activated(home: &Home, socket: &TcpListener) -> Command {
    let serve = home.command(&["serve"]);
    let mut command = Command::new("sh");
    let script = "exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"";
    command.args(["-c", script, "sh"]).arg(serve.get_program()).args(serve.get_args());
    home.clean(&mut command);
    command.stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
    command
}

#[test]
fn with_socket_activation_no_connection_is_refused() {
    let (home, agent, _origin, _key) = home();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    home.set(&format!("proxy.listen: {address}"));
    let serve = Serve::start_as(&home, &mut activated(&home, &socket));
    assert_eq!(serve.proxy, address);
    replace_under_load(&home, &agent, serve, |old| {
        // As `systemctl restart`: first the one, then the other.
        old.stop();
        Serve::start_as(&home, &mut activated(&home, &socket))
    });
}

#[test]
fn a_socket_that_the_config_does_not_know_keeps_it_from_starting() {
    let home = Home::new();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    home.set("proxy.listen: 127.0.0.1:1");
    let ran = run_activated(&home, &socket);
    assert!(ran.err.contains("has no listener there"), "{}", ran.err);
}

fn run_activated(home: &Home, socket: &TcpListener) -> Ran {
    let output = activated(home, socket).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let ran = Ran {
        code: output.status.code().unwrap(),
        out: text(&output.stdout),
        err: text(&output.stderr),
    };
    ran.failed(64)
}

#[test]
fn a_second_proxy_of_a_home_is_refused_and_hurts_nobody() {
    let world = World::new();
    let ran = world.home.locum(&["serve"]).failed(1);
    assert!(ran.err.contains("serves this home already"), "{}", ran.err);
    assert_eq!(world.get("/v1/x").status, 200);
    // One that could not start does not take over either.
    world.home.policy("version: 1\nrules: nonsense\n");
    world.home.locum(&["serve", "--take-over"]).failed(64);
    assert_eq!(world.get("/v1/x").status, 200);
}

#[test]
fn a_call_in_flight_is_finished_by_the_one_that_began_it() {
    let world = World::new();
    world.origin.hold();
    let mut wire = world.tunnel();
    wire.send(request("GET", "/hold", &[AUTHORIZED], ""));
    world.origin.until_seen(1);
    let mut idle = world.tunnel();
    let mut command = world.home.command(&["serve", "--take-over"]);
    let new = std::thread::scope(|scope| {
        let new = scope.spawn(|| Serve::start_as(&world.home, command.stdin(Stdio::null())));
        // An idle tunnel goes at once, and is not what is waited for.
        assert!(idle.until_closed().is_empty());
        // Its connection comes while neither accepts, and waits.
        let proxy = world.serve.proxy;
        let (agent, ca) = (&world.agent, world.home.ca());
        let waiting = scope.spawn(move || {
            let mut wire = Wire::plain(proxy);
            assert_eq!(wire.ask(connect("api.test:443", &agent.authorization())).status, 200);
            let mut wire = wire.tls(HOST, &ca).unwrap();
            wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status
        });
        assert!(!new.is_finished() && !waiting.is_finished());
        world.origin.release();
        let answer = wire.answer();
        assert_eq!((answer.status, &*answer.text()), (200, "held"));
        assert_eq!(answer.header("connection"), Some("close"));
        assert_eq!(waiting.join().unwrap(), 200);
        new.join().unwrap()
    });
    assert_ne!(new.pid(), world.serve.pid());
    new.stop();
}

#[test]
fn unix_sockets_change_hands_too() {
    let (home, agent, _origin, _key) = home();
    let socket = home.work().join("s");
    home.set(&format!("proxy.listen: ['127.0.0.1:0', 'unix:{}']", socket.display()));
    let mut old = home.serve();
    let new = Serve::start_as(&home, home.command(&["serve", "--take-over"]).stdin(Stdio::null()));
    assert!(old.ended(PATIENCE).success());
    let mut wire = Wire::try_unix(&socket).unwrap();
    assert_eq!(wire.ask(connect("api.test:443", &agent.authorization())).status, 200);
    new.stop();
    assert!(!socket.exists(), "whoever took it takes it along");
}

#[test]
fn the_service_manager_is_told_how_far_it_is() {
    let home = Home::new();
    let path = home.work().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut buffer = [0; 256];
        let n = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    };
    let mut command = home.command(&["serve"]);
    let serve = Serve::start_as(&home, command.env("NOTIFY_SOCKET", &path).stdin(Stdio::null()));
    assert_eq!(told().trim(), "READY=1");
    serve.hang_up();
    let reloading = told();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(told().trim(), "READY=1");
    serve.stop();
    assert_eq!(told().trim(), "STOPPING=1");
}

#[test]
fn an_opaque_tunnel_that_says_nothing_is_not_waited_for() {
    let free = Origin::start("free.test");
    let world = World::with(BEARER, canary(), |home, _| home.reach(&free));
    let mut quiet = world.serve.open_tunnel(&world.agent, "free.test:443");
    let mut serve = world.serve;
    let begun = Instant::now();
    serve.terminate();
    assert!(quiet.until_closed().is_empty());
    assert!(serve.ended(PATIENCE).success());
    // limits.drain is 25 s.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}
