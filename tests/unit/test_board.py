"""Reading the board: boards as trees of small files, then files that are damaged, late or gone."""

import errno
import os
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import psutil
import pytest

from relay.services.board import SECOND_NS, SLOW_NS, Board
from relay.wire.health import Digest

BOARDS = Path(__file__).parents[1] / "vectors/boards"
DISK = os.statvfs_result((4096, 4096, 1000, 300, 250, 0, 0, 0, 0, 255))
STATE_DIR = Path("/var/lib/relay")


class Heat(NamedTuple):
    current: float


class System:
    """psutil on another board's /proc; it would read sensors from this one's /sys."""

    def __init__(self, root: Path, heat: Mapping[str, Sequence[Heat]]) -> None:
        self._proc = patch.object(psutil, "PROCFS_PATH", str(root / "proc"))
        self.heat = heat

    def virtual_memory(self) -> Any:
        with self._proc:
            return psutil.virtual_memory()

    def cpu_times(self, percpu: bool) -> Sequence[Any]:
        with self._proc:
            return psutil.cpu_times(percpu=percpu)

    def net_io_counters(self, pernic: bool, nowrap: bool) -> Mapping[str, Any]:
        with self._proc:
            return psutil.net_io_counters(pernic=pernic, nowrap=nowrap)

    def sensors_temperatures(self) -> Mapping[str, Sequence[Heat]]:
        return self.heat


def board_at(
    root: Path,
    disk: os.statvfs_result = DISK,
    clock: bool | None = True,
    heat: Mapping[str, Sequence[Heat]] | None = None,
) -> Board:
    system = System(root, heat or {})
    return Board(STATE_DIR, root, system=system, statvfs=lambda path: disk, synchronised=lambda: clock)


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(BOARDS / name, tmp_path / name))

    return copy


def test_a_raspberry_pi_that_is_held_back() -> None:
    board = board_at(BOARDS / "rpi4", heat={"cpu_thermal": [Heat(83.748)]})
    assert board.read(0) == Digest(
        temperature_c=84,
        throttled=True,  # 0x50005: bits 0 and 2, and the same since the start
        under_voltage=True,
        memory_pressure_permille=123,
        memory_available_permille=300,
        nic_speed_mbps=1000,
        disk_errors=2,
        disk_read_only=False,
        disk_free_permille=250,
        clock_synchronised=True,
    )
    assert board.totals == {"backlog_drops": 4, "udp_drops": 42, "nic_errors": 4}
    assert not board.unreadable


def test_a_file_may_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = board_at(BOARDS / "rpi4").read(0)
    read = os.read
    monkeypatch.setattr(os, "read", lambda fd, size: read(fd, min(size, 7)))
    assert board_at(BOARDS / "rpi4").read(0) == whole


@pytest.mark.parametrize(
    ("flags", "alarm", "throttled", "under_voltage"),
    [
        ("0", "0", False, False),
        ("50000", "0", False, False),  # it was so once
        ("1", "0", False, True),
        ("0", "1", False, True),
        ("2", "0", True, False),
        ("8", "0", True, False),
        (None, None, None, None),
        (None, "0", None, False),
    ],
)
def test_firmware_flags(
    copied: Callable[[str], Path],
    flags: str | None,
    alarm: str | None,
    throttled: bool | None,
    under_voltage: bool | None,
) -> None:
    root = copied("rpi4")
    for path, text in (
        ("sys/devices/platform/soc/soc:firmware/get_throttled", flags),
        ("sys/class/hwmon/hwmon1/in0_lcrit_alarm", alarm),
    ):
        (root / path).unlink()
        if text is not None:
            (root / path).write_text(text + "\n")
    found = board_at(root).read(0)
    assert (found.throttled, found.under_voltage) == (throttled, under_voltage)


def test_a_pi_5_has_its_firmware_elsewhere(copied: Callable[[str], Path]) -> None:
    root = copied("rpi4")
    (root / "sys/devices/platform/soc").rename(root / "sys/devices/platform/soc@107c000000")
    assert board_at(root).read(0).throttled is True


