//! `locum policy explain`: why a request is decided as it is, and what would have to change.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{output, rejected};
use crate::admin::orders::policies::hide;
use crate::agent::{Identity, LabelPair, Labels, Proof, UserName};
use crate::app::{Failure, Home, Opened, policies_of, read_policies};
use crate::audit::{Entry, Filter, query};
use crate::cli::way::{Way, Where};
use crate::config::Config;
use crate::credential::CredentialIndex;
use crate::inject::Unknown;
use crate::outcome::{Code, reason};
use crate::policy::{
    Answer, Check, Compiled, Explanation, Inquiry, Referred, RuleVerdict, Wish, supposed,
};
use crate::reference::Name;
use crate::token::run::Claims;

/// Arguments of `locum policy explain`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The method: GET, POST, …; SOCKET for a WebSocket, CONNECT for a tunnel
    #[arg(value_name = "METHOD", required_unless_present = "request", requires = "url")]
    method: Option<String>,
    /// The URL; for CONNECT host:port
    #[arg(value_name = "URL")]
    url: Option<String>,
    /// Who asks; may carry `+user=`, `+run=` and `+node=`
    #[arg(long, value_name = "AGENT", required_unless_present = "request", value_parser = user)]
    agent: Option<UserName>,
    /// A label of the agent, as `NAME=VALUE`; may be given more than once
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<LabelPair>,
    /// The credential that the request refers to
    #[arg(long = "use", value_name = "CREDENTIAL")]
    refers: Option<Name>,
    /// A header field, as `NAME: VALUE`
    #[arg(long = "header", value_name = "FIELD", value_parser = field)]
    fields: Vec<(HeaderName, HeaderValue)>,
    /// When: RFC 3339 [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<Timestamp>,
    /// A request of the audit log, by the `instance` of its refusal
    #[arg(long, value_name = "ID", conflicts_with_all = ["method", "agent", "labels", "refers", "fields", "at"])]
    request: Option<String>,
    /// Files and directories [default: the home's policies]
    #[arg(long = "policy", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

fn user(text: &str) -> Result<UserName, String> {
    text.parse().map_err(|error: crate::agent::UserNameError| error.to_string())
}

fn moment(text: &str) -> Result<Timestamp, String> {
    let advice = "write date, time and offset (RFC 3339), such as 2026-01-31T12:00:00Z";
    text.parse().map_err(|_| advice.to_owned())
}

fn field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let parsed = text
        .split_once(':')
        .and_then(|(name, value)| Some((name.trim().parse().ok()?, value.trim().parse().ok()?)));
    parsed.ok_or_else(|| "a field is written 'NAME: VALUE'".to_owned())
}

pub(super) fn run(home: Result<Home, Failure>, args: &Args) -> Result<ExitCode, Failure> {
    let home = match home {
        Err(failure) if args.paths.is_empty() || args.request.is_some() => return Err(failure),
        home => home.ok(),
    };
    let paths = match (&home, args.paths.is_empty()) {
        (Some(home), true) => policies_of(home)?,
        _ => args.paths.clone(),
    };
    let read = read_policies(&paths);
    let compiled = match read.policy {
        Ok(compiled) => compiled,
        Err(report) => return rejected(read.files, &report, args.json),
    };
    let (inquiry, recorded) = match (&args.request, &home) {
        (Some(id), Some(home)) => match from_home(home, id)? {
            (Some(inquiry), recorded) => (inquiry, Some(recorded)),
            // Refused before anything of it was known that rules could decide on.
            (None, recorded) => {
                if args.json {
                    output::json(
                        &json!({ "record": recorded.access, "outcome": recorded.outcome }),
                    )?;
                } else {
                    recorded.show()?;
                }
                return Ok(ExitCode::FAILURE);
            }
        },
        _ => (inquiry(args)?, None),
    };
    let (index, labels) = known(home.as_ref(), &compiled, (args, &inquiry.who.agent))?;
    let inquiry = match labels.filter(|_| args.request.is_none() && args.labels.is_empty()) {
        Some(labels) => Inquiry { who: Identity { labels, ..inquiry.who }, ..inquiry },
        None => inquiry,
    };
    let explanation = compiled.policy.explain(&inquiry, &index);
    explained(&explanation, (&inquiry, &index), recorded).print(args.json)
}

