//! `locum value`: settings by environment, which `locum run` and `locum env` hand to programs beside the
//! placeholders.

use std::collections::BTreeMap;

use serde::Serialize;

use super::output::{self, Json, Table};
use super::way::{Way, Where};
use crate::admin::orders::values::{HasValue, ListValues, Place, RemoveValue, SetValue};
use crate::app::{self, Failure, Opened};
use crate::credential::{Enters, Held, SECRET, Slot, SlotError, Value, Values};
use crate::host::Destination;
use crate::reference::Name;

/// Subcommands of `locum value`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Set a value, in one environment or where nothing else is said
    #[command(
        after_help = "Example:\n  locum value set region eu-west-1\n  locum value set region us-east-1 --environment prod\n  locum value set stripe-key --credential stripe-live --environment prod\n  locum value set account acct_1 --to https://api.stripe.com --header 'Stripe-Account: {value}'"
    )]
    Set {
        /// The value's name
        name: Name,
        /// The text; not for secrets, which are credentials
        #[arg(value_name = "TEXT", required_unless_present = "credential")]
        text: Option<String>,
        /// Hand out what stands for this credential
        #[arg(long, value_name = "NAME", conflicts_with = "text")]
        credential: Option<Name>,
        /// The environment in which it is this; by default all that have none of their own
        #[arg(long, value_name = "NAME")]
        environment: Option<Name>,
        /// The variable in which programs find it; by default the name in capitals
        #[arg(long, value_name = "NAME")]
        variable: Option<String>,
        #[command(flatten)]
        enters: EntersArgs,
        #[command(flatten)]
        json: Json,
    },
    /// List values
    #[command(after_help = "Example:\n  locum value list --environment prod")]
    List {
        /// As programs in this environment find them
        #[arg(long, value_name = "NAME")]
        environment: Option<Name>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one value in all environments
    #[command(after_help = "Example:\n  locum value show region --json")]
    Show {
        /// The value's name
        name: Name,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a value, or what it is in one environment
    #[command(after_help = "Example:\n  locum value remove region --environment prod")]
    Remove {
        /// The value's name
        name: Name,
        /// Only what it is there
        #[arg(long, value_name = "NAME")]
        environment: Option<Name>,
        #[command(flatten)]
        json: Json,
    },
}

/// Where the text may enter a request, in the place of `locum_NAME`.
#[derive(Debug, clap::Args)]
pub(super) struct EntersArgs {
    /// Where the text may go in a request, as `locum_NAME`: <https://host>. Repeatable
    #[arg(long, value_name = "ORIGIN", conflicts_with = "credential")]
    to: Vec<Destination>,
    /// A header that it may stand in, 'NAME: TEMPLATE', such as 'X-Region: {value}'. Repeatable
    #[arg(long, value_name = "SLOT", requires = "to")]
    header: Vec<String>,
    /// A query parameter. Repeatable
    #[arg(long, value_name = "NAME", requires = "to")]
    query: Vec<String>,
    /// A string of a JSON body, by its pointer. Repeatable
    #[arg(long, value_name = "PTR", requires = "to")]
    json_pointer: Vec<String>,
    /// A field of a form in the body. Repeatable
    #[arg(long, value_name = "FIELD", requires = "to")]
    form: Vec<String>,
}

type ReadSlot = fn(&str) -> Result<Slot, SlotError>;

impl EntersArgs {
    fn read(self) -> Result<Option<Enters>, Failure> {
        if self.to.is_empty() {
            return Ok(None);
        }
        let kinds: [(&str, &[String], ReadSlot); 4] = [
            ("--header", &self.header, |text| Slot::header(&text.replace("{value}", SECRET))),
            ("--query", &self.query, Slot::query),
            ("--json-pointer", &self.json_pointer, Slot::json),
            ("--form", &self.form, Slot::form),
        ];
        let slots = kinds.into_iter().flat_map(|(flag, texts, read)| {
            let wrong = move |text: &str, e| Failure::usage(format!("{flag} '{text}': {e}"));
            texts.iter().map(move |text| read(text).map_err(|e| wrong(text, e)))
        });
        let slots = slots.collect::<Result<Vec<_>, _>>()?;
        if slots.is_empty() {
            return Err(Failure::usage("--to says where it goes, and nothing says how it enters")
                .help("add a place, such as --header 'X-Region: {value}'"));
        }
        Ok(Some(Enters { to: self.to, slots }))
    }
}

pub(super) fn run(to: &Where, command: Command) -> Result<(), Failure> {
    let mut way = to.open()?;
    match command {
        Command::Set { name, text, credential, environment, variable, enters, json } => {
            let enters = enters.read()?;
            let set = SetValue { name, text, credential, environment, variable, enters };
            let set = way.order(set)?;
            let HasValue { name, is, environment, taken } = &set;
            if *taken {
                output::note(&format!(
                    "locum: {} is the reference of something else; programs get the value as a variable alone",
                    name.reference()
                ));
            }
            let place = whereabouts(environment.as_ref());
            json.tell(&set, || output::line(&format!("{name} is {}{place}", shown(is))))
        }
        Command::List { environment, json } => list(&all(&mut way)?, environment.as_ref(), json),
        Command::Show { name, json } => show(&all(&mut way)?, &name, json),
        Command::Remove { name, environment, json } => {
            let place = whereabouts(environment.as_ref());
            let removed = way.order(RemoveValue { name, from: Place { environment } })?;
            json.tell(&removed, || output::line(&format!("removed {}{place}", removed.name)))
        }
    }
}

fn all(way: &mut Way) -> Result<Values, Failure> {
    let all = way.order(ListValues)?.into_iter();
    Ok(all.map(|one| (one.name.clone(), one.value())).collect())
}

fn shown(held: &Held) -> String {
    match held {
        Held::Text(text) => output::plain(text),
        Held::Credential(name) => format!("the placeholder of {name}"),
    }
}

fn whereabouts(environment: Option<&Name>) -> String {
    environment.map_or_else(String::new, |environment| format!(" in {environment}"))
}

#[derive(Serialize)]
struct Row<'v> {
    name: &'v Name,
    #[serde(flatten)]
    value: &'v Value,
}

