//! The deployment examples: what they are written in is read, what they name exists, and the tools that
//! will read them in earnest are asked, where they are at hand.

#![allow(missing_docs, unreachable_pub, dead_code)] // A harness is shared by halves.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::items_after_statements,
    clippy::format_push_string
)]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use locum::config::Config;
use locum::document::Source;
use locum::outcome::Code;
use serde_json::Value;
use support::{Tools, command_output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The documents of a YAML file.
fn yaml(path: &str) -> Vec<Value> {
    let text = read(path);
    let documents = text.split("\n---\n").filter(|t| !t.trim().is_empty());
    documents.map(|t| serde_yaml::from_str(t).unwrap_or_else(|e| panic!("{path}: {e}"))).collect()
}

/// Every file under `deploy/`, by its path from the root.
fn files(directory: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join(directory)).unwrap().flatten() {
        let name = format!("{directory}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&name));
        } else {
            found.push(name);
        }
    }
    found.sort();
    found
}

/// Every string in a tree of values.
fn strings<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| strings(item, found)),
        Value::Object(map) => map.values().for_each(|item| strings(item, found)),
        _ => {}
    }
}

/// Whether a program is installed.
fn at_hand(program: &str) -> bool {
    let there = Command::new(program).arg("--help").output().is_ok();
    if !there {
        eprintln!("{program} is not at hand, so it was not asked");
    }
    there
}

// ------------------------------------------------------------------------------------------------

#[test]
fn every_file_can_be_read() {
    let mut seen = 0;
    for file in files("deploy") {
        let extension = Path::new(&file).extension().and_then(|e| e.to_str()).unwrap_or_default();
        match extension {
            "yaml" => drop(yaml(&file)),
            "json" => drop(serde_json::from_str::<Value>(&read(&file)).unwrap()),
            _ => continue,
        }
        seen += 1;
    }
    assert!(seen >= 15, "only {seen} files");
}

/// The process configs and policies are those of Locum, not look-alikes.
#[test]
fn configs_and_policies_are_right() {
    for file in ["container/locum.yaml", "systemd/locum.yaml", "kubernetes/locum.yaml"] {
        let name = format!("deploy/{file}");
        let config = Config::parse(Source::new(&name, &read(&name)), Path::new("/home"));
        let config = config.unwrap_or_else(|report| panic!("{report}"));
        assert_ne!(config, Config::defaults(Path::new("/home")), "{file} changes nothing");
    }
    let policy = "deploy/kubernetes/policies/agents.yaml";
    let policy = locum::policy::compile(vec![Source::new(policy, &read(policy))]);
    assert!(!policy.unwrap_or_else(|report| panic!("{report}")).is_empty());
}

// ------------------------------------------------------------------------------------------------
// Alerts and the board

/// The names of the metrics, as the source has them.
fn metrics() -> BTreeSet<String> {
    let source = read("src/metrics.rs");
    let source = source.split("#[cfg(test)]").next().unwrap();
    let texts = source.split('"').skip(1).step_by(2);
    let is_name = |t: &&str| {
        t.starts_with("locum_") && t.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
    };
    let names: BTreeSet<String> = texts.filter(is_name).map(str::to_owned).collect();
    assert!(names.len() >= 20, "only {names:?}");
    names
}

/// The metrics that an expression asks for, as they are registered.
fn asked(expression: &str) -> Vec<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expression.split(|c| !word(c)).filter(|w| w.starts_with("locum_"));
    // What a histogram is made of.
    let parts = ["_bucket", "_sum", "_count"];
    let whole = |w: &str| parts.iter().find_map(|p| w.strip_suffix(p)).unwrap_or(w).to_owned();
    words.map(whole).collect()
}

/// The codes that an expression names in `code="…"` or `code=~"…|…"`.
fn codes(expression: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in expression.match_indices("code=") {
        let value = expression[at..].split('"').nth(1).unwrap_or_default();
        found.extend(value.split('|').map(str::to_owned));
    }
    found
}

fn rules() -> Vec<Value> {
    let documents = yaml("deploy/prometheus/alerts.yaml");
    let groups = documents[0]["groups"].as_array().unwrap().clone();
    let rules: Vec<Value> =
        groups.iter().flat_map(|g| g["rules"].as_array().unwrap().clone()).collect();
    assert!(rules.len() >= 15, "only {} alerts", rules.len());
    rules
}

