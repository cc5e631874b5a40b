"""Asking a running node, over its operations API."""

import argparse
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from relay.errors import RelayError

DEFAULT_URL = "http://127.0.0.1:7480"
HTTP_TIMEOUT_SECONDS = 5.0
MAX_ANSWER_BYTES = 16 << 20


class NoAnswerError(RelayError):
    """Nothing speaks HTTP at the address."""


def add_url(parser: argparse.ArgumentParser, default: str | None = DEFAULT_URL) -> None:
    """The option that says which node is asked; without a default, the one of the configuration."""
    text = f"its [ops] address ({default or 'as in the configuration'})"
    parser.add_argument("--url", default=default, type=_http_url, help=text)


def _http_url(text: str) -> str:
    try:
        url = urllib.parse.urlsplit(text)
        usable = url.scheme in ("http", "https") and url.hostname is not None and url.port != 0
    except ValueError:
        usable = False
    if not usable or not text.isprintable() or " " in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a URL such as {DEFAULT_URL}")
    return text.rstrip("/")


def call(url: str, path: str, content: object = None) -> Any:
    """The JSON that a node answers with, to a POST if there is content. Raises RelayError with a sentence for
    everything else."""
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url + path, data=body, headers={"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a node is never behind a proxy
    try:
        with opener.open(request, timeout=HTTP_TIMEOUT_SECONDS) as response:
            answer = response.read(MAX_ANSWER_BYTES + 1)
        if len(answer) > MAX_ANSWER_BYTES:
            raise ValueError
        return json.loads(answer)
    except urllib.error.HTTPError as error:
        with error:
            raise RelayError(f"{url}{path} refused: {_sentence(error)}") from error
    except OSError as error:  # URLError, timeouts and resets among them
        reason = getattr(error, "reason", error)
        text = f"no node answers at {url} ({reason}): is it running, and is that its [ops] listen address?"
        raise NoAnswerError(text) from error
    except (ValueError, RecursionError, http.client.HTTPException) as error:
        raise RelayError(f"what answers at {url} is no relay node") from error


def foreign(url: str) -> RelayError:
    """What to raise for an answer that lacks what a node's has."""
    return RelayError(f"what answers at {url} is no relay node of this version")


def _sentence(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read(4096))["error"])
    except (OSError, ValueError, LookupError, TypeError):
        return f"HTTP {error.code} {error.reason}"
