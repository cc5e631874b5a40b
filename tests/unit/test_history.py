"""The last ten minutes of a node: rings, who is kept, and what a sample is made of."""

import pickle
from types import SimpleNamespace
from typing import Any

from relay.services.history import ANSWER_NS, KEPT_MAX, STEP_NS, STEPS, History, Ring, Series
from relay.services.uplinks import HOP_PORT
from relay.wire.health import Digest

FIRST = 1000
"""A step; time begins anywhere."""
UNKNOWN_HOP = {"loss_ratio": None, "residual_ratio": None, "delay_ms": None, "added_delay_ms": {"p99": None}}


def column(status: dict[str, Any], figure: str, last: int) -> list[float | None]:
    """The newest ones of a figure."""
    values: list[float | None] = status[figure]
    assert len(values) == STEPS
    return values[-last:]


def test_a_ring_holds_the_last_samples_in_order() -> None:
    ring = Ring(("a", "b"))
    for step in range(FIRST, FIRST + STEPS + 5):
        ring.put(step, [step, None])
    shown = ring.status(FIRST + STEPS + 4)
    assert shown["a"] == [float(step) for step in range(FIRST + 5, FIRST + STEPS + 5)]
    assert shown["b"] == [None] * STEPS


def test_steps_without_a_sample_are_unknown() -> None:
    ring = Ring(("a",))
    ring.put(FIRST, [1.0])
    ring.put(FIRST + 3, [2.0])
    assert column(ring.status(FIRST + 4), "a", 6) == [None, 1.0, None, None, 2.0, None]
    assert column(ring.status(FIRST + 4), "a", 6) == [None, 1.0, None, None, 2.0, None]
    ring.put(FIRST + 3 + STEPS, [3.0])
    assert column(ring.status(FIRST + 3 + STEPS), "a", STEPS) == [None] * (STEPS - 1) + [3.0]
    ring.put(FIRST + 5 * STEPS, [4.0])
    assert column(ring.status(FIRST + 5 * STEPS), "a", STEPS) == [None] * (STEPS - 1) + [4.0]


def test_numbers_are_shortened() -> None:
    ring = Ring(("a",))
    ring.put(FIRST, [1 / 3])
    assert column(ring.status(FIRST), "a", 1) == [0.3333]


def names(series: Series, step: int) -> set[str]:
    return {shown["name"] for shown in series.status(step)}


def test_what_has_ended_stays_for_ten_minutes() -> None:
    series = Series(("a",))
    series.put(FIRST, {"gone": [1.0]})
    series.put(FIRST + STEPS - 1, {"here": [1.0]})
    assert names(series, FIRST + STEPS - 1) == {"gone", "here"}
    series.put(FIRST + STEPS, {"here": [1.0]})
    assert names(series, FIRST + STEPS) == {"here"}


def test_what_is_kept_is_bounded_and_what_ended_first_makes_room() -> None:
    series = Series(("a",))
    series.put(FIRST, {"old": [1.0], "older": [1.0]})
    series.put(FIRST + 1, {f"s{i}": [1.0] for i in range(KEPT_MAX - 2)} | {"old": [1.0]})
    many = {f"s{i}": [2.0] for i in range(KEPT_MAX + 5)}
    series.put(FIRST + 2, many)
    shown = {of["name"]: of for of in series.status(FIRST + 2)}
    assert set(shown) == {f"s{i}" for i in range(KEPT_MAX)}
    assert column(shown["s0"], "a", 2) == [1.0, 2.0]