#[test]
fn every_alert_asks_for_what_there_is_and_says_what_to_do() {
    let metrics = metrics();
    let operations = read("docs/OPERATIONS.md");
    let mut names = BTreeSet::new();
    for rule in rules() {
        let name = rule["alert"].as_str().unwrap().to_owned();
        let expression = rule["expr"].as_str().unwrap();
        let asked = asked(expression);
        assert!(name == "LocumDown" || !asked.is_empty(), "{name} asks for nothing");
        for metric in asked {
            assert!(metrics.contains(&metric), "{name}: there is no metric {metric}");
        }
        for code in codes(expression) {
            assert!(
                Code::ALL.iter().any(|c| c.as_str() == code),
                "{name}: there is no code {code}"
            );
        }
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["page", "ticket"].contains(&severity), "{name}: {severity}");
        for annotation in ["summary", "description"] {
            let text = rule["annotations"][annotation].as_str().unwrap_or_default();
            assert!(text.len() > 20, "{name} has no {annotation}");
        }
        let runbook = rule["annotations"]["runbook"].as_str().unwrap();
        assert_eq!(runbook, format!("docs/OPERATIONS.md#{}", name.to_lowercase()));
        let heading = format!("### {name}\n`{severity}`.");
        assert!(operations.contains(&heading), "docs/OPERATIONS.md lacks {heading:?}");
        assert!(names.insert(name), "two alerts have one name");
    }
    let described = operations.lines().filter_map(|l| l.strip_prefix("### Locum"));
    for name in described {
        assert!(names.contains(&format!("Locum{name}")), "there is no alert Locum{name}");
    }
}

/// What a security team must not be without.
#[test]
fn the_alerts_that_matter_most_are_there() {
    let expressions: Vec<String> =
        rules().iter().map(|r| r["expr"].as_str().unwrap().to_owned()).collect();
    for metric in [
        "locum_unbound_references_total",
        "locum_audit_up",
        "locum_vault_up",
        "locum_reload_success",
        "locum_untrusted_ca_total",
        "locum_requests_total",
    ] {
        let there = expressions.iter().any(|e| asked(e).iter().any(|m| m == metric));
        assert!(there, "no alert on {metric}");
    }
}

