"""A node whose event loop stands still again and again, from one SIGUSR1 to the next; for test_stall.

    python -m tests.integration.stalling_node sleep|spin run --config FILE

`sleep` blocks the loop alone; `spin` is Python that keeps the GIL as well.
"""

import asyncio
import signal
import sys
import time
from pathlib import Path

from relay.config.files import load
from relay.log import configure
from relay.node import Node, run_on_loop
from tests.integration.own_node import serve

STALL_S = 0.2
EVERY_S = 0.4


class Staller:
    def __init__(self, loop: asyncio.AbstractEventLoop, spin: bool) -> None:
        self._loop = loop
        self._spin = spin
        self._next: asyncio.TimerHandle | None = None
        self.stalls = 0

    def switch(self) -> None:
        if self._next is None:
            self._next = self._loop.call_later(EVERY_S, self._stall)
        else:
            self._next.cancel()
            self._next = None
            print(f"stalls={self.stalls}", file=sys.stderr, flush=True)

    def _stall(self) -> None:
        self.stalls += 1
        until = time.monotonic() + STALL_S
        if not self._spin:
            time.sleep(STALL_S)
        while time.monotonic() < until:
            pass
        self._next = self._loop.call_later(EVERY_S, self._stall)


async def main(kind: str, config: Path) -> int:
    node = Node(load(config, {}), config)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, Staller(loop, kind == "spin").switch)
    return await serve(node)


if __name__ == "__main__":
    configure("text", "info")
    sys.setswitchinterval(10)  # seconds: no thread of Python gets the GIL while the loop spins
    run_on_loop(main(sys.argv[1], Path(sys.argv[-1])))
