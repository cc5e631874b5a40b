"""Headless Chromium for tests, over its DevTools protocol (https://chromedevtools.github.io/devtools-protocol)."""

import asyncio
import shutil
from asyncio.subprocess import DEVNULL, create_subprocess_exec
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--force-prefers-reduced-motion", "--remote-debugging-port=0"),
)
PATIENCE = 30.0  # s; only how long a failing test takes
POLL = 0.05  # s

needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium")


class Page:
    """A tab, and what has happened in it."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self._socket = socket
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session: str | None = None
        self.requests: list[str] = []
        """URLs."""
        self.complaints: list[str] = []
        """Errors, warnings and violations of the policy, as the console has them."""

    async def open(self) -> None:
        target = await self.do("Target.createTarget", url="about:blank")
        attached = await self.do("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.do(f"{domain}.enable")

    async def listen(self) -> None:
        async for message in self._socket:
            content = message.json()
            if "id" in content:
                self._answers.pop(content["id"]).set_result(content)
            else:
                self._note(content["method"], content["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(params["args"]))

    async def do(self, method: str, **params: Any) -> Any:
        number = len(self._answers) + 1
        while number in self._answers:
            number += 1
        self._answers[number] = answer = asyncio.get_running_loop().create_future()
        session = {"sessionId": self._session} if self._session else {}
        await self._socket.send_json({"id": number, "method": method, "params": params, **session})
        content = await asyncio.wait_for(answer, PATIENCE)
        assert "error" not in content, content
        return content["result"]

    async def goto(self, url: str) -> None:
        await self.do("Page.navigate", url=url)

    async def value(self, expression: str) -> Any:
        """What a JavaScript expression is, as JSON has it."""
        found = await self.do("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, expression: str) -> Any:
        """The first true value of the expression."""
        async with asyncio.timeout(PATIENCE):
            while not (found := await self.value(expression)):  # noqa: ASYNC110
                await asyncio.sleep(POLL)
        return found

    async def size(self, width: int, height: int) -> None:
        await self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    async def dark(self, yes: bool) -> None:
        feature = {"name": "prefers-color-scheme", "value": "dark" if yes else "light"}
        await self.do("Emulation.setEmulatedMedia", features=[feature])


@asynccontextmanager
async def browser(directory: Path) -> AsyncIterator[Page]:
    """A page in a Chromium whose profile is in `directory`, which must be new."""
    assert PROGRAM is not None
    profile = directory / "chromium"
    port = profile / "DevToolsActivePort"
    program = await create_subprocess_exec(
        PROGRAM, *OPTIONS, f"--user-data-dir={profile}", stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
    )
    try:
        async with asyncio.timeout(PATIENCE):
            while not port.exists() or port.read_text().count("\n") < 1:
                assert program.returncode is None, f"Chromium has ended: {program.returncode}"
                await asyncio.sleep(POLL)
        number, path = port.read_text().split()
        url = f"ws://127.0.0.1:{number}{path}"
        async with ClientSession() as session, session.ws_connect(url, max_msg_size=0) as socket:
            page = Page(socket)
            listening = asyncio.create_task(page.listen())
            await page.open()
            yield page
            listening.cancel()
    finally:
        if program.returncode is None:
            program.kill()
        await program.wait()
