"""httpbin in the clear, in HTTP/1.1 and in HTTP/2 with prior knowledge; TLS is before it."""

import asyncio
import socket

import hypercorn.asyncio
import hypercorn.config
from httpbin import app

listening = socket.create_server(("127.0.0.1", 0))
print(f"port {listening.getsockname()[1]}", flush=True)
config = hypercorn.config.Config()
config.bind = [f"fd://{listening.fileno()}"]
asyncio.run(hypercorn.asyncio.serve(app, config, mode="wsgi"))
