//! What a credential is beyond where it may go and how it enters a request. The vault seals this with
//! each secret, so that a row in which it was edited does not open.

use serde::{Deserialize, Serialize};

use super::{Kind, Schedule, Source};
use crate::agent::Label;
use crate::reference::Name;

/// All that is not said of a credential is as it is by default, and takes no place in the vault.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Properties {
    /// It exists only to be missed: whoever refers to it has what no agent was given, and gets the
    /// answer to a name that does not exist.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub honeytoken: bool,
    /// Its values are tokens that an origin mints for the agent, and that a rule takes out of answers.
    /// Only into such a credential may a rule put anything.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub captured: bool,
    /// Sources of other credentials log in with it, and no request gets it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub for_sources: bool,
    /// What is made of the secret; without it, it is sent as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// The reference that it serves, beside its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serves: Option<Name>,
    /// The user whose it is, and for whom alone it is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Label>,
    /// The steps of runs for which alone it is used; all where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<Label>,
    /// How often it is taken from a pool, beside the others in it; 1 where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Where the secret lies, if not in our own vault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// How often it is to be rotated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotate: Option<Schedule>,
}

impl Properties {
    /// As the vault keeps it; nothing when there is nothing to say.
    ///
    /// # Panics
    /// Never: the fields are texts, numbers and lists of them.
    #[must_use]
    #[allow(clippy::missing_panics_doc)] // What is here has texts for its keys.
    pub fn to_text(&self) -> Option<String> {
        (*self != Self::default())
            .then(|| serde_json::to_string(self).expect("texts and numbers are JSON"))
    }

    /// What [`Properties::to_text`] wrote.
    ///
    /// # Errors
    /// When it is no JSON, or says what this version does not know.
    pub fn from_text(text: Option<&str>) -> Result<Self, serde_json::Error> {
        text.map_or_else(|| Ok(Self::default()), serde_json::from_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_as_by_default_is_not_written() {
        assert_eq!(Properties::default().to_text(), None);
        assert_eq!(Properties::from_text(None).unwrap(), Properties::default());
        let odd = Properties { honeytoken: true, ..Properties::default() };
        let text = odd.to_text().unwrap();
        assert_eq!(text, r#"{"honeytoken":true}"#);
        assert_eq!(Properties::from_text(Some(&text)).unwrap(), odd);
        assert!(Properties::from_text(Some(r#"{"later":1}"#)).is_err());
    }
}
