//! The machine and the person's settings: the clock, what protects memory, and what would lead a
//! program around the proxy.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Findings;
use super::keeping::inside;
use crate::app::{Home, Opened, descriptors};
use crate::catalog::Catalog;
use crate::vault::harden_process;

pub(super) fn look(home: &Home, opened: Option<&Opened>, findings: &mut Findings) {
    look_at_clock(home, findings);
    look_at_memory(findings);
    look_at_descriptors(opened, findings);
    let before = findings.0.len();
    look_at_variables(opened, findings);
    look_at_keys(findings);
    if let Some(own) = std::env::var_os("HOME").map(PathBuf::from) {
        for settings in &SETTINGS {
            settings.look(&own, findings);
        }
    }
    if findings.0.len() == before {
        findings.ok(ENVIRONMENT, "no setting leads around the proxy, and no variable holds a key");
    }
}

/// File systems and clocks differ by less.
const SKEW: Duration = Duration::from_mins(1);

/// The clock was behind now when something was written later than now.
fn look_at_clock(home: &Home, findings: &mut Findings) {
    const CHECK: &str = "clock";
    let files = inside(home.path()).into_iter().chain(inside(&home.audit()));
    let times =
        files.filter_map(|path| Some((path.symlink_metadata().ok()?.modified().ok()?, path)));
    match times.max() {
        Some((time, path)) if time > SystemTime::now() + SKEW => {
            let ahead = time.duration_since(SystemTime::now()).unwrap_or_default();
            findings.problem(
                CHECK,
                format!("{} was written {} s from now", path.display(), ahead.as_secs()),
                "set the clock of this machine: certificates, tokens and the audit log depend on it",
            );
        }
        _ => findings.ok(CHECK, "nothing in the home comes from the future"),
    }
}

fn look_at_memory(findings: &mut Findings) {
    let gaps = harden_process();
    for gap in &gaps {
        let text = gap.to_string();
        let (what, next) = text.split_once("; ").unwrap_or((&text, "see the documentation"));
        findings.warning("memory", what, next);
    }
    if gaps.is_empty() {
        findings.ok("memory", "no core files, and closed to other processes of this user");
    }
}

/// As many as this process may have; the proxy's service may set its own.
fn look_at_descriptors(opened: Option<&Opened>, findings: &mut Findings) {
    let Some(connections) = opened.map(|opened| opened.config.limits.connections) else { return };
    match descriptors::lacking(connections) {
        Some((most, needed)) => findings.warning(
            "files",
            format!("limits.connections is {connections}, which takes {needed} open files, and a process here may have {most}"),
            "raise the limit of open files (LimitNOFILE, ulimit -Hn), or lower limits.connections",
        ),
        None => findings.ok("files", "as many open files as limits.connections needs"),
    }
}

const ENVIRONMENT: &str = "environment";

/// Variables that turn verification off when they have this value; empty for any.
const UNVERIFIED: [(&str, &str); 3] =
    [("NODE_TLS_REJECT_UNAUTHORIZED", "0"), ("PYTHONHTTPSVERIFY", "0"), ("GIT_SSL_NO_VERIFY", "")];

/// `locum run` sets or removes all of these; a program that is started by hand has them.
fn look_at_variables(opened: Option<&Opened>, findings: &mut Findings) {
    let hosts = opened.map(bound_hosts).unwrap_or_default();
    for name in ["NO_PROXY", "no_proxy"] {
        let value = std::env::var(name).unwrap_or_default();
        let around = value.split(',').map(str::trim).find(|entry| leads_around(entry, &hosts));
        if let Some(entry) = around {
            findings.warning(
                ENVIRONMENT,
                format!(
                    "{name} has `{entry}`: calls there go around the proxy, with a placeholder"
                ),
                format!("start programs with `locum run`, or take it out of {name}"),
            );
        }
    }
    for (name, off) in UNVERIFIED {
        let set = std::env::var(name).is_ok_and(|value| off.is_empty() || value == off);
        if set {
            findings.warning(
                ENVIRONMENT,
                format!("{name} turns off the verification of certificates"),
                format!("unset {name}, or start programs with `locum run`"),
            );
        }
    }
}

/// The hosts that credentials go to, as far as they are single names.
fn bound_hosts(opened: &Opened) -> Vec<String> {
    let credentials = opened.vault.credentials().unwrap_or_default();
    let destinations = credentials.iter().flat_map(|credential| &credential.destinations);
    destinations.filter_map(|d| d.host.exact().map(ToString::to_string)).collect()
}

/// `*`, the host, or a domain above it, with or without a dot or star in front.
fn leads_around(entry: &str, hosts: &[String]) -> bool {
    let domain = entry.trim_start_matches('*').trim_start_matches('.').to_ascii_lowercase();
    entry == "*"
        || !domain.is_empty()
            && hosts.iter().any(|host| {
                *host == domain
                    || host.strip_suffix(&domain).is_some_and(|rest| rest.ends_with('.'))
            })
}

