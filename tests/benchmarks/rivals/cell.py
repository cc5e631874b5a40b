"""One program over one link at one budget: both ends as processes, the link as the seeded UDP proxy."""

import asyncio
import socket
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from relay.lab.link import GilbertElliott, LinkConfig
from relay.lab.proxy import Direction, Proxy
from relay.lab.receiver import free_port
from relay.node import run_on_loop
from tests.benchmarks.peers.program import HOST, PeerError, Program
from tests.benchmarks.rivals.marks import BYTES, NS_PER_MS, PROBE, Fates, Marks, packet, quantile
from tests.benchmarks.rivals.programs import BUFFER, RIVALS, Ports, Rival, Setting

RATE = 400  # packets/s
PROBE_EVERY_S = 0.05
CONNECT_S = 30.0  # and no longer
REST_S = 1.0  # between the first probe that came through and the media
TAIL_S = 1.5  # after the last packet, beyond the budget and the round trip


@dataclass(frozen=True, slots=True)
class Terms:
    """What a program has to cope with."""

    link: str
    loss: float | GilbertElliott
    rtt_ms: int
    budget_ms: int
    seconds: float
    seed: int


@dataclass(frozen=True, slots=True)
class Outcome:
    fates: Fates
    connect_s: float
    """From the sending end's first datagram to the first packet that came out of the receiving end."""
    forward_ratio: float
    """IP bytes on the link over media bytes (RTP packets), from the media's start to the end."""
    back_ratio: float
    link_loss: float
    late_p99_ms: float
    """Of the proxy: how long after their time it sent datagrams on."""
    kernel_drops: int
    """Datagrams that the kernel dropped because the proxy did not read them: loss that no seed made."""


@dataclass(frozen=True, slots=True)
class Row:
    """A program under some terms, with what came of it or the reason why nothing did."""

    name: str
    terms: Terms
    outcome: Outcome | None
    failure: str = ""


def udp(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    sock.bind((HOST, port))
    return sock


class Media:
    """The encoder and the player: sends packets at their times, counts what comes out."""

    def __init__(self, ports: Ports, marks: Marks) -> None:
        self._to = (HOST, ports.source)
        self._marks = marks
        self._sequence = 0
        self._out = udp(0)
        self._player = udp(ports.player)

    async def __aenter__(self) -> "Media":
        asyncio.get_running_loop().add_reader(self._player, self._read)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._player)
        self._player.close()
        self._out.close()

    def send(self, number: int) -> None:
        self._out.sendto(packet(self._sequence, number, time.monotonic_ns()), self._to)
        self._sequence += 1

    async def play(self, count: int) -> None:
        """`count` packets at RATE; those that are late follow at once."""
        started = time.monotonic()
        for number in range(count):
            wait = started + number / RATE - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            self.send(number)

    def _read(self) -> None:
        while True:
            try:
                data = self._player.recv(65_535)
            except BlockingIOError:
                return
            self._marks.take(data, time.monotonic_ns())


@dataclass
class Watch:
    """What the proxy's hooks say."""

    first_s: float | None = None
    lateness: list[int] = field(default_factory=list)

    def datagram(self, direction: Direction, _: bytes, __: bool) -> None:
        if self.first_s is None and direction == "up":
            self.first_s = time.monotonic()


async def connected(media: Media, marks: Marks, watch: Watch, programs: list[Program]) -> float:
    """Seconds until a probe came through. Raises PeerError."""
    deadline = time.monotonic() + CONNECT_S
    while not marks.connected:
        if time.monotonic() > deadline:
            raise PeerError(f"nothing came through within {CONNECT_S:.0f} s")
        for program in programs:
            program.check()
        media.send(PROBE)
        await asyncio.sleep(PROBE_EVERY_S)
    return time.monotonic() - (watch.first_s or deadline)


async def measure(rival: Rival, terms: Terms) -> Outcome:
    """Raises PeerError when a program does not start, ends, or lets nothing through."""
    link = LinkConfig(delay_ms=terms.rtt_ms / 2, loss=terms.loss)
    ports = Ports(free_port(Ports.COUNT))
    count = int(terms.seconds * RATE)
    marks, watch = Marks(count, terms.rtt_ms * NS_PER_MS // 2), Watch()
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lab-peers-")))
        media = await stack.enter_async_context(Media(ports, marks))
        proxy = Proxy(
            (HOST, ports.link),
            (HOST, ports.receiver),
            link,
            link,
            terms.seed,
            on_datagram=watch.datagram,
            on_late=watch.lateness.append,
        )
        await stack.enter_async_context(proxy)
        commands = rival.ends(Setting(ports, terms.budget_ms, directory))
        programs = [
            stack.enter_context(Program(command, directory / f"{end}.log"))
            for end, command in zip(("receiver", "sender"), commands, strict=True)
        ]
        connect_s = await connected(media, marks, watch, programs)
        await asyncio.sleep(REST_S)
        up, down = (proxy.link(direction).counters for direction in ("up", "down"))
        before = up.sent, up.lost, up.sent_bytes, down.sent_bytes
        watch.lateness.clear()
        await media.play(count)
        await asyncio.sleep((terms.budget_ms + terms.rtt_ms) / 1000 + TAIL_S)
        for program in programs:
            program.check()
        return Outcome(
            fates=marks.fates(),
            connect_s=connect_s,
            forward_ratio=(up.sent_bytes - before[2]) / (count * BYTES),
            back_ratio=(down.sent_bytes - before[3]) / (count * BYTES),
            link_loss=(up.lost - before[1]) / max(1, up.sent - before[0]),
            late_p99_ms=quantile(watch.lateness, 0.99) or 0.0,
            kernel_drops=proxy.kernel_drops(),
        )


def run(number: int, terms: Terms) -> Row:
    """Of RIVALS[number]; in a process of its own, which functions cannot be sent to."""
    rival, outcomes = RIVALS[number], list[Outcome]()

    async def main() -> int:
        outcomes.append(await measure(rival, terms))
        return 0

    try:
        run_on_loop(main())
    except (PeerError, OSError) as error:
        return Row(rival.name, terms, None, str(error))
    return Row(rival.name, terms, outcomes[0])