def test_a_virtual_machine_has_no_sensors() -> None:
    board = board_at(BOARDS / "x86-vm", clock=None)
    found = board.read(0)
    unknown = {field.name for field in fields(found) if getattr(found, field.name) is None}
    assert {"temperature_c", "throttled", "under_voltage", "nic_speed_mbps", "clock_synchronised"} <= unknown
    assert (found.memory_available_permille, found.disk_errors) == (900, 0)
    assert not board.unreadable


def test_x86_counts_its_throttling(copied: Callable[[str], Path]) -> None:
    root = copied("x86-laptop")
    board = board_at(root)
    assert (board.read(0).throttled, board.read(0).throttled) == (None, None)
    assert board.read(SLOW_NS).throttled is False
    (root / "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count").write_text("1\n")
    assert board.read(2 * SLOW_NS - 1).throttled is False  # not looked at yet
    assert board.read(2 * SLOW_NS).throttled is True
    assert board.read(3 * SLOW_NS).throttled is False


def test_a_processor_that_the_kernel_cools(copied: Callable[[str], Path]) -> None:
    root = copied("x86-laptop")
    (root / "sys/class/thermal/cooling_device0/type").write_text("cpufreq-cpu0\n")
    assert board_at(root).read(0).throttled is False
    (root / "sys/class/thermal/cooling_device0/cur_state").write_text("3\n")
    broken = root / "sys/class/thermal/cooling_device00"  # sorts first, and says nothing
    broken.mkdir()
    (broken / "cur_state").write_text("0\n")
    assert board_at(root).read(0).throttled is True


@pytest.mark.parametrize(
    ("heat", "degrees", "unreadable"),
    [
        ({"coretemp": [Heat(51.0), Heat(55.6)], "nvme": [Heat(78.0)]}, 56, 0),
        ({"k10temp": [Heat(48.2)], "mlx5": [Heat(89.0)], "iwlwifi_1": [Heat(60.0)]}, 48, 0),
        ({"soc_thermal": [Heat(44.0)], "bigcore0_thermal": [Heat(61.0)]}, 61, 0),
        ({"acpitz": [Heat(-273.2)], "x86_pkg_temp": [Heat(40.0)]}, 40, 1),
        ({"cpu-thermal": [Heat(6553.5)]}, None, 1),
        ({"drivetemp": [Heat(30.0)]}, None, 0),
        ({"coretemp": [Heat(float("nan"))]}, None, 1),
        ({"coretemp": [Heat(float("inf"))]}, None, 1),
    ],
)
def test_the_heat_is_the_processors(
    heat: Mapping[str, Sequence[Heat]], degrees: int | None, unreadable: int
) -> None:
    board = board_at(BOARDS / "x86-laptop", heat=heat)
    assert board.read(0).temperature_c == degrees
    assert board.unreadable.total() == unreadable


def test_rates_come_from_two_readings(copied: Callable[[str], Path]) -> None:
    root = copied("rpi4")
    board = board_at(root)
    first = board.read(0)
    assert first.udp_drops_per_s is None and first.nic_load_permille is None
    still = board.read(SECOND_NS)
    assert (still.backlog_drops_per_s, still.udp_drops_per_s, still.nic_errors_per_s) == (0, 0, 0)
    assert still.nic_load_permille == still.kernel_load_permille == 0
    for path, old, new in (
        ("proc/net/softnet_stat", "00000003", "00000013"),
        ("proc/net/snmp", "99010 40", "99010 41"),
        ("proc/net/dev", "98960    3", "98960   13"),
        ("proc/net/dev", "250000000", "312500000"),
        ("proc/stat", "25 0 2700", "25 10 2800"),
        ("proc/stat", "cpu1 10000 0 5000 225000 25 0 100", "cpu1 19000 0 5000 225000 25 0 120"),
    ):
        (root / path).write_text((root / path).read_text().replace(old, new))
    found = board.read(3 * SECOND_NS)
    assert (found.backlog_drops_per_s, found.udp_drops_per_s, found.nic_errors_per_s) == (8, 1, 5)
    assert found.nic_load_permille == 250  # 62.5 MB in 2 s of 1000 Mb/s
    assert found.kernel_load_permille == 550  # 1.1 s of 2 s, in ticks of 10 ms
    (root / "proc/stat").write_text("cpu0 1 1 1 1 1 1 1 1 1 1\n")
    assert board.read(4 * SECOND_NS).kernel_load_permille is None  # of four processors, one is left


