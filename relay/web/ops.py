"""The operations API: health, metrics, status and drain, JSON over HTTP on `[ops] listen`; and the page.

Every error is `{"error": SENTENCE}`. Requests are small and so is what is read of them. The API trusts
whoever reaches its address, but not a web page in that person's browser: what changes something is refused
to browsers.
"""

import base64
import ipaddress
import json
import logging
import os
import re
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import unquote

from relay.config import Address, is_host
from relay.log import event
from relay.services.sockets import Sockets
from relay.web import page
from relay.web.http import Request, Response, Server, as_json, error, text
from relay.web.metrics import CONTENT_TYPE, render

RECORDS_MAX = 12
"""Records handed in at once: as many of the longest as fit a body."""
DRAIN_SECONDS, MAX_DRAIN_SECONDS = 300.0, 86400
"""How long a drain may take where nothing is said, and at most: some edges have nowhere else to go."""

Status = dict[str, Any]
logger = logging.getLogger(__name__)


class NodeView(Protocol):
    """What the node lets its operators see and do. Dictionaries are ready for JSON: no NaN, string keys."""

    async def look(self) -> None:
        """Has what the node says of its board brought up to date; returns within a second in any case."""
        ...

    def ready(self) -> list[str]:
        """Why media cannot flow, one sentence a reason; empty when it can."""
        ...

    def notes(self) -> list[str]:
        """What should be seen to though media flows, one sentence each."""
        ...

    def hand_records(self, records: Sequence[bytes]) -> Counter[str]:
        """Takes signed records, to pass them on; how many were taken (`taken`), or refused, by reason."""
        ...

    def status(self) -> Status:
        """Everything: node, streams, hops, peers, engine, board, ready, reasons, findings."""
        ...

    def history(self) -> Status:
        """The last ten minutes of the node, its streams and its hops, as of `services.history`."""
        ...

    def streams(self) -> list[Status]: ...

    def stream(self, name: str) -> Status | None: ...

    def hops(self) -> list[Status]: ...

    def peers(self) -> list[Status]:
        """The health of this node, then of its peers."""
        ...

    def sdp(self, name: str, host: str, port: int) -> str | None:
        """The SDP for a player that receives at `host`, from `port` on; None: no such stream.

        Raises ValueError, with a sentence, for what SDP cannot say, such as a port that is too high.
        """
        ...

    async def drain(self, timeout_seconds: float) -> None:
        """Refuses new work and returns; the process ends when empty or after `timeout_seconds`."""
        ...


async def start(view: NodeView, listen: Address, sockets: Sockets) -> Server:
    """Serves the API and the page at `listen` until the server's `close()`. Raises OSError, with a sentence,
    for a port that it cannot have."""
    try:
        bound = sockets.tcp(listen)
    except OSError as fault:
        why = fault.strerror if isinstance(fault, socket.gaierror) else os.strerror(fault.errno or 0)
        raise OSError(f"cannot listen on {listen}, TCP: {why}; choose another address for [ops]") from fault
    local = all(ipaddress.ip_address(sock.getsockname()[0]).is_loopback for sock in bound)
    server = Server(Api(view, local=local), page.GUARDS)
    for sock in bound:
        await server.listen(sock)
    return server


Method = Callable[..., Awaitable[Response]]