/// Prometheus reads the rules, and each fires when it should and is quiet when it should be.
#[test]
fn the_alerts_fire() {
    let promtool = Tools::promtool();
    let directory = root().join("deploy/prometheus");
    let run = |arguments: &[&str]| {
        command_output(Command::new(&promtool).args(arguments).current_dir(&directory))
    };
    run(&["check", "rules", "alerts.yaml"]);
    run(&["check", "config", "--syntax-only", "prometheus.yaml"]);
    run(&["test", "rules", "alerts.test.yaml"]);
    let tested: BTreeSet<String> = yaml("deploy/prometheus/alerts.test.yaml")[0]["tests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|test| test["name"].as_str().unwrap().to_owned())
        .collect();
    let all: BTreeSet<String> =
        rules().iter().map(|r| r["alert"].as_str().unwrap().to_owned()).collect();
    assert_eq!(tested, all, "each alert has a test");
}

#[test]
fn the_board_shows_every_metric_and_no_other() {
    let board: Value = serde_json::from_str(&read("deploy/grafana/locum.json")).unwrap();
    let metrics = metrics();
    let panels = board["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|p| p["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "two panels have one id");
    let mut shown = BTreeSet::new();
    for panel in panels {
        for target in panel["targets"].as_array().into_iter().flatten() {
            for metric in asked(target["expr"].as_str().unwrap()) {
                assert!(metrics.contains(&metric), "there is no metric {metric}");
                shown.insert(metric);
            }
        }
    }
    assert_eq!(shown, metrics);
    let variables: BTreeSet<&str> = board["templating"]["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    assert_eq!(variables, BTreeSet::from(["datasource", "instance"]));
}

// ------------------------------------------------------------------------------------------------
// The places that it runs in

/// The time that requests in flight have at the end; whoever kills must wait longer.
fn drain() -> Duration {
    Config::defaults(Path::new("/home")).limits.drain
}

#[test]
fn the_image_is_built_without_a_network_and_runs_as_nobody() {
    let text = read("deploy/Dockerfile");
    let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
    let of = |word: &str| -> Vec<&str> {
        lines.iter().filter_map(|l| l.strip_prefix(word)?.strip_prefix(' ')).collect()
    };
    let version = env!("CARGO_PKG_RUST_VERSION");
    let [build, run] = of("FROM")[..] else { panic!("two stages") };
    assert!(
        build.starts_with(&format!("rust:{version}-")),
        "{build}, and Cargo.toml says {version}"
    );
    assert!(run.contains("nonroot"), "{run}");
    assert_eq!(of("USER"), ["65532:65532"]);
    assert!(of("RUN").iter().any(|r| r.contains("cargo build --release --locked")));
    for run in of("RUN") {
        for tool in ["apt", "curl", "wget", "git ", "rustup", "cargo install"] {
            assert!(!run.contains(tool), "{run}");
        }
    }
    assert_eq!(of("ENTRYPOINT"), ["[\"/usr/local/bin/locum\"]"]);
    // What the build needs is not ignored.
    let kept = read("deploy/Dockerfile.dockerignore");
    for path in ["Cargo.toml", "Cargo.lock", "src", "policies", "benches"] {
        assert!(kept.lines().any(|l| l == format!("!{path}")), "{path} is ignored");
        assert!(root().join(path).exists(), "{path}");
    }
}

#[test]
fn compose_leaves_the_agent_no_other_way() {
    let compose = &yaml("deploy/compose.yaml")[0];
    let services = &compose["services"];
    let agent = services["agent"]["networks"].as_array().unwrap();
    for network in agent {
        let network = &compose["networks"][network.as_str().unwrap()];
        assert_eq!(network["internal"], true, "the agent has a network with a gateway");
    }
    let locum = &services["locum"];
    assert_eq!(locum["read_only"], true);
    assert_eq!(locum["cap_drop"], serde_json::json!(["ALL"]));
    assert_eq!(locum["ulimits"]["core"], 0);
    let grace = locum["stop_grace_period"].as_str().unwrap().trim_end_matches('s');
    assert!(grace.parse::<u64>().unwrap() > drain().as_secs(), "{grace}");
    for port in locum["ports"].as_array().unwrap() {
        let port = port.as_str().unwrap();
        assert!(port.starts_with("127.0.0.1:3129:"), "{port} is published");
    }
    // Files that are mounted are there; the CA of the agent is made by a command that is shown.
    for service in ["init", "locum"] {
        for volume in services[service]["volumes"].as_array().unwrap() {
            let source = volume.as_str().unwrap().split(':').next().unwrap();
            let there = source == "home" || root().join("deploy").join(source).exists();
            assert!(there, "{source}");
        }
    }
}

/// The settings of a unit, by key; a key may stand more than once.
fn unit_file(path: &str) -> Vec<(String, String)> {
    let text = read(path);
    let lines = text.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split_once('='));
    lines.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_unit_is_hardened_and_waits_long_enough() {
    let unit = unit_file("deploy/systemd/locum.service");
    let value = |key: &str| {
        let found = unit.iter().find(|(k, _)| k == key);
        found.unwrap_or_else(|| panic!("the unit has no {key}")).1.as_str()
    };
    for (key, wanted) in [
        ("User", "locum"),
        ("UMask", "0077"),
        ("LimitCORE", "0"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("RestrictNamespaces", "yes"),
        ("StateDirectoryMode", "0700"),
    ] {
        assert_eq!(value(key), wanted, "{key}");
    }
    assert!(value("TimeoutStopSec").parse::<u64>().unwrap() > drain().as_secs());
    // The credential that the unit loads is the one that the config opens the vault with.
    let (loaded, _) = value("LoadCredentialEncrypted").split_once(':').unwrap();
    let config = read("deploy/systemd/locum.yaml");
    assert!(config.contains(&format!("passphrase: {{credential: {loaded}}}")), "{loaded}");
    let home = value("Environment").strip_prefix("LOCUM_HOME=").unwrap();
    assert_eq!(home, format!("/var/lib/{}", value("StateDirectory")));
    // The proxy says itself when it is ready; the socket is the one that the config listens on.
    assert_eq!(value("Type"), "notify");
    let socket = unit_file("deploy/systemd/locum.socket");
    let streams: Vec<&str> =
        socket.iter().filter(|(k, _)| k == "ListenStream").map(|(_, v)| v.as_str()).collect();
    let config = Config::parse(Source::new("locum.yaml", &config), Path::new(home)).unwrap();
    let listen: Vec<String> = config.proxy.listen.iter().map(|l| l.at.to_string()).collect();
    assert_eq!(streams, listen);
}

/// systemd reads the unit without a complaint, and finds it little exposed.
#[test]
fn systemd_accepts_the_unit() {
    if !at_hand("systemd-analyze") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("locum.service");
    // It looks whether the programs are there.
    // The same with the socket beside it.
    let socket = directory.path().join("locum.socket");
    std::fs::write(&socket, read("deploy/systemd/locum.socket")).unwrap();
    let text = read("deploy/systemd/locum.service");
    std::fs::write(&copy, text.replace("/usr/local/bin/locum", env!("CARGO_BIN_EXE_locum")))
        .unwrap();
    let verify =
        Command::new("systemd-analyze").arg("verify").arg(&socket).arg(&copy).output().unwrap();
    let said = String::from_utf8_lossy(&verify.stderr);
    let about_it: Vec<&str> = said.lines().filter(|l| l.contains("locum.s")).collect();
    assert!(verify.status.success() && about_it.is_empty(), "{said}");
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", "--threshold=20"]).arg(&copy);
    let security = security.output().unwrap();
    let said = String::from_utf8_lossy(&security.stdout);
    let last = said.lines().rev().find(|l| l.contains("exposure")).unwrap_or_default();
    assert!(security.status.success(), "{last}");
}

/// The Kubernetes object of a kind and name.
fn object(file: &str, kind: &str, name: &str) -> Value {
    let found = yaml(&format!("deploy/kubernetes/{file}"))
        .into_iter()
        .find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("{file} has no {kind} {name}"))
}

#[test]
fn the_pod_is_confined_and_its_parts_fit_together() {
    let deployment = object("deployment.yaml", "Deployment", "locum");
    assert_eq!(deployment["spec"]["replicas"], 1, "a home has one proxy");
    assert_eq!(deployment["spec"]["strategy"]["type"], "Recreate");
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > drain().as_secs());
    let volumes = pod["volumes"].as_array().unwrap();
    let containers = ["initContainers", "containers"]
        .iter()
        .flat_map(|kind| pod[*kind].as_array().unwrap().clone());
    for container in containers {
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]));
        for mount in container["volumeMounts"].as_array().unwrap() {
            assert!(volumes.iter().any(|v| v["name"] == mount["name"]), "{mount}");
        }
    }
    let locum = &pod["containers"][0];
    let port = |name: &str| {
        let ports = locum["ports"].as_array().unwrap();
        ports.iter().find(|p| p["name"] == name).unwrap()["containerPort"].as_u64().unwrap()
    };
    let config = Config::parse(
        Source::new("locum.yaml", &read("deploy/kubernetes/locum.yaml")),
        Path::new("/home"),
    )
    .unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(u64::from(config.proxy.listen[0].address().unwrap().port()), port("proxy"));
    assert_eq!(u64::from(config.ops.listen.unwrap().port()), port("operations"));
    for (probe, path) in [("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")] {
        let get = &locum[probe]["httpGet"];
        assert_eq!((&get["path"], &get["port"]), (&path.into(), &"operations".into()));
    }
    // The secret's file is where the config and `init` look for it.
    let passphrase = "/run/secrets/locum/passphrase";
    assert!(
        read("deploy/kubernetes/locum.yaml")
            .contains(&format!("passphrase: {{file: {passphrase}}}"))
    );
    let mut found = Vec::new();
    strings(&pod["initContainers"], &mut found);
    assert!(found.iter().filter(|text| **text == passphrase).count() >= 2, "{found:?}");
    let service = object("service.yaml", "Service", "locum");
    assert_eq!(service["spec"]["selector"], deployment["spec"]["selector"]["matchLabels"]);
    let monitor = object("podmonitor.yaml", "PodMonitor", "locum");
    assert_eq!(monitor["spec"]["selector"]["matchLabels"], service["spec"]["selector"]);
}

