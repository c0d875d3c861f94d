//! A proxy whose system clock is set by the test, while it runs: Debian's libfaketime. The monotonic
//! clock goes on as ever, as it does when a real one is set.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Home, Ran, Serve, Tools, run};

/// A clock for the processes of one home.
pub struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// One that shows the real time still.
    #[track_caller]
    pub fn new(home: &Home) -> Self {
        let package = Tools::debian("libfaketime", &["libfaketime"]);
        let machine = format!("{}-linux-gnu", std::env::consts::ARCH);
        let library = format!("usr/lib/{machine}/faketime/libfaketimeMT.so.1");
        let clock = Self { library: package.program(&library), file: home.work().join("clock") };
        clock.set("+0s");
        clock
    }

    /// Sets it to so far from the real time: `+3h`, `-2d`. In force when this returns.
    #[track_caller]
    pub fn set(&self, offset: &str) {
        let beside = self.file.with_extension("new");
        std::fs::write(&beside, format!("{offset}\n")).unwrap();
        std::fs::rename(&beside, &self.file).unwrap();
    }

    /// Has a process look at it.
    pub fn show_to<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("NO_FAKE_STAT", "1")
    }

    /// Starts the proxy of a home with it.
    #[track_caller]
    pub fn serve(&self, home: &Home) -> Serve {
        let mut command = home.command(&["serve"]);
        Serve::start_as(home, self.show_to(command.stdin(Stdio::null())))
    }

    /// Runs `locum` to its end with it.
    #[track_caller]
    pub fn locum(&self, home: &Home, arguments: &[&str]) -> Ran {
        let ran = run(self.show_to(&mut home.command(arguments)), b"");
        home.said(&ran);
        ran
    }
}
