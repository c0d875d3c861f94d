//! `kill -9` at points that are drawn from a seed.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long one of these tests may go on, however slow the machine.
pub const KILLING_TIME: Duration = Duration::from_secs(30);

/// Whether there is to be another kill, of `most` in all: until the time is up. `LOCUM_TEST_KILLS` has it go on to so
/// many, however long that takes.
pub fn another(kills: u32, most: u32, start: Instant) -> bool {
    match std::env::var("LOCUM_TEST_KILLS") {
        Ok(wanted) => kills < wanted.parse().unwrap(),
        Err(_) => kills < most && start.elapsed() < KILLING_TIME,
    }
}

/// A small generator (xorshift64*), so that a seed says all.
pub struct Dice {
    pub seed: u64,
    state: u64,
}

impl Dice {
    pub fn new() -> Self {
        let given = std::env::var("LOCUM_TEST_SEED").ok().map(|s| s.parse().unwrap());
        let seed = given.unwrap_or_else(|| {
            let mut bytes = [0; 8];
            getrandom::fill(&mut bytes).unwrap();
            u64::from_ne_bytes(bytes) | 1
        });
        Self { seed, state: seed }
    }

    pub fn roll(&mut self, sides: u64) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) % sides
    }

    pub fn time(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.roll(u64::try_from(most.as_micros()).unwrap().max(1)))
    }
}

/// Starts a command and kills it after so long; whether it had succeeded by then.
pub fn killed(mut command: Command, input: &str, after: Duration) -> bool {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().unwrap();
    // One that is killed early does not read its input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    std::thread::sleep(after.saturating_sub(start.elapsed()));
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    let by_itself = output.status.code().is_some();
    assert!(output.status.success() || !by_itself, "it failed by itself: {err}");
    output.status.success()
}

pub fn took(command: impl FnOnce()) -> Duration {
    let start = Instant::now();
    command();
    start.elapsed()
}

/// How long a command takes just now. What it took once says little of a machine that has other things to
/// do: each that ends before it is killed makes this less, each that does not makes it more.
pub struct Aim(Duration);

impl Aim {
    pub fn at(usual: Duration) -> Self {
        Self(usual)
    }

    pub fn usual(&self) -> Duration {
        self.0
    }

    pub fn learn(&mut self, too_late: bool) {
        let twentieth = (self.0 / 20).max(Duration::from_micros(100));
        self.0 = if too_late { self.0.saturating_sub(twentieth) } else { self.0 + twentieth };
    }
}

/// Kills `command` at points drawn over all of its time until the time is up; `check` is told the
/// round, and whether it had succeeded by then.
pub fn kill_again_and_again(
    usual: Duration,
    mut command: impl FnMut(u32) -> Command,
    mut check: impl FnMut(u32, &str, bool),
) {
    let (mut dice, mut aim) = (Dice::new(), Aim::at(usual));
    let (start, mut kills, mut done) = (Instant::now(), 0, 0);
    while another(kills, 150, start) {
        let round = format!("kill {kills} of seed {}", dice.seed);
        let usual = aim.usual();
        // Most of them where files are written, and not while the program starts.
        let from = if dice.roll(4) == 0 { Duration::ZERO } else { usual / 3 };
        let after = from + dice.time((usual * 4 / 3).saturating_sub(from));
        let acknowledged = killed(command(kills), "", after);
        aim.learn(acknowledged);
        check(kills, &round, acknowledged);
        kills += 1;
        done += u32::from(acknowledged);
    }
    assert!(kills >= 20, "too slow a machine to say anything: {kills} kills");
    assert!(done < kills, "all kills came too late: {done} of {kills}");
    eprintln!("{kills} kills, {done} of them too late");
}
