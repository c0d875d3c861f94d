//! `locum credential`: what the vault holds. No command shows a secret.

mod bait;
mod care;
mod connect;
mod kind;
mod providers;
mod source;
mod users;
mod verify;
mod versions;

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use kind::KindArgs;
use source::SourceArgs;

use super::import;
use super::output::{self, Json, Table};
use super::way::{Way, Where};
use crate::admin::orders::Given;
use crate::admin::orders::credentials::{
    AddCredential, AddedCredential, ListCredentials, RemoveCredential, ShowCredential, Shown,
    check_owner, placeholder, provider_of,
};
use crate::agent::Label;
use crate::app::{Failure, VARIABLE_TAG};
use crate::catalog::{Provider, SlotText};
use crate::credential::{Kind, MAX_WEIGHT, Properties, Slot};
use crate::host::{Destination, Scheme};
use crate::reference::Name;
use crate::secret::Secret;
use crate::vault::{MAX_SECRET, NewCredential, Tier, validate_secret, without_line_end};
pub(crate) use kind::{follow_certificate, kept as kept_material, rotated as rotated_material};

/// Subcommands of `locum credential`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Add a credential; its value comes from standard input, a prompt, a file or a variable
    #[command(after_help = ADD_EXAMPLE)]
    Add(Box<Add>),
    /// Get a refresh token from a person at a browser, and add it as a credential
    #[command(after_help = connect::EXAMPLE)]
    Connect(Box<connect::Connect>),
    /// List credentials, with their age and when they are due
    #[command(
        after_help = "Example:\n  locum credential list --json\n  locum credential list --unused-for 30d"
    )]
    List {
        /// Only those that the audit log has no use of for so long
        #[arg(long, value_name = "DURATION", value_parser = crate::document::parse_duration)]
        unused_for: Option<std::time::Duration>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the providers of the catalogue, for `credential add --provider`
    #[command(
        after_help = "Example:\n  locum credential providers\n  locum credential providers google --json"
    )]
    Providers {
        /// Only those with this in their id, name, host or variable
        like: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one credential, with its versions and a fingerprint of each; never the secret
    #[command(after_help = "Example:\n  locum credential show openai")]
    Show {
        /// The credential's name
        name: Name,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a credential a new secret; new runs get it at once, and what began with the old one may
    /// finish with it
    #[command(after_help = versions::ROTATE_EXAMPLE)]
    Rotate(versions::Rotate),
    /// Make the staged version of a credential, or an earlier one, the one that requests get
    #[command(
        after_help = "Example:\n  locum credential rotate openai --stage < new-key.txt\n  locum credential promote openai\n  locum credential promote openai --version 2   # back to it"
    )]
    Promote(versions::Promote),
    /// Try a credential at its provider, by a cheap call that changes nothing
    #[command(
        after_help = "Example:\n  locum credential verify openai\n  locum credential verify openai --version 3 --json\n\nTries the staged version where there is one, else the current one. Exit code 1 unless the provider\naccepts it."
    )]
    Verify(verify::Verify),
    /// End the use of a credential; its name stays known, and refused
    #[command(after_help = versions::REVOKE_EXAMPLE)]
    Revoke(versions::Revoke),
    /// Say how often a credential is to be rotated; reminders come 14 days ahead, or in the last half
    /// of a shorter time
    #[command(
        after_help = "Example:\n  locum credential schedule openai --rotate-every 30d\n  locum credential schedule billing --sensitivity high"
    )]
    Schedule(care::ScheduleCommand),
    /// Print the credential register: what there is, where it goes, who may use it, who did, when it was
    /// rotated and when it is due
    #[command(
        after_help = "Example:\n  locum credential register --markdown > register.md\n  locum credential register --since 30d --json"
    )]
    Register(care::Register),
    /// List the agents and runs that used a credential, from the audit log
    #[command(
        after_help = "Example:\n  locum credential who-uses openai\n  locum credential who-uses openai --version 3 --since 24h --json"
    )]
    WhoUses(users::WhoUses),
    /// Remove a credential with all its versions
    #[command(after_help = "Example:\n  locum credential remove openai")]
    Remove {
        /// The credential's name
        name: Name,
        #[command(flatten)]
        json: Json,
    },
    /// Move the keys of a .env file into the vault
    #[command(
        after_help = "Example:\n  locum credential import .env\n  locum credential import .env --replace"
    )]
    Import(import::Args),
}

