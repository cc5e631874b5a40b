"""Two ways to one peer: losses that have nothing to do with each other, a way that dies and comes back, ways
of different length, ways that appear later, and what can be done with what was sent over the second."""

from typing import Any

import pytest

from relay.lab.link import LinkConfig
from relay.lab.virtual import VirtualNode
from relay.services.uplinks import Binding
from tests.sim.fleet import (
    EDGE,
    HOP_PORT,
    MS,
    REGION,
    SECOND,
    VIDEO,
    Encoder,
    Fleet,
    NodeSpec,
    Player,
)

LTE, SECOND_REGION = "10.1.0.1", "10.1.0.2"
START_NS = 3 * SECOND
GAP_NS = 230 * MS
"""Of the player, at most: budget, what playout adds to it, one interval."""


class Late(VirtualNode):
    """Has its second address from the seventh second on."""

    def open_uplink(self, number: int, binding: Binding) -> None:
        if binding.host == LTE and self.network.now_ns < 7 * SECOND:
            raise OSError("there is no such address")
        super().open_uplink(number, binding)


class Run:
    """Video for so many seconds from START_NS, from an edge with two uplinks to a region with one address."""

    def __init__(
        self,
        seed: int,
        first: LinkConfig,
        second: LinkConfig,
        *,
        seconds: float = 8,
        budget_ms: int = 200,
        node: type[VirtualNode] = VirtualNode,
        **spec: Any,
    ) -> None:
        self.fleet = Fleet(
            seed,
            [
                NodeSpec("region", REGION, called_by=("edge",), egress=(VIDEO,), budget_ms=budget_ms, **spec),
                NodeSpec(
                    "edge",
                    EDGE,
                    calls=("region",),
                    ingest=(VIDEO,),
                    budget_ms=budget_ms,
                    uplinks=(EDGE, LTE),
                    **spec,
                ),
            ],
            node,
        )
        self.fleet.link(EDGE, REGION, first)
        self.fleet.link(LTE, REGION, second)
        self.fleet.start_all()
        self.player = Player(self.fleet.network, VIDEO)
        self.count = int(seconds * SECOND / VIDEO.interval_ns)
        Encoder(self.fleet.network, VIDEO, start_ns=START_NS, count=self.count)

    def until(self, seconds: float) -> "Run":
        self.fleet.network.run(int(seconds * SECOND))
        return self

    def finish(self) -> "Run":
        return self.until((START_NS + self.count * VIDEO.interval_ns) / SECOND + 2)

    def cut(self, host: str, start_s: float, end_s: float, link: LinkConfig) -> None:
        """Nothing gets through between that host and the region in that time; before and after, it is as
        `link` says."""
        for at_s, profile in ((start_s, LinkConfig(loss=1.0)), (end_s, link)):
            self.fleet.network.at(int(at_s * SECOND), lambda p=profile: self.fleet.link(host, REGION, p))

    def missing(self) -> list[int]:
        return self.player.missing(range(self.count))

    def status(self, name: str = "edge") -> dict[str, Any]:
        return self.fleet.hop_status(name, "region" if name == "edge" else "edge")

    def roles(self, name: str = "edge") -> dict[str, str]:
        return {path["uplink"]: path["role"] for path in self.status(name)["paths"]}


def sent_ns(index: int) -> int:
    return START_NS + index * VIDEO.interval_ns


# ---- who carries what -------------------------------------------------------------------------


def test_source_takes_one_path_and_repair_the_other(seed: int) -> None:
    lossy = LinkConfig(delay_ms=50, loss=0.3)
    run = Run(seed, lossy, lossy).until(7)
    assert sorted(run.roles().values()) == ["repair", "source"]
    run.finish()
    assert len(run.missing()) <= 2
    sent = {path["role"]: path["sent_bytes"] for path in run.status()["paths"]}
    assert len(sent) == 2
    assert run.status()["overhead_ratio"] <= 0.76


def test_the_better_path_carries_source_packets(seed: int) -> None:
    run = Run(seed, LinkConfig(delay_ms=50, loss=0.3), LinkConfig(delay_ms=50, loss=0.1)).until(9)
    assert run.roles() == {EDGE: "repair", LTE: "source"}
    run.finish()
    assert len(run.missing()) <= 1


def test_a_long_way_repairs_what_a_short_one_loses(seed: int) -> None:
    run = Run(seed, LinkConfig(delay_ms=10, loss=0.1), LinkConfig(delay_ms=75, loss=0.1)).until(9)
    assert run.roles() == {EDGE: "source", LTE: "repair"}
    run.finish()
    assert run.missing() == []


