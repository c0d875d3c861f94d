//! A home, the commands on it, and the search for what must not be there.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use data_encoding::{BASE64, BASE64_NOPAD, HEXLOWER, HEXUPPER};
use serde_json::Value;

/// Generous: the machines of a CI are shared.
const PATIENCE: Duration = Duration::from_mins(1);

/// A home of its own, in a directory that is removed.
pub(crate) struct Home {
    directory: tempfile::TempDir,
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Home {
    /// A directory without a home in it.
    pub(crate) fn missing() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn new() -> Self {
        let home = Self::missing();
        home.ok(&["init", "--strict"]);
        home
    }

    /// With free ports and without operations, for a proxy.
    pub(crate) fn for_a_proxy() -> Self {
        let home = Self::new();
        home.write("locum.yaml", "proxy: {listen: [\"127.0.0.1:0\"]}\nops: {listen: off}\n");
        home
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    /// A file of the home.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// A file beside the home.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).unwrap();
        set_mode(&self.file(name), 0o600);
    }

    /// A command with nothing of this process's environment.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_locum"));
        command
            .args(args)
            .env_clear()
            .env("LOCUM_HOME", self.path())
            .env("USER", "tester")
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::of(&mut self.command(args), &[])
    }

    pub(crate) fn run_with(&self, args: &[&str], stdin: &[u8]) -> Ran {
        Ran::of(&mut self.command(args), stdin)
    }

    /// Runs a command that must succeed.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
        ran.out
    }

    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let out = self.ok(args);
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{args:?}: {e}: {out}"))
    }

    #[track_caller]
    pub(crate) fn add_credential(&self, name: &str, secret: &str) {
        let args =
            ["credential", "add", name, "--to", "https://api.test", "--header", "x-key: {secret}"];
        let ran = self.run_with(&args, secret.as_bytes());
        assert_eq!(ran.code, 0, "{ran:?}");
    }

    /// The names of the credentials.
    pub(crate) fn credentials(&self) -> Vec<String> {
        let all = self.json(&["credential", "list", "--json"]);
        let names = all.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_owned());
        names.collect()
    }

    /// Every file of the home and beside it, with its contents.
    pub(crate) fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = Vec::new();
        let mut open = vec![self.directory.path().to_owned()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    files.push((path.clone(), fs::read(&path).unwrap_or_default()));
                }
            }
        }
        files
    }

    /// The secret is in no file, in no encoding.
    #[track_caller]
    pub(crate) fn assert_nowhere(&self, secret: &str) {
        for (path, contents) in self.files() {
            assert_not_in(secret, &contents, &path.display().to_string());
        }
    }
}

impl Ran {
    pub(crate) fn of(command: &mut Command, stdin: &[u8]) -> Self {
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        // It may end without having read it.
        let _ = input.write_all(stdin);
        drop(input);
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code().unwrap_or(-1),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    /// The command failed so, and said that.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, said: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        for text in said {
            assert!(self.err.contains(text), "no `{text}` in: {}", self.err);
        }
        assert!(!self.err.contains("panicked"), "{}", self.err);
    }
}

/// The encodings in which a secret is still one. Base64 without the characters that depend on what
/// stands around it.
#[track_caller]
pub(crate) fn assert_not_in(secret: &str, contents: &[u8], place: &str) {
    let bytes = secret.as_bytes();
    let mut forms = vec![
        bytes.to_vec(),
        HEXLOWER.encode(bytes).into_bytes(),
        HEXUPPER.encode(bytes).into_bytes(),
        BASE64.encode(bytes).into_bytes(),
        bytes.iter().rev().copied().collect(),
    ];
    for before in 0..3 {
        let padded = [&[0; 2][..before], bytes].concat();
        let text = BASE64_NOPAD.encode(&padded).into_bytes();
        forms.push(text[(before * 8).div_ceil(6)..padded.len() * 8 / 6].to_vec());
    }
    for form in forms {
        let found = contents.windows(form.len()).any(|window| window == form);
        assert!(!found, "{place} has the secret as {}", form.escape_ascii());
    }
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A command that was killed, at a time of nobody's choosing. True when it had ended by itself.
pub(crate) fn kill_after(command: &mut Command, after: Duration) -> bool {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(after);
    let ended = child.try_wait().unwrap().is_some();
    let _ = child.kill();
    child.wait().unwrap();
    ended
}

/// A proxy that serves a home. Killed on drop.
pub(crate) struct Proxy {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Proxy {
    pub(crate) fn start(home: &Home) -> Self {
        let mut command = home.command(&["serve"]);
        // Ended by its owner's drop, or with the test that panics below.
        #[allow(clippy::zombie_processes)]
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Killed on drop from here on, also when it does not start.
        let mut proxy = Self { child, address: ([0, 0, 0, 0], 0).into() };
        let start = Instant::now();
        while proxy.address.port() == 0 {
            assert!(start.elapsed() < PATIENCE, "the proxy does not start");
            std::thread::sleep(Duration::from_millis(20));
            let announced = fs::read(home.file("serve.json")).unwrap_or_default();
            let announced: Value = serde_json::from_slice(&announced).unwrap_or_default();
            if announced["pid"] == proxy.child.id() {
                proxy.address = announced["proxy"][0].as_str().unwrap().parse().unwrap();
            }
        }
        proxy
    }

    /// Sends one request as an agent, and gives the status line of the answer.
    pub(crate) fn get(&self, agent: &str, token: &str, url: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let basic = BASE64.encode(format!("{agent}:{token}").as_bytes());
        let host = url.split('/').nth(2).unwrap();
        let head = format!(
            "GET {url} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Basic {basic}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        // An end without a close_notify or the like is as good.
        let _ = stream.read_to_string(&mut answer);
        answer.lines().next().unwrap_or_default().to_owned()
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