/// The same by a proxy that runs, on the policy that is in force there.
pub(super) fn run_there(to: &Where, args: &Args) -> Result<ExitCode, Failure> {
    let explained: Explained = match to.open()? {
        Way::There(remote) => remote.look_up(&args.target())?,
        Way::Here(_) => return Err(Failure::usage("there is no proxy to ask")),
    };
    explained.print(args.json)
}

impl Args {
    /// Whether the policies are those of the home.
    pub(super) fn is_of_the_home(&self) -> bool {
        self.paths.is_empty()
    }

    /// The inquiry, as a proxy takes it.
    fn target(&self) -> String {
        let one = |name: &'static str, value: Option<String>| value.map(|value| (name, value));
        let fields = self.fields.iter().filter_map(|(name, value)| {
            Some(("header", format!("{name}: {}", value.to_str().ok()?)))
        });
        let labels = self.labels.iter();
        let labels =
            labels.map(|LabelPair(name, value)| ("label", format!("{name}={}", value.as_str())));
        let all = [
            one("method", self.method.clone()),
            one("url", self.url.clone()),
            one("agent", self.agent.as_ref().map(ToString::to_string)),
            one("use", self.refers.as_ref().map(ToString::to_string)),
            one("at", self.at.map(|at| at.as_second().to_string())),
            one("request", self.request.clone()),
        ];
        let pairs = all.into_iter().flatten().chain(fields).chain(labels);
        let pairs = pairs.map(|(name, value)| {
            let value =
                percent_encoding::utf8_percent_encode(&value, percent_encoding::NON_ALPHANUMERIC);
            format!("{name}={value}")
        });
        format!("/v1/policies/explain?{}", pairs.collect::<Vec<_>>().join("&"))
    }
}

/// The credentials of the vault, and the agent's labels there; of policies of elsewhere what their tests
/// suppose, where they suppose anything or there is no home.
fn known(
    home: Option<&Home>,
    compiled: &Compiled,
    (args, agent): (&Args, &Name),
) -> Result<(Arc<CredentialIndex>, Option<Labels>), Failure> {
    match home.filter(|home| home.exists() && (args.paths.is_empty() || compiled.given.is_empty()))
    {
        Some(home) => {
            let snapshot = Opened::open(home)?.vault.snapshot()?;
            let labels = snapshot.labels.get(agent).cloned();
            Ok((Arc::clone(&snapshot.credentials), labels))
        }
        None => Ok((Arc::new(compiled.given.index()), None)),
    }
}

fn inquiry(args: &Args) -> Result<Inquiry, Failure> {
    let (method, url) = (args.method.as_deref(), args.url.as_deref());
    let text = format!("{} {}", method.unwrap_or_default(), url.unwrap_or_default());
    let wish = text.parse::<Wish>().map_err(|error| Failure::usage(error.to_string()))?;
    let who = args.agent.clone().and_then(supposed);
    let who = who.ok_or_else(|| Failure::usage("the agent is missing"))?;
    let labels = args.labels.iter().map(|LabelPair(name, value)| (name.clone(), value.clone()));
    let labels = Labels::new(labels).map_err(|error| Failure::usage(error.to_string()))?;
    Ok(Inquiry {
        who: Identity { labels, ..who },
        wish,
        refers: args.refers.clone(),
        seen: None,
        fields: args.fields.clone(),
        at: args.at.unwrap_or_else(Timestamp::now).as_second(),
    })
}

fn from_home(home: &Home, id: &str) -> Result<(Option<Inquiry>, Recorded), Failure> {
    let config = Config::load(&home.config(), home.path())?;
    let found = recorded(&config.audit.dir, Filter::default(), id)?;
    // What another workspace's agents do is not this one's to know. Who was refused at the door is of
    // none.
    let own = |workspace: &str| workspace == home.workspace().as_str();
    if found.1.access["workspace"].as_str().is_none_or(own) { Ok(found) } else { Err(unknown(id)) }
}

fn unknown(id: &str) -> Failure {
    let id = output::plain(id);
    Failure::new(format!("the audit log has no access record of the request {id}")).help("the id is the `instance` of the refusal, and 32 hex digits long; what was refused because the log could not be written (audit-unavailable) is in the process log alone")
}

