//! Writing the files of a plan, each whole or not at all.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::{Plan, PlannedFile};

/// Writes the files of the plan, each whole or not at all. A directory that is missing is made for
/// the owner alone.
///
/// # Errors
/// When a file cannot be written, or others could write to its directory.
pub fn write_files(plan: &Plan) -> io::Result<()> {
    plan.files.iter().try_for_each(write_file)
}

/// Writes one file: into a new one beside it, created with the mode it will have, which then takes
/// its place. A reader finds the old contents or the new; a symbolic link is replaced, not
/// followed.
fn write_file(file: &PlannedFile) -> io::Result<()> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot write {}: {error}", file.path.display()))
    };
    let directory = file.path.parent().ok_or_else(|| named(io::ErrorKind::InvalidInput.into()))?;
    private_directory(directory)?;
    let temporary =
        directory.join(format!(".locum-{:016x}", getrandom::u64().map_err(io::Error::other)?));
    let written = create(&temporary, file).and_then(|()| fs::rename(&temporary, &file.path));
    if written.is_err() {
        // What is reported is why it failed, not that something was left.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(named)
}

fn create(path: &Path, file: &PlannedFile) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut created = options.write(true).create_new(true).mode(file.mode).open(path)?;
    created.write_all(&file.contents)?;
    // Else a crash soon after the rename could leave the name with nothing in it.
    created.sync_all()
}

fn private_directory(path: &Path) -> io::Result<()> {
    let named = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("cannot use the directory {}: {error}", path.display()),
        )
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(named)?;
    let mode = fs::metadata(path).map_err(named)?.permissions().mode();
    if mode & 0o022 != 0 {
        let advice = io::Error::new(
            io::ErrorKind::PermissionDenied,
            "other users can write to it, so they could replace the certificates that clients \
             trust; run chmod go-w on it",
        );
        return Err(named(advice));
    }
    Ok(())
}
