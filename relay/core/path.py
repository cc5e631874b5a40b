"""One path of a session: a socket of ours and an address of the peer, and what is agreed on for the two.

A path has its own handshakes, keys, address, path MTU and silence; the peer's process and its messages belong
to the session, which drives its paths (relay/core/session.py) and takes their actions from one list.

    connecting   no keys to send on. With a way to the peer, the path dials for ever.
    connected    keys in use. It dials again, keeping them, when they grow old, when the peer does not take
                 them, and after SUSPECT of silence, SUSPECT_SENDING while media goes to the peer.
    silent       as connected, but nothing authentic has been heard for SILENT. Back to connected with the
                 next authentic packet, to connecting when the keys are REJECT old.

When to dial is decided from the state at every poll (`_dial_ns`), never remembered, so that no sequence
of events can leave it stuck.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from relay.core.actions import Action, Address, SendControl, SendHandshake, SetAddress, SetMtu
from relay.core.challenge import Challenges
from relay.core.dialer import CookieJar, Dialer
from relay.core.handshake import Caller, HandshakeError, Local, mac1_of, respond
from relay.core.keyring import Keyring, Keys
from relay.core.pmtu import PathMtu, largest_datagram
from relay.seq import Count, distance
from relay.wire import hop
from relay.wire.hop import Frame, Hello, Keepalive, MtuAck, encode_frame

RTT_UNKNOWN = 100 * hop.MS
"""Nanoseconds taken for the RTT until one has been measured."""


@dataclass(frozen=True, slots=True)
class Way:
    """How we call the peer on a path that we open."""

    addresses: tuple[Address, ...]
    """The peer's, taken in turn."""
    socket: int = 0
    """The number by which the packet plane knows the socket to call from."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What the paths of a session have in common."""

    local: Local
    peer_public: bytes
    actions: list[Action] = field(default_factory=list)
    drops: Counter[str] = field(default_factory=Counter)
    numbers: Iterator[int] = field(default_factory=lambda: Count(1))
    """Of initiations: they go on when a path is closed and opened anew."""
    generations: Iterator[int] = field(default_factory=lambda: Count(1))
    """Of installations of keys."""


