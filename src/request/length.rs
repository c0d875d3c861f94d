//! The length that fields say, when they say it more than once.

/// The one length that an answer names, where its fields say it once or say the same (RFC 9110 section 8.6).
///
/// # Errors
/// The fields contradict each other, or name no length.
pub fn one_length<'v>(
    values: impl Iterator<Item = &'v [u8]>,
) -> Result<Option<u64>, Contradiction> {
    let mut one = None;
    for value in values.flat_map(|value| value.split(|b| *b == b',')) {
        let length = number(value.trim_ascii()).ok_or(Contradiction)?;
        if one.replace(length).is_some_and(|before| before != length) {
            return Err(Contradiction);
        }
    }
    Ok(one)
}

/// Fields say different lengths, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contradiction;

fn number(digits: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_say_the_same_are_one() {
        let one = |values: &[&str]| one_length(values.iter().map(|value| value.as_bytes()));
        assert_eq!(one(&[]), Ok(None));
        assert_eq!(one(&["5"]), Ok(Some(5)));
        assert_eq!(one(&["5", "5", "5 ,05"]), Ok(Some(5)));
        for odd in [&["5", "6"][..], &["5,6"], &["5,"], &["+5"], &[""], &["0x5"], &["-1"]] {
            assert_eq!(one(odd), Err(Contradiction), "{odd:?}");
        }
    }
}
