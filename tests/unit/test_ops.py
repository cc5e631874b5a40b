"""The operations API, through a real HTTP server on loopback."""

import asyncio
import base64
import hashlib
import json
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession

from relay.config import Address
from relay.services.sockets import Sockets
from relay.systemd import Manager
from relay.web import ops, page
from relay.web.http import Server
from relay.wire.messages import NODE_RECORD_BYTES_MAX
from tests.unit.status_sample import history, sample


class View:
    """A node with the sample's status."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.drained: list[float] = []
        self.records: list[bytes] = []
        self.looks = 0
        self.content = sample()
        self.past = history()

    async def look(self) -> None:
        self.looks += 1

    def ready(self) -> list[str]:
        return self.reasons

    def notes(self) -> list[str]:
        return ["the record ends"]

    def hand_records(self, records: Sequence[bytes]) -> Counter[str]:
        self.records += records
        return Counter(taken=len(records))

    def status(self) -> dict[str, Any]:
        return self.content

    def history(self) -> dict[str, Any]:
        return self.past

    def streams(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.content["streams"]
        return found

    def stream(self, name: str) -> dict[str, Any] | None:
        return next((s for s in self.streams() if s["name"] == name), None)

    def hops(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.content["hops"]
        return found

    def peers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.content["peers"]
        return found

    def sdp(self, name: str, host: str, port: int) -> str | None:
        return f"v=0 {host} {port}" if name == "studio" else None

    async def drain(self, timeout_seconds: float) -> None:
        self.drained.append(timeout_seconds)


Call = Callable[..., Awaitable[tuple[int, str, Any]]]


@asynccontextmanager
async def serving(view: View, *, local: bool = True) -> AsyncIterator[ClientSession]:
    """A client of the API of `view`."""
    server = Server(ops.Api(view, local=local), page.GUARDS)
    await server.listen(socket.create_server(("127.0.0.1", 0)))
    async with ClientSession(f"http://127.0.0.1:{server.port}") as client:
        yield client
    await server.close()


def served(test: Callable[[Call, View], Awaitable[None]]) -> None:
    """Runs `test` with a function that makes a request and returns status, content type and content."""

    async def run() -> None:
        view = View()
        async with serving(view) as client:

            async def call(method: str, path: str, **more: Any) -> tuple[int, str, Any]:
                async with client.request(method, path, **more) as answer:
                    text = await answer.text()
                    kind = answer.content_type
                    return answer.status, kind, json.loads(text) if kind == "application/json" else text

            await test(call, view)

    asyncio.run(run())


def test_health_and_readiness() -> None:
    async def test(call: Call, view: View) -> None:
        assert await call("GET", "/healthz") == (200, "text/plain", "ok")
        notes = ["the record ends"]
        answer = {"ready": True, "reasons": [], "notes": notes}
        assert await call("GET", "/readyz") == (200, "application/json", answer)
        view.reasons = ["no hop is connected"]
        answer = {"ready": False, "reasons": ["no hop is connected"], "notes": notes}
        assert await call("GET", "/readyz") == (503, "application/json", answer)
        assert (await call("GET", "/healthz"))[0] == 200

    served(test)


def test_what_can_be_read() -> None:
    async def test(call: Call, view: View) -> None:
        whole = sample()
        for path, content in {
            "/v1/status": whole,
            "/v1/history": history(),
            "/v1/streams": whole["streams"],
            "/v1/streams/studio": whole["streams"][0],
            "/v1/hops": whole["hops"],
            "/v1/peers": whole["peers"],
        }.items():
            assert await call("GET", path) == (200, "application/json", content)
        status, kind, text = await call("GET", "/metrics")
        assert (status, kind) == (200, "text/plain") and "# HELP relay_node_uptime_seconds" in text

    served(test)


def test_sdp() -> None:
    async def test(call: Call, view: View) -> None:
        path = "/v1/streams/studio.sdp"
        assert await call("GET", f"{path}?host=192.0.2.1&port=6004") == (
            200,
            "application/sdp",
            "v=0 192.0.2.1 6004",
        )
        assert (await call("GET", f"{path}?host=fe80::1%25eth0&port=6004"))[2] == "v=0 fe80::1%eth0 6004"
        for bad in ("", "?host=h", "?port=1", "?host=h&port=0", "?host=h&port=65535", "?host=h&port=x"):
            status, _, answer = await call("GET", path + bad)
            assert status == 400 and "must be" in answer["error"]
        for host in ("a%0d%0ab", "fe80::1%25a%0d%0ab", "a%20b", "", "x" * 300):
            assert (await call("GET", f"{path}?host={host}&port=6004"))[0] == 400
        status, _, answer = await call("GET", "/v1/streams/other.sdp?host=h&port=6004")
        assert status == 404 and "no stream is called 'other'" in answer["error"]

    served(test)


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("GET", "/page/", 404, "nothing is at /page/"),
        ("GET", "/v1/streams/none", 404, "GET /v1/streams lists them"),
        ("GET", "/v1/streams/a/b", 404, "nothing is at"),
        ("GET", "/v1/drain", 405, "does not take GET"),
        ("POST", "/v1/status", 405, "does not take POST"),
        ("DELETE", "/v1/streams/studio", 405, "does not take DELETE"),
    ],
)
def test_errors_are_json(method: str, path: str, status: int, sentence: str) -> None:
    async def test(call: Call, view: View) -> None:
        found, kind, answer = await call(method, path)
        assert (found, kind) == (status, "application/json")
        assert answer.keys() == {"error"} and sentence in answer["error"]

    served(test)


@pytest.mark.parametrize(
    ("body", "timeout"),
    [(b"", 300.0), (b"{}", 300.0), (b'{"timeout_seconds": 30}', 30.0), (b'{"timeout_seconds": null}', 300.0)],
)
def test_drain(body: bytes, timeout: float) -> None:
    async def test(call: Call, view: View) -> None:
        answer = {"draining": True, "timeout_seconds": timeout}
        assert await call("POST", "/v1/drain", data=body) == (202, "application/json", answer)
        assert view.drained == [timeout]

    served(test)


@pytest.mark.parametrize(
    "body",
    [
        *(b"x", b"[]", b"3", b"\xff", b"[" * 4000),
        *(b'{"timeout": 3}', b'{"timeout_seconds": "3"}', b'{"timeout_seconds": true}'),
        *(b'{"timeout_seconds": -1}', b'{"timeout_seconds": NaN}', b'{"timeout_seconds": 1e999}'),
    ],
)
def test_drain_refuses_what_it_cannot_mean(body: bytes) -> None:
    async def test(call: Call, view: View) -> None:
        status, _, answer = await call("POST", "/v1/drain", data=body)
        assert status == 400 and "timeout_seconds" in answer["error"]
        assert view.drained == []

    served(test)


def test_drain_refuses_web_pages_and_large_bodies() -> None:
    async def test(call: Call, view: View) -> None:
        headers = {"Origin": "https://example.org"}
        assert (await call("POST", "/v1/drain", headers=headers))[0] == 403
        status, _, answer = await call("POST", "/v1/drain", data=b" " * 5000)
        assert status == 413 and "at most 4096 bytes" in answer["error"]
        assert view.drained == []

    served(test)


def test_records_are_handed_in() -> None:
    async def test(call: Call, view: View) -> None:
        whole = [
            base64.b64encode(bytes([i]) * NODE_RECORD_BYTES_MAX).decode() for i in range(ops.RECORDS_MAX)
        ]
        body = json.dumps({"records": whole}).encode()
        answer = {"taken": ops.RECORDS_MAX}
        assert await call("POST", "/v1/records", data=body) == (200, "application/json", answer)
        assert view.records == [bytes([i]) * NODE_RECORD_BYTES_MAX for i in range(ops.RECORDS_MAX)]

    served(test)


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"x",
            b"[]",
            b"{}",
            b"[" * 4000,
            b'{"records": 3}',
            b'{"records": [3]}',
            b'{"records": ["="]}',
        ),
        *(b'{"records": [], "more": 1}', b'{"records": [' + b",".join([b'""'] * 13) + b"]}"),
    ],
)
def test_what_is_no_records_is_refused(body: bytes) -> None:
    async def test(call: Call, view: View) -> None:
        status, _, answer = await call("POST", "/v1/records", data=body)
        assert status == 400 and "at most 12 records in base64" in answer["error"]
        headers = {"Origin": "https://example.org"}
        assert (await call("POST", "/v1/records", data=b'{"records": []}', headers=headers))[0] == 403
        assert view.records == []

    served(test)


def test_a_fault_of_the_node_is_an_answer_and_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def test(call: Call, view: View) -> None:
        view.content["hops"] = [{"rtt_ms": float("nan")}]
        status, _, answer = await call("GET", "/v1/hops")
        assert status == 500 and "its log says more" in answer["error"]
        assert (await call("GET", "/healthz"))[0] == 200

    served(test)
    assert [record.getMessage() for record in caplog.records if record.exc_info] == [
        "request to /v1/hops failed"
    ]


def test_names_that_lead_to_loopback_from_elsewhere_are_refused() -> None:
    async def test(call: Call, view: View) -> None:
        for path in ("/", "/v1/status", "/healthz"):
            status, _, answer = await call("GET", path, headers={"Host": "evil.example:7480"})
            assert status == 421 and "ask for localhost" in answer["error"]
        assert (await call("POST", "/v1/drain", headers={"Host": "evil.example"}))[0] == 421
        assert view.drained == [] and view.looks == 0

    served(test)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *((host, True) for host in ("127.0.0.1", "127.0.0.1:7480", "[::1]:7480", "[::1]", "192.0.2.1:80")),
        *((host, True) for host in ("localhost", "LOCALHOST:7480", "localhost.", "node.localhost:7480")),
        *(
            (host, False)
            for host in ("evil.example", "localhost.evil.example", "notlocalhost", "", "[", "::1x")
        ),
    ],
)
def test_local_names(host: str, local: bool) -> None:
    assert page.is_local_name(host) is local


def test_on_another_address_names_are_legitimate() -> None:
    async def test() -> None:
        headers = {"Host": "edge.example:7480"}
        async with serving(View(), local=False) as client, client.get("/v1/hops", headers=headers) as answer:
            assert answer.status == 200
            assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"

    asyncio.run(test())


def test_the_page_and_all_that_it_names_are_served_and_nothing_else_of_the_folder() -> None:
    async def test() -> None:
        async with serving(View()) as client:
            texts = {}
            for path, (_, kind) in page.FILES.items():
                async with client.get(path) as answer:
                    assert (answer.status, answer.content_type) == (200, kind)
                    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
                    texts[path] = await answer.text()
            named = re.findall(r'(?:src|href)="(page/[^"]+)"', texts["/"])
            assert {f"/{name}" for name in named} | {"/", "/page/charts.js"} == page.FILES.keys()
            async with client.get("/page/uPlot.txt") as answer:
                assert answer.status == 404

    asyncio.run(test())


def test_the_chart_library_is_what_was_published() -> None:
    sums = re.findall(r"^([0-9a-f]{64})  (\S+)$", (page.PLACE / "uPlot.txt").read_text(), re.MULTILINE)
    assert {name for _, name in sums} == {"uPlot.iife.min.js", "uPlot.min.css", "uPlot.LICENSE"}
    for digest, name in sums:
        assert hashlib.sha256((page.PLACE / name).read_bytes()).hexdigest() == digest


def new_sockets() -> Sockets:
    return Sockets(Manager({}, 0), {})


def test_start_serves_and_says_when_the_port_is_taken() -> None:
    async def test() -> None:
        in_use = pytest.raises(OSError, match=r"cannot listen on .*: Address already in use")
        with socket.create_server(("127.0.0.1", 0)) as taken, in_use:
            await ops.start(View(), Address("127.0.0.1", taken.getsockname()[1]), new_sockets())
        server = await ops.start(View(), Address("127.0.0.1", 0), new_sockets())
        url = f"http://127.0.0.1:{server.port}/healthz"
        async with ClientSession() as client, client.get(url) as answer:
            assert await answer.text() == "ok"
        await server.close()

    asyncio.run(test())
