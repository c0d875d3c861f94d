//! Several credentials behind one reference: whose is asked first, and which of those that are equal.
//!
//! What serves a reference is settled when the vault is read. A reference that one credential serves,
//! its own, has none of this.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

use super::{Credential, Properties};
use crate::agent::Label;
use crate::reference::Name;

/// Whose credential it is. Where several could serve, the order here is the order of asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// The person's on whose behalf an agent runs.
    User,
    /// The one's who built the agent.
    Builder,
    /// The platform's.
    #[default]
    Platform,
}

impl Tier {
    /// `user`, `builder` or `platform`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Builder => "builder",
            Self::Platform => "platform",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text is not a [`Tier`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierError;

impl fmt::Display for TierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tier is user, builder or platform")
    }
}

impl std::error::Error for TierError {}

impl FromStr for Tier {
    type Err = TierError;

    fn from_str(text: &str) -> Result<Self, TierError> {
        let all = [Self::User, Self::Builder, Self::Platform];
        all.into_iter().find(|t| t.as_str() == text).ok_or(TierError)
    }
}

/// The heaviest weight in a pool. Beyond a hundred to one the lighter one might as well not be there.
pub const MAX_WEIGHT: u32 = 100;

/// All that serve one reference, in the order of asking.
#[derive(Debug)]
pub struct Chain(pub(super) Box<[Group]>);

/// Credentials that are equal: of one tier, one owner, and for the same steps. More than one are a
/// pool.
#[derive(Debug)]
pub struct Group {
    tier: Tier,
    owner: Option<Label>,
    nodes: Box<[Label]>,
    members: Box<[Arc<Credential>]>,
    /// Whose turn it is.
    turn: AtomicU32,
}

impl Chain {
    /// Of what serves a reference.
    pub(super) fn of(members: &[Arc<Credential>]) -> Self {
        type Key = (Tier, bool, bool, Vec<String>, Option<String>);
        let mut groups: BTreeMap<Key, Vec<Arc<Credential>>> = BTreeMap::new();
        for member in members {
            let Properties { owner, nodes, .. } = &member.properties;
            let nodes: Vec<String> = nodes.iter().map(|n| n.as_str().to_owned()).collect();
            let name = owner.as_ref().map(|owner| owner.as_str().to_owned());
            // Within a tier the more particular is asked before the more general.
            let key = (member.tier, owner.is_none(), nodes.is_empty(), nodes, name);
            groups.entry(key).or_default().push(Arc::clone(member));
        }
        Self(groups.into_values().filter_map(Group::of).collect())
    }

    /// All of them.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.0
    }

    /// The credentials of all of them.
    pub fn members(&self) -> impl Iterator<Item = &Arc<Credential>> {
        self.0.iter().flat_map(Group::members)
    }
}

/// Whether what is for `nodes` is for this step.
pub(super) fn is_for_node(nodes: &[Label], node: Option<&Label>) -> bool {
    nodes.is_empty() || node.is_some_and(|node| nodes.contains(node))
}

impl Group {
    fn of(mut members: Vec<Arc<Credential>>) -> Option<Self> {
        members.sort_by(|a, b| a.name.cmp(&b.name));
        let first = members.first()?;
        let Properties { owner, nodes, .. } = &first.properties;
        Some(Self {
            tier: first.tier,
            owner: owner.clone(),
            nodes: nodes.as_slice().into(),
            turn: AtomicU32::new(0),
            members: members.into(),
        })
    }

    /// Whether they are for this step, and for the user of whom `is_for` is true.
    #[must_use]
    pub fn is_for(&self, node: Option<&Label>, is_for: impl Fn(&Label) -> bool) -> bool {
        self.owner.as_ref().is_none_or(is_for) && is_for_node(&self.nodes, node)
    }

