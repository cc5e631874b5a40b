"""Packet planes without sockets or sessions: keys set directly, a peer that sends whatever a test wants."""

import heapq
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from relay_ext.control import PORT_EGRESS, PORT_HOP, PORT_RTP, Plane
from relay_ext.seal import SealKey

Datagram = tuple[int, tuple[str, int], bytes]
"""Port, address, bytes."""
MS = 1_000_000
HOP, RTP, RTCP, OUT = 0, 1, 2, 3
"""Ports of a plane."""
KEYS = (bytes(range(32)), bytes(range(32, 64)))
SOURCE, REPAIR, REPORT, CONTROL = 4, 5, 6, 7
FIRST, LAST, KEY_FRAME, DISCARDABLE, IS_RTCP, START = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
FRAME_START, FRAME_END = 0x40, 0x80
WHOLE = FIRST | LAST
ENCODER = ("192.0.2.1", 5000)
OTHER = ("192.0.2.2", 5000)
PLAYER, PLAYER_RTCP = ("192.0.2.9", 6004), ("192.0.2.9", 6005)
PEER = ("198.51.100.2", 7400)
CLOCK = 90_000
OUT_SSRC, OUT_SEQ, OUT_TIME = 0xABCD, 1000, 5000


def rtp(
    seq: int, *, ssrc: int = 0x1234, time: int | None = None, pt: int = 96, payload: bytes = b""
) -> bytes:
    """A packet whose payload is its number, so that it is known again after rewriting."""
    time = seq * 225 if time is None else time
    head = struct.pack(">BBHII", 0x80, pt, seq & 0xFFFF, time & 0xFFFFFFFF, ssrc)
    return head + struct.pack(">I", seq & 0xFFFFFFFF) + payload


def sender_report(ssrc: int = 0x1234, ntp: int = 0, time: int = 0) -> bytes:
    return struct.pack(">BBHIQIII", 0x80, 200, 6, ssrc, ntp, time, 1, 1)


def receive(
    plane: Plane, now_ns: int, *packets: bytes, port: int = RTP, source: tuple[str, int] = ENCODER
) -> list[Datagram]:
    return plane.receive(now_ns, [(port, source, p) for p in packets])


def numbers(datagrams: list[Datagram], to: tuple[str, int] = PLAYER) -> list[int]:
    """The numbers (`rtp`) of the packets that were sent to an address."""
    return [int.from_bytes(data[12:16], "big") for _, address, data in datagrams if address == to]


def inner(
    payload: bytes,
    seq: int,
    *,
    time: int = 0,
    flags: int = WHOLE,
    stream: int = 1,
    track: int = 0,
    epoch: int = 7,
    hops: int = 0,
    gap: int = 0,
) -> bytes:
    """A symbol: inner header and payload. `time` in units of 100 us."""
    head = (len(payload), stream, track, epoch, flags, hops, seq & 0xFFFFFFFF, time & 0xFFFFFFFF, 0, 1, gap)
    return struct.pack(">HHBBBBIIHBB", *head) + payload


def new_plane(slabs: int = 4096, now_ns: int = 0) -> Plane:
    plane = Plane(bytes(32), slabs=slabs, now_ns=now_ns)
    open_ports(plane)
    return plane


def open_ports(plane: Plane) -> None:
    plane.set_port(HOP, PORT_HOP)
    plane.set_port(OUT, PORT_EGRESS)


def add_track(plane: Plane, *, hold_ms: int = 100, ingest: bool = False, egress: bool = True) -> int:
    track = plane.add_track(clock_rate=CLOCK, hold_us=hold_ms * 1000, first_seq=10, payload_type=96)
    if egress:
        add_egress(plane, track)
    if ingest:
        plane.set_port(RTP, PORT_RTP, track)
    return track


def add_egress(plane: Plane, track: int) -> int:
    return plane.add_egress(
        track, OUT, PLAYER, PLAYER_RTCP, ssrc=OUT_SSRC, seq=OUT_SEQ, timestamp=OUT_TIME, cname=b"studio"
    )


def set_repair(
    plane: Plane, hop: int, *, proactive: float = 0.0, max_overhead: float = 1.0, budget_ms: int = 200
) -> None:
    budget = budget_ms * MS
    plane.set_params(
        hop,
        proactive=proactive,
        max_overhead=max_overhead,
        send_budget_ns=budget,
        receive_budget_ns=budget,
    )


