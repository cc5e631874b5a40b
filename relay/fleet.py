"""The `relay fleet` commands: the fleet's key, and what it signs. They run where that key is kept, never on a
node, and need that machine's clock to be right."""

import argparse
import base64
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from relay.client import add_url, call
from relay.config import is_ip, parse_address
from relay.core import record
from relay.core.actions import Address
from relay.core.keys import KeyFormatError, format_key, parse_key
from relay.core.record import LIFE_MAX_S, Record, RecordError, Revocations
from relay.errors import RelayError, UsageError
from relay.files import create_file, replace_file
from relay_ext.crypto import ed25519_public_key

DAY_S = 86400
DAYS = 90
"""For which a record is valid unless told otherwise: a stolen key that nobody has missed ends then."""
DUE = 3
"""A record is renewed when less than one in so many parts of its life is left."""
HANDED = 12
"""Records given to a node at once: what its API takes (`relay.web.ops.RECORDS_MAX`)."""
AUTHORITY = "fleet-authority:"
"""Before the key in its file, so that it is not taken for a node's key, nor a node's for it."""


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the commands below `relay fleet`; `command(name, run, text)` makes one."""
    sub = command("init", _init, "make the fleet's key, and print its public key")
    text = "where to write the private key (mode 0600); without it: key on stdout, public key on stderr"
    sub.add_argument("--out", type=Path, metavar="FILE", help=text)
    sub = command("sign", _sign, "sign the record of a node, or renew it")
    _add_authority(sub)
    sub.add_argument("--name", metavar="N", help="[node] name")
    sub.add_argument("--region", metavar="R", help="[node] region")
    sub.add_argument("--role", choices=record.ROLES, help="[node] role (edge)")
    sub.add_argument("--key", type=_key, metavar="BASE64", help="what `relay pubkey` prints on the node")
    text = "IP:PORT where it can be called; may be repeated"
    sub.add_argument("--address", type=_address, action="append", metavar="A", help=text)
    sub.add_argument(
        "--days", type=_days, default=DAYS, metavar="D", help="how long it is valid (%(default)s)"
    )
    sub.add_argument("--renew", action="store_true", help="take from FILE what is not given, and replace it")
    sub.add_argument("--out", type=Path, required=True, metavar="FILE", help="the record")
    text = "sign anew what is due of the fleet's records, and give all to a node, which sees to the rest"
    sub = command("renew", _renew, text)
    _add_authority(sub)
    sub.add_argument("--revoked", type=Path, required=True, metavar="FILE", help="the list of revoked keys")
    add_url(sub)
    sub.add_argument("records", type=Path, nargs="+", metavar="FILE", help="a record")
    sub = command("show", _show, "show a record, or a list of revoked keys")
    sub.add_argument("file", type=Path, metavar="FILE")
    text = "the fleet's public key, to check the signature with"
    sub.add_argument("--authority-key", type=_key, metavar="BASE64", help=text)
    sub = command("revoke", _revoke, "add keys to the list of revoked ones, which is made if missing")
    _add_authority(sub)
    sub.add_argument(
        "keys",
        type=_key,
        nargs="*",
        metavar="KEY",
        help="public keys of nodes; without any, the list is signed anew",
    )
    text = "void all records signed before this day (UTC), whatever their keys"
    sub.add_argument("--void-before", type=_day, metavar="YYYY-MM-DD", help=text)
    sub.add_argument("--out", type=Path, required=True, metavar="FILE", help="the list")


def _add_authority(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--authority", type=Path, required=True, metavar="FILE", help="the fleet's private key")


# ---- arguments ------------------------------------------------------------------------------------


def _key(text: str) -> bytes:
    try:
        return parse_key(text)
    except KeyFormatError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _address(text: str) -> Address:
    try:
        host, port = parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not is_ip(host) or "%" in host:
        raise argparse.ArgumentTypeError(f"{text!r} is not IP:PORT or [IPV6]:PORT: records hold no names")
    return host, port


def _days(text: str) -> float:
    days = float(text) if text.replace(".", "", 1).isdigit() else 0.0
    if not 0 < days * DAY_S <= LIFE_MAX_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days up to {LIFE_MAX_S // DAY_S}")
    return days


def _day(text: str) -> int:
    try:
        return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day such as 2026-11-30") from error


# ---- files ----------------------------------------------------------------------------------------


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} holds bytes that are no UTF-8") from error


def _write(path: Path, text: str, *, mode: int, over: bool = False) -> None:
    """Raises UsageError where there is a file already, unless `over`."""
    try:
        if over:
            replace_file(path, text, mode)
            return
        create_file(path, text, mode)
    except FileExistsError as error:
        raise UsageError(f"{path} exists and is not overwritten: choose another name") from error
    except OSError as error:
        raise RelayError(f"{path} cannot be written: {error.strerror}") from error


def _authority(path: Path) -> bytes:
    text = _read(path).strip()
    try:
        if text.startswith(AUTHORITY):
            return parse_key(text.removeprefix(AUTHORITY))
    except KeyFormatError:
        pass
    raise UsageError(f"{path} holds no fleet's key: give the file that `relay fleet init` made")


def _statement(path: Path) -> bytes:
    try:
        packed = record.from_text(_read(path))
        record.decode(packed)
    except RecordError as error:
        raise UsageError(f"{path} is neither a record nor a list of revoked keys") from error
    return packed


def _own(authority: bytes, path: Path) -> bytes:
    """What a file states, if the same key has signed it."""
    packed = _statement(path)
    try:
        record.verify(ed25519_public_key(authority), packed)
    except RecordError as error:
        raise UsageError(f"{path} was signed by another key than that of --authority") from error
    return packed


# ---- commands -------------------------------------------------------------------------------------


def _init(args: argparse.Namespace) -> int:
    private = secrets.token_bytes(32)
    text, public = f"{AUTHORITY}{format_key(private)}", format_key(ed25519_public_key(private))
    if args.out is None:
        print(text)
        print(f"authority_key: {public}", file=sys.stderr)
    else:
        _write(args.out, text + "\n", mode=0o600)
        print(public)
    return 0


def _sign(args: argparse.Namespace) -> int:
    authority = _authority(args.authority)
    now_s = int(time.time())
    before = _before(authority, args.out) if args.renew else None
    if before is not None:
        _check_clock(args.out, before.issued_s, now_s)
    fields = {"name": args.name, "region": args.region, "public_key": args.key}
    missing = [f"--{name.removeprefix('public_')}" for name, value in fields.items() if value is None]
    if before is None and missing:
        raise UsageError(f"a new record needs {', '.join(missing)}")
    fields |= {"role": args.role, "addresses": args.address and tuple(args.address)}
    given = {name: value for name, value in fields.items() if value is not None}
    given |= {"issued_s": now_s, "expires_s": now_s + int(args.days * DAY_S)}
    try:
        of = replace(before, **given) if before else Record(**given)
        packed = record.sign(authority, of)
    except ValueError as error:
        raise UsageError(str(error)) from error
    _write(args.out, record.to_text(packed), mode=0o644, over=args.renew)
    print(f"{args.out}: {of.name} in {of.region}, valid until {_date(of.expires_s)}")
    return 0


def _before(authority: bytes, path: Path) -> Record:
    statement = record.decode(_own(authority, path))
    if not isinstance(statement, Record):
        raise UsageError(f"{path} is a list of revoked keys, not a record to renew")
    return statement


def _renew(args: argparse.Namespace) -> int:
    """For a timer: what is wrong with one file keeps none of the others back."""
    authority = _authority(args.authority)
    revoked = record.decode(_own(authority, args.revoked))
    if isinstance(revoked, Record):
        raise UsageError(f"{args.revoked} is the record of {revoked.name}: give the file of the list")
    good, wrong = [], 0
    for path in args.records:
        try:
            good.append(_renewed(authority, path, revoked, int(time.time())))
        except RelayError as error:
            print(f"relay: {error}", file=sys.stderr)
            wrong += 1
    for i in range(0, len(good), HANDED):
        records = [base64.b64encode(packed).decode("ascii") for packed in good[i : i + HANDED]]
        refused = {why: n for why, n in call(args.url, "/v1/records", {"records": records}).items() if n}
        wrong += len(records) - refused.pop("taken", 0)
        for why, n in refused.items():
            print(f"relay: the node at {args.url} refuses {n}: {why}", file=sys.stderr)
    print(f"{len(good)} records given to {args.url}")
    return 1 if wrong else 0


def _renewed(authority: bytes, path: Path, revoked: Revocations, now_s: int) -> bytes:
    """The record in a file, which is signed anew if it is due. Raises RelayError."""
    before = _before(authority, path)
    if revoked.voids(before):
        raise RelayError(f"{path}: {before.name} is revoked, and not renewed: remove the file")
    _check_clock(path, before.issued_s, now_s)
    if before.expires_s <= now_s:  # or this machine's clock is wrong, which must not be signed
        raise RelayError(f"{path} has expired: if {before.name} is to go on, `relay fleet sign --renew` it")
    life_s = before.expires_s - before.issued_s
    if (before.expires_s - now_s) * DUE >= life_s:
        return _statement(path)
    packed = record.sign(authority, replace(before, issued_s=now_s, expires_s=now_s + life_s))
    _write(path, record.to_text(packed), mode=0o644, over=True)
    print(f"{path}: {before.name}, valid until {_date(now_s + life_s)}")
    return packed


def _check_clock(path: Path, issued_s: int, now_s: int) -> None:
    if issued_s > now_s:
        raise RelayError(f"{path} was signed on {_date(issued_s)}, which is in the future: set the clock")


def _revoke(args: argparse.Namespace) -> int:
    authority = _authority(args.authority)
    now_s = int(time.time())
    before = record.decode(_own(authority, args.out)) if args.out.exists() else None
    if isinstance(before, Record):
        raise UsageError(f"{args.out} is the record of {before.name}: give the file of the list")
    if before is not None:
        _check_clock(args.out, before.issued_s, now_s + DAY_S)
    try:
        after = record.revise(before, now_s, args.keys, args.void_before)
        packed = record.sign(authority, after)
    except ValueError as error:
        raise UsageError(str(error)) from error
    _write(args.out, record.to_text(packed), mode=0o644, over=True)
    print(f"{args.out}: keys revoked: {len(after.revoked)}; give it to any node as [fleet] revocations_file")
    return 0


def _show(args: argparse.Namespace) -> int:
    packed = _statement(args.file)
    statement = record.decode(packed)
    rows = _rows_of_record(statement) if isinstance(statement, Record) else _rows_of_list(statement)
    for name, value in (*rows, ("signature", _checked(args.file, packed, args.authority_key))):
        print(f"{name:<12}{value}")
    return 0


def _checked(path: Path, packed: bytes, authority_key: bytes | None) -> str:
    if authority_key is None:
        return "not checked: give --authority-key"
    try:
        record.verify(authority_key, packed)
    except RecordError as error:
        raise RelayError(f"{path} was not signed by {format_key(authority_key)}") from error
    return "good"


def _rows_of_record(of: Record) -> Sequence[tuple[str, str]]:
    addresses = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in of.addresses]
    return (
        ("name", of.name),
        ("region", of.region),
        ("role", of.role),
        ("key", format_key(of.public_key)),
        ("addresses", " ".join(addresses) or "none"),
        ("signed", _date(of.issued_s)),
        ("expires", _date(of.expires_s)),
    )


def _rows_of_list(of: Revocations) -> Sequence[tuple[str, str]]:
    keys = [("revoked", f"{entry.fingerprint.hex()} until {_date(entry.until_s)}") for entry in of.revoked]
    floor = _date(of.void_before_s) if of.void_before_s else "no day"
    return ("signed", _date(of.issued_s)), ("void before", floor), *keys


def _date(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
