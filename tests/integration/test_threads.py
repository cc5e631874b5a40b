"""Several engine threads: one port shared by receiver index, and streams that cross from one to another."""

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from relay.lab.receiver import free_port
from relay.services.engine import EngineService
from relay.services.shards import Shards
from relay.services.sockets import PortError, Sockets, open_udp
from relay.systemd import Manager
from relay_ext.shards import steer
from tests.integration.nodes import (
    Fleet,
    Sender,
    egress_toml,
    gaps,
    ingest_toml,
    received,
    receiver,
    rtp,
    sender,
    wait_for,
)

RATE = 300
BUDGET_MS = 1000  # so that a machine with other work to do may stand still for a while
QUIET = 1.5  # s without a packet, after which none will come
WAIT = 5.0  # s, after which a datagram counts as lost


def header(kind: int, index: int) -> bytes:
    return bytes([kind, 0, 0, 0]) + index.to_bytes(4, "big") + bytes(24)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("count", [2, 4, 16])
def test_datagrams_go_to_the_socket_that_their_index_names(host: str, count: int) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(open_udp((host, 0), reuse=True))
        steer(first.fileno(), count)
        name = first.getsockname()
        sockets = [first, *(stack.enter_context(open_udp(name[:2], reuse=True)) for _ in range(count - 1))]
        sources = [stack.enter_context(socket.socket(first.family, socket.SOCK_DGRAM)) for _ in range(4)]
        cases = [(header(kind, index), index % count) for kind in (4, 5, 6, 7, 255) for index in range(32)]
        cases += [(header(4, 0xFFFFFF00 + index), index % count) for index in range(32)]
        cases += [(header(kind, index), 0) for kind in (0, 1, 2, 3) for index in range(32)]
        cases += [(header(4, 1)[:length], 0) for length in range(8)]
        for i, (data, shard) in enumerate(cases):
            sources[i % 4].sendto(data, name)
            sockets[shard].settimeout(WAIT)
            assert sockets[shard].recv(100) == data, f"type {data[:1].hex()}, header {data[:8].hex()}"


def test_a_port_that_another_program_shares_is_in_use() -> None:
    shards = Shards(bytes(32), 2, slabs=16)
    service = EngineService(
        shards.planes, lambda event: None, pytest.fail, coalesce_us=0, sockets=Sockets(Manager({}, 0), {})
    )
    with open_udp(("127.0.0.1", 0), reuse=True) as taken, pytest.raises(PortError, match="is in use"):
        service.open_hop_port(0, taken.getsockname())
    bound = service.open_hop_port(0, ("127.0.0.1", 0))
    with pytest.raises(PortError, match="is in use"):
        open_udp(bound)
    service.stop()
    open_udp(bound).close()
    shards.close()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Callable[[int], Fleet]]:
    with ExitStack() as stack:

        def start(threads: int) -> Fleet:
            f = Fleet(tmp_path, loss=0.3, threads=threads, budget_ms=BUDGET_MS)
            stack.callback(f.stack.close)
            return f

        yield start


class Flow:
    """Media that goes on in a thread, until `end` gives what was sent."""

    def __init__(self, source: Sender) -> None:
        self._source = source
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._source.send(10)

    def end(self) -> int:
        self._stop.set()
        self._thread.join()
        return self._source.seq


@pytest.mark.parametrize("threads", [2, 4])
def test_streams_come_and_go_on_other_threads_while_media_runs(
    fleet: Callable[[int], Fleet], threads: int
) -> None:
    f = fleet(threads)
    assert engine_threads(f.edge.popen.pid) == sockets_on(f.edge_hop) == threads
    into = free_port(4)
    out = into + 2
    alone = f.edge_toml.read_text() + "\n", f.region_toml.read_text() + "\n"
    with (
        receiver(f.player) as player,
        receiver(out) as other_player,
        sender(f.ingest, rate=RATE) as source,
        sender(into, rate=RATE) as other_source,
    ):
        flow = Flow(source)
        try:
            for _ in range(2):  # the second time in places that have been used before
                f.region_toml.write_text(alone[1] + egress_toml("other", out))
                f.region.popen.send_signal(signal.SIGHUP)
                f.edge_toml.write_text(alone[0] + ingest_toml("other", into))
                f.edge.popen.send_signal(signal.SIGHUP)
                wait_for("second stream", lambda: sends(f, "other"))
                first = other_source.seq
                other_source.send(150)
                packets = received(other_player, QUIET)
                assert len(packets) >= 149 and gaps(packets) <= 1, told(f)
                assert packets[-1][12:] == rtp(0)[12:] and other_source.seq == first + 150
                f.edge_toml.write_text(alone[0])
                f.edge.popen.send_signal(signal.SIGHUP)
                wait_for("end of the second stream", lambda: f.edge.get("/v1/streams/other")[0] == 404)
        finally:
            count = flow.end()
        packets = received(player, QUIET)
        assert count > 100 and len(packets) >= count - 3 and gaps(packets) <= 2, told(f)
        engine = f.edge.json("/v1/status")["engine"]
        assert engine["mail_sent"] >= 300 and engine["mail_dropped"] == 0, engine
        flow = Flow(source)
        ends = [node.end() for node in (f.edge, f.region)]
        flow.end()
        assert [code for code, _ in ends] == [0, 0]
        assert max(seconds for _, seconds in ends) < 1.0, ends


def sends(f: Fleet, stream: str) -> bool:
    return f.edge.get(f"/v1/streams/{stream}")[0] == 200 and f.edge.sends(stream)


def told(f: Fleet) -> str:
    """What both nodes counted, for a failure."""
    found = [{n: v for n, v in node.json("/v1/status")["engine"].items() if v} for node in (f.edge, f.region)]
    return f"{found} {f.edge.json('/v1/hops')} {f.region.json('/v1/hops')} {f.region.json('/v1/streams')}"


def engine_threads(pid: int) -> int:
    names = [path.read_text().strip() for path in Path(f"/proc/{pid}/task").glob("*/comm")]
    return names.count("relay-engine")


def sockets_on(port: int) -> int:
    lines = Path("/proc/net/udp").read_text().splitlines()[1:]
    return [int(line.split()[1].split(":")[1], 16) for line in lines].count(port)
