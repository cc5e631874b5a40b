"""Several packet planes as one: the queues between them, and one port for all of them.

A shard is a Plane with an Engine of its own. Nothing is shared but bounded queues, one for each ordered pair:
a track's packets to a hop of another shard, and a hop's packets to a track of another shard.
"""

from collections.abc import Sequence
from typing import Final

from relay_ext.control import Plane

SHARDS_MAX: Final[int]

def shard_of(id: int) -> int:
    """The shard of a track, a hop or an egress."""

def join(planes: Sequence[Plane]) -> None:
    """Let feeds and routes lead from each of these planes to the others.

    They are 1, 2, 4, 8 or 16, and `planes[i].shard` is i (ValueError). Their engines, if they are to have
    any, exist and do not run yet (RuntimeError). Raises MemoryError, OSError.
    """

def steer(fd: int, shards: int) -> None:
    """Share out what arrives at a UDP port among the sockets that are bound to it with SO_REUSEPORT.

    `fd` is the first of them; `shards`, a power of two, says how many they are, in the order of their
    binding. Datagrams of types 4 and above go to the socket that the low bits of their receiver index name
    (byte 7 of the header), all others to the first. Raises OSError where the kernel
    has no SO_ATTACH_REUSEPORT_CBPF.
    """
