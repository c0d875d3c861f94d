//! When a rule is in force: days and hours of a place, and a first and a last moment.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use jiff::Timestamp;
use jiff::civil::{Time, Weekday};
use jiff::tz::{TimeZone, TimeZoneDatabase};

/// The zones that came with this build: a policy means the same on every machine, whatever zones
/// that has.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// The zone of an IANA name, such as `Europe/Berlin`.
pub(super) fn zone(name: &str) -> Option<TimeZone> {
    NOWHERE.iter().all(|none| !none.eq_ignore_ascii_case(name)).then(|| ZONES.get(name).ok())?
}

/// Zones that are those of no place: what a machine is in that was never told, and one that nobody knows.
const NOWHERE: [&str; 2] = ["Factory", "Etc/Unknown"];

/// The times of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct When {
    /// Seven bits, Monday's the lowest. On which an hour begins.
    pub(super) days: u8,
    /// None for the whole day.
    pub(super) hours: Vec<Hours>,
    /// None where days and hours do not matter.
    pub(super) zone: Option<TimeZone>,
    /// From this second of Unix time on.
    pub(super) not_before: Option<i64>,
    /// To this second of Unix time, and in it.
    pub(super) not_after: Option<i64>,
}

/// All days.
pub(super) const EVERY_DAY: u8 = 0b111_1111;

impl When {
    /// Whether the rule is in force at this second of Unix time.
    #[must_use]
    pub(super) fn contains(&self, at: i64) -> bool {
        if self.not_before.is_some_and(|first| at < first)
            || self.not_after.is_some_and(|last| at > last)
        {
            return false;
        }
        let Some(zone) = &self.zone else { return true };
        // A clock beyond the year 9999 opens nothing.
        let Ok(at) = Timestamp::from_second(at) else { return false };
        let local = zone.to_datetime(at);
        self.contains_local(local.weekday(), minute_of(local.time()))
    }

    /// Whether a minute of a day is among its days and hours.
    fn contains_local(&self, day: Weekday, minute: u16) -> bool {
        let (today, yesterday) = (bit(day), bit(day.previous()));
        if self.hours.is_empty() {
            return self.days & today != 0;
        }
        self.hours.iter().any(|hours| {
            let (in_todays, in_yesterdays) = hours.contain(minute);
            (in_todays && self.days & today != 0) || (in_yesterdays && self.days & yesterday != 0)
        })
    }

    /// Whether it is in force whenever `other` is. Of two zones, not: they may change.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let from = self.not_before.is_none_or(|own| other.not_before.is_some_and(|o| own <= o));
        let to = self.not_after.is_none_or(|own| other.not_after.is_some_and(|o| own >= o));
        if !from || !to {
            return false;
        }
        if self.zone.is_none() {
            return true;
        }
        if self.zone != other.zone {
            return false;
        }
        // Between two of these minutes nothing changes in either.
        let borders = |when: &Self| -> Vec<u16> {
            when.hours.iter().flat_map(|hours| [hours.start, hours.end % MINUTES]).collect()
        };
        let minutes = [vec![0], borders(self), borders(other)].concat();
        let days = Weekday::Monday.cycle_forward().take(DAYS.len());
        days.into_iter().all(|day| {
            minutes.iter().all(|minute| {
                !other.contains_local(day, *minute) || self.contains_local(day, *minute)
            })
        })
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("in its times:")?;
        if self.days != EVERY_DAY {
            let days = DAYS.iter().enumerate().filter(|(at, _)| self.days & (1 << at) != 0);
            days.into_iter().try_for_each(|(_, day)| write!(f, " {day}"))?;
        }
        self.hours.iter().try_for_each(|hours| write!(f, " {hours}"))?;
        if let Some(zone) = &self.zone {
            write!(f, " {}", zone.iana_name().unwrap_or("UTC"))?;
        }
        for (word, moment) in [("from", self.not_before), ("to", self.not_after)] {
            if let Some(moment) = moment.and_then(|at| Timestamp::from_second(at).ok()) {
                write!(f, " {word} {moment}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [start, end] = [self.start, self.end].map(|minute| (minute / 60, minute % 60));
        write!(f, "{:02}:{:02}-{:02}:{:02}", start.0, start.1, end.0, end.1)
    }
}

fn bit(day: Weekday) -> u8 {
    1 << day.to_monday_zero_offset()
}

/// Days of the week: one, `sat`, or a row of them, `mon-fri`. As bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Days(pub(super) u8);

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Why a text says no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhenError {
    /// Not a day of the week, or a row of them.
    Day,
    /// Not two times of a day.
    Hours,
    /// Not a moment with its offset.
    Moment,
    /// Not a zone.
    Zone,
}

impl fmt::Display for WhenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Day => "not a day; write mon, tue, wed, thu, fri, sat or sun, or a row such as mon-fri",
            Self::Hours => "not hours; write 08:00-18:00, or 22:00-06:00 for a night; the end is not in it, and 24:00 is the end of a day",
            Self::Moment => "not a moment; write date, time and offset (RFC 3339), such as 2026-01-31T12:00:00Z",
            Self::Zone => "no time zone has this name; write one of the IANA's, such as Europe/Berlin or UTC",
        })
    }
}

