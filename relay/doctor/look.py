"""Where the doctor's facts come from: the only part of it that asks the system, the node and its peers."""

import base64
import errno
import json
import os
import platform
import re
import secrets
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from relay.client import DEFAULT_URL, call, foreign
from relay.config import Address, Config, is_ip
from relay.config.files import check_files, load, read_private_key, read_statement
from relay.core import record
from relay.core.handshake import Identity
from relay.core.record import RecordError
from relay.doctor.facts import Directory, Facts, Kernel, KeyFile, Port, Probe, Unit
from relay.doctor.probe import probe
from relay.errors import ConfigError, Problem, RelayError
from relay.services.board import Board
from relay.services.ciphers import fastest_first
from relay.services.names import addresses
from relay.services.sockets import open_udp
from relay.wire import sdp
from relay.wire.hop import CIPHER_NAMES
from relay_ext import gf256
from relay_ext.control import Plane
from relay_ext.engine import SOL_UDP, UDP_GRO, UDP_SEGMENT, Engine
from relay_ext.shards import steer

RECEIVE_SECONDS = 1.0
NAME_SECONDS = 5.0
SYSTEMD_SECONDS = 5.0
UNIT_PROPERTIES = (
    "LoadState", "ActiveState", "UnitFileState", "Result", "NRestarts", "NeedDaemonReload", "DynamicUser",
    "LoadCredential",
)  # fmt: skip
INSTANCE = re.compile(r"/etc/relay/([^/]+)/node\.toml")
DEFAULT_CONFIG = Path("/etc/relay/node.toml")


Names = dict[str, tuple[str, list[str]]]
"""By host: why it has no address (empty: it has), and the addresses."""


def look(path: Path, url: str | None, environ: Mapping[str, str]) -> Facts:
    """Everything; takes about two seconds, which is also what lies between two readings of the board."""
    config, problems = _configuration(path, _as_service(path, environ))
    board = Board(config.node.state_dir if config else Path("/"))
    board.read(time.monotonic_ns())
    url = url or _url(config)
    status, no_status = _status(url, config.node.name if config else None)
    names = _names(config) if config else {}
    own = _own_record(config) if config else b""
    ports = tuple(_ports(config)) if config else ()
    probes, no_probes = _probes(config, own, names, running=status is not None)
    return Facts(
        root=os.geteuid() == 0,
        kernel=_kernel(),
        mtus=_mtus(),
        board=board.read(time.monotonic_ns()),
        wall_s=time.time(),
        config_path=path,
        config=config,
        problems=problems,
        url=url,
        status=status,
        no_status=no_status,
        ports=ports,
        key=_key(config.hop.key_file) if config and config.hop else None,
        state_dir=_directory(config.node.state_dir) if config else None,
        record=record.decode_record(own) if own else None,
        systemd=Path("/run/systemd/system").is_dir(),
        unit=_unit(path),
        names={name: why for name, (why, _) in names.items()},
        probes=probes,
        no_probes=no_probes,
    )


# ---- the configuration and what it names ----------------------------------------------------------


def _as_service(path: Path, environ: Mapping[str, str]) -> Mapping[str, str]:
    """With what relay@NAME.service sets for the configuration that is its."""
    if instance := INSTANCE.fullmatch(str(path)):
        return {
            "RELAY_HOP_KEY_FILE": str(path.with_name("node.key")),
            "RELAY_NODE_STATE_DIR": f"/var/lib/relay/{instance[1]}",
            **environ,
        }
    return environ


def _configuration(path: Path, environ: Mapping[str, str]) -> tuple[Config | None, tuple[Problem, ...]]:
    try:
        config = load(path, environ)
    except ConfigError as error:
        return None, error.problems
    return config, check_files(config, sdp.parse)


def _key(path: Path) -> KeyFile:
    try:
        status = path.stat()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        return KeyFile(path, None, None, False, (error.strerror or str(error)).lower(), missing)
    return KeyFile(path, stat.S_IMODE(status.st_mode), status.st_uid, os.access(path, os.R_OK))


def _directory(path: Path) -> Directory:
    try:
        path.stat()
    except PermissionError:
        return Directory(path, "hidden")
    except OSError:
        return Directory(path, "missing")
    usage = None
    with suppress(OSError):
        usage = psutil.disk_usage(str(path)).free
    return Directory(path, "writable" if os.access(path, os.W_OK | os.X_OK) else "not writable", usage)


