//! What is kept of one version of a credential: its value, the one before, and how the last renewal
//! went.

use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use crate::credential::Kind;
use crate::outcome::Refusal;
use crate::vault::Shelved;

/// How long before its end a value is renewed: a quarter of its life, and at most so long.
const EARLY: Duration = Duration::from_mins(5);

/// How long before its end it is no longer given out: a tenth of its life, and at most so long. What a
/// request takes on its way, and what clocks differ by.
const MARGIN: Duration = Duration::from_secs(10);

/// By how much renewals are spread, so that those of many processes do not fall together: a tenth of
/// the life, and at most so long.
const JITTER: Duration = Duration::from_mins(1);

/// After a failure: the first wait, and the longest. Each further failure doubles it.
const WAITS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// How old a value has to be before an origin's 401 is believed to be about it. A fresh one that is
/// refused has another fault, and another fresh one would be refused alike.
const YOUNG: Duration = Duration::from_secs(5);

/// A moment by both clocks: the one that nobody sets stands still while a laptop sleeps, and the other
/// goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    steady: Instant,
    wall: SystemTime,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { steady: Instant::now(), wall: SystemTime::now() }
    }

    fn after(self, time: Duration) -> Self {
        Self { steady: self.steady + time, wall: self.wall + time }
    }

    /// Whether it has come, by either clock.
    fn is_past(self, now: Self) -> bool {
        now.steady >= self.steady || now.wall >= self.wall
    }
}

/// From when to when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lifetime {
    born: Moment,
    /// When another is to be got.
    due: Moment,
    /// When it is no longer given out.
    last: Moment,
    /// When it means nothing any more.
    end: Moment,
}

impl Lifetime {
    pub(super) fn from(sent: Moment, lifetime: Duration) -> Self {
        let tenth = lifetime / 10;
        let jitter = tenth.min(JITTER).mul_f64(chance());
        let due = lifetime.saturating_sub((lifetime / 4).min(EARLY) + jitter);
        Self {
            born: sent,
            due: sent.after(due),
            last: sent.after(lifetime.saturating_sub(tenth.min(MARGIN))),
            end: sent.after(lifetime),
        }
    }
}

impl Lifetime {
    /// Of a copy of what lies elsewhere: looked for again after `refresh`, and used for as long as
    /// `stale` after that when it cannot be had; but not after `ends`, where that is said.
    pub(super) fn of_copy(
        sent: Moment,
        refresh: Duration,
        stale: Duration,
        ends: Option<Duration>,
    ) -> Self {
        let jitter = (refresh / 10).min(JITTER).mul_f64(chance());
        let used = (refresh + stale).min(ends.unwrap_or(Duration::MAX));
        let due = refresh.saturating_sub(jitter).min(used);
        let end = sent.after(used);
        Self { born: sent, due: sent.after(due), last: end, end }
    }
}

/// Anything from 0 to 1.
fn chance() -> f64 {
    let mut bytes = [0; 2];
    // Without randomness all renew at once, which is no fault.
    let _zeros = getrandom::fill(&mut bytes);
    f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX)
}

struct Value {
    shelved: Shelved,
    lifetime: Lifetime,
    /// What it was made as: a credential that was edited gets another.
    kind: Option<Kind>,
}

struct Failed {
    refusal: Refusal,
    /// When it is worth trying again.
    again: Moment,
    wait: Duration,
}

/// One version of a credential.
#[derive(Default)]
pub(super) struct Entry {
    value: Option<Value>,
    /// Still good for an origin, for a while, and so still to be hidden.
    before: Option<Value>,
    flight: Option<watch::Receiver<bool>>,
    failure: Option<Failed>,
    /// What has to be written to the vault before anything else, and what it was given in exchange for
    /// where that lies elsewhere.
    owed: Option<(Shelved, Option<Shelved>)>,
    /// Whether the last look at a source has failed.
    failing: bool,
}

