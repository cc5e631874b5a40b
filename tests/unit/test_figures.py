"""Figures of hops: what a node measures, and the tree that it makes of what others tell."""

import random

import pytest

from relay.core.figures import TREE_BYTES_MAX, Counters, Meter, percentile, tree
from relay.wire.coding import decode, encode
from relay.wire.messages import MESSAGE_BYTES_MAX
from relay.wire.paths import BEHIND_MAX, UNKNOWN, HopFigures, HopsBehind, TreeHop

MS = 1_000_000


def test_percentiles_of_slots_of_a_millisecond() -> None:
    assert percentile([], 0.5) is None is percentile([0, 0], 0.5)
    assert percentile([0, 3, 0, 1], 0.5) == 2.0
    assert percentile([0, 3, 0, 1], 0.99) == 4.0


def counters(at_s: float, sent: int, arrived: int, *counted: int, late: int = 0) -> Counters:
    received, recovered, lost = counted
    return Counters(int(at_s * 1e9), sent, arrived, received, recovered, lost, [received, recovered, 0, late])


def test_figures_are_of_the_last_ten_to_twenty_seconds() -> None:
    meter = Meter()
    assert meter.figures == UNKNOWN
    meter.look(counters(0, 50, 50, 0, 0, 0), 0)
    assert meter.figures == UNKNOWN
    meter.look(counters(1, 1050, 950, 900, 90, 10), 50 * MS)
    assert meter.figures == HopFigures(500, 100_000, 10_000, 1, 2)
    meter.look(counters(10, 1050, 950, 900, 90, 10), 50 * MS)
    assert meter.figures.residual_ppm == 10_000
    meter.look(counters(12, 3050, 2950, 1900, 90, 10, late=2000), 50 * MS)
    assert meter.figures == HopFigures(500, 33_333, 5000, 4, 4)
    meter.look(counters(20, 3050, 2950, 1900, 90, 10, late=2000), 50 * MS)
    assert meter.figures == HopFigures(500, 0, 0, 4, 4)  # what was lost is forgotten
    for at_s in (40, 50):
        meter.look(counters(at_s, 3050, 2950, 1900, 90, 10, late=2000), 50 * MS)
    assert meter.figures == HopFigures(500, None, None, None, None)  # nothing has come since


def test_figures_begin_anew_with_another_process_of_the_peer() -> None:
    meter = Meter()
    meter.look(counters(0, 1000, 900, 900, 0, 0), MS)
    meter.look(counters(1, 5, 5, 905, 0, 0), MS)
    assert meter.figures == HopFigures(10, None, None, None, None)
    meter.look(counters(2, 105, 95, 995, 0, 0), MS)
    assert meter.figures == HopFigures(10, 100_000, 0, 1, 1)
    meter.look(counters(3, 105, 96, 996, 0, 0), MS)  # one that was late
    assert meter.figures.loss_ppm == 90_000


def hop(node: str, parent: int = 0, *, leaves: bool = False, lost: int = 0) -> TreeHop:
    return TreeHop(node, parent, leaves, HopFigures(400, 100_000, lost, 3, 90))


def child(*hops: TreeHop, nodes: int | None = None) -> HopsBehind:
    return HopsBehind("studio", nodes or len(hops), hops)


def test_a_tree_of_what_children_tell() -> None:
    b = child(hop("b"), hop("out-1", leaves=True), hop("out-2", leaves=True, lost=5), nodes=7)
    found = tree("studio", hop("a"), [child(hop("out-3", leaves=True)), b])
    assert found.nodes == 9
    assert [(of.node, found.hops[of.parent].node) for of in found.hops] == [
        ("a", "a"),
        ("b", "a"),
        ("out-3", "a"),
        ("out-2", "b"),  # the worst first
        ("out-1", "b"),
    ]
    assert decode(encode(found)) == found


@pytest.mark.parametrize("name_chars", [3, 20, 63])
def test_a_tree_is_cut_to_what_a_message_holds(name_chars: int) -> None:
    """By its leaves, the best ones first; its regions stay while there is room."""
    rng = random.Random(name_chars)
    regions = []
    for i in range(6):
        edges = [hop(f"{i}-{j}".ljust(name_chars, "x"), lost=rng.randrange(1000)) for j in range(100)]
        regions.append(tree("s" * 64, hop(f"r{i}".ljust(name_chars, "x")), [child(of) for of in edges]))
    found = tree("s" * 64, hop("a"), regions)
    assert found.nodes == 1 + 6 * 101
    assert len(found.hops) <= BEHIND_MAX
    assert {of.node.rstrip("x") for of in found.hops[1:7]} == {f"r{i}" for i in range(6)}
    assert all(of.parent < i for i, of in enumerate(found.hops) if i)
    losses = [of.figures.residual_ppm or 0 for of in found.hops[7:]]
    assert losses == sorted(losses, reverse=True)
    assert TREE_BYTES_MAX / 2 < len(encode(found)) <= MESSAGE_BYTES_MAX


def test_a_tree_that_is_too_deep_is_cut() -> None:
    deep = child(hop("b"), hop("c", 0), hop("d", 1), hop("e", 2))
    assert [of.node for of in tree("studio", hop("a"), [deep]).hops] == ["a", "b", "c", "d"]


def test_the_largest_figures_fit() -> None:
    most = HopFigures(*(10**9,) * 5)
    found = tree("s" * 64, TreeHop("n" * 63, 0, True, most), [child(TreeHop("m" * 63, 0, True, most))] * 30)
    assert len(encode(found)) <= MESSAGE_BYTES_MAX
    assert found.nodes == 31
