//! Programs that are not part of the repository: made once under `target/`, by the test itself.

use std::ffi::OsString;
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

    /// A pip, which installs for other Pythons too.
    #[track_caller]
    pub fn pip() -> PathBuf {
        let tools = Self::install("pip", "pip>=22.3", |path| {
            command_output(Command::new("python3").args(["-m", "venv"]).arg(path));
            // The first that does that.
            let mut own = Command::new(path.join("bin/pip"));
            command_output(own.args(["install", "--quiet", "pip>=22.3"]));
        });
        tools.path.join("bin/pip")
    }

    /// The same under a name of its own, so that two lists of packages do not replace each other.
    #[track_caller]
    pub fn python_as(name: &str, packages: &[&str]) -> Self {
        // One pip for all of them, and no bytecode of modules that nobody imports: that is most of the time.
        let pip = Self::pip();
        Self::install(name, &packages.join("\n"), |path| {
            let mut venv = Command::new("python3");
            command_output(venv.args(["-m", "venv", "--without-pip"]).arg(path));
            let mut install = Command::new(pip);
            install.arg("--python").arg(path.join("bin/python"));
            install.args(["install", "--quiet", "--no-compile"]).args(packages);
            command_output(&mut install);
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

    /// The program of a package beside the tests, built as its lock says. Unoptimised: it is built
    /// more often than run.
    #[track_caller]
    pub fn built(name: &str, package: &Path) -> PathBuf {
        let read = |file: &str| std::fs::read_to_string(package.join(file)).unwrap();
        let recipe = [read("Cargo.toml"), read("Cargo.lock"), read("src/main.rs")].concat();
        let tools = Self::install(name, &recipe, |path| {
            let build = path.join("build");
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["install", "--locked", "--debug", "--quiet", "--path"]).arg(package);
            cargo.arg("--root").arg(path).arg("--target-dir").arg(&build);
            command_output(&mut cargo);
            std::fs::remove_dir_all(build).unwrap();
        });
        tools.path.join("bin").join(name)
    }

    /// `promtool`, out of Debian's `prometheus` package, which is not installed for it.
    #[track_caller]
    pub fn promtool() -> PathBuf {
        Self::install("prometheus", "Debian's", |path| unpack(path, &["prometheus".to_owned()]))
            .path
            .join("usr/bin/promtool")
    }

    /// `slowhttptest`, which holds connections open by being slow.
    #[track_caller]
    pub fn slowhttptest() -> Command {
        let tools = Self::debian("slowhttptest", &["slowhttptest"]);
        // It asks its sockets in a loop that never sleeps: of two cores one, which no attacker takes
        // from the machine that he attacks.
        let mut command = Command::new("nice");
        command.args(["-n", "5"]).arg(tools.program("usr/bin/slowhttptest"));
        command.env("LD_LIBRARY_PATH", tools.libraries());
        command
    }

    /// Programs of Debian, with the libraries that this machine does not have; none of it is
    /// installed for that.
    #[track_caller]
    pub fn debian(name: &str, packages: &[&str]) -> Debian {
        let recipe = packages.join("\n");
        let tools = Self::install(name, &recipe, |path| {
            refresh_lists();
            let mut plan = Command::new("apt-get");
            plan.args(["install", "--simulate", "--no-install-recommends"]).args(packages);
            let plan = command_output(&mut plan);
            let missing = plan.lines().filter_map(|line| line.strip_prefix("Inst "));
            let missing = missing.filter_map(|line| line.split(' ').next());
            let mut missing: Vec<String> = missing.map(str::to_owned).collect();
            // What is installed already is wanted here as well: its place is then the same everywhere.
            missing.extend(packages.iter().map(|&package| package.to_owned()));
            missing.sort();
            missing.dedup();
            unpack(path, &missing);
        });
        Debian { root: tools.path }
    }
}

/// Unpacked packages of Debian.
pub struct Debian {
    root: PathBuf,
}

impl Debian {
    /// A program of theirs, by its path from the root: `usr/bin/nghttp`.
    pub fn program(&self, path: &str) -> PathBuf {
        let program = self.root.join(path);
        assert!(program.exists(), "{} is not in the package", program.display());
        program
    }

    /// The value of `LD_LIBRARY_PATH` with which they find their libraries.
    pub fn libraries(&self) -> OsString {
        let mut directories = Vec::new();
        find_libraries(&self.root.join("usr/lib"), &mut directories);
        std::env::join_paths(directories).unwrap()
    }
}

fn find_libraries(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    let mut has_one = false;
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find_libraries(&path, found);
        }
        has_one |= path.file_name().unwrap().to_string_lossy().contains(".so");
    }
    if has_one {
        found.push(directory.to_owned());
    }
}

/// A new machine has no list of packages yet, and an old one names versions that are gone.
fn refresh_lists() {
    command_output(Command::new("apt-get").args(["update", "-qq"]));
}

/// Downloads packages and unpacks them into a directory.
fn unpack(path: &Path, packages: &[String]) {
    let mut download = Command::new("apt-get");
    download.args(["download", "-qq"]).args(packages).current_dir(path);
    if !download.output().is_ok_and(|output| output.status.success()) {
        refresh_lists();
        command_output(&mut download);
    }
    for entry in std::fs::read_dir(path).unwrap() {
        let package = entry.unwrap().path();
        if package.extension().is_some_and(|e| e == "deb") {
            command_output(Command::new("dpkg").arg("-x").arg(&package).arg(path));
            std::fs::remove_file(package).unwrap();
        }
    }
}
