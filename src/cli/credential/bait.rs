//! Values for honeytokens: random, and in the shape of the provider's keys, so that a thief takes one
//! for a key.

use regex_syntax::hir::{Class, Hir, HirKind};

use crate::app::Failure;
use crate::catalog::Provider;

/// How often an open repetition repeats at most: as long as keys are.
const OPEN: u32 = 36;

/// A value that opens nothing.
pub(super) fn bait(provider: Option<&Provider>) -> Result<String, Failure> {
    let shape = match provider {
        Some(provider) => match (provider.pattern(), provider.prefixes().first()) {
            (Some(pattern), _) => pattern.to_owned(),
            (None, prefix) => {
                let prefix = prefix.map_or("", String::as_str);
                format!("{}[0-9A-Za-z]{{40}}", regex_syntax::escape(prefix))
            }
        },
        None => "[0-9A-Za-z]{40}".to_owned(),
    };
    // Classes such as `\w` are meant as ASCII: no key has more.
    let parser = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build();
    let hir = { parser }
        .parse(&shape)
        .map_err(|e| Failure::new(format!("the catalogue's pattern cannot be used: {e}")))?;
    let mut text = Vec::new();
    write(&hir, &mut text)?;
    String::from_utf8(text).map_err(|_| Failure::new("the catalogue's pattern is not of ASCII"))
}

/// Adds a random text that the pattern matches.
fn write(hir: &Hir, text: &mut Vec<u8>) -> Result<(), Failure> {
    match hir.kind() {
        // Where keys have a border, there is the value's own.
        HirKind::Empty | HirKind::Look(_) => Ok(()),
        HirKind::Literal(literal) => {
            text.extend_from_slice(&literal.0);
            Ok(())
        }
        HirKind::Class(class) => {
            text.push(one_of(&members(class))?);
            Ok(())
        }
        HirKind::Repetition(repetition) => {
            let most = repetition.max.unwrap_or(repetition.min.max(OPEN));
            let least = if repetition.max.is_none() { most } else { repetition.min };
            let times = least + below(most - least + 1)?;
            (0..times).try_for_each(|_| write(&repetition.sub, text))
        }
        HirKind::Capture(capture) => write(&capture.sub, text),
        HirKind::Concat(all) => all.iter().try_for_each(|one| write(one, text)),
        HirKind::Alternation(all) => {
            let count = u32::try_from(all.len()).unwrap_or(u32::MAX);
            let chosen = all.get(below(count)? as usize);
            chosen.map_or(Ok(()), |one| write(one, text))
        }
    }
}

/// The printable ASCII of a class.
fn members(class: &Class) -> Vec<u8> {
    let has = |byte: u8| match class {
        Class::Unicode(class) => {
            let wanted = char::from(byte);
            class.ranges().iter().any(|r| (r.start()..=r.end()).contains(&wanted))
        }
        Class::Bytes(class) => class.ranges().iter().any(|r| (r.start()..=r.end()).contains(&byte)),
    };
    (b'!'..=b'~').filter(|byte| has(*byte)).collect()
}

fn one_of(bytes: &[u8]) -> Result<u8, Failure> {
    let at = below(u32::try_from(bytes.len()).unwrap_or(u32::MAX))? as usize;
    bytes.get(at).copied().ok_or_else(|| Failure::new("the catalogue's pattern has an empty class"))
}

/// A random number below `bound`; 0 for none. The bias of the remainder does not matter to a bait.
fn below(bound: u32) -> Result<u32, Failure> {
    let random = getrandom::u32()
        .map_err(|e| Failure::new(format!("the system gave no random bytes: {e}")))?;
    Ok(random.checked_rem(bound).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use crate::vault::validate_secret;

    #[test]
    fn a_bait_of_each_provider_looks_like_its_keys_and_can_be_stored() {
        for provider in Catalog::embedded().iter() {
            let value = bait(Some(provider)).unwrap();
            assert_ne!(value, bait(Some(provider)).unwrap(), "{}", provider.id());
            validate_secret(value.as_bytes(), false).unwrap_or_else(|e| {
                panic!("{}: {value}: {e}", provider.id());
            });
            if let Some(pattern) = provider.pattern() {
                let whole = regex::bytes::RegexBuilder::new(&format!("^(?:{pattern})$"))
                    .unicode(false)
                    .build()
                    .unwrap();
                assert!(whole.is_match(value.as_bytes()), "{}: {value}", provider.id());
            }
        }
        assert_eq!(bait(None).unwrap().len(), 40);
    }
}
