"""Structured logs: one line an event, `key=value` text or JSON, never one a packet.

Text: `2026-11-22T19:25:42.123Z info relay.hop hop_connected peer=region-sgp rtt_ms=101.2`. Values with
blanks, quotes or control characters are written as JSON strings, so that what a peer sends cannot start a
line of its own.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

_PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f\x7f-\x9f]+")


def event(logger: logging.Logger, level: int, name: str, /, **fields: object) -> None:
    """Logs the event `name` (snake_case) with its fields; units stand in the fields' names."""
    if logger.isEnabledFor(level):
        logger.log(level, name, extra={"fields": fields})


def configure(form: Literal["text", "json"], level: str, stream: TextIO = sys.stderr) -> None:
    """Sends the log of the whole process to `stream`. `level`: debug, info, warning or error."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


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
