//! What is set, removed and written, client by client.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::LazyLock;

use p12_keystore::{KeyStore, KeyStoreEntry, Pkcs12ImportPolicy};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::bundle::first_roots;
use super::*;

const URL: &str = "http://researcher:token%2F1@127.0.0.1:3128";

/// Generating keys costs more than all else here, so the tests share three roots and a CA.
static ROOTS: LazyLock<Vec<CertificateDer<'static>>> =
    LazyLock::new(|| certificates((authority() + &authority() + &authority()).as_bytes()));
static OWN_CA: LazyLock<String> = LazyLock::new(authority);

fn authority() -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

fn own_ca() -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(OWN_CA.as_bytes()).unwrap()
}

fn inputs(inherited: &[(&str, &str)]) -> Inputs {
    Inputs {
        proxy_url: URL.into(),
        open_proxy: None,
        ca_file: "/home/me/locum/ca.pem".into(),
        bundle_file: "/home/me/locum/ca-bundle.pem".into(),
        bundle: bundle(&ROOTS, &OWN_CA).unwrap(),
        state_dir: "/home/me/locum/run".into(),
        placeholders: vec![placeholder("OPENAI_API_KEY", "sk-proj-locum_openai")],
        settings: BTreeMap::new(),
        base_url_variables: vec!["OPENAI_BASE_URL".into()],
        inherited: snapshot(inherited),
        wgetrc: None,
    }
}

fn placeholder(variable: &str, value: &str) -> Placeholder {
    Placeholder { variables: vec![variable.into()], value: value.into() }
}

fn snapshot(variables: &[(&str, &str)]) -> Snapshot {
    variables.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn planned(inherited: &[(&str, &str)]) -> Plan {
    plan(&inputs(inherited)).unwrap()
}

fn value<'a>(plan: &'a Plan, name: &str) -> Option<&'a str> {
    plan.set.get(name).map(|value| value.to_str().unwrap())
}

fn contents<'a>(plan: &'a Plan, name: &str) -> &'a [u8] {
    let file = plan.files.iter().find(|file| file.path.ends_with(name));
    &file.unwrap().contents
}

fn refusal(change: impl FnOnce(&mut Inputs)) -> EnvironmentError {
    let mut inputs = inputs(&[]);
    change(&mut inputs);
    plan(&inputs).expect_err("a plan was made")
}

// Variables.

#[test]
fn every_proxy_variable_has_the_url() {
    let plan = planned(&[("https_proxy", "http://corporate:8080")]);
    for name in PROXY_VARIABLES {
        assert_eq!(value(&plan, name), Some(URL), "{name}");
    }
}

#[test]
fn inherited_no_proxy_is_dropped() {
    for inherited in ["*", "api.openai.com", ".openai.com,10.0.0.0/8"] {
        let plan = planned(&[("NO_PROXY", inherited), ("no_proxy", inherited)]);
        assert_eq!(value(&plan, "NO_PROXY"), Some("localhost,127.0.0.1,::1"));
        assert_eq!(value(&plan, "no_proxy"), Some("localhost,127.0.0.1,::1"));
    }
}

#[test]
fn what_replaces_the_roots_gets_the_bundle_and_what_adds_gets_the_ca() {
    let plan = planned(&[("SSL_CERT_FILE", "/etc/corporate.pem")]);
    for name in REPLACES_ROOTS {
        assert_eq!(value(&plan, name), Some("/home/me/locum/ca-bundle.pem"), "{name}");
    }
    for name in ADDS_ROOTS {
        assert_eq!(value(&plan, name), Some("/home/me/locum/ca.pem"), "{name}");
    }
}

#[test]
fn switches_are_set_over_inherited_ones() {
    let plan = planned(&[("NODE_USE_ENV_PROXY", "0"), ("AWS_EC2_METADATA_DISABLED", "false")]);
    assert_eq!(value(&plan, "NODE_USE_ENV_PROXY"), Some("1"));
    assert_eq!(value(&plan, "AWS_EC2_METADATA_DISABLED"), Some("true"));
}

#[test]
fn nothing_beyond_the_list_is_set() {
    let mut expected: BTreeSet<&str> = PROXY_VARIABLES.into();
    expected.extend(NO_PROXY_VARIABLES.iter().chain(&REPLACES_ROOTS).chain(&ADDS_ROOTS));
    expected.extend(SWITCHES.map(|(name, _)| name));
    expected.extend([GIT_COUNT, "GIT_CONFIG_KEY_0", "GIT_CONFIG_VALUE_0"]);
    expected.extend([WGETRC, PHP_INI_SCAN_DIR, JAVA_TOOL_OPTIONS, "OPENAI_API_KEY"]);
    let plan = planned(&[("PATH", "/bin"), ("EDITOR", "vi")]);
    assert_eq!(plan.set.keys().map(String::as_str).collect::<BTreeSet<_>>(), expected);
}

