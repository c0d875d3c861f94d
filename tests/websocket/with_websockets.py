"""The `websockets` library as a client, with the key that the environment has."""

import asyncio
import json
import os
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

headers = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}


async def converse(url, compression):
    async with connect(url, additional_headers=headers, compression=compression, max_size=None) as socket:
        agreed = [extension.name for extension in socket.protocol.extensions]
        print("agreed:", agreed, flush=True)
        assert agreed == (["permessage-deflate"] if compression else [])
        for message in ("hello", "long " * 20_000, b"\x00\xff" * 300, os.urandom(2_000_000)):
            await socket.send(message)
            assert await socket.recv() == message
        # One message in three frames.
        await socket.send(iter(["in ", "three ", "frames"]))
        assert await socket.recv() == "in three frames"
        pong = await socket.ping(b"are you there")
        await asyncio.wait_for(pong, 10)
        await socket.close(4000, "enough")
        assert (socket.close_code, socket.close_reason) == (4000, "enough")


async def show(url):
    async with connect(url + "/show", additional_headers=headers, compression=None) as socket:
        print(await socket.recv(), flush=True)
    try:
        async with connect(url + "/show", additional_headers=headers) as socket:
            print("not to be seen:", await socket.recv(), flush=True)
    except ConnectionClosedError as error:
        print("cut:", error)


async def main():
    url = sys.argv[1]
    for compression in ("deflate", None):
        await converse(url, compression)
    await show(url)
    print(json.dumps(dict(os.environ)))


asyncio.run(main())
