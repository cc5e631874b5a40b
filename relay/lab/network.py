"""A network in virtual time: nodes without sockets, links between them, and a clock that jumps.

A node is any object with `receive` and `poll`, the seam that every protocol machine has. `Network.run` goes
from one instant at which something happens to the next. At an instant, in this order: what was put there with
`at` runs; what comes out of links is collected into one batch a node; each node receives its batch; each node
that received, or whose deadline is due, is polled, and what it sends enters the links. Ties are broken by
insertion order everywhere, so that equal seeds give equal runs.

An address is what a node is seen under; a link belongs to where it stands. `rebind` changes the first and
leaves the second, as a NAT does that forgets its mapping.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Protocol

from relay.lab.link import Link, LinkConfig, LinkProfile, packet_size, seeded

Address = tuple[str, int]
"""(host, port)"""
Received = tuple[int, Address, bytes]
"""(the node's port id, the source as the receiver sees it, payload)"""
Sent = tuple[int, Address, bytes]
"""(the node's port id, destination, payload)"""
Packet = tuple[Address, Address, bytes]
"""What is under way in a link: (source, destination, payload)"""

_MAX_TURNS = 10_000  # turns at one instant; more means that nodes answer one another without end
_STALE_TIMERS = 1_000  # superseded entries that the heap may hold before it is built anew


class Node(Protocol):
    """What the network drives."""

    def receive(self, now_ns: int, datagrams: list[Received]) -> None:
        """Take datagrams that arrived at the same instant, in the order of arrival."""

    def poll(self, now_ns: int) -> tuple[list[Sent], int | None]:
        """What to send now, and the time of the next poll (None: not before something is received)."""


@dataclass(slots=True, eq=False)
class _Station:
    """A node in the network; its ports by their id."""

    node: Node
    ports: dict[int, "_Port"] = field(default_factory=dict)
    inbox: list[Received] = field(default_factory=list)
    due_ns: int | None = None


@dataclass(slots=True, eq=False)
class _Port:
    """One port of a node: where it stands (`host`), and the address under which others see it."""

    station: _Station
    port_id: int
    host: str
    address: Address


@dataclass(slots=True, eq=False)
class _Wire:
    """A link and the time at which something comes out of it."""

    link: Link[Packet]
    due_ns: int | None = None


class Network:
    """Nodes, links, and the virtual time in ns, which begins at 0."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now_ns = 0
        self.unroutable = 0
        """Datagrams to an address at which nobody was when they were sent or when they arrived."""
        self._stations: dict[int, _Station] = {}  # by the identity of the node
        self._bound: dict[Address, _Port] = {}
        self._wires: dict[tuple[str, str], _Wire] = {}
        self._calls: list[tuple[int, int, Callable[[], object]]] = []
        self._timers: list[tuple[int, int, _Station | _Wire]] = []
        self._order = 0

    def attach(self, node: Node, port_id: int, address: Address) -> None:
        """Give a node a port at `address`; it is polled at once. Raises ValueError when either is taken."""
        station = self._stations.setdefault(id(node), _Station(node))
        if port_id in station.ports:
            raise ValueError(f"the node has a port {port_id} already")
        port = _Port(station, port_id, address[0], address)
        self._bind(port, address)
        station.ports[port_id] = port
        self._schedule(station, self.now_ns)

    def detach(self, node: Node) -> None:
        """Take a node out, as when its process dies: it is not driven any more and its addresses are free."""
        station = self._stations.pop(id(node))
        station.due_ns = None
        for port in station.ports.values():
            del self._bound[port.address]

    def rebind(self, address: Address, new: Address) -> None:
        """Change the address of a port as others see it; its links stay.

        What is on its way to the old address is lost. Raises KeyError when nobody is at `address`, ValueError
        when `new` is taken.
        """
        port = self._bound[address]
        self._bind(port, new)
        del self._bound[address]
        port.address = new

    def set_link(self, source: str, destination: str, profile: LinkProfile) -> None:
        """Set what one direction of the link between two hosts does from now on. Until then it is perfect."""
        wire = self._wire(source, destination)
        wire.link.configure(self.now_ns, profile)
        self._schedule(wire, wire.link.deadline())

    def link(self, source: str, destination: str) -> Link[Packet]:
        """The link from one host to another, for its counters."""
        return self._wire(source, destination).link

    def at(self, time_ns: int, call: Callable[[], object]) -> None:
        """Call `call` at a time. If it changes a node from outside, `wake` the node."""
        self._order += 1
        heappush(self._calls, (max(time_ns, self.now_ns), self._order, call))

    def wake(self, node: Node) -> None:
        """Poll a node at the present instant, because something outside the network has changed it."""
        self._schedule(self._stations[id(node)], self.now_ns)

    def run(self, until_ns: int) -> None:
        """Let everything happen up to and including `until_ns`.

        Raises RuntimeError when one instant does not come to an end: nodes that answer one another over links
        without delay, or a node whose deadline never moves on.
        """
        turns = 0
        while (next_ns := self._next_ns()) is not None and next_ns <= until_ns:
            turns = turns + 1 if next_ns == self.now_ns else 0
            if turns > _MAX_TURNS:
                raise RuntimeError(f"more than {_MAX_TURNS} turns at {next_ns} ns")
            self.now_ns = next_ns
            self._turn(next_ns)
        self.now_ns = max(self.now_ns, until_ns)

    def _next_ns(self) -> int | None:
        heads = [heap[0][0] for heap in (self._calls, self._timers) if heap]
        return min(heads, default=None)

    def _turn(self, now_ns: int) -> None:
        """Everything that happens at one instant, once."""
        while self._calls and self._calls[0][0] == now_ns:
            heappop(self._calls)[2]()
        ready: dict[_Station, None] = {}  # a set that keeps its order
        wires: list[_Wire] = []
        while self._timers and self._timers[0][0] == now_ns:
            _, _, timer = heappop(self._timers)
            if timer.due_ns != now_ns:
                continue  # superseded
            timer.due_ns = None
            if isinstance(timer, _Wire):
                wires.append(timer)
            else:
                ready[timer] = None
        for wire in wires:
            self._deliver(wire, ready)
        for station in ready:
            if station.inbox:
                batch, station.inbox = station.inbox, []
                station.node.receive(now_ns, batch)
        for station in ready:
            sent, deadline_ns = station.node.poll(now_ns)
            self._send(station, sent)
            self._schedule(station, None if deadline_ns is None else max(deadline_ns, now_ns))

    def _deliver(self, wire: _Wire, ready: dict[_Station, None]) -> None:
        for _, (source, destination, payload) in wire.link.poll(self.now_ns):
            port = self._bound.get(destination)
            if port is None:
                self.unroutable += 1
                continue
            port.station.inbox.append((port.port_id, source, payload))
            ready[port.station] = None
        self._schedule(wire, wire.link.deadline())

    def _send(self, station: _Station, sent: list[Sent]) -> None:
        touched: dict[_Wire, None] = {}
        for port_id, destination, payload in sent:
            port, target = station.ports[port_id], self._bound.get(destination)
            if target is None:
                self.unroutable += 1
                continue
            wire = self._wire(port.host, target.host)
            size = packet_size(len(payload), destination[0])
            wire.link.send(self.now_ns, size, (port.address, destination, payload))
            touched[wire] = None
        for wire in touched:
            self._schedule(wire, wire.link.deadline())

    def _bind(self, port: _Port, address: Address) -> None:
        if address in self._bound:
            raise ValueError(f"address {address} is taken")
        self._bound[address] = port

    def _wire(self, source: str, destination: str) -> _Wire:
        wire = self._wires.get((source, destination))
        if wire is None:
            rng = seeded(self.seed, f"{source}>{destination}")
            wire = self._wires[source, destination] = _Wire(Link(LinkConfig(), rng, self.now_ns))
        return wire

    def _schedule(self, timer: _Station | _Wire, due_ns: int | None) -> None:
        """Set when a node or a link is due; an earlier entry of it in the heap is superseded."""
        if due_ns == timer.due_ns:
            return
        timer.due_ns = due_ns
        if due_ns is None:
            return
        self._order += 1
        heappush(self._timers, (due_ns, self._order, timer))
        if len(self._timers) > len(self._stations) + len(self._wires) + _STALE_TIMERS:
            self._timers = list({e[2]: e for e in self._timers if e[2].due_ns == e[0]}.values())
            heapify(self._timers)
