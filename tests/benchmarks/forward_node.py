"""A whole node as a plain forwarder, with the command line of c_loop/forward.c, but for its ports:

    python -m tests.benchmarks.forward_node LISTEN_PORT STREAMS TO_PORT FAN

Streams come in on LISTEN_PORT, LISTEN_PORT+2, ..., since RTCP has the ports between; the API is on the port
before LISTEN_PORT. Prints "ready"; ends when its standard input does.
"""

import asyncio
import logging
import sys

from relay.config import parse
from relay.node import Node, run_on_loop

HOST = "127.0.0.1"


def configuration(listen_port: int, streams: int, to_port: int, fan: int) -> str:
    parts = [f'[node]\nname = "bench"\n[ops]\nlisten = "{HOST}:{listen_port - 1}"\n']
    for i in range(streams):
        to = ", ".join(
            f'{{ kind = "video", address = "{HOST}:{to_port + i * fan + k}" }}' for k in range(fan)
        )
        listen = f"{HOST}:{listen_port + 2 * i}"
        track = f'{{ kind = "video", listen = "{listen}", payload_type = 96, codec = "H264/90000" }}'
        parts.append(
            f'[[ingest.rtp]]\nstream = "s{i}"\ntracks = [{track}]\n'
            f'[[egress.rtp]]\nstream = "s{i}"\nto = [{to}]\n'
        )
    return "".join(parts)


async def forward(text: str) -> int:
    node = Node(parse(text, {}))
    await node.start()
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await node.stop()
    return 0


if __name__ == "__main__":
    logging.disable()
    run_on_loop(forward(configuration(*map(int, sys.argv[1:]))))
