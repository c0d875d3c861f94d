//! Care: how often a credential is to get a new secret, and how near that is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Seconds of a day.
const DAY: i64 = 24 * 60 * 60;

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
        rotated.saturating_add(i64::from(self.days()) * DAY)
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
    /// Within 14 days: time to plan it.
    Soon,
    /// Within three days.
    Near,
    /// Past.
    Over,
}

impl Stage {
    /// Of a date at a moment, both in seconds since the Unix epoch.
    #[must_use]
    pub fn of(due: i64, now: i64) -> Self {
        match due.saturating_sub(now) {
            ..=0 => Self::Over,
            left if left <= 3 * DAY => Self::Near,
            left if left <= 14 * DAY => Self::Soon,
            _ => Self::Far,
        }
    }
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
        let due = 100 * DAY;
        let at = |left: i64| Stage::of(due, due - left);
        assert_eq!(at(15 * DAY), Stage::Far);
        assert_eq!(at(14 * DAY), Stage::Soon);
        assert_eq!(at(3 * DAY), Stage::Near);
        assert_eq!(at(1), Stage::Near);
        assert_eq!(at(0), Stage::Over);
        assert_eq!(Stage::of(i64::MIN, i64::MAX), Stage::Over);
        assert!(Stage::Far < Stage::Soon && Stage::Near < Stage::Over);
    }
}
