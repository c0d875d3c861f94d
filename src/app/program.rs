//! Programs that print a secret: a client of a manager of secrets, asked for a key.
//!
//! They are started without a shell, read nothing, and what they print goes into memory that is wiped.
//! What they say on standard error goes to ours: it is for the operator, and is never read here.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::Failure;

/// The most that a program may print, in bytes: a key with words around it is far shorter.
const LIMIT: usize = 64 * 1024;

/// What the program printed, once it has ended well and within `time`.
///
/// # Errors
/// When it cannot be started, fails, prints too much or takes too long. None says what it printed.
pub(super) fn output(words: &[String], time: Duration) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(Failure::usage("a command without a program"));
    };
    let failed = |what: String| Failure::new(format!("{program}: {what}"));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| failed(format!("it could not be started: {e}")))?;
    let printed = printed(&mut child, time).ok_or_else(|| {
        // Gone, or not to be helped; what it has started may go on without a reader.
        let _ = child.kill();
        failed(format!("it did not end within {} s", time.as_secs()))
    });
    let status = child.wait();
    let printed = printed?.map_err(|e| failed(format!("its output could not be read: {e}")))?;
    match status {
        // First, because its end is then of a broken pipe.
        _ if printed.len() > LIMIT => Err(failed(format!("it printed over {LIMIT} bytes"))),
        Ok(status) if !status.success() => Err(failed(format!("it failed ({status})"))),
        Err(error) => Err(failed(error.to_string())),
        Ok(_) => Ok(printed),
    }
}

/// All of its output; none when it is not closed in time.
fn printed(child: &mut Child, time: Duration) -> Option<std::io::Result<Zeroizing<Vec<u8>>>> {
    let pipe = child.stdout.take()?;
    let (send, receive) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        // Of full size from the start, so that no outgrown copy stays in memory.
        let mut bytes = Zeroizing::new(Vec::with_capacity(LIMIT + 1));
        let read = pipe.take(LIMIT as u64 + 1).read_to_end(&mut bytes);
        // Nobody waits any more: then it is wiped here.
        let _late = send.send(read.map(|_| bytes));
    });
    receive.recv_timeout(time).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, time: Duration) -> Result<String, Failure> {
        let words = ["/bin/sh", "-c", script].map(ToOwned::to_owned);
        output(&words, time).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn what_is_printed_is_read_and_failures_say_nothing_of_it() {
        let long = Duration::from_secs(30);
        assert_eq!(shell("printf key; echo hint >&2", long).unwrap(), "key");
        let failure = shell("printf key; exit 3", long).unwrap_err().to_string();
        assert!(failure.contains("exit status: 3") && !failure.contains("key"), "{failure}");
        let failure = shell("head -c 70000 /dev/zero", long).unwrap_err().to_string();
        assert!(failure.contains("over 65536 bytes"), "{failure}");
        let none = output(&["/no/such/program".to_owned()], long).unwrap_err();
        assert!(none.to_string().contains("could not be started"), "{none}");
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let begun = std::time::Instant::now();
        let failure = shell("exec sleep 60", Duration::from_millis(50)).unwrap_err();
        assert!(failure.to_string().contains("did not end"), "{failure}");
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
