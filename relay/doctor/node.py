"""Checks of the node: configuration, key, state, ports, record, service."""

import errno
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from relay.config.files import LAX_MODE, UNREADABLE
from relay.core.health import RULES
from relay.doctor.facts import FREE_SPACE, Facts, Finding, KeyFile, Port, error, ok, unknown, warning
from relay.services.members import ENDS

LEAST_FREE_BYTES = 16 << 20
"""For what a node keeps, and the journal beside it."""
RENEW = "where the fleet's key is: relay fleet renew; docs/trust.md, Renewal"
AS_ROOT = "run it as root"
LOAD = ("headroom_permille", "loop_lag_ms")
"""Facts of a node's health that nobody else can see; the rest of the board has checks of its own."""
REFUSED = {
    errno.EADDRNOTAVAIL: "an address of this machine: ip addr",
    errno.EACCES: "a port above 1023, for which no capability is needed",
}
SIGNED_AHEAD_S = 300
"""A record that was signed so much later than it is here tells of a wrong clock."""


def check_node(facts: Facts) -> Iterator[Finding]:
    yield from _configuration(facts)
    yield _running(facts)
    if facts.status is not None:
        yield from _load(facts.status)
    yield from _unit(facts)
    if facts.config is None:
        return
    yield _key(facts)
    yield from _state_dir(facts)
    yield from _record(facts)
    for port in facts.ports:
        yield _port(facts, port)


def _configuration(facts: Facts) -> Iterator[Finding]:
    own = {"hop.key_file", "node.state_dir"} if facts.config else set()  # which have checks of their own
    problems = [p for p in facts.problems if p.path not in own]
    for problem in problems:
        if UNREADABLE in problem.found:
            yield unknown("configuration", str(problem), AS_ROOT)
        else:
            yield error(
                "configuration", str(problem), f"correct it, then relay check-config {facts.config_path}"
            )
    if not problems:
        yield ok("configuration", str(facts.config_path))


def _running(facts: Facts) -> Finding:
    if facts.status is None:
        do = f"start it: relay run --config {facts.config_path}, or systemctl start {_unit_name(facts)}"
        return unknown("node", facts.no_status, do)
    node = facts.status["node"]
    seen = f"{node['name']}, version {node['version']}, up {node['uptime_seconds']:.0f} s"
    hints = (*facts.status["reasons"], *facts.status["notes"])
    if hints:
        return warning("node", f"{seen}: {'; '.join(hints)}", f"relay status --url {facts.url}")
    return ok("node", seen)


def _load(status: Mapping[str, Any]) -> Iterator[Finding]:
    """What only the node itself can tell of its machine, and what it has complained of."""
    standing = status["peers"][0]["alarms"]
    if alarms := [rule.alarm for rule in RULES if rule.fact in LOAD and rule.alarm in standing]:
        do = "fewer streams, or a bigger board: docs/operations.md, Sizing"
        yield warning("load", ", ".join(alarms), do)
    else:
        yield ok("load", "no alarm")
    if drops := status["engine"]["rx_kernel_drops"]:
        seen = f"{drops} datagrams found a full socket buffer since the node's start"
        yield warning("socket drops", seen, "see `buffers`; or the processor is full: relay status, top -H")
    else:
        yield ok("socket drops", "none")
    if counts := ", ".join(f"{n} {event}" for event, n in status["log"]["warnings"].items()):
        yield warning("log", f"warnings since the node's start: {counts}", "relay status --json has the last")
    else:
        yield ok("log", "no warning")


def _unit_name(facts: Facts) -> str:
    return facts.unit.name.removesuffix(".service") if facts.unit else "relay"


def _unit(facts: Facts) -> Iterator[Finding]:
    if not facts.systemd:
        yield unknown("service", "systemd does not run here")
        return
    if facts.unit is None:
        yield unknown("service", f"systemctl does not answer, or none of our units runs {facts.config_path}")
        return
    of, name = facts.unit.properties, facts.unit.name
    loaded, active, enabled = (
        of.get(key, "unknown") for key in ("LoadState", "ActiveState", "UnitFileState")
    )
    if loaded != "loaded":
        do = "install it (docs/operations.md, Install), then systemctl daemon-reload"
        yield error("service", f"{name} is {loaded}", do)
        return
    if active == "active":
        yield ok("service", f"{name} is active")
    elif active == "failed":
        yield error(
            "service", f"{name} has failed: {of.get('Result')}", f"journalctl -u {name} -n 50 says why"
        )
    else:
        yield warning("service", f"{name} is {active}", f"systemctl start {name}")
    if enabled == "enabled":
        yield ok("service at boot", f"{name} starts with the machine")
    else:
        do = f"systemctl enable {name}"
        yield warning("service at boot", f"{name} is {enabled}: it does not start with the machine", do)
    if of.get("NeedDaemonReload") == "yes":
        yield warning("service", f"{name} was changed since systemd read it", "systemctl daemon-reload")
    if (restarts := of.get("NRestarts", "0")) != "0":
        do = f"journalctl -u {name} -p warning -n 50 says why"
        yield warning("service", f"systemd has restarted {name} {restarts} times since its start", do)


