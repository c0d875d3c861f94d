//! The usual scene: one credential for one origin, one agent, and a proxy that serves.

use super::{Agent, Answer, Home, Origin, Serve, Wire, canary};

/// Where the credential `main` goes.
pub const HOST: &str = "api.test";

/// How it enters a request.
pub const BEARER: &[&str] =
    &["--to", "https://api.test", "--header", "Authorization: Bearer {secret}"];

/// The scene. Fields are dropped in this order: the proxy goes before its home.
pub struct World {
    pub serve: Serve,
    pub origin: Origin,
    pub agent: Agent,
    /// The secret of `main`.
    pub key: String,
    pub home: Home,
}

/// The scene before a proxy serves it.
pub struct Stage {
    pub origin: Origin,
    pub agent: Agent,
    /// The secret of `main`.
    pub key: String,
    pub home: Home,
}

impl Stage {
    #[track_caller]
    pub fn new() -> Self {
        Self::before(Origin::start(HOST), BEARER, canary())
    }

    /// With this origin, and this secret in these slots.
    #[track_caller]
    pub fn before(origin: Origin, slots: &[&str], key: String) -> Self {
        let home = Home::new();
        origin.accept(&key);
        home.reach(&origin);
        home.add("main", slots, &key);
        let agent = home.agent("worker");
        Self { origin, agent, key, home }
    }
}

impl World {
    #[track_caller]
    pub fn new() -> Self {
        Self::with(BEARER, canary(), |_, _| {})
    }

    /// With this secret in these slots, and after `prepare`.
    #[track_caller]
    pub fn with(slots: &[&str], key: String, prepare: impl FnOnce(&Home, &Origin)) -> Self {
        Self::before(Origin::start(HOST), slots, key, prepare)
    }

    /// With an origin that prefers HTTP/2.
    #[track_caller]
    pub fn http2() -> Self {
        Self::before(Origin::http2(HOST), BEARER, canary(), |_, _| {})
    }

    /// With this origin.
    #[track_caller]
    pub fn before(
        origin: Origin,
        slots: &[&str],
        key: String,
        prepare: impl FnOnce(&Home, &Origin),
    ) -> Self {
        let Stage { home, origin, agent, key } = Stage::before(origin, slots, key);
        prepare(&home, &origin);
        let serve = home.serve();
        Self { serve, origin, agent, key, home }
    }

    /// With this policy.
    #[track_caller]
    pub fn ruled(policy: &str) -> Self {
        Self::with(BEARER, canary(), |home, _| home.policy(policy))
    }

    /// A tunnel to the origin.
    #[track_caller]
    pub fn tunnel(&self) -> Wire {
        self.serve.tunnel(&self.agent, HOST)
    }

    /// One request in a tunnel of its own; fields are lines without their ends.
    #[track_caller]
    pub fn ask(&self, method: &str, target: &str, fields: &[&str], body: &str) -> Answer {
        self.tunnel().ask(request(method, target, fields, body))
    }

    /// One GET with the reference in its slot, in a tunnel of its own.
    #[track_caller]
    pub fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[AUTHORIZED], "")
    }

    /// Nothing that the proxy has left behind, and nothing in `texts`, holds the key.
    #[track_caller]
    pub fn never_leaks(&self, texts: &[(&str, &[u8])]) {
        let metrics = self.serve.metrics();
        let texts = [texts, &[("metrics", metrics.as_bytes())]].concat();
        self.home.never_leaks(&[&self.key], &texts);
    }
}

/// The reference to `main` in its slot.
pub const AUTHORIZED: &str = "Authorization: Bearer locum_main";

/// A request to the usual origin.
pub fn request(method: &str, target: &str, fields: &[&str], body: &str) -> String {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    let length = match body.len() {
        0 => String::new(),
        length => format!("Content-Length: {length}\r\n"),
    };
    format!("{method} {target} HTTP/1.1\r\nHost: {HOST}\r\n{fields}{length}\r\n{body}")
}
