"""An edge with two regions in its configuration learns the others, measures all, and goes to the nearest."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from relay.core.nearest import AT_ONCE, KEEP
from relay.core.noise import public_key
from relay.core.record import Record, sign
from relay.lab.link import LinkConfig
from relay.wire.messages import Regions
from tests.sim.fleet import HOP_PORT, SECOND, VIDEO, Encoder, NodeSpec
from tests.sim.test_trust import SIGNED_S, Trusting

DAY_S = 86400
REGIONS = [f"r{i}" for i in range(1, 7)]
HOSTS = {"edge": "10.0.0.1", **{name: f"10.0.1.{name[1:]}" for name in [*REGIONS, "r7"]}}
DELAYS_MS = {"r1": 120, "r2": 90, "r3": 15, "r4": 40, "r5": 150, "r6": 60, "r7": 4}
PER_SECOND = SECOND // VIDEO.interval_ns


class Regional(Trusting):
    """Regions that call one another, and an edge that has the first two in its configuration. No region has
    the edge in its own."""

    def __init__(self, seed: int, names: Iterable[str] = REGIONS, **edge: Any) -> None:
        names = list(names)
        specs = [
            NodeSpec(
                name,
                HOSTS[name],
                calls=tuple(other for other in names if other < name),
                called_by=tuple(other for other in names if other > name),
                role="region",
            )
            for name in names
        ]
        specs.append(NodeSpec("edge", HOSTS["edge"], calls=("r1", "r2"), ingest=(VIDEO,), **edge))
        super().__init__(seed, *specs)
        for name in names:
            self.near(name, DELAYS_MS[name])
        for a in names:
            for b in names:
                if a < b:
                    self.link(HOSTS[a], HOSTS[b], LinkConfig(delay_ms=30))

    def near(self, name: str, delay_ms: float, **link: Any) -> None:
        """How far a region is from the edge."""
        self.link(HOSTS["edge"], HOSTS[name], LinkConfig(delay_ms=delay_ms, **link))

    def record(self, name: str, *, key: bytes | None = None, issued_s: int = SIGNED_S) -> bytes:
        addresses = ((HOSTS[name], HOP_PORT),) if name != "edge" else ()
        expires_s = issued_s + int(self.days * DAY_S)
        role = self.specs[name].role
        of = Record(
            name, f"of-{name}", public_key(key or self.key(name)), issued_s, expires_s, addresses, role
        )
        return sign(self.authority, of)

    def regions(self) -> dict[str, dict[str, Any]]:
        """What the edge says of each region."""
        status = self.nodes["edge"].machine.fleet_status(self.now_ns)
        assert status is not None
        return {region["name"]: region for region in status["regions"]}

    def sessions(self) -> set[str]:
        """The regions that the edge has a session with."""
        hops = self.nodes["edge"].machine.hops
        assert hops is not None
        return {hop.name for hop in hops.hops.values() if hop.upstream}

    @property
    def chosen(self) -> str | None:
        return self.stream("edge")["route"]["chosen"]


def test_two_seeds_are_enough_to_end_at_the_nearest_region(seed: int) -> None:
    fleet = Regional(seed)
    fleet.start_all()
    fleet.run(1)
    assert fleet.chosen in ("r1", "r2")
    for _ in range(140):
        fleet.run(0.25)
        assert len(fleet.sessions()) <= 2 + KEEP + AT_ONCE
    regions = fleet.regions()
    assert list(regions) == ["r3", "r4", "r6", "r2", "r1", "r5"]
    for name, region in regions.items():
        assert region["cost_ms"] == pytest.approx(DELAYS_MS[name], abs=8)
    states = {name: region["state"] for name, region in regions.items()}
    assert states == {
        **dict.fromkeys(("r3", "r4", "r6"), "kept"),
        **dict.fromkeys(("r1", "r2"), "configured"),
        "r5": "rests",
    }
    assert fleet.chosen == "r3"
    assert fleet.sessions() == {"r1", "r2", "r3", "r4", "r6"}
    why = {c["peer"]: c["why"] for c in fleet.stream("edge")["route"]["candidates"]}
    assert why["r3"].startswith("lowest cost, 15.")
    assert why["r4"].endswith(" ms dearer than r3")
    assert why["r5"].startswith("rests: measured ")
    # The region that rests has let the edge go, and neither calls the other until it is measured again.
    assert fleet.state("r5", "edge") in ("connecting", None)
    assert fleet.state("r3", "edge") == "connected"
    assert fleet.refused("edge", "unknown_peer") == 0


def test_a_region_at_rest_is_measured_again_and_a_session_of_before_is_forgotten(seed: int) -> None:
    """It has moved nearer meanwhile: the edge stays there, and what the two say to each other arrives."""
    fleet = Regional(seed)
    fleet.start_all()
    fleet.run(35)
    assert fleet.regions()["r5"]["state"] == "rests"
    fleet.near("r5", 2)
    fleet.run(90)
    assert fleet.regions()["r5"]["state"] == "kept"
    assert fleet.chosen == "r5"
    assert fleet.stream("edge")["route"]["accepted"]
    assert fleet.hop("edge", "r5").session.handshakes == fleet.hop("r5", "edge").session.handshakes
    assert fleet.regions()["r6"]["state"] == "rests"
    assert fleet.state("r6", "edge") is None


def test_a_nearer_region_that_appears_is_found(seed: int) -> None:
    fleet = Regional(seed, [*REGIONS, "r7"])
    for name in [*REGIONS, "edge"]:
        fleet.start(name)
    fleet.run(60)
    assert fleet.chosen == "r3"
    assert "r7" not in fleet.regions()
    fleet.start("r7")
    fleet.run(100)
    assert fleet.regions()["r7"]["state"] == "kept"
    assert fleet.chosen == "r7"


def test_the_nearest_region_goes_bad_and_comes_back(seed: int) -> None:
    fleet = Regional(seed)
    fleet.start_all()
    fleet.run(60)
    assert fleet.chosen == "r3"
    Encoder(fleet.network, VIDEO, start_ns=fleet.now_ns, count=30 * PER_SECOND)
    fleet.run(5)
    fleet.near("r3", 15, loss=0.6)
    fleet.run(20)
    assert fleet.chosen == "r4"
    assert fleet.stream("edge")["route"]["accepted"]
    assert fleet.regions()["r3"]["cost_ms"] > 50
    fleet.near("r3", 15)
    fleet.run(100)
    assert fleet.chosen == "r3"


@pytest.mark.seeds(1, 2)
def test_noise_is_no_reason_to_move(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """Two regions at the same distance, and another a little farther, all with delay that varies by 20 ms,
    for ten minutes."""
    fleet = Regional(seed)
    for name, delay_ms in (("r3", 15), ("r4", 15), ("r6", 20)):
        fleet.near(name, delay_ms, jitter_ms=20)
    fleet.start_all()
    fleet.run(60)
    chosen = fleet.chosen
    assert chosen in ("r3", "r4", "r6")
    with caplog.at_level("INFO", logger="relay.stream"):
        for _ in range(10):
            fleet.run(60)
            assert fleet.chosen == chosen
    assert not [r for r in caplog.records if r.getMessage() == "stream_route"]


def test_what_a_region_says_is_a_hint_no_more(seed: int) -> None:
    """Records that the fleet's key has not signed, or has revoked, make the edge call nobody."""
    fleet = Regional(seed, ["r1", "r2"])
    fleet.start_all()
    fleet.run(5)
    machine = fleet.nodes["r1"].machine
    assert machine.hops is not None
    addresses = (("203.0.113.66", 53),)
    key = public_key(bytes(range(32)))
    record = Record("r8", "x", key, SIGNED_S, SIGNED_S + DAY_S, addresses, "region")
    machine.hops.send(fleet.now_ns, fleet.hop("r1", "edge"), Regions((sign(bytes(32), record),)))
    fleet.network.wake(fleet.nodes["r1"])
    fleet.run(5)
    assert set(fleet.regions()) == {"r1", "r2"}
    assert fleet.hop("edge", "r1").drops["regions refused"] == 1
    machine.hops.send(fleet.now_ns, fleet.hop("r1", "edge"), Regions((sign(fleet.authority, record),)))
    fleet.network.wake(fleet.nodes["r1"])
    fleet.run(2)
    assert set(fleet.regions()) == {"r1", "r2", "r8"}
    fleet.run(900)
    assert set(fleet.regions()) == {"r1", "r2"}, "nobody has named it again"


