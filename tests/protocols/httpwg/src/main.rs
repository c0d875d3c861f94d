//! Runs every case of httpwg, all at once, against the address that is the first argument: a port that speaks HTTP/2 in the clear and leads to `https://localhost`. Prints `pass` or `fail`
//! and the name of each case, and why it failed on standard error.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use buffet::IntoHalves;
use buffet::net::TcpStream;
use httpwg::{Config, Conn};

/// How long a case waits for a frame.
const PATIENCE: Duration = Duration::from_secs(4);

fn main() {
    let address = std::env::args().nth(1).expect("an address");
    let address: SocketAddr = address.parse().expect("an address with a port");
    buffet::start(run(address));
}

async fn run(address: SocketAddr) {
    let config = Rc::new(Config {
        host: "localhost".to_owned(),
        port: 443,
        tls: true,
        // Where the origin asks for no key.
        path: "/open/".to_owned(),
        timeout: PATIENCE,
        ..Config::default()
    });
    let local = tokio::task::LocalSet::new();
    let cases = catalog::<TcpStream>().into_iter().flat_map(|(rfc, sections)| {
        sections.into_iter().flat_map(move |(section, cases)| {
            cases.into_iter().map(move |(name, case)| (format!("{rfc}: {section}: {name}"), case))
        })
    });
    for (name, case) in cases {
        let config = Rc::clone(&config);
        local.spawn_local(async move {
            let begun = Instant::now();
            // In a task of its own, for a case may panic.
            let ran = tokio::task::spawn_local(async move {
                let stream = TcpStream::connect(address).await?;
                case(Conn::new(config, stream)).await
            });
            let result: eyre::Result<()> = ran.await.unwrap_or_else(|panic| Err(panic.into()));
            // httpwg takes its own end of patience with a silent server for the connection's end,
            // which many cases are content with.
            let silence = || Err(eyre::eyre!("nothing came"));
            let result =
                if begun.elapsed() < PATIENCE { result } else { result.and_then(|()| silence()) };
            println!("{} {name}", if result.is_ok() { "pass" } else { "fail" });
            if let Err(error) = result {
                eprintln!("{name}: {error:?}\n");
            }
        });
    }
    local.await;
}

httpwg_macros::gen_catalog!(catalog);
