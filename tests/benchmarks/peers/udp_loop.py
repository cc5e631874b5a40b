"""A DatagramProtocol as a plain forwarder, with the ports of c_loop/forward.c:

python -m tests.benchmarks.peers.udp_loop asyncio|uvloop LISTEN_PORT PORTS TO_PORT FAN
"""

import asyncio
import socket
import sys
from functools import partial

import uvloop

HOST = "127.0.0.1"
BUFFER = 4 << 20  # bytes; as the C loops ask for


def udp(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    sock.bind((HOST, port))
    sock.setblocking(False)
    return sock


class Forward(asyncio.DatagramProtocol):
    def __init__(self, out: asyncio.DatagramTransport, to: list[tuple[str, int]]) -> None:
        self._send = out.sendto
        self._to = to

    def datagram_received(self, data: bytes, _: object) -> None:
        for address in self._to:
            self._send(data, address)


async def main(listen_port: int, ports: int, to_port: int, fan: int) -> None:
    loop = asyncio.get_running_loop()
    out, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=udp(0))
    for i in range(ports):
        to = [(HOST, to_port + i * fan + k) for k in range(fan)]
        await loop.create_datagram_endpoint(partial(Forward, out, to), sock=udp(listen_port + i))
    await asyncio.Event().wait()


if __name__ == "__main__":
    run = uvloop.run if sys.argv[1] == "uvloop" else asyncio.run
    run(main(*map(int, sys.argv[2:])))
