"""What viewers go without when their region gets the stream no longer, since what is between it and the
stream's region is dead: told of that, an edge has the stream from another region (services/standby).

Reckoned from the diaries of edges (`roaming`) and the script of what fails (`weather`): each viewer watches
one publisher. Which region is a viewer's second one, and what it does until the link is back, is modelled.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from relay.core.nearest import KEEP
from relay.lab.measured import FAR_MS, SPACING_MS, Access, access, silence_ms, true_ms
from relay.lab.roaming import Diary, Gap
from relay.lab.weather import Conditions, Weather, at
from relay.lab.world import City, city

BETWEEN = ("cut", "partition")
"""What stops a link and neither of its ends (`weather.Conditions`)."""
Stay = tuple[int, int, str]
"""From, until before, and at which region a stream was."""


def gaps(weather: Weather, publisher: Diary, viewer: Diary) -> Iterator[Gap]:
    """Of that viewer's, those that neither its own link nor its publisher's has made."""
    line = access(weather.world.chance("edge", viewer.number))
    for start_s, end_s, has, gets in _together(_stays(weather, publisher), _stays(weather, viewer)):
        links = weather.conditions(city(gets), city(has)) if has != gets else ()
        for before, dead in pairwise(links):
            if start_s < dead.start_s < end_s and before.down and not dead.down and dead.why in BETWEEN:
                back = next((c.start_s for c in links if c.start_s > dead.start_s and c.down), end_s)
                noticed_ms = silence_ms(before.loss_ratio, before.jitter_ms, SPACING_MS)
                found_ms = _elsewhere_ms(weather, line, city(viewer.city), (has, gets), dead.start_s)
                cause = f"{dead.why} between regions"
                if found_ms is not None:
                    yield Gap(dead.start_s, noticed_ms + found_ms, cause, True)
                else:
                    yield Gap(dead.start_s, (min(back, end_s) - dead.start_s) * 1e3, cause, False)


def _stays(weather: Weather, diary: Diary) -> list[Stay]:
    began_s, first = diary.began
    starts = [(began_s, first), *((move.at_s, move.new) for move in diary.moves)] if first else []
    ends = [at_s for at_s, _ in starts[1:]] + [weather.end_s]
    return [(start_s, end_s, name) for (start_s, name), end_s in zip(starts, ends, strict=True)]


def _together(published: Iterable[Stay], viewed: Sequence[Stay]) -> Iterator[tuple[int, int, str, str]]:
    """While neither moved: the stream's region, and the viewer's."""
    for start_s, end_s, has in published:
        for since_s, until_s, gets in viewed:
            if max(start_s, since_s) < min(end_s, until_s):
                yield max(start_s, since_s), min(end_s, until_s), has, gets


def _elsewhere_ms(
    weather: Weather, line: Access, home: City, regions: tuple[str, str], at_s: int
) -> float | None:
    """From when the edge is told until media comes from another region: the second one has kept it, the third
    has to ask for it first; None: it comes to none of them. The word takes as long as the last packet did."""
    has, gets = regions
    near = {r: at(weather.conditions(home, r), at_s) for r in weather.world.regions}
    costs = {r: true_ms(line, now) for r, now in near.items() if r.name != gets}
    for n, region in enumerate(sorted(costs, key=lambda r: (costs[r], r.name))[: KEEP - 1]):
        way = at(weather.conditions(region, city(has)), at_s) if region.name != has else None
        if costs[region] >= FAR_MS or (way is not None and not way.down):
            continue
        if n == 0:
            return _rtt_ms(near[region], line)
        asks_ms = 2 * _rtt_ms(way) if way is not None else 0.0
        return 2 * _rtt_ms(near[region], line) + asks_ms
    return None


def _rtt_ms(now: Conditions, line: Access | None = None) -> float:
    """Of a link, with the edge's own line on top if it is an edge's."""
    return 2 * (now.delay_ms + now.queue_ms + (line.delay_ms if line is not None else 0.0))
