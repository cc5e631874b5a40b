"""The board of this machine, read beside a running event loop; an engine's CPU time."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from relay.core.noise import public_key
from relay.services.board import SECOND_NS, Board
from relay.services.observer import ANSWER_S, Observer
from relay.wire.health import Digest
from relay_ext.control import Plane
from relay_ext.engine import Engine

MS = 1_000_000
CPU_NS_MAX = 5 * MS  # 0.5 % of a core at a reading a second, P6; other programs share the caches


def test_this_machine(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.read(0)
    digest = board.read(SECOND_NS)
    assert digest.memory_available_permille is not None and 0 < digest.memory_available_permille <= 1000
    assert digest.disk_read_only is False and digest.disk_free_permille is not None
    assert digest.udp_drops_per_s is not None and digest.backlog_drops_per_s is not None
    assert not board.unreadable


def test_a_reading_is_cheap(tmp_path: Path) -> None:
    board = Board(tmp_path)
    started = time.thread_time_ns()
    for second in range(100):
        board.read(second * SECOND_NS)
    each = (time.thread_time_ns() - started) // 100
    print(f"{each / 1000:.0f} us of CPU a reading")
    assert each < CPU_NS_MAX


class SlowBoard(Board):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__(Path("/"))
        self.go = threading.Event()
        self.began = threading.Event()
        self.reads = 0

    def read(self, now_ns: int) -> Digest:
        self.reads += 1
        self.began.set()
        self.go.wait()
        return Digest(nic_load_permille=100)


def test_a_board_that_hangs_keeps_nobody_waiting() -> None:
    async def run() -> None:
        board = SlowBoard()
        got: list[Digest] = []
        observer = Observer(board, lambda: [None], time.monotonic_ns, lambda now_ns, facts: got.append(facts))
        observer.start()
        try:
            for _ in range(5):
                observer.ask()
            started = time.monotonic()
            await observer.fresh()
            assert time.monotonic() - started < ANSWER_S + 1
            assert board.reads == 1 and not got
            board.go.set()
            await observer.fresh()
            assert [facts.headroom_permille for facts in got] == [900]
            await observer.fresh()
            assert board.reads == 1  # young enough
        finally:
            board.go.set()
            observer.stop()

    asyncio.run(run())


def test_lag_is_the_worst_since_the_last_reading() -> None:
    async def run() -> None:
        board = SlowBoard()
        board.go.set()
        clock = [10 * SECOND_NS]
        spent: list[int | None] = [0, None, 5]
        got: list[Digest] = []
        observer = Observer(
            board, lambda: list(spent), lambda: clock[0], lambda now_ns, facts: got.append(facts)
        )
        observer.start()
        observer.late(40 * MS)
        observer.late(7 * MS)
        await observer.fresh()
        clock[0] += 2 * SECOND_NS
        spent[:] = [SECOND_NS, None, 5]
        await observer.fresh()
        observer.stop()
        assert [facts.loop_lag_ms for facts in got] == [40, 0]
        assert [facts.thread_load_permille for facts in got] == [None, 500]
        assert [facts.headroom_permille for facts in got] == [900, 500]

    asyncio.run(run())


def test_an_engine_tells_its_cpu_time() -> None:
    engine = Engine(Plane(public_key(bytes(range(32)))))
    assert engine.cpu_ns is None
    engine.start()
    deadline = time.monotonic() + 10
    while not engine.cpu_ns:
        assert time.monotonic() < deadline
    first = engine.cpu_ns
    assert 0 < first < 10 * SECOND_NS
    engine.stop()
    with pytest.raises(RuntimeError):
        engine.start()
    assert engine.cpu_ns is None
