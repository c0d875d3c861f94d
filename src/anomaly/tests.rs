//! Weeks of an agent's life, on a clock that is turned by hand.

use super::*;

const START: i64 = 1_800_000_000 / DAY * DAY;
const HERE: Network = Network::V4([192, 0, 2]);
const SETTINGS: Settings =
    Settings { learn: Duration::from_secs(7 * DAY.unsigned_abs()), volume: 4 };

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn at(day: i64, hour: i64) -> i64 {
    START + day * DAY + hour * HOUR
}

fn seen(destination: &str, at: i64) -> Seen<'_> {
    Seen { destination, source: HERE, at, refused: false }
}

/// An agent that uses `key` at `https://usual.test` from nine to five for `days` days.
fn worker(days: i64) -> Arc<Baseline> {
    let baseline = Baselines::new(SETTINGS).of(&name("default"), &name("worker"));
    for day in 0..days {
        for hour in 9..17 {
            let noted =
                baseline.note(Some(&name("key")), seen("https://usual.test", at(day, hour)));
            assert_eq!(noted, Noted::default(), "day {day}, {hour}:00");
        }
    }
    baseline
}

fn kinds(noted: &Noted) -> Vec<Kind> {
    noted.tell.iter().map(|anomaly| anomaly.kind).collect()
}

#[test]
fn what_is_as_usual_is_silent_and_each_way_to_leave_it_is_told_of() {
    let worker = worker(8);
    let key = name("key");
    let note = |seen: Seen<'_>| worker.note(Some(&key), seen);
    let usual = seen("https://usual.test", at(8, 10));
    assert_eq!(note(usual), Noted::default());
    let other = note(Seen { destination: "https://other.test", ..usual });
    assert_eq!(kinds(&other), [Kind::Destination]);
    assert_eq!(
        (&*other.tell[0].seen, &*other.tell[0].usual),
        ("https://other.test", "https://usual.test")
    );
    let elsewhere = note(Seen { source: Network::V6([0x2001, 0xdb8, 1]), ..usual });
    assert_eq!(
        (kinds(&elsewhere), &*elsewhere.tell[0].seen),
        (vec![Kind::Source], "2001:db8:1::/48")
    );
    let night = note(Seen { at: at(8, 3), ..usual });
    assert_eq!((kinds(&night), &*night.tell[0].seen), (vec![Kind::Hour], "03:00-04:00 UTC"));
    // Summer time, and an evening that got late, are no news.
    assert_eq!(note(Seen { at: at(8, 18), ..usual }), Noted::default());
    assert_eq!(note(Seen { at: at(8, 7), ..usual }), Noted::default());
    let another = worker.note(Some(&name("other")), usual);
    assert_eq!(kinds(&another), [Kind::Credential]);
    // So is the first request without one, of an agent that had one in each so far.
    let without = worker.note(None, Seen { destination: "https://web.test", ..usual });
    assert_eq!((kinds(&without), without.unusual), (vec![Kind::Credential], true));
    // Of more credentials than are kept no habit is known.
    for n in 0..super::CREDENTIALS {
        worker.note(Some(&name(&format!("more-{n}"))), usual);
    }
    let beyond = worker.note(Some(&name("beyond")), usual);
    assert_eq!((beyond.tell.len(), beyond.unusual), (0, true));
}

#[test]
fn it_is_told_of_once_a_day_and_unusual_all_the_same() {
    let worker = worker(8);
    let key = name("key");
    let strange = |day, hour| worker.note(Some(&key), seen("https://other.test", at(day, hour)));
    assert_eq!(strange(8, 10).tell.len(), 1);
    let again = strange(8, 11);
    assert!(again.tell.is_empty() && again.unusual);
    assert_eq!(strange(9, 11).tell.len(), 1);
}

#[test]
fn nothing_new_becomes_usual_before_it_was_told_of_for_a_week() {
    let worker = worker(8);
    let key = name("key");
    let strange = |day| worker.note(Some(&key), seen("https://other.test", at(day, 10)));
    for day in 8..15 {
        assert_eq!(kinds(&strange(day)), [Kind::Destination], "{day}");
    }
    assert_eq!(strange(15), Noted::default());
    // What is refused, never.
    let refused = |day| {
        let seen = seen("https://third.test", at(day, 10));
        worker.note(Some(&key), Seen { refused: true, ..seen })
    };
    assert!((16..60).all(|day| refused(day).unusual));
}

#[test]
fn a_word_makes_it_usual_at_once() {
    let all = Baselines::new(SETTINGS);
    let (agent, key) = (name("worker"), name("key"));
    let worker = all.of(&name("default"), &agent);
    for day in 0..8 {
        worker.note(Some(&key), seen("https://usual.test", at(day, 10)));
    }
    let strange = || worker.note(Some(&key), seen("https://other.test", at(8, 10)));
    assert!(strange().unusual);
    assert!(!all.accept((&name("default"), &name("nobody")), None));
    assert!(!all.accept((&name("default"), &agent), Some(&name("other"))));
    assert!(strange().unusual);
    assert!(all.accept((&name("default"), &agent), Some(&key)));
    assert_eq!(strange(), Noted::default());
}

