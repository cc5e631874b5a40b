"""A link that carries less than the encoder sends: whole frames are dropped, key frames asked for, and rates
offered.

The encoder makes H.264 by RTP, so that everything on the way is in play: what a packet is, the limit, the
pacer, the dropper, the wish for a key frame and the target bitrate.
"""

import struct
from dataclasses import dataclass

from relay.lab.link import LinkConfig
from relay.lab.network import Address, Network, Received, Sent
from relay_ext.rtp import SenderReport, build_sr, is_rtcp, key_asks, parse
from tests.sim.fleet import EDGE, ENCODER, MS, PLAYER, REGION, SECOND, VIDEO, Fleet, edge_and_region, rtp

FRAME_NS = 40 * MS
GROUP = 50
"""Frames from key frame to key frame, unless one is asked for."""
SSRC = 0x1234
IDR, SLICE = b"\x65", b"\x41"
PAYLOAD = 1000
START_NS = 2 * SECOND


class Camera:
    """Sends frames of as many packets as fit `bps`; an `obedient` one takes the rate that it is offered."""

    def __init__(self, network: Network, *, bps: float, obedient: bool) -> None:
        self.asked: list[int] = []
        self.offers: list[tuple[int, int]] = []
        self._bps = bps
        self._obedient = obedient
        self._frame = self._seq = self._since_key = 0
        for port in (0, 1):
            network.attach(self, port, (ENCODER, 5000 + port))
        network.wake(self)

    def receive(self, now_ns: int, datagrams: list[Received]) -> None:
        for _, _, data in datagrams:
            if key_asks(data):
                self.asked.append(now_ns)
                self._since_key = GROUP
            remb = data.find(b"REMB")
            if remb >= 0:
                word = int.from_bytes(data[remb + 5 : remb + 8], "big")
                self.offers.append((now_ns, (word & 0x3FFFF) << (word >> 18)))
                if self._obedient:
                    self._bps = min(self._bps, self.offers[-1][1])

    def poll(self, now_ns: int) -> tuple[list[Sent], int | None]:
        due = START_NS + self._frame * FRAME_NS
        if now_ns < due:
            return [], due
        timestamp = self._frame * 3600
        key = self._frame == 0 or self._since_key >= GROUP
        self._since_key = 0 if key else self._since_key + 1
        count = max(1, int(self._bps * FRAME_NS / SECOND / 8 / (PAYLOAD + 13)))
        to: Address = (EDGE, VIDEO.listen)
        out: list[Sent] = []
        for i in range(count):
            body = (IDR if key else SLICE) + struct.pack(">HH", i, count) + bytes(PAYLOAD - 4)
            packet = bytearray(rtp(self._seq, timestamp, SSRC, body))
            packet[1] |= 0x80 * (i == count - 1)
            out.append((0, to, bytes(packet)))
            self._seq += 1
        if self._frame % 25 == 0:
            report = SenderReport(SSRC, now_ns // SECOND << 32, timestamp, self._seq, 0)
            out.append((1, (EDGE, VIDEO.listen + 1), build_sr(report, b"camera")))
        self._frame += 1
        return out, due + FRAME_NS


@dataclass
class Frame:
    at_ns: int
    """When it began to arrive."""
    packets: int
    """That it has."""
    came: int = 0

    @property
    def whole(self) -> bool:
        return self.came == self.packets


class Screen:
    """Counts the packets of each frame."""

    def __init__(self, network: Network) -> None:
        self.frames: dict[int, Frame] = {}
        """By timestamp."""
        self.keys = 0
        for port in (0, 1):
            network.attach(self, port, (PLAYER, VIDEO.player + port))

    def receive(self, now_ns: int, datagrams: list[Received]) -> None:
        for _, _, data in datagrams:
            if is_rtcp(data):
                continue
            timestamp = parse(data).timestamp
            if timestamp not in self.frames:
                self.frames[timestamp] = Frame(now_ns, struct.unpack_from(">H", data, 15)[0])
                self.keys += data[12:13] == IDR
            self.frames[timestamp].came += 1

    def poll(self, now_ns: int) -> tuple[list[Sent], int | None]:
        return [], None

    def since(self, time_ns: int) -> list[Frame]:
        return [frame for frame in self.frames.values() if frame.at_ns > time_ns]


def thin(seed: int, *, carries_bps: float, obedient: bool) -> tuple[Fleet, Camera, Screen]:
    """1.5 Mb/s of video over a link that loses 5 %; after 8 s it carries only so much."""
    fleet = edge_and_region(seed)
    fleet.network.set_link(REGION, EDGE, LinkConfig(delay_ms=50, loss=0.05))
    wide = LinkConfig(delay_ms=50, loss=0.05)
    narrow = LinkConfig(delay_ms=50, loss=0.05, rate_bps=carries_bps, queue_ms=1000)
    fleet.network.set_link(EDGE, REGION, [(0.0, wide), (8.0, narrow)])
    screen = Screen(fleet.network)
    camera = Camera(fleet.network, bps=1.5e6, obedient=obedient)
    fleet.run(8)
    assert camera.asked == []
    return fleet, camera, screen


def test_frames_are_dropped_whole_and_the_encoder_is_asked_for_a_key_frame(seed: int) -> None:
    """An encoder that does not listen: half of it fits."""
    fleet, camera, screen = thin(seed, carries_bps=900e3, obedient=False)
    changed = fleet.now_ns
    fleet.run(20)
    drops = fleet.hop_status("edge", "region")["drops"]
    assert drops["dropped_frames"] > 50 and drops["dropped_media"] > 0
    assert camera.asked and camera.asked[0] - changed <= 2 * SECOND
    assert screen.keys >= 5
    late = screen.since(changed + 2 * SECOND)
    whole = sum(frame.whole for frame in late)
    assert len(late) >= 130
    assert whole >= 0.94 * len(late), f"{len(late) - whole} of {len(late)} frames are broken"
    queue_ms = fleet.network.link(EDGE, REGION).queue_ns(fleet.now_ns) / MS
    assert queue_ms <= 150


def test_an_encoder_that_listens_is_told_what_fits_and_loses_nothing_more(seed: int) -> None:
    fleet, camera, screen = thin(seed, carries_bps=900e3, obedient=True)
    changed = fleet.now_ns
    fleet.run(5)
    lowest = min(bps for at, bps in camera.offers if at > changed)
    assert 300e3 <= lowest <= 900e3
    dropped = fleet.hop_status("edge", "region")["drops"]["dropped_frames"]
    settled = fleet.now_ns
    fleet.run(15)
    assert fleet.hop_status("edge", "region")["drops"]["dropped_frames"] == dropped
    late = screen.since(settled)
    assert len(late) >= 15 * 25 - 5
    assert sum(not frame.whole for frame in late) <= 1