/// The request of an access record, as far as that has it: without query and fields.
pub(crate) fn recorded(
    log: &Path,
    filter: Filter,
    id: &str,
) -> Result<(Option<Inquiry>, Recorded), Failure> {
    let filter = Filter { request_id: Some(id.to_owned()), ..filter };
    let mut entries: Vec<Entry> = query(log, filter)?.filter_map(Result::ok).collect();
    let outcome = entries.iter().rfind(|entry| entry.value()["kind"] == "outcome");
    let outcome = outcome.map(|entry| entry.value().clone());
    entries.retain(|entry| entry.value()["kind"] == "access");
    let entry = entries.into_iter().next();
    let entry = entry.ok_or_else(|| unknown(id))?;
    let recorded = Recorded { access: entry.value().clone(), outcome };
    Ok((asked(&entry), recorded))
}

/// What the audit log has of a request.
pub(crate) struct Recorded {
    pub(crate) access: Value,
    pub(crate) outcome: Option<Value>,
}

/// The request of an access record; none when it was refused before it was known who asks for what.
fn asked(entry: &Entry) -> Option<Inquiry> {
    let text = |field: &str| entry.text(field);
    let mut who = text("agent")?.to_owned();
    for key in ["run", "node", "user"] {
        who += &text(key).map(|value| format!("+{key}={value}")).unwrap_or_default();
    }
    let (method, destination) = (text("method")?, text("destination")?);
    let url = match method {
        "CONNECT" => connect_target(destination),
        _ => format!("{destination}{}", text("path").unwrap_or("/")),
    };
    let method = if entry.value()["websocket"] == true { "SOCKET" } else { method };
    let labels = recorded_labels(entry.value())?;
    let at = entry.time().and_then(|time| time.parse::<Timestamp>().ok());
    let at = at.unwrap_or_else(Timestamp::now).as_second();
    let seen = recorded_references(entry.value());
    let supposed = user(&who).ok().and_then(supposed)?;
    let proof = recorded_run_token(entry.value(), &supposed, at).unwrap_or(Proof::Token);
    Some(Inquiry {
        who: Identity { proof, labels, ..supposed },
        wish: format!("{method} {url}").parse::<Wish>().ok()?,
        refers: seen.credentials.first().map(|(name, _)| name.clone()),
        seen: Some(Box::new(seen)),
        fields: recorded_overrides(text("method_override"), text("reason")),
        at,
    })
}

/// What the request referred to. What a rule put in unasked it did not, nor a certificate; and the
/// secret itself is no reference.
fn recorded_references(record: &Value) -> Referred {
    let more = record["more_credentials"].as_array();
    let uses = std::iter::once(record).chain(more.into_iter().flatten());
    let sent = record["code"] == Code::RealCredential.as_str();
    let refers = |one: &Value| {
        let unasked = one["chosen_by"]
            .as_str()
            .is_some_and(|why| why.split(',').any(|word| word == "unasked"));
        let slot = one["slot"].as_str();
        (!sent && !unasked && slot != Some("certificate"))
            .then(|| Some((one["credential"].as_str()?.parse().ok()?, slot.map(Into::into))))?
    };
    let unknown = record["unknown_in"].as_str().map(|place| Unknown {
        name: record["unknown_reference"].as_str().and_then(|name| name.parse().ok()),
        place: place.into(),
    });
    let misplaced = record["misplaced"].as_u64().unwrap_or(0);
    let misplaced = usize::try_from(misplaced).unwrap_or(usize::MAX);
    Referred { credentials: uses.filter_map(refers).collect(), unknown, misplaced }
}

/// What the request's run token left it, where that was less than what the agent may, and its
/// environment.
fn recorded_run_token(record: &Value, who: &Identity, at: i64) -> Option<Proof> {
    let name = |name: &Value| name.as_str().and_then(|name| name.parse::<Name>().ok());
    let uses = record["run_token_use"].as_array();
    let uses = uses.map(|names| names.iter().filter_map(name).collect());
    let environment = name(&record["environment"]);
    if uses.is_none() && environment.is_none() {
        return None;
    }
    Some(Proof::Run(Arc::new(Claims {
        id: Arc::clone(&who.token_id),
        workspace: who.workspace.clone(),
        agent: who.agent.clone(),
        context: who.context.clone(),
        uses,
        environment,
        issued: at,
        epoch: None,
        expires: at,
    })))
}