impl Entry {
    /// The value, if it may be given out.
    pub(super) fn good(&self, now: Moment, kind: Option<&Kind>) -> Option<&Shelved> {
        let value = self.value.as_ref()?;
        let good = !value.lifetime.last.is_past(now) && value.kind.as_ref() == kind;
        good.then_some(&value.shelved)
    }

    /// Whether it is time for another.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        let due = self.value.as_ref().is_none_or(|value| value.lifetime.due.is_past(now));
        due && self.flight().is_none() && self.refusal(now).is_none()
    }

    /// Why there is none, while it is too soon to ask again.
    pub(super) fn refusal(&self, now: Moment) -> Option<Refusal> {
        let failure = self.failure.as_ref()?;
        (!failure.again.is_past(now)).then(|| failure.refusal.clone())
    }

    /// The renewal under way. One whose task has gone without a word is none.
    pub(super) fn flight(&self) -> Option<watch::Receiver<bool>> {
        self.flight.clone().filter(|flight| flight.has_changed().is_ok() && !*flight.borrow())
    }

    pub(super) fn flies(&mut self, flight: watch::Receiver<bool>) {
        self.flight = Some(flight);
    }

    pub(super) fn has(&mut self, shelved: Shelved, lifetime: Lifetime, kind: Option<Kind>) {
        self.before = self.value.replace(Value { shelved, lifetime, kind });
        (self.flight, self.failure) = (None, None);
    }

    pub(super) fn failed(&mut self, refusal: Refusal, now: Moment) {
        let (first, longest) = WAITS;
        let wait = self.failure.as_ref().map_or(first, |last| (last.wait * 2).min(longest));
        let again = now.after(wait.mul_f64(0.75 + chance() / 4.0));
        self.failure = Some(Failed { refusal, again, wait });
        self.flight = None;
    }

    /// A renewal has failed, for the first time since one succeeded: how long the value is used all the
    /// same, if there is one. One that is `gone` where it came from is given out no more.
    pub(super) fn goes_stale(&mut self, now: Moment, gone: bool) -> Option<Duration> {
        let first = !std::mem::replace(&mut self.failing, true);
        let value = self.value.as_mut()?;
        if gone {
            value.lifetime.last = now;
        }
        let good = !value.lifetime.last.is_past(now);
        (good && first).then(|| value.lifetime.last.steady.duration_since(now.steady))
    }

    /// A renewal has succeeded: whether others had failed before it.
    pub(super) fn is_fresh_again(&mut self) -> bool {
        std::mem::take(&mut self.failing)
    }

    /// What may still mean something to an origin.
    pub(super) fn known(&self, now: Moment) -> impl Iterator<Item = &Shelved> {
        let all = self.value.iter().chain(&self.before);
        all.filter(move |value| !value.lifetime.end.is_past(now)).map(|value| &value.shelved)
    }

    /// Takes an origin's word for it that the value is not good.
    pub(super) fn rejected(&mut self, now: Moment) {
        if let Some(value) = &mut self.value
            && value.lifetime.born.after(YOUNG).is_past(now)
        {
            value.lifetime.last = now;
        }
    }

    pub(super) fn owes(&mut self, shelved: Shelved, lent: Option<Shelved>) {
        self.owed = Some((shelved, lent));
    }

    pub(super) fn owed(&self) -> Option<(&Shelved, Option<&Shelved>)> {
        self.owed.as_ref().map(|(shelved, lent)| (shelved, lent.as_ref()))
    }

    pub(super) fn is_settled(&mut self) {
        self.owed = None;
    }

    /// Whether there is nothing in it that anybody could want.
    pub(super) fn is_over(&self, now: Moment) -> bool {
        let idle = self.flight().is_none() && self.owed.is_none() && self.refusal(now).is_none();
        idle && self.known(now).next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Code;
    use crate::secret::Secret;
    use crate::vault::Shelf;

    fn value(entry: &mut Entry, at: Moment, lifetime: u64) {
        let shelved = Shelf::new().unwrap().put("a", &Secret::new(b"token".to_vec())).unwrap();
        entry.has(shelved, Lifetime::from(at, Duration::from_secs(lifetime)), None);
    }

    fn later(at: Moment, seconds: f64) -> Moment {
        at.after(Duration::from_secs_f64(seconds))
    }

    #[test]
    fn a_copy_is_looked_for_again_and_not_used_after_its_end() {
        let (start, minute, day) = (Moment::now(), 60.0_f64, Duration::from_hours(24));
        // Refreshed after five minutes, good for an hour more, and it ends: at no time, in a year, in half an hour,
        // in a minute.
        let half = Duration::from_mins(30);
        let ends =
            [(None, 65.0_f64), (Some(day * 365), 65.0), (Some(half), 30.0), (Some(half / 30), 1.0)];
        for (ends, last) in ends {
            let of =
                Lifetime::of_copy(start, Duration::from_mins(5), Duration::from_hours(1), ends);
            assert!(of.due.is_past(later(start, 5.0 * minute)), "{ends:?}");
            assert!(!of.due.is_past(later(start, last.min(4.0) * minute - 1.0)), "{ends:?}");
            assert!(of.last.is_past(later(start, last * minute)), "{ends:?}");
            assert!(!of.last.is_past(later(start, last * minute - 1.0)), "{ends:?}");
        }
    }

    #[test]
    fn a_value_is_renewed_early_and_never_given_out_late() {
        let start = Moment::now();
        for (lifetime, not_due, due, good, over) in
            [(2, 1.2, 1.51, 1.79, 1.81), (3600, 3239.0, 3301.0, 3589.0, 3591.0)]
        {
            let mut entry = Entry::default();
            value(&mut entry, start, lifetime);
            assert!(!entry.is_due(later(start, not_due)), "{lifetime}");
            assert!(entry.is_due(later(start, due)), "{lifetime}");
            assert!(entry.good(later(start, good), None).is_some(), "{lifetime}");
            assert!(entry.good(later(start, over), None).is_none(), "{lifetime}");
        }
    }

    #[test]
    fn either_clock_ends_a_value() {
        let start = Moment::now();
        let mut entry = Entry::default();
        value(&mut entry, start, 60);
        let slept = Moment { wall: start.wall + Duration::from_hours(1), ..start };
        assert!(entry.good(slept, None).is_none(), "the machine slept");
        let set_back = later(start, 61.0);
        let set_back = Moment { wall: start.wall - Duration::from_hours(1), ..set_back };
        assert!(entry.good(set_back, None).is_none(), "somebody set the clock back");
    }

    #[test]
    fn the_value_before_stays_hidden_for_its_life() {
        let start = Moment::now();
        let mut entry = Entry::default();
        value(&mut entry, start, 60);
        value(&mut entry, later(start, 45.0), 60);
        assert_eq!(entry.known(later(start, 50.0)).count(), 2);
        assert_eq!(entry.known(later(start, 61.0)).count(), 1);
        assert!(entry.is_over(later(start, 106.0)));
    }

    #[test]
    fn failures_are_answered_from_memory_for_a_while_that_grows() {
        let start = Moment::now();
        let mut entry = Entry::default();
        let mut waits = Vec::new();
        for _ in 0..10 {
            entry.failed(Refusal::new(Code::RefreshFailed), start);
            waits.push(entry.failure.as_ref().unwrap().wait);
            assert!(entry.refusal(start).is_some());
            assert!(entry.refusal(later(start, 31.0)).is_none());
        }
        assert_eq!((waits[0], waits[1], waits[9]), (WAITS.0, WAITS.0 * 2, WAITS.1));
        value(&mut entry, start, 60);
        assert!(entry.refusal(start).is_none());
    }

    #[test]
    fn an_origin_is_believed_of_a_value_that_is_not_new() {
        let start = Moment::now();
        let mut entry = Entry::default();
        value(&mut entry, start, 600);
        entry.rejected(later(start, 1.0));
        assert!(entry.good(later(start, 1.0), None).is_some());
        entry.rejected(later(start, 6.0));
        assert!(entry.good(later(start, 6.0), None).is_none());
    }
}
