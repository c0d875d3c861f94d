//! Durations (`1h30m`, `250ms`) and byte sizes (`64KiB`): always with a unit, because a bare `30`
//! has been read as seconds, milliseconds and minutes by three programs in one rack.

use std::fmt;
use std::time::Duration;

/// Why a text is no duration or size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitError {
    /// Not a duration.
    Duration,
    /// Not a size.
    Size,
    /// More than fits.
    TooLarge,
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Duration => "not a duration; write whole numbers with units, largest first: 250ms, 10s, 5m, 1h30m, 7d",
            Self::Size => "not a size; write a whole number with a unit: 512B, 64KiB, 256MiB, 1GiB",
            Self::TooLarge => "larger than any that can be meant",
        })
    }
}

impl std::error::Error for UnitError {}

/// Milliseconds of each unit, from large to small.
const DURATIONS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Bytes of each unit, from large to small. Powers of two only: `KB` is read in two ways.
const SIZES: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a duration: whole numbers with the units `d`, `h`, `m`, `s`, `ms`, largest first.
///
/// # Errors
/// [`UnitError`] when it is none.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    if text.is_empty() {
        return Err(UnitError::Duration);
    }
    let (mut rest, mut units, mut total) = (text, DURATIONS.as_slice(), 0_u64);
    while !rest.is_empty() {
        let (count, unit, tail) = split(rest).ok_or(UnitError::Duration)?;
        let index = units.iter().position(|(name, _)| *name == unit).ok_or(UnitError::Duration)?;
        let (_, each) = units[index];
        let part = count?.checked_mul(each).ok_or(UnitError::TooLarge)?;
        total = total.checked_add(part).ok_or(UnitError::TooLarge)?;
        // What was used, and what is larger, may not come again.
        units = &units[index + 1..];
        rest = tail;
    }
    Ok(Duration::from_millis(total))
}

/// Reads a size in bytes: one whole number and one of `B`, `KiB`, `MiB`, `GiB`, `TiB`.
///
/// # Errors
/// [`UnitError`] when it is none.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (count, unit, rest) = split(text).ok_or(UnitError::Size)?;
    let known = SIZES.iter().find(|(name, _)| *name == unit);
    let (_, each) = known.filter(|_| rest.is_empty()).ok_or(UnitError::Size)?;
    count?.checked_mul(*each).ok_or(UnitError::TooLarge)
}

/// Splits `90s…` into the number, the letters after it, and what follows.
type Split<'a> = (Result<u64, UnitError>, &'a str, &'a str);

fn split(text: &str) -> Option<Split<'_>> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).filter(|end| *end > 0)?;
    let (number, rest) = text.split_at(digits);
    let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(letters);
    Some((number.parse().map_err(|_| UnitError::TooLarge), unit, rest))
}

/// A duration as it would be written, to the millisecond.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, each) in DURATIONS {
        if rest >= each {
            text.push_str(&(rest / each).to_string());
            text.push_str(unit);
            rest %= each;
        }
    }
    text
}

/// A size as it would be written, in the largest unit that divides it.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    let fits = |&&(_, each): &&(&str, u64)| bytes >= each && bytes.is_multiple_of(each);
    let (unit, each) = SIZES.iter().find(fits).unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / each)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown() {
        for (text, millis) in
            [("0s", 0), ("250ms", 250), ("10s", 10_000), ("1h30m", 5_400_000), ("7d", 604_800_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
            assert_eq!(show_duration(Duration::from_millis(millis)), text);
        }
        for bad in ["", "10", "s", "10 s", "1.5s", "-1s", "30m1h", "1s1s", "1w", "1S", "1s,", "١s"]
        {
            assert_eq!(parse_duration(bad), Err(UnitError::Duration), "{bad}");
        }
        for huge in ["99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(parse_duration(huge), Err(UnitError::TooLarge), "{huge}");
        }
    }

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes) in [("0B", 0), ("512B", 512), ("64KiB", 65_536), ("256MiB", 1 << 28)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
            assert_eq!(show_size(bytes), text);
        }
        assert_eq!(show_size(1025), "1025B");
        for bad in ["", "64", "KiB", "64KB", "64k", "1KiB1B", "1.5MiB", "64 KiB"] {
            assert_eq!(parse_size(bad), Err(UnitError::Size), "{bad}");
        }
        assert_eq!(parse_size("18446744073709551615KiB"), Err(UnitError::TooLarge));
    }
}
