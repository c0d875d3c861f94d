//! Who may use which credential where: the compiled policy and its decision.
//!
//! Everything is decided on what goes on the wire, per request. What no rule allows is refused. A
//! [`Permit`] is the only way on, and [`Policy::authorize`] the only way to one.

mod approval;
mod bodies;
mod candidates;
mod capture;
mod cases;
mod choice;
mod compile;
mod conditions;
mod decide;
mod diff;
mod explain;
mod learn;
mod limits;
mod line;
mod lint;
mod path;
mod permit;
mod read;
mod retry;
mod rule;
mod standing;
mod text;
mod tunnel;
mod verdict;
mod when;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub use approval::Approval;
pub use capture::Capture;
pub use cases::{
    Answer, Case, Expected, Given, Inquiry, Referred, Wish, WishError, Word, supposed,
};
pub use choice::Alternative;
pub use compile::{
    Compiled, FIRST_POLICY, ORGANISATION, SCHEMA, STRICT_POLICY, compile, compile_all,
};
pub use decide::{Question, Shadow};
pub use diff::{Change, Combination, Diff};
pub use explain::{Explanation, Verdict as RuleVerdict};
pub use learn::{Act, Learned, Learner, Lesson, Observed};
pub use limits::{Limits, Met, Meters, Per, Queue, Rate, RateError, Ticket, Waiting};
pub use lint::{Around, Has, Lint, LintKind};
pub use path::{PathError, PathPattern};
pub use permit::{Grant, Permit, Timeouts};
pub use retry::{Cause, Causes, Retry};
pub use rule::Check;
pub use standing::Standing;
pub use text::{TextError, TextPattern};
pub use tunnel::TunnelDecision;

use candidates::Candidates;
use limits::Meter;
use rule::{Agents, Place, Rule, Uses};

use crate::agent::Identity;
use crate::credential::CredentialIndex;
use crate::document::Position;
use crate::host::Origin;
use crate::reference::Name;

/// All rules in force, ready to decide.
#[derive(Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    candidates: Candidates,
    /// Whether any rule is only recorded.
    shadows: bool,
    /// Whether the organisation's rules bound what others allow: those in force, and with those that
    /// are only recorded.
    bounded: (bool, bool),
    files: Vec<Arc<str>>,
    groups: Vec<Group>,
    digest: String,
}

/// A name for agents, and where it is given.
#[derive(Debug)]
struct Group {
    name: Box<str>,
    place: Place,
    /// Whether some group has a member of that name, which is an agent.
    is_member: bool,
}

fn sorted(names: &HashSet<Name>) -> Vec<&Name> {
    let mut names: Vec<&Name> = names.iter().collect();
    names.sort_unstable();
    names
}

impl Policy {
    fn new(rules: Vec<Rule>, (files, groups): (Vec<Arc<str>>, Vec<Group>), digest: String) -> Self {
        let bounds =
            |shadows| rules.iter().any(|r| r.organisation && !r.deny && (shadows || !r.shadow));
        Self {
            candidates: Candidates::of(&rules),
            shadows: rules.iter().any(|rule| rule.shadow),
            bounded: (bounds(false), bounds(true)),
            files,
            groups,
            digest,
            rules,
        }
    }

    /// Goes on counting where `old` was, for each rule that has the same name and the same limits
    /// in both: a reload gives nobody a fresh allowance.
    pub fn take_over(&mut self, old: &Self) {
        let counted = |rule: &&Rule| rule.meter.is_some();
        if !self.rules.iter().any(|rule| counted(&rule)) {
            return;
        }
        let before: HashMap<&str, &Arc<Meter>> =
            old.rules.iter().filter_map(|rule| Some((&*rule.name, rule.meter.as_ref()?))).collect();
        for rule in &mut self.rules {
            let Some(meter) = &mut rule.meter else { continue };
            if let Some(old) = before.get(&*rule.name).filter(|o| o.limits() == meter.limits()) {
                *meter = Arc::clone(old);
            }
        }
    }

    /// The first eight bytes, in hex, of the SHA-256 of the policy's files.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The file of a rule, as its source is named, and where in it the rule begins.
    #[must_use]
    pub fn place(&self, rule: &str) -> Option<(&str, Position)> {
        let place = self.rules.iter().find(|r| *r.name == *rule)?.place;
        Some((self.files.get(place.file as usize)?, place.at))
    }

    /// The file of a test, and where in it the test begins.
    #[must_use]
    pub fn place_of(&self, case: &Case) -> (&str, Position) {
        (self.files.get(case.place.file as usize).map_or("", |file| file), case.place.at)
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is no rule, and so nothing is allowed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules that allow and have one of these names in them, or name no credential: each with its
    /// agents as it names them.
    #[must_use]
    pub fn users_of(&self, names: &[&Name]) -> Vec<(&str, Vec<String>)> {
        let allows =
            |rule: &&Rule| !rule.deny && !rule.shadow && !rule.organisation && !rule.opaque;
        let named = |rule: &&Rule| match &rule.uses {
            Uses::All => true,
            Uses::Named(uses) => names.iter().any(|name| uses.contains(*name)),
        };
        let agents = |rule: &Rule| match &rule.agents {
            Agents::Any => vec!["any agent".to_owned()],
            Agents::Some { names, labelled } => {
                let names = sorted(names).into_iter().map(ToString::to_string);
                names.chain((!labelled.is_empty()).then(|| "agents by label".to_owned())).collect()
            }
        };
        let rules = self.rules.iter().filter(allows).filter(named);
        rules.map(|rule| (&*rule.name, agents(rule))).collect()
    }

    /// The rules that may match, in the order of the document.
    fn candidates<'p>(
        &'p self,
        who: &Identity,
        origin: &Origin,
        index: &CredentialIndex,
    ) -> impl Iterator<Item = (u32, &'p Rule)> {
        let found = self.candidates.find(who, origin, index);
        found.filter_map(|at| Some((at, self.rules.get(at as usize)?)))
    }
}

#[cfg(test)]
pub(crate) mod tests;
