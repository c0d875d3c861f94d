"""The Autobahn cases, played by `kosoku`: against a server, or as the server for a client.

    autobahn.py server                echoes, and under /show says which key it was shown first;
                                      prints its port, and serves until it is killed
    autobahn.py fuzz-server URL       plays the cases against the server at URL, and prints the verdicts
    autobahn.py fuzz-client           prints its port, waits for a client to play the cases, prints the verdicts
    autobahn.py client URL            is that client, for a server at URL
"""

import asyncio
import json
import logging
import sys

from kosoku import FailureError, run_fuzzingclient, run_fuzzingserver
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

# All cases but those that repeat one thing a thousand times with ever longer messages: of 12 and 13
# (compression with every parameter) the ones with short and with middling messages.
EXCLUDED = [
    f"{part}.{kind}.{size}"
    for part, kinds in ((12, 5), (13, 7))
    for kind in range(1, kinds + 1)
    for size in range(1, 19)
    if size not in (1, 4)
]

logging.getLogger("websockets").setLevel(logging.CRITICAL)


async def answer(socket):
    if socket.request.path.startswith("/show"):
        await socket.send(f"you showed {socket.request.headers['Authorization']}, yes")
    await echo(socket)


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def server():
    async with serve(answer, "127.0.0.1", 0, max_size=None, ping_interval=None) as serving:
        print("port:", serving.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()


def verdicts(results):
    table = {
        r.case_id: [r.behavior.value, r.behavior_close.value, r.remote_close_code, r.was_clean]
        for r in results
    }
    print("verdicts:", json.dumps(table), flush=True)


async def results_of(waiting):
    try:
        return await waiting
    except FailureError as failure:
        return failure.results


async def fuzz_server(url):
    verdicts(await results_of(run_fuzzingclient(url, exclude_cases=EXCLUDED, concurrency=4)))


async def fuzz_client():
    async with run_fuzzingserver(exclude_cases=EXCLUDED, port=0) as serving:
        print("port:", serving.port, flush=True)
        verdicts(await results_of(serving.get_result()))


async def client(url):
    async with connect(f"{url}/getCaseCount") as socket:
        count = int(await socket.recv())
    for case in range(1, count + 1):
        socket = await connect(
            f"{url}/runCase?case={case}&agent=client", max_size=None, ping_interval=None
        )
        try:
            await echo(socket)
        except Exception as error:
            print(case, repr(error))
        await socket.wait_closed()
    socket = await connect(f"{url}/updateReports?agent=client")
    await socket.wait_closed()
    print("done", flush=True)


mode = {"server": server, "fuzz-server": fuzz_server, "fuzz-client": fuzz_client, "client": client}
asyncio.run(mode[sys.argv[1]](*sys.argv[2:]))
