"""The last ten minutes of a node, for who looks after something went wrong: one sample every five seconds.

Fixed in size: the figures of one step, for the node, a stream or a hop, are some 32-bit floats in a ring, and
there are KEPT_MAX streams and hops at most. Sans-IO, and part of what a hand-over carries.
"""

import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from relay.services.hops import MS, Hop
from relay.services.machine import Machine
from relay.services.stream import Stream
from relay.wire.health import RATIO

STEP_NS = 5_000_000_000
STEPS = 120
KEPT_MAX = 24
"""Streams, and as many hops: 2.4 KB each. Those that carry media come first."""
ANSWER_NS = 100_000_000
"""A board that takes longer to read is not waited for."""

Status = dict[str, Any]


class Ring:
    """The last STEPS samples of some figures; unknown ones are NaN."""

    def __init__(self, figures: tuple[str, ...]) -> None:
        self._figures = figures
        self._unknown = [math.nan] * len(figures)
        self._format = f"<{len(figures)}f"
        self._size = struct.calcsize(self._format)
        self._samples = bytearray(struct.pack(self._format, *self._unknown) * STEPS)
        self.newest = 0
        """The step of the last sample."""

    def put(self, step: int, values: Iterable[float | None]) -> None:
        """A sample, at a step after that of the last one."""
        for missed in range(max(self.newest + 1, step - STEPS), step):
            self._write(missed, self._unknown)
        self._write(step, [math.nan if value is None else value for value in values])
        self.newest = step

    def _write(self, step: int, values: Sequence[float]) -> None:
        struct.pack_into(self._format, self._samples, step % STEPS * self._size, *values)

    def status(self, step: int) -> Status:
        """Each figure over the STEPS steps up to and with this one, the oldest first."""
        for missed in range(max(self.newest + 1, step - STEPS + 1), step + 1):
            self._write(missed, self._unknown)
        rows = list(struct.iter_unpack(self._format, self._samples))
        oldest = (step + 1) % STEPS
        columns = zip(*rows[oldest:], *rows[:oldest], strict=True)
        shown = ([_short(value) for value in column] for column in columns)
        return dict(zip(self._figures, shown, strict=True))


def _short(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.4g}")


class Series:
    """A ring for each stream, or each hop, by name: KEPT_MAX at most, until ten minutes after its end."""

    def __init__(self, figures: tuple[str, ...]) -> None:
        self._figures = figures
        self._rings: dict[str, Ring] = {}

    def put(self, step: int, samples: Mapping[str, Iterable[float | None]]) -> None:
        """The more important samples first."""
        self._rings = {name: ring for name, ring in self._rings.items() if ring.newest > step - STEPS}
        taken = dict(list(samples.items())[:KEPT_MAX])
        for name, values in taken.items():
            if name not in self._rings and len(self._rings) == KEPT_MAX:
                ended = self._rings.keys() - taken.keys()
                del self._rings[min(ended, key=lambda name: self._rings[name].newest)]
            self._rings.setdefault(name, Ring(self._figures)).put(step, values)

    def status(self, step: int) -> list[Status]:
        return [{"name": name, **ring.status(step)} for name, ring in self._rings.items()]


