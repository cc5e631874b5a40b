"""The pure parts of `make bench-peers`: bencode, STUN, ratios, the table, the relay's configuration."""

import tomllib
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from tests.benchmarks.forward_node import configuration
from tests.benchmarks.peers import ng, turn
from tests.benchmarks.peers.forwarders import FORWARDERS, Setting
from tests.benchmarks.peers.program import PeerError, Program
from tests.benchmarks.peers.report import Row, Run, markdown

SAMPLES: list[tuple[ng.Plain, bytes, ng.Value]] = [
    (42, b"i42e", 42),
    (-7, b"i-7e", -7),
    ("spam", b"4:spam", b"spam"),
    (b"", b"0:", b""),
    (["a", 1, []], b"l1:ai1elee", [b"a", 1, []]),
    (
        {"to": "x", "call-id": {"a": ["b"]}},
        b"d7:call-idd1:al1:bee2:to1:xe",
        {b"to": b"x", b"call-id": {b"a": [b"b"]}},
    ),
]


@pytest.mark.parametrize("plain, encoded, value", SAMPLES)
def test_bencode(plain: ng.Plain, encoded: bytes, value: ng.Value) -> None:
    assert ng.encode(plain) == encoded
    assert ng.decode(encoded) == value


@pytest.mark.parametrize("data", [b"", b"x", b"i1", b"5:spam", b"l1:a", b"d1:ae", b"i1ei2e", b"ie", b"-1:a"])
def test_what_is_no_bencode_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        ng.decode(data)


def test_port_of_a_session_description() -> None:
    assert ng.media_port(ng.sdp(23202, "sendonly").encode()) == 23202
    with pytest.raises(PeerError):
        ng.media_port(b"v=0\r\n")


def test_stun_message() -> None:
    """The address is the one of RFC 5769, 2.2, whose magic cookie and attribute are the same."""
    address = turn.xor_address("192.0.2.1", 32853)
    assert address.hex() == "0001a147e112a643"
    data = turn.message(turn.CHANNEL_BIND, b"t" * 12, (turn.XOR_PEER_ADDRESS, address), (0x8022, b"odd"))
    assert data[:8].hex() == "000900142112a442"
    assert turn.parse(data) == (
        turn.CHANNEL_BIND,
        b"t" * 12,
        {turn.XOR_PEER_ADDRESS: address, 0x8022: b"odd"},
    )


def test_what_is_no_stun_message_is_refused() -> None:
    data = turn.message(turn.ALLOCATE, bytes(12), (turn.REQUESTED_TRANSPORT, bytes(4)))
    cut_off = data[:-6] + b"\x00\xff" + data[-4:]
    for wrong in (b"", data[:19], data[:-1], data + bytes(4), b"\x40" + data[1:], cut_off):
        with pytest.raises(ValueError):
            turn.parse(wrong)


def test_stun_error() -> None:
    assert turn.error_text({turn.ERROR_CODE: b"\0\0\4\x01Unauthorized"}) == "401 Unauthorized"


def row(name: str, rate: int, *costs_us: float, lost: int = 0) -> Row:
    runs = [Run(cost * (1000 - lost) / 1e6, 1000, 1000 - lost, 250.0) for cost in costs_us]
    return Row(name, "1.2", rate, runs)


def test_ratios_are_of_the_same_round() -> None:
    """A machine that is twice as slow in one round does not widen the spread."""
    ratio = row("peer", 60, 6, 12, 7).ratio(row("loop", 60, 2, 4, 2))
    assert (ratio.least, ratio.median, ratio.most) == pytest.approx((3.0, 3.0, 3.5))


def test_cost_is_of_packets_that_came_out() -> None:
    lossy = row("peer", 60, 5, lost=100)
    assert lossy.cost().median == pytest.approx(5000)
    assert lossy.loss() == pytest.approx(0.1)


def test_table() -> None:
    """Each row is compared with the references at its own rate."""
    rows = [
        row("loop", 60_000, 2, 4, 2),
        row("peer", 60_000, 6, 12, 7),
        row("loop", 30_000, 3, 3, 3),
        row("slow", 30_000, 6, 6, 6, lost=1),
        Row("broken", failure="is not installed"),
    ]
    head, rule, *lines = markdown(rows, ["loop", "relay"])
    assert len({line.count("|") for line in (head, rule, *lines)}) == 1
    assert lines[1] == "| peer 1.2 | 60,000 | 0.00% | 7000 (6000-12000) | 3.00 (3.00-3.50) |  | 250 |"
    assert lines[3] == "| slow 1.2 | 30,000 | 0.10% | 6000 (6000-6000) | 2.00 (2.00-2.00) |  | 250 |"
    assert lines[4].startswith("| broken | is not installed |")


@pytest.mark.parametrize("streams, fan", [(20, 1), (1, 50), (2, 3)])
def test_ports_do_not_overlap(streams: int, fan: int) -> None:
    setting = Setting(Path(), streams, fan, 20_000, ExitStack())
    parts = [
        (setting.source_port, streams),
        (setting.in_port, 2 * streams),
        (setting.control_port, 2),
        (setting.hop_port, 2 * streams),
        (setting.pool[0], setting.pool[1] - setting.pool[0] + 1),
        (setting.out_port, streams * fan),
    ]
    assert all(first + count == following for (first, count), (following, _) in pairwise(parts))
    assert sum(count for _, count in parts) == Setting.ports(streams, fan)


def test_configuration_of_the_relay() -> None:
    """The node takes and sends at the ports that the setting says."""
    setting = Setting(Path(), 2, 3, 20_000, ExitStack())
    text = configuration(setting.in_port, setting.streams, setting.out_port, setting.fan)
    config = tomllib.loads(text)
    assert [stream["tracks"][0]["listen"] for stream in config["ingest"]["rtp"]] == [
        f"127.0.0.1:{port}" for port in setting.inputs()
    ]
    addresses = [target["address"] for stream in config["egress"]["rtp"] for target in stream["to"]]
    assert addresses == [f"127.0.0.1:{setting.out_port + i}" for i in range(6)]


def test_names_are_unique() -> None:
    assert len({forwarder.name for forwarder in FORWARDERS}) == len(FORWARDERS)


def test_a_program_that_is_missing_or_ends_says_why(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="not installed"):
        Program(["no-such-program-here"], tmp_path / "log")
    with Program(["sh", "-c", "echo no such option; exit 3"], tmp_path / "log") as program:
        program.stop()
        with pytest.raises(PeerError, match="sh ended with"):
            program.wait_for(lambda: False)
