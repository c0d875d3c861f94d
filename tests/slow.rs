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
const ATTACKERS: usize = 200;
const RATE: &str = "100";
/// How long the first attempt at one lasts, in seconds; each further one lasts twice as long. Of
/// each its second half counts: to open so many connections is work, a handshake each in this
/// build, and nothing slow.
const LASTS: u64 = 6;

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
            let mut measured: Vec<Measured> = Vec::new();
            while measured.len() < ATTEMPTS && !measured.last().is_some_and(Measured::is_bearable) {
                let lasts = LASTS << measured.len();
                let besieged = || attack(mode, place, through, &attacker, lasts);
                measured.push(measure(&world, besieged, Duration::from_secs(lasts)));
            }
            eprintln!("{name} at {place}: {measured:?}");
            if !measured.last().is_some_and(Measured::is_bearable) {
                failures.push(format!("{name} at {place}: {measured:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "p99, and under attack:\n{}", failures.join("\n"));
}

/// An agent's p99 without an attack, and under it: nothing where it got too little done to tell.
#[derive(Debug)]
struct Measured {
    quiet: Option<Duration>,
    attacked: Option<Duration>,
}

impl Measured {
    fn is_bearable(&self) -> bool {
        self.quiet.zip(self.attacked).is_some_and(|(quiet, attacked)| attacked <= quiet * 2 + NOISE)
    }
}

/// Without it before and after, so that what else the machine does is in both.
#[track_caller]
fn measure(world: &World, besieged: impl FnOnce() -> bool + Send, lasts: Duration) -> Measured {
    let pause = || std::thread::sleep(Duration::from_secs(1));
    let (mut quiet, ()) = work(world, ENOUGH, pause);
    let half = Instant::now() + lasts / 2;
    let (mut attacked, all_there) = work(world, 0, || {
        std::thread::scope(|scope| {
            let attack = scope.spawn(besieged);
            std::thread::sleep(half.saturating_duration_since(Instant::now()));
            while established(world.serve.proxy.port()) <= ATTACKERS {
                if attack.is_finished() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            let all_there = Instant::now();
            let ended = attack.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            ended.then_some(all_there)
        })
    });
    attacked.retain(|(start, _)| all_there.is_some_and(|all_there| *start >= all_there));
    quiet.extend(work(world, ENOUGH, pause).0);
    Measured { quiet: p99(quiet), attacked: p99(attacked) }
}

/// How many connections to a port are established, as the kernel has it: `/proc/net/tcp`.
fn established(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ours = format!(":{port:04X}");
    let is_ours = |line: &&str| {
        let cells: Vec<&str> = line.split_ascii_whitespace().collect();
        cells[1].ends_with(&ours) && cells[3] == "01"
    };
    table.lines().skip(1).filter(is_ours).count()
}

/// Runs `slowhttptest` to its end; whether it attacked with all it has, and found the host alive.
#[track_caller]
fn attack(mode: &str, host: &str, through: SocketAddr, attacker: &Agent, lasts: u64) -> bool {
    let mut command = Tools::slowhttptest();
    let (attackers, lasts) = (ATTACKERS.to_string(), lasts.to_string());
    command
        .args([mode, "-c", &attackers, "-r", RATE, "-l", &lasts, "-i", "1", "-p", "3", "-v", "1"]);
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
    let (connected, available) = (said("connected:"), said("service available:"));
    eprintln!("{mode} {host}: {connected} connected, available: {available}");
    connected == attackers && available == "YES"
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

/// When each of an agent's requests began and how long it took, while `beside` lasts and for so
/// many requests; and what `beside` had to say.
#[track_caller]
fn work<T>(
    world: &World,
    least: usize,
    beside: impl FnOnce() -> T,
) -> (Vec<(Instant, Duration)>, T) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let working = scope.spawn(|| {
            let mut times = Vec::new();
            let mut wire = world.tunnel();
            while !over.load(Ordering::Relaxed) || times.len() < least {
                let start = Instant::now();
                let answer = wire.ask(request("GET", "/v1/x", &[AUTHORIZED], ""));
                assert_eq!(answer.status, 200, "{}", answer.text());
                times.push((start, start.elapsed()));
                wire.transcript.clear();
            }
            times
        });
        // Also when it fails: the scope would wait for the worker for ever.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(beside));
        over.store(true, Ordering::Relaxed);
        let times = working.join().unwrap();
        (times, ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn p99(mut times: Vec<(Instant, Duration)>) -> Option<Duration> {
    times.sort_unstable_by_key(|(_, took)| *took);
    let (_, p99) = times.get(times.len() * 99 / 100)?;
    (times.len() >= ENOUGH).then_some(*p99)
}
