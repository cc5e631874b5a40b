"""RELAY_SIM_SEED adds to every seed, to see the same tests under other random numbers."""

import os

import pytest

OFFSET = int(os.environ.get("RELAY_SIM_SEED", "0"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `seed` runs under each seed of its marker, one that asks for `seeds` once with all
    of them. The test's name says which, so that a failure prints it."""
    marker = metafunc.definition.get_closest_marker("seeds")
    seeds = tuple(seed + OFFSET for seed in (marker.args if marker else (1,)))
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", seeds, ids=[f"seed={seed}" for seed in seeds])
    if "seeds" in metafunc.fixturenames:
        metafunc.parametrize("seeds", [seeds], ids=[f"seeds={','.join(map(str, seeds))}"])
