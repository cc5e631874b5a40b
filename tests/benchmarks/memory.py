"""What the resident memory of a node at rest consists of: `python -m tests.benchmarks.memory`.

A fresh interpreter imports what a node imports, step by step; then the packet plane's structures are made,
each a hundred times, and the allocator is asked what they took and the kernel what of that is resident.
"""

import ctypes
import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

STEPS = (
    ("asyncio, with ssl and OpenSSL", "asyncio"),
    ("uvloop", "uvloop"),
    ("h11", "relay.web.http"),
    ("msgpack", "msgpack"),
    ("relay_ext", "relay_ext.engine"),
    ("relay", "relay.cli", "relay.node"),
)
TIMES = 100


class _Mallinfo2(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    )


def allocated() -> int:
    """Bytes that malloc has given out (mallinfo(3), glibc 2.33)."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Mallinfo2
    info = mallinfo()
    return int(info.uordblks + info.hblkhd)


def resident_kib() -> int:
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("Rss:")).split()[1])


def row(what: str, kib: float, note: str = "") -> None:
    print(f"{what:44} {kib:8.1f}  {note}")


def imports() -> None:
    before = resident_kib()
    row("Python", before)
    for what, *names in STEPS:
        for name in names:
            importlib.import_module(name)
        after = resident_kib()
        row(what, after - before)
        before = after
    row("all imports", before)


def structures() -> None:
    from relay_ext.control import PORT_HOP, Plane  # noqa: PLC0415 - the imports above are measured
    from relay_ext.engine import Engine  # noqa: PLC0415

    def measured(what: str, make: Callable[[], object], times: int = 1) -> list[object]:
        bytes_before, kib_before = allocated(), resident_kib()
        made = [make() for _ in range(times)]
        plane.poll(0) if times > 1 else None
        taken = (allocated() - bytes_before) / 1024 / times
        row(what, (resident_kib() - kib_before) / times, f"of {taken:.1f} allocated")
        return made

    Plane(bytes(32)).close()  # OpenSSL's first use is not the plane's
    [plane] = measured("packet plane: tables and queues", lambda: Plane(bytes(32)))
    assert isinstance(plane, Plane)
    engine = measured("engine: receive and send batches", lambda: Engine(plane))
    plane.set_port(0, PORT_HOP)
    hops = measured("a hop", lambda: plane.add_hop(0), TIMES)
    tracks = measured("a track", lambda: plane.add_track(clock_rate=90000, hold_us=0), TIMES)

    def add_egress() -> object:
        address = ("192.0.2.1", 5000)
        ids = {"ssrc": 1, "seq": 0, "timestamp": 0}
        return plane.add_egress(int(str(tracks[0])), 0, address, address, cname=b"cname", **ids)

    measured("an egress", add_egress, TIMES)
    index = iter(range(1, 1000))

    def add_keys() -> object:
        n = next(index)
        plane.add_keys(int(str(hops[n % TIMES])), 0, n, n, bytes(32), bytes(32), 1, 1, 1)
        return n

    measured("keys of a session, in both directions", add_keys, TIMES)
    del engine


if __name__ == "__main__":
    if sys.argv[1:] == ["imports"]:
        imports()
    elif sys.argv[1:] == ["structures"]:
        structures()
    else:
        print(f"{'KiB resident':>53}")
        for part in ("imports", "structures"):
            subprocess.run([sys.executable, "-m", "tests.benchmarks.memory", part], check=True)
