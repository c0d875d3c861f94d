"""aiohttp with the proxy of the environment: an echo, an upload of unknown length, an event stream."""

import asyncio

import aiohttp

HEADERS = {"Authorization": "Bearer locum_main"}


async def pieces():
    for _ in range(3):
        yield b"x" * 100_000


async def main():
    async with aiohttp.ClientSession("https://api.test", trust_env=True) as session:
        async with session.post("/echo?aiohttp", headers=HEADERS, data=b"hello") as answer:
            print("echo:", answer.status, (await answer.json())["body"], flush=True)
        async with session.post("/upload", headers=HEADERS, data=pieces()) as answer:
            print("chunked upload:", answer.status, flush=True)
        async with session.get("/events/4", headers=HEADERS) as answer:
            async for line in answer.content:
                if line.startswith(b"data: "):
                    print("event:", line[6:].decode().strip(), flush=True)
        unknown = {"Authorization": "Bearer locum_none"}
        async with session.get("/never", headers=unknown) as answer:
            problem = await answer.json(content_type="application/problem+json")
            print("refused:", answer.status, problem["type"], flush=True)


asyncio.run(main())
