//! A bounded set of things that were met with: those that are usual, and those that were told of.

use serde::{Deserialize, Serialize};

/// Usual things of one kind. With more than these an agent has no habit in this respect, and nothing is
/// told of it.
const KNOWN: usize = 64;

/// Things that were told of and are not usual yet. The one that was told of first makes room.
const STRANGE: usize = 16;

/// What was told of on so many days, and nobody minded, is usual: whoever wants to make a habit of
/// something is seen a week long.
const SETTLES: u8 = 7;

/// How something is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    pub(super) today: u32,
    pub(super) learning: bool,
    /// What is refused settles never.
    pub(super) refused: bool,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// As ever.
    Usual,
    /// Not as usual; to be told of, when it is for the first time today.
    Strange { tell: bool },
}

/// On how many days it was told of something, and on which last.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Told {
    on: u32,
    days: u8,
}

impl Told {
    /// Meets with the same again: what is to be said, and whether it is a habit from now on.
    pub(super) fn again(&mut self, how: How) -> (Look, bool) {
        if self.on == how.today && self.days > 0 {
            return (Look::Strange { tell: false }, false);
        }
        if self.days >= SETTLES && !how.refused {
            return (Look::Usual, true);
        }
        self.on = how.today;
        self.days = self.days.saturating_add(1).min(SETTLES);
        (Look::Strange { tell: true }, false)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Thing<T> {
    what: T,
    /// The last day on which it was met with.
    last: u32,
    /// None for what is usual.
    #[serde(skip_serializing_if = "Option::is_none", default = "none")]
    told: Option<Told>,
}

fn none() -> Option<Told> {
    None
}

/// Things of one kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Known<T> {
    things: Vec<Thing<T>>,
    /// There were more than are kept while it was learned.
    #[serde(default)]
    wide: bool,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self { things: Vec::new(), wide: false }
    }
}

impl<T> Known<T> {
    /// Looks for a thing: one that is `like` it and usual is enough, and one that is the `same` is it.
    pub(super) fn look(
        &mut self,
        how: How,
        like: impl Fn(&T) -> bool,
        same: impl Fn(&T) -> bool,
        make: impl FnOnce() -> T,
    ) -> Look {
        let wanted = |thing: &Thing<T>| match thing.told {
            // While it is learned, each is noted for itself.
            None if !how.learning => like(&thing.what),
            _ => same(&thing.what),
        };
        let Some(thing) = self.things.iter_mut().find(|thing| wanted(thing)) else {
            return self.meet(how, make);
        };
        thing.last = how.today;
        let Some(told) = &mut thing.told else { return Look::Usual };
        if how.learning {
            thing.told = None;
            return Look::Usual;
        }
        let (look, habit) = told.again(how);
        if habit {
            thing.told = None;
            self.bound();
        }
        look
    }

    fn meet(&mut self, how: How, make: impl FnOnce() -> T) -> Look {
        let last = how.today;
        if how.learning {
            if self.known().count() < KNOWN {
                self.things.push(Thing { what: make(), last, told: None });
            } else {
                self.wide = true;
            }
            return Look::Usual;
        }
        if self.wide {
            return Look::Usual;
        }
        if self.strange().count() >= STRANGE {
            let oldest = self.things.iter().position(|thing| thing.told.is_some());
            oldest.map(|at| self.things.remove(at));
        }
        let mut told = Told::default();
        let (look, _) = told.again(how);
        self.things.push(Thing { what: make(), last, told: Some(told) });
        look
    }

    /// Those that are usual.
    pub(super) fn known(&self) -> impl Iterator<Item = &T> {
        self.things.iter().filter(|thing| thing.told.is_none()).map(|thing| &thing.what)
    }

    /// Those that were told of.
    pub(super) fn strange(&self) -> impl Iterator<Item = &T> {
        self.things.iter().filter(|thing| thing.told.is_some()).map(|thing| &thing.what)
    }

    /// The first few that are usual, in words.
    pub(super) fn usual(&self, show: impl Fn(&T) -> String) -> String {
        const SHOWN: usize = 4;
        let mut text: Vec<String> = self.known().take(SHOWN).map(show).collect();
        if self.known().count() > SHOWN {
            text.push("others".to_owned());
        }
        if text.is_empty() { "none".to_owned() } else { text.join(", ") }
    }

    pub(super) fn accept(&mut self) {
        self.things.iter_mut().for_each(|thing| thing.told = None);
        self.bound();
    }

    /// What was not met with for longest makes room for what is usual now.
    fn bound(&mut self) {
        while self.known().count() > KNOWN {
            let known = self.things.iter().enumerate().filter(|(_, thing)| thing.told.is_none());
            let Some((oldest, _)) = known.min_by_key(|(_, thing)| thing.last) else { return };
            self.things.remove(oldest);
        }
    }
}
