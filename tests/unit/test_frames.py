"""Counting intact frames: exact against a slow oracle, and what each kind of damage costs."""

import random

import pytest

from relay.lab.frames import FrameCount, FrameHash, compare, parse_line


def frames(*numbers: int) -> list[FrameHash]:
    return [number.to_bytes(16, "big") for number in numbers]


@pytest.mark.parametrize(
    ("reference", "received", "intact"),
    [
        ([], [], 0),
        ([1, 2, 3], [], 0),
        ([], [1], 0),
        ([1, 2, 3], [1, 2, 3], 3),
        ([1, 2, 3, 4], [3, 4], 2),  # late: what came before the first key frame is lost
        ([1, 2, 3, 4], [1, 2], 2),  # stopped early
        ([1, 2, 3, 4], [1, 9, 8, 4], 2),  # two concealed
        ([1, 2, 3, 4], [1, 1, 2, 2, 4], 3),  # the decoder repeats what it has
        ([1, 2, 3, 4], [4, 1, 2, 3], 3),  # out of order
        ([1, 2, 1, 2, 3], [2, 1, 2, 3], 4),  # a loop: matching the earliest is not enough
        ([5, 5, 5, 5], [5, 5, 5], 3),  # a picture that stands still
    ],
)
def test_intact(reference: list[int], received: list[int], intact: int) -> None:
    expected = FrameCount(len(reference), len(received), intact)
    assert compare(frames(*reference), frames(*received)) == expected


def oracle(reference: list[FrameHash], received: list[FrameHash]) -> int:
    """The longest common subsequence by dynamic programming."""
    row = [0] * (len(reference) + 1)
    for frame in received:
        last, row = row, [0]
        for i, other in enumerate(reference):
            row.append(last[i] + 1 if frame == other else max(last[i + 1], row[i]))
    return row[-1]


@pytest.mark.parametrize("seed", range(20))
def test_as_the_oracle_counts(seed: int) -> None:
    random_numbers = random.Random(seed)
    kinds = random_numbers.choice([3, 20, 1000])
    reference = frames(*(random_numbers.randrange(kinds) for _ in range(60)))
    received = [frame for frame in reference if random_numbers.random() < 0.7]
    for _ in range(10):
        received[random_numbers.randrange(len(received))] = frames(random_numbers.randrange(kinds))[0]
    assert compare(reference, received).intact == oracle(reference, received), f"seed {seed}"


def test_a_picture_that_stands_still_is_counted_in_bounded_time() -> None:
    still = frames(*(7 for _ in range(5_000)))
    assert compare(still, still[:4_000]).intact == 4_000


def test_lines_of_framemd5() -> None:
    line = b"0,          3,          3,        1,  1382400, 00112233445566778899aabbccddeeff\n"
    assert parse_line(line) == bytes.fromhex("00112233445566778899aabbccddeeff")
    assert parse_line(b"#dimensions 0: 1280x720\n") is None


@pytest.mark.parametrize("line", [b"", b"0, 3, 3, 1, 1382400", b"0, 3, 3, 1, 9, zz", 32 * b"z", b"\xff"])
def test_other_lines(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"framemd5|ascii"):
        parse_line(line)
