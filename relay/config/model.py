"""The schema of the configuration: a field's annotation holds its type and the check that reads it.

A field without a default is a required key; a key that is no field is an error. `docs/node.toml` explains
every key to the user, with its unit and its default.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from relay.config.checks import (
    ADDRESS,
    AUTHORITY_KEY,
    CODEC,
    DIRECTORY,
    FILE,
    INTERFACE,
    KIND,
    LISTEN,
    LISTEN_RTP,
    LOCAL_IP,
    NAME,
    PAYLOAD_TYPE,
    PUBLIC_KEY,
    STREAM,
    Address,
    Array,
    Table,
    one_of,
    power_of_two,
    real,
    unique,
    whole,
)
from relay.wire.hop import PATHS_MAX

Kind = Literal["video", "audio", "av"]  # av: both in one, an MPEG transport stream

HOP_LISTEN = Address("::", 7400)  # UDP, IPv4 too
OPS_LISTEN = Address("127.0.0.1", 7480)  # TCP, not for strangers
WEB_LISTEN = Address("0.0.0.0", 8889)  # TCP


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """`[node]`: who this is. A region sends streams on to peers that ask for them; an edge does not."""

    name: Annotated[str, unique("node name", NAME)]
    role: Annotated[Literal["edge", "region"], one_of("edge", "region")] = "edge"
    region: Annotated[str, NAME] = "default"
    state_dir: Annotated[Path, DIRECTORY] = Path("/var/lib/relay")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """`[engine]`: the packet plane's threads. `coalesce_us` is the delay that saving wake-ups may add.

    100 us is meant to keep the median delay below 150 us; more saves more, as docs/performance.md shows.
    """

    coalesce_us: Annotated[int, whole(0, 1000, "(us)")] = 100
    threads: Annotated[int, power_of_two(16)] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConfig:
    """`[[hop.peers]]`: a node that is spoken to. Without `addresses` it is the peer that calls."""

    name: Annotated[str, unique("node name", NAME)]
    region: Annotated[str, NAME] = "default"
    public_key: Annotated[bytes, PUBLIC_KEY]
    addresses: Annotated[tuple[Address, ...], Array(ADDRESS, at_least=1, single="address")] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkConfig:
    """`[[hop.uplinks]]`: a way out of the machine, by interface or by local address.

    Without a `port` it gets a free one; with one, peers can call this node there.
    """

    interface: Annotated[str | None, unique("interface", INTERFACE)] = None
    address: Annotated[str | None, unique("uplink's address", LOCAL_IP)] = None
    port: Annotated[int | None, whole(1, 65535)] = None
    name: Annotated[str | None, unique("uplink name", NAME)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HopConfig:
    """`[hop]`: all node-to-node traffic. `max_overhead` is repair bytes per media byte, at most."""

    listen: Annotated[Address, LISTEN] = HOP_LISTEN
    key_file: Annotated[Path, FILE] = Path("/etc/relay/node.key")
    budget_ms: Annotated[int, whole(20, 5000, "(ms)")] = 200
    max_overhead: Annotated[float, real(0, 3)] = 1.0
    peers: Annotated[tuple[PeerConfig, ...], Array(Table(PeerConfig))] = ()
    uplinks: Annotated[
        tuple[UplinkConfig, ...],
        Array(Table(UplinkConfig, exactly_one=("interface", "address")), at_most=PATHS_MAX),
    ] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetConfig:
    """`[fleet]`: nodes that are trusted on the word of the fleet's key.

    `max_peers` bounds those that have called so and are in no `[[hop.peers]]`.
    """

    authority_key: Annotated[bytes, AUTHORITY_KEY]
    record_file: Annotated[Path | None, FILE] = None
    revocations_file: Annotated[Path | None, FILE] = None
    max_peers: Annotated[int, whole(1, 4096)] = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class OpsConfig:
    """`[ops]`: health, metrics and the API."""

    listen: Annotated[Address, LISTEN] = OPS_LISTEN


@dataclass(frozen=True, slots=True, kw_only=True)
class WebConfig:
    """`[web]`: reserved for WHIP, WHEP and pages; accepted, not served yet."""

    listen: Annotated[Address, LISTEN] = WEB_LISTEN


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """`[log]`: events on stderr, one a line."""

    format: Annotated[Literal["text", "json"], one_of("text", "json")] = "text"
    level: Annotated[str, one_of("debug", "info", "warning", "error")] = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class RtpTrack:
    """One RTP session that comes in. RTCP is taken on `listen` and on the port after it."""

    kind: Annotated[Kind, KIND]
    listen: Annotated[Address, LISTEN_RTP]
    payload_type: Annotated[int, PAYLOAD_TYPE]
    codec: Annotated[str, CODEC]

    @property
    def clock_rate(self) -> int:
        """RTP timestamp units a second."""
        return int(self.codec.split("/")[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class RtpIngest:
    """`[[ingest.rtp]]`: a stream that enters here, described by `tracks` or by an SDP file, never both.

    `latency_ms` is its budget from ingress to egress; None leaves each hop its own `budget_ms`.
    """

    stream: Annotated[str, unique("stream name", STREAM)]
    latency_ms: Annotated[int | None, whole(20, 15000, "(ms)")] = None
    sdp: Annotated[Path | None, FILE] = None
    tracks: Annotated[tuple[RtpTrack, ...], Array(Table(RtpTrack), at_least=1)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RtpDestination:
    """Where one track goes: the `index`-th of the stream's tracks of that kind, counted from 0."""

    kind: Annotated[Kind, KIND]
    address: Annotated[Address, unique("destination", ADDRESS)]
    index: Annotated[int, whole(0, 255)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RtpEgress:
    """`[[egress.rtp]]`: a stream that leaves here."""

    stream: Annotated[str, STREAM]
    to: Annotated[tuple[RtpDestination, ...], Array(Table(RtpDestination), at_least=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestConfig:
    rtp: Annotated[tuple[RtpIngest, ...], Array(Table(RtpIngest, exactly_one=("sdp", "tracks")))] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressConfig:
    rtp: Annotated[tuple[RtpEgress, ...], Array(Table(RtpEgress))] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole configuration. `hop` is None for a plain forwarder, which needs no key."""

    node: Annotated[NodeConfig, Table(NodeConfig)]
    hop: Annotated[HopConfig | None, Table(HopConfig)] = None
    fleet: Annotated[FleetConfig | None, Table(FleetConfig)] = None
    engine: Annotated[EngineConfig, Table(EngineConfig)] = EngineConfig()
    ops: Annotated[OpsConfig, Table(OpsConfig)] = OpsConfig()
    web: Annotated[WebConfig | None, Table(WebConfig)] = None
    log: Annotated[LogConfig, Table(LogConfig)] = LogConfig()
    ingest: Annotated[IngestConfig, Table(IngestConfig)] = IngestConfig()
    egress: Annotated[EgressConfig, Table(EgressConfig)] = EgressConfig()
