"""Key frames that are wanted, and rates that may be sent, from whom and to whom."""

from dataclasses import replace
from typing import cast

from relay.services.feedback import Feedback
from relay.services.hops import Hops
from relay.services.stream import Stream
from relay.wire.messages import KeyFrameRequest, PublishOk
from relay_ext.rtp import build_fir, build_pli, build_remb
from tests.unit.plane_world import ENCODER, PEER, Datagram, rtp, sender_report
from tests.unit.test_streams import OUT, SOURCES, Node, offer

MS = 1_000_000
SECOND = 1000 * MS
SSRC = 0x1234


class World:
    """A node with a stream that is sent to `near`; its encoder has sent a packet of each track."""

    def __init__(self, *, fir: bool = False) -> None:
        self.node = Node(near=10)
        self.hop = self.node.hops.named("near")
        sources = (replace(SOURCES[0], fir=fir), SOURCES[1])
        self.stream = self.node.streams.add_ingest(0, "studio", None, sources)
        self.node.take_sent()
        self.node.on("near", PublishOk(self.stream.alias, self.stream.epoch))
        self.feedback = Feedback(self.node.shards, self.node.streams, cast(Hops, self.node.hops))
        self.seq = 0
        self.encode(0)

    def encode(self, now_ns: int, count: int = 1) -> None:
        """So many packets of 1212 bytes of video, and one of 212 of audio."""
        self.seq += count
        video = [rtp(i, payload=bytes(1196)) for i in range(self.seq - count, self.seq)]
        self.node.receive(now_ns, 5004, *video)
        self.node.receive(now_ns, 5006, rtp(self.seq, pt=97, payload=bytes(196)))

    def flow(self, seconds: int) -> None:
        """Video of 970 kb/s and audio of 1.7."""
        for second in range(seconds):
            self.encode(second * SECOND + 1, count=100)
            self.poll((second + 1) * SECOND)

    def poll(self, now_ns: int) -> list[bytes]:
        """What the encoder is told of the video."""
        self.node.streams.poll(now_ns)
        self.feedback.poll(now_ns)
        return self.said(now_ns)

    def said(self, now_ns: int) -> list[bytes]:
        out: list[Datagram] = [d for d in self.node.plane.poll(now_ns)[0] if d[1] != PEER]
        assert {to[0] for _, to, _ in out} <= {ENCODER[0]}
        return [data[28:] for _, _, data in out]

    def request(self, track: int = 0, **changes: int) -> KeyFrameRequest:
        return replace(KeyFrameRequest(self.stream.alias, self.stream.epoch, track), **changes)

    def own(self, data: bytes) -> int:
        return int.from_bytes(data[4:8], "big")


# ---- key frames --------------------------------------------------------------------------------


def test_a_peer_asks_of_a_stream_that_enters_here() -> None:
    w = World()
    hop = w.node.hop("near")
    w.feedback.on_request(0, hop, w.request())
    (pli,) = w.said(0)
    assert pli == build_pli(w.own(pli), SSRC)
    for now in range(0, 2000, 10):  # again while none comes, three times in all
        w.feedback.poll(now * MS)
    assert len(w.said(0)) == 2


def test_full_intra_requests_to_an_encoder_that_wants_those() -> None:
    w = World(fir=True)
    w.feedback.on_request(0, w.node.hop("near"), w.request())
    (fir,) = w.said(0)
    assert fir == build_fir(w.own(fir), SSRC, 1)


def test_a_peer_cannot_ask_for_what_it_does_not_get() -> None:
    w = World()
    for request in (
        w.request(alias=w.stream.alias + 1),
        w.request(epoch=w.stream.epoch ^ 1),
        w.request(track=2),
        w.request(track=1),  # audio has no key frames
    ):
        w.feedback.on_request(0, w.node.hop("near"), request)
    assert w.said(0) == []


def test_one_request_however_many_ask() -> None:
    w = World()
    for now in range(10):
        w.feedback.on_request(now * MS, w.node.hop("near"), w.request())
        w.feedback.on_dropped(now * MS, w.hop.id, w.stream.alias, 0)
        w.feedback.on_asked(now * MS, w.stream.tracks[0].id)
    assert len(w.said(0)) == 1
    assert w.feedback.poll(10 * MS) == 500 * MS


