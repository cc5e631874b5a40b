"""Who knows how others are, and since when: edges and regions in virtual time, over links that lose."""

from dataclasses import replace
from typing import Any

import pytest

from relay.lab.link import LinkConfig, LinkProfile, bursts
from relay.lab.virtual import WELL, VirtualNode
from relay.wire.health import Summary
from tests.sim.fleet import MS, SECOND, Fleet, NodeSpec

DELAY_MS = 50
CLEAN = LinkConfig(delay_ms=DELAY_MS)
LOSSY = LinkConfig(delay_ms=DELAY_MS, loss=0.3)
BURSTS = LinkConfig(delay_ms=DELAY_MS, loss=bursts(0.3, 4))
EDGES = ("edge-0", "edge-1")
TOLD = [
    ("edge-0", "west"),
    ("west", "edge-0"),
    ("edge-1", "east"),
    ("east", "edge-1"),
    ("east", "west"),
    ("west", "east"),
]
"""Who is told, by whom."""


class Dated(VirtualNode):
    """Its network card is as fast as the milliseconds at which the board was read."""

    def look(self) -> None:
        self.facts = replace(self.facts, nic_speed_mbps=self.network.now_ns // MS)
        super().look()


def fleet_of(seed: int, link: LinkProfile) -> Fleet:
    """Two regions, of which one calls the other, and edges that call both."""
    specs = [
        NodeSpec("east", "10.0.1.2", role="region", called_by=("west", *EDGES)),
        NodeSpec("west", "10.0.1.1", role="region", calls=("east",), called_by=EDGES),
        *(NodeSpec(edge, f"10.0.0.{i + 1}", calls=("west", "east")) for i, edge in enumerate(EDGES)),
    ]
    fleet = Fleet(seed, specs, Dated)
    for i, a in enumerate(specs):
        for b in specs[:i]:
            fleet.link(a.host, b.host, link)
    fleet.start_all()
    return fleet


def peer(fleet: Fleet, told: str, by: str) -> dict[str, Any]:
    statuses = fleet.nodes[told].machine.peer_statuses(fleet.now_ns)
    return next(status for status in statuses if status["name"] == by)


def age_ns(fleet: Fleet, told: str, by: str) -> int:
    """Since what is known was read from the board."""
    digest = fleet.hop(told, by).health.digest
    assert digest and digest.nic_speed_mbps is not None
    return fleet.now_ns - digest.nic_speed_mbps * MS


def quantile(values: list[int], share: float) -> int:
    return sorted(values)[int(share * len(values))]


@pytest.mark.seeds(1, 2, 3)
@pytest.mark.parametrize(
    ("link", "p99_s"), [(CLEAN, 1.1), (LOSSY, 2), (BURSTS, 3)], ids=["no loss", "30 %", "30 % in bursts"]
)
def test_what_is_known_is_no_older_than_two_seconds(seed: int, link: LinkProfile, p99_s: float) -> None:
    """Bursts of four datagrams are half a second of an idle link."""
    fleet = fleet_of(seed, link)
    fleet.run(5)
    ages: list[int] = []
    for _ in range(700):
        fleet.run(0.17)  # out of step with the readings
        ages += [age_ns(fleet, *pair) for pair in TOLD]
    print(f"age p50 {quantile(ages, 0.5) / MS:.0f} ms, p99 {quantile(ages, 0.99) / MS:.0f} ms")
    assert quantile(ages, 0.99) <= p99_s * SECOND


@pytest.mark.seeds(1, 2, 3)
@pytest.mark.parametrize(
    ("link", "p50_ms", "p99_ms"), [(CLEAN, 52, 52), (LOSSY, 52, 1000)], ids=["no loss", "30 %"]
)
def test_a_change_is_known_at_once(seed: int, link: LinkProfile, p50_ms: int, p99_ms: int) -> None:
    fleet = fleet_of(seed, link)
    fleet.run(5)
    waits: list[int] = []
    for i in range(40):
        fleet.run(1.37)
        throttled = i % 2 == 0
        changed_ns = fleet.now_ns
        fleet.nodes["west"].show(replace(WELL, throttled=throttled))
        waiting = [told for told, by in TOLD if by == "west"]
        while waiting:
            fleet.run(0.001)
            known = [t for t in waiting if peer(fleet, t, "west")["health"]["throttled"] is throttled]
            waits += [fleet.now_ns - changed_ns for _ in known]
            waiting = [t for t in waiting if t not in known]
    print(
        f"change known after p50 {quantile(waits, 0.5) / MS:.0f} ms, p99 {quantile(waits, 0.99) / MS:.0f} ms"
    )
    assert quantile(waits, 0.5) <= p50_ms * MS
    assert quantile(waits, 0.99) <= p99_ms * MS


def test_noise_sends_nothing_and_rest_costs_one_datagram_a_second(seed: int) -> None:
    fleet = fleet_of(seed, CLEAN)
    fleet.run(60)  # until the loss is known to be none
    session = fleet.hop("west", "east").session
    before = session._state_number
    fleet.nodes["west"].show(replace(WELL, temperature_c=70))
    for i in range(100):
        fleet.nodes["west"].show(replace(WELL, temperature_c=60 + i % 15, memory_available_permille=800 - i))
        fleet.run(0.1)
    assert session._state_number - before <= 2 * 11  # a digest and a summary


@pytest.mark.seeds(1, 2)
def test_regions_speak_for_their_edges_and_edges_for_nobody(seed: int) -> None:
    fleet = fleet_of(seed, LOSSY)
    fleet.run(10)
    for told, by in TOLD:
        summary = fleet.hop(told, by).health.summary
        if {told, by} == {"east", "west"}:
            assert summary is not None and (summary.nodes, summary.known) == (2, 2)
        else:
            assert summary is None
    statuses = fleet.nodes["west"].machine.peer_statuses(fleet.now_ns)
    assert [(s["name"], s["self"]) for s in statuses] == [
        ("west", True),
        ("east", False),
        ("edge-0", False),
        ("edge-1", False),
    ]
    assert statuses[0]["summary"]["known"] == 2
    fleet.nodes["edge-0"].show(replace(WELL, throttled=True))
    fleet.run(3)
    found = fleet.hop("east", "west").health.summary
    assert found is not None and found.ailing == 1


def test_a_node_that_dies_is_unknown_after_three_seconds_and_its_age_is_shown(seed: int) -> None:
    fleet = fleet_of(seed, CLEAN)
    fleet.run(30)
    fleet.stop("edge-0")
    fleet.run(2)
    assert peer(fleet, "west", "edge-0")["health"] is not None
    fleet.run(2)
    shown = peer(fleet, "west", "edge-0")
    assert shown["health"] is None and 3 < shown["age_seconds"] < 4.1
    assert shown["connected"]  # nobody has missed it yet
    fleet.run(2)
    found = fleet.hop("east", "west").health.summary
    assert isinstance(found, Summary) and (found.nodes, found.known) == (2, 1)


def test_a_new_process_is_not_taken_for_the_old_one(seed: int) -> None:
    fleet = fleet_of(seed, CLEAN)
    fleet.nodes["edge-0"].show(replace(WELL, throttled=True))
    fleet.run(20)
    assert peer(fleet, "west", "edge-0")["alarms"] == ["throttled"]
    fleet.stop("edge-0")
    fleet.start("edge-0")
    fleet.run(1)
    shown = peer(fleet, "west", "edge-0")
    assert shown["alarms"] == [] and shown["health"] is not None


def test_draining_is_told_at_once(seed: int) -> None:
    fleet = fleet_of(seed, CLEAN)
    fleet.run(10.3)
    fleet.nodes["east"].machine.streams.drain(fleet.now_ns)
    fleet.network.wake(fleet.nodes["east"])
    fleet.run((DELAY_MS + 2) / 1000)
    assert peer(fleet, "edge-0", "east")["alarms"] == ["draining"]
    assert peer(fleet, "edge-0", "east")["penalties_ms"] == {"draining": 1000.0}


def test_a_board_that_does_not_answer_becomes_unknown(seed: int) -> None:
    class Hanging(Dated):
        def look(self) -> None:
            if self.network.now_ns < 10 * SECOND:
                super().look()

    fleet = Fleet(
        seed,
        [
            NodeSpec("region", "10.0.1.1", called_by=("edge",)),
            NodeSpec("edge", "10.0.0.1", calls=("region",)),
        ],
        Hanging,
    )
    fleet.link("10.0.0.1", "10.0.1.1", CLEAN)
    fleet.start_all()
    fleet.run(11)
    assert peer(fleet, "region", "edge")["health"]["headroom_permille"] == 1000
    fleet.run(4)
    shown = peer(fleet, "region", "edge")
    assert shown["health"]["headroom_permille"] is None and shown["health"]["draining"] is False
    assert "headroom unknown" in shown["penalties_ms"]
