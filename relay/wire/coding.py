"""Control messages to bytes and back: one set of bounds for both directions."""

from collections.abc import Callable

import msgpack

from relay.wire import health, paths
from relay.wire.fields import (
    NODE_NAME_CHARS_MAX,
    STREAM_NAME_CHARS_MAX,
    U8,
    U16,
    U32,
    Fields,
    WireError,
    boolean,
    integer,
    items,
    text,
    unpack_map,
)
from relay.wire.health import Digest, Summary, unpack_digest, unpack_summary
from relay.wire.messages import (
    BUDGET_MS_MAX,
    CATALOGUE_ENTRIES_MAX,
    CODEC_CHARS_MAX,
    FINGERPRINT_BYTES,
    FMTP_CHARS_MAX,
    MESSAGE_BYTES_MAX,
    NODE_RECORD_BYTES_MAX,
    PATH_NODES_MAX,
    REASON_CHARS_MAX,
    RECORDS_MAX,
    TRACK_KINDS,
    TRACKS_MAX,
    Announce,
    Ask,
    AskRegions,
    Catalogue,
    CatalogueEntry,
    Goodbye,
    Health,
    KeyFrameRequest,
    Kind,
    ListVersion,
    Message,
    Move,
    Publish,
    PublishOk,
    PublishRefused,
    Records,
    Regions,
    RevocationList,
    Subscribe,
    Track,
    Unavailable,
    UnknownMessage,
    Unpublish,
    Unsubscribe,
)
from relay.wire.paths import HopsBefore, HopsBehind, unpack_before, unpack_behind


def encode(message: Message) -> bytes:
    """The packed message. Raises WireError when a field is out of bounds or the whole is over
    MESSAGE_BYTES_MAX."""
    data: bytes = msgpack.packb({"t": int(_KINDS[type(message)]), **_to_fields(message)})
    decode(data)  # one set of rules for both directions
    return data


def decode(data: bytes) -> Message:
    """The message in `data`. Raises UnknownMessage for an unknown kind, WireError for anything that is
    wrong."""
    fields = unpack_map(data, MESSAGE_BYTES_MAX)
    kind = integer(fields, "t", 0, U16)
    if kind not in _PARSERS:
        raise UnknownMessage(f"message kind {kind}")
    return _PARSERS[Kind(kind)](fields)


OMITTED = {
    "path": (),
    "behind_ms": 0,
    "rtt_ms": 0,
    "latency_ms": 0,
    "lost": False,
    "beyond": (),
    "entries": [],
    "instead": "",
    "serial": 0,
    "publisher": b"",
    "standby": False,
    "since": (),
}
"""Fields that are left out where they say nothing."""


def _to_fields(message: Message | Track | CatalogueEntry) -> dict[str, object]:
    if isinstance(message, Health):
        return health.pack(message)
    if isinstance(message, HopsBefore | HopsBehind):
        return paths.pack(message)
    fields: dict[str, object] = {name: getattr(message, name) for name in message.__slots__}
    if isinstance(message, Publish):
        fields["tracks"] = [_to_fields(track) for track in message.tracks]
    if isinstance(message, Catalogue):
        fields["entries"] = [_to_fields(entry) for entry in message.entries]
    return {name: value for name, value in fields.items() if name not in OMITTED or value != OMITTED[name]}


def _track(fields: object) -> Track:
    if not isinstance(fields, dict):
        raise WireError("a track must be a map")
    kind = text(fields, "kind", 5)
    if kind not in TRACK_KINDS:
        raise WireError(f"track kind must be one of {', '.join(TRACK_KINDS)}")
    return Track(
        alias=integer(fields, "alias", 0, U8),
        kind=kind,
        codec=text(fields, "codec", CODEC_CHARS_MAX),
        payload_type=integer(fields, "payload_type", 0, 127),
        clock_rate=integer(fields, "clock_rate", 1, U32),
        fmtp=text(fields, "fmtp", FMTP_CHARS_MAX, empty=True),
    )


