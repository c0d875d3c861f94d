//! A second evaluator, as simple and as slow as can be, written from docs/POLICY.md: it looks at every
//! rule in turn and knows no index. The compiled one has to agree with it on random policies and
//! requests.
//!
//! `LOCUM_REFERENCE=1000000` asks so many questions, and `LOCUM_SEED=7` begins elsewhere.

#![allow(missing_docs, unreachable_pub, dead_code)] // A harness is shared by halves.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::items_after_statements,
    clippy::format_push_string,
    clippy::struct_excessive_bools,
    clippy::format_collect,
    clippy::cast_possible_wrap,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

mod evaluator;
mod world;

use evaluator::decide;
use locum::document::Source;
use locum::outcome::Code;
use locum::policy::{Answer, Around, LintKind, compile_all};
use world::{Dice, Question, Rule, changed, inquiry, like, policy, question, sources};

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// What comes of a request, whatever the rule is called that says so.
fn outcome(answer: &Answer) -> (u8, Option<Code>) {
    match answer {
        Answer::Allow(_) => (0, None),
        Answer::Ask(_) => (1, None),
        Answer::Refuse(code, _) => (2, Some(*code)),
        Answer::Opaque(_) => (3, None),
        Answer::Intercept => (4, None),
    }
}

/// Whatever a change of the rules makes of any request, the reviewer is told of some change.
#[test]
fn a_difference_in_decisions_is_a_difference_told() {
    const EACH: u64 = 40;
    let questions = number("LOCUM_REFERENCE", 40_000);
    let seed = number("LOCUM_SEED", 1);
    let (mut differ, mut silent) = (0_u64, 0_u64);
    for round in 0..questions.div_ceil(EACH) {
        let mut dice = Dice(seed.wrapping_mul(7_000_003).wrapping_add(round));
        let count = 1 + dice.below(6);
        let rules = policy(&mut dice, count);
        let changed = changed(&mut dice, &rules);
        let [old, new] = [&rules, &changed].map(|rules| compile_all(sources(rules)));
        // A key that was taken away may leave a rule that is none.
        let (Ok(old), Ok(new)) = (old, new) else { continue };
        let index = old.given.index();
        let told = !old.policy.diff(&new.policy).is_empty();
        silent += u64::from(!told);
        for _ in 0..EACH {
            let question = question(&mut dice);
            let inquiry = inquiry(&question);
            let [before, after] =
                [&old, &new].map(|one| outcome(&inquiry.ask(&one.policy, &index)));
            if before != after {
                differ += 1;
                assert!(
                    told,
                    "seed {seed}, round {round}: {:?}: {before:?}, {after:?}\n{rules:#?}\n{changed:#?}",
                    inquiry.wish
                );
            }
        }
    }
    // Changes that change nothing, or all of them told of, would prove little.
    assert!(differ > questions / 400 && silent > questions / 40_000, "{differ} {silent}");
}

#[test]
fn the_compiled_policy_decides_as_the_reference() {
    const EACH: u64 = 40;
    let questions = number("LOCUM_REFERENCE", 40_000);
    let seed = number("LOCUM_SEED", 1);
    let mut seen = std::collections::BTreeMap::<String, u64>::new();
    for round in 0..questions.div_ceil(EACH) {
        let mut dice = Dice(seed.wrapping_mul(1_000_003).wrapping_add(round));
        // A few rules, and now and then many, so that each index is the shorter one somewhere.
        let most = if dice.once_in(20) { 120 } else { 9 };
        let count = 1 + dice.below(most);
        let rules = policy(&mut dice, count);
        let files = sources(&rules);
        let text = || files.iter().map(Source::text).collect::<Vec<_>>().join("\n");
        let compiled =
            compile_all(files.clone()).unwrap_or_else(|report| panic!("{report}\n{}", text()));
        let index = compiled.given.index();
        for _ in 0..EACH {
            let question = question(&mut dice);
            let inquiry = inquiry(&question);
            let (expected, answer) =
                (decide(&rules, &question), inquiry.ask(&compiled.policy, &index));
            assert_eq!(
                answer,
                expected,
                "seed {seed}, round {round}: {:?} by {:?}, {:?}, at {}\n{}",
                inquiry.wish,
                question.agent,
                question.refers,
                question.at,
                text()
            );
            let word = answer.to_string();
            *seen.entry(word.split(" `").next().unwrap().to_owned()).or_default() += 1;
        }
    }
    // Questions that only ever get one answer would prove little.
    for kind in [
        "allow, by the rule",
        "refuse, with not-allowed",
        "refuse, with not-allowed, by the rule",
        "refuse, with credential-refused",
        "refuse, with credential-refused, by the rule",
        "refuse, with plaintext-refused",
        "refuse, with ambiguous-path",
        "refuse, with method-refused",
        "refuse, with bad-request",
        "ask, by the rule",
        "opaque, by the rule",
        "intercept",
    ] {
        assert!(seen.get(kind).is_some_and(|n| *n > questions / 4000), "{kind}: {seen:#?}");
    }
}

