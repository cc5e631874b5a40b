"""`relay status --watch`: what a node does, live in a terminal.

On a terminal the view is redrawn in place, on its second screen, so that what was there before is there again
afterwards. Anything else gets one view after the other. A node that does not answer is asked again.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from relay.errors import RelayError

# ECMA-48 sequences, and the private modes that every terminal of today takes from xterm.
ENTER = "\x1b[?1049h\x1b[?7l\x1b[?25l"  # second screen, no wrapping, no cursor
LEAVE = "\x1b[?25h\x1b[?7h\x1b[?1049l"
HOME = "\x1b[H"
TO_LINE_END = "\x1b[K"
TO_SCREEN_END = "\x1b[J"


def watch(look: Callable[[], str], seconds: float, out: TextIO) -> None:
    """Show what `look` returns every `seconds`, until the user interrupts. Its RelayErrors are shown too."""
    with suppress(KeyboardInterrupt):
        if out.isatty():
            _redraw(look, seconds, out)
        else:
            _print(look, seconds, out)


def _redraw(look: Callable[[], str], seconds: float, out: TextIO) -> None:
    text = ""
    with _screen(out):
        while True:
            problem = ""
            try:
                text = look()
            except RelayError as error:
                problem = f"{error}; trying again\n\n"  # above what the node said before
            out.write(frame(problem + text, os.get_terminal_size(out.fileno())))
            out.flush()
            signal.sigtimedwait({signal.SIGWINCH}, seconds)


def _print(look: Callable[[], str], seconds: float, out: TextIO) -> None:
    while True:
        try:
            text = look()
        except RelayError as error:
            text = f"{error}; trying again\n"
        print(text, file=out, flush=True)
        time.sleep(seconds)


def frame(text: str, size: os.terminal_size) -> str:
    """What redraws a terminal of that size in place; the last line tells of those that did not fit."""
    lines = text.splitlines()
    if len(lines) > size.lines:
        kept = size.lines - 1
        lines = [*lines[:kept], f"... {len(lines) - kept} more lines"]
    drawn = "\r\n".join(line[: size.columns] + TO_LINE_END for line in lines)
    return HOME + drawn + TO_SCREEN_END


@contextmanager
def _screen(out: TextIO) -> Iterator[None]:
    """The terminal's second screen, with SIGWINCH held back for who waits for it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
    out.write(ENTER)
    try:
        yield
    finally:
        out.write(LEAVE)
        out.flush()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
