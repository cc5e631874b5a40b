"""What classifying costs: a round is 1000 packets, so microseconds a round are nanoseconds a packet."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from relay_ext.payload import Classifier, Kind
from tests.unit.test_payload import CLIPS, clip

PACKETS = 1000


@pytest.mark.parametrize(("name", "kind"), [*(row[:2] for row in CLIPS), ("mp2t", Kind.MP2T)])
def test_classify(benchmark: BenchmarkFixture, name: str, kind: Kind) -> None:
    """The longest packet, mostly a fragment; of a transport stream, seven packets."""
    benchmark(Classifier(kind).run, max(clip(name), key=len), PACKETS)
