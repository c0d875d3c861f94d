//! A headless Chromium: a page over HTTP/2 that uses `fetch`, an event stream and a WebSocket.

use std::process::Command;

use crate::site::Site;
use crate::support::*;

/// What a browser does on its own account would go to hosts that are not there.
const QUIET: [&str; 8] = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--disable-extensions",
    "--disable-quic",
    "--no-first-run",
    "--no-pings",
];

/// Where the browser runs: without a screen, a sandbox of its own or much shared memory, as in a container.
const HERE: [&str; 4] = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];

/// Makes the database in which Chromium looks for further CAs, with ours.
fn trust(site: &Site, package: &Debian) {
    let database = site.home.work().join(".pki/nssdb");
    std::fs::create_dir_all(&database).unwrap();
    let database = format!("sql:{}", database.display());
    let certutil = |arguments: &[&str]| {
        let mut command = Command::new(package.program("usr/bin/certutil"));
        command.env("LD_LIBRARY_PATH", package.libraries()).args(["-d", &database]);
        command_output(command.args(arguments));
    };
    certutil(&["-N", "--empty-password"]);
    certutil(&["-A", "-t", "C,,", "-n", "locum", "-i", site.home.ca().to_str().unwrap()]);
}

#[test]
fn a_page_with_fetch_events_and_a_socket() {
    let site = Site::new();
    let package = Tools::debian("chromium", &["chromium", "libnss3-tools"]);
    trust(&site, &package);
    // It sends no proxy credentials: so it has a door of its own.
    let mut command = site.home.command(&["run", "--agent", "worker", "--open-port", "--"]);
    command.args(["sh", "-c", "exec \"$@\" --proxy-server=\"$LOCUM_OPEN_PROXY\"", "sh"]);
    command.arg(package.program("usr/lib/chromium/chromium")).args(HERE).args(QUIET);
    command.arg(format!("--user-data-dir={}", site.home.work().join("profile").display()));
    command.args(["--timeout=100000", "--dump-dom", "https://page.test/"]);
    let ran = run(command.env("LD_LIBRARY_PATH", package.libraries()), b"").ok();
    let result =
        ran.out.split_once("<pre id=\"result\">").and_then(|(_, rest)| rest.split_once("</pre>"));
    let result = result.unwrap_or_else(|| panic!("no page: {}\n{}", ran.out, ran.err)).0;
    let result: serde_json::Value =
        serde_json::from_str(result).unwrap_or_else(|e| panic!("{e}: {}\n{}", ran.out, ran.err));
    assert_eq!(result["protocol"], "h2", "{result:#}");
    assert_eq!(
        result["echo"],
        serde_json::json!({"status": 200, "method": "POST", "length": 1_000_000})
    );
    assert_eq!(result["large"], 3_000_000, "{result:#}");
    assert_eq!(result["at once"], 20, "{result:#}");
    assert_eq!(result["events"], "0 1 2 3", "{result:#}");
    assert_eq!(result["socket"], "probe: hello 300000, closed true 4321 as asked", "{result:#}");
    site.never_leaks(&ran);
}
