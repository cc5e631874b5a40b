"""What a node says is wrong, in words."""

from typing import Any

import pytest

from relay.web.findings import CONGESTED, FINDINGS_MAX, findings
from tests.unit.status_sample import sample


def well() -> dict[str, Any]:
    """The sample without what is wrong with it."""
    status = sample()
    status["hops"] = [status["hops"][0]]
    status["hops"][0]["loss_ratio"] = {"send": 0.05, "receive": 0.0}
    status["hops"][0]["congestion"]["state"] = "unlimited"
    status["admission"]["shedding"] = "none"
    for peer in status["peers"]:
        peer["alarms"] = []
    return status


def said(status: dict[str, Any]) -> list[tuple[str, str]]:
    return [(finding["severity"], finding["text"]) for finding in findings(status)]


def test_the_sample() -> None:
    assert said(sample()) == [
        ("bad", "the node is overloaded (91%) and gives up frames"),
        ("warn", "the link with region-sgp loses 30% of the packets, before repair"),
        ("warn", f"the link to region-sgp {CONGESTED['limited'][1]}"),
        ("warn", "region-tyo is connecting: no session with it"),
        ("warn", "this node: hot"),
        ("warn", "this node: throttled"),
    ]  # fmt: skip


def test_all_is_well() -> None:
    assert findings(well()) == []


def stalls(status: dict[str, Any]) -> None:
    status["streams"][0]["tracks"][0]["bitrate_bps"] = 0


def leaks(status: dict[str, Any]) -> None:
    status["streams"][0]["behind"]["hops"][0]["residual_ratio"] = 0.012


def leaks_before(status: dict[str, Any]) -> None:
    stream = status["streams"][0]
    stream["path"] = [{**stream["behind"]["hops"][0], "node": name} for name in ("edge", "a")]
    stream["path"][1]["residual_ratio"] = 0.5


@pytest.mark.parametrize(
    ("change", "severity", "text"),
    [
        (lambda s: s.update(reasons=["no peer is connected"]), "bad", "no peer is connected"),
        (lambda s: s.update(notes=["the record ends"]), "warn", "the record ends"),
        (lambda s: s["streams"][0].update(waits="no region has it"), "bad",
         "stream studio does not come: no region has it"),
        (stalls, "bad", "stream studio has come and comes no more"),
        (leaks, "bad", "stream studio loses 1.2% from edge-sgp-1 to region-sgp, after repair"),
        (leaks_before, "bad", "stream studio loses 50.0% from edge to a, after repair"),
        (lambda s: s["hops"][0]["congestion"].update(state="stopped"), "bad",
         "the link to region-sgp lets nothing through"),
        (lambda s: s["hops"][0]["paths"][1].update(role="dead"), "warn",
         "path 1 to region-sgp (wwan0) is dead"),
        (lambda s: s["peers"][1].update(alarms=["draining"]), "warn", "region-sgp: draining"),
        (lambda s: s["peers"][0]["health"].update(clock_synchronised=False), "warn",
         "the clock of this node is not synchronised: its log tells another time than others"),
    ],
)  # fmt: skip
def test_each_thing_that_can_be_wrong(change: Any, severity: str, text: str) -> None:
    status = well()
    change(status)
    assert said(status) == [(severity, text)]


def test_many_are_counted() -> None:
    status = well()
    status["hops"] += [{**sample()["hops"][1], "peer": f"edge-{i}"} for i in range(FINDINGS_MAX + 3)]
    status["reasons"] = ["no peer is connected"]
    found = said(status)
    assert found[0][0] == "bad" and found[FINDINGS_MAX:] == [("warn", "and 4 more")]


def test_what_ends_media_comes_first_and_nothing_comes_twice() -> None:
    status = well()
    status["notes"] = ["the record ends"]
    status["peers"][0]["alarms"] = ["draining", "hot"]
    status["reasons"] = ["the node is draining"]
    assert said(status) == [
        ("bad", "the node is draining"), ("warn", "this node: hot"), ("warn", "the record ends")
    ]  # fmt: skip
