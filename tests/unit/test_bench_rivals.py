"""The pure parts of `make lab-peers`: marks, commands, configuration, table."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from relay.config import parse
from tests.benchmarks.rivals.cell import Outcome, Row, Terms
from tests.benchmarks.rivals.marks import BYTES, NS_PER_MS, PROBE, Fates, Marks, packet, quantile
from tests.benchmarks.rivals.programs import RIVALS, Ports, Setting, relay_ends, rist_ends, srt_ends
from tests.benchmarks.rivals.report import HEADINGS, doubts, markdown

TERMS = Terms("30 % random", 0.3, 100, 200, 60.0, 1)
OUTCOME = Outcome(
    fates=Fates(24_000, 24, 3, 0, 0, 1.2, 140.4),
    connect_s=0.26,
    forward_ratio=1.765,
    back_ratio=0.0264,
    link_loss=0.3,
    late_p99_ms=1.3,
    kernel_drops=0,
)


@pytest.mark.parametrize(
    "values, share, expected",
    [
        ([], 0.5, None),
        ([5], 0.99, 5),
        ([4, 1, 3, 2], 0.5, 2),
        ([*range(1, 101)], 0.99, 99),
        ([1, 2], 0.99, 2),
    ],
)
def test_quantile(values: list[int], share: float, expected: float | None) -> None:
    assert quantile([value * NS_PER_MS for value in values], share) == expected


def test_marks_count_what_is_lost_and_by_how_much_the_rest_is_late() -> None:
    marks = Marks(6, propagation_ns=50 * NS_PER_MS)
    assert not marks.connected
    marks.take(packet(0, PROBE, 0), 60 * NS_PER_MS)
    assert marks.connected
    for number, delay_ms in ((0, 51), (4, 70), (1, 53), (1, 90)):
        marks.take(packet(number + 1, number, 1000), 1000 + delay_ms * NS_PER_MS)
    assert marks.fates() == Fates(6, 3, longest_gap=2, duplicates=1, damaged=0, p50_ms=3, p99_ms=20)


@pytest.mark.parametrize(
    "data", [b"", b"short", packet(0, 6, 0), packet(0, 0, 0)[:-1] + b"x", packet(0, 0, 0) + b"\xaa"]
)
def test_what_was_not_sent_like_that_is_damaged(data: bytes) -> None:
    marks = Marks(6, 0)
    marks.take(data, 0)
    assert (marks.fates().damaged, marks.fates().lost) == (1, 6)


def test_packets_are_rtp_and_count_on() -> None:
    data = packet(0x10001, 7, 1_000_000_000)
    assert len(data) == BYTES
    assert data[:12].hex() == "80600001" + f"{90_000:08x}" + "00001234"


def test_ports_are_apart() -> None:
    ports = Ports(20_000)
    taken = {
        *(ports.source, ports.source + 1, ports.player, ports.player + 1),
        *(ports.receiver, ports.link, ports.sender, ports.ops, ports.ops + 1),
    }
    assert len(taken) == Ports.COUNT
    assert max(taken) == ports.first + Ports.COUNT - 1


def test_configurations_of_both_nodes_are_valid(tmp_path: Path) -> None:
    setting = Setting(Ports(20_000), 400, tmp_path)
    for command, peer in zip(relay_ends(setting), ("edge", "region"), strict=True):
        text = Path(command[-1]).read_text()
        parse(text, {})
        assert tomllib.loads(text)["hop"]["budget_ms"] == 400
        assert tomllib.loads(text)["hop"]["peers"][0]["name"] == peer


def test_budget_and_link_are_in_the_commands_of_the_others(tmp_path: Path) -> None:
    setting = Setting(Ports(20_000), 400, tmp_path)
    for end in srt_ends("packetfilter=fec,cols:10")(setting):
        assert sum("latency=400" in word and word.endswith("&packetfilter=fec,cols:10") for word in end) == 1
    receiver, sender = rist_ends(setting)
    assert receiver[receiver.index("-b") + 1] == sender[sender.index("-b") + 1] == "400"
    assert f"rist://127.0.0.1:{setting.ports.link}" in sender
    assert len({rival.name for rival in RIVALS}) == len(RIVALS)


def test_table() -> None:
    rows = [Row("A", TERMS, OUTCOME), Row("B", TERMS, None, "b is not installed")]
    head, rule, first, second = markdown(rows)
    assert {line.count("|") for line in (head, rule, first, second)} == {len(HEADINGS) + 1}
    assert first == (
        "| 30 % random | A | 200 ms | 0.1 % (24) | 3 | 1.76 | 0.026 | 1 / 140 ms | 0.3 s | 1.3 ms |"
    )
    assert second.startswith("| 30 % random | B | 200 ms | b is not installed |")


def test_doubts_name_the_lateness_always_and_the_rest_when_there_is_cause() -> None:
    assert list(doubts([Row("A", TERMS, OUTCOME)])) == [
        "The proxy's lateness, p99 of each run: 1.3 to 1.3 ms, median 1.3 ms."
    ]
    bad = replace(
        OUTCOME, late_p99_ms=9.0, kernel_drops=2, fates=replace(OUTCOME.fates, damaged=3, duplicates=4)
    )
    said = list(doubts([Row("A", TERMS, OUTCOME), Row("A", TERMS, bad), Row("B", TERMS, None, "no")]))
    assert len(said) == 5
    assert "in 1 of 2 runs" in said[1]
    assert not list(doubts([Row("B", TERMS, None, "no")]))
