"""The files of a configuration: the file itself, the private key, SDP descriptions, what the fleet's key has
signed."""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from relay.config import Config, FleetConfig, HopConfig, parse, track_missing
from relay.core import record
from relay.core.keys import parse_key
from relay.core.noise import diffie_hellman, public_key
from relay.errors import ConfigError, Problem

MAX_FILE_BYTES = 1 << 20  # a configuration of 256 streams has a tenth of that
LAX_MODE = (
    stat.S_IRWXO | stat.S_IWGRP
)  # a group that may read a key is common under systemd; nobody else should


UNREADABLE = "a file that this user may not read"
"""What is found then, so that who looks at a node without being its user can tell."""


class SdpMedia(Protocol):
    @property
    def kind(self) -> str: ...


class Sdp(Protocol):
    """As much of a session description as a configuration is checked against."""

    @property
    def media(self) -> Sequence[SdpMedia]: ...


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """Reads and parses a configuration file. Raises ConfigError; files that it names are not looked at."""
    return parse(_read_text(path, "a configuration in TOML"), environ)


def read_private_key(path: Path) -> bytes:
    """The 32 bytes of a private key file. Raises ConfigError, whose sentence says how to make one."""
    expected = f"a private key; `relay keygen --out {path}` makes one"
    text = _read_text(path, expected)
    try:
        return parse_key(text)
    except ValueError as error:
        raise ConfigError([Problem(str(path), "no key in it", expected)]) from error


def check_files(config: Config, parse_sdp: Callable[[str], Sdp]) -> tuple[Problem, ...]:
    """What is wrong with the files that a configuration names. `parse_sdp` raises ValueError for bad text."""
    return (
        *(_check_key(config.hop) if config.hop else ()),
        *(_check_fleet(config, config.fleet) if config.fleet else ()),
        *_check_sdp(config, parse_sdp),
    )


def read_statement(path: Path, kind: str, expected: str) -> bytes:
    """The signed bytes in a file: of a "record", or of the list of "revocations". Raises ConfigError."""
    try:
        packed = record.from_text(_read_text(path, expected))
        (record.decode_record if kind == "record" else record.decode_revocations)(packed)
    except record.RecordError as error:
        raise ConfigError([Problem(str(path), f"no {kind} in it", expected)]) from error
    return packed


def _check_fleet(config: Config, fleet: FleetConfig) -> Iterator[Problem]:
    state_dir = config.node.state_dir
    if not os.access(state_dir, os.W_OK | os.X_OK):
        expected = f"a directory to keep revocations in: mkdir -p {state_dir}, owned by the node's user"
        yield Problem("node.state_dir", f"{state_dir}, where nothing can be written", expected)
    files = ("record", fleet.record_file, "sign"), ("revocations", fleet.revocations_file, "revoke")
    for kind, path, command in files:
        if path is None:
            continue
        where, expected = f"fleet.{kind}_file", f"what `relay fleet {command}` writes"
        try:
            packed = read_statement(path, kind, expected)
            record.verify(fleet.authority_key, packed)
        except ConfigError as error:
            yield from (Problem(where, f"{p.path}: {p.found}", p.expected) for p in error.problems)
        except record.RecordError:
            yield Problem(where, f"{path}, signed by another key", "one signed by fleet.authority_key")
        else:
            if kind == "record":
                yield from _check_record(config, where, record.decode_record(packed))


def _check_record(config: Config, where: str, own: record.Record) -> Iterator[Problem]:
    node = config.node
    role = f"role {own.role}", f"role {node.role}"
    for found, expected in (own.name, node.name), (own.region, node.region), role:
        if found != expected:
            yield Problem(where, f"a record of {found}", f"one of {expected}")
    try:
        key = public_key(read_private_key(config.hop.key_file)) if config.hop else own.public_key
    except ConfigError:
        return  # reported already
    if own.public_key != key:
        yield Problem(where, "a record of another key", "one of hop.key_file's public key")


def _check_key(hop: HopConfig) -> Iterator[Problem]:
    try:
        private = read_private_key(hop.key_file)
        mode = stat.S_IMODE(hop.key_file.stat().st_mode)
    except ConfigError as error:
        yield from (Problem("hop.key_file", f"{p.path}: {p.found}", p.expected) for p in error.problems)
        return
    if mode & LAX_MODE:
        expected = f"a file that others cannot read: chmod 600 {hop.key_file}"
        yield Problem("hop.key_file", f"{hop.key_file} with mode {mode:04o}", expected)
    own = public_key(private)
    for i, peer in enumerate(hop.peers):
        path = f"hop.peers[{i}].public_key"
        if peer.public_key == own:
            yield Problem(path, "the key of this node", "the peer's own")
        try:
            diffie_hellman(private, peer.public_key)
        except ValueError:  # a point of low order, RFC 7748 section 6.1
            yield Problem(path, "a key that gives no secret", "what `relay pubkey` prints on the peer")


def _check_sdp(config: Config, parse_sdp: Callable[[str], Sdp]) -> Iterator[Problem]:
    kinds: dict[str, list[str]] = {}
    for i, ingest in enumerate(config.ingest.rtp):
        if ingest.sdp is None:
            continue
        path = f"ingest.rtp[{i}].sdp"
        try:
            kinds[ingest.stream] = [
                media.kind for media in parse_sdp(_read_text(ingest.sdp, "an SDP file")).media
            ]
        except ConfigError as error:
            yield from (Problem(path, f"{p.path}: {p.found}", p.expected) for p in error.problems)
        except ValueError as error:
            yield Problem(path, f"{ingest.sdp}: {error}", "a session description (RFC 8866)")
    for i, egress in enumerate(config.egress.rtp):
        for j, to in enumerate(egress.to):
            if egress.stream in kinds and (expected := track_missing(to, kinds[egress.stream])):
                yield Problem(f"egress.rtp[{i}].to[{j}]", f"{to.kind} track {to.index}", expected)


def _read_text(path: Path, expected: str) -> str:
    """The text of a file of bounded size. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError([Problem(str(path), f"more than {MAX_FILE_BYTES} bytes", expected)])
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(str(path), "bytes that are no UTF-8", expected)]) from error
    except PermissionError as error:
        expected = f"{expected}; change its owner, or run as its owner"
        raise ConfigError([Problem(str(path), UNREADABLE, expected)]) from error
    except OSError as error:
        raise ConfigError([Problem(str(path), (error.strerror or str(error)).lower(), expected)]) from error