/// The fields by which it asked for other methods; of one that is never forwarded no more is known.
fn recorded_overrides(
    methods: Option<&str>,
    reason: Option<&str>,
) -> Vec<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_static("x-http-method-override");
    let never = (reason == Some(reason::OTHER_METHOD)).then_some("TRACE");
    let methods = methods.into_iter().flat_map(|methods| methods.split(',')).chain(never);
    methods.filter_map(|method| Some((name.clone(), method.parse().ok()?))).collect()
}

impl Recorded {
    fn show(&self) -> Result<(), Failure> {
        let record = &self.access;
        let word = |field: &str| record[field].as_str().map(output::plain);
        let decision = word("decision").unwrap_or_default();
        let by = word("rule").map(|rule| format!(", by the rule `{rule}`")).unwrap_or_default();
        let code = word("code").map(|code| format!(", with {code}")).unwrap_or_default();
        let reason = word("reason").map(|reason| format!(": {reason}")).unwrap_or_default();
        output::line(&format!("recorded: {decision}{code}{by}{reason}"))?;
        advise(record)?;
        if let Some(place) = word("unknown_in") {
            let name = word("unknown_reference").map(|name| format!("`locum_{name}`"));
            let name = name.unwrap_or_else(|| {
                "not recorded, because what stands there may be a secret".to_owned()
            });
            output::line(&format!("          the reference in {place}: {name}"))?;
        }
        if let Some(names) = record["run_token_use"].as_array() {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            let names = output::plain(&names.join(", "));
            output::line(&format!("          its run token leaves it: {names}"))?;
        }
        // What was permitted may have come to nothing all the same.
        let Some(outcome) = self.outcome.as_ref().filter(|one| one["code"].is_string()) else {
            return Ok(());
        };
        let word = |field: &str| outcome[field].as_str().map(output::plain).unwrap_or_default();
        output::line(&format!("ended:    {}, with {}", word("ending"), word("code")))?;
        advise(outcome)
    }
}

/// What the code of a record means, and what to do about it.
fn advise(record: &Value) -> Result<(), Failure> {
    match Code::ALL.iter().find(|known| record["code"] == known.as_str()) {
        Some(known) => output::line(&format!("          {}. {}", known.title(), known.hint())),
        None => Ok(()),
    }
}

/// What the agent was labelled with then.
fn recorded_labels(record: &Value) -> Option<Labels> {
    let Some(labels) = record["labels"].as_object() else { return Some(Labels::default()) };
    let pair = |(name, value): (&String, &Value)| {
        Some((name.parse().ok()?, value.as_str()?.parse().ok()?))
    };
    Labels::new(labels.iter().map(pair).collect::<Option<Vec<_>>>()?).ok()
}

fn connect_target(destination: &str) -> String {
    let authority = destination.split_once("://").map_or(destination, |(_, rest)| rest);
    let port = authority.rsplit(']').next().is_some_and(|rest| rest.contains(':'));
    if port { authority.to_owned() } else { format!("{authority}:443") }
}

/// What of a rule does not fit, by its key.
fn key(check: Check) -> &'static str {
    match check {
        Check::Agent => "agents",
        Check::Destination => "to",
        Check::Method => "methods",
        Check::Path => "paths",
        Check::Query => "query",
        Check::Headers => "headers",
        Check::User => "users",
        Check::Run => "runs",
        Check::Time => "when",
    }
}

/// An explanation as `policy explain --json` has it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Explained {
    decision: String,
    /// The decision in words.
    answer: String,
    rule: Option<String>,
    code: Option<String>,
    record: Option<Value>,
    outcome: Option<Value>,
    /// Why, where the rules that match do not show it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    because: Vec<String>,
    /// What was supposed, where something had to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    rules: Vec<Seen>,
    other_rules: usize,
}