const ADD_EXAMPLE: &str = "Example:
  locum credential add openai --provider openai < key.txt
  locum credential add billing --to https://api.internal:8443 --header 'X-Api-Key: {secret}' --from-env BILLING_KEY
  locum credential add git --to https://git.internal --basic x-access-token --from-file token.txt
  locum credential add gmail --provider google-workspace --kind oauth-refresh --client-id ID --client-secret-from-env GOOGLE_SECRET < refresh-token.txt";

/// Arguments of `locum credential add`.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct Add {
    /// The credential's name; agents refer to it as `locum_NAME`
    name: Name,
    /// Take hosts, slots and stand-in from the catalogue
    #[arg(long, value_name = "ID")]
    provider: Option<String>,
    /// Where it may go: <https://host> or https://host:port; `*` is one label. Repeatable
    #[arg(long, value_name = "ORIGIN")]
    to: Vec<Destination>,
    /// A header slot, 'NAME: TEMPLATE', such as 'X-Api-Key: {secret}'. Repeatable
    #[arg(long, value_name = "SLOT")]
    header: Vec<String>,
    /// A Basic slot: the secret is the password beside USER; `{secret}` makes it the user name
    #[arg(long, value_name = "USER", num_args = 0..=1, default_missing_value = "")]
    basic: Vec<String>,
    /// A query parameter. Repeatable
    #[arg(long, value_name = "NAME")]
    query: Vec<String>,
    /// A path slot: a path around `{secret}`, such as '/bot{secret}/**'; without one, the segment in
    /// which the reference stands. Repeatable
    #[arg(long, value_name = "PATH", num_args = 0..=1, default_missing_value = "")]
    path: Vec<String>,
    /// An entry of Sec-WebSocket-Protocol, such as 'openai-insecure-api-key.{secret}'. Repeatable
    #[arg(long, value_name = "ENTRY")]
    subprotocol: Vec<String>,
    /// A string of a JSON body, by its pointer, such as '/auth/token'. Repeatable
    #[arg(long, value_name = "PTR")]
    json_pointer: Vec<String>,
    /// A field of a form in the body. Repeatable
    #[arg(long, value_name = "FIELD")]
    form: Vec<String>,
    /// A part of a multipart/form-data body. Repeatable
    #[arg(long, value_name = "FIELD")]
    multipart: Vec<String>,
    /// A string of a JSON message that the program sends in a WebSocket, by its pointer. Repeatable
    #[arg(long, value_name = "PTR")]
    websocket: Vec<String>,
    /// A text in the shape of the provider's keys, with the reference in it
    #[arg(long, value_name = "TEXT")]
    stand_in: Option<String>,
    /// The variable in which programs look for it; `locum run` sets it to the placeholder.
    /// Repeatable; by default the provider's own, or that of --from-env
    #[arg(long, value_name = "NAME")]
    env: Vec<String>,
    /// Whose it is: user, builder or platform
    #[arg(long, default_value = "platform")]
    tier: Tier,
    /// The reference that it serves beside its own: agents then get the first that there is for them
    #[arg(long, value_name = "NAME")]
    serves: Option<Name>,
    /// The user whose it is, and for whom alone it is used
    #[arg(long, value_name = "USER")]
    owner: Option<Label>,
    /// The step of runs for which alone it is used. Repeatable
    #[arg(long, value_name = "NODE")]
    node: Vec<Label>,
    /// How often it is taken, beside others of the same tier, owner and steps: 1 to 100
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_WEIGHT)))]
    weight: Option<u32>,
    /// A word to find it by. Repeatable
    #[arg(long, value_name = "WORD")]
    tag: Vec<String>,
    /// Give it to nobody, and raise the alarm when anyone refers to it or sends its value. Without a
    /// value of yours one is made up and printed, to be planted where only a thief looks
    #[arg(long)]
    honeytoken: bool,
    /// Sources of other credentials log in with it (--source-login credential:NAME), and no agent gets it
    #[arg(long, conflicts_with_all = ["honeytoken", "captured", "serves"])]
    for_sources: bool,
    /// Its values are tokens that an origin mints for the agent, as a rule's `capture` says; it has none
    /// before the first
    #[arg(long, conflicts_with_all = ["honeytoken", "from_env", "from_file"])]
    captured: bool,
    #[command(flatten)]
    value: Value,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    kind: KindArgs,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    schedule: care::ScheduleArgs,
}

