"""What a path carries: a controller that follows the queue in front of the bottleneck, not loss.

One `Controller` a path, given what was measured of it every 50 ms or so (`look`). Until a queue has been seen
the path is not limited: media does not stretch, and a limit that nothing has shown would only harm.
docs/congestion.md has the rules and what they reach.
"""

from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

from relay.core.repair import deviation

MS = 1_000_000
SECOND = 1000 * MS

QUEUE_LOW_NS = 10 * MS
"""Below it there is no queue."""
QUEUE_DRAINED_NS = 20 * MS
"""What a queue that drains will have fallen to QUEUE_LOW_NS from, when the next packets arrive."""
QUEUE_HIGH_NS = 50 * MS
"""Both are raised by how much delay varies from look to look: by once and by twice its mean."""
RISING_NS = 8 * MS
"""A queue rises that has grown by so much in each of two successive looks,"""
RISING_FROM_NS = 20 * MS
"""and is so long,"""
RISING_BEYOND_NS = 10 * MS
"""and by so much longer than it has been: delay varies by itself."""
REMEMBERED = 100
"""Looks that tell how long it has been: 5 s."""
ENOUGH = 20
"""Looks without which that is not known."""
DRAIN_NS = 400 * MS
"""A queue is to be gone after so long."""
CUT_LEAST, CUT_MOST = 0.15, 0.5
"""Bounds of what is taken off the delivered rate then."""
PAUSE_NS = 400 * MS
"""What waits behind a longer queue comes too late for talk: nothing is added until it is nearly gone."""
SETTLE_NS = 100 * MS
"""After a cut; what was measured before is in part from before the queue."""
RESUME = 0.95
"""Of the capacity that was measured while there was a queue; what is used once it has gone."""
GROWTH, GROWTH_MOST = 0.05, 0.5
"""Of the limit, a second, without a queue, and at most."""
NEAR = 1.05
"""Times the last known capacity. Beyond that there is more than there was: growth doubles every second."""
USED = 0.8
"""A limit that is used less than that is not what holds the sender back, and does not grow;"""
PRESSED = 0.85
"""what repair can be trimmed by fits between that and the limit;"""
UNUSED_NS = 10 * SECOND
"""after so long it is lifted."""
REFRESH_NS = 10 * SECOND
"""A queue that has not been gone for so long is drained, lest it pass for the path's own delay."""
HEADROOM = 1.5
"""Times what is sent: the target while there is no limit. An encoder that follows it finds the limit."""
PLAUSIBLE = 2.0
LOSS_MARGIN, LOSS_SIGMAS = 0.05, 3.0
"""Loss is more than the path's own when it exceeds that by so much and so many standard deviations."""
LOSS_MEMORY_NS, LOSS_MEMORY_LONG_NS = 2 * SECOND, 30 * SECOND
"""In which the path's own loss is learned; upwards the second, where too high a rate makes loss, no queue."""
PROBE = 0.15
"""Of what is sent; so much more or less repair, for a while, shows whether that moves the loss."""
POLICED_LEAST = 0.5
"""What loses at that share of what it let through is no policer: loss comes in bursts."""
PROBE_NS = 2250 * MS
"""How long: what the average of loss takes, and a bit."""
PROBE_SOON_NS, PROBE_FIRST_NS, PROBE_LAST_NS = 3 * SECOND, 30 * SECOND, 240 * SECOND
"""Until one: where loss has jumped, else the first time, and at most; each that shows nothing doubles it. One
that shows something is repeated as soon as the average has forgotten it: an outage may have met it."""
JUMP, JUMP_MEMORY_NS = 0.10, 30 * SECOND
"""Loss has jumped when it is by so much above what it usually was in this time."""
TIMEOUT_NS = 3 * SECOND
"""After so long without a report that anything arrived, media stops (RFC 8083, section 4.1)."""
STOPPED_BPS = 8.0
LEAST_BPS = 64_000.0
"""What audio needs. A path that carries less carries nothing of use."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of a path at one look. Rates in bits/s of IP packets."""

    queue_ns: int
    """One-way delay beyond the empty path's."""
    passed_bps: float
    """At which what was sent came through, whether lost then or not; 0: not known."""
    sent_bps: float
    """Since the last look."""
    loss_recent: float
    """Of what `passed_bps` was measured from."""
    loss_ratio: float
    """Over 2 s."""
    loss_burst: float
    """rho = 1 - P(good to bad) - P(bad to good), 0..0.9."""
    packets_per_second: float
    rtt_ns: int
    progress_ns: int
    """When a report last showed that something had arrived; 0: never."""
    sending: bool
    """There is media to be sent, and a session."""


