use proptest::prelude::*;

use super::*;
use crate::document::tests::check_golden;

const HOME: &str = "/home/locum";

fn parse(yaml: &str) -> Result<Config, Report> {
    Config::parse(Source::new("locum.yaml", yaml), Path::new(HOME))
}

fn defaults() -> Config {
    Config::defaults(Path::new(HOME))
}

/// A configuration that is right; the report if it is not.
fn good(yaml: &str) -> Config {
    parse(yaml).unwrap_or_else(|report| panic!("{yaml}\n{report}"))
}

#[test]
fn nothing_means_the_defaults() {
    for yaml in ["", "# nothing\n", "---\n", "proxy: {}\nlimits: {}\nupstream: {hosts: {}}\n"] {
        assert_eq!(good(yaml), defaults());
    }
    assert_eq!(good(Config::default_text()), defaults());
}

#[test]
fn the_default_text_shows_every_setting_with_its_default() {
    let uncommented = |prefix: &str| {
        let lines = Config::default_text().lines();
        let lines = lines.map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with('#') => rest.to_owned(),
            _ => line.replacen("## ", prefix, 1),
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(good(&uncommented("## ")), defaults());

    // What has no default is shown as an example in a comment, so that every key is in the text.
    let text = Config::default_text();
    let keys = [
        "proxy",
        "listen",
        "allow_remote",
        "tls",
        "certificate",
        "key",
        "client_ca",
        "client_crl",
        "client_auth",
        "mode",
        "ops",
        "upstream",
        "allow_addresses",
        "hosts",
        "address",
        "ca_file",
        "crl_file",
        "client_cert",
        "proxy",
        "http1_only",
        "url",
        "credential",
        "timeouts",
        "connect",
        "response",
        "idle",
        "pool",
        "per_host",
        "total",
        "age",
        "audit",
        "dir",
        "fsync",
        "retain",
        "max_file",
        "vault",
        "store",
        "file",
        "passphrase",
        "log",
        "level",
        "format",
        "limits",
        "connections",
        "connections_per_agent",
        "head_bytes",
        "headers",
        "handshake",
        "head_time",
        "idle_tunnel",
        "drain",
    ];
    for key in keys {
        assert!(text.contains(&format!("{key}:")), "{key}");
    }
}

const EVERYTHING: &str = "\
proxy:
  listen:
  - 0.0.0.0:8443
  - {address: '[::1]:3128', tls: off}
  - {address: 10.0.0.1:9443, tls: {certificate: own.pem, key: own.key}}
  - unix:proxy.sock
  - {address: 'unix:/run/locum.sock', mode: '0660'}
  tls: {certificate: tls/cert.pem, key: /etc/locum/key.pem, client_ca: clients.pem, client_auth: optional}
ops: {listen: 0.0.0.0:9000, allow_remote: true}
upstream:
  allow_addresses: [10.1.0.0/16, 192.168.1.7, \"fd12::/32\", \"::1\", \"::ffff:10.9.9.9\"]
  hosts:
    API.internal.Example.:
      address: 10.1.2.3:8443
      ca_file: ca.pem
      crl_file: revoked.pem
      client_cert: {certificate: us.pem, key: us.key}
      http1_only: true
    '**.corp.example': {proxy: 'http://proxy.corp.example:3128/'}
    '*': {proxy: {url: 'https://[2001:db8::1]', credential: corp-proxy}}
  timeouts: {connect: 1s, tls: 2s, response: 1h30m, idle: 90s}
  pool: {per_host: 0, total: 10, idle: 5s, age: 1m}
audit: {dir: /var/log/locum, fsync: always, retain: 400d, max_file: 1GiB}
vault: {store: v.db, key: {passphrase: {credential: locum.passphrase}}}
log: {level: debug, format: json}
limits:
  connections: 5
  connections_per_agent: 4
  head_bytes: 16KiB
  url_bytes: 4KiB
  body_slot: 2MiB
  bodies: 32MiB
  bodies_per_agent: 8MiB
  headers: 64
  streams: 200
  handshake: 3s
  head_time: 250ms
  idle_tunnel: 1h
  idle_reader: 2m
  failure_delay: 3s
  ping_after: 30s
  drain: 0s
";

#[test]
fn every_setting_is_read() {
    let config = good(EVERYTHING);
    let home = |path: &str| Path::new(HOME).join(path);
    assert_eq!(config.proxy, Proxy { listen: listen(), ..Proxy::default() });
    let listen = Some("0.0.0.0:9000".parse().unwrap());
    assert_eq!(config.ops, Ops { listen, allow_remote: true });
    let nets: Vec<String> =
        config.upstream.allow_addresses.iter().map(ToString::to_string).collect();
    let expected = ["10.1.0.0/16", "192.168.1.7/32", "fd12::/32", "::1/128", "10.9.9.9/32"];
    assert_eq!(nets, expected);
    assert_eq!(config.upstream.hosts, hosts());
    let seconds = Duration::from_secs;
    let timeouts = Timeouts {
        connect: seconds(1),
        tls: seconds(2),
        response: seconds(5400),
        idle: seconds(90),
    };
    assert_eq!(config.upstream.timeouts, timeouts);
    let pool = Pool { per_host: 0, total: 10, idle: seconds(5), age: seconds(60) };
    assert_eq!(config.upstream.pool, pool);
    let audit = Audit {
        dir: "/var/log/locum".into(),
        fsync: Fsync::Always,
        retain: Retain::For(seconds(400 * 86_400)),
        max_file: 1 << 30,
    };
    assert_eq!(config.audit, audit);
    let credential = Passphrase::Credential("locum.passphrase".to_owned());
    let vault = Vault { store: home("v.db"), key: KeySource::Passphrase(credential) };
    assert_eq!(config.vault, vault);
    assert_eq!(config.log, Log { level: Level::Debug, format: LogFormat::Json });
    let limits = Limits {
        connections: 5,
        connections_per_agent: 4,
        head_bytes: 16_384,
        url_bytes: 4096,
        body_slot: 2 << 20,
        bodies: 32 << 20,
        bodies_per_agent: 8 << 20,
        headers: 64,
        streams: 200,
        handshake: seconds(3),
        head_time: Duration::from_millis(250),
        idle_tunnel: seconds(3600),
        idle_reader: seconds(120),
        failure_delay: seconds(3),
        ping_after: seconds(30),
        drain: Duration::ZERO,
    };
    assert_eq!(config.limits, limits);
}

fn listen() -> Vec<Listen> {
    let home = |path: &str| Path::new(HOME).join(path);
    let tcp = |text: &str, tls| Listen { at: ListenAt::Tcp(text.parse().unwrap()), tls };
    let unix = |path: &str, mode| {
        let at = ListenAt::Unix { path: path.into(), mode };
        Listen { at, tls: None }
    };
    let common = ListenerTls {
        certificate: home("tls/cert.pem"),
        key: "/etc/locum/key.pem".into(),
        clients: Some(ClientCertificates { ca: home("clients.pem"), crl: None, required: false }),
    };
    let own = ListenerTls { certificate: home("own.pem"), key: home("own.key"), clients: None };
    vec![
        tcp("0.0.0.0:8443", Some(common)),
        tcp("[::1]:3128", None),
        tcp("10.0.0.1:9443", Some(own)),
        unix("/home/locum/proxy.sock", 0o600),
        unix("/run/locum.sock", 0o660),
    ]
}

fn hosts() -> Vec<UpstreamHost> {
    let home = |path: &str| Path::new(HOME).join(path);
    let host = |pattern: &str| UpstreamHost {
        at: super::Place::default(),
        pattern: pattern.parse().unwrap(),
        address: None,
        ca_file: None,
        crl_file: None,
        client_cert: None,
        proxy: None,
        http1_only: false,
    };
    let authority = |text: &str| Authority::parse(text, None).unwrap();
    let proxy = |scheme, text: &str, credential| UpstreamProxy {
        scheme,
        authority: authority(text),
        credential,
        allow_cleartext: false,
        vet_names: true,
    };
    vec![
        UpstreamHost {
            address: Some(authority("10.1.2.3:8443")),
            ca_file: Some(home("ca.pem")),
            crl_file: Some(home("revoked.pem")),
            client_cert: Some(KeyPair { certificate: home("us.pem"), key: home("us.key") }),
            http1_only: true,
            ..host("api.internal.example")
        },
        UpstreamHost {
            proxy: Some(proxy(Scheme::Http, "proxy.corp.example:3128", None)),
            ..host("**.corp.example")
        },
        UpstreamHost {
            proxy: Some(proxy(Scheme::Https, "[2001:db8::1]:443", "corp-proxy".parse().ok())),
            ..host("*")
        },
    ]
}

#[test]
fn each_form_of_a_setting_is_read() {
    let key = |yaml: &str| good(&format!("vault: {{key: {yaml}}}")).vault.key;
    assert_eq!(key("{file: /k}"), KeySource::File("/k".into()));
    assert_eq!(key("{passphrase: prompt}"), KeySource::Passphrase(Passphrase::Prompt));
    let file = KeySource::Passphrase(Passphrase::File("/home/locum/p".into()));
    assert_eq!(key("{passphrase: {file: p}}"), file);
    let words = ["/usr/bin/pass", "show", "x y"].map(ToOwned::to_owned).to_vec();
    assert_eq!(key("{command: [/usr/bin/pass, show, x y]}"), KeySource::Command(words));

    let fsync = |yaml: &str| good(&format!("audit: {{fsync: {yaml}}}")).audit.fsync;
    assert_eq!(fsync("never"), Fsync::Never);
    assert_eq!(fsync("250ms"), Fsync::Every(Duration::from_millis(250)));
    assert_eq!(good("audit: {retain: forever}").audit.retain, Retain::Forever);

    assert_eq!(good("ops: {listen: off}").ops.listen, None);
    let listen = |yaml: &str| good(&format!("proxy: {yaml}")).proxy.listen.len();
    assert_eq!(listen("{listen: 127.0.0.1:0}"), 1);
    assert_eq!(listen("{listen: [127.0.0.1:0, 127.0.0.1:0]}"), 2);
    assert_eq!(listen("{listen: 0.0.0.0:1, allow_remote: true}"), 1);
    assert_eq!(listen("{listen: '[::ffff:127.0.0.1]:1'}"), 1);
    assert_eq!(listen("{listen: 'unix:/s'}"), 1);
    let required = |yaml: &str| {
        let tls = format!("proxy: {{tls: {{certificate: c, key: k, client_ca: a{yaml}}}}}");
        good(&tls).proxy.listen[0].tls.as_ref().unwrap().clients.as_ref().unwrap().required
    };
    assert!(required("") && required(", client_auth: required"));
    assert!(!required(", client_auth: optional"));
}

#[test]
fn every_mistake_is_reported_with_its_place_and_a_way_out() {
    let cases = [
        "prox: {listen: 127.0.0.1:1}\nproxy: {listn: 127.0.0.1:1}\nlimits: {foo: 1}\n",
        "proxy:\nops: off\nupstream: []\nlog: info\n",
        // Listeners.
        "proxy:\n  listen: localhost:3128\n",
        "proxy:\n  listen: 3128\nops:\n  listen: false\n",
        "proxy:\n  listen: [':3128', '*:3128', 127.0.0.1, 127.0.0.1:99999, '::1:3128']\n",
        "proxy: {listen: []}\n",
        "proxy:\n  listen:\n  - 127.0.0.1:1\n  - 0.0.0.0:3128\n  - '[::]:3128'\n",
        "proxy:\n  listen: 0.0.0.0:3128\n  allow_remote: yes\n",
        "ops:\n  listen: 10.0.0.1:3129\n",
        "ops: {listen: 127.0.0.1:3128}\n",
        "proxy: {listen: '[::]:3129', allow_remote: true}\n",
        "proxy:\n  listen: 0.0.0.0:3128\n  tls:\n    certificate: ~/cert.pem\n",
        "proxy:\n  listen: {address: 0.0.0.0:1, tls: off}\n  tls: {certificate: a, key: b}\n",
        "proxy:\n  listen:\n  - {address: 'unix:/s', tls: {certificate: a, key: b}}\n  - {address: 127.0.0.1:1, mode: '0600'}\n  - {tls: off}\n",
        "proxy:\n  listen: ['unix:', /run/s, {address: 'unix:/a', mode: 600}, {address: 'unix:/b', mode: '0888'}, 'unix:/a', 'unix:/a']\n",
        "proxy:\n  tls: {certificate: a, key: b, client_auth: maybe}\n",
        // Upstreams.
        "upstream:\n  allow_addresses: [10.0.0.1/8, 10.0.0.0/33, 10.0.0, '*', 7, 'fe80::1%eth0']\n",
        "upstream:\n  allow_addresses: 10.0.0.0/8\n",
        "upstream:\n  hosts:\n    API.example.com: {}\n    api.example.com.: {http1_only: 1}\n",
        "upstream:\n  hosts:\n    https://a.example: {}\n    'a*.example': {}\n    a.example:443: {}\n    127.1: {}\n",
        "upstream:\n  hosts:\n    a.example:\n      adress: 10.0.0.1:1\n      address: 10.0.0.1\n      client_cert: {certificate: a}\n      ca_file: ''\n",
        "upstream:\n  hosts:\n    a.example:\n      proxy: http://user:hunter2@proxy:3128\n    b.example:\n      proxy: socks5://proxy:1080\n    c.example:\n      proxy: {url: http://proxy/path, credential: Corp Proxy}\n    d.example:\n      proxy: {url: http://proxy:3128, credential: corp}\n",
        "upstream:\n  timeouts: {connect: 10, tls: 0s, response: 2d, idle: 1 h}\n  pool: {per_host: -1}\n",
        // The rest.
        "audit:\n  fsync: allways\n  retain: 1h\n  max_file: 1KiB\n  dir: ${HOME}/audit\n",
        "vault:\n  key: master.key\n",
        "vault:\n  key: {}\n",
        "vault:\n  key: {file: a, passphrase: prompt}\n",
        "vault:\n  key: {command: []}\n",
        "vault:\n  key: {command: [pass, show, locum]}\n",
        "vault:\n  key: {command: /usr/bin/pass show locum}\n",
        "vault:\n  key:\n    passphrase: correct horse battery staple\n",
        "vault:\n  key:\n    passphrase: {credential: ../../etc/shadow}\n",
        "vault:\n  key:\n    passphrase: {file: a, credential: b}\n",
        "vault:\n  key:\n    file: |\n      -----BEGIN KEY-----\n      abc\n",
        "log: {level: verbose, format: jsno}\n",
        "limits: {connections: 0, head_bytes: 65536, headers: 5000, drain: 2h}\n",
    ];
    let golden = include_str!("reports.golden");
    check_golden("src/config/reports.golden", golden, &cases, |yaml| match parse(yaml) {
        Ok(config) => format!("accepted: {config:?}"),
        Err(report) => report.to_string(),
    });
}

#[test]
fn a_report_never_repeats_a_secret() {
    for yaml in [
        "upstream: {hosts: {a: {proxy: 'http://u:hunter2@p:1'}}}\n",
        "vault:\n  key:\n    passphrase: hunter2\n",
        "vault:\n  key:\n    passphrase:\n      - hunter2\n",
        "vault:\n  passphrase: hunter2\n  key: {passphrase: hunter2, file: x}\n",
        "vault:\n  key:\n    passphrase: {hunter2: x}\n",
        "vault:\n  key:\n    passphrase: \"hunter2\n",
    ] {
        let report = parse(yaml).unwrap_err().to_string();
        assert!(!report.contains("hunter2"), "{report}");
    }
}

#[test]
fn only_what_a_process_cannot_change_needs_a_restart() {
    let old = defaults();
    assert_eq!(old.restart_needed(&old), [""; 0]);
    assert_eq!(
        old.restart_needed(&good("log: {level: debug}\nupstream: {pool: {total: 1}}")),
        [""; 0]
    );
    let shown = |name: &str| good(&format!("proxy: {{tls: {{certificate: {name}, key: k}}}}"));
    assert_eq!(shown("a").restart_needed(&shown("b")), [""; 0]);
    assert_eq!(old.restart_needed(&shown("a")), ["proxy.listen"]);
    let all = ["proxy.listen", "ops.listen", "audit", "vault", "log.format", "limits"];
    assert_eq!(old.restart_needed(&good(EVERYTHING)), all);
}

#[test]
fn a_missing_file_means_the_defaults_and_a_bad_one_is_named() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(FILE);
    assert_eq!(Config::load(&path, home.path()), Ok(Config::defaults(home.path())));
    std::fs::write(&path, Config::default_text()).unwrap();
    assert_eq!(Config::load(&path, home.path()), Ok(Config::defaults(home.path())));
    std::fs::write(&path, "proxi: {}\n").unwrap();
    let report = Config::load(&path, home.path()).unwrap_err().to_string();
    assert!(report.starts_with(&format!("{}:1:1: proxi: unknown key", path.display())), "{report}");
}

proptest! {
    /// Any change of one character of a full configuration is read or refused, never a panic.
    #[test]
    fn no_edit_makes_it_panic(at in 0..EVERYTHING.len(), with in any::<char>(), cut in 0..4_usize) {
        let chars: Vec<char> = EVERYTHING.chars().collect();
        let edited = chars[..at].iter().chain([&with]).chain(chars.iter().skip(at + cut));
        if let Err(report) = parse(&edited.collect::<String>()) {
            let _ = report.to_string();
        }
    }
}