#[derive(Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Seen {
    rule: String,
    file: String,
    line: u32,
    matches: bool,
    denies: bool,
    shadow: bool,
    organisation: bool,
    /// The keys that do not fit...
    misses: Vec<String>,
    /// ... and what would have to change in each.
    changes: Vec<String>,
    grants: Option<bool>,
}

/// An explanation of what was asked, in words.
pub(crate) fn explained(
    explanation: &Explanation<'_>,
    (inquiry, index): (&Inquiry, &CredentialIndex),
    recorded: Option<Recorded>,
) -> Explained {
    let rule = |verdict: &RuleVerdict<'_>| Seen {
        rule: verdict.rule.to_owned(),
        file: verdict.file.to_owned(),
        line: verdict.at.line,
        matches: verdict.misses.is_empty() && !verdict.spares,
        denies: verdict.deny,
        shadow: verdict.shadow,
        organisation: verdict.organisation,
        misses: verdict.misses.iter().map(|check| key(*check).to_owned()).collect(),
        changes: changes(verdict, inquiry),
        grants: verdict.grants,
    };
    let (decision, by, code) = match &explanation.answer {
        Answer::Allow(rule) => ("allow", Some(rule), None),
        Answer::Ask(rule) => ("ask", Some(rule), None),
        Answer::Refuse(code, rule) => ("refuse", rule.as_ref(), Some(code)),
        Answer::Opaque(rule) => ("opaque", Some(rule), None),
        Answer::Intercept => ("intercept", None, None),
    };
    let (record, outcome) = match recorded {
        Some(Recorded { access, outcome }) => (Some(access), outcome),
        None => (None, None),
    };
    let note = inquiry.refers.as_ref().filter(|_| inquiry.lacks_place(index)).map(|name| {
        format!("`locum_{name}` is taken to be in the path; write it there, where the rules see it")
    });
    Explained {
        because: explanation.because.clone(),
        note,
        decision: decision.to_owned(),
        answer: explanation.answer.to_string(),
        rule: by.map(ToString::to_string),
        code: code.map(|code| code.as_str().to_owned()),
        record,
        outcome,
        rules: explanation.rules.iter().map(rule).collect(),
        other_rules: explanation.others,
    }
}

/// Rules that are shown beside those that match: the nearest.
const NEAR: usize = 8;

impl Explained {
    /// Has the files of rules begin in the home: where that is, is not for everybody to know.
    pub(crate) fn hide(&mut self, home: &Home) {
        for seen in &mut self.rules {
            seen.file = hide(&seen.file, home);
        }
    }

