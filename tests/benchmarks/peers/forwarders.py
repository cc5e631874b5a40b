"""The forwarders that are compared, each a function that starts it for a setting."""

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.forward_node import configuration
from tests.benchmarks.peers import ng, turn
from tests.benchmarks.peers.program import HOST, Program, ask

BUFFER = 4 << 20  # bytes of a socket's buffer, as the C loops ask for; where a program lets it be set
PROGRAMS = ("forward", "plain", "load")  # built from C


@dataclass
class Setting:
    """What a forwarder has to do, and which ports are its own."""

    directory: Path  # the programs that were built, and logs
    streams: int
    fan: int
    first_port: int
    stack: ExitStack = field(repr=False)

    @property
    def source_port(self) -> int:
        """That the first stream comes from, the others behind it."""
        return self.first_port

    @property
    def in_port(self) -> int:
        """Where the first stream may go to; two for each stream."""
        return self.source_port + self.streams

    @property
    def control_port(self) -> int:
        return self.in_port + 2 * self.streams

    @property
    def hop_port(self) -> int:
        """Between two programs; two for each stream."""
        return self.control_port + 2

    @property
    def pool(self) -> tuple[int, int]:
        """First and last port of those that a program hands out itself."""
        first = self.hop_port + 2 * self.streams
        return first, first + 4 * self.streams + 4 * self.streams * self.fan

    @property
    def out_port(self) -> int:
        """Of the first receiver of the first stream; its others, then those of the next stream, follow."""
        return self.pool[1] + 1

    @staticmethod
    def ports(streams: int, fan: int) -> int:
        """How many are needed, from the first on."""
        return streams + 2 * streams + 2 + 2 * streams + 4 * streams + 4 * streams * fan + 1 + streams * fan

    def inputs(self) -> list[int]:
        return [self.in_port + 2 * i for i in range(self.streams)]

    def outputs(self, stream: int) -> list[int]:
        return [self.out_port + stream * self.fan + k for k in range(self.fan)]

    def run(self, *command: object, name: str = "") -> Program:
        """Started until the stack is closed; `name` tells apart the logs of several."""
        words = list(map(str, command))
        log = self.directory / f"{Path(words[0]).name}{name}.log"
        return self.stack.enter_context(Program(words, log))


@dataclass(frozen=True)
class Running:
    """Programs that forward, where the streams go to, and the TURN channel of the first, if any."""

    programs: list[Program]
    inputs: list[int]
    channel: int = 0


@dataclass(frozen=True)
class Forwarder:
    name: str
    start: Callable[[Setting], Running]
    version: Callable[[], str] = lambda: ""
    loads: Sequence[str] = ("streams",)  # what it can do: streams, fan-out


def built(program: str, *arguments: int) -> Callable[[Setting], Running]:
    """A C loop with the ports of c_loop/forward.c."""

    def start(to: Setting) -> Running:
        command = (to.in_port, to.streams, to.out_port, to.fan, *arguments)
        return Running(
            [to.run(to.directory / program, *command)], list(range(to.in_port, to.in_port + to.streams))
        )

    return start


def event_loop(kind: str) -> Callable[[Setting], Running]:
    def start(to: Setting) -> Running:
        command = (sys.executable, "-m", "tests.benchmarks.peers.udp_loop", kind)
        program = to.run(*command, to.in_port, to.streams, to.out_port, to.fan)
        return Running([program], list(range(to.in_port, to.in_port + to.streams)))

    return start


def each(command: Callable[[int, int], Sequence[object]]) -> Callable[[Setting], Running]:
    """A program a stream: `command` of its input and its output."""

    def start(to: Setting) -> Running:
        ends = [(port, to.outputs(i)[0]) for i, port in enumerate(to.inputs())]
        return Running([to.run(*command(*ports), name=str(ports[0])) for ports in ends], to.inputs())

    return start


def relay(to: Setting) -> Running:
    """A node as its user starts it: ingest and egress of the same streams, no hop."""
    config = to.directory / "relay.toml"
    config.write_text(configuration(to.in_port, to.streams, to.out_port, to.fan))
    main = "import sys; from relay.cli import main; sys.exit(main())"
    return Running([to.run(sys.executable, "-c", main, "run", "--config", config)], to.inputs())


def gstreamer(to: Setting) -> Running:
    """One pipeline for all streams, with multiudpsink where there are several receivers."""
    command: list[object] = ["gst-launch-1.0", "-q"]
    for i, port in enumerate(to.inputs()):
        command += ["udpsrc", f"address={HOST}", f"port={port}", f"buffer-size={BUFFER}", "!"]
        if to.fan == 1:
            command += ["udpsink", f"host={HOST}", f"port={to.outputs(i)[0]}"]
        else:
            clients = ",".join(f"{HOST}:{out}" for out in to.outputs(i))
            command += ["multiudpsink", f"clients={clients}"]
        command += ["sync=false", "async=false", f"buffer-size={BUFFER}"]
    return Running([to.run(*command)], to.inputs())


def socat(port: int, out: int) -> Sequence[object]:
    source = f"UDP4-RECV:{port},bind={HOST},so-rcvbuf={BUFFER}"
    return ("socat", "-u", "-b", 2048, source, f"UDP4-SENDTO:{HOST}:{out}")


def ffmpeg(port: int, out: int) -> Sequence[object]:
    """Whole datagrams as packets of a data stream, copied."""
    source = f"udp://{HOST}:{port}?pkt_size=2048&buffer_size={BUFFER}"
    read = ("-f", "data", "-raw_packet_size", 2048, "-i", source)
    write = ("-map", 0, "-c", "copy", "-flush_packets", 1, "-f", "data", f"udp://{HOST}:{out}?pkt_size=1472")
    return ("ffmpeg", "-nostdin", "-v", "error", *read, *write)


