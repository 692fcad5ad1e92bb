"""A relay that delays what a server answers, each round trip once.

    relay.py tcp|udp LISTEN_PORT SERVER_PORT

Lines on standard input are milliseconds of delay from now on; its end ends the relay.
"""
import asyncio
import sys

delay = 0.0


async def copy(reader, writer, delayed):
    """One direction of a connection; what waits keeps its order."""
    waiting = asyncio.Queue()

    async def send():
        while item := await waiting.get():
            due, data = item
            await asyncio.sleep(max(0, due - asyncio.get_running_loop().time()))
            writer.write(data)
            await writer.drain()

    sender = asyncio.create_task(send())
    try:
        while data := await reader.read(65536):
            waiting.put_nowait((asyncio.get_running_loop().time() + (delay if delayed else 0), data))
    except OSError:
        pass
    waiting.put_nowait(None)
    try:
        await sender
    except OSError:
        pass
    writer.close()


async def tcp(port, server):
    async def connected(reader, writer):
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", server)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(copy(reader, forth, False), copy(back, writer, True))

    await asyncio.start_server(connected, "127.0.0.1", port)


class Answers(asyncio.DatagramProtocol):
    def __init__(self, front, client):
        self.front, self.client = front, client

    def datagram_received(self, data, _):
        asyncio.get_running_loop().call_later(delay, self.front.sendto, data, self.client)

    def error_received(self, _):
        pass    # nobody is there now


class Requests(asyncio.DatagramProtocol):
    def __init__(self, server):
        self.server, self.sockets = server, {}

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, client):
        asyncio.ensure_future(self.forward(data, client))

    async def forward(self, data, client):
        if client not in self.sockets:
            loop = asyncio.get_running_loop()
            self.sockets[client] = loop.create_task(loop.create_datagram_endpoint(
                lambda: Answers(self.transport, client), remote_addr=("127.0.0.1", self.server)))
        (await self.sockets[client])[0].sendto(data)


async def main(kind, port, server):
    global delay
    loop = asyncio.get_running_loop()
    if kind == "tcp":
        await tcp(port, server)
    else:
        await loop.create_datagram_endpoint(lambda: Requests(server), local_addr=("127.0.0.1", port))
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        delay = float(line) / 1000


asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