def test_a_way_that_is_too_long_repairs_nothing(seed: int) -> None:
    run = Run(seed, LinkConfig(delay_ms=10, loss=0.1), LinkConfig(delay_ms=300), budget_ms=150).until(9)
    assert run.roles() == {EDGE: "source+repair", LTE: "standby"}
    run.finish()
    assert run.missing() == []


# ---- ways that die ----------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [0.0, 0.1, 0.3])
def test_a_path_that_dies_for_good_leaves_no_gap(seed: int, loss: float) -> None:
    link = LinkConfig(delay_ms=40, loss=loss)
    run = Run(seed, link, link, seconds=8).until(6)
    source = next(path["uplink"] for path in run.status()["paths"] if "source" in path["role"])
    run.cut(source, 6.5, 1000, link)
    run.finish()
    assert run.roles()[source] == "dead"
    assert len(run.missing()) <= (3 if loss else 0)
    assert run.player.longest_gap_ns() <= GAP_NS
    assert run.status()["state"] == "connected"


def test_a_path_that_comes_back_is_used_again(seed: int) -> None:
    link = LinkConfig(delay_ms=40, loss=0.05)
    run = Run(seed, link, link, seconds=12)
    run.cut(EDGE, 6, 9, link)
    run.cut(LTE, 11, 1000, link)  # the first must have been taken again for this
    run.finish()
    assert run.roles() == {EDGE: "source+repair", LTE: "dead"}
    assert len(run.missing()) <= 3  # what was lost just before, and whose repair died with the path
    assert run.player.longest_gap_ns() <= GAP_NS


def test_a_path_whose_forward_direction_alone_dies_is_left(seed: int) -> None:
    link = LinkConfig(delay_ms=40)
    run = Run(seed, link, link).until(6)
    source = next(path["uplink"] for path in run.status()["paths"] if "source" in path["role"])
    run.fleet.network.set_link(source, REGION, LinkConfig(loss=1.0))
    run.finish()
    assert run.roles()[source] == "dead"
    assert run.missing() == []


def test_where_both_die_the_stream_goes_on_with_the_first_that_returns(seed: int) -> None:
    link = LinkConfig(delay_ms=40)
    run = Run(seed, link, link, seconds=10)
    run.cut(EDGE, 6, 1000, link)
    run.cut(LTE, 6, 8, link)
    run.finish()
    late = [i for i in run.missing() if sent_ns(i) > 8 * SECOND]
    assert late == []
    assert [path["role"] for path in run.status()["paths"] if path["uplink"] == LTE] == ["source+repair"]


# ---- which ways there are ---------------------------------------------------------------------


def test_an_uplink_that_appears_later_is_used(seed: int) -> None:
    link = LinkConfig(delay_ms=40, loss=0.1)
    run = Run(seed, link, link, seconds=12, node=Late).until(6)
    assert run.roles() == {EDGE: "source+repair"}
    run.until(12)
    assert run.roles() == {EDGE: "source", LTE: "repair"}
    run.cut(EDGE, 12, 1000, link)
    run.finish()
    assert run.missing() == []
    assert run.player.longest_gap_ns() <= GAP_NS


@pytest.mark.seeds(3)  # of 60 seeds two to four lose a packet or two at the cut
def test_two_addresses_of_the_region_are_two_paths(seed: int) -> None:
    fleet = Fleet(
        seed,
        [
            NodeSpec(
                "region",
                REGION,
                called_by=("edge",),
                egress=(VIDEO,),
                uplinks=(f"{SECOND_REGION}:{HOP_PORT}",),
                hosts=(REGION, SECOND_REGION),
            ),
            NodeSpec("edge", EDGE, calls=("region",), ingest=(VIDEO,)),
        ],
    )
    link = LinkConfig(delay_ms=40, loss=0.1)
    fleet.link(EDGE, REGION, link)
    fleet.link(EDGE, SECOND_REGION, link)
    fleet.start_all()
    player = Player(fleet.network, VIDEO)
    Encoder(fleet.network, VIDEO, start_ns=START_NS, count=3200)
    fleet.network.at(6 * SECOND, lambda: fleet.link(EDGE, REGION, LinkConfig(loss=1.0)))
    fleet.network.run(13 * SECOND)
    paths = {path["address"]: path["role"] for path in fleet.hop_status("edge", "region")["paths"]}
    assert paths == {f"{REGION}:{HOP_PORT}": "dead", f"{SECOND_REGION}:{HOP_PORT}": "source+repair"}
    assert player.missing(range(3200)) == []
    assert player.longest_gap_ns() <= GAP_NS
