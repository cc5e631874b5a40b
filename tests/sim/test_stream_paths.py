"""What each node of a stream's path says of all its hops, in virtual time."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from relay.lab.link import LinkConfig
from relay.services.hops import Hop
from relay.services.paths import LIFE_NS, TOLD_AT_ONCE
from relay.wire.coding import decode, encode
from relay.wire.paths import HopFigures, HopsBefore, HopsBehind, TreeHop
from tests.sim.fleet import SECOND, VIDEO, Fleet, NodeSpec
from tests.sim.test_relaying import HOSTS, chain, end
from tests.sim.test_relaying import encode as sends

LINKS = {
    ("edge", "a"): LinkConfig(delay_ms=20, loss=0.1),
    ("a", "b"): LinkConfig(delay_ms=80, loss=0.05),
    ("b", "out"): LinkConfig(delay_ms=10, loss=0.3),
}
HOPS = list(LINKS)


def unlike(seed: int) -> Fleet:
    """edge -> a -> b -> out, no two hops alike; media flows for 25 s, of which 20 have passed."""
    fleet = chain(seed, budget_ms=300)
    for (a, b), link in LINKS.items():
        fleet.link(HOSTS[a], HOSTS[b], link)
    fleet.run(3)
    sends(fleet, 25)
    fleet.run(20)
    return fleet


def hops_of(fleet: Fleet, name: str) -> dict[tuple[str, str], dict[str, Any]]:
    """All the hops that a node knows of the stream, in order."""
    stream = fleet.stream(name)
    path = stream["path"]
    before = {(a["node"], b["node"]): b for a, b in pairwise(path)}
    return before | {(hop["from"], hop["node"]): hop for hop in stream["behind"]["hops"]}


@pytest.mark.seeds(1, 2)
def test_every_node_of_a_path_knows_all_its_hops(seed: int) -> None:
    fleet = unlike(seed)
    for name in ("edge", "a", "b", "out"):
        found = hops_of(fleet, name)
        assert list(found) == HOPS
        for hop, link in LINKS.items():
            figures = found[hop]
            assert figures["delay_ms"] == pytest.approx(link.delay_ms, abs=4)
            assert figures["loss_ratio"] == pytest.approx(link.loss, abs=0.05)
            assert figures["residual_ratio"] <= 1e-3
            assert 1 <= figures["added_delay_ms"]["p50"] <= figures["added_delay_ms"]["p99"] <= 300
        stream = fleet.stream(name)
        assert stream["leaves"] is (name == "out")
        behind = [hop["leaves"] for hop in stream["behind"]["hops"]]
        assert behind == [False, False, True][3 - len(behind) :]
    # Each measures its own hop and nobody else's: what two nodes say of one is the same, but for its age.
    own, told = hops_of(fleet, "out")[HOPS[2]], hops_of(fleet, "edge")[HOPS[2]]
    assert told["loss_ratio"] == pytest.approx(own["loss_ratio"], abs=0.03)
    end(fleet)


def test_what_a_hop_loses_for_good_is_seen_at_both_ends_of_the_path(seed: int) -> None:
    fleet = unlike(seed)
    fleet.network.set_link(HOSTS["a"], HOSTS["b"], LinkConfig(delay_ms=80, loss=0.8))
    fleet.run(4.9)
    for name in ("edge", "out"):
        residual = {hop: of["residual_ratio"] for hop, of in hops_of(fleet, name).items()}
        assert residual["a", "b"] > 0.03
        assert residual["edge", "a"] < 0.01 and residual["b", "out"] < 0.01
    end(fleet)


def test_a_node_that_leaves_is_forgotten_and_one_that_is_silent_grows_old(seed: int) -> None:
    fleet = unlike(seed)
    fleet.specs["out"] = replace(fleet.specs["out"], egress=())
    fleet.nodes["out"].machine.reload(fleet.now_ns, fleet.config("out"))
    fleet.network.wake(fleet.nodes["out"])
    fleet.run(2)
    assert list(hops_of(fleet, "edge")) == [("edge", "a")]  # nobody else wants it any more
    # What is heard of a node that has died is forgotten, though its publication stands.
    fleet.stop("a")
    fleet.run(LIFE_NS / SECOND + 1)
    hop = fleet.stream("edge")["behind"]["hops"][0]
    assert (hop["node"], hop["leaves"], hop["residual_ratio"]) == ("a", False, None)


def telling(fleet: Fleet, name: str) -> list[tuple[int, str]]:
    """When a node tells whom of hops, from now on."""
    told: list[tuple[int, str]] = []
    hops = fleet.nodes[name].machine.hops
    assert hops is not None
    send = hops.send_state

    def on_send(now_ns: int, hop: Hop, packed: bytes) -> None:
        if isinstance(decode(packed), HopsBefore | HopsBehind):
            told.append((now_ns, hop.name))
        send(now_ns, hop, packed)

    hops.send_state = on_send  # type: ignore[method-assign]
    return told


def test_a_tree_with_many_edges_is_summed_up(seed: int) -> None:
    """Forty edges at b: the edge that publishes hears of as many as a message holds, the worst ones first."""
    outs = [f"out-{i}" for i in range(40)]
    hosts = {name: f"10.0.2.{i + 1}" for i, name in enumerate(outs)}
    fleet = chain(seed, LinkConfig(delay_ms=20))
    fleet.stop("b")
    fleet.specs["b"] = replace(fleet.specs["b"], called_by=(*fleet.specs["b"].called_by, *outs))
    for name, host in hosts.items():
        fleet.specs[name] = NodeSpec(name, host, calls=("b",), egress=(VIDEO,), player="10.0.9.9")
        fleet.link(HOSTS["b"], host, LinkConfig(delay_ms=10, loss=0.7 if name == "out-7" else 0))
    for name in ("b", *outs):
        fleet.start(name)
    fleet.run(4)
    sends(fleet, 6)
    told = telling(fleet, "b")
    fleet.run(6)
    # One message of each kind a second and hop, a few at a time: the event loop is for others, too.
    for second in range(1, 5):
        of = Counter(peer for ns, peer in told if ns // SECOND == told[0][0] // SECOND + second)
        assert of == Counter(["a", "out", *outs])
    assert max(Counter(ns for ns, _ in told).values()) == TOLD_AT_ONCE
    behind = fleet.stream("edge")["behind"]
    assert behind["nodes"] == 43
    nodes = [hop["node"] for hop in behind["hops"]]
    assert nodes[:2] == ["a", "b"] and nodes[2] == "out-7" and 20 <= len(nodes) <= 24
    assert fleet.stream("b")["behind"]["nodes"] == 41
    assert fleet.hop("a", "b").drops.total() == fleet.hop("edge", "a").drops.total() == 0


def test_hops_that_nobody_asked_for_are_counted_and_change_nothing(seed: int) -> None:
    fleet = unlike(seed)
    before = hops_of(fleet, "a")
    told = HopFigures(1, 2, 3, 4, 5)
    hops = fleet.nodes["b"].machine.hops
    assert hops is not None
    lies = (
        HopsBefore("studio", (told,)),  # not from its source
        HopsBehind("other", 1, (TreeHop("x", 0, True, told),)),
        HopsBefore("other", (told,)),
    )
    dropped = fleet.hop("a", "b").drops["hops unasked"]
    for lie in lies:
        for _ in range(8):
            hops.send_state(fleet.now_ns, fleet.hop("b", "a"), encode(lie))
    fleet.network.wake(fleet.nodes["b"])
    fleet.run(0.2)
    assert fleet.hop("a", "b").drops["hops unasked"] - dropped >= 12
    assert list(hops_of(fleet, "a")) == list(before)
    end(fleet)
