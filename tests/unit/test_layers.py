"""Imports point downward only. A module that has no layer here fails the test, so that each gets one."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

RELAY = (
    ("relay", "relay.errors", "relay.seq", "relay.log", "relay.files", "relay.systemd"),
    ("relay.wire",),
    ("relay.core",),
    ("relay.config", "relay.client", "relay.watch"),
    ("relay.media",),
    ("relay.services",),
    ("relay.web",),
    ("relay.lab",),
    ("relay.bench", "relay.doctor"),
    ("relay.node", "relay.fleet"),
    ("relay.lab.demo",),  # runs whole nodes on this machine
    ("relay.lab.real",),  # the same
    ("relay.lab.capacity",),  # in virtual time and by relay.lab.real
    ("relay.cli",),
)
"""Lowest first. A package stands for those of its modules that are not named, which may import each other."""

RELAY_EXT = (
    ("slab", "inner", "system", "coefficients", "silence"),
    ("base",),
    ("clock", "timer", "rtp", "formats", "seal", "gf256", "load", "address", "alarms"),
    ("rlc_encoder", "payload", "crypto", "transit", "pacer", "archive"),
    ("rlc",),
    ("ring", "replay", "delay", "path", "route", "reorder"),
    ("egress", "ingest"),
    ("playout",),
    ("peer", "sessions"),
    ("datagram", "uplink"),
    ("repair", "receiver"),
    ("sender", "report"),
    ("hop",),
    ("mailbox",),
    ("feed",),
    ("standby",),
    ("plane",),
    ("commands",),
    ("state", "carry"),
    ("control",),
    ("shards", "handover"),
    ("udp",),
    ("engine",),
)
CIMPORT = re.compile(r"^\s*(?:from\s+relay_ext\.(\w+)\s+c?import|c?import\s+relay_ext\.(\w+))", re.MULTILINE)


def layer_of(module: str) -> str | None:
    """The name under which a module stands in RELAY."""
    named = {name for layer in RELAY for name in layer}
    return next((n for n in (module, ".".join(module.split(".")[:2])) if n in named), None)


def level(name: str, layers: tuple[tuple[str, ...], ...]) -> int:
    return next(i for i, layer in enumerate(layers) if name in layer)


def modules() -> dict[str, Path]:
    found = {}
    for path in (ROOT / "relay").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """Modules, and names that may be modules, which a file imports at its top or within a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: a relative import hides its layer"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def extension_sources() -> list[Path]:
    return sorted(p for p in (ROOT / "relay_ext").glob("*.p[yx][xd]") if p.stem != "__init__")


def test_every_module_has_a_layer() -> None:
    assert not [name for name in modules() if layer_of(name) is None]
    assert {path.stem for path in extension_sources()} == {name for layer in RELAY_EXT for name in layer}


def test_relay_imports_downward() -> None:
    wrong = []
    known = modules()
    for name, path in known.items():
        own = layer_of(name)
        for target in set(imports(path)) & known.keys():
            other = layer_of(target)
            assert own and other
            if other not in (own, "relay") and level(other, RELAY) >= level(own, RELAY):
                wrong.append(f"{name} imports {target}")
    assert not wrong


def test_core_and_wire_take_time_chance_and_io_from_outside() -> None:
    outside = {"asyncio", "socket", "select", "threading", "time", "os", "random", "secrets", "relay_ext"}
    pure = "relay_ext.crypto"  # functions of their arguments alone
    wrong = [
        f"{name} imports {target}"
        for name, path in modules().items()
        if layer_of(name) in ("relay.core", "relay.wire")
        for target in imports(path)
        if target.split(".")[0] in outside and not target.startswith(pure)
    ]
    assert not wrong


def test_the_packet_plane_never_imports_relay() -> None:
    imported = re.compile(r"^\s*(from|c?import)\s+relay\b", re.MULTILINE)
    sources = [p for p in (ROOT / "relay_ext").iterdir() if p.suffix in (".py", ".pyx", ".pxd", ".pyi")]
    assert not [path.name for path in sources if imported.search(path.read_text())]


def test_the_packet_plane_imports_downward() -> None:
    wrong = []
    for path in extension_sources():
        for first, second in CIMPORT.findall(path.read_text()):
            target = first or second
            if target != path.stem and level(target, RELAY_EXT) >= level(path.stem, RELAY_EXT):
                wrong.append(f"{path.name} imports {target}")
    assert not wrong
