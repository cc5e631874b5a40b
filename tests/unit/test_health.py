"""What follows from health: alarms with two thresholds, penalties, the pace of sending, summaries."""

import random
from dataclasses import fields, replace
from pathlib import Path

import pytest

from relay.core.health import (
    CHANGE_SPACING_NS,
    EXPECTED,
    LIFE_NS,
    MISSED_RATIO,
    RULES,
    SECOND_NS,
    SENDS_MAX,
    UNKNOWN,
    UNKNOWN_MS,
    Heard,
    Pace,
    Rule,
    Watch,
    alarms,
    headroom_permille,
    penalties,
    sends_per_second,
    summary_of,
)
from relay.core.routing import BETTER_MS
from relay.wire.coding import encode
from relay.wire.health import DIGEST_FIELDS, HEALTH_BYTES_MAX, SUMMARY_FIELDS, Digest, Summary

DOCS = (Path(__file__).parents[2] / "docs/health.md").read_text()
WELL = Digest(headroom_permille=1000, loop_lag_ms=0, memory_available_permille=800)


def cost(digest: Digest) -> float:
    return sum(penalty.ms for penalty in penalties(digest))


def test_a_node_that_is_well_has_no_penalty() -> None:
    assert penalties(WELL) == ()


def test_unknown_is_not_healthy() -> None:
    assert [p.reason for p in penalties(UNKNOWN)] == [
        "headroom unknown",
        "loop lag unknown",
        "memory available unknown",
    ]
    assert cost(UNKNOWN) == len(EXPECTED) * UNKNOWN_MS < BETTER_MS
    assert alarms(UNKNOWN) == frozenset()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.alarm)
def test_each_rule_alone(rule: Rule) -> None:
    at = replace(WELL, **{rule.fact: type_of(rule)(rule.raised)})
    worst = replace(WELL, **{rule.fact: type_of(rule)(rule.worst)})
    well = replace(WELL, **{rule.fact: type_of(rule)(rule.cleared)})
    assert alarms(at) == alarms(worst) == {rule.alarm}
    assert alarms(well) == alarms(well, frozenset({rule.alarm})) == frozenset()
    assert cost(well) == 0
    assert cost(worst) == rule.penalty_ms
    assert cost(at) == (rule.penalty_ms if rule.worst == rule.raised else 0)
    assert DIGEST_FIELDS[rule.fact].low <= min(rule.raised, rule.cleared, rule.worst)


def type_of(rule: Rule) -> type:
    return bool if DIGEST_FIELDS[rule.fact].flag else int


def test_noise_between_the_thresholds_is_no_change() -> None:
    watch = Watch()
    assert watch.update(replace(WELL, temperature_c=60)) is False
    assert watch.update(replace(WELL, temperature_c=75)) is True
    rng = random.Random(1)
    for _ in range(100):
        assert watch.update(replace(WELL, temperature_c=rng.randint(71, 90))) is False
    assert watch.update(replace(WELL, temperature_c=70)) is True
    for _ in range(100):
        assert watch.update(replace(WELL, temperature_c=rng.randint(50, 74))) is False


def test_draining_is_a_change() -> None:
    watch = Watch()
    watch.update(replace(WELL, draining=False))
    assert watch.update(replace(WELL, draining=True)) is True
    assert cost(watch.digest) == 1000


def test_headroom_is_what_the_highest_known_load_leaves() -> None:
    assert headroom_permille(None, None) is None
    assert headroom_permille(300, None) == 700
    assert headroom_permille(300, 450) == 550


@pytest.mark.parametrize(
    ("loss", "sends"), [(0.0, 1), (0.009, 1), (0.05, 2), (0.2, 3), (0.3, 4), (0.6, 4), (1.0, 4)]
)
def test_loss_is_met_by_repetition(loss: float, sends: int) -> None:
    assert sends_per_second(loss) == sends
    if sends < SENDS_MAX:
        assert loss**sends <= MISSED_RATIO


def times(pace: Pace, now_ns: int, loss: float, count: int) -> list[float]:
    """When it sends, in seconds."""
    sent = []
    for _ in range(count):
        now_ns = max(now_ns, pace.due_ns)
        pace.sent(now_ns, loss)
        sent.append(now_ns / SECOND_NS)
    return sent


