"""The hops of a node: one session and one packet machine a peer, and what is decided for them.

No I/O of its own: events of the packet plane and the time come in, commands to the packet plane go out, so
that the same object runs under asyncio and in virtual time.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

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
from relay.core.admission import Step
from relay.core.channel import ChannelError
from relay.core.handshake import Identity
from relay.core.health import Heard, Pace
from relay.core.path import Way
from relay.core.routing import Candidate
from relay.core.session import Peer, Session
from relay.core.uplinks import IN_TURN, Measured, Order, Preference, Uplink, ways
from relay.log import event
from relay.services.rates import Rates
from relay.services.shards import Shards
from relay.wire.fields import WireError
from relay.wire.messages import Message
from relay_ext import control
from relay_ext.control import Link

logger = logging.getLogger("relay.hop")

MS = 1_000_000
ACTIVE_TICK_NS = 50 * MS
"""Between two looks at a hop that carries media."""
IDLE_TICK_NS = 1000 * MS
ACTIVE_FOR_NS = 2000 * MS
"""A hop counts as carrying media for this long after the last packet."""
SENDING_NS = 200 * MS
"""Media is being sent for so long after the last packet."""
COOKIE_SECRET_NS = 120_000 * MS
RATIO_STEP = 0.02
"""A smaller change of the proactive ratio is not worth a command."""
PACE_STEP = 0.01
"""Nor is one of the pace."""


@dataclass(slots=True)
class Hop:
    """A configured peer: its session, its packet machine, and the last look at both."""

    id: int
    name: str
    region: str
    upstream: bool
    """We call it, so streams that enter here may be sent there."""
    session: Session
    link: Link
    rates: Rates
    looked_ns: int = 0
    send_budget_ms: int = 0
    receive_budget_ms: int = 0
    params: tuple[float, int, int, float, float, bool] | None = None
    """What the packet machine was last told: ratio, budgets, most overhead, the pace in bits/s, and whether
    frames that can be spared are dropped."""
    revocations_s: int = 0
    """When the list of revoked keys was issued that both ends have from one another; 0: none yet."""
    preference: Preference = field(default_factory=Preference)
    orders: tuple[Order, Order] = IN_TURN, IN_TURN
    """What it was last told of its paths: their order for source packets and for repair."""
    drops: Counter[str] = field(default_factory=Counter)
    is_region: bool = False
    """The peer's present process has said so (messages.ListVersion), and is believed."""
    may_be_region: bool = True
    """It would be believed: our configuration names it, or its record says so."""
    watched: bool = False
    """The packet plane tells when nothing comes from it."""
    echo_watched: bool = False
    """It tells when nothing gets there."""
    quiet_ns: int | None = None
    """When it was found that nothing comes from it; None: something does."""
    unreached_ns: int | None = None
    """When it was found that nothing gets there; None: something does."""
    health: Heard = field(default_factory=Heard)
    pace: Pace = field(default_factory=Pace)
    """When the peer is next told of our health."""

    @property
    def connected(self) -> bool:
        return self.session.state == "connected"

    @property
    def heard(self) -> bool:
        """Connected, and not found to be silent."""
        return self.connected and self.quiet_ns is None

    @property
    def media_bps(self) -> float | None:
        """Bits a second of media that it can carry; None: not known."""
        return self.rates.media_bps(self.params[0] if self.params else 0.0)

    @property
    def key(self) -> bytes:
        """The peer's public key."""
        return self.session.peer.public_key

    def candidate(self, now_ns: int) -> Candidate:
        """What was measured of the peer, and what it says of itself."""
        link = self.link
        return Candidate(
            peer=self.name,
            connected=self.heard and self.unreached_ns is None,
            rtt_ms=link.rtt_ns / MS,
            min_rtt_ms=link.rtt_min_ns / MS,
            queue_ms=link.queue_delay_ns / MS,
            jitter_ms=link.jitter_ns / MS,
            loss_ratio=link.loss_ratio if link.loss_settled else 0.0,
            settled=link.loss_settled,
            health=self.health.known(now_ns),
        )


