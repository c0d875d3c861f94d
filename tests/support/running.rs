//! A program that is listened to while it runs.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use super::{PATIENCE, Ran, eventually};

/// A program whose lines are read as it prints them. It is killed when this is dropped.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    out: String,
    err: Option<JoinHandle<String>>,
}

impl Running {
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let (send, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let mut err = child.stderr.take().unwrap();
        let err = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = err.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Self { child, lines, out: String::new(), err: Some(err) }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The rest of the next line, which must start so.
    #[track_caller]
    pub fn line(&mut self, start: &str) -> String {
        let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
            let _ = self.child.kill();
            let err = self.err.take().unwrap().join().unwrap();
            panic!("no line {start:?}; it printed: {}\n{err}", self.out);
        };
        self.out.push_str(&line);
        self.out.push('\n');
        let rest = line.strip_prefix(start);
        rest.unwrap_or_else(|| panic!("{line:?} does not start with {start:?}")).to_owned()
    }

    /// The rest of the first line that starts so; those before it are passed over. May take as long
    /// as whole suites take.
    #[track_caller]
    pub fn last_line(&mut self, start: &str) -> String {
        let deadline = Instant::now() + 20 * PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                let _ = self.child.kill();
                let err = self.err.take().unwrap().join().unwrap();
                panic!("no line {start:?}; it printed: {}\n{err}", self.out);
            };
            self.out.push_str(&line);
            self.out.push('\n');
            if let Some(rest) = line.strip_prefix(start) {
                return rest.to_owned();
            }
        }
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(mut self) -> Ran {
        use std::os::unix::process::ExitStatusExt as _;
        let status = eventually("the program's end", PATIENCE, || self.child.try_wait().unwrap());
        let mut out = std::mem::take(&mut self.out);
        for line in &self.lines {
            out.push_str(&line);
            out.push('\n');
        }
        let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap();
        Ran { code, out, err: self.err.take().unwrap().join().unwrap() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
