"""What goes against the direction of media: a wish for a key frame, from a player or of a node's own."""

import pytest

from relay.lab.link import LinkConfig
from relay.lab.network import Address, Network, Received, Sent
from relay_ext.rtp import build_pli, build_rr, is_rtcp, key_asks, parse
from tests.sim.fleet import ENCODER, MS, PLAYER, SECOND, VIDEO, Fleet, edge_and_region, rtp

FRAME_NS = 40 * MS
PACKETS = 5
SSRC = 0x1234
IDR, SLICE = b"\x65", b"\x41"
START_NS = 2 * SECOND


class Camera:
    """Frames of H.264: a key frame first, then only where it is asked for one."""

    def __init__(self, network: Network, to: Address) -> None:
        self.asked: list[int] = []
        self.keys: list[int] = []
        self._to = to
        self._frame = 0
        self._want = True
        for port in (0, 1):
            network.attach(self, port, (ENCODER, 5000 + port))
        network.wake(self)

    def receive(self, now_ns: int, datagrams: list[Received]) -> None:
        for port, _, data in datagrams:
            assert port == 1 and key_asks(data) == [SSRC]
            self.asked.append(now_ns)
            self._want = True

    def poll(self, now_ns: int) -> tuple[list[Sent], int | None]:
        due = START_NS + self._frame * FRAME_NS
        if now_ns < due:
            return [], due
        if self._want:
            self.keys.append(now_ns)
        kind, self._want = IDR if self._want else SLICE, False
        out: list[Sent] = []
        for i in range(PACKETS):
            packet = bytearray(rtp(self._frame * PACKETS + i, self._frame * 3600, SSRC, kind + bytes(1000)))
            packet[1] |= 0x80 * (i == PACKETS - 1)
            out.append((0, self._to, bytes(packet)))
        self._frame += 1
        return out, due + FRAME_NS


class Viewer:
    """Takes RTP at one port, sends RTCP from the next to where RTP came from."""

    def __init__(self, network: Network) -> None:
        self.keys: list[int] = []
        """When key frames began to arrive."""
        self.source: Address | None = None
        self.ssrc = 0
        self.out: list[Sent] = []
        self._timestamp = -1
        self._network = network
        for port in (0, 1):
            network.attach(self, port, (PLAYER, VIDEO.player + port))

    def receive(self, now_ns: int, datagrams: list[Received]) -> None:
        for _, source, data in datagrams:
            if not is_rtcp(data):
                header = parse(data)
                self.source, self.ssrc = source, header.ssrc
                if data[12:13] == IDR and header.timestamp != self._timestamp:
                    self.keys.append(now_ns)
                self._timestamp = header.timestamp

    def ask(self, ssrc: int | None = None) -> None:
        assert self.source is not None
        of = self.ssrc if ssrc is None else ssrc
        self.out.append((1, self.source, build_rr(5) + build_pli(5, of)))
        self._network.wake(self)

    def poll(self, now_ns: int) -> tuple[list[Sent], int | None]:
        out, self.out = self.out, []
        return out, None


def world(seed: int, link: LinkConfig, threads: int = 1) -> tuple[Fleet, Camera, Viewer]:
    fleet = edge_and_region(seed, link, threads=threads)
    viewer = Viewer(fleet.network)
    camera = Camera(fleet.network, (fleet.specs["edge"].host, VIDEO.listen))
    fleet.run(6)
    assert len(viewer.keys) == 1 and not camera.asked
    return fleet, camera, viewer


@pytest.mark.parametrize(("loss", "threads"), [(0.0, 1), (0.3, 1), (0.3, 2)])
def test_a_player_asks_and_the_encoder_answers(seed: int, loss: float, threads: int) -> None:
    fleet, camera, viewer = world(seed, LinkConfig(delay_ms=50, loss=loss), threads)
    asked = fleet.now_ns
    viewer.ask()
    fleet.run(3)
    assert len(camera.asked) == 1
    assert camera.asked[0] - asked <= (51 if not loss else 500) * MS
    assert len(viewer.keys) == 2
    assert viewer.keys[1] - camera.keys[1] <= 300 * MS
    track = fleet.stream("edge")["tracks"][0]
    assert (track["key_frames"], track["key_frame_requests"]) == (2, 1)
    assert fleet.stream("region")["tracks"][0]["key_frame_requests"] == 1


def test_a_player_that_repeats_itself_is_heard_once_a_second(seed: int) -> None:
    fleet, camera, viewer = world(seed, LinkConfig(delay_ms=50))
    for _ in range(100):
        viewer.ask()
        fleet.run(0.02)
    assert 2 <= len(camera.asked) <= 4
    assert min(b - a for a, b in zip(camera.asked, camera.asked[1:], strict=False)) >= 500 * MS


def test_a_stranger_is_not_heard(seed: int) -> None:
    fleet, camera, viewer = world(seed, LinkConfig(delay_ms=50))
    viewer.ask(ssrc=viewer.ssrc ^ 1)
    fleet.run(2)
    assert camera.asked == [] and fleet.stream("region")["tracks"][0]["key_frame_requests"] == 0


def test_what_repair_could_not_mend_is_mended_by_a_key_frame(seed: int) -> None:
    """Half a second of nothing, at a budget of 200 ms; this player never asks."""
    fleet, camera, viewer = world(seed, LinkConfig(delay_ms=50))
    edge, region = (fleet.specs[name].host for name in ("edge", "region"))
    fleet.link(edge, region, LinkConfig(delay_ms=50, loss=1.0))
    fleet.run(0.5)
    fleet.link(edge, region, LinkConfig(delay_ms=50))
    again = fleet.now_ns
    fleet.run(5)
    assert fleet.stream("region")["tracks"][0]["lost_packets"] > 0
    assert len(camera.asked) == 1
    assert len(viewer.keys) == 2 and viewer.keys[1] - again <= 2500 * MS
