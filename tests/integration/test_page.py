"""The page of a node in headless Chromium: a stream over a lossy link, and hostile names."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relay.web import ops
from relay.web.http import Server
from relay.web.page import GUARDS
from tests.integration.browser import Page, browser, needs_chromium
from tests.integration.nodes import STREAM, Fleet, receiver, sender
from tests.unit.test_ops import View

pytestmark = needs_chromium
PHONE, DESK = (360, 740), (1200, 900)
INK = "document.querySelector('#streams canvas').toDataURL()"
"""The first chart of a stream."""
NAME = '"><img src=x onerror=alert(1)><script>alert(2)</script>'


@contextmanager
def media(fleet: Fleet) -> Iterator[None]:
    """400 packets/s from the encoder to the player, all the time."""
    stop = threading.Event()

    def send() -> None:
        with receiver(fleet.player), sender(fleet.ingest) as source:
            while not stop.is_set():
                source.send(40)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


async def fits(page: Page, size: tuple[int, int]) -> bool:
    """Whether nothing sticks out at the side."""
    await page.size(*size)
    width = await page.value("document.documentElement.scrollWidth")
    return bool(width <= size[0])


async def look_at(fleet: Fleet, directory: Path) -> None:
    async with browser(directory) as page:
        await page.size(*DESK)
        await page.goto(fleet.region.url + "/")
        about = "document.querySelector('#streams')?.textContent ?? ''"
        await page.until(f"/edge.*ms.*region/s.test({about}) && /[1-9][\\d.]* Mbit.s/.test({about})")
        assert await page.value("document.querySelector('#streams h3').textContent") == STREAM
        await page.until("/loses [1-9]/.test(document.querySelector('#verdict').textContent)")
        assert await page.value("document.querySelector('#name').textContent") == "region"
        repaired = "document.querySelector('#hops .figures').textContent"
        before = await page.value(repaired)
        await page.until(f"{repaired} !== {before!r}")
        await page.until("document.querySelectorAll('#streams canvas').length === 3")
        drawn = await page.value(INK)
        await page.until(f"{INK} !== {drawn!r}")  # another sample
        for dark in (False, True):
            await page.dark(dark)
            assert await fits(page, PHONE) and await fits(page, DESK)
        assert page.complaints == []
        assert [url for url in page.requests if not url.startswith(fleet.region.url + "/")] == []
        fleet.region.kill()
        await page.until("document.querySelector('#verdict').textContent.includes('does not answer')")


def test_a_stream_over_a_lossy_link(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    with fleet.stack, media(fleet):
        asyncio.run(look_at(fleet, tmp_path))


def hostile() -> View:
    """A node all of whose names are markup, and long."""
    view = View()
    status = view.content
    status["node"]["name"] = status["peers"][0]["name"] = status["streams"][0]["name"] = NAME
    status["streams"][0]["path"][0]["node"] = status["peers"][1]["name"] = NAME
    status["streams"][0]["behind"]["hops"][0] |= {"from": NAME, "node": "x" * 64}
    status["streams"][0]["waits"] = status["peers"][0]["alarms"][0] = NAME
    status["hops"][0] |= {"peer": NAME, "state": NAME}
    status["findings"].append({"severity": NAME, "text": NAME})
    view.past["streams"][0]["name"] = view.past["hops"][0]["name"] = NAME
    return view


def test_names_are_text(tmp_path: Path) -> None:
    async def test() -> None:
        server = Server(ops.Api(hostile(), local=True), GUARDS)
        await server.listen(socket.create_server(("127.0.0.1", 0)))
        async with browser(tmp_path) as page:
            await page.goto(f"http://127.0.0.1:{server.port}/")
            await page.until("document.querySelectorAll('#streams canvas').length === 3")
            for place in ("name", "findings", "streams", "hops", "peers"):
                assert NAME in await page.value(f"document.getElementById('{place}').textContent")
            assert await page.value("document.querySelectorAll('img, main script').length") == 0
            assert await fits(page, PHONE)
            assert page.complaints == []
        await server.close()

    asyncio.run(test())