def _publish(fields: Fields) -> Publish:
    tracks = tuple(_track(track) for track in items(fields, "tracks", TRACKS_MAX))
    if len({track.alias for track in tracks}) != len(tracks):
        raise WireError("two tracks have the same alias")
    return Publish(
        stream=_stream(fields),
        alias=integer(fields, "alias", 0, U16),
        epoch=integer(fields, "epoch", 0, U8),
        budget_ms=integer(fields, "budget_ms", 1, BUDGET_MS_MAX),
        tracks=tracks,
        path=tuple(
            text({"path": name}, "path", NODE_NAME_CHARS_MAX)
            for name in items(fields, "path", PATH_NODES_MAX, empty=True)
        ),
        behind_ms=integer({"behind_ms": 0, **fields}, "behind_ms", 0, BUDGET_MS_MAX),
        rtt_ms=integer({"rtt_ms": 0, **fields}, "rtt_ms", 0, BUDGET_MS_MAX),
        latency_ms=integer({"latency_ms": 0, **fields}, "latency_ms", 0, BUDGET_MS_MAX),
        serial=_serial(fields),
        lost=boolean({"lost": False, **fields}, "lost"),
        standby=_standby(fields),
    )


def _publish_ok(fields: Fields) -> PublishOk:
    beyond = items(fields, "beyond", PATH_NODES_MAX - 1, empty=True)
    return PublishOk(
        integer(fields, "alias", 0, U16),
        integer(fields, "epoch", 0, U8),
        tuple(integer({"beyond": rtt}, "beyond", 0, BUDGET_MS_MAX) for rtt in beyond),
    )


def _stream(fields: Fields) -> str:
    return text(fields, "stream", STREAM_NAME_CHARS_MAX)


def _announce(fields: Fields) -> Announce:
    version, stamp = integer(fields, "version", 0, U32), integer(fields, "stamp", 0, U32)
    return Announce(_stream(fields), version, stamp, _publisher(fields), _serial(fields), _standby(fields))


def _publisher(fields: Fields) -> bytes:
    publisher = fields.get("publisher", b"")
    if not isinstance(publisher, bytes) or len(publisher) not in (0, FINGERPRINT_BYTES):
        raise WireError(f"publisher must be {FINGERPRINT_BYTES} bytes")
    return publisher


def _serial(fields: Fields) -> int:
    return integer({"serial": 0, **fields}, "serial", 0, U32)


def _entry(fields: object) -> CatalogueEntry:
    if not isinstance(fields, dict):
        raise WireError("an entry must be a map")
    stamp = integer(fields, "stamp", 1, U32)
    return CatalogueEntry(_stream(fields), stamp, _publisher(fields), _serial(fields), _standby(fields))


def _catalogue(fields: Fields) -> Catalogue:
    entries = items(fields, "entries", CATALOGUE_ENTRIES_MAX, empty=True)
    return Catalogue(
        version=integer(fields, "version", 0, U32),
        page=integer(fields, "page", 0, U16),
        last=boolean(fields, "last"),
        entries=tuple(_entry(entry) for entry in entries),
    )


def _subscribe(fields: Fields) -> Subscribe:
    since = items(fields, "since", TRACKS_MAX, empty=True)
    return Subscribe(
        _stream(fields),
        _standby(fields),
        tuple(integer({"since": first}, "since", 0, U32) for first in since),
    )


def _standby(fields: Fields) -> bool:
    return boolean({"standby": False, **fields}, "standby")


def _unavailable(fields: Fields) -> Unavailable:
    return Unavailable(_stream(fields), boolean(fields, "kept"), _reason(fields), _instead(fields))


def _move(fields: Fields) -> Move:
    return Move(_stream(fields), _reason(fields), _instead(fields))


def _reason(fields: Fields) -> str:
    return text(fields, "reason", REASON_CHARS_MAX, empty=True)


def _instead(fields: Fields) -> str:
    return text({"instead": "", **fields}, "instead", NODE_NAME_CHARS_MAX, empty=True)