class History:
    """`look` asks for a reading of the board, whose arrival `observed` tells."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._node = Ring(("load", "headroom", "temperature_c", "loop_lag_ms"))
        self._streams = Series(("bitrate_bps", "loss", "residual", "delay_ms", "added_ms"))
        self._hops = Series(("loss_send", "loss_receive", "rtt_ms", "sent_bps", "received_bps"))
        self._step = 0
        """Of the last sample."""
        self._taken_ns = 0
        self._due_ns = 0
        self._awaited_ns: int | None = None
        """Until when the sample waits for the board."""
        self._totals: dict[tuple[str, str], int] = {}
        """What counters were at the last sample."""

    def observed(self, now_ns: int) -> None:
        if self._awaited_ns is not None:
            self._awaited_ns = now_ns

    def poll(self, now_ns: int, machine: Machine) -> int:
        """Take a sample if it is time to; returns the next deadline in ns."""
        if now_ns >= self._due_ns:
            self._due_ns = now_ns // STEP_NS * STEP_NS + STEP_NS
            self._awaited_ns = now_ns + ANSWER_NS
            self._look()
        if self._awaited_ns is None:
            return self._due_ns
        if now_ns >= self._awaited_ns:
            self._awaited_ns = None
            self._sample(now_ns, machine)
            return self._due_ns
        return self._awaited_ns

    def status(self, now_ns: int) -> Status:
        """Ready for JSON: lists of STEPS figures, the oldest first, None where one is not known."""
        return {
            "step_seconds": STEP_NS / 1e9,
            "age_seconds": round((now_ns - self._taken_ns) / 1e9, 3),
            "node": self._node.status(self._step),
            "streams": self._streams.status(self._step),
            "hops": self._hops.status(self._step),
        }

    def _sample(self, now_ns: int, machine: Machine) -> None:
        step, elapsed_s = now_ns // STEP_NS, (now_ns - self._taken_ns) / 1e9
        before, self._totals = self._totals, {}

        def rate_bps(kind: str, name: str, total_bytes: int) -> float | None:
            """Since the last sample; None for the first one."""
            self._totals[kind, name] = total_bytes
            gained = total_bytes - before.get((kind, name), total_bytes + 1)
            return gained * 8 / elapsed_s if gained >= 0 else None

        streams = sorted(machine.streams.streams.values(), key=lambda stream: not stream.live)[:KEPT_MAX]
        hops = _hops(machine, streams)
        self._node.put(step, _node(now_ns, machine))
        self._streams.put(step, {stream.name: _stream(machine, stream, rate_bps) for stream in streams})
        self._hops.put(step, {hop.name: _hop(machine, hop, rate_bps) for hop in hops})
        self._step, self._taken_ns = step, now_ns


RateOf = Callable[[str, str, int], float | None]


def _node(now_ns: int, machine: Machine) -> list[float | None]:
    own = machine.fleet.own(now_ns)
    headroom = None if own.headroom_permille is None else own.headroom_permille / RATIO
    return [machine.streams.admission.u(now_ns), headroom, own.temperature_c, own.loop_lag_ms]


def _stream(machine: Machine, stream: Stream, rate_bps: RateOf) -> list[float | None]:
    """The worst of its hops, and the time that all of them on the longest way take."""
    stats = [machine.shards.of(track.id).track_stats(track.id) for track in stream.tracks]
    known = machine.paths.status(stream)
    before, behind = known["path"][1:], known["behind"]["hops"]
    every = [*before, *behind]

    def worst(values: Iterable[float | None]) -> float | None:
        return max((value for value in values if value is not None), default=None)

    return [
        rate_bps("stream", stream.name, sum(of["received_bytes"] for of in stats)),
        worst(hop["loss_ratio"] for hop in every),
        worst(hop["residual_ratio"] for hop in every),
        _delay(before, behind),
        worst(hop["added_delay_ms"]["p99"] for hop in every),
    ]


def _delay(before: Sequence[Status], behind: Sequence[Status]) -> float | None:
    """One way from where a stream enters to the farthest node behind this one, ms; None if a hop's is not
    known."""
    delays: list[float] = [hop["delay_ms"] for hop in before]
    reached: dict[str, float] = {}  # behind: parents come before their children
    for hop in behind:
        if hop["delay_ms"] is not None:
            reached[hop["node"]] = reached.get(hop["from"], 0.0) + hop["delay_ms"]
    if None in delays or not (delays or reached):
        return None
    longest: float = max(reached.values(), default=0.0)
    return sum(delays, start=longest)


def _hops(machine: Machine, streams: Iterable[Stream]) -> list[Hop]:
    """Those that carry a stream first, then those that could."""
    if machine.hops is None:
        return []
    used = [hop for s in streams for hop in (s.source, *(p.hop for p in s.publications.values())) if hop]
    connected = (hop for hop in machine.hops.hops.values() if hop.connected)
    return list({hop.id: hop for hop in (*used, *connected)}.values())[:KEPT_MAX]


def _hop(machine: Machine, hop: Hop, rate_bps: RateOf) -> list[float | None]:
    stats = machine.shards.of(hop.id).hop_stats(hop.id)
    link = hop.link
    return [
        link.loss_ratio if link.loss_settled else None,
        max(stats["receive_loss_ratio"], 0.0),
        link.rtt_ns / MS if link.rtt_ns else None,
        rate_bps("sent", hop.name, sum(path["sent_bytes"] for path in stats["paths"])),
        rate_bps("received", hop.name, sum(path["received_bytes"] for path in stats["paths"])),
    ]