class Hops:
    """`on_message` and `on_state` tell of messages and of sessions that come, go or begin anew, `on_heard` of
    peers that something comes from again."""

    def __init__(
        self,
        shards: Shards,
        identity: Identity,
        *,
        port: int,
        max_overhead: float,
        budget_ms: int,
        random_bytes: Callable[[int], bytes],
        on_message: Callable[[int, Hop, Message], None],
        on_state: Callable[[int, Hop, bool], None],
        on_heard: Callable[[int, Hop], None],
    ) -> None:
        self.acceptor = Acceptor(identity, random_bytes)
        self.hops: dict[int, Hop] = {}
        self.resting: list[Candidate] = []
        """Peers that could be called, and are not now (services/regions.py)."""
        self.suggested: set[str] = set()
        """Regions that are to be called at once, if they can be: those that refuse named them."""
        self._step = Step.NONE
        self._shards = shards
        self._port = port
        self._max_overhead = max_overhead
        self._budget_ms = budget_ms
        self._random_bytes = random_bytes
        self._on_message = on_message
        self._on_state = on_state
        self._on_heard = on_heard
        self._by_session: dict[Session, Hop] = {}
        self._uplinks: tuple[Uplink, ...] = (Uplink(port, "default"),)
        self._secret_ns: int | None = None

    # ---- peers -------------------------------------------------------------------------------

    def add(
        self, now_ns: int, name: str, region: str, public_key: bytes, addresses: Iterable[Address]
    ) -> Hop:
        """Begin to speak with a peer; without addresses it is the peer that calls.

        Raises ValueError when the key is taken.
        """
        peer = Peer(name, public_key, tuple(addresses))
        shard = self._shards.least_used(self.hops)
        plane = self._shards.planes[shard]
        session = self.acceptor.add(peer, shard, len(self._shards))
        hop_id = plane.add_hop(self._port, int.from_bytes(self._random_bytes(4), "big"))
        rates = Rates(self._max_overhead)
        hop = Hop(hop_id, name, region, bool(peer.addresses), session, plane.hop_link(hop_id), rates)
        self.hops[hop_id] = hop
        self._by_session[session] = hop
        self._apply_params(hop)
        self._run(now_ns, hop, session.set_ways(now_ns, self._ways(hop)))
        return hop

    def set_uplinks(self, now_ns: int, uplinks: tuple[Uplink, ...]) -> None:
        """The sockets that peers are called from are these now."""
        if uplinks == self._uplinks:
            return
        self._uplinks = uplinks
        for hop in self.hops.values():
            self._run(now_ns, hop, hop.session.set_ways(now_ns, self._ways(hop)))

    def uplink_name(self, socket: int) -> str:
        """What an uplink is called; "default" for the socket that listens."""
        return next((uplink.name for uplink in self._uplinks if uplink.socket == socket), "default")

    def _ways(self, hop: Hop) -> dict[int, Way]:
        taken = {path.id: path.way for path in hop.session.paths.values() if path.way}
        return ways(taken, hop.session.peer.addresses, self._uplinks)

    def remove(self, now_ns: int, hop: Hop) -> None:
        self._run(now_ns, hop, self.acceptor.remove(hop.session.peer.public_key))
        del self._by_session[hop.session]
        del self.hops[hop.id]
        self._shards.remove_hop(hop.id)

    def hang_up(self, now_ns: int, hop: Hop) -> None:
        """The peer has said goodbye."""
        if hop.id in self.hops:
            self._run(now_ns, hop, hop.session.hang_up(now_ns))

    def named(self, name: str) -> Hop | None:
        return next((hop for hop in self.hops.values() if hop.name == name), None)

    def candidates(self, now_ns: int) -> list[Candidate]:
        """The peers that streams which enter here could be sent to, and what was measured of them."""
        called = [hop.candidate(now_ns) for hop in self.hops.values() if hop.upstream]
        return called + self.resting

    def suggest(self, name: str) -> None:
        """A peer that refuses has named this region instead."""
        if any(c.peer == name for c in self.resting):
            self.suggested.add(name)

    def roomiest(self, now_ns: int, asker: Hop) -> str:
        """The region that who is refused here had better try: the nearest one with room; "": none."""
        regions = (hop for hop in self.hops.values() if hop.is_region and hop is not asker)
        known = [hop.candidate(now_ns) for hop in regions]
        with_room = [c for c in known if c.connected and c.roomy]
        return min(with_room, key=lambda c: (c.cost_ms, c.peer)).peer if with_room else ""

    def shed(self, step: Step) -> None:
        """What peers are sent is cut back so far, or no longer."""
        self._step = step
        for hop in self.hops.values():
            self._apply_params(hop)

    # ---- what is told to a peer --------------------------------------------------------------

    def send(self, now_ns: int, hop: Hop, message: Message) -> bool:
        """Queue a control message; False when the peer takes none now (counted)."""
        try:
            actions = hop.session.send_message(now_ns, message)
        except (ChannelError, WireError) as error:
            hop.drops[type(error).__name__] += 1
            return False
        self._run(now_ns, hop, actions)
        return True

    def send_state(self, now_ns: int, hop: Hop, packed: bytes) -> None:
        """Tell the peer something of which only the last counts, as `coding.encode` packs it; it may get
        lost."""
        self._run(now_ns, hop, hop.session.send_state(now_ns, packed))

    def set_budgets(self, hop: Hop, send_ms: int | None, receive_ms: int | None) -> None:
        """Largest repair budgets of the streams sent to and received from the peer; None: no stream."""
        hop.send_budget_ms = send_ms or self._budget_ms
        hop.receive_budget_ms = receive_ms or self._budget_ms
        self._apply_params(hop)

    def watch(self, hop: Hop, watched: bool) -> None:
        """Have the packet plane tell when nothing comes from a peer, or no longer."""
        if hop.watched != watched:
            hop.watched = watched
            self._shards.of(hop.id).watch_hop(hop.id, watched)

    def watch_echo(self, hop: Hop, watched: bool) -> None:
        """Have it tell when nothing gets to a peer, or no longer."""
        if hop.echo_watched != watched:
            hop.echo_watched = watched
            self._shards.of(hop.id).watch_echo(hop.id, watched)

    def lost_reach(self, now_ns: int, hop_id: int, silent_ms: int) -> Hop | None:
        """Nothing gets to a peer whose echo is watched."""
        hop = self.hops.get(hop_id)
        if hop is None or not hop.echo_watched:
            return None  # meanwhile
        event(logger, logging.WARNING, "hop_unreached", peer=hop.name, silent_ms=silent_ms)
        hop.unreached_ns = now_ns
        return hop

    def fell_silent(self, now_ns: int, hop_id: int, silent_ms: int) -> Hop | None:
        """Nothing comes from a peer that is watched."""
        hop = self.hops.get(hop_id)
        if hop is None or not hop.watched:
            return None  # meanwhile
        event(logger, logging.WARNING, "hop_quiet", peer=hop.name, silent_ms=silent_ms)
        hop.quiet_ns = now_ns
        return hop

    # ---- events and time ---------------------------------------------------------------------

    def handle(self, now_ns: int, e: control.Event) -> None:
        """An event of the packet plane that concerns a hop."""
        if e.kind == control.EVENT_HANDSHAKE:
            taken = self.acceptor.receive_handshake(now_ns, e.address, e.data, e.port)
            if taken is not None:
                self._run(now_ns, self._by_session[taken[0]], taken[1])
            return
        hop = self.hops.get(e.a)
        if hop is None:
            return  # removed while the event was queued
        session = hop.session
        if e.kind == control.EVENT_CONTROL:
            self._run(now_ns, hop, session.receive_control(now_ns, e.b, e.address, e.size, e.data))
        elif e.kind == control.EVENT_CONFIRMED:
            self._run(now_ns, hop, session.confirmed(now_ns, e.b))
        elif e.kind == control.EVENT_ADDRESS:
            self._run(now_ns, hop, session.new_address(now_ns, e.b, e.address, e.size))

    def poll(self, now_ns: int) -> int:
        """Do what is due; returns the next deadline in ns."""
        if self._secret_ns is None or now_ns - self._secret_ns >= COOKIE_SECRET_NS:
            self._shards.set_cookie_secret(self._random_bytes(32))
            self._secret_ns = now_ns
        deadline = self._secret_ns + COOKIE_SECRET_NS
        for hop in list(self.hops.values()):
            if hop.session.state != "connecting" and now_ns >= self._look_ns(hop):
                self._look(now_ns, hop)  # what was heard during a stall of ours is no silence
            due = hop.session.deadline()
            if due is not None and due <= now_ns:
                self._run(now_ns, hop, hop.session.poll(now_ns))
                due = hop.session.deadline()
            deadline = deadline if due is None else min(deadline, due)
            if hop.session.state != "connecting":
                deadline = min(deadline, self._look_ns(hop))
        return deadline

    def _look_ns(self, hop: Hop) -> int:
        """When to look next: on a grid, so that the hops share their wake-ups."""
        recent = max(hop.link.source_at_ns, hop.link.media_at_ns)
        active = recent and hop.looked_ns - recent < ACTIVE_FOR_NS
        tick = ACTIVE_TICK_NS if active or hop.quiet_ns is not None else IDLE_TICK_NS
        return hop.looked_ns // tick * tick + tick

    def _look(self, now_ns: int, hop: Hop) -> None:
        """Read what the packet machine measured, and decide on it."""
        link = self._shards.of(hop.id).hop_link(hop.id)
        session = hop.session
        session.sending = bool(link.source_at_ns) and now_ns - link.source_at_ns < SENDING_NS
        elapsed = (now_ns - hop.looked_ns) * 1e-9
        if hop.looked_ns and elapsed > 0:
            sending = session.sending and session.state == "connected"
            hop.rates.look(now_ns, hop.link, link, sending=sending, elapsed_s=elapsed)
        for path in link.paths:
            self._run(now_ns, hop, session.measured(now_ns, path.id, path.heard_ns, path.rtt_ns))
        self._tell_paths(hop, link)
        if hop.unreached_ns is not None and any(path.progress_ns > hop.unreached_ns for path in link.paths):
            hop.unreached_ns = None
        hop.link, hop.looked_ns = link, now_ns
        self._apply_orders(now_ns, hop)
        self._apply_params(hop)
        if hop.quiet_ns is not None and any(path.heard_ns > hop.quiet_ns for path in link.paths):
            hop.quiet_ns = None
            self._on_heard(now_ns, hop)

    def _tell_paths(self, hop: Hop, link: Link) -> None:
        """Log the paths that died or came back since the last look."""
        before = {path.id: path.role == "dead" for path in hop.link.paths}
        for path in link.paths:
            dead = path.role == "dead"
            if before.get(path.id, True) != dead:
                session = hop.session.paths.get(path.id)
                uplink = self.uplink_name(session.socket) if session else None
                what = "path_dead" if dead else "path_alive"
                event(logger, logging.INFO, what, peer=hop.name, path=path.id, uplink=uplink)

    def _apply_orders(self, now_ns: int, hop: Hop) -> None:
        sockets = {path.id: path.socket for path in hop.session.paths.values()}
        measured = [
            Measured(
                id=path.id,
                socket=sockets.get(path.id, self._port),
                alive=path.role != "dead",
                rtt_ns=path.rtt_ns,
                rtt_min_ns=path.rtt_min_ns,
                queue_ns=path.queue_delay_ns,
                jitter_ns=path.jitter_ns,
                loss_ratio=path.loss_ratio if path.loss_settled else 0.0,
                reported_highest=path.reported_highest,
                reported_received=path.reported_received,
            )
            for path in hop.link.paths
        ]
        orders = hop.preference.look(now_ns, measured, (hop.send_budget_ms or self._budget_ms) * MS)
        if orders != hop.orders:
            hop.orders = orders
            self._shards.of(hop.id).set_orders(hop.id, *orders)

    def _apply_params(self, hop: Hop) -> None:
        send_ms = hop.send_budget_ms or self._budget_ms
        receive_ms = hop.receive_budget_ms or self._budget_ms
        hop.rates.sparing = self._step >= Step.REPAIR
        spare_frames = self._step >= Step.FRAMES
        ratio, most = hop.rates.repair(hop.link, send_ms)
        pace = hop.rates.congestion.pace_bps
        told = hop.params
        if (
            told
            and told[1:4] == (send_ms, receive_ms, most)
            and told[5] == spare_frames
            and abs(told[0] - ratio) < RATIO_STEP * max(ratio, told[0], 0.05)
            and (told[4] == pace or abs(told[4] - pace) < PACE_STEP * min(pace, told[4]))
        ):
            return
        hop.params = (ratio, send_ms, receive_ms, most, pace, spare_frames)
        self._shards.of(hop.id).set_params(
            hop.id,
            proactive=ratio,
            max_overhead=most,
            send_budget_ns=send_ms * MS,
            receive_budget_ns=receive_ms * MS,
            pace_bps=pace,
            spare_frames=spare_frames,
        )

    # ---- actions -----------------------------------------------------------------------------

    def _run(self, now_ns: int, hop: Hop, actions: Iterable[Action]) -> None:
        for action in actions:
            self._execute(now_ns, hop, action)

    def _execute(self, now_ns: int, hop: Hop, action: Action) -> None:
        plane = self._shards.of(hop.id)
        match action:
            case SendHandshake(address, datagram, socket):
                plane.send_datagram(socket, address, datagram)
            case SendControl(path, address, frame, pad_to):
                plane.send_control(hop.id, path, address, frame, pad_to or 0)
            case InstallKeys():
                plane.add_keys(
                    hop.id,
                    action.path,
                    action.local_index,
                    action.remote_index,
                    action.send_key,
                    action.receive_key,
                    action.cipher,
                    action.generation,
                    action.peer_instance,
                )
            case UseKeys(_, local_index):
                plane.use_keys(local_index)
            case DropKeys(local_index):
                plane.drop_keys(local_index)
            case SetAddress(path, address, socket):
                event(
                    logger,
                    logging.INFO,
                    "path_address",
                    peer=hop.name,
                    path=path,
                    uplink=self.uplink_name(socket),
                    address="{} port {}".format(*address),
                )
                plane.set_path(hop.id, path, address=address, port=socket)
            case SetMtu(path, datagram_bytes):
                event(
                    logger, logging.INFO, "path_mtu", peer=hop.name, path=path, datagram_bytes=datagram_bytes
                )
                plane.set_path(hop.id, path, datagram_max=datagram_bytes)
            case Deliver(message):
                self._on_message(now_ns, hop, message)
            case StateChanged(state, why, fresh):
                event(logger, logging.INFO, f"hop_{state}", peer=hop.name, why=why, new_process=fresh)
                if fresh:
                    hop.rates.restart()
                self._on_state(now_ns, hop, fresh)