    /// Whose they are.
    #[must_use]
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Whether they are for some steps only.
    #[must_use]
    pub fn is_for_nodes(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// The credentials, by name.
    #[must_use]
    pub fn members(&self) -> &[Arc<Credential>] {
        &self.members
    }

    /// A number that goes up by one each time.
    #[must_use]
    pub fn turn(&self) -> u32 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}

/// Which of `weights` has the turn of this number: each as often as it weighs, and evenly spread.
#[must_use]
pub fn by_weight(weights: &[u32], turn: u32) -> usize {
    let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    if total == 0 {
        return 0;
    }
    // A step that shares no factor with the total visits every place before one comes again, and
    // neighbours in turn are far apart.
    let step = (1..=total).rev().find(|step| gcd(*step, total) == 1 && *step * 5 < total * 4);
    let mut place = u64::from(turn) * step.unwrap_or(1) % total;
    for (nth, weight) in weights.iter().enumerate() {
        match place.checked_sub(u64::from(*weight)) {
            Some(left) => place = left,
            None => return nth,
        }
    }
    0
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Credential {
    /// The reference that it serves beside its own, or in its place.
    #[must_use]
    pub fn serves(&self) -> &Name {
        self.properties.serves.as_ref().unwrap_or(&self.name)
    }

    /// Whether a reference to itself may be honoured for this step, and for the user of whom `is_for`
    /// is true.
    #[must_use]
    pub fn is_for(&self, node: Option<&Label>, is_for: impl Fn(&Label) -> bool) -> bool {
        self.properties.owner.as_ref().is_none_or(is_for)
            && is_for_node(&self.properties.nodes, node)
    }

    /// What stands for the secret in a pool.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.properties.weight.unwrap_or(1)
    }

    /// A reference in the shape of the provider's keys, for another name.
    #[must_use]
    pub fn stand_in_for(&self, name: &Name) -> Option<String> {
        stand_in_for((&self.name, self.stand_in.as_deref()?), name)
    }
}

/// The stand-in of one name as that of another.
#[must_use]
pub fn stand_in_for((own, stand_in): (&Name, &str), name: &Name) -> Option<String> {
    let own = own.reference();
    stand_in.contains(&own).then(|| stand_in.replace(&own, &name.reference()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::tests::credential;

    fn label(text: &str) -> Label {
        text.parse().unwrap()
    }

    fn serving(name: &str, tier: Tier, owner: Option<&str>, nodes: &[&str]) -> Arc<Credential> {
        let mut new = credential(name, &["https://api.test"], &["query key"]);
        new.tier = tier;
        new.properties.owner = owner.map(label);
        new.properties.nodes = nodes.iter().map(|node| label(node)).collect();
        Arc::new(new)
    }

    #[test]
    fn the_order_is_user_builder_platform_and_the_particular_first() {
        let chain = Chain::of(&[
            serving("p1", Tier::Platform, None, &[]),
            serving("p2", Tier::Platform, None, &[]),
            serving("pn", Tier::Platform, None, &["writer"]),
            serving("b", Tier::Builder, None, &[]),
            serving("alice", Tier::User, Some("alice"), &[]),
            serving("alice-writer", Tier::User, Some("alice"), &["writer"]),
            serving("bob", Tier::User, Some("bob"), &[]),
        ]);
        let asked = |node: Option<&str>, user: Option<&str>| {
            let node = node.map(label);
            let is_for = |owner: &Label| user.is_some_and(|user| user == owner.as_str());
            let groups = chain.groups().iter().filter(|group| group.is_for(node.as_ref(), is_for));
            let names = |group: &Group| {
                let names: Vec<_> = group.members().iter().map(|m| m.name.to_string()).collect();
                names.join("+")
            };
            groups.map(names).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(asked(None, None), "b p1+p2");
        assert_eq!(asked(Some("writer"), None), "b pn p1+p2");
        assert_eq!(asked(Some("writer"), Some("alice")), "alice-writer alice b pn p1+p2");
        assert_eq!(asked(Some("reader"), Some("bob")), "bob b p1+p2");
    }

    #[test]
    fn turns_are_taken_as_often_as_the_weight_says() {
        for weights in [&[1][..], &[1, 1], &[3, 1], &[100, 1, 1], &[2, 3, 5], &[7, 7, 7]] {
            let total: u32 = weights.iter().sum();
            let mut counts = vec![0; weights.len()];
            for turn in 0..total * 3 {
                counts[by_weight(weights, turn)] += 1;
            }
            let thrice: Vec<u32> = weights.iter().map(|w| w * 3).collect();
            assert_eq!(counts, thrice, "{weights:?}");
        }
        assert_eq!(by_weight(&[], 7), 0);
    }
}