class Api:
    """Answers requests; one method a path. `local`: the API is on a loopback address.

    There a name that is not this machine's own can only be another site's, made to lead here (DNS rebinding)
    so that an operator's browser takes the API for a part of that site. On another address names are
    legitimate.
    """

    def __init__(self, view: NodeView, *, local: bool) -> None:
        self._view = view
        self._local = local
        self._paths: dict[str, dict[str, Method]] = {
            **{path: {"GET": self.page} for path in page.FILES},
            "/healthz": {"GET": self.healthz},
            "/readyz": {"GET": self.readyz},
            "/metrics": {"GET": self.metrics},
            "/v1/status": {"GET": self.status},
            "/v1/history": {"GET": self.history},
            "/v1/streams": {"GET": self.streams},
            "/v1/hops": {"GET": self.hops},
            "/v1/peers": {"GET": self.peers},
            "/v1/drain": {"POST": self.drain},
            "/v1/records": {"POST": self.records},
        }

    async def __call__(self, request: Request) -> Response:
        try:
            return await self._answer(request)
        except Exception:
            logger.exception("request to %s failed", request.path)
            return error(HTTPStatus.INTERNAL_SERVER_ERROR, "this is a fault of the node; its log says more")

    async def _answer(self, request: Request) -> Response:
        if self._local and not page.is_local_name(request.headers.get("host", "")):
            sentence = "this is the node's loopback address: ask for localhost"
            return error(HTTPStatus.MISDIRECTED_REQUEST, sentence)
        methods, names = self._find(request.path)
        if not methods:
            return error(HTTPStatus.NOT_FOUND, f"nothing is at {request.path}")
        method = methods.get("GET" if request.method == "HEAD" else request.method)
        if method is None:
            refusal = error(HTTPStatus.METHOD_NOT_ALLOWED, f"{request.path} does not take {request.method}")
            return replace(refusal, headers={"Allow": ", ".join(methods)})
        return await method(request, *names)

    def _find(self, path: str) -> tuple[dict[str, Method], list[str]]:
        """The methods of a path, none if nothing is there; and the names in it."""
        stream = re.fullmatch(r"/v1/streams/([^/]+?)(\.sdp)?", path)
        if stream is None:
            return self._paths.get(path, {}), []
        name, sdp = stream.groups()
        return {"GET": self.sdp if sdp else self.stream}, [unquote(name)]

    async def page(self, request: Request) -> Response:
        return page.file(request.path)

    async def healthz(self, _: Request) -> Response:
        return text("ok")

    async def readyz(self, _: Request) -> Response:
        reasons = self._view.ready()
        status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
        content = {"ready": not reasons, "reasons": reasons, "notes": self._view.notes()}
        return as_json(content, status)

    async def metrics(self, _: Request) -> Response:
        await self._view.look()
        return Response(HTTPStatus.OK, CONTENT_TYPE, render(self._view.status()))

    async def status(self, _: Request) -> Response:
        await self._view.look()
        return as_json(self._view.status())

    async def history(self, _: Request) -> Response:
        return as_json(self._view.history())

    async def streams(self, _: Request) -> Response:
        return as_json(self._view.streams())

    async def stream(self, _: Request, name: str) -> Response:
        stream = self._view.stream(name)
        return _no_stream(name) if stream is None else as_json(stream)

    async def sdp(self, request: Request, name: str) -> Response:
        host, port = request.query.get("host", ""), request.query.get("port", "")
        if not is_host(host):
            return error(HTTPStatus.BAD_REQUEST, "host=… must be the player's address")
        if not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65534:
            return error(HTTPStatus.BAD_REQUEST, "port=… must be the first port of the player, 1 to 65534")
        try:
            description = self._view.sdp(name, host, int(port))
        except ValueError as fault:
            return error(HTTPStatus.BAD_REQUEST, str(fault))
        if description is None:
            return _no_stream(name)
        return text(description, "application/sdp")

    async def hops(self, _: Request) -> Response:
        return as_json(self._view.hops())

    async def peers(self, _: Request) -> Response:
        await self._view.look()
        return as_json(self._view.peers())

    async def drain(self, request: Request) -> Response:
        if "origin" in request.headers:
            return error(HTTPStatus.FORBIDDEN, "a web page may not drain a node; `relay drain` does")
        try:
            timeout = _drain_timeout(request.body)
        except ValueError as fault:
            return error(HTTPStatus.BAD_REQUEST, str(fault))
        event(logger, logging.INFO, "drain_requested", timeout_seconds=timeout)
        await self._view.drain(timeout)
        return as_json({"draining": True, "timeout_seconds": timeout}, HTTPStatus.ACCEPTED)

    async def records(self, request: Request) -> Response:
        if "origin" in request.headers:
            return error(HTTPStatus.FORBIDDEN, "a web page may hand in no records; `relay fleet renew` does")
        try:
            records = _records(request.body)
        except ValueError as fault:
            return error(HTTPStatus.BAD_REQUEST, str(fault))
        return as_json(self._view.hand_records(records))


def _records(body: bytes) -> list[bytes]:
    """The records in a request. Raises ValueError."""
    wanted = f'the body must be {{"records": […]}} with at most {RECORDS_MAX} records in base64'
    try:
        content = json.loads(body)
        if content.keys() != {"records"} or not len(content["records"]) <= RECORDS_MAX:
            raise ValueError
        return [base64.b64decode(record, validate=True) for record in content["records"]]
    except (ValueError, TypeError, AttributeError, RecursionError) as fault:
        raise ValueError(wanted) from fault


def _drain_timeout(body: bytes) -> float:
    """The timeout in seconds of a request to drain. Raises ValueError."""
    wanted = f'the body must be empty or {{"timeout_seconds": N}} with N from 0 to {MAX_DRAIN_SECONDS}'
    try:
        content = json.loads(body or b"{}")
    except (ValueError, RecursionError) as fault:
        raise ValueError(f"no JSON: {wanted}") from fault
    if not isinstance(content, dict) or content.keys() - {"timeout_seconds"}:
        raise ValueError(wanted)
    timeout = content.get("timeout_seconds")
    if timeout is None:
        return DRAIN_SECONDS
    if (
        not isinstance(timeout, int | float)
        or isinstance(timeout, bool)
        or not 0 <= timeout <= MAX_DRAIN_SECONDS
    ):
        raise ValueError(wanted)
    return float(timeout)


def _no_stream(name: str) -> Response:
    return error(HTTPStatus.NOT_FOUND, f"no stream is called {name!r} here; GET /v1/streams lists them")
