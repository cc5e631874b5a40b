"""Has the board read in a thread of its own, and adds what only this process knows: how busy its packet
threads are and how late its event loop runs.

A driver may take milliseconds to answer, or never: the event loop goes on meanwhile, and facts that do not
come grow too old and become unknown.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from relay.core.health import headroom_permille
from relay.services.board import Board
from relay.wire.health import RATIO, Digest

FRESH_NS = 1_000_000_000
"""A reading that is younger is not worth another one."""
ANSWER_S = 0.5
"""Who asks for the node's status waits no longer for a reading."""
MS = 1_000_000


class Observer:
    """`cpu_ns` tells the CPU time that each packet thread has used (None: it does not run), `clock` the
    monotonic time in ns; `on_facts` is called on the event loop."""

    def __init__(
        self,
        board: Board,
        cpu_ns: Callable[[], Sequence[int | None]],
        clock: Callable[[], int],
        on_facts: Callable[[int, Digest], None],
    ) -> None:
        self.board = board
        self._cpu_ns = cpu_ns
        self._clock = clock
        self._on_facts = on_facts
        self._loop = asyncio.get_running_loop()
        self._wanted = threading.Semaphore(0)
        self._stopping = False
        self._waiting: asyncio.Future[None] | None = None
        """Set while a reading is under way."""
        self._read_ns: int | None = None
        self._spent: Sequence[int | None] = ()
        self._lag_ns = 0

    def start(self) -> None:
        # A daemon, since a driver that hangs must not keep the process from ending.
        threading.Thread(target=self._run, name="relay-board", daemon=True).start()

    def stop(self) -> None:
        self._stopping = True
        self._wanted.release()

    def late(self, lag_ns: int) -> None:
        """The event loop ran something so much later than it was due."""
        self._lag_ns = max(self._lag_ns, lag_ns)

    def ask(self) -> None:
        """Have the board read, unless that is under way."""
        if self._waiting is None:
            self._waiting = self._loop.create_future()
            self._wanted.release()

    async def fresh(self) -> None:
        """Return when the last reading is young enough, or has not come for ANSWER_S."""
        if self._read_ns is None or self._clock() - self._read_ns >= FRESH_NS:
            self.ask()
            assert self._waiting is not None
            await asyncio.wait([self._waiting], timeout=ANSWER_S)

    def _run(self) -> None:
        while True:
            self._wanted.acquire()
            if self._stopping:
                return
            facts = self.board.read(self._clock())
            try:
                self._loop.call_soon_threadsafe(self._done, self._clock(), facts)
            except RuntimeError:  # the loop has been closed meanwhile
                return

    def _done(self, read_ns: int, facts: Digest) -> None:
        if self._stopping:
            return
        now_ns = self._clock()
        self.late(now_ns - read_ns)
        spent, before = self._cpu_ns(), self._spent
        elapsed_ns = 0 if self._read_ns is None else now_ns - self._read_ns
        loads = [
            min((new - old) * RATIO // elapsed_ns, RATIO)
            for new, old in zip(spent, before, strict=False)
            if new is not None and old is not None and elapsed_ns > 0
        ]
        thread_load = max(loads, default=None)
        facts = replace(
            facts,
            thread_load_permille=thread_load,
            headroom_permille=headroom_permille(
                thread_load, facts.nic_load_permille, facts.kernel_load_permille
            ),
            loop_lag_ms=self._lag_ns // MS,
        )
        self._spent, self._read_ns, self._lag_ns = spent, now_ns, 0
        if self._waiting is not None:
            self._waiting.set_result(None)
            self._waiting = None
        self._on_facts(now_ns, facts)
