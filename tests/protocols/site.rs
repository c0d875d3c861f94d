//! An origin of its own process, in Python's aiohttp, with pages and a WebSocket; and a proxy whose
//! policy puts the key into every request there, because a page cannot name it.

use std::process::Command;

use crate::support::*;
use crate::{python, script};

pub const HOST: &str = "page.test";

const POLICY: &str = "version: 1
rules:
- {name: pages, agents: [worker], to: ['https://page.test'], use: [page], inject: always}
";

/// Fields are dropped in this order: the proxy goes before its home.
pub struct Site {
    pub serve: Serve,
    pub server: Running,
    pub key: String,
    pub home: Home,
}

impl Site {
    #[track_caller]
    pub fn new() -> Self {
        let home = Home::new();
        let key = canary();
        let identity = Identity::new(HOST);
        let file = |name: &str, text: &str| {
            let path = home.work().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let ca = file("origin-ca.pem", &identity.ca);
        let mut command = Command::new(python());
        home.clean(&mut command);
        command.arg(script("site_server.py")).env("KEY", &key);
        command.arg(file("origin.pem", &identity.certificate));
        command.arg(file("origin-key.pem", &identity.key)).arg(script("page.html"));
        let mut server = Running::start(&mut command);
        let port: u16 = server.line("port ").parse().unwrap();
        home.reach_as(HOST, ([127, 0, 0, 1], port).into(), Some(ca));
        let header = "Authorization: Bearer {secret}";
        home.add("page", &["--to", "https://page.test", "--header", header], &key);
        home.policy(POLICY);
        home.agent("worker");
        let serve = home.serve();
        Self { serve, server, key, home }
    }

    /// Searches everything that a client and the proxy left behind for the key.
    #[track_caller]
    pub fn never_leaks(&self, ran: &Ran) {
        self.home.said(ran);
        let metrics = self.serve.metrics();
        self.home.never_leaks(&[&self.key], &[("metrics", metrics.as_bytes())]);
    }
}
