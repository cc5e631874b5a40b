"""Facts about the board, from /proc and /sys. What a kernel does not tell is None, never a guess."""

import gzip
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path("/")

FIRMWARE_BITS: Final = {
    0: "under-voltage",
    1: "clock capped",
    2: "throttled",
    3: "soft temperature limit",
}
"""Of the Raspberry Pi firmware's get_throttled; 16 higher, the same since the board was started."""


@dataclass(frozen=True)
class Machine:
    cpu: str | None
    """Model of the processor, and of the board where the device tree names it."""
    architecture: str
    cores: int
    """That this process may use."""
    kernel: str
    virtual: bool | None
    irq_time_accounting: bool | None
    """The kernel leaves interrupts, those in software too, out of a thread's CPU time."""
    network_cards: Mapping[str, int]
    """Speed in Mb/s by name, of physical interfaces that are up and tell it (wireless ones do not)."""

    @property
    def network_mbps(self) -> int | None:
        return max(self.network_cards.values(), default=None)


@dataclass(frozen=True)
class Heat:
    """One reading."""

    celsius: float | None
    """Of the hottest thermal zone."""
    megahertz: float | None
    """Of the fastest core."""
    now: tuple[str, ...]
    """What holds the processor back at this moment, by the board's firmware."""
    since_start: tuple[str, ...]
    throttle_events: int
    """That the processor has counted since the machine was started."""


def read(root: Path = ROOT) -> Machine:
    return Machine(
        cpu=_cpu(root),
        architecture=platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        kernel=platform.release(),
        virtual=_virtual(root),
        irq_time_accounting=_irq_time_accounting(root, platform.release()),
        network_cards=_network_cards(root),
    )


def heat(root: Path = ROOT) -> Heat:
    zones = [_number(zone) for zone in root.glob("sys/class/thermal/thermal_zone*/temp")]
    cpus = root / "sys/devices/system/cpu"
    clocks = [_number(file) for file in cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
    counts = [_number(file) for file in cpus.glob("cpu[0-9]*/thermal_throttle/*_throttle_count")]
    bits = 0
    for file in root.glob("sys/devices/platform/soc*/*firmware/get_throttled"):
        bits |= _number(file, 16) or 0
    hottest = max((zone for zone in zones if zone is not None), default=None)
    fastest = max((clock for clock in clocks if clock is not None), default=None)
    return Heat(
        celsius=None if hottest is None else hottest / 1000,
        megahertz=None if fastest is None else fastest / 1000,
        now=_named(bits),
        since_start=_named(bits >> 16),
        throttle_events=sum(count or 0 for count in counts),
    )


def throttled(readings: list[Heat]) -> tuple[str, ...]:
    """What held the processor back between the first reading and the last; empty when nothing is known of."""
    first, last = readings[0], readings[-1]
    reasons = {reason for reading in readings for reason in reading.now}
    reasons |= set(last.since_start) - set(first.since_start)
    if last.throttle_events > first.throttle_events:
        reasons.add("throttled")
    return tuple(sorted(reasons))


def _named(bits: int) -> tuple[str, ...]:
    return tuple(name for bit, name in FIRMWARE_BITS.items() if bits >> bit & 1)


def _text(file: Path) -> str | None:
    try:
        return file.read_text(errors="replace").strip("\0 \n")
    except OSError:
        return None


def _number(file: Path, base: int = 10) -> int | None:
    try:
        return int(_text(file) or "", base)
    except ValueError:
        return None


def _cpu(root: Path) -> str | None:
    lines = (_text(root / "proc/cpuinfo") or "").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    names = [name for name in (_text(root / "proc/device-tree/model"), model) if name]
    return ", ".join(names) or None


def _virtual(root: Path) -> bool | None:
    """By the processor's flag; only x86 has one."""
    text = _text(root / "proc/cpuinfo") or ""
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), None)
    return None if flags is None else "hypervisor" in flags


def _irq_time_accounting(root: Path, release: str) -> bool | None:
    """By the kernel's configuration, where it is kept."""
    option = "CONFIG_IRQ_TIME_ACCOUNTING=y"
    try:
        with gzip.open(root / "proc/config.gz", "rt") as file:
            return option in file.read()
    except OSError:
        text = _text(root / "boot" / f"config-{release}")
        return None if text is None else option in text


def _network_cards(root: Path) -> dict[str, int]:
    cards = {}
    for card in sorted(root.glob("sys/class/net/*")):
        speed = _number(card / "speed")  # EINVAL where it has no fixed one; -1 where it is unknown
        if (card / "device").exists() and _text(card / "operstate") == "up" and speed and speed > 0:
            cards[card.name] = speed
    return cards
