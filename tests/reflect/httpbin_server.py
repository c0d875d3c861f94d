"""httpbin over TLS, in HTTP/1.1 and HTTP/2. Says what it got by a digest, which no search for a key finds."""

import asyncio
import hashlib
import socket
import sys

import hypercorn.asyncio
import hypercorn.config
from httpbin import app

certificate, private = sys.argv[1:3]


def answer(environ, start_response):
    """httpbin's own, with `X-Seen`, and one byte at a time for `X-Slow`."""
    seen = "|".join(
        [environ.get("HTTP_AUTHORIZATION", ""), environ.get("HTTP_COOKIE", ""), environ.get("QUERY_STRING", "")]
    )
    digest = hashlib.sha256(seen.encode("latin-1")).hexdigest()

    def start(status, headers, *more):
        return start_response(status, [*headers, ("X-Seen", digest)], *more)

    whole = app(environ, start)
    slow = "HTTP_X_SLOW" in environ
    for piece in whole:
        if not slow:
            yield piece
        for byte in piece if slow else b"":
            yield bytes([byte])
    # The head goes out with the first piece, so there must be one.
    yield b""


listening = socket.create_server(("127.0.0.1", 0))
print(f"port {listening.getsockname()[1]}", flush=True)
config = hypercorn.config.Config()
config.bind = [f"fd://{listening.fileno()}"]
config.certfile, config.keyfile = certificate, private
config.alpn_protocols = ["h2", "http/1.1"] if sys.argv[3:] == ["h2"] else ["http/1.1"]
config.include_server_header = False
# A machine that is busy is no reason to go.
config.keep_alive_timeout = 600
asyncio.run(hypercorn.asyncio.serve(answer, config, mode="wsgi"))