/// Where a secret comes from. Never the command line, which others can read.
#[derive(Debug, clap::Args)]
pub(super) struct Value {
    /// Take the value of this environment variable
    #[arg(long, value_name = "NAME", conflicts_with = "from_file")]
    from_env: Option<String>,
    /// Take the contents of this file
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// Accept a secret of under 8 bytes, though such texts turn up in answers by chance. Nobody knows it
    /// when an agent sends it itself, and under 3 bytes it is not hidden in answers
    #[arg(long)]
    force_short: bool,
    /// Take it as it is, though it stands in quotes or looks like a line `NAME=value`
    #[arg(long)]
    as_is: bool,
}

pub(super) fn run(to: &Where, command: Command) -> Result<(), Failure> {
    // What is in the catalogue needs no home.
    if let Command::Providers { like, json } = &command {
        return providers::list(like.as_deref(), *json);
    }
    let mut way = to.open()?;
    match command {
        Command::Providers { .. } => Ok(()),
        Command::Add(args) => add(way, &args),
        Command::Connect(args) => connect::run(&mut way.here("logging in at a browser")?, *args),
        Command::List { unused_for, json } => {
            let unused_for = unused_for.map(|time| time.as_secs());
            list(way.order(ListCredentials { unused_for })?, json)
        }
        Command::Schedule(args) => care::schedule(&mut way, &args),
        Command::Register(args) => care::register(&mut way, &args),
        Command::Show { name, json } => show(&way.order(ShowCredential { name })?, json),
        Command::Rotate(args) => versions::rotate(&mut way, args),
        Command::Promote(args) => versions::promote(&mut way, args),
        Command::Verify(args) => {
            verify::verify(&mut way.here("trying a credential at its provider")?, &args)
        }
        Command::Revoke(args) => versions::revoke(&mut way, args),
        Command::WhoUses(args) => users::who_uses(&mut way, &args),
        Command::Remove { name, json } => {
            let removed = way.order(RemoveCredential { name })?;
            json.tell(&removed, || output::line(&format!("removed {}", removed.name)))
        }
        Command::Import(args) => import::run(&mut way.here("an import")?, &args),
    }
}

fn add(mut way: Way, args: &Add) -> Result<(), Failure> {
    let new = describe(args)?;
    let bait = args.honeytoken && args.value.from_env.is_none() && args.value.from_file.is_none();
    if bait {
        return add_bait(&mut way, args, &new);
    }
    let done = way.order(with_secret(args, to_order(new))?)?;
    said(args, &done)
}

