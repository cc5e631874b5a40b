"""timer: the wheel against a dictionary of deadlines."""

import random

import pytest

from relay_ext.timer import NEVER, Timers

MS = 1_000_000
HOUR = 3_600_000 * MS


def drain(timers: Timers, now: int) -> list[int]:
    due = []
    while (number := timers.expire(now)) is not None:
        due.append(number)
    return due


@pytest.mark.parametrize("seed", range(30))
def test_agrees_with_a_dictionary(seed: int) -> None:
    rng = random.Random(seed)
    now = rng.choice([0, 123 * MS, 10**15 + 7])
    count = rng.choice([1, 5, 200])
    timers = Timers(count, now)
    deadlines: dict[int, int] = {}
    for step in range(3000):
        where = f"seed {seed}, step {step}"
        number = rng.randrange(count)
        match rng.choice(["schedule", "schedule", "cancel", "expire", "partly"]):
            case "schedule":
                reach = rng.choice([1, MS, 20 * MS, 511 * MS, 512 * MS, 513 * MS, 5000 * MS, HOUR])
                deadlines[number] = max(0, now + rng.randrange(-reach, reach) * rng.choice([0, 1, 1, 1]))
                timers.schedule(number, deadlines[number])
            case "cancel":
                deadlines.pop(number, None)
                timers.cancel(number)
            case "expire":
                now += rng.choice([0, 1, MS - 1, MS, 3 * MS, 511 * MS, 512 * MS, 513 * MS, 2000 * MS])
                now += rng.choice([0] * 20 + [HOUR])
                due = drain(timers, now)
                assert sorted(due) == sorted(n for n, d in deadlines.items() if d <= now), where
                for n in due:
                    del deadlines[n]
            case "partly":  # what is left is rescheduled and cancelled while it waits to be handed out
                one = timers.expire(now)
                assert (one is not None) == any(d <= now for d in deadlines.values()), where
                if one is not None:
                    assert deadlines.pop(one) <= now, where
        assert len(timers) == len(deadlines), where
        assert timers.armed(number) == (number in deadlines), where
        earliest = min(deadlines.values(), default=NEVER)
        if earliest > now:
            assert timers.next(now) == earliest, where
        else:
            assert timers.next(now) <= now, where


def test_to_the_nanosecond() -> None:
    timers = Timers(2, 0)
    timers.schedule(0, 5 * MS + 500)
    timers.schedule(1, 5 * MS + 501)
    assert timers.next(0) == 5 * MS + 500
    assert drain(timers, 5 * MS + 499) == []
    assert drain(timers, 5 * MS + 500) == [0]
    assert timers.next(5 * MS + 500) == 5 * MS + 501
    assert drain(timers, 5 * MS + 501) == [1]
    assert timers.next(5 * MS + 501) == NEVER


def test_milliseconds_come_in_order() -> None:
    timers = Timers(100, 0)
    for number in range(100):
        timers.schedule(number, (99 - number) * MS)
    assert drain(timers, 99 * MS) == list(reversed(range(100)))


def test_later_rounds_wait() -> None:
    timers = Timers(3, 0)
    for number, ms in enumerate([10, 522, 1034]):  # one slot
        timers.schedule(number, ms * MS)
    assert [drain(timers, ms * MS) for ms in (9, 10, 521, 522, 1033, 1034)] == [[], [0], [], [1], [], [2]]


def test_overdue_comes_at_once() -> None:
    timers = Timers(1, 1000 * MS)
    timers.schedule(0, 1)
    assert timers.next(1000 * MS) == 1
    assert drain(timers, 1000 * MS) == [0]


def test_a_timer_may_be_armed_again_while_others_wait_to_be_handed_out() -> None:
    timers = Timers(3, 0)
    for number in range(3):
        timers.schedule(number, MS)
    first = timers.expire(MS)
    rest = [n for n in range(3) if n != first]
    assert first is not None
    timers.schedule(first, MS)  # due again
    timers.cancel(rest[0])
    timers.schedule(rest[1], 2 * MS)
    assert drain(timers, MS) == [first]
    assert drain(timers, 2 * MS) == [rest[1]]
    assert len(timers) == 0


def test_time_that_stands_still_or_goes_back_expires_nothing_early() -> None:
    timers = Timers(1, 1000 * MS)
    timers.schedule(0, 1001 * MS)
    assert drain(timers, 0) == []
    assert drain(timers, 1000 * MS) == []
    assert drain(timers, 1001 * MS) == [0]


def test_the_far_end_of_time() -> None:
    timers = Timers(2, 0)
    timers.schedule(0, NEVER)
    timers.schedule(1, 10**18)
    assert timers.next(0) == 10**18
    assert drain(timers, 10**18) == [1]  # 31 years later, in one round of the wheel
    assert timers.next(10**18) == NEVER


def test_number_out_of_range() -> None:
    with pytest.raises(IndexError, match="timer 3 of 3"):
        Timers(3, 0).schedule(3, 0)
