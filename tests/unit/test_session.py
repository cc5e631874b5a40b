"""Whole sessions over a lossy link in virtual time; every failure names its seed."""

from collections import Counter

import pytest

from relay.core.actions import DropKeys, InstallKeys, SendControl, SendHandshake, SetAddress, UseKeys
from relay.core.channel import ChannelFull, NotConnected
from relay.core.path import Way
from relay.wire import hop
from relay.wire.hop import FrameKind
from relay.wire.messages import PublishOk, Unpublish
from tests.unit.hop_world import (
    EDGE,
    MS,
    REGION,
    SECOND,
    Node,
    Pair,
    Sealed,
    accepts,
    cookie_reply,
    mac,
    pair,
    restart,
    size_of,
)

HOUR = 3600 * SECOND


def connect(p: Pair, within_ns: int = 30 * SECOND) -> None:
    p.world.run(p.world.now_ns + within_ns, lambda: p.connected)
    assert p.connected, "not connected"


def percentile(values: list[int], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] / MS


@pytest.mark.parametrize(
    ("rtt_ms", "p50_ms", "p99_ms"), [(20, 200, 800), (100, 300, 1000), (700, 1300, 2200)]
)
def test_time_to_connect_at_30_percent_loss_each_way(rtt_ms, p50_ms, p99_ms):
    edge_ns, both_ns = [], []
    for seed in range(1000 if rtt_ms == 100 else 200):
        p = pair(seed, loss=0.3, rtt_ms=rtt_ms)
        p.world.run(60 * SECOND, lambda p=p: p.up.state == "connected")
        assert p.up.state == "connected", f"seed {seed}"
        edge_ns.append(p.world.now_ns)
        p.world.run(60 * SECOND, lambda p=p: p.connected)
        assert p.connected, f"seed {seed}"
        both_ns.append(p.world.now_ns)
    for name, values in (("edge", edge_ns), ("both", both_ns)):
        figures = {s: percentile(values, s) for s in (0.5, 0.9, 0.99, 1.0)}
        print(f"RTT {rtt_ms} ms, {name} connected after (ms): {figures}")
    assert percentile(both_ns, 0.5) <= p50_ms
    assert percentile(both_ns, 0.99) <= p99_ms


def test_without_loss_the_edge_is_connected_after_one_round_trip():
    p = pair(1)
    p.world.run(SECOND, lambda: p.up.state == "connected")
    assert p.world.now_ns == 100 * MS
    p.world.run(SECOND, lambda: p.connected)
    assert p.world.now_ns == 150 * MS
    assert p.agree()
    assert p.up.peer_hello.name == "region"
    assert p.down.peer_hello.name == "edge"


def test_no_response_is_longer_than_what_it_answers():
    p = pair(3, loss=0.3)
    p.world.run(5 * SECOND)
    sizes = {1: set(), 2: set()}
    for _, _, _, datagram in p.world.seen:
        if isinstance(datagram, bytes):
            sizes[datagram[0]].add(len(datagram))
    assert max(sizes[2]) <= min(sizes[1])


