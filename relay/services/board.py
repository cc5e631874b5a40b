"""Facts about the board, by psutil and from /proc and /sys: `Board.read` makes a digest of what the kernel
says now.

A file that is not there is a fact that is unknown. So is one that cannot be read or makes no sense, and that
is counted besides, by the name of the fact. What is per second comes from two readings.
"""

import errno
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import psutil

from relay.wire.health import RATIO, Digest
from relay_ext.clock import clock_synchronised

ROOT: Final = Path("/")
SECOND_NS: Final = 1_000_000_000
SLOW_NS: Final = 5 * SECOND_NS
"""Between two looks at what changes slowly or is slow to ask for: heat, disks, the clock, a card's speed."""
NO_VALUE: Final = (errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.ENODATA, errno.ENODEV, errno.EOPNOTSUPP)
"""What the kernel answers where a file has nothing to say: PSI that is switched off, a speed that is not
fixed."""
HELD_BACK: Final = 0b1110
"""Of the Raspberry Pi firmware's get_throttled: clock capped, throttled, soft temperature limit. Bit 0 is
under-voltage; 16 higher are the same since the start, which the kernel's hwmon driver clears."""
UNDER_VOLTAGE: Final = 1
CELSIUS_MIN: Final = -60
CELSIUS_MAX: Final = 200
"""A sensor that says something else is broken."""
PROCESSOR: Final = re.compile("cpu|soc|core|k10temp|zenpower|therm|pkg|acpitz", re.IGNORECASE)
"""Names of sensors that tell of the processor or the board around it. Disks and network cards have their own,
and may well be hotter."""
READ_BYTES: Final = 1 << 13
FILE_BYTES_MAX: Final = 1 << 20

T = TypeVar("T")


class System(Protocol):
    """What is used of psutil."""

    def virtual_memory(self) -> Any: ...

    def cpu_times(self, percpu: bool) -> Sequence[Any]: ...

    def net_io_counters(self, pernic: bool, nowrap: bool) -> Mapping[str, Any]: ...

    def sensors_temperatures(self) -> Mapping[str, Sequence[Any]]: ...


