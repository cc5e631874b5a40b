"""The engine on real sockets of the loopback interface: a plane with ingest tracks and plain RTP egress."""

import asyncio
import errno
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from relay.services.engine import EngineService
from relay.services.sockets import PortError, Sockets, open_udp
from relay.systemd import Manager
from relay_ext.control import EVENT_SOURCE, PORT_EGRESS, PORT_RTP, Plane
from relay_ext.engine import Engine

KEY = bytes(32)
PAYLOAD_TYPE = 96
OUT = 0  # the port that egress is sent from; ingest ports are 1, 2, ...
SOL_UDP, UDP_SEGMENT = 17, 103
SO_TIMESTAMPNS = 35
WAIT = 5.0  # s, after which a packet counts as lost
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def rtp(seq: int, body: bytes = b"") -> bytes:
    return struct.pack("!BBHII", 0x80, PAYLOAD_TYPE, seq & 0xFFFF, seq * 3000 & 0xFFFFFFFF, 0x1234) + body


def bound(family: int = socket.AF_INET) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(WAIT)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind((LOOPBACK[socket.AddressFamily(family)], 0))
    return sock


class Bench:
    """A plane with its engine, and the sockets around it: `add` makes an ingest port with its receivers."""

    def __init__(self, family: int = socket.AF_INET, **options: Any) -> None:
        self.family = family
        self.plane = Plane(KEY, now_ns=time.monotonic_ns())
        self.engine = Engine(self.plane, **options)
        self.sockets: list[socket.socket] = []
        self.plane.set_port(OUT, PORT_EGRESS)
        self.engine.add_port(OUT, self.keep(bound(family)))
        self.sender = self.keep(socket.socket(family, socket.SOCK_DGRAM))
        self.ingest: dict[int, Any] = {}

    def keep(self, sock: socket.socket) -> socket.socket:
        self.sockets.append(sock)
        return sock

    def add(self, number: int, *receivers: socket.socket) -> None:
        track = self.plane.add_track(clock_rate=90000, hold_us=100_000, payload_type=PAYLOAD_TYPE)
        self.plane.set_port(number, PORT_RTP, track)
        for receiver in receivers:
            to = receiver.getsockname()[:2]
            self.plane.add_egress(track, OUT, to, to, ssrc=7, seq=0, timestamp=0, cname=b"relay")
        sock = self.keep(bound(self.family))
        self.engine.add_port(number, sock)  # when it returns, the commands above have been carried out
        self.ingest[number] = sock.getsockname()

    def receiver(self) -> socket.socket:
        return self.keep(bound(self.family))

    def send(self, number: int, datagram: bytes, segment: int = 0) -> None:
        """With `segment`, the kernel cuts the bytes into datagrams of that size (UDP_SEGMENT)."""
        self.sender.setsockopt(SOL_UDP, UDP_SEGMENT, segment)
        self.sender.sendto(datagram, self.ingest[number])

    def stop(self) -> dict[str, int]:
        self.engine.stop()
        return self.engine.counters()


@contextmanager
def bench(family: int = socket.AF_INET, **options: Any) -> Iterator[Bench]:
    b = Bench(family, **options)
    try:
        yield b
    finally:
        b.engine.stop()
        b.plane.close()
        for sock in b.sockets:
            sock.close()
    assert b.plane.slabs_in_use == 0


def bodies(sock: socket.socket, n: int) -> list[bytes]:
    return [sock.recv(2048)[12:] for _ in range(n)]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("gro", [True, False], ids=["gro", "no-gro"])
