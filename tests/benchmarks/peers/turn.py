"""A TURN client (RFC 8656): one channel a socket, from a server on this host without authentication."""

import secrets
import socket
import struct

from tests.benchmarks.peers.program import HOST, PeerError, ask_until

MAGIC = 0x2112A442  # RFC 8489, 5
BINDING, ALLOCATE, CHANNEL_BIND = 0x001, 0x003, 0x009  # requests
SUCCESS = 0x100  # the class bits of a success response
ERROR_CODE, CHANNEL_NUMBER, XOR_PEER_ADDRESS, REQUESTED_TRANSPORT = 0x009, 0x00C, 0x012, 0x019
FIRST_CHANNEL = 0x4000  # RFC 8656, 12
HEADER = struct.Struct("!HHI12s")


def message(kind: int, transaction: bytes, *attributes: tuple[int, bytes]) -> bytes:
    """A STUN message (RFC 8489, 5); `transaction` of 12 bytes."""
    body = b"".join(
        struct.pack("!HH", number, len(value)) + value + bytes(-len(value) % 4)
        for number, value in attributes
    )
    return HEADER.pack(kind, len(body), MAGIC, transaction) + body


def parse(data: bytes) -> tuple[int, bytes, dict[int, bytes]]:
    """Type, transaction and attributes (the first of each). Raises ValueError."""
    if len(data) < HEADER.size:
        raise ValueError("shorter than a STUN header")
    kind, length, magic, transaction = HEADER.unpack_from(data)
    if magic != MAGIC or kind >> 14 or length % 4 or HEADER.size + length != len(data):
        raise ValueError("no STUN message")
    attributes: dict[int, bytes] = {}
    at = HEADER.size
    while at < len(data):
        number, size = struct.unpack_from("!HH", data, at)
        value = data[at + 4 : at + 4 + size]
        if len(value) != size:
            raise ValueError("an attribute is cut off")
        attributes.setdefault(number, value)
        at += 4 + size + -size % 4
    return kind, transaction, attributes


def xor_address(host: str, port: int) -> bytes:
    """The value of an XOR-...-ADDRESS of IPv4 (RFC 8489, 14.2)."""
    (address,) = struct.unpack("!I", socket.inet_aton(host))
    return struct.pack("!BBHI", 0, 1, port ^ MAGIC >> 16, address ^ MAGIC)


def error_text(attributes: dict[int, bytes]) -> str:
    """What an ERROR-CODE says (RFC 8489, 14.8)."""
    value = attributes.get(ERROR_CODE, bytes(4))
    return f"{value[2] * 100 + value[3]} {value[4:].decode(errors='replace')}"


def request(sock: socket.socket, server: int, kind: int, *attributes: tuple[int, bytes]) -> None:
    """Sent until it is answered. Raises PeerError when it is refused."""
    transaction = secrets.token_bytes(12)

    def answers(data: bytes) -> bool:
        return data[8:20] == transaction

    answer, _, found = parse(ask_until(sock, server, message(kind, transaction, *attributes), answers))
    if answer != kind | SUCCESS:
        raise PeerError(f"coturn refused request {kind:#x}: {error_text(found)}")


def bind_channel(server: int, from_port: int, channel: int, to_port: int) -> None:
    """Makes the server pass what comes in ChannelData of `channel` from `from_port` to `to_port`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, from_port))
        request(sock, server, ALLOCATE, (REQUESTED_TRANSPORT, struct.pack("!B3x", socket.IPPROTO_UDP)))
        request(
            sock,
            server,
            CHANNEL_BIND,
            (CHANNEL_NUMBER, struct.pack("!H2x", channel)),
            (XOR_PEER_ADDRESS, xor_address(HOST, to_port)),
        )