class Node:
    """A machine with a stream and the hop that it comes over, as far as a sample looks at them."""

    def __init__(self) -> None:
        link = SimpleNamespace(loss_settled=False, loss_ratio=0.1, rtt_ns=40_000_000)
        self.hop = SimpleNamespace(id=HOP_PORT, name="edge", link=link, connected=True)
        idle = SimpleNamespace(id=8, name="idle", link=link, connected=False)
        stream = SimpleNamespace(
            name="studio", live=True, source=self.hop, publications={}, tracks=[SimpleNamespace(id=3)]
        )
        self.digest = Digest(headroom_permille=900, temperature_c=50, loop_lag_ms=3)
        self.received = self.sent = 0
        self.path = {"path": [UNKNOWN_HOP], "behind": {"hops": []}}
        stats = {"receive_loss_ratio": -1.0, "paths": [{"sent_bytes": 10, "received_bytes": 20}]}
        plane = SimpleNamespace(
            track_stats=lambda _: {"received_bytes": self.received},
            hop_stats=lambda _: stats | {"paths": [{"sent_bytes": self.sent, "received_bytes": 20}]},
        )
        self.machine: Any = SimpleNamespace(
            fleet=SimpleNamespace(own=lambda _: self.digest),
            streams=SimpleNamespace(admission=SimpleNamespace(u=lambda _: 0.25), streams={"studio": stream}),
            hops=SimpleNamespace(hops={self.hop.id: self.hop, 8: idle}),
            shards=SimpleNamespace(of=lambda _: plane),
            paths=SimpleNamespace(status=lambda _: self.path),
        )


def look() -> None:
    looks.append(None)


looks: list[None] = []


def test_a_sample_waits_for_the_board_but_not_for_long() -> None:
    looks.clear()
    node, history, now = Node(), History(look), FIRST * STEP_NS
    assert history.poll(now, node.machine) == now + ANSWER_NS and len(looks) == 1
    assert history.poll(now + 1, node.machine) == now + ANSWER_NS and len(looks) == 1
    assert history.status(now)["streams"] == []
    history.observed(now + 2)
    assert history.poll(now + 2, node.machine) == now + STEP_NS
    history.observed(now + 3)  # asked for by somebody else
    assert history.poll(now + 3, node.machine) == now + STEP_NS and len(looks) == 1
    assert column(history.status(now)["node"], "load", 1) == [0.25]
    late = now + STEP_NS + 50
    assert history.poll(late, node.machine) == late + ANSWER_NS and len(looks) == 2
    assert history.poll(late + ANSWER_NS, node.machine) == now + 2 * STEP_NS
    shown = history.status(late + ANSWER_NS + 1_000_000_000)
    assert shown["age_seconds"] == 1.0
    assert column(shown["node"], "temperature_c", 3) == [None, 50.0, 50.0]


def test_what_a_sample_is_made_of() -> None:
    node, history = Node(), History(look)

    def sample(step: int) -> dict[str, Any]:
        for now in (step * STEP_NS, step * STEP_NS + ANSWER_NS):
            history.poll(now, node.machine)
        return history.status(step * STEP_NS + ANSWER_NS)

    sample(FIRST)
    node.received, node.sent = 5_000_000, 1_000_000
    known = {"loss_ratio": 0.3, "residual_ratio": 0.01, "added_delay_ms": {"p99": 90}}
    before = [UNKNOWN_HOP, known | {"delay_ms": 20}]
    behind = [
        known | {"from": "here", "node": "a", "delay_ms": 5, "loss_ratio": 0.4},
        known | {"from": "a", "node": "b", "delay_ms": 6},
        UNKNOWN_HOP | {"from": "a", "node": "c"},
    ]
    node.path = {"path": before, "behind": {"hops": behind}}
    node.hop.link.loss_settled = True
    shown = sample(FIRST + 1)
    [stream], [hop] = shown["streams"], shown["hops"]
    assert (stream.pop("name"), hop.pop("name")) == ("studio", "edge")
    assert {figure: values[-2:] for figure, values in stream.items()} == {
        "bitrate_bps": [None, 8e6],
        "loss": [None, 0.4],
        "residual": [None, 0.01],
        "delay_ms": [None, 31.0],
        "added_ms": [None, 90.0],
    }
    assert {figure: values[-2:] for figure, values in hop.items()} == {
        "loss_send": [None, 0.1],
        "loss_receive": [0.0, 0.0],
        "rtt_ms": [40.0, 40.0],
        "sent_bps": [None, 1.6e6],
        "received_bps": [None, 0.0],
    }
    node.received = 0  # another track under that name
    assert column(sample(FIRST + 2)["streams"][0], "bitrate_bps", 1) == [None]


def test_it_goes_on_in_another_process() -> None:
    node, history, now = Node(), History(look), FIRST * STEP_NS
    for at in (now, now + ANSWER_NS):
        history.poll(at, node.machine)
    assert pickle.loads(pickle.dumps(history)).status(now + ANSWER_NS) == history.status(now + ANSWER_NS)
