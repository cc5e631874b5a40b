"""When a key frame is asked for."""

from relay.core.keyframes import ENCODER, PEER, KeyFrames

STEP = ENCODER.interval_ns


def test_at_once_then_while_none_comes() -> None:
    keys = KeyFrames(ENCODER)
    assert not keys.due(0, 7) and keys.deadline() is None
    keys.want(7)
    assert keys.due(100, 7) and keys.deadline() == 100 + STEP
    assert not keys.due(99 + STEP, 7)
    assert keys.due(100 + STEP, 7) and keys.due(100 + 2 * STEP, 7)
    assert keys.deadline() is None and not keys.due(100 + 9 * STEP, 7)  # it does not listen


def test_one_that_came_is_the_answer() -> None:
    keys = KeyFrames(ENCODER)
    keys.want(7)
    assert keys.due(0, 7) and not keys.due(STEP, 8)
    assert keys.deadline() is None


def test_wishes_within_the_interval_are_one_request() -> None:
    """Those that came after the last key frame; it goes out when the interval ends."""
    keys = KeyFrames(PEER)
    keys.want(0)
    asked = [now for now in range(0, 10 * PEER.interval_ns, 10**8) if keys.want(0) or keys.due(now, 0)]
    assert asked == list(range(0, 10 * PEER.interval_ns, PEER.interval_ns))
    keys.want(1)
    assert keys.deadline() == 10 * PEER.interval_ns


def test_a_peer_is_asked_once() -> None:
    keys = KeyFrames(PEER)
    keys.want(3)
    assert keys.due(5, 3) and keys.deadline() is None
