"""States between two sessions: frames that may get lost, and of which only the last counts."""

import msgpack

from relay.core.actions import Deliver, SendControl
from relay.wire import hop
from relay.wire.coding import encode
from relay.wire.health import Digest, Summary
from relay.wire.messages import PublishOk
from tests.unit.hop_world import EDGE, SECOND, pair, restart, size_of


def connect(p):
    p.world.run(p.world.now_ns + 30 * SECOND, lambda: p.connected)
    assert p.connected


def state_frame(number, message=None):
    return hop.encode_frame(
        hop.Latest(number, encode(Digest(streams=number)) if message is None else message)
    )


def states(actions):
    return [action.message for action in actions if isinstance(action, Deliver)]


def receives(p, frame):
    keys = p.region.keys[p.region.in_use[p.down, 0]]
    return states(p.down.receive_control(p.world.now_ns, keys.local_index, EDGE, size_of(frame), frame))


def test_a_state_crosses_and_is_not_sent_again():
    p = pair(1)
    connect(p)
    sent = p.up.send_state(p.world.now_ns, encode(Digest(streams=7)))
    assert SendControl(0, None, hop.encode_frame(hop.Latest(0, encode(Digest(streams=7)))), None) in sent
    assert p.up.unacknowledged == 0
    p.edge.do(p.up, sent)
    p.world.run(p.world.now_ns + SECOND)
    assert p.region.delivered == [Digest(streams=7)]


def test_a_state_without_keys_is_dropped():
    p = pair(1)
    assert not [a for a in p.up.send_state(0, encode(Digest())) if isinstance(a, SendControl)]


def test_a_state_that_was_overtaken_is_passed_over():
    p = pair(1)
    connect(p)
    assert receives(p, state_frame(5)) == [Digest(streams=5)]
    assert receives(p, state_frame(4)) == receives(p, state_frame(5)) == []
    assert receives(p, state_frame(3, encode(Summary(nodes=1)))) == [Summary(nodes=1)]  # of another kind
    assert p.down.drops["overtaken state"] == 2
    assert receives(p, state_frame(5 + 2**31 - 1, encode(Digest()))) == [Digest()]
    assert receives(p, state_frame(1, encode(Digest()))) == [Digest()]  # it has wrapped


def test_what_is_no_state_is_refused():
    p = pair(1)
    connect(p)
    too_long = encode(Digest()).replace(b"\x81", b"\x82") + b"\xa2zz\xda\x04\x00" + b"x" * 1024
    for message in (encode(PublishOk(1, 1)), b"", b"\x80", too_long):
        assert receives(p, state_frame(9, message)) == []
    assert p.down.drops["malformed control"] == 4
    assert receives(p, state_frame(9, msgpack.packb({"t": 999}))) == []
    assert p.down.drops["unknown message"] == 1
    assert receives(p, state_frame(9)) == [Digest(streams=9)]


def test_states_begin_anew_with_another_process_of_the_peer():
    p = pair(1)
    connect(p)
    for _ in range(9):
        p.edge.do(p.up, p.up.send_state(p.world.now_ns, encode(Digest(streams=1))))
    p.world.run(p.world.now_ns + SECOND)
    restart(p, "edge")
    connect(p)
    p.world.run(p.world.now_ns + SECOND)
    p.region.delivered.clear()
    p.edge.do(p.up, p.up.send_state(p.world.now_ns, encode(Digest(streams=2))))
    p.world.run(p.world.now_ns + SECOND)
    assert p.region.delivered == [Digest(streams=2)]
