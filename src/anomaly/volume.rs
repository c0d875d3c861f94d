//! How much an agent does in an hour, and how much it usually does at most.
//!
//! What an hour brought counts as usual after the time of learning once more, so that whoever wants to do
//! more little by little gets on by one step in that time, and not by one in each hour.

use serde::{Deserialize, Serialize};

use super::known::Look;
use super::{HOUR, Settings, day};

/// Days whose busiest hour is kept: what comes once a month is usual.
const DAYS: usize = 35;

/// A volume that was told of on so many days, and nobody minded, is usual, as with other things.
const SETTLES: u8 = 7;

/// The hour in which something is counted, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hour {
    /// Of Unix time.
    hour: i64,
    today: u32,
    learn_days: u32,
    factor: u64,
    /// What is remarkable at the least.
    few: u64,
    learning: bool,
    refused: bool,
}

impl Hour {
    pub(super) fn of(
        at: i64,
        settings: Settings,
        (few, learning, refused): (u64, bool, bool),
    ) -> Self {
        Self {
            hour: at / HOUR,
            today: day(at),
            learn_days: settings.learn_days(),
            factor: u64::from(settings.volume),
            few,
            learning,
            refused,
        }
    }
}

/// A day and its busiest hour.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Peak {
    day: u32,
    most: u64,
    /// Whether it counts as usual, at once or later.
    counts: Counts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Counts {
    Now,
    Later,
    /// It was told of.
    Never,
}

/// How much of one kind.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Volume {
    hour: i64,
    count: u64,
    days: Vec<Peak>,
    /// On which day it was told of it last, and on how many.
    told_on: u32,
    told: u8,
    /// What is usual at most, as it was found for `asked`.
    #[serde(skip)]
    usual: u64,
    #[serde(skip)]
    asked: Option<u32>,
}

impl Volume {
    /// Counts so much more.
    pub(super) fn add(&mut self, amount: u64, hour: Hour) -> Look {
        // What had waited over the turn of an hour counts in the one that has begun.
        let is_last = hour.hour.saturating_add(1) == self.hour;
        if self.hour != hour.hour && !is_last {
            (self.hour, self.count) = (hour.hour, 0);
        }
        let count = self.count.saturating_add(amount);
        let over = !hour.learning && count > self.limit(hour);
        if over && hour.refused {
            let tell = self.told_on != hour.today;
            self.told_on = hour.today;
            return Look::Strange { tell };
        }
        self.count = count;
        self.note_peak(hour, over);
        if !over {
            return Look::Usual;
        }
        let tell = self.told_on != hour.today;
        if tell {
            self.told_on = hour.today;
            self.told = self.told.saturating_add(1);
            if self.told > SETTLES {
                self.accept();
                return Look::Usual;
            }
        }
        Look::Strange { tell }
    }

    /// Whether this hour has brought more than is usual already.
    pub(super) fn is_over(&mut self, hour: Hour) -> bool {
        !hour.learning && self.hour == hour.hour && self.count > self.limit(hour)
    }

    /// In this hour.
    pub(super) fn now(&self) -> u64 {
        self.count
    }

    /// What is usual in an hour at most.
    pub(super) fn most(&mut self, hour: Hour) -> u64 {
        if self.asked != Some(hour.today) {
            let counts = |peak: &&Peak| match peak.counts {
                Counts::Now => true,
                Counts::Later => peak.day.saturating_add(hour.learn_days) <= hour.today,
                Counts::Never => false,
            };
            self.usual = self.days.iter().filter(counts).map(|p| p.most).max().unwrap_or(0);
            self.asked = Some(hour.today);
        }
        self.usual
    }

    /// The most of any day that is kept and was not told of.
    pub(super) fn peak(&self) -> u64 {
        let quiet = self.days.iter().filter(|peak| peak.counts != Counts::Never);
        quiet.map(|peak| peak.most).max().unwrap_or(0)
    }