/// A rule that a lint says decides nothing does not decide, and one that an earlier rule eclipses can go.
#[test]
fn a_rule_that_is_said_to_decide_nothing_decides_nothing() {
    const EACH: u64 = 40;
    // In the middle of the times of which questions are asked.
    const NOW: i64 = 1_780_000_000;
    let questions = number("LOCUM_REFERENCE", 40_000);
    let seed = number("LOCUM_SEED", 1);
    let mut seen = std::collections::BTreeMap::<&str, u64>::new();
    for round in 0..questions.div_ceil(EACH) {
        let mut dice = Dice(seed.wrapping_mul(5_000_011).wrapping_add(round));
        let count = 2 + dice.below(7);
        let mut rules = policy(&mut dice, count);
        for copy in 0..2 {
            let one = rules[dice.below(count)].clone();
            let at = dice.below(rules.len());
            rules.insert(at, like(&mut dice, &one, format!("c{copy}")));
        }
        rules.sort_by_key(|rule| !rule.organisation);
        let files = sources(&rules);
        // A copy with other places may be none: a credential never goes over http.
        let Ok(compiled) = compile_all(files.clone()) else { continue };
        let index = compiled.given.index();
        let around = Around { now: NOW, sources: &files, index: &index, vault: None };
        for lint in compiled.policy.lint(around) {
            let (removed, idle) = match lint.kind {
                LintKind::Unreachable | LintKind::Denied => (true, true),
                LintKind::WithoutEffect | LintKind::BeyondOrganisation => (false, true),
                _ => (false, false),
            };
            let Some(one) =
                rules.iter().find(|one| lint.message.contains(&format!("rule `{}`: ", one.name)))
            else {
                continue;
            };
            *seen.entry(lint.kind.id()).or_default() += 1;
            // Without the last rule of the organisation, nothing would be bounded.
            let removed = removed && (lint.kind == LintKind::Unreachable || !one.organisation);
            let others: Vec<Rule> =
                rules.iter().filter(|other| !removed || other.name != one.name).cloned().collect();
            let without = compile_all(sources(&others)).unwrap().policy;
            for _ in 0..if idle { EACH } else { 0 } {
                let question = question(&mut dice);
                let question = Question { at: question.at.max(NOW), ..question };
                let inquiry = inquiry(&question);
                let answer = inquiry.ask(&compiled.policy, &index);
                let told = || {
                    let text = files.iter().map(Source::text).collect::<Vec<_>>().join("\n");
                    format!("seed {seed}, round {round}: {lint:?}: {:?}\n{text}", inquiry.wish)
                };
                assert_eq!(answer, inquiry.ask(&without, &index), "{}", told());
                let (Answer::Allow(by) | Answer::Ask(by) | Answer::Opaque(by)) = answer else {
                    continue;
                };
                assert_ne!(*by, *one.name, "{}", told());
            }
        }
    }
    for kind in [
        LintKind::Unreachable,
        LintKind::Denied,
        LintKind::WithoutEffect,
        LintKind::BeyondOrganisation,
    ] {
        assert!(seen.get(kind.id()).is_some_and(|n| *n > questions / 4000), "{kind:?}: {seen:#?}");
    }
}
