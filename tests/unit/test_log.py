"""Logs: one line an event, whatever its fields hold."""

import io
import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
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


# ---- the journal --------------------------------------------------------------------------------


def fields_of(datagram: bytes) -> dict[str, str]:
    """Of an entry in journald's native protocol."""
    fields = {}
    while datagram:
        line, _, datagram = datagram.partition(b"\n")
        key, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(datagram[:8], "little")
            value, datagram = datagram[8 : 8 + length], datagram[8 + length + 1 :]
        fields[key.decode()] = value.decode()
    return fields


def record(level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("relay.test", level, __file__, 1, "hop_connected", None, None)
    made.fields = fields
    return made


def test_an_entry_of_the_journal() -> None:
    assert fields_of(log.entry(record(peer="region sgp", rtt_ms=101.25, why=None, text="two\nlines=2"))) == {
        "MESSAGE": 'hop_connected peer="region sgp" rtt_ms=101.25 why=null text="two\\nlines=2"',
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "relay",
        "RELAY_LOGGER": "relay.test",
        "RELAY_EVENT": "hop_connected",
        "RELAY_PEER": "region sgp",
        "RELAY_RTT_MS": "101.25",
        "RELAY_WHY": "null",
        "RELAY_TEXT": "two\nlines=2",
    }
    levels = (logging.DEBUG, logging.WARNING, logging.ERROR, logging.CRITICAL)
    assert [fields_of(log.entry(record(level)))["PRIORITY"] for level in levels] == ["7", "4", "3", "2"]


def test_journald_is_asked_first_and_the_stream_is_left_otherwise(tmp_path: Path) -> None:
    stream = io.StringIO()
    address = str(tmp_path / "journal")
    handler = log.JournalHandler(stream, address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(address)
        handler.emit(record(peer="a"))
        assert fields_of(journal.recv(1000))["RELAY_PEER"] == "a"
    assert stream.getvalue() == ""
    handler.emit(record(peer="b"))
    assert "hop_connected" in stream.getvalue()
    handler.close()


@pytest.mark.parametrize("form", ["text", "json"])
def test_text_goes_to_the_journal_where_that_is_the_stream(
    form: Literal["text", "json"], tmp_path: Path
) -> None:
    with (tmp_path / "stderr").open("w") as stream:
        status = os.fstat(stream.fileno())
        log.configure(form, "info", stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        handler, _ = logging.getLogger().handlers
        assert isinstance(handler, log.JournalHandler) == (form == "text")
        log.configure(form, "info", stream, {"JOURNAL_STREAM": "1:1"})
        other, _ = logging.getLogger().handlers
        assert not isinstance(other, log.JournalHandler)
        handler.close()


def test_warnings_are_remembered_by_event_and_the_last_of_them_in_words() -> None:
    tally = log.configure("json", "info", io.StringIO())
    log.event(logger, logging.INFO, "hop_connected")
    for n in range(30):
        log.event(logger, logging.WARNING, "hop_silent", peer=f"p{n}")
    log.event(logger, logging.ERROR, "handover_failed", error="x" * 10_000)
    logging.getLogger("library").warning("odd %s", "thing")
    assert tally.counts == {"hop_silent": 30, "handover_failed": 1, "message": 1}
    assert len(tally.last) == log.TALLY_LINES and max(map(len, tally.last)) == log.TALLY_LINE_CHARACTERS
    assert tally.last[-1].endswith('warning library message text="odd thing"')