@pytest.mark.parametrize("gso", [True, False], ids=["gso", "no-gso"])
@pytest.mark.parametrize("coalesce_us", [0, 100])
def test_forwards_every_byte_in_order(family: int, gro: bool, gso: bool, coalesce_us: int) -> None:
    with bench(family, gro=gro, gso=gso, coalesce_us=coalesce_us) as b:
        receiver = b.receiver()
        b.add(1, receiver)
        b.engine.start()
        sent = []
        for first in range(0, 1000, 50):
            run = [bytes([i % 251]) * 1000 for i in range(first, first + 49)] + [b"last" * (first // 10)]
            b.send(1, b"".join(rtp(first + i, body) for i, body in enumerate(run)), segment=1012)
            assert bodies(receiver, 50) == run
            sent += run
        counters = b.stop()
        assert counters["rx_datagrams"] == counters["tx_datagrams"] == len(sent)
        assert counters["rx_bytes"] == counters["tx_bytes"] == sum(12 + len(body) for body in sent)
        assert (counters["rx_gro_datagrams"] > 0) == gro
        assert (counters["tx_gso_datagrams"] > 0) == gso
        assert counters["tx_gso_fallbacks"] == counters["rx_kernel_drops"] == 0


def test_fan_out_keeps_order_and_gathers() -> None:
    with bench() as b:
        receivers = [b.receiver() for _ in range(50)]
        b.add(1, *receivers)
        b.engine.start()
        run = [bytes([i]) * 1000 for i in range(40)]
        b.send(1, b"".join(rtp(i, body) for i, body in enumerate(run)), segment=1012)
        for receiver in receivers:
            assert bodies(receiver, 40) == run
        counters = b.stop()
        assert counters["tx_datagrams"] == 2000
        assert counters["tx_messages"] < 200  # 50 destinations, and a flush more when the queue is half full


def test_a_datagram_that_no_slab_holds_is_counted_and_the_next_one_passes() -> None:
    with bench() as b:
        receiver = b.receiver()
        b.add(1, receiver)
        b.engine.start()
        for i, size in enumerate([65507, 40000, 2100, 0, 1]):
            b.send(1, bytes(size))
            b.send(1, rtp(i, b"next"))
            assert bodies(receiver, 1) == [b"next"]
        counters = b.stop()
        assert counters["rx_oversized"] == 3
        assert counters["rx_truncated"] == 0
        assert counters["rx_datagrams"] == 10


def test_what_cannot_be_sent_is_counted_by_reason_and_holds_nothing_up() -> None:
    with bench() as b:
        receiver = b.receiver()
        good = receiver.getsockname()
        b.engine.start()
        b.plane.send_datagram(OUT, ("255.255.255.255", 9), b"a socket without SO_BROADCAST")
        b.plane.send_datagram(OUT, ("::1", 9), b"an IPv4 socket")
        b.plane.send_datagram(999, good, b"no such port")
        b.plane.send_datagram(OUT, ("192.0.2.1", 9), b"a socket bound to the loopback address")
        b.plane.send_datagram(OUT, good, b"this one")
        assert receiver.recv(2048) == b"this one"
        counters = b.stop()
        assert counters["tx_forbidden"] == 1
        assert counters["tx_wrong_family"] == 1
        assert counters["tx_no_port"] == 1
        assert counters["tx_unreachable"] + counters["tx_other_errors"] == 1
        assert counters["tx_datagrams"] == 1


def test_a_receiver_that_has_gone_does_not_stop_the_others() -> None:
    with bench() as b:
        gone, receiver = bound(), b.receiver()
        b.add(1, gone, receiver)
        gone.close()
        b.engine.start()
        for i in range(100):
            b.send(1, rtp(i, b"body"))
        assert bodies(receiver, 100) == [b"body"] * 100
        assert b.engine.alive


def test_ports_come_and_go_while_packets_flow() -> None:
    with bench() as b:
        steady = b.receiver()
        b.add(1, steady)
        b.engine.start()
        for i in range(50):
            other = b.receiver()
            b.add(2 + i, other)
            b.send(1, rtp(i, b"steady"))
            b.send(2 + i, rtp(i, b"other"))
            assert bodies(steady, 1) == [b"steady"]
            assert bodies(other, 1) == [b"other"]
            b.engine.remove_port(2 + i)
            with pytest.raises(ValueError, match="no port number"):
                b.engine.remove_port(2 + i)


def test_ports_are_checked() -> None:
    with bench() as b, socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp, bound() as udp:
        with pytest.raises(ValueError, match="UDP socket"):
            b.engine.add_port(1, tcp)
        with pytest.raises(ValueError, match="in use"):
            b.engine.add_port(OUT, udp)
        with pytest.raises(ValueError, match="counted from 0"):
            b.engine.add_port(4096, udp)
        with pytest.raises(ValueError, match="coalesce_us"):
            Engine(b.plane, coalesce_us=-1)
        b.engine.start()
        with pytest.raises(RuntimeError, match="cannot be started"):
            b.engine.start()
        b.engine.stop()
        b.engine.stop()
        with pytest.raises(RuntimeError, match="stopped"):
            b.engine.add_port(1, udp)


def test_mtu_probing_sets_the_option_of_both_families() -> None:
    with bench(socket.AF_INET6) as b, open_udp(("::", 0)) as sock:
        b.engine.add_port(1, sock, probe_mtu=True)
        assert sock.getsockopt(socket.IPPROTO_IPV6, 23) == 3
        assert sock.getsockopt(socket.IPPROTO_IP, 10) == 3


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_hundred_lives_leave_nothing_behind() -> None:
    def live() -> None:
        with bench() as b:
            receiver = b.receiver()
            b.add(1, receiver)
            b.engine.start()
            b.send(1, rtp(0, b"body"))
            assert bodies(receiver, 1) == [b"body"]

    for _ in range(10):
        live()
    files, threads, memory = len(os.listdir("/proc/self/fd")), threading.active_count(), resident_bytes()
    for _ in range(100):
        live()
    assert len(os.listdir("/proc/self/fd")) == files
    assert threading.active_count() == threads
    deadline = time.monotonic() + WAIT  # join returns a moment before the kernel's thread has ended
    while len(os.listdir("/proc/self/task")) > threads:
        assert time.monotonic() < deadline
    assert resident_bytes() - memory < 4 << 20


# Sends `count` RTP packets, `rate` a second, each with the time at which it is sent.
LOAD = """
import socket, struct, sys, time
port, rate, count = map(int, sys.argv[1:])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("ready", flush=True)
sys.stdin.readline()
start = time.monotonic()
for seq in range(count):
    while rate and time.monotonic() < start + seq / rate:
        time.sleep(0.0005)
    head = struct.pack("!BBHII", 0x80, 96, seq & 0xFFFF, seq * 3000 & 0xFFFFFFFF, 0x1234)
    sock.sendto(head + struct.pack("!IQ", seq, time.time_ns()) + bytes(200), ("127.0.0.1", port))
"""


@contextmanager
def load(port: int, rate: int, count: int) -> Iterator[Callable[[], None]]:
    """A process that loads `port`; what it yields lets it begin."""
    command = [sys.executable, "-c", LOAD, str(port), str(rate), str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        stdin = child.stdin
        child.stdout.readline()

        def begin() -> None:
            stdin.write("\n")
            stdin.flush()

        try:
            yield begin
        finally:
            child.terminate()


def hold_the_gil(seconds: float) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60.0)
    try:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass
    finally:
        sys.setswitchinterval(interval)


def test_a_stalled_interpreter_neither_loses_nor_delays_packets() -> None:
    count = 1500
    with bench() as b, ExitStack() as stack:
        receiver = b.receiver()
        receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        b.add(1, receiver)
        b.engine.start()
        begin = stack.enter_context(load(b.ingest[1][1], 4000, count))
        begin()
        delays = []
        for i in range(count):
            if i == 100:
                hold_the_gil(0.2)
            data, ancillary, _, _ = receiver.recvmsg(2048, 64)
            seq, sent = struct.unpack_from("!IQ", data, 12)
            assert seq == i
            seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
            delays.append(seconds * 1_000_000_000 + nanoseconds - sent)
        # Held up by the stall they would be up to 200 ms late. A busy machine costs some as well.
        assert sorted(delays)[int(count * 0.99)] < 20_000_000


def test_stops_at_once_under_load() -> None:
    with bench() as b, ExitStack() as stack:
        receiver = b.receiver()
        b.add(1, receiver)
        b.engine.start()
        begin = stack.enter_context(load(b.ingest[1][1], 0, 1_000_000))
        begin()
        for _ in range(100):
            receiver.recv(2048)
        start = time.monotonic()
        b.engine.stop()
        assert time.monotonic() - start < 0.1
        assert not b.engine.alive
        assert b.engine.error is None


def test_events_reach_the_event_loop_even_when_the_handler_fails() -> None:
    plane = Plane(KEY, now_ns=time.monotonic_ns())
    track = plane.add_track(clock_rate=90000, hold_us=100_000, payload_type=PAYLOAD_TYPE)
    plane.set_port(1, PORT_RTP, track)
    events: list[Any] = []
    errors: list[Any] = []
    told = asyncio.Event()

    def on_event(event: Any) -> None:
        events.append(event)
        raise ValueError("the handler is broken")

    def on_error(_: Any, context: dict[str, Any]) -> None:
        errors.append(context["exception"])
        told.set()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(on_error)
        running = EngineService(
            [plane], on_event, pytest.fail, coalesce_us=0, sockets=Sockets(Manager({}, 0), {})
        )
        address = running.open_port(1, ("127.0.0.1", 0))
        running.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(rtp(0), address)
        await asyncio.wait_for(told.wait(), WAIT)
        running.close_port(1)
        running.stop()

    asyncio.run(main())
    plane.close()
    assert [event[0] for event in events] == [EVENT_SOURCE]
    assert isinstance(errors[0], ValueError)


def test_the_death_of_the_thread_is_told() -> None:
    def epolls() -> set[int]:
        found = set()
        for name in os.listdir("/proc/self/fd"):
            try:
                if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventpoll]":
                    found.add(int(name))
            except FileNotFoundError:  # the one that listed them
                pass
        return found

    before = epolls()
    plane = Plane(KEY, now_ns=time.monotonic_ns())

    async def main() -> None:
        failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        others = epolls()
        running = EngineService(
            [plane],
            lambda event: None,
            failure.set_result,
            coalesce_us=0,
            sockets=Sockets(Manager({}, 0), {}),
        )
        (own,) = epolls() - others
        running.start()
        os.dup2(running.engines[0].event_fd, own)  # no epoll any more
        plane.send_datagram(0, ("127.0.0.1", 9), b"a turn of the loop")
        assert os.strerror(errno.EINVAL) in await asyncio.wait_for(failure, WAIT)
        assert not running.engines[0].alive
        running.stop()

    asyncio.run(main())
    plane.close()
    assert epolls() == before


def test_open_udp_serves_both_families() -> None:
    with open_udp(("::", 0)) as sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sock.settimeout(WAIT)
        sender.sendto(b"over IPv4", ("127.0.0.1", sock.getsockname()[1]))
        assert sock.recv(100) == b"over IPv4"


def test_open_udp_shares_a_port_when_asked() -> None:
    with ExitStack() as stack:
        one = stack.enter_context(open_udp(("127.0.0.1", 0), reuse=True))
        two = stack.enter_context(open_udp(one.getsockname(), reuse=True))
        assert one.getsockname() == two.getsockname()


def test_open_udp_uses_one_interface_when_asked() -> None:
    with open_udp(("::", 0), interface="lo") as sock:
        name = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
        assert name.rstrip(b"\0") == b"lo"
    with pytest.raises(PortError, match="No such device"):
        open_udp(("::", 0), interface="none0")


def test_open_udp_says_what_is_wrong() -> None:
    with open_udp(("::1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortError, match=rf"\[::1\]:{port}: UDP port {port} is in use; stop the other"):
            open_udp(("::1", port))
    with pytest.raises(PortError, match="this machine does not have that address"):
        open_udp(("192.0.2.1", 0))
    with pytest.raises(PortError, match=r"cannot listen on no host:5004: .*give an address of this machine"):
        open_udp(("no host", 5004))


def test_open_udp_goes_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def without_ipv6(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, kind)

    monkeypatch.setattr(socket, "socket", without_ipv6)
    with open_udp(("::", 0)) as sock:
        assert sock.getsockname()[0] == "0.0.0.0"
