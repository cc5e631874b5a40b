"""The packet plane as a plain forwarder, with the command line of c_loop/forward.c:

    python -m tests.benchmarks.forward_plane LISTEN_PORT PORTS TO_PORT FAN [COALESCE_US]

Ingest, playout and egress run as in a node. Prints "ready"; ends when its standard input does.
"""

import sys
import time

from relay.services.sockets import open_udp
from relay_ext.control import PORT_EGRESS, PORT_RTP, Plane
from relay_ext.engine import Engine
from relay_ext.payload import Kind

HOST = "127.0.0.1"


def main(listen_port: int, ports: int, to_port: int, fan: int, coalesce_us: int = 100) -> None:
    plane = Plane(bytes(32), now_ns=time.monotonic_ns())
    engine = Engine(plane, coalesce_us=coalesce_us)
    with open_udp((HOST, 0)) as sock:
        plane.set_port(0, PORT_EGRESS)
        engine.add_port(0, sock)
    for i in range(ports):
        track = plane.add_track(clock_rate=90000, hold_us=100_000, payload_type=96, kind=Kind.H264)
        plane.set_port(i + 1, PORT_RTP, track)
        for to in ((HOST, to_port + i * fan + k) for k in range(fan)):
            plane.add_egress(track, 0, to, to, ssrc=i, seq=0, timestamp=0, cname=b"relay")
        with open_udp((HOST, listen_port + i)) as sock:
            engine.add_port(i + 1, sock)
    engine.start()
    print("ready", flush=True)
    sys.stdin.read()
    engine.stop()
    print({name: n for name, n in engine.counters().items() if n}, plane.stats(), file=sys.stderr)
    plane.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
