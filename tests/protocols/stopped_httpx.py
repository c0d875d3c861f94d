"""httpx with HTTP/2 at a proxy that stops: a stream under way, and a connection that waits."""

import asyncio
import os
import ssl

import httpx

HEADERS = {"Authorization": "Bearer locum_main"}


async def then(client, name):
    try:
        answer = await client.get("/v1/then")
        print(f"{name} then: {answer.status_code}", flush=True)
    except httpx.TransportError as error:
        print(f"{name} then: {type(error).__name__}", flush=True)


async def main():
    context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])

    def client():
        return httpx.AsyncClient(
            http2=True, verify=context, base_url="https://api.test", headers=HEADERS, timeout=60
        )

    async with client() as idle, client() as busy:
        answer = await idle.get("/v1/before")
        print("idle:", answer.status_code, "over", answer.http_version, flush=True)
        async with busy.stream("GET", "/events/4") as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    print("event:", line[6:], flush=True)
        print("stream: whole", flush=True)
        await then(idle, "idle")
        await then(busy, "busy")


asyncio.run(main())
