"""The simulated fleet at a small size, in worse weather than any."""

from dataclasses import replace

import pytest

from relay.core.directory import EXPIRE_NS
from relay.core.nearest import SECOND
from relay.core.routing import BETTER_MS
from relay.lab import fleet, traffic
from relay.lab.detour import by_measurement
from relay.lab.fleet import Size
from relay.lab.measured import SILENCE_MAX_MS, false_alarms_per_s, silence_ms
from relay.lab.roaming import Edge
from relay.lab.weather import Rates, Weather
from relay.lab.world import STRETCHES, World, city
from tests.sim.test_nearest import HOSTS, Regional

STORM = Rates(crashes=24, drains=24, bursts=60, shifts=30, cuts=20, partitions=48, flaps=12)


@pytest.mark.seeds(1, 2)
def test_a_stormy_hour(seed: int) -> None:
    got = fleet.run(Size(edges=16, regions=6, hours=0.5, seed=seed, rates=STORM))
    forced = [move for diary in got.diaries for move in diary.moves if move.cause in fleet.FORCED]
    taken_over = [gap.ms for gap in got.gaps(standby=True) if gap.cause in fleet.FORCED]
    assert len(forced) >= len(taken_over) > 5
    assert min(taken_over) >= 40 and max(taken_over) < SILENCE_MAX_MS + 300
    between = [gap.ms for gap in got.gaps(standby=True) if gap.cause not in fleet.FORCED]
    assert between and min(between) > 40 and max(between) < 2000
    agreed_s = got.agreement.partitions_s + got.agreement.restarts_s
    assert len(agreed_s) > 3 and max(agreed_s) <= EXPIRE_NS / SECOND + 5
    assert not got.agreement.counts["not agreed"]
    assert all(diary.began[1] and diary.began[0] <= 3 for diary in got.diaries)
    assert got.excess_ms[int(0.8 * len(got.excess_ms))] < BETTER_MS / 0.85


def test_in_calm_weather_streams_go_to_the_best_region_and_stay_there(seed: int) -> None:
    calm = Rates(crashes=0, drains=0, bursts=0, shifts=0, cuts=0, partitions=0, flaps=0)
    got = fleet.run(Size(edges=24, regions=8, hours=0.5, seed=seed, rates=calm))
    assert not any(diary.gaps for diary in got.diaries)
    assert got.moves() == {}
    assert got.excess_ms[-1] < 20
    assert got.agreement.counts["unsent"] == 0


def test_equal_seeds_give_equal_results_in_any_number_of_processes() -> None:
    size = Size(edges=20, regions=4, hours=0.25, seed=3, rates=STORM)
    one, two = fleet.run(size, 1), fleet.run(size, 2)
    assert one == two
    assert fleet.picture(one) == fleet.picture(two)
    assert one.diaries != fleet.run(replace(size, seed=4)).diaries


@pytest.mark.seeds(1, 2, 3)
def test_the_looks_that_are_left_out_change_nothing(seed: int) -> None:
    """In a storm; and in usual weather, with many regions that are only measured."""
    storm, usual = Weather(World(seed, 8), 0.3, STORM), Weather(World(seed, 20), 0.2, Rates())
    left_out = sum(_left_out(weather, edges) for weather, edges in ((storm, 3), (usual, 8)))
    assert left_out > 6000


def _left_out(weather: Weather, edges: int) -> int:
    homes = weather.world.homes(edges)
    left_out = 0
    for number, home in enumerate(homes):
        some = Edge(number, home, weather).run()
        every = Edge(number, home, weather, thrifty=False).run()
        left_out += every.counts["looks at regions"] - some.counts["looks at regions"]
        for diary in (some, every):
            del diary.counts["looks at regions"], diary.counts["looks at routes"]
        assert some.false_alarms == pytest.approx(every.false_alarms)
        assert replace(some, false_alarms=every.false_alarms) == every
    return left_out


def test_the_map() -> None:
    assert city("London").km(city("New York")) == pytest.approx(5570, rel=0.01)
    assert 1 <= STRETCHES[0] <= STRETCHES[len(STRETCHES) // 2] < 2
    world = World(1, 4)
    tokyo, dallas = city("Tokyo"), city("Dallas")
    assert world.delay_ms(tokyo, dallas) == world.delay_ms(dallas, tokyo) > tokyo.fibre_ms(dallas)
    share, extra_ms = by_measurement()
    assert (share.some, share.of) == (0, 45)
    assert extra_ms > BETTER_MS


@pytest.mark.seeds(1, 2, 3)
def test_a_crash_is_left_for_another_region_at_once(seed: int) -> None:
    """Nothing else happens, so that the diary can be read."""
    quiet = Rates(crashes=96, drains=0, bursts=0, shifts=0, cuts=0, partitions=0, flaps=0)
    weather = Weather(World(seed, 4), 1, quiet)
    crashes = {(r.name, spell.start_s) for r in weather.world.regions for spell in weather.regional(r)}
    diary = Edge(1, city("Toronto"), weather).run()
    forced = [move for move in diary.moves if move.cause == "crash"]
    assert forced
    assert all((move.old, move.at_s) in crashes for move in forced)
    taken_over = [gap for gap in diary.gaps if gap.standby]
    assert {gap.at_s for gap in taken_over} <= {move.at_s for move in forced}
    assert all(gap.cause == "crash" and 40 <= gap.ms < 400 for gap in taken_over)


def test_silence() -> None:
    assert silence_ms(0.0, 0.5, 2.5) == 40
    assert silence_ms(0.0, 10, 2.5) == 3 * 42.5
    assert silence_ms(0.3, 0.0, 2.5) == 3 * 8 * 2.5
    assert silence_ms(0.6, 0.5, 20) == SILENCE_MAX_MS
    assert false_alarms_per_s(0.3) * 86400 < 0.01
    assert false_alarms_per_s(0.0) == 0


def test_the_bytes_of_an_idle_session_are_those_of_real_nodes(seed: int) -> None:
    """Edge and region of the packet plane, while their keys are renewed twice."""
    nodes = Regional(seed, ["r1", "r2"])
    nodes.start_all()
    nodes.run(150)
    ends = HOSTS["edge"], HOSTS["r1"]

    def sent() -> int:
        return sum(nodes.network.link(a, b).counters.sent_bytes for a, b in (ends, ends[::-1]))

    before = sent()
    nodes.run(240)
    modelled = traffic.IDLE_BYTES_PER_S + 2 * traffic.DIGEST_BYTES
    assert (sent() - before) / 240 == pytest.approx(modelled, rel=0.15)