#[test]
fn the_network_policy_leaves_agents_the_proxy_alone() {
    let agents = object("networkpolicy.yaml", "NetworkPolicy", "agents-go-through-locum");
    assert_eq!(agents["spec"]["policyTypes"], serde_json::json!(["Egress"]));
    let ways: Vec<(Vec<u64>, bool)> = agents["spec"]["egress"]
        .as_array()
        .unwrap()
        .iter()
        .map(|way| {
            let ports = way["ports"].as_array().unwrap();
            let ports = ports.iter().map(|p| p["port"].as_u64().unwrap()).collect();
            // No address block, and never all namespaces.
            let to = way["to"].as_array().unwrap();
            (ports, to.iter().all(|t| t["namespaceSelector"]["matchLabels"].is_object()))
        })
        .collect();
    assert_eq!(ways, [(vec![3128], true), (vec![53, 53], true)]);
    let label = &agents["spec"]["podSelector"]["matchLabels"];
    assert_eq!(object("agent-example.yaml", "Pod", "researcher")["metadata"]["labels"], *label);
    let proxy = object("networkpolicy.yaml", "NetworkPolicy", "locum");
    let from = &proxy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"];
    assert_eq!(from, label);
}

#[test]
fn kubectl_builds_the_manifests() {
    if !at_hand("kubectl") {
        return;
    }
    let directory: PathBuf = root().join("deploy/kubernetes");
    let built = command_output(Command::new("kubectl").arg("kustomize").arg(&directory));
    let kinds: BTreeSet<&str> = built.lines().filter_map(|l| l.strip_prefix("kind: ")).collect();
    for kind in ["ConfigMap", "Deployment", "NetworkPolicy", "PersistentVolumeClaim", "Service"] {
        assert!(kinds.contains(kind), "{kinds:?} has no {kind}");
    }
}
