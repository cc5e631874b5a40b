"""A whole node without sockets: hops and streams on one packet plane.

`node` runs it under asyncio with an engine; the lab runs it in virtual time. Driving it: `handle` every event
of the packet plane, then `poll`, which says when to poll next.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from relay.config import Config, PeerConfig
from relay.core.actions import Address
from relay.core.handshake import Identity
from relay.media.rtp import TrackSource, sources_of
from relay.services import status
from relay.services.hops import Hop, Hops
from relay.services.streams import Ports, Streams
from relay.wire.messages import Message
from relay_ext import control
from relay_ext.control import Plane

HOP_PORT = 0
"""The number by which the plane knows the socket of `[hop] listen`."""
FORWARDER_BUDGET_MS = 200
Resolve = Callable[[str, int], tuple[Address, ...]]
"""The addresses of a peer that is configured by host and port; empty when it cannot be resolved now."""


class Machine:
    """`static` is the node's private key, None for a plain forwarder, whose configuration has no `[hop]`."""

    def __init__(
        self,
        config: Config,
        plane: Plane,
        ports: Ports,
        *,
        static: bytes | None,
        random_bytes: Callable[[int], bytes],
        resolve: Resolve,
        read: Callable[[Path], str],
    ) -> None:
        self.plane = plane
        self._resolve = resolve
        self._read = read
        self._config = config
        budget_ms = config.hop.budget_ms if config.hop else FORWARDER_BUDGET_MS
        self.streams = Streams(plane, ports, budget_ms=budget_ms, random_bytes=random_bytes)
        self.hops: Hops | None = None
        if config.hop is not None and static is not None:
            identity = Identity(static, int.from_bytes(random_bytes(8), "big"), config.node.name)
            self.hops = Hops(
                plane,
                identity,
                port=HOP_PORT,
                max_overhead=config.hop.max_overhead,
                budget_ms=budget_ms,
                random_bytes=random_bytes,
                on_message=self._on_message,
                on_state=self._on_state,
            )
            self.streams.attach(self.hops)

    def start(self, now_ns: int) -> None:
        """Do what the configuration says. Raises OSError and sdp.SdpError for what cannot be had."""
        for egress in self._config.egress.rtp:
            self.streams.set_egress(egress.stream, egress.to)
        for ingest in self._config.ingest.rtp:
            self.streams.add_ingest(now_ns, ingest.stream, ingest.latency_ms, sources_of(ingest, self._read))
        for peer in self._config.hop.peers if self._config.hop else ():
            self._add_peer(now_ns, peer)

    def reload(self, now_ns: int, config: Config) -> None:
        """Apply another configuration: what is the same in both goes on untouched.

        `[node]`, the listeners and the key stay as they are until a restart. Raises as `start`, after which
        what could be applied is.
        """
        old = self._config
        self._config = config
        self._reload_peers(now_ns, old, config)
        self._reload_ingest(now_ns, old, config)
        before = {egress.stream: egress.to for egress in old.egress.rtp}
        after = {egress.stream: egress.to for egress in config.egress.rtp}
        for name in before.keys() | after.keys():
            if before.get(name) != after.get(name):
                self.streams.set_egress(name, after.get(name, ()))

    def _reload_peers(self, now_ns: int, old: Config, new: Config) -> None:
        before = set(old.hop.peers) if old.hop else set()
        after = set(new.hop.peers) if new.hop else set()
        for peer in before - after:
            hop = self.hops.named(peer.name) if self.hops else None
            if self.hops is not None and hop is not None:
                self.streams.remove_peer(now_ns, hop)
                self.hops.remove(now_ns, hop)
        for peer in after - before:
            self._add_peer(now_ns, peer)

    def _reload_ingest(self, now_ns: int, old: Config, new: Config) -> None:
        before = {i.stream: (i.latency_ms, self._known_sources(i.stream)) for i in old.ingest.rtp}
        after = {i.stream: (i.latency_ms, sources_of(i, self._read)) for i in new.ingest.rtp}
        for name in before.keys() | after.keys():
            if before.get(name) == after.get(name):
                continue
            if name in before:
                self.streams.remove_ingest(now_ns, name)
            if name in after:
                self.streams.add_ingest(now_ns, name, *after[name])

    def _known_sources(self, name: str) -> tuple[TrackSource, ...]:
        stream = self.streams.streams.get(name)
        return stream.sources if stream else ()

    def _add_peer(self, now_ns: int, peer: PeerConfig) -> None:
        if self.hops is not None:
            addresses = [found for a in peer.addresses for found in self._resolve(a.host, a.port)]
            self.hops.add(now_ns, peer.name, peer.region, peer.public_key, addresses)

    # ---- driving -----------------------------------------------------------------------------

    def handle(self, now_ns: int, e: control.Event) -> None:
        if e.kind == control.EVENT_SOURCE:
            self.streams.on_source(e.a, e.b, e.address)
        elif self.hops is not None:
            self.hops.handle(now_ns, e)

    def poll(self, now_ns: int) -> int:
        """Do what is due; returns the next deadline in ns."""
        deadline = self.streams.poll(now_ns)
        return min(deadline, self.hops.poll(now_ns)) if self.hops else deadline

    def _on_message(self, now_ns: int, hop: Hop, message: Message) -> None:
        self.streams.on_message(now_ns, hop, message)

    def _on_state(self, now_ns: int, hop: Hop, fresh: bool) -> None:
        self.streams.on_state(now_ns, hop, fresh)

    # ---- what it says of itself --------------------------------------------------------------

    def not_ready(self) -> list[str]:
        return status.not_ready(self.hops, self.streams)

    def stream_statuses(self) -> list[dict[str, Any]]:
        return [status.stream_status(self.plane, stream) for stream in self.streams.streams.values()]

    def hop_statuses(self) -> list[dict[str, Any]]:
        return [status.hop_status(self.plane, hop) for hop in self.hops.hops.values()] if self.hops else []

    def peer_statuses(self) -> list[dict[str, Any]]:
        if self.hops is None:
            return []
        return [
            {"name": hop.name, "region": hop.region, "connected": hop.session.state == "connected"}
            for hop in self.hops.hops.values()
        ]
