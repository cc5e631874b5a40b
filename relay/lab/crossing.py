"""Media from an edge over an emulated link to a region, in virtual time, and what became of it.

Both nodes run the code that a real node runs; only sockets and time are emulated.
"""

import base64
import random
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Protocol

from relay.config import Config, parse
from relay.core.figures import percentile
from relay.core.noise import public_key
from relay.lab.link import GilbertElliott, LinkConfig, outages
from relay.lab.network import Network, Received, Sent
from relay.lab.virtual import Sink, Source, VirtualNode
from relay.services.machine import Machine
from relay.wire.hop import DatagramType

EDGE, REGION, ENCODER, PLAYER = "10.0.0.1", "10.0.0.2", "10.0.0.8", "10.0.0.9"
STREAM = "studio"
MS, SECOND = 1_000_000, 1_000_000_000
LEAD_NS = 5 * SECOND
"""To connect in, before media flows: at 30 % loss each way a handshake may take a second."""
TAIL_NS = 3 * SECOND
RTP_HEADER, NUMBER = 12, 8
_PATTERN = random.Random("payload").randbytes(4096)


@dataclass(frozen=True, slots=True)
class Media:
    """A track, and what its encoder sends."""

    kind: str
    codec: str
    payload_type: int
    packets_per_second: int
    packet_bytes: int
    """Of an RTP packet."""
    step: int
    """RTP timestamp units from one packet to the next."""
    listen: int
    """UDP port of the ingest."""
    player: int
    """UDP port of the player."""

    @property
    def interval_ns(self) -> int:
        """From one packet to the next."""
        return SECOND // self.packets_per_second

    def packet(self, number: int) -> bytes:
        """The RTP packet of that number; what follows the number in its payload depends on it."""
        header = (0x80, self.payload_type, number & 0xFFFF, number * self.step & 0xFFFFFFFF, self.listen)
        return struct.pack("!BBHIIQ", *header, number) + self._fill(number)

    def number_of(self, packet: bytes) -> int | None:
        """Which packet that is; None when it is not, bit for bit, one that `packet` made."""
        number = int.from_bytes(packet[RTP_HEADER : RTP_HEADER + NUMBER], "big")
        return number if packet[RTP_HEADER + NUMBER :] == self._fill(number) else None

    def _fill(self, number: int) -> bytes:
        start = number * 7 & 2047
        return _PATTERN[start : start + self.packet_bytes - RTP_HEADER - NUMBER]


VIDEO = Media("video", "H264/90000", 96, 400, 1200, 225, 5004, 6004)
AUDIO = Media("audio", "opus/48000/2", 97, 50, 160, 960, 5006, 6006)


@dataclass(frozen=True, slots=True)
class Terms:
    """What media crosses, and under which conditions."""

    link: LinkConfig
    """Of either direction."""
    budget_ms: int
    media: tuple[Media, ...] = (VIDEO,)
    """The last one is the one whose packets are counted."""

    @property
    def loss_ratio(self) -> float:
        """Of the link, in the long run."""
        loss = self.link.loss
        if not isinstance(loss, GilbertElliott):
            return loss
        bad = loss.p_good_bad / (loss.p_good_bad + loss.p_bad_good)
        return bad * loss.bad_loss + (1 - bad) * loss.good_loss


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to, or several together. Ratios are of media packets or of media bytes."""

    packets: int
    lost: int
    """Those beyond help left out."""
    beyond_help: int
    """Lost, and nobody could have asked for them in time: `within_reach`."""
    media_bytes: int
    repair_ratio: float
    """Repair bytes over bytes of source symbols."""
    sent_bytes: int
    """All that the edge sent on the hop."""
    delays: list[int]
    """Added delay in slots of 1 ms."""

    @property
    def residual_ratio(self) -> float:
        return self.lost / self.packets

    @property
    def all_in_ratio(self) -> float:
        return self.sent_bytes / self.media_bytes - 1

    @property
    def mean_ms(self) -> float:
        return sum(ms * n for ms, n in enumerate(self.delays)) / max(sum(self.delays), 1)

    @property
    def p99_ms(self) -> float:
        return percentile(self.delays, 0.99) or 0.0


def together(outcomes: Sequence[Outcome]) -> Outcome:
    """Runs of equal size as one."""
    return Outcome(
        packets=sum(o.packets for o in outcomes),
        lost=sum(o.lost for o in outcomes),
        beyond_help=sum(o.beyond_help for o in outcomes),
        media_bytes=sum(o.media_bytes for o in outcomes),
        repair_ratio=sum(o.repair_ratio for o in outcomes) / len(outcomes),
        sent_bytes=sum(o.sent_bytes for o in outcomes),
        delays=[sum(slot) for slot in zip(*(o.delays for o in outcomes), strict=True)],
    )


# ---- who is there ----------------------------------------------------------------------------


class Arrivals(Protocol):
    """When datagrams reached a node."""

    media_ns: list[int]
    reports_ns: list[int]


class Traced(VirtualNode):
    """Remembers when media and when reports arrived."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.media_ns: list[int] = []
        self.reports_ns: list[int] = []
        super().__init__(*args, **kwargs)

    def receive(self, now_ns: int, datagrams: list[Received]) -> None:
        for port, _, data in datagrams:
            if port == 0 and data[0] in (DatagramType.SOURCE, DatagramType.REPAIR):
                self.media_ns.append(now_ns)
            elif port == 0 and data[0] == DatagramType.REPORT:
                self.reports_ns.append(now_ns)
        super().receive(now_ns, datagrams)


