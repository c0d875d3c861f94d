//! `locum vault`: what the credentials are kept in.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::output::{self, Table, counted};
use crate::app::{
    Accept, Failure, Home, NewKey, Opened, Recovered, Restored, key_described, make_recovery,
    recover, rekey, restore, restore_by_key,
};
use crate::config::{self, Passphrase};
use crate::secret::Secret;
use crate::vault::{FORMAT, MAX_SHARES, OldRuns, Vault};

/// Subcommands of `locum vault`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Show where the vault is, what opens it, and what is in it
    #[command(after_help = "Example:\n  locum vault status --verify")]
    Status {
        /// Open every sealed row too, and check the whole journal
        #[arg(long)]
        verify: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give the vault another master key; a running proxy goes on
    #[command(
        after_help = "Example:\n  locum vault rekey\n  locum vault rekey --passphrase-file /run/secrets/passphrase\n  locum vault rekey -- /usr/bin/pass show locum/master-key\n  locum vault rekey --transit https://bao.internal:8200 --transit-key locum --transit-login token-file:/run/bao/token\n  locum vault rekey --kms alias/locum --kms-region eu-west-1 --kms-login instance\n\nThe old key file is gone afterwards. Backups made before open with the old key only: keep a copy of it with them."
    )]
    Rekey(Rekey),
    /// Give the vault new data keys: every secret is sealed anew, while a running proxy goes on
    #[command(
        after_help = "Example:\n  locum vault rotate\n  locum vault rekey && locum vault rotate --end-run-tokens\n  locum --workspace team-b vault rotate\n\nThe second is for a master key that somebody else may have: `rekey` alone leaves the data keys that it opened. Agents' tokens stay good; secrets that were seen are to be changed at their providers."
    )]
    Rotate {
        /// End all run tokens that were signed before; without it they are good until they expire
        #[arg(long)]
        end_run_tokens: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Copy the vault to a new file, as it is at this moment, sealed as a whole
    #[command(
        after_help = "Example:\n  locum vault backup /mnt/backup/vault-$(date +%F).locum\n\nIt opens with the master key of today: keep that too, elsewhere. Every seal and MAC of the copy is checked before it gets its name."
    )]
    Backup {
        /// The new file
        file: PathBuf,
        /// The database itself: secrets are sealed in it, names and destinations can be read
        #[arg(long)]
        plain: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make shares for people to keep, some of which open the vault when its key is lost
    #[command(
        after_help = "Example:\n  locum vault recovery --threshold 2 --shares 3\n\nEach share is printed once, and kept nowhere. A new set ends the one before for what is sealed from then on; `locum vault rekey` after it ends it for the vault as it is."
    )]
    Recovery {
        /// How many shares open the vault
        #[arg(long, value_name = "K", value_parser = clap::value_parser!(u8).range(2..=i64::from(MAX_SHARES)))]
        threshold: u8,
        /// How many there are
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=i64::from(MAX_SHARES)))]
        shares: u8,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Put a copy back in the vault's place; the file that was there is kept
    #[command(
        after_help = "Example:\n  locum vault restore /mnt/backup/vault-2026-11-21.db --accept-rollback\n  locum vault restore /mnt/backup/vault-2026-10-01.db --key-file old-master.key --accept-rollback\n  locum vault restore --recovery\n\nThe second puts back a backup of before a `rekey`; the vault then gets a new key file. The last one opens the vault that is there with shares, which are asked for one by one, or read from standard input, one a line."
    )]
    Restore {
        /// The copy; with --recovery, the vault that is there needs none
        #[arg(required_unless_present = "recovery")]
        file: Option<PathBuf>,
        /// The master key is lost: open it with shares, and give it a new key file
        #[arg(long)]
        recovery: bool,
        /// The key file that opens the copy, where today's does not: of before a `rekey`
        #[arg(long, value_name = "FILE", requires = "file", conflicts_with = "recovery")]
        key_file: Option<PathBuf>,
        /// Accept an older state: what was revoked since is valid again, what was added is gone
        #[arg(long)]
        accept_rollback: bool,
        /// Accept rows that something other than Locum has changed
        #[arg(long)]
        accept_changes: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Arguments of `locum vault rekey`. With none, a key file is followed by a new key file.
#[derive(Debug, clap::Args)]
pub(super) struct Rekey {
    /// A passphrase, asked for at each start
    #[arg(long, conflicts_with_all = ["passphrase_file", "key_file"])]
    passphrase: bool,
    /// The passphrase in this private file
    #[arg(long, value_name = "FILE", conflicts_with = "key_file")]
    passphrase_file: Option<PathBuf>,
    /// A new key file, in the place that vault.key.file of locum.yaml names
    #[arg(long)]
    key_file: bool,
    #[command(flatten)]
    wrapped: super::wrapped::WrappedArgs,
    /// The key that this program prints: 64 hex digits, or a key file
    #[arg(last = true, value_name = "PROGRAM", conflicts_with_all = ["passphrase", "passphrase_file", "key_file"])]
    command: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `one`: the workspace was named, and is meant alone where that makes a difference.
pub(super) fn run(home: &Home, one: bool, command: Command) -> Result<(), Failure> {
    match command {
        Command::Status { verify, json } => status(home, verify, json),
        Command::Rekey(args) => change_key(home, &args),
        Command::Rotate { end_run_tokens, json } => rotate(home, one, end_run_tokens, json),
        Command::Backup { file, plain, json } => backup(home, &file, plain, json),
        Command::Recovery { threshold, shares, json } => recovery(home, threshold, shares, json),
        Command::Restore { file, recovery, key_file, accept_rollback, accept_changes, json } => {
            let accept = Accept { rollback: accept_rollback, changes: accept_changes };
            match (file, key_file) {
                (Some(file), Some(key)) => {
                    new_key(home, &restore_by_key(home, &file, &key, accept)?, json)
                }
                (Some(file), None) if !recovery => put_back(home, &file, accept, json),
                (file, _) => with_shares(home, file.as_deref(), accept, json),
            }
        }
    }
}

/// How many of what there are.
struct Counts {
    credentials: usize,
    live_credentials: usize,
    sets: usize,
    agents: usize,
    tokens: usize,
}

impl Counts {
    fn of(vault: &Vault) -> Result<Self, Failure> {
        let (credentials, agents) = (vault.credentials()?, vault.agents()?);
        let live = agents.iter().filter(|agent| agent.revoked.is_none());
        let tokens = live.clone().flat_map(|agent| &agent.tokens);
        Ok(Self {
            credentials: credentials.len(),
            live_credentials: credentials.iter().filter(|c| c.current().is_some()).count(),
            sets: vault.sets()?.len(),
            agents: live.count(),
            tokens: tokens.filter(|token| token.revoked.is_none()).count(),
        })
    }
}

fn status(home: &Home, verify: bool, json: bool) -> Result<(), Failure> {
    let opened = Opened::open(home)?;
    let vault = &opened.vault;
    if verify {
        vault.verify()?;
    }
    let (counts, epoch) = (Counts::of(vault)?, vault.epoch()?);
    let (workspace, workspaces) = (vault.workspace(), vault.workspaces()?.len());
    let source = key_described(home, &opened.config, vault.path())?;
    let (locked, anchored) = (opened.is_locked_in_memory(), opened.is_anchored());
    let recovery = vault.recovery()?;
    if json {
        let recovery = recovery.map(|set| {
            json!({
                "set": set.set, "threshold": set.threshold, "shares": set.shares,
                "epoch": set.epoch,
            })
        });
        return output::json(&json!({
            "path": vault.path(), "id": vault.id(), "format": FORMAT, "epoch": epoch,
            "key_source": if source == "key file" { "key-file" } else { &*source }, "locked_in_memory": locked,
            "anchored": anchored, "verified": verify,
            "credentials": counts.credentials, "live_credentials": counts.live_credentials,
            "sets": counts.sets, "agents": counts.agents, "tokens": counts.tokens,
            "workspace": workspace, "workspaces": workspaces, "recovery": recovery,
        }));
    }
    let path = vault.path().display().to_string();
    let mut table = Table::new(&["vault", &path]);
    let mut field = |key: &str, value: String| table.row(vec![key.to_owned(), value]);
    field("id", vault.id());
    field("format", FORMAT.to_string());
    field("epoch", epoch.to_string());
    field("opened by", source);
    field("keys in memory", locked_text(locked).to_owned());
    field("anchor", anchored_text(anchored).to_owned());
    let recovery = recovery.map(|set| {
        format!(
            "{} of {} shares, set {}, of epoch {}",
            set.threshold, set.shares, set.set, set.epoch
        )
    });
    field("recovery", recovery.unwrap_or_else(|| "no shares".to_owned()));
    field("workspace", format!("{workspace}, of {workspaces}"));
    field("credentials", format!("{}, {} live", counts.credentials, counts.live_credentials));
    field("sets", counts.sets.to_string());
    field("agents", format!("{}, with {}", counts.agents, counted(counts.tokens as u64, "token")));
    field("state", state_text(verify).to_owned());
    table.print()
}

fn locked_text(locked: bool) -> &'static str {
    if locked {
        "never swapped out"
    } else {
        "may be swapped out: raise the limit of locked memory (ulimit -l)"
    }
}

fn anchored_text(anchored: bool) -> &'static str {
    if anchored {
        "agrees with the one beside the audit log"
    } else {
        "none beside the audit log: an old copy of the vault would not be noticed"
    }
}

