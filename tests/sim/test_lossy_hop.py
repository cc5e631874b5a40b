"""The cells of the grid at a size for every day, and what else a lossy link does to 400 packets/s.

The last packets of a run count too, although nothing that follows them protects them.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import exp, sqrt
from typing import Any

import pytest

from relay.lab.crossing import Terms, cross, together
from relay.lab.grid import CELLS, Cell, row
from relay.lab.link import GilbertElliott, LinkConfig, bursts
from relay.lab.virtual import VirtualNode
from tests.sim.fleet import (
    EDGE,
    MS,
    REGION,
    SECOND,
    VIDEO,
    Encoder,
    Fleet,
    Media,
    Player,
    edge_and_region,
)

START_NS = 5 * SECOND  # long after the handshake, which at 30 % loss each way may take a second


@dataclass(frozen=True)
class Outcome:
    fleet: Fleet
    players: dict[str, Player]
    missing: dict[str, int]
    overhead: float
    delay_p99_ms: float


@lru_cache(maxsize=2)
def run(
    seed: int,
    link: LinkConfig,
    *,
    seconds: float = 30,
    tracks: tuple[Media, ...] = (VIDEO,),
    node: type[VirtualNode] = VirtualNode,
    **spec: Any,
) -> Outcome:
    """Send `seconds` of every track from edge to region, and see what the players got."""
    fleet = edge_and_region(seed, link, tracks=tracks, node=node, **spec)
    players = {m.kind: Player(fleet.network, m) for m in tracks}
    counts = {m.kind: int(seconds * SECOND / m.interval_ns) for m in tracks}
    for i, m in enumerate(tracks):
        Encoder(
            fleet.network,
            m,
            start_ns=START_NS,
            count=counts[m.kind],
            ssrc=0x1000 + i,
            address=("10.0.0.8", 5000 + 2 * i),
        )
    fleet.network.run(START_NS + int((seconds + 3) * SECOND))
    return Outcome(
        fleet,
        players,
        {kind: len(player.missing(range(counts[kind]))) for kind, player in players.items()},
        fleet.hop_status("edge", "region")["overhead_ratio"],
        fleet.hop_status("region", "edge")["added_delay_ms"]["p99"],
    )


PACKETS = 24_000
"""Of video, a seed."""
CLUSTER = 4
"""Packets that are lost together: where repair fails, it fails for several."""
TRAIN = 8
"""Packets that are lost after an outage when a burst takes more of the answer than its margin. The target of
W10 is 0, but that happens."""
START = 0.02
"""Repair overhead beside what a run of PACKETS needs: for its first two seconds it counts on 30 %."""


def most_losses(ratio: float, packets: int) -> int:
    """What a hop that loses just that ratio would exceed once in a hundred runs (Poisson, of clusters)."""
    mean_clusters = ratio * packets / CLUSTER
    clusters, chance = 0, exp(-mean_clusters)
    within = chance
    while within < 0.99:
        clusters += 1
        chance *= mean_clusters / clusters
        within += chance
    return clusters * CLUSTER


def overhead_deviation(terms: Terms, overhead: float, packets: int) -> float:
    """Of the overhead, which goes with p/(1-p): in so many packets a link loses more or less than p."""
    p = terms.loss_ratio
    if p == 0:
        return 0.0
    loss = terms.link.loss
    rho = 1 - loss.p_good_bad - loss.p_bad_good if isinstance(loss, GilbertElliott) else 0.0
    return overhead * sqrt((1 + rho) / (1 - rho)) / sqrt(p * (1 - p) * packets * (1 + overhead))


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
@pytest.mark.seeds(1, 2)
def test_a_cell_of_the_grid_meets_its_target(cell: Cell, seeds: tuple[int, ...]) -> None:
    """Within what runs of this size scatter by: the target is for a hundred times as many packets."""
    got = together([cross(cell.terms, packets=PACKETS, seed=seed) for seed in seeds])
    target = cell.target
    print(row(cell, got))
    train = TRAIN if cell.terms.link.outage_ms else 0
    assert got.lost <= most_losses(target.residual, got.packets) + train
    if target.overhead is not None:
        scatter = 3 * overhead_deviation(cell.terms, target.overhead, PACKETS * len(seeds))
        start = START if cell.terms.loss_ratio < 0.3 else 0.0
        assert got.repair_ratio <= target.overhead + scatter + start
    if target.all_in is not None:
        assert got.all_in_ratio <= target.all_in
    if target.mean_ms is not None:
        assert got.mean_ms <= target.mean_ms
    if target.p99_ms is not None:
        assert got.p99_ms <= target.p99_ms


def test_without_loss_nothing_is_repaired(seed: int) -> None:
    outcome = run(seed, LinkConfig(delay_ms=50))
    assert outcome.missing == {"video": 0}
    assert outcome.players["video"].steps() == {1}
    assert outcome.fleet.hop_status("region", "edge")["recovered_packets"] == 0


RANDOM = LinkConfig(delay_ms=50, loss=0.3)


@pytest.mark.parametrize("loss", [0.1, 0.3, bursts(0.3, 4)], ids=["10%", "30%", "30% in bursts"])
def test_without_repair_the_loss_of_the_link_is_left(seed: int, loss: float | GilbertElliott) -> None:
    outcome = run(seed, LinkConfig(delay_ms=50, loss=loss), seconds=15, max_overhead=0.0)
    counters = outcome.fleet.network.link(EDGE, REGION).counters
    ratio = counters.lost_random / counters.sent
    assert outcome.overhead == 0
    assert outcome.missing["video"] / 6000 == pytest.approx(ratio, rel=0.1)


class NearWrap(VirtualNode):
    """32-bit numbers begin within 4096 of their end: ESIs, origin sequences, receiver indices."""

    def random_bytes(self, n: int) -> bytes:
        drawn = super().random_bytes(n)
        return bytes([0xFF, 0xFF, 0xF0 | drawn[2] & 0x0F, drawn[3]]) if n == 4 else drawn


@pytest.mark.seeds(1, 2)
def test_serial_numbers_wrap_unnoticed(seed: int) -> None:
    outcome = run(seed, RANDOM, node=NearWrap, seconds=20)
    assert outcome.missing["video"] <= 1
    assert outcome.fleet.hop_status("edge", "region")["source_packets"] > 4096
    assert outcome.overhead <= 0.75


class Stalling(VirtualNode):
    """The event loop stands still for 200 ms out of every 300."""

    def _stalled_until(self, now_ns: int) -> int:
        return now_ns - now_ns % (300 * MS) + 200 * MS

    def _decide(self, now_ns: int) -> int:
        until_ns = self._stalled_until(now_ns)
        return until_ns if now_ns < until_ns else super()._decide(now_ns)

    def _handle(self, now_ns: int) -> None:
        if now_ns >= self._stalled_until(now_ns):
            super()._handle(now_ns)


@pytest.mark.seeds(1, 2)
def test_stalls_of_the_event_loop_change_nothing(seed: int) -> None:
    calm, stalled = run(seed, RANDOM), run(seed, RANDOM, node=Stalling)
    assert stalled.missing["video"] <= calm.missing["video"] + 3
    for outcome in (calm, stalled):
        hop = outcome.fleet.hop_status("region", "edge")
        assert (hop["state"], hop["handshakes"]) == ("connected", 1)
    recovered = [o.fleet.hop_status("region", "edge")["recovered_packets"] for o in (calm, stalled)]
    assert recovered[1] == pytest.approx(recovered[0], rel=0.03)
    assert stalled.overhead == pytest.approx(calm.overhead, rel=0.03)
    assert stalled.delay_p99_ms <= calm.delay_p99_ms + 10
