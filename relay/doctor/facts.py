"""What the doctor has seen, and what follows: plain data. None stands for what could not be seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from relay.config import Config
from relay.core.record import Record
from relay.errors import Problem
from relay.wire.health import Digest

State = Literal["error", "warning", "unknown", "ok"]
STATES: tuple[State, ...] = ("error", "warning", "unknown", "ok")
"""Worst first."""
FREE_SPACE = "see what takes it: du -xh / | sort -h | tail; the journal: journalctl --vacuum-size=100M"


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    state: State
    seen: str
    """One line."""
    do: str = ""
    """One line: what to do about it, a command where there is one; empty where nothing is to be done."""


def ok(check: str, seen: str) -> Finding:
    return Finding(check, "ok", seen)


def warning(check: str, seen: str, do: str) -> Finding:
    return Finding(check, "warning", seen, do)


def error(check: str, seen: str, do: str) -> Finding:
    return Finding(check, "error", seen, do)


def unknown(check: str, why: str, do: str = "") -> Finding:
    return Finding(check, "unknown", f"cannot tell: {why}", do)


@dataclass(frozen=True, slots=True)
class Kernel:
    release: str
    gso: bool
    gro: bool
    steering: bool
    """A UDP port can be shared among threads by a program (SO_ATTACH_REUSEPORT_CBPF)."""
    received: bool
    """The packet thread got a datagram on loopback through recvmmsg(2)."""
    rmem_max: int | None
    wmem_max: int | None
    field_kernel: str
    """GF(2^8) arithmetic in use."""
    field_kernels: Sequence[str]
    """Those that this processor runs, the slowest first."""
    ciphers: Sequence[str]
    """The fastest here first."""


@dataclass(frozen=True, slots=True)
class Port:
    path: str
    """Key path in the configuration."""
    protocol: str
    address: str
    port: int
    errno: int
    """Of binding it; 0: it is free."""
    pids: frozenset[int] | None = None
    """Of those that have it, as far as this user may see; None: nobody has it, or only root may see who."""
    holder: str = ""
    """The name of such a process."""


@dataclass(frozen=True, slots=True)
class KeyFile:
    path: Path
    mode: int | None
    """Permission bits; None: it cannot be looked at."""
    uid: int | None
    readable: bool
    why: str = ""
    """Why it cannot be looked at."""
    missing: bool = False


@dataclass(frozen=True, slots=True)
class Directory:
    path: Path
    state: Literal["writable", "not writable", "missing", "hidden"]
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """A systemd service, by `systemctl show`."""

    name: str
    properties: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Probe:
    """Handshakes with a peer at one address, which no node here had a session with."""

    peer: str
    address: str
    sent: int = 0
    rtts_ms: Sequence[float] = ()
    """Of those that were answered."""
    error: str = ""
    """Why nothing could be sent."""


@dataclass(frozen=True, slots=True)
class Facts:
    root: bool
    kernel: Kernel
    mtus: Mapping[str, int]
    """Of the interfaces that are up, loopback aside."""
    board: Digest
    wall_s: float
    """The wall clock, seconds since 1970."""
    config_path: Path
    config: Config | None
    problems: Sequence[Problem]
    """What is wrong with the configuration."""
    url: str
    status: Mapping[str, Any] | None
    """Of the running node; None: none answers."""
    no_status: str = ""
    """Why."""
    ports: Sequence[Port] = ()
    key: KeyFile | None = None
    state_dir: Directory | None = None
    record: Record | None = None
    """The node's own, the latest that could be read."""
    systemd: bool = False
    unit: Unit | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    """DNS names of the configuration: why they cannot be resolved; empty: they can."""
    probes: Sequence[Probe] = ()
    no_probes: str = ""
    """Why no handshakes were tried."""
