"""A map of the fleet: cities where edges stand and where regions are, and how far apart they are on the net.

Distance is the great circle, at the speed of light in fibre (200 km/ms), times a stretch factor for each
pair: cables go round, and routes through wherever networks meet. The factors are drawn from those of a
published measurement (MEASURED_RTT_MS), one a pair and independently of each other. Real detours share their
causes, so that this map has more pairs than a real one for which a third city is a short cut;
`relay.lab.detour` counts them on both.
"""

import random
from dataclasses import dataclass
from math import asin, cos, radians, sin, sqrt

FIBRE_KM_PER_MS = 200.0
EARTH_KM = 6371.0


@dataclass(frozen=True, slots=True)
class City:
    name: str
    latitude: float
    longitude: float
    """Degrees, east is positive."""
    continent: str
    people: float
    """Millions in and around it: how many edges stand there."""

    def km(self, other: "City") -> float:
        """Along the great circle (haversine)."""
        here, there = radians(self.latitude), radians(other.latitude)
        east = radians(other.longitude - self.longitude)
        half = sin((there - here) / 2) ** 2 + cos(here) * cos(there) * sin(east / 2) ** 2
        return 2 * EARTH_KM * asin(sqrt(half))

    def fibre_ms(self, other: "City") -> float:
        """One way by the shortest cable there could be."""
        return self.km(other) / FIBRE_KM_PER_MS


CITIES = (
    City("Washington", 38.9, -77.0, "America", 6),
    City("Frankfurt", 50.1, 8.7, "Europe", 3),
    City("Singapore", 1.35, 103.8, "Asia", 6),
    City("Sao Paulo", -23.5, -46.6, "South America", 22),
    City("Tokyo", 35.7, 139.7, "Asia", 37),
    City("San Francisco", 37.8, -122.4, "America", 7),
    City("London", 51.5, -0.1, "Europe", 14),
    City("Mumbai", 19.1, 72.9, "Asia", 21),
    City("Sydney", -33.9, 151.2, "Oceania", 5),
    City("Johannesburg", -26.2, 28.0, "Africa", 10),
    City("Dallas", 32.8, -96.8, "America", 8),
    City("Paris", 48.9, 2.4, "Europe", 11),
    City("Hong Kong", 22.3, 114.2, "Asia", 8),
    City("Stockholm", 59.3, 18.1, "Europe", 2),
    City("Toronto", 43.7, -79.4, "America", 6),
    City("Seoul", 37.6, 127.0, "Asia", 26),
    City("Madrid", 40.4, -3.7, "Europe", 7),
    City("Dubai", 25.2, 55.3, "Asia", 4),
    City("Santiago", -33.4, -70.7, "South America", 7),
    City("Chicago", 41.9, -87.6, "America", 9),
    City("New York", 40.7, -74.0, "America", 20),
    City("Los Angeles", 34.1, -118.2, "America", 13),
    City("Miami", 25.8, -80.2, "America", 6),
    City("Mexico City", 19.4, -99.1, "America", 22),
    City("Seattle", 47.6, -122.3, "America", 4),
    City("Bogota", 4.7, -74.1, "South America", 11),
    City("Lima", -12.0, -77.0, "South America", 11),
    City("Buenos Aires", -34.6, -58.4, "South America", 15),
    City("Rio de Janeiro", -22.9, -43.2, "South America", 13),
    City("Amsterdam", 52.4, 4.9, "Europe", 3),
    City("Milan", 45.5, 9.2, "Europe", 5),
    City("Warsaw", 52.2, 21.0, "Europe", 3),
    City("Istanbul", 41.0, 29.0, "Europe", 15),
    City("Athens", 38.0, 23.7, "Europe", 3),
    City("Cairo", 30.0, 31.2, "Africa", 21),
    City("Lagos", 6.5, 3.4, "Africa", 15),
    City("Nairobi", -1.3, 36.8, "Africa", 5),
    City("Cape Town", -33.9, 18.4, "Africa", 5),
    City("Casablanca", 33.6, -7.6, "Africa", 4),
    City("Tel Aviv", 32.1, 34.8, "Asia", 4),
    City("Riyadh", 24.7, 46.7, "Asia", 7),
    City("Karachi", 24.9, 67.0, "Asia", 16),
    City("Delhi", 28.6, 77.2, "Asia", 32),
    City("Chennai", 13.1, 80.3, "Asia", 12),
    City("Bangkok", 13.8, 100.5, "Asia", 11),
    City("Jakarta", -6.2, 106.8, "Asia", 34),
    City("Manila", 14.6, 121.0, "Asia", 24),
    City("Taipei", 25.0, 121.5, "Asia", 7),
    City("Osaka", 34.7, 135.5, "Asia", 19),
    City("Melbourne", -37.8, 145.0, "Oceania", 5),
    City("Perth", -31.9, 115.9, "Oceania", 2),
    City("Auckland", -36.8, 174.8, "Oceania", 2),
)
"""The first ones have regions, as many as are asked for."""
REGIONS_MAX = 20

MEASURED_IN = ("Dallas", "Toronto", "Washington", "Frankfurt", "London", "Madrid", "Osaka", "Sydney", "Tokyo")
MEASURED_RTT_MS = (
    (34,),
    (31, 19),
    (123, 92, 92),
    (114, 84, 76, 13),
    (119, 107, 90, 29, 27),
    (150, 171, 176, 234, 245, 259),
    (184, 214, 214, 250, 261, 275, 122),
    (143, 164, 167, 231, 243, 257, 9, 115),
    (144, 131, 119, 198, 188, 206, 291, 327, 287),
)
"""Mean round trips between the regions of a cloud, 28 September to 27 October 2024, each with those before
it; the last row is Sao Paulo. Source: IBM Cloud, VPC, "Network latency dashboards"."""


def city(name: str) -> City:
    return next(c for c in CITIES if c.name == name)


def measured() -> dict[tuple[str, str], float]:
    """Round trips in ms, by pair of cities in the order of the table."""
    names = (*MEASURED_IN, "Sao Paulo")
    return {
        (names[j], names[i + 1]): float(rtt)
        for i, row in enumerate(MEASURED_RTT_MS)
        for j, rtt in enumerate(row)
    }


STRETCHES = tuple(sorted(rtt / 2 / city(a).fibre_ms(city(b)) for (a, b), rtt in measured().items()))
"""How much longer than the shortest cable each of those is."""


class World:
    """`regions` of them, and how far every city is from each. Equal seeds give equal maps."""

    def __init__(self, seed: int, regions: int) -> None:
        if not 2 <= regions <= REGIONS_MAX:
            raise ValueError(f"2 to {REGIONS_MAX} regions")
        self.seed = seed
        self.regions = CITIES[:regions]

    def chance(self, *what: object) -> random.Random:
        """Random numbers for one thing, the same whatever else is drawn and in whatever process."""
        return random.Random(f"{self.seed} {' '.join(map(str, what))}")

    def pair(self, a: City, b: City) -> str:
        """What both ends call the pair."""
        return "-".join(sorted((a.name, b.name)))

    def delay_ms(self, a: City, b: City) -> float:
        """One way, without a queue. Half a millisecond is spent within the city."""
        return 0.5 + a.fibre_ms(b) * self.chance("stretch", self.pair(a, b)).choice(STRETCHES)

    def homes(self, edges: int) -> list[City]:
        """Where each edge stands: by the size of the cities."""
        return self.chance("homes").choices(CITIES, [c.people for c in CITIES], k=edges)
