"""Which peer a stream is sent to: the formula by hand, and when a change is worth making."""

import random
from dataclasses import replace

import pytest

from relay.core.routing import Candidate, choose


def candidate(peer: str, min_rtt_ms: float = 0.0, **fields: float) -> Candidate:
    return Candidate(peer, True, min_rtt_ms=min_rtt_ms, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "cost"),
    [
        ({}, 0.0),
        ({"min_rtt_ms": 100.0, "rtt_ms": 120.0}, 50.0),
        ({"min_rtt_ms": 100.0, "rtt_ms": 100.0, "queue_ms": 7.0, "jitter_ms": 2.0}, 65.0),
        ({"min_rtt_ms": 100.0, "rtt_ms": 100.0, "loss_ratio": 0.5}, 200.0),
        ({"min_rtt_ms": 20.0, "rtt_ms": 20.0, "loss_ratio": 0.25}, 20.0),
    ],
)
def test_cost(fields: dict[str, float], cost: float) -> None:
    assert candidate("a", **fields).cost_ms == pytest.approx(cost)


def test_total_loss_costs_much_but_not_infinity() -> None:
    dead = candidate("a", 20.0, rtt_ms=20.0, loss_ratio=1.0).cost_ms
    assert 500 < dead < 1000
    assert dead == candidate("a", 20.0, rtt_ms=20.0, loss_ratio=0.95).cost_ms


def test_the_cheapest_is_chosen_and_says_why() -> None:
    choice = choose([candidate("far", 80.0), candidate("near", 20.0), candidate("mid", 50.0)], None)
    assert choice.peer == "near"
    assert choice.why == "lowest cost, 10.0 ms; next is mid at 25.0 ms"
    assert choose([candidate("only", 20.0)], None).why == "lowest cost, 10.0 ms"


def test_equal_costs_are_settled_by_name() -> None:
    both = [candidate("b", 20.0), candidate("a", 20.0)]
    assert choose(both, None).peer == choose(both[::-1], None).peer == "a"


@pytest.mark.parametrize(
    ("held_ms", "best_ms", "moves"),
    [
        (30.0, 21.0, False),  # 9 ms
        (30.0, 20.0, True),
        (100.0, 86.0, False),  # 14 ms, but 14 %
        (100.0, 85.0, True),
        (30.0, 30.0, False),
    ],
)
def test_a_change_takes_10_ms_and_15_percent(held_ms: float, best_ms: float, moves: bool) -> None:
    choice = choose([candidate("held", 2 * held_ms), candidate("best", 2 * best_ms)], "held")
    assert choice.peer == ("best" if moves else "held")
    assert ("instead of held" if moves else "") in choice.why


@pytest.mark.parametrize("change", [{"connected": False}, {"refused": "full"}])
def test_what_cannot_be_used_is_left_at_once(change: dict[str, object]) -> None:
    held = replace(candidate("held", 10.0), **change)  # type: ignore[arg-type]
    assert choose([held, candidate("far", 400.0)], "held").peer == "far"


def test_why_there_is_no_peer() -> None:
    assert choose([], None) == (choose([], "gone"))
    assert choose([], None).why == "no peer with an address is configured"
    away, full = Candidate("a", False), Candidate("b", True, refused="this node is draining")
    choice = choose([away, full], "a")
    assert (choice.peer, choice.why) == (None, "a: not connected; b: this node is draining")


@pytest.mark.parametrize("seed", range(20))
def test_it_never_goes_back_and_forth(seed: int) -> None:
    """With costs that stand still, the second choice is the first."""
    rng = random.Random(seed)
    some = [
        Candidate(str(i), rng.random() < 0.8, "" if rng.random() < 0.8 else "no", 50.0, rng.uniform(1, 200))
        for i in range(rng.randrange(6))
    ]
    first = choose(some, rng.choice([None, "0", "1"]))
    assert choose(some, first.peer).peer == first.peer, f"seed {seed}"
    assert (first.peer is None) == (not any(c.usable for c in some)), f"seed {seed}"