fn state_text(verified: bool) -> &'static str {
    if verified { "whole; every sealed row opens" } else { "whole" }
}

fn change_key(home: &Home, args: &Rekey) -> Result<(), Failure> {
    let choice = match &args.passphrase_file {
        Some(path) => {
            let path = std::path::absolute(path)
                .map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
            Some(NewKey::Passphrase(Passphrase::File(path)))
        }
        None if args.passphrase => Some(NewKey::Passphrase(Passphrase::Prompt)),
        None if !args.command.is_empty() => Some(NewKey::Command(whole_path(&args.command)?)),
        None if args.wrapped.is_said() => Some(NewKey::Wrapped(Box::new(args.wrapped.read()?))),
        None => args.key_file.then_some(NewKey::File),
    };
    let by = match &choice {
        Some(NewKey::Wrapped(wrapper)) => Some(wrapper.to_string()),
        _ => None,
    };
    let done = rekey(home, choice)?;
    if args.json {
        return output::json(&json!({
            "epoch": done.epoch, "key_file": done.key_file,
            "config": done.config, "left": done.left,
        }));
    }
    match &done.key_file {
        Some(path) if by.is_some() => {
            let by = by.unwrap_or_default();
            output::line(&format!(
                "the vault opens with the new key in {}, which is wrapped by {by}",
                path.display()
            ))?;
        }
        Some(path) => {
            output::line(&format!("the vault opens with the new key in {}", path.display()))?;
        }
        None if !args.command.is_empty() => {
            output::line(&format!("the vault opens with the key that {} prints", args.command[0]))?;
        }
        None => output::line("the vault opens with the new passphrase")?,
    }
    if let Some(config) = &done.config {
        output::line(&format!("in {}: {config}", home.config().display()))?;
    }
    if let Some(path) = &done.left {
        output::line(&format!("remove the old key: {}", path.display()))?;
    }
    output::line("backups made before open with the old key only")
}

