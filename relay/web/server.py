"""aiohttp's server half, imported without what only its client needs.

On import aiohttp's client makes a TLS context with every certificate that the system trusts: 1.8 MB that stay
resident in a program that calls nobody over TLS. OpenSSL finds the certificates by two environment variables
(SSL_CTX_set_default_verify_paths(3)), so for the length of the import they name nothing. A TLS client in this
process needs a context of its own; aiohttp's default one trusts nobody here.
"""

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager


@contextmanager
def _without_certificates() -> Iterator[None]:
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR")
    before = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.update(dict.fromkeys(names, os.devnull))
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]
        os.environ.update(before)


with _without_certificates():
    from aiohttp import web
    from aiohttp.typedefs import Middleware

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

__all__ = ["Handler", "Middleware", "web"]
