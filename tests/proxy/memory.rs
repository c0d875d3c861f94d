//! What is left of a secret in the memory of the process: while a request is under way it is there, and
//! with the connection that it went over it is gone.

use std::io::{Read as _, Seek as _, SeekFrom};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{forms as forms_of, *};

/// The process, stopped, so that what is read of it is of one moment.
struct Stopped(Pid);

impl Stopped {
    fn of(serve: &Serve) -> Self {
        let pid = Pid::from_raw(i32::try_from(serve.pid()).unwrap()).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        eventually("the process to stand still", PATIENCE, || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", serve.pid())).unwrap();
            let mut states = tasks.map(|task| {
                let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
                stat.rsplit(')').next().unwrap().trim_start().starts_with(['T', 't'])
            });
            states.all(|stopped| stopped).then_some(())
        });
        Self(pid)
    }

    /// All that the process can write to.
    fn memory(&self) -> Vec<u8> {
        let proc = format!("/proc/{}", self.0.as_raw_nonzero());
        let maps = std::fs::read_to_string(format!("{proc}/maps")).unwrap();
        let mut file = std::fs::File::open(format!("{proc}/mem")).unwrap();
        let mut all = Vec::new();
        for line in maps.lines() {
            let mut words = line.split_ascii_whitespace();
            let (range, mode) = (words.next().unwrap(), words.next().unwrap());
            if !mode.starts_with("rw") || line.ends_with("[vvar]") {
                continue;
            }
            let (start, end) = range.split_once('-').unwrap();
            let [start, end] = [start, end].map(|n| u64::from_str_radix(n, 16).unwrap());
            file.seek(SeekFrom::Start(start)).unwrap();
            // Pages that are reserved and not there cannot be read, and hold nothing.
            let _ = file.by_ref().take(end - start).read_to_end(&mut all);
        }
        all
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// The forms in which the key is in the memory of the proxy.
fn remains(world: &World) -> Vec<String> {
    let memory = Stopped::of(&world.serve).memory();
    // The standard library is compiled for speed in every build; what is searched for is ASCII.
    let memory = String::from_utf8_lossy(&memory);
    // Whoever finds nothing must be seen to find something: this name is in there always.
    assert!(memory.contains("worker"), "{} bytes, and no name", memory.len());
    // What a request makes of a secret; memory holds no HTML. Halves are halves of a key.
    let forms = ["raw", "hex", "base64", "percent"];
    let key = world.key.as_bytes();
    let (one, other) = key.split_at(key.len() / 2);
    let parts = [key, &one[one.len().saturating_sub(16)..], other];
    let searched = parts.into_iter().flat_map(forms_of).filter(|f| forms.contains(&f.name));
    let found = searched.filter_map(|form| {
        let at = memory.find(std::str::from_utf8(&form.bytes).unwrap())?;
        let before: String = memory[..at].chars().rev().take(80).collect();
        let before: String = before.chars().rev().collect();
        let after: String = memory[at..].chars().take(160).collect();
        Some(format!("{}: {before:?} {after:?}", form.name))
    });
    found.collect()
}

/// Once no connection to the origin is left: one that waits for the next request has the last one still
/// in the buffers of the HTTP library, for as long as `upstream.pool.idle` says.
#[track_caller]
fn nothing_remains(world: &World, after: &str) {
    eventually("the connections to the origin to end", PATIENCE, || {
        (world.serve.metric("locum_pool_idle_connections") == 0).then_some(())
    });
    let mut last = Vec::new();
    // The task of a connection ends a moment after it left the pool.
    for _ in 0..20 {
        last = remains(world);
        if last.is_empty() {
            return;
        }
    }
    panic!("after {after}: {last:#?}");
}

fn soon_idle(home: &Home, _: &Origin) {
    home.set("upstream.pool: {idle: 200ms}");
}

#[test]
fn a_secret_is_in_memory_while_a_request_needs_it_and_no_longer() {
    // Nobody but root may look into the process.
    apart("memory::one_request", &[], "", &[]);
}

#[test]
#[ignore = "started by the test above, as root"]
fn one_request() {
    let world = World::with(BEARER, canary(), soon_idle);
    world.origin.hold();
    let mut held = world.tunnel();
    held.send(request("GET", "/hold", &[AUTHORIZED], ""));
    eventually("the request to arrive", PATIENCE, || {
        (!world.origin.seen_at("/hold").is_empty()).then_some(())
    });
    // The search finds a secret where there is one.
    assert!(!remains(&world).is_empty(), "the key of a request that is under way");
    world.origin.release();
    assert_eq!(held.answer().status, 200);
    nothing_remains(&world, "one request, with its tunnel open");
}

#[test]
fn an_echo_in_one_piece_leaves_nothing_in_memory() {
    apart("memory::one_echo", &[], "", &[]);
}

/// Nothing comes behind it that another write over the same place would hide it with.
#[test]
#[ignore = "started by the test above, as root"]
fn one_echo() {
    let world = World::with(BEARER, canary(), soon_idle);
    assert_eq!(world.ask("GET", "/echo/raw", &[AUTHORIZED], "").status, 200);
    nothing_remains(&world, "one echo");
}

#[test]
fn echoes_uploads_and_broken_answers_leave_nothing_in_memory() {
    // Nobody but root may look into the process.
    apart("memory::echoes_uploads_and_broken_answers", &[], "", &[]);
}

#[test]
#[ignore = "started by the test above, as root"]
fn echoes_uploads_and_broken_answers() {
    let world = World::with(BEARER, canary(), soon_idle);
    let mut wire = world.tunnel();
    for target in
        ["/echo/raw", "/echo-long/raw", "/echo-header/raw", "/echo-chunked/raw", "/drip/raw"]
    {
        assert_eq!(wire.ask(request("GET", target, &[AUTHORIZED], "")).status, 200, "{target}");
    }
    let body = "x".repeat(100_000);
    let length = format!("Content-Length: {}", body.len());
    assert_eq!(wire.ask(request("POST", "/v1/x", &[AUTHORIZED, &length], "") + &body).status, 200);
    nothing_remains(&world, "echoes and an upload");
    for target in ["/abort-long", "/abort-chunked"] {
        let mut wire = world.tunnel();
        wire.send(request("GET", target, &[AUTHORIZED], ""));
        let _ = wire.try_answer("GET");
    }
    nothing_remains(&world, "answers that broke off");
}

#[test]
fn basic_and_query_leave_nothing_in_memory() {
    apart("memory::basic_and_query", &[], "", &[]);
}

#[test]
#[ignore = "started by the test above, as root"]
fn basic_and_query() {
    let slots = ["--to", "https://api.test", "--basic", "user", "--query", "key"];
    let world = World::with(&slots, canary(), soon_idle);
    let basic = format!("Authorization: {}", basic("user", "locum_main"));
    assert_eq!(world.ask("GET", "/v1/x", &[&basic], "").status, 200);
    assert_eq!(world.ask("GET", "/open/x?a=b&key=locum_main&c=d", &[], "").status, 200);
    nothing_remains(&world, "Basic and a query");
}

#[test]
fn http2_leaves_nothing_in_memory() {
    apart("memory::requests_over_http2", &[], "", &[]);
}

#[test]
#[ignore = "started by the test above, as root"]
fn requests_over_http2() {
    let world = World::before(Origin::http2(HOST), BEARER, canary(), soon_idle);
    let reply = runtime().block_on(async {
        let client = Http2::open(&world.serve, &world.agent).await;
        let fields = [("authorization", "Bearer locum_main")];
        client.ask(request2("GET", "/echo/raw", &fields), b"").await;
        client.ask(request2("POST", "/v1/x", &fields), b"hello").await
    });
    assert_eq!(reply.status, 200);
    nothing_remains(&world, "requests over HTTP/2");
}
