"""A server of Bitwarden's, as far as its own client asks one for a password: one account with one item in it.

`bitwarden_server.py CERTIFICATE KEY SECRET` prints its port. The item's password is what the file SECRET has in
it at the moment; the account's password, and what the client logs in with, come from the environment. The keys
of the account are made here, and all of it is encrypted as the client has it (AES-256-CBC with HMAC-SHA-256).

With `BWS_ACCESS_TOKEN` in the environment it is a server of their Secrets Manager too, as far as `bws` asks one for a
secret: the machine account of that token can read one, whose value is the same file's.
"""

import base64
import hashlib
import hmac
import http.server
import json
import os
import ssl
import sys
import time

from cryptography.hazmat.primitives import padding, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

EMAIL = "worker@example.com"
ROUNDS = 600_000
USER = "11111111-2222-4333-8444-555555555555"
ITEM = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
NOW = "2026-01-05T12:00:00.000Z"


def b64(raw):
    return base64.b64encode(raw).decode()


def seal(key, plain):
    """`2.iv|ciphertext|mac`."""
    iv = os.urandom(16)
    pad = padding.PKCS7(128).padder()
    enc = Cipher(algorithms.AES(key[:32]), modes.CBC(iv)).encryptor()
    text = enc.update(pad.update(plain) + pad.finalize()) + enc.finalize()
    mac = hmac.new(key[32:], iv + text, hashlib.sha256).digest()
    return f"2.{b64(iv)}|{b64(text)}|{b64(mac)}"


def expand(key, info):
    """HKDF's second half (RFC 5869), for one block."""
    return hmac.new(key, info + b"\x01", hashlib.sha256).digest()


class Account:
    def __init__(self, password, secret):
        self.file = secret
        master = hashlib.pbkdf2_hmac("sha256", password.encode(), EMAIL.encode(), ROUNDS, 32)
        stretched = expand(master, b"enc") + expand(master, b"mac")
        self.user = os.urandom(64)
        self.key = seal(stretched, self.user)
        pair = rsa.generate_private_key(65537, 2048)
        der = pair.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.private = seal(self.user, der)
        self.public = b64(pair.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ))
        self.name = seal(self.user, b"billing")
        self.login = seal(self.user, b"worker")

    def unlock(self):
        return {
            "kdf": {"kdfType": 0, "iterations": ROUNDS, "memory": None, "parallelism": None},
            "masterKeyEncryptedUserKey": self.key,
            "masterKeyWrappedUserKey": self.key,
            "salt": EMAIL,
        }

    def token(self):
        claims = {
            "sub": USER, "email": EMAIL, "email_verified": True, "name": "Worker", "premium": False,
            "nbf": int(time.time()) - 5, "exp": int(time.time()) + 3600, "iss": "test", "scope": ["api"],
            "sstamp": "stamp", "device": "d", "amr": ["Application"], "client_id": "cli",
        }
        part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
        return {
            "access_token": f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims)}.{part({})}",
            "expires_in": 3600, "token_type": "Bearer", "scope": "api",
            "Key": self.key, "PrivateKey": self.private, "AccountKeys": self.keys(),
            "Kdf": 0, "KdfIterations": ROUNDS, "KdfMemory": None, "KdfParallelism": None,
            "ResetMasterPassword": False, "ForcePasswordReset": False, "unofficialServer": True,
            "UserDecryptionOptions": {
                "HasMasterPassword": True, "MasterPasswordUnlock": self.unlock(),
                "Object": "userDecryptionOptions",
            },
        }

    def keys(self):
        return {
            "publicKeyEncryptionKeyPair": {
                "wrappedPrivateKey": self.private, "publicKey": self.public, "signedPublicKey": None,
                "object": "publicKeyEncryptionKeyPair",
            },
            "signatureKeyPair": None, "securityState": None, "object": "privateKeys",
        }

    def profile(self):
        return {
            "id": USER, "name": "Worker", "email": EMAIL, "emailVerified": True, "premium": False,
            "premiumFromOrganization": False, "culture": "en-US", "twoFactorEnabled": False,
            "key": self.key, "privateKey": self.private, "securityStamp": "stamp",
            "forcePasswordReset": False, "usesKeyConnector": False, "organizations": [], "providers": [],
            "providerOrganizations": [], "avatarColor": None, "creationDate": NOW, "verifyDevices": False,
            "accountKeys": self.keys(),
            "object": "profile",
        }

    def sync(self):
        with open(self.file, "rb") as file:
            secret = seal(self.user, file.read())
        cipher = {
            "id": ITEM, "organizationId": None, "folderId": None, "type": 1, "name": self.name,
            "notes": None, "favorite": False, "organizationUseTotp": True, "edit": True,
            "viewPassword": True, "revisionDate": NOW, "creationDate": NOW, "deletedDate": None,
            "archivedDate": None, "reprompt": 0, "key": None, "collectionIds": [], "attachments": None,
            "fields": None, "passwordHistory": None, "permissions": {"delete": True, "restore": True},
            "login": {
                "username": self.login, "password": secret, "totp": None, "uris": None,
                "passwordRevisionDate": None, "autofillOnPageLoad": None, "fido2Credentials": None,
            },
            "object": "cipherDetails",
        }
        return {
            "profile": self.profile(), "folders": [], "collections": [], "ciphers": [cipher],
            "domains": {"equivalentDomains": [], "globalEquivalentDomains": [], "object": "domains"},
            "policies": [], "sends": [],
            "userDecryption": {"masterPasswordUnlock": self.unlock()},
            "object": "sync",
        }


