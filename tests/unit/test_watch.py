"""`relay status --watch`, on a pseudo-terminal and off one."""

import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest

from relay import watch
from relay.errors import RelayError

PROGRAM = """
import sys
from relay.errors import RelayError
from relay.watch import watch
views = iter([RelayError("no node answers"), "first\\n", RelayError("it is away"), "second\\n" * 50])
def look():
    view = next(views, None)
    if view is None:
        return f"third\\n"
    if isinstance(view, RelayError):
        raise view
    return view
watch(look, float(sys.argv[1]), sys.stdout)
"""


class Terminal:
    """The program's view of one, and what it has written there."""

    def __init__(self, master: int, program: "subprocess.Popen[bytes]") -> None:
        self.master = master
        self.program = program
        self.text = ""

    def until(self, wanted: str) -> str:
        """What was written up to and with `wanted`."""
        while wanted not in self.text:
            try:
                self.text += os.read(self.master, 4096).decode()
            except OSError as error:  # the other end is closed
                raise AssertionError(f"{wanted!r} never came: {self.text!r}") from error
        found, self.text = self.text[: (end := self.text.index(wanted) + len(wanted))], self.text[end:]
        return found

    def resize(self, lines: int, columns: int) -> None:
        termios.tcsetwinsize(self.master, (lines, columns))


@contextmanager
def terminal(seconds: float) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (10, 40))
    command = [sys.executable, "-c", PROGRAM, str(seconds)]
    # A session whose terminal this is: only then does a change of its size come as a signal.
    program = subprocess.Popen(
        ["setsid", "--ctty", *command], stdin=slave, stdout=slave, cwd=Path(__file__).parents[2]
    )
    os.close(slave)
    try:
        yield Terminal(master, program)
    finally:
        program.kill()
        program.wait()
        os.close(master)


def test_a_terminal_is_redrawn_in_place_and_left_as_it_was() -> None:
    with terminal(0.01) as screen:
        assert screen.until(watch.HOME) == watch.ENTER + watch.HOME
        assert "no node answers; trying again" in screen.until(watch.TO_SCREEN_END)
        assert screen.until(watch.TO_SCREEN_END) == f"{watch.HOME}first\x1b[K{watch.TO_SCREEN_END}"
        away = screen.until(watch.TO_SCREEN_END)
        assert "it is away; trying again" in away and away.endswith("first\x1b[K" + watch.TO_SCREEN_END)
        full = screen.until(watch.TO_SCREEN_END)
        assert full.count("second") == 9 and "... 41 more lines" in full
        screen.until("third")
        screen.program.send_signal(signal.SIGINT)
        assert screen.until(watch.LEAVE).endswith(watch.LEAVE)
        assert screen.program.wait(10) == 0


def test_a_change_of_size_redraws_at_once() -> None:
    with terminal(3600) as screen:
        screen.until(watch.TO_SCREEN_END)
        screen.resize(5, 4)
        assert screen.until(watch.TO_SCREEN_END) == f"{watch.HOME}firs\x1b[K{watch.TO_SCREEN_END}"


def test_off_a_terminal_one_view_follows_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    views = iter(["first\n", RelayError("it is away"), "second\n"])
    waits = iter([None, None, KeyboardInterrupt()])

    def look() -> str:
        view = next(views)
        if isinstance(view, RelayError):
            raise view
        return view

    def sleep(seconds: float) -> None:
        assert seconds == 2
        if (interrupted := next(waits)) is not None:
            raise interrupted

    monkeypatch.setattr("time.sleep", sleep)
    out = StringIO()
    watch.watch(look, 2, out)
    assert out.getvalue() == "first\n\nit is away; trying again\n\nsecond\n\n"


def test_lines_are_cut_at_the_edge() -> None:
    size = os.terminal_size((5, 3))
    assert watch.frame("1234567\nx\n", size) == "\x1b[H12345\x1b[K\r\nx\x1b[K\x1b[J"
    assert watch.frame("1\n2\n3\n", size).count("\x1b[K") == 3
    assert watch.frame("1\n2\n3\n4\n", size).endswith("... 2\x1b[K\x1b[J")