def test_frames_dropped_before_a_hop() -> None:
    w = World()
    w.feedback.on_dropped(0, w.hop.id, w.stream.alias + 1, 0)
    w.feedback.on_dropped(0, w.hop.id + 16, w.stream.alias, 0)
    assert w.said(0) == []
    w.feedback.on_dropped(0, w.hop.id, w.stream.alias, 0)
    assert len(w.said(0)) == 1


def received() -> tuple[Node, Feedback, Stream]:
    """A stream that comes from a peer and leaves here."""
    node = Node(near=10)
    node.streams.set_egress(0, "studio", OUT)
    node.on("near", offer())
    node.take_sent()
    return node, Feedback(node.shards, node.streams, cast(Hops, node.hops)), node.streams.streams["studio"]


def test_the_peer_that_a_stream_comes_from_is_asked() -> None:
    node, feedback, stream = received()
    for now in range(0, 2000, 100):
        feedback.on_asked(now * MS, stream.tracks[0].id)
        feedback.poll(now * MS)
    assert node.take_sent() == 2 * [("near", KeyFrameRequest(9, 7, 0))]
    assert stream.tracks[0].key_requests == 2


def test_a_picture_that_stays_broken_asks() -> None:
    """At the second look that finds it so."""
    node, feedback, stream = received()
    for second, looks in enumerate((1, 2, 3)):
        stream.tracks[0].broken_looks = looks
        feedback.poll(second * SECOND)
        assert len(node.take_sent()) == (0 if looks == 1 else 1)


def test_nobody_is_asked_for_a_stream_without_a_source() -> None:
    node, feedback, stream = received()
    node.streams.remove_peer(0, node.hop("near"))
    node.take_sent()
    feedback.on_asked(0, stream.tracks[0].id)
    assert node.take_sent() == [] and stream.tracks[0].key_requests == 0


# ---- rates -------------------------------------------------------------------------------------


def remb(data: bytes) -> int:
    """Its bitrate."""
    bitrate = (int.from_bytes(data[17:20], "big") & 0x3FFFF) << (data[17] >> 2)
    assert data == build_remb(int.from_bytes(data[4:8], "big"), bitrate, [SSRC])
    return bitrate


def test_each_second_what_the_hop_leaves() -> None:
    w = World()
    w.node.receive(0, 5004, sender_report())
    w.flow(4)
    audio = w.stream.tracks[1].peak_bps
    assert w.stream.tracks[0].target_bps is None
    w.hop.media_bps = 500_000.0
    for second in (5, 6, 7):
        (said,) = w.poll(second * SECOND)
        assert abs(remb(said) - (500_000 - audio)) < 8
        assert w.poll(second * SECOND + 500 * MS) == []
    assert w.stream.tracks[1].target_bps == audio
    w.hop.media_bps = None
    assert w.poll(8 * SECOND) == []
    assert w.stream.tracks[0].target_bps is None


def test_a_decrease_is_told_at_once() -> None:
    w = World()
    w.node.receive(0, 5004, sender_report())
    w.flow(4)
    w.hop.media_bps = 500_000.0
    w.poll(5 * SECOND)
    for at_ms, kbps, told in ((5100, 490, 0), (5200, 480, 1), (5300, 470, 0), (5400, 9000, 0)):
        w.hop.media_bps = kbps * 1000.0
        assert len(w.poll(at_ms * MS)) == told


def test_no_rate_before_it_is_known_what_the_track_needs() -> None:
    w = World()
    w.node.receive(0, 5004, sender_report())
    w.hop.media_bps = 500_000.0
    assert w.poll(SECOND) == []  # it may have begun in the middle of that second
    w.encode(SECOND + 1)
    assert len(w.poll(2 * SECOND)) == 1


def test_who_never_sent_rtcp_is_told_by_the_api_alone() -> None:
    w = World()
    w.flow(4)
    w.hop.media_bps = 500_000.0
    assert w.poll(5 * SECOND) == []
    assert w.stream.tracks[0].target_bps


def test_a_stream_that_no_peer_has_taken_has_no_target() -> None:
    w = World()
    w.flow(4)
    w.hop.media_bps = 500_000.0
    w.poll(5 * SECOND)
    w.stream.publications[w.hop.id].accepted = False
    w.poll(6 * SECOND)
    assert [t.target_bps for t in w.stream.tracks] == [None, None]
