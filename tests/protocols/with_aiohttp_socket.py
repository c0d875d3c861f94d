"""aiohttp's WebSocket, without and with compression; and one that is refused."""

import asyncio

import aiohttp

HEADERS = {"Authorization": "Bearer locum_page"}


async def talk(session, compress):
    connecting = session.ws_connect(
        "wss://page.test/socket", headers=HEADERS, protocols=("probe",), compress=compress, autoping=False
    )
    async with connecting as socket:
        await socket.send_str("hello")
        text = await socket.receive_str()
        await socket.send_bytes(bytes(300_000))
        data = await socket.receive_bytes()
        await socket.ping(b"are you there?")
        pong = await socket.receive()
        assert (pong.type, pong.data) == (aiohttp.WSMsgType.PONG, b"are you there?"), pong
        await socket.send_str("bye")
        closed = await socket.receive()
        assert closed.type == aiohttp.WSMsgType.CLOSE, closed
        print(f"{socket.protocol}: {text} {len(data)} bytes, pong, closed {closed.data} {closed.extra}")


async def main():
    async with aiohttp.ClientSession(trust_env=True) as session:
        await talk(session, 0)
        await talk(session, 15)
        try:
            unknown = {"Authorization": "Bearer locum_none"}
            async with session.ws_connect("wss://page.test/socket", headers=unknown):
                print("refused: not at all")
        except aiohttp.WSServerHandshakeError as error:
            print("refused:", error.status)


asyncio.run(main())
