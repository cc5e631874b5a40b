"""What a fleet of five processes does when machines, links and processes really fail: each test prints what
the player at its end went without (`-s` shows it). Needs root.

The fleet is one for all tests, which leave it as whole as it was. The last one takes a region away for good.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.integration.continents import NAMES, PAIRS, PATIENCE, REGIONS, Fleet
from tests.integration.namespaces import Internet, or_skip
from tests.integration.nodes import relay, wait_for

pytestmark = pytest.mark.root

SOON_S = 10.0
"""A few round trips, a start of a process, and a machine with other work to do."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("continents")
    with ExitStack() as stack:
        with or_skip():
            internet = Internet(directory, PAIRS, stack)
        of = Fleet(directory, internet, stack)
        wait_for("the nearest regions", lambda: of.path() == ["in", "a", "b", "out"], PATIENCE)
        yield of


@pytest.fixture
def fleet(running: Fleet) -> Fleet:
    for name in NAMES:
        if running.nodes[name].popen.poll() is not None:
            running.start(name)
    wait_for("a whole fleet", lambda: all(set(REGIONS) - {n} <= running.peers(n) for n in NAMES), PATIENCE)
    running.media.wait("start", time.monotonic())
    wait_for("a standby", running.ready, PATIENCE)
    return running


def test_a_link_between_regions_is_dead_for_reports(fleet: Fleet) -> None:
    """Media goes on, without repair."""
    [_, first, second, _] = fleet.path()
    since = time.monotonic()
    with (
        fleet.measured(f"from {second} to {first} nothing comes through") as gap,
        fleet.internet.dead((second,), (first,)),
    ):
        fleet.media.wait("nothing", since)
    assert gap() < SOON_S


def test_a_link_between_regions_is_dead_for_media(fleet: Fleet) -> None:
    """The viewer's region says so, and the viewer's edge has the stream from the other one."""
    [_, first, second, _] = fleet.path()
    since = time.monotonic()
    with (
        fleet.measured(f"from {first} to {second} nothing comes through, for good") as gap,
        fleet.internet.dead((first,), (second,)),
    ):
        fleet.media.wait("change of the region", since)
        assert fleet.path()[2] != second
    assert gap() < 1
    fleet.nodes["out"].end()  # so that the next one finds it at the nearest region again


def test_a_partition_between_regions_heals(fleet: Fleet) -> None:
    """The publisher and its region on one side, the viewer and all others on the other one."""
    region = fleet.route("in")
    assert region is not None
    here = ("in", region)
    there = ("out", *(r for r in REGIONS if r != region))
    with (
        fleet.measured("a partition for 3 s") as gap,
        fleet.internet.dead(here, there),
        fleet.internet.dead(there, here),
    ):
        time.sleep(3)  # how long it lasts
    assert 2.5 < gap() < 3 + SOON_S
    wait_for(
        "one directory",
        lambda: all(len(fleet.json(r, "/v1/status")["directory"]) == 1 for r in REGIONS),
        PATIENCE,
    )


def test_the_cable_of_a_region_is_unplugged_for_a_moment(fleet: Fleet) -> None:
    region = fleet.route("out")
    assert region is not None
    with fleet.measured("the cable of the viewer's region out for 1 s") as gap:
        fleet.internet.unplug(region)
        time.sleep(1)  # how long it is out
        fleet.internet.plug(region)
    assert gap() < 1


@pytest.mark.parametrize("name", ["in", "out"])
def test_an_edge_is_started_anew(fleet: Fleet, name: str) -> None:
    with fleet.measured(f"restart of the edge {name}") as gap:
        assert fleet.nodes[name].end()[0] == 0
        fleet.start(name)
    assert gap() < 2 * SOON_S


def test_the_region_of_the_viewer_is_killed(fleet: Fleet) -> None:
    region = fleet.route("out")
    assert region is not None
    with fleet.measured("the viewer's region killed") as gap:
        fleet.nodes[region].kill()
    assert gap() < 1
    assert fleet.route("out") != region


def test_a_link_to_the_viewer_is_dead_in_one_direction(fleet: Fleet) -> None:
    region = fleet.route("out")
    assert region is not None
    since = time.monotonic()
    with (
        fleet.measured(f"from {region} to the viewer's edge nothing comes through") as gap,
        fleet.internet.dead((region,), ("out",)),
    ):
        fleet.media.wait("change of the region", since)
        assert fleet.route("out") != region
    assert gap() < 1


def test_the_region_of_the_publisher_is_stopped_and_goes_on(fleet: Fleet) -> None:
    """What it kept of the stream when it stopped is not sent to the player once more."""
    region = fleet.route("in")
    assert region is not None
    process = fleet.nodes[region].popen
    try:
        with fleet.measured("the publisher's region stopped (SIGSTOP)") as gap:
            process.send_signal(signal.SIGSTOP)
        assert gap() < 1
        assert fleet.route("in") != region
    finally:
        with fleet.measured("it goes on (SIGCONT)") as gap:
            process.send_signal(signal.SIGCONT)
    wait_for("sessions with it", lambda: fleet.peers(region) >= set(REGIONS) - {region}, PATIENCE)
    assert gap() < SOON_S
    assert fleet.media.duplicates() == 0


def test_a_region_drains(fleet: Fleet) -> None:
    region = fleet.route("out")
    assert region is not None
    node = fleet.nodes[region]
    with fleet.measured("the viewer's region drained") as gap:
        drained = fleet.machine(region).run(lambda: relay("drain", "--url", node.url))
    assert drained.returncode == 0, drained.stderr
    assert node.popen.wait(PATIENCE) == 0
    assert gap() < SOON_S
    assert fleet.route("out") != region


def test_a_revoked_region_is_left(fleet: Fleet) -> None:
    """Its key comes to one of the others, and all of them let it go at once."""
    region = fleet.route("out")
    others = {name for name in REGIONS if name != region}
    assert region is not None and others
    told = fleet.nodes[sorted(others)[0]]
    told.rewrite("[fleet]", f'[fleet]\nrevocations_file = "{fleet.keys.revoke(region)}"')
    with fleet.measured("the viewer's region revoked") as gap:
        told.popen.send_signal(signal.SIGHUP)
        wait_for("its end", lambda: all(region not in fleet.peers(name) for name in others | {"in", "out"}))
    assert gap() < SOON_S
