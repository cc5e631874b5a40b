"""A seeded emulator of one direction of a network link.

A `Link` is sans-IO: the driver hands it datagrams with the time (`send`), asks when the next one comes out
(`deadline`) and takes what is due (`poll`). The network in virtual time and the UDP proxy are its drivers.

A datagram meets, in this order: the MTU, an outage, the queue of the bottleneck (tail drop, then its own
serialisation time), loss, propagation delay with jitter, duplication, reordering. A datagram that is lost has
used the bottleneck nevertheless, as on a radio link.

Equal seeds and equal inputs give equal fates. The loss model has a generator of its own and draws for every
datagram, so that two runs that differ in delay, jitter or rate lose the same datagrams.
"""

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from heapq import heappop, heappush, merge
from itertools import pairwise
from typing import Generic, TypeVar

T = TypeVar("T")

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
MAX_IP_PACKET = 65_535  # bytes, RFC 791 section 3.1
MAX_IN_FLIGHT = 65_536  # datagrams; bounds the memory of a link whatever its delay
_NEVER = 1 << 62  # ns; 146 years
_NO_OUTAGE = (_NEVER, _NEVER)


@dataclass(frozen=True, slots=True)
class GilbertElliott:
    """Loss with memory: a chain of two states that takes one step a datagram.

    Raises ValueError when a probability is not between 0 and 1.
    """

    p_good_bad: float
    """Probability of going from the good to the bad state, per datagram."""
    p_bad_good: float
    """Probability of going back; the mean burst is its inverse, in datagrams."""
    good_loss: float = 0.0
    """Probability of loss in the good state."""
    bad_loss: float = 1.0
    """Probability of loss in the bad state."""

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_probability(field.name, getattr(self, field.name))


def bursts(loss: float, mean_burst: float) -> GilbertElliott:
    """The chain that loses the share `loss` (below 1) in bursts of `mean_burst` datagrams on average.

    Raises ValueError when there is no such chain: bursts are shorter than one datagram, or so short that
    the gaps between them would have to be shorter than one.
    """
    if not 0 <= loss < 1:
        raise ValueError(f"loss is {loss}: expected 0 <= loss < 1")
    if mean_burst < max(1.0, loss / (1 - loss)):
        raise ValueError(f"mean_burst is {mean_burst}: too short for loss {loss}")
    return GilbertElliott(p_good_bad=loss / (mean_burst * (1 - loss)), p_bad_good=1 / mean_burst)


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """What one direction of a link does. The default is a perfect link: no delay, no loss, no limit.

    Times of outages count from the moment at which the link got its profile. Raises ValueError for a value
    out of its range.
    """

    delay_ms: float = 0.0
    """Propagation delay, one way."""
    jitter_ms: float = 0.0
    """Delay added on top: uniform between 0 and this, drawn anew after each `jitter_ms` of time. It belongs
    to the moment, not to the datagram, so that dense and sparse traffic see the same variation. A datagram
    never overtakes the one before it: it waits and arrives with it."""
    loss: float | GilbertElliott = 0.0
    """Probability that a datagram is lost, each by itself; or a chain that loses them in bursts."""
    rate_bps: float | None = None
    """Capacity in bits per second, IP and UDP headers included; None for no limit."""
    queue_ms: float = 100.0
    """The longest wait for the bottleneck; what would wait longer is dropped. Unused without a rate."""
    queue_bytes: int | None = None
    """Instead of `queue_ms`: what may wait in all. That is how a real queue is bounded, which differs where
    the rate changes: an LTE modem's holds a second or two at the usual rate."""
    mtu_bytes: int = MAX_IP_PACKET
    """The largest IP packet; larger ones vanish without an answer."""
    reorder: float = 0.0
    """Probability that a datagram is held back by `reorder_ms`, so that later ones overtake it."""
    reorder_ms: float = 0.0
    """How long such a datagram is held back."""
    duplicate: float = 0.0
    """Probability that a datagram comes out twice, the copy right behind the first."""
    outages: tuple[tuple[float, float], ...] = ()
    """(start, end) in seconds: what is sent from start on and before end is lost."""
    outage_every_s: float = 0.0
    """Period of a regular outage, the first after one period; 0 for none."""
    outage_ms: float = 0.0
    """Length of each regular outage."""

    def __post_init__(self) -> None:
        for name in ("delay_ms", "jitter_ms", "queue_ms", "reorder_ms", "outage_every_s", "outage_ms"):
            _check_not_negative(name, getattr(self, name))
        for name in ("reorder", "duplicate"):
            _check_probability(name, getattr(self, name))
        if not isinstance(self.loss, GilbertElliott):
            _check_probability("loss", self.loss)
        if self.rate_bps is not None and not self.rate_bps > 0:
            raise ValueError(f"rate_bps is {self.rate_bps}: expected more than 0, or None for no limit")
        if self.queue_bytes is not None and self.queue_bytes <= 0:
            raise ValueError(f"queue_bytes is {self.queue_bytes}: expected more than 0, or None for queue_ms")
        if self.mtu_bytes <= 0:
            raise ValueError(f"mtu_bytes is {self.mtu_bytes}: expected more than 0")
        for start, end in self.outages:
            if not 0 <= start <= end:
                raise ValueError(f"outage ({start}, {end}): expected 0 <= start <= end")
        if self.outage_ms and self.outage_ms >= self.outage_every_s * 1000:
            raise ValueError(f"outage_ms is {self.outage_ms}: expected less than outage_every_s")


