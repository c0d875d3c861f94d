//! Reminders of credentials that are to be rotated: in the log and the audit log, fourteen days ahead,
//! three days ahead, and each day from the day on; and as a metric, for alerts.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::credential::{Stage, days_between};
use crate::reference::Name;
use crate::vault::Scheduled;

/// How often somebody is told who was told already that a credential is overdue, in seconds.
const AGAIN: i64 = 24 * 60 * 60;

/// What is due when, and who was told.
#[derive(Debug, Default)]
pub(super) struct Reminders {
    scheduled: Vec<Scheduled>,
    /// What was said last of each, and when.
    told: HashMap<Name, (Stage, i64)>,
}

/// One that is to be told now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reminder {
    pub(super) credential: Name,
    pub(super) stage: Stage,
    /// What there is to say.
    pub(super) text: String,
}

impl Reminder {
    /// Its event in the audit log.
    pub(super) fn event(&self) -> &'static str {
        match self.stage {
            Stage::Over => "rotation-overdue",
            Stage::Far | Stage::Soon | Stage::Near => "rotation-due",
        }
    }
}

impl Reminders {
    /// Takes what the vault says now.
    pub(super) fn follow(&mut self, scheduled: Vec<Scheduled>) {
        self.told.retain(|name, _| scheduled.iter().any(|one| one.name == *name));
        self.scheduled = scheduled;
    }

    /// Those of which something new is to be said. A rotation takes back what was said before.
    pub(super) fn due(&mut self, now: i64) -> Vec<Reminder> {
        let mut reminders = Vec::new();
        for one in &self.scheduled {
            let due = one.schedule.due(one.rotated);
            let stage = Stage::of(due, now);
            let (before, at) = self.told.get(&one.name).copied().unwrap_or((Stage::Far, now));
            let again = stage == Stage::Over && now.saturating_sub(at) >= AGAIN;
            if stage != before || again {
                self.told.insert(one.name.clone(), (stage, now));
            }
            if stage > before || again {
                let text = text(stage, due, now, days_between(one.rotated, now));
                reminders.push(Reminder { credential: one.name.clone(), stage, text });
            }
        }
        reminders
    }

    /// When each is due, in seconds since the Unix epoch.
    pub(super) fn dates(&self) -> Vec<(String, i64)> {
        let date = |one: &Scheduled| (one.name.to_string(), one.schedule.due(one.rotated));
        self.scheduled.iter().map(date).collect()
    }
}

fn text(stage: Stage, due: i64, now: i64, age: i64) -> String {
    match stage {
        Stage::Over => {
            format!("due {} days ago; its secret is {age} days old", days_between(due, now))
        }
        _ => format!("due in {} days; its secret is {age} days old", days_between(now, due)),
    }
}

/// Seconds since the Unix epoch.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Schedule;

    const DAY: i64 = 24 * 60 * 60;

    fn scheduled(rotated: i64) -> Vec<Scheduled> {
        vec![Scheduled { name: "openai".parse().unwrap(), rotated, schedule: Schedule::Days(30) }]
    }

    #[test]
    fn reminders_escalate_and_do_not_repeat_themselves() {
        let mut reminders = Reminders::default();
        reminders.follow(scheduled(0));
        let mut said = Vec::new();
        // A look each hour, for 33 days.
        for hour in 0..33 * 24 {
            let now = reminders.due(hour * 3600);
            said.extend(now.into_iter().map(|one| (hour / 24, one.event(), one.text)));
        }
        let days: Vec<_> = said.iter().map(|(day, event, _)| (*day, *event)).collect();
        let (due, over) = ("rotation-due", "rotation-overdue");
        assert_eq!(days, [(16, due), (27, due), (30, over), (31, over), (32, over)]);
        assert_eq!(said[0].2, "due in 14 days; its secret is 16 days old");
        assert_eq!(said[3].2, "due 1 days ago; its secret is 31 days old");
    }

    #[test]
    fn a_rotation_takes_it_back() {
        let mut reminders = Reminders::default();
        reminders.follow(scheduled(0));
        assert_eq!(reminders.due(31 * DAY).len(), 1);
        reminders.follow(scheduled(31 * DAY));
        assert_eq!(reminders.due(31 * DAY), []);
        assert_eq!(reminders.dates(), [("openai".to_owned(), 61 * DAY)]);
        assert_eq!(reminders.due(62 * DAY).len(), 1, "and the next time is another");
        reminders.follow(Vec::new());
        assert_eq!(reminders.due(90 * DAY), []);
    }
}
