"""Many come at once, or a node has too much to do: who is let in, who is sent where, and what that does to
streams that run. What a packet costs is passed in; all loads follow from it."""

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from relay.core.admission import REFUSE, SHED, Step
from relay.lab.link import LinkConfig
from relay.lab.network import Network, Received, Sent
from relay.lab.virtual import WELL, VirtualNode
from relay.services.entrance import DRAINING
from relay.wire.health import RATIO
from relay.wire.messages import Move, Subscribe, Unsubscribe
from tests.sim.ear import Ear
from tests.sim.fleet import AUDIO, ENCODER, MS, SECOND, VIDEO, Encoder, Fleet, Media, NodeSpec, Player, rtp

CLIP = Media("video", "H264/90000", 96, 5004, 6004, 5 * MS, 1250, 450)
"""2 Mb/s."""
PER_SECOND = SECOND // AUDIO.interval_ns
SHARE = 0.04
"""Of a node, that one copy of the stream takes."""
HOSTS = {"in": "10.0.0.1", "a": "10.0.1.1", "b": "10.0.1.2", "c": "10.0.1.3", "d": "10.0.1.4"}
DELAY_MS = {"a": 40, "b": 10, "c": 15, "d": 20}
"""From viewers to regions."""
COUNTERS = ("source_packets", "repair_packets", "received_source_packets", "received_repair_packets")


class Busy(VirtualNode):
    """Its packet thread spends `packet_s` on each packet that a hop sends or receives."""

    packet_s = 0.0
    _seen = (0, 0)

    def look(self) -> None:
        now_ns = self.network.now_ns
        packets = sum(hop[counter] for hop in self.machine.hop_statuses() for counter in COUNTERS)
        before_ns, before = self._seen
        if now_ns > before_ns:
            self._seen = now_ns, packets
            spent_ns = self.packet_s * (packets - before) * SECOND
            load = min(round(RATIO * spent_ns / (now_ns - before_ns)), RATIO)
            self.facts = replace(WELL, thread_load_permille=load, headroom_permille=RATIO - load)
        super().look()


class Slow(Fleet):
    """Of boards that found at the start that a copy of CLIP takes twice what it does."""

    def outside(self, name: str) -> dict[str, Any]:
        return {"share_per_bps": 2 * SHARE * CLIP.interval_ns / SECOND / (8 * CLIP.size)}


def fleet_of(
    seed: int,
    viewers: int,
    regions: str = "abcd",
    *,
    media: Media = AUDIO,
    kind: type[Fleet] = Fleet,
) -> Fleet:
    """`in` publishes at a, or else at b; viewers call b, c and d."""
    names = [f"v{i}" for i in range(viewers)]
    hosts = HOSTS | {name: f"10.0.2.{i + 1}" for i, name in enumerate(names)}
    specs = [
        NodeSpec(
            name,
            hosts[name],
            role="region",
            calls=tuple(other for other in regions if other < name),
            called_by=(*(other for other in regions if other > name), "in", *names),
        )
        for name in regions
    ]
    specs.append(NodeSpec("in", hosts["in"], calls=("a", "b"), ingest=(media,)))
    specs += [
        NodeSpec(name, hosts[name], calls=tuple(regions[1:]), egress=(media,), player=f"10.0.3.{i + 1}")
        for i, name in enumerate(names)
    ]
    fleet = kind(seed, specs, Busy)
    for region in regions:
        for other in regions:
            if other < region:
                fleet.link(hosts[region], hosts[other], LinkConfig(delay_ms=10))
        for edge in ("in", *names):
            delay_ms = 50 - DELAY_MS[region] if edge == "in" else DELAY_MS[region]
            fleet.link(hosts[edge], hosts[region], LinkConfig(delay_ms=delay_ms))
    for name in (*regions, "in"):
        fleet.start(name)
    for name in regions:
        weigh(fleet, name, SHARE * media.interval_ns / SECOND)
    return fleet


def weigh(fleet: Fleet, name: str, packet_s: float) -> None:
    node = fleet.nodes[name]
    assert isinstance(node, Busy)
    node.packet_s = packet_s


