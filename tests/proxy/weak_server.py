"""Servers whose certificates no client should believe. Writes their ports, and for each line that it is
sent how many bytes of application data each was given."""

import datetime
import json
import pathlib
import socket
import ssl
import sys
import threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

directory = pathlib.Path(sys.argv[1])
now = datetime.datetime.now(datetime.timezone.utc)
given = {}


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate(subject, key, issuer, issuer_key, ca):
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if not ca:
        names = x509.SubjectAlternativeName([x509.DNSName(subject)])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


# sha256WithRSAEncryption and sha1WithRSAEncryption, as DER.
SHA256 = bytes.fromhex("06092a864886f70d01010b")
SHA1 = bytes.fromhex("06092a864886f70d010105")


def signed_with_sha1(made, key):
    """The same certificate under another signature: the library makes no such ones."""
    whole = made.public_bytes(serialization.Encoding.DER)
    signature = key.sign(
        made.tbs_certificate_bytes.replace(SHA256, SHA1), padding.PKCS1v15(), hashes.SHA1()
    )
    whole = whole.replace(SHA256, SHA1)[: -len(signature)] + signature
    return x509.load_der_x509_certificate(whole)


def pem(thing):
    return thing.public_bytes(serialization.Encoding.PEM)


def private(key):
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def serve(host, context):
    listener = socket.create_server(("127.0.0.1", 0))

    def one(connection):
        try:
            with context.wrap_socket(connection, server_side=True) as tls:
                while data := tls.recv(65536):
                    given[host] += len(data)
                    if data.endswith(b"\r\n\r\n"):
                        tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except OSError:
            pass

    def accept():
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def make_old(host, latest):
    """A good certificate, and a version of TLS that nobody should speak; that it does is tried first."""
    port = make(host, 2048, 2048, False, latest)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.set_ciphers("DEFAULT:@SECLEVEL=0")
    client.minimum_version = ssl.TLSVersion.TLSv1
    client.load_verify_locations(directory / f"{host}-ca.pem")
    with socket.create_connection(("127.0.0.1", port)) as plain:
        with client.wrap_socket(plain, server_hostname=host) as tls:
            assert tls.version() in ("TLSv1", "TLSv1.1"), tls.version()
    return port


def make(host, ca_bits, leaf_bits, sha1, latest):
    ca_key = rsa.generate_private_key(65537, ca_bits)
    ca = certificate(f"CA of {host}", ca_key, f"CA of {host}", ca_key, True)
    key = rsa.generate_private_key(65537, leaf_bits)
    leaf = certificate(host, key, f"CA of {host}", ca_key, False)
    if sha1:
        leaf = signed_with_sha1(leaf, ca_key)
    chain = directory / f"{host}.pem"
    chain.write_bytes(pem(leaf) + private(key))
    (directory / f"{host}-ca.pem").write_bytes(pem(ca))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # OpenSSL would not even serve these otherwise.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = min(latest, ssl.TLSVersion.TLSv1_2)
    context.maximum_version = latest
    context.load_cert_chain(chain)
    given[host] = 0
    return serve(host, context)


ports = {}
for version, latest in [("12", ssl.TLSVersion.TLSv1_2), ("13", ssl.TLSVersion.TLSv1_3)]:
    for kind, ca_bits, leaf_bits, sha1 in [
        ("good", 2048, 2048, False),
        ("small-key", 2048, 1024, False),
        ("small-ca", 1024, 2048, False),
        ("sha1", 2048, 2048, True),
    ]:
        host = f"{kind}-{version}.test"
        ports[host] = make(host, ca_bits, leaf_bits, sha1, latest)
ports["old-10.test"] = make_old("old-10.test", ssl.TLSVersion.TLSv1)
ports["old-11.test"] = make_old("old-11.test", ssl.TLSVersion.TLSv1_1)
print(json.dumps(ports), flush=True)
for _ in sys.stdin:
    print(json.dumps(given), flush=True)
