"""WebSockets by Python's websockets: an origin on a Unix socket, and a client of a node.

python_websocket.py serve SOCKET
python_websocket.py ask IP NAME CA

The origin sends back what it gets, and ends a connection that says "bye". The client prints "ok" once texts and large messages have
come back as they were sent, both ways at once, and a connection has been ended by either side."""

import asyncio
import hashlib
import socket
import ssl
import sys

import websockets

LARGE = bytes(range(256)) * (16 << 20 >> 8)


async def echo(connection, path=None):
    async for message in connection:
        if message == "bye":
            await connection.close(4000, "as you wish")
            return
        await connection.send(message)


async def serve(path):
    async with websockets.unix_serve(echo, path, max_size=None, ping_interval=None):
        await asyncio.Future()


async def ask(address, name, authority):
    context = ssl.create_default_context(cafile=authority)

    def connect():
        stream = socket.create_connection((address, 443))
        plain = {"compression": None, "max_size": None, "ping_interval": None, "close_timeout": 60}
        return websockets.connect(f"wss://{name}/chat", sock=stream, ssl=context, server_hostname=name, **plain)

    async with connect() as connection:
        for number in range(50):
            text = f"text {number} \u00e4\u4e2d" * number
            await connection.send(text)
            assert await connection.recv() == text
        await connection.send(LARGE)
        answer = await connection.recv()
        assert hashlib.sha256(answer).digest() == hashlib.sha256(LARGE).digest()
        # Both ways at once: what is sent does not wait for what comes back.
        sending = asyncio.create_task(send(connection, 200))
        for number in range(200):
            assert await connection.recv() == bytes([number]) * 30000
        await sending
    # Ended by the client: its close was answered.
    assert connection.close_code == 1000, connection.close_code
    async with connect() as connection:
        await connection.send("bye")
        try:
            await connection.recv()
            raise AssertionError("it goes on")
        except websockets.ConnectionClosed as closed:
            assert closed.rcvd.code == 4000, closed
    print("ok")


async def send(connection, count):
    for number in range(count):
        await connection.send(bytes([number]) * 30000)


if sys.argv[1] == "serve":
    asyncio.run(serve(sys.argv[2]))
else:
    asyncio.run(ask(*sys.argv[2:]))