fn list(values: &Values, environment: Option<&Name>, json: bool) -> Result<(), Failure> {
    check_environment(values, environment)?;
    if json {
        let rows = values.iter().map(|(name, value)| Row { name, value });
        return output::json(&rows.collect::<Vec<_>>());
    }
    let mut table = Table::new(&["VALUE", "VARIABLE", "ENVIRONMENT", "IS"]);
    for (name, value) in values {
        for (place, held) in places(value) {
            let counts = environment.is_none() || value.within(environment) == Some(held);
            if counts {
                let place = place.map_or_else(|| "-".to_owned(), ToString::to_string);
                table.row(vec![name.to_string(), value.variable.clone(), place, shown(held)]);
            }
        }
    }
    table.print()
}

fn places(value: &Value) -> impl Iterator<Item = (Option<&Name>, &Held)> {
    let own = value.environments.iter().map(|(name, held)| (Some(name), held));
    value.default.iter().map(|held| (None, held)).chain(own)
}

fn show(values: &Values, name: &Name, json: bool) -> Result<(), Failure> {
    let value = values.get(name).ok_or_else(|| {
        Failure::new(format!("there is no value `{name}`")).help("`locum value list` shows them")
    })?;
    if json {
        return output::json(&Row { name, value });
    }
    let mut table = Table::new(&["ENVIRONMENT", "IS"]);
    for (place, held) in places(value) {
        let place = place.map_or_else(|| "-".to_owned(), ToString::to_string);
        table.row(vec![place, shown(held)]);
    }
    output::line(&format!("{name}, in {}", value.variable))?;
    if let Some(enters) = &value.enters {
        let slots = output::list(enters.slots.iter().map(Slot::label));
        output::line(&format!("its texts enter {slots} at {}", output::list(&enters.to)))?;
    }
    table.print()
}

/// What programs find in an environment, by its variables.
///
/// # Errors
/// For an environment that there is none of, and a value whose credential is gone.
pub(super) fn settings(
    opened: &Opened,
    environment: Option<&Name>,
) -> Result<BTreeMap<String, String>, Failure> {
    let values = opened.vault.values()?;
    check_environment(&values, environment)?;
    if values.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (credentials, sets) = (opened.vault.credentials()?, opened.vault.sets()?);
    app::settings(&values, environment, (&credentials, &app::taken_names(&credentials, &sets)))
}

/// An environment that no value knows is a slip, and would silently be the default.
fn check_environment(values: &Values, environment: Option<&Name>) -> Result<(), Failure> {
    let Some(environment) = environment else { return Ok(()) };
    let mut known: Vec<&Name> =
        values.values().flat_map(|value| value.environments.keys()).collect();
    known.sort_unstable();
    known.dedup();
    if known.contains(&environment) {
        return Ok(());
    }
    let help = if known.is_empty() {
        "`locum value set NAME TEXT --environment ENVIRONMENT` makes one".to_owned()
    } else {
        format!("there are: {}", output::list(known))
    };
    Err(Failure::usage(format!("no value is set for the environment `{environment}`")).help(help))
}
