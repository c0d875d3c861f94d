//! What is to be rotated is told of as its day comes near, in the measure of its interval, and more than once.

use serde_json::Value;

use crate::support::*;

#[test]
fn a_short_schedule_is_reminded_of_in_its_last_half_and_not_from_its_first_day_on() {
    let mut world = World::new();
    let clock = Clock::new(&world.home);
    world.serve.terminate();
    assert!(world.serve.ended(PATIENCE).success());
    world.serve = clock.serve(&world.home);
    let home = &world.home;
    home.locum(&["credential", "schedule", "main", "--rotate-every", "14d"]).ok();
    let metric = "locum_credential_reminder_timestamp_seconds{credential=\"main\"}";
    let told_from = eventually("its date is known", PATIENCE, || {
        let metrics = world.serve.metrics();
        let line = metrics.lines().find_map(|line| line.strip_prefix(metric));
        line.map(|value| value.trim().parse::<f64>().unwrap())
    });
    let now = jiff::Timestamp::now().as_second() as f64;
    assert!((told_from - now - 7.0 * 86_400.0).abs() < 3600.0, "{told_from} at {now}");
    let mut agents = 0..;
    let mut told = |offset: &str, count: usize| -> Vec<Value> {
        clock.set(offset);
        // Dates are looked at once a minute, and when the vault has changed.
        let name = format!("agent-{}", agents.next().unwrap());
        home.locum(&["agent", "add", &name]).ok();
        eventually(&format!("{count} reminders at {offset}"), PATIENCE, || {
            let agent_is_known = home.audit_now().iter().any(|r| r["subject"] == name.as_str());
            let mut all = home.audit_now();
            all.retain(|r| r["event"].as_str().is_some_and(|e| e.starts_with("rotation-")));
            (agent_is_known && all.len() >= count).then_some(all)
        })
    };
    // Half an hour later than whole days: no second of a slow machine makes another number.
    // Had it been told of at once, there would be one more each time.
    assert_eq!(told("+8670m", 0).len(), 0);
    let shown = |records: &[Value]| {
        let last = records.last().unwrap();
        (last["event"].clone(), last["detail"].clone())
    };
    let soon = told("+11550m", 1);
    assert_eq!(soon.len(), 1, "{soon:?}");
    assert_eq!(
        shown(&soon),
        ("rotation-due".into(), "due in 5 days; its secret is 8 days old".into())
    );
    let near = told("+18750m", 2);
    assert_eq!(near.len(), 2, "{near:?}");
    assert_eq!(
        shown(&near),
        ("rotation-due".into(), "due in 23 hours; its secret is 13 days old".into())
    );
    let over = told("+21630m", 3);
    assert_eq!(
        shown(&over),
        ("rotation-overdue".into(), "due 1 day ago; its secret is 15 days old".into())
    );
    clock.set("+0s");
    // The secret opens as before: what is said of a credential is sealed with it.
    assert_eq!(world.get("/v1/x").status, 200);
}
