"""A session: all that two nodes agree on beside media. Sans-IO; one object a peer, for as long as the
peer is configured.

Driving it: call `start` once, then for every event the method of its name; each returns the actions to
carry out, in order. Then ask `deadline()` when to call `poll` next. Times are nanoseconds of one
monotonic clock that never goes back; handshake datagrams come through `Acceptor.receive_handshake`, which
finds the session.

    connecting   no keys to send on. With addresses to call, the session dials for ever.
    connected    keys in use. It dials again, keeping them, when they grow old, when the peer does not take
                 them, and after SUSPECT of silence, SUSPECT_SENDING while media goes to the peer.
    silent       as connected, but nothing authentic has been heard for SILENT. Back to connected with the
                 next authentic packet, to connecting when the keys are REJECT old.

When to dial is decided from the state at every poll (`_dial_ns`), never remembered, so that no sequence
of events can leave it stuck.
"""

from collections import Counter
from dataclasses import dataclass

from relay.core.actions import (
    Action,
    Address,
    Deliver,
    SendControl,
    SendHandshake,
    SetAddress,
    SetMtu,
    StateChanged,
)
from relay.core.challenge import Challenges
from relay.core.channel import Channel, NotConnected
from relay.core.dialer import CookieJar, Dialer
from relay.core.handshake import Caller, HandshakeError, Local, mac1_of, respond
from relay.core.keyring import Keyring, Keys
from relay.core.pmtu import PathMtu, largest_datagram
from relay.seq import distance
from relay.wire import hop
from relay.wire.hop import (
    Acknowledgement,
    Frame,
    Hello,
    Keepalive,
    MtuAck,
    MtuProbe,
    PathChallenge,
    PathResponse,
    Reliable,
    decode_frame,
    encode_frame,
)
from relay.wire.messages import Message, UnknownMessage, WireError, decode, encode

