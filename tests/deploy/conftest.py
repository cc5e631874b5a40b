"""Two machines for all tests, and the stream that runs meanwhile. Each test goes on where the one before has
left them."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.deploy.fleet import Fleet
from tests.deploy.machine import Machine, Ssh, network
from tests.deploy.stream import Stream, streaming

BOOTED: list[Machine] = []


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """An edge and a region, on which nothing is installed."""
    directory = tmp_path_factory.mktemp("machines")
    network()
    ssh = Ssh(directory)
    try:
        for number, name in enumerate(("edge", "region"), 2):
            BOOTED.append(Machine(name, number, directory, ssh))
        for machine in BOOTED:
            machine.booted()
        yield Fleet(*BOOTED, directory, ssh)
    finally:
        for machine in BOOTED:
            machine.unplug()


@pytest.fixture(scope="session")
def stream(fleet: Fleet) -> Iterator[Stream]:
    with streaming(fleet.edge.address) as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    """What the machines say of a failure."""
    report = yield
    if report.failed:
        for machine in BOOTED:
            for command in ("journalctl --unit=relay --lines=40", "relay status --json"):
                report.sections.append((f"{machine.name}: {command}", machine.sh(command, check=False)))
    return report