def _key(facts: Facts) -> Finding:
    key = facts.key
    if key is None:
        return ok("key", "none needed: no [hop]")
    if key.missing:
        return error("key", f"{key.path} is missing", f"relay keygen --out {key.path}")
    if key.mode is None:
        return unknown("key", f"{key.path}: {key.why}", AS_ROOT)
    seen = f"{key.path}, mode {key.mode:04o}, owner uid {key.uid}"
    if key.mode & LAX_MODE:
        do = f"chmod 600 {key.path}; if others use this machine, make a new one: docs/operations.md"
        return error("key", f"{seen}: others may read it, or a group change it", do)
    wrong = [p for p in facts.problems if p.path == "hop.key_file" and UNREADABLE not in p.found]
    if wrong:
        return error("key", str(wrong[0]), "relay keygen --out FILE, and set hop.key_file to it")
    return _readable(facts, key, seen)


def _readable(facts: Facts, key: KeyFile, seen: str) -> Finding:
    credential = _credential(facts)
    if credential is False and key.uid == 0:
        seen = f"{seen}: {_unit_name(facts)} runs as another user and gets no copy of it"
        return error("key", seen, "take LoadCredential= and Environment= from systemd/relay.service")
    if credential:
        return ok("key", f"{seen}, given to the service by systemd")
    if key.readable:
        return ok("key", seen)
    return unknown("key", f"{seen}: this user may not read it", AS_ROOT)


def _credential(facts: Facts) -> bool | None:
    """Whether systemd hands the key to the service; None: the service does not run as another user."""
    if facts.unit is None or facts.unit.properties.get("DynamicUser") != "yes" or facts.key is None:
        return None
    return str(facts.key.path) in facts.unit.properties.get("LoadCredential", "")


def _state_dir(facts: Facts) -> Iterator[Finding]:
    of = facts.state_dir
    assert of is not None
    dynamic = facts.unit is not None and facts.unit.properties.get("DynamicUser") == "yes"
    needed = facts.config is not None and facts.config.fleet is not None
    if of.state == "hidden":
        yield unknown("state_dir", f"{of.path} cannot be looked at by this user", AS_ROOT)
    elif of.state == "missing" and dynamic:
        yield ok("state_dir", f"{of.path} is made by systemd when the service starts")
    elif of.state != "writable" and not (dynamic and not facts.root):
        seen = f"{of.path} is {of.state}: what the fleet's key has signed cannot be kept"
        do = f"mkdir -p {of.path}, owned by the user that the node runs as (chown)"
        yield (error if needed else warning)("state_dir", seen if needed else f"{of.path} is {of.state}", do)
    elif of.free_bytes is None:
        yield unknown("state_dir", f"the space of {of.path} cannot be read")
    elif of.free_bytes < LEAST_FREE_BYTES:
        yield error("state_dir", f"{of.path} has {of.free_bytes >> 20} MB left", FREE_SPACE)
    else:
        yield ok("state_dir", f"{of.path}, {of.free_bytes >> 20} MB free")


def _record(facts: Facts) -> Iterator[Finding]:
    if facts.config is None or facts.config.fleet is None:
        return
    own = facts.record
    if own is None:
        do = "where the fleet's key is: relay fleet sign (docs/trust.md, Setting up), then fleet.record_file"
        yield unknown("record", "none can be read; a region whose callers all name it needs none", do)
        return
    left_s = own.expires_s - facts.wall_s
    day = datetime.fromtimestamp(own.expires_s, UTC).strftime("%Y-%m-%d")
    used = facts.status["fleet"]["record"] if facts.status and facts.status["fleet"] else None
    if used and used["revoked"]:
        yield error("record", "revoked", "a new key and a record of it: docs/operations.md, Keys")
    elif own.issued_s > facts.wall_s + SIGNED_AHEAD_S:
        seen = f"signed {own.issued_s - facts.wall_s:.0f} s ahead of this machine's clock"
        yield warning("record", seen, "which clock is wrong? date -u, here and where the fleet's key is")
    elif left_s <= 0:
        yield error("record", f"expired on {day}", RENEW)
    elif left_s < (own.expires_s - own.issued_s) * ENDS:
        yield warning("record", f"valid until {day}, and not renewed in time", RENEW)
    else:
        yield ok("record", f"valid until {day}")


def _port(facts: Facts, port: Port) -> Finding:
    check = f"port {port.port}/{port.protocol.lower()}"
    where = f"{port.path} = {port.address}"
    find = f"ss -lnp{port.protocol[0].lower()} 'sport = :{port.port}'"
    if port.errno == errno.EADDRINUSE:
        return _used(facts, port, check, where, find)
    if port.errno:
        return error(check, f"{where}: {os.strerror(port.errno).lower()}", REFUSED.get(port.errno, find))
    if facts.status is not None:
        do = f"systemctl reload {_unit_name(facts)}, or restart it: [hop], [ops] and uplinks need that"
        return warning(check, f"{where} is free, but the node runs: it has another configuration", do)
    return ok(check, f"{where} is free")


def _used(facts: Facts, port: Port, check: str, where: str, find: str) -> Finding:
    if not port.pids and facts.status is not None:
        return unknown(check, f"{where} is in use, by the node or another: only root may see", find)
    if port.pids and facts.status is not None and facts.status["node"].get("pid") in port.pids:
        return ok(check, f"{where}, held by the node")
    who = f"process {min(port.pids)} ({port.holder})" if port.pids else "a process that only root may see"
    return error(check, f"{where} is held by {who}", f"stop it, or choose another port: {find}")