#[test]
fn an_inherited_key_is_replaced_by_its_placeholder() {
    let inherited = snapshot(&[("OPENAI_API_KEY", "sk-real"), ("PATH", "/bin")]);
    let plan = planned(&[("OPENAI_API_KEY", "sk-real"), ("PATH", "/bin")]);
    assert_eq!(value(&plan, "OPENAI_API_KEY"), Some("sk-proj-locum_openai"));
    let child = plan.child_environment(&inherited);
    assert_eq!(child[OsStr::new("OPENAI_API_KEY")], "sk-proj-locum_openai");
    assert_eq!(child[OsStr::new("PATH")], "/bin");
    assert!(!child.values().any(|value| value == "sk-real"));
}

#[test]
fn a_key_under_another_spelling_is_removed() {
    let plan = planned(&[("openai_api_key", "sk-real"), ("OpenAI_API_Key", "sk-real")]);
    assert!(plan.remove.contains("openai_api_key"));
    assert!(plan.remove.contains("OpenAI_API_Key"));
    assert!(!plan.remove.contains("OPENAI_API_KEY"));
}

#[test]
fn the_first_of_two_placeholders_has_the_variable() {
    let mut inputs = inputs(&[]);
    inputs.placeholders.push(placeholder("OPENAI_API_KEY", "locum_second"));
    inputs.placeholders.push(placeholder("GITHUB_TOKEN", "locum_github"));
    inputs.placeholders.push(placeholder("GITHUB_TOKEN", "locum_github"));
    let plan = plan(&inputs).unwrap();
    assert_eq!(value(&plan, "OPENAI_API_KEY"), Some("sk-proj-locum_openai"));
    assert_eq!(plan.contested, BTreeSet::from(["OPENAI_API_KEY".to_owned()]));
}

#[test]
fn ways_around_are_removed() {
    let plan = planned(&[("No_Grpc_Proxy", "*"), ("NPM_CONFIG_NOPROXY", "*")]);
    let always = WEAKENS_TRUST.into_iter().chain(OUTRANKS_PROXY);
    for name in always.chain(["OPENAI_BASE_URL", "No_Grpc_Proxy", "NPM_CONFIG_NOPROXY"]) {
        assert!(plan.remove.contains(name), "{name}");
    }
}

#[test]
fn another_spelling_of_a_set_variable_is_removed() {
    let plan = planned(&[("Https_Proxy", "http://corporate:8080"), ("npm_CONFIG_cafile", "/x")]);
    assert!(plan.remove.contains("Https_Proxy"));
    assert!(plan.remove.contains("npm_CONFIG_cafile"));
    assert!(!plan.remove.contains("https_proxy"));
}

#[test]
fn own_variables_do_not_reach_the_child() {
    let mut inherited =
        snapshot(&[("LOCUM_HOME", "/h"), ("LOCUM_PASSPHRASE", "p"), ("LOCUMOTIVE", "1")]);
    inherited.push((OsString::from_vec(b"LOCUM_\xff".to_vec()), "x".into()));
    let mut inputs = inputs(&[]);
    inputs.inherited.clone_from(&inherited);
    let plan = plan(&inputs).unwrap();
    assert!(plan.remove.contains("LOCUM_HOME") && plan.remove.contains("LOCUM_PASSPHRASE"));
    let child = plan.child_environment(&inherited);
    assert!(!child.keys().any(|name| name.as_bytes().starts_with(b"LOCUM_")));
    assert!(child.contains_key(OsStr::new("LOCUMOTIVE")));
}

#[test]
fn of_two_inherited_entries_with_one_name_the_first_counts() {
    let inherited = snapshot(&[("PATH", "/first"), ("PATH", "/second")]);
    assert_eq!(planned(&[]).child_environment(&inherited)[OsStr::new("PATH")], "/first");
    assert_eq!(lookup(&inherited, "PATH"), Some(OsStr::new("/first")));
}

