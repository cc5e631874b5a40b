"""What strangers and lying peers send while media flows: nothing is lost, all is counted, memory bounded."""

import random
import struct
from collections import Counter
from collections.abc import Callable

import msgpack
import pytest

from relay.core.acceptor import Acceptor
from relay.core.actions import Action, Deliver, InstallKeys, SendControl, SendHandshake, UseKeys
from relay.core.handshake import Identity, with_macs
from relay.core.noise import public_key
from relay.core.session import Peer
from relay.lab.link import LinkConfig
from relay.lab.network import Address, Network, Received, Sent
from relay.lab.virtual import VirtualNode
from relay.wire.hop import Acknowledgement, Initiation, Reliable, encode_frame, encode_initiation
from relay.wire.messages import Publish, PublishOk
from relay_ext.rtp import build_pli
from relay_ext.seal import AuthenticationError, SealKey
from tests.sim.fleet import (
    EDGE,
    ENCODER,
    HOP_PORT,
    MS,
    REGION,
    SECOND,
    VIDEO,
    Encoder,
    Fleet,
    NodeSpec,
    Player,
    Script,
    edge_and_region,
    payload_of,
    rtp,
)

START_NS = 2 * SECOND
PER_SECOND = SECOND // VIDEO.interval_ns
ATTACKER = ("203.0.113.66", 6666)
SLAB_BYTES = 2032
SLABS_MAX = 1000  # media of 200 ms, its repair, and what is on its way; 80 packets are 200 ms


class Tapped(VirtualNode):
    """Keeps a copy of what arrives at the hop's port."""

    def receive(self, now_ns: int, datagrams: list[Received]) -> None:
        self.tap += [data for port, _, data in datagrams if port == 0]
        self.slabs_max = max(self.slabs_max, self.shards.slabs_in_use)
        super().receive(now_ns, datagrams)

    tap: list[bytes]
    slabs_max = 0

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.tap = []
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]


PLANE_REFUSALS = (
    "short_datagrams",
    "unknown_index",
    "bad_type",
    "bad_mac1",
    "handshake_too_long",
    "handshake_limited",
    "bad_cookie",
    "handshakes_dropped",
    "receiver_not_rtcp",
    "receiver_unknown",
)
HOP_REFUSALS = ("forged", "replayed", "short_datagrams", "bad_type", "bad_inner", "bad_report")


def refused(fleet: Fleet, name: str, peer: str) -> Counter[str]:
    """What a node has counted as refused, by reason."""
    node = fleet.nodes[name]
    stats, hop = node.shards.stats(), fleet.hop_status(name, peer)
    counted = Counter({reason: stats[reason] for reason in PLANE_REFUSALS})
    counted.update({reason: hop["drops"][reason] for reason in HOP_REFUSALS})
    counted.update(node.machine.refused_handshakes())
    counted.update(fleet.hop(name, peer).session.drops)
    for stream in node.machine.stream_statuses(fleet.now_ns):
        for track in stream["tracks"]:
            counted.update(track["drops"])
    return +counted


def damaged(rng: random.Random, data: bytes) -> bytes:
    """The same bytes cut, lengthened, or with some changed."""
    choice = rng.randrange(3)
    if choice == 0:
        return data[: rng.randrange(len(data))]
    if choice == 1:
        return data + rng.randbytes(rng.randrange(1, 500))
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :]


def bad_rtp(rng: random.Random, i: int) -> bytes:
    packet = rtp(i, 0, 99, payload_of(i, 100))
    return [
        bytes([0x40]) + packet[1:],  # version 1
        bytes([0x8F]) + packet[1:40],  # 15 CSRCs that are not there
        bytes([0x90]) + packet[1:12] + b"\xbe\xde\xff\xff" + packet[12:],  # an extension of 256 KB
        bytes([0xA0]) + packet[1:-1] + b"\xff",  # more padding than packet
        packet[: rng.randrange(12)],
        b"",
        packet + rng.randbytes(SLAB_BYTES),  # longer than any datagram that is taken
    ][i % 7]


