"""Opens a Locum vault. Written from docs/VAULT_FORMAT.md alone, and shares no code with Locum.

usage: vault_format.py (VAULT | BACKUP) (KEYFILE | --passphrase-env NAME) [--token TOKEN] [--anchor FILE]

Checks everything that the format lets a reader check, then prints what it opened as JSON.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import sqlite3
import struct
import zlib

from argon2.low_level import Type, hash_secret_raw
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand


# 1. Notation


def I(n):
    return struct.pack(">q", n)


def B(x):
    return struct.pack(">I", len(x)) + x


def T(s):
    return B(s.encode("utf-8"))


def L(texts):
    return I(len(texts)) + b"".join(T(s) for s in texts)


def O(text):
    return L([] if text is None else [text])


def mac(key, message):
    return hmac.new(key, message, hashlib.sha256).digest()


def extract(salt, ikm):
    return mac(salt, ikm)  # RFC 5869, section 2.2


def expand(prk, info):
    return HKDFExpand(algorithm=SHA256(), length=32, info=info).derive(prk)


def unseal(key, aad, sealed):
    return AESGCM(key).decrypt(sealed[:12], sealed[12:], aad)


def must_equal(what, one, other):
    if one != other:
        raise SystemExit(f"{what} does not match")


# 3. The master key


def read_key_file(path):
    header, key, checksum = open(path, encoding="ascii").read().split("\n")[:3]
    must_equal("header of the key file", header, "locum master key 1")
    key = bytes.fromhex(key)
    must_equal("checksum of the key file", f"{zlib.crc32(key):08x}", checksum)
    return key


def stretch(passphrase, vault):
    return hash_secret_raw(
        secret=passphrase.encode("utf-8"),
        salt=vault["kdf_salt"],
        time_cost=vault["kdf_passes"],
        memory_cost=vault["kdf_memory_kib"],
        parallelism=vault["kdf_lanes"],
        hash_len=32,
        type=Type.ID,
        version=0x13,
    )


# 10. Backups


def open_backup(path, master, to):
    """Writes what a sealed backup holds, and returns what it says of itself."""
    lines = b"".join(open(path, "rb").readlines()[:2])
    header = json.loads(lines.split(b"\n")[1])
    prk = extract(bytes.fromhex(header["vault_id"]), master)
    must_equal("key check", expand(prk, T("locum/vault/1/key/check")).hex(), header["key_check"])
    key = expand(prk, T("locum/backup/1/key") + B(bytes.fromhex(header["salt"])))
    sealed = open(path, "rb").read()[len(lines) :]
    size = 12 + 65536 + 16
    pieces = [sealed[at : at + size] for at in range(0, len(sealed), size)]
    with open(to, "wb") as out:
        for i, piece in enumerate(pieces):
            place = T("locum/backup/1/piece") + B(hashlib.sha256(lines).digest())
            place += I(i) + I(1 if i == len(pieces) - 1 else 0)
            out.write(unseal(key, place, piece))
    return header


# 8. The state

QUERIES = [
    ("sqlite_schema", "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"),
    ("vault", "SELECT * FROM vault ORDER BY one"),
    ("keys", "SELECT * FROM keys ORDER BY scope"),
    ("credentials", "SELECT * FROM credentials ORDER BY id"),
    ("versions", "SELECT * FROM versions ORDER BY credential, version"),
    ("sets", "SELECT * FROM sets ORDER BY workspace, name"),
    ("set_members", "SELECT * FROM set_members ORDER BY workspace, set_name, member"),
    ("agents", "SELECT * FROM agents ORDER BY workspace, name"),
    ("tokens", "SELECT * FROM tokens ORDER BY id"),
    ("items", "SELECT * FROM items ORDER BY name"),
]


def encode_value(value):
    if value is None:
        return b"\x05"
    if isinstance(value, int):
        return b"\x01" + I(value)
    if isinstance(value, str):
        return b"\x03" + T(value)
    return b"\x04" + B(value)


class Vault:
    def __init__(self, path):
        # sqlite3 before 3.37 knows no STRICT tables.
        self.db = sqlite3.connect(path)
        self.db.row_factory = sqlite3.Row
        must_equal("application_id", self.one("PRAGMA application_id")[0], 0x4C43554D)
        self.format = self.one("PRAGMA user_version")[0]
        must_equal("user_version", self.format in (1, 2), True)
        self.row = self.one("SELECT * FROM vault")
        self.id = self.row["vault_id"]
        self.trace = {"vault_id": self.id.hex()}

    def all(self, query, *values):
        return self.db.execute(query, values).fetchall()

    def one(self, query, *values):
        return self.db.execute(query, values).fetchone()

    # 4. Keys

    def unlock(self, master):
        prk = extract(self.id, master)
        check = expand(prk, T("locum/vault/1/key/check"))
        must_equal("key check", check, self.row["key_check"])
        wrap = expand(prk, T("locum/vault/1/key/wrap"))
        self.trace["wrap key"] = wrap.hex()
        self.scopes = {}
        for row in self.all("SELECT * FROM keys"):
            aad = T("locum/vault/1/wrap") + B(self.id) + T(row["scope"])
            data_key = unseal(wrap, aad, row["sealed"])
            self.trace["data key of " + row["scope"]] = data_key.hex()
            self.scopes[row["scope"]] = extract(self.id, data_key)

    def key(self, scope, purpose, more=b""):
        return expand(self.scopes[scope], T("locum/vault/1/key/" + purpose) + more)

    def kept(self, scope, purpose):
        """Keys of earlier generations, by how far they reach."""
        found, start = [], f"kept-key/{scope}/{purpose}/"
        for row in self.all("SELECT * FROM items"):
            if row["name"].startswith(start):
                item = self.item(row)
                found.append((struct.unpack(">q", item[:8])[0], item[8:]))
        return sorted(found)

    # 5. Credentials

    def credentials(self):
        opened = {}
        for c in self.all("SELECT * FROM credentials ORDER BY id"):
            versions = self.all("SELECT * FROM versions WHERE credential = ?", c["id"])
            name = c["name"] if c["workspace"] == "default" else f"{c['workspace']}/{c['name']}"
            opened[name] = {v["version"]: self.secret(c, v) for v in versions}
        return opened

    def secret(self, c, v):
        if v["sealed"] is None:
            must_equal("state of a version without ciphertext", v["state"], "revoked")
            return None
        scope = "workspace/" + c["workspace"]
        place = (
            T("locum/vault/1/secret")
            + B(self.id)
            + T(c["workspace"])
            + I(c["id"])
            + T(c["name"])
            + I(v["version"])
            + T(c["tier"])
            + L(json.loads(c["destinations"]))
            + L(json.loads(c["slots"]))
            + O(c["stand_in"])
        )
        if self.format >= 2 and c["properties"] is not None:
            place += T(c["properties"])
        key = self.key(scope, "record", I(c["id"]) + I(v["version"]))
        secret = unseal(key, place, v["sealed"])
        message = T("locum/vault/1/fingerprint") + secret
        fingerprint = mac(self.key(scope, "fingerprint"), message)[:8]
        must_equal("fingerprint", fingerprint, v["fingerprint"])
        if v["state"] == "current":
            label = f"{c['workspace']}/{c['name']} version {v['version']}"
            self.trace["record key of " + label] = key.hex()
            self.trace["place of " + label] = place.hex()
            self.trace["fingerprint of " + label] = fingerprint.hex()
        return {"secret": secret.decode("ascii"), "state": v["state"]}

    # 6. Agents and tokens

    def check_token(self, token):
        body, crc = token[:-7], token[-7:]
        expected = base64.b32encode(struct.pack(">I", zlib.crc32(body.encode())))
        must_equal("checksum of the token", crc, expected.decode().lower().rstrip("="))
        row = self.one("SELECT * FROM tokens WHERE id = ?", token[4:12])
        expires = "never" if row["expires"] is None else str(row["expires"])
        fields = ["locum/token/1", row["workspace"], row["agent"], row["id"], expires, token]
        key = self.key("workspace/" + row["workspace"], "token")
        scope = "workspace/" + row["workspace"]
        keys = [key] + [kept for _, kept in self.kept(scope, "token")]
        macs = [mac(key, "\n".join(fields).encode()) for key in keys]
        must_equal("MAC of the token", row["mac"] in macs, True)
        return row["agent"]

    # 7. Items

    def items(self):
        opened = {}
        for row in self.all("SELECT * FROM items"):
            if not row["name"].startswith("kept-key/"):
                opened[row["name"]] = self.item(row).decode("utf-8")
        return opened

    def item(self, row):
        aad = T("locum/vault/1/item") + B(self.id) + T(row["name"])
        return unseal(self.key("vault", "item", T(row["name"])), aad, row["sealed"])

    def audit_key(self):
        for _, key in self.kept("vault", "audit"):
            return key
        return self.key("vault", "audit")

    # 8. The journal, the epoch and the state

    def check_journal(self):
        before, self.epoch = bytes(32), 0
        kept, current = self.kept("vault", "journal"), self.key("vault", "journal")
        for row in self.all("SELECT * FROM journal ORDER BY epoch"):
            self.epoch += 1
            must_equal("epoch", row["epoch"], self.epoch)
            message = T("locum/vault/1/journal") + B(self.id) + B(before)
            message += I(row["epoch"]) + I(row["at"])
            message += T(row["action"]) + T(row["subject"]) + T(row["by"])
            older = [key for until, key in kept if self.epoch <= until]
            before = mac((older + [current])[0], message)
            must_equal(f"MAC of the journal at epoch {self.epoch}", before, row["mac"])
        self.trace["head"] = before.hex()
        return before

    def check_state(self, head):
        message = T("locum/vault/1/state") + B(self.id) + I(self.epoch) + B(head)
        for name, query in QUERIES:
            message += T(name)
            for row in self.all(query):
                message += b"\x01" + b"".join(encode_value(value) for value in row)
            message += b"\x00"
        state = mac(self.key("vault", "state"), message)
        must_equal("MAC of the state", state, self.one("SELECT mac FROM state")["mac"])
        self.trace["state.mac"] = state.hex()

    # 9. Anchors

    def check_anchor(self, text):
        anchor = json.loads(text)
        head = bytes.fromhex(anchor["head"])
        message = T("locum/vault/1/anchor") + B(self.id) + I(anchor["epoch"]) + B(head)
        must_equal("vault of the anchor", anchor["vault_id"], self.id.hex())
        older = [key for until, key in self.kept("vault", "anchor") if anchor["epoch"] <= until]
        macs = [mac(key, message).hex() for key in [self.key("vault", "anchor")] + older]
        must_equal("MAC of the anchor", anchor["mac"] in macs, True)
        row = self.one("SELECT mac FROM journal WHERE epoch = ?", anchor["epoch"])
        must_equal("head of the anchor", head, row["mac"])
        return anchor["epoch"]

    def audit_anchor(self):
        row = self.one("SELECT * FROM audit_anchor")
        if row is None:
            return None
        message = T("locum/vault/1/audit-anchor") + B(self.id) + I(row["sequence"]) + B(row["mac"])
        must_equal("seal of the audit anchor", mac(self.key("vault", "audit-anchor"), message), row["seal"])
        return row["sequence"]


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("vault")
    arguments.add_argument("keyfile", nargs="?")
    arguments.add_argument("--passphrase-env")
    arguments.add_argument("--token")
    arguments.add_argument("--anchor")
    given = arguments.parse_args()

    backup = None
    if open(given.vault, "rb").read(19) == b"locum vault backup ":
        backup = open_backup(given.vault, read_key_file(given.keyfile), given.vault + ".opened")
        given.vault += ".opened"
    vault = Vault(given.vault)
    if vault.row["kdf_salt"] is None:
        vault.unlock(read_key_file(given.keyfile))
    else:
        vault.unlock(stretch(os.environ[given.passphrase_env], vault.row))
    head = vault.check_journal()
    vault.check_state(head)
    result = {
        "epoch": vault.epoch,
        "credentials": vault.credentials(),
        "items": vault.items(),
        "audit_anchor": vault.audit_anchor(),
        "audit_key": vault.audit_key().hex(),
    }
    if backup:
        must_equal("epoch of the backup", backup["epoch"], vault.epoch)
    if vault.format >= 2:
        rows = vault.db.execute("SELECT * FROM agents WHERE labels IS NOT NULL")
        labels = {row["name"]: json.loads(row["labels"]) for row in rows}
        for texts in labels.values():
            must_equal("order of labels", list(texts), sorted(texts))
        if labels:
            result["labels"] = labels
    if given.token:
        result["token_agent"] = vault.check_token(given.token)
    if given.anchor:
        result["anchor_epoch"] = vault.check_anchor(open(given.anchor).read())
    result["trace"] = vault.trace
    print(json.dumps(result))


main()
