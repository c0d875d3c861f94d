//! From an older format to this one: every row is copied into the tables of this version, in one
//! transaction that also writes the journal's line. After `kill -9` the file is of one format or the
//! other.

use rusqlite::{Connection, TransactionBehavior};

use super::error::Fault;
use super::journal::{self, Action};
use super::keys::DataKey;
use super::{FORMAT, check_state, schema};

/// The tables of every format, none of them before one that it refers to.
const TABLES: [&str; 12] = [
    "vault",
    "keys",
    "credentials",
    "versions",
    "sets",
    "set_members",
    "agents",
    "tokens",
    "items",
    "journal",
    "state",
    "audit_anchor",
];

/// Whose state the upgrade starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has to be as Locum left it.
    Checked,
    /// It was accepted knowingly.
    Accepted,
}

/// Brings the file to this version's format, if it is of an older one.
pub(super) fn upgrade(
    db: &mut Connection,
    vault_key: &DataKey,
    state: State,
    by: &str,
) -> Result<(), Fault> {
    if schema::format(db)? == FORMAT {
        return Ok(());
    }
    // Only outside of a transaction; tables that refer to one another are dropped one by one.
    db.pragma_update(None, "foreign_keys", false)?;
    let upgraded = in_one_transaction(db, vault_key, state, by);
    db.pragma_update(None, "foreign_keys", true)?;
    upgraded
}

fn in_one_transaction(
    db: &mut Connection,
    vault_key: &DataKey,
    state: State,
    by: &str,
) -> Result<(), Fault> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been faster.
    if schema::format(&tx)? == FORMAT {
        return Ok(());
    }
    if state == State::Checked {
        check_state(&tx, vault_key)?;
    }
    // Numbers of credentials that are gone are not used again.
    let last: i64 = tx.query_row(
        "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'credentials'",
        [],
        |row| row.get(0),
    )?;
    for table in TABLES {
        tx.execute_batch(&format!(
            "CREATE TEMP TABLE \"old_{table}\" AS SELECT * FROM main.\"{table}\"; \
             DROP TABLE main.\"{table}\";"
        ))?;
    }
    schema::initialise(&tx)?;
    for table in TABLES {
        let columns = columns(&tx, &format!("old_{table}"))?;
        tx.execute_batch(&format!(
            "INSERT INTO main.\"{table}\" ({columns}) SELECT {columns} FROM temp.\"old_{table}\"; \
             DROP TABLE temp.\"old_{table}\";"
        ))?;
    }
    tx.execute("DELETE FROM sqlite_sequence WHERE name = 'credentials'", [])?;
    tx.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('credentials', ?1)", [last])?;
    journal::append(&tx, vault_key, (Action::Upgraded, "vault", by))?;
    Ok(tx.commit()?)
}

fn columns(db: &Connection, table: &str) -> Result<String, Fault> {
    let mut statement = db.prepare("SELECT name FROM pragma_table_info(?1)")?;
    let names = statement.query_map([table], |row| row.get::<_, String>(0))?;
    let quoted: Vec<String> =
        names.map(|name| Ok(format!("\"{}\"", name?))).collect::<Result<_, rusqlite::Error>>()?;
    Ok(quoted.join(", "))
}
