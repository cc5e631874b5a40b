"""The controller in a closed loop with a fluid bottleneck: what is sent comes out later, at the capacity."""

import random
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from statistics import mean

import pytest

from relay.core.congestion import LEAST_BPS, MS, SECOND, TIMEOUT_NS, Controller, Measured

STEP_NS = 10 * MS
LOOK_NS = 50 * MS
RTT_NS = 100 * MS


class World:
    """Senders that want `demand` bits/s each, and a bottleneck, in steps of 10 ms."""

    def __init__(
        self,
        capacity: Callable[[float], float],
        *,
        demand: float = 7e6,
        loss: float = 0.0,
        jitter_ms: float = 0.0,
        buffer_ms: float = 2000,
        seed: int = 1,
        starts_s: tuple[float, ...] = (0.0,),
    ) -> None:
        self.capacity, self.demand, self.loss, self.jitter_ms = capacity, demand, loss, jitter_ms
        self.buffer_ms, self.starts_s = buffer_ms, starts_s
        self.controllers = [Controller() for _ in starts_s]
        self.controller = self.controllers[0]
        self.rng = random.Random(seed)
        self.now_ns = 0
        self.queue = 0.0
        """Bits."""
        self.queues: list[tuple[float, float]] = []
        """(s, ms)"""
        self.limits: list[tuple[float, float | None]] = []
        self.passed: list[tuple[float, float]] = []
        self.losses: list[float] = []
        """Of each step."""
        self.shares: list[list[tuple[float, float]]] = [[] for _ in starts_s]
        """(s, bits/s) of each sender."""
        self._measures: deque[tuple[int, float, list[float]]] = deque()
        self._sent = [0.0] * len(starts_s)
        self._entered: deque[tuple[int, float]] = deque()
        """(ns, bits) of each step that is still in the queue."""
        self._out = 0.0
        """Bits of the first of them that have left."""
        self._waited_ms = 0.0
        """What left last."""

    def run(self, seconds: float) -> "World":
        end_ns = self.now_ns + int(seconds * SECOND)
        while self.now_ns < end_ns:
            self._step()
            if self.now_ns % LOOK_NS == 0:
                self._look()
        return self

    def _step(self) -> None:
        at_s, step_s = self.now_ns / SECOND, STEP_NS / SECOND
        capacity = self.capacity(at_s)
        each = [
            min(self.demand * (1 + c.probe), c.pace_bps or 1e12) * step_s * (at_s >= start_s)
            for c, start_s in zip(self.controllers, self.starts_s, strict=True)
        ]
        self._sent = [a + b for a, b in zip(self._sent, each, strict=True)]
        sent = sum(each)
        out = min(self.queue + sent, capacity * step_s)
        waits = self.queue + sent - out
        self.queue = min(waits, capacity * self.buffer_ms / 1000)
        dropped = (waits - self.queue) / sent
        self.losses.append(1 - (1 - self.loss) * (1 - dropped))
        queue_ms = self.queue / capacity * 1000
        self.queues.append((at_s, queue_ms))
        self.passed.append((at_s, out / step_s))
        rates = [out / (1 - dropped) / step_s * e / sent for e in each]
        for share, rate in zip(self.shares, rates, strict=True):
            share.append((at_s, rate))
        self._entered.append((self.now_ns, sent * (1 - dropped)))
        self._out += out
        while self._entered and self._out >= self._entered[0][1] - 1e-6:
            entered_ns, bits = self._entered.popleft()
            self._out -= bits
            self._waited_ms = (self.now_ns - entered_ns) / MS
        self._measures.append((self.now_ns + RTT_NS // 2, self._waited_ms, rates))
        self.now_ns += STEP_NS

    def _look(self) -> None:
        while len(self._measures) > 12 and self._measures[12][0] <= self.now_ns - RTT_NS // 2:
            self._measures.popleft()
        old = [m for m in self._measures if m[0] <= self.now_ns]
        if not old:
            return
        for i, controller in enumerate(self.controllers):
            self._tell(controller, old[-1][1], mean(rates[i] for _, _, rates in old[-12:]), self._sent[i])
        self._sent = [0.0] * len(self.controllers)
        self.limits.append((self.now_ns / SECOND, self.controller.limit_bps))

    def _tell(self, controller: Controller, queue_ms: float, passed_bps: float, sent: float) -> None:
        jitter_ms = min(self.rng.random(), self.rng.random()) * self.jitter_ms
        noise = self.rng.gauss(0, (self.loss * (1 - self.loss) / 70) ** 0.5)
        controller.look(
            self.now_ns,
            Measured(
                queue_ns=int((queue_ms + jitter_ms) * MS),
                passed_bps=passed_bps,
                sent_bps=sent / LOOK_NS * SECOND,
                loss_recent=min(max(mean(self.losses[-17:-5] or [self.loss]) + noise, 0), 1),
                loss_ratio=mean(self.losses[-205:-5] or [self.loss]),
                loss_burst=0.0,
                packets_per_second=600,
                rtt_ns=RTT_NS,
                progress_ns=self.now_ns,
                sending=sent > 0,
            ),
        )

    def queue_p95(self, from_s: float) -> float:
        waits = sorted(ms for at_s, ms in self.queues if at_s >= from_s)
        return waits[int(0.95 * len(waits))]

    def share(self, from_s: float, to_s: float) -> float:
        """Of the capacity that was used."""
        return mean(bps / self.capacity(at_s) for at_s, bps in self.passed if from_s <= at_s < to_s)


def steps(*changes: tuple[float, float]) -> Callable[[float], float]:
    """Capacity that changes at (s, bits/s)."""
    return lambda at_s: next(bps for since_s, bps in reversed(changes) if at_s >= since_s)


@pytest.mark.parametrize("loss", [0.0, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("jitter_ms", [0.0, 30.0])
@pytest.mark.parametrize("seed", range(3))
def test_loss_and_jitter_alone_are_no_congestion(loss: float, jitter_ms: float, seed: int) -> None:
    world = World(steps((0, 100e6)), loss=loss, jitter_ms=jitter_ms, seed=seed).run(60)
    assert {limit for _, limit in world.limits} == {None}, f"seed {seed}"
    assert world.controller.own_loss == pytest.approx(loss, abs=0.02)
    assert world.controller.target_bps == pytest.approx(1.5 * 7e6, rel=0.05)


@pytest.mark.parametrize("loss", [0.0, 0.3])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_a_capacity_that_falls_is_found_within_a_second_and_used(loss: float, share: float) -> None:
    world = World(steps((0, 8e6), (5, share * 8e6)), loss=loss).run(35)
    assert world.queue_p95(6) <= 100
    assert world.share(6, 35) >= 0.93
    assert world.controller.state in ("limited", "draining")


def test_a_capacity_that_comes_back_is_found_again() -> None:
    world = World(steps((0, 8e6), (5, 4e6), (15, 8e6))).run(40)
    assert world.share(15, 16) > 0.45
    found_s = next(at_s for at_s, limit in world.limits if at_s > 15 and (limit is None or limit >= 7e6))
    assert found_s - 15 <= 6
    assert world.controller.state == "unlimited"  # 10 s later


@pytest.mark.parametrize("loss", [0.0, 0.1])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_policer_without_a_queue_is_found_by_a_probe(loss: float, share: float) -> None:
    """A buffer of 10 ms, so that what is sent too fast is lost and never waits."""
    world = World(steps((0, 8e6), (5, share * 7e6)), loss=loss, buffer_ms=10).run(60)
    limited_s = next(at_s for at_s, limit in world.limits if limit is not None)
    assert limited_s <= 16
    lost = mean(1 - (1 - total) / (1 - loss) for total in world.losses[2500:])
    assert lost <= 0.08  # of 20 and 50 % without a limit
    assert world.share(25, 60) >= 0.85


def test_a_start_on_a_path_that_is_too_thin() -> None:
    world = World(steps((0, 2e6))).run(20)
    assert world.queue_p95(3) <= 100
    assert world.share(3, 20) >= 0.9


def test_a_queue_that_stays_is_drained_now_and_then() -> None:
    """Else the least delay of the last minute would soon contain it."""
    world = World(steps((0, 4e6)), demand=4.01e6).run(120)
    empty_s = [at_s for at_s, ms in world.queues if ms < 10]
    assert max(b - a for a, b in pairwise(empty_s)) <= 22


@pytest.mark.parametrize("second_s", [0.0, 20.0])
def test_two_that_share_a_bottleneck_do_not_starve_one_another(second_s: float) -> None:
    """Nothing brings their shares together, but both keep one, and the queue stays short."""
    world = World(steps((0, 8e6)), starts_s=(0.0, second_s)).run(80)
    means = [mean(bps for at_s, bps in share if at_s >= 40) for share in world.shares]
    assert min(means) >= 0.25 * 4e6, means
    assert sum(means) >= 0.9 * 8e6, means
    assert world.queue_p95(second_s + 3) <= 100


def test_the_least_is_kept_even_where_it_does_not_fit() -> None:
    world = World(steps((0, 8e6), (5, 30e3)), demand=1e6).run(60)
    assert all(limit is None or limit >= LEAST_BPS for _, limit in world.limits)


def test_a_queue_that_is_too_long_for_talk_is_left_to_empty_and_the_link_stays_busy() -> None:
    """2 s of it: at 64 kb/s, the least, they would take 6 s."""
    world = World(steps((0, 8e6), (5, 100e3)), demand=4e6).run(15)
    gone_s = next(at_s for at_s, ms in world.queues if at_s > 6 and ms < 100)
    assert gone_s <= 8.5
    assert world.share(5, 15) >= 0.9


def measured(**changes: float) -> Measured:
    values: dict[str, float] = {
        "queue_ns": 0, "passed_bps": 4e6, "sent_bps": 4e6, "loss_recent": 0.0, "loss_ratio": 0.0,
        "loss_burst": 0.0, "packets_per_second": 400.0, "rtt_ns": RTT_NS, "progress_ns": 0, "sending": True,
    }  # fmt: skip
    return Measured(**(values | changes))  # type: ignore[arg-type]


def probed(loss: Callable[[Controller, float, int], float], seconds: float) -> list[float | None]:
    """The limit at each look, on a path that loses 15 % from 5 s on and besides that what `loss` says of the
    controller, the time in s and the number of the look."""
    controller = Controller()
    limits: list[float | None] = []
    for look in range(1, int(seconds * SECOND / LOOK_NS)):
        at_s = look * LOOK_NS / SECOND
        sent_bps = min(4e6 * (1 + controller.probe), controller.pace_bps or 1e12)
        lost = 0.15 * (at_s > 5) + loss(controller, at_s, look)
        rates = {"passed_bps": sent_bps, "sent_bps": sent_bps, "loss_ratio": lost, "loss_recent": lost}
        controller.look(look * LOOK_NS, measured(progress_ns=look * LOOK_NS, **rates))
        limits.append(controller.limit_bps)
    return limits


def test_one_probe_that_meets_an_outage_is_no_policer() -> None:
    met: list[float] = []

    def outage(controller: Controller, at_s: float, look: int) -> float:
        if controller.probe and (not met or at_s - met[0] < 5):
            met.append(at_s)
            return 0.2
        return 0.0

    assert probed(outage, 60) == [None] * len(probed(lambda *_: 0.0, 60))
    assert met


def test_what_loses_at_half_the_rate_too_is_no_policer() -> None:
    """Probes that have met bursts of losses twice are believed, until the limit has changed nothing."""
    found: list[float] = []

    def bursts(controller: Controller, at_s: float, look: int) -> float:
        if controller.limit_bps is None and not found:
            return 0.15 * (controller.probe > 0)
        found.append(at_s)
        return 0.15 + 0.2 * (look % 4 == 0)

    limits = probed(bursts, 30)
    limited = [i for i, limit in enumerate(limits) if limit is not None]
    assert limited
    assert (limited[-1] - limited[0]) * LOOK_NS <= 10 * SECOND
    assert limits[-1] is None


def test_what_a_pause_does_not_shorten_is_a_longer_way_and_is_not_paused_for_again() -> None:
    controller = Controller()
    states: list[str] = []
    for look in range(1, 400):  # 20 s; the way is 450 ms longer from 5 s on
        now_ns = look * LOOK_NS
        controller.look(now_ns, measured(queue_ns=450 * MS * (look > 100), progress_ns=now_ns))
        states.append(controller.state)
    pauses = sum(a != "pausing" == b for a, b in pairwise(states))
    assert (pauses, states.count("pausing")) == (1, 450 * MS // LOOK_NS)


def test_silence_stops_the_media_after_three_seconds_and_a_report_starts_it() -> None:
    controller = Controller()
    for i in range(1, 100):
        controller.look(i * LOOK_NS, measured(progress_ns=min(i, 20) * LOOK_NS))
        silent_ns = (i - 20) * LOOK_NS
        assert controller.stopped == (silent_ns > TIMEOUT_NS)
    assert 0 < controller.pace_bps < 100
    controller.look(101 * LOOK_NS, measured(progress_ns=101 * LOOK_NS))
    assert (controller.state, controller.pace_bps) == ("unlimited", 0.0)


def test_silence_is_counted_from_when_there_was_something_to_send_and_anew_for_another_process() -> None:
    controller = Controller()
    controller.look(SECOND, measured(progress_ns=SECOND))
    controller.look(3600 * SECOND, measured(progress_ns=SECOND, sending=False))
    controller.look(3601 * SECOND, measured(progress_ns=SECOND))
    assert not controller.stopped
    controller.look(3605 * SECOND, measured(progress_ns=SECOND))
    assert controller.stopped
    controller.restart()
    assert not controller.stopped
    controller.look(3605 * SECOND + LOOK_NS, measured(progress_ns=0))
    assert not controller.stopped


@pytest.mark.parametrize("seed", range(20))
def test_whatever_a_peer_claims_the_limit_stays_within_reason(seed: int) -> None:
    rng = random.Random(seed)
    controller = Controller()
    for i in range(1, 2000):
        controller.look(
            i * LOOK_NS,
            measured(
                queue_ns=rng.choice([0, 60 * MS, 10 * SECOND, rng.randrange(1 << 40)]),
                passed_bps=rng.choice([0.0, 1.0, 4e6, 1e18]),
                loss_recent=rng.random(),
                loss_ratio=rng.random(),
                rtt_ns=rng.choice([0, RTT_NS, 10 * SECOND]),
                progress_ns=i * LOOK_NS,
            ),
        )
        assert controller.limit_bps is None or LEAST_BPS <= controller.limit_bps <= 10e6, f"seed {seed}"
        assert 0 <= controller.own_loss <= 1


def test_the_first_seconds_of_a_lossy_path_are_no_jump_of_loss_wherever_the_clock_begins() -> None:
    """Averages of loss fill up from a few datagrams; on a clock that has run for hours no probe is due."""
    controller = Controller()
    start_ns = 9000 * SECOND
    for i in range(20 * 20):
        now_ns = start_ns + i * LOOK_NS
        loss = min(0.1 + 0.1 * i / 20, 0.3)
        controller.look(
            now_ns,
            Measured(
                queue_ns=0,
                passed_bps=6.6e6,
                sent_bps=6.6e6,
                loss_recent=loss,
                loss_ratio=loss,
                loss_burst=0.0,
                packets_per_second=400,
                rtt_ns=RTT_NS,
                progress_ns=now_ns,
                sending=True,
            ),
        )
        assert controller.probe == 0 and controller.limit_bps is None, f"after {i * LOOK_NS / SECOND} s"