/// The same with what is kept for it: nothing yet, a login at its source, what a kind makes its value of, or
/// the value. What reads files reads them here.
fn with_secret(args: &Add, order: AddCredential) -> Result<AddCredential, Failure> {
    if args.captured {
        return Ok(order);
    }
    let provider = args.provider.as_deref().map(provider_of).transpose()?;
    if let Some((words, source)) = args.source.read()? {
        let kind = args.kind.of_what_lies_elsewhere(provider)?;
        let secret = SourceArgs::login(&source, &args.value, &args.name)?.map(Given);
        return Ok(AddCredential { kind, source: Some(words), secret, ..order });
    }
    let (kind, secret) = match args.kind.read(&args.name, provider, &args.value)? {
        Some((kind, secret)) => (Some(kind), secret),
        None => (None, args.value.read(&format!("Secret of {}: ", args.name))?),
    };
    let force_short = args.value.force_short;
    Ok(AddCredential { kind, secret: Some(Given(secret)), force_short, ..order })
}

/// A credential as it is brought to wherever it is added, without its secret.
fn to_order(new: NewCredential) -> AddCredential {
    let NewCredential { name, provider, tier, tags, destinations, slots, stand_in, properties } =
        new;
    AddCredential {
        name,
        provider,
        to: destinations.iter().map(ToString::to_string).collect(),
        slots: slots.iter().map(ToString::to_string).collect(),
        stand_in,
        tier,
        tags,
        serves: properties.serves,
        owner: properties.owner,
        nodes: properties.nodes,
        weight: properties.weight,
        rotate: properties.rotate,
        honeytoken: properties.honeytoken,
        captured: properties.captured,
        for_sources: properties.for_sources,
        kind: None,
        source: None,
        force_short: false,
        secret: None,
    }
}

fn added(args: &Add, new: &NewCredential) -> Result<(), Failure> {
    let own = (&new.name, new.stand_in.as_deref());
    let done = AddedCredential {
        credential: new.name.clone(),
        version: Some(1),
        placeholder: placeholder(own, new.properties.serves.as_ref()),
        to: new.destinations.iter().map(ToString::to_string).collect(),
    };
    said(args, &done)
}

fn said(args: &Add, done: &AddedCredential) -> Result<(), Failure> {
    if args.json {
        return output::json(done);
    }
    let AddedCredential { credential: name, placeholder, to, .. } = done;
    let how = if args.for_sources {
        format!("sources log in with credential:{name}, and no agent gets it")
    } else {
        format!("agents use {placeholder}")
    };
    output::line(&format!("added {name}; {how}"))?;
    output::line(&format!("it goes to {} only", to.join(", ")))
}

/// Adds a honeytoken whose value is made up here. It opens nothing, and is of use only where it is
/// seen: so this one value is printed.
fn add_bait(way: &mut Way, args: &Add, new: &NewCredential) -> Result<(), Failure> {
    let provider = args.provider.as_deref().map(provider_of).transpose()?;
    let value = bait::bait(provider)?;
    let secret = Some(Given(Secret::new(value.clone().into_bytes())));
    way.order(AddCredential { secret, ..to_order(new.clone()) })?;
    if args.json {
        return output::json(&serde_json::json!({
            "credential": new.name, "version": 1, "honeytoken": true, "value": value,
            "placeholder": new.stand_in.clone().unwrap_or_else(|| new.name.reference()),
        }));
    }
    output::line(&format!("added {}; no agent gets it", new.name))?;
    output::line(&format!("plant this value, which opens nothing: {value}"))
}

