"""Nodes with sessions on a lossy link in virtual time: the packet plane is played by a few lines that keep to
the contract of relay/core/actions.py. Everything follows from the seed."""

import hashlib
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from relay.core.acceptor import Acceptor
from relay.core.actions import (
    Action,
    Address,
    Deliver,
    DropKeys,
    InstallKeys,
    SendControl,
    SendHandshake,
    SetAddress,
    SetMtu,
    StateChanged,
    UseKeys,
)
from relay.core.handshake import Identity
from relay.core.noise import public_key
from relay.core.session import Peer, Session
from relay.wire import hop
from relay.wire.messages import Message
from relay_ext.crypto import chacha20_poly1305_seal

MS, SECOND = hop.MS, hop.SECOND
REPORT_BYTES = 72
REPORT_INTERVAL = 250 * MS


@dataclass(frozen=True)
class Sealed:
    """A control datagram, or a report (no frame); whoever holds the key under that index can open it, nobody
    else."""

    index: int
    key: bytes
    frame: bytes | None
    size: int


Datagram = bytes | Sealed


def size_of(datagram: Datagram) -> int:
    return datagram.size if isinstance(datagram, Sealed) else len(datagram)


def mac(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2s(data, key=key, digest_size=16).digest()


def cookie_reply(responder: bytes, datagram: bytes, cookie: bytes) -> bytes:
    """What the packet plane of the node with this public key answers under load."""
    salt = bytes(range(24))
    key = hashlib.blake2s(salt, key=hashlib.blake2s(b"cookie--" + responder).digest()).digest()
    sealed = chacha20_poly1305_seal(key, bytes(12), datagram[-32:-16], cookie)
    return bytes([3, 0, 0, 0]) + datagram[4:8] + salt + sealed


class World:
    def __init__(self, seed: int, loss: float = 0.0, rtt_ms: float = 100.0, mtu: int = 1472) -> None:
        self.rng = random.Random(seed)
        self.loss = loss
        self.delay_ns = int(rtt_ms * MS / 2)
        self.mtu = mtu
        self.now_ns = 0
        self.nodes: dict[Address, Node] = {}
        self.seen: list[tuple[int, Address, Address, Datagram]] = []
        self.blocked: Callable[[Address, Address, Datagram], bool] = lambda source, destination, datagram: (
            False
        )
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()

    def at(self, when_ns: int, call: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when_ns, next(self._order), call))

    def send(self, source: Address, destination: Address, datagram: Datagram) -> None:
        self.seen.append((self.now_ns, source, destination, datagram))
        lost = self.rng.random() < self.loss or self.blocked(source, destination, datagram)
        if not lost and size_of(datagram) <= self.mtu:
            self.at(self.now_ns + self.delay_ns, lambda: self.arrive(source, destination, datagram))

    def arrive(self, source: Address, destination: Address, datagram: Datagram) -> None:
        node = self.nodes.get(destination)
        if node:
            node.receive(source, datagram, destination)

    def run(self, until_ns: int, stop: Callable[[], bool] = lambda: False) -> None:
        while self._heap and self._heap[0][0] <= until_ns and not stop():
            self.now_ns, _, call = heapq.heappop(self._heap)
            call()
        if not stop():
            self.now_ns = until_ns


