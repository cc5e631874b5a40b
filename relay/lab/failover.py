"""How long a player is without media when something on its way dies, and how often something alive is taken
for dead, in virtual time: `python -m relay.lab.failover`.

An edge publishes at region a, and could at c; a viewer's edge has the stream from b, and c ready, which both
have it from a. At a moment drawn from the seed, b or a dies, or a link. What the player gets is compared with
what was sent.
"""

import argparse
import base64
import logging
import os
import random
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from relay.config import parse
from relay.core.noise import public_key
from relay.lab.crossing import ENCODER, MS, PLAYER, SECOND, STREAM, VIDEO, Tally
from relay.lab.link import GilbertElliott, LinkConfig, bursts
from relay.lab.network import Network, Received, Sent
from relay.lab.virtual import Sink, Source, VirtualNode
from relay_ext.alarms import false_alarms

HOSTS = {"edge": "10.0.0.1", "a": "10.0.1.1", "b": "10.0.1.2", "c": "10.0.1.3", "out": "10.0.0.2"}
CALLS = {"edge": ("a", "c"), "a": (), "b": ("a",), "c": ("a", "b"), "out": ("b", "c")}
LEAD_NS = 3 * SECOND
"""To connect in, before media flows."""
SETTLED_NS = 4 * SECOND
"""After this much media the standby is ready and the link known; something dies within the next second."""
TAIL_NS = 2 * SECOND
BETWEEN, SECOND_BEST = LinkConfig(delay_ms=10), LinkConfig(delay_ms=15)
"""The other hops: the latter from the other edge to c."""
DEAD = LinkConfig(loss=1.0)


@dataclass(frozen=True, slots=True)
class Case:
    """Something that dies, and what must come of it."""

    name: str
    text: str
    near: LinkConfig
    """From the edge to its region, either way."""
    far: LinkConfig
    """To c."""
    dies: tuple[str, ...]
    """A process, or, of two, the link from the one to the other, that one way."""
    most_ms: tuple[float, float, float]
    """Median, 95th percentile and most of the gap, at most."""
    budget_ms: int = 200
    """Of each of the three hops: playout waits for three times this and 20 ms, at most."""
    edge: str = "out"
    """Whose region, or link, it is: the viewer's, or the publisher's ("edge")."""


def _link(rtt_ms: float, loss: float = 0.0) -> LinkConfig:
    return LinkConfig(delay_ms=rtt_ms / 2, loss=loss)


NONE = float("inf")
NEAR_MS = (110.0, 140.0, 220.0)
"""With a backup within 30 ms."""
FAR_MS = (NONE, 300.0, NONE)
LOSSY = (
    LinkConfig(delay_ms=10, jitter_ms=10, loss=0.05),
    LinkConfig(delay_ms=15, jitter_ms=10, loss=0.05),
)
CASES = (
    Case("F1", "region killed, backup RTT 30", _link(20), _link(30), ("b",), NEAR_MS),
    Case("F1", "link dead one way, backup RTT 30", _link(20), _link(30), ("b", "out"), NEAR_MS),
    Case("F1", "link between regions dead", _link(20), _link(30), ("a", "b"), NEAR_MS),
    Case("F1", "both links lose 5 %, jitter 10 ms", *LOSSY, ("b",), NEAR_MS),
    Case("F1", "publisher's region killed", _link(20), _link(30), ("a",), NEAR_MS, edge="edge"),
    Case("F1", "link to it dead one way", _link(20), _link(30), ("edge", "a"), NEAR_MS, edge="edge"),
    Case("F1", "link from it dead one way", _link(20), _link(30), ("a", "edge"), NEAR_MS, edge="edge"),
    Case("F1", "killed, both links as above", *LOSSY, ("a",), NEAR_MS, edge="edge"),
    Case("F1", "link to it dead, both as above", *LOSSY, ("edge", "a"), NEAR_MS, edge="edge"),
    Case("F3", "region killed, playout of 245 ms", _link(20), _link(30), ("b",), NEAR_MS, 75),
    Case("F3", "publisher's, playout of 245 ms", _link(20), _link(30), ("a",), NEAR_MS, 75, "edge"),
    Case("F2", "publisher's, backup RTT 200", _link(20), _link(200), ("a",), FAR_MS, edge="edge"),
    Case("F2", "region killed, backup RTT 200", _link(20), _link(200), ("b",), FAR_MS),
    Case("F2", "link dead one way, backup RTT 200", _link(20), _link(200), ("b", "out"), FAR_MS),
    Case("F2", "link between regions dead, backup RTT 200", _link(20), _link(200), ("a", "b"), FAR_MS),
)


