"""A session: all that two nodes agree on beside media. Sans-IO; one object a peer, for as long as the
peer is configured.

Driving it: call `start` once, then for every event the method of its name; each returns the actions to
carry out, in order. Then ask `deadline()` when to call `poll` next. Times are nanoseconds of one
monotonic clock that never goes back; handshake datagrams come through `Acceptor.receive_handshake`, which
finds the session.

The peer's process and the messages belong to the session; keys and addresses belong to its paths
(relay/core/path.py). Its state is that of the best of them: connected when any is, silent when there are
keys but none is connected, else connecting. Who has addresses of the peer opens paths and numbers them
(`set_ways`); the other side learns of a path by its first initiation.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from relay.core.actions import Action, Address, Deliver, StateChanged
from relay.core.channel import Channel, NotConnected
from relay.core.handshake import Caller, HandshakeError, Local
from relay.core.keyring import Keys
from relay.core.path import Path, Shared, Way
from relay.seq import add, distance
from relay.wire import hop
from relay.wire.coding import decode, encode
from relay.wire.fields import WireError
from relay.wire.hop import (
    Acknowledgement,
    Frame,
    Hello,
    Keepalive,
    Latest,
    MtuAck,
    MtuProbe,
    PathChallenge,
    PathResponse,
    Reliable,
    decode_frame,
)
from relay.wire.messages import Message, State, UnknownMessage

STATES = ("connecting", "silent", "connected")
"""From the worst to the best."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer as configured."""

    name: str
    public_key: bytes
    """X25519 public key, 32 bytes."""
    addresses: tuple[Address, ...] = ()
    """Where to call it; empty: it calls us."""


