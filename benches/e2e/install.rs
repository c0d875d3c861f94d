//! Peers that are not part of the repository: what is missing is installed under `target/`, once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Result;

/// Runs `install` in a directory of that name, unless it has done so with this recipe.
fn once(name: &str, recipe: &str, install: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers").join(name);
    let done = path.join(".installed");
    if fs::read_to_string(&done).is_ok_and(|there| there == recipe) {
        return Ok(path);
    }
    eprintln!("installing {name} ({recipe}) into {} ...", path.display());
    let _there_was_none = fs::remove_dir_all(&path);
    fs::create_dir_all(&path)?;
    install(&path)?;
    fs::write(&done, recipe)?;
    Ok(path)
}

/// A Python environment of its own with one package in it. Returns its directory.
pub(crate) fn python(name: &str, package: &str) -> Result<PathBuf> {
    once(name, package, |path| {
        run(Command::new("python3").args(["-m", "venv"]).arg(path))?;
        run(Command::new(path.join("bin/pip")).args(["install", "--quiet", package]))
    })
}

/// Packages of Debian, unpacked and not installed. Returns the root of what was in them.
pub(crate) fn debian(name: &str, packages: &[&str]) -> Result<PathBuf> {
    once(name, &packages.join(" "), |path| {
        let mut download = Command::new("apt-get");
        download.arg("download").args(packages).current_dir(path);
        if run(&mut download).is_err() {
            // A new machine has no list of packages yet, an old one an old list.
            run(Command::new("apt-get").args(["update", "-qq"]))?;
            run(&mut download)?;
        }
        for entry in fs::read_dir(path)? {
            let file = entry?.path();
            if file.extension().is_some_and(|e| e == "deb") {
                run(Command::new("dpkg").arg("-x").args([&file, path]))?;
                fs::remove_file(&file)?;
            }
        }
        Ok(())
    })
}

/// Runs a command that must succeed. What it prints is only for those who must mend it.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}\n{said}", output.status).into())
}