@pytest.mark.parametrize("seed", range(10))
def test_an_idle_hop_stays_connected_at_30_percent_and_rekeys(seed):
    p = pair(seed, loss=0.3)
    connect(p)
    p.world.run(HOUR // 6)
    for node in (p.edge, p.region):
        assert [s.state for _, s in node.states] == ["connected"], f"seed {seed}"
        assert len(node.keys) <= 2 + hop.HALF_OPEN_MAX
    assert p.agree(), f"seed {seed}"
    assert 5 <= p.up.handshakes <= 6
    assert p.down.handshakes == p.up.handshakes


def test_rekey_is_the_responders_at_140_s_when_the_initiator_does_nothing():
    p = pair(5)
    connect(p)
    p.world.blocked = lambda source, _, d: source == EDGE and isinstance(d, bytes) and d[0] == 1
    p.world.run(139 * SECOND)
    assert p.down.initiations == 0
    p.world.run(142 * SECOND)
    assert p.down.handshakes == 2
    assert p.agree()


def test_datagrams_on_the_way_during_a_rekey_are_accepted():
    p = pair(6)
    connect(p)
    held = []
    p.world.run(119 * SECOND)
    before = p.edge.in_use[p.up, 0]
    while p.edge.in_use[p.up, 0] == before:
        p.world.run(p.world.now_ns + 10 * MS)
        for node, session, other in ((p.edge, p.up, p.region), (p.region, p.down, p.edge)):
            held.append(accepts(node, session, other))
    p.world.run(p.world.now_ns + SECOND)
    assert all(held)
    assert p.agree()


@pytest.mark.parametrize("which", ["edge", "region"])
@pytest.mark.parametrize("seed", range(10))
def test_either_side_restarts(which, seed):
    p = pair(seed, loss=0.3)
    connect(p)
    p.world.run(10 * SECOND)
    p.up.send_message(p.world.now_ns, Unpublish(1, 1, "lost with the process"))
    restart(p, which)
    began = p.world.now_ns
    p.world.run(began + 20 * SECOND, lambda: p.connected and p.agree())
    assert p.connected, f"seed {seed}"
    assert p.world.now_ns - began < 8 * SECOND, f"seed {seed}"
    survivor = p.region if which == "edge" else p.edge
    assert [s.fresh for _, s in survivor.states if s.state == "connected"] == [True, True]
    assert survivor.states[-1][1].fresh
    now = p.world.now_ns
    p.edge.do(p.up, p.up.send_message(now, PublishOk(7, 1)))
    p.region.do(p.down, p.down.send_message(now, PublishOk(8, 1)))
    p.world.run(now + 5 * SECOND)
    assert p.region.delivered == [PublishOk(7, 1)], f"seed {seed}"
    assert p.edge.delivered == [PublishOk(8, 1)], f"seed {seed}"


@pytest.mark.parametrize("loss", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(30))
def test_simultaneous_opening_ends_on_the_lower_keys_handshake(seed, loss):
    p = pair(seed, loss=loss, both_call=True)
    connect(p)
    p.world.run(20 * SECOND)
    assert p.connected
    assert p.agree(), f"seed {seed}"
    install = p.edge.keys[p.edge.in_use[p.up, 0]]
    assert p.region.in_use[p.down, 0] == install.remote_index, (
        f"both must send on the same handshake, seed {seed}"
    )
    if loss == 0:
        assert p.up.paths[0].ring.current.initiator == (p.edge.public < p.region.public)
    calls = (p.up.initiations, p.down.initiations)
    p.world.run(60 * SECOND)
    assert calls == (p.up.initiations, p.down.initiations)


@pytest.mark.parametrize("blocked", [EDGE, REGION])
def test_simultaneous_opening_when_only_one_side_knows_the_right_address(blocked):
    p = pair(1, both_call=True)
    p.world.blocked = lambda *_: False
    other = p.region if blocked == EDGE else p.edge
    session = p.down if blocked == EDGE else p.up
    session.paths[0].way = Way((("198.51.100.99", 1),))
    connect(p)
    p.world.run(p.world.now_ns + SECOND)
    assert p.agree()
    assert other.paths[session, 0] in (EDGE, REGION)


def test_an_hour_away():
    p = pair(7, loss=0.3)
    connect(p)
    p.world.run(10 * SECOND)
    p.world.blocked = lambda *_: True
    p.world.run(10 * SECOND + HOUR)
    for node in (p.edge, p.region):
        assert [s.state for _, s in node.states] == ["connected", "silent", "connecting"]
        assert node.keys == {}
    assert p.down.deadline() is None, "a side that is called has nothing to do meanwhile"
    sent = [t for t, source, _, _ in p.world.seen if source == EDGE and t > 3000 * SECOND]
    assert 100 <= len(sent) <= 140, "one initiation in about 5 s"
    back = p.world.now_ns
    p.world.blocked = lambda *_: False
    connect(p, 60 * SECOND)
    assert p.world.now_ns - back < 40 * SECOND
    assert not p.edge.states[-1][1].fresh, "the same process: messages and publications go on"


def test_short_silence_is_survived_on_the_old_keys():
    p = pair(8)
    connect(p)
    p.world.run(10 * SECOND)
    p.world.blocked = lambda *_: True
    p.world.run(26 * SECOND)
    assert (p.up.state, p.down.state) == ("silent", "silent")
    p.world.blocked = lambda *_: False
    p.world.run(27 * SECOND)
    assert p.connected
    p.world.run(40 * SECOND)
    assert p.agree()
    assert not p.up.paths[0].dialer.active


def test_what_was_heard_may_be_reported_late():
    p = pair(8)
    connect(p)
    p.world.run(10 * SECOND)
    heard = p.world.now_ns
    p.world.blocked = lambda *_: True
    p.world.run(heard + 14 * SECOND)
    p.edge.do(p.up, p.up.measured(p.world.now_ns, 0, heard + 2 * SECOND, 0))
    assert p.up.deadline() > p.world.now_ns
    p.world.run(heard + 16 * SECOND)
    assert (p.up.state, p.down.state) == ("connected", "silent")
    p.world.run(heard + 18 * SECOND)
    assert p.up.state == "silent"


def test_address_change_is_challenged_before_anything_else_goes_there():
    for seed in range(50):
        p = pair(seed, loss=0.3)
        connect(p)
        p.world.run(p.world.now_ns + SECOND)
        new = ("203.0.113.9", 50000)
        moved = p.world.now_ns
        p.world.seen.clear()
        p.edge.move(new)
        p.world.run(moved + 20 * SECOND, lambda p=p, new=new: p.region.paths[p.down, 0] == new)
        assert p.region.paths[p.down, 0] == new, f"seed {seed}"
        assert p.world.now_ns - moved < 5 * SECOND, f"seed {seed}"
        to_new = [d for t, _, to, d in p.world.seen if to == new and t < p.world.now_ns]
        from_new = [d for _, source, _, d in p.world.seen if source == new]
        frames = {d.frame[0] if isinstance(d, Sealed) else "response" for d in to_new}
        assert frames <= {FrameKind.PATH_CHALLENGE, "response"}, f"seed {seed}"
        assert sum(map(size_of, to_new)) <= sum(map(size_of, from_new)), f"seed {seed}"
        p.world.run(p.world.now_ns + SECOND)
        assert p.connected, f"seed {seed}"


def test_an_echo_from_elsewhere_or_of_something_else_moves_nothing():
    p = pair(9)
    connect(p)
    now, index = p.world.now_ns, p.region.in_use[p.down, 0]
    stranger = ("198.51.100.7", 9)
    actions = p.down.new_address(now, 0, stranger, 1200)
    [challenge] = [a for a in actions if isinstance(a, SendControl)]
    assert challenge.address == stranger
    token = challenge.frame[1:]
    for address, echo in ((EDGE, token), (("198.51.100.8", 9), token), (stranger, bytes(8))):
        frame = bytes([FrameKind.PATH_RESPONSE]) + echo
        actions = p.down.receive_control(now, index, address, 41, frame)
        assert not any(isinstance(a, SetAddress) for a in actions)
    frame = bytes([FrameKind.PATH_RESPONSE]) + token
    assert SetAddress(0, stranger) in p.down.receive_control(now, index, stranger, 41, frame)


def test_a_silent_address_gets_no_more_than_it_sent_and_is_forgotten():
    p = pair(10)
    connect(p)
    stranger = ("198.51.100.7", 9)
    p.region.do(p.down, p.down.new_address(p.world.now_ns, 0, stranger, 3 * 41 + 5))
    p.world.run(p.world.now_ns + 10 * SECOND)
    sent = [d for _, _, destination, d in p.world.seen if destination == stranger]
    assert sum(map(size_of, sent)) == 3 * 41
    assert p.down.paths[0].challenges.deadline() is None


def test_replayed_initiations_replace_nothing():
    p = pair(11)
    first = [d for _, s, _, d in p.world.seen if s == EDGE]
    connect(p)
    p.world.run(130 * SECOND)
    assert p.up.handshakes == 2
    recorded = first + [d for _, s, _, d in p.world.seen if s == EDGE and isinstance(d, bytes)]
    in_use, installed = p.region.in_use[p.down, 0], set(p.region.keys)
    for datagram in recorded * 50:
        p.region.receive(("198.51.100.66", 6), datagram)
    assert p.region.in_use[p.down, 0] == in_use
    assert set(p.region.keys) == installed, "an initiation that its process has outdated is not even answered"
    assert p.down.drops["replayed handshake"] == len(recorded) * 50


@pytest.mark.parametrize("seed", range(5))
def test_replays_to_a_restarted_responder_cost_replies_and_no_session(seed):
    p = pair(seed)
    connect(p)
    p.world.run(10 * SECOND)
    restart(p, "edge")
    p.world.run(20 * SECOND)
    assert p.connected
    recorded = [d for _, s, _, d in p.world.seen if s == EDGE and isinstance(d, bytes)]
    restart(p, "region")
    for i in range(400):  # among the genuine ones, for the whole time that these take
        p.world.at(
            p.world.now_ns + i * 50 * MS, lambda i=i: p.region.receive(EDGE, recorded[i % len(recorded)])
        )
    p.world.run(p.world.now_ns + 30 * SECOND)
    assert p.connected
    assert p.agree()
    assert p.edge.states[-1][1].fresh
    assert len([1 for _, s in p.region.states if s.state == "connected"]) == 1, f"seed {seed}"
    assert len(p.region.keys) <= 2 + hop.HALF_OPEN_MAX


def test_an_old_process_of_the_peer_cannot_come_back_by_replay():
    p = pair(12)
    connect(p)
    recorded = [d for _, s, _, d in p.world.seen if s == EDGE and isinstance(d, bytes)]
    restart(p, "edge")
    connect(p)
    p.world.run(p.world.now_ns + 5 * SECOND)
    in_use = p.region.in_use[p.down, 0]
    p.region.receive(EDGE, recorded[0])
    pending = [i for i, k in p.region.keys.items() if i in p.region.unconfirmed]
    assert len(pending) == 1
    p.world.run(p.world.now_ns + 20 * SECOND)
    assert p.region.in_use[p.down, 0] == in_use
    assert pending[0] not in p.region.keys, "half-open handshakes end"
    assert p.connected


def test_a_flood_of_garbage_is_counted_and_changes_nothing():
    p = pair(13)
    connect(p)
    rng, before = p.world.rng, (dict(p.region.keys), p.down.deadline())
    for i in range(3000):
        datagram = bytes([i % 5, 1]) + rng.randbytes(rng.randrange(0, 420))
        assert p.region.acceptor.receive_handshake(p.world.now_ns, EDGE, datagram) is None
    stranger = Node(p.world, "stranger", rng.randbytes(32), ("198.51.100.1", 1))
    stranger.add(p.region, REGION)
    p.world.run(p.world.now_ns + SECOND)
    drops = p.region.acceptor.drops
    assert drops["unknown peer"] >= 5
    assert drops["unauthenticated"] > 100
    assert drops["malformed"] > 1000
    assert sum(drops.values()) >= 3000
    assert set(drops) <= {"unknown peer", "unauthenticated", "malformed", "unknown index"}
    assert p.region.keys == before[0]


def test_forged_responses_cost_no_more_than_the_initiation_they_name():
    p = pair(14)
    [(_, _, _, initiation)] = [s for s in p.world.seen if isinstance(s[3], bytes)]
    forged = bytes([2, 1, 0, 0]) + bytes(4) + initiation[4:8] + p.world.rng.randbytes(48 + 40 + 32)
    p.edge.receive(REGION, forged)
    assert p.up.drops["unauthenticated"] == 1
    connect(p)
    assert p.world.now_ns < 400 * MS


def test_keys_end_and_indices_are_given_back():
    p = pair(15, loss=0.3)
    connect(p)
    p.world.run(HOUR // 12)
    assert set(p.edge.acceptor._indices) == set(p.edge.keys)
    actions = p.edge.acceptor.remove(p.region.public)
    assert {a.local_index for a in actions if isinstance(a, DropKeys)} == set(p.edge.keys)
    assert p.edge.acceptor._indices == {}
    assert p.up.deadline() is None


def test_several_addresses_are_tried_in_turn():
    p = pair(16)
    wrong = [("198.51.100.1", 1), ("198.51.100.2", 2)]
    edge = Node(p.world, "edge 2", p.world.rng.randbytes(32), ("192.0.2.7", 7400))
    p.region.add(edge)
    session = edge.add(p.region, *wrong, REGION)
    p.world.run(10 * SECOND, lambda: session.state == "connected")
    assert p.world.now_ns == 300 * MS
    assert session.address == REGION


def test_messages_before_the_first_connection_are_refused_and_too_many_are_too():
    p = pair(17)
    with pytest.raises(NotConnected):
        p.up.send_message(0, PublishOk(1, 1))
    connect(p)
    with pytest.raises(ChannelFull):
        for i in range(100):
            p.up.send_message(p.world.now_ns, PublishOk(i, 1))
    assert p.up.unacknowledged == hop.CHANNEL_QUEUE_MAX


def test_messages_survive_rekeys_and_outages_in_order():
    p = pair(18, loss=0.3)
    connect(p)
    sent = 0
    for _ in range(60):
        for _ in range(4):
            p.edge.do(p.up, p.up.send_message(p.world.now_ns, PublishOk(sent, 1)))
            sent += 1
        if sent == 120:
            p.world.blocked = lambda *_: True
            p.world.run(p.world.now_ns + 30 * SECOND)
            p.world.blocked = lambda *_: False
        p.world.run(p.world.now_ns + 6 * SECOND)
    p.world.run(p.world.now_ns + 10 * SECOND)
    assert p.up.handshakes >= 3
    assert p.region.delivered == [PublishOk(i, 1) for i in range(sent)]


@pytest.mark.parametrize("mtu", [1472, 1400, 1232])
def test_path_mtu_is_found_at_30_percent_loss(mtu):
    for seed in range(10):
        p = pair(seed, loss=0.3, mtu=mtu)
        connect(p)
        p.world.run(60 * SECOND)
        expected = max(size for size in (hop.MTU_BASE, *hop.MTU_SIZES) if size <= mtu)
        assert p.up.mtu == p.down.mtu == expected, f"seed {seed}"
        assert p.edge.mtus.get(p.up, hop.MTU_BASE) == expected


def test_a_black_hole_brings_the_path_back_to_the_base_and_an_outage_does_not():
    p = pair(19, loss=0.3)
    connect(p)
    p.world.run(20 * SECOND)
    assert p.edge.mtus[p.up] == 1472
    p.world.blocked = lambda *_: True
    p.world.run(80 * SECOND)
    p.world.blocked = lambda *_: False
    p.world.run(85 * SECOND)
    assert p.edge.mtus[p.up] == 1472
    p.world.mtu = 1300
    p.world.run(150 * SECOND)
    assert p.edge.mtus[p.up] == p.region.mtus[p.down] == 1272
    p.world.mtu = 1472
    p.world.run(800 * SECOND)
    assert p.edge.mtus[p.up] == 1472


def test_cookies_are_used_by_the_next_initiation():
    p = pair(20)
    [(_, _, _, initiation)] = p.world.seen
    p.world.blocked = lambda source, *_: source == REGION
    assert initiation[-16:] == bytes(16)
    reply = cookie_reply(p.region.public, initiation, b"c" * 16)
    p.edge.receive(REGION, reply)
    p.world.run(110 * MS)
    second = [d for _, s, _, d in p.world.seen if s == EDGE][1]
    assert isinstance(second, bytes)
    assert second[-16:] == mac(b"c" * 16, second[:-16])
    p.edge.receive(REGION, reply[:-1] + b"x")
    assert p.up.drops["cookie"] + p.up.drops["unexpected cookie"] == 1


def test_actions_hide_keys_and_come_in_an_order_that_works():
    p = pair(21)
    order: list[object] = []
    do = p.edge._one
    p.edge._one = lambda session, action: (order.append(action), do(session, action))
    connect(p)
    kinds = [type(a) for a in order]
    assert kinds.index(InstallKeys) < kinds.index(SetAddress) < kinds.index(UseKeys)
    assert kinds.index(UseKeys) < kinds.index(SendControl)
    install = next(a for a in order if isinstance(a, InstallKeys))
    assert "key=" not in repr(install)
    assert Counter(kinds)[SendHandshake] <= 2