#[test]
fn no_variable_is_both_set_and_removed() {
    let mut inputs = inputs(&[("LOCUM_HOME", "/h"), ("HTTP_proxy", "x")]);
    inputs.base_url_variables.push("OPENAI_API_KEY".into());
    let plan = plan(&inputs).unwrap();
    assert!(plan.remove.iter().all(|name| !plan.set.contains_key(name)));
    assert!(plan.set.contains_key("OPENAI_API_KEY"));
}

// git, wget, PHP, Java.

#[test]
fn git_configuration_is_appended_to_the_inherited() {
    let plan = planned(&[
        ("GIT_CONFIG_COUNT", "2"),
        ("GIT_CONFIG_KEY_0", "safe.directory"),
        ("GIT_CONFIG_VALUE_0", "*"),
    ]);
    assert_eq!(value(&plan, "GIT_CONFIG_COUNT"), Some("3"));
    assert_eq!(value(&plan, "GIT_CONFIG_KEY_2"), Some("http.proxyAuthMethod"));
    assert_eq!(value(&plan, "GIT_CONFIG_VALUE_2"), Some("basic"));
    assert_eq!(value(&plan, "GIT_CONFIG_KEY_0"), None);
}

#[test]
fn git_configuration_is_not_appended_twice() {
    let first = planned(&[]);
    let nested: Vec<_> =
        first.set.keys().map(|name| (name.as_str(), value(&first, name).unwrap())).collect();
    let second = planned(&nested);
    assert_eq!(first.set, second.set);
}

#[test]
fn a_malformed_git_count_starts_anew() {
    for bogus in ["", "x", "-1", "2x", "1.5", "2147483647", "4294967296", "99999999999999"] {
        let plan = planned(&[("GIT_CONFIG_COUNT", bogus)]);
        assert_eq!(value(&plan, "GIT_CONFIG_COUNT"), Some("1"), "{bogus:?}");
        assert_eq!(value(&plan, "GIT_CONFIG_KEY_0"), Some("http.proxyAuthMethod"));
    }
    // As strtoul reads it.
    assert_eq!(value(&planned(&[("GIT_CONFIG_COUNT", " +7")]), "GIT_CONFIG_COUNT"), Some("8"));
}

#[test]
fn wgetrc_keeps_the_users_lines_and_ends_with_ours() {
    let mut inputs = inputs(&[]);
    let user = b"# mine\ntries = 3\r\nCA-Certificate=/old.pem\nhttps_proxy = http://x\n\
        Use_Proxy = off\ncheck_certificate = off\n  no-proxy = *\ntimeout=\xff";
    inputs.wgetrc = Some(user.to_vec());
    let plan = plan(&inputs).unwrap();
    let expected =
        b"# mine\ntries = 3\ntimeout=\xff\nca_certificate = /home/me/locum/ca-bundle.pem\n";
    assert_eq!(contents(&plan, "wgetrc"), expected);
    assert_eq!(value(&plan, "WGETRC"), Some("/home/me/locum/run/wgetrc"));
    let file = plan.files.iter().find(|file| file.path.ends_with("wgetrc")).unwrap();
    assert_eq!(file.mode, 0o600);
}

#[test]
fn wgetrc_without_one_of_the_user() {
    let expected = b"ca_certificate = /home/me/locum/ca-bundle.pem\n";
    assert_eq!(contents(&planned(&[]), "wgetrc"), expected);
}

#[test]
fn the_users_wgetrc_is_the_one_that_wget_would_read() {
    let home = ("HOME", "/home/me");
    let path = |variables: &[(&str, &str)]| user_wgetrc(&snapshot(variables));
    assert_eq!(path(&[home]), Some("/home/me/.wgetrc".into()));
    assert_eq!(path(&[home, ("WGETRC", "")]), Some("/home/me/.wgetrc".into()));
    assert_eq!(path(&[home, ("WGETRC", "/etc/w")]), Some("/etc/w".into()));
    assert_eq!(path(&[]), None);
}

#[test]
fn php_directories_are_appended() {
    let directories = |inherited: &[(&str, &str)]| {
        value(&planned(inherited), "PHP_INI_SCAN_DIR").unwrap().to_owned()
    };
    assert_eq!(directories(&[]), ":/home/me/locum/run");
    assert_eq!(directories(&[("PHP_INI_SCAN_DIR", "")]), "/home/me/locum/run");
    assert_eq!(directories(&[("PHP_INI_SCAN_DIR", ":/a")]), ":/a:/home/me/locum/run");
    assert_eq!(
        directories(&[("PHP_INI_SCAN_DIR", "/a:/home/me/locum/run")]),
        "/a:/home/me/locum/run"
    );
    let expected = b"curl.cainfo = '/home/me/locum/ca-bundle.pem'\n\
        openssl.cafile = '/home/me/locum/ca-bundle.pem'\n";
    assert_eq!(contents(&planned(&[]), "zz.ini"), expected);
}

