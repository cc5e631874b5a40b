"""The UDP proxy on loopback, under both event loops: what arrives is what the seed says."""

import asyncio
import json
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, Self

import pytest
import uvloop

from relay.lab.link import Link, LinkConfig, bursts, seeded
from relay.lab.proxy import Direction, Proxy, main, parse_address

LOCAL = ("127.0.0.1", 0)
LIMIT_S = 10.0  # only how long a failing test takes

Scenario = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    factory = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}[request.param]

    def runner(scenario: Scenario) -> None:
        async def limited() -> None:
            async with asyncio.timeout(LIMIT_S):
                await scenario()

        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(limited())

    return runner


class Peer:
    """A UDP socket that keeps what it receives, and sends it back if it is told to."""

    def __init__(self, address: tuple[str, int] = LOCAL, echo: bool = False) -> None:
        self.socket = socket.socket(
            socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM
        )
        self.socket.setblocking(False)
        try:
            self.socket.bind(address)
        except OSError:
            self.socket.close()
            raise
        self.address: tuple[str, int] = self.socket.getsockname()[:2]
        self.echo = echo
        self.received: list[bytes] = []
        self.sources: list[Any] = []
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self.socket, self._read)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self.socket)
        self.socket.close()

    def _read(self) -> None:
        payload, source = self.socket.recvfrom(65_535)
        self.received.append(payload)
        self.sources.append(source)
        if self.echo:
            self.socket.sendto(payload, source)
        self._changed.set()

    async def wait(self, count: int) -> list[bytes]:
        """What was received, once it is `count` datagrams."""
        while len(self.received) < count:
            self._changed.clear()
            await self._changed.wait()
        return self.received


class Fates:
    """Keeps what the proxy says of each datagram, so that a sender need never be ahead of it."""

    def __init__(self) -> None:
        self.lost: dict[Direction, list[bool]] = {"up": [], "down": []}
        self.sizes: list[int] = []
        self._changed = asyncio.Event()

    def __call__(self, direction: Direction, payload: bytes, lost: bool) -> None:
        self.lost[direction].append(lost)
        self.sizes.append(len(payload))
        self._changed.set()

    async def wait(self, direction: Direction, count: int) -> None:
        while len(self.lost[direction]) < count:
            self._changed.clear()
            await self._changed.wait()


def survivors(config: LinkConfig, seed: int, direction: str, count: int) -> list[int]:
    """What the same link lets through in virtual time."""
    link = Link[int](config, seeded(seed, direction))
    return [number for number in range(count) if link.send(0, 100, number)]