/// What is to be added, from the catalogue and the command line; the command line wins.
fn describe(args: &Add) -> Result<NewCredential, Failure> {
    check_owner(args.tier, args.owner.as_ref(), args.serves.as_ref())?;
    let provider = args.provider.as_deref().map(provider_of).transpose()?;
    let mut slots = typed_slots(args)?;
    if !args.kind.is_plain() {
        let own = provider.and_then(|p| provider_slots(p).ok());
        slots = args.kind.slots(slots, own.unwrap_or_default())?;
    } else if let Some(provider) = provider.filter(|_| slots.is_empty()) {
        slots = provider_slots(provider)?;
    }
    if slots.is_empty() {
        return Err(Failure::usage("nothing says how the secret enters a request")
            .help("name a --provider, or give a slot: --header 'X-Api-Key: {secret}', --basic USER, --query NAME, --path"));
    }
    let stand_in = {
        let reference = args.name.reference();
        let own = args.stand_in.clone();
        own.or_else(|| provider.and_then(|p| p.stand_in(&reference)))
    };
    Ok(NewCredential {
        name: args.name.clone(),
        provider: provider.map(|p| p.id().to_owned()),
        tier: args.tier,
        tags: tags(args),
        destinations: destinations(args, provider)?,
        slots,
        stand_in,
        properties: Properties {
            honeytoken: args.honeytoken,
            captured: args.captured,
            for_sources: args.for_sources,
            serves: args.serves.clone().filter(|serves| *serves != args.name),
            owner: args.owner.clone(),
            nodes: args.node.clone(),
            weight: args.weight.filter(|weight| *weight != 1),
            rotate: args.schedule.read(),
            ..Properties::default()
        },
    })
}

/// The tags, with the variables in which programs look for the credential.
fn tags(args: &Add) -> Vec<String> {
    let implied =
        args.value.from_env.iter().filter(|_| args.env.is_empty() && args.provider.is_none());
    let own = args.kind.variables().iter().filter(|_| args.env.is_empty());
    let named = args.env.iter().chain(implied).map(String::as_str);
    let variables = named.chain(own.copied()).map(|name| format!("{VARIABLE_TAG}{name}"));
    args.tag.iter().cloned().chain(variables).collect()
}

type ReadSlot = fn(&str) -> Result<Slot, crate::credential::SlotError>;

fn typed_slots(args: &Add) -> Result<Vec<Slot>, Failure> {
    let wrong = |flag: &str, text: &str, e: crate::credential::SlotError| {
        Failure::usage(format!("{flag} '{text}': {e}"))
    };
    let kinds: [(&str, &[String], ReadSlot); 9] = [
        ("--header", &args.header, Slot::header),
        ("--basic", &args.basic, Slot::basic),
        ("--query", &args.query, Slot::query),
        ("--path", &args.path, Slot::path),
        ("--subprotocol", &args.subprotocol, Slot::subprotocol),
        ("--json-pointer", &args.json_pointer, Slot::json),
        ("--form", &args.form, Slot::form),
        ("--multipart", &args.multipart, Slot::multipart),
        ("--websocket", &args.websocket, Slot::websocket),
    ];
    let slots = kinds.into_iter().flat_map(|(flag, texts, read)| {
        texts.iter().map(move |text| read(text).map_err(|e| wrong(flag, text, e)))
    });
    slots.collect()
}

/// The slots of a provider that this version can fill.
pub(crate) fn provider_slots(provider: &Provider) -> Result<Vec<Slot>, Failure> {
    let fill = |slot: &SlotText| match slot {
        SlotText::Header(text) => Slot::header(text).ok(),
        SlotText::Basic(text) => Slot::basic(text).ok(),
        SlotText::Query(text) => Slot::query(text).ok(),
        SlotText::Path(text) => Slot::path(text).ok(),
        SlotText::Subprotocol(text) => Slot::subprotocol(text).ok(),
        SlotText::Json(text) => Slot::json(text).ok(),
        SlotText::Form(text) => Slot::form(text).ok(),
    };
    let slots: Vec<Slot> = provider.slots().iter().filter_map(fill).collect();
    if slots.is_empty() {
        return Err(Failure::usage(format!(
            "{} takes its credential in a form that this version cannot fill in",
            provider.name()
        ))
        .help("signed requests come in a later version"));
    }
    Ok(slots)
}

