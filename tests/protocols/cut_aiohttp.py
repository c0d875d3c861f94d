"""Downloads that break off, read piece by piece."""

import asyncio

import aiohttp


async def main():
    headers = {"Authorization": "Bearer locum_main"}
    async with aiohttp.ClientSession("https://api.test", trust_env=True) as session:
        for path in ("/abort", "/abort-long", "/abort-chunked", "/bytes/100000"):
            length = 0
            try:
                async with session.get(path, headers=headers) as answer:
                    async for piece in answer.content.iter_any():
                        length += len(piece)
                whole = f"whole, {length} bytes"
                print(f"{path}: {whole if answer.status == 200 else answer.status}")
            except aiohttp.ClientError as error:
                print(f"{path}: error after {length} bytes: {error!r}")


asyncio.run(main())
