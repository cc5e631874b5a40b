"""Packetisation-layer path MTU discovery (RFC 8899) for one address of one path, on links that lose a
third of their packets.

The largest size is tried first, for it is most often the right one; when that fails, the rest is
bisected. A size is given up only after MTU_TRIES probes, each of which counts only if something was heard
from the peer after it was sent: an outage says nothing about sizes. A size that was found is confirmed
from time to time in the same way; when it no longer passes (a black hole), the path is back at MTU_BASE.
"""

from relay.wire import hop
from relay.wire.fields import U16
from relay.wire.hop import MtuProbe


def largest_datagram(host: str) -> int:
    """UDP payload bytes worth a probe towards a numeric address: what Ethernet carries."""
    ipv6 = ":" in host and not host.lower().startswith("::ffff:")
    return hop.MTU_MAX_IPV6 if ipv6 else hop.MTU_MAX_IPV4


class PathMtu:
    """`size` is what the path carries, as far as is proven; `poll` at `deadline` for the probes."""

    def __init__(self, now_ns: int, largest: int) -> None:
        self.size = hop.MTU_BASE
        self._sizes = [size for size in hop.MTU_SIZES if size <= largest]
        self._probe = 0
        self._sizes_sent: dict[int, int] = {}
        self._sent_ns: int | None = None
        self._open: list[int] = []
        self._bisect = False
        self._failures = 0
        self._due_ns = now_ns
        self._raise_ns = now_ns
        self._search(now_ns, self._sizes)

    def deadline(self) -> int:
        return self._due_ns

    def poll(self, now_ns: int, rtt_ns: int, heard_ns: int) -> MtuProbe | None:
        """The probe to send now. `heard_ns` is when the peer was last heard."""
        if now_ns < self._due_ns:
            return None
        if self._sent_ns is not None and heard_ns > self._sent_ns:
            self._failures += 1
        if self._failures >= hop.MTU_TRIES:
            self._failed(now_ns)
            if now_ns < self._due_ns:
                return None
        if now_ns >= self._raise_ns:
            self._search(now_ns, self._sizes)
        self._sent_ns = now_ns
        self._due_ns = now_ns + max(hop.MTU_PROBE_INTERVAL, rtt_ns)
        self._probe = (self._probe + 1) & U16
        self._sizes_sent[self._probe] = self._target()
        if len(self._sizes_sent) > hop.MTU_TRIES:
            del self._sizes_sent[next(iter(self._sizes_sent))]
        return MtuProbe(self._probe, self._target())

    def acknowledged(self, now_ns: int, probe: int, size: int) -> None:
        """The peer received a probe. An answer to what was not sent lately changes nothing."""
        if self._sizes_sent.get(probe) != size:
            return
        if size >= self._target():
            self._sent_ns, self._failures = None, 0
        if size >= self.size:
            self.size = size
            self._open = [other for other in self._open if other > size]
            self._schedule(now_ns)

    def _target(self) -> int:
        """What is probed now: a larger size while any is open, the one found otherwise."""
        if not self._open:
            return self.size
        return self._open[len(self._open) // 2] if self._bisect else self._open[-1]

    def _search(self, now_ns: int, sizes: list[int]) -> None:
        self._open = [size for size in sizes if size > self.size]
        self._bisect = False
        self._failures = 0
        self._raise_ns = now_ns + hop.MTU_RAISE
        self._schedule(now_ns)

    def _failed(self, now_ns: int) -> None:
        target = self._target()
        self._sent_ns, self._failures = None, 0
        if self._open:
            self._open = [size for size in self._open if size < target]
            self._bisect = True
            self._schedule(now_ns)
        else:
            self.size = hop.MTU_BASE
            self._sizes_sent.clear()
            self._search(now_ns, [size for size in self._sizes if size < target])

    def _schedule(self, now_ns: int) -> None:
        """At once while sizes are open; else when the size found is to be confirmed, or larger ones are
        tried again."""
        if self._open:
            self._due_ns = now_ns
        elif self.size > hop.MTU_BASE:
            self._due_ns = min(now_ns + hop.MTU_CONFIRM, self._raise_ns)
        else:
            self._due_ns = self._raise_ns