class Path:
    """Made and driven by `Session`: after every event, `poll` and `probe`; then `deadline`."""

    def __init__(self, shared: Shared, path_id: int, way: Way | None = None) -> None:
        self.id = path_id
        self.way = way
        """None: the peer opens this path."""
        self.state = "connecting"
        self.why = ""
        """What brought about the state."""
        self.address: Address | None = None
        """Where the peer is, as far as is proven."""
        self.socket = way.socket if way else 0
        """Where the path's datagrams leave."""
        self.handshakes = 0
        """Handshakes completed: keys that were used."""
        self.heard_ns = 0
        self.rtt_ns: int | None = None
        self.answered = 0
        """Number of the last initiation that was answered, of the peer's present process."""
        self._shared = shared
        self.cookies = CookieJar(shared.peer_public)
        self.dialer = Dialer(shared.local, shared.peer_public, path_id, self.cookies, shared.numbers)
        self.ring = Keyring(path_id, shared.actions, shared.local.release, shared.generations)
        self.challenges = Challenges(shared.local.random_bytes)
        self.pmtu: PathMtu | None = None
        self._confirm_ns = 0
        self._confirm_interval_ns = 0
        self._mtu_told = hop.MTU_BASE

    # --- what the session asks ---

    @property
    def mtu(self) -> int:
        """UDP payload bytes that the path is known to carry."""
        return self.pmtu.size if self.pmtu else hop.MTU_BASE

    @property
    def rtt(self) -> int:
        return RTT_UNKNOWN if self.rtt_ns is None else self.rtt_ns

    def fresh_until(self) -> int:
        """Nothing is wasted on a path that is away: until then it counts as there."""
        return self.heard_ns + hop.SUSPECT

    def deadline(self, now_ns: int, sending: bool) -> int | None:
        times = [self.ring.deadline(), self.dialer.deadline()]
        current = self.ring.current
        if current:
            times.append(self.challenges.deadline())
            if not current.confirmed:
                times.append(self._confirm_ns)
            if not self.dialer.active:
                times.append(self._dial_ns(current, sending))
            if self.state == "connected":
                times.append(self.heard_ns + hop.SILENT)
            if self.pmtu and now_ns < self.fresh_until():
                times.append(self.pmtu.deadline())
        return min((t for t in times if t is not None), default=None)

    # --- what is due ---

    def poll(self, now_ns: int, sending: bool) -> None:
        """Do what is due; `sending`: media goes to the peer."""
        self._expire(now_ns)
        self._dial(now_ns, sending)
        current = self.ring.current
        if current:
            self._ask_to_confirm(now_ns, current)
            for address, challenge in self.challenges.poll(now_ns, self.rtt):
                self.control(challenge, address)

    def probe(self, now_ns: int) -> None:
        """Search for the path MTU; after `poll`, and after messages, which matter more."""
        if self.pmtu and self.ring.current and now_ns < self.fresh_until():
            probe = self.pmtu.poll(now_ns, self.rtt, self.heard_ns)
            if probe:
                self.control(probe, pad_to=probe.size)
        if self.mtu != self._mtu_told:
            self._mtu_told = self.mtu
            self._shared.actions.append(SetMtu(self.id, self.mtu))

    def hang_up(self) -> None:
        """Nothing is sent on these keys any more."""
        self.dialer.stop()
        self.ring.clear()

    def close(self) -> None:
        self.way = None
        self.hang_up()
        self._set_state("connecting", "the path was closed")

    def _expire(self, now_ns: int) -> None:
        self.ring.expire(now_ns)
        if self.ring.current is None:
            self._set_state("connecting", "keys have ended")
        elif now_ns >= self.heard_ns + hop.SILENT:
            self._set_state("silent", f"nothing heard for {hop.SILENT // hop.SECOND} s")
        else:
            self._set_state("connected", "heard again")

    def _set_state(self, state: str, why: str) -> None:
        if state != self.state:
            self.state, self.why = state, why

    def _dial(self, now_ns: int, sending: bool) -> None:
        current = self.ring.current
        wanted = now_ns >= self._dial_ns(current, sending) if current else self.way is not None
        if not wanted:
            self.dialer.stop()
            return
        if not self.dialer.active:
            self.dialer.start(now_ns)
        here = (self.address,) if current and self.address else ()
        addresses = self.way.addresses if self.way else ()
        socket = self.way.socket if self.way else self.socket
        initiation = self.dialer.poll(now_ns, self.rtt_ns or 0, (*here, *addresses), socket)
        if initiation:
            self._shared.actions.append(initiation)

    def _dial_ns(self, current: Keys, sending: bool) -> int:
        """From when on new keys are wanted: age, silence, or a peer that does not take these."""
        unconfirmed_ns = current.created_ns + hop.CONFIRM_GIVE_UP
        times = (current.rekey_ns, self.heard_ns + (hop.SUSPECT_SENDING if sending else hop.SUSPECT))
        return min(times if current.confirmed else (*times, unconfirmed_ns))

    def _ask_to_confirm(self, now_ns: int, current: Keys) -> None:
        if not current.confirmed and now_ns >= self._confirm_ns:
            grown_ns = int(self._confirm_interval_ns * hop.RESEND_BACKOFF)
            first_ns = max(hop.CONFIRM_RETRY_MIN, self.rtt // 2)
            self._confirm_interval_ns = max(first_ns, min(grown_ns, hop.CONFIRM_RETRY_MAX))
            self._confirm_ns = now_ns + self._confirm_interval_ns
            self.control(Keepalive(answer=True))

    # --- handshakes and keys ---

    def answer(self, now_ns: int, address: Address, socket: int, caller: Caller, hello: Hello) -> None:
        """Answer an initiation, where it came from. Raises HandshakeError."""
        local = self._shared.local
        index = local.allocate()
        try:
            datagram, transport = respond(
                local.identity,
                caller,
                hello,
                instance=local.instance,
                local_index=index,
                ephemeral=local.random_bytes(32),
                cookie=self.cookies.cookie(now_ns, address),
            )
        except HandshakeError:
            local.release(index)
            raise
        keys = Keys(
            local_index=index,
            remote_index=caller.remote_index,
            initiator=False,
            created_ns=now_ns,
            hello=hello,
            address=address,
            socket=socket,
            cipher=transport.cipher,
            mac1=mac1_of(datagram),
        )
        self.ring.install(keys, transport)
        self._shared.actions.append(SendHandshake(address, datagram, socket))

    def count(self, hello: Hello) -> bool:
        """An initiation of the peer's present process is answered; False: one as late as this was before."""
        if distance(self.answered, hello.number) <= 0:
            return False
        self.answered = hello.number
        return True

    def dialled(self, now_ns: int, response: hop.Response, instance: int | None) -> Keys:
        """The keys of a handshake that we began, installed. Raises HandshakeError, also when `instance` is
        another process than the one that answers."""
        dialled = self.dialer.response(now_ns, response)
        if instance is not None and dialled.hello.instance != instance:
            self._shared.local.release(dialled.local_index)
            raise HandshakeError("another process")
        keys = Keys(
            local_index=dialled.local_index,
            remote_index=response.sender_index,
            initiator=True,
            created_ns=now_ns,
            hello=dialled.hello,
            address=dialled.address,  # where our initiation went, and evidently arrived
            socket=dialled.socket,
            cipher=dialled.keys.cipher,
        )
        if self.rtt_ns is None:
            self.rtt_ns = dialled.rtt_ns
        self.ring.install(keys, dialled.keys)
        self._confirm_ns, self._confirm_interval_ns = now_ns, 0
        return keys

    def cookie(self, now_ns: int, reply: hop.CookieReply) -> None:
        """The peer is under load and wants our next handshake datagram to carry this. Raises
        HandshakeError."""
        asked = self.dialer.half_open(reply.receiver_index)
        if asked is None:
            pending = [keys for keys in self.ring.pending if keys.local_index == reply.receiver_index]
            asked = next(((keys.address, keys.mac1) for keys in pending), None)
        if asked is None:
            raise HandshakeError("unexpected cookie")
        self.cookies.learn(now_ns, asked[0], reply, asked[1])

    def ours_wins(self, theirs: Keys) -> bool:
        """Simultaneous opening: of two handshakes of the same processes, both nodes use the one that the
        lower key began."""
        ours = self.ring.current
        return (
            ours is not None
            and ours.initiator
            and self._shared.local.identity.public < self._shared.peer_public
            and ours.hello.instance == theirs.hello.instance
            and abs(ours.created_ns - theirs.created_ns) < hop.SIMULTANEOUS
        )

    def adopt(self, now_ns: int, keys: Keys) -> None:
        """Send on these keys, to the address that they were agreed with."""
        self.move(now_ns, keys.address, keys.socket)
        self.ring.use(keys)
        self.handshakes += 1
        self.heard_ns = now_ns
        self._set_state("connected", "handshake")

    def move(self, now_ns: int, address: Address, socket: int) -> None:
        if (address, socket) == (self.address, self.socket):
            return
        self.address, self.socket = address, socket
        self.challenges = Challenges(self._shared.local.random_bytes)
        self.pmtu = PathMtu(now_ns, largest_datagram(address[0]))
        self._shared.actions.append(SetAddress(self.id, address, socket))

    # --- frames ---

    def control(self, frame: Frame, address: Address | None = None, pad_to: int | None = None) -> None:
        self._shared.actions.append(SendControl(self.id, address, encode_frame(frame), pad_to))

    def answered_probe(self, now_ns: int, ack: MtuAck) -> None:
        if self.pmtu:
            self.pmtu.acknowledged(now_ns, ack.probe, ack.size)
