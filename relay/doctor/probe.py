"""Handshakes with peers from a node that does not run, to see whether they answer and what the way loses.

They are the node's own, from its hop port, which nobody else can have meanwhile: so firewalls see what they
will see, and no session of a running node is displaced. No handshake is confirmed, so the peer keeps what it
has (docs/protocol.md, Handshake).
"""

import secrets
import select
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import count

from relay.config import Address
from relay.core.dialer import CookieJar, Dialer
from relay.core.handshake import HandshakeError, Identity, Local
from relay.doctor.facts import Probe
from relay.seq import Count
from relay.services.sockets import open_udp
from relay.wire.fields import WireError
from relay.wire.hop import HALF_OPEN_MAX, MS, RETRY_MIN, CookieReply, Response, decode_handshake

SENDS = HALF_OPEN_MAX
"""Handshakes with each address: as many as may be under way, so that none is forgotten."""
PATIENCE_NS = 1000 * MS
"""After the last of them: the longest round trip that is waited for."""
POLL_S = 0.01
DATAGRAM_BYTES = 2048


class _Call:
    """The handshakes with one address."""

    def __init__(self, local: Local, peer: str, remote: bytes, address: Address) -> None:
        self.peer = peer
        self.address = address
        self.rtts_ms: list[float] = []
        self.error = ""
        self._cookies = CookieJar(remote)
        self._dialer = Dialer(local, remote, 0, self._cookies, Count(1))
        self._dialer.start(time.monotonic_ns())

    @property
    def done(self) -> bool:
        return bool(self.error) or len(self.rtts_ms) == SENDS

    def poll(self, now_ns: int, sock: socket.socket) -> None:
        if self.error or self._dialer.initiations == SENDS:
            return
        if action := self._dialer.poll(now_ns, 0, [self.address], 0):
            try:
                sock.sendto(action.datagram, _to(sock, self.address))
            except OSError as error:
                self.error = (error.strerror or str(error)).lower()

    def receive(self, now_ns: int, datagram: bytes) -> None:
        """What is for another call, or from nobody that is known, is passed over."""
        with suppress(WireError, HandshakeError):
            parts = decode_handshake(datagram)
            if isinstance(parts, Response):
                self.rtts_ms.append(self._dialer.response(now_ns, parts).rtt_ns / MS)
            elif isinstance(parts, CookieReply) and (known := self._dialer.half_open(parts.receiver_index)):
                self._cookies.learn(now_ns, known[0], parts, known[1])

    def result(self) -> Probe:
        sent = self._dialer.initiations
        return Probe(self.peer, str(self.address), sent, tuple(self.rtts_ms), self.error)


def probe(
    listen: Address, identity: Identity, peers: Sequence[tuple[str, bytes, Sequence[Address]]]
) -> list[Probe]:
    """Calls each peer (name, public key, addresses), all at the same time. Raises PortError while the hop
    port is in use."""
    indices = count(1)
    local = Local(identity, identity.instance, secrets.token_bytes, lambda: next(indices), lambda _: None)
    with open_udp(listen) as sock:
        sock.setblocking(False)
        calls = [_Call(local, name, key, address) for name, key, every in peers for address in every]
        until_ns = time.monotonic_ns() + SENDS * RETRY_MIN + PATIENCE_NS
        while not all(call.done for call in calls) and (now_ns := time.monotonic_ns()) < until_ns:
            for call in calls:
                call.poll(now_ns, sock)
            if select.select([sock], [], [], POLL_S)[0]:
                _take(sock, calls)
    return [call.result() for call in calls]


def _take(sock: socket.socket, calls: Sequence[_Call]) -> None:
    with suppress(OSError):  # ICMP errors of other datagrams come here, too
        datagram = sock.recv(DATAGRAM_BYTES)
        for call in calls:
            call.receive(time.monotonic_ns(), datagram)


def _to(sock: socket.socket, address: Address) -> Address:
    """IPv4 through a socket of IPv6 (RFC 4291 section 2.5.5.2)."""
    mapped = sock.family == socket.AF_INET6 and ":" not in address.host
    return Address(f"::ffff:{address.host}", address.port) if mapped else address