def test_each_client_gets_its_own_answers(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with (
            Peer(echo=True) as target,
            Proxy(LOCAL, target.address) as proxy,
            Peer() as one,
            Peer() as two,
        ):
            one.socket.sendto(b"from one", proxy.address)
            two.socket.sendto(b"x" * 9000, proxy.address)
            one.socket.sendto(b"", proxy.address)
            assert await one.wait(2) == [b"from one", b""]
            assert await two.wait(1) == [b"x" * 9000]
            assert {*one.sources, *two.sources} == {proxy.address}
            assert len(set(target.sources)) == 2  # as behind a NAT
            for direction in ("up", "down"):
                counters = proxy.link(direction).counters
                assert (counters.sent, counters.delivered, counters.sent_bytes) == (3, 3, 9008 + 3 * 28)
            assert proxy.counters.clients == 2
            assert proxy.kernel_drops() == 0

    run(scenario)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_seed_alone_says_which_datagrams_are_lost(run: Callable[[Scenario], None], seed: int) -> None:
    count = 400
    up, down = LinkConfig(delay_ms=5, loss=0.3), LinkConfig(delay_ms=5, loss=bursts(0.3, 4))
    through = survivors(up, seed, "up", count)
    back = [through[n] for n in survivors(down, seed, "down", len(through))]

    async def scenario() -> None:
        fates = Fates()
        async with (
            Peer(echo=True) as target,
            Proxy(LOCAL, target.address, up, down, seed, on_datagram=fates) as proxy,
            Peer() as client,
        ):
            for number in range(count):
                client.socket.sendto(number.to_bytes(2, "big"), proxy.address)
                await fates.wait("up", number + 1)
            await fates.wait("down", len(through))
            received = await client.wait(len(back))
            assert [int.from_bytes(payload, "big") for payload in received] == back
            assert [n for n, lost in enumerate(fates.lost["up"]) if not lost] == through
            assert fates.lost["down"].count(True) == proxy.link("down").counters.lost_random
            assert set(fates.sizes) == {2}

    run(scenario)


def test_nothing_is_delivered_early(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        config = LinkConfig(delay_ms=12.3)
        late_ns: list[int] = []
        async with (
            Peer(echo=True) as target,
            Proxy(LOCAL, target.address, config, config, on_late=late_ns.append) as proxy,
            Peer() as client,
        ):
            for number in range(20):
                start_ns = time.monotonic_ns()
                client.socket.sendto(b"ping", proxy.address)
                await client.wait(number + 1)
                assert time.monotonic_ns() - start_ns >= 24_600_000
        assert len(late_ns) == 40
        assert min(late_ns) >= 0

    run(scenario)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_what_arrives_while_a_batch_is_read_is_not_early_either(
    run: Callable[[Scenario], None], direction: Direction
) -> None:
    async def scenario() -> None:
        delayed = LinkConfig(delay_ms=20)
        async with Peer() as target, Peer() as client:
            sent_ns: list[int] = []

            def stall(of: Direction, payload: bytes, lost: bool) -> None:
                """A proxy that is held up for 5 ms within a batch, into which another datagram falls."""
                if of != direction or sent_ns or not target.sources:
                    return
                until_ns = time.monotonic_ns() + 5_000_000
                while (now_ns := time.monotonic_ns()) < until_ns:
                    pass
                sent_ns.append(now_ns)
                if direction == "up":
                    client.socket.sendto(b"second", proxy.address)
                else:
                    target.socket.sendto(b"second", target.sources[0])

            async with Proxy(LOCAL, target.address, delayed, delayed, on_datagram=stall) as proxy:
                client.socket.sendto(b"opens", proxy.address)
                await target.wait(1)
                if direction == "up":
                    client.socket.sendto(b"first", proxy.address)
                    await target.wait(3)
                else:
                    target.socket.sendto(b"first", target.sources[0])
                    await client.wait(2)
                assert time.monotonic_ns() - sent_ns[0] >= 20_000_000

    run(scenario)


def test_a_link_changes_at_run_time_and_what_is_under_way_stays(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        fates = Fates()
        async with (
            Peer() as target,
            Proxy(LOCAL, target.address, LinkConfig(delay_ms=30), on_datagram=fates) as proxy,
            Peer() as client,
        ):
            for number, config in enumerate((LinkConfig(delay_ms=30), LinkConfig(loss=1), LinkConfig())):
                proxy.set_link("up", config)
                client.socket.sendto(bytes([number]), proxy.address)
                await fates.wait("up", number + 1)
            assert await target.wait(2) == [bytes([0]), bytes([2])]
            assert fates.lost["up"] == [False, True, False]

    run(scenario)


def test_the_client_idle_for_the_longest_time_makes_room(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with (
            Peer(echo=True) as target,
            Proxy(LOCAL, target.address, max_clients=2) as proxy,
            Peer() as one,
            Peer() as two,
            Peer() as three,
        ):
            for count, peer in ((1, one), (1, two), (2, one), (1, three), (3, one)):
                peer.socket.sendto(b"x", proxy.address)
                await peer.wait(count)
            assert (proxy.counters.clients, proxy.counters.evicted_clients) == (3, 1)
            target.socket.sendto(b"late", target.sources[1])  # to the socket that client two had
            two.socket.sendto(b"back", proxy.address)
            assert await two.wait(2) == [b"x", b"back"]
            assert (proxy.counters.clients, proxy.counters.evicted_clients) == (4, 2)

    run(scenario)


def test_what_is_for_an_evicted_client_is_counted(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        fates = Fates()
        async with (
            Peer() as target,
            Proxy(LOCAL, target.address, LinkConfig(delay_ms=20), max_clients=1, on_datagram=fates) as proxy,
            Peer() as one,
            Peer() as two,
        ):
            one.socket.sendto(b"evicted", proxy.address)
            await fates.wait("up", 1)
            two.socket.sendto(b"stays", proxy.address)
            assert await target.wait(1) == [b"stays"]
            assert proxy.counters.send_errors == 1

    run(scenario)


def test_only_the_target_can_answer(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with (
            Peer(echo=True) as target,
            Proxy(LOCAL, target.address) as proxy,
            Peer() as client,
            Peer() as stranger,
        ):
            client.socket.sendto(b"one", proxy.address)
            await client.wait(1)
            stranger.socket.sendto(b"forged", target.sources[0])
            target.socket.sendto(b"two", target.sources[0])
            assert await client.wait(2) == [b"one", b"two"]
            assert proxy.counters.stray == 1

    run(scenario)


def test_closing_delivers_what_is_under_way(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        fates = Fates()
        async with Peer() as target, Peer() as client:
            proxy = Proxy(LOCAL, target.address, LinkConfig(delay_ms=50), on_datagram=fates)
            async with proxy:
                address = proxy.address
                for number in range(20):
                    client.socket.sendto(bytes([number]), address)
                await fates.wait("up", 20)
            assert await target.wait(20) == [bytes([n]) for n in range(20)]
            assert proxy.counters.abandoned == 0
            assert proxy.link("up").counters.delivered == 20
            await proxy.close()  # again: nothing
            async with Peer(address):  # the port is free
                pass

    run(scenario)


def test_closing_does_not_wait_for_ever(
    run: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.lab.proxy.DRAIN_LIMIT_S", 0.01)

    async def scenario() -> None:
        fates = Fates()
        async with Peer() as target, Peer() as client:
            proxy = Proxy(LOCAL, target.address, LinkConfig(delay_ms=3_600_000), on_datagram=fates)
            async with proxy:
                client.socket.sendto(b"x", proxy.address)
                await fates.wait("up", 1)
            assert proxy.counters.abandoned == 1

    run(scenario)


def test_a_target_that_comes_late_is_reached(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with Peer() as placeholder:
            address = placeholder.address
        fates = Fates()
        async with Proxy(LOCAL, address, on_datagram=fates) as proxy, Peer() as client:
            for number in range(3):  # each answered by an ICMP error
                client.socket.sendto(b"lost", proxy.address)
                await fates.wait("up", number + 1)
            async with Peer(address) as target:
                client.socket.sendto(b"there", proxy.address)
                assert await target.wait(1) == [b"there"]
            assert proxy.counters.send_errors == 0

    run(scenario)


def test_ipv6_and_both_families_at_once(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        try:
            peer = Peer(("::1", 0), echo=True)
        except OSError:
            pytest.skip("no IPv6 on loopback")
        async with peer as target, Proxy(("::", 0), target.address) as proxy, Peer() as client:
            port = proxy.address[1]
            client.socket.sendto(b"from IPv4", ("127.0.0.1", port))
            assert await client.wait(1) == [b"from IPv4"]
            async with Peer(("::1", 0)) as other:
                other.socket.sendto(b"from IPv6", ("::1", port))
                assert await other.wait(1) == [b"from IPv6"]
            assert proxy.link("up").counters.sent_bytes == 2 * (9 + 48)

    run(scenario)


def test_a_table_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="max_clients"):
        Proxy(LOCAL, LOCAL, max_clients=0)


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:7400", ("127.0.0.1", 7400)), ("[::1]:0", ("::1", 0)), ("host:65535", ("host", 65535))],
)
def test_addresses_are_parsed(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "host", ":7400", "host:", "host:x", "host:65536", "::1:7400", "[]:1", "h:-1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected HOST:PORT|in brackets"):
        parse_address(text)


def test_the_program_forwards_until_a_signal_and_prints_its_counters() -> None:
    async def scenario() -> None:
        async with Peer(echo=True) as target, Peer() as client:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "relay.lab.proxy", "--listen", "127.0.0.1:0", "--rtt", "10", "--burst", "4"),
                *("--target", f"127.0.0.1:{target.address[1]}"),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            assert process.stderr is not None
            port = int((await process.stderr.readline()).split()[-1])
            client.socket.sendto(b"ping", ("127.0.0.1", port))
            await client.wait(1)
            process.send_signal(signal.SIGTERM)
            out, err = await process.communicate()
            assert (process.returncode, err) == (0, b"")
            result = json.loads(out)
            assert result["up"]["delivered"] == result["down"]["delivered"] == result["clients"] == 1
            assert result["kernel_drops"] == 0

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_the_program_says_when_its_port_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(LOCAL)
        port = taken.getsockname()[1]
        assert main(["--listen", f"127.0.0.1:{port}", "--target", "127.0.0.1:9"]) == 1
    assert "proxy: " in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--loss", "2"], ["--listen", "nowhere"], ["--loss", "x"], ["--mtu", "0"]])
def test_the_program_refuses_wrong_arguments(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--listen", "127.0.0.1:0", "--target", "127.0.0.1:9", *wrong])
    assert exit_info.value.code == 2
    assert "error" in capsys.readouterr().err
