//! Programs that are not part of the repository: made once under `target/`, by the test itself.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use data_encoding::BASE64;

/// The value of a Basic header.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{password}").as_bytes()))
}

/// Percent-encodes all that is not unreserved.
pub fn percent(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// The standard output of a command that must succeed.
#[track_caller]
pub fn command_output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{err}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A directory under `target/` that holds installed programs.
pub struct Tools {
    pub path: PathBuf,
}

impl Tools {
    /// Installs once, however many tests ask at the same time: the lock is the operating system's, so
    /// it holds between processes and is let go when one dies. `recipe` names what is installed; a
    /// new recipe installs anew. An installation that fails is a failure of the test.
    #[track_caller]
    pub fn install(name: &str, recipe: &str, install: impl FnOnce(&Path)) -> Self {
        let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tools");
        std::fs::create_dir_all(&all).unwrap();
        let lock = File::create(all.join(format!("{name}.lock"))).unwrap();
        lock.lock().unwrap();
        let path = all.join(name);
        let done = path.join(".installed");
        if std::fs::read_to_string(&done).is_ok_and(|there| there == recipe) {
            return Self { path };
        }
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        install(&path);
        std::fs::write(&done, recipe).unwrap();
        Self { path }
    }

    /// A Python with these packages.
    #[track_caller]
    pub fn python(packages: &[&str]) -> Self {
        Self::python_as("python", packages)
    }

    /// The same under a name of its own, so that two lists of packages do not replace each other.
    #[track_caller]
    pub fn python_as(name: &str, packages: &[&str]) -> Self {
        Self::install(name, &packages.join("\n"), |path| {
            command_output(Command::new("python3").args(["-m", "venv"]).arg(path));
            let pip = path.join("bin/pip");
            command_output(Command::new(pip).args(["install", "--quiet"]).args(packages));
        })
    }

    /// A directory whose `node_modules` has these packages.
    #[track_caller]
    pub fn node(packages: &[&str]) -> Self {
        Self::node_as("node", packages)
    }

    /// The same under a name of its own.
    #[track_caller]
    pub fn node_as(name: &str, packages: &[&str]) -> Self {
        Self::install(name, &packages.join("\n"), |path| {
            std::fs::write(path.join("package.json"), "{\"private\": true}").unwrap();
            let mut npm = Command::new("npm");
            npm.args(["install", "--no-audit", "--no-fund", "--silent"]).args(packages);
            command_output(npm.current_dir(path));
        })
    }

    /// `promtool`, out of Debian's `prometheus` package, which is not installed for it.
    #[track_caller]
    pub fn promtool() -> PathBuf {
        let tools = Self::install("prometheus", "Debian's", |path| {
            let mut download = Command::new("apt-get");
            download.args(["download", "prometheus"]).current_dir(path);
            if !download.output().is_ok_and(|output| output.status.success()) {
                // A new machine has no list of packages yet.
                command_output(Command::new("apt-get").args(["update", "-qq"]));
                command_output(&mut download);
            }
            let package = std::fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .find(|path| path.extension().is_some_and(|e| e == "deb"))
                .expect("apt-get has put the package here");
            command_output(Command::new("dpkg").arg("-x").arg(package).arg(path));
        });
        tools.path.join("usr/bin/promtool")
    }
}
