"""Structured logs: one line an event, `key=value` text or JSON, never one a packet. Where stderr is the
journal, text goes there as an entry with a field for each of the event's.

Text: `2026-11-22T19:25:42.123Z info relay.hop hop_connected peer=region-sgp rtt_ms=101.2`. Values with
blanks, quotes or control characters are written as JSON strings, so that what a peer sends cannot start a
line of its own.
"""

import json
import logging
import os
import re
import socket
import sys
from collections import Counter, deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""Of syslog(3)."""
_PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f\x7f-\x9f]+")
TALLY_LINES = 20
TALLY_LINE_CHARACTERS = 400


def event(logger: logging.Logger, level: int, name: str, /, **fields: object) -> None:
    """Logs the event `name` (snake_case) with its fields; units stand in the fields' names."""
    if logger.isEnabledFor(level):
        logger.log(level, name, extra={"fields": fields})


class Tally(logging.Handler):
    """Remembers warnings and errors for the status: how many by event, and the last of them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.counts: Counter[str] = Counter()
        """By event: names that stand in the program."""
        self.last: deque[str] = deque(maxlen=TALLY_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self.counts[_describe(record)["event"]] += 1
        self.last.append(self.format(record)[:TALLY_LINE_CHARACTERS])


def configure(
    form: Literal["text", "json"], level: str, stream: TextIO = sys.stderr, environ: Mapping[str, str] = {}
) -> Tally:
    """Sends the log of the whole process to `stream`. `level`: debug, info, warning or error. What systemd
    says in `environ` tells whether the stream is the journal."""
    journal = form == "text" and _is_journal(stream, environ.get("JOURNAL_STREAM"))
    handler = JournalHandler(stream) if journal else logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    tally = Tally()
    logging.basicConfig(handlers=[handler, tally], level=level.upper(), force=True)
    tally.setFormatter(TextFormatter())  # not the other's
    return tally


def _is_journal(stream: TextIO, name: str | None) -> bool:
    """`name`: device and inode of the stream that systemd connected with the journal (systemd.exec(5))."""
    if name is None:
        return False
    status = os.fstat(stream.fileno())
    return name == f"{status.st_dev}:{status.st_ino}"


def _describe(record: logging.LogRecord) -> dict[str, Any]:
    """What a line says, in order. A record of a library, which is no event, becomes one named `message`."""
    fields: dict[str, object] | None = getattr(record, "fields", None)
    described: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": "message" if fields is None else record.getMessage(),
    }
    for key, value in ({"text": record.getMessage()} if fields is None else fields).items():
        described[f"{key}_" if key in described else key] = value
    if record.exc_info:
        described["exception"] = logging.Formatter().formatException(record.exc_info)
    return described


class JournalHandler(logging.StreamHandler[TextIO]):
    """Entries in journald's native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/), with RELAY_EVENT,
    RELAY_LOGGER and a RELAY_… for each field. What journald does not take is a line on the stream."""

    def __init__(self, stream: TextIO, address: str = "/run/systemd/journal/socket") -> None:
        super().__init__(stream)
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._socket.sendto(entry(record), self._address)
        except OSError:
            super().emit(record)

    def close(self) -> None:
        self._socket.close()
        super().close()


def entry(record: logging.LogRecord) -> bytes:
    """One datagram to journald."""
    described = _describe(record)
    _, _, logger, name, *fields = described.items()
    words = [_word(name[1]), *(f"{key}={_word(value)}" for key, value in fields)]
    values = {
        "MESSAGE": " ".join(words),
        "PRIORITY": _PRIORITIES.get(record.levelno, 6),
        "SYSLOG_IDENTIFIER": "relay",
        "RELAY_LOGGER": logger[1],
        "RELAY_EVENT": name[1],
        **{
            f"RELAY_{key.upper()}": value if isinstance(value, str) else _word(value) for key, value in fields
        },
    }
    return b"".join(
        _journal_field(key, str(value).encode("utf-8", "replace")) for key, value in values.items()
    )


def _journal_field(key: str, value: bytes) -> bytes:
    if b"\n" not in value:
        return f"{key}=".encode() + value + b"\n"
    return f"{key}\n".encode() + len(value).to_bytes(8, "little") + value + b"\n"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, event, then the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_describe(record), default=str)


class TextFormatter(logging.Formatter):
    """`TIME LEVEL LOGGER EVENT key=value …`."""

    def format(self, record: logging.LogRecord) -> str:
        time, level, logger, name, *fields = _describe(record).items()
        words = [time[1], level[1], logger[1], _word(name[1])]
        return " ".join([*words, *(f"{key}={_word(value)}" for key, value in fields)])


def _word(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
