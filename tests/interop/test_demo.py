"""`relay demo` as a user runs it: real H.264 and Opus across 30 % loss, each frame compared."""

import json
import shutil
from typing import Any

import pytest

from tests.integration.nodes import relay

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed"),
]

RATE = 30  # frames/s
SEED = "1"


def demo(seconds: int, *options: str) -> Any:
    done = relay("demo", "--json", "--seconds", str(seconds), "--seed", SEED, *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_with_repair_the_picture_is_whole() -> None:
    result = demo(8)
    assert result["kernel_drops"] == 0
    assert 0.25 < result["link_loss_ratio"] < 0.35
    # One packet in the 2800 of 8 s is 3.6e-4: the ratio of 5e-5 is asked of longer runs.
    assert result["residual_packets"] <= 2
    assert result["frames_expected"] == 8 * RATE
    assert result["frames_intact"] >= 0.99 * 8 * RATE
    assert result["repair_overhead_ratio"] <= 0.9
    assert result["added_delay_ms"]["p99"] <= 200


def test_without_repair_the_damage_shows() -> None:
    result = demo(3, "--no-repair")
    assert result["repair_packets"] == 0
    assert 0.25 < result["residual_loss_ratio"] < 0.35
    assert result["frames_intact"] < 0.1 * 3 * RATE