fn rotate(home: &Home, one: bool, end_run_tokens: bool, json: bool) -> Result<(), Failure> {
    let runs = if end_run_tokens { OldRuns::End } else { OldRuns::Stand };
    let mut opened = Opened::open(home)?;
    // What a killed command has left behind the vault is brought up before its key goes.
    opened.changed()?;
    let rotated = if one {
        opened.vault.rotate_workspace_key(runs)?
    } else {
        opened.vault.rotate_data_keys(runs)?
    };
    opened.changed()?;
    if json {
        return output::json(&json!({
            "epoch": opened.vault.epoch()?, "generation": rotated.generation,
            "secrets": rotated.secrets, "items": rotated.items,
            "run_tokens_ended": end_run_tokens,
            "workspace": one.then(|| opened.vault.workspace()),
        }));
    }
    let (secrets, items) = (counted(rotated.secrets, "secret"), counted(rotated.items, "item"));
    output::line(&if one {
        format!("sealed {secrets} of {} under a new data key", opened.vault.workspace())
    } else {
        format!("sealed {secrets} and {items} under new data keys")
    })?;
    output::line(if end_run_tokens {
        "agents' tokens stay good; run tokens that were made before are ended"
    } else {
        "agents' tokens stay good, and run tokens until they expire"
    })
}

/// The command with its program's whole path, as locum.yaml wants it.
fn whole_path(words: &[String]) -> Result<Vec<String>, Failure> {
    if words.first().is_some_and(|program| program.starts_with('/')) {
        return Ok(words.to_vec());
    }
    Err(Failure::usage("the program is not named by its whole path")
        .help("write it so, such as `locum vault rekey -- /usr/bin/pass show locum`"))
}

fn backup(home: &Home, file: &Path, plain: bool, json: bool) -> Result<(), Failure> {
    let opened = Opened::open(home)?;
    let epoch = opened.vault.epoch()?;
    if plain {
        opened.vault.backup_plain(file)?;
    } else {
        opened.vault.backup_with(file, opened.recovery_record()?)?;
    }
    if json {
        return output::json(&json!({"file": file, "epoch": epoch, "sealed": !plain}));
    }
    output::line(&format!("copied the vault to {}", file.display()))?;
    output::line("it opens with the master key of today; keep that elsewhere")
}