impl std::error::Error for WhenError {}

impl FromStr for Days {
    type Err = WhenError;

    fn from_str(text: &str) -> Result<Self, WhenError> {
        let day = |text: &str| DAYS.iter().position(|day| *day == text).ok_or(WhenError::Day);
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (mut at, last) = (day(first)?, day(last)?);
        let mut bits = 1 << at;
        while at != last {
            at = (at + 1) % DAYS.len(); // `sat-mon` goes over the end of the week.
            bits |= 1 << at;
        }
        Ok(Self(bits))
    }
}

/// Times of a day, in minutes; the end is not among them. An end before the start is on the next day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hours {
    start: u16,
    end: u16,
}

const MINUTES: u16 = 24 * 60;

impl Hours {
    /// Whether a time is in the hours that began today, and in those that began yesterday.
    fn contain(self, minute: u16) -> (bool, bool) {
        if self.start < self.end {
            return ((self.start..self.end).contains(&minute), false);
        }
        (minute >= self.start, minute < self.end)
    }
}

fn minute_of(time: Time) -> u16 {
    let minutes = i32::from(time.hour()) * 60 + i32::from(time.minute());
    u16::try_from(minutes).unwrap_or_default()
}

impl FromStr for Hours {
    type Err = WhenError;

    fn from_str(text: &str) -> Result<Self, WhenError> {
        let time = |text: &str| {
            let (hour, minute) = text.split_once(':').ok_or(WhenError::Hours)?;
            let digits = |t: &str| t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit());
            if !digits(hour) || !digits(minute) {
                return Err(WhenError::Hours);
            }
            let number = |text: &str| text.parse::<u16>().map_err(|_| WhenError::Hours);
            let (hour, minute) = (number(hour)?, number(minute)?);
            let time = hour * 60 + minute;
            if minute < 60 && time <= MINUTES { Ok(time) } else { Err(WhenError::Hours) }
        };
        let (start, end) = text.split_once('-').ok_or(WhenError::Hours)?;
        let (start, end) = (time(start)?, time(end)?);
        // Neither nothing nor a whole day: whoever means that leaves `hours` out.
        let fits = start < MINUTES && end > 0 && start != end;
        if fits { Ok(Self { start, end }) } else { Err(WhenError::Hours) }
    }
}

/// Reads a moment (RFC 3339) as the second of Unix time that it is in.
pub(super) fn moment(text: &str) -> Result<i64, WhenError> {
    let moment = exact(text)?;
    Ok(moment.as_second() - i64::from(moment.subsec_nanosecond() < 0))
}

/// Reads a moment as the first second of Unix time that begins at it or behind it: what is in force from
/// the middle of a second on is not in force at its beginning.
pub(super) fn first_moment(text: &str) -> Result<i64, WhenError> {
    let moment = exact(text)?;
    Ok(moment.as_second() + i64::from(moment.subsec_nanosecond() > 0))
}

