"""Gives a master key back from shares. Written from docs/VAULT_FORMAT.md alone, and shares no code with Locum.

usage: recovery.py RECORDS < shares, one a line
"""

import base64
import hashlib
import hmac
import json
import struct
import sys
import zlib

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def B(x):
    return struct.pack(">I", len(x)) + x


def T(s):
    return B(s.encode())


def times(a, b):
    product = 0
    while b:
        product ^= a if b & 1 else 0
        a = (a << 1) ^ (0x11B if a & 0x80 else 0)
        b >>= 1
    return product


def inverse(a):
    return next(b for b in range(1, 256) if times(a, b) == 1)


def at_zero(points):
    """Lagrange's polynomial through the points, at 0; minus is plus here."""
    total = 0
    for x, y in points:
        weight = 1
        for other, _ in points:
            if other != x:
                weight = times(weight, times(other, inverse(other ^ x)))
        total ^= times(y, weight)
    return total


def share(line):
    text = line.strip().replace("-", "").upper()
    assert text.startswith("LRS1")
    text = text[4:]
    data = base64.b32decode(text + "=" * (-len(text) % 8))
    assert len(data) == 67 and zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "big")
    return {"vault": data[:16], "epoch": int.from_bytes(data[16:24], "big"), "set": data[24:28],
            "threshold": data[28], "shares": data[29], "x": data[30], "part": data[31:63]}


def main():
    shares = [share(line) for line in sys.stdin if line.strip()]
    shares = shares[:shares[0]["threshold"]]
    private = bytes(at_zero([(s["x"], s["part"][i]) for s in shares]) for i in range(32))
    title, *records = open(sys.argv[1]).read().splitlines()
    assert title == "locum recovery 1"
    key = X25519PrivateKey.from_private_bytes(private)
    for record in map(json.loads, records):
        vault, chosen = bytes.fromhex(record["vault_id"]), bytes.fromhex(record["set"])
        ephemeral, public = bytes.fromhex(record["ephemeral"]), bytes.fromhex(record["public"])
        assert (vault, chosen) == (shares[0]["vault"], shares[0]["set"])
        assert record["threshold"] == shares[0]["threshold"] and record["epoch"] == shares[0]["epoch"]
        assert public == key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        agreed = key.exchange(X25519PublicKey.from_public_bytes(ephemeral))
        prk = hmac.new(vault, agreed, hashlib.sha256).digest()
        info = T("locum/recovery/1/key") + B(chosen) + B(ephemeral) + B(public)
        wrap = HKDFExpand(algorithm=SHA256(), length=32, info=info).derive(prk)
        sealed = bytes.fromhex(record["sealed"])
        place = T("locum/recovery/1/master") + B(vault) + B(chosen)
        print(AESGCM(wrap).decrypt(sealed[:12], sealed[12:], place).hex())


main()