class Controller:
    """`pace_bps` is what the path may be given, 0 for no limit; `target_bps` what encoders may be told."""

    def __init__(self) -> None:
        self.limit_bps: float | None = None
        self.capacity_bps = 0.0
        """As measured while there was a queue; 0: never."""
        self.own_loss = 0.0
        """Of the path without a queue."""
        self.stopped = False
        self.sent_bps = 0.0
        """Smoothed."""
        self._queues: deque[int] = deque(maxlen=REMEMBERED)
        self._looked_ns = self._progress_ns = 0
        self._sending_ns: int | None = None
        """Since when media has been sent."""
        self._empty_ns = 0
        self._clear_ns = 0
        """Since when there has been no queue, although the limit is well above the last known capacity."""
        self._used_ns = 0
        self._drain_until_ns = 0
        self._cut_ns = 0
        self._drain_looks = 0
        self._paused_ns = 0
        """When a pause began; 0: none."""
        self._may_pause = True
        """Once a queue: one that a pause does not shorten is a longer way."""
        self._policed = False
        """Too high a rate makes loss here and no queue."""
        self._policed_bps = 0.0
        """What it let through when it was found."""
        self._probe_end_ns = self._probed_ns = self._learn_until_ns = 0
        self._probed_loss = self._probed_bps = 0.0
        self._usual_loss: float | None = None
        """Over half a minute."""
        self._probe_wait_ns = PROBE_FIRST_NS
        self._suspected = False
        """The last probe moved the loss."""

    @property
    def state(self) -> str:
        """One word for people."""
        if self.stopped:
            return "stopped"
        if self._paused_ns:
            return "pausing"
        if self.limit_bps is None:
            return "unlimited"
        return "draining" if self._drain_until_ns else "limited"

    @property
    def pace_bps(self) -> float:
        return STOPPED_BPS if self.stopped or self._paused_ns else self.limit_bps or 0.0

    @property
    def probe(self) -> float:
        """Of what is sent, to be added as repair; or to be left out, where no more may be added."""
        return PROBE if self._probe_end_ns else 0.0

    @property
    def pressed(self) -> bool:
        """So much of the limit is used that repair should not take more than it must."""
        return self.limit_bps is not None and self.sent_bps > PRESSED * self.limit_bps

    @property
    def target_bps(self) -> float | None:
        """None while nothing is known."""
        if self.limit_bps is not None:
            return self.limit_bps
        return HEADROOM * self.sent_bps or None

    def restart(self) -> None:
        """Another process of the peer: its reports begin anew. The path is what it was."""
        self.stopped = False
        self._sending_ns = None
        self._queues.clear()

    def look(self, now_ns: int, m: Measured) -> None:
        """Take what was measured."""
        elapsed_ns = now_ns - self._looked_ns if self._looked_ns else 0
        self._looked_ns = now_ns
        if m.sending:
            self.sent_bps += (m.sent_bps - self.sent_bps) * min(elapsed_ns / SECOND, 1.0)
        self._stop(now_ns, m)
        if self._paused_ns and now_ns >= self._paused_ns + m.queue_ns:
            self._paused_ns = 0  # what was sent last has arrived, as far as what has arrived can tell
            self._begin_drain(now_ns, m)
        if m.passed_bps <= 0 or m.progress_ns == self._progress_ns or self.stopped:
            return  # nothing has been measured since
        self._progress_ns = m.progress_ns
        self._queues.append(m.queue_ns)
        empty = m.queue_ns < QUEUE_LOW_NS + self._variation()
        self._learn_loss(m, elapsed_ns, empty)
        if empty:
            self._empty_ns = now_ns
            self._may_pause = True
        else:
            self._clear_ns = now_ns
        if self._paused_ns:
            return
        if self._drain_until_ns:
            self._drain(now_ns, m)
        elif self._congested(m):
            self._cut(now_ns, m)
        elif self.limit_bps is not None:
            self._hold(now_ns, m, elapsed_ns if empty else 0)
        else:
            self._probe_loss(now_ns, m)

    # ---- what it sees ------------------------------------------------------------------------

    def _stop(self, now_ns: int, m: Measured) -> None:
        if not m.sending:
            self._sending_ns = None
        elif self._sending_ns is None:
            self._sending_ns = now_ns
        silent = self._sending_ns is not None and now_ns - max(m.progress_ns, self._sending_ns) > TIMEOUT_NS
        if silent and not self.stopped:
            self.stopped = True
        elif self.stopped and not silent:
            self.stopped = False
            self._queues.clear()  # of what had waited at the other end, or in between

    def _learn_loss(self, m: Measured, elapsed_ns: int, empty: bool) -> None:
        if self._usual_loss is not None:
            self._usual_loss += (m.loss_ratio - self._usual_loss) * min(elapsed_ns / JUMP_MEMORY_NS, 1.0)
        elif self._sending_ns is not None and self._looked_ns - self._sending_ns > PROBE_NS:
            self._usual_loss = m.loss_ratio  # the first that is of media alone
        if empty:
            rises = self._policed and m.loss_ratio > self.own_loss
            memory_ns = LOSS_MEMORY_LONG_NS if rises else LOSS_MEMORY_NS
            self.own_loss += (m.loss_ratio - self.own_loss) * min(elapsed_ns / memory_ns, 1.0)

    def _variation(self) -> float:
        """Mean difference of the queue between looks, ns."""
        steps = [abs(b - a) for a, b in pairwise(self._queues)]
        return sum(steps) / len(steps) if len(steps) >= ENOUGH else 0.0

    def _congested(self, m: Measured) -> bool:
        *before, first, second, last = self._queues if len(self._queues) > 2 else (0, 0, 0)
        if min(first, second, last) > QUEUE_HIGH_NS + 2 * self._variation():
            return last > second - RISING_NS
        if len(before) < ENOUGH or min(last - second, second - first) < RISING_NS:
            return False
        return last > max(RISING_FROM_NS, max(before) + RISING_BEYOND_NS) or self._loses_more(m)

    def _loses_more(self, m: Measured) -> bool:
        """Than the path does by itself."""
        sigma = deviation(max(self.own_loss, 0.01), m.packets_per_second / 8, m.loss_burst)
        return m.loss_recent > self.own_loss + max(LOSS_MARGIN, LOSS_SIGMAS * sigma)

    def _carried(self, m: Measured) -> float:
        """The rate of the bottleneck, while it has a queue: what overflows it does not pass. Whatever a peer
        claims, no more than PLAUSIBLE times what was sent."""
        passed = min(m.passed_bps, PLAUSIBLE * self.sent_bps)
        return passed * (1 - m.loss_recent) / (1 - self.own_loss) if self._loses_more(m) else passed

    def _probe_loss(self, now_ns: int, m: Measured) -> None:
        """Find policers and short buffers, which drop without a queue: there, sending more loses more, each
        time that it is tried."""
        if self._probe_end_ns:
            if now_ns < self._probe_end_ns:
                return
            self._probe_end_ns = 0
            self._probed_ns = now_ns
            moved = self._moved(m)
            if moved and self._suspected:
                self._police(now_ns, m)
                return
            self._suspected = moved
            if not moved:
                self._probe_wait_ns = min(2 * self._probe_wait_ns, PROBE_LAST_NS)
        elif m.loss_ratio < LOSS_MARGIN or not m.sending:
            self._probed_ns = now_ns
            self._probe_wait_ns = PROBE_FIRST_NS
            self._suspected = False
        if now_ns - max(self._probed_ns, self._sending_ns or now_ns) > self._until_probe(m):
            self._probed_loss, self._probed_bps = m.loss_ratio, self.sent_bps
            self._probe_end_ns = now_ns + PROBE_NS + m.rtt_ns

    def _moved(self, m: Measured) -> bool:
        """Whether the loss has followed what was sent more, or less, for a while."""
        looked_at = m.packets_per_second * PROBE_NS / SECOND
        sigma = sqrt(2) * deviation(max(self._probed_loss, 0.01), looked_at, m.loss_burst)
        more = self.sent_bps / self._probed_bps - 1
        moved = 0.0  # max_overhead left too little of it, or what was asked for again has become less
        if more >= PROBE / 2:
            moved = m.loss_ratio - self._probed_loss
        elif more <= -PROBE:
            moved = self._probed_loss - m.loss_ratio
        return moved > max(LOSS_MARGIN, LOSS_SIGMAS * sigma)

    def _until_probe(self, m: Measured) -> int:
        """ns after the last one."""
        if self._suspected:
            return PROBE_NS + m.rtt_ns
        jumped = self._usual_loss is not None and m.loss_ratio > self._usual_loss + JUMP
        return PROBE_SOON_NS if jumped else self._probe_wait_ns

    # ---- what it does ------------------------------------------------------------------------

    def _police(self, now_ns: int, m: Measured) -> None:
        """What arrives of what is sent too fast is what the path carries, less its own loss, which will only
        show then."""
        self._policed = True
        self._suspected = False
        self.own_loss = 0.0
        self._limit_to(now_ns, self._carried(m))
        self._policed_bps = self.capacity_bps
        self._learn_until_ns = now_ns + PROBE_NS + m.rtt_ns

    def _limit_to(self, now_ns: int, capacity_bps: float) -> None:
        self.capacity_bps = capacity_bps
        self.limit_bps = max(RESUME * capacity_bps, LEAST_BPS)
        self._clear_ns = self._empty_ns = self._used_ns = now_ns

    def _lift(self) -> None:
        self.limit_bps = None
        self._policed = False

    def _cut(self, now_ns: int, m: Measured) -> None:
        self.capacity_bps = self._carried(m)
        self._probe_end_ns = 0
        if m.queue_ns > PAUSE_NS and self._may_pause:
            self._paused_ns = now_ns
            self._may_pause = False
        self._begin_drain(now_ns, m)

    def _begin_drain(self, now_ns: int, m: Measured) -> None:
        self._cut_ns = now_ns
        self._drain_until_ns = now_ns + m.rtt_ns + DRAIN_NS
        self._drain_looks = 0
        self._set_drain(m)

    def _set_drain(self, m: Measured) -> None:
        cut = min(max((m.queue_ns - QUEUE_LOW_NS) / DRAIN_NS, CUT_LEAST), CUT_MOST)
        self.limit_bps = max(self.capacity_bps * (1 - cut), LEAST_BPS)
        self._used_ns = self._empty_ns = self._looked_ns

    def _drain(self, now_ns: int, m: Measured) -> None:
        """Below the capacity, until the queue has gone or the time is over."""
        if m.queue_ns < QUEUE_DRAINED_NS or now_ns >= self._drain_until_ns:
            self._drain_until_ns = 0
            self._limit_to(now_ns, self.capacity_bps)
        elif now_ns - self._cut_ns > SETTLE_NS:  # what is measured has come through since the queue began
            self._drain_looks += 1
            self.capacity_bps += (self._carried(m) - self.capacity_bps) / self._drain_looks
            self._set_drain(m)

    def _hold(self, now_ns: int, m: Measured, clear_ns: int) -> None:
        assert self.limit_bps is not None
        used = m.sent_bps >= USED * self.limit_bps
        if used:
            self._used_ns = now_ns
        elif now_ns - self._used_ns > UNUSED_NS:
            self._lift()
            return
        if self._learn_until_ns:
            if now_ns >= self._learn_until_ns:
                self._learn_until_ns = 0
                self.own_loss = m.loss_ratio
            return
        if self._policed and self._loses_more(m):
            self._limit_to(now_ns, self._carried(m))
            if self.capacity_bps < POLICED_LEAST * self._policed_bps:
                self._lift()
            return
        if clear_ns and used:
            if self.limit_bps < NEAR * self.capacity_bps:
                self._clear_ns = now_ns
            growth = min(GROWTH * 2 ** ((now_ns - self._clear_ns) / SECOND), GROWTH_MOST)
            self.limit_bps *= 1 + growth * clear_ns / SECOND
        elif now_ns - self._empty_ns > REFRESH_NS:
            self._cut(now_ns, m)
