"""Whatever arrives on whatever port, authentic or not, the plane stays in its bounds and counts what it got.

A peer that has the keys sends symbols, repair headers, reports and control frames of any content; strangers
send anything at all; commands change the world in between. RELAY_FUZZ_SECONDS (default 0: 40 rounds) sets the
budget, RELAY_FUZZ_SEED the first seed.
"""

import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from itertools import count

from relay_ext.control import PORT_RTCP, PORT_RTP
from relay_ext.payload import Kind
from relay_ext.rlc import HEAD, MAX_SYMBOL, Encoder
from relay_ext.rtp import build_fir, build_pli, build_rr, parse_rtcp
from tests.unit.plane_world import (
    CLOCK,
    CONTROL,
    ENCODER,
    HOP,
    IS_RTCP,
    KEYS,
    MS,
    OUT,
    OUT_SSRC,
    PEER,
    PLAYER,
    REPAIR,
    REPORT,
    RTCP,
    RTP,
    SOURCE,
    START,
    Datagram,
    Peer,
    add_egress,
    inner,
    new_plane,
    rtp,
    sender_report,
    set_repair,
)

SECONDS = float(os.environ.get("RELAY_FUZZ_SECONDS", "0"))
FIRST_SEED = int(os.environ.get("RELAY_FUZZ_SEED", "1"))
ROUNDS = 40
STEPS = 400
CPU_SECONDS = 1.0
"""That one datagram or poll may take: a thousand times what the slowest does, less than a loop gone wild."""
HEADER = 16
STRANGER = ("203.0.113.66", 666)


def near(rng: random.Random, at: int) -> int:
    """Mostly a neighbour, at times anywhere, half of the number space away included."""
    distance = rng.choice([2, 2, 30, 300, 1100, 5000])
    far = rng.choice([1 << 31, (1 << 31) + 1, (1 << 31) - 1, rng.randrange(1 << 32)])
    return (at + (far if rng.random() < 0.05 else rng.randint(-distance, distance))) % (1 << 32)


