"""A wide-area network between network namespaces: an emulated link for each pair of addresses, on a TUN
device.

What the namespace routes into the device comes out of it again, later or not at all, and the namespace
forwards it to where it goes. So nodes speak to each other's real addresses, and nothing stands between them
that they could notice but delay and loss.

`python -m relay.lab.wan --device tun0 10.0.1.2,10.0.2.2,20,0.01` is one such network: 20 ms each way and 1 %
between those two, and nothing between all others.
"""

import argparse
import fcntl
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from relay.lab.link import Link, LinkConfig, seeded

Pair = tuple[str, str]
"""(source, destination), IPv4 addresses"""

TUNSETIFF = 0x400454CA  # linux/if_tun.h
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
MAX_PACKET = 65_535  # bytes, RFC 791 section 3.1
ADDRESSES = slice(12, 20)
"""Source and destination in an IPv4 header (RFC 791, section 3.1)."""
BATCH = 64
"""Packets read before what is due is written."""


class Wan:
    """Sans-IO: `send` takes IP packets, `poll` gives those that come out. Times in ns; equal seeds and inputs
    give equal fates, pair by pair."""

    def __init__(self, profiles: Mapping[Pair, LinkConfig], seed: int) -> None:
        self._profiles = profiles
        self._seed = seed
        self._links: dict[bytes, Link[bytes]] = {}
        """By both addresses as they stand in the header."""

    def send(self, now_ns: int, packet: bytes) -> None:
        """Packets that are not IPv4 are dropped."""
        if len(packet) < ADDRESSES.stop or packet[0] >> 4 != 4:
            return
        link = self._links.get(packet[ADDRESSES]) or self._link(now_ns, packet[ADDRESSES])
        link.send(now_ns, len(packet), packet)

    def _link(self, now_ns: int, ends: bytes) -> Link[bytes]:
        source, destination = socket.inet_ntoa(ends[:4]), socket.inet_ntoa(ends[4:])
        profile = self._profiles.get((source, destination), LinkConfig())
        link: Link[bytes] = Link(profile, seeded(self._seed, f"{source}>{destination}"), now_ns)
        self._links[ends] = link
        return link

    def poll(self, now_ns: int) -> Iterator[bytes]:
        for link in self._links.values():
            for _, packet in link.poll(now_ns):
                yield packet

    def deadline(self) -> int | None:
        """When to `poll` next; None while nothing is under way."""
        due = (link.deadline() for link in self._links.values())
        return min((ns for ns in due if ns is not None), default=None)


def open_tun(device: str) -> int:
    """A TUN device of this namespace, by its descriptor. Raises OSError without the right to it."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
    except OSError:
        os.close(tun)
        raise
    return tun


def run(tun: int, wan: Wan) -> NoReturn:
    """Until the process is ended."""
    while True:
        due_ns = wan.deadline()
        wait_s = None if due_ns is None else max(due_ns - time.monotonic_ns(), 0) / 1e9
        if select.select([tun], [], [], wait_s)[0]:
            _read(tun, wan)
        for packet in wan.poll(time.monotonic_ns()):
            os.write(tun, packet)


def _read(tun: int, wan: Wan) -> None:
    try:
        for _ in range(BATCH):
            wan.send(time.monotonic_ns(), os.read(tun, MAX_PACKET))
    except BlockingIOError:
        return


def _pair(text: str) -> tuple[str, str, LinkConfig]:
    """Of "A,B,DELAY_MS,LOSS"."""
    a, b, delay_ms, loss = text.split(",")
    return a, b, LinkConfig(delay_ms=float(delay_ms), loss=float(loss))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m relay.lab.wan", description=__doc__)
    parser.add_argument("--device", required=True, metavar="NAME", help="of the TUN device")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of all losses (1)")
    parser.add_argument(
        "pairs", nargs="*", type=_pair, metavar="A,B,MS,LOSS", help="one way, the same both ways"
    )
    options = parser.parse_args(argv)
    profiles = {ends: link for a, b, link in options.pairs for ends in ((a, b), (b, a))}
    tun = open_tun(options.device)
    print(f"{options.device} carries {len(options.pairs)} pairs", file=sys.stderr, flush=True)
    try:
        run(tun, Wan(profiles, options.seed))
    except KeyboardInterrupt:
        return 0
    finally:
        os.close(tun)


if __name__ == "__main__":
    sys.exit(main())