Outage = tuple[int, int]
"""(start, end) in ns"""
SECOND_ASKING_NS = 20 * MS
"""Two report intervals: what is asked for later than that before it is too late has one chance, and an answer
that the link loses cannot be asked for again."""


def within_reach(
    sent_ns: int,
    edge: Arrivals,
    region: Arrivals,
    *,
    delay_ns: int,
    budget_ns: int,
    outages: Iterable[Outage],
) -> bool:
    """Whether a packet of the edge could have been asked for and answered in time.

    Nobody can ask for it before something that was sent after it has arrived. A report made then or later
    must reach the edge within the budget less SECOND_ASKING_NS, and not in an outage, which takes the answer.
    """
    learned = bisect_left(region.media_ns, sent_ns + delay_ns)
    if learned == len(region.media_ns):
        return False
    first = bisect_left(edge.reports_ns, region.media_ns[learned] + delay_ns)
    last = bisect_right(edge.reports_ns, sent_ns + budget_ns - SECOND_ASKING_NS)
    return any(not any(a <= at_ns < b for a, b in outages) for at_ns in edge.reports_ns[first:last])


class Tally:
    """Which packets of a track came, intact."""

    def __init__(self, media: Media, count: int) -> None:
        self.media = media
        self.came = bytearray(count)

    def take(self, packet: bytes) -> None:
        number = self.media.number_of(packet)
        if number is not None and number < len(self.came):
            self.came[number] = 1

    def missing(self) -> list[int]:
        return [number for number, came in enumerate(self.came) if not came]


class Player(Tally):
    """Receives a track."""

    def __init__(self, network: Network, media: Media, count: int) -> None:
        super().__init__(media, count)
        network.attach(self, 0, (PLAYER, media.player))
        Sink(network, (PLAYER, media.player + 1))

    def receive(self, now_ns: int, datagrams: list[Received]) -> None:
        for _, _, data in datagrams:
            self.take(data)

    def poll(self, now_ns: int) -> tuple[list[Sent], int | None]:
        return [], None


# ---- configurations --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where one of the two nodes is, and what else its configuration says of that."""

    hop: str
    """Its hop port, host:port."""
    host: str
    """Of its media: where the edge takes RTP, where the region sends it."""
    key: bytes
    hop_lines: str = ""
    tables: str = ""


