"""Who is let in, what that is taken to add, and what is given up and given back."""

import random
from itertools import pairwise

import pytest

from relay.core.admission import (
    BPS,
    CALM_MAX_NS,
    CALM_NS,
    LIFE_NS,
    REFUSE,
    RESERVE_NS,
    SECOND,
    SHED,
    STEP_NS,
    Admission,
    Step,
)


def loaded(at_ns: int = 0, **loads: float) -> Admission:
    admission = Admission()
    admission.observe(at_ns, loads)
    return admission


# ---- u -------------------------------------------------------------------------------------------


def test_u_is_the_highest_load_and_what_is_reserved() -> None:
    admission = Admission()
    assert admission.u(0) == 0 and admission.measured(0) is None
    admission.observe(0, {"packet thread": 0.3, "network card": 0.5, "interrupts": None})
    assert admission.u(0) == 0.5
    assert admission.join(0, "a") == ""
    assert admission.u(0) == pytest.approx(0.51)  # 2 Mb/s, until anything is known
    assert admission.terms(0) == {"packet thread": 0.3, "network card": 0.5, "reserved": pytest.approx(0.01)}
    assert admission.u(RESERVE_NS) == 0  # it shows by now; and what was measured is old
    assert admission.measured(LIFE_NS - 1) == 0.5 and admission.measured(LIFE_NS) is None
    assert admission.terms(LIFE_NS) == {"reserved": 0}


