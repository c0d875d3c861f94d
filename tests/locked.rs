//! A proxy that is locked: it listens and answers 503 until the key is handed over, and forgets all
//! when it is locked again.

#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::*;

const PASSPHRASE: &[u8] = b"correct horse battery staple\n";

impl Stage {
    fn serve(&self, more: &[&str]) -> Serve {
        let mut command = self.home.command(&[&["serve"], more].concat());
        Serve::start_locked(&self.home, command.stdin(Stdio::null()))
    }

    #[track_caller]
    fn works(&self, serve: &Serve) {
        eventually("readiness", PATIENCE, || (serve.readiness().0 == 200).then_some(()));
        let answer =
            serve.tunnel(&self.agent, HOST).ask(request("GET", "/v1/x", &[AUTHORIZED], ""));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// Nobody gets anything, and hears why.
    #[track_caller]
    fn is_locked(&self, serve: &Serve) {
        let before = self.origin.seen().len();
        let token = basic(&self.agent.name, &self.agent.token);
        let plain = format!(
            "GET http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\nProxy-Authorization: {token}\r\n\r\n"
        );
        for ask in [
            connect(&format!("{HOST}:443"), &token),
            connect("other.test:443", "Basic eDp5"),
            plain,
        ] {
            let answer = serve.wire().ask(ask);
            assert_eq!((answer.status, &*answer.problem()), (503, "vault-unavailable"));
            assert!(answer.header("proxy-status").unwrap().contains("vault-unavailable"));
            assert!(answer.text().contains("The proxy is locked"), "{}", answer.text());
        }
        let (status, said) = serve.readiness();
        assert_eq!(status, 503);
        assert!(said["problems"][0].as_str().unwrap().contains("locum unlock"), "{said}");
        assert_eq!(serve.get("/healthz").unwrap().status, 200);
        assert_eq!(self.origin.seen().len(), before);
    }

    fn unlock(&self, given: &[u8]) -> Ran {
        self.home.locum_with(&["unlock"], given)
    }
}

#[test]
fn a_passphrase_home_without_a_terminal_waits_for_its_passphrase() {
    let stage = Stage::new();
    let file = stage.home.work().join("passphrase");
    fs::write(&file, PASSPHRASE).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    stage.home.locum(&["vault", "rekey", "--passphrase-file", file.to_str().unwrap()]).ok();
    fs::remove_file(&file).unwrap();
    stage.home.set("vault.key: {passphrase: prompt}");
    let serve = stage.serve(&[]);
    stage.is_locked(&serve);
    let socket = stage.home.path().join("control.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    // Wrong ones cost more and more, and change nothing.
    let start = Instant::now();
    for wrong in [&b"incorrect horse battery staple"[..], b"short", b"another that is not the one"]
    {
        let ran = stage.unlock(wrong);
        assert_eq!(ran.code, 1, "{}{}", ran.out, ran.err);
    }
    assert!(start.elapsed() >= Duration::from_millis(3500), "{:?}", start.elapsed());
    // What it does not understand it does not hear.
    for odd in ["unlock 1 99999999\n", "unlock 1 -1\n", "open sesame\n", "unlock 1 5\nab"] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(odd.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut said = String::new();
        // With or without a reset: it has closed on what it did not read.
        let _ = stream.read_to_string(&mut said);
        assert_eq!(said, "", "{odd:?}");
    }
    stage.is_locked(&serve);
    let ran = stage.unlock(PASSPHRASE).ok();
    assert!(ran.out.contains("the vault is open"), "{}", ran.out);
    stage.works(&serve);
    assert!(stage.unlock(PASSPHRASE).ok().out.contains("is open"));
    // Locked again, and opened again, on the same ports.
    let ran = stage.home.locum(&["lock"]).ok();
    assert!(ran.out.contains("no secret is in the proxy's memory"), "{}", ran.out);
    stage.is_locked(&serve);
    assert!(stage.home.locum(&["lock"]).ok().out.contains("is locked"));
    stage.unlock(PASSPHRASE).ok();
    stage.works(&serve);
    let events = stage.home.audit_now();
    let of = |event: &str| events.iter().filter(|r| r["event"] == event).count();
    assert_eq!((of("vault-locked"), of("proxy-started")), (1, 2));
    stage.home.never_leaks(
        &[&stage.key, "correct horse battery staple"],
        &[("log", serve.log().as_bytes())],
    );
    serve.stop();
    stage.home.set("vault.key: {passphrase: {file: /nowhere}}");
    assert!(!socket.exists());
}

/// How often these bytes are in the memory of a process; none where that may not be read.
fn in_memory(pid: u32, wanted: &[u8]) -> Option<usize> {
    let mut memory = fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut found = 0;
    for line in maps.lines().filter(|line| line.split(' ').nth(1).unwrap().starts_with("rw")) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let (mut at, end) = (number(from), number(to));
        // In pieces that overlap: a mapping may be large, and be gone in part.
        while at < end {
            let length = usize::try_from((end - at).min(1 << 20)).unwrap();
            let mut piece = vec![0; length];
            if memory.seek(SeekFrom::Start(at)).is_ok() && memory.read_exact(&mut piece).is_ok() {
                found += piece.windows(wanted.len()).filter(|window| *window == wanted).count();
            }
            at += if end - at > 1 << 20 { (1 << 20) - wanted.len() as u64 + 1 } else { end - at };
        }
    }
    Some(found)
}

#[test]
fn after_a_lock_the_master_key_is_not_in_memory_any_more() {
    let stage = Stage::new();
    let text = fs::read_to_string(stage.home.path().join("master.key")).unwrap();
    let key = data_encoding::HEXLOWER.decode(text.lines().nth(1).unwrap().as_bytes()).unwrap();
    let serve = stage.home.serve();
    stage.works(&serve);
    // A stream that is under way is broken off, and does not hold anything.
    let mut stream = serve.tunnel(&stage.agent, HOST);
    stream.send(request("GET", "/v1/x", &[AUTHORIZED], ""));
    stream.answer();
    let before = in_memory(serve.pid(), &key);
    assert!(before.is_none_or(|count| count > 0), "the search finds nothing at all");
    stage.home.locum(&["lock"]).ok();
    stage.is_locked(&serve);
    let after = in_memory(serve.pid(), &key);
    assert_eq!(after.unwrap_or(0), 0, "of {before:?} before");
    assert_eq!(in_memory(serve.pid(), stage.key.as_bytes()).unwrap_or(0), 0);
    // The lock holds, whatever lies in the home; until somebody says so.
    assert!(stage.home.locum(&["unlock", "--configured"]).ok().out.contains("is open"));
    stage.works(&serve);
    stage.home.locum(&["audit", "verify"]).ok();
    serve.stop();
}

#[test]
fn a_key_that_is_kept_elsewhere_is_handed_over() {
    let stage = Stage::new();
    let (there, elsewhere) = (stage.home.path().join("master.key"), tempfile::tempdir().unwrap());
    let file = elsewhere.path().join("master.key");
    let text = fs::read(&there).unwrap();
    fs::write(&file, &text).unwrap();
    fs::remove_file(&there).unwrap();
    let serve = stage.serve(&["--locked"]);
    stage.is_locked(&serve);
    let ran = stage.home.locum(&["unlock", "--configured"]);
    assert!(ran.code == 1 && ran.err.contains("master.key"), "{}", ran.err);
    let ran = stage.home.locum_with(&["unlock"], b"");
    assert!(ran.code == 64 && ran.err.contains("nothing was handed over"), "{}", ran.err);
    stage.home.locum(&["unlock", "--from-file", file.to_str().unwrap()]).ok();
    stage.works(&serve);
    // It ends in order when it is locked, too.
    stage.home.locum(&["lock"]).ok();
    serve.stop();
    let ran = stage.home.locum(&["lock"]);
    assert!(ran.code == 1 && ran.err.contains("no proxy runs"), "{}", ran.err);
}

#[test]
fn connections_that_are_kept_hold_nothing_over_a_lock_and_an_unlock() {
    let stage = Stage::new();
    let added = ["admin", "add", "boss", "--role", "owner", "--json"];
    let added: Value =
        serde_json::from_str(&run(&mut stage.home.command(&added), b"").ok().out).unwrap();
    let me = request(
        "GET",
        "/v1/me",
        &[&format!("Authorization: Bearer {}", added["token"].as_str().unwrap())],
        "",
    );
    let serve = stage.home.serve();
    let ready = "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let administrator = || Wire::try_unix(&stage.home.path().join("admin.sock")).unwrap();
    for _ in 0..2 {
        let (mut scraper, mut administers) = (Wire::plain(serve.ops), administrator());
        assert_eq!(scraper.ask(ready).status, 200);
        assert_eq!(administers.ask(&me).status, 200);
        let ran = stage.home.locum(&["lock"]).ok();
        assert!(ran.out.contains("no secret is in the proxy's memory"), "{}", ran.out);
        assert_eq!([scraper.until_closed(), administers.until_closed()].concat(), b"");
        stage.is_locked(&serve);
        // Nor does one that heard of a locked proxy go on hearing that.
        let mut scraper = Wire::plain(serve.ops);
        assert_eq!(scraper.ask(ready).status, 503);
        stage.home.locum(&["unlock", "--configured"]).ok();
        stage.works(&serve);
        assert_eq!(scraper.until_closed(), b"");
    }
    assert_eq!(administrator().ask(&me).status, 200);
    serve.stop();
}

#[test]
fn a_token_that_does_not_come_holds_nothing_over_a_lock() {
    let stage = Stage::new();
    let slow = Origin::scripted("as.test", vec![Script::Read, Script::Wait]);
    stage.home.reach(&slow);
    let (kind, endpoint) = ("oauth-client-credentials", "https://as.test/token");
    let minted = ["--kind", kind, "--token-endpoint", endpoint, "--client-id", "us"];
    let secret = canary();
    stage.home.add("minted", &[&minted[..], &["--to", "https://api.test"]].concat(), &secret);
    let serve = stage.home.serve();
    let mut waits = serve.tunnel(&stage.agent, HOST);
    waits.send(request("GET", "/v1/x", &["Authorization: Bearer locum_minted"], ""));
    eventually("the call for the token", PATIENCE, || (slow.connections() > 0).then_some(()));
    let ran = stage.home.locum(&["lock"]).ok();
    assert!(ran.out.contains("no secret is in the proxy's memory"), "{}", ran.out);
    stage.is_locked(&serve);
    for key in [&stage.key, &secret] {
        assert_eq!(in_memory(serve.pid(), key.as_bytes()).unwrap_or(0), 0);
    }
    stage.home.locum(&["unlock", "--configured"]).ok();
    stage.works(&serve);
    serve.stop();
}

/// Which is the code that the unit for systemd names, so that the proxy does not come back open.
#[test]
fn a_proxy_that_cannot_go_on_locked_ends_with_a_code_of_its_own() {
    let stage = Stage::new();
    let mut serve = stage.home.serve();
    stage.works(&serve);
    // It goes on with the config that it has, and could not listen by this one.
    stage.home.set("proxy.nonsense: 1");
    let ran = stage.home.locum(&["lock"]).failed(1);
    assert!(ran.err.contains("the proxy has ended") && ran.err.contains("nonsense"), "{}", ran.err);
    let status = serve.ended(PATIENCE);
    assert!(serve.log().contains("nonsense"), "{}", serve.log());
    let unit = include_str!("../deploy/systemd/locum.service");
    let code = unit.lines().find_map(|line| line.strip_prefix("RestartPreventExitStatus="));
    assert_eq!(status.code().map(|code| code.to_string()).as_deref(), code);
}
