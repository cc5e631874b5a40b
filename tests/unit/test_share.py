"""A hop's media budget among the tracks that are sent over it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.share import Want, split

AUDIO, SMALL, LARGE = Want(True, 64e3), Want(False, 1e6), Want(False, 3e6)


@pytest.mark.parametrize(
    ("budget", "shares"),
    [
        (4.064e6, [64e3, 1e6, 3e6]),
        (2.064e6, [64e3, 0.5e6, 1.5e6]),
        (8.064e6, [64e3, 2e6, 6e6]),
        (64e3, [64e3, 0, 0]),
        (16e3, [16e3, 0, 0]),
        (0, [0, 0, 0]),
    ],
)
def test_audio_first_then_in_proportion(budget: float, shares: list[float]) -> None:
    assert split(budget, [AUDIO, SMALL, LARGE]) == pytest.approx(shares)


def test_of_one_kind() -> None:
    assert split(1e6, []) == []
    assert split(1e6, [LARGE]) == [1e6]
    assert split(1e6, [AUDIO]) == [64e3]  # there is nothing that it could do with more


WANTS = st.builds(Want, st.booleans(), st.floats(1, 1e9))


@given(st.floats(0, 1e10), st.lists(WANTS, max_size=20))
def test_never_more_than_the_budget(budget: float, wants: list[Want]) -> None:
    shares = split(budget, wants)
    assert sum(shares) <= budget * (1 + 1e-9)
    assert all(0 <= share <= w.bps * (1 + 1e-9) for share, w in zip(shares, wants, strict=True) if w.audio)
