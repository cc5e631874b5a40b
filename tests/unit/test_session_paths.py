"""Several paths of one session: each with its own keys and address, the peer's process and messages
shared."""

import pytest

from relay.core.actions import SendHandshake
from relay.core.path import Way
from relay.wire import hop
from relay.wire.messages import PublishOk
from tests.unit.hop_world import EDGE, MS, REGION, SECOND, Datagram, Node, Pair, pair, restart

LTE, REGION_2 = ("198.51.100.5", 7401), ("192.0.2.66", 7400)
BOTH = {0: Way((REGION,)), 1: Way((REGION,), 1)}


def two_uplinks(seed: int, loss: float = 0.0) -> Pair:
    """An edge that calls from two sockets, connected over both."""
    p = pair(seed, loss)
    p.edge.open(1, LTE)
    p.edge.do(p.up, p.up.set_ways(0, BOTH))
    p.world.run(10 * SECOND, lambda: len(connected(p)) == 4)
    assert len(connected(p)) == 4, f"seed {seed}"
    p.world.run(p.world.now_ns + SECOND)
    return p


def connected(p: Pair) -> list[object]:
    return [path for s in (p.up, p.down) for path in s.paths.values() if path.state == "connected"]


def silence(p: Pair, *addresses: object) -> None:
    p.world.blocked = lambda source, destination, _: source in addresses or destination in addresses


@pytest.mark.parametrize("seed", range(10))
def test_each_path_has_keys_and_an_address_of_its_own(seed: int) -> None:
    p = two_uplinks(seed, 0.3)
    assert (p.up.state, p.down.state) == ("connected", "connected")
    assert p.region.paths[p.down, 0] == EDGE
    assert p.region.paths[p.down, 1] == LTE
    assert p.edge.paths[p.up, 0] == p.edge.paths[p.up, 1] == REGION
    keys = [p.edge.keys[p.edge.in_use[p.up, path]] for path in (0, 1)]
    assert len({k.send_key for k in keys} | {k.receive_key for k in keys}) == 4
    assert [k.path for k in keys] == [0, 1]
    assert [s.fresh for _, s in p.edge.states + p.region.states] == [True, True], "one process, one session"


def test_the_session_goes_on_while_one_of_its_paths_does() -> None:
    p = two_uplinks(1)
    silence(p, EDGE)
    p.world.run(p.world.now_ns + 300 * SECOND)
    assert (p.up.state, p.down.state) == ("connected", "connected")
    assert p.up.paths[0].state == p.down.paths[0].state == "connecting", "its keys have ended"
    assert p.up.paths[1].handshakes >= 3, "the other path goes on with rekeying"
    assert len(p.edge.states) == len(p.region.states) == 1
    silence(p)
    p.world.run(p.world.now_ns + 10 * SECOND)
    assert len(connected(p)) == 4
    assert not p.edge.states[-1][1].fresh or len(p.edge.states) == 1


@pytest.mark.parametrize("dead", [EDGE, LTE])
def test_messages_take_the_path_that_is_heard(dead: object) -> None:
    p = two_uplinks(2)
    silence(p, dead)
    p.world.run(p.world.now_ns + SECOND)
    now_ns = p.world.now_ns
    for i in range(20):
        p.edge.do(p.up, p.up.send_message(p.world.now_ns, PublishOk(i, 1)))
        p.region.do(p.down, p.down.send_message(p.world.now_ns, PublishOk(i, 1)))
    p.world.run(now_ns + SECOND)
    assert p.region.delivered == p.edge.delivered == [PublishOk(i, 1) for i in range(20)]


def test_a_new_path_is_dialled_and_one_that_is_not_named_any_more_ends() -> None:
    p = two_uplinks(3)
    p.edge.do(p.up, p.up.set_ways(p.world.now_ns, {0: BOTH[0]}))
    assert set(p.up.paths) == {0}
    assert [keys.path for keys in p.edge.keys.values()] == [0]
    p.world.run(p.world.now_ns + SECOND)
    p.edge.do(p.up, p.up.set_ways(p.world.now_ns, BOTH))
    p.world.run(p.world.now_ns + 5 * SECOND, lambda: len(connected(p)) == 4)
    assert len(connected(p)) == 4
    assert p.down.drops["replayed handshake"] == 0, "initiations are counted on, not from 1 again"
    assert len(p.edge.states) == 1