/// RFC 3339 and nothing else: the other notations of ISO 8601 leave out what a reader then guesses.
fn exact(text: &str) -> Result<Timestamp, WhenError> {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let rest = shape.strip_prefix("0000-00-00").ok_or(WhenError::Moment)?;
    let rest = rest.strip_prefix(['T', 't', ' ']).ok_or(WhenError::Moment)?;
    let rest = rest.strip_prefix("00:00:00").ok_or(WhenError::Moment)?;
    let offset = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches('0'),
        None => rest,
    };
    let fraction = rest.len() - offset.len();
    let is_offset = matches!(offset, "Z" | "z" | "+00:00" | "-00:00");
    // A day's worth of hours is no offset of any place.
    let hours = text.get(text.len().saturating_sub(5)..).unwrap_or_default();
    let fits = offset.len() == 1 || hours < "24";
    if !is_offset || fraction == 1 || !fits {
        return Err(WhenError::Moment);
    }
    text.parse().map_err(|_| WhenError::Moment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        moment(text).unwrap()
    }

    fn when(days: &str, hours: &[&str], name: &str) -> When {
        When {
            days: days.parse::<Days>().unwrap().0,
            hours: hours.iter().map(|h| h.parse().unwrap()).collect(),
            zone: Some(zone(name).unwrap()),
            not_before: None,
            not_after: None,
        }
    }

    #[test]
    fn office_hours_are_those_of_the_place() {
        let office = when("mon-fri", &["08:00-18:00"], "Europe/Berlin");
        for (moment, expected) in [
            ("2026-01-05T06:59:59Z", false), // Monday, 07:59:59 in winter
            ("2026-01-05T07:00:00Z", true),
            ("2026-01-05T16:59:59Z", true),
            ("2026-01-05T17:00:00Z", false),
            ("2026-07-06T06:00:00Z", true), // 08:00 in summer
            ("2026-07-06T05:59:59Z", false),
            ("2026-07-06T16:00:00Z", false),
            ("2026-01-04T12:00:00Z", false), // Sunday
            ("2026-01-10T12:00:00Z", false), // Saturday
            ("2026-01-09T16:59:00Z", true),  // Friday
        ] {
            assert_eq!(office.contains(at(moment)), expected, "{moment}");
        }
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_begins() {
        let night = when("fri", &["22:00-06:00"], "UTC");
        for (moment, expected) in [
            ("2026-01-09T21:59:00Z", false), // Friday
            ("2026-01-09T22:00:00Z", true),
            ("2026-01-10T05:59:59Z", true), // Saturday morning
            ("2026-01-10T06:00:00Z", false),
            ("2026-01-10T22:00:00Z", false),
            ("2026-01-09T05:00:00Z", false), // the night of Thursday
        ] {
            assert_eq!(night.contains(at(moment)), expected, "{moment}");
        }
    }

    /// The hour that a clock shows twice is in, or out, both times; one that it skips is nobody's.
    #[test]
    fn the_clock_is_set_back_and_forth() {
        let two = when("mon-sun", &["02:00-03:00"], "Europe/Berlin");
        assert!(
            two.contains(at("2026-10-25T00:30:00Z")) && two.contains(at("2026-10-25T01:30:00Z"))
        );
        assert!(!two.contains(at("2026-10-25T02:00:00Z")));
        assert!(!two.contains(at("2026-03-29T00:59:59Z")), "01:59:59");
        assert!(!two.contains(at("2026-03-29T01:00:00Z")), "03:00");
    }

    #[test]
    fn times_that_cover_others() {
        let office = when("mon-fri", &["08:00-18:00"], "Europe/Berlin");
        let covers =
            |days: &str, hours: &[&str], name: &str| office.covers(&when(days, hours, name));
        assert!(covers("mon", &["08:00-18:00"], "Europe/Berlin"));
        assert!(covers("tue-thu", &["09:00-10:00", "12:00-18:00"], "Europe/Berlin"));
        assert!(!covers("tue-sat", &["09:00-10:00"], "Europe/Berlin"));
        assert!(!covers("mon", &["07:59-18:00"], "Europe/Berlin"));
        assert!(!covers("mon", &["17:00-18:01"], "Europe/Berlin"));
        assert!(!covers("mon", &[], "Europe/Berlin"));
        assert!(!covers("mon", &["08:00-18:00"], "Europe/Paris"), "which has the same hours today");
        let night = when("fri", &["22:00-06:00"], "UTC");
        assert!(night.covers(&when("fri", &["23:00-24:00"], "UTC")));
        assert!(night.covers(&when("sat", &["05:00-06:00"], "UTC")), "the end of Friday's night");
        assert!(!night.covers(&when("fri", &["05:00-06:00"], "UTC")), "Thursday's night");
        assert!(when("mon-sun", &[], "UTC").covers(&night));
        let until = |not_before: Option<&str>, not_after: Option<&str>| When {
            days: EVERY_DAY,
            hours: Vec::new(),
            zone: None,
            not_before: not_before.map(at),
            not_after: not_after.map(at),
        };
        let (first, last) = (Some("2026-01-01T00:00:00Z"), Some("2026-02-01T00:00:00Z"));
        assert!(until(first, None).covers(&until(first, last)));
        assert!(until(None, last).covers(&until(first, last)));
        assert!(!until(first, last).covers(&until(first, None)));
        assert!(!until(last, None).covers(&until(first, None)));
        assert!(until(None, last).covers(&When { not_after: last.map(at), ..office.clone() }));
        assert!(!office.covers(&until(first, last)));
    }

    #[test]
    fn the_first_and_the_last_moment_are_in() {
        let when = When {
            days: EVERY_DAY,
            hours: Vec::new(),
            zone: None,
            not_before: Some(at("2026-01-01T00:00:00+01:00")),
            not_after: Some(at("2026-01-31T23:59:59Z")),
        };
        for (moment, expected) in [
            ("2025-12-31T22:59:59Z", false),
            ("2025-12-31T23:00:00Z", true),
            ("2026-01-31T23:59:59Z", true),
            ("2026-02-01T00:00:00Z", false),
        ] {
            assert_eq!(when.contains(at(moment)), expected, "{moment}");
        }
        let zoned =
            When { not_before: None, not_after: None, ..super::tests::when("mon", &[], "UTC") };
        assert!(!zoned.contains(i64::MAX) && !zoned.contains(i64::MIN));
    }

    #[test]
    fn what_says_no_time() {
        let days = |text: &str| text.parse::<Days>().map(|d| d.0);
        assert_eq!((days("mon"), days("mon-sun"), days("sun-mon")), (Ok(1), Ok(127), Ok(65)));
        for bad in ["monday", "Mon", "mon-", "1", "", "mon-fri-sun"] {
            assert_eq!(days(bad), Err(WhenError::Day), "{bad}");
        }
        for bad in [
            "8-18",
            "08:00",
            "08:00-08:00",
            "24:00-06:00",
            "08:00-24:01",
            "08:60-09:00",
            "22:00-00:00",
            "+8:00-09:00",
            "08:00 - 09:00",
        ] {
            assert_eq!(bad.parse::<Hours>(), Err(WhenError::Hours), "{bad}");
        }
        assert!("00:00-24:00".parse::<Hours>().is_ok());
        for bad in [
            "2026-01-01",
            "2026-01-01T00:00:00",
            "now",
            "1700000000",
            "2026-01-01T00Z",
            "2026-01-01T00:00Z",
            "2026-01-01T00:00:00,5Z",
            "2026-01-01T00:00:00.Z",
            "20260101T000000Z",
            "+002026-01-01T00:00:00Z",
            "2026-01-01T00:00:00+01",
            "2026-01-01T00:00:00+0100",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00+01:00[Europe/Berlin]",
            "2026-13-01T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "\u{662}026-01-01T00:00:00Z",
        ] {
            assert_eq!(moment(bad), Err(WhenError::Moment), "{bad}");
        }
        for good in [
            "2026-01-01t00:00:00z",
            "2026-01-01 00:00:00Z",
            "2026-01-01T01:00:00+01:00",
            "2025-12-31T18:30:00.000-05:30",
            "2026-01-01T00:00:00-00:00",
            "2026-01-01T00:00:00.999999999Z",
        ] {
            assert_eq!(moment(good), Ok(1_767_225_600), "{good}");
        }
        // In the middle of a second: what begins then has not begun with it.
        assert_eq!(first_moment("2026-01-01T00:00:00.001Z"), Ok(1_767_225_601));
        assert_eq!(first_moment("2026-01-01T00:00:00.000Z"), Ok(1_767_225_600));
        assert_eq!(
            (moment("1969-12-31T23:59:58.5Z"), first_moment("1969-12-31T23:59:58.5Z")),
            (Ok(-2), Ok(-1))
        );
        for nowhere in ["Factory", "factory", "Etc/Unknown"] {
            assert!(zone(nowhere).is_none(), "{nowhere}");
        }
        assert!(zone("Mars/Olympus").is_none() && zone("UTC").is_some());
    }
}
