"""Nodes that go on in another process, again and again and in the middle of everything: what others see of
them is, bit for bit and at the same times, what they see without."""

import hashlib
import io
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from relay.lab.link import LinkConfig
from relay.services import carry
from tests.sim.fleet import SECOND, VIDEO, Fleet, Player, edge_and_region
from tests.sim.test_nearest import Regional
from tests.sim.test_relaying import chain, encode, end


def outcome(fleet: Fleet, player: Player) -> dict[str, Any]:
    """What the player got, what crossed each link, and what every node says of itself."""
    machines = {name: node.machine for name, node in fleet.nodes.items()}
    return {
        "packets": player.packets,
        "reports": player.rtcp,
        "hops": {name: machine.hop_statuses() for name, machine in machines.items()},
        "streams": {name: machine.stream_statuses(fleet.now_ns) for name, machine in machines.items()},
        "peers": {name: machine.peer_statuses(fleet.now_ns) for name, machine in machines.items()},
        "fleet": {name: machine.fleet_status(fleet.now_ns) for name, machine in machines.items()},
        "planes": {name: node.shards.stats() for name, node in fleet.nodes.items()},
    }


def run(make: Callable[[], Fleet], *, every_ms: int | None) -> dict[str, Any]:
    """Four seconds to meet, six of media and one more; each node is handed over so often."""
    fleet = make()
    player = Player(fleet.network, VIDEO)
    step_ms = 50
    for i in range(11_000 // step_ms):
        if i * step_ms == 4000:
            encode(fleet, 6)
        fleet.run(step_ms / 1000)
        if every_ms is not None and i * step_ms % every_ms == 0:
            for node in fleet.nodes.values():
                node.hand_over()
    of = outcome(fleet, player)
    end(fleet)
    return of


@pytest.mark.seeds(1, 2)
@pytest.mark.parametrize("every_ms", [50, 950])
def test_a_stream_over_two_regions(seed: int, every_ms: int) -> None:
    plain = run(lambda: chain(seed), every_ms=None)
    assert len(plain["packets"]) == 6 * SECOND // VIDEO.interval_ns
    assert run(lambda: chain(seed), every_ms=every_ms) == plain


@pytest.mark.seeds(1)
@pytest.mark.parametrize("every_ms", [50, 950])
def test_an_edge_that_learns_its_regions_and_measures_them(seed: int, every_ms: int) -> None:
    """Trust, members, probes and the directory, while the edge goes to the nearest region."""

    def make() -> Regional:
        fleet = Regional(seed)
        fleet.start_all()
        return fleet

    plain = run(make, every_ms=None)
    assert plain["fleet"]["edge"]["regions"][0]["name"] == "r3"
    assert run(make, every_ms=every_ms) == plain


@pytest.mark.seeds(1)
@pytest.mark.parametrize("every_ms", [100])
def test_a_link_that_carries_less_than_there_is(seed: int, every_ms: int) -> None:
    """What congestion control has found, and what waits for its turn."""

    def make() -> Fleet:
        return edge_and_region(seed, LinkConfig(delay_ms=20, loss=0.05, rate_bps=3_000_000))

    plain = run(make, every_ms=None)
    assert plain["hops"]["edge"][0]["congestion"]["state"] != "unlimited"
    assert run(make, every_ms=every_ms) == plain


# ---- the format ---------------------------------------------------------------------------------


class Shape(carry.Writer):
    """Notes the classes that are carried, and what each consists of."""

    found: ClassVar[dict[str, set[str]]] = {}

    def reducer_override(self, obj: object) -> Any:
        kind = type(obj)
        if kind.__module__.startswith("relay"):
            names = self.found.setdefault(f"{kind.__module__}.{kind.__qualname__}", set())
            names |= {*vars(obj)} if hasattr(obj, "__dict__") else {*getattr(kind, "__slots__", ())}
            names |= {*getattr(kind, "_fields", ())}
        return NotImplemented


SHAPE = "26da3da6749913ce"


def test_the_format_has_a_number_of_its_own() -> None:
    """Other classes or other attributes are another format: give it the next number (relay_ext/handover.pyx),
    and its digest here."""
    fleet = Regional(1)
    fleet.start_all()
    fleet.run(3)
    encode(fleet, 1)
    fleet.run(2)
    for node in fleet.nodes.values():
        Shape(io.BytesIO(), vars(node._outside)).dump(node.machine)
    end(fleet)
    shape = "\n".join(f"{kind}: {' '.join(sorted(names))}" for kind, names in sorted(Shape.found.items()))
    assert "relay.core.session.Session: " in shape and "Member: " in shape
    assert (carry.FORMAT, hashlib.sha256(shape.encode()).hexdigest()[:16]) == (1, SHAPE), shape


# ---- what is refused ----------------------------------------------------------------------------


def test_nothing_else_is_made() -> None:
    for evil in (print, io.StringIO(), pickle.Pickler):
        with pytest.raises(ValueError, match="no part of the state"):
            carry.load(pickle.dumps(evil), {})
    with pytest.raises(ValueError, match="not the state"):
        carry.load(carry.save({"a": 1}, {})[:-1], {})
    with pytest.raises(ValueError, match="cannot leave"):
        carry.save(lambda: None, {})


def test_what_is_outside_is_the_other_process_own() -> None:
    here, there = object(), object()
    assert carry.load(carry.save([here, 1], {"look": here}), {"look": there}) == [there, 1]
