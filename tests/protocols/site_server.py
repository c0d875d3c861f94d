"""An origin in aiohttp: a page, an echo, an event stream and a WebSocket. It takes nothing without the key.

Prints each request, and whether it had the key.
"""

import asyncio
import os
import ssl
import sys

from aiohttp import WSMsgType, web

certificate, private, page = sys.argv[1:4]
next_event = asyncio.Semaphore(0)


@web.middleware
async def check(request, handler):
    with_key = request.headers.get("Authorization") == f"Bearer {os.environ['KEY']}"
    print(f"{request.method} {request.path} {'with the key' if with_key else 'without it'}", flush=True)
    if not with_key:
        raise web.HTTPUnauthorized()
    return await handler(request)


async def the_page(_request):
    return web.FileResponse(page, headers={"Content-Type": "text/html; charset=utf-8"})


async def echo(request):
    return web.json_response({"method": request.method, "length": len(await request.read())})


async def large(_request):
    return web.Response(body=b"x" * 3_000_000)


async def events(request):
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    for number in range(4):
        if number:
            await next_event.acquire()
        await answer.write(f"data: {number}\n\n".encode())
    # A browser asks again for a stream that has ended: this one ends when it closes it.
    await asyncio.sleep(3600)


async def following(_request):
    next_event.release()
    return web.Response(status=204)


async def socket(request):
    """Echoes messages. `bye` is answered by a close with a code of its own."""
    answer = web.WebSocketResponse(protocols=("probe",))
    await answer.prepare(request)
    async for message in answer:
        if message.type == WSMsgType.TEXT and message.data == "bye":
            await answer.close(code=4321, message=b"as asked")
        elif message.type == WSMsgType.TEXT:
            await answer.send_str(message.data)
        elif message.type == WSMsgType.BINARY:
            await answer.send_bytes(message.data)
    return answer


async def main():
    app = web.Application(middlewares=[check], client_max_size=16 << 20)
    app.router.add_get("/", the_page)
    app.router.add_post("/echo", echo)
    app.router.add_get("/large", large)
    app.router.add_get("/events", events)
    app.router.add_post("/next", following)
    app.router.add_get("/socket", socket)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, private)
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    print("port", site._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
