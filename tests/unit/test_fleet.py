"""`relay fleet`: what it writes, prints and refuses."""

import base64
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from relay import cli, fleet
from relay.core.keys import format_key, parse_key
from relay.core.record import LIFE_MAX_S, REVOKED_MAX, Record, Revocations, decode, from_text, verify
from relay.web.ops import RECORDS_MAX
from relay_ext.crypto import ed25519_public_key

Capture = pytest.CaptureFixture[str]
NOW_S = 1_800_000_000  # 2027-01-15 08:00:00 UTC
DAY_S = 86400
KEY = format_key(bytes(range(32)))


class Clock:
    now_s = float(NOW_S)

    def time(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(fleet, "time", clock)
    return clock


@pytest.fixture
def here(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Path:
    """A directory with a fleet's key in it."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["fleet", "init", "--out", "fleet.key"]) == 0
    (tmp_path / "public").write_text(capsys.readouterr().out)
    return tmp_path


def run(capsys: Capture, *argv: str) -> str:
    """What a command that succeeds prints."""
    assert cli.main(["fleet", *argv]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys: Capture, code: int, *argv: str) -> str:
    """The sentence of a command that fails."""
    try:
        got = cli.main(["fleet", *argv])
    except SystemExit as error:
        assert isinstance(error.code, int)
        got = error.code
    out, err = capsys.readouterr()
    assert (got, out) == (code, "") and err.count("\n") == 1
    return err.removeprefix("relay: ").strip()


SIGN = ("sign", "--authority", "fleet.key", "--out", "n.record")
NEW = (*SIGN, "--name", "n", "--region", "r", "--key", KEY)
REVOKE = ("revoke", "--authority", "fleet.key", "--out", "list")


def signed(name: str) -> Record | Revocations:
    packed = from_text(Path(name).read_text())
    verify(parse_key(Path("public").read_text()), packed)
    return decode(packed)


def test_init(here: Path, capsys: Capture) -> None:
    text = Path("fleet.key").read_text()
    assert stat.S_IMODE(os.stat("fleet.key").st_mode) == 0o600
    private = parse_key(text.removeprefix("fleet-authority:"))
    assert parse_key(Path("public").read_text()) == ed25519_public_key(private)
    assert "exists and is not overwritten" in refused(capsys, 2, "init", "--out", "fleet.key")
    assert Path("fleet.key").read_text() == text
    assert "cannot be written" in refused(capsys, 1, "init", "--out", "none/fleet.key")


def test_init_without_a_file(here: Path, capsys: Capture) -> None:
    assert cli.main(["fleet", "init"]) == 0
    out, err = capsys.readouterr()
    private = parse_key(out.removeprefix("fleet-authority:"))
    assert err == f"authority_key: {format_key(ed25519_public_key(private))}\n"


def test_sign_and_show(here: Path, capsys: Capture) -> None:
    out = run(capsys, *NEW, "--address", "203.0.113.7:7400", "--address", "[2001:db8::9]:7400")
    assert out == "n.record: n in r, valid until 2027-04-15 08:00:00 UTC\n"
    addresses = (("203.0.113.7", 7400), ("2001:db8::9", 7400))
    assert signed("n.record") == Record("n", "r", bytes(range(32)), NOW_S, NOW_S + 90 * DAY_S, addresses)
    public = Path("public").read_text().strip()
    assert run(capsys, "show", "n.record", "--authority-key", public).splitlines() == [
        "name        n",
        "region      r",
        "role        edge",
        f"key         {KEY}",
        "addresses   203.0.113.7:7400 [2001:db8::9]:7400",
        "signed      2027-01-15 08:00:00 UTC",
        "expires     2027-04-15 08:00:00 UTC",
        "signature   good",
    ]
    assert run(capsys, "show", "n.record").endswith("signature   not checked: give --authority-key\n")
    assert "not signed by" in refused(capsys, 1, "show", "n.record", "--authority-key", KEY)
    assert "exists and is not overwritten" in refused(capsys, 2, *NEW)


def test_renew(here: Path, capsys: Capture, clock: Clock) -> None:
    run(capsys, *NEW, "--address", "203.0.113.7:7400", "--days", "0.5")
    clock.now_s += 10 * DAY_S
    run(capsys, *SIGN, "--renew")
    before = Record(
        "n", "r", bytes(range(32)), NOW_S + 10 * DAY_S, NOW_S + 100 * DAY_S, (("203.0.113.7", 7400),)
    )
    assert signed("n.record") == before
    run(capsys, *SIGN, "--renew", "--region", "s", "--address", "203.0.113.8:7400", "--days", "400")
    after = signed("n.record")
    assert isinstance(after, Record)
    assert (after.region, after.addresses, after.expires_s) == (
        "s",
        (("203.0.113.8", 7400),),
        after.issued_s + LIFE_MAX_S,
    )
    clock.now_s = NOW_S
    assert "in the future: set the clock" in refused(capsys, 1, *SIGN, "--renew")
    assert "cannot be read" in refused(capsys, 2, "sign", "--authority", "fleet.key", "--out", "x", "--renew")


@dataclass
class FakeNode:
    """What `relay fleet renew` hands its records to."""

    records: list[bytes] = field(default_factory=list)
    answers: Iterator[dict[str, int]] = field(default_factory=lambda: iter(()))

    def call(self, url: str, path: str, content: dict[str, list[str]]) -> dict[str, int]:
        assert (url, path) == ("http://127.0.0.1:7480", "/v1/records")
        given = [base64.b64decode(of) for of in content["records"]]
        assert len(given) <= RECORDS_MAX
        self.records += given
        return next(self.answers, {"taken": len(given)})


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    node = FakeNode()
    monkeypatch.setattr(fleet, "call", node.call)
    return node


RENEW = ("renew", "--authority", "fleet.key", "--revoked", "list")


def test_what_is_due_is_signed_anew_and_all_is_given_to_the_node(
    here: Path, capsys: Capture, clock: Clock, node: FakeNode
) -> None:
    run(capsys, *REVOKE)
    run(capsys, *NEW, "--role", "region", "--address", "203.0.113.7:7400", "--days", "9")
    clock.now_s += 6 * DAY_S
    before = Path("n.record").read_text()
    assert run(capsys, *RENEW, "n.record") == "1 records given to http://127.0.0.1:7480\n"
    assert Path("n.record").read_text() == before
    clock.now_s += 1
    out = run(capsys, *RENEW, "n.record")
    assert out.startswith("n.record: n, valid until 2027-01-30 08:00:01 UTC\n")
    now_s = int(clock.now_s)
    assert signed("n.record") == Record(
        "n", "r", bytes(range(32)), now_s, now_s + 9 * DAY_S, (("203.0.113.7", 7400),), "region"
    )
    assert node.records == [from_text(before), from_text(Path("n.record").read_text())]


def test_many_records_are_given_in_parts(here: Path, capsys: Capture, node: FakeNode) -> None:
    run(capsys, *REVOKE)
    names = [f"n{i}.record" for i in range(2 * RECORDS_MAX + 1)]
    for name in names:
        run(capsys, "sign", "--authority", "fleet.key", "--out", name, *NEW[5:])
    assert run(capsys, *RENEW, *names) == "25 records given to http://127.0.0.1:7480\n"
    assert len(node.records) == 25


def test_what_is_not_renewed_keeps_nothing_else_back(
    here: Path, capsys: Capture, clock: Clock, node: FakeNode
) -> None:
    other = format_key(bytes(32))
    run(capsys, *REVOKE, other)
    run(capsys, *NEW)
    run(capsys, "sign", "--authority", "fleet.key", "--out", "bad", *NEW[5:9], "--key", other)
    run(capsys, "sign", "--authority", "fleet.key", "--out", "gone", *NEW[5:], "--days", "69")
    clock.now_s += 70 * DAY_S
    run(capsys, "sign", "--authority", "fleet.key", "--out", "late", *NEW[5:])
    clock.now_s -= DAY_S
    Path("rubbish").write_text("rubbish")
    assert cli.main(["fleet", *RENEW, "rubbish", "bad", "late", "gone", "list", "none", "n.record"]) == 1
    out, err = capsys.readouterr()
    assert [line.split(" ", 2)[2] for line in err.splitlines()] == [
        "is neither a record nor a list of revoked keys",
        "n is revoked, and not renewed: remove the file",
        "was signed on 2027-03-26 08:00:00 UTC, which is in the future: set the clock",
        "has expired: if n is to go on, `relay fleet sign --renew` it",
        "is a list of revoked keys, not a record to renew",
        "cannot be read: No such file or directory",
    ]
    assert out.startswith("n.record: n, valid until ")
    assert [decode(of) for of in node.records] == [signed("n.record")]


def test_what_the_node_refuses_is_said(here: Path, capsys: Capture, node: FakeNode) -> None:
    run(capsys, *REVOKE)
    run(capsys, *NEW)
    node.answers = iter([{"no fleet": 1}])
    assert cli.main(["fleet", *RENEW, "n.record"]) == 1
    assert capsys.readouterr().err == "relay: the node at http://127.0.0.1:7480 refuses 1: no fleet\n"
    assert "is the record of n" in refused(capsys, 2, *RENEW[:4], "n.record", "n.record")
    assert "required: --revoked" in refused(capsys, 2, *RENEW[:3], "n.record")


def test_a_role_is_signed_and_stays(here: Path, capsys: Capture) -> None:
    run(capsys, *NEW, "--role", "region")
    run(capsys, *SIGN, "--renew")
    of = signed("n.record")
    assert isinstance(of, Record) and of.role == "region"
    assert "role        region" in run(capsys, "show", "n.record")
    assert "invalid choice" in refused(capsys, 2, *NEW, "--role", "seed")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (SIGN, "a new record needs --name, --region, --key"),
        ((*SIGN, "--name", "n", "--key", KEY), "a new record needs --region"),
        ((*NEW, "--days", "401"), "'401' is not a number of days up to 400"),
        ((*NEW, "--days", "0"), "'0' is not a number of days"),
        ((*NEW, "--days", "-1"), "is not a number of days"),
        ((*NEW, "--days", "nan"), "is not a number of days"),
        ((*NEW, "--key", "short"), "a key is 44 characters of base64"),
        ((*NEW, "--name", "a b"), "a name or region is up to 63 letters"),
        ((*NEW, "--address", "host.example:7400"), "records hold no names"),
        ((*NEW, "--address", "[fe80::1%eth0]:7400"), "records hold no names"),
        ((*NEW, "--address", "203.0.113.7"), "has no"),
        ((*NEW, "--name", "n" * 63, "--region", "r" * 63), "35 bytes too long"),
        ((*NEW, "--address", "1.2.3.4:1") + ("--address", "1.2.3.4:1") * 8, "at most 8 addresses"),
        ((*NEW, "--authority", "none"), "none cannot be read"),
        ((*NEW, "--authority", "public"), "public holds no fleet's key"),
    ],
)
def test_what_is_not_signed(here: Path, capsys: Capture, arguments: tuple[str, ...], sentence: str) -> None:
    assert sentence in refused(capsys, 2, *arguments)
    assert not Path("n.record").exists()


def test_revoke(here: Path, capsys: Capture, clock: Clock) -> None:
    other = format_key(bytes(32))
    assert run(capsys, *REVOKE) == "list: keys revoked: 0; give it to any node as [fleet] revocations_file\n"
    clock.now_s += 5
    run(capsys, *REVOKE, KEY)
    run(capsys, *REVOKE, other, KEY)
    of = signed("list")
    assert isinstance(of, Revocations)
    assert of.names(bytes(32)) and of.names(bytes(range(32))) and len(of.revoked) == 2
    assert of.issued_s == NOW_S + 6  # later than the one before, in the same second
    lines = run(capsys, "show", "list").splitlines()
    assert lines[:2] == ["signed      2027-01-15 08:00:06 UTC", "void before no day"]
    assert [line.split()[0] for line in lines[2:]] == ["revoked", "revoked", "signature"]
    clock.now_s += DAY_S
    run(capsys, *REVOKE, "--void-before", "2027-01-16")
    of = signed("list")
    assert isinstance(of, Revocations) and of.revoked == () and of.void_before_s == NOW_S + 16 * 3600


def test_a_full_list(here: Path, capsys: Capture) -> None:
    keys = [format_key(bytes([i]) * 32) for i in range(REVOKED_MAX)]
    run(capsys, *REVOKE, *keys)
    assert "at most 64 keys: renew the records" in refused(capsys, 2, *REVOKE, KEY)


def test_what_is_not_revoked(here: Path, capsys: Capture, clock: Clock) -> None:
    run(capsys, *NEW)
    assert "is the record of n" in refused(
        capsys, 2, "revoke", "--authority", "fleet.key", "--out", "n.record", KEY
    )
    Path("rubbish").write_text("rubbish")
    rubbish = ("revoke", "--authority", "fleet.key", "--out", "rubbish", KEY)
    assert "neither a record nor a list" in refused(capsys, 2, *rubbish)
    run(capsys, "init", "--out", "other.key")
    run(capsys, *REVOKE, KEY)
    other = ("revoke", "--authority", "other.key", "--out", "list", KEY)
    assert "was signed by another key" in refused(capsys, 2, *other)
    assert "is a list of revoked keys" in refused(
        capsys, 2, "sign", "--authority", "fleet.key", "--out", "list", "--renew"
    )
    assert "is not a day such as" in refused(capsys, 2, *REVOKE, "--void-before", "tomorrow")
    assert "up to the time of signing" in refused(capsys, 2, *REVOKE, "--void-before", "2027-01-16")
    clock.now_s -= 2 * DAY_S
    assert "in the future: set the clock" in refused(capsys, 1, *REVOKE, KEY)
    Path("bytes").write_bytes(b"\xff")
    assert "no UTF-8" in refused(capsys, 2, "show", "bytes")
