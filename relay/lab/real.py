"""The links that the hop is held to, on real sockets: `python -m relay.lab.real`.

A cell is a process with two whole nodes, the seeded UDP proxy as the link between them, an encoder and a
player. The machine's own delays come on top of the link's, so a cell may be SLACK times worse than in virtual
time; how late the proxy was is in the table.
"""

import argparse
import asyncio
import logging
import os
import socket
import sys
import tempfile
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import TypeVar

from relay.core.figures import percentile
from relay.core.keys import private_key_file
from relay.lab.crossing import (
    AUDIO,
    MS,
    SECOND,
    STREAM,
    VIDEO,
    Media,
    Outcome,
    Place,
    Tally,
    Terms,
    configurations,
    outcome,
    reachable,
)
from relay.lab.demo import HOST, PORTS, Ports, connected, running
from relay.lab.grid import CELLS, HEADER, Cell, add_choice, begin_table, row
from relay.lab.proxy import Direction, Proxy
from relay.lab.receiver import free_port
from relay.log import configure
from relay.node import Node, run_on_loop
from relay.wire.hop import DatagramType

T = TypeVar("T")

SLACK = 3.0
REST_S = 1.0
"""Between the connection and the media."""
TAIL_S = 1.5
"""After the last packet, beyond the budget and the round trip."""
SETUP_S = 6.0
"""What a cell takes beside its media, about."""
SOCKET_BUFFER = 4 << 20
LATE_SLOTS, LATE_SLOT_NS = 1_000, 100_000


@dataclass(frozen=True, slots=True)
class Measured:
    """A cell on real sockets."""

    outcome: Outcome
    late_p99_ms: float | None
    """How long after their time the proxy sent datagrams on."""
    kernel_drops: int
    """Datagrams that the proxy read too late: loss that no seed made."""
    pacer_drops: int
    """Packets of all tracks that the edge dropped because it saw a bottleneck, though there is none."""