#[test]
fn php_strings_take_the_quotes_that_fit() {
    assert_eq!(php_string(Path::new("/a b;$c\\\"")).unwrap(), b"'/a b;$c\\\"'");
    assert_eq!(php_string(Path::new("/o'brien")).unwrap(), b"\"/o'brien\"");
    assert!(php_string(Path::new("/o'brien/$x")).is_err());
    assert!(php_string(Path::new("/a\nb")).is_err());
}

#[test]
fn the_jvm_gets_the_trust_store_and_no_proxy_without_an_open_port() {
    let plan = planned(&[]);
    assert_eq!(
        value(&plan, "JAVA_TOOL_OPTIONS"),
        Some(
            "-Djavax.net.ssl.trustStore=/home/me/locum/run/cacerts.p12 \
             -Djavax.net.ssl.trustStorePassword=changeit"
        )
    );
}

#[test]
fn the_jvm_goes_through_the_open_port() {
    let mut inputs = inputs(&[("JAVA_TOOL_OPTIONS", "-Xmx1g -Dhttps.proxyHost=corporate")]);
    inputs.open_proxy = Some("127.0.0.1:4001".parse().unwrap());
    assert_eq!(
        value(&plan(&inputs).unwrap(), "JAVA_TOOL_OPTIONS"),
        Some(
            "-Xmx1g -Dhttps.proxyHost=corporate \
             -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=4001 \
             -Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=4001 \
             -Dhttp.nonProxyHosts=localhost|127.*|[::1] \
             -Djavax.net.ssl.trustStore=/home/me/locum/run/cacerts.p12 \
             -Djavax.net.ssl.trustStorePassword=changeit"
        )
    );
}

#[test]
fn jvm_words_are_quoted_piecewise() {
    let word = |text: &str| jvm_word(text.as_ref()).into_string().unwrap();
    assert_eq!(word("-Da=/plain|x"), "-Da=/plain|x");
    assert_eq!(word("-Da=/with blank"), "\"-Da=/with blank\"");
    assert_eq!(word("-Da=/o'brien"), "\"-Da=/o'brien\"");
    assert_eq!(word("-Da=/a\"b"), "\"-Da=/a\"'\"'\"b\"");
}

// Refusals.

#[test]
fn a_refusal_names_the_thing_and_not_the_value() {
    use EnvironmentError as E;
    assert!(matches!(refusal(|i| i.ca_file = "ca.pem".into()), E::RelativePath { .. }));
    assert!(matches!(refusal(|i| i.state_dir = "/a:b".into()), E::UnusablePath { .. }));
    assert!(matches!(refusal(|i| i.bundle_file = "/a\nb".into()), E::UnusablePath { .. }));
    let public = "192.0.2.1:4001".parse().unwrap();
    assert!(matches!(refusal(|i| i.open_proxy = Some(public)), E::NotLoopback { .. }));
    let error = refusal(|i| i.proxy_url = "http://a:secret token@h".into());
    assert!(matches!(error, E::Value { .. }) && !error.to_string().contains("secret"));
    let error = refusal(|i| i.placeholders[0].value = "locum_ö".into());
    assert!(matches!(&error, E::Value { name } if name == "OPENAI_API_KEY"));
    assert!(!error.to_string().contains("locum_"));
}

#[test]
fn a_variable_that_is_no_identifier_is_refused() {
    for name in ["", "1KEY", "A B", "A=B", "A-B", "$(id)", "A;id", "Ä"] {
        let error = refusal(|inputs| inputs.placeholders[0].variables[0] = name.into());
        assert!(matches!(error, EnvironmentError::Name { .. }), "{name:?}");
        let error = refusal(|inputs| inputs.base_url_variables[0] = name.into());
        assert!(matches!(error, EnvironmentError::Name { .. }), "{name:?}");
    }
}

#[test]
fn a_placeholder_cannot_take_a_variable_of_ours() {
    for name in [
        "HTTPS_PROXY",
        "Ssl_Cert_File",
        "SSL_CERT_DIR",
        "GIT_CONFIG_KEY_7",
        "NODE_EXTRA_CA_CERTS",
        "LOCUM_HOME",
        "WGETRC",
    ] {
        let error = refusal(|inputs| inputs.placeholders[0].variables[0] = name.into());
        assert!(matches!(error, EnvironmentError::Reserved { .. }), "{name}");
    }
}

