"""A configuration as it may be shown to whoever sees the status or a report of a fault.

By a list of what is shown, not of what is hidden: a key that is added to the schema is hidden until somebody
has decided that it holds no secret, and put it here.
"""

import base64
from pathlib import Path
from typing import Any

from relay.config.checks import Address
from relay.config.model import (
    Config,
    EgressConfig,
    EngineConfig,
    FleetConfig,
    HopConfig,
    IngestConfig,
    LogConfig,
    NodeConfig,
    OpsConfig,
    PeerConfig,
    RtpDestination,
    RtpEgress,
    RtpIngest,
    RtpTrack,
    UplinkConfig,
    WebConfig,
)

SHOWN: dict[type, tuple[str, ...]] = {
    Config: ("node", "hop", "fleet", "engine", "ops", "web", "log", "ingest", "egress"),
    NodeConfig: ("name", "role", "region", "state_dir"),
    EngineConfig: ("coalesce_us", "threads"),
    HopConfig: ("listen", "key_file", "budget_ms", "max_overhead", "peers", "uplinks"),
    PeerConfig: ("name", "region", "public_key", "addresses"),
    UplinkConfig: ("interface", "address", "port", "name"),
    FleetConfig: ("authority_key", "record_file", "revocations_file", "max_peers"),
    OpsConfig: ("listen",),
    WebConfig: ("listen",),
    LogConfig: ("format", "level"),
    IngestConfig: ("rtp",),
    RtpIngest: ("stream", "latency_ms", "sdp", "tracks"),
    RtpTrack: ("kind", "listen", "payload_type", "codec"),
    EgressConfig: ("rtp",),
    RtpEgress: ("stream", "to"),
    RtpDestination: ("kind", "address", "index"),
}
"""`public_key` and `authority_key` are public, and `key_file` is a path."""


def shown(value: Any) -> Any:
    """Ready for JSON. Keys are in base64."""
    if fields := SHOWN.get(type(value)):
        return {name: shown(getattr(value, name)) for name in fields}
    match value:
        case Path() | Address():
            return str(value)
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case tuple():
            return [shown(item) for item in value]
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"it is not decided how a {type(value).__name__} is shown")
