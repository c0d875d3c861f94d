//! The reference: what docs/POLICY.md says, as simply and as slowly as can be. From here on nothing is
//! clever, and nothing is shared with what it is compared with but the words of the answer.

use locum::outcome::Code;
use locum::policy::Answer;

use crate::world::{CREDENTIALS, GROUPS, Member, Question, Rule, SET, When};

fn labels_match(pattern: &[&str], labels: &[&str]) -> bool {
    match (pattern, labels) {
        ([], []) => true,
        ([], _) | (_, []) => false,
        (["**", rest @ ..], [_, more @ ..]) => {
            labels_match(rest, more) || labels_match(pattern, more)
        }
        ([first, rest @ ..], [label, more @ ..]) => {
            (*first == "*" || first == label) && labels_match(rest, more)
        }
    }
}

fn host_matches(pattern: &str, host: &str) -> bool {
    let labels = |text| str::split(text, '.').collect::<Vec<&str>>();
    pattern == "*" || labels_match(&labels(pattern), &labels(host))
}

/// `*` is any text; there is one at most.
fn text_matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, end)) => {
            text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end)
        }
    }
}

fn segment_matches(pattern: &str, segment: &str) -> bool {
    if pattern == "*" { !segment.is_empty() } else { text_matches(pattern, segment) }
}

fn segments_match(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern, path) {
        ([], []) => true,
        (["**", rest @ ..], _) => {
            segments_match(rest, path) || (!path.is_empty() && segments_match(pattern, &path[1..]))
        }
        ([first, rest @ ..], [segment, more @ ..]) => {
            segment_matches(first, segment) && segments_match(rest, more)
        }
        _ => false,
    }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = pattern[1..].split('/').collect();
    let path: Vec<&str> = path[1..].split('/').collect();
    segments_match(&pattern, &path)
}

fn credential_reaches(name: &str, scheme: &str, host: &str, port: u16) -> bool {
    let (_, destinations) = CREDENTIALS.iter().find(|(other, _)| *other == name).unwrap();
    destinations.iter().any(|destination| {
        let rest = destination.strip_prefix("https://").unwrap();
        let (pattern, wanted) = rest.split_once(':').unwrap_or((rest, "443"));
        scheme == "https" && wanted == port.to_string() && host_matches(pattern, host)
    })
}

