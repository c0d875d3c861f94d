"""httpx with HTTP/2: many requests at once, an event stream, a refusal, answers that break off."""

import asyncio
import os
import ssl

import httpx

HEADERS = {"Authorization": "Bearer locum_main"}


async def cut(client, name, path):
    length = 0
    try:
        async with client.stream("GET", path) as answer:
            async for piece in answer.aiter_raw():
                length += len(piece)
        print(f"{name}: {answer.status_code}" if answer.status_code != 200 else f"{name}: whole, {length} bytes", flush=True)
    except httpx.TransportError as error:
        print(f"{name}: {type(error).__name__} after {length} bytes", flush=True)


async def main():
    context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    # It opens a connection for each of the first requests, before it knows that one would do, and an open
    # one whose request it has not sent yet counts as idle: above 20 of these it would close them under
    # their own requests.
    limits = httpx.Limits(max_keepalive_connections=None)
    async with httpx.AsyncClient(
        http2=True, verify=context, base_url="https://api.test", headers=HEADERS, timeout=60, limits=limits
    ) as client:
        answers = await asyncio.gather(*(client.get(f"/v1/many/{n}") for n in range(30)))
        versions = {answer.http_version for answer in answers if answer.status_code == 200}
        print("at once:", len(answers), "answers over", *versions, flush=True)
        async with client.stream("GET", "/events/4") as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    print("event:", line[6:], flush=True)
        answer = await client.get("/never", headers={"Authorization": "Bearer locum_none"})
        print("refused:", answer.status_code, answer.json()["type"], "over", answer.http_version, flush=True)
        await cut(client, "cut short", "/abort")
        await cut(client, "cut long", "/abort-long")
        await cut(client, "cut chunked", "/abort-chunked")
        # The connection outlives the streams on it that broke.
        answer = await client.get("/v1/after")
        print("and still:", answer.status_code, "over", answer.http_version, flush=True)


asyncio.run(main())
