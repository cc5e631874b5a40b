"""rtpengine's control protocol "ng": a cookie, a space and a bencoded dictionary in a datagram, both ways."""

import itertools
import re
import socket
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from tests.benchmarks.peers.program import HOST, PeerError, ask_until

Value: TypeAlias = "int | bytes | list[Value] | dict[bytes, Value]"
Plain: TypeAlias = "int | str | bytes | Sequence[Plain] | Mapping[str, Plain]"


def encode(value: Plain) -> bytes:
    """Bencode; text as UTF-8, dictionaries in the order of their keys."""
    match value:
        case int():
            return b"i%de" % value
        case str():
            return encode(value.encode())
        case bytes():
            return b"%d:%s" % (len(value), value)
        case Mapping():
            return b"d" + b"".join(encode(key) + encode(value[key]) for key in sorted(value)) + b"e"
    return b"l" + b"".join(map(encode, value)) + b"e"


def decode(data: bytes) -> Value:
    """Bencode. Raises ValueError for anything that is not exactly one value."""
    value, end = _decode(data, 0)
    if end != len(data):
        raise ValueError(f"{len(data) - end} bytes behind the value")
    return value


def _decode(data: bytes, at: int) -> tuple[Value, int]:
    if number := re.compile(rb"i(-?\d+)e").match(data, at):
        return int(number[1]), number.end()
    if length := re.compile(rb"(\d+):").match(data, at):
        end = length.end() + int(length[1])
        if end > len(data):
            raise ValueError("a string is cut off")
        return data[length.end() : end], end
    kind = data[at : at + 1]
    if kind not in (b"l", b"d"):
        raise ValueError(f"no value at byte {at}")
    items: list[Value] = []
    at += 1
    while data[at : at + 1] != b"e":
        item, at = _decode(data, at)
        items.append(item)
    if kind == b"l":
        return items, at + 1
    keys, values = items[::2], items[1::2]
    if len(keys) != len(values):
        raise ValueError("a key without a value")
    return {key: value for key, value in zip(keys, values, strict=True) if isinstance(key, bytes)}, at + 1


PING = b"ping " + encode({"command": "ping"})  # a cookie that no other command has


def sdp(port: int, direction: str) -> str:
    """One video stream at `port` of this host; `direction` as in RFC 8866, 6.7."""
    lines = [
        "v=0",
        f"o=- 1 1 IN IP4 {HOST}",
        "s=-",
        f"c=IN IP4 {HOST}",
        "t=0 0",
        f"m=video {port} RTP/AVP 96",
        "a=rtpmap:96 H264/90000",
        f"a={direction}",
    ]
    return "\r\n".join(lines) + "\r\n"


def media_port(description: bytes) -> int:
    """Raises PeerError when there is none."""
    found = re.search(rb"^m=video (\d+) ", description, re.MULTILINE)
    if found is None:
        raise PeerError(f"no media in the answer: {description!r}")
    return int(found[1])


class Client:
    """Commands to a daemon that listens at `port` of this host; waits until it does."""

    def __init__(self, sock: socket.socket, port: int) -> None:
        self._sock = sock
        self._port = port
        self._cookies = map(str, itertools.count())

    def command(self, name: str, **values: Plain) -> dict[bytes, Value]:
        """The answer; underscores in a name stand for dashes. Raises PeerError when it is refused."""
        cookie = next(self._cookies).encode() + b" "
        body: dict[str, Plain] = {key.replace("_", "-"): value for key, value in values.items()}
        request = cookie + encode({"command": name, **body})
        data = ask_until(self._sock, self._port, request, lambda answer: answer.startswith(cookie))
        answer = decode(data[len(cookie) :])
        if not isinstance(answer, dict) or answer.get(b"result") not in (b"ok", b"pong"):
            raise PeerError(f"rtpengine refused {name}: {answer!r}")
        return answer

    def describe(self, name: str, **values: Plain) -> int:
        """A command that is answered with a session description: its port."""
        answer = self.command(name, **values)
        description = answer.get(b"sdp")
        if not isinstance(description, bytes):
            raise PeerError(f"no session description in the answer to {name}: {answer!r}")
        return media_port(description)

    def call(self, name: str, from_port: int, to_ports: Sequence[int]) -> int:
        """A call whose caller sends; the callee is the first receiver, the others subscribe to the caller.

        Returns the port that the caller sends to. ("publish" refuses H.264, which it cannot decode.)
        """
        caller = {"call_id": name, "from_tag": "caller"}
        self.describe("offer", sdp=sdp(from_port, "sendonly"), **caller)
        port = self.describe("answer", to_tag="callee", sdp=sdp(to_ports[0], "recvonly"), **caller)
        for to in to_ports[1:]:
            tag = f"subscriber{to}"
            self.command("subscribe request", to_tag=tag, **caller)
            self.command("subscribe answer", call_id=name, to_tag=tag, sdp=sdp(to, "recvonly"))
        return port
