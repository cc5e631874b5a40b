"""The HTTP server, by bytes on a real connection."""

import asyncio
import json
import random
import socket
from collections.abc import Awaitable, Callable

import pytest

from relay.web.http import (
    BODY_BYTES_MAX,
    CONNECTIONS_MAX,
    HEAD_BYTES_MAX,
    IGNORED_BYTES_MAX,
    Request,
    Response,
    Server,
    text,
)

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
LAST = b"GET /b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
Open = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class Site:
    """Answers with the path, or at /large with a megabyte, and at /wait not until `go_on`."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.waits = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, request: Request) -> Response:
        self.requests.append(request)
        if request.path == "/wait":
            self.waits.set()
            await self.go_on.wait()
        return text(request.path if request.path != "/large" else "x" * (1 << 20))


def served(test: Callable[[Site, Server, Open], Awaitable[None]], *, patience_seconds: float = 10.0) -> None:
    """Runs `test` with a function that connects. Whatever it does must end."""

    async def run() -> None:
        site = Site()
        server = Server(site, {"X-Guard": "yes"}, patience_seconds=patience_seconds)
        await server.listen(socket.create_server(("127.0.0.1", 0)))
        port, clients = server.port, []

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            clients.append(writer)
            return reader, writer

        async with asyncio.timeout(30):
            await test(site, server, connect)
            for writer in clients:
                writer.transport.abort()
            await server.close()

    asyncio.run(run())


def said(sent: bytes) -> tuple[bytes, list[Request]]:
    """All that a connection hears that sends this and then no more, and the requests that were understood."""
    heard: list[bytes] = []
    requests: list[Request] = []

    async def test(site: Site, server: Server, connect: Open) -> None:
        reader, writer = await connect()
        writer.write(sent)
        writer.write_eof()
        heard.append(await reader.read())
        requests.extend(site.requests)

    served(test)
    return heard[0], requests


def test_requests_of_one_connection_are_answered_in_turn() -> None:
    answer, requests = said(GET + GET + LAST)
    assert [request.path for request in requests] == ["/a", "/a", "/b"]
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 3 and answer.endswith(b"/b")
    head = answer.partition(b"\r\n\r\n")[0].decode().lower().splitlines()[1:]
    fields = dict(line.split(": ", 1) for line in head)
    assert fields.keys() == {"date", "content-type", "content-length", "x-guard"}
    assert fields["content-length"] == "2"


def test_head_has_no_body() -> None:
    answer, _ = said(b"HEAD /a HTTP/1.1\r\nHost: h\r\n\r\n" + LAST)
    first, _, second = answer.partition(b"\r\n\r\n")
    assert b"content-length: 2" in first.lower() and second.startswith(b"HTTP/1.1 200 OK\r\n")


def test_what_a_request_consists_of() -> None:
    _, [request] = said(b"POST /a%20b?x=1&y=%26&z= HTTP/1.1\r\nHoSt: h\r\nContent-Length: 3\r\n\r\nabc")
    assert request == Request("POST", "/a%20b", {"x": "1", "y": "&", "z": ""}, request.headers, b"abc")
    assert request.headers == {"host": "h", "content-length": "3"}


def test_a_body_in_chunks_and_one_that_waits_to_be_asked_for() -> None:
    _, [request] = said(
        b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    )
    assert request.body == b"abc"

    async def test(site: Site, server: Server, connect: Open) -> None:
        reader, writer = await connect()
        writer.write(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(b"abc")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        assert site.requests[0].body == b"abc"

    served(test)


def test_the_whole_address_in_a_request_is_what_counts() -> None:
    """RFC 9112 section 3.2.2."""
    _, requests = said(b"GET http://evil.example HTTP/1.1\r\nHost: localhost\r\n\r\n" + GET)
    assert [(r.path, r.headers["host"]) for r in requests] == [("/", "evil.example"), ("/a", "h")]
    _, [request] = said(b"GET http://h/a?b=c HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (request.path, request.query) == ("/a", {"b": "c"})


def test_http_1_0_is_answered_and_closed() -> None:
    answer, [request] = said(b"GET /a HTTP/1.0\r\n\r\n" + GET)
    assert answer.endswith(b"/a") and request.headers == {}


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00" + bytes(600), 400),
        (b"GET /a HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /a HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\nHost: h\r\nbad header\r\n\r\n", 400),
        (b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
        (b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET /a HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 2 * HEAD_BYTES_MAX + b"\r\n\r\n", 431),
        (b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nab", 400),  # ends in the middle
    ],
)
def test_what_is_no_request_gets_an_answer_and_the_connection_ends(sent: bytes, status: int) -> None:
    answer, requests = said(sent + GET if status != 400 else sent)
    assert requests == []
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status) and b"connection: close" in head.lower()
    assert json.loads(body)["error"].startswith("this is no request of HTTP/1.1: ")


@pytest.mark.parametrize("bytes_", [BODY_BYTES_MAX, BODY_BYTES_MAX + 1, IGNORED_BYTES_MAX // 2])
def test_a_body_that_is_too_large_is_read_and_refused(bytes_: int) -> None:
    answer, requests = said(
        b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % bytes_ + bytes(bytes_) + LAST
    )
    taken = bytes_ <= BODY_BYTES_MAX
    assert [request.path for request in requests] == ["/a"] * taken + ["/b"]
    assert answer.startswith(b"HTTP/1.1 200 " if taken else b"HTTP/1.1 413 ") and answer.endswith(b"/b")


def test_a_body_without_end_ends_the_connection() -> None:
    async def test(site: Site, server: Server, connect: Open) -> None:
        _, writer = await connect()
        writer.write(b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"1000\r\n" + bytes(0x1000) + b"\r\n")
                await writer.drain()
        except ConnectionError:
            assert site.requests == []

    served(test)


@pytest.mark.parametrize("sent", [b"", b"GET /a HTTP/1.1\r\n", GET, GET + GET[:9]])
def test_who_says_nothing_more_is_not_waited_for(sent: bytes) -> None:
    async def test(site: Site, server: Server, connect: Open) -> None:
        reader, writer = await connect()
        writer.write(sent)
        answer = await reader.read()
        assert answer.count(b"200 OK") == sent.count(GET)

    served(test, patience_seconds=0.05)


def test_who_takes_no_answer_is_not_waited_for() -> None:
    async def test(site: Site, server: Server, connect: Open) -> None:
        _, writer = await connect()
        with pytest.raises(ConnectionError):
            while True:
                writer.write(GET.replace(b"/a", b"/large"))
                await writer.drain()

    served(test, patience_seconds=0.2)


def test_more_connections_than_there_may_be_are_closed_and_others_go_on() -> None:
    async def test(site: Site, server: Server, connect: Open) -> None:
        first, *_ = [await connect() for _ in range(CONNECTIONS_MAX)]
        first[1].write(GET)
        await first[0].readuntil(b"/a")
        reader, _ = await connect()
        with pytest.raises(ConnectionError):
            if not await reader.read():
                raise ConnectionError
        first[1].write(GET)
        await first[0].readuntil(b"/a")

    served(test)


def test_closing_answers_what_has_been_asked_and_waits_for_nobody_else() -> None:
    async def test(site: Site, server: Server, connect: Open) -> None:
        idle, _ = await connect()
        reader, writer = await connect()
        writer.write(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
        await site.waits.wait()
        closing = asyncio.create_task(server.close())
        assert await idle.read() == b""
        site.go_on.set()
        assert (await reader.read()).endswith(b"/wait")
        await closing
        with pytest.raises(ConnectionError):
            await connect()

    served(test)


@pytest.mark.parametrize("seed", range(30))
def test_random_bytes_are_no_matter(seed: int) -> None:
    rng = random.Random(seed)
    sent = bytearray(GET + b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc" + LAST)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(sent))
        sent[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(4))
    answer, _ = said(bytes(sent))
    assert not answer or answer.startswith(b"HTTP/1.1 "), f"seed {seed}"
