"""What nodes tell each other of their health: a digest of one node, and a summary of many.

All values are small whole numbers in the unit that their name ends in; None is unknown, and is left out on
the wire. A value beyond its bounds is sent as the bound. docs/health.md has each fact's source and meaning.
"""

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from relay.wire.fields import U16, U32, Fields, WireError, integer, text

HEALTH_BYTES_MAX = 200
"""Bytes of a packed digest or summary."""
VERSION_CHARS_MAX = 16
RATIO = 1000
"""One, in thousandths: the unit `permille`."""
MBPS_MAX = 1_000_000


class Field(NamedTuple):
    """How a fact travels: its key, and the least and the greatest value; 0 and 1 stand for a flag."""

    key: str
    low: int
    high: int

    @property
    def flag(self) -> bool:
        return self.high == 1


@dataclass(frozen=True, slots=True)
class Digest:
    """The health of one node."""

    version: str | None = None
    """Of the program."""
    draining: bool | None = None
    streams: int | None = None
    """Streams that have a source."""
    headroom_permille: int | None = None
    """What the node says that it can still take: one less the highest of its loads."""
    thread_load_permille: int | None = None
    """CPU time of the busiest packet thread, of one core."""
    kernel_load_permille: int | None = None
    """Time that the busiest processor spends on interrupts, which is where the kernel takes packets."""
    loop_lag_ms: int | None = None
    """How late the event loop ran a timer, at worst."""
    temperature_c: int | None = None
    """Degrees Celsius of the hottest thermal zone."""
    throttled: bool | None = None
    """The processor is held back, by heat or by its power supply."""
    under_voltage: bool | None = None
    memory_pressure_permille: int | None = None
    """Share of the last 10 s in which some task waited for memory (PSI)."""
    memory_available_permille: int | None = None
    backlog_drops_per_s: int | None = None
    """Packets a second that the kernel dropped before any socket (softnet)."""
    udp_drops_per_s: int | None = None
    """Datagrams a second that found their socket's buffer full."""
    nic_errors_per_s: int | None = None
    nic_speed_mbps: int | None = None
    """Of the slowest network card in use."""
    nic_load_permille: int | None = None
    """Share of its speed that the busiest network card carries, in its busier direction."""
    disk_errors: int | None = None
    """That ext4 file systems have recorded since they were checked."""
    disk_read_only: bool | None = None
    """The file system of the state directory cannot be written."""
    disk_free_permille: int | None = None
    """Of that file system."""
    clock_synchronised: bool | None = None
    """The kernel takes the wall clock for right."""
    record_left_permille: int | None = None
    """Of the life of the node's record, what is left; unknown without one."""


DIGEST_FIELDS = {
    "draining": Field("d", 0, 1),
    "streams": Field("n", 0, U16),
    "headroom_permille": Field("h", 0, RATIO),
    "thread_load_permille": Field("c", 0, RATIO),
    "kernel_load_permille": Field("i", 0, RATIO),
    "loop_lag_ms": Field("l", 0, U16),
    "temperature_c": Field("T", -273, 1000),
    "throttled": Field("x", 0, 1),
    "under_voltage": Field("u", 0, 1),
    "memory_pressure_permille": Field("p", 0, RATIO),
    "memory_available_permille": Field("m", 0, RATIO),
    "backlog_drops_per_s": Field("b", 0, U16),
    "udp_drops_per_s": Field("r", 0, U16),
    "nic_errors_per_s": Field("e", 0, U16),
    "nic_speed_mbps": Field("s", 0, MBPS_MAX),
    "nic_load_permille": Field("w", 0, RATIO),
    "disk_errors": Field("E", 0, U16),
    "disk_read_only": Field("o", 0, 1),
    "disk_free_permille": Field("f", 0, RATIO),
    "clock_synchronised": Field("k", 0, 1),
    "record_left_permille": Field("a", 0, RATIO),
}
"""All but the version, which is text under "v". Keys are never given to another fact."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The health of the edges of a region: median and worst are of those that know the fact."""

    nodes: int = 0
    """Edges that have told of themselves since the region's process began."""
    known: int = 0
    """Of those, with a digest that is not too old."""
    draining: int = 0
    ailing: int = 0
    """Known ones that something is wrong with."""
    streams: int = 0
    headroom_median_permille: int | None = None
    headroom_worst_permille: int | None = None
    thread_load_median_permille: int | None = None
    thread_load_worst_permille: int | None = None
    loop_lag_worst_ms: int | None = None
    temperature_median_c: int | None = None
    temperature_worst_c: int | None = None
    memory_available_worst_permille: int | None = None


SUMMARY_FIELDS = {
    "nodes": Field("n", 0, U16),
    "known": Field("k", 0, U16),
    "draining": Field("d", 0, U16),
    "ailing": Field("a", 0, U16),
    "streams": Field("s", 0, U32),
    "headroom_median_permille": Field("h", 0, RATIO),
    "headroom_worst_permille": Field("H", 0, RATIO),
    "thread_load_median_permille": Field("c", 0, RATIO),
    "thread_load_worst_permille": Field("C", 0, RATIO),
    "loop_lag_worst_ms": Field("L", 0, U16),
    "temperature_median_c": Field("y", -273, 1000),
    "temperature_worst_c": Field("Y", -273, 1000),
    "memory_available_worst_permille": Field("M", 0, RATIO),
}


def pack(message: Digest | Summary) -> dict[str, object]:
    """The fields of a message as they travel."""
    table = DIGEST_FIELDS if isinstance(message, Digest) else SUMMARY_FIELDS
    packed: dict[str, object] = {}
    for name, field in table.items():
        value = getattr(message, name)
        if value is not None:
            bounded = min(max(int(value), field.low), field.high)
            packed[field.key] = bool(bounded) if field.flag else bounded
    if isinstance(message, Digest) and message.version is not None:
        packed["v"] = message.version[:VERSION_CHARS_MAX]
    return packed


def unpack_digest(packed: Fields) -> Digest:
    """Raises WireError."""
    facts = {name: _fact(packed, field) for name, field in DIGEST_FIELDS.items()}
    return Digest(version=text(packed, "v", VERSION_CHARS_MAX, empty=True) or None, **facts)  # type: ignore[arg-type]


def unpack_summary(packed: Fields) -> Summary:
    """Raises WireError."""
    facts = {name: _fact(packed, field) for name, field in SUMMARY_FIELDS.items()}
    return Summary(**{name: value for name, value in facts.items() if value is not None})


def _fact(packed: Fields, field: Field) -> int | bool | None:
    value = packed.get(field.key)
    if value is None or (field.flag and isinstance(value, bool)):
        return value
    if field.flag:
        raise WireError(f"{field.key} must be true or false")
    return integer(packed, field.key, field.low, field.high)


def as_dict(message: Digest | Summary) -> dict[str, Any]:
    """By the names of the fields; None is unknown."""
    return {field.name: getattr(message, field.name) for field in fields(message)}
