//! Environment values. None of them is secret.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Call, Desk, Order, Trouble};
use crate::app::{Failure, taken_names};
use crate::cli::looks_like_a_key;
use crate::credential::{Enters, Held, Value};
use crate::environment::is_variable;
use crate::reference::Name;
use crate::vault::{Vault, usual_variable};

/// The longest text: what is longer is a file.
const LONGEST: usize = 4096;

/// A value in all environments that have it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Shown {
    pub(crate) name: Name,
    pub(crate) variable: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) default: Option<Held>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) environments: BTreeMap<Name, Held>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) enters: Option<Enters>,
}

impl Shown {
    /// As the vault has it.
    pub(crate) fn value(&self) -> Value {
        Value {
            variable: self.variable.clone(),
            default: self.default.clone(),
            environments: self.environments.clone(),
            enters: self.enters.clone(),
        }
    }
}

/// All values of the workspace, by name.
pub(crate) struct ListValues;

impl Order for ListValues {
    type Answer = Vec<Shown>;

    fn call(&self) -> Result<Call, Failure> {
        Ok(Call::get("/v1/values"))
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Vec<Shown>, Trouble> {
        let shown = |(name, value): (Name, Value)| {
            let Value { variable, default, environments, enters } = value;
            Shown { name, variable, default, environments, enters }
        };
        desk.read(|vault| Ok(vault.values()?.into_iter().map(shown).collect()))
    }
}

/// What a value is, in one environment or where nothing else is said.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetValue {
    pub(crate) name: Name,
    /// A text, or `credential`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) credential: Option<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) environment: Option<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variable: Option<String>,
    /// Where its texts may enter a request; by default where they may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) enters: Option<Enters>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct HasValue {
    pub(crate) name: Name,
    pub(crate) is: Held,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) environment: Option<Name>,
    /// Whether the name refers to something else: then programs get the value as a variable alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) taken: bool,
}

impl Order for SetValue {
    type Answer = HasValue;

    fn call(&self) -> Result<Call, Failure> {
        Call::post("/v1/values", self)
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<HasValue, Trouble> {
        let Self { name, text, credential, environment, variable, enters } = self;
        let wanted = variable.clone().unwrap_or_else(|| usual_variable(&name));
        check_variable(&wanted)?;
        let (is, taken) = desk.write(|vault| {
            let held = held(vault, &name, text, credential)?;
            check_can_enter(vault, &name, &held, enters.is_some())?;
            require_free(vault, &name, &wanted)?;
            let place = (held.clone(), variable.as_deref(), enters);
            vault.value_set(&name, environment.as_ref(), place)?;
            let taken = taken_names(&vault.credentials()?, &vault.sets()?);
            Ok((held, taken.contains(&name)))
        })?;
        Ok(HasValue { name, is, environment, taken })
    }
}

/// Two values with one variable: one of them would be handed out, and nobody could say which.
fn require_free(vault: &Vault, name: &Name, variable: &str) -> Result<(), Trouble> {
    let all = vault.values()?;
    let other = |(other, value): &(&Name, &Value)| {
        *other != name && value.variable.eq_ignore_ascii_case(variable)
    };
    match all.iter().find(other) {
        Some((other, _)) => Err(Trouble::wrong(
            format!("the value {other} has the variable {variable}"),
            format!("name another with --variable, or `locum value remove {other}`"),
        )),
        None => Ok(()),
    }
}

/// What enters a request has to fit into a field.
fn check_can_enter(vault: &Vault, name: &Name, held: &Held, enters: bool) -> Result<(), Trouble> {
    let Held::Text(text) = held else {
        return if enters {
            Err(Trouble::wrong("`enters` is for texts", "a credential says itself where it goes"))
        } else {
            Ok(())
        };
    };
    let enters = enters || vault.values()?.get(name).is_some_and(|value| value.enters.is_some());
    if enters && !text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        let what = format!("{name}: what enters a request is printable ASCII");
        return Err(Failure::usage(what).into());
    }
    Ok(())
}

fn held(
    vault: &Vault,
    name: &Name,
    text: Option<String>,
    credential: Option<Name>,
) -> Result<Held, Trouble> {
    if let Some(credential) = credential {
        if text.is_some() {
            return Err(Trouble::wrong("a value is a text or a credential", "give one of them"));
        }
        let known = vault.credentials()?.iter().any(|one| {
            one.name == credential || one.properties.serves.as_ref() == Some(&credential)
        });
        return if known {
            Ok(Held::Credential(credential))
        } else {
            Err(Trouble::wrong(
                format!("there is no credential `{credential}`"),
                "`locum credential list` shows them",
            ))
        };
    }
    let text = text.unwrap_or_default();
    if text.is_empty() || text.len() > LONGEST || text.chars().any(char::is_control) {
        let what = format!("{name}: a value is one line of 1 to {LONGEST} bytes");
        return Err(Failure::usage(what).into());
    }
    if let Some(kind) = looks_like_a_key(&text) {
        return Err(Trouble::wrong(
            format!("what {name} is to be looks like a secret: {kind}"),
            "make it a credential with `locum credential add`, and name that with --credential; the text is in your shell's history now",
        ));
    }
    Ok(Held::Text(text))
}

fn check_variable(variable: &str) -> Result<(), Trouble> {
    if is_variable(variable) {
        return Ok(());
    }
    Err(Trouble::wrong(
        format!("`{variable}` cannot be set"),
        "a variable's name has letters, digits and `_`, and is none that leads programs to the proxy",
    ))
}

/// Takes a value away, or what it is in one environment.
pub(crate) struct RemoveValue {
    pub(crate) name: Name,
    pub(crate) from: Place,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Place {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) environment: Option<Name>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct RemovedValue {
    pub(crate) name: Name,
    pub(crate) removed: bool,
}

impl Order for RemoveValue {
    type Answer = RemovedValue;

    fn call(&self) -> Result<Call, Failure> {
        Call::post(format!("/v1/values/{}/remove", self.name), &self.from)
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<RemovedValue, Trouble> {
        desk.write(|vault| Ok(vault.value_remove(&self.name, self.from.environment.as_ref())?))?;
        Ok(RemovedValue { name: self.name, removed: true })
    }
}