class Board:
    """`root` stands for /, so that tests can bring a board of their own; `system`, `statvfs` and
    `synchronised` ask what is not read here."""

    def __init__(
        self,
        state_dir: Path,
        root: Path = ROOT,
        *,
        system: System = psutil,
        statvfs: Callable[[Path], os.statvfs_result] = os.statvfs,
        synchronised: Callable[[], bool | None] = clock_synchronised,
    ) -> None:
        self.totals: dict[str, int] = {}
        """Drops and errors since the system's start, of those facts that are shown per second."""
        self.unreadable: Counter[str] = Counter()
        """Files that are there but cannot be read or make no sense, by fact."""
        self._state_dir = state_dir
        self._root = root
        self._system = system
        self._statvfs = statvfs
        self._synchronised = synchronised
        self._read_ns: int | None = None
        self._slow_ns: int | None = None
        self._slow = Digest()
        self._speeds: dict[str, int | None] = {}
        """Mb/s of the network cards, by name."""
        self._cards: dict[str, Any] = {}
        """What they have carried, by psutil."""
        self._interrupts: list[float] = []
        """Seconds that each processor has spent on interrupts."""
        self._firmware: list[Path] = []
        self._alarms: list[Path] = []
        self._throttles: int | None = None

    def read(self, now_ns: int) -> Digest:
        """The facts at a moment of the monotonic clock. May take as long as the kernel's drivers do."""
        if self._slow_ns is None or now_ns - self._slow_ns >= SLOW_NS:
            self._slow_ns = now_ns
            self._slow = self._read_slow()
        seconds = 0.0 if self._read_ns is None else (now_ns - self._read_ns) / SECOND_NS
        self._read_ns = now_ns
        flags = self._each("firmware", self._firmware, lambda text: int(text, 16))
        alarms = self._each("under_voltage", self._alarms, int)
        found = self._ask("network_card", lambda: self._system.net_io_counters(pernic=True, nowrap=False))
        cards = {name: card for name, card in (found or {}).items() if name in self._speeds}
        before, self._cards = self._cards, cards
        spent, self._interrupts = self._interrupts, self._ask("kernel_load", self._spent) or []
        used = [name for name, card in cards.items() if card.bytes_recv + card.bytes_sent]
        return replace(
            self._slow,
            kernel_load_permille=_busiest(spent, self._interrupts, seconds),
            throttled=_any([self._slow.throttled, *(bool(f & HELD_BACK) for f in flags)]),
            under_voltage=_any([*(bool(f & UNDER_VOLTAGE) for f in flags), *map(bool, alarms)]),
            memory_pressure_permille=self._fact("memory_pressure", "proc/pressure/memory", _pressure),
            memory_available_permille=self._ask("memory_available", self._available),
            backlog_drops_per_s=self._rate(
                "backlog_drops", self._fact("backlog_drops", "proc/net/softnet_stat", _backlog_drops), seconds
            ),
            udp_drops_per_s=self._rate("udp_drops", self._udp_drops(), seconds),
            nic_errors_per_s=self._rate(
                "nic_errors",
                sum(card.errin + card.errout for card in cards.values()) if cards else None,
                seconds,
            ),
            nic_speed_mbps=min((speed for name in used if (speed := self._speeds[name])), default=None),
            nic_load_permille=_load(before, cards, self._speeds, seconds),
        )

    def _read_slow(self) -> Digest:
        self._firmware = self._find("sys/devices/platform/soc*/*firmware/get_throttled")
        self._alarms = self._find("sys/class/hwmon/hwmon*/in0_lcrit_alarm")
        self._speeds = {
            card.name: self._fact("network_card", f"sys/class/net/{card.name}/speed", _speed)
            for card in self._find("sys/class/net/*")
            if (card / "device").exists()
        }
        errors = self._each("disk_errors", self._find("sys/fs/ext4/*/errors_count"), int)
        return replace(
            self._disk(),
            temperature_c=self._temperature(),
            throttled=self._throttled(),
            disk_errors=sum(errors) if errors else None,
            clock_synchronised=self._synchronised(),
        )

    def _throttled(self) -> bool | None:
        """By the kernel: processor clocks that it lowers for heat now, events that x86 has counted since."""
        coolers = self._find("sys/class/thermal/cooling_device*")
        clocks = [
            c / "cur_state" for c in coolers if "cpufreq" in (self._fact("throttled", c / "type", str) or "")
        ]
        states = self._each("throttled", clocks, int)
        files = self._find("sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count")
        counts = self._each("throttled", files, int)
        before, self._throttles = self._throttles, sum(counts) if counts else None
        more = None if before is None or self._throttles is None else self._throttles > before
        return _any([*(state > 0 for state in states), more])

    def _temperature(self) -> int | None:
        """Of the hottest sensor of the processor."""
        found = self._ask("temperature", self._system.sensors_temperatures) or {}
        chips = [sensors for name, sensors in found.items() if PROCESSOR.search(name)]
        known = [self._ask("temperature", partial(_celsius, s.current)) for sensors in chips for s in sensors]
        return max((degrees for degrees in known if degrees is not None), default=None)

    def _spent(self) -> list[float]:
        return [cpu.irq + cpu.softirq for cpu in self._system.cpu_times(percpu=True)]

    def _available(self) -> int:
        memory = self._system.virtual_memory()
        return int(memory.available * RATIO // memory.total)

    def _disk(self) -> Digest:
        disk = self._ask("disk", lambda: self._statvfs(self._state_dir))
        if disk is None:
            return Digest()
        return Digest(
            disk_read_only=bool(disk.f_flag & os.ST_RDONLY),
            disk_free_permille=disk.f_bavail * RATIO // disk.f_blocks if disk.f_blocks else None,
        )

    def _udp_drops(self) -> int | None:
        four = self._fact("udp_drops", "proc/net/snmp", _udp4_drops)
        six = self._fact("udp_drops", "proc/net/snmp6", _udp6_drops)
        return four if six is None else six if four is None else four + six

    def _rate(self, name: str, total: int | None, seconds: float) -> int | None:
        """Of a total since the system's start: per second since the reading before, rounded up."""
        before = self.totals.get(name)
        if total is None:
            self.totals.pop(name, None)
            return None
        self.totals[name] = total
        if before is None or total < before or seconds <= 0:
            return None
        return math.ceil((total - before) / seconds)

    # ---- where facts come from ---------------------------------------------------------------

    def _find(self, pattern: str) -> list[Path]:
        return sorted(self._root.glob(pattern))

    def _fact(self, fact: str, path: str | Path, parse: Callable[[str], T]) -> T | None:
        return self._ask(fact, lambda: parse(_text(self._root / path)))

    def _ask(self, fact: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except OSError as error:
            if error.errno not in NO_VALUE:
                self.unreadable[fact] += 1
        except (ValueError, LookupError, ArithmeticError, TypeError, AssertionError):
            # psutil asserts what it reads, and makes tuples of lines that are too short
            self.unreadable[fact] += 1
        return None

    def _each(self, fact: str, paths: list[Path], parse: Callable[[str], T]) -> list[T]:
        """What those files say that say anything."""
        found = (self._fact(fact, path, parse) for path in paths)
        return [value for value in found if value is not None]


def _text(path: Path) -> str:
    """At a third of the cost of a file object. The kernel hands out long files of /proc a page at a time."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = b""
        while len(content) < FILE_BYTES_MAX and (more := os.read(fd, READ_BYTES)):
            content += more
    finally:
        os.close(fd)
    return content.decode("ascii", "replace")


def _any(flags: list[bool | None]) -> bool | None:
    known = [flag for flag in flags if flag is not None]
    return any(known) if known else None


def _pressure(text: str) -> int:
    """The first line is "some avg10=1.23 avg60=..." (Documentation/accounting/psi.rst): percent."""
    some, avg10 = text.split()[:2]
    if some != "some" or not avg10.startswith("avg10="):
        raise ValueError(f"not a pressure: {some} {avg10}")
    return round(float(avg10.removeprefix("avg10=")) * 10)


def _backlog_drops(text: str) -> int:
    """One line a processor, in hexadecimal; the second number is packets dropped for a full backlog."""
    return sum(int(line.split()[1], 16) for line in text.splitlines())


def _udp4_drops(text: str) -> int:
    """Two lines begin with "Udp:", names and values."""
    names, values = (line.split() for line in text.splitlines() if line.startswith("Udp:"))
    return int(values[names.index("RcvbufErrors")])


def _udp6_drops(text: str) -> int:
    [line] = [line for line in text.splitlines() if line.startswith("Udp6RcvbufErrors")]
    return int(line.split()[1])


def _celsius(heat: float) -> int:
    degrees = round(heat)
    if not CELSIUS_MIN <= degrees <= CELSIUS_MAX:
        raise ValueError(f"{degrees} degrees")
    return degrees


def _speed(text: str) -> int | None:
    """-1: not known."""
    speed = int(text)
    return speed if speed > 0 else None


def _busiest(before: Sequence[float], spent: Sequence[float], seconds: float) -> int | None:
    """Of the processor that has spent most; one that comes or goes makes it unknown."""
    if not before or len(before) != len(spent) or seconds <= 0:
        return None
    most = max(new - old for old, new in zip(before, spent, strict=True))
    return min(max(round(most * RATIO / seconds), 0), RATIO)


def _load(
    before: Mapping[str, Any], cards: Mapping[str, Any], speeds: Mapping[str, int | None], seconds: float
) -> int | None:
    """Of the busiest card: its busier direction's share of its speed."""
    loads = []
    for name, card in cards.items():
        speed = speeds[name]
        if speed and name in before and seconds > 0:
            was = before[name]
            moved = max(card.bytes_recv - was.bytes_recv, card.bytes_sent - was.bytes_sent, 0)
            loads.append(min(round(moved * 8 * RATIO / (speed * 1e6 * seconds)), RATIO))
    return max(loads, default=None)
