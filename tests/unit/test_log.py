"""Logs: one line an event, whatever its fields hold."""

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Literal

import pytest

from relay import log

logger = logging.getLogger("relay.test")


@pytest.fixture(autouse=True)
def restore_root() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(form: Literal["text", "json"], *events: dict[str, object], level: str = "info") -> list[str]:
    stream = io.StringIO()
    log.configure(form, level, stream)
    for fields in events:
        log.event(logger, logging.INFO, "hop_connected", **fields)
    return stream.getvalue().splitlines()


def test_text() -> None:
    fields: dict[str, object] = {"peer": "region-sgp", "rtt_ms": 101.25, "up": True, "why": None, "n": 3}
    (line,) = lines("text", fields)
    time, rest = line.split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
    assert rest == "info relay.test hop_connected peer=region-sgp rtt_ms=101.25 up=true why=null n=3"


def test_text_quotes_what_could_mislead() -> None:
    fields: dict[str, object] = {
        "a": "two words",
        "b": "x\ny=1",
        "c": "",
        "d": 'q"',
        "e": "\x1b[",
        "f": "\u2028",
    }
    (line,) = lines("text", fields)
    assert line.endswith(r'a="two words" b="x\ny=1" c="" d="q\"" e="\u001b[" f="\u2028"')


def test_json_has_every_field_even_one_with_a_name_of_ours() -> None:
    (line,) = lines("json", {"peer": "p\n", "level": 7, "name": "n", "address": ("::1", 7400)})
    record = json.loads(line)
    assert re.fullmatch(r"\d{4}-.*\.\d{3}Z", record.pop("time"))
    assert record == {
        "level": "info",
        "logger": "relay.test",
        "event": "hop_connected",
        "peer": "p\n",
        "level_": 7,
        "name": "n",
        "address": ["::1", 7400],
    }


def test_levels() -> None:
    assert lines("text", {}, level="warning") == []
    assert len(lines("text", {}, {}, level="debug")) == 2


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_libraries_log_is_one_line_too(form: Literal["text", "json"]) -> None:
    stream = io.StringIO()
    log.configure(form, "info", stream)
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logging.getLogger("asyncio").exception("task %s failed\nbadly", "t")
    (line,) = stream.getvalue().splitlines()
    assert "error" in line and "message" in line and r"task t failed\nbadly" in line and "ValueError" in line
