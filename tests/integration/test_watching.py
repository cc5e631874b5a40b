"""What alarms and dashboard ask for is what a real node exports while a stream crosses a lossy link."""

import re
from pathlib import Path

from relay.web.metrics import BOARD, NODE
from tests.integration.nodes import STREAM, Fleet, receiver, sender, wait_for
from tests.unit.test_alarms import DASHBOARD, RULES

METRIC = re.compile(r"\brelay_[a-z0-9_]+\b")
MATCHER = re.compile(r'(reason|quantile)=\\?"([a-z0-9_.]+)\\?"')
ABSENT = {spec.name for spec in (*BOARD, *NODE)}
"""A board does not tell everything, and a node without a fleet has no record; then there is no metric."""


def test_metrics_that_are_watched_are_exported(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    with fleet.stack, receiver(fleet.player), sender(fleet.ingest) as source:
        source.send(800)
        wait_for("stream", lambda: fleet.region.json(f"/v1/streams/{STREAM}")["tracks"])
        texts = [node.get("/metrics")[1] for node in (fleet.edge, fleet.region)]
    exported = {name for text in texts for name in METRIC.findall(re.sub("(?m)^#.*$", "", text))}
    asked = RULES.read_text() + DASHBOARD.read_text()
    watched = set(METRIC.findall(asked))
    assert len(watched) > 30
    assert watched - exported <= ABSENT
    for label, value in MATCHER.findall(asked):
        assert f'{label}="{value}"' in texts[0] + texts[1]
