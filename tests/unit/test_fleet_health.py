"""Whom a node tells of itself and of others, with hops played by the test."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from relay.core.admission import Admission
from relay.core.health import UNKNOWN, Heard, Pace
from relay.services.fleet import ANSWER_NS, REST_NS, Fleet
from relay.wire.coding import decode
from relay.wire.health import HEALTH_BYTES_MAX, Digest, Summary
from relay.wire.messages import State

SECOND = 1_000_000_000


@dataclass
class FakeHop:
    name: str
    is_region: bool = False
    connected: bool = True
    region: str = "default"
    health: Heard = field(default_factory=Heard)
    pace: Pace = field(default_factory=Pace)
    link: Any = field(default_factory=lambda: SimpleNamespace(loss_ratio=0.0, loss_settled=True))


class FakeHops:
    def __init__(self, *hops: FakeHop) -> None:
        self.hops = dict(enumerate(hops))
        self.sent: list[tuple[str, State]] = []
        self.sizes: set[int] = set()

    def send_state(self, now_ns: int, hop: FakeHop, packed: bytes) -> None:
        state = decode(packed)
        assert isinstance(state, State)
        self.sent.append((hop.name, state))
        self.sizes.add(len(packed))

    def told(self, name: str, kind: type[State]) -> list[State]:
        return [state for to, state in self.sent if to == name and isinstance(state, kind)]


class Board:
    """Answers at once, or not."""

    def __init__(self, facts: Digest = UNKNOWN, answers: bool = True) -> None:
        self.facts, self.answers = facts, answers
        self.looks = 0
        self.now_ns = 0
        self.fleet: Fleet

    def look(self) -> None:
        self.looks += 1
        if self.answers:
            self.fleet.observe(self.now_ns, self.facts)


def fleet_of(hops: FakeHops | None, board: Board | None = None, *, is_region: bool = False) -> Fleet:
    board = board or Board()
    streams = SimpleNamespace(streams={}, draining=False, admission=Admission())
    board.fleet = Fleet(hops, streams, board.look, is_region=is_region)  # type: ignore[arg-type]
    return board.fleet


def test_an_edge_tells_its_regions_of_itself_alone() -> None:
    hops = FakeHops(FakeHop("west", is_region=True), FakeHop("east", is_region=True))
    fleet = fleet_of(hops, Board(Digest(headroom_permille=800)))
    fleet.poll(0)
    for region in ("west", "east"):
        [digest] = hops.told(region, Digest)
        assert isinstance(digest, Digest)
        assert (digest.headroom_permille, digest.streams, digest.draining) == (800, 0, False)
        assert hops.told(region, Summary) == []


def test_a_region_tells_other_regions_of_three_hundred_edges_in_one_message() -> None:
    edges = [FakeHop(f"edge-{n}") for n in range(300)]
    silent = FakeHop("silent")  # nobody knows what it is
    hops = FakeHops(FakeHop("west", is_region=True), silent, *edges)
    fleet = fleet_of(hops, is_region=True)
    for n, edge in enumerate(edges):
        said_ns = 0 if n == 299 else 9 * SECOND
        fleet.on_message(said_ns, edge, Digest(headroom_permille=n, streams=65535, throttled=n < 5))  # type: ignore[arg-type]
    fleet.poll(9 * SECOND)
    [summary] = hops.told("west", Summary)
    assert isinstance(summary, Summary)
    assert (summary.nodes, summary.known, summary.streams) == (300, 299, 299 * 65535)
    assert (summary.headroom_median_permille, summary.headroom_worst_permille) == (149, 0)
    assert len(hops.sent) == 303  # a digest each, one summary
    assert max(hops.sizes) <= HEALTH_BYTES_MAX


def test_a_peer_that_turns_out_to_be_a_region_is_no_edge() -> None:
    west, edge = FakeHop("west"), FakeHop("edge")
    hops = FakeHops(west, edge)
    fleet = fleet_of(hops, is_region=True)
    for hop in (west, edge):
        fleet.on_message(0, hop, Digest())  # type: ignore[arg-type]
    fleet.poll(0)
    assert not any(isinstance(state, Summary) for _, state in hops.sent)
    west.is_region = True
    fleet.on_message(0, west, Summary(nodes=9))  # type: ignore[arg-type]
    fleet.poll(SECOND)
    assert [s.nodes for s in hops.told("west", Summary) if isinstance(s, Summary)] == [1]
    assert hops.told("edge", Summary) == []
    shown = {s["name"]: s["summary"] for s in fleet.statuses(SECOND, "us", "default")}
    assert shown["west"]["nodes"] == 9 and shown["west"]["age_seconds"] == 1.0
    assert shown["us"]["nodes"] == 1 and shown["edge"] is None


def test_an_edge_speaks_for_nobody() -> None:
    caller = FakeHop("caller")
    hops = FakeHops(FakeHop("west", is_region=True), caller)
    fleet = fleet_of(hops)
    fleet.on_message(0, caller, Digest())  # type: ignore[arg-type]
    fleet.poll(0)
    assert hops.told("west", Summary) == []


def test_the_board_is_read_once_a_second_while_a_peer_is_connected() -> None:
    board = Board()
    hop = FakeHop("west", is_region=True, connected=False)
    fleet = fleet_of(FakeHops(hop), board)
    assert fleet.poll(0) == REST_NS and not board.looks
    hop.connected = True
    while board.now_ns < 50 * SECOND:
        board.now_ns = max(fleet.poll(board.now_ns), board.now_ns + SECOND // 10)
    assert board.looks == 50
    alone = Board()
    assert fleet_of(None, alone).poll(0) == REST_NS and not alone.looks


def test_what_is_told_waits_for_the_reading_but_not_for_ever() -> None:
    hops = FakeHops(FakeHop("west", is_region=True))
    board = Board(answers=False)
    fleet = fleet_of(hops, board)
    assert fleet.poll(0) == ANSWER_NS and not hops.sent
    fleet.observe(3_000_000, Digest(headroom_permille=700))
    fleet.poll(3_000_000)
    [told] = hops.told("west", Digest)
    assert isinstance(told, Digest) and told.headroom_permille == 700
    hops.sent.clear()
    assert fleet.poll(5 * SECOND) == 5 * SECOND + ANSWER_NS and not hops.sent
    fleet.poll(5 * SECOND + ANSWER_NS)
    [told] = hops.told("west", Digest)
    assert isinstance(told, Digest) and told.headroom_permille is None  # it is too old by now


def test_what_the_node_does_is_known_without_a_board() -> None:
    fleet = fleet_of(None)
    [own] = fleet.statuses(5 * SECOND, "us", "here")
    assert own["self"] and own["age_seconds"] is None
    assert own["health"]["draining"] is False and own["health"]["headroom_permille"] is None
    assert set(own["penalties_ms"]) == {"headroom unknown", "loop lag unknown", "memory available unknown"}