// Bundle and trust store.

#[test]
fn a_bundle_has_each_certificate_once_and_ours_last() {
    let twice = [ROOTS.clone(), vec![own_ca()], ROOTS.clone()].concat();
    let text = bundle(&twice, &OWN_CA).unwrap().pem();
    let found = certificates(text.as_bytes());
    assert_eq!(found, [ROOTS.clone(), vec![own_ca()]].concat());
    assert!(text.starts_with("-----BEGIN CERTIFICATE-----\n"));
    assert!(text.ends_with("-----END CERTIFICATE-----\n"));
    assert!(!text.contains('\r') && text.lines().all(|line| line.len() <= 64));
}

#[test]
fn a_bundle_needs_our_own_ca() {
    for text in ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
        let error = bundle(&ROOTS, text).unwrap_err();
        assert!(matches!(error, EnvironmentError::NoOwnCertificate));
    }
}

#[test]
fn only_certificates_are_taken_from_a_file() {
    let junk = "# comment\n-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n\
        -----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert_eq!(certificates(format!("{junk}{}", *OWN_CA).as_bytes()), [own_ca()]);
    let crlf = OWN_CA.replace('\n', "\r\n");
    assert_eq!(certificates(crlf.as_bytes()), [own_ca()]);
}

#[test]
fn the_plan_writes_the_bundle() {
    let plan = planned(&[]);
    let text = contents(&plan, "ca-bundle.pem");
    assert_eq!(text, bundle(&ROOTS, &OWN_CA).unwrap().pem().as_bytes());
}

#[test]
fn roots_come_from_the_first_place_that_has_one() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let missing = directory.path().join("missing");
    let empty = file("empty.pem", "nothing here");
    let first = file("first.pem", &OWN_CA);
    let second = file("second.pem", &authority());
    let places = [&*missing, &*empty, &*first, &*second];
    let own = Path::new("/none");
    assert_eq!(first_roots(None, || None, &places, own), [own_ca()]);
    assert_eq!(first_roots(Some(&missing), || None, &places, own), [own_ca()]);
    assert_ne!(first_roots(Some(&second), || None, &places, own), [own_ca()]);
    let keychain = || Some(ROOTS.clone());
    assert_eq!(first_roots(None, keychain, &places, own), *ROOTS);
    let fallback = first_roots(None, || None, &[&*missing], own);
    assert_eq!(fallback, webpki_root_certs::TLS_SERVER_ROOT_CERTS);
}

#[test]
fn roots_do_not_come_from_our_own_bundle() {
    let directory = tempfile::tempdir().unwrap();
    let bundle_file = directory.path().join("ca-bundle.pem");
    let system = directory.path().join("system.pem");
    let link = directory.path().join("link.pem");
    fs::write(&bundle_file, authority()).unwrap();
    fs::write(&system, &*OWN_CA).unwrap();
    symlink(&bundle_file, &link).unwrap();
    for inherited in [&bundle_file, &link] {
        assert_eq!(first_roots(Some(inherited), || None, &[&*system], &bundle_file), [own_ca()]);
    }
}

#[test]
fn the_trust_store_parses_back_with_every_certificate_trusted() {
    let bytes = bundle(&ROOTS, &OWN_CA).unwrap().java_trust_store().unwrap();
    // `Strict` keeps only the entries with the attribute by which Java knows a trusted one.
    let store = KeyStore::from_pkcs12(&bytes, "changeit", Pkcs12ImportPolicy::Strict).unwrap();
    let found: Vec<(&str, &[u8])> = store
        .entries()
        .map(|(alias, entry)| match entry {
            KeyStoreEntry::Certificate(certificate) => (alias.as_str(), certificate.as_der()),
            _ => panic!("{alias} is no certificate"),
        })
        .collect();
    let own = own_ca();
    let mut expected = vec![("locum-001", own.as_ref())];
    let aliases = ["system-001", "system-002", "system-003"];
    expected.extend(aliases.into_iter().zip(ROOTS.iter().map(AsRef::as_ref)));
    assert_eq!(found, expected);
    assert!(KeyStore::from_pkcs12(&bytes, "other", Pkcs12ImportPolicy::Strict).is_err());
}