def test_the_pace_keeps_to_a_grid_that_all_peers_share() -> None:
    assert times(Pace(), 3_700_000_000, 0.0, 3) == [3.7, 4.0, 5.0]
    assert times(Pace(), 3_700_000_000, 0.05, 3) == [3.7, 4.0, 4.5]
    assert times(Pace(), 3_700_000_000, 0.3, 3) == [3.7, 3.75, 4.0]


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.2, 0.5])
def test_the_next_is_always_later(loss: float) -> None:
    pace = Pace()
    pace.sent(0, loss)
    for _ in range(1000):
        now_ns = pace.due_ns
        pace.sent(now_ns, loss)
        assert now_ns < pace.due_ns <= now_ns + SECOND_NS


def test_loss_is_believed_sooner_than_its_end() -> None:
    pace = Pace()
    times(pace, 0, 0.0, 3)
    assert len([t for t in times(pace, 200 * SECOND_NS, 0.3, 20) if t < 204]) >= 8
    assert len([t for t in times(pace, 300 * SECOND_NS, 0.0, 20) if t < 303]) >= 7


def test_a_change_goes_out_at_once_and_again_soon() -> None:
    pace = Pace()
    pace.sent(10 * SECOND_NS, 0.3)
    pace.change(10_050_000_000)
    assert times(pace, 10_050_000_000, 0.3, 4) == pytest.approx([10.05, 10.15, 10.25, 10.35], abs=0.001)
    assert CHANGE_SPACING_NS == 100_000_000


def test_a_digest_that_is_too_old_says_nothing() -> None:
    heard = Heard()
    assert heard.known(0) is UNKNOWN
    heard.take(5, WELL)
    assert heard.known(5 + LIFE_NS - 1) is WELL
    assert heard.known(5 + LIFE_NS) is UNKNOWN and heard.digest is WELL
    heard.take(6, Summary())
    heard.forget()
    assert heard.known(6) is UNKNOWN and heard.summary is None


def test_a_summary_counts_and_gives_median_and_worst() -> None:
    digests = [
        Digest(streams=1, headroom_permille=900, temperature_c=50, draining=True),
        Digest(streams=2, headroom_permille=100, temperature_c=None, loop_lag_ms=7),
        Digest(headroom_permille=500, temperature_c=80),
    ]
    found = summary_of(digests, 5)
    assert found == Summary(
        nodes=5,
        known=3,
        draining=1,
        ailing=3,
        streams=3,
        headroom_median_permille=500,
        headroom_worst_permille=100,
        loop_lag_worst_ms=7,
        temperature_median_c=50,
        temperature_worst_c=80,
    )
    assert summary_of([], 2) == Summary(nodes=2)


def test_a_summary_of_ten_thousand_is_as_small_as_one_of_ten() -> None:
    rng = random.Random(3)
    many = [
        Digest(
            streams=rng.randrange(65536),
            headroom_permille=rng.randrange(1001),
            loop_lag_ms=rng.randrange(60000),
        )
        for _ in range(10_000)
    ]
    assert len(encode(summary_of(many, 10_000))) <= HEALTH_BYTES_MAX


def test_the_documentation_has_every_fact_and_every_rule() -> None:
    rows = {line.split("|")[1].strip(" `") for line in DOCS.splitlines() if line.startswith("| `")}
    assert {field.name for field in fields(Digest)} | {field.name for field in fields(Summary)} == rows
    for rule in RULES:
        row = next(line for line in DOCS.splitlines() if line.startswith(f"| {rule.alarm} |"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        numbers = [f"{n:g}" for n in (rule.raised, rule.cleared, rule.worst, rule.penalty_ms)]
        assert cells == [rule.alarm, f"`{rule.fact}`", *numbers]


def test_keys_are_used_once() -> None:
    for table, message in ((DIGEST_FIELDS, Digest), (SUMMARY_FIELDS, Summary)):
        keys = [field.key for field in table.values()]
        assert len(set(keys)) == len(keys) and not {"t", "v"} & set(keys)
        assert set(table) == {field.name for field in fields(message)} - {"version"}