fn recovery(home: &Home, threshold: u8, shares: u8, json: bool) -> Result<(), Failure> {
    let set = make_recovery(home, threshold, shares, |set, texts| {
        let texts: Vec<&str> = texts.iter().map(|text| text.as_str()).collect();
        if json {
            return output::json_for_good(&json!({
                "set": set.set, "threshold": threshold, "epoch": set.epoch, "shares": texts,
            }));
        }
        texts.iter().zip(1..).try_for_each(|(text, number)| {
            output::line_for_good(&format!("share {number} of {shares}\n  {text}"))
        })
    })?;
    if json {
        return Ok(());
    }
    output::line(&format!(
        "any {threshold} of them open this vault and its backups from now on (set {}); they are printed this once",
        set.set
    ))?;
    output::line(
        "give each to somebody else, and try them: `locum vault restore --recovery` in a copy of the home",
    )
}

/// Shares from a terminal, one by one and without echo, or lines of standard input.
fn with_shares(
    home: &Home,
    file: Option<&Path>,
    accept: Accept,
    json: bool,
) -> Result<(), Failure> {
    let mut lines = std::io::stdin().lines();
    let next = |number: usize, of: u8| {
        if std::io::stdin().is_terminal() {
            let text = rpassword::prompt_password(format!("Share {number} of {of}: "))
                .map_err(|e| Failure::new(format!("the share could not be read: {e}")))?;
            return Ok(Secret::new(text.into_bytes()));
        }
        let line = lines.next().transpose();
        let line = line.map_err(|e| Failure::usage(format!("standard input: {e}")))?;
        let line = line.ok_or_else(|| {
            Failure::usage(format!("{of} shares are wanted, and standard input has {}", number - 1))
        })?;
        Ok(Secret::new(line.into_bytes()))
    };
    let done = recover(home, file, accept, next)?;
    new_key(home, &done, json)?;
    if json {
        return Ok(());
    }
    output::line(
        "shares that many have seen are shares no more: make new ones with `locum vault recovery`",
    )
}

/// Warns of a vault that was put in its place and that the audit log does not have. Why, for a machine.
fn unrecorded(restored: &Restored) -> Option<String> {
    let why = restored.unrecorded.as_ref()?;
    output::note(&format!(
        "warning: the vault is in its place, and the audit log has it not: {why}"
    ));
    Some(why.to_string())
}

/// Says that a vault was put back or opened by a key that is its key no more.
fn new_key(home: &Home, done: &Recovered, json: bool) -> Result<(), Failure> {
    let vault = &done.restored.opened.vault;
    let unrecorded = unrecorded(&done.restored);
    if json {
        return output::json(&json!({
            "epoch": vault.epoch()?, "set": done.set.as_ref().map(|set| &set.set),
            "key_file": done.key_file, "kept": done.restored.kept, "kept_key": done.kept_key,
            "accepted": done.restored.accepted, "unrecorded": unrecorded,
        }));
    }
    output::line(&format!(
        "the vault opens with the new key in {}; keep a copy of it elsewhere",
        done.key_file.display()
    ))?;
    valid_again(&done.restored)?;
    if let Some(kept) = &done.kept_key {
        output::line(&format!("the key file that was there is {}", kept.display()))?;
    }
    if !matches!(done.restored.opened.config.vault.key, config::KeySource::File(_)) {
        output::line(&format!(
            "in {}: remove vault.key, or make a passphrase of it again with `locum vault rekey`",
            home.config().display()
        ))?;
    }
    Ok(())
}

fn put_back(home: &Home, file: &Path, accept: Accept, json: bool) -> Result<(), Failure> {
    let restored = restore(home, file, accept)?;
    let (vault, kept) = (&restored.opened.vault, &restored.kept);
    let (counts, unrecorded) = (Counts::of(vault)?, unrecorded(&restored));
    if json {
        return output::json(&json!({
            "epoch": vault.epoch()?, "kept": kept, "accepted": restored.accepted,
            "unrecorded": unrecorded,
            "credentials": counts.credentials, "agents": counts.agents, "tokens": counts.tokens,
        }));
    }
    output::line(&format!("put {} in the vault's place", file.display()))?;
    if let Some(kept) = kept {
        output::line(&format!("the file that was there is {}", kept.display()))?;
    }
    valid_again(&restored)
}

/// What an older state has brought back.
fn valid_again(restored: &Restored) -> Result<(), Failure> {
    if !restored.accepted {
        return Ok(());
    }
    let counts = Counts::of(&restored.opened.vault)?;
    output::line(&format!(
        "what was revoked since is valid again: look through `locum credential list` ({}) and `locum agent list` ({})",
        counted(counts.credentials as u64, "credential"),
        counted(counts.tokens as u64, "live token"),
    ))
}
