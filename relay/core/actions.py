"""What a session asks of its driver: small frozen actions, carried out in the order in which they are
returned.

The packet plane executes all of them but `Deliver` and `StateChanged`, which are the hop service's.
"""

from dataclasses import dataclass, field

from relay.wire.messages import Message

Address = tuple[str, int]
"""(host, UDP port); the host is a numeric IPv4 or IPv6 address."""


@dataclass(frozen=True, slots=True)
class SendHandshake:
    """Send this datagram as it is."""

    address: Address
    datagram: bytes = field(repr=False)
    socket: int = 0
    """The number by which the packet plane knows the socket to send from."""


@dataclass(frozen=True, slots=True)
class InstallKeys:
    """Accept datagrams whose receiver index is `local_index`, and report the first authentic one of them
    with `Session.confirmed`. Sending on these keys starts with UseKeys, not before."""

    path: int
    generation: int
    """Counts the installations of this session upwards."""
    local_index: int
    """What the peer puts into the header: unique in this node."""
    remote_index: int
    """What goes into the header of datagrams to the peer."""
    send_key: bytes = field(repr=False)
    receive_key: bytes = field(repr=False)
    cipher: int
    peer_instance: int
    """The peer's process. Receive windows and ESIs belong to one instance: when the first authentic datagram
    arrives under keys with another instance and a higher generation, the packet plane resets them before it
    handles that datagram."""
    address: Address
    """The peer's address in this handshake."""


@dataclass(frozen=True, slots=True)
class UseKeys:
    """Seal everything that is sent on this path under the keys of `local_index` from now on."""

    path: int
    local_index: int


@dataclass(frozen=True, slots=True)
class DropKeys:
    """Forget these keys; datagrams under them are refused."""

    local_index: int


@dataclass(frozen=True, slots=True)
class SendControl:
    """Seal this frame into a control datagram under the keys in use."""

    path: int
    address: Address | None
    """None: the path's address."""
    frame: bytes
    pad_to: int | None = None
    """UDP payload bytes that the datagram is to have; the frame is followed by zeros."""


@dataclass(frozen=True, slots=True)
class SetAddress:
    """Send everything on this path to this address, from this socket, from now on; the peer has proven to be
    there."""

    path: int
    address: Address
    socket: int = 0


@dataclass(frozen=True, slots=True)
class SetMtu:
    """Datagrams of this path may have so many bytes of UDP payload. MTU_BASE until the first of these."""

    path: int
    datagram_bytes: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """A message of the peer, validated, in order, once."""

    message: Message


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The session's state, or the peer's process, is another one."""

    state: str
    """"connecting", "connected" or "silent"."""
    why: str
    fresh: bool = False
    """The peer's process is new to this session: what was published either way is void, and messages that
    it had not acknowledged
    are lost. Publish anew."""


Action = (
    SendHandshake
    | InstallKeys
    | UseKeys
    | DropKeys
    | SendControl
    | SetAddress
    | SetMtu
    | Deliver
    | StateChanged
)