class Session:
    """Made by `Acceptor.add`. `drops` counts what was refused, by reason."""

    def __init__(self, local: Local, peer: Peer) -> None:
        self.peer = peer
        self.state = "connecting"
        self.peer_hello: Hello | None = None
        """What the peer said in the last handshake whose keys were used."""
        self.sending = False
        """Set it while media goes to the peer: that is reported on every 10 ms, so silence tells more."""
        self.drops: Counter[str] = Counter()
        self._shared = Shared(local, peer.public_key, drops=self.drops)
        self._actions = self._shared.actions
        self.paths = {0: Path(self._shared, 0, Way(peer.addresses) if peer.addresses else None)}
        """By number. Path 0 is always there."""
        self._channel = Channel()
        self._state_number = 0
        self._states: dict[type[State], int] = {}
        """The newest number of each kind of state that arrived."""
        self._deadline_ns: int | None = None

    # --- what the driver asks ---

    @property
    def best(self) -> Path:
        """The path that control messages take: connected, heard from of late, with the least RTT."""
        newest_ns = max(path.heard_ns for path in self.paths.values())
        return max(
            self.paths.values(),
            key=lambda path: (
                STATES.index(path.state),
                path.heard_ns + hop.SUSPECT_SENDING > newest_ns,
                -path.rtt,
                -path.id,
            ),
        )

    @property
    def address(self) -> Address | None:
        """Where the peer is, as far as is proven."""
        return self.best.address

    @property
    def mtu(self) -> int:
        """UDP payload bytes that the best path is known to carry."""
        return self.best.mtu

    @property
    def cipher(self) -> int | None:
        """The cipher of the keys in use."""
        current = self.best.ring.current
        return current.cipher if current else None

    @property
    def handshakes(self) -> int:
        """Handshakes completed: keys that were used."""
        return sum(path.handshakes for path in self.paths.values())

    @property
    def initiations(self) -> int:
        """Initiations sent."""
        return sum(path.dialer.initiations for path in self.paths.values())

    @property
    def unacknowledged(self) -> int:
        """Control messages that the peer has not acknowledged; `send_message` raises at
        CHANNEL_QUEUE_MAX."""
        return self._channel.unacknowledged

    def deadline(self) -> int | None:
        """When to call `poll`, in nanoseconds; None: nothing changes before the next event."""
        return self._deadline_ns

    # --- events ---

    def start(self, now_ns: int) -> list[Action]:
        """To be called once, before anything else: a peer with addresses is called."""
        return self.poll(now_ns)

    def poll(self, now_ns: int) -> list[Action]:
        """Time has passed. Every other event ends with this, so that one place decides what is due."""
        for path in self.paths.values():
            path.poll(now_ns, self.sending)
        best = self.best
        self._tell_state(best)
        if best.ring.current and now_ns < best.fresh_until():
            for frame in self._channel.poll(now_ns, best.rtt):
                best.control(frame)
        for path in self.paths.values():
            path.probe(now_ns)
        self._deadline_ns = self._next(now_ns, best)
        return self._take_actions()

    def set_ways(self, now_ns: int, ways: Mapping[int, Way]) -> list[Action]:
        """The paths that we open, by number (below PATHS_MAX). Those that are there go on; those that are
        not named any more end."""
        for path in [path for path in self.paths.values() if path.way and path.way != ways.get(path.id)]:
            path.close()
            if path.id:
                del self.paths[path.id]
        for number, way in ways.items():
            path = self.paths.setdefault(number, Path(self._shared, number))
            path.way = way
        return self.poll(now_ns)

    def receive_initiation(
        self, now_ns: int, address: Address, caller: Caller, socket: int = 0
    ) -> list[Action]:
        """The peer calls, at this socket of ours. It is answered, but nothing that works is given up before
        it has proven to be there."""
        try:
            hello = caller.hello()
            self._called_path(hello).answer(now_ns, address, socket, caller, hello)
        except HandshakeError as error:
            self.drops[error.reason] += 1
        return self.poll(now_ns)

    def receive_response(self, now_ns: int, response: hop.Response) -> list[Action]:
        """The peer answers one of our initiations."""
        try:
            path = self._dialling(response.receiver_index)
            keys = path.dialled(now_ns, response, self._other_process(now_ns, path))
            self._adopt(now_ns, path, keys)
        except HandshakeError as error:
            self.drops[error.reason] += 1
        return self.poll(now_ns)

    def receive_cookie(self, now_ns: int, reply: hop.CookieReply) -> list[Action]:
        """The peer is under load and wants our next handshake datagram to carry this cookie."""
        try:
            self._dialling(reply.receiver_index).cookie(now_ns, reply)
        except HandshakeError as error:
            self.drops[error.reason] += 1
        return self.poll(now_ns)

    def confirmed(self, now_ns: int, local_index: int) -> list[Action]:
        """The first authentic datagram under these keys has arrived."""
        self._confirm(now_ns, local_index)
        return self.poll(now_ns)

    def measured(self, now_ns: int, path_id: int, heard_ns: int, rtt_ns: int) -> list[Action]:
        """What the packet plane says of a path: when something authentic last arrived on it, and its smoothed
        RTT (0: not measured). A summary now and then is enough, so long as it is fresher than SUSPECT, or
        SUSPECT_SENDING if that counts."""
        path = self.paths.get(path_id)
        if path:
            path.heard_ns = max(path.heard_ns, heard_ns)
            path.rtt_ns = rtt_ns or path.rtt_ns
        return self.poll(now_ns)

    def new_address(self, now_ns: int, path_id: int, address: Address, size: int) -> list[Action]:
        """An authentic datagram of `size` bytes came from an address that is not the path's. To be reported
        for each such datagram or for some of them: challenges are paid for by what was reported."""
        path = self.paths.get(path_id)
        if path and address != path.address:
            path.challenges.saw(now_ns, address, size)
        return self.poll(now_ns)

    def receive_control(
        self, now_ns: int, local_index: int, address: Address, size: int, frame: bytes
    ) -> list[Action]:
        """An authentic control frame: the keys and the address that it came under, bytes of UDP payload,
        plaintext."""
        path = self._confirm(
            now_ns, local_index
        )  # the frame may overtake that event, and be of a new instance
        if path:
            try:
                self._handle(now_ns, path, address, size, decode_frame(frame))
            except WireError:
                self.drops["malformed control"] += 1
        return self.poll(now_ns)

    def send_message(self, now_ns: int, message: Message) -> list[Action]:
        """Queues a control message. Raises NotConnected before the peer was first heard, ChannelFull at
        CHANNEL_QUEUE_MAX unacknowledged messages, WireError for a message that breaks the rules of
        wire/messages.py."""
        if self.peer_hello is None:
            raise NotConnected(f"{self.peer.name} has not been connected yet")
        self._channel.send(encode(message))
        return self.poll(now_ns)

    def hang_up(self, now_ns: int) -> list[Action]:
        """The peer has given up the session. It is called if that is on us, and can call again."""
        for path in self.paths.values():
            path.hang_up()
        return self.poll(now_ns)

    def send_state(self, now_ns: int, packed: bytes) -> list[Action]:
        """Sends an encoded State, of which only the last counts: once, and nothing asks whether it arrived.
        Dropped unless there are keys."""
        best = self.best
        if best.ring.current:
            best.control(Latest(self._state_number, packed))
            self._state_number = add(self._state_number, 1)
        return self.poll(now_ns)

    def close(self) -> list[Action]:
        """The peer is no longer configured."""
        for path in self.paths.values():
            path.close()
        self._deadline_ns = None
        return self._take_actions()

    # --- handshakes and keys ---

    def _called_path(self, hello: Hello) -> Path:
        """The path that an initiation is about, a new one if it must be. Raises HandshakeError."""
        if hello.path >= hop.PATHS_MAX:
            raise HandshakeError("path")
        path = self.paths.get(hello.path) or Path(self._shared, hello.path)
        if self.peer_hello and hello.instance == self.peer_hello.instance and not path.count(hello):
            raise HandshakeError("replayed handshake")
        self.paths[hello.path] = path
        return path

    def _dialling(self, local_index: int) -> Path:
        """The path whose handshake has that index. Raises HandshakeError."""
        for path in self.paths.values():
            pending = (keys.local_index for keys in path.ring.pending)
            if path.dialer.half_open(local_index) or local_index in pending:
                return path
        raise HandshakeError("unexpected response")

    def _other_process(self, now_ns: int, path: Path) -> int | None:
        """The peer's process, if it is heard from on another path now: whoever else answers on this one has
        its key, but is a different node, or an old one."""
        others = (p for p in self.paths.values() if p is not path and p.ring.current)
        alive = any(now_ns < p.heard_ns + hop.SUSPECT_SENDING for p in others)
        return self.peer_hello.instance if self.peer_hello and alive else None

    def _confirm(self, now_ns: int, local_index: int) -> Path | None:
        """Something authentic has arrived under these keys; their path."""
        path, keys = self._find(local_index)
        if path is None or keys is None:
            self.drops["dropped keys"] += 1
            return None
        pending, keys.confirmed = keys in path.ring.pending, True
        if pending and path.ours_wins(keys):
            path.ring.keep_beside(keys)
        elif pending:
            self._adopt(now_ns, path, keys)
            path.control(Keepalive(answer=False))  # the peer's first packet under these keys
        path.heard_ns = now_ns
        return path

    def _find(self, local_index: int) -> tuple[Path | None, Keys | None]:
        found = ((path, path.ring.find(local_index)) for path in self.paths.values())
        return next(((path, keys) for path, keys in found if keys), (None, None))

    def _adopt(self, now_ns: int, path: Path, keys: Keys) -> None:
        """Send on these keys. Of another process of the peer, nothing that was agreed on before holds."""
        fresh = self.peer_hello is None or keys.hello.instance != self.peer_hello.instance
        self.peer_hello = keys.hello
        if fresh:
            self._channel = Channel()
            self._state_number = 0
            self._states.clear()
            for other in self.paths.values():
                other.answered = 0
                if other is not path:
                    other.ring.drop_used()
        if not keys.initiator:
            path.count(keys.hello)
        path.adopt(now_ns, keys)
        self._tell_state(path, fresh)

    def _tell_state(self, path: Path, fresh: bool = False) -> None:
        if path.state != self.state or fresh:
            self.state = path.state
            self._actions.append(StateChanged(path.state, path.why, fresh))

    # --- frames ---

    def _handle(self, now_ns: int, path: Path, address: Address, size: int, frame: Frame) -> None:
        match frame:
            case Keepalive(answer):
                if answer:
                    path.control(Keepalive(answer=False))
            case Reliable():
                for message in self._channel.receive(frame):
                    self._deliver(message)
            case Latest(number, message):
                self._state(number, message)
            case Acknowledgement():
                self._channel.acknowledged(frame)
            case PathChallenge(token):
                path.control(PathResponse(token), address)
            case PathResponse(token) if path.challenges.answered(address, token):
                path.move(now_ns, address, path.socket)
            case MtuProbe(probe, probe_size):
                if probe_size != size:
                    raise WireError("an MTU probe that is not as long as it says")
                path.control(MtuAck(probe, size))
            case MtuAck():
                path.answered_probe(now_ns, frame)

    def _state(self, number: int, packed: bytes) -> None:
        try:
            state = decode(packed)
        except UnknownMessage:
            self.drops["unknown message"] += 1
            return
        if not isinstance(state, State):
            raise WireError("a message that belongs in the reliable channel")
        newest = self._states.get(type(state))
        if newest is not None and distance(newest, number) <= 0:
            self.drops["overtaken state"] += 1
            return
        self._states[type(state)] = number
        self._actions.append(Deliver(state))

    def _deliver(self, packed: bytes) -> None:
        """One wrong message does not keep back those behind it."""
        try:
            self._actions.append(Deliver(decode(packed)))
        except UnknownMessage:
            self.drops["unknown message"] += 1
        except WireError:
            self.drops["malformed message"] += 1

    # --- what is due ---

    def _next(self, now_ns: int, best: Path) -> int | None:
        times = [path.deadline(now_ns, self.sending) for path in self.paths.values()]
        if best.ring.current and now_ns < best.fresh_until():
            times.append(self._channel.deadline())
        return min((t for t in times if t is not None), default=None)

    def _take_actions(self) -> list[Action]:
        actions = self._actions[:]
        self._actions.clear()  # the paths append to the same list
        return actions
