//! Environment values: settings by name and environment, each a text or what stands for a credential. A
//! value is referred to as a credential is, and leads to what it is in the environment of the caller.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Chain, Credential, CredentialIndex, Part, Properties, Slot, Tier};
use crate::host::Destination;
use crate::reference::Name;

/// One setting, in all environments that have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Value {
    /// The variable in which programs find it.
    pub variable: String,
    /// What it is where the environment has none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Held>,
    /// What it is in each environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environments: BTreeMap<Name, Held>,
    /// Where its texts may enter a request; nowhere without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enters: Option<Enters>,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Held {
    /// This text.
    Text(String),
    /// What stands for a credential.
    Credential(Name),
}

/// Where a text may enter a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "EntersTexts", into = "EntersTexts")]
pub struct Enters {
    /// The destinations.
    pub to: Vec<Destination>,
    /// The places, in order of preference.
    pub slots: Vec<Slot>,
}

/// The same as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntersTexts {
    to: Vec<String>,
    slots: Vec<String>,
}

impl From<Enters> for EntersTexts {
    fn from(enters: Enters) -> Self {
        Self {
            to: enters.to.iter().map(ToString::to_string).collect(),
            slots: enters.slots.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<EntersTexts> for Enters {
    type Error = &'static str;

    fn try_from(texts: EntersTexts) -> Result<Self, Self::Error> {
        let to = texts.to.iter().map(|text| text.parse()).collect::<Result<_, _>>();
        let slots = texts.slots.iter().map(|text| text.parse()).collect::<Result<_, _>>();
        Ok(Self {
            to: to.map_err(|_| "a destination is none")?,
            slots: slots.map_err(|_| "a slot is none")?,
        })
    }
}

impl Value {
    /// What it is in an environment; in none, what it is where nothing else is said.
    #[must_use]
    pub fn within(&self, environment: Option<&Name>) -> Option<&Held> {
        let own = environment.and_then(|environment| self.environments.get(environment));
        own.or(self.default.as_ref())
    }

    /// The references to credentials that it is, in any environment.
    pub fn credentials(&self) -> impl Iterator<Item = &Name> {
        self.default.iter().chain(self.environments.values()).filter_map(|held| match held {
            Held::Credential(reference) => Some(reference),
            Held::Text(_) => None,
        })
    }
}

/// All settings of a workspace.
pub type Values = BTreeMap<Name, Value>;

/// What a value leads to, by environment.
#[derive(Debug)]
pub struct ByEnvironment {
    default: Option<Chain>,
    environments: HashMap<Name, Chain>,
}

impl ByEnvironment {
    /// In one environment, or in none. One that has its own has nothing else, also where its own cannot be
    /// used: what is meant for one environment is not to stand in for another's.
    pub(super) fn within(&self, environment: Option<&Name>) -> Option<&Chain> {
        let own = environment.and_then(|environment| self.environments.get(environment));
        own.or(self.default.as_ref())
    }
}

/// Whose values are meant.
#[derive(Clone, Copy, Debug)]
pub enum Within<'e> {
    /// Those of all environments.
    Any,
    /// Those of this one, or of none.
    One(Option<&'e Name>),
}

impl CredentialIndex {
    /// The same with the values of its workspace. A name that a credential, what serves a reference or a
    /// set has is theirs: such a value is handed to programs, and nothing refers to it.
    #[must_use]
    pub fn with_values(mut self, workspace: &Name, values: &Values) -> Self {
        for (name, value) in values {
            if self.referred(name.as_str()).is_none() && self.set(name.as_str()).is_none() {
                self.insert_value((workspace, name), value);
            }
        }
        self
    }

    fn insert_value(&mut self, (workspace, name): (&Name, &Name), value: &Value) {
        let credentials = self.behind(value);
        let texts: HashSet<Arc<str>> = credentials
            .iter()
            .filter_map(|one| one.stand_in_for(name).map(Into::into))
            .chain([name.reference().into()])
            .collect();
        let mut all: Vec<Arc<Credential>> = Vec::new();
        let mut chain = |held: &Held| {
            let members: Vec<Arc<Credential>> = match held {
                Held::Text(text) => {
                    let enters = value.enters.iter();
                    enters
                        .map(|at| Arc::new(Credential::text((workspace, name), text, at)))
                        .collect()
                }
                Held::Credential(reference) => {
                    let members = self.serving(reference);
                    members.map(|one| Arc::new(one.as_held(name, &texts))).collect()
                }
            };
            all.extend(members.iter().cloned());
            Chain::of(&members)
        };
        let default = value.default.as_ref().map(&mut chain);
        let environments = value.environments.iter();
        let environments =
            environments.map(|(environment, held)| (environment.clone(), chain(held))).collect();
        if all.is_empty() {
            return;
        }
        let by_environment = ByEnvironment { default, environments };
        let face = Credential::face(name, &all);
        let face = Arc::new(Credential { part: Part::Value(by_environment), ..face });
        for text in texts {
            // A credential's own stand-in is its own.
            self.by_stand_in.entry(text).or_insert_with(|| Arc::clone(&face));
        }
        self.insert_places(&face);
        self.faces.insert(name.clone(), face);
    }

    /// The credentials that a value leads to in any environment.
    fn behind(&self, value: &Value) -> Vec<Arc<Credential>> {
        value.credentials().flat_map(|reference| self.serving(reference)).cloned().collect()
    }

    /// What a reference leads to. Baits, and what is for sources, are nobody's values.
    fn serving(&self, reference: &Name) -> impl Iterator<Item = &Arc<Credential>> {
        let face = self.faces.get(reference).filter(|face| !face.is_value());
        let face = face.and_then(|face| face.chain_in(None));
        let alone = if face.is_none() { self.get(reference.as_str()) } else { None };
        let all = face.into_iter().flat_map(Chain::members).chain(alone);
        all.filter(|one| !one.properties.honeytoken && !one.properties.for_sources)
    }

    /// A credential of that name, as it is used: by its own reference or by a value's.
    #[must_use]
    pub fn used(
        &self,
        name: &Name,
        value: Option<&Name>,
        environment: Option<&Name>,
    ) -> Option<&Arc<Credential>> {
        match value {
            None => self.get(name.as_str()),
            Some(value) => {
                self.held(value.as_str(), Within::One(environment)).find(|one| one.name == *name)
            }
        }
    }

    /// What a value of that name leads to.
    pub fn held(&self, name: &str, within: Within<'_>) -> impl Iterator<Item = &Arc<Credential>> {
        let value = match self.faces.get(name).map(|face| &face.part) {
            Some(Part::Value(value)) => Some(value),
            _ => None,
        };
        let (one, all) = match (value, within) {
            (Some(value), Within::One(environment)) => (value.within(environment), None),
            (Some(value), Within::Any) => (value.default.as_ref(), Some(value)),
            (None, _) => (None, None),
        };
        let all = all.into_iter().flat_map(|value| value.environments.values());
        one.into_iter().chain(all).flat_map(Chain::members)
    }
}

impl Credential {
    /// This credential as what a value stands for.
    fn as_held(&self, value: &Name, texts: &HashSet<Arc<str>>) -> Self {
        let own: &[Arc<str>] = match &self.part {
            Part::Server(own) => own,
            _ => &[],
        };
        Self {
            workspace: self.workspace.clone(),
            name: self.name.clone(),
            provider: self.provider.clone(),
            tier: self.tier,
            destinations: self.destinations.clone(),
            slots: self.slots.clone(),
            stand_in: self.stand_in.clone(),
            version: self.version,
            older: self.older.clone(),
            revoked: self.revoked.clone(),
            newest: self.newest,
            properties: self.properties.clone(),
            part: Part::Held {
                value: value.clone(),
                texts: texts.iter().chain(own).cloned().collect(),
            },
        }
    }

    /// A text as what a value stands for. It has no version: it is what it is.
    fn text((workspace, name): (&Name, &Name), text: &str, enters: &Enters) -> Self {
        Self {
            workspace: workspace.clone(),
            name: name.clone(),
            provider: None,
            tier: Tier::default(),
            destinations: enters.to.as_slice().into(),
            slots: enters.slots.as_slice().into(),
            stand_in: None,
            version: Some(0),
            older: Box::default(),
            revoked: Box::default(),
            newest: 1,
            properties: Properties::default(),
            part: Part::Text(text.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::tests::credential;
    use crate::host::{Authority, Host, Origin, Scheme};

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn values(json: &str) -> Values {
        serde_json::from_str(json).unwrap()
    }

    fn index(json: &str) -> CredentialIndex {
        let new = |name: &str, host: &str| credential(name, &[host], &["header x-key: {secret}"]);
        let mut live = new("live", "https://api.test");
        live.stand_in = Some("sk-locum_live-0000".into());
        let all = vec![live, new("test", "https://sandbox.test"), new("taken", "https://api.test")];
        let sets = [(name("both"), vec![name("live"), name("test")])].into();
        CredentialIndex::new(all, sets).with_values(&name("default"), &values(json))
    }

    fn names<'c>(all: impl Iterator<Item = &'c Arc<Credential>>) -> Vec<&'c str> {
        all.map(|one| one.name.as_str()).collect()
    }

    const PAY: &str = r#"{"pay":{"variable":"PAY","default":{"credential":"test"},
        "environments":{"prod":{"credential":"live"},"gone":{"credential":"none"}}}}"#;

    #[test]
    fn a_value_leads_to_what_it_is_in_the_environment_and_to_nothing_else() {
        let index = index(PAY);
        let face = index.named_by(b"locum_pay").unwrap();
        assert!(index.get("pay").is_none() && face.name == name("pay"));
        let held = |environment: Option<&str>| {
            let environment = environment.map(name);
            names(index.held("pay", Within::One(environment.as_ref())))
        };
        assert_eq!((held(None), held(Some("prod"))), (vec!["test"], vec!["live"]));
        assert_eq!(held(Some("staging")), ["test"], "it has none of its own");
        assert!(held(Some("gone")).is_empty(), "what is its own is gone");
        let mut all = names(index.held("pay", Within::Any));
        all.sort_unstable();
        assert_eq!(all, ["live", "test"]);
        // In the shape of the keys that it stands for.
        assert_eq!(index.named_by(b"sk-locum_pay-0000").unwrap().name, name("pay"));
        assert_eq!(index.named_by(b"sk-locum_live-0000").unwrap().name, name("live"));
        let live = index.held("pay", Within::One(Some(&name("prod")))).next().unwrap();
        for text in ["locum_pay", "sk-locum_pay-0000", "locum_live", "sk-locum_live-0000"] {
            assert!(live.is_named_by(text.as_bytes()), "{text}");
        }
        assert!(!live.is_named_by(b"locum_test"));
        let own: Vec<&str> = live.names().map(Name::as_str).collect();
        assert_eq!(own, ["live", "pay"]);
    }

    #[test]
    fn the_names_of_credentials_and_sets_are_theirs() {
        let all = r#"{"taken":{"variable":"A","default":{"credential":"test"}},
            "both":{"variable":"B","default":{"credential":"test"}},
            "plain":{"variable":"C","default":{"text":"x"}}}"#;
        let index = index(all);
        assert!(index.referred("taken").unwrap().chain_in(None).is_none());
        assert!(index.referred("both").is_none());
        assert!(index.referred("plain").is_none(), "it may enter nowhere");
    }

    #[test]
    fn a_text_enters_where_it_is_said_to() {
        let index = index(
            r#"{"account":{"variable":"A","default":{"text":"acct_1"},
                "enters":{"to":["https://pay.test"],"slots":["header pay-account: {secret}"]}}}"#,
        );
        let at = |host: &str| Origin {
            scheme: Scheme::Https,
            authority: Authority { host: Host::parse(host).unwrap(), port: 443 },
        };
        assert_eq!(index.concerned(&at("pay.test")).count(), 1);
        assert!(index.concerned(&at("api.test")).all(|one| !one.is_value()));
        // The origin is none of a credential's.
        assert_eq!(index.bound_to(&at("pay.test")).count(), 0);
        assert!(index.is_slot_header(&"pay-account".parse().unwrap()));
        let text = index.held("account", Within::One(None)).next().unwrap();
        assert!(text.as_text() == Some("acct_1") && text.is_named_by(b"locum_account"));
    }

    #[test]
    fn it_reads_back_as_it_is_written() {
        let text = r#"{"variable":"A","default":{"text":"x"},"environments":{"prod":{"credential":"live"}},"enters":{"to":["https://pay.test"],"slots":["query a"]}}"#;
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&value).unwrap(), text);
        for wrong in [text.replace("query a", "quary a"), text.replace("slots", "slits")] {
            assert!(serde_json::from_str::<Value>(&wrong).is_err(), "{wrong}");
        }
    }
}