class Peer:
    """The other end of a hop of `plane`, played by the test: its local index there is 1."""

    def __init__(self, plane: Plane, *, budget_ms: int = 200) -> None:
        self.plane = plane
        self.hop = plane.add_hop(HOP)
        self.counter = 0
        self._seal = SealKey(1, KEYS[1], True)
        self._open = SealKey(1, KEYS[0], False)
        set_repair(plane, self.hop, budget_ms=budget_ms)
        plane.set_path(self.hop, 0, address=PEER)
        plane.add_keys(self.hop, 0, 1, 2, KEYS[0], KEYS[1], 1, 1, 77)
        plane.use_keys(1)

    def seal(self, kind: int, plaintext: bytes, index: int = 1) -> bytes:
        """An authentic datagram, whatever it says."""
        header = struct.pack(">BBHIQ", kind, 0, 0, index, self.counter)
        self.counter += 1
        return header + self._seal.seal(self.counter - 1, header, plaintext)

    def source(self, symbol: bytes, esi: int) -> bytes:
        return self.seal(SOURCE, symbol + struct.pack(">I", esi & 0xFFFFFFFF))

    def repair(self, first_esi: int, count: int, key: int, coded: bytes) -> bytes:
        return self.seal(REPAIR, struct.pack(">IHH", first_esi & 0xFFFFFFFF, count, key) + coded)

    def send(self, now_ns: int, *datagrams: bytes) -> list[Datagram]:
        return self.plane.receive(now_ns, [(HOP, PEER, d) for d in datagrams])

    def opened(self, datagrams: list[Datagram], kind: int, at: tuple[str, int] = PEER) -> list[bytes]:
        """Plaintexts of what the plane sent to the peer, of one type."""
        mine = [d for _, address, d in datagrams if address == at and d[0] == kind]
        return [self._open.open(int.from_bytes(d[8:16], "big"), d[:16], d[16:]) for d in mine]


@dataclass(order=True)
class _Arrival:
    at_ns: int
    order: int
    to: int = field(compare=False)
    data: bytes = field(compare=False)


Fate = Callable[[int, bytes], int | None]
"""What the link does to a datagram sent at a moment: its delay in ns, or None for a loss."""


def even(delay_ms: float, loss: float = 0.0, seed: int = 1) -> Fate:
    rng = random.Random(seed)
    return lambda now_ns, data: None if rng.random() < loss else int(delay_ms * MS)


class Pair:
    """Two planes that are each other's peer, over a link in virtual time. 0 sends streams to 1."""

    ADDRESSES = (("10.0.0.1", 7400), ("10.0.0.2", 7400))

    def __init__(self, to_1: Fate, to_0: Fate, *, budget_ms: int = 200, proactive: float = 0.0) -> None:
        self.now = 0
        self.planes = (new_plane(), new_plane())
        self.fates = (to_0, to_1)
        self.played: list[tuple[int, bytes]] = []
        self.reports: list[tuple[int, bytes]] = []
        self._arrivals: list[_Arrival] = []
        self._order = 0
        self.hops = tuple(p.add_hop(HOP, 2**32 - 50) for p in self.planes)
        for i, (plane, hop) in enumerate(zip(self.planes, self.hops, strict=True)):
            set_repair(plane, hop, proactive=proactive, budget_ms=budget_ms)
            plane.set_path(hop, 0, address=self.ADDRESSES[1 - i])
            plane.add_keys(hop, 0, 1 + i, 2 - i, KEYS[i], KEYS[1 - i], 1, 1, 77 + i)
            plane.use_keys(1 + i)
        self.tracks = (
            add_track(self.planes[0], ingest=True, egress=False),
            add_track(self.planes[1], hold_ms=budget_ms),
        )
        self.planes[0].add_feed(self.tracks[0], self.hops[0], 1, 0, 7)
        self.planes[1].add_route(self.hops[1], 1, 0, 7, self.tracks[1])

    def ingest(self, packet: bytes) -> None:
        self._sent(0, self.planes[0].receive(self.now, [(RTP, ENCODER, packet)]))

    def run(self, until_ns: int) -> None:
        """Every arrival and deadline up to a moment, in order."""
        while True:
            due = [self._poll(i) for i in (0, 1)]
            due += [a.at_ns for a in self._arrivals[:1]]
            at = min(due)
            if at > until_ns:
                self.now = until_ns
                return
            self.now = max(at, self.now)
            while self._arrivals and self._arrivals[0].at_ns <= self.now:
                a = heapq.heappop(self._arrivals)
                source = self.ADDRESSES[1 - a.to]
                self._sent(a.to, self.planes[a.to].receive(self.now, [(HOP, source, a.data)]))

    def _poll(self, i: int) -> int:
        out, deadline = self.planes[i].poll(self.now)
        self._sent(i, out)
        assert deadline is not None  # a hop reports at least once a second
        return deadline

    def _sent(self, i: int, datagrams: list[Datagram]) -> None:
        for _, address, data in datagrams:
            if address == PLAYER:
                self.played.append((self.now, data))
            elif address == PLAYER_RTCP:
                self.reports.append((self.now, data))
            else:
                delay = self.fates[1 - i](self.now, data)
                if delay is not None:
                    self._order += 1
                    heapq.heappush(self._arrivals, _Arrival(self.now + delay, self._order, 1 - i, data))

    def stream(self, count: int, interval_ms: float, payload: bytes = bytes(100), first: int = 0) -> None:
        """That many packets at a fixed distance, then what the budget takes to deliver the last of them."""
        for i in range(first, first + count):
            self.ingest(rtp(i, payload=payload))
            self.run(self.now + int(interval_ms * MS))
        self.run(self.now + 600 * MS)

    def numbers(self) -> list[int]:
        return [int.from_bytes(data[12:16], "big") for _, data in self.played]

    def close(self) -> None:
        for plane in self.planes:
            plane.close()
            assert plane.slabs_in_use == 0
