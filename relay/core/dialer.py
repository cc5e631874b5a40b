"""The initiator's side of a session: when to send initiations, to which address, and which responses
still count.

While it is active it sends an initiation with a fresh ephemeral key at every interval, to the peer's
addresses in turn, and remembers the last HALF_OPEN_MAX of them: on a long path the response to an early
one arrives after later ones have been sent.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from relay.core.actions import Address, SendHandshake
from relay.core.handshake import (
    HandshakeError,
    Local,
    TransportKeys,
    finish,
    initiate,
    mac1_of,
    open_cookie,
)
from relay.core.noise import Initiator
from relay.seq import MASK
from relay.wire import hop
from relay.wire.hop import Hello


def retry_interval(elapsed_ns: int, previous_ns: int, rtt_ns: int) -> int:
    """Nanoseconds to the next initiation of an attempt that began `elapsed_ns` ago and last waited for
    `previous_ns`.

    max(RETRY_MIN, 1.5 RTT) while the attempt is younger than RETRY_FAST, then growing by RETRY_BACKOFF up
    to RETRY_MAX.
    """
    base = min(max(hop.RETRY_MIN, rtt_ns * 3 // 2), hop.RETRY_MAX)
    if elapsed_ns < hop.RETRY_FAST:
        return base
    return min(max(base, int(previous_ns * hop.RETRY_BACKOFF)), hop.RETRY_MAX)


class CookieJar:
    """Cookies of one peer, by the address that asked for them. Each is bound to our address, and lives
    COOKIE_LIFE."""

    def __init__(self, responder_public: bytes) -> None:
        self._public = responder_public
        self._cookies: dict[Address, tuple[bytes, int]] = {}

    def learn(self, now_ns: int, address: Address, reply: hop.CookieReply, mac1: bytes) -> None:
        """Takes the cookie of a reply to our datagram with this mac1, sent to `address`. Raises
        HandshakeError."""
        cookie = open_cookie(reply, self._public, mac1)
        self._cookies = {a: c for a, c in self._cookies.items() if c[1] > now_ns}
        if address in self._cookies or len(self._cookies) < hop.HALF_OPEN_MAX:
            self._cookies[address] = cookie, now_ns + hop.COOKIE_LIFE

    def cookie(self, now_ns: int, address: Address) -> bytes | None:
        cookie, until_ns = self._cookies.get(address, (None, 0))
        return cookie if now_ns < until_ns else None


@dataclass(frozen=True, slots=True)
class Dialled:
    """A handshake that the peer has answered."""

    hello: Hello
    keys: TransportKeys
    local_index: int
    address: Address
    socket: int
    rtt_ns: int


@dataclass(frozen=True, slots=True)
class _HalfOpen:
    local_index: int
    address: Address
    socket: int
    sent_ns: int
    hello: Hello
    mac1: bytes
    noise: Initiator = field(repr=False)


class Dialer:
    """Inactive until `start`; then `poll` at its `deadline`, until `stop`."""

    def __init__(
        self, local: Local, remote: bytes, path: int, cookies: CookieJar, numbers: Iterator[int]
    ) -> None:
        """`remote` is the peer's static public key; `numbers` are the initiations', 1 and up."""
        self._local = local
        self._remote = remote
        self._path = path
        self._cookies = cookies
        self._numbers = numbers
        self._half_open: deque[_HalfOpen] = deque()
        self._next_ns: int | None = None
        self._started_ns = 0
        self._interval_ns = 0
        self.initiations = 0
        """Initiations sent."""

    @property
    def active(self) -> bool:
        return self._next_ns is not None

    def start(self, now_ns: int) -> None:
        self._started_ns = self._next_ns = now_ns
        self._interval_ns = 0

    def stop(self) -> None:
        """No more initiations; responses to those under way are ignored."""
        self._next_ns = None
        while self._half_open:
            self._local.release(self._half_open.popleft().local_index)

    def deadline(self) -> int | None:
        return self._next_ns

    def poll(
        self, now_ns: int, rtt_ns: int, addresses: Iterable[Address], socket: int
    ) -> SendHandshake | None:
        """The next initiation, when it is due. `addresses` are taken in turn."""
        if self._next_ns is None or now_ns < self._next_ns:
            return None
        self._interval_ns = retry_interval(now_ns - self._started_ns, self._interval_ns, rtt_ns)
        self._next_ns = now_ns + self._jitter(now_ns)
        candidates = list(dict.fromkeys(addresses))
        if not candidates:
            return None
        return self._initiate(now_ns, candidates[self.initiations % len(candidates)], socket)

    def half_open(self, local_index: int) -> tuple[Address, bytes] | None:
        """Address and mac1 of an initiation under way."""
        return next(((h.address, h.mac1) for h in self._half_open if h.local_index == local_index), None)

    def response(self, now_ns: int, response: hop.Response) -> Dialled:
        """The handshake that this completes. Raises HandshakeError: a forged response costs the
        initiation that it names."""
        half_open = next((h for h in self._half_open if h.local_index == response.receiver_index), None)
        if half_open is None:
            raise HandshakeError("unexpected response")
        self._half_open.remove(half_open)
        try:
            hello, keys = finish(half_open.noise, half_open.hello, response)
        except HandshakeError:
            self._local.release(half_open.local_index)
            raise
        rtt_ns = now_ns - half_open.sent_ns
        return Dialled(hello, keys, half_open.local_index, half_open.address, half_open.socket, rtt_ns)

    def _initiate(self, now_ns: int, address: Address, socket: int) -> SendHandshake:
        identity = self._local.identity
        self.initiations += 1
        hello = Hello(
            instance=self._local.instance,
            number=next(self._numbers) & MASK,
            path=self._path,
            name=identity.spoken_name,
            ciphers=identity.ciphers,
            record=identity.record,
        )
        index = self._local.allocate()
        datagram, noise = initiate(
            identity,
            self._remote,
            hello,
            local_index=index,
            ephemeral=self._local.random_bytes(32),
            cookie=self._cookies.cookie(now_ns, address),
        )
        if len(self._half_open) == hop.HALF_OPEN_MAX:
            self._local.release(self._half_open.popleft().local_index)
        self._half_open.append(_HalfOpen(index, address, socket, now_ns, hello, mac1_of(datagram), noise))
        return SendHandshake(address, datagram, socket)

    def _jitter(self, now_ns: int) -> int:
        """The interval, spread by +-RETRY_JITTER / 2 once the attempt backs off."""
        if now_ns - self._started_ns < hop.RETRY_FAST:
            return self._interval_ns
        fraction = int.from_bytes(self._local.random_bytes(2), "big") / 0xFFFF - 0.5
        return int(self._interval_ns * (1 + hop.RETRY_JITTER * fraction))
