"""What nodes tell each other of the hops that a stream takes: those before the sender, and those behind it.

All values are small whole numbers in the unit that their name says; None is unknown, nil on the wire. A value
beyond its bounds is sent as the bound.
"""

from dataclasses import dataclass, fields

from relay.wire.fields import (
    NODE_NAME_CHARS_MAX,
    STREAM_NAME_CHARS_MAX,
    U16,
    U32,
    Fields,
    WireError,
    boolean,
    integer,
    items,
    text,
)

BEFORE_MAX = 2
"""Hops before a node that sends a stream on."""
BEHIND_MAX = 24
"""Hops told of a tree."""
MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class HopFigures:
    """One hop of a path, as the node that it leads to has measured it of late."""

    rtt_100us: int | None = None
    loss_ppm: int | None = None
    """Share of the datagrams that were lost on the way, before repair."""
    residual_ppm: int | None = None
    """Share of the source packets that repair did not bring back."""
    delay_p50_ms: int | None = None
    """What the hop added beyond propagation."""
    delay_p99_ms: int | None = None


BOUNDS = (U16, MILLION, MILLION, U16, U16)
"""Of the fields of HopFigures, which travel as a list in that order."""
UNKNOWN = HopFigures()


@dataclass(frozen=True, slots=True)
class HopsBefore:
    """The hops that a stream has taken to the sender, the first one first; its Publish has their nodes."""

    stream: str
    hops: tuple[HopFigures, ...]


@dataclass(frozen=True, slots=True)
class TreeHop:
    """A hop of a stream, and the node that it leads to."""

    node: str
    parent: int
    """Which of the list the hop comes from; the first one, which leads to the sender, has 0."""
    leaves: bool
    """The stream leaves the fleet there."""
    figures: HopFigures = UNKNOWN


@dataclass(frozen=True, slots=True)
class HopsBehind:
    """The hop to the sender, and those that a stream takes behind it: parents before children, the nearest
    and then the worst ones first, as many as there is room for."""

    stream: str
    nodes: int
    """How many there are in all, the sender included."""
    hops: tuple[TreeHop, ...]


def pack(message: HopsBefore | HopsBehind) -> dict[str, object]:
    """The fields of a message as they travel."""
    if isinstance(message, HopsBefore):
        return {"stream": message.stream, "hops": [_values(hop) for hop in message.hops]}
    hops = [[hop.node, hop.parent, hop.leaves, *_values(hop.figures)] for hop in message.hops]
    return {"stream": message.stream, "nodes": message.nodes, "hops": hops}


def _values(of: HopFigures) -> list[int | None]:
    values = (getattr(of, field.name) for field in fields(of))
    return [None if v is None else min(v, bound) for v, bound in zip(values, BOUNDS, strict=True)]


def unpack_before(packed: Fields) -> HopsBefore:
    """Raises WireError."""
    hops = items(packed, "hops", BEFORE_MAX)
    return HopsBefore(_stream(packed), tuple(_figures(_list(hop, len(BOUNDS))) for hop in hops))


def unpack_behind(packed: Fields) -> HopsBehind:
    """Raises WireError."""
    hops = [_list(hop, 3 + len(BOUNDS)) for hop in items(packed, "hops", BEHIND_MAX)]
    nodes = integer(packed, "nodes", len(hops), U32)
    return HopsBehind(_stream(packed), nodes, tuple(_tree_hop(i, hop) for i, hop in enumerate(hops)))


def _stream(packed: Fields) -> str:
    return text(packed, "stream", STREAM_NAME_CHARS_MAX)


def _tree_hop(i: int, values: list[object]) -> TreeHop:
    at = dict(zip(("node", "parent", "leaves"), values, strict=False))
    parent = integer(at, "parent", 0, max(i - 1, 0))
    node = text(at, "node", NODE_NAME_CHARS_MAX)
    return TreeHop(node, parent, boolean(at, "leaves"), _figures(values[3:]))


def _list(value: object, least: int) -> list[object]:
    """More than is known of may follow."""
    if not isinstance(value, list) or len(value) < least:
        raise WireError(f"a hop must be a list of {least}")
    return value


def _figures(values: list[object]) -> HopFigures:
    found = []
    for value, bound in zip(values, BOUNDS, strict=False):
        found.append(None if value is None else integer({"hop": value}, "hop", 0, bound))
    return HopFigures(*found)