fn destinations(args: &Add, provider: Option<&Provider>) -> Result<Vec<Destination>, Failure> {
    let to = if args.to.is_empty() { provider.map(provider_to).transpose()? } else { None };
    let to = to.unwrap_or_else(|| args.to.clone());
    if to.is_empty() {
        return Err(match provider.map(Provider::own_hosts).filter(|hosts| !hosts.is_empty()) {
            Some(hosts) => Failure::usage("this provider gives each customer a host of their own")
                .help(format!(
                    "name yours with --to https://HOST, in the form {}",
                    hosts.join(" or ")
                )),
            None => Failure::usage("nothing says where the credential may go").help(
                "name its hosts with --to https://HOST, or take a --provider of the catalogue",
            ),
        });
    }
    if let Some(clear) = to.iter().find(|d| d.scheme == Scheme::Http) {
        return Err(Failure::usage(format!(
            "--to {clear}: a credential never travels without TLS"
        ))
        .help("write https://"));
    }
    Ok(to)
}

/// Where the catalogue says that a provider's credential may go.
pub(crate) fn provider_to(provider: &Provider) -> Result<Vec<Destination>, Failure> {
    let parse = |text: &String| {
        text.parse()
            .map_err(|e| Failure::new(format!("the catalogue's {text} cannot be used: {e}")))
    };
    provider.to().iter().map(parse).collect()
}

impl Value {
    /// Reads the secret, and refuses what could not be used.
    pub(super) fn read(&self, prompt: &str) -> Result<Secret, Failure> {
        let secret = self.read_any(prompt)?;
        if let Some(what) = secret.expose(pasted).filter(|_| !self.as_is) {
            return Err(Failure::usage(format!("the secret {what}, which is hardly a part of it"))
                .help("give the bare value; or say --as-is, if the provider wants exactly this"));
        }
        secret
            .expose(|bytes| validate_secret(bytes, self.force_short))
            .map_err(|problem| Failure::usage(format!("the secret cannot be stored: {problem}")))?;
        Ok(secret)
    }

    /// Reads what need not fit into a header: a key of several lines, or JSON.
    fn read_any(&self, prompt: &str) -> Result<Secret, Failure> {
        let bytes = match (&self.from_env, &self.from_file) {
            (Some(name), _) => from_env(name)?,
            (None, Some(path)) => from_file(path)?,
            (None, None) if std::io::stdin().is_terminal() => from_prompt(prompt)?,
            (None, None) => from_stdin()?,
        };
        Ok(Secret::new(without_line_end(&bytes).to_vec()))
    }
}

/// What was taken along when a secret was copied out of a file or a shell.
fn pasted(secret: &[u8]) -> Option<&'static str> {
    let quoted =
        |quote: u8| secret.len() > 2 && [secret.first(), secret.last()] == [Some(&quote); 2];
    if quoted(b'"') || quoted(b'\'') {
        return Some("stands in quotes");
    }
    let secret = secret.strip_prefix(b"export ").unwrap_or(secret);
    let (name, value) = secret.split_at_checked(memchr::memchr(b'=', secret)?)?;
    // Of base64, `=` is the end.
    let assigned = value.iter().any(|byte| *byte != b'=');
    let of_name = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
    let named = name.first().is_some_and(u8::is_ascii_uppercase) && name.iter().all(of_name);
    (named && assigned && name.contains(&b'_')).then_some("has the name of its variable before it")
}

fn from_env(name: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    use std::os::unix::ffi::OsStringExt as _;
    let value = std::env::var_os(name).ok_or_else(|| {
        Failure::usage(format!("there is no variable {name} in the environment"))
            .help("export it for this command, or give the value on standard input")
    })?;
    Ok(Zeroizing::new(value.into_vec()))
}

/// A file of the user's own: how private it is, is theirs to say.
fn from_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let file = std::fs::File::open(path)
        .map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
    read_bounded(file, &path.display().to_string())
}

fn from_stdin() -> Result<Zeroizing<Vec<u8>>, Failure> {
    read_bounded(std::io::stdin().lock(), "standard input")
}

fn from_prompt(prompt: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let text = rpassword::prompt_password(prompt)
        .map_err(|e| Failure::new(format!("the secret could not be read: {e}")))?;
    Ok(Zeroizing::new(text.into_bytes()))
}

