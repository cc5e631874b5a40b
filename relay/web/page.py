"""The node's page: static files that show what the API says, and what keeps other pages away from both.

A page needs nothing from elsewhere and runs no script but its own. Names that other nodes chose are text to
it, never markup; the policy would stop them all the same.
"""

from http import HTTPStatus
from pathlib import Path

from relay.config import is_ip
from relay.web.http import Response

PLACE = Path(__file__).with_name("pages")
FILES = {
    "/": ("index.html", "text/html"),
    "/page/page.css": ("page.css", "text/css"),
    "/page/page.js": ("page.js", "text/javascript"),
    "/page/charts.js": ("charts.js", "text/javascript"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
    "/page/uPlot.js": ("uPlot.iife.min.js", "text/javascript"),
    "/page/uPlot.css": ("uPlot.min.css", "text/css"),
}
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
GUARDS = {"Cross-Origin-Resource-Policy": "same-origin", "X-Content-Type-Options": "nosniff"}
"""On every answer: no other page can take it for a script, a style or a picture of its own."""


def file(path: str) -> Response:
    """One of FILES. Read anew each time: a page is opened seldom, and memory is short."""
    name, kind = FILES[path]
    return Response(HTTPStatus.OK, f"{kind}; charset=utf-8", (PLACE / name).read_bytes(), HEADERS)


def is_local_name(host: str) -> bool:
    """Whether a Host header is an IP address, or a name that no name server is asked for (RFC 6761
    section 6.3)."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return is_ip(name) or name.lower().removesuffix(".").rpartition(".")[2] == "localhost"
