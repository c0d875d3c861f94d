-- Format 2. docs/VAULT_FORMAT.md says what the columns hold. Every row here is covered by state.mac,
-- but for the rows of journal (each has its own MAC) and audit_anchor (has its own seal).
CREATE TABLE vault (
    one             INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    vault_id        BLOB    NOT NULL CHECK (length(vault_id) = 16),
    created         INTEGER NOT NULL,
    key_check       BLOB    NOT NULL CHECK (length(key_check) = 32),
    kdf_salt        BLOB,
    kdf_memory_kib  INTEGER,
    kdf_passes      INTEGER,
    kdf_lanes       INTEGER
) STRICT;

CREATE TABLE keys (
    scope           TEXT    NOT NULL PRIMARY KEY,
    sealed          BLOB    NOT NULL,
    created         INTEGER NOT NULL,
    generation      INTEGER NOT NULL DEFAULT 1
) STRICT, WITHOUT ROWID;

CREATE TABLE credentials (
    id              INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    workspace       TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    provider        TEXT,
    tier            TEXT    NOT NULL CHECK (tier IN ('user', 'builder', 'platform')),
    tags            TEXT    NOT NULL,
    destinations    TEXT    NOT NULL,
    slots           TEXT    NOT NULL,
    stand_in        TEXT,
    properties      TEXT,
    created         INTEGER NOT NULL,
    UNIQUE (workspace, name),
    UNIQUE (workspace, stand_in)
) STRICT;

CREATE TABLE versions (
    credential      INTEGER NOT NULL REFERENCES credentials (id) ON DELETE CASCADE,
    version         INTEGER NOT NULL CHECK (version BETWEEN 1 AND 4294967295),
    state           TEXT    NOT NULL CHECK (state IN ('staged', 'current', 'retired', 'revoked')),
    created         INTEGER NOT NULL,
    ended           INTEGER,
    grace_until     INTEGER,
    cut             INTEGER NOT NULL DEFAULT 0 CHECK (cut IN (0, 1)),
    fingerprint     BLOB    NOT NULL CHECK (length(fingerprint) = 8),
    sealed          BLOB,
    PRIMARY KEY (credential, version),
    CHECK ((state = 'revoked') = (sealed IS NULL)),
    CHECK ((state IN ('staged', 'current')) = (ended IS NULL)),
    CHECK (grace_until IS NULL OR state = 'retired'),
    CHECK (cut = 0 OR state = 'revoked')
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX one_current_version ON versions (credential) WHERE state = 'current';

CREATE TABLE sets (
    workspace       TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    created         INTEGER NOT NULL,
    PRIMARY KEY (workspace, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE set_members (
    workspace       TEXT    NOT NULL,
    set_name        TEXT    NOT NULL,
    member          TEXT    NOT NULL,
    PRIMARY KEY (workspace, set_name, member),
    FOREIGN KEY (workspace, set_name) REFERENCES sets (workspace, name) ON DELETE CASCADE,
    FOREIGN KEY (workspace, member) REFERENCES credentials (workspace, name) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE agents (
    workspace       TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    labels          TEXT,
    created         INTEGER NOT NULL,
    revoked         INTEGER,
    PRIMARY KEY (workspace, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE tokens (
    id              TEXT    NOT NULL PRIMARY KEY,
    workspace       TEXT    NOT NULL,
    agent           TEXT    NOT NULL,
    mac             BLOB    CHECK (length(mac) = 32),
    created         INTEGER NOT NULL,
    expires         INTEGER,
    revoked         INTEGER,
    note            TEXT,
    CHECK ((revoked IS NULL) = (mac IS NOT NULL)),
    FOREIGN KEY (workspace, agent) REFERENCES agents (workspace, name) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE items (
    name            TEXT    NOT NULL PRIMARY KEY,
    sealed          BLOB    NOT NULL,
    created         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE journal (
    epoch           INTEGER NOT NULL PRIMARY KEY,
    at              INTEGER NOT NULL,
    action          TEXT    NOT NULL,
    subject         TEXT    NOT NULL,
    by              TEXT    NOT NULL,
    mac             BLOB    NOT NULL CHECK (length(mac) = 32)
) STRICT;

CREATE TABLE state (
    one             INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    mac             BLOB    NOT NULL CHECK (length(mac) = 32)
) STRICT;

CREATE TABLE audit_anchor (
    one             INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    sequence        INTEGER NOT NULL,
    mac             BLOB    NOT NULL CHECK (length(mac) = 32),
    seal            BLOB    NOT NULL CHECK (length(seal) = 32)
) STRICT;