LinkProfile = LinkConfig | Sequence[tuple[float, LinkConfig]]
"""A link that stays as it is; or one that changes: (seconds since the profile was set, what holds from then
on), the first at 0, in ascending order."""


@dataclass(slots=True)
class LinkCounters:
    """What became of the datagrams of one link. All counts only rise."""

    sent: int = 0
    """Datagrams handed to the link."""
    sent_bytes: int = 0
    """Their bytes, as given to `send`."""
    delivered: int = 0
    """Datagrams that came out, copies included."""
    duplicated: int = 0
    """Copies made."""
    reordered: int = 0
    """Datagrams that came out after one that had been sent later."""
    lost_random: int = 0
    """Taken by the loss model."""
    lost_queue: int = 0
    """Tail drop: the queue of the bottleneck was full, or more than MAX_IN_FLIGHT datagrams under way."""
    lost_outage: int = 0
    """Sent during an outage."""
    lost_mtu: int = 0
    """Larger than the MTU."""

    @property
    def lost(self) -> int:
        """All losses together."""
        return self.lost_random + self.lost_queue + self.lost_outage + self.lost_mtu


class Link(Generic[T]):
    """One direction of a link; `T` is what the driver wants back at delivery.

    The times given to `send`, `poll` and `configure` must never go back.
    """

    __slots__ = (
        "_bad",
        "_busy_until_ns",
        "_chain",
        "_changes",
        "_config",
        "_delay_ns",
        "_highest_out",
        "_jitter_end_ns",
        "_jitter_now_ns",
        "_jitter_ns",
        "_last_out_ns",
        "_late",
        "_line",
        "_loss",
        "_next_change_ns",
        "_order",
        "_origin_ns",
        "_outage",
        "_outages",
        "_queue_ns",
        "_random",
        "_random_loss",
        "counters",
    )

    def __init__(self, profile: LinkProfile, rng: random.Random, start_ns: int = 0) -> None:
        self.counters = LinkCounters()
        self._random_loss = rng.random
        self._random = random.Random(rng.getrandbits(64)).random
        self._line: deque[tuple[int, int, int, T]] = (
            deque()
        )  # (out, order, end of serialisation, item), sorted
        self._late: list[tuple[int, int, int, T]] = []  # the same, as a heap: datagrams that are held back
        self._order = 0
        self._highest_out = -1
        self._bad = False
        self._busy_until_ns = self._last_out_ns = 0
        self._jitter_now_ns = self._jitter_end_ns = 0
        self._config = LinkConfig()
        self._outage = _NO_OUTAGE
        self.configure(start_ns, profile)

    def configure(self, now_ns: int, profile: LinkProfile) -> None:
        """Set what the link does from now on; the times in `profile` count from `now_ns`.

        Datagrams under way keep their delay. Those still in the queue leave at the new rate.
        Raises ValueError when the times of a profile do not begin at 0 and ascend.
        """
        steps = [(0.0, profile)] if isinstance(profile, LinkConfig) else list(profile)
        times = [at_s for at_s, _ in steps]
        if not steps or times[0] != 0 or any(a >= b for a, b in pairwise(times)):
            raise ValueError(f"profile times are {times}: expected 0, then ascending")
        self._origin_ns = now_ns
        self._changes = deque((now_ns + round(at_s * NS_PER_S), config) for at_s, config in steps)
        self._advance(now_ns)

    def send(self, now_ns: int, size_bytes: int, item: T) -> bool:
        """Hand over a datagram of `size_bytes`, headers included; False when it is lost."""
        if now_ns >= self._next_change_ns:
            self._advance(now_ns)
        counters, config = self.counters, self._config
        counters.sent += 1
        counters.sent_bytes += size_bytes
        lost = self._random_loss() < self._loss if self._chain is None else self._step(self._chain)
        if size_bytes > config.mtu_bytes:
            counters.lost_mtu += 1
            return False
        if now_ns >= self._outage[0] and self._in_outage(now_ns):
            counters.lost_outage += 1
            return False
        sent_ns = now_ns
        if config.rate_bps is not None:
            sent_ns = max(now_ns, self._busy_until_ns)
            if not self._fits(sent_ns - now_ns, size_bytes):
                counters.lost_queue += 1
                return False
            sent_ns += round(size_bytes * 8 * NS_PER_S / config.rate_bps)
            self._busy_until_ns = sent_ns
        if lost:
            counters.lost_random += 1
            return False
        if len(self._line) + len(self._late) >= MAX_IN_FLIGHT:
            counters.lost_queue += 1
            return False
        self._launch(sent_ns, item)
        return True

    def poll(self, now_ns: int) -> list[tuple[int, T]]:
        """What has come out by `now_ns`, in order: (time in ns at which it came out, item)."""
        if now_ns >= self._next_change_ns:
            self._advance(now_ns)
        line, late = self._line, self._late
        due: list[tuple[int, T]] = []
        while line or late:
            in_line = not late or (bool(line) and line[0] < late[0])
            out_ns, order, _, item = line[0] if in_line else late[0]
            if out_ns > now_ns:
                break
            if in_line:
                line.popleft()
            else:
                heappop(late)
            if order > self._highest_out:
                self._highest_out = order
            else:
                self.counters.reordered += 1
            due.append((out_ns, item))
        self.counters.delivered += len(due)
        return due

    def deadline(self) -> int | None:
        """When to `poll` next, in ns; None while nothing is under way."""
        line, late = self._line, self._late
        if not late:
            return min(line[0][0], self._next_change_ns) if line else None
        return min(line[0][0] if line else _NEVER, late[0][0], self._next_change_ns)

    def queue_ns(self, now_ns: int) -> int:
        """How long a datagram that is sent now would wait for the bottleneck."""
        if now_ns >= self._next_change_ns:
            self._advance(now_ns)
        return max(self._busy_until_ns - now_ns, 0)

    def in_flight(self) -> int:
        """Datagrams under way, copies included."""
        return len(self._line) + len(self._late)

    def _fits(self, wait_ns: int, size_bytes: int) -> bool:
        """Whether the queue takes a datagram that would wait so long."""
        rate_bps, queue_bytes = self._config.rate_bps, self._config.queue_bytes
        if queue_bytes is None or rate_bps is None:
            return wait_ns <= self._queue_ns
        return wait_ns * rate_bps / (8 * NS_PER_S) + size_bytes <= queue_bytes

    def _launch(self, sent_ns: int, item: T) -> None:
        """Put a datagram on its way that leaves the bottleneck at `sent_ns`."""
        config = self._config
        out_ns = sent_ns + self._delay_ns
        if self._jitter_ns:
            if sent_ns >= self._jitter_end_ns:
                self._jitter_now_ns = round(self._random() * self._jitter_ns)
                self._jitter_end_ns = sent_ns + self._jitter_ns
            out_ns += self._jitter_now_ns
        copies = 1
        if config.duplicate and self._random() < config.duplicate:
            self.counters.duplicated += 1
            copies = 2
        held_back = bool(config.reorder) and self._random() < config.reorder
        for _ in range(copies):
            if held_back:
                held_ns = out_ns + round(config.reorder_ms * NS_PER_MS)
                heappush(self._late, (held_ns, self._order, sent_ns, item))
            else:
                self._last_out_ns = out_ns = max(out_ns, self._last_out_ns)
                self._line.append((out_ns, self._order, sent_ns, item))
            self._order += 1

    def _step(self, chain: GilbertElliott) -> bool:
        """Take one step of the chain; True when the datagram is lost."""
        if self._bad:
            self._bad = self._random_loss() >= chain.p_bad_good
        else:
            self._bad = self._random_loss() < chain.p_good_bad
        loss = chain.bad_loss if self._bad else chain.good_loss
        return loss >= 1 or (loss > 0 and self._random_loss() < loss)

    def _in_outage(self, now_ns: int) -> bool:
        while now_ns >= self._outage[1]:
            self._outage = next(self._outages, _NO_OUTAGE)
        return now_ns >= self._outage[0]

    def _advance(self, now_ns: int) -> None:
        """Apply the changes of the profile that are due."""
        while self._changes and self._changes[0][0] <= now_ns:
            self._apply(*self._changes.popleft())
        self._next_change_ns = self._changes[0][0] if self._changes else _NEVER

    def _apply(self, at_ns: int, config: LinkConfig) -> None:
        self._change_rate(at_ns, self._config.rate_bps, config.rate_bps)
        self._config = config
        self._delay_ns = round(config.delay_ms * NS_PER_MS)
        self._jitter_ns = round(config.jitter_ms * NS_PER_MS)
        self._queue_ns = round(config.queue_ms * NS_PER_MS)
        self._chain = config.loss if isinstance(config.loss, GilbertElliott) else None
        self._loss = 0.0 if isinstance(config.loss, GilbertElliott) else config.loss
        self._outages = outages(config, self._origin_ns)
        self._outage = next(self._outages, _NO_OUTAGE)

    def _change_rate(self, at_ns: int, old: float | None, new: float | None) -> None:
        """Stretch the serialisation times that lie after `at_ns` from the old rate to the new one."""
        if old is None or old == new:
            return  # without a limit there is no queue
        factor = 0.0 if new is None else old / new

        def stretched(sent_ns: int) -> int:
            return sent_ns if sent_ns <= at_ns else at_ns + round((sent_ns - at_ns) * factor)

        self._busy_until_ns = stretched(self._busy_until_ns)
        previous_ns = 0
        for _ in range(len(self._line)):  # once round; datagrams that are held back keep their time
            out_ns, order, sent_ns, item = self._line.popleft()
            previous_ns = max(previous_ns, out_ns + stretched(sent_ns) - sent_ns)
            self._line.append((previous_ns, order, stretched(sent_ns), item))
        if self._line:
            self._last_out_ns = previous_ns


