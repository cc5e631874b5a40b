"""The import of aiohttp: without the system's certificates, and with nothing left behind."""

import subprocess
import sys

SCRIPT = """
import gc, os, ssl
os.environ["SSL_CERT_FILE"] = "/as/it/was"
os.environ.pop("SSL_CERT_DIR", None)
import relay.web.server
contexts = [o for o in gc.get_objects() if isinstance(o, ssl.SSLContext)]
assert all(context.cert_store_stats()["x509"] == 0 for context in contexts), contexts
assert os.environ["SSL_CERT_FILE"] == "/as/it/was" and "SSL_CERT_DIR" not in os.environ
"""


def test_no_certificates_are_read() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
