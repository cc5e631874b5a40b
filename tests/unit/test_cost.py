"""What a stream is taken to cost, with a clock that says how long each round of datagrams takes."""

import time
from itertools import accumulate

import pytest

from relay.services.cost import ROUNDS, share_per_bps


def test_the_fastest_round_counts() -> None:
    rounds = [9_000_000] * (ROUNDS - 1) + [64 * 10_000]  # disturbed in all but one
    clock = iter(accumulate(step for took in rounds for step in (5, took)))
    share = share_per_bps(lambda: next(clock))
    # 8 x 10 us for each of the 208 packets a second of 2 Mb/s.
    assert 2e6 * share == pytest.approx(8 * 10e-6 * 2e6 / 9600)


def test_this_machine_takes_a_time() -> None:
    assert 0 < share_per_bps(time.thread_time_ns) < 1e-3
