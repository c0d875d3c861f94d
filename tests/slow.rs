//! Attackers that are slow on purpose do not slow down another agent: `slowhttptest` in its three
//! modes, at the proxy port and inside an intercepted tunnel, while somebody works.
//!
//! A binary of its own, because it measures time: nothing else runs beside it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_precision_loss)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use support::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections of an attack, and how many of them are opened in a second.
const ATTACKERS: &str = "200";
const RATE: &str = "100";
/// How long one lasts, in seconds.
const LASTS: &str = "4";

/// Bytes that a relay of an attack keeps, which the kernel doubles.
const KEPT: usize = 16 * 1024;

/// What a machine that has other things to do adds to a percentile by itself.
const NOISE: Duration = Duration::from_millis(3);

/// Requests of which a percentile is told: the last hundredth of fewer is one or two.
const ENOUGH: usize = 300;

/// How often a measurement that failed is made anew: on a machine that is not ours alone, one in
/// which somebody else was busy says nothing. An attack that works, works each time.
const ATTEMPTS: usize = 3;

#[test]
fn slow_attackers_do_not_slow_down_another_agent() {
    let clear = Origin::clear("plain.test");
    let world = World::with(BEARER, canary(), |home, _| {
        home.reach_as("plain.test", clear.address, None);
        home.set("log.level: info");
        home.set("upstream.allow_addresses: [127.0.0.1]");
        home.policy(
            "version: 1\nrules:\n\
             - {name: keys, agents: ['*'], use: ['*']}\n\
             - {name: clear, agents: ['*'], to: ['http://plain.test']}\n",
        );
    });
    let attacker = world.home.agent("attacker");
    let inside = forward(&world, &attacker);
    let mut failures = Vec::new();
    for (place, through) in [("plain.test", world.serve.proxy), (HOST, inside)] {
        for (mode, name) in [("-H", "slow head"), ("-B", "slow body"), ("-X", "slow read")] {
            let besieged = || attack(mode, place, through, &attacker);
            let mut measured = Vec::new();
            while measured.len() < ATTEMPTS && !measured.last().is_some_and(is_bearable) {
                measured.push(measure(&world, besieged));
            }
            eprintln!("{name} at {place}: {measured:?}");
            if !measured.last().is_some_and(is_bearable) {
                failures.push(format!("{name} at {place}: {measured:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "p99, and under attack:\n{}", failures.join("\n"));
}

/// An agent's p99 without an attack, and under it.
type Measured = (Duration, Duration);

fn is_bearable(&(quiet, attacked): &Measured) -> bool {
    attacked <= quiet * 2 + NOISE
}

/// Without it before and after, so that what else the machine does is in both.
#[track_caller]
fn measure(world: &World, besieged: impl FnOnce()) -> Measured {
    let pause = || std::thread::sleep(Duration::from_secs(1));
    let mut quiet = work(world, ENOUGH, pause);
    let mut attacked = work(world, 0, besieged);
    quiet.extend(work(world, ENOUGH, pause));
    (p99(&mut quiet), p99(&mut attacked))
}

/// Runs `slowhttptest` to its end.
#[track_caller]
fn attack(mode: &str, host: &str, through: SocketAddr, attacker: &Agent) {
    let mut command = Tools::slowhttptest();
    command.args([mode, "-c", ATTACKERS, "-r", RATE, "-l", LASTS, "-i", "1", "-p", "3", "-v", "1"]);
    // A large answer, read five bytes at a time through a window of a few.
    command.args(["-s", "100000", "-w", "1", "-y", "512", "-n", "1", "-z", "5"]);
    command.arg("-u").arg(format!("http://{host}/open/bytes/1000000"));
    command.arg("-d").arg(through.to_string());
    // It has no option for other fields, and puts this one in as it is.
    let authorization = attacker.authorization();
    command.arg("-m").arg(format!("*/*\r\nProxy-Authorization: {authorization}"));
    let ran = run(&mut command, b"");
    let said = |what: &str| {
        let last = ran.out.lines().rev().find(|line| line.contains(what));
        let last = last.unwrap_or_else(|| panic!("{mode} {host}: {}{}", ran.out, ran.err));
        // Its numbers are coloured.
        last.replace("\x1b[1;32m", "").replace("\x1b[0m", "").replace(what, "").trim().to_owned()
    };
    // It was an attack, and its own probe got through all the same.
    assert_eq!(said("connected:"), ATTACKERS, "{mode} {host}");
    assert_eq!(said("service available:"), "YES", "{mode} {host}");
}

/// What `slowhttptest` cannot do itself: each of its connections becomes a tunnel of the attacker,
/// with TLS, and its URLs those of the host in it.
fn forward(world: &World, attacker: &Agent) -> SocketAddr {
    let (proxy, ca, attacker) = (world.serve.proxy, world.serve.ca(), attacker.clone());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let tls = tokio_rustls::TlsConnector::from(Arc::new(client_config(&ca)));
    runtime().spawn(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        while let Ok((slow, _)) = listener.accept().await {
            let (tls, attacker) = (tls.clone(), attacker.clone());
            // How a slow connection ends is what is tested, and not how it is told here.
            tokio::spawn(async move { relay(slow, proxy, &attacker, tls).await.is_ok() });
        }
    });
    address
}

async fn relay(
    mut slow: TcpStream,
    proxy: SocketAddr,
    attacker: &Agent,
    tls: tokio_rustls::TlsConnector,
) -> std::io::Result<()> {
    // What waits, waits in the proxy: this side of it keeps nothing that its own client does not read.
    socket2::SockRef::from(&slow).set_send_buffer_size(KEPT)?;
    let tunnel = TcpSocket::new_v4()?;
    tunnel.set_recv_buffer_size(u32::try_from(KEPT).unwrap())?;
    let mut tunnel = tunnel.connect(proxy).await?;
    tunnel.write_all(connect("api.test:443", &attacker.authorization()).as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tunnel.read_u8().await?);
    }
    let mut tunnel = tls.connect(ServerName::try_from(HOST).unwrap(), tunnel).await?;
    let mut start = vec![0; 4096];
    let length = slow.read(&mut start).await?;
    let start = String::from_utf8_lossy(&start[..length]).replacen(" http://", " https://", 1);
    tunnel.write_all(start.as_bytes()).await?;
    tunnel.flush().await?;
    copy_bidirectional(&mut slow, &mut tunnel).await?;
    Ok(())
}

/// How long each of an agent's requests takes while `beside` lasts, and for so many requests.
#[track_caller]
fn work(world: &World, least: usize, beside: impl FnOnce()) -> Vec<Duration> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let working = scope.spawn(|| {
            let mut times = Vec::new();
            let mut wire = world.tunnel();
            while !over.load(Ordering::Relaxed) || times.len() < least {
                let start = Instant::now();
                let answer = wire.ask(request("GET", "/v1/x", &[AUTHORIZED], ""));
                assert_eq!(answer.status, 200, "{}", answer.text());
                times.push(start.elapsed());
                wire.transcript.clear();
            }
            times
        });
        // Also when it fails: the scope would wait for the worker for ever.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(beside));
        over.store(true, Ordering::Relaxed);
        let times = working.join().unwrap();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        times
    })
}

fn p99(times: &mut [Duration]) -> Duration {
    assert!(times.len() >= ENOUGH, "too few to speak of: {}", times.len());
    times.sort_unstable();
    times[times.len() * 99 / 100]
}