/// The credentials that a rule grants, sets opened.
fn granted(rule: &Rule) -> Vec<&'static str> {
    let mut all: Vec<&str> = Vec::new();
    for name in &rule.uses {
        match *name {
            "*" => all.extend(CREDENTIALS.map(|(name, _)| name)),
            name if name == SET.0 => all.extend(SET.1),
            name => all.push(name),
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Whether a name in `agents` means the asking agent: a group of the rule's layer, for a rule of the
/// workspace else one of the organisation's, else the agent itself.
fn named(rule: &Rule, name: &str, q: &Question) -> bool {
    let [floor, own] = GROUPS;
    let visible: Vec<&(&str, &[Member])> =
        if rule.organisation { floor.iter().collect() } else { own.iter().chain(floor).collect() };
    let member = |member: &Member| match member {
        Member::Agent(agent) => *agent == q.agent,
        Member::Team(team) => q.team == Some(*team),
    };
    match visible.into_iter().find(|(group, _)| *group == name) {
        Some((_, members)) => members.iter().any(member),
        None => name == "*" || name == q.agent,
    }
}

fn labelled(rule: &Rule, q: &Question) -> bool {
    rule.labelled.iter().any(|(team, env)| {
        let team = team.is_none_or(|team| q.team == Some(team));
        let env = env.is_none_or(|env| q.env.is_some_and(|own| text_matches(env, own)));
        team && env
    })
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// The days from 1970 to the first of a month, by counting.
fn first_of(year: i64, month: usize) -> i64 {
    let years: i64 = (1970..year).map(|year| 365 + i64::from(is_leap(year))).sum();
    let february = 28 + i64::from(is_leap(year));
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    years + months[..month - 1].iter().sum::<i64>()
}

/// 0 for a Monday. The first of January 1970 was a Thursday.
fn weekday(days: i64) -> i64 {
    (days + 3).rem_euclid(7)
}

/// Whether a second is in summer time, from the nth Sunday of one month to the nth of another (0 is the
/// last), at an hour of UTC each.
fn is_summer(at: i64, from: (usize, usize, i64), to: (usize, usize, i64)) -> bool {
    let today = at.div_euclid(86_400);
    let year = (1970..2100).take_while(|year| first_of(*year, 1) <= today).last().unwrap();
    let change = |(month, nth, hour): (usize, usize, i64)| {
        let month = first_of(year, month)..first_of(year, month + 1);
        let sundays: Vec<i64> = month.filter(|day| weekday(*day) == 6).collect();
        let day = if nth == 0 { sundays[sundays.len() - 1] } else { sundays[nth - 1] };
        day * 86_400 + hour * 3600
    };
    change(from) <= at && at < change(to)
}

/// What the clock of a place is ahead of UTC, in minutes.
fn ahead(zone: &str, at: i64) -> i64 {
    match zone {
        "UTC" => 0,
        "Asia/Kolkata" => 330,
        "Europe/Berlin" if is_summer(at, (3, 0, 1), (10, 0, 1)) => 120,
        "Europe/Berlin" => 60,
        "America/New_York" if is_summer(at, (3, 2, 7), (11, 1, 6)) => -240,
        "America/New_York" => -300,
        other => panic!("{other}"),
    }
}

fn in_force(when: &When, at: i64) -> bool {
    if when.first.is_some_and(|first| at < first) || when.last.is_some_and(|last| last < at) {
        return false;
    }
    let Some(zone) = when.zone else { return true };
    let local = at + ahead(zone, at) * 60;
    let (today, minute) = (weekday(local.div_euclid(86_400)), local.rem_euclid(86_400) / 60);
    let is_day = |day: i64| {
        let Some(rows) = &when.days else { return true };
        rows.iter().any(|(first, last)| {
            let mut row = vec![*first];
            while row[row.len() - 1] != *last {
                row.push((row[row.len() - 1] + 1) % 7);
            }
            row.iter().any(|one| *one as i64 == day)
        })
    };
    let Some(hours) = &when.hours else { return is_day(today) };
    hours.iter().any(|(from, to)| {
        let (from, to) = (i64::from(*from), i64::from(*to));
        if from < to {
            return from <= minute && minute < to && is_day(today);
        }
        // A night belongs to the day on which it begins.
        (minute >= from && is_day(today)) || (minute < to && is_day((today + 6) % 7))
    })
}

/// Agent, destination, user, run and time: what can be seen of a tunnel, too.
fn concerns(rule: &Rule, q: &Question, scheme: &str) -> bool {
    let agent = rule.agents.iter().any(|name| named(rule, name, q)) || labelled(rule, q);
    let place = match &rule.to {
        Some(to) => {
            to.iter().any(|(s, h, p)| *s == scheme && *p == q.port && host_matches(h, q.host))
        }
        None => granted(rule).iter().any(|name| credential_reaches(name, scheme, q.host, q.port)),
    };
    let said = |wanted: &Option<Vec<&'static str>>, own: Option<&str>| {
        wanted.as_ref().is_none_or(|wanted| {
            own.is_some_and(|own| wanted.iter().any(|pattern| text_matches(pattern, own)))
        })
    };
    let time = rule.when.as_ref().is_none_or(|when| in_force(when, q.at));
    agent && place && said(&rule.users, q.user) && said(&rule.runs, q.run) && time
}

/// What can only be seen of a request.
fn matches(rule: &Rule, q: &Question, method: Option<&str>, path: &str) -> bool {
    let lists = |method: &str| rule.methods.as_ref().is_none_or(|all| all.contains(&method));
    let method = match (method, rule.deny) {
        (Some(method), _) => lists(method),
        // A socket begins with a GET, and is none.
        (None, true) => lists("GET"),
        (None, false) => rule.websocket.unwrap_or(rule.methods.is_none()),
    };
    let path = rule.paths.as_ref().is_none_or(|all| all.iter().any(|one| path_matches(one, path)));
    let query = rule.state.as_ref().is_none_or(|wanted| {
        let mut states = q.states.iter();
        if rule.deny {
            return states.any(|state| wanted.contains(state));
        }
        !q.states.is_empty() && states.all(|state| wanted.contains(state))
    });
    let field = rule.kind.as_ref().is_none_or(|wanted| {
        // Each line as a whole, and each member of a list.
        let mut readings: Vec<String> = q.kinds.iter().map(|&kind| kind.to_owned()).collect();
        for kind in q.kinds.iter().filter(|kind| kind.contains(',')) {
            readings.extend(kind.split(',').map(|one| one.trim().to_owned()));
        }
        let takes = |value: &String| wanted.iter().any(|pattern| text_matches(pattern, value));
        if rule.deny {
            readings.iter().any(takes)
        } else {
            !readings.is_empty() && readings.iter().all(takes)
        }
    });
    method && path && query && field
}

/// What an origin may make of a path; none where it is encoded over and over, or has a trap.
fn readings(path: &str) -> Option<Vec<String>> {
    const OFTEN: usize = 4;
    if path.contains("%00") {
        return None;
    }
    let mut decoded = vec![path.to_owned()];
    for _ in 0..=OFTEN {
        let last = decoded[decoded.len() - 1].clone();
        decoded.push(percent_decoded(&last));
    }
    if decoded[OFTEN] != decoded[OFTEN + 1] {
        return None;
    }
    let mut all = Vec::new();
    for text in &decoded {
        for habits in 0..32 {
            let has = |bit: usize| habits & (1 << bit) != 0;
            let mut text = text.clone();
            if has(0) {
                text = text.replace('\\', "/");
            }
            if has(4) {
                text.truncate(text.find(['?', '#']).unwrap_or(text.len()));
            }
            if has(1) {
                text = each_segment(&text, |one| one.split(';').next().unwrap().to_owned());
            }
            if has(4) {
                text = each_segment(&text, |one| {
                    let bare = one.trim_end_matches(|c| c <= ' ').trim_end_matches(['.', ' ']);
                    if bare.is_empty() { one } else { bare }.to_owned()
                });
            }
            if has(2) {
                text = merged(&text);
            }
            if has(3) {
                text = without_dots(&text);
            }
            all.push(text);
        }
    }
    all.sort();
    all.dedup();
    Some(all)
}

fn percent_decoded(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out += &rest[..at];
        let byte = rest.get(at + 1..at + 3).and_then(|two| u8::from_str_radix(two, 16).ok());
        match byte {
            Some(byte) => out.push(char::from(byte)),
            None => out.push('%'),
        }
        rest = &rest[at + if byte.is_some() { 3 } else { 1 }..];
    }
    out + rest
}

fn each_segment(path: &str, change: impl Fn(&str) -> String) -> String {
    path.split('/').map(change).collect::<Vec<_>>().join("/")
}

/// Several slashes as one; the one that a path ends with stays.
fn merged(path: &str) -> String {
    let mut out = path.to_owned();
    while out.contains("//") {
        out = out.replace("//", "/");
    }
    out
}

/// Without `.` and `..`, with or without blanks behind them.
fn without_dots(path: &str) -> String {
    let segments: Vec<&str> = path[1..].split('/').collect();
    let mut kept: Vec<&str> = Vec::new();
    for (at, segment) in segments.iter().enumerate() {
        let is_last = at + 1 == segments.len();
        match segment.trim_end_matches(' ') {
            "." => {}
            ".." => drop(kept.pop()),
            _ => {
                kept.push(segment);
                continue;
            }
        }
        if is_last {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

/// What one reading leads to.
#[derive(Debug, PartialEq)]
enum Verdict {
    NoRule,
    NoGrant,
    Denied(String),
    DeniedUse(String),
    Unbound,
    UnboundUse,
    /// The rule that decides, the ones that it stands on, and whether one of those asks a person.
    Allowed(String, Vec<String>, bool),
}

/// Of the rules that concern the question, where the organisation's bound it or not.
fn verdict(
    (rules, bounded): (&[&Rule], bool),
    q: &Question,
    (method, path): (Option<&str>, &str),
    refers: Option<&str>,
) -> Verdict {
    let matching: Vec<&Rule> =
        rules.iter().copied().filter(|rule| matches(rule, q, method, path)).collect();
    if let Some(rule) = matching.iter().find(|rule| rule.deny && rule.uses.is_empty()) {
        return Verdict::Denied(rule.name.clone());
    }
    let allowing = |organisation: bool| {
        matching.iter().copied().filter(move |r| !r.deny && r.organisation == organisation)
    };
    let Some(first) = allowing(false).next() else { return Verdict::NoRule };
    let bound_here = |rule: &Rule| {
        let reaches = |name: &&str| credential_reaches(name, q.scheme, q.host, q.port);
        granted(rule).into_iter().find(|name| reaches(name))
    };
    let (decided, entering) = match refers {
        Some(name) => match allowing(false).find(|rule| granted(rule).contains(&name)) {
            Some(rule) => (rule, Some(name)),
            None => return Verdict::NoGrant,
        },
        // All of them use one slot, so the first by name alone enters.
        None => match allowing(false).find(|rule| rule.always && bound_here(rule).is_some()) {
            Some(rule) => (rule, bound_here(rule)),
            None => (first, None),
        },
    };
    let grants = |rule: &Rule| entering.is_some_and(|name| granted(rule).contains(&name));
    if let Some(rule) = matching.iter().find(|rule| rule.deny && grants(rule)) {
        return Verdict::DeniedUse(rule.name.clone());
    }
    let mut standing = vec![decided];
    if bounded {
        let Some(first) = allowing(true).next() else { return Verdict::Unbound };
        if entering.is_some() && !allowing(true).any(grants) {
            return Verdict::UnboundUse;
        }
        // The one that grants what the request refers to, else the first.
        let referred = |rule: &&Rule| refers.is_some_and(|name| granted(rule).contains(&name));
        standing.push(allowing(true).find(referred).unwrap_or(first));
    }
    let asks = standing.iter().any(|rule| rule.asks);
    let names = standing.iter().map(|rule| rule.name.clone()).collect();
    Verdict::Allowed(decided.name.clone(), names, asks)
}

pub fn decide(rules: &[Rule], q: &Question) -> Answer {
    let in_force: Vec<&Rule> = rules.iter().filter(|rule| !rule.shadow).collect();
    if q.connect {
        return tunnel(&in_force, q);
    }
    let refuse = |code| Answer::Refuse(code, None);
    if q.method == "TRACE" {
        return refuse(Code::MethodRefused);
    }
    let Some(readings) = readings(q.path) else { return refuse(Code::AmbiguousPath) };
    let other = q.instead.map(|(_, value)| value.to_uppercase());
    match other.as_deref() {
        Some("TRACE") => return refuse(Code::MethodRefused),
        Some("NO METHOD") => return refuse(Code::BadRequest),
        _ => {}
    }
    let problem = match q.refers {
        Some(_) if q.scheme == "http" => Some(Code::Plaintext),
        Some(name) if !credential_reaches(name, q.scheme, q.host, q.port) => {
            Some(Code::CredentialRefused)
        }
        _ => None,
    };
    let refers = q.refers.filter(|_| problem.is_none());
    let method = (!q.socket).then_some(q.method);
    let bounded = in_force.iter().any(|rule| rule.organisation && !rule.deny);
    let concerned: Vec<&Rule> =
        in_force.into_iter().filter(|rule| concerns(rule, q, q.scheme)).collect();
    let rules = (&*concerned, bounded);
    let own = verdict(rules, q, (method, q.path), refers);
    if let Some(other) = other
        && verdict(rules, q, (Some(&other), q.path), refers) != own
    {
        return refuse(Code::MethodRefused);
    }
    let differs = |path: &String| verdict(rules, q, (method, path), refers) != own;
    if readings.iter().any(differs) {
        return refuse(Code::AmbiguousPath);
    }
    let denied = |code, rule: String| Answer::Refuse(code, Some(rule.into()));
    match own {
        Verdict::NoRule | Verdict::Unbound => refuse(Code::NotAllowed),
        Verdict::NoGrant | Verdict::UnboundUse => refuse(Code::CredentialRefused),
        Verdict::Denied(rule) => denied(Code::NotAllowed, rule),
        Verdict::DeniedUse(rule) => denied(Code::CredentialRefused, rule),
        Verdict::Allowed(rule, _, asks) => match problem {
            Some(code) => refuse(code),
            None if asks => Answer::Ask(rule.into()),
            None => Answer::Allow(rule.into()),
        },
    }
}

fn tunnel(in_force: &[&Rule], q: &Question) -> Answer {
    let bounded = in_force.iter().any(|rule| rule.organisation && !rule.deny);
    if CREDENTIALS.iter().any(|(name, _)| credential_reaches(name, "https", q.host, q.port)) {
        return Answer::Intercept;
    }
    let mut opaque: Vec<&&Rule> = Vec::new();
    for scheme in ["https", "http"] {
        opaque.extend(in_force.iter().filter(|rule| concerns(rule, q, scheme)));
    }
    if opaque.iter().any(|rule| rule.deny || !rule.opaque) {
        return Answer::Intercept;
    }
    if bounded && !opaque.iter().any(|rule| rule.organisation) {
        return Answer::Intercept;
    }
    let own = opaque.iter().find(|rule| !rule.organisation);
    own.map_or(Answer::Intercept, |rule| Answer::Opaque(rule.name.as_str().into()))
}
