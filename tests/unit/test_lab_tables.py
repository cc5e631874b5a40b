"""What the lab's tables hold runs to."""

from dataclasses import replace

from relay.lab import capacity
from relay.lab.capacity import W9, Outcome
from relay.lab.grid import Target


def test_a_target_that_may_be_missed_three_times_over():
    assert Target(1e-4, 0.5, mean_ms=20).times(3) == Target(1e-4 * 3, 1.5, mean_ms=60)
    assert Target(0).times(3) == Target(0)


def test_w9_is_held_to_its_queue_in_every_phase_and_to_its_goodput_while_capacity_is_half():
    good = [
        Outcome(
            phase,
            queue_p95_ms=100,
            queue_max_ms=300,
            sent_share=1,
            goodput_share=0.85,
            rtp_share=0.8,
            played=1,
            last_played=1,
        )
        for phase in W9
    ]
    assert capacity.missed(good) == []
    first, halved, last = good
    assert capacity.missed([replace(first, goodput_share=0.7), halved, last]) == []
    assert capacity.missed([first, replace(halved, goodput_share=0.84), last]) == ["goodput"]
    assert capacity.missed([first, halved, replace(last, queue_p95_ms=101)]) == ["queue at 8 Mb/s"]