def configurations(terms: Terms, edge: Place, region: Place, called: str) -> tuple[Config, Config]:
    """Of an edge that calls the region at `called`, and of that region."""

    def config(name: str, place: Place, peer: Place, peer_lines: str, media: str) -> Config:
        public = base64.b64encode(public_key(peer.key)).decode()
        return parse(
            f"""
            [node]
            name = "{name}"
            [hop]
            listen = "{place.hop}"
            budget_ms = {terms.budget_ms}
            {place.hop_lines}
            [[hop.peers]]
            public_key = "{public}"
            {peer_lines}
            {place.tables}
            {media}
            """,
            {},
        )

    tracks = ", ".join(
        f'{{ kind = "{m.kind}", listen = "{edge.host}:{m.listen}", payload_type = {m.payload_type}, '
        f'codec = "{m.codec}" }}'
        for m in terms.media
    )
    players = ", ".join(f'{{ kind = "{m.kind}", address = "{region.host}:{m.player}" }}' for m in terms.media)
    ingest = f'[[ingest.rtp]]\nstream = "{STREAM}"\ntracks = [ {tracks} ]'
    egress = f'[[egress.rtp]]\nstream = "{STREAM}"\nto = [ {players} ]'
    return (
        config("edge", edge, region, f'name = "region"\naddress = "{called}"', ingest),
        config("region", region, edge, 'name = "edge"', egress),
    )


# ---- a run -----------------------------------------------------------------------------------


def nodes(
    network: Network, terms: Terms, seed: int, node: type[VirtualNode] = VirtualNode
) -> tuple[VirtualNode, VirtualNode]:
    """An edge and a region, and the link between them."""
    keys = random.Random(seed).randbytes(64)
    places = (
        Place("0.0.0.0:7400", "0.0.0.0", keys[:32]),
        Place("0.0.0.0:7400", PLAYER, keys[32:]),
    )
    configs = configurations(terms, *places, f"{REGION}:7400")
    network.set_link(EDGE, REGION, terms.link)
    network.set_link(REGION, EDGE, terms.link)
    region = node(network, REGION, configs[1], static=keys[32:], seed=seed + 1)
    edge = node(network, EDGE, configs[0], static=keys[:32], seed=seed + 2)
    return edge, region


def stream(network: Network, media: Media, length_ns: int) -> Player:
    """An encoder and a player of a track, for so long from LEAD_NS on."""
    player = Player(network, media, length_ns // media.interval_ns)
    Source(
        network,
        (ENCODER, media.listen),
        (EDGE, media.listen),
        media.packet,
        start_ns=LEAD_NS,
        interval_ns=media.interval_ns,
        count=len(player.came),
    )
    return player


def cross(terms: Terms, *, packets: int, seed: int) -> Outcome:
    """Send `packets` of the first track, and the others for as long, and see what came."""
    network = Network(seed)
    edge, region = nodes(network, terms, seed, Traced if terms.link.outage_ms else VirtualNode)
    length_ns = packets * SECOND // terms.media[0].packets_per_second
    players = [stream(network, media, length_ns) for media in terms.media]
    end_ns = LEAD_NS + length_ns + TAIL_NS
    network.run(end_ns)
    beyond_help = 0
    if isinstance(edge, Traced) and isinstance(region, Traced):
        sent_ns = [LEAD_NS + number * terms.media[-1].interval_ns for number in players[-1].missing()]
        beyond_help = len(sent_ns) - reachable(terms, sent_ns, edge, region, start_ns=0, end_ns=end_ns)
    return outcome(players, beyond_help, edge.machine, region.machine)


def outcome(tracks: Sequence[Tally], beyond_help: int, edge: Machine, region: Machine) -> Outcome:
    """Of a run that is over."""
    assert region.hops is not None
    [hop] = region.hops.hops
    out = edge.hop_statuses()[0]
    return Outcome(
        packets=len(tracks[-1].came),
        lost=len(tracks[-1].missing()) - beyond_help,
        beyond_help=beyond_help,
        media_bytes=sum(len(t.came) * t.media.packet_bytes for t in tracks),
        repair_ratio=out["overhead_ratio"],
        sent_bytes=sum(path["sent_bytes"] for path in out["paths"]),
        delays=list(region.shards.of(hop).hop_delays(hop)),
    )


def reachable(
    terms: Terms, sent_ns: Iterable[int], edge: Arrivals, region: Arrivals, *, start_ns: int, end_ns: int
) -> int:
    """How many of the packets that were sent then were within reach, on links that began at `start_ns`."""
    gone = list(takewhile(lambda outage: outage[0] < end_ns, outages(terms.link, start_ns)))
    return sum(
        within_reach(
            at_ns,
            edge,
            region,
            delay_ns=round(terms.link.delay_ms * MS),
            budget_ns=terms.budget_ms * MS,
            outages=gone,
        )
        for at_ns in sent_ns
    )