def test_hostile_datagrams_at_every_port_change_nothing(seed: int) -> None:
    rng = random.Random(seed)
    fleet = edge_and_region(seed, node=Tapped)
    player = Player(fleet.network, VIDEO)
    fleet.run(1.5)
    base = fleet.slabs()
    Encoder(fleet.network, VIDEO, start_ns=START_NS, count=8 * PER_SECOND)
    fleet.run(2.5)
    before = {name: refused(fleet, name, peer) for name, peer in (("edge", "region"), ("region", "edge"))}
    assert before == {"edge": Counter(), "region": Counter()}

    hop_datagrams = {}
    for host, name in ((EDGE, "edge"), (REGION, "region")):
        node = fleet.nodes[name]
        assert isinstance(node, Tapped)
        seen = [data for data in node.tap if data[0] >= 4]
        datagrams = [damaged(rng, rng.choice(seen)) for _ in range(300)]
        datagrams += [rng.choice(seen) for _ in range(300)]  # replayed
        datagrams += [rng.randbytes(rng.randrange(SLAB_BYTES)) for _ in range(200)]
        datagrams += [
            seen[-1][:8] + rng.randbytes(8) + rng.choice(seen)[16:] for _ in range(50)
        ]  # new counters
        datagrams += [
            bytes([kind]) + rng.randbytes(rng.randrange(1500)) for kind in range(8) for _ in range(30)
        ]
        datagrams += [
            seen[-1][:16] + rng.randbytes(rng.randrange(2100, 9000)) for _ in range(50)
        ]  # oversized
        hop_datagrams[host] = datagrams
    script = []
    for i, (host, data) in enumerate((h, d) for h, ds in hop_datagrams.items() for d in ds):
        script.append((fleet.now_ns + i * 2 * MS, ATTACKER, (host, HOP_PORT), data))
    egress = (REGION, 40_001)
    for i in range(350):
        at_ns = fleet.now_ns + i * 10 * MS
        script.append((at_ns, ATTACKER, (EDGE, VIDEO.listen), bad_rtp(rng, i)))
        script.append((at_ns, ATTACKER, (EDGE, VIDEO.listen), rtp(i, 0, 99, payload_of(i, 500))))
        script.append((at_ns, ATTACKER, (EDGE, VIDEO.listen + 1), rng.randbytes(rng.randrange(200))))
        script.append((at_ns, ATTACKER, egress, rng.randbytes(rng.randrange(200))))
        script.append((at_ns, ATTACKER, egress, build_pli(99, rng.randrange(1 << 32))))
    attacker = Script(fleet.network, script)
    fleet.run(9)

    assert player.indices() == list(range(8 * PER_SECOND))
    assert player.steps() == {1}
    counted = {name: refused(fleet, name, peer) for name, peer in (("edge", "region"), ("region", "edge"))}
    assert counted["edge"].total() == len(hop_datagrams[EDGE]) + 3 * 350
    assert counted["region"].total() == len(hop_datagrams[REGION]) + 2 * 350
    for reason in ("forged", "replayed", "short_datagrams", "unknown_index", "bad_type", "bad_mac1"):
        assert counted["edge"][reason] and counted["region"][reason], reason
    assert counted["edge"]["not_rtp"] + counted["edge"]["too_long"] == 350
    assert counted["edge"]["other_source"] == 700
    assert counted["region"]["receiver_not_rtcp"] == counted["region"]["receiver_unknown"] == 350
    assert attacker.answered.total() == 0
    assert max(node.slabs_max for node in fleet.nodes.values() if isinstance(node, Tapped)) < SLABS_MAX
    fleet.run(2)
    assert fleet.slabs() == base


def test_a_replayed_handshake_changes_nothing(seed: int) -> None:
    fleet = edge_and_region(seed, node=Tapped)
    player = Player(fleet.network, VIDEO)
    Encoder(fleet.network, VIDEO, start_ns=START_NS, count=4 * PER_SECOND)
    fleet.run(3)
    script = []
    for host, name in ((EDGE, "edge"), (REGION, "region")):
        node = fleet.nodes[name]
        assert isinstance(node, Tapped)
        first = next(data for data in node.tap if data[0] < 4)
        script += [(fleet.now_ns + i * 50 * MS, ATTACKER, (host, HOP_PORT), first) for i in range(20)]
    attacker = Script(fleet.network, script)
    fleet.run(4)
    assert player.indices() == list(range(4 * PER_SECOND))
    assert refused(fleet, "region", "edge") == {"replayed handshake": 20}
    assert refused(fleet, "edge", "region") == {"unexpected response": 20}
    assert attacker.answered.total() <= attacker.sent.total()
    assert fleet.hop("region", "edge").session.handshakes == 1
    assert fleet.hop("region", "edge").session.address == (EDGE, HOP_PORT)