def _own_record(config: Config) -> bytes:
    """The later one of that in its file and the one that came from peers; empty where none can be read."""
    if config.fleet is None:
        return b""
    found = []
    if config.fleet.record_file is not None:
        with suppress(ConfigError):
            found.append(read_statement(config.fleet.record_file, "record", ""))
    with suppress(OSError, ValueError, TypeError, LookupError, AttributeError):
        kept = json.loads((config.node.state_dir / "fleet.json").read_text())
        found.append(base64.b64decode(kept["record"]))
    valid = [packed for packed in found if _is_ours(config.fleet.authority_key, packed)]
    return max(valid, key=lambda packed: record.decode_record(packed).issued_s, default=b"")


def _is_ours(authority: bytes, packed: bytes) -> bool:
    try:
        record.decode_record(packed)
        record.verify(authority, packed)
    except RecordError:
        return False
    return True


# ---- the running node and its service -------------------------------------------------------------


def _url(config: Config | None) -> str:
    """Where the node of this configuration answers."""
    if config is None:
        return DEFAULT_URL
    host, port = config.ops.listen
    return f"http://{Address({'0.0.0.0': '127.0.0.1', '::': '::1'}.get(host, host), port)}"


def _status(url: str, name: str | None) -> tuple[Mapping[str, Any] | None, str]:
    """Of the node of that name (None: of any), else why there is none."""
    try:
        status = call(url, "/v1/status")
        if not {"node", "hops", "peers", "engine", "log", "reasons", "notes", "fleet"} <= status.keys():
            raise foreign(url)
        if name not in (None, status["node"]["name"]):
            raise RelayError(f"what answers at {url} is another node, {status['node']['name']}")
    except RelayError as error:
        return None, str(error)
    except AttributeError:
        return None, f"what answers at {url} is no relay node"
    return status, ""


def _unit(path: Path) -> Unit | None:
    """The service that runs this configuration, as far as it is one of ours."""
    instance = INSTANCE.fullmatch(str(path))
    name = f"relay@{instance[1]}.service" if instance else "relay.service"
    if not instance and path != DEFAULT_CONFIG:
        return None
    command = ["systemctl", "show", name, f"--property={','.join(UNIT_PROPERTIES)}"]
    try:
        shown = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=SYSTEMD_SECONDS
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return Unit(name, dict(line.split("=", 1) for line in shown.splitlines() if "=" in line))


# ---- ports ----------------------------------------------------------------------------------------


def _ports(config: Config) -> Iterator[Port]:
    """Each is bound for a moment."""
    holders = _holders()
    udp = [("hop.listen", config.hop.listen)] if config.hop else []
    for i, uplink in enumerate(config.hop.uplinks if config.hop else ()):
        if uplink.port is not None:
            udp.append((f"hop.uplinks[{i}].port", Address(uplink.address or "::", uplink.port)))
    for i, ingest in enumerate(config.ingest.rtp):
        for j, track in enumerate(ingest.tracks):
            path = f"ingest.rtp[{i}].tracks[{j}].listen"
            udp.append((path, track.listen))
            udp.append((f"{path} (RTCP)", Address(track.listen.host, track.listen.port + 1)))
    for protocol, listeners in ("UDP", udp), ("TCP", [("ops.listen", config.ops.listen)]):
        for path, address in listeners:
            found = _bind(protocol, address)
            pids = holders.get((protocol, address.port)) if found else None
            yield Port(path, protocol, str(address), address.port, found, pids, _name(pids))


def _bind(protocol: str, address: Address) -> int:
    """The error number; 0: it can be had."""
    try:
        if protocol == "UDP":
            open_udp(address).close()
        else:
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            socket.create_server(address, family=family).close()
    except OSError as error:
        return _errno(error)
    return 0


def _errno(error: BaseException) -> int:
    """`open_udp` puts a sentence in the place of the kernel's number."""
    cause = error.__cause__
    return _errno(cause) if isinstance(cause, OSError) else getattr(error, "errno", None) or errno.EINVAL


