"""How one value of the configuration is read: what is accepted, what it becomes, how the rest is called."""

import dataclasses
import ipaddress
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from relay.core.keys import parse_key


class Address(NamedTuple):
    """A UDP or TCP endpoint. `host` is an IP literal without brackets or, if one is allowed, a DNS name."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value. `convert` raises ValueError for what is not `expected`; `from_text` reads a variable.

    Values with the same `scope` must differ throughout the file. `hidden` values are not shown in errors.
    """

    expected: str
    convert: Callable[[Any], Any]
    from_text: Callable[[str], Any] = str
    scope: str | None = None
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table that becomes `of`. Of the keys in `exactly_one`, one must be there, and no second."""

    of: type
    exactly_one: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Array:
    """An array that becomes a tuple. `single` is another key, which holds the one item of such an array."""

    item: "Scalar | Table"
    at_least: int = 0
    single: str | None = None
    at_most: int = 256


Check = Scalar | Table | Array


def as_written(value: object) -> str:
    """A value as the user wrote it, cut short."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return f"an array of {len(value)}"
    text = json.dumps(value) if isinstance(value, str | bool) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def matching(expected: str, pattern: str) -> Scalar:
    compiled = re.compile(pattern)

    def convert(value: Any) -> str:
        if not compiled.fullmatch(string(value)):
            raise ValueError
        return str(value)

    return Scalar(expected, convert)


def one_of(*choices: str) -> Scalar:
    return matching(f"one of {', '.join(map(as_written, choices))}", "|".join(map(re.escape, choices)))


def whole(low: int, high: int, unit: str = "", besides: range = range(0)) -> Scalar:
    def convert(value: Any) -> int:
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or not low <= value <= high
            or value in besides
        ):
            raise ValueError
        return value

    but = f" but not {besides[0]} to {besides[-1]}" if besides else ""
    return Scalar(f"a whole number from {low} to {high}{but}{unit and ' ' + unit}", convert, from_text=int)


def power_of_two(high: int) -> Scalar:
    def convert(value: Any) -> int:
        number = whole(1, high).convert(value)
        if number & (number - 1):
            raise ValueError
        return int(number)

    return Scalar(f"a power of two from 1 to {high}", convert, from_text=int)


def real(low: float, high: float) -> Scalar:
    def convert(value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError
        return float(value)

    return Scalar(f"a number from {low:g} to {high:g}", convert, from_text=float)


def file_path(value: Any) -> Path:
    if not string(value) or "\0" in value:
        raise ValueError
    return Path(value)


def is_ip(host: str) -> bool:
    """Whether `host` is an IPv4 or IPv6 literal without brackets, perhaps with a zone (RFC 4007)."""
    if not re.fullmatch(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]{1,15})?", host):  # a zone may else be any text
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_host(host: str) -> bool:
    """Whether `host` is an IP literal or a DNS name (RFC 1123 section 2.1), whose last label is no number."""
    labels = host.removesuffix(".").split(".")
    return is_ip(host) or (
        len(host) <= 253
        and not labels[-1].isdigit()
        and all(re.fullmatch(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)", label) for label in labels)
    )


def parse_address(text: str) -> Address:
    """`HOST:PORT` or `[IPV6]:PORT`, port 1 to 65535. Raises ValueError."""
    host, _, port = text.rpartition(":")
    if bracketed := host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if bracketed != (":" in host) or not is_host(host):
        raise ValueError(f"{text!r} has no host")
    if not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError(f"{text!r} has no port from 1 to 65535")
    return Address(host, int(port))


def listen(last_port: int) -> Scalar:
    def convert(value: Any) -> Address:
        address = parse_address(string(value))
        if not is_ip(address.host) or address.port > last_port:
            raise ValueError
        return address

    return Scalar(f'"IP:PORT" or "[IPV6]:PORT" of this machine, port 1 to {last_port}', convert)


def unique(scope: str, check: Scalar) -> Scalar:
    return dataclasses.replace(check, scope=scope)


NAME = matching("a name of up to 63 letters, digits, dots, dashes", r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
STREAM = matching(  # a stream's name is a part of URLs, and NAME.sdp is one of them
    "a stream name of up to 63 letters, digits, dots, dashes that does not end in .sdp",
    r"(?!.*\.sdp$)[A-Za-z0-9][A-Za-z0-9._-]{0,62}",
)
KIND = one_of("video", "audio", "av")
FILE = Scalar("the path of a file", file_path)
DIRECTORY = Scalar("the path of a directory", file_path)
ADDRESS = Scalar('"HOST:PORT" or "[IPV6]:PORT"', lambda value: parse_address(string(value)))
LISTEN = listen(65535)
LISTEN_RTP = listen(65534)  # RTCP is on the next port
CODEC = matching(
    '"NAME/CLOCK" or "NAME/CLOCK/CHANNELS" as in SDP, such as "H264/90000" or "opus/48000/2"',
    r"[A-Za-z0-9][A-Za-z0-9._+-]{0,31}/[1-9][0-9]{0,7}(/[1-9][0-9]?)?",
)
# With the marker bit, payload types 64 to 95 look like RTCP packet types (RFC 5761 section 4).
PAYLOAD_TYPE = whole(0, 127, besides=range(64, 96), unit="(those look like RTCP)")
AUTHORITY_KEY = Scalar(
    "an Ed25519 public key: 32 bytes in base64, as `relay fleet init` prints it",
    lambda value: parse_key(string(value)),
    hidden=True,
)
PUBLIC_KEY = Scalar(
    "an X25519 public key: 32 bytes in base64, as `relay pubkey` prints it",
    lambda value: parse_key(string(value)),
    scope="public key",
    hidden=True,
)
