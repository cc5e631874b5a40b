"""The `relay` command: what it prints, and its exit codes."""

import base64
import json
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relay import __version__, cli
from relay.errors import RelayError
from relay_ext.crypto import x25519_public_key
from tests.unit.status_sample import sample

Capture = pytest.CaptureFixture[str]


def put_module(patch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    """Stands in for a module that the command imports when it runs."""
    patch.setitem(sys.modules, name, SimpleNamespace(**content))


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RELAY_")]:
        monkeypatch.delenv(name)
    put_module(monkeypatch, "relay.wire.sdp", parse=lambda text: SimpleNamespace(media=[]))


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    key = tmp_path / "node.key"
    assert cli.main(["keygen", "--out", str(key)]) == 0
    path = tmp_path / "node.toml"
    path.write_text(f'[node]\nname = "a"\n[hop]\nkey_file = "{key}"\n')
    return path


def usage_error(capsys: Capture, *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("relay: ") and err.count("\n") == 1
    return err


# ---- usage --------------------------------------------------------------------------------------


def test_version(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"relay {__version__}\n"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["run"], "required: --config"),
        (["run", "--conf", "x"], "--config"),
        (["check-config"], "required: FILE"),
        (["demo", "--loss", "1.5"], "'1.5' is not a number from 0 to 0.95"),
        (["demo", "--loss", "nan"], "'nan' is not a number"),
        (["demo", "--seed", "1.5"], "'1.5' is not a whole number"),
        (["demo", "--port", "80"], "'80' is not a whole number from 1024"),
        (["demo", "--seconds", "0"], "'0' is not a number from 1"),
        (["bench", "all"], "all"),
        (["bench", "--seconds", "1"], "--seconds"),
        (["drain", "--timeout", "-1"], "--timeout"),
        (["status", "--url", "file:///etc/passwd"], "is not a URL such as http://127.0.0.1:7480"),
        (["status", "--url", "http://"], "is not a URL"),
        (["status", "--watch", "0"], "'0' is not a number from 0.1"),
        (["status", "--watch", "--json"], "not allowed with"),
        (["status", "--url", "http://h:x"], "is not a URL"),
        (["status", "--url", "http://h/\r\nX: y"], "is not a URL"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(capsys: Capture, argv: list[str], sentence: str) -> None:
    assert sentence in usage_error(capsys, *argv)


def test_the_command_runs_as_a_process() -> None:
    program = "import sys; from relay.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "check-config", "/nonexistent/node.toml"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "relay: /nonexistent/node.toml: found no such file or directory, expected a configuration in TOML\n"
    )


# ---- keys ---------------------------------------------------------------------------------------


def public_of(private_text: str) -> str:
    return base64.b64encode(x25519_public_key(base64.b64decode(private_text))).decode()


def test_keygen_writes_a_private_file_and_prints_the_public_key(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "node.key"
    old = os.umask(0)
    try:
        assert cli.main(["keygen", "--out", str(path)]) == 0
    finally:
        os.umask(old)
    text = path.read_text()
    assert re.fullmatch(r"[A-Za-z0-9+/]{43}=\n", text)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert capsys.readouterr() == (public_of(text) + "\n", "")
    assert cli.main(["pubkey", str(path)]) == 0
    assert capsys.readouterr() == (public_of(text) + "\n", "")


def test_keygen_never_overwrites(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "node.key"
    path.write_text("precious")
    assert cli.main(["keygen", "--out", str(path)]) == 2
    assert path.read_text() == "precious"
    assert capsys.readouterr().err == (
        f"relay: {path} exists, and a key is never overwritten: choose another name\n"
    )


def test_keygen_where_nothing_can_be_written(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "none" / "node.key"
    assert cli.main(["keygen", "--out", str(path)]) == 1
    assert capsys.readouterr().err == f"relay: {path} cannot be written: No such file or directory\n"


def test_keygen_without_a_file_is_good_for_a_pipe(capsys: Capture) -> None:
    assert cli.main(["keygen"]) == 0
    out, err = capsys.readouterr()
    assert err == f"public key: {public_of(out)}\n"


def test_pubkey_of_what_is_no_key(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "node.key"
    path.write_text("no key\n")
    assert cli.main(["pubkey", str(path)]) == 2
    assert f"`relay keygen --out {path}` makes one" in capsys.readouterr().err


# ---- configuration ------------------------------------------------------------------------------


def test_check_config(config_file: Path, capsys: Capture) -> None:
    capsys.readouterr()
    assert cli.main(["check-config", str(config_file)]) == 0
    assert capsys.readouterr() == (f"{config_file}: ok\n", "")


def test_check_config_notes_what_has_no_effect(config_file: Path, capsys: Capture) -> None:
    config_file.write_text(config_file.read_text() + "[web]\n")
    assert cli.main(["check-config", str(config_file)]) == 0
    assert "relay: note: [web] is reserved" in capsys.readouterr().err


def test_check_config_prints_every_error(
    config_file: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    capsys.readouterr()
    monkeypatch.setenv("RELAY_HOP_BUDGET_MS", "1")
    config_file.write_text("[node]\nnaem = 1\n")
    assert cli.main(["check-config", str(config_file)]) == 2
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and len(lines) == 3 and all(line.startswith("relay: ") for line in lines)
    assert "relay: node.naem: found an unknown key, expected name" in lines


def test_check_config_looks_at_files(config_file: Path, capsys: Capture) -> None:
    (config_file.parent / "node.key").chmod(0o644)
    assert cli.main(["check-config", str(config_file)]) == 2
    assert "relay: hop.key_file: found" in capsys.readouterr().err


def test_run_hands_the_configuration_to_the_node(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []

    def run(config: Any, *, config_path: Path) -> int:
        called.append((config.node.name, config_path))
        return 0

    put_module(monkeypatch, "relay.node", run=run)
    assert cli.main(["run", "--config", str(config_file)]) == 0
    assert called == [("a", config_file)]


FAILURES: list[tuple[BaseException, str]] = [
    (RelayError("no port is free:\n take another"), "relay: no port is free: take another\n"),
    (OSError(98, "Address already in use"), "relay: [Errno 98] Address already in use\n"),
    (KeyError("x"), "relay: KeyError: 'x' (--debug shows where)\n"),
    (KeyboardInterrupt(), "relay: interrupted\n"),
]


@pytest.mark.parametrize(("error", "line"), FAILURES)
def test_failures_are_one_line_and_a_traceback_only_for_debug(
    config_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    error: BaseException,
    line: str,
) -> None:
    def run(config: Any, *, config_path: Path) -> int:
        raise error

    put_module(monkeypatch, "relay.node", run=run)
    capsys.readouterr()
    assert cli.main(["run", "--config", str(config_file)]) == 1
    assert capsys.readouterr() == ("", line)
    for argv in (["--debug", "run"], ["run", "--debug"]):
        with pytest.raises(type(error)):
            cli.main([*argv, "--config", str(config_file)])


# ---- a running node -----------------------------------------------------------------------------


class Node:
    """An HTTP server that answers as `answer` says, and closes its door when that returns None."""

    def __init__(self, answer: Callable[[str, bytes], tuple[int, bytes] | None]) -> None:
        self.requests: list[tuple[str, str, bytes]] = []
        node = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                node.requests.append((self.command, self.path, body))
                found = answer(self.path, body)
                if found is None:
                    node.server.socket.close()
                    found = (200, b"{}")
                self.send_response(found[0])
                self.end_headers()
                self.wfile.write(found[1])

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def start() -> Iterator[Callable[..., Node]]:
    nodes: list[tuple[Node, threading.Thread]] = []

    def make(answer: Callable[[str, bytes], tuple[int, bytes] | None]) -> Node:
        node = Node(answer)
        thread = threading.Thread(target=node.server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        nodes.append((node, thread))
        return node

    yield make
    for node, thread in nodes:
        node.server.shutdown()
        thread.join()
        node.server.server_close()


def test_status(start: Callable[..., Node], capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    node = start(lambda path, body: (200, json.dumps(sample()).encode()))
    assert cli.main(["status", "--url", node.url]) == 0
    assert capsys.readouterr().out.startswith("edge-sgp-1  ap-southeast  relay 0.1.0")
    assert cli.main(["status", "--json", "--url", node.url + "/"]) == 0
    assert json.loads(capsys.readouterr().out) == sample()
    assert node.requests == [("GET", "/v1/status", b"")] * 2


def test_status_that_is_watched_outlives_the_node(
    start: Callable[..., Node], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([(200, json.dumps(sample()).encode()), None])
    node = start(lambda path, body: next(answers))
    waits = iter([None, KeyboardInterrupt()])

    def sleep(seconds: float) -> None:
        assert seconds == 1
        if (interrupted := next(waits)) is not None:
            raise interrupted

    monkeypatch.setattr("time.sleep", sleep)
    assert cli.main(["status", "--watch", "--url", node.url]) == 0
    first, second = capsys.readouterr().out.rsplit("\n\n", 2)[0:2]
    assert first.startswith("edge-sgp-1  ap-southeast") and second.endswith("; trying again")


def test_status_when_nothing_answers(capsys: Capture) -> None:
    assert cli.main(["status", "--url", "http://127.0.0.1:1"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("relay: no node answers at http://127.0.0.1:1 (") and err.count("\n") == 1
    assert "is it running, and is that its [ops] listen address?" in err


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (200, b"hello", "is no relay node\n"),
        (200, b"[1]", "is no relay node of this version\n"),
        (200, b'{"node": {}}', "is no relay node of this version\n"),
        (200, b'{"node": ' * 2000, "is no relay node\n"),
        (404, b'{"error": "nothing is at /v1/status"}', "refused: nothing is at /v1/status\n"),
        (502, b"<html>", "refused: HTTP 502 Bad Gateway\n"),
    ],
)
def test_status_from_something_else(
    start: Callable[..., Node], capsys: Capture, status: int, body: bytes, sentence: str
) -> None:
    node = start(lambda path, _: (status, body))
    assert cli.main(["status", "--url", node.url]) == 1
    err = capsys.readouterr().err
    assert err.endswith(sentence) and err.count("\n") == 1


def test_status_bounds_what_it_reads(
    start: Callable[..., Node], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.client.MAX_ANSWER_BYTES", 100)
    node = start(lambda path, _: (200, b'"' + b"x" * 100 + b'"'))
    assert cli.main(["status", "--url", node.url]) == 1
    assert "is no relay node" in capsys.readouterr().err


def test_drain_waits_until_the_node_is_gone(
    start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter([(202, b'{"timeout_seconds": 30.0}'), (200, b"{}"), (200, b"{}"), None])
    node = start(lambda path, body: next(left))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert cli.main(["drain", "--timeout", "30", "--url", node.url]) == 0
    assert node.requests[0] == ("POST", "/v1/drain", b'{"timeout_seconds": 30.0}')
    assert len(node.requests) == 4


def test_drain_gives_up_some_time_after_the_timeout(
    start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    slept: list[float] = []
    node = start(lambda path, body: (200, b'{"timeout_seconds": 1.0}'))
    fake = SimpleNamespace(monotonic=lambda: sum(slept), sleep=slept.append)
    monkeypatch.setattr("relay.cli.time", fake)
    assert cli.main(["drain", "--timeout", "1", "--url", node.url]) == 1
    assert sum(slept) == 1 + cli.DRAIN_GRACE_SECONDS
    assert "still runs" in capsys.readouterr().err


def test_demo_gets_its_options_and_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def main(args: Any) -> int:
        calls.append(args)
        return 1

    put_module(monkeypatch, "relay.lab.demo", main=main)
    assert cli.main(["demo"]) == 1
    assert cli.main(["demo", "--loss", "0.1", "--seed", "7", "--no-repair", "--json", "--source", "f"]) == 1
    first, second = calls
    assert (first.seconds, first.loss, first.rtt, first.source, first.port) == (60, 0.3, 100, None, None)
    assert not first.no_repair and not first.json and isinstance(first.seed, int)
    assert (second.loss, second.seed, second.no_repair, second.source) == (0.1, 7, True, Path("f"))


def test_a_reader_that_goes_away_is_no_error(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert cli.main(["keygen"]) == 1
    assert capsys.readouterr().err.startswith("public key:")