@dataclass(frozen=True, slots=True)
class Gap:
    """What one failure cost."""

    ms: float
    """Between two packets at the player, the longest there was from the failure on."""
    lost: int
    """Packets that never came."""
    twice: int
    """That came twice."""


class Listener(Tally):
    """A player that remembers when packets came, and how often."""

    def __init__(self, network: Network, count: int) -> None:
        super().__init__(VIDEO, count)
        self.times_ns: list[int] = []
        network.attach(self, 0, (PLAYER, VIDEO.player))
        Sink(network, (PLAYER, VIDEO.player + 1))

    def receive(self, now_ns: int, datagrams: list[Received]) -> None:
        for _, _, data in datagrams:
            self.take(data)
            self.times_ns.append(now_ns)

    def poll(self, now_ns: int) -> tuple[list[Sent], int | None]:
        return [], None


def _config(name: str, keys: dict[str, bytes], budget_ms: int) -> str:
    lines = [f'[node]\nname = "{name}"\nrole = "{"region" if len(name) == 1 else "edge"}"']
    lines.append(f'[hop]\nlisten = "0.0.0.0:7400"\nbudget_ms = {budget_ms}')
    for peer in (p for p in HOSTS if p in CALLS[name] or name in CALLS[p]):
        public = base64.b64encode(public_key(keys[peer])).decode()
        lines.append(f'[[hop.peers]]\nname = "{peer}"\npublic_key = "{public}"')
        if peer in CALLS[name]:
            lines.append(f'address = "{HOSTS[peer]}:7400"')
    track = f'kind = "video", payload_type = {VIDEO.payload_type}, codec = "{VIDEO.codec}"'
    if name == "edge":
        tracks = f'{{ {track}, listen = "0.0.0.0:{VIDEO.listen}" }}'
        lines.append(f'[[ingest.rtp]]\nstream = "{STREAM}"\ntracks = [ {tracks} ]')
    if name == "out":
        to = f'{{ kind = "video", address = "{PLAYER}:{VIDEO.player}" }}'
        lines.append(f'[[egress.rtp]]\nstream = "{STREAM}"\nto = [ {to} ]')
    return "\n".join(lines)


def fail(case: Case, seed: int) -> Gap:
    """One failure of a kind, at a moment that follows from the seed."""
    chance, network = random.Random(seed), Network(seed)
    keys = {name: chance.randbytes(32) for name in HOSTS}
    for name, peers in CALLS.items():
        for peer in peers:
            near, far = (case.near, case.far) if name == case.edge else (BETWEEN, SECOND_BEST)
            link = far if len(name) > 1 and peer == "c" else near
            network.set_link(HOSTS[name], HOSTS[peer], link)
            network.set_link(HOSTS[peer], HOSTS[name], link)
    nodes = {
        name: VirtualNode(
            network,
            HOSTS[name],
            parse(_config(name, keys, case.budget_ms), {}),
            static=keys[name],
            seed=seed * 16 + i,
        )
        for i, name in enumerate(HOSTS)
    }
    count = (SETTLED_NS + SECOND + TAIL_NS) // VIDEO.interval_ns
    player = Listener(network, count)
    Source(
        network,
        (ENCODER, VIDEO.listen),
        (HOSTS["edge"], VIDEO.listen),
        VIDEO.packet,
        start_ns=LEAD_NS,
        interval_ns=VIDEO.interval_ns,
        count=count,
    )
    dies_ns = LEAD_NS + SETTLED_NS + chance.randrange(SECOND)
    network.run(dies_ns)
    match case.dies:
        case (process,):
            nodes[process].stop()
        case (source, to):
            network.set_link(HOSTS[source], HOSTS[to], DEAD)
    network.run(LEAD_NS + SETTLED_NS + SECOND + TAIL_NS + SECOND)
    since = [at_ns for at_ns in player.times_ns if at_ns >= dies_ns - 100 * MS]
    longest_ns = max(b - a for a, b in pairwise(since))
    twice = len(player.times_ns) - sum(player.came)
    return Gap(longest_ns / MS, len(player.missing()), twice)


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def gap_row(case: Case, gaps: Sequence[Gap]) -> tuple[str, bool]:
    """A line of the table, and whether the targets are met."""
    ms = [gap.ms for gap in gaps]
    got = (quantile(ms, 0.5), quantile(ms, 0.95), max(ms))
    lost, twice = sum(gap.lost for gap in gaps), sum(gap.twice for gap in gaps)
    met = all(a <= b for a, b in zip(got, case.most_ms, strict=True)) and lost == twice == 0
    asked = " / ".join("-" if most == NONE else f"{most:g}" for most in case.most_ms)
    figures = " / ".join(f"{value:.0f}" for value in got)
    return (
        f"| {case.name} | {case.text} | {len(gaps)} | {figures} | {asked} | {lost} | {twice} | "
        f"{'yes' if met else 'NO'} |",
        met,
    )