#[test]
fn a_clock_that_is_set_ends_no_learning_and_begins_none() {
    let baseline = Baselines::new(SETTINGS).of(&name("default"), &name("worker"));
    let key = name("key");
    let note = |destination, at| baseline.note(Some(&key), seen(destination, at));
    assert_eq!(note("https://usual.test", at(0, 10)), Noted::default());
    // A year forward: that is one day more on which it was seen, and no week.
    assert_eq!(note("https://other.test", at(365, 10)), Noted::default());
    // Back again, and once it is learned no way back opens it.
    let learned = worker(8);
    assert!(learned.note(Some(&key), seen("https://other.test", at(-400, 10))).unusual);
    assert!(learned.note(Some(&key), seen("https://third.test", at(4000, 10))).unusual);
    assert_eq!(
        learned.note(Some(&key), seen("https://usual.test", at(4001, 10))),
        Noted::default()
    );
}

#[test]
fn a_flood_of_news_is_ten_records_and_bounded_memory() {
    let worker = worker(8);
    let key = name("key");
    let mut told = 0;
    for host in 0..10_000 {
        let destination = format!("https://{host}.test");
        let noted = worker.note(Some(&key), seen(&destination, at(8, 10)));
        told += noted.tell.iter().filter(|one| one.kind == Kind::Destination).count();
        assert!(noted.unusual);
    }
    assert!(told <= usize::from(TOLD_A_DAY), "{told}");
    assert_eq!(worker.note(Some(&key), seen("https://usual.test", at(9, 10))), Noted::default());
    let pairs = worker.pairs.lock();
    let kept = serde_json::to_string(&*pairs).unwrap();
    assert!(kept.len() < 8192, "{}", kept.len());
}

#[test]
fn who_goes_everywhere_has_no_habit_to_leave() {
    let baseline = Baselines::new(SETTINGS).of(&name("default"), &name("crawler"));
    for day in 0..8 {
        for host in 0..200 {
            let destination = format!("https://{day}-{host}.test");
            baseline.note(None, seen(&destination, at(day, 10)));
        }
    }
    assert_eq!(baseline.note(None, seen("https://new.test", at(8, 10))), Noted::default());
}

#[test]
fn bytes_are_told_of_when_they_have_passed() {
    let worker = worker(8);
    let key = name("key");
    for day in 8..10 {
        assert_eq!(worker.weigh(Some(&key), 1 << 20, at(day, 10)), Noted::default());
    }
    let much = worker.weigh(Some(&key), 1 << 30, at(10, 10));
    assert_eq!(kinds(&much), [Kind::Bytes]);
    // A rule that refuses what is unusual refuses the next request of that hour, and not of the next.
    let usual = seen("https://usual.test", at(10, 10));
    assert!(worker.note(Some(&key), Seen { refused: true, ..usual }).unusual);
    let later = Seen { refused: true, ..seen("https://usual.test", at(10, 11)) };
    assert!(!worker.note(Some(&key), later).unusual);
}

#[test]
fn what_was_kept_is_known_again() {
    let all = Baselines::new(SETTINGS);
    let (agent, key) = (name("worker"), name("key"));
    let worker = all.of(&name("default"), &agent);
    assert!(all.keep().is_none(), "nothing was noted");
    for day in 0..8 {
        worker.note(Some(&key), seen("https://usual.test", at(day, 10)));
    }
    worker.note(Some(&key), seen("https://other.test", at(8, 10)));
    let kept = all.keep().unwrap();
    assert!(all.keep().is_none(), "nothing was noted since");
    let text = serde_json::to_string(&kept).unwrap();
    let again = Baselines::new(SETTINGS);
    again.recall(serde_json::from_str(&text).unwrap());
    let worker = again.of(&name("default"), &agent);
    let noted = worker.note(Some(&key), seen("https://other.test", at(8, 11)));
    assert!(noted.unusual && noted.tell.is_empty(), "it was told of today");
    assert_eq!(worker.note(Some(&key), seen("https://usual.test", at(8, 11))), Noted::default());
    let shown: Vec<Shown> = kept[0].show().collect();
    assert_eq!(shown[0].destinations, ["https://usual.test"]);
    assert_eq!(shown[0].unusual, ["https://other.test"]);
    assert!(!shown[0].learning);
}

#[test]
fn networks_are_read_as_they_are_written() {
    for text in ["192.0.2.0/24", "2001:db8:1::/48", "unix:uid=1000", "unix"] {
        assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
    }
    for text in ["", "192.0.2.1", "unix:1", "unix:uid=x", "x/24"] {
        assert!(text.parse::<Network>().is_err(), "{text}");
    }
    let mapped: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
    assert_eq!(Network::from(mapped), HERE);
}
