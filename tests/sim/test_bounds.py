"""What is made and taken away again leaves nothing behind: memory, slabs, Python's objects."""

import gc
import tracemalloc

from relay_ext.control import PORT_EGRESS, PORT_HOP, PORT_RTP, Plane
from tests.benchmarks.memory import allocated
from tests.unit.hop_world import MS, SECOND, pair, restart

CYCLES = 1000
OUT, IN = 1, 2
PLAYER = ("192.0.2.9", 6004)


def packet(seq: int) -> bytes:
    return bytes([0x80, 96]) + seq.to_bytes(2, "big") + bytes(8) + bytes(1000)


def cycle(plane: Plane, n: int) -> None:
    """A peer and a stream that come, carry ten packets and go."""
    now_ns = n * SECOND
    hop = plane.add_hop(0)
    plane.set_path(hop, 0, address=("198.51.100.2", 7400))
    plane.add_keys(hop, 0, 7, 8, bytes(32), bytes([1] * 32), 1, 1, n)
    plane.use_keys(7)
    track = plane.add_track(clock_rate=90_000, hold_us=100_000, payload_type=96)
    plane.set_port(IN, PORT_RTP, track)
    plane.add_egress(track, OUT, PLAYER, PLAYER, ssrc=1, seq=0, timestamp=0, cname=b"node")
    plane.add_feed(track, hop, 1, 0, 1)
    plane.poll(now_ns)
    source = ("192.0.2.1", 5000)
    sent = plane.receive(now_ns, [(IN, source, packet(i)) for i in range(10)])
    assert len(sent) >= 20, "each packet leaves twice, sealed and plain"
    plane.close_port(IN)
    plane.remove_track(track)
    plane.remove_hop(hop)
    plane.poll(now_ns + MS)
    plane.drain_events()


def test_peers_and_streams_that_go_leave_no_memory() -> None:
    plane = Plane(bytes(32), slabs=4096)
    plane.set_port(0, PORT_HOP)
    plane.set_port(OUT, PORT_EGRESS)
    for n in range(50):
        cycle(plane, n)
    before = allocated()
    for n in range(50, 50 + CYCLES):
        cycle(plane, n)
    assert plane.slabs_in_use == 0
    assert allocated() - before < 256 << 10  # a leak of 300 bytes a cycle is more; a hop has 1.8 MB


def test_sessions_that_begin_anew_leave_no_objects() -> None:
    """A peer that restarts: a handshake each time, and the old keys drop out of the ring."""
    p = pair(1, rtt_ms=10)
    p.world.run(SECOND)

    def restarts(times: int) -> int:
        for _ in range(times):
            restart(p, "edge")
            p.world.run(p.world.now_ns + 400 * MS)
            assert p.connected and len(p.region.keys) <= 8
        p.world.run(p.world.now_ns + 200 * SECOND)  # keys of before have ended
        p.world.seen.clear()
        p.region.states.clear()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = restarts(20)
        assert restarts(200) - before < 200 << 10
    finally:
        tracemalloc.stop()
    assert len(p.region.keys) <= 3 and len(p.region.acceptor.sessions) == 1


def test_rekeying_leaves_no_keys() -> None:
    p = pair(2, rtt_ms=10)
    p.world.run(120 * 60 * SECOND)
    assert p.connected and p.up.handshakes >= 55
    assert len(p.edge.keys) <= 3 and len(p.region.keys) <= 3