class Machine:
    """A machine account, by its access token: `0.ID.SECRET:KEY`."""

    ORGANISATION = "99999999-8888-4777-8666-555555555555"

    def __init__(self, token, secret):
        self.file = secret
        said, key = token.split(":")
        _, self.id, self.secret = said.split(".")
        derived = hmac.new(b"bitwarden-accesstoken", base64.b64decode(key), hashlib.sha256).digest()
        info = b"sm-access-token"
        first = hmac.new(derived, info + b"\x01", hashlib.sha256).digest()
        self.key = first + hmac.new(derived, first + info + b"\x02", hashlib.sha256).digest()
        self.organisation = os.urandom(64)

    def token(self):
        claims = {
            "sub": self.id, "organization": self.ORGANISATION, "exp": int(time.time()) + 3600,
            "scope": ["api.secrets"],
        }
        part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
        payload = json.dumps({"encryptionKey": b64(self.organisation)}).encode()
        self.bearer = f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims)}.{part({})}"
        return {
            "access_token": self.bearer, "expires_in": 3600, "token_type": "Bearer", "scope": "api.secrets",
            "encrypted_payload": seal(self.key, payload),
        }

    def read(self):
        with open(self.file, "rb") as file:
            value = seal(self.organisation, file.read())
        return {
            "id": ITEM, "organizationId": self.ORGANISATION, "key": seal(self.organisation, b"billing"),
            "value": value, "note": seal(self.organisation, b""), "creationDate": NOW, "revisionDate": NOW,
            "projects": [], "read": True, "write": False, "object": "secret",
        }


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        path = self.path.split("?")[0]
        account = self.server.account
        known = {
            "/api/sync": account.sync,
            "/api/accounts/profile": account.profile,
            "/api/accounts/revision-date": lambda: int(time.time() * 1000),
            "/api/config": lambda: {
                "version": "2026.1.0", "gitHash": "0", "server": None, "featureStates": {},
                "environment": {"vault": "", "api": "", "identity": "", "notifications": "", "sso": ""},
                "settings": {"disableUserRegistration": True}, "object": "config",
            },
            "/identity/accounts/prelogin": lambda: {"kdf": 0, "kdfIterations": ROUNDS},
        }
        machine = self.server.machine
        if machine and path == "/identity/connect/token" and "scope=api.secrets" in body:
            good = "client_id=" + machine.id in body and "client_secret=" + machine.secret in body
            self.send(200, machine.token()) if good else self.send(400, {"error": "invalid_client"})
        elif machine and path == "/api/secrets/" + ITEM:
            good = self.headers.get("authorization") == "Bearer " + machine.bearer
            self.send(200, machine.read()) if good else self.send(401, {"message": "not logged in"})
        elif path == "/identity/connect/token":
            good = "client_secret=" + self.server.client_secret in body
            self.send(200, account.token()) if good else self.send(400, {"error": "invalid_client"})
        elif path in known:
            self.send(200, known[path]())
        else:
            self.send(404, {"message": "not found"})

    def send(self, status, value):
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = answer

    def log_message(self, *_):
        pass


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    certificate, key, secret = sys.argv[1:]
    server.account = Account(os.environ["BW_PASSWORD"], secret)
    server.client_secret = os.environ["BW_CLIENTSECRET"]
    token = os.environ.get("BWS_ACCESS_TOKEN")
    server.machine = Machine(token, secret) if token else None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print(server.server_port, flush=True)
    server.serve_forever()


main()