RTT_UNKNOWN = 100 * hop.MS
"""Nanoseconds taken for the RTT until one has been measured."""


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

    def __init__(self, local: Local, peer: Peer, path: int = 0) -> None:
        self.peer = peer
        self.path = path
        self.state = "connecting"
        self.peer_hello: Hello | None = None
        """What the peer said in the last handshake whose keys were used."""
        self.address: Address | None = None
        """Where the peer is, as far as is proven."""
        self.sending = False
        """Set it while media goes to the peer: that is reported on every 10 ms, so silence tells more."""
        self.handshakes = 0
        """Handshakes completed: keys that were used."""
        self.drops: Counter[str] = Counter()
        self._local = local
        self._actions: list[Action] = []
        self._cookies = CookieJar(peer.public_key)
        self._dialer = Dialer(local, peer.public_key, path, self._cookies)
        self._ring = Keyring(path, self._actions, local.release)
        self._challenges = Challenges(local.random_bytes)
        self._channel = Channel()
        self._pmtu: PathMtu | None = None
        self._peer_number = 0
        self._rtt_ns: int | None = None
        self._now_ns = 0
        self._heard_ns = 0
        self._confirm_ns = 0
        self._confirm_interval_ns = 0
        self._mtu_told = hop.MTU_BASE
        self._deadline_ns: int | None = None

    # --- what the driver asks ---

    @property
    def initiations(self) -> int:
        """Initiations sent."""
        return self._dialer.initiations

    @property
    def mtu(self) -> int:
        """UDP payload bytes that the path is known to carry."""
        return self._pmtu.size if self._pmtu else hop.MTU_BASE

    @property
    def cipher(self) -> int | None:
        """The cipher of the keys in use."""
        return self._ring.current.cipher if self._ring.current else None

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
        self._now_ns = now_ns
        self._expire(now_ns)
        self._dial(now_ns)
        current = self._ring.current
        if current:
            self._ask_to_confirm(now_ns, current)
            for address, challenge in self._challenges.poll(now_ns, self._rtt()):
                self._control(challenge, address)
            if now_ns < self._heard_ns + hop.SUSPECT:  # nothing is wasted on a link that is away
                self._talk(now_ns)
        if self.mtu != self._mtu_told:
            self._mtu_told = self.mtu
            self._actions.append(SetMtu(self.path, self.mtu))
        self._deadline_ns = self._next(now_ns)
        actions = self._actions[:]
        self._actions.clear()  # the key ring appends to the same list
        return actions

    def receive_initiation(self, now_ns: int, address: Address, caller: Caller) -> list[Action]:
        """The peer calls. It is answered, but nothing that works is given up before it has proven to be
        there."""
        try:
            self._answer(now_ns, address, caller)
        except HandshakeError as error:
            self.drops[error.reason] += 1
        return self.poll(now_ns)

    def receive_response(self, now_ns: int, response: hop.Response) -> list[Action]:
        """The peer answers one of our initiations."""
        try:
            dialled = self._dialer.response(now_ns, response)
        except HandshakeError as error:
            self.drops[error.reason] += 1
            return self.poll(now_ns)
        keys = Keys(
            local_index=dialled.local_index,
            remote_index=response.sender_index,
            initiator=True,
            created_ns=now_ns,
            hello=dialled.hello,
            address=dialled.address,  # where our initiation went, and evidently arrived
            cipher=dialled.keys.cipher,
        )
        if self._rtt_ns is None:
            self._rtt_ns = dialled.rtt_ns
        self._ring.install(keys, dialled.keys)
        self._adopt(now_ns, keys, "handshake")
        self._confirm_ns, self._confirm_interval_ns = now_ns, 0
        return self.poll(now_ns)

    def receive_cookie(self, now_ns: int, reply: hop.CookieReply) -> list[Action]:
        """The peer is under load and wants our next handshake datagram to carry this cookie."""
        asked = self._dialer.half_open(reply.receiver_index)
        if asked is None:
            pending = [keys for keys in self._ring.pending if keys.local_index == reply.receiver_index]
            asked = next(((keys.address, keys.mac1) for keys in pending), None)
        try:
            if asked is None:
                raise HandshakeError("unexpected cookie")
            self._cookies.learn(now_ns, asked[0], reply, asked[1])
        except HandshakeError as error:
            self.drops[error.reason] += 1
        return self.poll(now_ns)

    def confirmed(self, now_ns: int, local_index: int) -> list[Action]:
        """The first authentic datagram under these keys has arrived."""
        self._confirm(now_ns, local_index)
        return self.poll(now_ns)

    def heard(self, heard_ns: int) -> list[Action]:
        """Something authentic last arrived at `heard_ns`, which may have passed. A summary now and then is
        enough, so long as it is fresher than SUSPECT, or SUSPECT_SENDING if that counts."""
        self._heard_ns = max(self._heard_ns, heard_ns)
        return self.poll(max(self._now_ns, heard_ns))

    def rtt(self, now_ns: int, rtt_ns: int) -> list[Action]:
        """The path's smoothed RTT, as the packet plane measures it."""
        self._rtt_ns = max(0, rtt_ns)
        return self.poll(now_ns)

    def new_address(self, now_ns: int, address: Address, size: int) -> list[Action]:
        """An authentic datagram of `size` bytes came from an address that is not the path's. To be reported
        for each such datagram or for some of them: challenges are paid for by what was reported."""
        if address != self.address:
            self._challenges.saw(now_ns, address, size)
        return self.poll(now_ns)

    def receive_control(
        self, now_ns: int, local_index: int, address: Address, size: int, frame: bytes
    ) -> list[Action]:
        """An authentic control frame: the keys and the address that it came under, bytes of UDP payload,
        plaintext."""
        if self._ring.find(local_index) is None:
            self.drops["dropped keys"] += 1
            return self.poll(now_ns)
        self._confirm(now_ns, local_index)  # the frame may overtake that event, and be of a new instance
        try:
            self._handle(now_ns, address, size, decode_frame(frame))
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

    def close(self) -> list[Action]:
        """The peer is no longer configured."""
        self._dialer.stop()
        self._ring.clear()
        self._deadline_ns = None
        actions = self._actions[:]
        self._actions.clear()
        return actions

    # --- handshakes and keys ---

    def _answer(self, now_ns: int, address: Address, caller: Caller) -> None:
        hello = caller.hello()
        if hello.path != self.path:
            raise HandshakeError("path")
        if self.peer_hello and hello.instance == self.peer_hello.instance:
            if distance(self._peer_number, hello.number) <= 0:
                raise HandshakeError("replayed handshake")
            self._peer_number = hello.number
        index = self._local.allocate()
        try:
            datagram, transport = respond(
                self._local.identity,
                caller,
                hello,
                local_index=index,
                ephemeral=self._local.random_bytes(32),
                cookie=self._cookies.cookie(now_ns, address),
            )
        except HandshakeError:
            self._local.release(index)
            raise
        keys = Keys(
            local_index=index,
            remote_index=caller.remote_index,
            initiator=False,
            created_ns=now_ns,
            hello=hello,
            address=address,
            cipher=transport.cipher,
            mac1=mac1_of(datagram),
        )
        self._ring.install(keys, transport)
        self._actions.append(SendHandshake(address, datagram))

    def _confirm(self, now_ns: int, local_index: int) -> None:
        keys = self._ring.find(local_index)
        if keys is None:
            self.drops["dropped keys"] += 1
            return
        pending, keys.confirmed = keys in self._ring.pending, True
        if pending and self._ours_wins(keys):
            self._ring.keep_beside(keys)
        elif pending:
            self._adopt(now_ns, keys, "handshake")
            self._control(Keepalive(answer=False))  # the peer's first packet under these keys
        self._heard_ns = now_ns

    def _ours_wins(self, theirs: Keys) -> bool:
        """Simultaneous opening: of two handshakes of the same processes, both nodes use the one that the
        lower key began."""
        ours = self._ring.current
        return (
            ours is not None
            and ours.initiator
            and self._local.identity.public < self.peer.public_key
            and ours.hello.instance == theirs.hello.instance
            and abs(ours.created_ns - theirs.created_ns) < hop.SIMULTANEOUS
        )

    def _adopt(self, now_ns: int, keys: Keys, why: str) -> None:
        """Send on these keys, to the address that they were agreed with."""
        fresh = self.peer_hello is None or keys.hello.instance != self.peer_hello.instance
        self.peer_hello = keys.hello
        if fresh:
            self._peer_number = 0 if keys.initiator else keys.hello.number
            self._channel = Channel()
        self._move(now_ns, keys.address)
        self._ring.use(keys)
        self.handshakes += 1
        self._heard_ns = now_ns
        self._set_state("connected", why, fresh)

    def _move(self, now_ns: int, address: Address) -> None:
        if address == self.address:
            return
        self.address = address
        self._challenges = Challenges(self._local.random_bytes)
        self._pmtu = PathMtu(now_ns, largest_datagram(address[0]))
        self._actions.append(SetAddress(self.path, address))

    def _set_state(self, state: str, why: str, fresh: bool = False) -> None:
        if state != self.state or fresh:
            self.state = state
            self._actions.append(StateChanged(state, why, fresh))

    # --- what is due ---

    def _expire(self, now_ns: int) -> None:
        self._ring.expire(now_ns)
        if self._ring.current is None:
            self._set_state("connecting", "keys have ended")
        elif now_ns >= self._heard_ns + hop.SILENT:
            self._set_state("silent", f"nothing heard for {hop.SILENT // hop.SECOND} s")
        else:
            self._set_state("connected", "heard again")

    def _dial(self, now_ns: int) -> None:
        current = self._ring.current
        wanted = now_ns >= self._dial_ns(current) if current else bool(self.peer.addresses)
        if not wanted:
            self._dialer.stop()
            return
        if not self._dialer.active:
            self._dialer.start(now_ns)
        here = (self.address,) if current and self.address else ()
        initiation = self._dialer.poll(now_ns, self._rtt_ns or 0, (*here, *self.peer.addresses))
        if initiation:
            self._actions.append(initiation)

    def _dial_ns(self, current: Keys) -> int:
        """From when on new keys are wanted: age, silence, or a peer that does not take these."""
        unconfirmed_ns = current.created_ns + hop.CONFIRM_GIVE_UP
        times = (current.rekey_ns, self._heard_ns + (hop.SUSPECT_SENDING if self.sending else hop.SUSPECT))
        return min(times if current.confirmed else (*times, unconfirmed_ns))

    def _ask_to_confirm(self, now_ns: int, current: Keys) -> None:
        if not current.confirmed and now_ns >= self._confirm_ns:
            grown_ns = int(self._confirm_interval_ns * hop.RESEND_BACKOFF)
            first_ns = max(hop.CONFIRM_RETRY_MIN, self._rtt() // 2)
            self._confirm_interval_ns = max(first_ns, min(grown_ns, hop.CONFIRM_RETRY_MAX))
            self._confirm_ns = now_ns + self._confirm_interval_ns
            self._control(Keepalive(answer=True))

    def _talk(self, now_ns: int) -> None:
        for frame in self._channel.poll(now_ns, self._rtt()):
            self._control(frame)
        probe = self._pmtu.poll(now_ns, self._rtt(), self._heard_ns) if self._pmtu else None
        if probe:
            self._control(probe, pad_to=probe.size)

    def _next(self, now_ns: int) -> int | None:
        times = [self._ring.deadline(), self._dialer.deadline()]
        current = self._ring.current
        if current:
            times.append(self._challenges.deadline())
            if not current.confirmed:
                times.append(self._confirm_ns)
            if not self._dialer.active:
                times.append(self._dial_ns(current))
            if self.state == "connected":
                times.append(self._heard_ns + hop.SILENT)
            if now_ns < self._heard_ns + hop.SUSPECT:
                times += [self._channel.deadline(), self._pmtu.deadline() if self._pmtu else None]
        return min((t for t in times if t is not None), default=None)

    def _rtt(self) -> int:
        return RTT_UNKNOWN if self._rtt_ns is None else self._rtt_ns

    # --- frames ---

    def _control(self, frame: Frame, address: Address | None = None, pad_to: int | None = None) -> None:
        self._actions.append(SendControl(self.path, address, encode_frame(frame), pad_to))

    def _handle(self, now_ns: int, address: Address, size: int, frame: Frame) -> None:
        match frame:
            case Keepalive(answer):
                if answer:
                    self._control(Keepalive(answer=False))
            case Reliable():
                for message in self._channel.receive(frame):
                    self._deliver(message)
            case Acknowledgement():
                self._channel.acknowledged(frame)
            case PathChallenge(token):
                self._control(PathResponse(token), address)
            case PathResponse(token) if self._challenges.answered(address, token):
                self._move(now_ns, address)
            case MtuProbe(probe, probe_size):
                if probe_size != size:
                    raise WireError("an MTU probe that is not as long as it says")
                self._control(MtuAck(probe, size))
            case MtuAck(probe, probe_size) if self._pmtu:
                self._pmtu.acknowledged(now_ns, probe, probe_size)

    def _deliver(self, packed: bytes) -> None:
        """One wrong message does not keep back those behind it."""
        try:
            self._actions.append(Deliver(decode(packed)))
        except UnknownMessage:
            self.drops["unknown message"] += 1
        except WireError:
            self.drops["malformed message"] += 1