def _publish_refused(fields: Fields) -> PublishRefused:
    alias, epoch = integer(fields, "alias", 0, U16), integer(fields, "epoch", 0, U8)
    return PublishRefused(alias, epoch, _reason(fields), _instead(fields), _serial(fields))


def _unpublish(fields: Fields) -> Unpublish:
    return Unpublish(integer(fields, "alias", 0, U16), integer(fields, "epoch", 0, U8), _reason(fields))


def _list_version(fields: Fields) -> ListVersion:
    return ListVersion(integer(fields, "version", 0, U32), integer(fields, "stamp", 0, U32))


def _key_frame_request(fields: Fields) -> KeyFrameRequest:
    return KeyFrameRequest(
        integer(fields, "alias", 0, U16), integer(fields, "epoch", 0, U8), integer(fields, "track", 0, U8)
    )


def _revocation_list(fields: Fields) -> RevocationList:
    signed = fields.get("signed")
    if not isinstance(signed, bytes):
        raise WireError("signed must be bytes")
    return RevocationList(signed)


def _records(fields: Fields) -> tuple[bytes, ...]:
    return tuple(_record(record) for record in items(fields, "records", RECORDS_MAX))


def _record(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) > NODE_RECORD_BYTES_MAX:
        raise WireError(f"a record must be at most {NODE_RECORD_BYTES_MAX} bytes")
    return value


_KINDS: dict[type[Message], Kind] = {
    KeyFrameRequest: Kind.KEY_FRAME_REQUEST,
    Publish: Kind.PUBLISH,
    PublishOk: Kind.PUBLISH_OK,
    PublishRefused: Kind.PUBLISH_REFUSED,
    Unpublish: Kind.UNPUBLISH,
    RevocationList: Kind.REVOCATIONS,
    Records: Kind.RECORDS,
    Digest: Kind.DIGEST,
    Summary: Kind.SUMMARY,
    ListVersion: Kind.LIST_VERSION,
    Announce: Kind.ANNOUNCE,
    Ask: Kind.ASK,
    Catalogue: Kind.CATALOGUE,
    Subscribe: Kind.SUBSCRIBE,
    Unsubscribe: Kind.UNSUBSCRIBE,
    Unavailable: Kind.UNAVAILABLE,
    AskRegions: Kind.ASK_REGIONS,
    Regions: Kind.REGIONS,
    Goodbye: Kind.GOODBYE,
    HopsBefore: Kind.HOPS_BEFORE,
    HopsBehind: Kind.HOPS_BEHIND,
    Move: Kind.MOVE,
}
_PARSERS: dict[Kind, Callable[[Fields], Message]] = {
    Kind.PUBLISH: _publish,
    Kind.PUBLISH_OK: _publish_ok,
    Kind.PUBLISH_REFUSED: _publish_refused,
    Kind.UNPUBLISH: _unpublish,
    Kind.KEY_FRAME_REQUEST: _key_frame_request,
    Kind.REVOCATIONS: _revocation_list,
    Kind.RECORDS: lambda fields: Records(_records(fields)),
    Kind.DIGEST: unpack_digest,
    Kind.SUMMARY: unpack_summary,
    Kind.LIST_VERSION: _list_version,
    Kind.ANNOUNCE: _announce,
    Kind.ASK: lambda fields: Ask(),
    Kind.CATALOGUE: _catalogue,
    Kind.SUBSCRIBE: _subscribe,
    Kind.UNSUBSCRIBE: lambda fields: Unsubscribe(_stream(fields)),
    Kind.UNAVAILABLE: _unavailable,
    Kind.ASK_REGIONS: lambda fields: AskRegions(),
    Kind.REGIONS: lambda fields: Regions(_records(fields)),
    Kind.GOODBYE: lambda fields: Goodbye(),
    Kind.HOPS_BEFORE: unpack_before,
    Kind.HOPS_BEHIND: unpack_behind,
    Kind.MOVE: _move,
}
