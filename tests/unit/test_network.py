"""The network in virtual time: what arrives where, when, in which batch, and that runs repeat."""

from dataclasses import dataclass, field

import pytest

from relay.lab.link import LinkConfig, bursts
from relay.lab.network import Address, Network, Received, Sent

MS = 1_000_000
S = 1000 * MS
A: Address = ("a", 1)
B: Address = ("b", 1)


@dataclass
class Script:
    """A node that sends what it is told to, when it is told to, and keeps what it receives."""

    plan: list[tuple[int, Sent]] = field(default_factory=list)
    echo: bool = False
    log: list[tuple[int, list[Received]]] = field(default_factory=list)
    polls: list[int] = field(default_factory=list)
    replies: list[Sent] = field(default_factory=list)

    def receive(self, now_ns: int, datagrams: list[Received]) -> None:
        self.log.append((now_ns, datagrams))
        if self.echo:
            self.replies += datagrams  # a source has the form of a destination

    def poll(self, now_ns: int) -> tuple[list[Sent], int | None]:
        self.polls.append(now_ns)
        out, self.replies = self.replies, []
        while self.plan and self.plan[0][0] <= now_ns:
            out.append(self.plan.pop(0)[1])
        return out, self.plan[0][0] if self.plan else None


def pair(sender: Script, receiver: Script, seed: int = 1) -> Network:
    network = Network(seed)
    network.attach(sender, 0, A)
    network.attach(receiver, 0, B)
    return network


def steady(count: int, spacing_ns: int, to: Address = B) -> list[tuple[int, Sent]]:
    return [(n * spacing_ns, (0, to, n.to_bytes(4, "big"))) for n in range(count)]


def test_without_a_link_set_delivery_is_perfect_and_instant() -> None:
    sender, receiver = Script(steady(3, MS)), Script()
    network = pair(sender, receiver)
    network.run(S)
    assert receiver.log == [(n * MS, [(0, A, n.to_bytes(4, "big"))]) for n in range(3)]
    assert network.now_ns == S


def test_a_link_belongs_to_one_direction() -> None:
    sender, receiver = Script(steady(1, MS)), Script(echo=True)
    network = pair(sender, receiver)
    network.set_link("a", "b", LinkConfig(delay_ms=30))
    network.set_link("b", "a", LinkConfig(delay_ms=20))
    network.run(S)
    assert [t for t, _ in receiver.log] == [30 * MS]
    assert sender.log == [(50 * MS, [(0, B, bytes(4))])]


def test_equal_arrival_times_make_one_batch_in_order_of_sending() -> None:
    sender = Script([(0, (0, B, b"x")), (0, (0, B, b"y")), (10 * MS, (0, B, b"z"))])
    other = Script([(5 * MS, (7, B, b"w"))])
    receiver = Script()
    network = pair(sender, receiver)
    network.attach(other, 7, ("c", 1))
    network.set_link("a", "b", LinkConfig(delay_ms=10))
    network.set_link("c", "b", LinkConfig(delay_ms=5))
    network.run(S)
    assert receiver.log == [
        (10 * MS, [(0, A, b"x"), (0, A, b"y"), (0, ("c", 1), b"w")]),
        (20 * MS, [(0, A, b"z")]),
    ]


def test_a_node_is_polled_at_attachment_at_its_deadline_and_after_receiving() -> None:
    sender, receiver = Script([(3 * MS, (0, B, b""))]), Script()
    pair(sender, receiver).run(S)
    assert sender.polls == [0, 3 * MS]
    assert receiver.polls == [0, 3 * MS]


def test_a_node_with_two_ports_has_two_paths() -> None:
    node, peer = Script([(0, (0, B, b"one")), (0, (1, B, b"two"))]), Script(echo=True)
    network = pair(node, peer)
    network.attach(node, 1, ("a2", 1))
    network.set_link("a", "b", LinkConfig(delay_ms=10))
    network.set_link("a2", "b", LinkConfig(delay_ms=40))
    network.run(S)
    assert node.log == [(10 * MS, [(0, B, b"one")]), (40 * MS, [(1, B, b"two")])]


def test_rebinding_changes_what_others_see_and_keeps_the_link() -> None:
    sender, receiver = Script(steady(4, 10 * MS)), Script(echo=True)
    network = pair(sender, receiver)
    for source, destination in (("a", "b"), ("b", "a")):
        network.set_link(source, destination, LinkConfig(delay_ms=4))
    network.at(15 * MS, lambda: network.rebind(A, ("nat", 9)))  # one answer is under way: 10 + 4 + 4
    network.run(S)
    assert [source for _, batch in receiver.log for _, source, _ in batch] == [A, A, ("nat", 9), ("nat", 9)]
    assert [t for t, _ in sender.log] == [8 * MS, 28 * MS, 38 * MS]
    assert network.unroutable == 1