/// Variables that hold the real thing. Their names are told, never their values.
fn look_at_keys(findings: &mut Findings) {
    for (name, value) in std::env::vars_os() {
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else { continue };
        let Some(provider) = Catalog::embedded().by_variable(name) else { continue };
        let real = provider.prefixes().iter().any(|prefix| value.starts_with(prefix))
            && !crate::reference::occurs(value.as_bytes());
        if real {
            let id = provider.id();
            findings.warning(
                ENVIRONMENT,
                format!("{name} holds what looks like a real key: every program started here has it"),
                format!(
                    "locum credential add {id} --provider {id} --from-env {name}, then unset {name} \
                     where it is set"
                ),
            );
        }
    }
}

/// A settings file of a client, and the settings in it that win over the environment.
struct Settings {
    path: &'static str,
    /// The section that they are in, for files that have sections.
    section: Option<&'static str>,
    traps: &'static [(&'static str, Trap)],
}

/// What a setting does.
#[derive(Clone, Copy)]
enum Trap {
    /// Names a proxy, or hosts that go without.
    Proxy,
    /// Turns verification off, when it has this value; empty for any.
    Unverified(&'static str),
}

const SETTINGS: [Settings; 5] = [
    Settings { path: ".gitconfig", section: Some("http"), traps: GIT },
    Settings { path: ".config/git/config", section: Some("http"), traps: GIT },
    Settings {
        path: ".curlrc",
        section: None,
        traps: &[
            ("proxy", Trap::Proxy),
            ("noproxy", Trap::Proxy),
            ("x", Trap::Proxy),
            ("insecure", Trap::Unverified("")),
            ("k", Trap::Unverified("")),
        ],
    },
    Settings {
        path: ".npmrc",
        section: None,
        traps: &[
            ("proxy", Trap::Proxy),
            ("https-proxy", Trap::Proxy),
            ("noproxy", Trap::Proxy),
            ("strict-ssl", Trap::Unverified("false")),
        ],
    },
    Settings {
        path: ".config/pip/pip.conf",
        section: Some("global"),
        traps: &[("proxy", Trap::Proxy)],
    },
];

const GIT: &[(&str, Trap)] = &[("proxy", Trap::Proxy), ("sslverify", Trap::Unverified("false"))];

impl Settings {
    fn look(&self, own: &Path, findings: &mut Findings) {
        let path = own.join(self.path);
        let Ok(text) = fs::read_to_string(&path) else { return };
        for (key, trap) in self.found_in(&text) {
            let what = match trap {
                Trap::Proxy => "takes the place of HTTPS_PROXY",
                Trap::Unverified(_) => "turns off the verification of certificates",
            };
            findings.warning(
                ENVIRONMENT,
                format!("{} sets `{key}`, which {what}", path.display()),
                "take it out, or the program will not come to the proxy as it should",
            );
        }
    }

    fn found_in(&self, text: &str) -> Vec<(&'static str, Trap)> {
        let mut found = Vec::new();
        let mut inside = self.section.is_none();
        for line in text.lines().map(str::trim) {
            if let Some(section) = line.strip_prefix('[') {
                // `[http "https://host"]` is a section of http too.
                let name = section.split([' ', ']', '"', '.']).next().unwrap_or_default();
                inside = self.section.is_none_or(|wanted| name.eq_ignore_ascii_case(wanted));
                continue;
            }
            if !inside || line.starts_with(['#', ';']) {
                continue;
            }
            let line = line.trim_start_matches('-');
            let (key, value) = line.split_once(['=', ' ', '\t', ':']).unwrap_or((line, ""));
            let value = value.trim_matches([' ', '=', ':', '"', '\'']);
            found.extend(self.traps.iter().filter(|(name, trap)| {
                let is_on = match trap {
                    Trap::Proxy => !value.is_empty(),
                    Trap::Unverified(off) => off.is_empty() || value.eq_ignore_ascii_case(off),
                };
                key.trim().eq_ignore_ascii_case(name) && is_on
            }));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(settings: &Settings, text: &str) -> Vec<&'static str> {
        settings.found_in(text).into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn no_proxy_entries_that_cover_a_host() {
        let hosts = ["api.openai.com".to_owned()];
        for around in ["*", "api.openai.com", "openai.com", ".openai.com", "*.OpenAI.com", "com"] {
            assert!(leads_around(around, &hosts), "{around}");
        }
        for not in ["", "localhost", "127.0.0.1", "penai.com", "example.com"] {
            assert!(!leads_around(not, &hosts), "{not}");
        }
    }

    #[test]
    fn settings_that_win_over_the_environment() {
        let git = &SETTINGS[0];
        assert_eq!(keys(git, "[user]\n proxy = x\n[http]\n\tproxy = http://p:1\n"), ["proxy"]);
        assert_eq!(keys(git, "[http \"https://a\"]\nsslVerify = false"), ["sslverify"]);
        assert!(keys(git, "[http]\n#proxy = a\nsslVerify = true\nproxy =\n").is_empty());
        let curl = &SETTINGS[2];
        assert_eq!(keys(curl, "--proxy http://p:1\n-k\n"), ["proxy", "k"]);
        assert_eq!(keys(curl, "noproxy = \"*\"\nuser-agent = x"), ["noproxy"]);
        let npm = &SETTINGS[3];
        assert_eq!(
            keys(npm, "https-proxy=http://p:1\nstrict-ssl=false"),
            ["https-proxy", "strict-ssl"]
        );
    }
}