def test_the_called_side_answers_from_the_socket_that_was_called() -> None:
    p = pair(4)
    p.region.open(3, REGION_2)
    p.edge.do(p.up, p.up.set_ways(0, {0: Way((REGION,)), 1: Way((REGION_2,))}))
    p.world.run(3 * SECOND)
    assert len(connected(p)) == 4
    assert [p.down.paths[path].socket for path in (0, 1)] == [0, 3]
    answers = {(s, to) for _, s, to, d in p.world.seen if isinstance(d, bytes) and d[0] == 2}
    assert answers == {(REGION, EDGE), (REGION_2, EDGE)}
    assert p.edge.paths[p.up, 1] == REGION_2


@pytest.mark.parametrize("number", [hop.PATHS_MAX, 200, 255])
def test_a_path_beyond_the_limit_is_refused(number: int) -> None:
    p = pair(5)
    p.edge.do(p.up, p.up.set_ways(0, {0: BOTH[0], number: Way((REGION,))}))
    p.world.run(3 * SECOND)
    assert p.down.drops["path"] >= 10
    assert set(p.down.paths) == {0}
    assert p.down.state == "connected"


def recorded(p: Pair) -> list[Datagram]:
    return [d for _, source, _, d in p.world.seen if source in (EDGE, LTE) and isinstance(d, bytes)]


def test_replayed_and_forged_initiations_of_a_path_change_nothing() -> None:
    p = two_uplinks(6)
    sent = recorded(p)
    before, keys = (dict(p.region.paths), dict(p.region.in_use)), set(p.region.keys)
    forged = [bytes([1, *d[1:60], d[60] ^ 1, *d[61:]]) for d in sent if isinstance(d, bytes)]
    for datagram in (sent + forged) * 20:
        for socket in (REGION, REGION_2):
            p.region.receive(("203.0.113.9", 9), datagram, socket)
    # One that was answered before the process was known may be answered once more.
    assert len(p.region.keys) <= len(keys) + 4
    p.world.run(p.world.now_ns + 20 * SECOND)
    assert (dict(p.region.paths), dict(p.region.in_use)) == before
    assert set(p.region.keys) == keys
    assert len(connected(p)) == 4


def test_initiations_of_an_earlier_process_cost_no_path() -> None:
    p = two_uplinks(7)
    old = recorded(p)
    restart(p, "edge")
    p.edge.open(1, LTE)
    p.edge.do(p.up, p.up.set_ways(p.world.now_ns, BOTH))
    p.world.run(p.world.now_ns + 5 * SECOND)
    assert len(connected(p)) == 4
    in_use = dict(p.region.in_use)
    for datagram in old:
        p.region.receive(("203.0.113.9", 9), datagram)
    p.world.run(p.world.now_ns + 20 * SECOND)
    assert p.region.in_use == in_use
    assert len(connected(p)) == 4


@pytest.mark.parametrize("which", ["edge", "region"])
@pytest.mark.parametrize("seed", range(5))
def test_a_process_that_is_started_anew_is_taken_once(which: str, seed: int) -> None:
    p = two_uplinks(seed, 0.3)
    restart(p, which)
    if which == "edge":
        p.edge.open(1, LTE)
        p.edge.do(p.up, p.up.set_ways(p.world.now_ns, BOTH))
    p.world.run(p.world.now_ns + 10 * SECOND)
    assert len(connected(p)) == 4, f"seed {seed}"
    survivor = p.region if which == "edge" else p.edge
    assert [s.fresh for _, s in survivor.states if s.state == "connected"] == [True, True]


def test_another_process_with_the_same_key_at_the_second_address_is_not_taken() -> None:
    p = pair(8)
    p.world.run(3 * SECOND)
    other = Node(p.world, "region", p.region.private, REGION_2)
    other.add(p.edge)
    p.edge.do(p.up, p.up.set_ways(p.world.now_ns, {0: BOTH[0], 1: Way((REGION_2,))}))
    p.world.run(p.world.now_ns + 10 * SECOND)
    assert p.up.drops["another process"] >= 10
    assert p.up.paths[1].state == "connecting"
    assert len(p.edge.states) == 1
    silence(p, REGION)
    p.world.run(p.world.now_ns + 20 * SECOND)
    assert p.up.paths[1].state == "connected", "the first has fallen silent"
    assert p.edge.states[-1][1].fresh


def test_a_path_is_called_from_its_own_socket() -> None:
    p = two_uplinks(9)
    p.edge.open(2, ("198.51.100.6", 7402))
    actions = p.up.set_ways(p.world.now_ns, {0: BOTH[0], 2: Way((REGION,), 2)})
    assert [a.socket for a in actions if isinstance(a, SendHandshake)] == [2]
    p.edge.do(p.up, actions)
    p.world.run(p.world.now_ns + 500 * MS)
    assert p.region.paths[p.down, 2] == ("198.51.100.6", 7402)