def test_a_handshake_flood_is_answered_with_cookies_and_disturbs_nobody(seed: int) -> None:
    rng = random.Random(seed)
    fleet = edge_and_region(seed, node=Tapped)
    player = Player(fleet.network, VIDEO)
    Encoder(fleet.network, VIDEO, start_ns=START_NS, count=12 * PER_SECOND)
    fleet.run(3)
    public = public_key(fleet.key("region"))
    sources = [(f"203.0.113.{rng.randrange(1, 255)}", rng.randrange(1024, 65_536)) for _ in range(1500)]
    script = []
    for i in range(8000):
        body = encode_initiation(Initiation(rng.getrandbits(32), rng.randbytes(rng.choice((60, 368)))))
        at_ns = fleet.now_ns + i * MS
        script.append((at_ns, rng.choice(sources), (REGION, HOP_PORT), with_macs(body, public, None)))
    flood = Script(fleet.network, script)
    fleet.run(4)
    assert player.missing(range(int(4.9 * PER_SECOND))) == []
    stats = fleet.nodes["region"].shards.stats()
    assert stats["cookies_sent"] > 1000
    assert fleet.hop("region", "edge").session.handshakes == 1
    # An edge that starts in the middle of it gets in, for its address can show a cookie.
    fleet.stop("edge")
    fleet.start("edge")
    fleet.run(2)
    assert fleet.hop("edge", "region").session.state == "connected"
    fleet.run(6)
    indices = player.indices()
    assert indices[-1] == 12 * PER_SECOND - 1
    assert len(player.missing(range(12 * PER_SECOND))) <= PER_SECOND // 2
    assert flood.answered and all(flood.answered[a] <= flood.sent[a] for a in flood.answered)
    assert fleet.slabs()["region"] < SLABS_MAX


# ---- a peer that lies -------------------------------------------------------------------------