def test_a_counter_that_went_back_or_away_is_no_rate(copied: Callable[[str], Path]) -> None:
    root = copied("rpi4")
    board = board_at(root)
    board.read(0)
    snmp = (root / "proc/net/snmp").read_text()
    (root / "proc/net/snmp").write_text(snmp.replace("99010 40", "99010 0"))
    assert board.read(SECOND_NS).udp_drops_per_s is None
    (root / "proc/net/snmp").unlink()
    (root / "proc/net/snmp6").unlink()
    assert board.read(2 * SECOND_NS).udp_drops_per_s is None
    assert "udp_drops" not in board.totals
    (root / "proc/net/snmp").write_text(snmp)
    assert board.read(3 * SECOND_NS).udp_drops_per_s is None
    assert board.read(4 * SECOND_NS).udp_drops_per_s == 0


def test_disks() -> None:
    def gone(path: Path) -> os.statvfs_result:
        raise OSError(errno.EIO, "a card that was pulled")

    read_only = os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, os.ST_RDONLY, 255))
    found = board_at(BOARDS / "rpi4", read_only).read(0)
    assert (found.disk_read_only, found.disk_free_permille) == (True, None)
    board = Board(
        STATE_DIR,
        BOARDS / "rpi4",
        system=System(BOARDS / "rpi4", {}),
        statvfs=gone,
        synchronised=lambda: None,
    )
    assert board.read(0).disk_read_only is None
    assert board.unreadable == {"disk": 1}


def test_an_empty_system_is_unknown(tmp_path: Path) -> None:
    board = Board(tmp_path / "none", tmp_path, system=System(tmp_path, {}), synchronised=lambda: None)
    assert board.read(0) == Digest() == board.read(SECOND_NS)
    assert not board.unreadable and not board.totals


@pytest.mark.parametrize("seed", range(30))
def test_garbage_is_unknown_and_counted(copied: Callable[[str], Path], seed: int) -> None:
    rng = random.Random(seed)
    root = copied("rpi4")
    garbage = [
        b"",
        b"\n",
        b"-",
        b"some",
        b"nan",
        b"1e999",
        b"9" * 5000,
        b"\xff\xfe\x00",
        b"Udp:",
        b"a:b:c\n" * 99,
    ]
    garbage += [
        b"some avg10=inf\n",
        b"some avg10=nan\n",
        b"MemTotal: 0 kB\nMemAvailable: 1 kB\n",
        b"0x",
        b"99999999",
    ]
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    for path in paths:
        path.write_bytes(rng.choice([*garbage, rng.randbytes(40), path.read_bytes()[: rng.randrange(60)]]))
    board = board_at(root)
    for second in range(8):
        board.read(second * SECOND_NS)
    assert board.unreadable, f"seed {seed}"


def test_all_garbage_leaves_nothing_known(copied: Callable[[str], Path]) -> None:
    root = copied("rpi4")
    for path in root.rglob("*"):
        if path.is_file():
            path.write_text("?")
    board = board_at(root, clock=None)
    found = board.read(0)
    known = {field.name for field in fields(found) if getattr(found, field.name) is not None}
    assert known == {"disk_read_only", "disk_free_permille"}  # which no file says
    assert set(board.unreadable) >= {
        "firmware",
        "udp_drops",
        "memory_available",
        "disk_errors",
    }
