//! A process under measurement: what it used is read from `/proc`, and it ends with its owner.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A child process that is ended when it goes out of use.
pub(crate) struct Process {
    child: Child,
    /// How long it may take to end by itself.
    patience: Duration,
}

/// CPU time of each thread, in nanoseconds.
///
/// `stat` would tell for the whole process, in steps of 10 ms, which is as much as a short run
/// uses in all. The scheduler's own figures are exact. A thread that ends in between takes its last
/// share with it; runtimes keep theirs.
pub(crate) struct Cpu(HashMap<String, u64>);

impl Cpu {
    /// What was used since `before`.
    pub(crate) fn since(&self, before: &Self) -> Duration {
        let used = self.0.iter().map(|(thread, now)| {
            now.saturating_sub(before.0.get(thread).copied().unwrap_or_default())
        });
        Duration::from_nanos(used.sum())
    }
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.stdin(Stdio::null()).spawn()?;
        Ok(Self { child, patience: Duration::from_millis(100) })
    }

    /// Gives it time to write down what it found: it is a profiler.
    pub(crate) fn be_patient(&mut self) {
        self.patience = Duration::from_mins(1);
    }

    /// The child itself, for its pipes.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Fails when the process has ended by itself.
    pub(crate) fn check(&mut self) -> io::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(io::Error::other(format!("the process ended with {status}"))),
        }
    }

    pub(crate) fn cpu(&self) -> io::Result<Cpu> {
        let mut threads = HashMap::new();
        for entry in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let entry = entry?;
            // A thread may end between the listing and the look.
            let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
            let used = text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default();
            threads.insert(entry.file_name().to_string_lossy().into_owned(), used);
        }
        Ok(Cpu(threads))
    }

    /// Resident memory now, in bytes.
    pub(crate) fn resident(&self) -> io::Result<u64> {
        self.status("VmRSS:")
    }

    /// The most there ever was, in bytes.
    pub(crate) fn peak(&self) -> io::Result<u64> {
        self.status("VmHWM:")
    }

    fn status(&self, field: &str) -> io::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let value = text.lines().find_map(|line| line.strip_prefix(field));
        let kibibytes = value.and_then(|v| v.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kibibytes.map(|k| k * 1024).ok_or_else(|| io::Error::other(format!("no {field} in status")))
    }
}

impl Drop for Process {
    /// Asks first. Nothing is lost by not waiting: what matters of a proxy's files is written before
    /// each call.
    fn drop(&mut self) {
        if let Some(id) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _asked = kill_process(id, Signal::TERM);
        }
        let deadline = Instant::now() + self.patience;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
