//! Processes under measurement: what they used is read from `/proc`, for them and all their
//! descendants, and they end with their owner.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Result;

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
        Ok(Self { child: command.spawn()?, patience: Duration::from_millis(100) })
    }

    /// Gives it time to write down what it found: it is a profiler.
    pub(crate) fn be_patient(&mut self) {
        self.patience = Duration::from_mins(1);
    }

    /// Fails when the process has ended by itself.
    pub(crate) fn check(&mut self) -> io::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(io::Error::other(format!("the process ended with {status}"))),
        }
    }

    /// The process and its descendants: some proxies have helpers that make certificates.
    fn tree(&self) -> io::Result<Vec<u32>> {
        let mut children = HashMap::<u32, Vec<u32>>::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) else { continue };
            // The name before it stands in parentheses, and may have some itself.
            let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
            if let Some(parent) = parent.and_then(|parent| parent.parse().ok()) {
                children.entry(parent).or_default().push(id);
            }
        }
        let mut tree = vec![self.child.id()];
        let mut at = 0;
        while let Some(id) = tree.get(at) {
            tree.extend(children.remove(id).unwrap_or_default());
            at += 1;
        }
        Ok(tree)
    }

    pub(crate) fn cpu(&self) -> io::Result<Cpu> {
        let mut threads = HashMap::new();
        for id in self.tree()? {
            // What is listed may have ended before the look.
            let Ok(tasks) = fs::read_dir(format!("/proc/{id}/task")) else { continue };
            for entry in tasks {
                let entry = entry?;
                let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
                let used = text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default();
                threads.insert(entry.file_name().to_string_lossy().into_owned(), used);
            }
        }
        Ok(Cpu(threads))
    }

    /// Resident memory now, in bytes.
    pub(crate) fn resident(&self) -> io::Result<u64> {
        self.sum("VmRSS:")
    }

    /// The most there ever was, in bytes.
    pub(crate) fn peak(&self) -> io::Result<u64> {
        self.sum("VmHWM:")
    }

    fn sum(&self, field: &str) -> io::Result<u64> {
        let mut sum = 0;
        for id in self.tree()? {
            let Ok(text) = fs::read_to_string(format!("/proc/{id}/status")) else { continue };
            let value = text.lines().find_map(|line| line.strip_prefix(field));
            let kibibytes = value.and_then(|v| v.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            sum += kibibytes.unwrap_or_default() * 1024;
        }
        match sum {
            0 => Err(io::Error::other(format!("no {field} in status"))),
            sum => Ok(sum),
        }
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

/// This very program in another part, which answers lines with lines.
pub(crate) struct Talking {
    pub(crate) process: Process,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Talking {
    /// Starts it. Returns what it says first, too.
    pub(crate) fn start(arguments: &[&str]) -> Result<(Self, String)> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(&mut command)?;
        let input = process.child.stdin.take().ok_or("it has no input")?;
        let output = process.child.stdout.take().ok_or("it has no output")?;
        let mut talking = Self { process, input, output: BufReader::new(output) };
        let first = talking.hear()?;
        Ok((talking, first))
    }

    pub(crate) fn ask(&mut self, question: &str) -> Result<String> {
        writeln!(self.input, "{question}")?;
        self.hear()
    }

    fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line)
    }
}