def encode(fleet: Fleet, seconds: int, media: Media = AUDIO) -> None:
    Encoder(fleet.network, media, start_ns=fleet.now_ns, count=seconds * SECOND // media.interval_ns)


def views(fleet: Fleet, names: Iterable[str]) -> dict[str, Player]:
    return {name: Player(fleet.network, AUDIO, fleet.specs[name].player) for name in names}


def load(fleet: Fleet, name: str) -> float:
    return fleet.nodes[name].machine.streams.admission.measured(fleet.now_ns) or 0.0


def served(fleet: Fleet, name: str) -> list[str]:
    """Who gets the stream from a node."""
    return [to["peer"] for to in fleet.stream(name)["sent_to"] if to["accepted"] and not to["held"]]


def end(fleet: Fleet) -> None:
    for node in fleet.nodes.values():
        node.shards.close()
        assert node.shards.slabs_in_use == 0


# ---- many come -----------------------------------------------------------------------------------


@pytest.mark.seeds(1, 2)
def test_ten_times_the_joins_in_ten_seconds(seed: int) -> None:
    """Five viewers come in ten seconds, then fifty. A region has room for 19 of them."""
    fleet = fleet_of(seed, 55)
    players = views(fleet, (f"v{i}" for i in range(55)))
    fleet.run(2)
    encode(fleet, 35)
    fleet.run(0.1)
    for i in range(5):
        fleet.start(f"v{i}")
        fleet.run(2)
    settled = fleet.now_ns
    ears, highest = [], 0.0
    for i in range(5, 55):
        ears.append(Ear(fleet.start(f"v{i}").machine))
        fleet.run(0.2)
        highest = max(highest, *(load(fleet, region) for region in "abcd"))
    fleet.run(8)  # who is refused everywhere asks again after 5 s
    highest = max(highest, *(load(fleet, region) for region in "abcd"))
    # Streams that run lose nothing, nor does anybody once he is let in.
    for i in range(5):
        assert players[f"v{i}"].steps() == {1}
    assert {name: player.steps() for name, player in players.items() if player.steps() != {1}} == {}
    late = max(players[f"v{i}"].packets[0].at_ns - settled - (i - 5) * SECOND // 5 for i in range(5, 55))
    # Refusals take no more than the way there and back, and 50 ms.
    waits = [wait for ear in ears for wait in ear.waits_ns()]
    assert waits and max(waits) <= (2 * max(DELAY_MS.values()) + 50) * MS
    refused = {region: dict(fleet.nodes[region].machine.streams.admission.refused) for region in "abcd"}
    print(
        f"{len(waits)} refusals, answered after {max(waits) / MS:.0f} ms at most; first picture after "
        f"{late / MS:.0f} ms at most; load {highest:.2f} at most; refused {refused}"
    )
    assert not refused["a"] and refused["b"]
    # One copy for each region, and nobody is overloaded nor sent away.
    sent = fleet.hop_status("in", "a")["source_packets"]
    assert sorted(served(fleet, "a")) == ["b", "c", "d"]
    for region in "bcd":
        assert fleet.hop_status("a", region)["source_packets"] <= sent
        assert fleet.nodes[region].machine.streams.admission.sent_away == 0
    assert highest < SHED
    end(fleet)


@pytest.mark.seeds(1)
def test_who_come_at_the_same_moment_are_counted_before_their_load_shows(seed: int) -> None:
    fleet = fleet_of(seed, 60)
    fleet.run(2)
    encode(fleet, 20)
    for i in range(5):
        fleet.start(f"v{i}")
    fleet.run(5)
    for i in range(5, 60):
        fleet.start(f"v{i}")
    fleet.run(0.5)
    b = fleet.nodes["b"].machine.streams.admission
    assert load(fleet, "b") < 0.4 and b.u(fleet.now_ns) >= REFUSE - SHARE and b.refused["load"] > 0
    fleet.run(4)
    assert load(fleet, "b") <= REFUSE + 2 * SHARE
    end(fleet)


@pytest.mark.seeds(1, 2)
def test_a_slow_board_knows_what_it_can_take_before_it_has_taken_anything(seed: int) -> None:
    """Forty come at the same moment to a region that has just been started."""
    fleet = fleet_of(seed, 40, "ab", media=CLIP, kind=Slow)
    fleet.run(2)
    encode(fleet, 14, CLIP)
    fleet.run(0.1)
    for i in range(40):
        fleet.start(f"v{i}")
    highest = 0.0
    for _ in range(48):
        fleet.run(0.25)
        highest = max(highest, load(fleet, "b"))
    b = fleet.nodes["b"].machine.streams.admission
    print(f"load {highest:.2f} at most, {len(served(fleet, 'b'))} are served")
    assert highest < SHED and b.sent_away == 0 and b.refused["load"] > 0
    assert len(served(fleet, "b")) >= 15, "who was refused is let in when there is room"
    end(fleet)


# ---- too much to do ------------------------------------------------------------------------------


class Film:
    """H.264 at 50 frames/s of two packets each: every other frame is one that no other refers to."""

    def __init__(self, network: Network, to: tuple[str, int], start_ns: int, frames: int) -> None:
        self._to, self._start_ns, self._frames, self._frame = to, start_ns, frames, 0
        network.attach(self, 0, (ENCODER, 5000))
        network.wake(self)

    def receive(self, now_ns: int, datagrams: list[Received]) -> None: ...

    def poll(self, now_ns: int) -> tuple[list[Sent], int | None]:
        due = self._start_ns + self._frame * 20 * MS
        if now_ns < due or self._frame == self._frames:
            return [], due if now_ns < due else None
        kind = b"\x65" if self._frame % 50 == 0 else b"\x01" if self._frame % 2 else b"\x41"
        out: list[Sent] = []
        for i in range(2):
            body = kind + self._frame.to_bytes(4, "big") + bytes(1000)
            packet = bytearray(rtp(2 * self._frame + i, self._frame * 1800, 1, body))
            packet[1] |= 0x80 * (i == 1)
            out.append((0, self._to, bytes(packet)))
        self._frame += 1
        return out, due + 20 * MS


def film_fleet(seed: int) -> Fleet:
    """`in` publishes at a; v0, then v1 view it from there, and could from b. Links lose a tenth."""
    names = ("v0", "v1")
    hosts = HOSTS | {"v0": "10.0.2.1", "v1": "10.0.2.2"}
    fleet = Fleet(
        seed,
        [
            NodeSpec("a", hosts["a"], role="region", called_by=("b", "in", *names)),
            NodeSpec("b", hosts["b"], role="region", calls=("a",), called_by=names),
            NodeSpec("in", hosts["in"], calls=("a",), ingest=(VIDEO,)),
            *(
                NodeSpec(name, hosts[name], calls=("a", "b"), egress=(VIDEO,), player=f"10.0.3.{i}")
                for i, name in enumerate(names)
            ),
        ],
        Busy,
    )
    viewed = [(name, region, delay_ms) for name in names for region, delay_ms in (("a", 20), ("b", 50))]
    for x, y, delay_ms in (("in", "a", 20), ("a", "b", 30), *viewed):
        fleet.link(hosts[x], hosts[y], LinkConfig(delay_ms=delay_ms, loss=0.1))
    for name in ("a", "b", "in", "v0"):
        fleet.start(name)
    return fleet


def sent_a_second(fleet: Fleet, name: str, peer: str, seconds: int) -> tuple[float, float]:
    """Source and repair packets."""
    before = fleet.hop_status(name, peer)
    fleet.run(seconds)
    after = fleet.hop_status(name, peer)
    return tuple((after[what] - before[what]) / seconds for what in COUNTERS[:2])  # type: ignore[return-value]


@pytest.mark.seeds(1, 2)
def test_a_node_with_too_much_to_do_cuts_back_in_order_and_gives_back(seed: int) -> None:
    fleet = film_fleet(seed)
    fleet.run(2)
    Film(fleet.network, (HOSTS["in"], VIDEO.listen), fleet.now_ns, 50 * 120)
    fleet.run(4)
    fleet.start("v1")
    fleet.run(4)
    admission = fleet.nodes["a"].machine.streams.admission
    source, repair = sent_a_second(fleet, "a", "v0", 5)
    assert source == pytest.approx(100, rel=0.02) and admission.step is Step.NONE
    seen: dict[Step, int] = {}
    flows = 3 * source + 3 * repair  # in, and out to two viewers
    weigh(fleet, "a", 2.0 / flows)
    for _ in range(80):
        fleet.run(0.25)
        if admission.step not in seen:
            seen[admission.step] = fleet.now_ns
        if admission.step is Step.VIEWERS:
            break
    assert list(seen) == list(Step)
    weigh(fleet, "a", 0.3 / flows)
    source, _ = sent_a_second(fleet, "a", "v0", 5)
    assert source == pytest.approx(50, rel=0.05), "every other frame is one that can be spared"

    assert served(fleet, "a") == ["v0", "b"] and served(fleet, "b") == ["v1"], "the newest is at b"
    fleet.run(40)
    assert admission.step is Step.NONE
    source, _ = sent_a_second(fleet, "a", "v0", 5)
    assert source == pytest.approx(100, rel=0.02)
    end(fleet)


# ---- drain ---------------------------------------------------------------------------------------


def test_a_region_that_drains_serves_until_all_have_gone(seed: int) -> None:
    fleet = fleet_of(seed, 2)
    players = views(fleet, ("v0", "v1"))
    fleet.run(2)
    encode(fleet, 20)
    for name in ("v0", "v1"):
        fleet.start(name)
    fleet.run(5)
    b = fleet.nodes["b"].machine.streams
    assert sorted(served(fleet, "b")) == ["v0", "v1"]
    b.drain(fleet.now_ns)
    fleet.network.wake(fleet.nodes["b"])
    fleet.run(4)
    assert not b.busy and not b.streams and sorted(served(fleet, "c")) == ["v0", "v1"]
    gaps = {name: player.longest_gap_ns() / MS for name, player in players.items()}
    print(f"viewers that moved had a gap of {gaps} ms")
    assert max(gaps.values()) <= 40  # c has it ready, which is 5 ms farther
    end(fleet)


def test_the_region_of_a_publisher_that_drains_serves_until_that_has_gone(seed: int) -> None:
    fleet = fleet_of(seed, 1)
    [player] = views(fleet, ("v0",)).values()
    fleet.run(2)
    encode(fleet, 20)
    fleet.start("v0")
    fleet.run(5)
    a = fleet.nodes["a"].machine.streams
    a.drain(fleet.now_ns)
    fleet.network.wake(fleet.nodes["a"])
    fleet.run(5)
    assert not a.busy and not a.streams
    assert fleet.stream("in")["route"]["chosen"] == "b"
    assert set(served(fleet, "b")) == {"v0", "c"} and served(fleet, "c") == []
    print(f"a viewer of the publisher that moved had a gap of {player.longest_gap_ns() / MS:.0f} ms")
    assert player.longest_gap_ns() <= 3 * AUDIO.interval_ns
    end(fleet)


def test_a_region_that_is_asked_to_move_stays_until_the_stream_is_elsewhere(seed: int) -> None:
    """Move names a region with room, which need not have the stream; the directory says who has it, as soon
    as the publisher has moved."""
    fleet = fleet_of(seed, 1, "abc")
    [player] = views(fleet, ("v0",)).values()
    fleet.run(2)
    encode(fleet, 20)
    fleet.start("v0")
    fleet.run(5)
    assert "b" in served(fleet, "a") and served(fleet, "b") == ["v0"]
    hops = fleet.nodes["a"].machine.hops
    assert hops is not None
    asked = Ear(fleet.nodes["b"].machine).asked
    assert hops.send(fleet.now_ns, fleet.hop("a", "b"), Move("studio", DRAINING, "c"))
    fleet.network.wake(fleet.nodes["a"])
    fleet.run(3)
    assert not any(isinstance(message, Subscribe | Unsubscribe) for _, _, message in asked)
    assert "b" in served(fleet, "a") and player.steps() == {1}
    end(fleet)


# ---- one copy ------------------------------------------------------------------------------------


OVERLAP = 4 * PER_SECOND
"""Packets that a region may get twice: for two seconds each time that the stream comes to it another way."""


def senders(fleet: Fleet, region: str) -> list[str]:
    """Who sends the stream to a region, edges and other regions."""
    of = [name for name in fleet.nodes if any(s["name"] == "studio" for s in statuses(fleet, name))]
    return [name for name in of if name != region and region in served(fleet, name)]


def statuses(fleet: Fleet, name: str) -> list[dict[str, Any]]:
    return fleet.nodes[name].machine.stream_statuses(fleet.now_ns)


@pytest.mark.seeds(1, 2)
def test_a_region_gets_one_copy_whatever_happens(seed: int) -> None:
    """Viewers come and go, regions have room for nine, and two of four drain, the publisher's among them."""
    rng = random.Random(seed)
    names = [f"v{i}" for i in range(14)]
    fleet = fleet_of(seed, len(names))
    players = views(fleet, names)
    for region in "abcd":
        weigh(fleet, region, 2 * SHARE / PER_SECOND)
    fleet.run(2)
    encode(fleet, 40)
    drains = {rng.randrange(8, 14) * 4: "a", rng.randrange(18, 26) * 4: rng.choice("bcd")}
    most = 0
    for quarter in range(36 * 4):
        if quarter in drains:
            fleet.nodes[drains[quarter]].machine.streams.drain(fleet.now_ns)
            fleet.network.wake(fleet.nodes[drains[quarter]])
        if quarter % 2 == 0 and quarter < 28 * 4:
            name = rng.choice(names)
            if name not in fleet.nodes:
                fleet.start(name)
            elif rng.random() < 0.3:
                fleet.stop(name)
        fleet.run(0.25)
        most = max(most, *(len(senders(fleet, region)) for region in "abcd"))
    assert most == 1
    for region in "abcd":
        hops = fleet.nodes[region].machine.hop_statuses()
        got = sum(hop["received_source_packets"] for hop in hops)
        assert got <= 36 * PER_SECOND + OVERLAP, f"{region} got {got}"
    live = [name for name in names if name in fleet.nodes]
    assert live and all(players[name].packets[-1].at_ns > fleet.now_ns - SECOND for name in live)
    end(fleet)