class Node:
    """A process. `address` is how the world sees its socket 0."""

    def __init__(self, world: World, name: str, private: bytes, address: Address) -> None:
        self.world = world
        self.name = name
        self.address = address
        self.public = public_key(private)
        self.private = private
        instance = int.from_bytes(world.rng.randbytes(8), "big")
        self.acceptor = Acceptor(Identity(private, instance, name), world.rng.randbytes)
        self.keys: dict[int, InstallKeys] = {}
        self.unconfirmed: set[int] = set()
        self.in_use: dict[tuple[Session, int], int] = {}
        """By session and path, as is the next."""
        self.paths: dict[tuple[Session, int], Address] = {}
        self.sockets = {0: address}
        self.mtus: dict[Session, int] = {}
        self.delivered: list[Message] = []
        self.states: list[tuple[int, StateChanged]] = []
        self._wakes: dict[Session, int] = {}
        world.nodes[address] = self

    def add(self, other: "Node", *addresses: Address) -> Session:
        session = self.acceptor.add(Peer("peer", other.public, addresses))
        self.do(session, session.start(self.world.now_ns))
        return session

    def open(self, socket: int, address: Address) -> None:
        self.sockets[socket] = address
        self.world.nodes[address] = self

    def move(self, address: Address) -> None:
        del self.world.nodes[self.address]
        self.address = address
        self.open(0, address)

    def kill(self) -> None:
        for address in self.sockets.values():
            del self.world.nodes[address]
        self._wakes.clear()
        self.acceptor = Acceptor(Identity(self.private, 0, "dead"), self.world.rng.randbytes)

    def do(self, session: Session, actions: list[Action]) -> None:
        for action in actions:
            self._one(session, action)
        due = session.deadline()
        if due is None or session not in self.acceptor.sessions:
            self._wakes.pop(session, None)
        elif self._wakes.get(session) != due:
            self._wakes[session] = due
            self.world.at(max(due, self.world.now_ns), lambda: self._wake(session, due))

    def _wake(self, session: Session, due: int) -> None:
        if self._wakes.get(session) == due:
            del self._wakes[session]
            self.do(session, session.poll(self.world.now_ns))
            following = session.deadline()
            assert following is None or following > self.world.now_ns, "a session must not ask for the past"

    def _one(self, session: Session, action: Action) -> None:
        match action:
            case SendHandshake(address, datagram, socket):
                self.world.send(self.sockets[socket], address, datagram)
            case InstallKeys():
                self.keys[action.local_index] = action
                self.unconfirmed.add(action.local_index)
            case UseKeys(path, index):
                if (session, path) not in self.in_use:
                    self.world.at(self.world.now_ns, lambda: self._report(session, path))
                self.in_use[session, path] = index
            case DropKeys(index):
                del self.keys[index]
            case SendControl(path, address, frame, pad_to):
                keys = self.keys[self.in_use[session, path]]
                size = pad_to or hop.HEADER_BYTES + len(frame) + hop.TAG_BYTES
                sealed = Sealed(keys.remote_index, keys.send_key, frame, size)
                source = self.sockets[session.paths[path].socket]
                self.world.send(source, address or self.paths[session, path], sealed)
            case SetAddress(path, address):
                self.paths[session, path] = address
            case SetMtu(0, size):
                self.mtus[session] = size
            case Deliver(message):
                self.delivered.append(message)
            case StateChanged():
                self.states.append((self.world.now_ns, action))

    def _report(self, session: Session, path: int) -> None:
        """What the packet plane sends by itself on an idle hop."""
        if session not in self.acceptor.sessions:
            return
        keys = self.keys.get(self.in_use[session, path])
        if keys is not None:
            report = Sealed(keys.remote_index, keys.send_key, None, REPORT_BYTES)
            source = self.sockets[session.paths[path].socket]
            self.world.send(source, self.paths[session, path], report)
        self.world.at(self.world.now_ns + REPORT_INTERVAL, lambda: self._report(session, path))

    def receive(self, source: Address, datagram: Datagram, to: Address | None = None) -> None:
        now_ns = self.world.now_ns
        if isinstance(datagram, bytes):
            socket = next((number for number, address in self.sockets.items() if address == to), 0)
            taken = self.acceptor.receive_handshake(now_ns, source, datagram, socket)
            if taken:
                self.do(*taken)
            return
        keys = self.keys.get(datagram.index)
        session = self.acceptor.session(datagram.index)
        if keys is None or session is None or keys.receive_key != datagram.key:
            return
        if datagram.index in self.unconfirmed:
            self.unconfirmed.remove(datagram.index)
            self.do(session, session.confirmed(now_ns, datagram.index))
        self.do(session, session.measured(now_ns, keys.path, now_ns, 0))
        if source != self.paths.get((session, keys.path)):
            self.do(session, session.new_address(now_ns, keys.path, source, datagram.size))
        if datagram.frame is None:
            return
        actions = session.receive_control(now_ns, datagram.index, source, datagram.size, datagram.frame)
        self.do(session, actions)


EDGE, REGION = ("192.0.2.1", 7400), ("192.0.2.2", 7400)


@dataclass
class Pair:
    """An edge that calls a region."""

    world: World
    edge: Node
    region: Node
    up: Session
    down: Session

    @property
    def connected(self) -> bool:
        return self.up.state == self.down.state == "connected"

    def agree(self) -> bool:
        """Each side accepts what the other one sends under."""
        return accepts(self.edge, self.up, self.region) and accepts(self.region, self.down, self.edge)


def accepts(sender: Node, session: Session, receiver: Node) -> bool:
    """The receiver can open what the sender sends."""
    ours = sender.keys[sender.in_use[session, 0]]
    theirs = receiver.keys.get(ours.remote_index)
    return theirs is not None and theirs.receive_key == ours.send_key


def pair(
    seed: int, loss: float = 0.0, rtt_ms: float = 100.0, *, both_call: bool = False, mtu: int = 1472
) -> Pair:
    world = World(seed, loss, rtt_ms, mtu)
    region = Node(world, "region", world.rng.randbytes(32), REGION)
    edge = Node(world, "edge", world.rng.randbytes(32), EDGE)
    down = region.add(edge, *([EDGE] if both_call else []))
    up = edge.add(region, REGION)
    return Pair(world, edge, region, up, down)


def restart(p: Pair, which: str) -> None:
    """The process of one side ends and another one begins at the same address, with the same key."""
    if which == "region":
        p.region.kill()
        p.region = Node(p.world, "region", p.region.private, p.region.address)
        p.down = p.region.add(p.edge)
    else:
        p.edge.kill()
        p.edge = Node(p.world, "edge", p.edge.private, p.edge.address)
        p.up = p.edge.add(p.region, REGION)