/// Reads into one buffer that is never outgrown, so that no copy is left behind.
fn read_bounded(from: impl std::io::Read, name: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let limit = MAX_SECRET + 3; // A line end, and one more to see that it is too long.
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit + 1));
    from.take(limit as u64)
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::new(format!("{name}: {e}")))?;
    if bytes.is_empty() {
        return Err(Failure::usage(format!("{name} is empty")).help("the secret is expected there"));
    }
    Ok(bytes)
}

fn list(shown: Vec<Shown>, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&shown);
    }
    let mut table =
        Table::new(&["NAME", "PROVIDER", "VERSION", "ROTATED", "AGE", "DUE", "HEALTH", "TO"]);
    for credential in shown {
        table.row(vec![
            credential.name.to_string(),
            credential.provider.unwrap_or_else(|| "-".to_owned()),
            match credential.version {
                _ if credential.honeytoken => "honeytoken".to_owned(),
                None if credential.captured => "none yet".to_owned(),
                Some(version) => version.to_string(),
                None => "revoked".to_owned(),
            },
            output::time(credential.last_rotation),
            format!("{} d", credential.age_days),
            care::due_text(credential.due),
            credential.health.map_or_else(|| "-".to_owned(), |health| health.verdict),
            output::list(credential.to),
        ]);
    }
    table.print()
}

fn show(shown: &Shown, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(shown);
    }
    let mut table = Table::new(&["name", shown.name.as_str()]);
    let mut field = |key: &str, value: String| table.row(vec![key.to_owned(), value]);
    field("placeholder", shown.placeholder.clone().unwrap_or_else(|| "-".to_owned()));
    field("provider", shown.provider.clone().unwrap_or_else(|| "-".to_owned()));
    field("to", output::list(&shown.to));
    field("slots", output::list(&shown.slots));
    if let Some(kind) = &shown.kind {
        field("kind", kind.name().to_owned());
        if let Some(endpoint) = kind.endpoint() {
            field("tokens come from", endpoint.to_string());
        }
        if let Kind::Hmac(signing) = kind {
            field("signs", signing.message.to_string());
            for (name, text) in &signing.parts {
                field("with", format!("{name}: {text}"));
            }
            if !signing.derive.is_empty() {
                field("key of", output::list(&signing.derive));
            }
            let outputs = signing.headers.iter().chain(&signing.parameters);
            field("sends", output::list(outputs.map(|(name, text)| format!("{name}: {text}"))));
        }
    }
    if let Some(source) = &shown.source {
        field("source", source.to_string());
    }
    if shown.for_sources {
        field("for sources", "they log in with it, and no agent gets it".to_owned());
    }
    if shown.captured {
        field("captured", "its values are taken out of answers".to_owned());
    }
    if shown.honeytoken {
        field("honeytoken", "no agent gets it; its use raises an alarm".to_owned());
    }
    if let Some(schedule) = &shown.schedule {
        field("rotate", format!("{schedule}; due {}", care::due_text(shown.due)));
    }
    field("tier", shown.tier.as_str().to_owned());
    let labels = |labels: &[Label]| output::list(labels.iter().map(Label::as_str));
    if let Some(serves) = &shown.serves {
        field("serves", serves.to_string());
    }
    if let Some(owner) = &shown.owner {
        field("owner", owner.as_str().to_owned());
    }
    if !shown.nodes.is_empty() {
        field("nodes", labels(&shown.nodes));
    }
    if let Some(weight) = shown.weight {
        field("weight", weight.to_string());
    }
    field("tags", output::list(&shown.tags));
    for version in &shown.versions {
        let fingerprint = &version.fingerprint;
        let state = &version.state;
        let created = output::time(version.created);
        let grace = version
            .grace_until
            .map(|until| format!(", for what began with it until {}", output::time(until)));
        let grace = grace.unwrap_or_default();
        field(
            &format!("version {}", version.version),
            format!("{state}, {created}, fingerprint {fingerprint}{grace}"),
        );
    }
    table.print()
}
