"""HTTP/1.1 (RFC 9112) for small requests and answers: h11 speaks it, asyncio carries it.

A request is read as a whole before it is answered, and an answer is written as a whole. Whoever connects can
take a connection of CONNECTIONS_MAX for PATIENCE_SECONDS, and a few kilobytes; nothing else.
"""

import asyncio
import json
import re
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl

import h11

HEAD_BYTES_MAX = 16_384
BODY_BYTES_MAX = 4096
IGNORED_BYTES_MAX = 1 << 20
"""Of a body that is too large: who hears of it only after it has sent all of it hears of it for sure."""
READ_BYTES = 16_384
CONNECTIONS_MAX = 128
PATIENCE_SECONDS = 90.0
"""For the next request to arrive as a whole, idle time included; and for an answer to be taken."""
CLOSE_SECONDS = 0.5
"""For an answer that is being prepared when the server closes."""


@dataclass(frozen=True, slots=True)
class Request:
    """`path` is as it was sent, percent-encoded, without the query; names of headers are in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """What a request is answered with."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Awaitable[Response]]


def text(content: str, content_type: str = "text/plain; charset=utf-8") -> Response:
    return Response(HTTPStatus.OK, content_type, content.encode())


def as_json(content: object, status: int = HTTPStatus.OK) -> Response:
    """Raises ValueError for what JSON cannot say, such as NaN."""
    return Response(status, "application/json", json.dumps(content, allow_nan=False).encode())


def error(status: int, sentence: str) -> Response:
    return as_json({"error": sentence}, status)


class _Refused(Exception):
    """A request that is not handed on: its answer."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.response = error(status, sentence)


class Server:
    """Answers what comes in at listening sockets by `handler`, which raises nothing. `headers` are in every
    answer."""

    def __init__(
        self, handler: Handler, headers: Mapping[str, str], *, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._handler = handler
        self._headers = headers
        self._patience = patience_seconds
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._answering: set[asyncio.Task[None]] = set()
        self._closing = False

    async def listen(self, sock: socket.socket) -> None:
        self._servers.append(await asyncio.start_server(self._accept, sock=sock))

    @property
    def port(self) -> int:
        """Of the first socket."""
        found: int = self._servers[0].sockets[0].getsockname()[1]
        return found

    async def close(self) -> None:
        """Ends connections that wait for a request at once, others when they have been answered, all after
        CLOSE_SECONDS."""
        self._closing = True
        for server in self._servers:
            server.close()
        for task in self._connections - self._answering:
            task.cancel()
        if self._answering:
            await asyncio.wait(self._answering, timeout=CLOSE_SECONDS)
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(_Connection(reader, writer), writer))
        self._connections.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._connections.discard(task)
            writer.transport.abort()

        task.add_done_callback(ended)

    async def _serve(self, connection: "_Connection", writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # it has gone away, or says or takes nothing for too long
            while await self._exchange(connection) and not self._closing:
                pass
            writer.close()
            async with asyncio.timeout(self._patience):
                await writer.wait_closed()

    async def _exchange(self, connection: "_Connection") -> bool:
        """One request and its answer; whether there may be another."""
        task = asyncio.current_task()
        assert task is not None
        try:
            async with asyncio.timeout(self._patience):
                request = await connection.receive()
            if request is None:
                return False
            self._answering.add(task)
            response = await self._handler(request)
        except _Refused as refused:
            response = refused.response
        try:
            async with asyncio.timeout(self._patience):
                await connection.send(response, self._headers)
        finally:
            self._answering.discard(task)
        return connection.next()


class _Connection:
    """HTTP messages over one pair of streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        self._method = ""

    async def receive(self) -> Request | None:
        """None at the end. Raises _Refused, OSError."""
        try:
            head = await self._event()
            if not isinstance(head, h11.Request):
                return None
            self._method = head.method.decode("ascii")
            body = await self._body()
        except h11.RemoteProtocolError as fault:
            raise _Refused(fault.error_status_hint, f"this is no request of HTTP/1.1: {fault}") from fault
        return _request(head, body)

    async def _body(self) -> bytes:
        body, ignored = b"", 0
        while isinstance(event := await self._event(), h11.Data):
            if len(body) + len(event.data) <= BODY_BYTES_MAX and not ignored:
                body += event.data
            else:
                ignored += len(event.data)
            if ignored > IGNORED_BYTES_MAX:
                break
        if ignored:
            sentence = f"a request body holds at most {BODY_BYTES_MAX} bytes"
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, sentence)
        return body

    async def _event(self) -> object:
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            if self._h11.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=HTTPStatus.CONTINUE, headers=[])
                self._writer.write(self._h11.send(go_on) or b"")
            self._h11.receive_data(await self._reader.read(READ_BYTES))
        return event

    async def send(self, response: Response, headers: Mapping[str, str]) -> None:
        """Raises OSError."""
        head = {
            "Date": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()),
            "Content-Type": response.content_type,
            "Content-Length": str(len(response.body)),
            **headers,
            **response.headers,
        }
        if self._h11.their_state is not h11.DONE:  # where its next request would begin is not known
            head["Connection"] = "close"
        status = HTTPStatus(response.status)
        events: list[h11.Event] = [
            h11.Response(status_code=status, headers=list(head.items()), reason=status.phrase)
        ]
        if self._method != "HEAD":
            events.append(h11.Data(data=response.body))
        events.append(h11.EndOfMessage())
        self._writer.write(b"".join(self._h11.send(event) or b"" for event in events))
        await self._writer.drain()

    def next(self) -> bool:
        """Whether there may be another request."""
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        self._h11.start_next_cycle()
        return True


def _request(head: h11.Request, body: bytes) -> Request:
    target = head.target.decode("ascii")
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
    absolute = re.fullmatch("https?://([^/?]*)(.*)", target, re.IGNORECASE)
    if absolute:  # RFC 9112 section 3.2.2: what Host says does not count then
        headers["host"], target = absolute.groups()
    path, _, query = target.partition("?")
    return Request(
        method=head.method.decode("ascii"),
        path=path or "/",
        query=dict(parse_qsl(query, keep_blank_values=True)),
        headers=headers,
        body=body,
    )