def _holders() -> dict[tuple[str, int], frozenset[int]]:
    """The processes with each local port, as far as this user may see them."""
    found: dict[tuple[str, int], frozenset[int]] = {}
    with suppress(psutil.Error, OSError):
        for of in psutil.net_connections("inet"):
            if (
                of.pid is not None
                and of.laddr
                and (of.type == socket.SOCK_DGRAM or of.status == psutil.CONN_LISTEN)
            ):
                key = "UDP" if of.type == socket.SOCK_DGRAM else "TCP", of.laddr.port
                found[key] = found.get(key, frozenset()) | {of.pid}
    return found


def _name(pids: frozenset[int] | None) -> str:
    with suppress(psutil.Error):
        return str(psutil.Process(min(pids)).name()) if pids else ""
    return ""


# ---- peers ----------------------------------------------------------------------------------------


def _names(config: Config) -> Names:
    """All at the same time, for each may take as long as the name service is silent."""
    peers = [a for peer in (config.hop.peers if config.hop else ()) for a in peer.addresses]
    egresses = [to.address for egress in config.egress.rtp for to in egress.to]
    hosts = {address.host for address in (*peers, *egresses) if not is_ip(address.host)}
    found: Names = {}
    threads = [threading.Thread(target=_resolve, args=(host, found), daemon=True) for host in sorted(hosts)]
    for thread in threads:
        thread.start()
    until_s = time.monotonic() + NAME_SECONDS
    for thread in threads:
        thread.join(max(until_s - time.monotonic(), 0))
    return {host: found.get(host, (f"no answer in {NAME_SECONDS:.0f} s", [])) for host in hosts}


def _resolve(host: str, found: Names) -> None:
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except OSError as error:
        found[host] = (error.strerror or str(error)).lower(), []
    else:
        found[host] = "", [ip for ip, _ in addresses(infos)]


def _probes(config: Config | None, own: bytes, names: Names, *, running: bool) -> tuple[list[Probe], str]:
    """Only of a node that does not run; else why not."""
    if config is None or config.hop is None or running:
        return [], ""
    try:
        static = read_private_key(config.hop.key_file)
    except ConfigError:
        return [], f"no handshake without {config.hop.key_file}, which this user cannot read"
    instance = int.from_bytes(secrets.token_bytes(8), "big")
    identity = Identity(static, instance, config.node.name, record=own)
    peers = [
        (peer.name, peer.public_key, [Address(ip, a.port) for a in peer.addresses for ip in _ips(a, names)])
        for peer in config.hop.peers
    ]
    try:
        return probe(config.hop.listen, identity, peers), ""
    except OSError as error:
        return [], f"no handshake without the hop port, for who has it may have a session: {error}"


def _ips(address: Address, names: Names) -> list[str]:
    return names[address.host][1] if address.host in names else [address.host]


# ---- the machine ----------------------------------------------------------------------------------


def _kernel() -> Kernel:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        gso = _has(lambda: sock.getsockopt(SOL_UDP, UDP_SEGMENT))
        gro = _has(lambda: sock.setsockopt(SOL_UDP, UDP_GRO, 1))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", 0))
        steering = _has(lambda: steer(sock.fileno(), 2))
    return Kernel(
        release=platform.release(),
        gso=gso,
        gro=gro,
        steering=steering,
        received=_received(),
        rmem_max=_sysctl("rmem_max"),
        wmem_max=_sysctl("wmem_max"),
        field_kernel=gf256.selected(),
        field_kernels=gf256.available(),
        ciphers=[CIPHER_NAMES[cipher] for cipher in fastest_first(time.thread_time_ns)],
    )


def _has(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except OSError:
        return False
    return True


def _received() -> bool:
    """Whether the packet thread gets a datagram."""
    engine = Engine(Plane(bytes(32)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        engine.add_port(0, sock)
        engine.start()
        until_s = time.monotonic() + RECEIVE_SECONDS
        sock.sendto(bytes(1), sock.getsockname())
        while not (received := engine.counters()["rx_datagrams"]) and time.monotonic() < until_s:
            time.sleep(0.005)
        engine.stop()
    return received > 0


def _sysctl(name: str) -> int | None:
    try:
        return int(Path("/proc/sys/net/core", name).read_text())
    except (OSError, ValueError):
        return None


def _mtus() -> dict[str, int]:
    return {
        name: of.mtu for name, of in psutil.net_if_stats().items() if of.isup and "loopback" not in of.flags
    }