def test_without_a_fleets_key_nobody_is_learned(seed: int) -> None:
    fleet = Regional(seed)
    text = fleet.specs["edge"].fleet
    fleet.specs["edge"] = replace(fleet.specs["edge"], fleet="")
    for name in ("r1", "r2"):
        fleet.specs[name] = replace(fleet.specs[name], called_by=(*fleet.specs[name].called_by, "edge"))
    fleet.start_all()
    fleet.run(20)
    assert text and fleet.sessions() == {"r1", "r2"}
    assert fleet.chosen == "r2"


def test_a_learned_region_that_is_revoked_is_left(seed: int) -> None:
    fleet = Regional(seed)
    fleet.start_all()
    fleet.run(40)
    assert fleet.chosen == "r3"
    fleet.revoke("r1", "r3")
    fleet.run(20)
    assert "r3" not in fleet.regions()
    assert "r3" not in fleet.sessions()
    assert fleet.chosen == "r4"


def test_a_member_that_was_forgotten_is_understood_again(seed: int) -> None:
    """Cut off for so long that its regions have given it up, an edge publishes again by the same process."""
    fleet = Regional(seed, ["r1", "r2"])
    fleet.start_all()
    fleet.run(60)
    assert fleet.stream("edge")["route"]["accepted"]
    for name in ("r1", "r2"):
        fleet.near(name, DELAYS_MS[name], loss=1.0)
    fleet.run(400)
    assert fleet.state("r1", "edge") is fleet.state("r2", "edge") is None
    for name in ("r1", "r2"):
        fleet.near(name, DELAYS_MS[name])
    fleet.run(30)
    assert fleet.stream("edge")["route"]["accepted"]
    assert fleet.stream("r2")["source"] == "hop:edge"