def mutated(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    match rng.randrange(4):
        case 0 if out:
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
        case 1:
            del out[rng.randrange(len(out) + 1) :]
        case 2:
            out += rng.randbytes(rng.choice([1, 20, 2000]))
        case _ if out:
            at = rng.randrange(len(out))
            out[at : at + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x80\0\0\0", rng.randbytes(4)])
    return bytes(out)


class Round:
    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.slabs = rng.choice([20, 300, 8192])
        self.plane = new_plane(self.slabs)
        self.plane.set_cookie_secret(rng.randbytes(32))
        self.peer = Peer(self.plane)
        self.hop = self.peer.hop
        self.index, self.generation = 1, 1
        self.now = rng.choice([1, 1000 * MS, 2**31 * 1000, 2**32 * 100_000 - 500 * MS])
        self.seq, self.esi, self.ingest_seq = rng.randrange(1 << 32), rng.randrange(1 << 32), 0
        self.encoder = Encoder(512, self.esi)
        self.sent_esi = 0
        self.overhead = rng.choice([0.0, 0.5, 2.0])
        self.set_params()
        self.source = self.plane.add_track(
            clock_rate=CLOCK, hold_us=20_000, payload_type=96, kind=rng.choice(list(Kind))
        )
        self.plane.set_port(RTP, PORT_RTP, self.source)
        self.plane.set_port(RTCP, PORT_RTCP, self.source)
        self.plane.add_feed(self.source, self.hop, 1, 0, 7)
        self.sink = self.new_sink()
        self.steps: list[tuple[int, Callable[[], None]]] = [
            (8, self.symbol),
            (30, self.coded_symbol),
            (12, self.true_repair),
            (4, self.repair),
            (12, self.report),
            (4, self.control),
            (4, self.authentic_noise),
            (6, self.noise),
            (20, self.ingest),
            (4, self.rtcp),
            (4, self.feedback),
            (20, self.advance),
            (2, self.command),
        ]

    def new_sink(self) -> int:
        track = self.plane.add_track(clock_rate=self.rng.choice([1, CLOCK, 2**32 - 1]), hold_us=100_000)
        for _ in range(self.rng.choice([1, 1, 2, 10])):
            add_egress(self.plane, track)
        self.plane.add_route(self.hop, 1, 0, 7, track)
        if self.rng.random() < 0.5:  # back to where it came from: a relay's worst peer
            self.plane.add_feed(track, self.hop, 2, 0, 7, age_max_us=self.rng.choice([0, 200_000, 10**9]))
        return track

    def set_params(self) -> None:
        proactive, budget_ms = self.rng.choice([0.0, 0.4, 3.0]), self.rng.choice([0, 20, 200, 5000])
        set_repair(self.plane, self.hop, proactive=proactive, max_overhead=self.overhead, budget_ms=budget_ms)

    # ---- what is sent ------------------------------------------------------------------------

    def some_symbol(self) -> bytes:
        rng = self.rng
        seq = near(rng, self.seq)
        self.seq = rng.choice([self.seq, (self.seq + 1) % 2**32, seq])
        payload = rng.choice(
            [
                rtp(
                    seq,
                    ssrc=rng.choice([1, 1, 1, rng.randrange(9)]),
                    payload=bytes(rng.choice([0, 700, 1100])),
                ),
                rng.randbytes(rng.choice([0, 5, 12, 1400])),
                sender_report(ssrc=1, ntp=rng.randrange(2**64), time=rng.randrange(2**32)),
            ]
        )
        if rng.random() < 0.2:
            payload = mutated(rng, payload)[:1900]
        flags = rng.choice([3, 3, 3, 1, 2, 0, 3 | START, IS_RTCP, rng.randrange(256)])
        when = (self.now // 100_000 - 500) if rng.random() < 0.9 else rng.randrange(2**32)
        data = inner(payload, seq, time=when, flags=flags, gap=rng.choice([0, 0, 1, rng.randrange(256)]))
        return mutated(rng, data)[:1960] if rng.random() < 0.1 else data

    def symbol(self) -> None:
        """Under any ESI, another symbol's included."""
        self.hop_send(SOURCE, self.some_symbol() + struct.pack(">I", near(self.rng, self.esi)))

    def coded_symbol(self) -> None:
        """As an honest encoder numbers it, whatever it says; a third is lost."""
        data = self.some_symbol()
        if HEAD <= len(data) <= MAX_SYMBOL:
            esi = self.encoder.add(data)
            self.esi = (esi + 1) % 2**32
            if self.rng.random() < 0.67:
                self.hop_send(SOURCE, data + struct.pack(">I", esi))

    def true_repair(self) -> None:
        """What is right for the symbols, at times not for the ESIs, count or key that it names."""
        rng = self.rng
        span = rng.choice([1, 3, 10, 40, 128])
        first, key = (self.esi - span) % 2**32, rng.randrange(65536)
        coded = self.encoder.encode(first, span, key)
        if coded is not None:
            if rng.random() < 0.05:
                first, span, key = near(rng, first), span + rng.choice([0, 1]), key ^ rng.choice([0, 1])
            self.hop_send(REPAIR, struct.pack(">IHH", first, span, key) + coded)

    def repair(self) -> None:
        rng = self.rng
        span = rng.choice([0, 1, 5, 60, 200, 512, 513, 65535])
        first = near(rng, self.esi - span)
        coded = rng.randbytes(rng.choice([0, 1, 19, 20, 40, 1200, 1952]))
        self.hop_send(REPAIR, struct.pack(">IHH", first, span, rng.randrange(65536)) + coded)

    def report(self) -> None:
        rng = self.rng
        sent = self.plane.hop_stats(self.hop)["paths"][0]["sent_packets"]
        bits, arrivals = rng.choice([0, 8, 8, 100, 1024, 1025]), rng.choice([0, 0, 1, 1, 32, 33])
        others = [
            (rng.choice([0, 1, 2, 3, 4, 255]), rng.choice([0, 10**5, 2**32 - 1]), near(rng, sent))
            for _ in range(rng.choice([0] * 6 + [1, 3, 4, 255]))
        ]
        data = struct.pack(
            ">BBHIIIIIIIIHBB",
            rng.choice([0] * 20 + [1, 255]), rng.choice([0, 1, 3, 3, 3, 255]), rng.choice([0, 1, 20, 65535]),
            rng.choice([self.now // 1000 % 2**32, rng.randrange(2**32)]), rng.choice([0, 0, 0, 2**32 - 1]),
            rng.choice([max(sent - 1, 0)] * 4 + [near(rng, sent)]), near(rng, sent), near(rng, sent // 4),
            near(rng, self.esi), near(rng, self.sent_esi - 8), near(rng, self.sent_esi), bits, arrivals,
            len(others),
        )  # fmt: skip
        size = (bits + 7) // 8 + 4 * arrivals
        data += rng.choice([rng.randbytes(size), b"\xff" * size])
        data = (data + b"".join(struct.pack(">BxxxII", *other) for other in others))[:1990]
        self.hop_send(REPORT, data if rng.random() < 0.9 else mutated(rng, data)[:1990])

    def control(self) -> None:
        self.hop_send(CONTROL, self.rng.randbytes(self.rng.choice([0, 1, 30, 1500, 2000])))

    def authentic_noise(self) -> None:
        kind = self.rng.choice([SOURCE, REPAIR, REPORT, CONTROL])
        self.hop_send(kind, self.rng.randbytes(self.rng.choice([0, 3, 4, 8, 24, 40, 100, 1900])))

    def hop_send(self, kind: int, plaintext: bytes) -> None:
        if self.rng.random() < 0.03:
            self.peer.counter += self.rng.choice([1, 10, 9000, 2**40])
        data = self.peer.seal(kind, plaintext, self.index)
        if self.rng.random() < 0.03:
            data = mutated(self.rng, data)
        self.take(HOP, self.rng.choice([PEER, PEER, PEER, STRANGER]), data)
        if self.rng.random() < 0.03:
            self.take(HOP, PEER, data)

    def noise(self) -> None:
        rng = self.rng
        data = rng.randbytes(rng.choice([0, 1, 15, 16, 32, 64, 148, 200, 1500, 2100]))
        if rng.random() < 0.7 and data:
            data = (
                bytes([rng.randrange(1, 9), 0, 0, 0]) + struct.pack(">I", rng.choice([1, 2, 77])) + data[8:]
            )
        self.take(rng.choice([HOP, HOP, RTP, RTCP, OUT, 9, 1023, 60_000]), STRANGER, data)

    def ingest(self) -> None:
        rng = self.rng
        self.ingest_seq += rng.choice([1, 1, 1, 1, 0, 2, -1, rng.randrange(65536)])
        ssrc = rng.choice([1, 1, 1, 1, rng.randrange(5)])
        size = rng.choice([0, 100, 1180, 1456, 2016])
        payload = bytes(size) if rng.random() < 0.5 else rng.randbytes(size)
        data = rtp(self.ingest_seq % 2**32, ssrc=ssrc, payload=payload)
        if rng.random() < 0.1:
            data = mutated(rng, data)
        before = self.plane.hop_stats(self.hop)["source_sent"]
        self.take(RTP, ENCODER if rng.random() < 0.95 else STRANGER, data)
        self.sent_esi += self.plane.hop_stats(self.hop)["source_sent"] - before

    def rtcp(self) -> None:
        data = sender_report(ssrc=1, ntp=self.rng.randrange(2**64), time=self.rng.randrange(2**32))
        data = data if self.rng.random() < 0.5 else mutated(self.rng, data)
        self.take(self.rng.choice([RTP, RTCP]), ENCODER, data)

    def feedback(self) -> None:
        """Of a player, or of somebody who would be one."""
        rng = self.rng
        ssrc = rng.choice([OUT_SSRC, OUT_SSRC, OUT_SSRC ^ 1024, rng.randrange(1 << 32)])
        data = rng.choice(
            [build_pli(5, ssrc), build_fir(5, ssrc, 1), build_rr(5), 20 * build_fir(5, ssrc, 2)]
        )
        data = rng.choice([b"", build_rr(5)]) + data
        self.take(
            OUT, rng.choice([PLAYER, PLAYER, STRANGER]), data if rng.random() < 0.7 else mutated(rng, data)
        )

    def command(self) -> None:
        rng, plane = self.rng, self.plane
        match rng.randrange(10):
            case 0:
                plane.restart_track(self.sink)
            case 1:
                plane.set_hold(self.sink, rng.choice([0, 1000, 500_000, 2**32 - 1]))
            case 2:
                self.set_params()
            case 3:
                plane.set_path(self.hop, 0, datagram_max=rng.choice([1232, 1472, 2000]))
            case 4:
                plane.remove_track(self.sink)
                self.sink = self.new_sink()
            case 5:
                plane.remove_feed(self.source, self.hop)
                plane.add_feed(self.source, self.hop, 1, 0, 7)
            case 6:
                self.rekey()
            case 7:
                plane.ask_key_frame(self.source, rng.random() < 0.5)
            case 8:
                plane.offer_rate(self.source, rng.randrange(1 << 64))
            case _:
                plane.send_control(
                    self.hop, 0, None, rng.randbytes(rng.randrange(1, 1200)), rng.randrange(2033)
                )

    def rekey(self) -> None:
        """New keys, of the same process of the peer or another; the old ones go at some time."""
        self.generation += 1
        instance = self.rng.choice([77, 78])
        new = self.index + 1
        self.plane.add_keys(self.hop, 0, new, 2, KEYS[0], KEYS[1], 1, self.generation, instance)
        self.plane.use_keys(new)
        self.plane.drop_keys(self.index)
        self.index = new
        self.peer.counter = self.rng.choice([0, self.peer.counter])

    # ---- what must hold ----------------------------------------------------------------------

    def advance(self) -> None:
        steps = [0, MS // 10, MS, 5 * MS, 11 * MS, 50 * MS, 300 * MS, 3000 * MS, 100_000 * MS]
        self.now += self.rng.choices(steps, [2, 9, 9, 9, 9, 3, 1, 0.3, 0.1])[0]
        began = time.process_time()
        out, deadline = self.plane.poll(self.now)
        assert time.process_time() - began < CPU_SECONDS
        assert deadline is None or deadline > self.now
        self.check_sent(out)

    def counters(self) -> list[object]:
        plane = self.plane
        return [
            plane.stats(),
            plane.hop_stats(self.hop),
            plane.track_stats(self.source),
            plane.track_stats(self.sink),
        ]

    def take(self, port: int, address: tuple[str, int], data: bytes) -> None:
        before = self.counters()
        began = time.process_time()
        out = self.plane.receive(self.now, [(port, address, data)])
        assert time.process_time() - began < CPU_SECONDS
        events = self.plane.drain_events()
        # A receiver report at an ingest port is as it should be, and there is nothing to say of it.
        assert events or before != self.counters() or port in (RTP, RTCP), (
            f"{data[:40].hex()} was not counted"
        )
        assert len(events) <= 3
        self.check_sent(out)

    def check_sent(self, out: list[Datagram]) -> None:
        assert len(out) <= 2048
        assert self.plane.slabs_in_use <= self.slabs
        for _, address, data in out:
            assert len(data) <= 2032
            if address == PLAYER:
                assert data[0] >> 6 == 2
                assert data[8:12] == struct.pack(">I", OUT_SSRC)
            elif address == PEER:
                assert SOURCE <= data[0] <= CONTROL
                assert len(data) <= 2000 or data[0] == CONTROL
            elif address[0] == ENCODER[0]:
                assert parse_rtcp(data).report is None and len(data) <= 60
        assert len(self.peer.opened(out, SOURCE)) <= len(out)  # each of them opens
        stats = self.plane.hop_stats(self.hop)
        assert stats["repair_bytes"] <= self.overhead * stats["source_bytes"] + 2000
        assert 0 <= stats["receive_loss_ratio"] <= 1
        link = self.plane.hop_link(self.hop)
        assert 0 <= link.loss_ratio <= 1
        assert 0 <= link.loss_burst <= 0.9
        assert 0 <= link.rtt_min_ns <= 10**10
        track = self.plane.track_stats(self.sink)
        assert track["delivered"] + track["malformed"] + track["held"] <= track["received"]
        assert track["relayed"] <= track["received"] + track["late"]

    def run(self) -> None:
        weights = [weight for weight, _ in self.steps]
        for _, step in self.rng.choices(self.steps, weights, k=STEPS):
            step()
        self.check_sent(self.plane.poll(self.now)[0])  # what commands have queued
        self.plane.close()
        assert self.plane.slabs_in_use == 0
        assert self.plane.poll(self.now + 10**12) == ([], None)


def seeds() -> Iterator[int]:
    end = time.monotonic() + SECONDS
    for i in count():
        if (time.monotonic() >= end) if SECONDS else i >= ROUNDS:
            return
        yield FIRST_SEED + i


def test_whatever_arrives() -> None:
    for seed in seeds():
        try:
            Round(seed).run()
        except Exception as e:
            raise AssertionError(f"RELAY_FUZZ_SEED={seed}") from e
