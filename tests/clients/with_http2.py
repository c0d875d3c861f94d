"""`httpx` over HTTP/2: many requests at once on one connection."""

import asyncio
import os

import httpx

key = os.environ["OPENAI_API_KEY"]


async def main():
    async with httpx.AsyncClient(http2=True, verify=os.environ["SSL_CERT_FILE"]) as client:
        fields = {"Authorization": f"Bearer {key}"}
        ask = lambda n: client.post("https://api.openai.com/echo", headers=fields, content=f"{n}")
        answers = await asyncio.gather(*(ask(n) for n in range(20)))
        for answer in answers:
            answer.raise_for_status()
        print({answer.http_version for answer in answers})
        print(answers[0].text)


asyncio.run(main())
