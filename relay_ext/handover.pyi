from typing import Final

from relay_ext.control import Plane

FORMAT: Final[int]
"""Of what `save` gives: a plane of another format cannot go on from it."""

def save(plane: Plane) -> bytes:
    """What a plane at rest knows, keys included; it stays as it is.

    Raises ValueError for one of several shards, RuntimeError while an engine drives it.
    """

def reserve(plane: Plane, hops: int) -> None:
    """Makes room for so many peers in a new plane, which is most of what takes `load` its time.

    There may turn out to be more of them, or fewer. Raises MemoryError.
    """

def load(plane: Plane, state: bytes | bytearray) -> None:
    """Makes a new plane, with as many slabs, go on from what `save` gave.

    Raises ValueError for what is cut short or of another format; the plane is of no use then.
    """