class Watch:
    """What the proxy's hooks say; what arrives is noted with its time only where `terms` ask for it."""

    def __init__(self, terms: Terms) -> None:
        self.media_ns: list[int] = []
        self.reports_ns: list[int] = []
        self.late = [0] * LATE_SLOTS
        self._noted = terms.link.outage_ms > 0
        self._delay_ns = round(terms.link.delay_ms * MS)

    def datagram(self, direction: Direction, payload: bytes, lost: bool) -> None:
        if lost or not self._noted:
            return
        if direction == "up" and payload[0] in (DatagramType.SOURCE, DatagramType.REPAIR):
            self.media_ns.append(time.monotonic_ns() + self._delay_ns)
        elif direction == "down" and payload[0] == DatagramType.REPORT:
            self.reports_ns.append(time.monotonic_ns() + self._delay_ns)

    def lateness(self, late_ns: int) -> None:
        self.late[min(late_ns // LATE_SLOT_NS, LATE_SLOTS - 1)] += 1

    def late_p99_ms(self) -> float | None:
        slot = percentile(self.late, 0.99)
        return None if slot is None else slot * LATE_SLOT_NS / MS


class Track:
    """The encoder and the player of a track."""

    def __init__(self, media: Media, seconds: float) -> None:
        self.tally = Tally(media, int(seconds * media.packets_per_second))
        self.sent_ns = array("q")
        self._player = _udp(media.player)
        asyncio.get_running_loop().add_reader(self._player, self._read)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._player)
        self._player.close()

    async def play(self) -> None:
        """Every packet at its time; those that are late follow at once."""
        media = self.tally.media
        started_ns = time.monotonic_ns()
        with _udp(0) as out:
            for number in range(len(self.tally.came)):
                wait_ns = started_ns + number * media.interval_ns - time.monotonic_ns()
                if wait_ns > 0:
                    await asyncio.sleep(wait_ns / SECOND)
                self.sent_ns.append(time.monotonic_ns())
                out.sendto(media.packet(number), (HOST, media.listen))

    def _read(self) -> None:
        while True:
            try:
                packet = self._player.recv(65_535)
            except BlockingIOError:
                return
            self.tally.take(packet)


def _udp(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
    sock.bind((HOST, port))
    return sock


@contextmanager
def tracks_of(terms: Terms, seconds: float) -> Iterator[list[Track]]:
    tracks = [Track(media, seconds) for media in terms.media]
    try:
        yield tracks
    finally:
        for track in tracks:
            track.close()


def placed(terms: Terms, ports: Ports) -> Terms:
    """The same on ports that are free."""
    at = {VIDEO: (ports.video, ports.player), AUDIO: (ports.audio, ports.player + 2)}
    return replace(terms, media=tuple(replace(m, listen=at[m][0], player=at[m][1]) for m in terms.media))


def _place(hop: int, ops: int, directory: Path) -> Place:
    key, file = os.urandom(32), directory / f"{hop}.key"
    file.touch(mode=0o600)
    file.write_text(private_key_file(key))
    return Place(f"{HOST}:{hop}", HOST, key, f'key_file = "{file}"', f'[ops]\nlisten = "{HOST}:{ops}"')


@dataclass(frozen=True, slots=True)
class Crossing:
    """Two nodes that are connected, the link between them, and the tracks to be played."""

    edge: Node
    region: Node
    link: Proxy
    tracks: list[Track]


@asynccontextmanager
async def crossing(
    terms: Terms, *, seconds: float, seed: int, directory: Path, watch: Watch
) -> AsyncIterator[Crossing]:
    """Ready for so many seconds of media. Raises RelayError when the nodes do not connect."""
    ports = Ports(free_port(PORTS))
    terms = placed(terms, ports)
    places = (
        _place(ports.edge, ports.edge_ops, directory),
        _place(ports.region, ports.region_ops, directory),
    )
    configs = configurations(terms, *places, f"{HOST}:{ports.link}")
    link = Proxy(
        (HOST, ports.link),
        (HOST, ports.region),
        terms.link,
        terms.link,
        seed,
        on_datagram=watch.datagram,
        on_late=watch.lateness,
    )
    async with running(configs[1]) as region, link, running(configs[0]) as edge:
        with tracks_of(terms, seconds) as tracks:
            await connected(edge, region, STREAM)
            await asyncio.sleep(REST_S)
            yield Crossing(edge, region, link, tracks)


async def play(terms: Terms, tracks: Sequence[Track]) -> None:
    """Send every track, and wait for what is still under way."""
    await asyncio.gather(*(track.play() for track in tracks))
    await asyncio.sleep(terms.budget_ms / 1000 + terms.link.delay_ms / 500 + TAIL_S)


async def measure(terms: Terms, *, seconds: float, seed: int, directory: Path) -> Measured:
    """Send every track for so long, and see what came. Raises RelayError when the nodes do not connect."""
    watch = Watch(terms)
    began_ns = time.monotonic_ns()
    async with crossing(terms, seconds=seconds, seed=seed, directory=directory, watch=watch) as run:
        await play(terms, run.tracks)
        counted = run.tracks[-1]
        beyond_help = 0
        if terms.link.outage_ms:
            sent_ns = [counted.sent_ns[number] for number in counted.tally.missing()]
            times = {"start_ns": began_ns, "end_ns": time.monotonic_ns()}
            beyond_help = len(sent_ns) - reachable(terms, sent_ns, watch, watch, **times)
        tallies = [track.tally for track in run.tracks]
        got = outcome(tallies, beyond_help, run.edge.machine, run.region.machine)
        drops = run.edge.machine.hop_statuses()[0]["drops"]
        return Measured(got, watch.late_p99_ms(), run.link.kernel_drops(), drops["dropped_media"])


def by_itself(measuring: Callable[[Path], Awaitable[T]]) -> T:
    """Run it with a directory for its files; for a process of its own, as loop and logging are set up."""
    configure("text", "error", sys.stderr)
    logging.captureWarnings(True)
    measured: list[T] = []

    async def main() -> int:
        with tempfile.TemporaryDirectory(prefix="relay-lab-") as name:
            measured.append(await measuring(Path(name)))
        return 0

    run_on_loop(main())
    return measured[0]


def run(seconds: float, seed: int, cell: Cell) -> Measured:
    """A cell, in a process of its own."""
    return by_itself(lambda directory: measure(cell.terms, seconds=seconds, seed=seed, directory=directory))


def table(cells: Sequence[Cell], *, seconds: float, seed: int, jobs: int) -> Iterator[tuple[Cell, Measured]]:
    """Each cell with what it is held to here, as soon as it is there."""
    with ProcessPoolExecutor(jobs, max_tasks_per_child=1) as pool:
        for cell, got in zip(cells, pool.map(partial(run, seconds, seed), cells), strict=True):
            yield replace(cell, target=cell.target.times(SLACK)), got


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m relay.lab.real", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of media a cell (60)")
    parser.add_argument("--seed", type=int, default=1, help="of the links (1)")
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time (2)")
    add_choice(parser)
    options = parser.parse_args()
    cells = [cell for cell in CELLS if cell.name in options.only]
    minutes = ceil(len(cells) / options.jobs) * (options.seconds + SETUP_S) / 60
    print(
        f"{len(cells)} cells of {options.seconds:g} s on real sockets, {options.jobs} at a time: "
        f"about {minutes:.0f} min",
        file=sys.stderr,
    )
    begin_table(f"{HEADER} proxy late p99 | dropped by kernel, pacer |")
    met = True
    for cell, got in table(cells, seconds=options.seconds, seed=options.seed, jobs=options.jobs):
        late = "-" if got.late_p99_ms is None else f"{got.late_p99_ms:.1f} ms"
        print(f"{row(cell, got.outcome)} {late} | {got.kernel_drops}, {got.pacer_drops} |", flush=True)
        met = met and not cell.target.missed(got.outcome)
    return 0 if met or not options.check else 1


if __name__ == "__main__":
    sys.exit(main())
