"""The configuration: TOML text in, frozen dataclasses out, or everything that is wrong with it at once.

`checks` says how one value is read, `model` is the schema, `reader` joins the two. Here is what concerns
more than one value. `parse` is pure: the text and the environment are passed in; `relay.config.files` looks
at files.
"""

import tomllib
from collections.abc import Mapping
from itertools import combinations
from typing import Any

from relay.config.checks import Address, Table, as_written, is_host, is_ip, parse_address
from relay.config.model import (
    Config,
    EgressConfig,
    EngineConfig,
    FleetConfig,
    HopConfig,
    IngestConfig,
    Kind,
    LogConfig,
    NodeConfig,
    OpsConfig,
    PeerConfig,
    RtpDestination,
    RtpEgress,
    RtpIngest,
    RtpTrack,
    WebConfig,
)
from relay.config.reader import Reader
from relay.errors import ConfigError, Problem

__all__ = [
    "Address",
    "Config",
    "EgressConfig",
    "EngineConfig",
    "FleetConfig",
    "HopConfig",
    "IngestConfig",
    "Kind",
    "LogConfig",
    "NodeConfig",
    "OpsConfig",
    "PeerConfig",
    "RtpDestination",
    "RtpEgress",
    "RtpIngest",
    "RtpTrack",
    "WebConfig",
    "is_host",
    "is_ip",
    "notes",
    "parse",
    "parse_address",
    "track_missing",
]


RTCP = " (RTCP)"  # marks, after a key path, the port after the one that is written there


def parse(text: str, environ: Mapping[str, str]) -> Config:
    """Reads a configuration; `RELAY_<SECTION>_<KEY>` of `environ` overrides scalar keys of single tables.

    Raises ConfigError with every problem. Files that it names are not looked at.
    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError([Problem("syntax", str(error), "TOML 1.0")]) from error
    reader = Reader()
    document = reader.override(Config, document, environ)
    config = reader.table(Table(Config), "", document)
    if "fleet" in document and "hop" not in document:
        reader.wrong("fleet", "a fleet without hops", "[hop] as well, or no [fleet]")
    _check_egress(reader, config, hop_given="hop" in document)
    _check_sockets(reader, config)
    if reader.problems:
        raise ConfigError(reader.problems)
    assert isinstance(config, Config)
    return config


def notes(config: Config) -> tuple[str, ...]:
    """Sentences on what is accepted but has no effect."""
    return ("[web] is reserved: nothing listens there in this version",) if config.web else ()


def track_missing(to: RtpDestination, kinds: list[str]) -> str | None:
    """What to expect instead of `to`, when a stream with tracks of `kinds` has no such track."""
    count = kinds.count(to.kind)
    if to.index < count:
        return None
    if count:
        return f"an index below {count}, the number of {to.kind} tracks of the stream's ingest"
    return f"a kind that the stream's ingest has: {', '.join(sorted(set(kinds)))}"


def _each(owner: Any, name: str) -> list[tuple[int, Any]]:
    """The items that could be read of an array that could be read, with their indices."""
    items = getattr(owner, name, None) or ()
    return [(i, item) for i, item in enumerate(items) if item is not None]


def _check_egress(reader: Reader, config: Any, *, hop_given: bool) -> None:
    """Every stream that leaves has a way in, and the tracks that it sends."""
    ingests = {ingest.stream: ingest for _, ingest in _each(config.ingest, "rtp")}
    may_come_by_hop = hop_given and (config.hop is None or config.hop.peers != () or config.fleet is not None)
    for i, egress in _each(config.egress, "rtp"):
        ingest = ingests.get(egress.stream)
        path = f"egress.rtp[{i}]"
        if egress.stream is not None and ingest is None and not may_come_by_hop:
            source = "a stream of [[ingest.rtp]], or [[hop.peers]] that could send it"
            reader.wrong(f"{path}.stream", as_written(egress.stream), source)
        kinds = [track.kind for _, track in _each(ingest, "tracks")]
        if ingest is None or not kinds or None in kinds or len(kinds) < len(ingest.tracks):
            continue  # what the tracks are is not known, here or at all
        for j, to in _each(egress, "to"):
            if to.kind and to.index is not None and (expected := track_missing(to, kinds)):
                reader.wrong(f"{path}.to[{j}]", f"{to.kind} track {to.index}", expected)


def _check_sockets(reader: Reader, config: Any) -> None:
    """No two listeners want one port of one address; an RTP listener takes the next port too, for RTCP."""
    udp = [("hop.listen", getattr(config.hop, "listen", None))]
    for i, ingest in _each(config.ingest, "rtp"):
        for j, track in _each(ingest, "tracks"):
            path = f"ingest.rtp[{i}].tracks[{j}].listen"
            udp.append((path, track.listen))
            if track.listen:
                udp.append((path + RTCP, Address(track.listen.host, track.listen.port + 1)))
    tcp = [(f"{name}.listen", getattr(getattr(config, name), "listen", None)) for name in ("ops", "web")]
    by_port: dict[tuple[str, int], list[tuple[str, Address]]] = {}
    for protocol, listeners in ("UDP", udp), ("TCP", tcp):
        for path, address in listeners:
            if address is not None:
                by_port.setdefault((protocol, address.port), []).append((path, address))
    for (protocol, port), listeners_there in by_port.items():
        for (first, a), (second, b) in combinations(listeners_there, 2):
            both_rtcp = first.endswith(RTCP) and second.endswith(RTCP)  # then so do the ports before
            if _overlap(a.host, b.host) and not both_rtcp:
                reader.wrong(second, f"{protocol} port {port} of {first} again", "a port of its own")
                break


def _overlap(a: str, b: str) -> bool:
    """Whether sockets bound to both would collide; `::` takes IPv4 too."""
    hosts = {a, b}
    return len(hosts) == 1 or "::" in hosts or ("0.0.0.0" in hosts and not any(":" in host for host in hosts))
