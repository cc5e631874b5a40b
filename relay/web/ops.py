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
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Protocol

from relay.config import Address, is_host
from relay.log import event
from relay.services.sockets import Sockets
from relay.web import page
from relay.web.metrics import CONTENT_TYPE, render
from relay.web.server import Handler, web

MAX_BODY_BYTES = 4096
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


def application(view: NodeView, *, local: bool) -> web.Application:
    """The API and the page as an aiohttp application; `local`: on a loopback address."""
    api = _Api(view)
    app = web.Application(
        middlewares=[_errors_as_json, page.guard(local=local)], client_max_size=MAX_BODY_BYTES
    )
    app.add_routes(
        [
            *(web.get(path, page.serve) for path in page.FILES),
            web.get("/healthz", api.healthz),
            web.get("/readyz", api.readyz),
            web.get("/metrics", api.metrics),
            web.get("/v1/status", api.status),
            web.get("/v1/history", api.history),
            web.get("/v1/streams", api.streams),
            web.get(r"/v1/streams/{name:[^/]+}.sdp", api.sdp),
            web.get("/v1/streams/{name}", api.stream),
            web.get("/v1/hops", api.hops),
            web.get("/v1/peers", api.peers),
            web.post("/v1/drain", api.drain),
            web.post("/v1/records", api.records),
        ]
    )
    return app


async def start(view: NodeView, listen: Address, sockets: Sockets) -> web.AppRunner:
    """Serves the API at `listen` until the runner's `cleanup()`. Raises OSError, with a sentence, for a port
    that it cannot have."""
    try:
        bound = sockets.tcp(listen)
    except OSError as error:
        why = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise OSError(f"cannot listen on {listen}, TCP: {why}; choose another address for [ops]") from error
    local = all(ipaddress.ip_address(sock.getsockname()[0]).is_loopback for sock in bound)
    runner = web.AppRunner(application(view, local=local), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    for sock in bound:
        await web.SockSite(runner, sock).start()
    return runner


class _Api:
    """One method a path."""

    def __init__(self, view: NodeView) -> None:
        self._view = view

    async def healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def readyz(self, _: web.Request) -> web.Response:
        reasons = self._view.ready()
        status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
        content = {"ready": not reasons, "reasons": reasons, "notes": self._view.notes()}
        return _json(content, status)

    async def metrics(self, _: web.Request) -> web.Response:
        await self._view.look()
        return web.Response(body=render(self._view.status()), headers={"Content-Type": CONTENT_TYPE})

    async def status(self, _: web.Request) -> web.Response:
        await self._view.look()
        return _json(self._view.status())

    async def history(self, _: web.Request) -> web.Response:
        return _json(self._view.history())

    async def streams(self, _: web.Request) -> web.Response:
        return _json(self._view.streams())

    async def stream(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        stream = self._view.stream(name)
        return _no_stream(name) if stream is None else _json(stream)

    async def sdp(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        host, port = request.query.get("host", ""), request.query.get("port", "")
        if not is_host(host):
            return _error(HTTPStatus.BAD_REQUEST, "host=… must be the player's address")
        if not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65534:
            return _error(HTTPStatus.BAD_REQUEST, "port=… must be the first port of the player, 1 to 65534")
        try:
            description = self._view.sdp(name, host, int(port))
        except ValueError as error:
            return _error(HTTPStatus.BAD_REQUEST, str(error))
        if description is None:
            return _no_stream(name)
        return web.Response(text=description, content_type="application/sdp")

    async def hops(self, _: web.Request) -> web.Response:
        return _json(self._view.hops())

    async def peers(self, _: web.Request) -> web.Response:
        await self._view.look()
        return _json(self._view.peers())

    async def drain(self, request: web.Request) -> web.Response:
        if "Origin" in request.headers:
            return _error(HTTPStatus.FORBIDDEN, "a web page may not drain a node; `relay drain` does")
        try:
            timeout = _drain_timeout(await request.read())
        except ValueError as error:
            return _error(HTTPStatus.BAD_REQUEST, str(error))
        event(logger, logging.INFO, "drain_requested", timeout_seconds=timeout)
        await self._view.drain(timeout)
        return _json({"draining": True, "timeout_seconds": timeout}, HTTPStatus.ACCEPTED)

    async def records(self, request: web.Request) -> web.Response:
        if "Origin" in request.headers:
            return _error(HTTPStatus.FORBIDDEN, "a web page may hand in no records; `relay fleet renew` does")
        try:
            records = _records(await request.read())
        except ValueError as error:
            return _error(HTTPStatus.BAD_REQUEST, str(error))
        return _json(self._view.hand_records(records))


def _records(body: bytes) -> list[bytes]:
    """The records in a request. Raises ValueError."""
    wanted = f'the body must be {{"records": […]}} with at most {RECORDS_MAX} records in base64'
    try:
        content = json.loads(body)
        if content.keys() != {"records"} or not len(content["records"]) <= RECORDS_MAX:
            raise ValueError
        return [base64.b64decode(record, validate=True) for record in content["records"]]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(wanted) from error


def _drain_timeout(body: bytes) -> float:
    """The timeout in seconds of a request to drain. Raises ValueError."""
    wanted = f'the body must be empty or {{"timeout_seconds": N}} with N from 0 to {MAX_DRAIN_SECONDS}'
    try:
        content = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {wanted}") from error
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


def _json(content: object, status: int = HTTPStatus.OK) -> web.Response:
    text = json.dumps(content, allow_nan=False)
    return web.Response(text=text, status=status, content_type="application/json")


def _error(status: int, sentence: str) -> web.Response:
    return _json({"error": sentence}, status)


def _no_stream(name: str) -> web.Response:
    return _error(HTTPStatus.NOT_FOUND, f"no stream is called {name!r} here; GET /v1/streams lists them")


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed as error:
        response = _error(error.status, f"{request.path} does not take {request.method}")
        response.headers["Allow"] = error.headers["Allow"]
        return response
    except web.HTTPNotFound as error:
        return _error(error.status, f"nothing is at {request.path}")
    except web.HTTPRequestEntityTooLarge as error:
        return _error(error.status, f"a request body holds at most {MAX_BODY_BYTES} bytes")
    except web.HTTPException as error:
        return _error(error.status, error.reason)
    except Exception:
        logger.exception("request to %s failed", request.path)
        return _error(HTTPStatus.INTERNAL_SERVER_ERROR, "this is a fault of the node; its log says more")