def srt_live_transmit(source: str, target: str) -> Sequence[object]:
    return ("srt-live-transmit", "-q", "-loglevel:error", source, target)


def srt_plain(port: int, out: int) -> Sequence[object]:
    return srt_live_transmit(f"udp://:{port}?rcvbuf={BUFFER}", f"udp://{HOST}:{out}")


def srt_hop(to: Setting) -> Running:
    """Two programs a stream with SRT between them, at its default latency of 120 ms, not encrypted."""
    programs = []
    for i, port in enumerate(to.inputs()):
        hop = to.hop_port + 2 * i
        receive = srt_live_transmit(f"srt://:{hop}?mode=listener", f"udp://{HOST}:{to.outputs(i)[0]}")
        send = srt_live_transmit(f"udp://:{port}?rcvbuf={BUFFER}", f"srt://{HOST}:{hop}?mode=caller")
        programs += [to.run(*receive, name=f"r{i}"), to.run(*send, name=f"s{i}")]
    return Running(programs, to.inputs())


def rist_hop(to: Setting) -> Running:
    """Two programs a stream with RIST (main profile) between them, buffer 120 ms, not encrypted."""
    programs = []
    for i, port in enumerate(to.inputs()):
        hop, out = to.hop_port + 2 * i, to.outputs(i)[0]
        receive = ("-i", f"rist://@{HOST}:{hop}?buffer=120", "-o", f"udp://{HOST}:{out}")
        send = ("-i", f"udp://@{HOST}:{port}", "-o", f"rist://{HOST}:{hop}?buffer=120")
        programs.append(to.run("ristreceiver", "-v", 3, *receive, name=str(i)))
        programs.append(to.run("ristsender", "-v", 3, *send, name=str(i)))
    return Running(programs, to.inputs())


def rtpengine(to: Setting) -> Running:
    """In user space (no kernel table); a call a stream."""
    daemon = to.run(
        "rtpengine",
        *("--config-file=none", "--foreground", "--log-stderr", "--log-level=3", "--table=-1"),
        *(f"--interface={HOST}", f"--listen-ng={HOST}:{to.control_port}"),
        *(f"--port-min={to.pool[0]}", f"--port-max={to.pool[1]}"),
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        daemon.wait_for(lambda: ask(sock, to.control_port, ng.PING, bool) is not None)
        client = ng.Client(sock, to.control_port)
        inputs = [client.call(f"call{i}", to.source_port + i, to.outputs(i)) for i in range(to.streams)]
    return Running([daemon], inputs)


def coturn(to: Setting) -> Running:
    """A channel a stream: ChannelData in, datagrams to the peer out."""
    server = to.run(
        "turnserver",
        *("-n", "--no-tls", "--no-dtls", "--no-auth", "--no-cli", "--allow-loopback-peers", "--no-rfc5780"),
        *("-L", HOST, "-E", HOST, "-p", to.control_port, "--relay-threads", 1),
        *("--min-port", to.pool[0], "--max-port", to.pool[1], "--log-file", "stdout"),
        *("--pidfile", to.directory / "turnserver.pid", "--userdb", to.directory / "turndb"),
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        binding = turn.message(turn.BINDING, bytes(12))
        server.wait_for(lambda: ask(sock, to.control_port, binding, bool) is not None)
    for i in range(to.streams):
        turn.bind_channel(to.control_port, to.source_port + i, turn.FIRST_CHANNEL + i, to.outputs(i)[0])
    return Running([server], [to.control_port] * to.streams, turn.FIRST_CHANNEL)


def says(*command: str) -> Callable[[], str]:
    """The first version number in what a command prints."""

    def first() -> str:
        if shutil.which(command[0]) is None:
            return ""
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        found = re.search(r"\b\d+(\.\d+){2,}", done.stdout + done.stderr)
        return found[0] if found else ""

    return first


C_LOOP, RELAY = "C loop: GRO, gathered GSO", "relay"
BOTH = ("streams", "fan-out")
FORWARDERS = (
    Forwarder(C_LOOP, built("forward"), loads=BOTH),
    Forwarder(RELAY, relay, loads=BOTH),
    Forwarder("C loop: recvmmsg, sendmmsg", built("plain", 64), loads=BOTH),
    Forwarder("C loop: recvfrom, sendto", built("plain", 1), loads=BOTH),
    Forwarder("srt-live-transmit udp to udp", each(srt_plain), says("srt-live-transmit", "-version")),
    Forwarder("socat", each(socat), says("socat", "-V")),
    Forwarder("coturn ChannelData", coturn, says("turnserver", "--version")),
    Forwarder("rtpengine, user space", rtpengine, says("rtpengine", "--version"), BOTH),
    Forwarder(
        "uvloop DatagramProtocol",
        event_loop("uvloop"),
        lambda: version("uvloop"),
        BOTH,
    ),
    Forwarder("asyncio DatagramProtocol", event_loop("asyncio"), says(sys.executable, "--version"), BOTH),
    Forwarder("GStreamer", gstreamer, says("gst-launch-1.0", "--version"), BOTH),
    Forwarder("ffmpeg -c copy", each(ffmpeg), says("ffmpeg", "-version")),
    Forwarder("SRT hop, both ends", srt_hop, says("srt-live-transmit", "-version")),
    Forwarder("RIST hop, both ends", rist_hop, says("ristsender", "--help")),
)