    /// Takes what was told of for usual.
    pub(super) fn accept(&mut self) {
        self.days.iter_mut().for_each(|peak| peak.counts = Counts::Now);
        (self.told, self.told_on, self.asked) = (0, 0, None);
    }

    fn limit(&mut self, hour: Hour) -> u64 {
        self.most(hour).saturating_mul(hour.factor).max(hour.few)
    }

    fn note_peak(&mut self, hour: Hour, over: bool) {
        let counts = if hour.learning { Counts::Now } else { Counts::Later };
        if self.days.last().is_none_or(|peak| peak.day != hour.today) {
            if self.days.len() >= DAYS {
                self.days.remove(0);
            }
            self.days.push(Peak { day: hour.today, most: 0, counts });
            self.asked = None;
        }
        let Some(peak) = self.days.last_mut() else { return };
        peak.most = peak.most.max(self.count);
        if hour.learning {
            self.asked = None;
        }
        if over {
            peak.counts = Counts::Never;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anomaly::DAY;
    use std::time::Duration;

    fn hour(at: i64, learning: bool) -> Hour {
        let settings = Settings { learn: Duration::from_secs(7 * DAY.unsigned_abs()), volume: 4 };
        Hour::of(at, settings, (10, learning, false))
    }

    fn busy(volume: &mut Volume, day: i64, amount: u64, learning: bool) -> Look {
        volume.add(amount, hour(day * DAY, learning))
    }

    #[test]
    fn more_than_a_multiple_of_the_busiest_hour_is_told_of_once_a_day() {
        let mut volume = Volume::default();
        assert_eq!(busy(&mut volume, 0, 1_000_000, true), Look::Usual, "it is learned");
        let mut volume = Volume::default();
        for day in 0..7 {
            assert_eq!(busy(&mut volume, day, 100, true), Look::Usual);
        }
        assert_eq!(busy(&mut volume, 7, 400, false), Look::Usual);
        assert_eq!(busy(&mut volume, 7, 1, false), Look::Strange { tell: true });
        assert_eq!(busy(&mut volume, 7, 1, false), Look::Strange { tell: false });
        // Another hour of the same day is counted for itself.
        assert_eq!(volume.add(400, hour(7 * DAY + HOUR, false)), Look::Usual);
        assert_eq!(volume.add(1, hour(7 * DAY + HOUR, false)), Look::Strange { tell: false });
        assert_eq!(busy(&mut volume, 8, 401, false), Look::Strange { tell: true });
    }

    #[test]
    fn what_grows_little_by_little_gets_on_by_one_step_in_the_time_of_learning() {
        let mut volume = Volume::default();
        for day in 0..7 {
            busy(&mut volume, day, 100, true);
        }
        let mut told = 0;
        for day in 7..35 {
            // As much as just passes, each day.
            let most = volume.most(hour(day * DAY, false)) * 4;
            assert_eq!(busy(&mut volume, day, most, false), Look::Usual, "{day}");
            if busy(&mut volume, day, 1, false) != Look::Usual {
                told += 1;
            }
        }
        assert!(told > 0);
        let most = volume.most(hour(35 * DAY, false));
        assert!(most <= 100 * 4_u64.pow(4), "{most}");
    }

    #[test]
    fn a_new_volume_becomes_usual_by_a_week_of_telling_or_by_a_word() {
        let mut volume = Volume::default();
        for day in 0..7 {
            busy(&mut volume, day, 100, true);
        }
        let told = (7..20).filter(|day| busy(&mut volume, *day, 5_000, false) != Look::Usual);
        assert_eq!(told.count(), usize::from(SETTLES));
        let mut volume = Volume::default();
        busy(&mut volume, 0, 100, true);
        assert_eq!(busy(&mut volume, 7, 5_000, false), Look::Strange { tell: true });
        volume.accept();
        assert_eq!(busy(&mut volume, 8, 5_000, false), Look::Usual);
    }
}
