//! A running `locum serve`.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Agent, Answer, Home, PATIENCE, Wire, eventually};

/// A proxy of its own process. It is killed when this is dropped.
pub struct Serve {
    pub proxy: SocketAddr,
    pub ops: SocketAddr,
    ca: PathBuf,
    child: Child,
    log: PathBuf,
}

impl Serve {
    /// Starts it, and waits until it is ready.
    #[track_caller]
    pub(super) fn start(home: &Home) -> Self {
        let mut command = home.command(&["serve"]);
        Self::start_as(home, command.stdin(Stdio::null()))
    }

    /// Starts a command that becomes the proxy of this home, and waits until it is ready.
    #[track_caller]
    pub fn start_as(home: &Home, command: &mut Command) -> Self {
        let serve = Self::start_locked(home, command);
        eventually("readiness", PATIENCE, || (serve.get("/readyz")?.status == 200).then_some(()));
        serve
    }

    /// The same, and waits only until it listens.
    #[track_caller]
    pub fn start_locked(home: &Home, command: &mut Command) -> Self {
        let log = home.work().join("serve.log");
        let file = File::options().create(true).append(true).open(&log).unwrap();
        command.stdout(file.try_clone().unwrap()).stderr(file);
        let mut child = command.spawn().unwrap();
        let announced = home.path().join("serve.json");
        let start = Instant::now();
        let (proxy, ops) = loop {
            if let Some(addresses) = addresses(&announced, child.id()) {
                break addresses;
            }
            let ended = child.try_wait().unwrap();
            if ended.is_some() || start.elapsed() > PATIENCE {
                let _ = child.kill();
                let said = std::fs::read_to_string(&log).unwrap();
                panic!("the proxy does not start ({ended:?}):\n{said}");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        Self { proxy, ops, ca: home.ca(), child, log }
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        // The home may be gone already, when this is asked for after a panic.
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The CA that its clients believe.
    pub fn ca(&self) -> PathBuf {
        self.ca.clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Asks it to stop.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Asks it to read its config anew.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Ends it as a crash would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The same, for one that is still to be put in another's place.
    pub fn crash(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ended(&mut self, within: Duration) -> ExitStatus {
        eventually("the end of the proxy", within, || self.child.try_wait().unwrap())
    }

    /// Stops it in order.
    #[track_caller]
    pub fn stop(mut self) {
        self.terminate();
        let status = self.ended(PATIENCE);
        assert!(status.success(), "{status}\n{}", self.log());
    }

    /// A GET of the operations port; none when nothing answers.
    pub fn get(&self, path: &str) -> Option<Answer> {
        let mut wire = Wire::try_plain(self.ops).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.ops);
        wire.try_send(request.as_bytes()).ok()?;
        wire.try_answer("GET").ok()
    }

    /// The whole of `/metrics`.
    #[track_caller]
    pub fn metrics(&self) -> String {
        let answer = self.get("/metrics").expect("the operations port answers");
        assert_eq!(answer.status, 200);
        answer.text()
    }

    /// One count of `/metrics`, 0 when it is not there: `locum_requests_total{agent="a",result="failed"}`.
    #[track_caller]
    pub fn metric(&self, series: &str) -> u64 {
        let text = self.metrics();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }

    /// `/readyz`: whether it is ready, and its problems.
    #[track_caller]
    pub fn readiness(&self) -> (u16, Value) {
        let answer = self.get("/readyz").expect("the operations port answers");
        (answer.status, serde_json::from_slice(&answer.body).unwrap())
    }

    /// Memory in use, in KiB.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// A connection to the proxy port.
    #[track_caller]
    pub fn wire(&self) -> Wire {
        Wire::plain(self.proxy)
    }

    /// A tunnel before its TLS: CONNECT was answered with 200.
    #[track_caller]
    pub fn open_tunnel(&self, agent: &Agent, authority: &str) -> Wire {
        let mut wire = self.wire();
        wire.send(connect(authority, &agent.authorization()));
        let answer = wire.answer_to("CONNECT");
        assert_eq!(answer.status, 200, "CONNECT {authority}: {}", answer.text());
        wire
    }

    /// A tunnel to a host's port 443, with TLS that believes this home's CA alone.
    #[track_caller]
    pub fn tunnel(&self, agent: &Agent, host: &str) -> Wire {
        let wire = self.open_tunnel(agent, &format!("{host}:443"));
        wire.tls(host, &self.ca).expect("TLS with the proxy")
    }

    /// The same, with a name of its own in the TLS handshake.
    #[track_caller]
    pub fn tunnel_named(
        &self,
        agent: &Agent,
        authority: &str,
        name: &str,
    ) -> std::io::Result<Wire> {
        self.open_tunnel(agent, authority).tls(name, &self.ca)
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(40)..];
            eprintln!("--- the proxy's log ends:\n{}", tail.join("\n"));
        }
    }
}

/// A CONNECT with proxy credentials.
pub fn connect(authority: &str, authorization: &str) -> String {
    format!(
        "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nProxy-Authorization: {authorization}\r\n\r\n"
    )
}

/// Where the proxy of this process says that it listens.
fn addresses(announced: &std::path::Path, pid: u32) -> Option<(SocketAddr, SocketAddr)> {
    let text = std::fs::read(announced).ok()?;
    let json: Value = serde_json::from_slice(&text).ok()?;
    if json["pid"] != pid {
        return None;
    }
    // The first in the clear, else with TLS; a home whose only doors are Unix sockets has neither.
    let first = ["proxy", "tls"].iter().find_map(|kind| json[kind][0].as_str());
    let proxy = first.unwrap_or("127.0.0.1:0").parse().ok()?;
    Some((proxy, json["ops"].as_str()?.parse().ok()?))
}
