"""The programs that are compared: how both ends are started for a budget.

Each takes UDP at `ports.source`, sends over the link to the proxy at `ports.link`, which passes on to
`ports.receiver`, and gives what comes out to `ports.player`. The sending end calls the receiving end.
"""

import base64
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from relay import __version__
from relay.core.keys import private_key_file
from relay.core.noise import public_key
from tests.benchmarks.peers.forwarders import says
from tests.benchmarks.peers.program import HOST
from tests.benchmarks.rivals.marks import BYTES

BUFFER = 1 << 20  # bytes, of a socket that takes the media
RELAY = (sys.executable, "-c", "import sys; from relay.cli import main; sys.exit(main())")

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of a run, from the first on; an RTP port has its RTCP port behind it."""

    first: int

    COUNT = 9

    @property
    def source(self) -> int:
        return self.first

    @property
    def player(self) -> int:
        return self.first + 2

    @property
    def receiver(self) -> int:
        return self.first + 4

    @property
    def link(self) -> int:
        return self.first + 5

    @property
    def sender(self) -> int:
        """Where a sender listens for what comes back, if it does so at a port of its own."""
        return self.first + 6

    @property
    def ops(self) -> int:
        """TCP; of the sender, that of the receiver is behind it."""
        return self.first + 7


@dataclass(frozen=True, slots=True)
class Setting:
    ports: Ports
    budget_ms: int
    directory: Path
    """Of the run alone."""


Ends = tuple[Command, Command]
"""The commands of the receiving and of the sending end."""


@dataclass(frozen=True, slots=True)
class Rival:
    """A program with one way to use it; `ends` writes the files that its commands need."""

    name: str
    ends: Callable[[Setting], Ends]
    version: Callable[[], str]


def relay_ends(setting: Setting) -> Ends:
    """Two nodes with the defaults of the reference configuration, but for the budget."""
    ports, private = setting.ports, {name: os.urandom(32) for name in ("edge", "region")}
    public = {name: base64.b64encode(public_key(key)).decode() for name, key in private.items()}

    def command(name: str, port: int, ops: int, peer: str, rest: str) -> Command:
        key = setting.directory / f"{name}.key"
        key.touch(mode=0o600)
        key.write_text(private_key_file(private[name]))
        file = setting.directory / f"{name}.toml"
        file.write_text(
            f'[node]\nname = "{name}"\nstate_dir = "{setting.directory}"\n[ops]\nlisten = "{HOST}:{ops}"\n'
            f'[hop]\nlisten = "{HOST}:{port}"\nkey_file = "{key}"\nbudget_ms = {setting.budget_ms}\n'
            f'[[hop.peers]]\nname = "{peer}"\npublic_key = "{public[peer]}"\n{rest}'
        )
        return (*RELAY, "run", "--config", str(file))

    track = f'kind = "video", listen = "{HOST}:{ports.source}", payload_type = 96, codec = "H264/90000"'
    ingest = (
        f'address = "{HOST}:{ports.link}"\n[[ingest.rtp]]\nstream = "media"\ntracks = [ {{ {track} }} ]\n'
    )
    to = f'kind = "video", address = "{HOST}:{ports.player}"'
    egress = f'[[egress.rtp]]\nstream = "media"\nto = [ {{ {to} }} ]\n'
    return (
        command("region", ports.receiver, ports.ops + 1, "edge", egress),
        command("edge", ports.sender, ports.ops, "region", ingest),
    )


def srt_ends(*options: str) -> Callable[[Setting], Ends]:
    """Live mode; the latency is set at both ends, and so are the options."""

    def ends(setting: Setting) -> Ends:
        ports = setting.ports
        query = "&".join((f"latency={setting.budget_ms}", f"payloadsize={BYTES}", *options))
        receiver = f"srt://{HOST}:{ports.receiver}?mode=listener&{query}"
        sender = f"srt://{HOST}:{ports.link}?mode=caller&{query}"
        transmit = ("srt-live-transmit", "-loglevel:error")
        return (
            (*transmit, receiver, f"udp://{HOST}:{ports.player}"),
            (*transmit, f"udp://{HOST}:{ports.source}?rcvbuf={BUFFER}", sender),
        )

    return ends


def rist_ends(setting: Setting) -> Ends:
    """Main profile, without encryption."""
    ports, buffer = setting.ports, ("-p", "1", "-v", "4", "-S", "0", "-b", str(setting.budget_ms))
    receiver = (f"rist://@{HOST}:{ports.receiver}", f"udp://{HOST}:{ports.player}")
    sender = (f"udp://@{HOST}:{ports.source}", f"rist://{HOST}:{ports.link}")
    return (
        ("ristreceiver", *buffer, "-i", receiver[0], "-o", receiver[1]),
        ("ristsender", *buffer, "-i", sender[0], "-o", sender[1]),
    )


def own_version() -> str:
    return __version__


_FILTER = "packetfilter=fec,cols:10,rows:10"  # by default ("onreq") it asks again only for what it gave up
_SRT = says("srt-live-transmit", "-version")
RIVALS: Sequence[Rival] = (
    Rival("Edge Relay", relay_ends, own_version),
    Rival("SRT", srt_ends(), _SRT),
    Rival("SRT, packet filter", srt_ends(_FILTER), _SRT),
    Rival("SRT, packet filter, arq:always", srt_ends(_FILTER + ",arq:always"), _SRT),
    Rival("RIST main", rist_ends, says("ristsender", "--help")),
)