def test_who_joins_twice_is_counted_once() -> None:
    admission = Admission()
    for at_ns in range(0, SECOND, SECOND // 100):
        assert admission.join(at_ns, "the same") == ""
    assert admission.reserved(SECOND) == pytest.approx(0.01)


def test_what_is_let_in_at_once_never_exceeds_the_limit_by_more_than_one() -> None:
    admission = loaded(thread=0.206)
    let_in = sum(admission.join(0, i) == "" for i in range(1000))
    assert let_in == 60
    assert admission.full(0)
    assert admission.join(0, "late") == "this node is 81% loaded, 60% of it reserved"
    admission.reserve(0, "in any case")
    assert admission.reserved(0) == pytest.approx(0.61)


def test_a_load_of_the_limit_refuses() -> None:
    assert loaded(thread=REFUSE - 0.001).join(0, "a") == ""
    reason = loaded(thread=REFUSE, interrupts=0.1).join(0, "a")
    assert reason == "this node is 80% loaded, 80% of it thread"


def test_what_one_more_takes_is_learned_from_what_is_carried() -> None:
    admission = Admission()
    for second in range(30):
        admission.carries(100 * 4 * BPS, 100)  # streams of 8 Mb/s, each of which takes 0.2 %
        admission.observe(second * SECOND, {"thread": 0.2})
    now_ns = 29 * SECOND
    admission.join(now_ns, "like the others")
    assert admission.reserved(now_ns) == pytest.approx(0.002, rel=0.01)
    admission.join(now_ns, "half of that", 2 * BPS)
    assert admission.reserved(now_ns) == pytest.approx(0.003, rel=0.01)
    admission.join(now_ns, "nothing yet", 0.0)
    assert admission.reserved(now_ns) == pytest.approx(0.0035, rel=0.01)


def test_what_one_takes_is_first_what_was_found_at_the_start() -> None:
    admission = Admission(0.05 / BPS)
    assert admission.join(0, "a") == ""
    assert admission.reserved(0) == pytest.approx(0.05)
    admission.join(0, "its rate is known", BPS / 2)
    assert admission.reserved(0) == pytest.approx(0.075)
    assert sum(admission.join(0, i) == "" for i in range(100)) == 15
    admission = Admission(0.05 / BPS)
    admission.carries(10 * BPS, 10)
    admission.carries(10 * BPS, 10)
    admission.observe(0, {"thread": 0.1})
    admission.join(0, "as measured by now")
    assert admission.reserved(0) == pytest.approx(0.01)


def test_a_slow_card_is_known_before_it_is_full() -> None:
    """Of 9 Mb/s, 2 are two ninths."""
    admission = Admission()
    admission.observe(0, {"network card": 0.0}, 9)
    assert sum(admission.join(0, i) == "" for i in range(100)) == 4
    admission.observe(0, {"network card": 0.0}, 10_000)
    admission.reserve(0, "as on any board")
    assert admission.reserved(0) == pytest.approx(8 / 9 + 0.01)


def test_little_load_teaches_nothing() -> None:
    admission = Admission()
    for second in range(30):
        admission.carries(1000.0, 1)
        admission.observe(second * SECOND, {"thread": 0.04})
    admission.join(29 * SECOND, "a", BPS)
    assert admission.reserved(29 * SECOND) == pytest.approx(0.01)


# ---- shedding ------------------------------------------------------------------------------------


class World:
    """A node whose load follows from what was given up: `loads` by step."""

    def __init__(self, *loads: float) -> None:
        self.admission = Admission()
        self.loads = loads
        self.now_ns = 0
        self.steps: list[tuple[int, Step]] = []
        """When each step began, in seconds."""
        self.away: list[int] = []

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now_ns += SECOND
            before = self.admission.step
            self.admission.observe(self.now_ns, {"thread": self.loads[before]})
            if away := self.admission.look(self.now_ns):
                self.away.append(away)
            if self.admission.step is not before:
                self.steps.append((self.now_ns // SECOND, self.admission.step))


def test_steps_come_one_by_one_and_no_further_than_needed() -> None:
    world = World(0.95, 0.93, 0.85)
    world.run(60)
    assert world.steps == [(2, Step.REPAIR), (4, Step.FRAMES)]
    assert world.away == [], "at 85 % nothing is given back, and nothing more taken"


def test_viewers_go_last_as_many_as_it_takes() -> None:
    world = World(0.95, 0.95, 0.95, 0.95)
    for _ in range(2):
        world.admission.carries(100 * BPS, 100)
    world.run(6)
    assert world.steps[-1] == (6, Step.VIEWERS)
    assert world.away == [pytest.approx(11, abs=1)]  # from 95 to 85 %, of about 0.95 % each
    world.run(2)
    assert len(world.away) == 2, "and again, if that was not enough"


def test_a_peak_takes_one_step_and_gives_it_back() -> None:
    world = World(0.95, 0.85)
    world.run(3)
    world.loads = (0.5, 0.5)
    world.run(30)
    assert world.steps == [(2, Step.REPAIR), (4 + CALM_NS // SECOND, Step.NONE)]


def test_what_is_needed_again_is_given_back_ever_more_slowly() -> None:
    """What one step saves takes the load from 92 to 75 %: it would come and go for ever."""
    world = World(0.92, 0.75)
    world.run(3600)
    up = [second for second, step in world.steps if step is Step.REPAIR]
    waits = [b - a for a, b in pairwise(up)]
    assert waits == sorted(waits) and waits[-1] >= CALM_MAX_NS // SECOND
    assert len(up) <= 16


def test_old_trouble_is_forgotten() -> None:
    world = World(0.92, 0.75)
    world.run(100)
    world.loads = (0.1, 0.1)
    world.run(2000)
    world.loads, world.steps = (0.92, 0.5), []
    world.run(3)
    world.loads = (0.5, 0.5)
    world.run(30)
    [(up, _), (down, step)] = world.steps
    assert step is Step.NONE and down - up <= CALM_NS // SECOND + 2


def test_a_load_that_is_not_known_changes_nothing() -> None:
    world = World(0.95, 0.95, 0.95, 0.95)
    world.run(2)
    for second in range(10, 100):
        assert world.admission.look(second * SECOND) == 0
    assert world.admission.step is Step.REPAIR


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_load_does(seed: int) -> None:
    """Steps change by one, at most once in STEP_NS upwards, only where the load says so."""
    rng = random.Random(seed)
    admission = Admission()
    now_ns = raised_ns = 0
    for _ in range(2000):
        now_ns += rng.randrange(1, 2 * SECOND)
        load = rng.choice([0.1, 0.79, 0.8, 0.85, 0.9, 1.0])
        before = admission.step
        admission.observe(now_ns, {"thread": load})
        away = admission.look(now_ns)
        assert abs(admission.step - before) <= 1
        assert not away or (load >= SHED and admission.step is Step.VIEWERS)
        if admission.step > before:
            assert load >= SHED and now_ns - raised_ns >= STEP_NS
            raised_ns = now_ns
        if admission.step < before:
            assert load < REFUSE