def seeded(seed: int, name: str) -> random.Random:
    """The generator of the link `name` in a run with `seed`: links do not disturb each other's draws."""
    return random.Random(f"{seed}/{name}")


def packet_size(payload_bytes: int, host: str) -> int:
    """Bytes of the IP packet that carries a UDP payload to `host` (RFC 768, 791, 8200)."""
    return payload_bytes + (48 if ":" in host else 28)


def outages(config: LinkConfig, origin_ns: int) -> Iterator[tuple[int, int]]:
    """(start, end) in ns of all outages of a configuration, by their start; endless when they are regular."""
    listed = (
        (origin_ns + round(a * NS_PER_S), origin_ns + round(b * NS_PER_S)) for a, b in sorted(config.outages)
    )
    return merge(listed, _regular_outages(config, origin_ns))


def _regular_outages(config: LinkConfig, origin_ns: int) -> Iterator[tuple[int, int]]:
    period_ns, length_ns = round(config.outage_every_s * NS_PER_S), round(config.outage_ms * NS_PER_MS)
    start_ns = origin_ns + period_ns
    while length_ns:
        yield start_ns, start_ns + length_ns
        start_ns += period_ns


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}: expected a probability between 0 and 1")


def _check_not_negative(name: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} is {value}: expected 0 or more")