#[test]
fn a_root_that_does_not_parse_is_left_out_of_the_trust_store() {
    let roots = [ROOTS.clone(), vec![CertificateDer::from(vec![0x30, 0x00])]].concat();
    let bytes = bundle(&roots, &OWN_CA).unwrap().java_trust_store().unwrap();
    let store = KeyStore::from_pkcs12(&bytes, "changeit", Pkcs12ImportPolicy::Strict).unwrap();
    assert_eq!(store.entries_len(), ROOTS.len() + 1);
}

#[test]
fn mozillas_roots_all_go_into_the_trust_store() {
    let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS;
    let bytes = bundle(roots, &OWN_CA).unwrap().java_trust_store().unwrap();
    let store = KeyStore::from_pkcs12(&bytes, "changeit", Pkcs12ImportPolicy::Strict).unwrap();
    assert_eq!(store.entries_len(), roots.len() + 1);
}

// Shells.

fn one_variable(value: &str) -> Plan {
    Plan {
        set: BTreeMap::from([("NAME".to_owned(), value.into())]),
        remove: BTreeSet::from(["GONE".to_owned()]),
        contested: BTreeSet::new(),
        files: Vec::new(),
    }
}

#[test]
fn values_are_quoted_for_each_shell() {
    let lines = |shell| shell_exports(&one_variable("it's $HOME \\ \u{2019}`\n"), shell).unwrap();
    let expected = "unset GONE\nexport NAME='it'\\''s $HOME \\ \u{2019}`\n'\n";
    assert_eq!(lines(Shell::Sh), expected);
    let expected = "set -e GONE\nset -gx NAME 'it\\'s $HOME \\\\ \u{2019}`\n'\n";
    assert_eq!(lines(Shell::Fish), expected);
    let expected = "Remove-Item -ErrorAction SilentlyContinue Env:GONE\n\
        $env:NAME = 'it''s $HOME \\ \u{2019}\u{2019}`\n'\n";
    assert_eq!(lines(Shell::PowerShell), expected);
}

#[test]
fn an_inherited_name_is_never_evaluated() {
    let plan = planned(&[("LOCUM_$(touch x)", "1"), ("LOCUM_A;id", "2"), ("LOCUM_HOME", "3")]);
    let lines = shell_exports(&plan, Shell::Sh).unwrap();
    assert!(plan.remove.contains("LOCUM_$(touch x)"));
    assert!(!lines.contains("touch") && !lines.contains(";id"));
    assert!(lines.contains("unset LOCUM_HOME\n"));
}

#[test]
fn a_value_that_is_not_utf8_is_not_guessed_at() {
    let mut plan = one_variable("x");
    plan.set.insert("RAW".into(), OsString::from_vec(vec![0xff]));
    let error = shell_exports(&plan, Shell::Sh).unwrap_err();
    assert!(matches!(error, EnvironmentError::NotUtf8 { name } if name == "RAW"));
}

// Files.

fn file_plan(path: PathBuf, mode: u32) -> Plan {
    let mut plan = one_variable("x");
    plan.files = vec![PlannedFile { path, contents: b"new".to_vec(), mode }];
    plan
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn files_are_written_with_their_mode_into_a_private_directory() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b/wgetrc");
    write_files(&file_plan(path.clone(), 0o600)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(mode_of(&path), 0o600);
    assert_eq!(mode_of(path.parent().unwrap()), 0o700);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn a_link_is_replaced_and_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let (target, link) = (directory.path().join("target"), directory.path().join("link"));
    fs::write(&target, "old").unwrap();
    symlink(&target, &link).unwrap();
    write_files(&file_plan(link.clone(), 0o600)).unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"old");
    assert_eq!(fs::read(&link).unwrap(), b"new");
    assert!(!fs::symlink_metadata(&link).unwrap().is_symlink());
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let path = directory.path().join("ca-bundle.pem");
    let error = write_files(&file_plan(path.clone(), 0o600)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert!(!path.exists());
}

#[test]
fn a_failed_write_leaves_nothing_and_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("taken");
    fs::create_dir_all(path.join("by a directory")).unwrap();
    let error = write_files(&file_plan(path.clone(), 0o600)).unwrap_err();
    assert!(error.to_string().contains("taken"));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn debug_forms_show_no_value() {
    let inputs = inputs(&[("OPENAI_API_KEY", "sk-real")]);
    let plan = plan(&inputs).unwrap();
    let text = format!("{inputs:?} {plan:?}");
    assert!(text.contains("OPENAI_API_KEY"));
    assert!(!text.contains("token%2F1") && !text.contains("sk-"), "{text}");
}