def test_an_address_can_be_taken_only_once() -> None:
    network = pair(Script(), Script())
    with pytest.raises(ValueError, match="taken"):
        network.attach(Script(), 0, B)
    with pytest.raises(ValueError, match="taken"):
        network.rebind(A, B)


def test_a_port_of_a_node_can_be_attached_only_once() -> None:
    node = Script()
    network = Network(1)
    network.attach(node, 0, A)
    with pytest.raises(ValueError, match="port 0"):
        network.attach(node, 0, ("a", 2))


def test_a_node_that_is_detached_is_driven_no_more_and_another_takes_its_address() -> None:
    sender, receiver, successor = Script(steady(10, 10 * MS)), Script(steady(99, MS, to=A)), Script()
    network = pair(sender, receiver)
    network.at(35 * MS, lambda: network.detach(receiver))
    network.at(55 * MS, lambda: network.attach(successor, 0, B))
    network.run(S)
    assert len(receiver.log) == 4
    assert receiver.polls[-1] < 35 * MS
    assert [t // MS for t, _ in successor.log] == [60, 70, 80, 90]
    assert network.unroutable == 2


def test_calls_run_at_their_time_in_the_order_they_were_given() -> None:
    network, seen = Network(1), list[tuple[int, str]]()
    network.at(2 * MS, lambda: seen.append((network.now_ns, "late")))
    network.at(MS, lambda: seen.append((network.now_ns, "first")))
    network.at(MS, lambda: network.at(0, lambda: seen.append((network.now_ns, "within"))))
    network.at(MS, lambda: seen.append((network.now_ns, "second")))
    network.run(MS)
    assert seen == [(MS, "first"), (MS, "second"), (MS, "within")]
    network.run(2 * MS)
    assert seen[-1] == (2 * MS, "late")


def test_a_node_changed_from_outside_is_polled_when_woken() -> None:
    sender, receiver = Script(), Script()
    network = pair(sender, receiver)

    def change() -> None:
        sender.replies.append((0, B, b"now"))
        network.wake(sender)

    network.at(MS, change)
    network.run(S)
    assert receiver.log == [(MS, [(0, A, b"now")])]


def test_a_link_can_change_while_datagrams_are_under_way() -> None:
    sender, receiver = Script([(0, (0, B, bytes(972))) for _ in range(4)]), Script()
    network = pair(sender, receiver)
    network.set_link("a", "b", LinkConfig(rate_bps=8e6))  # 1 ms each with headers
    network.at(2 * MS, lambda: network.set_link("a", "b", LinkConfig(rate_bps=4e6)))
    network.run(S)
    assert [t for t, _ in receiver.log] == [MS, 2 * MS, 4 * MS, 6 * MS]


def test_an_endless_exchange_at_one_instant_is_an_error() -> None:
    network = pair(Script(steady(1, MS), echo=True), Script(echo=True))
    with pytest.raises(RuntimeError, match="turns at 0 ns"):
        network.run(S)


class Idle:
    """A node whose timer of an hour starts anew with every poll."""

    def receive(self, now_ns: int, datagrams: list[Received]) -> None: ...

    def poll(self, now_ns: int) -> tuple[list[Sent], int | None]:
        return [], now_ns + 3600 * S


def test_superseded_deadlines_do_not_pile_up() -> None:
    node, network = Idle(), Network(1)
    network.attach(node, 0, A)
    for _ in range(5000):
        network.run(network.now_ns + MS)
        network.wake(node)
    assert len(network._timers) <= 1_002


def lossy_run(seed: int) -> list[tuple[int, list[Received]]]:
    sender, receiver = Script(steady(5000, MS)), Script(echo=True)
    network = pair(sender, receiver, seed)
    lossy = LinkConfig(delay_ms=50, jitter_ms=20, loss=bursts(0.3, 4), reorder=0.01, reorder_ms=5)
    network.set_link("a", "b", lossy)
    network.set_link("b", "a", lossy)
    network.run(10 * S)
    assert network.link("a", "b").counters.lost_random > 0
    return sender.log


def test_equal_seeds_give_equal_runs() -> None:
    assert lossy_run(1) == lossy_run(1)
    assert lossy_run(1) != lossy_run(2)


def test_a_link_more_changes_nothing_for_the_others() -> None:
    def run(with_more: bool) -> list[tuple[int, list[Received]]]:
        sender, receiver = Script(steady(1000, MS)), Script()
        network = pair(sender, receiver)
        if with_more:
            network.attach(Script(steady(1000, MS, to=A)), 0, ("c", 1))
            network.set_link("c", "a", LinkConfig(loss=0.5))
        network.set_link("a", "b", LinkConfig(delay_ms=5, loss=0.3))
        network.run(2 * S)
        return receiver.log

    assert run(False) == run(True)
