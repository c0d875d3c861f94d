//! Reminders of credentials that are to be rotated: in the log and the audit log, fourteen days ahead, three days
//! ahead (of short intervals in their last half and tenth), and each day from the day on; and as metrics, for alerts.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::credential::Stage;
use crate::metrics::Due;
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
            let stage = one.schedule.stage(one.rotated, now);
            let (before, at) = self.told.get(&one.name).copied().unwrap_or((Stage::Far, now));
            let again = stage == Stage::Over && now.saturating_sub(at) >= AGAIN;
            if stage != before || again {
                self.told.insert(one.name.clone(), (stage, now));
            }
            if stage > before || again {
                let text = text(one.schedule.due(one.rotated), one.rotated, now);
                reminders.push(Reminder { credential: one.name.clone(), stage, text });
            }
        }
        reminders
    }

    /// When each is due, and from when on that is told.
    pub(super) fn dates(&self) -> Vec<Due> {
        let date = |one: &Scheduled| Due {
            credential: one.name.to_string(),
            at: one.schedule.due(one.rotated),
            told_from: one.schedule.told_from(one.rotated),
        };
        self.scheduled.iter().map(date).collect()
    }
}

fn text(due: i64, rotated: i64, now: i64) -> String {
    let age = lasting(now.saturating_sub(rotated));
    match due.saturating_sub(now) {
        left @ 1.. => format!("due in {}; its secret is {age} old", lasting(left)),
        over => format!("due {} ago; its secret is {age} old", lasting(over.saturating_neg())),
    }
}

/// How long, as people say it: whole days, or hours, or minutes of what is shorter.
fn lasting(seconds: i64) -> String {
    let all = [(24 * 60 * 60, "day"), (60 * 60, "hour"), (60, "minute")];
    let fits = all.into_iter().find(|(unit, _)| seconds >= *unit);
    match fits.map_or((0, "minute"), |(unit, name)| (seconds / unit, name)) {
        (1, name) => format!("1 {name}"),
        (count, name) => format!("{count} {name}s"),
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

    fn scheduled_every(days: u32, rotated: i64) -> Vec<Scheduled> {
        vec![Scheduled { name: "openai".parse().unwrap(), rotated, schedule: Schedule::Days(days) }]
    }

    fn scheduled(rotated: i64) -> Vec<Scheduled> {
        scheduled_every(30, rotated)
    }

    /// What is said, of a look each hour for so many days: after how many hours, which event, and what.
    fn said(every: u32, days: i64) -> Vec<(i64, &'static str, String)> {
        let mut reminders = Reminders::default();
        reminders.follow(scheduled_every(every, 0));
        let mut said = Vec::new();
        for hour in 0..days * 24 {
            let now = reminders.due(hour * 3600);
            said.extend(now.into_iter().map(|one| (hour, one.event(), one.text)));
        }
        said
    }

    #[test]
    fn reminders_escalate_and_do_not_repeat_themselves() {
        let said = said(30, 33);
        let days: Vec<_> = said.iter().map(|(hour, event, _)| (hour / 24, *event)).collect();
        let (due, over) = ("rotation-due", "rotation-overdue");
        assert_eq!(days, [(16, due), (27, due), (30, over), (31, over), (32, over)]);
        assert_eq!(said[0].2, "due in 14 days; its secret is 16 days old");
        assert_eq!(said[3].2, "due 1 day ago; its secret is 31 days old");
    }

    #[test]
    fn a_short_interval_is_reminded_of_in_its_own_measure_and_not_at_once() {
        let (due, over) = ("rotation-due", "rotation-overdue");
        let hours = |said: &[(i64, &'static str, String)]| -> Vec<_> {
            said.iter().map(|(hour, event, _)| (*hour, *event)).collect()
        };
        let one = said(1, 2);
        assert_eq!(hours(&one), [(12, due), (22, due), (24, over)]);
        assert_eq!(one[0].2, "due in 12 hours; its secret is 12 hours old");
        assert_eq!(one[1].2, "due in 2 hours; its secret is 22 hours old");
        assert_eq!(one[2].2, "due 0 minutes ago; its secret is 1 day old");
        let seven = said(7, 8);
        assert_eq!(hours(&seven), [(84, due), (152, due), (168, over)]);
        assert_eq!(seven[1].2, "due in 16 hours; its secret is 6 days old");
        let fourteen = said(14, 15);
        assert_eq!(hours(&fourteen), [(168, due), (303, due), (336, over)]);
    }

    #[test]
    fn a_rotation_takes_it_back() {
        let mut reminders = Reminders::default();
        reminders.follow(scheduled(0));
        assert_eq!(reminders.due(31 * DAY).len(), 1);
        reminders.follow(scheduled(31 * DAY));
        assert_eq!(reminders.due(31 * DAY), []);
        let credential = "openai".to_owned();
        assert_eq!(reminders.dates(), [Due { credential, at: 61 * DAY, told_from: 47 * DAY }]);
        assert_eq!(reminders.due(62 * DAY).len(), 1, "and the next time is another");
        reminders.follow(Vec::new());
        assert_eq!(reminders.due(90 * DAY), []);
    }
}
