//! Care: how often a credential is to get a new secret, and how near that is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Seconds of a day.
const DAY: i64 = 24 * 60 * 60;

/// How long ahead a rotation is told of, at most: two weeks, in which a person can plan it.
const SOON: i64 = 14 * DAY;

/// How long ahead it is told of again, at most: what was not planned is to be done now.
const NEAR: i64 = 3 * DAY;

/// How often a credential is to be rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// As what one with this much behind it is.
    Sensitivity(Sensitivity),
    /// Every so many days.
    Days(u32),
}

/// How much is behind a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sensitivity {
    /// What it opens would be missed badly: 30 days.
    High,
    /// Everything else: 90 days.
    Normal,
}

impl Sensitivity {
    /// `high` or `normal`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
        }
    }
}

/// A text is not a [`Sensitivity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SensitivityError;

impl fmt::Display for SensitivityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is high (30 days) or normal (90 days)")
    }
}

impl std::error::Error for SensitivityError {}

impl FromStr for Sensitivity {
    type Err = SensitivityError;

    fn from_str(text: &str) -> Result<Self, SensitivityError> {
        let all = [Self::High, Self::Normal];
        all.into_iter().find(|one| one.as_str() == text).ok_or(SensitivityError)
    }
}

impl Schedule {
    /// After how many days.
    #[must_use]
    pub fn days(self) -> u32 {
        match self {
            Self::Days(days) => days,
            Self::Sensitivity(Sensitivity::High) => 30,
            Self::Sensitivity(Sensitivity::Normal) => 90,
        }
    }

    /// When one that was rotated then is due, both in seconds since the Unix epoch.
    #[must_use]
    pub fn due(self, rotated: i64) -> i64 {
        rotated.saturating_add(self.seconds())
    }

    /// From when on it is told of: 14 days ahead, and half of the interval for a shorter one, which would otherwise
    /// be told of from its first day on.
    #[must_use]
    pub fn told_from(self, rotated: i64) -> i64 {
        self.due(rotated).saturating_sub(SOON.min(self.seconds() / 2))
    }

    /// How near the date of one that was rotated then is, both in seconds since the Unix epoch.
    #[must_use]
    pub fn stage(self, rotated: i64, now: i64) -> Stage {
        let near = NEAR.min(self.seconds() / 10);
        match self.due(rotated).saturating_sub(now) {
            ..=0 => Stage::Over,
            left if left <= near => Stage::Near,
            _ if now >= self.told_from(rotated) => Stage::Soon,
            _ => Stage::Far,
        }
    }

    fn seconds(self) -> i64 {
        i64::from(self.days()) * DAY
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Days(days) => write!(f, "every {days} days"),
            Self::Sensitivity(one) => write!(f, "every {} days ({})", self.days(), one.as_str()),
        }
    }
}

/// How near a date is. The order is that of urgency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Not yet.
    Far,
    /// Within 14 days, or the last half of a shorter interval: time to plan it.
    Soon,
    /// Within three days, or the last tenth of a shorter interval.
    Near,
    /// Past.
    Over,
}

/// Whole days from one moment to a later one.
#[must_use]
pub fn days_between(from: i64, to: i64) -> i64 {
    to.saturating_sub(from) / DAY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_what_it_says() {
        let schedules = [
            (Schedule::Sensitivity(Sensitivity::High), 30),
            (Schedule::Sensitivity(Sensitivity::Normal), 90),
            (Schedule::Days(7), 7),
        ];
        for (schedule, days) in schedules {
            assert_eq!(schedule.days(), days);
            assert_eq!(schedule.due(1_000), 1_000 + i64::from(days) * DAY);
            let json = serde_json::to_string(&schedule).unwrap();
            assert_eq!(serde_json::from_str::<Schedule>(&json).unwrap(), schedule);
        }
        assert_eq!("high".parse(), Ok(Sensitivity::High));
        assert!("secret".parse::<Sensitivity>().is_err());
    }

    #[test]
    fn reminders_come_nearer() {
        const HOUR: i64 = DAY / 24;
        // Of each interval in days: the last moment of each stage, in seconds before it is due.
        for (days, soon, near) in [
            (3650, 14 * DAY, 3 * DAY),
            (90, 14 * DAY, 3 * DAY),
            (30, 14 * DAY, 3 * DAY),
            (28, 14 * DAY, 28 * DAY / 10),
            (14, 7 * DAY, 14 * DAY / 10),
            (7, 7 * DAY / 2, 7 * DAY / 10),
            (2, DAY, 2 * DAY / 10),
            (1, 12 * HOUR, DAY / 10),
        ] {
            let schedule = Schedule::Days(days);
            let at = |left: i64| schedule.stage(0, schedule.due(0) - left);
            assert_eq!(at(schedule.due(0)), Stage::Far, "{days}: at once");
            assert_eq!(at(soon + 1), Stage::Far, "{days}");
            assert_eq!((at(soon), at(near + 1)), (Stage::Soon, Stage::Soon), "{days}");
            assert_eq!((at(near), at(1)), (Stage::Near, Stage::Near), "{days}");
            assert_eq!((at(0), at(-1)), (Stage::Over, Stage::Over), "{days}");
            assert_eq!(schedule.told_from(5), 5 + schedule.due(0) - soon, "{days}");
        }
        assert_eq!(Schedule::Days(30).stage(i64::MIN, i64::MAX), Stage::Over);
        assert!(Stage::Far < Stage::Soon && Stage::Near < Stage::Over);
    }
}