    fn print(&self, json: bool) -> Result<ExitCode, Failure> {
        if json {
            output::json(self)?;
        } else {
            self.show()?;
        }
        let refused = self.decision == "refuse";
        Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn show(&self) -> Result<(), Failure> {
        output::line(&format!("decision: {}", output::plain(&self.answer)))?;
        for why in &self.because {
            output::line(&format!("because:  {}", output::plain(why)))?;
        }
        if let Some(note) = &self.note {
            output::line(&format!("          ({})", output::plain(note)))?;
        }
        if let Some(access) = &self.record {
            let outcome = self.outcome.clone();
            Recorded { access: access.clone(), outcome }.show()?;
            output::line(
                "          (a record has neither query nor fields: rules that ask for them do not match here)",
            )?;
        }
        let (matching, near): (Vec<_>, Vec<_>) = self.rules.iter().partition(|seen| seen.matches);
        for seen in &matching {
            output::line(&format!("matches:  {}", seen.described()))?;
        }
        for seen in near.iter().take(NEAR) {
            output::line(&format!("misses:   {}", seen.described()))?;
            for change in &seen.changes {
                output::line(&format!("            {}", output::plain(change)))?;
            }
        }
        let hidden = near.len().saturating_sub(NEAR) + self.other_rules;
        if hidden > 0 {
            let more = output::counted(hidden as u64, "more rule");
            let verb = if hidden == 1 { "does" } else { "do" };
            output::line(&format!("and {more} that {verb} not match"))?;
        }
        Ok(())
    }
}

impl Seen {
    fn described(&self) -> String {
        let Self { rule, file, line, .. } = self;
        let mut text = format!("`{}` ({}:{line})", output::plain(rule), output::plain(file));
        for (is, word) in [
            (self.denies, "denies"),
            (self.shadow, "only recorded"),
            (self.organisation, "the organisation's"),
            (!self.denies && self.grants == Some(false), "does not grant the credential"),
        ] {
            if is {
                text += ", ";
                text += word;
            }
        }
        text
    }
}

/// What would have to change for the rule to match, key by key.
fn changes(verdict: &RuleVerdict<'_>, inquiry: &Inquiry) -> Vec<String> {
    let wants = verdict.wants.iter().map(Option::as_deref);
    let keys = verdict.misses.iter().zip(wants);
    let change = if verdict.deny { other } else { change };
    let mut changes: Vec<String> =
        keys.map(|(check, wants)| change(*check, wants, inquiry)).collect();
    if verdict.spares {
        changes.push("use: it denies none of the credentials of this request".to_owned());
    }
    changes
}

/// What a rule that denies is about instead: nobody wants it to deny more.
fn other(check: Check, wants: Option<&str>, inquiry: &Inquiry) -> String {
    match (check, &inquiry.wish) {
        (Check::Agent, _) => format!("agents: it is for others than `{}`", inquiry.who.agent),
        (Check::Destination, Wish::Connect(authority)) => {
            format!("to: it is about other destinations than {authority}")
        }
        (Check::Destination, Wish::Request { origin, .. }) => {
            format!("to: it is about other destinations than {origin}")
        }
        (Check::Method, Wish::Request { socket: true, .. }) => {
            "methods: it is not about WebSockets".to_owned()
        }
        (Check::Method, Wish::Request { method, .. }) => {
            format!("methods: it is about others than {method}")
        }
        (Check::Path, Wish::Request { target, .. }) => {
            let path = target.split('?').next().unwrap_or_default();
            format!("paths: it is about others than {path}")
        }
        _ => change(check, wants, inquiry),
    }
}

/// What would have to change in one key, which wants something else.
fn change(check: Check, wants: Option<&str>, inquiry: &Inquiry) -> String {
    let wanted = wants.map(output::plain).unwrap_or_default();
    let (method, origin, path) = match &inquiry.wish {
        Wish::Connect(authority) => ("CONNECT".to_owned(), format!("https://{authority}"), ""),
        Wish::Request { method, socket, origin, target } => {
            let method = if *socket { "a WebSocket".to_owned() } else { method.to_string() };
            (method, origin.to_string(), target.split('?').next().unwrap_or_default())
        }
    };
    let context = &inquiry.who.context;
    let label = |label: Option<&crate::agent::Label>| {
        label.map_or_else(|| "nothing".to_owned(), |label| format!("`{}`", label.as_str()))
    };
    match check {
        // What says more than that something has to be added.
        Check::Agent | Check::Destination if wants.is_some() => format!("{}: {wanted}", key(check)),
        Check::Agent if inquiry.who.labels.is_empty() => {
            format!("agents: add `{}`", inquiry.who.agent)
        }
        Check::Agent => {
            let Identity { agent, labels, .. } = &inquiry.who;
            format!("agents: add `{agent}`, or labels that it has: {labels}")
        }
        Check::Destination => format!("to: add {origin}"),
        Check::Method if method == "a WebSocket" => "websocket: allow".to_owned(),
        // Other spellings of a known method are none that a list can have.
        Check::Method if method.bytes().any(|b| b.is_ascii_lowercase()) => {
            format!("methods: case counts; send {}", method.to_ascii_uppercase())
        }
        Check::Method => format!("methods: add {method}"),
        Check::Path => format!("paths: add {path}"),
        Check::Query => {
            format!("query: wants {wanted}; it is missing, or has another value as well")
        }
        Check::Headers => {
            format!("headers: wants {wanted}; it is missing, or has another value as well")
        }
        Check::User => {
            format!("users: wants {wanted}; the starter said {}", label(context.user.as_ref()))
        }
        Check::Run => {
            format!("runs: wants {wanted}; the starter said {}", label(context.run.as_ref()))
        }
        Check::Time => match Timestamp::from_second(inquiry.at) {
            Ok(at) => format!("when: {wanted}, and not at {at}"),
            Err(_) => format!("when: {wanted}, and not at that time"),
        },
    }
}
