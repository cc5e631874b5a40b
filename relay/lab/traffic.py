"""Bytes of control traffic on the wire, IP and UDP headers included, by the codecs that nodes use.

Counted is what nodes say to each other beside media: handshakes, reports of idle sessions, health, messages
with their acknowledgements, confirmations of the path MTU. The reports on media, a hundred a second while it
flows, are media's.
"""

from functools import lru_cache

from relay.core.noise import MESSAGE_1_OVERHEAD, MESSAGE_2_OVERHEAD
from relay.lab.link import packet_size
from relay.wire.coding import encode
from relay.wire.health import Digest, Summary
from relay.wire.hop import (
    HANDSHAKE_PAYLOAD_BYTES,
    HEADER_BYTES,
    INITIATION_HEADER_BYTES,
    MACS_BYTES,
    REKEY_INITIATOR,
    RESPONSE_HEADER_BYTES,
    TAG_BYTES,
    Acknowledgement,
    Frame,
    Latest,
    Reliable,
    encode_frame,
)
from relay.wire.messages import (
    AskRegions,
    Goodbye,
    ListVersion,
    Message,
    Publish,
    PublishOk,
    Regions,
    Subscribe,
    Track,
    Unpublish,
    Unsubscribe,
)

SECOND_NS = 1_000_000_000
HOST = "192.0.2.1"
REPORT_BYTES = 40
"""Without arrivals; four bytes more for each."""
REPORTS_PER_S = 4
ARRIVALS = 1.5
"""Told of by a report: reports and digests of the other end since the last one."""
MTU_CONFIRM_BYTES, MTU_CONFIRM_S = 1472 + 28 + 41 + 28, 30
RECORD_BYTES = 160
"""A region's record with two addresses (docs/protocol.md, Trust)."""
HELLO_BYTES = 60 + RECORD_BYTES

DIGEST = Digest(
    version="0.1.0",
    draining=False,
    streams=1,
    headroom_permille=700,
    thread_load_permille=300,
    loop_lag_ms=3,
    temperature_c=55,
    throttled=False,
    under_voltage=False,
    memory_available_permille=600,
    backlog_drops_per_s=0,
    udp_drops_per_s=0,
    nic_errors_per_s=0,
    nic_speed_mbps=1000,
    nic_load_permille=20,
    disk_errors=0,
    disk_read_only=False,
    disk_free_permille=700,
    clock_synchronised=True,
)
"""All that a small board knows."""
SUMMARY = Summary(300, 300, 1, 9, 250, 700, 200, 300, 800, 40, 55, 78, 300)
TRACKS = (
    Track(0, "video", "H264/90000", 96, 90000, "packetization-mode=1;profile-level-id=42e01f"),
    Track(1, "audio", "opus/48000/2", 97, 48000),
)


def _sealed(frame: Frame) -> int:
    return packet_size(HEADER_BYTES + len(encode_frame(frame)) + TAG_BYTES, HOST)


@lru_cache(maxsize=4096)
def message_bytes(message: Message) -> int:
    """One message of the reliable channel."""
    return _sealed(Reliable(0, Acknowledgement(0, 0), encode(message)))


ACK_BYTES = _sealed(Acknowledgement(0, 0))
DIGEST_BYTES = _sealed(Latest(0, encode(DIGEST)))
SUMMARY_BYTES = _sealed(Latest(0, encode(SUMMARY)))
INITIATION_BYTES = packet_size(
    INITIATION_HEADER_BYTES + MESSAGE_1_OVERHEAD + HANDSHAKE_PAYLOAD_BYTES + MACS_BYTES, HOST
)
RESPONSE_BYTES = packet_size(RESPONSE_HEADER_BYTES + MESSAGE_2_OVERHEAD + HELLO_BYTES + MACS_BYTES, HOST)
HANDSHAKE_BYTES = INITIATION_BYTES + RESPONSE_BYTES

IDLE_BYTES_PER_S = (
    2 * REPORTS_PER_S * packet_size(HEADER_BYTES + REPORT_BYTES + round(4 * ARRIVALS) + TAG_BYTES, HOST)
    + 2 * MTU_CONFIRM_BYTES / MTU_CONFIRM_S
    + HANDSHAKE_BYTES / (REKEY_INITIATOR / SECOND_NS)
)
"""A session at rest, both ways together, without health."""
OPENING_BYTES = (
    HANDSHAKE_BYTES
    + 2 * MTU_CONFIRM_BYTES  # a path that carries the largest size needs one probe
    + message_bytes(ListVersion(9, 9))
    + message_bytes(Goodbye())
    + 2 * ACK_BYTES
)
"""A session begins and, later, ends."""

_PUBLISH = Publish("camera-0001", 1, 0, 200, TRACKS, ("edge-0001", "region-1"))
MOVE_BYTES = sum(
    message_bytes(message) + ACK_BYTES
    for message in (
        Subscribe("camera-0001"),
        _PUBLISH,
        PublishOk(1, 0),
        Unsubscribe("camera-0001"),
        Unpublish(1, 0, "not sent here any more"),
    )
)
"""A stream goes over another region: told to both."""


def regions_bytes(regions: int) -> int:
    """An edge asks which regions there are, and is told."""
    pages = -(-regions // 4)
    told = message_bytes(Regions((bytes(RECORD_BYTES),) * 4))
    return message_bytes(AskRegions()) + ACK_BYTES + pages * (told + ACK_BYTES)
