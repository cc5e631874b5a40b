"""A whole node without sockets: hops and streams on its packet planes.

`node` runs it under asyncio with engines; the lab runs it in virtual time. Driving it: `handle` every event
of the packet plane, then `poll`, which says when to poll next.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from relay.config import Address, Config, PeerConfig, RtpDestination
from relay.core import actions
from relay.core.admission import PER_BPS
from relay.core.directory import Directory
from relay.core.handshake import Identity
from relay.core.noise import public_key
from relay.core.record import RecordError
from relay.errors import RelayError
from relay.media.rtp import TrackSource, sources_of
from relay.services import status
from relay.services.feedback import Feedback
from relay.services.fleet import Fleet
from relay.services.hops import Hop, Hops
from relay.services.members import Members, Store
from relay.services.paths import Paths
from relay.services.regions import Directions
from relay.services.shards import Shards
from relay.services.streams import Streams
from relay.services.tracks import Ports
from relay.services.uplinks import HOP_PORT, Sockets, Uplinks
from relay.wire.hop import CIPHER_CHACHA20_POLY1305
from relay.wire.messages import (
    AskRegions,
    Goodbye,
    Health,
    KeyFrameRequest,
    Message,
    Records,
    Regions,
    RevocationList,
)
from relay.wire.paths import HopsBefore, HopsBehind
from relay_ext import control

UPLINKS_NS = 5_000_000_000
"""Between two looks at which uplinks there are."""
FORWARDER_BUDGET_MS = 200
Resolve = Callable[[str, int], tuple[actions.Address, ...]]
"""The addresses of a host and port; empty when it cannot be resolved now."""
Ingests = dict[str, tuple[int | None, tuple[TrackSource, ...]]]
Egresses = dict[str, tuple[RtpDestination, ...]]


class NodePorts(Ports, Sockets, Protocol):
    """All sockets of a node."""


def _no_record(now_ns: int) -> int | None:
    """How much is left of the record of a node that needs none."""
    return None


@dataclass(frozen=True)
class Outside:
    """What a Machine has of the process that it is in; all else of it can go on in another."""

    shards: Shards
    ports: NodePorts
    random_bytes: Callable[[int], bytes]
    resolve: Resolve
    index_of: Callable[[str], int | None]
    routes: Callable[[], tuple[str, ...]]
    """Both as of `Uplinks`."""
    read: Callable[[Path], str]
    store: Store
    wall_clock: Callable[[], float]
    """Seconds since 1970, for warnings alone."""
    look: Callable[[], None]
    """Asks for a reading of the board, which comes to `fleet.observe`."""


class Machine:
    """`static` is the node's private key, None for a plain forwarder, whose configuration has no `[hop]`;
    `ciphers` are those that it takes, the fastest on this machine first, `share_per_bps` is Admission's."""

    def __init__(
        self,
        config: Config,
        outside: Outside,
        *,
        static: bytes | None,
        ciphers: tuple[int, ...] = (CIPHER_CHACHA20_POLY1305,),
        share_per_bps: float = PER_BPS,
    ) -> None:
        shards, random_bytes = outside.shards, outside.random_bytes
        self.shards = shards
        self._resolve = outside.resolve
        self._uplinks = Uplinks(
            config.hop.uplinks if config.hop else (),
            outside.ports,
            index_of=outside.index_of,
            routes=outside.routes,
        )
        self._uplinks_ns: int | None = None
        """When to look next at which there are; None: nobody is called, nor can call there."""
        self._read = outside.read
        self._config = config
        self._ingests: Ingests = {}
        self._egresses: Egresses = {}
        self._peers: tuple[PeerConfig, ...] = ()
        self.unresolved: list[PeerConfig] = []
        """Peers whose names had no address when they were added: they can call us, but not be called."""
        budget_ms = config.hop.budget_ms if config.hop else FORWARDER_BUDGET_MS
        self.directory: Directory | None = None
        if static is not None and config.node.role == "region":
            self.directory = Directory(public_key(static))
        self.streams = Streams(
            shards,
            outside.ports,
            name=config.node.name,
            budget_ms=budget_ms,
            random_bytes=random_bytes,
            directory=self.directory,
            share_per_bps=share_per_bps,
        )
        self.hops: Hops | None = None
        self.members: Members | None = None
        self.directions: Directions | None = None
        if config.hop is not None and static is not None:
            instance = int.from_bytes(random_bytes(8), "big")
            identity = Identity(static, instance, config.node.name, ciphers=ciphers)
            self.hops = Hops(
                shards,
                identity,
                port=HOP_PORT,
                max_overhead=config.hop.max_overhead,
                budget_ms=budget_ms,
                random_bytes=random_bytes,
                on_message=self._on_message,
                on_state=self._on_state,
                on_heard=self.streams.on_heard,
            )
            self.streams.attach(self.hops)
            if config.fleet is not None:
                self.members = Members(
                    config.fleet,
                    identity,
                    self.hops,
                    role=config.node.role,
                    store=outside.store,
                    read=outside.read,
                    wall_clock=outside.wall_clock,
                    remove=self._remove_hop,
                )
                self.directions = Directions(
                    self.members.trust,
                    identity,
                    self.hops,
                    self.streams,
                    region=self.directory is not None,
                    random_bytes=random_bytes,
                    remove=self._remove_hop,
                )
        self.paths = Paths(
            shards,
            self.hops,
            self.streams.streams,
            name=config.node.name,
            leaves=self.streams.leaves,
        )
        self.feedback = Feedback(shards, self.streams, self.hops)
        self.fleet = Fleet(
            self.hops,
            self.streams,
            outside.look,
            is_region=self.directory is not None,
            record_left=self.members.left_permille if self.members else _no_record,
        )

    def start(self, now_ns: int) -> None:
        """Do what the configuration says. Raises OSError and RelayError for what cannot be had."""
        if self.members is not None:
            self.members.start(now_ns)
        self.reload(now_ns, self._config)

    def reload(self, now_ns: int, config: Config) -> None:
        """Apply another configuration: what is the same in both goes on untouched.

        `[node]`, the listeners and the key stay as they are until a restart. Raises as `start`; then nothing
        has changed, except that an ingest that was to change has been interrupted.
        """
        ingests = {i.stream: (i.latency_ms, sources_of(i, self._read)) for i in config.ingest.rtp}
        egresses = self._resolve_egresses(config)
        if self.members is not None and config.fleet is not None:
            self.members.reload(now_ns, config.fleet)
        self._apply_ingests(now_ns, ingests)
        for name in self._egresses.keys() | egresses.keys():
            if self._egresses.get(name) != egresses.get(name):
                self.streams.set_egress(now_ns, name, egresses.get(name, ()))
        self._egresses = egresses
        peers = config.hop.peers if config.hop else ()
        called_from = self._uplinks.configured or any(peer.addresses for peer in peers)
        self._uplinks_ns = now_ns if self.hops and called_from else None
        self._look_at_uplinks(now_ns)
        self._apply_peers(now_ns, peers)

    def _apply_ingests(self, now_ns: int, ingests: Ingests) -> None:
        before = dict(self._ingests)
        try:
            self._change_ingests(now_ns, ingests)
        except OSError:
            self._change_ingests(now_ns, before)
            raise

    def _change_ingests(self, now_ns: int, ingests: Ingests) -> None:
        """Old ones go before new ones come, which may want their ports. Raises OSError, half done."""
        for name, ingest in list(self._ingests.items()):
            if ingests.get(name) != ingest:
                self.streams.remove_ingest(now_ns, name)
                del self._ingests[name]
        for name, ingest in ingests.items():
            if name not in self._ingests:
                self.streams.add_ingest(now_ns, name, *ingest)
                self._ingests[name] = ingest

    def _resolve_egresses(self, config: Config) -> Egresses:
        """Where each stream leaves, by IP address: of a name that has several, the one that is in use."""
        used = {to.address for destinations in self._egresses.values() for to in destinations}
        egresses: Egresses = {}
        for egress in config.egress.rtp:
            for to in egress.to:
                found = [Address(*address) for address in self._resolve(*to.address)]
                if not found:
                    raise RelayError(
                        f"{egress.stream} cannot be sent to {to.address}: the name cannot be resolved; "
                        "give an IP address, or see to the name service"
                    )
                address = next((a for a in found if a in used), found[0])
                egresses[egress.stream] = (*egresses.get(egress.stream, ()), replace(to, address=address))
        return egresses

    def _apply_peers(self, now_ns: int, peers: tuple[PeerConfig, ...]) -> None:
        for peer in [p for p in self._peers if p not in peers]:
            self._remove_peer(now_ns, peer)
        for peer in [p for p in peers if p not in self._peers]:
            found = [address for a in peer.addresses for address in self._resolve(a.host, a.port)]
            self._add_peer(now_ns, peer, found)
        self._peers = peers

    def _add_peer(self, now_ns: int, peer: PeerConfig, addresses: Sequence[tuple[str, int]]) -> None:
        if self.members is not None and not self.members.configured(now_ns, peer.name, peer.public_key):
            return
        if self.directions is not None:
            self.directions.configured(now_ns, peer.name, peer.public_key)
        if self.hops is not None:
            self.hops.add(now_ns, peer.name, peer.region, peer.public_key, addresses)
            if peer.addresses and not addresses:
                self.unresolved.append(peer)

    def _remove_peer(self, now_ns: int, peer: PeerConfig) -> None:
        hop = self.hops.named(peer.name) if self.hops else None
        if hop is not None and hop.session.peer.public_key == peer.public_key:  # no member of the same name
            self._remove_hop(now_ns, hop)
        self.unresolved = [p for p in self.unresolved if p != peer]

    def _remove_hop(self, now_ns: int, hop: Hop) -> None:
        assert self.hops is not None
        self.streams.remove_peer(now_ns, hop)
        self.hops.remove(now_ns, hop)

    def resolved(self, now_ns: int, peer: PeerConfig, addresses: Sequence[tuple[str, int]]) -> None:
        """The name of a peer that was in `unresolved` has addresses now."""
        if peer in self.unresolved:
            self._remove_peer(now_ns, peer)
            self._add_peer(now_ns, peer, addresses)

    # ---- driving -----------------------------------------------------------------------------

    def handle(self, now_ns: int, e: control.Event) -> None:
        if e.kind == control.EVENT_SOURCE:
            self.streams.on_source(e.a, e.b, e.address)
        elif e.kind == control.EVENT_KEY_ASKED:
            self.feedback.on_asked(now_ns, e.a)
        elif e.kind == control.EVENT_KEY_WANTED:
            self.feedback.on_dropped(now_ns, e.a, e.b >> 8, e.b & 0xFF)
        elif e.kind == control.EVENT_SILENT and self.hops is not None:
            hop = self.hops.fell_silent(now_ns, e.a, e.b)
            if hop is not None:
                self.streams.on_silent(now_ns, hop, e.b)
        elif e.kind == control.EVENT_UNREACHED and self.hops is not None:
            hop = self.hops.lost_reach(now_ns, e.a, e.b)
            if hop is not None:
                self.streams.on_unreached(now_ns, hop)
        elif self.hops is not None:
            self.hops.handle(now_ns, e)

    def poll(self, now_ns: int) -> int:
        """Do what is due; returns the next deadline in ns."""
        self._look_at_uplinks(now_ns)
        deadlines = [self.streams.poll(now_ns), self.feedback.poll(now_ns), self.paths.poll(now_ns)]
        if self.members is not None:
            deadlines.append(self.members.poll(now_ns))
        if self.directions is not None:
            deadlines.append(self.directions.poll(now_ns))
        if self.hops is not None:
            deadlines += [self.fleet.poll(now_ns), self.hops.poll(now_ns)]
        if self._uplinks_ns is not None:
            deadlines.append(self._uplinks_ns)
        if self.members is not None and self.members.waits:  # a hop has changed meanwhile
            return now_ns
        return min(deadlines)

    def _look_at_uplinks(self, now_ns: int) -> None:
        """If it is time to."""
        if self.hops is not None and self._uplinks_ns is not None and now_ns >= self._uplinks_ns:
            self._uplinks_ns = now_ns // UPLINKS_NS * UPLINKS_NS + UPLINKS_NS
            self.hops.set_uplinks(now_ns, self._uplinks.look())

    def _on_message(self, now_ns: int, hop: Hop, message: Message) -> None:
        if isinstance(message, KeyFrameRequest):
            self.feedback.on_request(now_ns, hop, message)
        elif isinstance(message, AskRegions | Regions | Goodbye):
            if self.directions is not None:
                self.directions.on_message(now_ns, hop, message)
        elif isinstance(message, HopsBefore | HopsBehind):
            self.paths.on_message(now_ns, hop, message)
        elif isinstance(message, Health):
            self.fleet.on_message(now_ns, hop, message)
        elif not isinstance(message, RevocationList | Records):
            self.streams.on_message(now_ns, hop, message)
        elif self.members is not None:
            self.members.on_message(now_ns, hop, message)

    def _on_state(self, now_ns: int, hop: Hop, fresh: bool) -> None:
        self.fleet.on_state(now_ns, hop, fresh)
        self.streams.on_state(now_ns, hop, fresh)
        if self.members is not None:
            self.members.on_state(now_ns, hop, fresh)
        if self.directions is not None:
            self.directions.on_state(hop, fresh)

    def hand_records(self, now_ns: int, records: Sequence[bytes]) -> Counter[str]:
        """Signed records, to be passed on: how many were taken (`taken`), and refused, by reason."""
        found: Counter[str] = Counter()
        for packed in records:
            if self.members is None:
                found["no fleet"] += 1
                continue
            try:
                self.members.renewals.hand(now_ns, packed)
                found["taken"] += 1
            except RecordError as error:
                found[error.reason] += 1
        return found

    # ---- what it says of itself --------------------------------------------------------------

    def notes(self, now_ns: int) -> list[str]:
        """What should be seen to though media flows, one sentence each."""
        return self.members.notes(now_ns) if self.members is not None else []

    def not_ready(self) -> list[str]:
        return status.not_ready(self.hops, self.streams)

    def stream_statuses(self, now_ns: int) -> list[dict[str, Any]]:
        streams = self.streams.streams.values()
        return [status.stream_status(now_ns, self.shards, stream, self.paths) for stream in streams]

    def hop_statuses(self) -> list[dict[str, Any]]:
        hops = self.hops
        return [status.hop_status(self.shards, hops, hop) for hop in hops.hops.values()] if hops else []

    def fleet_status(self, now_ns: int) -> dict[str, Any] | None:
        if self.members is None or self.directions is None:
            return None
        return {**self.members.status(now_ns), "regions": self.directions.status(now_ns)}

    def directory_status(self) -> list[dict[str, Any]]:
        """The streams of the fleet and the regions that have them, as this node knows if it is a region."""
        if self.directory is None or self.hops is None:
            return []
        names = {hop.key: hop.name for hop in self.hops.hops.values()}
        names[self.directory.key] = self.streams.name
        view = self.directory.view()
        return [{"stream": stream, "region": names.get(holder)} for stream, holder in view.items()]

    def refused_handshakes(self) -> dict[str, int]:
        """Handshake datagrams that reached no session, by reason."""
        if self.hops is None:
            return {}
        return {f"handshake_{reason.replace(' ', '_')}": n for reason, n in self.hops.acceptor.drops.items()}

    def peer_statuses(self, now_ns: int) -> list[dict[str, Any]]:
        """This node first, then its peers."""
        return self.fleet.statuses(now_ns, self._config.node.name, self._config.node.region)