# ---- alarms ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Day:
    """A hop that works all day."""

    text: str
    loss: float | GilbertElliott
    jitter_ms: float
    flow: str
    """A key of FLOWS."""

    def alarms(self, seed: int, seconds: float = 86400.0) -> tuple[int, int]:
        """False alarms, and datagrams."""
        packets, on, off = FLOWS[self.flow]
        loss = (
            self.loss if isinstance(self.loss, GilbertElliott) else GilbertElliott(self.loss, 1 - self.loss)
        )
        return false_alarms(
            seconds=seconds,
            packets_per_second=packets,
            on_seconds=on,
            off_seconds=off,
            good_bad=loss.p_good_bad,
            bad_good=loss.p_bad_good,
            jitter_ms=self.jitter_ms,
            seed=seed,
        )


FLOWS = {
    "400 packets/s": (400.0, 60.0, 0.0),
    "400 packets/s, every minute a pause of 10 s": (400.0, 50.0, 10.0),
    "50 packets/s": (50.0, 60.0, 0.0),
    "no media": (400.0, 1.0, 2 * 86400.0),
}
"""Packets a second, seconds of media, seconds of pause."""
LINKS = (
    ("1 %, jitter 30 ms", 0.01, 30.0),
    ("30 %", 0.3, 0.0),
    ("30 % in bursts of 4", bursts(0.3, 4), 0.0),
)
DAYS = tuple(Day(text, loss, jitter, flow) for text, loss, jitter in LINKS for flow in FLOWS)


def day_row(day: Day, counted: Sequence[tuple[int, int]]) -> tuple[str, bool]:
    alarms = sum(n for n, _ in counted) / len(counted)
    datagrams = sum(n for _, n in counted) / len(counted) / 1e6
    met = alarms < 1
    return (
        f"| F5 | {day.text} | {day.flow} | {datagrams:.1f} M | {alarms:.2f} | {'yes' if met else 'NO'} |",
        met,
    )


# ---- the command -----------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m relay.lab.failover", description=__doc__)
    parser.add_argument("--runs", type=int, default=40, help="failures of each kind")
    parser.add_argument("--days", type=int, default=5, help="days of each link")
    parser.add_argument("--seed", type=int, default=1, help="of the first run and day")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    args = parser.parse_args(argv)
    logging.getLogger("relay").setLevel(logging.ERROR)
    ok = True
    print("| | what dies | runs | gap p50 / p95 / most, ms | target | packets lost | twice | met |")
    print("|---|---|---|---|---|---|---|---|")
    for case in CASES:
        with ProcessPoolExecutor(args.jobs) as pool:
            gaps = list(pool.map(partial(fail, case), range(args.seed, args.seed + args.runs)))
        line, met = gap_row(case, gaps)
        ok = ok and met
        print(line, flush=True)
    print("\n| | link | media | datagrams a day | false alarms a day | met |\n|---|---|---|---|---|---|")
    for day in DAYS:
        line, met = day_row(day, [day.alarms(seed) for seed in range(args.seed, args.seed + args.days)])
        ok = ok and met
        print(line, flush=True)
    return 0 if ok or not args.check else 1


if __name__ == "__main__":
    sys.exit(main())
