"""What a hop may send: a congestion controller a path, and what these leave to repair.

Source packets are paced to what the path carries that they take. Repair on the same path shares that; on
another it is bounded by what that one carries.
"""

from collections import defaultdict

from relay.core import repair
from relay.core.congestion import Controller, Measured
from relay_ext.control import Link, PathState

MS = 1_000_000
RATE_UNKNOWN = 200.0
"""Source packets a second, assumed until media has flowed between two looks."""
SPARING = 1.5
"""Times p/(1-p): repair in all, where the node has no time for more. At 30 % loss (RTT 100, budget 200) that
loses 2 packets of 300,000, 1.4 loses 0.4 %, 1.2 loses 7 %. p is what repair counts on, not what has been
measured: a stream that begins on an idle hop would have next to none."""
SPARING_LEAST = 0.05
"""Repair bytes a media byte that are left in any case."""
REACTIVE_ROOM = 0.2
"""Of media: what a probe leaves of `max_overhead` for what reports ask for."""


class Rates:
    """Of one hop. `max_overhead` is repair bytes a media byte, at most."""

    def __init__(self, max_overhead: float) -> None:
        self.controllers: defaultdict[int, Controller] = defaultdict(Controller)
        """By path."""
        self.packets_per_second = 0.0
        """Source packets."""
        self.sparing = False
        """The node has more to do than it can: repair is to take no more than it must."""
        self._max_overhead = max_overhead
        self._source = self._mending = 0
        self._alive: tuple[int, ...] = ()

    @property
    def congestion(self) -> Controller:
        """Of the path that source packets take."""
        return self.controllers[self._source]

    @property
    def target_bps(self) -> float | None:
        """Bits a second that all paths carry, repair and headers included; None: not known."""
        targets = (self.controllers[path].target_bps for path in self._alive)
        return sum(target for target in targets if target) or None

    def media_bps(self, ratio: float) -> float | None:
        """What that many repair packets a source packet leave of the path that source packets take."""
        target = self.congestion.target_bps
        return target / (1 + ratio) if target and self._source == self._mending else target

    def restart(self) -> None:
        """Another process of the peer."""
        for controller in self.controllers.values():
            controller.restart()

    def look(self, now_ns: int, before: Link, link: Link, *, sending: bool, elapsed_s: float) -> None:
        """Take what was measured since the last look, which said `before`. `sending`: there is media to be
        sent, and a session."""
        rate = (link.source_sent - before.source_sent) / elapsed_s
        self.packets_per_second += (rate - self.packets_per_second) / (4 if self.packets_per_second else 1)
        self._alive = tuple(path.id for path in link.paths if path.role != "dead") or (self._source,)
        sent_bytes = {path.id: path.sent_bytes for path in before.paths}
        for path in link.paths:
            sent_bps = 8 * (path.sent_bytes - sent_bytes.get(path.id, path.sent_bytes)) / elapsed_s
            self.controllers[path.id].look(now_ns, self._measured(path, sent_bps, sending))
            if "source" in path.role:
                self._source = path.id
            if "repair" in path.role:
                self._mending = path.id

    def _measured(self, path: PathState, sent_bps: float, sending: bool) -> Measured:
        return Measured(
            queue_ns=path.queue_ns,
            passed_bps=path.passed_bps,
            sent_bps=sent_bps,
            loss_recent=path.loss_recent,
            loss_ratio=path.loss_ratio,
            loss_burst=path.loss_burst,
            packets_per_second=self.packets_per_second,
            rtt_ns=path.rtt_ns,
            progress_ns=path.progress_ns,
            sending=sending and ("source" in path.role or "repair" in path.role),
        )

    def repair(self, link: Link, budget_ms: int) -> tuple[float, float]:
        """Proactive repair packets a source packet, and repair bytes a media byte at most.

        A probe raises the first. Where that has no room at all, repair is of no use anyway, and twice as much
        less of it shows the same.
        """
        ratio, most, probe = self._ratio(link, budget_ms), self._most(link), self.congestion.probe
        ratio = min(ratio, most)
        if probe:
            more = ratio + probe * (1 + ratio)
            less = most - 2 * probe * (1 + most)
            if ratio >= most:
                ratio = most = less
            elif more < most - REACTIVE_ROOM:
                ratio = more
        return max(ratio, 0.0), max(most, 0.0)

    def _most(self, link: Link) -> float:
        """Repair on a path of its own may take what that carries."""
        most = self._max_overhead
        if self.sparing:
            most = min(most, max(round(SPARING * _mean(link.loss_assumed), 2), SPARING_LEAST))
        limit, media = self.controllers[self._mending].limit_bps, self.congestion.sent_bps
        if self._mending == self._source or limit is None or not media:
            return most
        return min(most, limit / media)

    def _ratio(self, link: Link, budget_ms: int) -> float:
        if self.sparing:
            return _mean(link.loss_assumed)
        if self.controllers[self._mending].pressed:
            return _mean(link.loss_ratio)  # repair goes before media: only what the loss needs
        ratio = repair.proactive_ratio(
            repair.Link(
                loss_ratio=link.loss_assumed,
                loss_burst=link.loss_burst,
                rtt_ns=link.repair_round_ns,
                budget_ns=budget_ms * MS,
                packets_per_second=self.packets_per_second or RATE_UNKNOWN,
            )
        )
        # So many repair packets are wanted at the other end; the path that they take has a loss of its own.
        most = repair.LOSS_MAX
        arriving = (1 - min(link.loss_assumed, most)) / (1 - min(link.repair_loss_assumed, most))
        return ratio * arriving


def _mean(loss_ratio: float) -> float:
    """p/(1-p): what no code can do without."""
    loss = min(loss_ratio, repair.LOSS_MAX)
    return loss / (1 - loss)