class Liar:
    """A region with real keys that makes its packets itself: `lie` is called every 5 ms while media flows."""

    def __init__(self, network: Network, fleet: Fleet, lie: "Callable[[Liar], None]") -> None:
        rng = random.Random(fleet.seed)
        self.acceptor = Acceptor(Identity(fleet.key("region"), 77, "region"), rng.randbytes)
        self.session = self.acceptor.add(Peer("edge", public_key(fleet.key("edge"))))
        self.rng = rng
        self.received: Counter[int] = Counter()
        """Datagrams by type."""
        self.plaintext_bytes: Counter[int] = Counter()
        self.highest = 0
        self.esi = 0
        self.counter = 0
        self.now_ns = 0
        self._lie = lie
        self._out: list[Sent] = []
        self._keys: dict[int, InstallKeys] = {}
        self._opening: dict[int, SealKey] = {}
        self._current: InstallKeys | None = None
        self._sealing: SealKey | None = None
        self._address: Address = (EDGE, HOP_PORT)
        network.attach(self, 0, (REGION, HOP_PORT))

    def receive(self, now_ns: int, datagrams: list[Received]) -> None:
        for _, source, data in datagrams:
            if data[0] < 4:
                taken = self.acceptor.receive_handshake(now_ns, source, data)
                self._do(taken[1] if taken else [])
            else:
                self._open(now_ns, source, data)

    def _open(self, now_ns: int, source: Address, data: bytes) -> None:
        kind, index, counter = struct.unpack_from(">B3xIQ", data)
        try:
            plain = self._opening[index].open(counter, data[:16], data[16:])
        except (KeyError, AuthenticationError):
            return
        self.received[kind] += 1
        self.plaintext_bytes[kind] += len(plain)
        self.highest = counter
        if kind == 4:
            self.esi = int.from_bytes(plain[-4:], "big")
        elif kind == 7:
            self._do(self.session.receive_control(now_ns, index, source, len(data), plain))

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case SendHandshake(address, datagram):
                    self._out.append((0, address, datagram))
                case InstallKeys():
                    self._keys[action.local_index] = action
                    self._opening[action.local_index] = SealKey(action.cipher, action.receive_key, False)
                case UseKeys(_, local_index):
                    self._current = self._keys[local_index]
                    self._sealing = SealKey(self._current.cipher, self._current.send_key, True)
                    self.counter = 0
                case SendControl(_, address, frame, _):
                    self.send(7, frame, address)
                case Deliver(Publish() as offer):
                    self._do(self.session.send_message(self.now_ns, PublishOk(offer.alias, offer.epoch)))

    def send(self, kind: int, plain: bytes, address: Address | None = None) -> None:
        if self._current is None or self._sealing is None:
            return
        header = struct.pack(">B3xIQ", kind, self._current.remote_index, self.counter)
        sealed = self._sealing.seal(self.counter, header, plain)
        self._out.append((0, address or self._address, header + sealed))
        self.counter += 1

    def report(self, **lies: int) -> None:
        """A report in which everything of the last 1024 ESIs is missing, unless told otherwise."""
        f = {
            "flags": 3, "deficit": 0xFFFF, "time_us": self.now_ns // 1000 & 0xFFFFFFFF, "delay_us": 0,
            "highest": self.highest & 0xFFFFFFFF, "received": 1, "runs": 0, "next_esi": 0,
            "oldest": self.esi - 1023, "highest_esi": self.esi, "bits": 1024, "arrivals": 0,
        } | lies  # fmt: skip
        fixed = struct.pack(
            ">BBHIIIIIIIIHBB",
            0, f["flags"], f["deficit"], f["time_us"], f["delay_us"], f["highest"], f["received"], f["runs"],
            f["next_esi"], f["oldest"] & 0xFFFFFFFF, f["highest_esi"] & 0xFFFFFFFF, f["bits"], f["arrivals"],
            0,
        )  # fmt: skip
        self.send(6, fixed + b"\xff" * (-(-f["bits"] // 8)) + bytes(4 * f["arrivals"]))

    def poll(self, now_ns: int) -> tuple[list[Sent], int | None]:
        self.now_ns = now_ns
        self._do(self.session.poll(now_ns))
        if self.received[4] and now_ns % (5 * MS) == 0:
            self._lie(self)
        out, self._out = self._out, []
        return out, now_ns - now_ns % (5 * MS) + 5 * MS


def lied_to(
    seed: int, lie: Callable[[Liar], None], max_overhead: float = 1.0, seconds: int = 5
) -> tuple[Fleet, Liar]:
    fleet = Fleet(
        seed,
        [
            NodeSpec("region", REGION, called_by=("edge",)),
            NodeSpec("edge", EDGE, calls=("region",), ingest=(VIDEO,), max_overhead=max_overhead),
        ],
        Tapped,
    )
    fleet.link(EDGE, REGION, LinkConfig(delay_ms=20))
    liar = Liar(fleet.network, fleet, lie)
    fleet.start("edge")
    Encoder(fleet.network, VIDEO, start_ns=START_NS, count=seconds * PER_SECOND, address=(ENCODER, 5000))
    fleet.run(2 + seconds + 1)
    return fleet, liar


def everything_is_missing(liar: Liar) -> None:
    liar.report()


def everything_is_missing_and_more(liar: Liar) -> None:
    liar.report(deficit=1, next_esi=liar.rng.getrandbits(32), oldest=liar.esi - liar.rng.randrange(4096))
    liar.report(highest=liar.highest, received=liar.rng.getrandbits(32), runs=liar.rng.getrandbits(32))
    liar.report(delay_us=liar.rng.getrandbits(32))
    liar.report(highest=liar.rng.getrandbits(32))
    liar.report(time_us=liar.rng.getrandbits(32), arrivals=5)


@pytest.mark.parametrize("max_overhead", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("lie", [everything_is_missing, everything_is_missing_and_more])
def test_lies_in_reports_buy_no_more_repair_than_configured(
    seed: int, lie: Callable[[Liar], None], max_overhead: float
) -> None:
    fleet, liar = lied_to(seed, lie, max_overhead)
    # Who claims that little comes through, or late, gets less: that harms nobody else.
    assert 5 * PER_SECOND // 100 < liar.received[4] <= 5 * PER_SECOND
    if lie is everything_is_missing:
        assert liar.received[4] == 5 * PER_SECOND
    hop = fleet.hop_status("edge", "region")
    assert hop["overhead_ratio"] <= max_overhead + 1 / liar.received[4]  # the last one may be a part beyond
    # As received: coded bytes, without the 8 bytes of FEC payload ID, over symbols.
    repair = liar.plaintext_bytes[5] - 8 * liar.received[5]
    assert repair <= max_overhead * (liar.plaintext_bytes[4] - 4 * liar.received[4]) + VIDEO.size + 20
    assert hop["drops"]["overhead_limited"] > 0
    assert fleet.slabs()["edge"] < SLABS_MAX


def anything_under_real_keys(liar: Liar) -> None:
    """Source, repair, report and control datagrams whose content is rubbish or absurd."""
    rng = liar.rng
    inner = struct.pack(">HHBBBBIIHBB", 100, 1, 0, 0, 3, 255, 1, 1, 0, 0, 0)
    liar.send(4, rng.randbytes(rng.randrange(1400)))
    liar.send(4, inner + bytes(100) + rng.randbytes(4))  # too many hops
    liar.send(5, rng.randbytes(rng.randrange(1400)))
    liar.send(5, struct.pack(">IHH", rng.getrandbits(32), rng.choice([0, 1, 128, 0xFFFF]), 1) + bytes(1200))
    liar.send(6, rng.randbytes(rng.randrange(1400)))
    liar.send(7, rng.randbytes(rng.randrange(1400)))
    liar.send(7, b"")
    liar.send(rng.randrange(8, 256), b"")


def test_rubbish_under_real_keys_is_counted(seed: int) -> None:
    fleet, liar = lied_to(seed, anything_under_real_keys, seconds=3)
    assert liar.received[4] == 3 * PER_SECOND
    drops = fleet.hop_status("edge", "region")["drops"]
    for reason in (
        "bad_inner",
        "unknown_track",
        "repair_refused",
        "bad_report",
        "short_datagrams",
        "malformed_control",
    ):
        assert drops[reason] > 0, (reason, drops)
    assert fleet.nodes["edge"].shards.stats()["bad_type"] > 500
    assert fleet.hop("edge", "region").session.state == "connected"
    assert (
        fleet.slabs()["edge"] < SLABS_MAX + 1500
    )  # equations of the decoder, HOP_ROWS, and ESIs that it tracks
    assert liar.session.state == "connected"


def bombs() -> list[bytes]:
    deep = b"\x91" * 900
    return [
        deep,
        b"\xdd\xff\xff\xff\xff",  # an array of 4 billion
        b"\xdf\xff\xff\xff\xff",  # a map of as many
        b"\xc6\xff\xff\xff\xff",  # 4 GB of bytes
        b"\x81\xa1t" + deep,
        msgpack.packb({"t": 1, "stream": "x" * 900}),
        msgpack.packb({"t": 1, "stream": "s", "alias": -1, "epoch": 0, "budget_ms": 1, "tracks": []}),
        msgpack.packb({"t": 60_000}),
        msgpack.packb({"t": 2, "alias": 1, "epoch": 2**63}),
        msgpack.packb([1, 2, 3]),
        b"",
    ]


def test_msgpack_bombs_are_refused_one_by_one(seed: int) -> None:
    sent: list[int] = []

    def bomb(liar: Liar) -> None:
        number = liar.session._channel._next_number + len(sent)  # behind our PublishOk
        if len(sent) < len(bombs()):
            message = bombs()[len(sent)]
            frame = encode_frame(Reliable(number, Acknowledgement(0, 0), message))
            liar.send(7, frame)
            sent.append(number)

    fleet, liar = lied_to(seed, bomb, seconds=2)
    assert liar.received[4] == 2 * PER_SECOND
    drops = fleet.hop("edge", "region").session.drops
    assert drops["unknown message"] == 1
    assert drops["malformed message"] == len(bombs()) - 1
    assert fleet.hop("edge", "region").session.state == "connected"
