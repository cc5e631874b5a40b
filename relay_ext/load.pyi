"""The world around a node, for `relay bench`: encoders, receivers and a link that loses packets.

`run` blocks without the GIL until `stop`, which any thread may call; it is called once. Sockets are UDP and
stay their owner's.
"""

import socket
from collections.abc import Sequence
from typing import Self

class Source:
    """Encoders, one for each connected socket: bursts of RTP (payload type 96) of one stream after the other.

    `burst` is in packets (1 to 64), `packet_bytes` the size of the UDP payload. Raises ValueError.
    """

    def __new__(cls, sockets: Sequence[socket.socket], *, burst: int, packet_bytes: int) -> Self: ...
    @property
    def sent(self) -> int:
        """Packets that the kernel took, over all runs."""
    def run(self, packets_per_second: float, seconds: float) -> float:
        """Offers that rate for that time, or what this machine manages; returns the seconds that it took.

        May be called again, which goes on with the same streams, until `stop`. Raises ValueError.
        """
    def stop(self) -> None: ...

class Sink:
    """Receivers, which count datagrams of `packet_bytes` of UDP payload."""

    def __new__(cls, sockets: Sequence[socket.socket], *, packet_bytes: int) -> Self: ...
    @property
    def received(self) -> int: ...
    def run(self) -> None:
        """Raises OSError."""
    def stop(self) -> None: ...

class Link:
    """Carries datagrams between the peers of two connected sockets and loses a share of them, either way.

    `loss` is from 0 to below 1, `seed` makes the same losses for the same packets. Raises ValueError.
    """

    def __new__(cls, sockets: Sequence[socket.socket], *, loss: float, seed: int) -> Self: ...
    @property
    def forwarded(self) -> int: ...
    @property
    def lost(self) -> int: ...
    def run(self) -> None: ...
    def stop(self) -> None: ...
