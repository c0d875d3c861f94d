//! The lines of `locum env`, for a shell to evaluate.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::{EnvironmentError, Plan, is_identifier};

/// Whose syntax `locum env` speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// Any POSIX shell: sh, dash, bash, zsh.
    Sh,
    /// fish.
    Fish,
    /// PowerShell.
    PowerShell,
}

/// The plan as lines that a shell can evaluate: removals first, one variable a line.
///
/// # Errors
/// When a value is not UTF-8, which only an inherited value or a path can be.
pub fn shell_exports(plan: &Plan, shell: Shell) -> Result<String, EnvironmentError> {
    let mut lines = String::new();
    // An inherited name may be anything; one that is no identifier cannot be a shell's variable,
    // and would be evaluated as something else.
    for name in plan.remove.iter().filter(|name| is_identifier(name)) {
        shell.unset(&mut lines, name);
    }
    for (name, value) in &plan.set {
        let value =
            value.to_str().ok_or_else(|| EnvironmentError::NotUtf8 { name: name.clone() })?;
        shell.export(&mut lines, name, value);
    }
    Ok(lines)
}

impl Shell {
    fn unset(self, lines: &mut String, name: &str) {
        lines.push_str(match self {
            Self::Sh => "unset ",
            Self::Fish => "set -e ",
            Self::PowerShell => "Remove-Item -ErrorAction SilentlyContinue Env:",
        });
        lines.push_str(name);
        lines.push('\n');
    }

    fn export(self, lines: &mut String, name: &str, value: &str) {
        let quoted = self.quote(value);
        // Writing to a `String` cannot fail.
        let _ = match self {
            Self::Sh => writeln!(lines, "export {name}='{quoted}'"),
            Self::Fish => writeln!(lines, "set -gx {name} '{quoted}'"),
            Self::PowerShell => writeln!(lines, "$env:{name} = '{quoted}'"),
        };
    }

    /// What goes between single quotes.
    fn quote(self, value: &str) -> Cow<'_, str> {
        match self {
            Self::Sh => value.replace('\'', r"'\''").into(),
            Self::Fish => value.replace('\\', r"\\").replace('\'', r"\'").into(),
            // PowerShell takes the typographic ones for quotes as well.
            Self::PowerShell => {
                let is_quote = |one: char| matches!(one, '\'' | '\u{2018}'..='\u{201b}');
                let twice = |one| {
                    if is_quote(one) { vec![one, one] } else { vec![one] }
                };
                value.chars().flat_map(twice).collect()
            }
        }
    }
}
