"""The `relay` command.

Exit codes: 0 done, 1 failed while running, 2 wrong usage or configuration. Errors are lines on stderr that
say what to do; a traceback only with `--debug`. What one command alone needs is imported when that runs: the
others stay quick, and a node small.
"""

import argparse
import importlib
import json
import math
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from relay import __version__, fleet
from relay.client import NoAnswerError, add_url, call, foreign
from relay.config import notes
from relay.config.files import check_files, load, read_private_key
from relay.core.keys import private_key_file, public_key_text
from relay.errors import ConfigError, RelayError, UsageError
from relay.files import create_file

DRAIN_POLL_SECONDS = 0.5
DRAIN_GRACE_SECONDS = 5.0  # from the node's own timeout until its process must be gone


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. Wrong usage raises SystemExit(2), as argparse does."""
    args = _parser().parse_args(argv)
    try:
        code: int = args.command(args)
        sys.stdout.flush()
        return code
    except (Exception, KeyboardInterrupt) as error:
        if args.debug:
            raise
        return _report(error)


def _report(error: BaseException) -> int:
    """Says on stderr what went wrong, one line for each thing; returns the exit code."""
    sentences: Sequence[object]
    match error:
        case BrokenPipeError():  # `relay status | head`; without this Python complains again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sentences = ()
        case ConfigError():
            sentences = error.problems
        case RelayError() | OSError():
            sentences = (error,)
        # Where a thread is being started, the lock that it is waited for with hides the interruption.
        case KeyboardInterrupt() | RuntimeError(__context__=KeyboardInterrupt()):
            sentences = ("interrupted",)
        case _:
            sentences = (f"{type(error).__name__}: {error} (--debug shows where)",)
    for sentence in sentences:
        print("relay:", *str(sentence).split(), file=sys.stderr)
    return error.exit_code if isinstance(error, RelayError) else 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"relay: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="relay", description="A relay for live video over lossy links.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"relay {__version__}")
    parser.add_argument("--debug", action="store_true", help="show a traceback for an error")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str, into: Any = commands
    ) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = into.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        sub.set_defaults(command=run)
        return sub

    sub = command("run", _run, "run a node in the foreground")
    sub.add_argument("--config", type=Path, required=True, metavar="FILE", help="the node's TOML file")
    sub = command("check-config", _check_config, "check a configuration and the files that it names")
    sub.add_argument("config", type=Path, metavar="FILE")
    sub = command("keygen", _keygen, "make a private key and print its public key")
    text = "where to write the private key (mode 0600); without it: key on stdout, public key on stderr"
    sub.add_argument("--out", type=Path, metavar="FILE", help=text)
    sub = command("pubkey", _pubkey, "print the public key of a private key file")
    sub.add_argument("file", type=Path, metavar="FILE")
    text = "the fleet's key, and the records that it signs"
    into = commands.add_parser("fleet", help=text, description=text, allow_abbrev=False)
    fleet.add_commands(partial(command, into=into.add_subparsers(metavar="COMMAND", required=True)))
    sub = command("status", _status, "show what a running node does")
    form = sub.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON")
    text = "again and again, every N seconds (1), until Ctrl-C"
    form.add_argument("--watch", nargs="?", const=1.0, type=_number(float, 0.1, 3600), metavar="N", help=text)
    add_url(sub)
    sub = command("doctor", _doctor, "check machine, configuration, node and peers, and say what to do")
    text = "the node's TOML file (%(default)s)"
    sub.add_argument("--config", type=Path, default="/etc/relay/node.toml", metavar="FILE", help=text)
    sub.add_argument("--json", action="store_true", help="as JSON")
    add_url(sub, default=None)
    sub = command("drain", _drain, "have a running node refuse new work, and wait until it has exited")
    text = "the node exits after this time even if it is not empty; default: 300"
    sub.add_argument("--timeout", type=_number(float, 0, 86400), metavar="SECONDS", help=text)
    add_url(sub)
    sub = command("bench", _bench, "what this board carries: forwarding, repair, sealing; half a minute")
    sub.add_argument("--json", action="store_true", help="as JSON")
    _add_demo_options(command("demo", _demo, "live media through an edge, a lossy link and a region, here"))
    return parser


def _add_demo_options(parser: argparse.ArgumentParser) -> None:
    def option(name: str, default: object, kind: Callable[[str], Any], metavar: str, text: str) -> None:
        parser.add_argument(name, default=default, type=kind, metavar=metavar, help=text)

    option("--seconds", 60.0, _number(float, 1, 86400), "N", "how long media flows (60)")
    option("--loss", 0.3, _number(float, 0, 0.95), "P", "share of packets that the link loses (0.3)")
    option("--rtt", 100.0, _number(float, 0, 5000), "MS", "round-trip time of the link in ms (100)")
    option("--source", None, Path, "FILE", "a media file to send in place of the test pattern")
    option("--seed", None, _number(int, 0, 2**63 - 1), "N", "of the link's losses (random, and printed)")
    option("--port", None, _number(int, 1024, 65000), "N", "the first of the ports used (any that are free)")
    parser.add_argument("--no-repair", action="store_true", help="switch repair off, to see the damage")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")


def _number(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], float]:
    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} from {low} to {high}")
        return value

    return convert


# ---- commands on a configuration ----------------------------------------------------------------


def _run(args: argparse.Namespace) -> int:
    config = load(args.config, os.environ)
    code: int = importlib.import_module("relay.node").run(config, config_path=args.config)
    return code


def _check_config(args: argparse.Namespace) -> int:
    config = load(args.config, os.environ)
    if problems := check_files(config, importlib.import_module("relay.wire.sdp").parse):
        raise ConfigError(problems)
    for note in notes(config):
        print(f"relay: note: {note}", file=sys.stderr)
    print(f"{args.config}: ok")
    return 0


# ---- keys ---------------------------------------------------------------------------------------


def _keygen(args: argparse.Namespace) -> int:
    text = private_key_file(secrets.token_bytes(32))
    if args.out is None:
        print(text, end="")
        print(f"public key: {public_key_text(text)}", file=sys.stderr)
        return 0
    try:
        create_file(args.out, text, 0o600)
    except FileExistsError as error:
        raise UsageError(f"{args.out} exists, and a key is never overwritten: choose another name") from error
    except OSError as error:
        raise RelayError(f"{args.out} cannot be written: {error.strerror}") from error
    print(public_key_text(text))
    return 0


def _pubkey(args: argparse.Namespace) -> int:
    print(public_key_text(private_key_file(read_private_key(args.file))))
    return 0


# ---- commands to a running node -----------------------------------------------------------------


def _status(args: argparse.Namespace) -> int:
    if args.json:
        print(json.dumps(call(args.url, "/v1/status"), indent=2))
    elif args.watch is not None:
        watch = importlib.import_module("relay.watch").watch
        watch(partial(_status_text, args.url), args.watch, sys.stdout)
    else:
        print(_status_text(args.url), end="")
    return 0


def _status_text(url: str) -> str:
    status = call(url, "/v1/status")
    try:
        text: str = importlib.import_module("relay.web.status_text").render(status)
        return text
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise foreign(url) from error


def _drain(args: argparse.Namespace) -> int:
    begun = call(args.url, "/v1/drain", {"timeout_seconds": args.timeout})
    give_up = time.monotonic() + begun["timeout_seconds"] + DRAIN_GRACE_SECONDS
    while time.monotonic() < give_up:
        try:
            call(args.url, "/v1/status")
        except NoAnswerError:
            return 0
        time.sleep(DRAIN_POLL_SECONDS)
    raise RelayError(f"the node at {args.url} still runs {DRAIN_GRACE_SECONDS:.0f} s after its timeout")


def _doctor(args: argparse.Namespace) -> int:
    code: int = importlib.import_module("relay.doctor.main").main(args)
    return code


def _demo(args: argparse.Namespace) -> int:
    if args.seed is None:
        args.seed = secrets.randbelow(2**32)
    code: int = importlib.import_module("relay.lab.demo").main(args)
    return code


def _bench(args: argparse.Namespace) -> int:
    code: int = importlib.import_module("relay.bench.main").main(args)
    return code
